package harden

import (
	"cmp"
	"net/netip"
	"slices"
	"strconv"
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
	Later  Level
	Causes []Cause // why, the worst first; those that have no effect now at the end
	Unseen []Unseen
}

// Open reports whether others than this machine's own programs can get in.
func (v *Verdict) Open() bool {
	return v.Level == OpenToInternet || v.Level == OpenToNetwork || v.Level == OpenToPages
}

// Judge says how open the machine is, and why. Answers are what its places said
// to whoever asked; where the machine did not ask itself, what listens counts.
// What answered from outside counts more than whatever was read. Nothing counts as
// closed for not having been seen.
func (f *Facts) Judge(answers []Answer) Verdict {
	v := Verdict{Unseen: slices.Clone(f.Unseen)}
	asked := slices.ContainsFunc(answers, func(a Answer) bool { return a.From == "" })
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
			if a.From != "" {
				now = max(now, ReachOf(a.Place.Addr())) // seen from there, whatever a rule says
			}
			if explained[a.Place] {
				continue
			}
			c := f.unexplained(a, answers)
			now = max(now, c.Reach())
			v.Causes = append(v.Causes, c)
		}
	}
	for _, s := range f.Listeners {
		local = local || s.Program == "ollama" && (s.Addr.IsLoopback() || !asked)
	}
	v.Level, v.Says = f.level(now, pages, behind, guarded, local || len(f.Ollama) > 0 && !f.stopped())
	v.Says = withOutside(v, answers, now)
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
		beyond := func(c Cause) int { // what was seen is surer than what was read
			if c.Kind == OutsideOpen {
				return 0
			}
			return 1
		}
		return cmp.Or(cmp.Compare(live(a), live(b)), cmp.Compare(b.Reach(), a.Reach()), cmp.Compare(beyond(a), beyond(b)))
	})
	return v
}

// unexplained is the cause for an answer that nothing of the set-up leads to.
func (f *Facts) unexplained(a Answer, answers []Answer) Cause {
	c := Cause{
		Kind: Unexplained, Place: Place{File: a.Place.String()}, Says: "answers", Means: "Ollama answers here, and nothing that could be read says why",
		Doors: []Door{{Addr: a.Place.Addr(), Port: a.Place.Port()}}, Live: true,
	}
	far := ReachOf(a.Place.Addr())
	switch {
	case a.From == "":
		if outside, ok := answerAt(answers, a.Place, true); ok {
			c.Seen = outside.sees()
			if outside.Said != "open" {
				far = min(far, OnNetwork)
			}
		}
	case slices.Contains(f.machine.Addresses, a.Place.Addr()):
		c.Kind, c.Says = OutsideOpen, "answers "+a.From
		c.Means = "Ollama answers there from outside, and nothing that could be read says why"
		c.manual = "find what leads to " + a.Place.String() + ": a program or a rule that forwards the port"
	default:
		c.Kind, c.Says, c.Doors = OutsideOpen, "answers "+a.From, nil // no rule of this machine closes it
		c.Means = "Ollama answers there, which is no address of this machine: a router or a proxy in front leads to this machine, or to another behind it"
		c.manual = "have what is at " + a.Place.Addr().String() + " forward port " + strconv.Itoa(int(a.Place.Port())) + " no more"
	}
	if a.Place.Addr().Is4() {
		c.V4 = far
	} else {
		c.V6 = far
	}
	return c
}

// withOutside is a verdict's sentence with what was seen from outside in it.
func withOutside(v Verdict, answers []Answer, now Reach) string {
	if rank(v.Level) < rank(OpenToNetwork) && v.Level != Guarded {
		return v.Says
	}
	var seen []string
	for _, a := range answers {
		if a.From == "" || a.Place.Addr().IsLoopback() {
			continue
		}
		if a.Said == "open" && ReachOf(a.Place.Addr()) == now {
			return "Ollama answers " + a.From + " at " + a.Place.String() + ", without a lock."
		}
		// Of a port that nobody has anything at, nothing is to be said.
		if inside, ok := answerAt(answers, a.Place, false); !ok || inside.Said == "open" {
			seen = append(seen, a.sees())
		}
	}
	if len(seen) == 0 {
		return v.Says
	}
	return strings.TrimSuffix(v.Says, ".") + "; " + strings.Join(seen, "; ") + "."
}

// answerAt is what a place said to this machine, or to who looked from outside;
// that it is open counts most.
func answerAt(answers []Answer, at netip.AddrPort, outside bool) (found Answer, ok bool) {
	for _, a := range answers {
		if a.Place == at && (a.From != "") == outside {
			if found, ok = a, true; a.Said == "open" {
				break
			}
		}
	}
	return found, ok
}

// sees is what somebody outside sees, in a sentence.
func (a Answer) sees() string {
	how := map[string]string{"open": "gets in", "guarded": "is asked for credentials", "refused": "is refused", "silent": "gets no answer"}[a.Said]
	return a.From + " " + cmp.Or(how, "finds no Ollama") + " at " + a.Place.String()
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
	live := false
	var seen []string
	for _, d := range c.Doors {
		if d.Far != Nobody {
			c.V4, c.V6 = max(c.V4, d.Far), max(c.V6, d.Far)
			live = live || c.Live
			continue
		}
		for _, a := range f.addresses(d) {
			at := netip.AddrPortFrom(a, d.Port)
			inside, _ := answerAt(answers, at, false)
			outside, looked := answerAt(answers, at, true)
			within, without := inside.Said, outside.Said
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
			if looked {
				says := outside.sees()
				if far == OnInternet && (without == "refused" || without == "silent") {
					says += ": something that does not show here keeps it out"
				}
				seen = append(seen, says)
			}
			if looked && without != "open" {
				far = min(far, OnNetwork) // seen from outside to be shut; who is nearer was not asked
			}
			if a.Is4() {
				c.V4 = max(c.V4, far)
			} else {
				c.V6 = max(c.V6, far)
			}
		}
	}
	c.Seen = strings.Join(seen, "; ")
	if len(c.Doors) > 0 {
		c.Live = live || c.Live && c.Reach() > Nobody
	}
	if c.Reach() > Nobody && c.Behind != "" && c.Reach() > OnMachine {
		c.Behind = ""
	}
}

// through is how far away they may be who get through the firewall to a door.
func (f *Facts) through(c *Cause, d Door, a netip.Addr, far Reach) Reach {
	// A container without an address of the family has the engine's own program take
	// the call on the machine itself, where it is like any other.
	to := d.Forwarded.Addr()
	published := d.Forwarded.Port() != 0 && (!to.IsValid() || to.Is6() == a.Is6())
	p := packet{v6: a.Is6(), port: d.Port, stranger: far == OnInternet, forwarded: d.Forwarded, published: published}
	by, stopped := f.Firewall.stops(p)
	if !stopped {
		if p.published {
			p.published = false
			if by, would := f.Firewall.stops(p); would {
				c.Around = by
			}
		}
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
