package harden

import (
	"cmp"
	"errors"
	"io/fs"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Firewall is the rules that a call from outside passes, as far as they were read.
// It is believed to keep somebody out only where every way through its rules ends
// in a drop: a rule that is not understood may let them in.
type Firewall struct {
	Read   []string // whose rules they are
	chains []*chain
	byName map[string]*chain
	blind  bool // there may be rules that were not read
}

// chain is a list of rules. One with a hook is where a packet begins.
type chain struct {
	table  string // such as "inet filter", or "iptables filter"
	name   string
	v4, v6 bool
	hook   string // prerouting, input or forward; "" for one that is jumped to
	prio   int
	policy string
	rules  []rule
}

// String is what people know the chain by: those of ufw by its name too.
func (c *chain) String() string {
	name := c.table + " " + c.name
	if slices.ContainsFunc(c.rules, func(r rule) bool { return strings.HasPrefix(r.target, "ufw") }) && !strings.HasPrefix(name, "ufw ") {
		return "ufw's " + name
	}
	return name
}

type rule struct {
	conds   []cond
	verdict string // accept, drop, return, jump, goto; "" for none
	target  string
}

// cond is a condition; not turns it round.
type cond struct {
	on     string // iif, oif, proto, dport, saddr, daddr, state, family, local; else it is not understood
	values []string
	not    bool
}

// packet is the first of a connection that a stranger opens.
type packet struct {
	v6        bool
	port      uint16
	stranger  bool // from the internet; else from the network that the machine is in
	forwarded netip.AddrPort
	published bool
}

type answer uint8

const (
	no answer = iota
	maybe
	yes
)

// outcomes are what may become of a packet.
type outcomes uint8

const (
	accepts outcomes = 1 << iota
	drops
	goesOn
)

// stops says whether a packet is dropped for certain, and by what.
func (f *Firewall) stops(p packet) (by string, stopped bool) {
	chains := slices.Clone(f.chains)
	slices.SortStableFunc(chains, func(a, b *chain) int { return cmp.Compare(a.prio, b.prio) })
	hooks := []string{"prerouting", "input"}
	switch {
	case p.published && p.forwarded.Addr().IsValid():
		hooks[1] = "forward"
	case p.published: // the engine will have its own rules for it once it runs
		hooks = hooks[:1]
	}
	for _, hook := range hooks {
		known := map[*chain]outcomes{}
		for _, c := range chains {
			if c.hook != hook || p.v6 && !c.v6 || !p.v6 && !c.v4 {
				continue
			}
			if f.walk(c, p, hook, known) == drops {
				return c.String(), true
			}
		}
	}
	return "", false
}

// walk leads a packet through a chain. Each chain is walked once: rules that jump in
// circles, or by a great many ways to the same chain, take no longer than others.
func (f *Firewall) walk(c *chain, p packet, hook string, known map[*chain]outcomes) (result outcomes) {
	if o, ok := known[c]; ok {
		return o
	}
	known[c] = accepts | goesOn // for who comes back to it in a circle
	defer func() { known[c] = result }()
	for _, r := range c.rules {
		match := yes
		for _, cd := range r.conds {
			match = min(match, cd.holds(p, hook))
		}
		if match == no {
			continue
		}
		var then outcomes
		switch r.verdict {
		case "accept":
			then = accepts
		case "drop", "reject":
			then = drops
		case "return":
			then = goesOn
			if c.hook != "" {
				then = policyOf(c)
			}
			if match == yes {
				return result | then
			}
			result |= then
			continue
		case "jump", "goto":
			to := f.byName[c.table+"\x00"+r.target]
			if to == nil {
				then = accepts | goesOn
			} else {
				then = f.walk(to, p, hook, known)
			}
			if r.verdict == "goto" && match == yes {
				return result | then
			}
		default:
			continue
		}
		result |= then &^ goesOn
		if match == yes && then&goesOn == 0 {
			return result
		}
	}
	if c.hook != "" {
		return result | policyOf(c)
	}
	return result | goesOn
}

func policyOf(c *chain) outcomes {
	if c.policy == "drop" {
		return drops
	}
	return accepts
}

func (c cond) holds(p packet, hook string) answer {
	a := no
	for _, v := range c.values {
		a = max(a, c.one(v, p, hook))
	}
	if c.not {
		a = yes - a
	}
	return a
}

func (c cond) one(v string, p packet, hook string) answer {
	is := func(b bool) answer {
		if b {
			return yes
		}
		return no
	}
	switch c.on {
	case "iif":
		return min(is(outer(v)), maybe) // which of several wires a stranger comes by is not known
	case "oif":
		if hook != "forward" {
			return no
		}
		if inner(v) {
			return maybe
		}
		return no
	case "proto":
		return is(v == "tcp" || v == "6")
	case "family":
		return is(v == "ipv6" == p.v6)
	case "dport":
		port := p.port
		if hook == "forward" {
			port = p.forwarded.Port()
		}
		low, high, ranged := strings.Cut(strings.Replace(v, "-", ":", 1), ":")
		from, err := strconv.ParseUint(low, 10, 16)
		if err != nil {
			return maybe
		}
		to := from
		if ranged {
			if to, err = strconv.ParseUint(high, 10, 16); err != nil {
				return maybe
			}
		}
		return is(uint64(port) >= from && uint64(port) <= to)
	case "udp":
		return no
	case "state":
		return is(strings.EqualFold(v, "new"))
	case "local": // the packet is for this machine itself
		return is(hook != "forward")
	case "saddr":
		prefix, err := parsePrefix(v)
		switch {
		case err != nil:
			return maybe
		case prefix.Addr().Is6() != p.v6:
			return no
		case prefix.Bits() == 0:
			return yes
		case prefix.Addr().IsLoopback():
			return no
		case p.stranger: // who is let in by name is no stranger
			return no
		case ReachOf(prefix.Addr()) == OnNetwork:
			return maybe
		}
		return no
	case "daddr":
		prefix, err := parsePrefix(v)
		switch {
		case err != nil:
			return maybe
		case hook == "forward" && p.forwarded.Addr().IsValid():
			return is(prefix.Contains(p.forwarded.Addr()))
		case prefix.Addr().IsLoopback() || prefix.Addr().IsMulticast():
			return no
		}
		return maybe
	}
	return maybe
}

func parsePrefix(s string) (netip.Prefix, error) {
	if p, err := netip.ParsePrefix(s); err == nil {
		return p, nil
	}
	a, err := netip.ParseAddr(s)
	if err != nil {
		return netip.Prefix{}, err
	}
	return netip.PrefixFrom(a, a.BitLen()), nil
}

// inner are interfaces behind which are containers and guests of this machine.
func inner(name string) bool {
	for _, p := range []string{"docker", "br-", "podman", "cni", "veth", "virbr", "lxc", "lxdbr"} {
		if strings.HasPrefix(name, p) {
			return true
		}
	}
	return false
}

func outer(name string) bool {
	return name != "lo" && !inner(name) && !strings.HasPrefix(name, "tailscale") && !strings.HasPrefix(name, "wg") && !strings.HasPrefix(name, "zt") && !strings.HasPrefix(name, "tun")
}

func (l *look) readFirewall(out printout) {
	f := &l.Firewall
	f.byName = map[string]*chain{}
	if l.OS != "linux" {
		f.blind = true
		return
	}
	denied := false
	text, err := out.get("nft -j list ruleset")
	switch {
	case err == nil:
		l.nft = true
		if f.readNFT(text) {
			f.Read = append(f.Read, "nftables")
		}
	case !errors.Is(err, fs.ErrNotExist):
		l.nft = true
		denied = true
	}
	for _, c := range []struct {
		command string
		v6      bool
	}{{"iptables-save", false}, {"ip6tables-save", true}} {
		text, err := out.get(c.command)
		switch {
		case err == nil && len(text) > 0:
			if f.readIPTables(text, c.v6, "iptables") && !slices.Contains(f.Read, "iptables") {
				f.Read = append(f.Read, "iptables")
			}
		case err != nil && !errors.Is(err, fs.ErrNotExist):
			denied = true
		}
	}
	if len(f.Read) > 0 && !denied {
		f.sort()
		return
	}
	// What is loaded was not to be read, so the files have the word.
	ufw, firewalld := l.ufw(), l.firewalld()
	f.sort()
	if ufw || firewalld {
		return
	}
	if denied {
		f.blind = true
		l.unseen("the firewall's rules", "no permission to list them", asRoot)
	} else if l.Run != nil && l.err("nft -j list ruleset", out) && l.err("iptables-save", out) {
		l.unseen("the firewall's rules", "neither nft nor iptables-save is here", "install nftables to have them read, if there are any")
	}
}

func (l *look) err(command string, out printout) bool {
	_, err := out.get(command)
	return err != nil
}

func (f *Firewall) sort() { slices.Sort(f.Read) }

func (f *Firewall) add(c *chain) *chain {
	key := c.table + "\x00" + c.name
	if have := f.byName[key]; have != nil {
		return have
	}
	f.byName[key] = c
	f.chains = append(f.chains, c)
	return c
}
