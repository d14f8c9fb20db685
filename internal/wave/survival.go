package wave

import (
	"cmp"
	"math"
	"slices"
	"time"
)

// Survival is how long something stays open: the estimate of E. L. Kaplan and P.
// Meier, "Nonparametric estimation from incomplete observations", J. Am. Stat.
// Assoc. 53 (1958). What is open still counts for as long as it was seen, so
// that the slow ones are not left out. The zero value is ready for use.
//
// Time runs from when a finding was first seen, not from when it came to be, and
// a fix is dated by the wave that saw it: times are right to within the distance
// of two waves. A server that went away was not fixed; add it as open until it
// was last seen. That is sound as long as going away has nothing to do with how
// soon it would have been fixed.
type Survival struct {
	spells []spell
	sorted bool
}

type spell struct {
	lasted time.Duration
	fixed  bool
}

// Add counts one finding on one server: how long it was seen to be there, and
// whether it was fixed then. A negative time counts as none.
func (s *Survival) Add(lasted time.Duration, fixed bool) {
	s.spells = append(s.spells, spell{max(0, lasted), fixed})
	s.sorted = false
}

// Step is one step of the curve: from After on, the share Open is open still.
type Step struct {
	After  time.Duration
	AtRisk int // were open right before
	Fixed  int
	Open   float64
	// StandardError is that of Open, by M. Greenwood's formula (1926).
	StandardError float64
}

// Curve returns the steps in order of time; there is one for each time at which
// something was fixed.
func (s *Survival) Curve() []Step {
	if !s.sorted {
		slices.SortFunc(s.spells, func(a, b spell) int { return cmp.Compare(a.lasted, b.lasted) })
		s.sorted = true
	}
	var steps []Step
	open, sum := 1.0, 0.0
	for i := 0; i < len(s.spells); {
		// Who is censored at the time of a fix was at risk then.
		atRisk, fixed, at := len(s.spells)-i, 0, s.spells[i].lasted
		for ; i < len(s.spells) && s.spells[i].lasted == at; i++ {
			if s.spells[i].fixed {
				fixed++
			}
		}
		if fixed == 0 {
			continue
		}
		n, d := float64(atRisk), float64(fixed)
		open *= (n - d) / n
		step := Step{After: at, AtRisk: atRisk, Fixed: fixed, Open: open}
		if atRisk > fixed {
			sum += d / (n * (n - d))
			step.StandardError = open * math.Sqrt(sum)
		}
		steps = append(steps, step)
	}
	return steps
}

// Within is how long it takes until the share p is fixed: 0.5 for the median,
// 0.9 for the 90th percentile. ok is false when so many were not fixed as long
// as anybody watched; the quantile is longer than that.
func (s *Survival) Within(p float64) (lasted time.Duration, ok bool) {
	for _, step := range s.Curve() {
		if step.Open <= 1-p+1e-12 { // products of fractions, such as 3/4·2/3
			return step.After, true
		}
	}
	return 0, false
}

// FixTimes is a row of the table of times to fix. A quantile that was not
// reached is 0.
type FixTimes struct {
	Finding string
	Owner   string // "" for all together
	Seen    int
	Fixed   int
	Watched time.Duration // the longest time that one was watched
	Median  time.Duration
	P90     time.Duration
}

// Fixes collects times to fix by finding, and by finding and owner: a provider
// or a network, as the caller names it. The zero value is ready for use.
type Fixes struct {
	by map[fixKey]*Survival
}

type fixKey struct{ finding, owner string }

// Add counts one finding on one server of an owner; see Survival.Add.
func (f *Fixes) Add(finding, owner string, lasted time.Duration, fixed bool) {
	if f.by == nil {
		f.by = make(map[fixKey]*Survival)
	}
	f.of(finding, "").Add(lasted, fixed)
	f.of(finding, cmp.Or(owner, UnknownClass)).Add(lasted, fixed)
}

func (f *Fixes) of(finding, owner string) *Survival {
	key := fixKey{finding, owner}
	s := f.by[key]
	if s == nil {
		s = new(Survival)
		f.by[key] = s
	}
	return s
}

// Of returns the survival of a finding with one owner, or with all together for
// the owner ""; nil when it was never seen.
func (f *Fixes) Of(finding, owner string) *Survival { return f.by[fixKey{finding, owner}] }

// Table returns a row for each finding, and after it one for each of its owners
// with at least so many, the largest first.
func (f *Fixes) Table(atLeast int) []FixTimes {
	var rows []FixTimes
	for key, s := range f.by {
		row := FixTimes{Finding: key.finding, Owner: key.owner, Seen: len(s.spells)}
		if key.owner != "" && row.Seen < atLeast {
			continue
		}
		for _, sp := range s.spells {
			row.Watched = max(row.Watched, sp.lasted)
			if sp.fixed {
				row.Fixed++
			}
		}
		row.Median, _ = s.Within(0.5)
		row.P90, _ = s.Within(0.9)
		rows = append(rows, row)
	}
	slices.SortFunc(rows, func(a, b FixTimes) int {
		first := func(r FixTimes) int { return min(len(r.Owner), 1) }
		return cmp.Or(
			cmp.Compare(a.Finding, b.Finding),
			cmp.Compare(first(a), first(b)),
			cmp.Compare(b.Seen, a.Seen),
			cmp.Compare(a.Owner, b.Owner),
		)
	})
	return rows
}
