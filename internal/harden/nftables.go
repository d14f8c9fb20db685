package harden

import (
	"cmp"
	"encoding/json"
	"slices"
	"strconv"
	"strings"
)

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
