package store_test

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"gatehouse/internal/evidence"
	"gatehouse/internal/finding"
	"gatehouse/internal/ollama"
	"gatehouse/internal/owner"
	"gatehouse/internal/store"
	"gatehouse/internal/wave"
)

var rules = finding.Rules{Advisories: ollama.Default()}

var observed = time.Date(2026, 11, 24, 10, 0, 0, 123456789, time.UTC)

// observation is what an open server at position pos would have left: real
// evidence, judged by the real rules.
func observation(pos uint64, version string) wave.Observation {
	addr := netip.AddrFrom4([4]byte{10, byte(pos >> 16), byte(pos >> 8), byte(pos)})
	if pos%10 == 9 {
		addr = netip.AddrFrom16([16]byte{0xfd, 0, 14: byte(pos >> 8), 15: byte(pos)})
	}
	said := func(ask evidence.Ask, path, body string) evidence.Exchange {
		return evidence.Exchange{
			Ask: ask, Method: "GET", Path: path, Proto: "HTTP/1.1", Status: 200, Reason: "OK", Body: []byte(body), Took: 1234567,
			Header: []evidence.Field{{Name: "Content-Type", Value: "application/json; charset=utf-8"}, {Name: "Date", Value: "Tue, 24 Nov 2026 10:00:00 GMT"}, {Name: "Content-Length", Value: fmt.Sprint(len(body))}},
		}
	}
	digest := fmt.Sprintf("%x", sha256.Sum256(binary.BigEndian.AppendUint64(nil, pos)))
	h := evidence.Host{
		Target: addr.String(), Address: addr, Port: 11434, ObservedAt: observed.Add(time.Duration(pos) * time.Millisecond), Reach: evidence.Answered,
		Exchanges: []evidence.Exchange{
			said(evidence.Root, "/", "Ollama is running"),
			said(evidence.Version, "/api/version", `{"version":"`+version+`"}`),
			said(evidence.Tags, "/api/tags", `{"models":[{"name":"llama3.2:latest","model":"llama3.2:latest","modified_at":"2026-11-24T10:25:03.694682266Z","size":2019393189,"digest":"`+digest+`","details":{"parent_model":"","format":"gguf","family":"llama","families":["llama"],"parameter_size":"3.2B","quantization_level":"Q4_K_M"}}]}`),
			said(evidence.Ps, "/api/ps", `{"models":[]}`),
		},
	}
	if pos%4 == 3 {
		h.Port, h.Name, h.Path = 443, "ai.example", "/ollama"
		h.TLS = &evidence.TLS{Version: "TLS 1.3", Names: []string{"ai.example"}, SHA256: digest, NotAfter: observed}
	}
	o := wave.Observation{Pos: pos, Host: h, Record: wave.Record{
		Wave: "w", Target: h.Target, Address: addr.String(), Port: h.Port, Name: h.Name, Path: h.Path, TLS: h.TLS,
		ObservedAt: h.ObservedAt, Verdict: rules.Judge(&h),
		Owner: owner.Owner{Country: "DE", EU: true, ASN: 24940, Provider: "Hetzner", Claims: []owner.Claim{{What: "country", Value: "DE", Source: "a test", Confidence: 0.8}}},
	}}
	return o
}

func observations(from, to uint64) (list []wave.Observation) {
	for pos := range to - from {
		list = append(list, observation(from+pos, "0.17.4"))
	}
	return list
}

func begin(t *testing.T, s *store.Store, name string) *store.Wave {
	t.Helper()
	w, err := s.Begin(wave.Info{Name: name, Scope: "acme", Source: "scan", Plan: "p", Seed: 1<<63 + 5, Started: observed})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.Close() }) // again, where the test did
	return w
}

// text is v as JSON, which shows what a reader of the output would.
func text(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v, json.Deterministic(true), jsontext.AllowInvalidUTF8(true))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// records are the records of a wave, by their address.
func records(t *testing.T, s *store.Store, number int64) map[string]wave.Record {
	t.Helper()
	all := make(map[string]wave.Record)
	for r, err := range s.Records(number) {
		if err != nil {
			t.Fatal(err)
		}
		if _, twice := all[r.Address]; twice {
			t.Errorf("%s is there twice", r.Address)
		}
		all[r.Address] = r
	}
	return all
}

func TestWave(t *testing.T) { onEach(t, testOfWave) }

func testOfWave(t *testing.T, path string) {
	s := open(t, path)
	w := begin(t, s, "w")
	list := observations(0, 200)
	for i := range list {
		if list[i].Record.Outcome != finding.Open || len(list[i].Record.Findings) == 0 {
			t.Fatalf("%+v: this test says little", list[i].Record)
		}
	}
	if err := w.Keep(list[:150]); err != nil {
		t.Fatal(err)
	}
	if err := w.Keep(list[100:]); err != nil { // 50 of them again
		t.Fatal(err)
	}
	sum := wave.Summary{Wave: "w", Scope: "acme", Started: observed, Ended: observed.Add(time.Hour), Seed: 1<<63 + 5, Places: 1000, Visited: 1000, Outcomes: map[finding.Outcome]uint64{finding.Open: 200, finding.Silent: 800}}
	if err := w.End(sum); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(w.Close(), w.Close(), s.Close()); err != nil {
		t.Fatal(err)
	}

	s = open(t, path)
	got := records(t, s, 1)
	if len(got) != len(list) {
		t.Fatalf("%d records, want %d", len(got), len(list))
	}
	for i := range list {
		r := got[list[i].Record.Address]
		if a, b := text(t, r), text(t, list[i].Record); a != b {
			t.Fatalf("kept\n%s, now\n%s", b, a)
		}
	}
	info, err := s.Wave("1")
	if err != nil || text(t, info.Summary) != text(t, sum) || info.Seed != 1<<63+5 || !info.Ended.Equal(sum.Ended.Truncate(time.Millisecond)) {
		t.Errorf("%+v, %v", info, err)
	}
	for _, which := range []string{"w", "last"} {
		if same, err := s.Wave(which); err != nil || same.Number != info.Number {
			t.Errorf("%s: %+v, %v", which, same, err)
		}
	}
	for _, which := range []string{"2", "", "w2", "-1"} {
		if _, err := s.Wave(which); !errors.Is(err, store.ErrNoWave) {
			t.Errorf("%q: %v", which, err)
		}
	}
	if all, err := s.Waves("acme"); err != nil || len(all) != 1 {
		t.Errorf("%+v, %v", all, err)
	}
	if none, err := s.Waves("other"); err != nil || len(none) != 0 {
		t.Errorf("%+v, %v", none, err)
	}
}

// TestTally holds the statistics that End keeps against those of the records,
// for a wave that ran in one go, one that kept places twice and one that was
// taken up again.
func TestTally(t *testing.T) { onEach(t, testOfTally) }

func testOfTally(t *testing.T, path string) {
	s := open(t, path)
	var want wave.Tally
	for _, o := range observations(0, 60) {
		want.Add(&o.Record)
	}
	for name, run := range map[string]func(*store.Wave) *store.Wave{
		"in one go": func(w *store.Wave) *store.Wave {
			if err := w.Keep(observations(0, 60)); err != nil {
				t.Fatal(err)
			}
			return w
		},
		"taken up": func(w *store.Wave) *store.Wave {
			if err := errors.Join(w.Keep(observations(0, 40)), w.Mark(wave.Mark{At: 30}), w.Close()); err != nil {
				t.Fatal(err)
			}
			again, err := s.Continue(w.Info)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := again.Resume(); err != nil {
				t.Fatal(err)
			}
			if err := again.Keep(observations(35, 60)); err != nil {
				t.Fatal(err)
			}
			return again
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := run(begin(t, s, name))
			defer w.Close()
			if err := w.End(wave.Summary{Ended: observed}); err != nil {
				t.Fatal(err)
			}
			info, err := s.Wave(name)
			if err != nil || text(t, info.Tally) != text(t, want) {
				t.Errorf("%s\n%v, want\n%s", text(t, info.Tally), err, text(t, want))
			}
		})
	}
}

func TestResume(t *testing.T) { onEach(t, testOfResume) }

func testOfResume(t *testing.T, path string) {
	s := open(t, path)
	w := begin(t, s, "w")
	counts := wave.Counts{Visited: 50}
	if err := errors.Join(w.Keep(observations(0, 80)), w.Mark(wave.Mark{At: 50, Counts: counts}), w.Mark(wave.Mark{At: 20})); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Continue(w.Info); !errors.Is(err, store.ErrInUse) {
		t.Errorf("a wave is taken up while it runs: %v", err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	info, err := s.Unfinished("scan", "acme", "p", observed.Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	again, err := s.Continue(info)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	p, err := again.Resume()
	if err != nil || p.Mark.At != 50 || p.Mark.Counts.Visited != 50 || len(p.Late) != 30 {
		t.Fatalf("%+v, %v", p, err)
	}
	for pos, c := range p.Late {
		if pos < 50 || pos >= 80 || c.Visited != 1 || c.Outcomes[finding.Open] != 1 || c.Severity[finding.Critical] == 0 {
			t.Errorf("%d: %+v", pos, c)
		}
	}
	for what, ask := range map[string]func() (wave.Info, error){
		"another plan":  func() (wave.Info, error) { return s.Unfinished("scan", "acme", "q", observed) },
		"another scope": func() (wave.Info, error) { return s.Unfinished("scan", "", "p", observed) },
		"too old":       func() (wave.Info, error) { return s.Unfinished("scan", "acme", "p", observed.AddDate(0, 0, 8)) },
	} {
		if i, err := ask(); !errors.Is(err, store.ErrNoWave) {
			t.Errorf("%s: %+v, %v", what, i, err)
		}
	}
	if err := again.End(wave.Summary{Ended: observed}); err != nil {
		t.Fatal(err)
	}
	if i, err := s.Unfinished("scan", "acme", "p", observed); !errors.Is(err, store.ErrNoWave) {
		t.Errorf("it ended: %+v, %v", i, err)
	}
}

// TestPositions holds that a position in a walk over IPv6 networks, which may
// take all 64 bits, survives.
func TestPositions(t *testing.T) { onEach(t, testOfPositions) }

func testOfPositions(t *testing.T, path string) {
	s := open(t, path)
	w := begin(t, s, "w")
	var list []wave.Observation
	for i, pos := range []uint64{0, 1<<63 - 1, 1 << 63, 1<<64 - 1} {
		o := observation(uint64(i), "0.17.4")
		o.Pos = pos
		list = append(list, o)
	}
	if err := w.Keep(list); err != nil {
		t.Fatal(err)
	}
	for late := 4; late > 0; late-- {
		at := list[4-late].Pos
		if err := w.Mark(wave.Mark{At: at}); err != nil {
			t.Fatal(err)
		}
		p, err := w.Resume()
		if _, there := p.Late[at]; err != nil || p.Mark.At != at || len(p.Late) != late || !there {
			t.Errorf("%+v, %v", p, err)
		}
	}
}

func TestForget(t *testing.T) { onEach(t, testOfForget) }

func testOfForget(t *testing.T, path string) {
	s := open(t, path)
	for _, name := range []string{"a", "b"} {
		w := begin(t, s, name)
		list := observations(0, 20)
		list[5].Host.Exchanges[0].Body = []byte("a sentence that only this host says")
		list[5].Record.Reason = "a sentence that only this host says"
		if err := errors.Join(w.Keep(list), w.Close()); err != nil {
			t.Fatal(err)
		}
	}
	gone := netip.MustParseAddr("10.0.0.5")
	if n, err := s.Forget(netip.AddrFrom16(gone.As16())); err != nil || n != 2 {
		t.Fatalf("%d, %v", n, err)
	}
	for number := range int64(2) {
		all := records(t, s, number+1)
		if _, there := all["10.0.0.5"]; there || len(all) != 19 {
			t.Errorf("wave %d: %d records", number+1, len(all))
		}
	}
	if n, err := s.Forget(gone); err != nil || n != 0 {
		t.Errorf("again: %d, %v", n, err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for _, table := range []string{"hosts", "seen", "said"} {
		var n int
		if err := raw(t, path).QueryRowContext(t.Context(), "SELECT count(*) FROM "+table).Scan(&n); err != nil || n != 19 && n != 38 {
			t.Errorf("%s: %d rows, %v", table, n, err)
		}
	}
}

func TestDrop(t *testing.T) { onEach(t, testOfDrop) }

func testOfDrop(t *testing.T, path string) {
	s := open(t, path)
	for i, name := range []string{"a", "b"} {
		w := begin(t, s, name)
		if err := errors.Join(w.Keep(observations(uint64(i)*10, uint64(i)*10+20)), w.Close()); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Drop(1); err != nil {
		t.Fatal(err)
	}
	if err := s.Drop(1); !errors.Is(err, store.ErrNoWave) {
		t.Error(err)
	}
	if n := len(records(t, s, 2)); n != 20 {
		t.Errorf("the other wave has %d records", n)
	}
	for _, table := range []string{"hosts", "seen", "said"} {
		var n int
		if err := raw(t, path).QueryRowContext(t.Context(), "SELECT count(*) FROM "+table).Scan(&n); err != nil || n != 20 {
			t.Errorf("%s: %d rows, %v", table, n, err)
		}
	}
}

// TestRejudge has yesterday's evidence judged by today's rules: an advisory that
// was not known then.
func TestRejudge(t *testing.T) { onEach(t, testOfRejudge) }

func testOfRejudge(t *testing.T, path string) {
	s := open(t, path)
	w := begin(t, s, "w")
	var list []wave.Observation
	for pos := range uint64(2500) {
		version := "0.17.4"
		if pos%5 == 0 {
			version = "0.1.30"
		}
		o := observation(pos, version)
		o.Record.Verdict = finding.Rules{}.Judge(&o.Host) // no advisories
		list = append(list, o)
	}
	if err := errors.Join(w.Keep(list), w.End(wave.Summary{Ended: observed}), w.Close()); err != nil {
		t.Fatal(err)
	}
	changed, err := s.Rejudge(1, rules.Judge)
	if err != nil || changed != 500 {
		t.Fatalf("%d changed, %v", changed, err)
	}
	var want wave.Tally
	got := records(t, s, 1)
	for pos := range uint64(2500) {
		o := &list[pos]
		o.Record.Verdict = rules.Judge(&o.Host)
		if a, b := text(t, got[o.Record.Address]), text(t, o.Record); a != b {
			t.Fatalf("%s, want\n%s", a, b)
		}
		want.Add(&o.Record)
	}
	if info, err := s.Wave("1"); err != nil || text(t, info.Tally) != text(t, want) {
		t.Errorf("%s, %v", text(t, info.Tally), err)
	}
	if changed, err := s.Rejudge(1, rules.Judge); err != nil || changed != 0 {
		t.Errorf("again: %d changed, %v", changed, err)
	}
}

// TestHostileText: whatever a host says is kept and comes back.
func TestHostileText(t *testing.T) { onEach(t, testOfHostileText) }

func testOfHostileText(t *testing.T, path string) {
	s := open(t, path)
	w := begin(t, s, "w")
	o := observation(1, "0.17.4")
	evil := "\x00\xff\x1b[2J'; DROP TABLE waves;--\u202e" + strings.Repeat("é", 1000)
	o.Host.Name, o.Host.Exchanges[0].Body, o.Host.Exchanges[0].Reason = "b\xffd.example", []byte(evil), evil
	o.Host.Exchanges[0].Header = append(o.Host.Exchanges[0].Header, evidence.Field{Name: evil, Value: evil})
	o.Record.Identity.Version, o.Record.Reason = evil, evil
	o.Record.Models[0].Name = evil
	if err := w.Keep([]wave.Observation{o}); err != nil {
		t.Fatal(err)
	}
	var heard evidence.Host
	if _, err := s.Rejudge(1, func(h *evidence.Host) finding.Verdict { heard = *h; return o.Record.Verdict }); !errors.Is(err, store.ErrInUse) {
		t.Errorf("a running wave is judged anew: %v", err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if n, err := s.Rejudge(1, func(h *evidence.Host) finding.Verdict { heard = *h; return o.Record.Verdict }); err != nil || n != 0 {
		t.Fatalf("%d, %v", n, err)
	}
	if !reflect.DeepEqual(heard, o.Host) {
		t.Errorf("%+v\n%+v", heard, o.Host)
	}
	for r, err := range s.Records(1) {
		if err != nil || r.Identity.Version != evil || r.Models[0].Name != evil {
			t.Errorf("%+v, %v", r, err)
		}
	}
}

// TestDamagedSaid: a record that is damaged is told, and hides no other.
func TestDamagedSaid(t *testing.T) { onEach(t, testOfDamagedSaid) }

func testOfDamagedSaid(t *testing.T, path string) {
	s := open(t, path)
	w := begin(t, s, "w")
	if err := errors.Join(w.Keep(observations(0, 10)), w.Close()); err != nil {
		t.Fatal(err)
	}
	exec1(t, path, "UPDATE said SET record = $1 WHERE id = (SELECT min(id) + 4 FROM said)", []byte("\x01\x00\x00\x00\x00\xff\x00\x00"))
	n, wrong := 0, 0
	for _, err := range s.Records(1) {
		if err != nil {
			oneLine(t, err, placeOf(path), "wave 1")
			if !errors.Is(err, store.ErrDamaged) {
				t.Error(err)
			}
			wrong++
			continue
		}
		n++
	}
	if n != 9 || wrong != 1 {
		t.Errorf("%d records and %d errors", n, wrong)
	}
}

// TestFindings has two waves at once meet a kind of finding that is new, and one
// of them fail: each kind has one number, and both waves know it.
func TestFindings(t *testing.T) {
	onEach(t, func(t *testing.T, path string) {
		s := open(t, path)
		one, two := begin(t, s, "one"), begin(t, s, "two")
		list := observations(0, 2)
		bad := observation(1, "0.17.4")
		bad.Record.Address = "no address"
		list[1].Record.Findings = []finding.Finding{{ID: "first"}}
		if err := one.Keep([]wave.Observation{list[1], bad}); err == nil {
			t.Fatal("no address is kept")
		}
		list[0].Record.Findings = []finding.Finding{{ID: "second"}}
		for _, err := range []error{two.Keep(list[:1]), one.Keep(list[:1]), one.Keep(list), two.Keep(list)} {
			if err != nil {
				t.Error(err)
			}
		}
		var kinds, wrong int
		if err := raw(t, path).QueryRowContext(t.Context(), `SELECT (SELECT count(*) FROM findings), (SELECT count(*) FROM seen WHERE findings <> (
			SELECT 1 << bit FROM findings f WHERE f.id = CASE WHEN seen.pos = 0 THEN 'second' ELSE 'first' END))`).Scan(&kinds, &wrong); err != nil || kinds != 2 || wrong != 0 {
			t.Errorf("%d kinds, %d observations have another's: %v", kinds, wrong, err)
		}
	})
}
