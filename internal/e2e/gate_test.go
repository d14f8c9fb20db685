//go:build linux

package e2e

import (
	"bufio"
	"context"
	cryptotls "crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"gatehouse/internal/ollama/realollama"
)

// gate is a running gate in front of a real Ollama.
type gate struct {
	t     *testing.T
	url   string
	admin string
	state string
	ca    string // file of the authority to trust
	token string // the first key
	cmd   *exec.Cmd
}

// free is a port that was free a moment ago.
func free(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func startGate(t *testing.T, upstream string) *gate {
	t.Helper()
	g := &gate{t: t, admin: free(t), state: filepath.Join(t.TempDir(), "state")}
	listen := free(t)
	g.url = "https://" + listen
	g.start(upstream, listen)
	return g
}

func (g *gate) start(upstream, listen string) {
	t := g.t
	t.Helper()
	g.cmd = exec.Command(gatehouse, "gate", "--state-dir", g.state, "--upstream", upstream, "--listen", listen, "--admin", g.admin)
	g.cmd.Stderr = os.Stderr
	out, err := g.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := g.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	cmd := g.cmd
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended
		_ = cmd.Wait()
	})
	lines := bufio.NewScanner(out)
	fingerprint := ""
	for fingerprint == "" && lines.Scan() {
		if token := regexp.MustCompile(`gh_\S+`).FindString(lines.Text()); token != "" {
			g.token = token
		}
		fingerprint = regexp.MustCompile(`SHA256:\S+`).FindString(lines.Text())
	}
	if fingerprint == "" {
		t.Fatal("the gate did not come up")
	}
	if g.ca == "" {
		g.ca = filepath.Join(t.TempDir(), "ca.pem")
	}
	pem := g.run("trust", g.url, "--fingerprint", fingerprint)
	if err := os.WriteFile(g.ca, []byte(pem), 0o600); err != nil {
		t.Fatal(err)
	}
}

// run runs a command of the program's and returns what it printed.
func (g *gate) run(args ...string) string {
	g.t.Helper()
	out, err := exec.CommandContext(g.t.Context(), gatehouse, args...).Output()
	if err != nil {
		g.t.Fatalf("%s: %v", strings.Join(args, " "), err)
	}
	return string(out)
}

func (g *gate) client() *http.Client {
	pem, err := os.ReadFile(g.ca)
	if err != nil {
		g.t.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		g.t.Fatalf("no certificate: %q", pem)
	}
	return &http.Client{Transport: &http.Transport{TLSClientConfig: &cryptotls.Config{RootCAs: pool}, ForceAttemptHTTP2: true}}
}

// ask makes a request with a key; "" is none.
func (g *gate) ask(token, method, path, body string) (int, string) {
	g.t.Helper()
	req, err := http.NewRequestWithContext(g.t.Context(), method, g.url+path, strings.NewReader(body))
	if err != nil {
		g.t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := g.client().Do(req)
	if err != nil {
		g.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		g.t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

// account is the gate's ledger.
func (g *gate) account() (list []map[string]any) {
	g.t.Helper()
	for line := range strings.Lines(g.run("ledger", "--state-dir", g.state, "query", "--json")) {
		var r map[string]any
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			g.t.Fatalf("%q: %v", line, err)
		}
		list = append(list, r)
	}
	return list
}

// varies is what differs from one answer to the next whatever is between.
var varies = regexp.MustCompile(`"(created_at|total_duration|load_duration|prompt_eval_duration|eval_duration|created|id|system_fingerprint)":("[^"]*"|\d+)`)

func TestGate(t *testing.T) {
	server := realollama.Start(t)
	direct := server.URL
	g := startGate(t, direct)

	// The same as without the gate, in three dialects, whole and in pieces.
	for _, c := range []struct{ path, body string }{
		{"/api/generate", `{"model":"tiny","prompt":"hi","options":{"seed":1,"temperature":0,"num_predict":8}}`},
		{"/api/generate", `{"model":"tiny","prompt":"hi","stream":false,"options":{"seed":1,"temperature":0,"num_predict":8}}`},
		{"/api/chat", `{"model":"tiny","messages":[{"role":"user","content":"hi"}],"options":{"seed":1,"temperature":0,"num_predict":8}}`},
		{"/api/embed", `{"model":"tiny","input":"hi"}`},
		{"/v1/chat/completions", `{"model":"tiny","messages":[{"role":"user","content":"hi"}],"seed":1,"temperature":0,"max_tokens":8,"stream":true}`},
		{"/v1/chat/completions", `{"model":"tiny","messages":[{"role":"user","content":"hi"}],"seed":1,"temperature":0,"max_tokens":8,"stream":true,"stream_options":{"include_usage":true}}`},
		{"/v1/messages", `{"model":"tiny","messages":[{"role":"user","content":"hi"}],"temperature":0,"max_tokens":8,"stream":true}`},
	} {
		resp, err := http.Post(direct+c.path, "application/json", strings.NewReader(c.body))
		if err != nil {
			t.Fatal(err)
		}
		want, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		status, got := g.ask(g.token, "POST", c.path, c.body)
		if status != resp.StatusCode || varies.ReplaceAllString(got, "") != varies.ReplaceAllString(string(want), "") {
			t.Errorf("%s %s:\n    through the gate %d %s\nwithout it          %d %s", c.path, c.body, status, got, resp.StatusCode, want)
		}
	}

	for _, c := range []struct {
		token, method, path, body string
		want                      int
	}{
		{"", "GET", "/", "", 401},
		{"", "GET", "/api/tags", "", 401},
		{"gh_wrong", "GET", "/api/tags", "", 401},
		{g.token, "GET", "/api/tags", "", 200},
		{g.token, "DELETE", "/api/delete", `{"model":"tiny"}`, 403},
		{g.token, "POST", "/api/pull", `{"model":"x"}`, 403},
		{g.token, "GET", "/api//tags", "", 404},
		{g.token, "GET", "/api/unheard-of", "", 404},
	} {
		if status, text := g.ask(c.token, c.method, c.path, c.body); status != c.want {
			t.Errorf("%s %s: %d %s, want %d", c.method, c.path, status, text, c.want)
		}
	}

	// A revoked key is out within a second.
	other := strings.TrimSpace(g.run("key", "--state-dir", g.state, "add", "other"))
	deadline := time.Now().Add(time.Second)
	status := 0
	for status != 200 && time.Now().Before(deadline) {
		status, _ = g.ask(other, "GET", "/api/version", "")
	}
	if status != 200 {
		t.Errorf("a new key: %d", status)
	}
	g.run("key", "--state-dir", g.state, "revoke", "other")
	deadline = time.Now().Add(time.Second)
	for status == 200 && time.Now().Before(deadline) {
		status, _ = g.ask(other, "GET", "/api/version", "")
	}
	if status != 401 {
		t.Errorf("a revoked key: %d", status)
	}

	// kill -9 loses no line of what ended more than a second before.
	before := len(g.account())
	if _, text := g.ask(g.token, "POST", "/api/generate", `{"model":"tiny","prompt":"hi","options":{"num_predict":3}}`); !strings.Contains(text, `"done":true`) {
		t.Error(text)
	}
	time.Sleep(1100 * time.Millisecond)
	if err := g.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = g.cmd.Wait() // it was killed
	account := g.account()
	last := account[len(account)-1]
	if len(account) != before+1 || last["route"] != "/api/generate" || last["tokens_out"] != 3.0 || last["allowed"] != true {
		t.Errorf("%d lines after %d, the last %v", len(account), before, last)
	}
	for i, r := range account {
		if r["seq"] != float64(i+1) {
			t.Fatalf("line %d has number %v", i+1, r["seq"])
		}
		if text := fmt.Sprint(r); strings.Contains(text, g.token) || strings.Contains(text, `"hi"`) {
			t.Errorf("a secret or a prompt is in the ledger: %s", text)
		}
	}
	g.start(direct, strings.TrimPrefix(g.url, "https://"))
	if status, text := g.ask(g.token, "GET", "/api/tags", ""); status != 200 {
		t.Errorf("after a restart: %d %s", status, text)
	}
	if err := g.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := g.cmd.Wait(); err != nil {
		t.Errorf("a graceful stop: %v", err)
	}
}

// TestStockCLI has the ollama program log in with its own signature and do what
// people do with it, as far as its key lets it.
func TestStockCLI(t *testing.T) {
	server := realollama.Start(t)
	g := startGate(t, server.URL)
	home := server.Home // with the key pair that the server made at its first start
	dir := t.TempDir()
	through := func(args ...string) (string, error) {
		return cli(t, dir, []string{"HOME=" + home, "OLLAMA_AUTH=1", "OLLAMA_HOST=" + g.url, "SSL_CERT_FILE=" + g.ca}, args...)
	}
	direct := func(args ...string) string {
		out, err := cli(t, dir, []string{"HOME=" + home, "OLLAMA_HOST=" + server.URL}, args...)
		if err != nil {
			t.Fatalf("%v without the gate: %v %s", args, err, out)
		}
		return out
	}
	// A running gate takes up keys within a second.
	soon := func(args ...string) (out string, err error) {
		for end := time.Now().Add(10 * time.Second); time.Now().Before(end); {
			if out, err = through(args...); err == nil {
				break
			}
		}
		return out, err
	}
	if out, err := through("list"); err == nil {
		t.Errorf("a stranger lists: %s", out)
	}
	public := filepath.Join(home, ".ollama", "id_ed25519.pub")
	g.run("key", "--state-dir", g.state, "add", "cli", "--ssh", public)
	if out, err := soon("list"); err != nil {
		t.Fatalf("list: %v %s", err, out)
	}
	spinner := regexp.MustCompile(`\x1b\[[?0-9]*[a-zA-Z]|[⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏] `)
	for _, args := range [][]string{{"list"}, {"show", "--system", "tiny"}, {"run", "tiny", "hi"}} {
		out, err := through(args...)
		want := spinner.ReplaceAllString(direct(args...), "")
		if out = spinner.ReplaceAllString(out, ""); err != nil || out != want || !strings.ContainsAny(out, "abcdefghijklmnopqrstuvwxyz") {
			t.Errorf("%v: %v\nthrough the gate %q\n     without it %q", args, err, out, want)
		}
	}
	if out, err := through("ps"); err != nil || !strings.Contains(out, "tiny:latest") {
		t.Errorf("ps: %v %s", err, out)
	}
	// Not the layers that the server has, so that they go up through the gate.
	weights := append(realollama.Tiny(), make([]byte, 1<<20)...)
	if err := os.WriteFile(filepath.Join(dir, "new.gguf"), weights, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "Modelfile"), []byte("FROM ./new.gguf\nSYSTEM made through the gate\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"rm", "tiny"}, {"cp", "tiny", "other"}, {"pull", "nobody/none"}, {"create", "new", "-f", "Modelfile"}} {
		if out, err := through(args...); err == nil || !strings.Contains(out, `this key has not the power "manage"`) {
			t.Errorf("%v with a key to use models: %v %s", args, err, out)
		}
	}
	g.run("key", "--state-dir", g.state, "revoke", "cli")
	g.run("key", "--state-dir", g.state, "add", "boss", "--power", "hello,read,manage", "--ssh", public)
	if out, err := soon("cp", "tiny", "copy"); err != nil {
		t.Errorf("cp with manage: %v %s", err, out)
	}
	if out, err := through("create", "new", "-f", "Modelfile"); err != nil || strings.TrimSpace(direct("show", "--system", "new")) != "made through the gate" {
		t.Errorf("create with manage: %v %s", err, out)
	}
	if out, err := through("run", "new", "hi"); err == nil || !strings.Contains(out, `"infer"`) {
		t.Errorf("manage alone computes: %s", out)
	}
	for _, name := range []string{"copy", "new"} {
		if out, err := through("rm", name); err != nil || strings.Contains(direct("list"), name+":") {
			t.Errorf("rm %s with manage: %v %s", name, err, out)
		}
	}
	uploaded := false
	for _, r := range g.account() {
		if r["route"] == "/api/blobs/:digest" && r["method"] == "POST" && r["bytes_in"] == float64(len(weights)) {
			uploaded = true
		}
	}
	if !uploaded {
		t.Error("the ledger has no upload of the layer")
	}
}

// TestBypass: a gate does not start beside an open way round it.
func TestBypass(t *testing.T) {
	t.Setenv("GATEHOUSE_STATE_DIR", t.TempDir())
	server := realollama.Start(t, realollama.Everywhere())
	words := append(server.Enter(t), gatehouse, "gate", "--upstream", "http://127.0.0.1:11434", "--admin", "off")
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, words[0], words[1:]...)
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "--allow-bypass") || cmd.ProcessState.ExitCode() != 2 {
		t.Errorf("%v %s", err, out)
	}
}
