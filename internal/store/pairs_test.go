package store_test

import (
	"errors"
	"slices"
	"testing"

	"gatehouse/internal/finding"
	"gatehouse/internal/store"
	"gatehouse/internal/wave"
)

// keepWave keeps a whole wave of the scope "acme".
func keepWave(t *testing.T, s *store.Store, name string, looks int, list []wave.Observation) int64 {
	t.Helper()
	w, err := s.Begin(wave.Info{Name: name, Scope: "acme", Source: "scan", Looks: looks, Started: observed})
	if err != nil {
		t.Fatal(err)
	}
	w.Info.Looks = looks
	if err := errors.Join(w.Keep(list), w.End(wave.Summary{Ended: observed}), w.Close()); err != nil {
		t.Fatal(err)
	}
	return w.Info.Number
}

// TestPairs follows five places through four waves.
func TestPairs(t *testing.T) { onEach(t, testOfPairs) }

func testOfPairs(t *testing.T, path string) {
	s := open(t, path)
	at := func(pos uint64, version string, outcome finding.Outcome) wave.Observation {
		o := observation(pos, version)
		o.Record.Outcome = outcome
		return o
	}
	const (
		same, updated, gone, away, reopened, fresh, closed = 10, 11, 12, 13, 14, 15, 16
	)
	open, guarded := finding.Open, finding.Guarded
	keepWave(t, s, "1", 1, []wave.Observation{at(same, "0.17.4", open), at(gone, "0.17.4", open), at(away, "0.17.4", open), at(reopened, "0.17.4", open)})
	second := keepWave(t, s, "2", 1, []wave.Observation{at(same, "0.17.4", open), at(updated, "0.17.3", open), at(gone, "0.17.4", open), at(away, "0.17.4", open), at(reopened, "0.17.4", guarded), at(closed, "0.17.4", open)})
	keepWave(t, s, "3", 2, []wave.Observation{at(same, "0.17.4", open), at(away, "0.17.4", open)})
	fourth := keepWave(t, s, "4", 1, []wave.Observation{at(same, "0.17.4", open), at(updated, "0.17.4", open), at(reopened, "0.17.4", open), at(fresh, "0.17.4", open), at(closed, "0.17.4", guarded)})

	got := make(map[uint64]wave.Pair)
	for p, err := range s.Pairs(second, fourth, 2) {
		if err != nil {
			t.Fatal(err)
		}
		either := p.After
		if either == nil {
			either = p.Before
		}
		got[uint64(either.Place.Address.As4()[3])] = p
	}
	outcomeOf := func(s *wave.State) finding.Outcome {
		if s == nil {
			return ""
		}
		return s.Outcome
	}
	for pos, want := range map[uint64]struct {
		before, after finding.Outcome
		earlier       []finding.Outcome
		unseen        int
	}{
		updated:  {before: open, after: open},
		gone:     {before: open, unseen: 3}, // one look of the last wave, two of the one before
		away:     {before: open, unseen: 1},
		reopened: {before: guarded, after: open, earlier: []finding.Outcome{open}},
		fresh:    {after: open, earlier: []finding.Outcome{""}},
		closed:   {before: open, after: guarded},
	} {
		p, ok := got[pos]
		if !ok || outcomeOf(p.Before) != want.before || outcomeOf(p.After) != want.after || !slices.Equal(p.Earlier, want.earlier) || p.Unseen != want.unseen {
			t.Errorf("%d: %q then %q, earlier %q, unseen %d (there: %v), want %+v", pos, outcomeOf(p.Before), outcomeOf(p.After), p.Earlier, p.Unseen, ok, want)
		}
		delete(got, pos)
	}
	if len(got) > 0 {
		t.Errorf("as before, yet yielded: %+v", got)
	}
	if p := s.Pairs(second, fourth, 2); p != nil {
		for range p {
			break // the reader has enough; nothing stays open
		}
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}
