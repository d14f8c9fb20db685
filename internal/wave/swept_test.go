package wave_test

import (
	"context"
	"errors"
	"fmt"
	"math/bits"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"

	"gatehouse/internal/scope"
	"gatehouse/internal/sweep"
	"gatehouse/internal/target"
	"gatehouse/internal/wave"
)

// raw is a sweep of a street that sends nothing: it knows.
type raw struct {
	told atomic.Uint64 // places that a wave was told of
	most uint64        // that may be told of before it breaks; 0 is all
}

var errWire = errors.New("the wire is cut")

func (r *raw) Stats() sweep.Stats { return sweep.Stats{Sent: r.told.Load()} }

func (r *raw) Run(ctx context.Context, stop <-chan struct{}, walk *target.Walk, from uint64, e sweep.Events) (bool, error) {
	const size = 64
	next := walk.Rank(from)
	for serial := uint64(0); next < walk.Count(); serial++ {
		if err := e.Room(ctx); err != nil {
			return false, nil
		}
		select {
		case <-stop:
			return false, nil
		case <-ctx.Done():
			return false, nil
		default:
		}
		b := sweep.Batch{Serial: serial, End: walk.End()}
		var silent []uint64
		for first := next; next < min(first+size, walk.Count()); next++ {
			pos, addr, _ := walk.Nth(next)
			b.Places++
			if e.Skip(pos, serial) {
				b.Skipped++
				continue
			}
			if r.told.Add(1) == r.most {
				return false, errWire
			}
			switch at := posOf(addr.Addr()); {
			case at%7 == 3:
				b.Denied++
			case at%10 == 5:
				e.Answer(next, pos, sweep.Unasked, serial)
			case at%5 == 0:
				e.Answer(next, pos, sweep.Open, serial)
			case at%4 == 2:
				e.Answer(next, pos, sweep.Unreachable, serial)
			case at%2 == 0:
				b.Silent++
				silent = append(silent, next)
			default:
				e.Answer(next, pos, sweep.Refused, serial)
			}
		}
		if next < walk.Count() {
			b.End, _, _ = walk.Nth(next)
		}
		b.Unheard = slices.Values(silent)
		if err := e.Done(b); err != nil {
			return false, err
		}
	}
	return true, nil
}

// newSwept is a wave over n places, a power of two, whose ports a sweep finds.
func newSwept(t *testing.T, n int, order target.Order) (*wave.Wave, *street) {
	t.Helper()
	sc := scope.Scope{Name: "test", Local: true}
	set, err := target.Parse(t.Context(), []string{fmt.Sprintf("10.0.0.0/%d", 33-bits.Len(uint(n)))}, nil, target.Options{Scope: sc.Checker()})
	if err != nil {
		t.Fatal(err)
	}
	walk, err := set.Walk(order)
	if err != nil {
		t.Fatal(err)
	}
	s := &street{}
	w := newWave(s)
	w.Source, w.Places, w.Sweep = walk, walk.Count(), new(raw)
	return w, s
}

// TestSwept has the same account of a wave that is swept as of one that connects,
// and connects only to what answered.
func TestSwept(t *testing.T) {
	const n = 8192
	open, silent, refused, _ := truth(n)
	for _, all := range []bool{false, true} {
		w, s := newSwept(t, n, target.Order{Seed: 1})
		w.All = all
		records := map[string]int{}
		w.Record = func(r wave.Record) error { records[r.Address]++; return nil }
		sum, err := w.Run(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		checkWhole(t, sum, n)
		want := open
		if all {
			want += silent + refused
		}
		if uint64(len(records)) != want || w.Visited.Load() != sum.Visited || w.Found.Load() != open || w.Open.Load() != open {
			t.Errorf("%d records, want %d; %d visited, %d found, %d open", len(records), want, w.Visited.Load(), w.Found.Load(), w.Open.Load())
		}
		for addr, n := range records {
			if n != 1 {
				t.Errorf("%s has %d records", addr, n)
			}
		}
		dialled := uint64(0)
		s.visits.Range(func(any, any) bool { dialled++; return true })
		if dialled != open || sum.Sweep == nil || sum.Sweep.Sent != n {
			t.Errorf("%d connected to, want %d; %+v", dialled, open, sum.Sweep)
		}
	}
}

// TestSweptShards has shards make up the whole.
func TestSweptShards(t *testing.T) {
	const n = 2048
	var visited, denied uint64
	for i := range uint64(3) {
		w, _ := newSwept(t, n, target.Order{Seed: 1, Shard: target.Shard{I: i + 1, N: 3}})
		sum, err := w.Run(t.Context(), nil)
		if err != nil || sum.Stopped != "" {
			t.Fatal(sum, err)
		}
		visited, denied = visited+sum.Visited, denied+sum.Denied
	}
	open, silent, refused, no := truth(n)
	if visited != open+silent+refused || denied != no {
		t.Errorf("%d visited, %d denied", visited, denied)
	}
}

// TestSweptGivenUp ends a swept wave at random and takes it up again, until it is
// through: no host is lost and none is there twice, and the account is that of a
// wave that nothing ended.
func TestSweptGivenUp(t *testing.T) {
	const n = 2048
	rng := rand.New(rand.NewPCG(1, 2))
	for _, all := range []bool{false, true} {
		path := filepath.Join(t.TempDir(), "state")
		for runs := 0; ; runs++ {
			j := openJournal(t, path)
			w, _ := newSwept(t, n, target.Order{Seed: 1})
			w.Keeper, w.All = j, all
			stop := make(chan struct{})
			left := 1 + rng.IntN(250)
			if all {
				left *= 4
			}
			w.Record = func(wave.Record) error {
				if left--; left == 0 {
					close(stop)
				}
				return nil
			}
			sum, err := w.Run(t.Context(), stop)
			if err != nil {
				t.Fatal(err)
			}
			if sum.Stopped != "" {
				if err := j.Close(); err != nil {
					t.Fatal(err)
				}
				continue
			}
			list := addresses(t, j)
			open, silent, refused, _ := truth(n)
			want := open
			if all {
				want += silent + refused
			}
			if distinct := len(slices.Compact(slices.Clone(list))); uint64(distinct) != want || len(list) != distinct {
				t.Errorf("%d records of %d hosts, want %d", len(list), distinct, want)
			}
			checkWhole(t, sum, n)
			if runs == 0 {
				t.Error("nothing was given up")
			}
			break
		}
	}
}

// TestSweepBreaks has a wave end with what went wrong with its sweep, with all that
// was found kept.
func TestSweepBreaks(t *testing.T) {
	const n = 2048
	path := filepath.Join(t.TempDir(), "state")
	j := openJournal(t, path)
	w, _ := newSwept(t, n, target.Order{Seed: 1})
	w.Keeper, w.Sweep = j, &raw{most: 1500}
	if sum, err := w.Run(t.Context(), nil); !errors.Is(err, errWire) || sum.Stopped == "" {
		t.Fatalf("%v %+v", err, sum)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	j = openJournal(t, path)
	w, _ = newSwept(t, n, target.Order{Seed: 1})
	w.Keeper = j
	sum, err := w.Run(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	checkWhole(t, sum, n)
}
