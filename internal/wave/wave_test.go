package wave_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"gatehouse/internal/evidence"
	"gatehouse/internal/finding"
	"gatehouse/internal/scope"
	"gatehouse/internal/target"
	"gatehouse/internal/wave"
)

// street is n places, of which every fifth is open, every seventh denied at the
// last moment and the rest closed.
type street struct {
	n      uint64
	after  func(pos uint64) // told of each place as it is handed out
	visits sync.Map
}

func (s *street) Places(ctx context.Context) iter.Seq[target.Place] {
	return func(yield func(target.Place) bool) {
		for pos := range s.n {
			if s.after != nil {
				s.after(pos)
			}
			addr := netip.AddrFrom4([4]byte{10, byte(pos >> 16), byte(pos >> 8), byte(pos)})
			if ctx.Err() != nil || !yield(target.Place{Addr: addr, Port: 11434, Pos: pos, Target: addr.String()}) {
				return
			}
		}
	}
}

func posOf(a netip.Addr) int {
	b := a.As4()
	return int(b[1])<<16 | int(b[2])<<8 | int(b[3])
}

func (s *street) dial(ctx context.Context, at netip.AddrPort) (net.Conn, error) {
	visited, _ := s.visits.LoadOrStore(at.Addr(), new(atomic.Int64))
	visited.(*atomic.Int64).Add(1)
	switch pos := posOf(at.Addr()); {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case pos%7 == 3:
		return nil, fmt.Errorf("no: %w", scope.ErrExcluded)
	case pos%5 == 0:
		return nil, nil
	case pos%2 == 0:
		return nil, os.ErrDeadlineExceeded
	}
	return nil, syscall.ECONNREFUSED
}

func (s *street) probe(_ context.Context, p target.Place, _ net.Conn) evidence.Host {
	return evidence.Host{Target: p.Target, Address: p.Addr, Port: p.Port, Reach: evidence.Answered}
}

func judge(h *evidence.Host) finding.Verdict {
	switch h.Reach {
	case evidence.Refused:
		return finding.Verdict{Outcome: finding.Refused}
	case evidence.Silent:
		return finding.Verdict{Outcome: finding.Silent}
	}
	return finding.Verdict{Outcome: finding.Open, Findings: []finding.Finding{{ID: "ollama-open", Severity: finding.Critical}, {ID: "x", Severity: finding.Low}}}
}

func newWave(s *street) *wave.Wave {
	return &wave.Wave{ID: "w", Scope: "test", Seed: 7, Places: s.n, Source: s, Dial: s.dial, Probe: s.probe, Judge: judge, Workers: 8}
}

// truth is what a whole wave over n places has to say.
func truth(n int) (open, silent, refused, denied uint64) {
	for pos := range n {
		switch {
		case pos%7 == 3:
			denied++
		case pos%5 == 0:
			open++
		case pos%2 == 0:
			silent++
		default:
			refused++
		}
	}
	return open, silent, refused, denied
}

func checkWhole(t *testing.T, sum wave.Summary, n int) {
	t.Helper()
	open, silent, refused, denied := truth(n)
	want := map[finding.Outcome]uint64{finding.Open: open, finding.Silent: silent, finding.Refused: refused}
	if sum.Places != uint64(n) || sum.Visited != open+silent+refused || sum.Denied != denied || !maps.Equal(sum.Outcomes, want) ||
		sum.Severity[finding.Critical] != open || sum.Severity[finding.Low] != open || sum.Stopped != "" {
		t.Errorf("%+v, want %d open, %d silent, %d refused, %d denied", sum, open, silent, refused, denied)
	}
}

func TestCounts(t *testing.T) {
	for _, known := range []bool{true, false} {
		s := &street{n: 1000}
		w := newWave(s)
		if !known {
			w.Places = 0 // as from standard input
		}
		recorded := make(map[string]int)
		w.Record = func(r wave.Record) error { recorded[r.Address]++; return nil }
		sum, err := w.Run(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		checkWhole(t, sum, 1000)
		open, _, _, _ := truth(1000)
		if uint64(len(recorded)) != open || w.Found.Load() != open || w.Open.Load() != open || w.Visited.Load() != sum.Visited {
			t.Errorf("%d recorded, %d found, %d open", len(recorded), w.Found.Load(), w.Open.Load())
		}
		s.visits.Range(func(addr, n any) bool {
			if n.(*atomic.Int64).Load() != 1 {
				t.Errorf("%v was visited %d times", addr, n.(*atomic.Int64).Load())
			}
			return true
		})
	}
}

func TestAll(t *testing.T) {
	s := &street{n: 100}
	w := newWave(s)
	w.All = true
	n := 0
	w.Record = func(wave.Record) error { n++; return nil }
	if _, err := w.Run(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if _, _, _, denied := truth(100); n != 100-int(denied) {
		t.Errorf("%d records", n)
	}
}

func TestWorkers(t *testing.T) {
	s := &street{n: 300}
	w := newWave(s)
	var inside, most atomic.Int64
	w.Dial = func(ctx context.Context, at netip.AddrPort) (net.Conn, error) {
		n := inside.Add(1)
		defer inside.Add(-1)
		for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
		}
		time.Sleep(time.Millisecond)
		return s.dial(ctx, at)
	}
	if _, err := w.Run(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if most.Load() > 8 || most.Load() < 2 {
		t.Errorf("%d at the same time, of 8 workers", most.Load())
	}
}

func TestStop(t *testing.T) {
	stop := make(chan struct{})
	s := &street{n: 10_000, after: func(pos uint64) {
		if pos == 500 {
			close(stop)
		}
	}}
	sum, err := newWave(s).Run(t.Context(), stop)
	if err != nil {
		t.Fatal(err)
	}
	if done := sum.Visited + sum.Denied; done < 400 || done > 520 || sum.Stopped == "" || sum.Places != 10_000 {
		t.Errorf("%+v", sum)
	}
}

func TestCancel(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	s := &street{n: 10_000, after: func(pos uint64) {
		if pos == 500 {
			cancel()
		}
	}}
	sum, err := newWave(s).Run(ctx, nil)
	if err != nil {
		t.Fatal(err)
	}
	if sum.Visited > 501 || sum.Stopped == "" {
		t.Errorf("%+v", sum)
	}
	for _, o := range []finding.Outcome{finding.Silent, finding.Refused} {
		if sum.Outcomes[o] > 500 {
			t.Errorf("what was given up counts as %s", o)
		}
	}
}

func TestRecordFails(t *testing.T) {
	full := errors.New("disk full")
	s := &street{n: 100_000}
	w := newWave(s)
	n := 0
	w.Record = func(wave.Record) error {
		if n++; n == 10 {
			return full
		}
		return nil
	}
	sum, err := w.Run(t.Context(), nil)
	if !errors.Is(err, full) || n != 10 || sum.Stopped == "" {
		t.Errorf("%v after %d records, %+v", err, n, sum)
	}
}

func header() wave.Header {
	return wave.Header{Wave: "w", Plan: "plan", Seed: 7, Started: time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)}
}

func openJournal(t *testing.T, path string) *wave.Journal {
	t.Helper()
	j, err := wave.OpenJournal(path, header())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = j.Close() }) // again, where the test did
	return j
}

// addresses are those of the records in a journal, sorted.
func addresses(t *testing.T, j *wave.Journal) (list []string) {
	t.Helper()
	for r, err := range j.Records() {
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, r.Address)
	}
	slices.Sort(list)
	return list
}

// resume runs a wave over n places on a journal to its end and returns what
// the journal then holds.
func resume(t *testing.T, path string, n int) (wave.Summary, []string) {
	t.Helper()
	j := openJournal(t, path)
	w := newWave(&street{n: uint64(n)})
	w.Keeper = j
	sum, err := w.Run(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	list := addresses(t, j)
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	return sum, list
}

// TestTruncated cuts a journal at each of its bytes and goes on from there.
func TestTruncated(t *testing.T) {
	const n = 21
	whole := filepath.Join(t.TempDir(), "state")
	sum, want := resume(t, whole, n)
	checkWhole(t, sum, n)
	text, err := os.ReadFile(whole)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for cut := range len(text) {
		path := filepath.Join(dir, fmt.Sprint(cut))
		if err := os.WriteFile(path, text[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		sum, got := resume(t, path, n)
		if !slices.Equal(got, want) {
			t.Fatalf("cut at %d of %d: %d records, want %d: %v", cut, len(text), len(got), len(want), got)
		}
		checkWhole(t, sum, n)
		if t.Failed() {
			t.Fatalf("cut at %d", cut)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
}

// TestGivenUp ends a wave at random and takes it up again, until it is through.
func TestGivenUp(t *testing.T) {
	const n = 3000
	_, want := resume(t, filepath.Join(t.TempDir(), "whole"), n)
	for seed := range uint64(5) {
		r := rand.New(rand.NewPCG(seed, 1))
		path := filepath.Join(t.TempDir(), "state")
		for range 10 {
			ctx, cancel := context.WithCancel(t.Context())
			stop := make(chan struct{})
			at, soft := r.Uint64N(n), r.IntN(2) == 0
			s := &street{n: n, after: func(pos uint64) {
				if pos == at && soft {
					close(stop)
				} else if pos == at {
					cancel()
				}
			}}
			w := newWave(s)
			w.Keeper = openJournal(t, path)
			if _, err := w.Run(ctx, stop); err != nil {
				t.Fatal(err)
			}
			cancel()
			if err := w.Keeper.Close(); err != nil {
				t.Fatal(err)
			}
		}
		sum, got := resume(t, path, n)
		if !slices.Equal(got, want) {
			t.Errorf("seed %d: %d records, want %d", seed, len(got), len(want))
		}
		checkWhole(t, sum, n)
	}
}

func TestJournalRefused(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "state")
	resume(t, path, 50)
	held := openJournal(t, path)
	if _, err := wave.OpenJournal(path, header()); err == nil {
		t.Error("two have it open")
	}
	if err := held.Close(); err != nil {
		t.Fatal(err)
	}
	other := header()
	other.Plan = "another"
	if _, err := wave.OpenJournal(path, other); !errors.Is(err, wave.ErrOtherPlan) {
		t.Errorf("another plan: %v", err)
	}
	if h, err := wave.ReadHeader(path); err != nil || h.Seed != 7 || h.Plan != "plan" {
		t.Errorf("%+v %v", h, err)
	}
	// A file that is somebody's own stays as it is.
	for _, text := range []string{"my notes\n", "my notes, without a line end", "{\"gatehouse\":\"journal/9\"}\n", "{}\n"} {
		own := filepath.Join(dir, "own")
		if err := os.WriteFile(own, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := wave.OpenJournal(own, header()); err == nil {
			t.Errorf("%q is taken for a journal", text)
		}
		if after, err := os.ReadFile(own); err != nil || string(after) != text {
			t.Errorf("%q became %q, %v", text, after, err)
		}
	}
	if _, err := wave.ReadHeader(filepath.Join(dir, "none")); err == nil {
		t.Error("a file that is not there has a header")
	}
}

// TestSpoiled changes a line in the middle.
func TestSpoiled(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	resume(t, path, 50)
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.SplitAfter(string(text), "\n")
	lines[3] = "rubbish\n"
	if err := os.WriteFile(path, []byte(strings.Join(lines, "")), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := wave.OpenJournal(path, header()); err == nil {
		t.Error("nobody notices")
	} else if strings.Contains(err.Error(), "\n") {
		t.Errorf("not one line: %v", err)
	}
}

func TestTempJournal(t *testing.T) {
	j, err := wave.TempJournal(header())
	if err != nil {
		t.Fatal(err)
	}
	w := newWave(&street{n: 500})
	w.Keeper = j
	if _, err := w.Run(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	open, _, _, _ := truth(500)
	if n := len(addresses(t, j)); uint64(n) != open {
		t.Errorf("%d records, want %d", n, open)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
}

func FuzzJournal(f *testing.F) {
	whole := filepath.Join(f.TempDir(), "state")
	j, err := wave.OpenJournal(whole, header())
	if err != nil {
		f.Fatal(err)
	}
	w := newWave(&street{n: 20})
	w.Keeper = j
	if _, err := w.Run(f.Context(), nil); err != nil {
		f.Fatal(err)
	}
	if err := j.Close(); err != nil {
		f.Fatal(err)
	}
	text, err := os.ReadFile(whole)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add(text[:len(text)/2])
	f.Add([]byte("{\"gatehouse\":\"journal/1\"}\n{\"mark\":{\"at\":99}}\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		path := filepath.Join(t.TempDir(), "state")
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		j, err := wave.OpenJournal(path, header())
		if err != nil {
			return
		}
		w := newWave(&street{n: 20})
		w.Keeper = j
		if _, err := w.Run(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		for _, err := range j.Records() {
			if err != nil {
				t.Fatal(err)
			}
		}
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
	})
}
