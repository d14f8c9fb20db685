//go:build tailnet && ts_omit_peerapiserver && linux

package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"tailscale.com/tailcfg"
	"tailscale.com/tstest/integration/testcontrol"

	"gatehouse/internal/tailnet/tailnettest"
)

// slowOllama answers a chat in two pieces; the second waits until it may.
func slowOllama(t *testing.T) (url string, goOn chan struct{}) {
	t.Helper()
	goOn = make(chan struct{})
	mux := http.NewServeMux()
	mux.HandleFunc("GET /api/version", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"version":"0.17.4"}`) })
	mux.HandleFunc("GET /api/tags", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"models":[{"name":"smollm2:135m"}]}`) })
	mux.HandleFunc("GET /api/ps", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"models":[]}`) })
	mux.HandleFunc("DELETE /api/delete", func(http.ResponseWriter, *http.Request) { t.Error("a model is deleted") })
	mux.HandleFunc("POST /api/chat", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/x-ndjson")
		fmt.Fprintln(w, `{"model":"smollm2:135m","message":{"role":"assistant","content":"Hello"},"done":false}`)
		_ = http.NewResponseController(w).Flush()
		select {
		case <-goOn:
		case <-r.Context().Done():
		}
		fmt.Fprintln(w, `{"model":"smollm2:135m","message":{"role":"assistant","content":"."},"done":true,"prompt_eval_count":3,"eval_count":2}`)
	})
	srv := httptest.NewServer(mux)
	t.Cleanup(srv.Close)
	return srv.URL, goOn
}

// TestTailnetGate is a gate on a tailnet, as its operator and a user of the
// tailnet have it.
func TestTailnetGate(t *testing.T) {
	if !tailnettest.Apart(t) {
		return
	}
	control := tailnettest.Control(t, func(c *testcontrol.Server) { c.RequireAuthKey = "tskey-auth-test" })
	ollama, goOn := slowOllama(t)
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	configure := func(maps string) {
		t.Helper()
		write("g.yaml", "admin: 'off'\nlog: text\ntls: {mode: 'off'}\n"+
			"tailnet: {enabled: true, auth_key_file: key, control: '"+control.BaseURL()+"'}\n"+
			"upstreams: [{url: '"+ollama+"'}]\n"+
			"policies: {reader: {powers: [hello, read, infer], models: ['*']}, hello: {powers: [hello]}}\n"+
			"login: {tailnet: {maps: {"+maps+"}}}\n")
	}
	write("key", control.RequireAuthKey+"\n")
	configure("")
	gate := start(t, dir, "gate", "--config", "g.yaml", "--state-dir", "state")
	var hello strings.Builder
	for !strings.Contains(hello.String(), "Nobody of the tailnet may enter yet") {
		line := gate.line()
		if hello.WriteString(line); line == "" {
			_, _, errOut := gate.wait()
			t.Fatalf("the gate ended: %s%s", hello.String(), errOut)
		}
	}
	for _, want := range []string{
		"Gate on http://gatehouse." + tailnettest.Domain + ":11434, in front of " + ollama,
		"On the tailnet and nowhere else: 100.64.0.1, fd7a:115c:a1e0:", "Plain HTTP inside WireGuard",
	} {
		if !strings.Contains(hello.String(), want) {
			t.Errorf("the gate does not say %q:\n%s", want, hello.String())
		}
	}
	for _, never := range []string{control.RequireAuthKey, "gh_", "first key"} {
		if strings.Contains(hello.String(), never) {
			t.Errorf("the gate says %q:\n%s", never, hello.String())
		}
	}
	if open := listeners(t, gate.cmd.Process.Pid); len(open) > 0 {
		t.Errorf("the gate listens on this machine's own addresses: %v", open)
	}
	if !tailnettest.Node(t, control, "gatehouse").Hostinfo.NoLogsNoSupport() {
		t.Error("logs are uploaded")
	}

	laptop := tailnettest.Machine(t, control, "laptop")
	const ada = "user-2@" + tailnettest.UserDomain
	client := &http.Client{Transport: &http.Transport{DialContext: laptop.Dial}, Timeout: 20 * time.Second}
	ask := func(host, method, path, body string) *http.Response {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, "http://"+host+":11434"+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { resp.Body.Close() })
		return resp
	}
	asks := func(host, method, path, body string) int {
		t.Helper()
		resp := ask(host, method, path, body)
		_, _ = io.Copy(io.Discard, resp.Body)
		return resp.StatusCode
	}
	reconfigure := func(maps string) {
		t.Helper()
		configure(maps)
		gate.signal(syscall.SIGHUP)
		gate.says("the configuration is taken up")
	}
	const chat = `{"model":"smollm2:135m","messages":[{"role":"user","content":"Hi"}]}`

	// No rule: nobody.
	if status := asks("gatehouse", "GET", "/api/version", ""); status != http.StatusUnauthorized {
		t.Errorf("without a rule: %d", status)
	}
	// A rule for the user, and a stream.
	reconfigure(ada + ": reader")
	resp := ask("gatehouse", "POST", "/api/chat", chat)
	lines := bufio.NewReader(resp.Body)
	first, err := lines.ReadString('\n')
	close(goOn) // Ollama holds the rest back until here
	rest, restErr := io.ReadAll(lines)
	if err != nil || restErr != nil || !strings.Contains(first, "Hello") || !bytes.Contains(rest, []byte(`"done":true`)) {
		t.Fatalf("%d %q %v, %q %v", resp.StatusCode, first, err, rest, restErr)
	}
	for _, c := range []struct {
		host, method, path, body string
		want                     int
	}{
		{"gatehouse." + tailnettest.Domain, "GET", "/api/tags", "", 200},
		{"100.64.0.1", "GET", "/api/tags", "", 200},
		{"gatehouse", "DELETE", "/api/delete", `{"model":"smollm2:135m"}`, 403},
		{"gatehouse", "POST", "/api/pull", `{"model":"smollm2:135m"}`, 403},
	} {
		if got := asks(c.host, c.method, c.path, c.body); got != c.want {
			t.Errorf("%s %s at %s: %d, want %d", c.method, c.path, c.host, got, c.want)
		}
	}
	// The machine becomes a tagged one, which is no longer the user's.
	node := tailnettest.Node(t, control, "laptop")
	node.Tags = []string{"tag:ci"}
	control.UpdateNode(node)
	for end := time.Now().Add(tailnettest.Patience); asks("gatehouse", "GET", "/api/version", "") != http.StatusUnauthorized; {
		if time.Now().After(end) {
			t.Fatal("a tagged machine has its user's rights")
		}
	}
	reconfigure(ada + ": reader, 'tag:ci': hello")
	if version, tags := asks("gatehouse", "GET", "/api/version", ""), asks("gatehouse", "GET", "/api/tags", ""); version != 200 || tags != 403 {
		t.Errorf("by its tag: %d %d", version, tags)
	}
	// The rule is gone.
	reconfigure("'*': reader")
	if status := asks("gatehouse", "GET", "/api/version", ""); status != http.StatusUnauthorized {
		t.Errorf("without its rule: %d", status)
	}
	// The machine is gone from the tailnet: nothing of it arrives any more.
	gateNode := tailnettest.Node(t, control, "gatehouse")
	if !control.AddRawMapResponse(gateNode.Key, &tailcfg.MapResponse{PeersRemoved: []tailcfg.NodeID{node.ID}}) {
		t.Fatal("the gate does not listen to the control server")
	}
	client.Timeout = 2 * time.Second
	for end := time.Now().Add(tailnettest.Patience); ; {
		client.CloseIdleConnections()
		resp, err := client.Get("http://gatehouse:11434/api/version")
		if err != nil {
			break
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusUnauthorized || time.Now().After(end) {
			t.Fatalf("a machine that is off the tailnet: %d", resp.StatusCode)
		}
	}

	gate.signal(syscall.SIGTERM)
	if code, _, errOut := gate.wait(); code != exitOK {
		t.Errorf("the gate ended with %d: %s", code, errOut)
	}
	code, book, errOut := gatehouse(t, "", "ledger", "query", "--state-dir", filepath.Join(dir, "state"), "--json")
	if code != exitOK {
		t.Fatalf("ledger query: %d %s", code, errOut)
	}
	id := `"id":"tailnet:` + ada + `"`
	for _, want := range [][]string{
		{id, `"reason":"no-policy"`, `"status":401`, `"address":"100.64.0.2"`},
		{`"kind":"tailnet"`, id, `"name":"` + ada + ` on laptop"`, `"route":"/api/chat"`, `"tokens_out":2`, `"allowed":true`},
		{id, `"route":"/api/delete"`, `"status":403`, `"allowed":false`},
		{`"id":"tailnet:node:` + string(node.StableID) + `"`, `"reason":"no-policy"`},
		{`"id":"tailnet:node:` + string(node.StableID) + `"`, `"name":"tag:ci on laptop"`, `"allowed":true`},
	} {
		if !slices.ContainsFunc(strings.Split(book, "\n"), func(line string) bool {
			return !slices.ContainsFunc(want, func(part string) bool { return !strings.Contains(line, part) })
		}) {
			t.Errorf("the ledger has no line with %q:\n%s", want, book)
		}
	}
}

// listeners are the addresses of this machine on which a process listens for TCP.
func listeners(t *testing.T, pid int) (open []string) {
	t.Helper()
	proc := filepath.Join("/proc", strconv.Itoa(pid))
	files, err := os.ReadDir(filepath.Join(proc, "fd"))
	if err != nil {
		t.Fatal(err)
	}
	sockets := make(map[string]bool)
	for _, f := range files {
		if to, err := os.Readlink(filepath.Join(proc, "fd", f.Name())); err == nil {
			sockets[strings.Trim(strings.TrimPrefix(to, "socket:"), "[]")] = true
		}
	}
	seen := 0
	for _, table := range []string{"tcp", "tcp6"} {
		text, err := os.ReadFile(filepath.Join(proc, "net", table))
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range regexp.MustCompile(`\n +\d+: (.*)`).FindAllStringSubmatch(string(text), -1) {
			// proc_pid_net(5): local address, remote address, state; the tenth is the inode.
			f := strings.Fields(line[1])
			if len(f) < 9 || !sockets[f[8]] {
				continue
			}
			seen++
			if f[2] == "0A" {
				open = append(open, table+" "+f[0])
			}
		}
	}
	if seen == 0 {
		t.Error("no socket of the process is in the kernel's table, though it talks to the control server")
	}
	return open
}
