package harden

import (
	"cmp"
	"encoding/json"
	"encoding/xml"
	"errors"
	"io/fs"
	"net/netip"
	"path"
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

// readNFT reads what `nft -j list ruleset` prints; it reports whether there is a
// chain in it that filters.
func (f *Firewall) readNFT(text []byte) bool {
	var dump struct {
		Nftables []struct {
			Chain *struct {
				Family, Table, Name, Type, Hook, Policy string
				Prio                                    int
			}
			Rule *struct {
				Family, Table, Chain string
				Expr                 []map[string]json.RawMessage
			}
			Set *struct {
				Family, Table, Name string
				Elem                []json.RawMessage
			}
		}
	}
	if json.Unmarshal(text, &dump) != nil {
		return false
	}
	sets := map[string][]string{}
	hooked := false
	for _, o := range dump.Nftables {
		if s := o.Set; s != nil {
			for _, e := range s.Elem {
				sets[s.Family+" "+s.Table+"@"+s.Name] = append(sets[s.Family+" "+s.Table+"@"+s.Name], values(e, nil)...)
			}
		}
		if c := o.Chain; c != nil {
			n := &chain{
				table: c.Family + " " + c.Table, name: c.Name, prio: c.Prio, policy: cmp.Or(c.Policy, "accept"),
				v4: c.Family == "ip" || c.Family == "inet", v6: c.Family == "ip6" || c.Family == "inet",
			}
			if c.Type == "filter" && (c.Hook == "input" || c.Hook == "forward" || c.Hook == "prerouting") {
				n.hook = c.Hook
				hooked = true
			}
			f.add(n)
		}
	}
	for _, o := range dump.Nftables {
		r := o.Rule
		if r == nil {
			continue
		}
		table := r.Family + " " + r.Table
		c := f.byName[table+"\x00"+r.Chain]
		if c == nil {
			continue
		}
		look := func(name string) []string { return sets[table+name] }
		var conds []cond
		n := rule{}
		for _, e := range r.Expr {
			for kind, body := range e {
				switch kind {
				case "match":
					conds = append(conds, nftMatch(body, look))
				case "accept", "drop", "return":
					n.verdict = kind
				case "reject":
					n.verdict = "drop"
				case "jump", "goto":
					var to struct{ Target string }
					_ = json.Unmarshal(body, &to) // an empty target is a chain that is not there
					n.verdict, n.target = kind, to.Target
				case "counter", "log", "comment":
				case "vmap":
					c.rules = append(c.rules, nftMap(body, conds, look)...)
				default:
					conds = append(conds, cond{on: kind, values: []string{""}})
				}
			}
		}
		n.conds = conds
		if n.verdict != "" {
			c.rules = append(c.rules, n)
		}
	}
	return hooked
}

type nftSide struct {
	Meta    *struct{ Key string }
	Payload *struct{ Protocol, Field string }
	Ct      *struct{ Key string }
	Fib     *struct {
		Result string
		Flags  []string
	}
}

// on is what a side of a match is about.
func (s nftSide) on() (on string, more []cond) {
	switch {
	case s.Meta != nil:
		switch s.Meta.Key {
		case "iif", "iifname":
			return "iif", nil
		case "oif", "oifname":
			return "oif", nil
		case "l4proto":
			return "proto", nil
		case "nfproto":
			return "family", nil
		}
	case s.Payload != nil:
		p := s.Payload
		switch {
		case p.Field == "dport" && (p.Protocol == "tcp" || p.Protocol == "th"):
			return "dport", nil
		case p.Field == "dport":
			return "udp", nil
		case p.Field == "saddr" || p.Field == "daddr":
			return p.Field, nil
		case p.Field == "protocol" || p.Field == "nexthdr":
			return "proto", nil
		case p.Protocol == "icmp" || p.Protocol == "icmpv6" || p.Protocol == "udp":
			return "udp", nil
		}
	case s.Ct != nil && s.Ct.Key == "state":
		return "state", nil
	case s.Fib != nil && s.Fib.Result == "type" && slices.Contains(s.Fib.Flags, "daddr"):
		return "fib", nil
	}
	return "?", nil
}

func nftMatch(body []byte, sets func(string) []string) cond {
	var m struct {
		Op    string
		Left  nftSide
		Right json.RawMessage
	}
	if json.Unmarshal(body, &m) != nil {
		return cond{on: "?", values: []string{""}}
	}
	on, _ := m.Left.on()
	c := cond{on: on, values: values(m.Right, sets), not: m.Op == "!="}
	if on == "fib" {
		c.on = "?"
		if slices.Equal(c.values, []string{"local"}) {
			c.on = "local"
		}
	}
	if m.Op == "<" || m.Op == ">" || m.Op == "<=" || m.Op == ">=" || m.Op == "&" || len(c.values) == 0 && on != "dport" {
		c.on, c.values = "?", []string{""}
	}
	return c
}

// nftMap turns a map of verdicts into a rule for each of its entries.
func nftMap(body []byte, conds []cond, sets func(string) []string) (rules []rule) {
	var m struct {
		Key  nftSide
		Data struct{ Set [][2]json.RawMessage }
	}
	if json.Unmarshal(body, &m) != nil {
		return []rule{{conds: []cond{{on: "?", values: []string{""}}}, verdict: "accept"}}
	}
	on, _ := m.Key.on()
	for _, entry := range m.Data.Set {
		r := rule{conds: append(slices.Clone(conds), cond{on: on, values: values(entry[0], sets)})}
		var v map[string]json.RawMessage
		_ = json.Unmarshal(entry[1], &v) // an entry without a verdict says nothing
		for kind, b := range v {
			var to struct{ Target string }
			_ = json.Unmarshal(b, &to) // accept and drop have none
			r.verdict, r.target = kind, to.Target
		}
		rules = append(rules, r)
	}
	return rules
}

// values are those of the right side of a match, as text.
func values(raw json.RawMessage, sets func(string) []string) (list []string) {
	var s string
	if json.Unmarshal(raw, &s) == nil {
		if strings.HasPrefix(s, "@") && sets != nil {
			return sets(s)
		}
		return []string{s}
	}
	var n json.Number
	if json.Unmarshal(raw, &n) == nil {
		return []string{n.String()}
	}
	var all []json.RawMessage
	if json.Unmarshal(raw, &all) == nil {
		for _, r := range all {
			list = append(list, values(r, sets)...)
		}
		return list
	}
	var o struct {
		Set    json.RawMessage
		Range  [2]json.RawMessage
		Prefix *struct {
			Addr string
			Len  int
		}
		Elem *struct{ Val json.RawMessage }
	}
	if json.Unmarshal(raw, &o) != nil {
		return []string{"?"}
	}
	switch {
	case o.Set != nil:
		return values(o.Set, sets)
	case o.Prefix != nil:
		return []string{o.Prefix.Addr + "/" + strconv.Itoa(o.Prefix.Len)}
	case o.Elem != nil:
		return values(o.Elem.Val, sets)
	case o.Range[0] != nil:
		from, to := values(o.Range[0], nil), values(o.Range[1], nil)
		if len(from) == 1 && len(to) == 1 {
			return []string{from[0] + "-" + to[0]}
		}
	}
	return []string{"?"}
}

var iptablesPrio = map[string]int{"raw": -300, "mangle": -150, "filter": 0, "security": 50}

// readIPTables reads what iptables-save prints.
func (f *Firewall) readIPTables(text []byte, v6 bool, source string) bool {
	prefix := source + " "
	if v6 {
		prefix = "ip6tables "
	}
	table := ""
	hooked := false
	for _, ln := range linesOf(text) {
		s := strings.TrimSpace(ln.text)
		switch {
		case strings.HasPrefix(s, "*"):
			table = s[1:]
		case strings.HasPrefix(s, ":"):
			w := strings.Fields(s[1:])
			prio, filters := iptablesPrio[table]
			if len(w) < 2 || !filters {
				continue
			}
			c := f.add(&chain{table: prefix + table, name: w[0], v4: !v6, v6: v6, prio: prio, policy: strings.ToLower(w[1])})
			switch w[0] {
			case "INPUT", "FORWARD", "PREROUTING":
				c.hook = strings.ToLower(w[0])
				hooked = true
			}
		case strings.HasPrefix(s, "-A ") || strings.HasPrefix(s, "["):
			if i := strings.Index(s, "-A "); i > 0 {
				s = s[i:]
			}
			w := words(s)
			if len(w) < 2 {
				continue
			}
			if c := f.byName[prefix+table+"\x00"+w[1]]; c != nil {
				c.rules = append(c.rules, iptablesRule(w[2:]))
			}
		}
	}
	return hooked
}

func iptablesRule(w []string) (r rule) {
	not := false
	add := func(on string, values ...string) {
		r.conds = append(r.conds, cond{on: on, values: values, not: not})
		not = false
	}
	for i := 0; i < len(w); i++ {
		arg := func() string {
			if i++; i < len(w) {
				return w[i]
			}
			return ""
		}
		switch w[i] {
		case "!":
			not = true
		case "-p", "--protocol":
			add("proto", arg())
		case "-s", "--source":
			add("saddr", arg())
		case "-d", "--destination":
			add("daddr", arg())
		case "-i", "--in-interface":
			add("iif", strings.TrimSuffix(arg(), "+"))
		case "-o", "--out-interface":
			add("oif", strings.TrimSuffix(arg(), "+"))
		case "--dport", "--dports", "--destination-port":
			add("dport", strings.Split(arg(), ",")...)
		case "--ctstate", "--state":
			add("state", strings.Split(arg(), ",")...)
		case "--dst-type":
			if t := arg(); t == "LOCAL" {
				add("local", t)
			} else {
				add("?", t)
			}
		case "-m", "--match":
			switch m := arg(); m {
			case "tcp", "udp", "conntrack", "state", "multiport", "comment", "addrtype":
			default:
				add("?", m)
			}
		case "--comment", "--reject-with", "--log-prefix", "--log-level":
			arg()
		case "-j", "-g":
			r.verdict = "jump"
			if w[i] == "-g" {
				r.verdict = "goto"
			}
			r.target = arg()
			switch r.target {
			case "ACCEPT", "DROP", "RETURN":
				r.verdict = strings.ToLower(r.target)
			case "REJECT":
				r.verdict = "drop"
			case "LOG", "MARK", "CONNMARK", "NFLOG", "TCPMSS", "CT", "SET":
				r.verdict = ""
			}
		default:
			if strings.HasPrefix(w[i], "-") {
				add("?", w[i])
			}
		}
	}
	return r
}

// ufw reads the files of ufw, where what is loaded could not be read.
func (l *look) ufw() bool {
	conf, ok := l.read("/etc/ufw/ufw.conf")
	if !ok || !strings.EqualFold(setting(conf, "ENABLED"), "yes") {
		return false
	}
	defaults, _ := l.read("/etc/default/ufw")
	policy := strings.ToLower(cmp.Or(setting(defaults, "DEFAULT_INPUT_POLICY"), "DROP"))
	if policy == "reject" {
		policy = "drop"
	}
	read := false
	for _, v6 := range []bool{false, true} {
		file, user, table := "/etc/ufw/user.rules", "ufw-user-input", "ufw filter"
		if v6 {
			file, user, table = "/etc/ufw/user6.rules", "ufw6-user-input", "ip6tables filter"
			if !strings.EqualFold(cmp.Or(setting(defaults, "IPV6"), "yes"), "yes") {
				l.unseen("whether IPv6 is filtered", "ufw leaves it alone: IPV6=no in /etc/default/ufw", "look at ip6tables -S")
				continue
			}
		}
		text, ok := l.read(file)
		if !ok {
			l.Firewall.blind = true
			continue
		}
		read = true
		c := l.Firewall.add(&chain{table: table, name: "INPUT", v4: !v6, v6: v6, hook: "input", policy: policy})
		c.rules = append(c.rules, rule{conds: []cond{{on: "iif", values: []string{"lo"}}}, verdict: "accept"}, rule{verdict: "jump", target: user})
		l.Firewall.readIPTables(text, v6, "ufw")
	}
	if read {
		l.Firewall.Read = append(l.Firewall.Read, "ufw")
	}
	return read
}

// setting is a value of a file of NAME=value lines.
func setting(text []byte, name string) (value string) {
	for _, p := range environmentFile(text) {
		if p.key == name {
			value = p.value
		}
	}
	return value
}

// firewalld reads the default zone of firewalld.
func (l *look) firewalld() bool {
	conf, ok := l.read("/etc/firewalld/firewalld.conf")
	if !ok || !l.exists("/etc/systemd/system/multi-user.target.wants/firewalld.service") && !l.exists("/run/firewalld") {
		return false
	}
	zone := cmp.Or(setting(conf, "DefaultZone"), "public")
	var text []byte
	for _, dir := range []string{"/etc/firewalld/zones", "/usr/lib/firewalld/zones"} {
		if text, ok = l.read(path.Join(dir, zone+".xml")); ok {
			break
		}
	}
	type port struct {
		Port     string `xml:"port,attr"`
		Protocol string `xml:"protocol,attr"`
	}
	type service struct {
		Name string `xml:"name,attr"`
	}
	var z struct {
		Target   string    `xml:"target,attr"`
		Ports    []port    `xml:"port"`
		Services []service `xml:"service"`
		Rules    []struct {
			Source *struct {
				Address string `xml:"address,attr"`
			} `xml:"source"`
			Port    *port     `xml:"port"`
			Service *service  `xml:"service"`
			Accept  *struct{} `xml:"accept"`
		} `xml:"rule"`
	}
	if text == nil || xml.Unmarshal(text, &z) != nil {
		l.unseen("firewalld's zone "+zone, "it is not to be read", "firewall-cmd --list-all")
		return false
	}
	c := l.Firewall.add(&chain{table: "firewalld", name: "zone " + zone, v4: true, v6: true, hook: "input", policy: "drop"})
	if z.Target == "ACCEPT" {
		c.policy = "accept"
	}
	open := func(conds []cond, p *port, s *service) {
		var ports []port
		if p != nil {
			ports = append(ports, *p)
		}
		if s != nil {
			for _, dir := range []string{"/etc/firewalld/services", "/usr/lib/firewalld/services"} {
				var def struct {
					Ports []port `xml:"port"`
				}
				if text, ok := l.read(path.Join(dir, s.Name+".xml")); ok && xml.Unmarshal(text, &def) == nil {
					ports = append(ports, def.Ports...)
					break
				}
			}
		}
		for _, p := range ports {
			if p.Protocol == "tcp" {
				c.rules = append(c.rules, rule{conds: append(slices.Clone(conds), cond{on: "dport", values: []string{p.Port}}), verdict: "accept"})
			}
		}
	}
	for _, p := range z.Ports {
		open(nil, &p, nil)
	}
	for _, s := range z.Services {
		open(nil, nil, &s)
	}
	for _, r := range z.Rules {
		if r.Accept != nil {
			var conds []cond
			if r.Source != nil {
				conds = append(conds, cond{on: "saddr", values: []string{r.Source.Address}})
			}
			open(conds, r.Port, r.Service)
		}
	}
	l.Firewall.Read = append(l.Firewall.Read, "firewalld")
	return true
}
