//go:build linux

package e2e

import (
	"bufio"
	"bytes"
	"context"
	cryptotls "crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"gatehouse/internal/ollama/realollama"
)

// asked is a gate that answers proxies, and the Ollama that they forward to.
type asked struct {
	server  *realollama.Server
	front   string // address of the gate itself
	auth    string // address that proxies ask on
	state   string
	token   string            // of the first key: read and infer
	limited string            // of a key for one model
	slow    map[string]string // of keys with a request a minute
}

// startAsked starts a real Ollama without cloud models, and a gate with
// forward_auth.
func startAsked(t *testing.T) *asked {
	t.Helper()
	a := &asked{server: realollama.Start(t, realollama.Env("OLLAMA_NO_CLOUD=1")), front: free(t), auth: free(t), state: filepath.Join(t.TempDir(), "state")}
	admin, dir := free(t), t.TempDir()
	config := filepath.Join(dir, "gatehouse.yaml")
	text := fmt.Sprintf("listen: [%q]\nadmin: %q\ntls: {mode: \"off\"}\nhosts: [ai.example.org]\nupstreams: [{url: %q}]\nforward_auth: {listen: %q, cloud_off: true}\n",
		a.front, admin, a.server.URL, a.auth)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	first := filepath.Join(dir, "first-key")
	cmd := exec.Command(gatehouse, "gate", "--config", config, "--state-dir", a.state, "--first-key", first)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	begin(t, cmd)
	lines := bufio.NewScanner(out)
	for lines.Scan() && !strings.Contains(lines.Text(), "Gate on") {
		if strings.Contains(lines.Text(), "gh_") {
			t.Errorf("the first key is printed, although it goes to a file: %s", lines.Text())
		}
	}
	token, err := os.ReadFile(first)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(first); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the first key's file: %v, %v", info.Mode(), err)
	}
	a.token = strings.TrimSpace(string(token))
	mint := func(flags ...string) string {
		made := run(t, slices.Concat([]string{"key", "add", "--state-dir", a.state}, flags)...)
		made.exits(t, 0)
		return regexp.MustCompile(`gh_\S+`).FindString(made.out)
	}
	a.limited, a.slow = mint("one-model", "--models", realollama.Model), make(map[string]string)
	for _, name := range []string{"nginx", "caddy", "haproxy"} {
		a.slow[name] = mint("slow-"+name, "--rpm", "1")
	}
	for end := time.Now().Add(patience); ; <-time.After(20 * time.Millisecond) { // until the gate has taken them up
		resp, err := http.Get("http://" + admin + "/status")
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(text), `"keys":5,`) {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("the gate does not take up the keys: %s", text)
		}
	}
	return a
}

// begin starts a program that ends with the test.
func begin(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // it may have ended
		_ = cmd.Wait()
	})
}

// proxy is a running proxy, as `gatehouse deploy` wrote it but for addresses.
type proxy struct {
	addr   string
	client *http.Client
}

func (a *asked) here(text, addr string) string {
	return strings.NewReplacer(
		"127.0.0.1:11434", strings.TrimPrefix(a.server.URL, "http://"), "127.0.0.1:9644", a.auth, "127.0.0.1:8443", a.front,
		"listen 8555 ssl", "listen "+addr+" ssl", "\tlisten [::]:8555 ssl;\n", "", "bind :8555", "bind "+addr,
		"https://ai.example.org:8555", "https://127.0.0.1:"+port(addr),
	).Replace(text)
}

func port(addr string) string { return addr[strings.LastIndexByte(addr, ':')+1:] }

func (a *asked) start(t *testing.T, name string, flags ...string) *proxy {
	t.Helper()
	bin := realollama.Program(t, name)
	dir := t.TempDir()
	p := &proxy{addr: free(t)}
	cert, keyFile := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	authority := selfSigned(t, "ai.example.org", cert, keyFile)
	both := filepath.Join(dir, "both.pem")
	join(t, both, cert, keyFile)
	args := append([]string{"deploy", name, "--domain", "ai.example.org", "--port", "8555"}, flags...)
	var cmd *exec.Cmd
	switch name {
	case "nginx":
		r := run(t, append(args, "--cert", cert, "--key", keyFile)...)
		r.exits(t, 0)
		write(t, filepath.Join(dir, "site.conf"), a.here(r.out, p.addr))
		main := filepath.Join(dir, "nginx.conf")
		write(t, main, fmt.Sprintf("user root; daemon off; pid %s/pid; error_log stderr; events {}\nhttp { access_log off; client_body_temp_path %[1]s/b; proxy_temp_path %[1]s/p; fastcgi_temp_path %[1]s/f; uwsgi_temp_path %[1]s/u; scgi_temp_path %[1]s/s; include %[1]s/site.conf; }\n", dir))
		cmd = exec.Command(bin, "-e", "stderr", "-p", dir, "-c", main)
	case "haproxy":
		out := filepath.Join(dir, "out")
		run(t, append(args, "--cert", both, "--folder", out, "--out", out)...).exits(t, 0)
		files, err := os.ReadDir(out)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			text, err := os.ReadFile(filepath.Join(out, f.Name()))
			if err != nil {
				t.Fatal(err)
			}
			write(t, filepath.Join(out, f.Name()), a.here(string(text), p.addr))
		}
		cmd = exec.Command(bin, "-db", "-f", filepath.Join(out, "haproxy.cfg"))
	case "caddy":
		r := run(t, args...)
		r.exits(t, 0)
		text := a.here(r.out, p.addr)
		// Caddy's ACME would ask the world: here it shows a certificate from files.
		text = strings.Replace(text, "\nhttps://127.0.0.1:"+port(p.addr)+" {\n", "\nhttps://127.0.0.1:"+port(p.addr)+" {\n\ttls "+cert+" "+keyFile+"\n", 1)
		write(t, filepath.Join(dir, "Caddyfile"), "{\n\tadmin off\n\tauto_https disable_redirects\n}\n"+text)
		cmd = exec.Command(bin, "run", "--adapter", "caddyfile", "--config", filepath.Join(dir, "Caddyfile"))
		cmd.Env = append(os.Environ(), "HOME="+dir, "XDG_DATA_HOME="+dir, "XDG_CONFIG_HOME="+dir)
	}
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	begin(t, cmd)
	pool := x509.NewCertPool()
	pool.AddCert(authority)
	p.client = &http.Client{
		Transport:     &http.Transport{TLSClientConfig: &cryptotls.Config{RootCAs: pool}},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	for end := time.Now().Add(patience); ; {
		conn, err := cryptotls.DialWithDialer(&net.Dialer{Timeout: time.Second}, "tcp", p.addr, &cryptotls.Config{RootCAs: pool, ServerName: "127.0.0.1"})
		if err == nil {
			conn.Close()
			return p
		}
		if time.Now().After(end) {
			t.Fatalf("%s does not come up: %v", name, err)
		}
		<-time.After(20 * time.Millisecond)
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func join(t *testing.T, to string, files ...string) {
	t.Helper()
	var all []byte
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, b...)
	}
	write(t, to, string(all))
}

func (p *proxy) ask(t *testing.T, token, method, path, body string, headers ...string) (int, http.Header, string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, "https://"+p.addr+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Add(headers[i], headers[i+1])
	}
	resp, err := p.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, string(text)
}

// raw sends a request as it stands, and returns the status that comes back.
func (p *proxy) raw(t *testing.T, request string) int {
	t.Helper()
	conn, err := (&cryptotls.Dialer{Config: p.client.Transport.(*http.Transport).TLSClientConfig}).DialContext(t.Context(), "tcp", p.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(conn, request); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return 0 // hung up on
	}
	resp.Body.Close()
	return resp.StatusCode
}

// TestForwardAuth has proxies as deploy writes them before a real Ollama.
func TestForwardAuth(t *testing.T) {
	t.Parallel()
	a := startAsked(t)
	tiny := realollama.Model
	for _, name := range []string{"nginx", "caddy", "haproxy"} {
		t.Run(name, func(t *testing.T) {
			p := a.start(t, name, "--forward-auth")
			chat := fmt.Sprintf(`{"model":%q,"messages":[{"role":"user","content":"hi"}],"options":{"num_predict":8}}`, tiny)
			for _, c := range []struct {
				who, token, method, path, body string
				status                         int
			}{
				{"a stranger", "", "GET", "/api/tags", "", 401},
				{"a stranger", "", "POST", "/api/chat", chat, 401},
				{"a wrong key", a.token[:len(a.token)-1] + "x", "GET", "/api/tags", "", 401},
				{"a key", a.token, "GET", "/", "", 200},
				{"a key", a.token, "GET", "/api/tags", "", 200},
				{"a key", a.token, "GET", "/api/tags?x=1", "", 200},
				{"a key", a.token, "POST", "/api/chat", chat, 200},
				{"a key", a.token, "POST", "/v1/chat/completions", chat, 200},
				{"a key that may not manage", a.token, "DELETE", "/api/delete", `{"model":"` + tiny + `"}`, 403},
				{"a key that may not manage", a.token, "POST", "/api/pull", `{"model":"x"}`, 403},
				{"a key at a route that there is not", a.token, "GET", "/api/nothing", "", 403},
				{"a key at the gate's own question", a.token, "GET", "/gatehouse-auth", "", 404},
				{"a key for one model", a.limited, "POST", "/api/chat", chat, 403},
				{"a key for one model", a.limited, "GET", "/api/version", "", 200},
			} {
				status, _, text := p.ask(t, c.token, c.method, c.path, c.body)
				if status != c.status && !(c.status == 404 && status == 403) {
					t.Errorf("%s, %s %s: %d, want %d: %.200s", c.who, c.method, c.path, status, c.status, text)
				}
			}
			if status, h, text := p.ask(t, "", "GET", "/api/tags", ""); h.Get("Www-Authenticate") == "" || !strings.Contains(text, `"error"`) {
				t.Errorf("a stranger is told %d %v %s", status, h, text)
			}

			// A stream comes in pieces.
			_, h, text := p.ask(t, a.token, "POST", "/api/chat", chat)
			if n := strings.Count(text, "\n"); n < 3 || h.Get("Content-Length") != "" {
				t.Errorf("the stream has %d lines, and a length of %q", n, h.Get("Content-Length"))
			}

			// What a stranger says of itself opens nothing.
			for _, s := range [][]string{
				{"X-Original-URI", "/api/version"},
				{"X-Original-Method", "GET"},
				{"X-Original-URI", "/", "X-Original-Method", "GET"},
				{"X-Forwarded-Uri", "/", "X-Forwarded-Method", "GET"},
				{"X-Forwarded-Uri", "/", "X-Forwarded-Method", "GET", "X-Original-URI", "/", "X-Original-Method", "GET"},
				{"X-Rewrite-Url", "/"},
				{"X-Http-Method-Override", "GET"},
				{"X-Gatehouse-Identity", "me", "Remote-User", "me"},
				{"Connection", "Authorization"},
				{"Connection", "X-Original-URI, X-Original-Method, X-Forwarded-For"},
				{"Connection", "X-Forwarded-Uri, X-Forwarded-Method"},
			} {
				if status, _, _ := p.ask(t, "", "POST", "/api/chat", chat, s...); status == 200 {
					t.Errorf("a stranger with %q gets in", s)
				}
				if status, _, _ := p.ask(t, a.token, "DELETE", "/api/delete", `{"model":"`+tiny+`"}`, s...); status == 200 {
					t.Errorf("a key that may not manage, with %q, may", s)
				}
			}
			for _, target := range []string{
				"/api/%64elete", "//api/delete", "/api//delete", "/api/./delete", "/api/version/../delete", "/%2e%2e/api/delete", "/api%2fdelete",
				"/api/delete/", "/api/delete;x", "/API/DELETE", "/api/version#/../delete", "/api/delete%00", "/api/tags/../delete", "http://127.0.0.1/api/delete",
				"/.%2e/api/delete", "/api/version%2f..%2fdelete", "/api/delete?x=/api/version", "\\api\\delete", "/api\\delete", "*",
			} {
				for _, method := range []string{"DELETE", "delete", "GET", "X-DELETE"} {
					request := method + " " + target + " HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer " + a.token +
						"\r\nContent-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s"
					body := `{"model":"` + tiny + `"}`
					if status := p.raw(t, fmt.Sprintf(request, len(body), body)); status == 200 && method != "GET" {
						t.Errorf("%s %s: %d", method, target, status)
					}
				}
			}
			// Nobody waits for the body of a stranger's.
			upload := "POST /api/blobs/sha256:00 HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000000000\r\n\r\n"
			if status := p.raw(t, upload); status != 401 {
				t.Errorf("a stranger's upload: %d", status)
			}

			// A limit on requests holds, and says so.
			slow := a.slow[name]
			if status, _, text := p.ask(t, slow, "GET", "/api/version", ""); status != 200 {
				t.Errorf("the first request of a minute: %d %s", status, text)
			}
			if status, _, text := p.ask(t, slow, "GET", "/api/version", ""); status != 429 || !strings.Contains(text, `"error"`) {
				t.Errorf("the second request of a minute: %d %s", status, text)
			}

			// Without the gate nobody gets in.
			gone := *a
			gone.auth = free(t)
			shut := gone.start(t, name, "--forward-auth")
			if status, _, _ := shut.ask(t, a.token, "GET", "/api/version", ""); status < 500 {
				t.Errorf("with no gate to ask: %d", status)
			}
			if status, _, text := p.ask(t, a.token, "GET", "/api/tags", ""); status != 200 || !strings.Contains(text, tiny) {
				t.Errorf("the model is gone: %d %s", status, text)
			}
		})
	}
	account := run(t, "ledger", "query", "--state-dir", a.state)
	account.exits(t, 0)
	if !strings.Contains(account.out, "/api/chat") || strings.Contains(account.out, "unknown-proxy") {
		t.Errorf("the ledger says: %.2000s", account.out)
	}
}

// TestBehindProxies has proxies as deploy writes them before the gate.
func TestBehindProxies(t *testing.T) {
	t.Parallel()
	a := startAsked(t)
	chat := fmt.Sprintf(`{"model":%q,"messages":[{"role":"user","content":"hi"}],"options":{"num_predict":8}}`, realollama.Model)
	for _, name := range []string{"nginx", "caddy", "haproxy"} {
		t.Run(name, func(t *testing.T) {
			p := a.start(t, name)
			for _, c := range []struct {
				token, method, path, body string
				status                    int
			}{
				{"", "GET", "/api/tags", "", 401},
				{"", "POST", "/api/chat", chat, 401},
				{a.token, "GET", "/api/tags", "", 200},
				{a.token, "POST", "/api/chat", chat, 200},
				{a.token, "DELETE", "/api/delete", `{"model":"` + realollama.Model + `"}`, 403},
				{a.token, "GET", "/api/nothing", "", 404},
				{a.limited, "POST", "/api/chat", chat, 200}, // the gate sees the body
				{a.limited, "POST", "/api/chat", `{"model":"other"}`, 403},
			} {
				if status, _, text := p.ask(t, c.token, c.method, c.path, c.body); status != c.status {
					t.Errorf("%s %s: %d, want %d: %.200s", c.method, c.path, status, c.status, text)
				}
			}
			if _, _, text := p.ask(t, a.token, "POST", "/api/chat", chat); strings.Count(text, "\n") < 3 {
				t.Errorf("no stream: %s", text)
			}
		})
	}
}
