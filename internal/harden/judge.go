package harden

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
)

// Answer is what a place said when it was asked.
type Answer struct {
	Place netip.AddrPort
	Said  string // open, guarded, refused, silent, other: the outcomes of a probe
	From  string // "" when this machine asked itself; else who looked from outside
}

// Level is a verdict. The words are a contract.
type Level string

// Verdicts, from the best to the worst.
const (
	NoOllama       Level = "NO OLLAMA"
	LocalOnly      Level = "LOCAL ONLY"
	Guarded        Level = "GUARDED"
	OpenToPages    Level = "OPEN TO WEB PAGES"
	OpenToNetwork  Level = "OPEN TO THE NETWORK"
	OpenToInternet Level = "OPEN TO THE INTERNET"
)

// Verdict joins how a machine is set up, what listens on it and what answered.
type Verdict struct {
	Level Level
	Says  string // in a sentence
	// Later is the verdict once what is stopped starts again, where that is worse.
	Later    Level
	Causes   []Cause // why, the worst first; those that have no effect now at the end
	Unseen   []Unseen
	Answered []Answer // from outside, where they say other than what was to be expected
}

// Open reports whether others than this machine's own programs can get in.
func (v *Verdict) Open() bool {
	return v.Level == OpenToInternet || v.Level == OpenToNetwork || v.Level == OpenToPages
}

// Judge says how open the machine is, and why. Answers are what its places said
// to whoever asked; without any, what listens counts. Nothing counts as closed for
// not having been seen.
func (f *Facts) Judge(answers []Answer) Verdict {
	v := Verdict{Unseen: slices.Clone(f.Unseen)}
	now, later := Nobody, Nobody
	pages, pagesLater, behind, guarded, local := false, false, "", len(f.Guarded) > 0, false
	explained := map[netip.AddrPort]bool{}
	for _, c := range f.Causes {
		f.weigh(&c, answers)
		for _, d := range c.Doors {
			for _, a := range f.addresses(d) {
				explained[netip.AddrPortFrom(a, d.Port)] = true
			}
		}
		if c.Live {
			now = max(now, c.Reach())
			pages = pages || c.Pages
			behind = cmp.Or(behind, c.Behind)
		} else {
			later = max(later, c.Reach())
			pagesLater = pagesLater || c.Pages
		}
		if c.Reach() > OnMachine || c.Pages || c.Behind != "" {
			v.Causes = append(v.Causes, c)
		}
	}
	for _, a := range answers {
		switch {
		case a.Said == "guarded":
			guarded = true
		case a.Said == "open" && a.Place.Addr().IsLoopback():
			local = true
		case a.Said == "open":
			local = true
			far := ReachOf(a.Place.Addr())
			if a.From != "" {
				now = max(now, far) // seen from there, whatever a rule says
			}
			if explained[a.Place] {
				continue
			}
			v.Causes = append(v.Causes, Cause{
				Kind: Unexplained, Place: Place{File: a.Place.String()}, Says: "answers", Means: "Ollama answers here, and nothing that could be read says why",
				Doors: []Door{{Addr: a.Place.Addr(), Port: a.Place.Port()}}, Live: true, V4: far,
			})
			now = max(now, far)
		}
	}
	for _, s := range f.Listeners {
		local = local || s.Program == "ollama" && (s.Addr.IsLoopback() || len(answers) == 0)
	}
	v.Level, v.Says = f.level(now, pages, behind, guarded, local || len(f.Ollama) > 0 && !f.stopped())
	if next, _ := f.level(max(now, later), pages || pagesLater, behind, guarded, true); next != v.Level && rank(next) > rank(v.Level) && rank(next) >= rank(OpenToPages) {
		v.Later = next
	}
	slices.SortStableFunc(v.Causes, func(a, b Cause) int {
		live := func(c Cause) int {
			if c.Live {
				return 0
			}
			return 1
		}
		return cmp.Or(cmp.Compare(live(a), live(b)), cmp.Compare(b.Reach(), a.Reach()))
	})
	return v
}

// stopped reports whether nothing of what was found of Ollama runs.
func (f *Facts) stopped() bool {
	return !slices.ContainsFunc(f.Ollama, func(s string) bool { return strings.HasPrefix(s, "process ") || strings.HasPrefix(s, "container ") })
}

func rank(l Level) int {
	return slices.Index([]Level{NoOllama, LocalOnly, Guarded, OpenToPages, OpenToNetwork, OpenToInternet}, l)
}

func (f *Facts) level(now Reach, pages bool, behind string, guarded, local bool) (Level, string) {
	switch {
	case now == OnInternet:
		return OpenToInternet, "Ollama can be reached from anywhere, without a lock."
	case now == OnNetwork:
		return OpenToNetwork, "Ollama answers on this machine's network, without a lock."
	case pages:
		return OpenToPages, "any web page that somebody opens here may call Ollama."
	case behind != "":
		return Guarded, "a firewall alone stands before Ollama: " + behind + "."
	case guarded:
		return Guarded, "what answers asks for credentials."
	case local:
		return LocalOnly, "Ollama answers on loopback and nowhere else."
	case len(f.Ollama) > 0:
		return NoOllama, "Ollama is installed here and does not run."
	}
	return NoOllama, "no Ollama answers on this machine's addresses."
}

// addresses are those of the machine that a door is at.
func (f *Facts) addresses(d Door) (list []netip.Addr) {
	if d.Far != Nobody || d.Port == 0 && !d.Addr.IsValid() {
		return nil
	}
	for _, a := range f.machine.Addresses {
		switch {
		case a.IsLoopback():
		case !d.Addr.IsValid(), d.Addr == netip.IPv6Unspecified():
			// A port that Docker publishes on :: has its IPv4 twin listed by itself.
			if !d.Forwarded.IsValid() || a.Is6() {
				list = append(list, a)
			}
		case d.Addr == netip.IPv4Unspecified() && a.Is4(), d.Addr == a:
			list = append(list, a)
		}
	}
	return list
}

// weigh says how far away they may be who come in by a cause.
func (f *Facts) weigh(c *Cause, answers []Answer) {
	said := func(at netip.AddrPort, outside bool) string {
		word := ""
		for _, a := range answers {
			if a.Place == at && (a.From != "") == outside {
				if word = a.Said; word == "open" {
					break
				}
			}
		}
		return word
	}
	live := false
	for _, d := range c.Doors {
		if d.Far != Nobody {
			c.V4, c.V6 = max(c.V4, d.Far), max(c.V6, d.Far)
			live = live || c.Live
			continue
		}
		for _, a := range f.addresses(d) {
			at := netip.AddrPortFrom(a, d.Port)
			within, without := said(at, false), said(at, true)
			far := ReachOf(a)
			if within == "guarded" && without != "open" {
				continue
			}
			if c.Live && len(answers) > 0 && within != "" && within != "open" && without != "open" && c.Kind != ProxyOpen {
				continue // it listened a moment ago, and nothing answers as Ollama
			}
			live = live || c.Live || within == "open" || without == "open"
			if without != "open" {
				far = f.through(c, d, a, far)
			}
			if without != "" && without != "open" {
				far = min(far, OnNetwork) // seen from outside to be shut; who is nearer was not asked
			}
			if a.Is4() {
				c.V4 = max(c.V4, far)
			} else {
				c.V6 = max(c.V6, far)
			}
		}
	}
	if len(c.Doors) > 0 {
		c.Live = live || c.Live && c.Reach() > Nobody
	}
	if c.Reach() > Nobody && c.Behind != "" && c.Reach() > OnMachine {
		c.Behind = ""
	}
}

// through is how far away they may be who get through the firewall to a door.
func (f *Facts) through(c *Cause, d Door, a netip.Addr, far Reach) Reach {
	p := packet{v6: a.Is6(), port: d.Port, stranger: far == OnInternet, forwarded: d.Forwarded, published: d.Forwarded.IsValid()}
	by, stopped := f.Firewall.stops(p)
	if !stopped {
		return far
	}
	if p.stranger { // who is near may still get in, if there is anybody near
		p.stranger = false
		if _, near := f.Firewall.stops(p); !near && f.hasNetwork(a.Is6()) {
			return OnNetwork
		}
	}
	c.Behind = by
	return OnMachine
}

// hasNetwork reports whether the machine has a private address of the family.
func (f *Facts) hasNetwork(v6 bool) bool {
	return slices.ContainsFunc(f.machine.Addresses, func(a netip.Addr) bool { return a.Is6() == v6 && ReachOf(a) == OnNetwork })
}
