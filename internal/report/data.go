package report

import (
	"maps"
	"time"

	"gatehouse/internal/wave"
)

// Data is what a report of one wave is made of. Only Summary, Tally and Hosts
// have to be there: what is left out does not show.
type Data struct {
	Title   string // the operator's; "" names the scope
	Version string // of Gatehouse, "" when not known
	Summary wave.Summary
	Tally   wave.Tally
	Hosts   Hosts

	Trend   []Point  // earlier waves and this one, in any order
	Changes *Changes // since an earlier wave
	Active  *Share   // servers at work, over several looks
	Method  []string // how the counts came about, a sentence each
	Sources []Source // what the owners were told by

	anonymous bool
}

// hosts are the hosts there are, which may be none.
func (d Data) hosts() Hosts {
	if d.Hosts == nil {
		return Records(nil)
	}
	return d.Hosts
}

// Point is one wave of a trend.
type Point struct {
	Date  time.Time
	Tally wave.Tally
}

// Changes is how many places are in each state beside an earlier wave.
type Changes struct {
	Since    time.Time // when the earlier wave was
	New      uint64
	Gone     uint64
	Fixed    uint64
	Reopened uint64
	Moved    uint64
	Changed  uint64
	NotSeen  uint64
}

// Share is a part of a whole, and how it was found.
type Share struct {
	Part, Whole uint64
	Method      string
}

// Source is a data set that the report rests on.
type Source struct {
	Name        string
	Date        time.Time
	Attribution string // what its licence wants said
	Warning     string // what its makers say it gets wrong
}

// fewest is how many servers a name needs behind it to be told in an
// anonymous report: what only a handful have may point at one of them.
const fewest = 5

// Anonymise returns d as it may be published: its hosts as Anonymise leaves
// them, and no name in its figures that fewer than five servers share.
func (d Data) Anonymise(key []byte) Data {
	d.Hosts = Anonymise(d.hosts(), key)
	d.Tally = common(d.Tally)
	trend := make([]Point, len(d.Trend))
	for i, p := range d.Trend {
		trend[i] = Point{p.Date, common(p.Tally)}
	}
	d.Trend = trend
	d.anonymous = true
	d.Method = append(append([]string{}, d.Method...),
		"Anonymised: an address is cut to its /24 or /48 and told apart by a keyed hash; names, targets, certificates, contacts and what hosts said are left out, and so is every provider, network, model and version that fewer than 5 servers share.")
	return d
}

func common(t wave.Tally) wave.Tally {
	rest := maps.Clone(t.Rest)
	if rest == nil {
		rest = map[string]uint64{}
	}
	for name, m := range map[string]*map[string]uint64{
		"providers": &t.Providers, "networks": &t.Networks, "models": &t.Models, "families": &t.Families,
		"parameters": &t.Parameters, "quantizations": &t.Quantizations, "bits": &t.Bits,
		"capabilities": &t.Capabilities, "hardware": &t.Hardware, "versions": &t.Versions, "findings": &t.Findings,
	} {
		kept := make(map[string]uint64, len(*m))
		for key, n := range *m {
			if n >= fewest {
				kept[key] = n
			} else {
				rest[name] += n
			}
		}
		*m = kept
	}
	countries := make(map[string]uint64, len(t.Countries)) // with a few servers in one, it does not point at them
	for key, n := range t.Countries {
		if key == wave.UnknownClass || country.MatchString(key) {
			countries[key] = n
		} else {
			rest["countries"] += n
		}
	}
	t.Countries, t.Rest = countries, rest
	return t
}
