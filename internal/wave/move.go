package wave

import (
	"cmp"
	"fmt"
	"hash/maphash"
	"math"
	"slices"
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

	seed         maphash.Seed // hosts choose what is hashed
	servers      uint64
	models       map[uint64]uint32 // servers with the model, by its digest
	sets         map[uint64]uint32 // servers with just this set of models
	certificates map[uint64]uint32
	ports        map[uint16]uint32
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
	return &matcher{
		least:        least,
		seed:         maphash.MakeSeed(),
		models:       make(map[uint64]uint32),
		sets:         make(map[uint64]uint32),
		certificates: make(map[uint64]uint32),
		ports:        make(map[uint16]uint32),
	}
}

// saw counts what an open server has; each is to be told of once.
func (m *matcher) saw(s *State) {
	m.servers++
	for _, digest := range s.Models[:min(len(s.Models), maxDigests)] {
		m.models[m.hash(digest)]++
	}
	if len(s.Models) > 0 {
		m.sets[m.set(s)]++
	}
	if s.Certificate != "" {
		m.certificates[m.hash(s.Certificate)]++
	}
	m.ports[s.Place.Port]++
}

func (m *matcher) hash(s string) uint64 { return maphash.String(m.seed, s) }

// set is the key of all models of a server.
func (m *matcher) set(s *State) uint64 {
	var h maphash.Hash
	h.SetSeed(m.seed)
	for _, digest := range s.Models {
		_, _ = h.WriteString(digest)
		_ = h.WriteByte(0)
	}
	return h.Sum64()
}

// others is on how many servers something is besides the two of a pair.
func others(n uint32) float64 { return float64(max(n, 2) - 2) }

// rarity is which part of servers has just the models of s by chance. Models
// come together, so the rarest of them counts in full and each other one by the
// root; and a set that other servers have is no rarer than they show.
func (m *matcher) rarity(s *State) float64 {
	all := float64(m.servers) + 2
	share, rarest := 1.0, 1.0
	for _, digest := range s.Models[:min(len(s.Models), maxDigests)] {
		one := (others(m.models[m.hash(digest)]) + 1) / all
		rarest = min(rarest, one)
		share *= math.Sqrt(one)
	}
	share *= math.Sqrt(rarest)
	if n := others(m.sets[m.set(s)]); n > 0 {
		share = max(share, (n+1)/all)
	}
	return max(share, rarestSet)
}

// shared is which part of servers has the certificate of s by chance.
func (m *matcher) shared(s *State) float64 {
	return max(others(m.certificates[m.hash(s.Certificate)])/float64(m.servers), rarestCertificate)
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
	sets, certificates := make(map[uint64]*group), make(map[uint64]*group)
	for i := range m.vanished {
		m.enter(sets, certificates, m.vanished[i].before, func(g *group) { g.from = append(g.from, i) })
	}
	for i := range m.new {
		m.enter(sets, certificates, m.new[i].after, func(g *group) { g.to = append(g.to, i) })
	}

	var pairs []match
	rivalsFrom, rivalsTo := make([]float64, len(m.vanished)), make([]float64, len(m.new))
	take := func(groups map[uint64]*group, chance func(*State) float64, skip func(v, n *State) bool) {
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
		return v.Certificate != "" && v.Certificate == n.Certificate && !certificates[m.hash(v.Certificate)].large()
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

func (m *matcher) enter(sets, certificates map[uint64]*group, s *State, add func(*group)) {
	in := func(groups map[uint64]*group, key uint64) {
		g := groups[key]
		if g == nil {
			g = new(group)
			groups[key] = g
		}
		add(g)
	}
	if len(s.Models) > 0 {
		in(sets, m.set(s))
	}
	if s.Certificate != "" {
		in(certificates, m.hash(s.Certificate))
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
	return odds / ((others(m.ports[v.Place.Port]) + 1) / (float64(m.servers) + 2))
}

// basis says what a match rests on.
func (m *matcher) basis(v, n *State) (basis []string) {
	if v.Certificate != "" && v.Certificate == n.Certificate {
		basis = append(basis, fmt.Sprintf("same certificate, on %.0f other servers of %d",
			others(m.certificates[m.hash(v.Certificate)]), m.servers))
	}
	if len(v.Models) > 0 && slices.Equal(v.Models, n.Models) {
		rarest := uint32(math.MaxUint32)
		for _, digest := range v.Models[:min(len(v.Models), maxDigests)] {
			rarest = min(rarest, m.models[m.hash(digest)])
		}
		basis = append(basis, fmt.Sprintf("same models (%d), a set on %.0f other servers of %d, the rarest of them on %.0f",
			len(v.Models), others(m.sets[m.set(v)]), m.servers, others(rarest)))
	}
	if v.Place.Port == n.Place.Port {
		basis = append(basis, fmt.Sprintf("same port %d", v.Place.Port))
	}
	return basis
}
