package main

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	"gatehouse/bench/figures"
)

// summary is what the rounds of one figure come to.
type summary struct {
	Median, Low, High float64 // the spread is all of it, lowest to highest
	Rounds            int     // 0: not measured
}

func summarise(list []float64) (s summary) {
	if len(list) == 0 {
		return s
	}
	list = slices.Sorted(slices.Values(list))
	n := len(list)
	return summary{Median: (list[(n-1)/2] + list[n/2]) / 2, Low: list[0], High: list[n-1], Rounds: n}
}

// rounds are one figure's values by round.
type rounds map[int]float64

func (r rounds) summary() summary { return summarise(slices.Collect(maps.Values(r))) }

// ratio holds r against base, round by round: what slows the machine for a while
// slows both alike, and does not widen the spread. Rounds that only one has do
// not count.
func (r rounds) ratio(base rounds) summary {
	var list []float64
	for n, v := range r {
		if b, ok := base[n]; ok && b > 0 {
			list = append(list, v/b)
		}
	}
	return summarise(list)
}

// series is one thing measured: of each peer, at each x.
type series struct {
	Step         string // that measured it
	Bench, Name  string
	UnitX, UnitY string
	X            []float64                     // ascending
	Peers        []string                      // ours first, the others by name
	At           map[float64]map[string]rounds // x -> peer -> figures
}

// curve says whether x is worth drawing: two points are a comparison.
func (s *series) curve() bool { return len(s.X) > 2 }

// more says whether a greater figure is the better one.
func (s *series) more() bool {
	return strings.HasSuffix(s.UnitY, "/s") || strings.HasPrefix(s.UnitY, "%") || s.UnitY == "pps" || s.UnitY == "kpps"
}

// gather sorts rows into series, in the order in which they first come. Figures
// of one name in different units are different series.
func gather(rows []figures.Row) (list []*series) {
	type name struct{ bench, series, x, y string }
	index := make(map[name]*series)
	for _, r := range rows {
		n := name{r.Bench, r.Series, r.UnitX, r.UnitY}
		s := index[n]
		if s == nil {
			s = &series{Bench: r.Bench, Name: r.Series, UnitX: r.UnitX, UnitY: r.UnitY, At: make(map[float64]map[string]rounds)}
			index[n] = s
			list = append(list, s)
		}
		if s.At[r.X] == nil {
			s.At[r.X] = make(map[string]rounds)
			s.X = append(s.X, r.X)
		}
		if s.At[r.X][r.Peer] == nil {
			s.At[r.X][r.Peer] = make(rounds)
		}
		s.At[r.X][r.Peer][r.Round] = r.Y
		if !slices.Contains(s.Peers, r.Peer) {
			s.Peers = append(s.Peers, r.Peer)
		}
	}
	for _, s := range list {
		slices.Sort(s.X)
		slices.SortFunc(s.Peers, func(a, b string) int {
			if a == figures.Ours || b == figures.Ours {
				return cmp.Compare(ours(b), ours(a))
			}
			return cmp.Compare(a, b)
		})
	}
	return list
}

func ours(peer string) int {
	if peer == figures.Ours {
		return 1
	}
	return 0
}

// loss is a figure in which a peer is better than Gatehouse.
type loss struct {
	Series *series
	X      float64
	Peer   string
	Ratio  summary // the peer's figure, of ours
}

// losses are all of them that are so in every round; the others are even. A
// peer's figure of nought was too small to be measured. References are not
// peers: nobody could do without what they leave out.
func losses(list []*series, references []string) (lost []loss) {
	for _, s := range list {
		if s.Bench == parted {
			continue
		}
		for _, x := range s.X {
			for _, peer := range s.Peers {
				if peer == figures.Ours || slices.Contains(references, peer) {
					continue
				}
				r := s.At[x][peer].ratio(s.At[x][figures.Ours])
				if r.Rounds > 0 && r.Low > 0 && (s.more() && r.Low > 1 || !s.more() && r.High < 1) {
					lost = append(lost, loss{s, x, peer, r})
				}
			}
		}
	}
	return lost
}
