package harden

import "strings"

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
