package harden

import (
	"bytes"
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"
)

// way is a route of a proxy's that ends at Ollama.
type way struct {
	proxy  string
	at     Place
	says   string
	locked bool
	doors  []Door
	names  []string                     // by which it is called
	edit   func([]byte) ([]byte, error) // lets in nobody but this machine
	toGate func([]byte) ([]byte, error)
	reload []string
}

// readProxies reads the set-ups of reverse proxies. What it does not understand it
// passes over: a proxy is open here only when it is seen to lead to Ollama and
// nothing on that way is seen to ask for credentials.
func (l *look) readProxies() {
	var ways []way
	read := func(parse func(map[string][]byte) []way, files ...string) {
		texts := map[string][]byte{}
		for _, f := range files {
			if text, ok := l.read(f); ok {
				texts[f] = text
			}
		}
		ways = append(ways, parse(texts)...)
	}
	brew := "/opt/homebrew/etc"
	read(l.nginx, slices.Concat([]string{"/etc/nginx/nginx.conf", brew + "/nginx/nginx.conf", "/usr/local/nginx/conf/nginx.conf"},
		l.in("/etc/nginx/sites-enabled", ""), l.in("/etc/nginx/conf.d", ".conf"), l.in("/etc/nginx/snippets", ".conf"), l.in(brew+"/nginx/servers", ""))...)
	read(l.caddy, slices.Concat([]string{"/etc/caddy/Caddyfile", brew + "/Caddyfile"}, l.in("/etc/caddy/conf.d", ""), l.in("/etc/caddy/sites-enabled", ""))...)
	read(l.traefik, slices.Concat(l.in("/etc/traefik", ""), l.in("/etc/traefik/dynamic", ""), l.in("/etc/traefik/conf.d", ""))...)
	read(l.haproxy, slices.Concat([]string{"/etc/haproxy/haproxy.cfg"}, l.in("/etc/haproxy/conf.d", ".cfg"))...)
	read(l.apache, slices.Concat(l.in("/etc/apache2/sites-enabled", ""), l.in("/etc/httpd/conf.d", ".conf"), []string{"/etc/httpd/conf/httpd.conf"})...)
	ways = append(ways, l.labels()...)
	for _, w := range ways {
		if w.locked {
			l.Guarded = append(l.Guarded, w.at)
			continue
		}
		if len(w.doors) > 0 && !slices.ContainsFunc(w.doors, func(d Door) bool { return !d.Addr.IsLoopback() }) {
			continue
		}
		l.cause(Cause{
			Kind: ProxyOpen, Place: w.at, Says: w.says, Means: w.proxy + " leads strangers to Ollama and asks for no credentials",
			Doors: w.doors, Live: l.runs(program(w.proxy)) || l.listens(w.doors), edit: w.edit, toGate: w.toGate, restart: w.reload, names: w.names,
			manual: "have it lead to the gate instead: gatehouse deploy " + program(w.proxy),
		})
	}
}

func program(proxy string) string { return strings.ToLower(strings.Fields(proxy)[0]) }

func (l *look) listens(doors []Door) bool {
	return slices.ContainsFunc(doors, func(d Door) bool {
		return slices.ContainsFunc(l.all, func(s Listener) bool { return s.opens(d) })
	})
}

func (l *look) in(dir, ext string) (files []string) {
	for _, name := range l.list(dir) {
		if strings.HasSuffix(name, ext) && name[0] != '.' {
			files = append(files, path.Join(dir, name))
		}
	}
	return files
}

// block is a directive of nginx or Caddy with its words, its line, and what stands
// in its braces.
type block struct {
	words []string
	line  int
	in    []*block
}

// blocks reads braces and words. In nginx a directive ends with a semicolon, in a
// Caddyfile with its line.
func blocks(text []byte, lines bool) []*block {
	root := &block{}
	stack := []*block{root}
	var cur *block
	n := 1
	var word strings.Builder
	var quote byte
	flush := func() {
		if word.Len() > 0 {
			if cur == nil {
				cur = &block{line: n}
			}
			cur.words = append(cur.words, word.String())
			word.Reset()
		}
	}
	end := func() {
		flush()
		if cur != nil {
			top := stack[len(stack)-1]
			top.in = append(top.in, cur)
			cur = nil
		}
	}
	for i := 0; i < len(text); i++ {
		c := text[i]
		switch {
		case quote != 0:
			if c == quote {
				quote = 0
			} else {
				word.WriteByte(c)
			}
		case (c == '"' || c == '\'' && !lines || c == '`' && lines) && word.Len() == 0:
			quote = c
		case c == '#' && word.Len() == 0:
			for i+1 < len(text) && text[i+1] != '\n' {
				i++
			}
		case c == '{' && (word.Len() == 0 || !lines && text[max(i-1, 0)] != '$') && !(lines && i+1 < len(text) && text[i+1] != '\n' && text[i+1] != '\r' && text[i+1] != ' '):
			flush()
			if cur == nil {
				cur = &block{line: n}
			}
			top := stack[len(stack)-1]
			top.in = append(top.in, cur)
			stack = append(stack, cur)
			cur = nil
		case c == '}' && word.Len() == 0:
			end()
			if len(stack) > 1 {
				stack = stack[:len(stack)-1]
			}
		case c == ';' && !lines, c == '\n' && lines:
			end()
		case c == ' ' || c == '\t' || c == '\r' || c == '\n':
			flush()
		default:
			word.WriteByte(c)
		}
		if c == '\n' {
			n++
		}
	}
	end()
	return root.in
}

func (b *block) name() string {
	if len(b.words) == 0 {
		return ""
	}
	return b.words[0]
}

func (l *look) nginx(files map[string][]byte) (ways []way) {
	parsed := map[string][]*block{}
	upstreams := map[string]bool{} // names that lead to Ollama
	var walk func(list []*block, visit func(*block, []*block), above []*block)
	walk = func(list []*block, visit func(*block, []*block), above []*block) {
		for _, b := range list {
			visit(b, above)
			walk(b.in, visit, append(slices.Clone(above), b))
		}
	}
	for f, text := range files {
		parsed[f] = blocks(text, false)
		walk(parsed[f], func(b *block, _ []*block) {
			if b.name() == "upstream" && len(b.words) > 1 {
				for _, s := range b.in {
					if s.name() == "server" && len(s.words) > 1 && l.leadsToOllama(s.words[1]) {
						upstreams[b.words[1]] = true
					}
				}
			}
		}, nil)
	}
	for _, f := range sorted(files) {
		if strings.HasPrefix(f, "/etc/nginx/snippets/") {
			continue
		}
		walk(parsed[f], func(b *block, above []*block) {
			if b.name() != "proxy_pass" || len(b.words) < 2 {
				return
			}
			to := b.words[1]
			_, host, _ := strings.Cut(to, "://")
			host, _, _ = strings.Cut(host, "/")
			if variable, ok := strings.CutPrefix(host, "$"); ok {
				walk(above, func(s *block, _ []*block) {
					if s.name() == "set" && len(s.words) > 2 && s.words[1] == "$"+variable {
						to = s.words[2]
					}
				}, nil)
			}
			if !upstreams[host] && !l.leadsToOllama(to) {
				return
			}
			w := way{proxy: "nginx", at: Place{f, b.line}, says: strings.Join(b.words, " "), reload: []string{"systemctl", "reload", "nginx"}}
			for _, a := range above {
				for _, d := range a.in {
					w.locked = w.locked || l.nginxLock(d, files)
				}
				if a.name() == "server" {
					for _, d := range a.in {
						if d.name() == "server_name" {
							w.names = append(w.names, plainNames(d.words[1:])...)
						}
						if d.name() == "listen" && len(d.words) > 1 {
							w.doors = append(w.doors, nginxDoor(d.words[1]))
						}
					}
					if len(w.doors) == 0 {
						w.doors = []Door{{Addr: netip.IPv4Unspecified(), Port: 80}}
					}
				}
			}
			w.doors = slices.DeleteFunc(w.doors, func(d Door) bool { return d.Port == 0 })
			if len(w.doors) == 0 { // listens on a socket, or is a piece of another file
				return
			}
			line := b.line
			w.edit = func(text []byte) ([]byte, error) {
				return replaceIn(text, line, "proxy_pass", "allow 127.0.0.1; allow ::1; deny all; proxy_pass")
			}
			w.toGate = func(text []byte) ([]byte, error) { return replaceIn(text, line, b.words[1], "https://127.0.0.1:8443") }
			ways = append(ways, w)
		}, nil)
	}
	return ways
}

// nginxLock reports whether a directive asks for credentials.
func (l *look) nginxLock(d *block, files map[string][]byte) bool {
	arg := ""
	if len(d.words) > 1 {
		arg = d.words[1]
	}
	switch d.name() {
	case "auth_basic", "auth_jwt":
		return arg != "off"
	case "auth_request":
		return arg != "off"
	case "ssl_verify_client":
		return arg == "on"
	case "deny":
		return arg == "all"
	case "if":
		said := strings.Join(d.words, " ")
		if strings.Contains(said, "authorization") || strings.Contains(said, "api_key") || strings.Contains(said, "token") {
			return slices.ContainsFunc(d.in, func(r *block) bool {
				return r.name() == "return" && len(r.words) > 1 && strings.HasPrefix(r.words[1], "4")
			})
		}
	case "include":
		if text := files[path.Join("/etc/nginx", arg)]; text != nil {
			return slices.ContainsFunc(blocks(text, false), func(d *block) bool { return d.name() != "include" && l.nginxLock(d, files) })
		}
		if text := files[arg]; text != nil {
			return slices.ContainsFunc(blocks(text, false), func(d *block) bool { return d.name() != "include" && l.nginxLock(d, files) })
		}
		return strings.Contains(arg, "auth") // such as authelia's snippets
	}
	return false
}

func nginxDoor(s string) Door {
	if n, err := strconv.ParseUint(s, 10, 16); err == nil {
		return Door{Addr: netip.IPv4Unspecified(), Port: uint16(n)}
	}
	addr, port, ok := hostPort(s)
	if ok {
		if strings.HasPrefix(s, "*") {
			addr = netip.IPv4Unspecified()
		}
		return Door{Addr: addr, Port: port}
	}
	if a, err := netip.ParseAddr(strings.Trim(s, "[]")); err == nil {
		return Door{Addr: a, Port: 80}
	}
	if name, port, ok := strings.Cut(s, ":"); ok && name == "localhost" {
		n, _ := strconv.ParseUint(port, 10, 16)
		return Door{Addr: netip.AddrFrom4([4]byte{127, 0, 0, 1}), Port: uint16(n)}
	}
	return Door{}
}

// replaceIn changes a word in a line.
func replaceIn(text []byte, n int, is, by string) ([]byte, error) {
	lines := linesOf(text)
	if n < 1 || n > len(lines) || !strings.Contains(lines[n-1].text, is) {
		return nil, errChanged(n)
	}
	return replaceLine(n, lines[n-1].text, strings.Replace(lines[n-1].text, is, by, 1))(text)
}

func sorted(files map[string][]byte) []string {
	var names []string
	for f := range files {
		names = append(names, f)
	}
	slices.Sort(names)
	return names
}

var caddyLocks = map[string]bool{"basic_auth": true, "basicauth": true, "forward_auth": true, "jwtauth": true, "authorize": true, "authenticate": true, "authp": true, "client_auth": true}

func (l *look) caddy(files map[string][]byte) (ways []way) {
	snippets := map[string]*block{}
	parsed := map[string][]*block{}
	for f, text := range files {
		parsed[f] = blocks(text, true)
		for _, b := range parsed[f] {
			if n := b.name(); strings.HasPrefix(n, "(") {
				snippets[strings.Trim(n, "()")] = b
			}
		}
	}
	var locked func(b *block, depth int) bool
	locked = func(b *block, depth int) bool {
		return slices.ContainsFunc(b.in, func(d *block) bool {
			if d.name() == "import" && len(d.words) > 1 && snippets[d.words[1]] != nil && depth < 8 {
				return locked(snippets[d.words[1]], depth+1)
			}
			if d.name() == "tls" || d.name() == "client_auth" {
				return slices.ContainsFunc(d.in, func(d *block) bool { return d.name() == "client_auth" })
			}
			if strings.HasPrefix(d.name(), "@") || d.name() == "respond" {
				return false
			}
			return caddyLocks[d.name()]
		})
	}
	// A request that lacks a header is answered, and the way goes no further.
	turned := func(b *block) bool {
		header := slices.ContainsFunc(b.in, func(d *block) bool {
			said := strings.ToLower(strings.Join(d.words, " "))
			for _, in := range d.in {
				said += " " + strings.ToLower(strings.Join(in.words, " "))
			}
			return strings.HasPrefix(d.name(), "@") && (strings.Contains(said, "authorization") || strings.Contains(said, "api-key") || strings.Contains(said, "remote_ip") || strings.Contains(said, "client_ip"))
		})
		return header && slices.ContainsFunc(b.in, func(d *block) bool {
			return d.name() == "respond" && strings.HasPrefix(d.words[len(d.words)-1], "4") || d.name() == "handle" || d.name() == "route"
		})
	}
	for _, f := range sorted(files) {
		for _, site := range parsed[f] {
			if len(site.words) == 0 || strings.HasPrefix(site.name(), "(") {
				continue
			}
			var walk func(b *block, lock bool)
			walk = func(b *block, lock bool) {
				lock = lock || locked(b, 0) || turned(b)
				for _, d := range b.in {
					if d.name() == "reverse_proxy" {
						i := slices.IndexFunc(d.words, l.leadsToOllama)
						if i < 0 {
							for _, in := range d.in {
								if in.name() == "to" && slices.ContainsFunc(in.words, l.leadsToOllama) {
									i, d = slices.IndexFunc(in.words, l.leadsToOllama), in
								}
							}
						}
						if i > 0 {
							line, to := d.line, d.words[i]
							ways = append(ways, way{
								proxy: "Caddy", at: Place{f, d.line}, says: strings.Join(d.words, " "), locked: lock, doors: caddyDoors(site.words), names: plainNames(site.words),
								edit: func(text []byte) ([]byte, error) {
									return insertBefore(text, line, "@outside not remote_ip 127.0.0.0/8 ::1", "respond @outside 403")
								},
								toGate: func(text []byte) ([]byte, error) {
									return replaceIn(text, line, to, "https://127.0.0.1:8443 {\n\t\ttransport http {\n\t\t\ttls_insecure_skip_verify\n\t\t}\n\t}")
								},
								reload: []string{"systemctl", "reload", "caddy"},
							})
						}
					}
					walk(d, lock)
				}
			}
			walk(site, false)
		}
	}
	return ways
}

func caddyDoors(addresses []string) (doors []Door) {
	for _, a := range addresses {
		a = strings.Trim(a, ",")
		port := uint16(443)
		scheme, rest, ok := strings.Cut(a, "://")
		if !ok {
			rest = a
		} else if scheme == "http" {
			port = 80
		}
		rest, _, _ = strings.Cut(rest, "/")
		host := rest
		if h, p, ok := strings.Cut(rest, ":"); ok && strings.Count(rest, ":") == 1 {
			if n, err := strconv.ParseUint(p, 10, 16); err == nil {
				host, port = h, uint16(n)
			}
		}
		addr := netip.IPv6Unspecified() // a name says which site, not where Caddy listens
		if host == "localhost" {
			addr = netip.AddrFrom4([4]byte{127, 0, 0, 1})
		}
		doors = append(doors, Door{Addr: addr, Port: port})
	}
	return doors
}

func (l *look) traefik(files map[string][]byte) (ways []way) {
	services, locks := map[string]*yaml.Node{}, map[string]bool{}
	var docs []struct {
		file string
		http *yaml.Node
	}
	for _, f := range sorted(files) {
		text := files[f]
		if ext := path.Ext(f); ext != ".yml" && ext != ".yaml" {
			if bytes.Contains(text, []byte(strconv.Itoa(Port))) {
				l.unseen(f, "only Traefik's YAML files are read", "look at it yourself")
			}
			continue
		}
		var doc yaml.Node
		if yaml.Unmarshal(text, &doc) != nil || len(doc.Content) == 0 {
			continue
		}
		http := child(doc.Content[0], "http")
		docs = append(docs, struct {
			file string
			http *yaml.Node
		}{f, http})
		each(child(http, "services"), func(name string, s *yaml.Node) {
			if servers := child(child(s, "loadBalancer"), "servers"); servers != nil {
				for _, server := range servers.Content {
					if u := child(server, "url"); u != nil && l.leadsToOllama(u.Value) {
						services[name] = u
					}
				}
			}
		})
		each(child(http, "middlewares"), func(name string, m *yaml.Node) {
			each(m, func(kind string, _ *yaml.Node) {
				switch strings.ToLower(kind) {
				case "basicauth", "digestauth", "forwardauth", "ipallowlist", "ipwhitelist", "plugin":
					locks[name] = true
				}
			})
		})
	}
	for _, d := range docs {
		each(child(d.http, "routers"), func(name string, r *yaml.Node) {
			s := child(r, "service")
			if s == nil {
				return
			}
			to, _, _ := strings.Cut(s.Value, "@")
			if services[to] == nil {
				return
			}
			w := way{proxy: "Traefik", at: Place{d.file, s.Line}, says: "router " + name + " -> " + services[to].Value, doors: []Door{{Addr: netip.IPv6Unspecified(), Port: 80}, {Addr: netip.IPv6Unspecified(), Port: 443}}}
			if list := child(r, "middlewares"); list != nil {
				for _, m := range list.Content {
					at, provider, _ := strings.Cut(m.Value, "@")
					w.locked = w.locked || locks[at] || provider != "" && provider != "file" && strings.Contains(strings.ToLower(at), "auth")
				}
			}
			ways = append(ways, w)
		})
	}
	return ways
}

func each(n *yaml.Node, visit func(key string, value *yaml.Node)) {
	if n = resolved(n); n == nil || n.Kind != yaml.MappingNode {
		return
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		visit(n.Content[i].Value, resolved(n.Content[i+1]))
	}
}

// labels are what containers tell Traefik of themselves.
func (l *look) labels() (ways []way) {
	for _, c := range l.containers {
		if !c.ollama() || c.labels["traefik.enable"] == "false" {
			continue
		}
		var names []string
		for k := range c.labels {
			if strings.HasPrefix(k, "traefik.http.routers.") && strings.HasSuffix(k, ".rule") {
				names = append(names, k)
			}
		}
		slices.Sort(names)
		for _, k := range names {
			middlewares := strings.ToLower(c.labels[strings.TrimSuffix(k, "rule")+"middlewares"])
			ways = append(ways, way{
				proxy: "Traefik", at: Place{File: "container " + c.Name}, says: k + "=" + c.labels[k],
				locked: strings.Contains(middlewares, "auth") || strings.Contains(middlewares, "allowlist"),
				doors:  []Door{{Addr: netip.IPv6Unspecified(), Port: 80}, {Addr: netip.IPv6Unspecified(), Port: 443}},
			})
		}
	}
	return ways
}

func (l *look) haproxy(files map[string][]byte) (ways []way) {
	type section struct {
		kind, name string
		file       string
		lines      []line
	}
	var sections []*section
	for _, f := range sorted(files) {
		var s *section
		for _, ln := range linesOf(files[f]) {
			text, _, _ := strings.Cut(ln.text, "#")
			words := strings.Fields(text)
			if len(words) == 0 {
				continue
			}
			switch words[0] {
			case "global", "defaults", "frontend", "backend", "listen", "userlist", "peers", "resolvers", "cache":
				s = &section{kind: words[0], file: f}
				if len(words) > 1 {
					s.name = words[1]
				}
				sections = append(sections, s)
			default:
				if s != nil {
					s.lines = append(s.lines, line{ln.n, strings.Join(words, " ")})
				}
			}
		}
	}
	locked := func(s *section) bool {
		return slices.ContainsFunc(s.lines, func(ln line) bool {
			return strings.HasPrefix(ln.text, "http-request auth") || strings.Contains(ln.text, "verify required") ||
				(strings.HasPrefix(ln.text, "http-request deny") || strings.HasPrefix(ln.text, "http-request return status 4") || strings.HasPrefix(ln.text, "http-request reject")) &&
					(strings.Contains(ln.text, "auth") || strings.Contains(ln.text, "key") || strings.Contains(ln.text, "token") || strings.Contains(ln.text, " src "))
		})
	}
	for _, front := range sections {
		if front.kind != "frontend" && front.kind != "listen" {
			continue
		}
		var doors []Door
		for _, ln := range front.lines {
			if rest, ok := strings.CutPrefix(ln.text, "bind "); ok {
				for a := range strings.SplitSeq(strings.Fields(rest)[0], ",") {
					if strings.HasPrefix(a, ":") {
						a = "*" + a
					}
					if d := nginxDoor(a); d.Port != 0 {
						doors = append(doors, d)
					}
				}
			}
		}
		for _, back := range sections {
			if back != front && !slices.ContainsFunc(front.lines, func(ln line) bool {
				w := strings.Fields(ln.text)
				return len(w) > 1 && (w[0] == "default_backend" || w[0] == "use_backend") && w[1] == back.name && back.kind == "backend"
			}) {
				continue
			}
			for _, ln := range back.lines {
				w := strings.Fields(ln.text)
				if len(w) < 3 || w[0] != "server" || !l.leadsToOllama(w[2]) {
					continue
				}
				n := ln.n
				ways = append(ways, way{
					proxy: "HAProxy", at: Place{back.file, n}, says: ln.text, locked: locked(front) || locked(back), doors: doors,
					edit: func(text []byte) ([]byte, error) {
						return insertBefore(text, n, "http-request deny unless { src 127.0.0.0/8 ::1 }")
					},
					toGate: func(text []byte) ([]byte, error) { return replaceIn(text, n, w[2], "127.0.0.1:8443 ssl verify none") },
					reload: []string{"systemctl", "reload", "haproxy"},
				})
			}
		}
	}
	return ways
}

func (l *look) apache(files map[string][]byte) (ways []way) {
	for _, f := range sorted(files) {
		doors := []Door{{Addr: netip.IPv6Unspecified(), Port: 80}}
		lock := bytes.Contains(files[f], []byte("Require valid-user")) || bytes.Contains(files[f], []byte("Require user")) || bytes.Contains(files[f], []byte("AuthType "))
		for _, ln := range linesOf(files[f]) {
			w := strings.Fields(ln.text)
			if len(w) < 2 || w[0][0] == '#' {
				continue
			}
			if strings.EqualFold(w[0], "<VirtualHost") {
				if d := nginxDoor(strings.Trim(w[1], "<>")); d.Port != 0 {
					doors = []Door{d}
				}
			}
			if (strings.EqualFold(w[0], "ProxyPass") || strings.EqualFold(w[0], "ProxyPassMatch")) && l.leadsToOllama(last(w[1:])) {
				ways = append(ways, way{proxy: "Apache", at: Place{f, ln.n}, says: strings.TrimSpace(ln.text), locked: lock, doors: doors})
			}
		}
	}
	return ways
}

// insertBefore puts lines before line n, as far in as that is.
func insertBefore(text []byte, n int, lines ...string) ([]byte, error) {
	all := linesOf(text)
	if n < 1 || n > len(all) {
		return nil, errChanged(n)
	}
	is := all[n-1].text
	pad := is[:len(is)-len(strings.TrimLeft(is, " \t"))]
	with := make([]string, 0, len(lines)+1)
	for _, l := range lines {
		with = append(with, pad+l)
	}
	return replaceLine(n, is, append(with, is)...)(text)
}

// plainNames are the host names among the words by which a proxy names a site.
func plainNames(words []string) (names []string) {
	for _, w := range words {
		if _, rest, ok := strings.Cut(w, "://"); ok {
			w = rest
		}
		w, _, _ = strings.Cut(strings.Trim(w, ","), "/")
		w, _, _ = strings.Cut(w, ":")
		if strings.Contains(w, ".") && strings.Trim(strings.ToLower(w), "abcdefghijklmnopqrstuvwxyz0123456789.-") == "" {
			names = append(names, strings.ToLower(w))
		}
	}
	return names
}
