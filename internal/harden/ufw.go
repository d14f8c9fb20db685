package harden

import (
	"cmp"
	"strings"
)

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
