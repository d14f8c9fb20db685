//go:build linux

package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// studio stands in for Ollama where a test has to hold an answer in its hand, or
// has to know for certain what was computed. A chat is as many pieces as its
// num_predict says; with the header X-Hold it waits after the first of them.
type studio struct {
	*httptest.Server
	release chan struct{} // closed, what is held goes on

	mu       sync.Mutex
	finished map[string]take // by request id
	holding  int
}

// take is one answer that was given to its end.
type take struct {
	tokens int64
	at     time.Time
}

const promptTokens = 7

func newStudio(t *testing.T) *studio {
	t.Helper()
	s := &studio{release: make(chan struct{}), finished: make(map[string]take)}
	mux := http.NewServeMux()
	say := func(path, body string) {
		mux.HandleFunc(path, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json; charset=utf-8")
			_, _ = io.WriteString(w, body)
		})
	}
	say("GET /api/version", `{"version":"0.17.4"}`)
	say("GET /api/ps", `{"models":[]}`)
	say("GET /api/tags", `{"models":[{"name":"tiny:latest","model":"tiny:latest","digest":"`+strings.Repeat("ab", 32)+`"}]}`)
	mux.HandleFunc("POST /api/chat", s.chat)
	s.Server = httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return s
}

func (s *studio) chat(w http.ResponseWriter, r *http.Request) {
	var ask struct {
		Options struct {
			NumPredict int64 `json:"num_predict"`
		} `json:"options"`
	}
	if err := json.NewDecoder(r.Body).Decode(&ask); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	for i := range ask.Options.NumPredict {
		fmt.Fprint(w, `{"model":"tiny","message":{"role":"assistant","content":" blue"},"done":false}`+"\n")
		_ = http.NewResponseController(w).Flush()
		if i == 0 && r.Header.Get("X-Hold") != "" && !s.held(r.Context()) {
			return
		}
	}
	s.mu.Lock()
	s.finished[r.Header.Get("X-Request-Id")] = take{promptTokens + ask.Options.NumPredict, time.Now()}
	s.mu.Unlock()
	fmt.Fprintf(w, `{"model":"tiny","message":{"role":"assistant","content":""},"done":true,"done_reason":"stop","prompt_eval_count":%d,"eval_count":%d}`+"\n",
		promptTokens, ask.Options.NumPredict)
}

// held waits, and reports whether it was let go rather than left.
func (s *studio) held(ctx context.Context) bool {
	s.count(1)
	defer s.count(-1)
	select {
	case <-s.release:
		return true
	case <-ctx.Done():
		return false
	}
}

func (s *studio) count(delta int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.holding += delta
}

func (s *studio) holds() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.holding
}

// chatBody is a chat of n pieces that says what.
func chatBody(n int, what string) string {
	return fmt.Sprintf(`{"model":"tiny","messages":[{"role":"user","content":%q}],"options":{"num_predict":%d}}`, what, n)
}

// plain is a running gate without TLS.
type plain struct {
	t             *testing.T
	addr, admin   string
	state, config string
	text          string // of the configuration, without what start adds
	token         string // of the key "holder", which has no limits
	cmd           *exec.Cmd
	log           string   // file of its standard error
	inside        []string // to run another command where it runs
	exited        chan struct{}
}

// newPlain starts a gate in front of upstream; text is more of its
// configuration, via a program to start it by way of.
func newPlain(t *testing.T, upstream, text string, via ...string) *plain {
	t.Helper()
	dir := t.TempDir()
	g := &plain{t: t, addr: free(t), admin: free(t), state: filepath.Join(dir, "state"), config: filepath.Join(dir, "gatehouse.yaml"), log: filepath.Join(dir, "log")}
	g.text = fmt.Sprintf("listen: [%q]\nadmin: %q\ntls: {mode: \"off\"}\nlog: json\nupstreams: [{url: %q, slots: 4096}]\n%s", g.addr, g.admin, upstream, text)
	if err := os.Mkdir(g.state, 0o700); err != nil {
		t.Fatal(err)
	}
	g.write(g.text)
	if len(via) == 0 {
		g.token = g.add("holder")
	}
	g.start(via...)
	return g
}

func (g *plain) write(config string) {
	g.t.Helper()
	if err := os.WriteFile(g.config, []byte(config), 0o600); err != nil {
		g.t.Fatal(err)
	}
}

// add makes a key.
func (g *plain) add(name string, flags ...string) string {
	g.t.Helper()
	out, err := g.run(append([]string{"key", "--state-dir", g.state, "add", name}, flags...)...)
	if err != nil {
		g.t.Fatalf("%v: %s", err, out)
	}
	return strings.TrimSpace(out)
}

// run runs another command of the program's.
func (g *plain) run(args ...string) (string, error) {
	var errOut bytes.Buffer
	words := slices.Concat(g.inside, []string{gatehouse}, args)
	cmd := exec.CommandContext(g.t.Context(), words[0], words[1:]...)
	cmd.Stderr = &errOut
	out, err := cmd.Output()
	return string(out) + errOut.String(), err
}

var firstKey = regexp.MustCompile(`gh_\S+`)

func (g *plain) start(via ...string) {
	t := g.t
	t.Helper()
	words := slices.Concat(via, []string{gatehouse, "gate", "--state-dir", g.state, "--config", g.config})
	g.cmd = exec.Command(words[0], words[1:]...)
	log, err := os.OpenFile(g.log, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	g.cmd.Stderr = log
	g.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := g.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := g.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	cmd, exited := g.cmd, make(chan struct{})
	g.exited = exited
	lines := bufio.NewScanner(out)
	up := false
	for !up && lines.Scan() {
		if token := firstKey.FindString(lines.Text()); token != "" {
			g.token = token
		}
		up = strings.Contains(lines.Text(), "Gate on")
	}
	go func() {
		_, _ = io.Copy(io.Discard, out)
		_ = cmd.Wait()
		close(exited)
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended
		<-exited
		if t.Failed() {
			text, _ := os.ReadFile(g.log)
			t.Logf("log of the gate:\n%s", text[max(0, len(text)-4096):])
		}
	})
	if !up {
		<-exited
		text, _ := os.ReadFile(g.log)
		t.Fatalf("the gate did not come up: %s", text)
	}
}

// ends waits for the end of the gate and returns its exit code.
func (g *plain) ends() int {
	g.t.Helper()
	select {
	case <-g.exited:
	case <-time.After(patience):
		g.t.Fatal("the gate does not end")
	}
	return g.cmd.ProcessState.ExitCode()
}

func (g *plain) signal(s os.Signal) {
	g.t.Helper()
	if err := g.cmd.Process.Signal(s); err != nil {
		g.t.Fatal(err)
	}
}

// ask makes one request with the holder's key and returns the answer.
func (g *plain) ask(method, path, body string, header ...string) (int, string) {
	g.t.Helper()
	resp, text, err := g.try(g.token, method, path, body, header...)
	if err != nil {
		g.t.Fatalf("%s %s: %v", method, path, err)
	}
	return resp.StatusCode, text
}

// try makes one request on a connection of its own.
func (g *plain) try(token, method, path, body string, header ...string) (*http.Response, string, error) {
	req, err := http.NewRequestWithContext(g.t.Context(), method, "http://"+g.addr+path, strings.NewReader(body))
	if err != nil {
		return nil, "", err
	}
	req.Close = true
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, "", err
	}
	text, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close() // it was read
	return resp, string(text), err
}

// look asks the admin listener.
func (g *plain) look(path string) (int, string) {
	g.t.Helper()
	resp, err := http.Get("http://" + g.admin + path)
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

// metric is the value of a metric without labels.
func (g *plain) metric(name string) int64 {
	g.t.Helper()
	_, text := g.look("/metrics")
	for line := range strings.Lines(text) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			f, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			if err != nil {
				g.t.Fatal(err)
			}
			return int64(f)
		}
	}
	g.t.Fatalf("no metric %s", name)
	return 0
}

// until waits until what holds.
func until(t *testing.T, what string, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for end := time.After(patience); !holds(); {
		select {
		case <-tick.C:
		case <-end:
			t.Fatalf("in %s it did not come about that %s", patience, what)
		}
	}
}

// account is the gate's ledger, by request id for what are requests.
func (g *plain) account() (list []line) {
	g.t.Helper()
	out, err := g.run("ledger", "--state-dir", g.state, "query", "--json")
	if err != nil {
		g.t.Fatalf("%v: %s", err, out)
	}
	for text := range strings.Lines(out) {
		var l line
		if err := json.Unmarshal([]byte(text), &l); err != nil {
			g.t.Fatalf("%q: %v", text, err)
		}
		list = append(list, l)
	}
	return list
}

// line is one line of the ledger.
type line struct {
	Time      time.Time `json:"time"`
	Seq       uint64    `json:"seq"`
	ID        string    `json:"id"`
	Event     string    `json:"event"`
	Address   string    `json:"address"`
	Route     string    `json:"route"`
	Digest    string    `json:"digest"`
	TokensIn  int64     `json:"tokens_in"`
	TokensOut int64     `json:"tokens_out"`
	Status    int       `json:"status"`
	Allowed   bool      `json:"allowed"`
	Reason    string    `json:"reason"`
	Detail    string    `json:"detail"`
}

// stream is a chat on a connection of its own that has given its first piece.
type stream struct {
	net.Conn
	r *bufio.Reader
}

// open asks for a chat of two pieces that is held after the first, and waits
// for that.
func (g *plain) open(id string) stream {
	g.t.Helper()
	s := g.begin(id)
	s.piece(g.t)
	return s
}

func (g *plain) begin(id string) stream {
	g.t.Helper()
	conn, err := net.Dial("tcp", g.addr)
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { _ = conn.Close() }) // it may be closed
	body := chatBody(2, "hold")
	_, err = fmt.Fprintf(conn, "POST /api/chat HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %s\r\nX-Hold: 1\r\nX-Request-Id: %s\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
		g.token, id, len(body), body)
	if err != nil {
		g.t.Fatal(err)
	}
	return stream{conn, bufio.NewReaderSize(conn, 512)}
}

// piece reads to the end of the next piece.
func (s stream) piece(t *testing.T) {
	t.Helper()
	_ = s.SetReadDeadline(time.Now().Add(patience))
	var all strings.Builder
	for {
		line, err := s.r.ReadString('\n')
		all.WriteString(line)
		if err != nil {
			t.Fatalf("%v after %q", err, all.String())
		}
		if strings.HasPrefix(line, "{") {
			return
		}
	}
}

// rest reads to the end of the connection.
func (s stream) rest(t *testing.T) string {
	t.Helper()
	_ = s.SetReadDeadline(time.Now().Add(patience))
	text, err := io.ReadAll(s.r)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
