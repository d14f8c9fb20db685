package wave

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash/maphash"
	"io"
	"iter"
	"math"
	"slices"
	"strconv"
)

// matcher finds which new servers are vanished ones at another address.
//
// Each pair gets the odds that the two are one server, by Bayes' rule, as I. P.
// Fellegi and A. B. Sunter link records ("A theory for record linkage", J. Am.
// Stat. Assoc. 64, 1969). Before anything is known of it, a new server is a
// moved one in one case of ten, and then any of the vanished. What both have in
// common multiplies the odds by how rarely two servers have it in common: the
// models that everybody has say little, a certificate that one server had says
// nearly all. How sure a pair is, is its odds beside all other explanations:
// that either server belongs with another, or with none.
type matcher struct {
	least    float64 // how sure a pair has to be
	vanished []loose
	new      []loose

	whole []*Tally // of the waves, where the pairs leave out what is the same in both

	seed    maphash.Seed // hosts choose what is hashed
	servers uint64
	seen    map[uint64]uint32 // servers with a mark, by its hash
}

// loose is a server without a counterpart in the other wave. What is there now
// where it was, or was there before it came, is no open server.
type loose struct {
	event         Event // when it gets none
	before, after *State
}

func (l loose) difference() Difference {
	d := Difference{Event: l.event, Before: l.before, After: l.after}
	if l.event == Appeared {
		d.Place = l.after.Place
	} else {
		d.Place = l.before.Place
	}
	return d
}

const (
	priorMoved = 0.1 // of the new servers are moved ones
	// A server that moved seldom changes its models, its certificate or its port
	// at the same time.
	oddsOtherModels      = 0.2
	oddsOtherCertificate = 0.3
	oddsOtherPort        = 0.2
	// Nothing is rarer than this. A digest nobody else has is as rare as the
	// sample can tell; a certificate nobody else has was issued once.
	rarestSet         = 1e-12
	rarestCertificate = 1e-9
	// maxGroup is how many pairs that have the same in common are looked at one
	// by one. In a larger group nobody can tell who is who by that alone.
	maxGroup = 64
	// maxDigests is how many models of one server are counted.
	maxDigests = 512
)

func newMatcher(least float64) *matcher {
	return &matcher{least: least, seed: maphash.MakeSeed(), seen: make(map[uint64]uint32)}
}

// marks yields the keys of what an open server has, each once: its port, its
// certificate, its set of models and the models. A part of a digest will do.
func (s *State) marks() iter.Seq[string] {
	return func(yield func(string) bool) {
		if !yield(portMark(s)) ||
			s.Certificate != "" && !yield(certificateMark(s)) ||
			len(s.Models) > 0 && !yield(setMark(s)) {
			return
		}
		last := ""
		for _, digest := range s.Models[:min(len(s.Models), maxDigests)] {
			mark := modelMark(digest)
			if mark != last && !yield(mark) { // sorted, so that those with the same beginning are neighbours
				return
			}
			last = mark
		}
	}
}

func portMark(s *State) string { return "port " + strconv.Itoa(int(s.Place.Port)) }
func certificateMark(s *State) string {
	return "certificate " + s.Certificate[:min(len(s.Certificate), 16)]
}
func modelMark(digest string) string { return "model " + digest[:min(len(digest), 16)] }

// setMark is of all models of a server.
func setMark(s *State) string {
	h := sha256.New()
	for _, digest := range s.Models {
		_, _ = io.WriteString(h, digest)
		_, _ = h.Write([]byte{0})
	}
	return "models " + hex.EncodeToString(h.Sum(nil)[:8])
}

// saw counts what an open server has; each is to be told of once.
func (m *matcher) saw(s *State) {
	m.servers++
	for mark := range s.marks() {
		m.seen[maphash.String(m.seed, mark)]++
	}
}

// others is on how many servers a mark is besides the two of a pair.
func (m *matcher) others(mark string) float64 {
	n := max(uint64(m.seen[maphash.String(m.seed, mark)]), 2) - 2
	for _, t := range m.whole {
		// One of the two is in each wave.
		n = max(n, max(t.Marks[mark], 1)-1)
	}
	return float64(n)
}

// all is how many servers there are to have a mark.
func (m *matcher) all() float64 {
	n := m.servers
	for _, t := range m.whole {
		n = max(n, t.Open)
	}
	return float64(n)
}

// rarity is which part of servers has just the models of s by chance. Models
// come together, so the rarest of them counts in full and each other one by the
// root; and a set that other servers have is no rarer than they show.
func (m *matcher) rarity(s *State) float64 {
	all := m.all() + 2
	share, rarest := 1.0, 1.0
	for _, digest := range s.Models[:min(len(s.Models), maxDigests)] {
		one := (m.others(modelMark(digest)) + 1) / all
		rarest = min(rarest, one)
		share *= math.Sqrt(one)
	}
	share *= math.Sqrt(rarest)
	if n := m.others(setMark(s)); n > 0 {
		share = max(share, (n+1)/all)
	}
	return max(share, rarestSet)
}

// shared is which part of servers has the certificate of s by chance.
func (m *matcher) shared(s *State) float64 {
	return max(m.others(certificateMark(s))/m.all(), rarestCertificate)
}

// prior is the odds that a new server is one given vanished one, before
// anything is known of the two.
func (m *matcher) prior() float64 {
	return priorMoved / (1 - priorMoved) / float64(len(m.vanished))
}

type match struct {
	from, to int // of vanished, of new
	odds     float64
	sure     float64
}

// match returns the moved, and what is left of the vanished and the new. One
// vanished server goes with one new server at most, the surest pairs first.
func (m *matcher) match() (moved []Difference, rest []loose) {
	slices.SortFunc(m.vanished, func(a, b loose) int { return a.before.Place.Compare(b.before.Place) })
	slices.SortFunc(m.new, func(a, b loose) int { return a.after.Place.Compare(b.after.Place) })
	pairs := m.weigh()
	slices.SortFunc(pairs, func(a, b match) int {
		return cmp.Or(cmp.Compare(b.sure, a.sure), cmp.Compare(a.from, b.from), cmp.Compare(a.to, b.to))
	})
	gone, come := make([]bool, len(m.vanished)), make([]bool, len(m.new))
	for _, p := range pairs {
		if p.sure < m.least {
			break
		}
		if gone[p.from] || come[p.to] {
			continue
		}
		gone[p.from], come[p.to] = true, true
		v, n := m.vanished[p.from].before, m.new[p.to].after
		moved = append(moved, Difference{
			Event: Moved, Place: v.Place, To: &n.Place, Before: v, After: n,
			Sure: p.sure, Basis: m.basis(v, n),
		})
	}
	for i, l := range m.vanished {
		if !gone[i] {
			rest = append(rest, l)
		}
	}
	for i, l := range m.new {
		if !come[i] {
			rest = append(rest, l)
		}
	}
	return moved, rest
}

// group is the vanished and the new servers that have something in common.
type group struct{ from, to []int }

func (g *group) large() bool { return len(g.from)*len(g.to) > maxGroup }

// weigh returns every pair that has a certificate or all models in common, and
// how sure it is.
func (m *matcher) weigh() []match {
	sets, certificates := make(map[string]*group), make(map[string]*group)
	for i := range m.vanished {
		enter(sets, certificates, m.vanished[i].before, func(g *group) { g.from = append(g.from, i) })
	}
	for i := range m.new {
		enter(sets, certificates, m.new[i].after, func(g *group) { g.to = append(g.to, i) })
	}

	var pairs []match
	rivalsFrom, rivalsTo := make([]float64, len(m.vanished)), make([]float64, len(m.new))
	take := func(groups map[string]*group, chance func(*State) float64, skip func(v, n *State) bool) {
		for _, g := range groups {
			if len(g.from) == 0 || len(g.to) == 0 {
				continue
			}
			if g.large() {
				odds := m.prior() / chance(m.vanished[g.from[0]].before)
				for _, i := range g.from {
					rivalsFrom[i] += odds * float64(len(g.to))
				}
				for _, i := range g.to {
					rivalsTo[i] += odds * float64(len(g.from))
				}
				continue
			}
			for _, from := range g.from {
				for _, to := range g.to {
					v, n := m.vanished[from].before, m.new[to].after
					if skip(v, n) {
						continue
					}
					odds := m.odds(v, n)
					pairs = append(pairs, match{from: from, to: to, odds: odds})
				}
			}
		}
	}
	take(certificates, m.shared, func(_, _ *State) bool { return false })
	take(sets, m.rarity, func(v, n *State) bool { // those that were taken by their certificate
		return v.Certificate != "" && v.Certificate == n.Certificate && !certificates[v.Certificate].large()
	})
	// In one order, for sums of floating numbers depend on it.
	slices.SortFunc(pairs, func(a, b match) int {
		return cmp.Or(cmp.Compare(a.from, b.from), cmp.Compare(a.to, b.to))
	})
	for _, p := range pairs {
		rivalsFrom[p.from] += p.odds
		rivalsTo[p.to] += p.odds
	}
	for i := range pairs {
		p := &pairs[i]
		p.sure = p.odds / (1 + rivalsFrom[p.from] + max(0, rivalsTo[p.to]-p.odds))
	}
	return pairs
}

func enter(sets, certificates map[string]*group, s *State, add func(*group)) {
	in := func(groups map[string]*group, key string) {
		g := groups[key]
		if g == nil {
			g = new(group)
			groups[key] = g
		}
		add(g)
	}
	if len(s.Models) > 0 {
		in(sets, setMark(s))
	}
	if s.Certificate != "" {
		in(certificates, s.Certificate)
	}
}

// odds are those that a vanished and a new server are one, to that the new one
// is no server that was there before.
func (m *matcher) odds(v, n *State) float64 {
	odds := m.prior()
	if len(v.Models) > 0 && slices.Equal(v.Models, n.Models) {
		odds /= m.rarity(v)
	} else {
		odds *= oddsOtherModels
	}
	switch {
	case v.Certificate == "" || n.Certificate == "":
	case v.Certificate == n.Certificate:
		odds /= m.shared(v)
	default:
		odds *= oddsOtherCertificate
	}
	if v.Place.Port != n.Place.Port {
		return odds * oddsOtherPort
	}
	return odds / ((m.others(portMark(v)) + 1) / (m.all() + 2))
}

// basis says what a match rests on.
func (m *matcher) basis(v, n *State) (basis []string) {
	if v.Certificate != "" && v.Certificate == n.Certificate {
		basis = append(basis, fmt.Sprintf("same certificate, on %.0f other servers of %.0f",
			m.others(certificateMark(v)), m.all()))
	}
	if len(v.Models) > 0 && slices.Equal(v.Models, n.Models) {
		rarest := math.Inf(1)
		for _, digest := range v.Models[:min(len(v.Models), maxDigests)] {
			rarest = min(rarest, m.others(modelMark(digest)))
		}
		basis = append(basis, fmt.Sprintf("same models (%d), a set on %.0f other servers of %.0f, the rarest of them on %.0f",
			len(v.Models), m.others(setMark(v)), m.all(), rarest))
	}
	if v.Place.Port == n.Place.Port {
		basis = append(basis, fmt.Sprintf("same port %d", v.Place.Port))
	}
	return basis
}
