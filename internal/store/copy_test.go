package store_test

import (
	"bufio"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"gatehouse/internal/notice"
	"gatehouse/internal/store"
	"gatehouse/internal/wave"
)

// furnish puts something of everything into a store.
func furnish(t *testing.T, s *store.Store) {
	t.Helper()
	bare := newKey("bare")
	for _, k := range []struct{ name string }{{"a"}, {"ä b"}} {
		if err := s.AddKey(newKey(k.name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(s.AddKey(full()), s.AddKey(bare)); err != nil {
		t.Fatal(err)
	}
	odd := observation(7, "0.17.4")
	odd.Pos, odd.Record.Name = 1<<64-1, "b\xff\x00d.example"
	odd.Record.Identity.Version, odd.Record.Reason = "0.1\x00\xff", "\x1b[2J\x00"
	keepWave(t, s, "first", 1, append(observations(0, 700), odd))
	keepWave(t, s, "second", 1, append(observations(300, 900), odd))
	w := begin(t, s, "third") // does not come to its end
	w.Info.Looks = 2
	if err := errors.Join(w.Keep(observations(0, 30)), w.Mark(wave.Mark{At: 20})); err != nil {
		t.Fatal(err)
	}
	for p, err := range w.Open(1) {
		if err := errors.Join(err, w.KeepLook(p, 2, wave.Look{At: observed, Answered: p.Pos%2 == 0})); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	n := wave.Note{Address: netip.MustParseAddr("10.0.0.5"), Kind: wave.Accepted, Text: "J. Doe", Made: observed}
	m := notice.Message{ID: "m1", Made: observed, Type: "wave.changed", Title: "1 new", Text: "10.0.0.5\n", Data: jsontext.Value(`{"a":1}`)}
	if err := errors.Join(s.AddNote(&n), s.KeepWatch(store.Watch{Name: "acme", Every: time.Hour, Told: 2}, &m, []string{"slack 1"})); err != nil {
		t.Fatal(err)
	}
}

// contents is all that a store has, as its readers see it.
func contents(t *testing.T, s *store.Store) string {
	t.Helper()
	var b strings.Builder
	keys, err := s.Keys()
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range keys {
		fmt.Fprintf(&b, "%s %s %v %x %v\n", k.ID, k.Name, k.Secrets, k.Ed25519, k.Terms)
	}
	waves, err := s.Waves("")
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range waves {
		var watched any
		if i.Watched != nil {
			watched, i.Watched = *i.Watched, nil
		}
		fmt.Fprintln(&b, text(t, i), watched)
		for r, err := range s.Records(i.Number) {
			if err != nil {
				t.Fatal(err)
			}
			b.WriteString(text(t, r) + "\n")
		}
	}
	for p, err := range s.Pairs(1, 2, 2) {
		if err != nil {
			t.Fatal(err)
		}
		b.WriteString(text(t, p) + "\n")
	}
	both, err := s.Both(1, 2)
	notes, err2 := s.Notes()
	watches, err3 := s.Watches()
	letters, err4 := s.Box("acme").Letters()
	if err := errors.Join(err, err2, err3, err4); err != nil {
		t.Fatal(err)
	}
	fixes, err := s.Fixes("acme")
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(&b, both, text(t, notes), watches, text(t, letters), fixes.Table(0), version(t, s))
	return b.String()
}

// TestCopy moves a store from one kind into another, and on, and back: what comes
// out is what went in, and serves as it did.
func TestCopy(t *testing.T) {
	file, database := filepath.Join(t.TempDir(), "from.db"), fresh["PostgreSQL"](t)
	s := open(t, file)
	furnish(t, s)
	want := contents(t, s)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	back := filepath.Join(t.TempDir(), "back.db")
	for _, c := range [][2]string{{"sqlite:" + file, database}, {database, back}, {back, fresh["PostgreSQL"](t)}} {
		rows, moved := int64(0), int64(0)
		if err := store.Copy(c[0], c[1], func(p store.Copied) { rows, moved = rows+p.Rows, moved+p.Moved }); err != nil {
			t.Fatal(err)
		}
		if rows != moved || rows < 3000 {
			t.Errorf("%d rows of %d were copied", moved, rows)
		}
		s := open(t, c[1])
		if got := contents(t, s); got != want {
			t.Errorf("%s to %s: what comes out differs%s", placeOf(c[0]), placeOf(c[1]), firstDifference(got, want))
		}
		// Done again, as by somebody who did not see its end, there is nothing to do.
		again := int64(0)
		if err := store.Copy(c[0], c[1], func(p store.Copied) { again, moved = again+p.Rows, p.Moved }); err != nil || again != rows || moved != 0 {
			t.Errorf("done again: %d rows, %d moved, %v", again, moved, err)
		}
	}
	used := filepath.Join(t.TempDir(), "used.db")
	if err := open(t, used).AddNote(&wave.Note{Address: netip.MustParseAddr("192.0.2.1"), Kind: wave.Comment, Text: "ours", Made: observed}); err != nil {
		t.Fatal(err)
	}
	if err := store.Copy(file, used, func(store.Copied) {}); !errors.Is(err, store.ErrNotEmpty) {
		t.Errorf("into a store that is used: %v", err)
	}
	// It goes on as a store: numbers continue, the wave goes on, hosts are known.
	s = open(t, database)
	i, err := s.Unfinished("scan", "acme", "p", observed)
	if err != nil {
		t.Fatal(err)
	}
	w, err := s.Continue(i)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if p, err := w.Resume(); err != nil || p.Mark.At != 20 || len(p.Late) != 10 {
		t.Errorf("%+v, %v", p, err)
	}
	if err := errors.Join(w.Keep(observations(20, 40)), w.End(wave.Summary{Ended: observed})); err != nil {
		t.Fatal(err)
	}
	n := wave.Note{Address: netip.MustParseAddr("10.0.0.6"), Kind: wave.Accepted, Text: "another", Made: observed}
	if err := s.AddNote(&n); err != nil || n.Number != 2 {
		t.Errorf("note %d, %v", n.Number, err)
	}
	if number := keepWave(t, s, "fourth", 1, observations(0, 1000)); number != 4 {
		t.Errorf("wave %d", number)
	}
	if st, err := s.Status(); err != nil || st.Hosts != 1000-100+1+100 || st.Waves != 4 || st.Unfinished != 0 || st.Kind != "postgres" {
		t.Errorf("%+v, %v", st, err)
	}
}

// TestCopyChanging copies a store that changes between two runs: the second one
// finds what differs.
func TestCopyChanging(t *testing.T) {
	onEach(t, func(t *testing.T, to string) {
		from := filepath.Join(t.TempDir(), "from.db")
		s := open(t, from)
		furnish(t, s)
		stop := errors.New("stop")
		func() {
			defer func() {
				if r := recover(); r != nil && r != stop {
					panic(r)
				}
			}()
			_ = store.Copy(from, to, func(p store.Copied) {
				if p.Wave == 2 && p.Table == "said" {
					panic(stop)
				}
			})
			t.Error("it was not stopped")
		}()
		_, err := store.Open(to)
		if !errors.Is(err, store.ErrCopying) {
			t.Errorf("a store that is half filled is used: %v", err)
		}
		oneLine(t, err, placeOf(to), from)
		if err := store.Copy(filepath.Join(t.TempDir(), "other.db"), to, func(store.Copied) {}); !errors.Is(err, store.ErrCopying) {
			t.Errorf("another is copied into it: %v", err)
		}
		if _, err := s.Forget(netip.MustParseAddr("10.0.0.3")); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(s.AddKey(newKey("late")), s.Drop(3)); err != nil {
			t.Fatal(err)
		}
		keepWave(t, s, "late", 1, observations(0, 50))
		if err := store.Copy(from, to, func(store.Copied) {}); err != nil {
			t.Fatal(err)
		}
		if got, want := contents(t, open(t, to)), contents(t, s); got != want {
			t.Error("what comes out differs")
		}
	})
}

func copyStore(path string) {
	from, to, _ := strings.Cut(path, " ")
	check(store.Copy(from, to, func(p store.Copied) { fmt.Println("copied", p.Table, p.Wave) }))
	fmt.Println("done")
}

// TestCopyKilled kills copies at moments of chance until one is through.
func TestCopyKilled(t *testing.T) {
	onEach(t, func(t *testing.T, to string) {
		from := filepath.Join(t.TempDir(), "from.db")
		s := open(t, from)
		furnish(t, s)
		want := contents(t, s)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		done, killed := false, 0
		for n := 0; !done; n++ {
			c, out := child(t, "copy", from+" "+to)
			lines, left := bufio.NewScanner(out), 1+rand.IntN(3)+n // each a little further
			for lines.Scan() {
				if strings.HasPrefix(lines.Text(), "error") {
					t.Fatal(lines.Text())
				}
				done = done || lines.Text() == "done"
				if left--; left == 0 && !done {
					killed++
					if err := c.Process.Kill(); err != nil {
						t.Fatal(err)
					}
				}
			}
			_ = c.Wait() // it was killed
		}
		if killed < 3 {
			t.Errorf("only %d were killed", killed)
		}
		if got := contents(t, open(t, to)); got != want {
			t.Error("what comes out differs")
		}
	})
}

// firstDifference is the first line in which two texts differ.
func firstDifference(got, want string) string {
	g, w := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i := range min(len(g), len(w)) {
		if g[i] != w[i] {
			return fmt.Sprintf(" in line %d:\n%s\nwas\n%s", i, g[i], w[i])
		}
	}
	return ", for it is shorter or longer"
}
