package harden

import (
	"encoding/json"
	"errors"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"
)

// readTunnels reads what leads strangers here from elsewhere: cloudflared, ngrok,
// Tailscale's funnel, and ssh's and others' command lines.
func (l *look) readTunnels(out printout) {
	files := []string{"/etc/cloudflared/config.yml", "/etc/cloudflared/config.yaml", "/usr/local/etc/cloudflared/config.yml"}
	var ngrok []string
	for _, home := range l.homes() {
		files = append(files, home+"/.cloudflared/config.yml", home+"/.cloudflared/config.yaml")
		ngrok = append(ngrok, home+"/.config/ngrok/ngrok.yml", home+"/.ngrok2/ngrok.yml", home+"/Library/Application Support/ngrok/ngrok.yml", home+"/AppData/Local/ngrok/ngrok.yml")
	}
	for _, file := range files {
		if text, ok := l.read(file); ok {
			l.cloudflared(file, text)
		}
	}
	for _, file := range ngrok {
		if text, ok := l.read(file); ok {
			l.ngrok(file, text)
		}
	}
	l.commandLines()
	l.tailscale(out)
}

// leadsToOllama reports whether an address that a proxy or a tunnel leads to is
// Ollama's: by its port, or by a container's name.
func (l *look) leadsToOllama(to string) bool {
	to = strings.Trim(to, `"'`)
	if _, rest, ok := strings.Cut(to, "://"); ok {
		to = rest
	}
	to, _, _ = strings.Cut(to, "/")
	i := strings.LastIndexByte(to, ':')
	number, host := to[i+1:], to[:max(i, 0)]
	port, err := strconv.ParseUint(number, 10, 16)
	if err != nil {
		return false
	}
	if port == Port {
		return true
	}
	// Ollama on a port of its own choice: the host has to be this machine.
	if host != "localhost" && host != "127.0.0.1" && host != "[::1]" && host != "" && host != "0.0.0.0" {
		return false
	}
	return slices.ContainsFunc(l.Listeners, func(s Listener) bool { return s.Program == "ollama" && uint64(s.Port) == port })
}

func (l *look) runs(program string) bool {
	return slices.ContainsFunc(l.processes, func(p process) bool { return p.program == program })
}

func (l *look) cloudflared(file string, text []byte) {
	var doc yaml.Node
	if yaml.Unmarshal(text, &doc) != nil || len(doc.Content) == 0 {
		l.unseen(file, "it is no YAML that can be read", "look at it yourself")
		return
	}
	n := resolved(doc.Content[0])
	rules := child(n, "ingress")
	var services []*yaml.Node
	var names []string
	if url := child(n, "url"); url != nil {
		services, names = append(services, url), append(names, "")
	}
	if rules != nil {
		for _, rule := range rules.Content {
			if s := child(rule, "service"); s != nil {
				name := ""
				if h := child(rule, "hostname"); h != nil {
					name = h.Value
				}
				// Access stands before it where the rule says so; what is set in the
				// dashboard alone does not show here.
				if access := child(child(rule, "originRequest"), "access"); access != nil {
					if r := child(access, "required"); r != nil && r.Value == "true" {
						continue
					}
				}
				services, names = append(services, s), append(names, name)
			}
		}
	}
	for i, s := range services {
		if !l.leadsToOllama(s.Value) {
			continue
		}
		means := "cloudflared leads the internet to Ollama"
		if names[i] != "" {
			means = "cloudflared leads " + names[i] + " to Ollama"
		}
		l.cause(Cause{
			Kind: TunnelOpen, Place: Place{file, s.Line}, Says: "service: " + s.Value, Means: means + "; whether Cloudflare Access asks for credentials does not show here",
			Doors: []Door{{Far: OnInternet}}, Live: l.runs("cloudflared"), edit: editScalar(s, func(string) string { return "http_status:404" }),
			restart: []string{"systemctl", "restart", "cloudflared"}, manual: "have the tunnel lead to the gate: service: https://127.0.0.1:8443",
		})
	}
}

func (l *look) ngrok(file string, text []byte) {
	var doc yaml.Node
	if yaml.Unmarshal(text, &doc) != nil || len(doc.Content) == 0 {
		l.unseen(file, "it is no YAML that can be read", "look at it yourself")
		return
	}
	n := resolved(doc.Content[0])
	locked := func(t *yaml.Node) bool {
		for _, k := range []string{"basic_auth", "auth", "oauth", "oidc", "mutual_tls_cas", "ip_restriction", "traffic_policy", "policy", "verify_webhook"} {
			v := child(t, k)
			if v == nil {
				continue
			}
			if k != "traffic_policy" && k != "policy" {
				return true
			}
			if s, err := yaml.Marshal(v); err == nil && (strings.Contains(string(s), "auth") || strings.Contains(string(s), "oidc") || strings.Contains(string(s), "deny")) {
				return true
			}
		}
		return false
	}
	judge := func(t, addr *yaml.Node, name string) {
		if addr == nil || !l.leadsToOllama(withColon(addr.Value)) || locked(t) {
			return
		}
		l.cause(Cause{
			Kind: TunnelOpen, Place: Place{file, addr.Line}, Says: addr.Value, Means: "ngrok's " + name + " leads the internet to Ollama and asks for no credentials",
			Doors: []Door{{Far: OnInternet}}, Live: l.runs("ngrok"), manual: "end ngrok, and have " + name + " lead to the gate: addr: https://127.0.0.1:8443",
		})
	}
	if tunnels := child(n, "tunnels"); tunnels != nil {
		for i := 0; i+1 < len(tunnels.Content); i += 2 {
			judge(tunnels.Content[i+1], child(tunnels.Content[i+1], "addr"), "tunnel "+tunnels.Content[i].Value)
		}
	}
	if endpoints := child(n, "endpoints"); endpoints != nil {
		for _, e := range endpoints.Content {
			name := "endpoint"
			if v := child(e, "name"); v != nil {
				name += " " + v.Value
			}
			judge(e, child(child(e, "upstream"), "url"), name)
		}
	}
}

func withColon(s string) string {
	if !strings.Contains(s, ":") {
		return ":" + s
	}
	return s
}

// commandLines judges tunnels that somebody started by hand.
func (l *look) commandLines() {
	for _, p := range l.processes {
		if p.container != "" {
			continue
		}
		at := Place{File: "process " + strconv.Itoa(p.pid)}
		all := strings.Join(p.args, " ")
		to := ""
		far := OnInternet
		switch p.program {
		case "cloudflared":
			to = after(p.args, "--url")
		case "ngrok":
			if len(p.args) > 2 && (p.args[1] == "http" || p.args[1] == "tcp" || p.args[1] == "tls") && !strings.Contains(all, "auth") && !strings.Contains(all, "oidc") && !strings.Contains(all, "policy") {
				to = withColon(last(p.args[2:]))
			}
		case "lt":
			to = ":" + after(p.args, "--port", "-p")
		case "bore":
			if len(p.args) > 2 && p.args[1] == "local" {
				to = ":" + p.args[2]
			}
		case "ssh", "autossh":
			// -R [bind:]port:host:hostport
			for i, a := range p.args {
				r, ok := strings.CutPrefix(a, "-R")
				if ok && r == "" && i+1 < len(p.args) {
					r = p.args[i+1]
				}
				if parts := strings.Split(r, ":"); ok && len(parts) >= 3 {
					to = strings.Join(parts[len(parts)-2:], ":")
				}
			}
		case "socat":
			for _, a := range p.args {
				if target, ok := strings.CutPrefix(strings.ToUpper(a), "TCP:"); ok {
					to = strings.ToLower(target)
				}
			}
			far = OnNetwork
		}
		if to == "" || !l.leadsToOllama(to) {
			continue
		}
		c := Cause{
			Kind: TunnelOpen, Place: at, Says: cut(all, 60), Means: p.program + " leads others to Ollama and asks for no credentials",
			Doors: []Door{{Far: far}}, Live: true, manual: "end process " + strconv.Itoa(p.pid) + ", and have it lead to the gate instead: https://127.0.0.1:8443",
		}
		if p.program == "ssh" || p.program == "autossh" {
			c.Means = "ssh has another machine lead its callers to Ollama"
			c.Doors[0].Far = OnNetwork
		}
		l.cause(c)
	}
}

func after(args []string, names ...string) string {
	for i, a := range args {
		for _, n := range names {
			if v, ok := strings.CutPrefix(a, n+"="); ok {
				return v
			}
			if a == n && i+1 < len(args) {
				return args[i+1]
			}
		}
	}
	return ""
}

func last(args []string) string {
	for _, a := range slices.Backward(args) {
		if !strings.HasPrefix(a, "-") {
			return a
		}
	}
	return ""
}

func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return s[:n] + "…"
}

// tailscale judges what `tailscale serve status --json` prints.
func (l *look) tailscale(out printout) {
	text, err := out.get("tailscale serve status --json")
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) && l.runs("tailscaled") {
			l.unseen("what Tailscale serves", "tailscale does not say", "tailscale serve status")
		}
		return
	}
	type handlers struct {
		Handlers map[string]struct{ Proxy string }
	}
	var s struct {
		TCP map[string]struct {
			TCPForward string
		}
		Web         map[string]handlers
		AllowFunnel map[string]bool
		Foreground  map[string]struct {
			Web         map[string]handlers
			AllowFunnel map[string]bool
		}
	}
	if err := json.Unmarshal(text, &s); err != nil {
		return
	}
	judge := func(name, to string, funnel bool) {
		if !l.leadsToOllama(to) {
			return
		}
		c := Cause{
			Kind: TunnelOpen, Place: Place{File: "tailscale serve"}, Says: name + " -> " + to, Means: "Tailscale leads your tailnet to Ollama",
			Doors: []Door{{Far: OnNetwork}}, Live: true, manual: "tailscale serve reset",
		}
		if funnel {
			c.Means, c.Doors[0].Far, c.manual = "Tailscale's funnel leads the internet to Ollama", OnInternet, "tailscale funnel reset"
		}
		l.cause(c)
	}
	for port, t := range s.TCP {
		if t.TCPForward != "" {
			funnel := false
			for name, on := range s.AllowFunnel {
				funnel = funnel || on && strings.HasSuffix(name, ":"+port)
			}
			judge("port "+port, t.TCPForward, funnel)
		}
	}
	web := func(web map[string]handlers, funnel map[string]bool) {
		for name, h := range web {
			for at, p := range h.Handlers {
				judge(path.Join(name, at), p.Proxy, funnel[name])
			}
		}
	}
	web(s.Web, s.AllowFunnel)
	for _, f := range s.Foreground {
		web(f.Web, f.AllowFunnel)
	}
}
