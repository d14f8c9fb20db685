//go:build linux

package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"gatehouse/internal/ollama/realollama"
	reporting "gatehouse/internal/report"
)

// serve runs a command that serves until Ctrl-C, which it gets in the end, and
// after which it has to end well. It returns its process and its output.
func serve(t *testing.T, words []string) (*exec.Cmd, io.Reader) {
	t.Helper()
	cmd := exec.Command(words[0], words[1:]...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), noRest}
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		if err := cmd.Wait(); err != nil {
			t.Errorf("%v after Ctrl-C: %v", words, err)
		}
	})
	return cmd, out
}

// startConnect runs gatehouse connect for g, with the key from a file, and
// returns where it listens.
func startConnect(t *testing.T, g *gate, token string, args ...string) string {
	t.Helper()
	args = append([]string{"connect", g.url, "--listen", "127.0.0.1:0", "--ca", g.ca, "--key-file", file(t, "key", token+"\n")}, args...)
	_, out := serve(t, append([]string{gatehouse}, args...))
	line, err := bufio.NewReader(out).ReadString('\n')
	words := strings.Fields(line)
	if err != nil || len(words) < 3 || !strings.HasPrefix(words[2], "http://127.0.0.1:") {
		t.Fatalf("connect said %q: %v", line, err)
	}
	return words[2]
}

// TestConnectClients: stock clients that hold no key, or one that means nothing,
// get through connect and the gate what they get from Ollama itself.
func TestConnectClients(t *testing.T) {
	var server *realollama.Server
	var g *gate
	near := ""
	fresh := func() {
		server = realollama.Start(t, realollama.Env("OLLAMA_NUM_PARALLEL=1", "OLLAMA_MAX_LOADED_MODELS=2"))
		makeHandy(t, server)
		server.Load(t)
		g = startGate(t, server.URL)
		near = startConnect(t, g, g.token)
	}
	fresh()
	list := clients(t)
	for _, name := range slices.Sorted(maps.Keys(list)) {
		t.Run(name, func(t *testing.T) {
			try := func() (wrong []string) {
				want := list[name](server.URL, "", "", server.Home)
				before := len(g.account())
				wrong = differences(want, list[name](near, "", "", server.Home))
				left := 0
				for _, r := range g.account()[before:] {
					if r["reason"] == "client-gone" {
						left++
					}
				}
				if left != 1 {
					wrong = append(wrong, fmt.Sprintf("the ledger has %d calls that were left", left))
				}
				return wrong
			}
			attempt(t, try, func() bool { return hangs(t, server) }, fresh)
		})
	}

	home := t.TempDir()
	for _, c := range []struct{ want, args string }{{"tiny", "list"}, {"llama", "show tiny"}, {"", "run tiny hi"}} {
		out, err := cli(t, home, []string{"HOME=" + home, "OLLAMA_HOST=" + near}, strings.Fields(c.args)...)
		if err != nil || !strings.Contains(out, c.want) {
			t.Errorf("ollama %s: %v %s", c.args, err, out)
		}
	}
	if out, err := cli(t, home, []string{"HOME=" + home, "OLLAMA_HOST=" + near}, "rm", "tiny"); err == nil {
		t.Errorf("ollama rm, which the key may not: %s", out)
	}
}

// TestConnectUpload: a blob passes as it comes, to a key that may.
func TestConnectUpload(t *testing.T) {
	server := realollama.Start(t)
	g := startGate(t, server.URL)
	token := strings.TrimSpace(g.run("key", "--state-dir", g.state, "add", "boss", "--power", "hello,read,infer,manage"))
	awaitKeys(t, g, 2)
	near := startConnect(t, g, token)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "Modelfile"), []byte("FROM tiny\nSYSTEM be brief\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	env := []string{"HOME=" + dir, "OLLAMA_HOST=" + near}
	if out, err := cli(t, dir, env, "create", "brief", "-f", "Modelfile"); err != nil {
		t.Fatalf("create: %v %s", err, out)
	}
	if out, err := cli(t, dir, env, "list"); err != nil || !strings.Contains(out, "brief") {
		t.Errorf("list: %v %s", err, out)
	}
	const digest = "sha256:6a1bbc5b8c1cf1b4e1c2d5ba4e8e1ad1a4a1d8a4d7ad2ee1d5d5b1a1c1ad1a4a"
	body := io.LimitReader(zeros{}, 20<<20)
	req, err := http.NewRequestWithContext(t.Context(), "POST", near+"/api/blobs/"+digest, body)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if err != nil || resp.StatusCode != 400 || !strings.Contains(string(text), "digest mismatch") {
		t.Errorf("20 MB that are not what they are called: %d %s %v", resp.StatusCode, text, err)
	}
	received := 0.0
	for _, r := range g.account() {
		if r["route"] == "/api/blobs/:digest" {
			received, _ = r["bytes_in"].(float64)
		}
	}
	if received != 20<<20 {
		t.Errorf("the gate counted %v bytes", received)
	}
}

// awaitKeys waits until the gate has taken up n keys.
func awaitKeys(t *testing.T, g *gate, n int) {
	t.Helper()
	var status struct {
		Keys int `json:"keys"`
	}
	for end := time.Now().Add(patience); status.Keys != n; {
		if err := json.Unmarshal([]byte(g.run("status", "--json", "--admin", g.admin)), &status); err != nil || time.Now().After(end) {
			t.Fatalf("the gate has %d keys, want %d: %v", status.Keys, n, err)
		}
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// TestConnectStream: the first piece of an answer without end arrives; the gate
// notes that its caller left. A gate that is started anew answers the next
// request, and while it is away the program is told so.
func TestConnectStream(t *testing.T) {
	server := realollama.Start(t)
	server.Load(t)
	g := startGate(t, server.URL)
	near := startConnect(t, g, g.token)
	ask := func(body string) *http.Response {
		t.Helper()
		resp, err := http.Post(near+"/api/generate", "application/json", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		return resp
	}
	resp := ask(`{"model":"tiny","prompt":"hi","options":{"num_predict":1000000000}}`)
	line, err := bufio.NewReader(resp.Body).ReadString('\n')
	if err != nil || !strings.Contains(line, `"done":false`) {
		t.Fatalf("the first piece: %q %v", line, err)
	}
	_ = resp.Body.Close()

	// Ends once the call is over, for the gate waits for those inside.
	if err := g.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := g.cmd.Wait(); err != nil {
		t.Fatalf("the gate: %v", err)
	}
	if r := g.account(); !slices.ContainsFunc(r, func(r map[string]any) bool { return r["reason"] == "client-gone" }) {
		t.Errorf("nobody left, says the ledger: %v", r)
	}
	resp = ask(`{"model":"tiny","prompt":"hi"}`)
	text, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if err != nil || resp.StatusCode != 503 || !strings.Contains(string(text), "is the gate running?") {
		t.Errorf("with the gate away: %d %s %v", resp.StatusCode, text, err)
	}
	u, err := url.Parse(g.url)
	if err != nil {
		t.Fatal(err)
	}
	g.start(server.URL, u.Host)
	resp = ask(`{"model":"tiny","prompt":"hi","stream":false,"options":{"num_predict":8}}`)
	text, err = io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if err != nil || resp.StatusCode != 200 || !strings.Contains(string(text), `"done":true`) {
		t.Errorf("with the gate back: %d %s %v", resp.StatusCode, text, err)
	}
}

// page asks for the models and shows what it got in its title.
const page = `<!doctype html><title>waiting</title><body><script>
fetch(%q + '/api/chat', {method: 'POST', headers: {'Content-Type': 'application/json'}, body: JSON.stringify(
  {model: 'tiny', stream: false, messages: [{role: 'user', content: 'hi'}], options: {num_predict: 8}})})
  .then(r => r.json()).then(j => 'done is ' + j.done, e => 'refused: ' + e.name)
  .then(text => { document.body.textContent = text; return fetch('/said', {method: 'POST', body: text}); });
</script></body>`

// TestConnectPage: a page of this machine may use Ollama, and so may one whose
// origin was named; another may not, and the gate never hears of it.
func TestConnectPage(t *testing.T) {
	browser, err := reporting.Browser()
	if err != nil {
		t.Fatal(err)
	}
	server := realollama.Start(t)
	server.Load(t)
	g := startGate(t, server.URL)
	near := startConnect(t, g, g.token, "--origins", "http://chat.example:8000")
	said := make(chan string, 1)
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/said" {
			text, _ := io.ReadAll(io.LimitReader(r.Body, 1<<10)) // cut short, it is the wrong one
			said <- string(text)
			return
		}
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprintf(w, page, near)
	}))
	t.Cleanup(web.Close)
	u, err := url.Parse(web.URL)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ origin, want string }{
		{"http://localhost:" + u.Port(), "done is true"},
		{"http://chat.example:8000", "done is true"},
		{"http://evil.example:8000", "refused: TypeError"},
	} {
		before := len(g.account())
		if got := visit(t, browser, c.origin, u.Host, said); got != c.want {
			t.Errorf("a page of %s: %s, want %s", c.origin, got, c.want)
		}
		if asked := len(g.account()) > before; asked != (c.want == "done is true") {
			t.Errorf("a page of %s: the gate was asked: %v", c.origin, asked)
		}
	}
}

// visit has Chromium open a page of origin, which host serves, and returns what
// the page said.
func visit(t *testing.T, browser, origin, host string, said <-chan string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	u, err := url.Parse(origin)
	if err != nil {
		t.Fatal(err)
	}
	args := []string{
		"--headless", "--disable-gpu", "--no-first-run", "--disable-extensions", "--disable-background-networking",
		"--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--user-data-dir=" + t.TempDir(),
		// Names are the page's; all of them are this machine.
		"--host-resolver-rules=MAP " + u.Hostname() + ":" + u.Port() + " " + host + ", MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
		// Chromium asks its user before a page may call this machine; here nobody is there to ask.
		"--disable-features=LocalNetworkAccessChecks,PrivateNetworkAccessRespectPreflightResults,BlockInsecurePrivateNetworkRequests",
		"--remote-debugging-port=0", origin + "/",
	}
	if os.Geteuid() == 0 {
		args = append([]string{"--no-sandbox"}, args...)
	}
	cmd := exec.CommandContext(ctx, browser, args...)
	var errOut bytes.Buffer
	cmd.Stderr = &errOut
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // and all that it started
		_ = cmd.Wait()
	}()
	select {
	case text := <-said:
		return text
	case <-ctx.Done():
		t.Fatalf("a page of %s said nothing\n%s", origin, errOut.String())
		return ""
	}
}

// TestConnectCheck: what --check says, by pin and with a key that is none.
func TestConnectCheck(t *testing.T) {
	server := realollama.Start(t, realollama.Empty())
	g := startGate(t, server.URL)
	var status struct {
		Trust string `json:"trust"`
	}
	if err := json.Unmarshal([]byte(g.run("status", "--json", "--admin", g.admin)), &status); err != nil || status.Trust == "" {
		t.Fatalf("the gate's fingerprint: %q %v", status.Trust, err)
	}
	r := run(t, "connect", "--check", g.url, "--pin", status.Trust, "--key-file", file(t, "key", g.token))
	r.exits(t, 0)
	for _, want := range []string{"verified by the pinned key", "The key is accepted", "hello   see its version  yes", "infer   use models       yes", "manage  change models    no"} {
		if !strings.Contains(r.out, want) {
			t.Errorf("%v says nothing of %q:\n%s", r, want, r.out)
		}
	}
	r = run(t, "connect", "--check", g.url, "--pin", status.Trust, "--key-file", file(t, "key", "gh_wrong"))
	r.exits(t, 1)
	if !strings.Contains(r.err, "does not accept the key") || strings.Contains(r.out+r.err, "gh_wrong") {
		t.Errorf("%v: %s", r, r.err)
	}
	r = run(t, "connect", "--check", g.url, "--key-file", file(t, "key", g.token))
	r.exits(t, 1)
	if !strings.Contains(r.err, "give --pin or --ca") {
		t.Errorf("%v: %s", r, r.err)
	}
}
