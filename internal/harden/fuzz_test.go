package harden

import (
	"strings"
	"testing"
)

// FuzzParsers gives every reader of foreign files what is no such file. None may
// crash or go on for ever, and no rule that is read from noise may be believed to
// let a packet stand still.
func FuzzParsers(f *testing.F) {
	for _, archive := range []string{
		"server {\n listen 80;\n location / { proxy_pass http://localhost:11434; }\n}\n",
		"ai.example {\n\treverse_proxy localhost:11434\n}\n",
		"[Service]\nEnvironment=\"OLLAMA_HOST=0.0.0.0\" \\\n A=b\nExecStart=\nExecStart=/usr/bin/ollama serve\n",
		"*filter\n:INPUT DROP [0:0]\n-A INPUT -p tcp ! -s 10.0.0.0/8 --dport 1:65535 -j ACCEPT\nCOMMIT\n",
		`{"nftables":[{"chain":{"family":"inet","table":"a","name":"b","type":"filter","hook":"input","prio":0,"policy":"drop"}},{"rule":{"family":"inet","table":"a","chain":"b","expr":[{"vmap":{"key":{"payload":{"protocol":"tcp","field":"dport"}},"data":{"set":[[22,{"jump":{"target":"b"}}]]}}}]}}]}`,
		"export OLLAMA_HOST='0.0.0.0'; set -gx OLLAMA_ORIGINS *\n",
		"<plist><dict><key>OLLAMA_HOST</key><string>0.0.0.0</string></dict></plist>",
		"kind: Service\nspec: {type: NodePort, ports: [{port: 11434}]}\n---\nkind: List\nitems: [{kind: Pod}]\n",
		"tunnel: a\ningress:\n - service: http://localhost:11434\n",
		"services:\n  ollama:\n    image: ollama/ollama\n    ports: [\"11434:11434\", {target: 11434, published: 1}]\n",
	} {
		f.Add([]byte(archive))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		l := &look{Machine: Machine{OS: "linux"}, Facts: &Facts{}, ctx: t.Context(), seen: map[string]bool{}}
		for _, name := range []string{"/etc/nginx/nginx.conf", "/etc/traefik/a.yml"} {
			files := map[string][]byte{name: text}
			for _, parse := range []func(map[string][]byte) []way{l.nginx, l.caddy, l.traefik, l.haproxy, l.apache} {
				for _, w := range parse(files) {
					if w.edit != nil {
						_, _ = w.edit(text) // it may refuse
					}
				}
			}
		}
		u := &unit{name: "ollama.service", env: map[string]assignment{}}
		u.merge("/a", text)
		for _, p := range profile(text) {
			if !strings.HasPrefix(p.key, "OLLAMA_") || p.line < 1 {
				t.Errorf("%+v", p)
			}
		}
		for _, v := range plistStrings(text) {
			_, _ = v.edit("127.0.0.1")(text)
		}
		environmentFile(text)
		l.judgeCluster(objectsOf("/a", text))
		l.cloudflared("/a", text)
		l.ngrok("/a", text)
		for _, c := range l.Causes {
			if c.edit != nil {
				_, _ = c.edit(text)
			}
		}
		fw := Firewall{byName: map[string]*chain{}}
		fw.readNFT(text)
		fw.readIPTables(text, false, "iptables")
		fw.stops(packet{port: Port, stranger: true})
		if addr, port := Bind(string(text)); port == 0 || addr.Is4In6() {
			t.Errorf("Bind(%q) is %v %d", text, addr, port)
		}
	})
}
