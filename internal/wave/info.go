package wave

import "time"

// Info is what is kept of a wave as a whole.
type Info struct {
	Number  int64     `json:"number"`
	Name    string    `json:"wave"` // the id that its records carry
	Scope   string    `json:"scope"`
	Source  string    `json:"source"` // "scan", or what was imported
	Plan    string    `json:"-"`      // which places in which order
	Covers  string    `json:"-"`      // which places, in any order: waves that differ in it can't be compared
	Seed    uint64    `json:"seed"`
	Looks   int       `json:"looks"` // at each open server, from 1
	Started time.Time `json:"started"`
	Ended   time.Time `json:"ended,omitzero"` // zero: it did not come to its end yet

	Method  Method   `json:"method"`
	Summary *Summary `json:"summary"` // nil until it ended
	Tally   *Tally   `json:"tally"`   // nil until it ended
	Watched *Watched `json:"watched"` // nil with one look
}

// Comparable reports whether two waves looked at the same places.
func (i *Info) Comparable(o *Info) bool { return i.Scope == o.Scope && i.Covers == o.Covers }
