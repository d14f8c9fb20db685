package harden

import (
	"cmp"
	"encoding/xml"
	"path"
	"slices"
)

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
