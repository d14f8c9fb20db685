package wave

import (
	"cmp"
	"fmt"
	"iter"
	"slices"
	"strings"

	"gatehouse/internal/finding"
	"gatehouse/internal/ollama"
)

// Event is what became of one place between two waves.
type Event string

// The events. A server counts as open until it is seen to be something else,
// or was not seen in K looks in a row.
const (
	Appeared  Event = "new"       // open, and was never before
	Gone      Event = "gone"      // was open; not seen in K looks, or what answers is no Ollama
	Fixed     Event = "fixed"     // was open, is guarded
	Reopened  Event = "reopened"  // open again after it was guarded or gone
	Moved     Event = "moved"     // was open here, is open at another address
	Changed   Event = "changed"   // open in both, and not the same
	NotSeen   Event = "not seen"  // was open, did not answer in fewer than K looks
	Returned  Event = "returned"  // open again, and was neither guarded nor gone in between
	Reclassed Event = "reclassed" // was open, is judged a look-alike, a honeypot or broken
)

// Events lists every event, in the order in which a report has them.
var Events = []Event{Appeared, Reopened, Moved, Returned, Fixed, Gone, NotSeen, Reclassed, Changed}

// Difference is one event at one place.
type Difference struct {
	Event  Event    `json:"event"`
	Place  Place    `json:"place"`         // for Moved, where it was
	To     *Place   `json:"to,omitzero"`   // for Moved, where it is
	Before *State   `json:"before"`        // as last seen, nil when it never was
	After  *State   `json:"after"`         // nil when not seen
	What   []string `json:"what,omitzero"` // for Changed: "version", "models", "power manage"

	// For Moved: how sure, 0 to 1, and what it rests on.
	Sure  float64  `json:"sure,omitzero"`
	Basis []string `json:"basis,omitzero"`
}

// Comparison is what became of a scope's servers between two waves. Two sums
// hold:
//
//	Before + Carried = Still + Returned + Fixed + Gone + Moved + NotSeen + Reclassed
//	After            = Still + Returned + New + Reopened + Moved
//
// where Changed is a part of Still, and a Returned or Fixed server may be one
// of Carried.
type Comparison struct {
	Before  uint64 `json:"before"`  // open in the earlier wave
	Carried uint64 `json:"carried"` // not open in the earlier wave, open before it, and neither fixed nor gone since
	After   uint64 `json:"after"`   // open in the later wave
	Still   uint64 `json:"still"`   // open in both at the same place

	New       uint64 `json:"new"`
	Gone      uint64 `json:"gone"`
	Fixed     uint64 `json:"fixed"`
	Reopened  uint64 `json:"reopened"`
	Moved     uint64 `json:"moved"`
	Changed   uint64 `json:"changed"`
	NotSeen   uint64 `json:"not_seen"`
	Returned  uint64 `json:"returned"`
	Reclassed uint64 `json:"reclassed"`

	What     map[string]uint64                              `json:"what"`     // Changed, by what
	Outcomes map[finding.Outcome]map[finding.Outcome]uint64 `json:"outcomes"` // from, to; "" is not seen

	// Lists has the first differences of each event, in order of place.
	Lists map[Event][]Difference `json:"lists"`
}

// CompareOptions say how to compare. The zero value is the usual way.
type CompareOptions struct {
	Looks int     // K: in how many looks in a row a server is not seen before it is gone; 0 is 2
	Limit int     // differences in each of the Lists; 0 is 1,000, below 0 none
	Sure  float64 // from where on a move is counted as one; 0 is 0.5, more likely than not

	// Before and After are the tallies of the two waves, when the pairs leave out
	// places that are the same in both: those are counted from the tallies, and
	// how rare a certificate or a model is, too. Without them the pairs have to be
	// all that were open.
	Before, After *Tally

	// Each, when set, is told of every difference, however many there are: first
	// of those that are settled at once, in the order of the pairs, then of the
	// moved, the vanished and the new, each in order of place.
	Each func(Difference) error
}

// Compare says what became of each place. It reads the pairs once, in any order,
// and keeps the states of those that vanished or are new, to match them with
// each other. The counts and lists do not depend on the order.
func Compare(pairs iter.Seq2[Pair, error], opt CompareOptions) (Comparison, error) {
	c := comparer{
		looks: cmp.Or(max(0, opt.Looks), 2), limit: cmp.Or(opt.Limit, 1000), each: opt.Each,
		moves: newMatcher(cmp.Or(opt.Sure, 0.5)),
	}
	for _, t := range []*Tally{opt.Before, opt.After} {
		if t != nil {
			c.moves.whole = append(c.moves.whole, t)
		}
	}
	c.What = make(map[string]uint64)
	c.Outcomes = make(map[finding.Outcome]map[finding.Outcome]uint64)
	c.Lists = make(map[Event][]Difference)
	for p, err := range pairs {
		if err != nil {
			return Comparison{}, fmt.Errorf("compare: %w", err)
		}
		if err := c.pair(&p); err != nil {
			return Comparison{}, fmt.Errorf("compare: %w", err)
		}
	}
	if opt.Before != nil && opt.Before.Open > c.Before {
		same := opt.Before.Open - c.Before
		c.Before += same
		c.Still += same
		c.After += same
		to := c.Outcomes[finding.Open]
		if to == nil {
			to = make(map[finding.Outcome]uint64)
			c.Outcomes[finding.Open] = to
		}
		to[finding.Open] += same
	}
	if err := c.settle(); err != nil {
		return Comparison{}, fmt.Errorf("compare: %w", err)
	}
	for event, list := range c.Lists {
		c.Lists[event] = firstOf(list, c.limit)
	}
	return c.Comparison, nil
}

type comparer struct {
	Comparison
	looks, limit int
	each         func(Difference) error
	moves        *matcher
}

// pair counts one place; one that vanished or is new is kept for settle.
func (c *comparer) pair(p *Pair) error {
	from, to := outcomeOf(p.Before), outcomeOf(p.After)
	if c.Outcomes[from] == nil {
		c.Outcomes[from] = make(map[finding.Outcome]uint64)
	}
	c.Outcomes[from][to]++

	before := p.Before // as last seen
	if !answered(from) {
		before = p.Last
	}
	wasOpen := from == finding.Open
	if wasOpen {
		c.Before++
	} else if !answered(from) && c.gap(p) < c.looks && lastSeen(p) == finding.Open && (answered(to) || before != nil) {
		wasOpen = true
		c.Carried++
	}
	d := Difference{Before: before, After: p.After}
	switch {
	case to == finding.Open:
		d.Place = p.After.Place
		c.After++
		c.moves.saw(p.After)
		switch {
		case from == finding.Open:
			c.Still++
			if d.What = changes(p.Before, p.After); len(d.What) == 0 {
				return nil
			}
			d.Event = Changed
		case wasOpen:
			d.Event = Returned
		default:
			switch ever, shut := c.openEarlier(p); {
			case shut:
				d.Event = Reopened
			case ever:
				d.Event = Returned
				c.Carried++
			default:
				d.Event = Appeared
				c.moves.new = append(c.moves.new, loose{d.Event, d.Before, d.After})
				return nil
			}
		}
	case !wasOpen:
		return nil
	case to == finding.Guarded:
		d.Event, d.Place = Fixed, p.After.Place
	case to == finding.Other:
		d.Event, d.Place = Gone, p.After.Place
	case answered(to):
		d.Event, d.Place = Reclassed, p.After.Place
	default:
		d.Event, d.Place = NotSeen, before.Place
		if max(1, p.Unseen) >= c.looks {
			d.Event = Gone
		}
	}
	if before != nil && to != finding.Open {
		c.moves.saw(before)
		if d.Event == Gone || d.Event == NotSeen {
			c.moves.vanished = append(c.moves.vanished, loose{d.Event, d.Before, d.After})
			return nil
		}
	}
	return c.add(d)
}

// settle finds out which of those that vanished are those that are new.
func (c *comparer) settle() error {
	moved, rest := c.moves.match()
	slices.SortFunc(moved, byPlace)
	for _, d := range moved {
		if err := c.add(d); err != nil {
			return err
		}
	}
	for _, l := range rest {
		if err := c.add(l.difference()); err != nil {
			return err
		}
	}
	return nil
}

func (c *comparer) add(d Difference) error {
	switch d.Event {
	case Appeared:
		c.New++
	case Gone:
		c.Gone++
	case Fixed:
		c.Fixed++
	case Reopened:
		c.Reopened++
	case Moved:
		c.Moved++
	case Changed:
		c.Changed++
		for _, what := range d.What {
			c.What[what]++
		}
	case NotSeen:
		c.NotSeen++
	case Returned:
		c.Returned++
	case Reclassed:
		c.Reclassed++
	}
	if c.limit > 0 {
		list := append(c.Lists[d.Event], d)
		if len(list) >= 2*c.limit {
			list = firstOf(list, c.limit)
		}
		c.Lists[d.Event] = list
	}
	if c.each != nil {
		return c.each(d)
	}
	return nil
}

func firstOf(list []Difference, limit int) []Difference {
	slices.SortFunc(list, byPlace)
	if len(list) > limit {
		clear(list[limit:])
		list = list[:limit]
	}
	return list
}

func byPlace(a, b Difference) int {
	return cmp.Or(a.Place.Compare(b.Place), cmp.Compare(a.Event, b.Event))
}

// Compare orders places by address, port, name and path.
func (p Place) Compare(o Place) int {
	return cmp.Or(
		p.Address.Compare(o.Address),
		cmp.Compare(p.Port, o.Port),
		strings.Compare(p.Name, o.Name),
		strings.Compare(p.Path, o.Path),
	)
}

func outcomeOf(s *State) finding.Outcome {
	if s == nil {
		return ""
	}
	return s.Outcome
}

// answered reports whether a host said anything. One that refuses the connection
// may be about to start again.
func answered(o finding.Outcome) bool {
	return o != "" && o != finding.Silent && o != finding.Refused
}

// lastSeen is the outcome of the place when it last answered before Before.
func lastSeen(p *Pair) finding.Outcome {
	for _, o := range p.Earlier {
		if answered(o) {
			return o
		}
	}
	return outcomeOf(p.Last)
}

// gap is in how many looks up to Before's wave the place did not answer.
func (c *comparer) gap(p *Pair) int {
	if p.Gap > 0 {
		return p.Gap
	}
	n := 1 // Before
	for _, o := range p.Earlier {
		if answered(o) {
			break
		}
		n++
	}
	return n
}

// openEarlier reports whether the place was ever open before the earlier wave,
// and whether it was guarded or gone since.
func (c *comparer) openEarlier(p *Pair) (ever, shut bool) {
	unseen := 0
	see := func(o finding.Outcome) {
		if answered(o) {
			unseen = 0
		} else {
			unseen++
		}
		shut = shut || o == finding.Guarded || o == finding.Other || unseen >= c.looks
	}
	before := outcomeOf(p.Before)
	see(before)
	shut = shut || !answered(before) && c.gap(p) >= c.looks
	for _, o := range p.Earlier {
		if o == finding.Open {
			return true, shut
		}
		see(o)
	}
	ever = outcomeOf(p.Last) == finding.Open
	return ever, ever && shut
}

// changes says what is not the same at a server that is open in both waves.
// What a wave did not ask for did not change.
func changes(a, b *State) (what []string) {
	if a.Version != b.Version && a.Version != "" && b.Version != "" {
		what = append(what, "version")
	}
	if !slices.Equal(a.Models, b.Models) {
		what = append(what, "models")
	}
	for _, power := range ollama.Powers {
		was, is := a.Powers.Of(power), b.Powers.Of(power)
		// Proven and reachable differ in what was tried, not in the server.
		if known(was) && known(is) && (was == finding.Denied) != (is == finding.Denied) {
			what = append(what, "power "+string(power))
		}
	}
	return what
}

func known(s finding.State) bool { return s != "" && s != finding.Unknown }
