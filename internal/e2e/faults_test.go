//go:build linux

package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"gatehouse/internal/ollama/realollama"
)

// procs are the process of an Ollama and those it started, by its address.
func procs(t *testing.T, s *realollama.Server) (pids []int) {
	t.Helper()
	environs, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, path := range environs {
		text, err := os.ReadFile(path)
		if err != nil || !strings.Contains(string(text), "OLLAMA_MODELS="+s.Models+"\x00") {
			continue
		}
		pid := 0
		if _, err := fmt.Sscanf(path, "/proc/%d/environ", &pid); err == nil {
			pids = append(pids, pid)
		}
	}
	if len(pids) == 0 {
		t.Fatal("no process of the Ollama is found")
	}
	return pids
}

func signalAll(t *testing.T, pids []int, sig syscall.Signal) {
	t.Helper()
	for _, pid := range pids {
		if err := syscall.Kill(pid, sig); err != nil {
			t.Logf("signal %d to %d: %v", sig, pid, err)
		}
	}
}

// TestOllamaStops has a real Ollama stop in its tracks, go on, and be killed in
// the middle of an answer; then another comes up in its place.
func TestOllamaStops(t *testing.T) {
	t.Parallel()
	first := realollama.Start(t)
	first.Load(t)
	socket := &relay{to: first.AddrPort.String()}
	g := newPlain(t, socket.open(t), "")
	ready := func(want int, what string) {
		t.Helper()
		until(t, fmt.Sprintf("/readyz says %d", want), func() bool {
			status, text := g.look("/readyz")
			return status == want && strings.Contains(text, what)
		})
	}
	ready(200, "ok")
	long := `{"model":"tiny","prompt":"hi","options":{"num_predict":100000,"num_ctx":256}}`
	begin := func(id string) stream {
		t.Helper()
		conn, err := net.Dial("tcp", g.addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() }) // it may be closed
		_, err = fmt.Fprintf(conn, "POST /api/generate HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %s\r\nX-Request-Id: %s\r\nContent-Length: %d\r\n\r\n%s", g.token, id, len(long), long)
		if err != nil {
			t.Fatal(err)
		}
		return stream{conn, bufio.NewReader(conn)}
	}

	// It hangs: the gate says so, a caller may leave, and its place is free again.
	signalAll(t, procs(t, first), syscall.SIGSTOP)
	ready(503, "no Ollama")
	waiting := begin("hung")
	until(t, "a caller waits", func() bool { return g.metric("gatehouse_streams") == 1 })
	_ = waiting.Close()
	until(t, "its place is free", func() bool { return g.metric("gatehouse_streams") == 0 })
	signalAll(t, procs(t, first), syscall.SIGCONT)
	ready(200, "ok")
	if status, text := g.ask("POST", "/api/generate", `{"model":"tiny","prompt":"hi","options":{"num_predict":3}}`); status != 200 || !strings.Contains(text, `"done":true`) {
		t.Fatalf("after it hung: %d %s", status, text)
	}

	// It is killed in the middle of an answer: the caller sees that it broke.
	broken := begin("broken")
	broken.piece(t)
	signalAll(t, procs(t, first), syscall.SIGKILL)
	_ = broken.SetReadDeadline(time.Now().Add(patience))
	rest, err := io.ReadAll(broken.r)
	if strings.HasSuffix(string(rest), "0\r\n\r\n") {
		t.Errorf("a broken answer looks finished (%v): %q", err, rest[max(0, len(rest)-200):])
	}
	ready(503, "no Ollama")
	resp, text, err := g.try(g.token, "GET", "/api/tags", "")
	if err != nil || resp.StatusCode != 502 || resp.Header.Get("Retry-After") == "" || !strings.Contains(text, "no Ollama behind the gate answers") {
		t.Errorf("without an Ollama: %v %v %s", err, resp, text)
	}

	// Another comes up.
	second := realollama.Start(t)
	socket.turn(second.AddrPort.String())
	ready(200, "ok")
	if status, text := g.ask("GET", "/api/tags", ""); status != 200 || !strings.Contains(text, "tiny") {
		t.Errorf("after a restart: %d %s", status, text)
	}
	reasons := make(map[string]line)
	for _, l := range g.account() {
		reasons[l.ID] = l
	}
	if l := reasons["hung"]; l.Reason != "client-gone" || !l.Allowed {
		t.Errorf("the ledger has %+v for a caller that left", l)
	}
	if l := reasons["broken"]; l.Reason != "upstream-broke" || !l.Allowed || l.TokensOut == 0 || l.Digest == "" {
		t.Errorf("the ledger has %+v for a broken answer", l)
	}
}

// relay leads from one address to another, which may change: an Ollama that
// was restarted is where it was.
type relay struct {
	mu sync.Mutex
	to string
}

func (r *relay) turn(to string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.to = to
}

func (r *relay) target() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.to
}

func (r *relay) open(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer in.Close()
				out, err := net.Dial("tcp", r.target())
				if err != nil {
					return
				}
				defer out.Close()
				go func() {
					_, _ = io.Copy(out, in)
					_ = out.Close()
				}()
				_, _ = io.Copy(in, out)
			}()
		}
	}()
	return "http://" + l.Addr().String()
}

// TestGarbage has an upstream that is no Ollama at all.
func TestGarbage(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	answers := []string{
		"\x00\x01\x02 what is this\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
		"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 5\r\n\r\nabcde",
		"HTTP/1.1 200 OK\r\n" + strings.Repeat("X-Y: z\r\n", 1<<18) + "\r\n",
		"",
	}
	go func() {
		for i := 0; ; i++ {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				if _, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
					_, _ = io.WriteString(conn, answers[i%len(answers)])
				}
			}()
		}
	}()
	g := newPlain(t, "http://"+l.Addr().String(), "")
	before := g.rests()
	limited := g.add("limited", "--models", "tiny")
	until(t, "the new key is known", func() bool { return g.metric("gatehouse_keys") == 2 })
	for i := range 2 * len(answers) {
		for _, token := range []string{g.token, limited} {
			for _, path := range []string{"GET /api/tags", "POST /api/chat"} {
				method, path, _ := strings.Cut(path, " ")
				body := ""
				if method == "POST" {
					body = chatBody(1, "hi")
				}
				resp, text, err := g.try(token, method, path, body, "X-Request-Id", fmt.Sprint("g-", i))
				if err == nil && resp.StatusCode != 502 && !strings.HasPrefix("abcde", text) {
					t.Errorf("garbage becomes %d %q", resp.StatusCode, text)
				}
			}
		}
	}
	if status, _ := g.look("/readyz"); status != 503 {
		t.Errorf("/readyz says %d in front of garbage", status)
	}
	g.calm(before)
	g.signal(os.Interrupt)
	g.ends()
	for _, l := range g.account() {
		if l.Event == "request" && (l.TokensIn != 0 || l.TokensOut != 0) && !l.Allowed {
			t.Errorf("garbage was counted: %+v", l)
		}
	}
}

// inTmpfs starts a program in a mount namespace of its own, with a small file
// system at the folder $0.
const inTmpfs = `mount -t tmpfs -o size=2m,mode=700 none "$0" && exec "$@"`

// TestFullDisk fills the disk under the store and the ledger: nobody is let in
// whom the ledger could not account for, the errors say why, and with room again
// all that was let in is accounted for.
func TestFullDisk(t *testing.T) {
	up := newStudio(t)
	dir := filepath.Join(t.TempDir(), "disk")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	unshare, inside := []string{"unshare", "--mount"}, []string{"nsenter", "--mount"}
	if os.Getuid() != 0 {
		unshare, inside = append(unshare, "--map-root-user"), append(inside, "--user", "--preserve-credentials")
	}
	via := append(unshare, "sh", "-c", inTmpfs, dir)
	g := &plain{t: t, addr: free(t), admin: free(t), state: dir, config: filepath.Join(t.TempDir(), "gatehouse.yaml"), log: filepath.Join(t.TempDir(), "log")}
	g.write(fmt.Sprintf("listen: [%q]\nadmin: %q\ntls: {mode: \"off\"}\nlog: json\nupstreams: [{url: %q}]\n", g.addr, g.admin, up.URL))
	g.start(via...)
	// SQLite follows /proc/PID/root back to this namespace: another command has to
	// run in the gate's own.
	pid := g.cmd.Process.Pid
	g.inside = append(inside, "--target", strconv.Itoa(pid), "--")
	g.served()

	ballast, err := os.Create(fmt.Sprintf("/proc/%d/root%s/ballast", pid, dir))
	if err != nil {
		t.Fatal(err)
	}
	defer ballast.Close()
	fill := func() {
		for _, piece := range []int{64 << 10, 4 << 10, 1} {
			for {
				if _, err := ballast.Write(make([]byte, piece)); err != nil {
					break
				}
			}
		}
	}
	fill()
	var allowed, refused []string
	for i := 0; len(refused) < 3; i++ {
		fill() // the last page of the ledger has some room
		id := fmt.Sprint("full-", i)
		status, text := g.ask("GET", "/api/tags", "", "X-Request-Id", id)
		switch status {
		case 200:
			allowed = append(allowed, id)
		case 503:
			if !strings.Contains(text, "cannot keep its ledger") {
				t.Fatalf("a refusal that does not say why: %s", text)
			}
			refused = append(refused, id)
		default:
			t.Fatalf("%d %s", status, text)
		}
	}
	if len(allowed) == 0 {
		t.Error("nobody was let in before the disk was full")
	}
	if status, text := g.look("/readyz"); status != 503 || !strings.Contains(text, "no space left on device") {
		t.Errorf("/readyz: %d %s", status, text)
	}
	if out, err := g.run("status", "--admin", g.admin); err != nil || !strings.Contains(out, "no space left on device") {
		t.Errorf("status: %v %s", err, out)
	}
	if ok := g.metric("gatehouse_ledger_ok"); ok != 0 {
		t.Errorf("gatehouse_ledger_ok is %d", ok)
	}
	// The store may have some room in files of its own: a key is taken for good,
	// or refused with the reason and not shown.
	fill()
	kept := 0
	out, err := g.run("key", "--state-dir", g.state, "add", "late-0")
	switch {
	case err == nil:
		kept = 1
	case !strings.Contains(out, "the disk is full") || strings.Contains(out, "gh_"):
		t.Errorf("a key on a full disk: %v %q", err, out)
	}

	if err := ballast.Truncate(0); err != nil {
		t.Fatal(err)
	}
	until(t, "the gate lets callers in again", func() bool {
		status, _ := g.look("/readyz")
		return status == 200
	})
	g.served()
	late := g.add("late")
	if list, err := g.run("key", "--state-dir", g.state, "list", "--json"); err != nil || strings.Count(list, `"name":"late-`) != kept {
		t.Errorf("%d keys were taken on a full disk: %v %s", kept, err, list)
	}
	until(t, "the new key is known", func() bool {
		resp, _, err := g.try(late, "GET", "/api/version", "")
		return err == nil && resp.StatusCode == 200
	})
	until(t, "the ledger has the last request", func() bool {
		all := g.account()
		return len(all) > 0 && all[len(all)-1].Route == "/api/version" && all[len(all)-1].Allowed
	})
	seen := make(map[string]line)
	for i, l := range g.account() {
		if l.Seq != uint64(i+1) {
			t.Fatalf("line %d has number %d", i+1, l.Seq)
		}
		seen[l.ID] = l
	}
	for _, id := range allowed {
		if l, ok := seen[id]; !ok || !l.Allowed {
			t.Errorf("%s was let in and is not accounted for: %+v", id, l)
		}
	}
	for _, id := range refused {
		if l := seen[id]; l.Reason != "ledger" || l.Allowed {
			t.Errorf("%s was refused, and its line is %+v", id, l)
		}
	}
}

// TestKilled kills a gate at work with SIGKILL: what ended a second before is in
// the ledger and in the usage, as the upstream counted it.
func TestKilled(t *testing.T) {
	up := newStudio(t)
	g := newPlain(t, up.URL, "")
	second := g.add("second")
	g.served()
	type done struct {
		id string
		at time.Time
	}
	var mu sync.Mutex
	var seen []done // whole answers, as the callers have them
	var wg sync.WaitGroup
	for c := range 16 {
		wg.Go(func() {
			token := g.token
			if c%2 == 1 {
				token = second
			}
			for i := 0; ; i++ {
				id := fmt.Sprintf("k-%d-%d", c, i)
				resp, text, err := g.try(token, "POST", "/api/chat", chatBody(1+(c+i)%9, "hi"), "X-Request-Id", id)
				if err != nil {
					return // it is dead
				}
				if resp.StatusCode == 200 && strings.Contains(text, `"done":true`) {
					mu.Lock()
					seen = append(seen, done{id, time.Now()})
					mu.Unlock()
				}
			}
		})
	}
	<-time.After(2500 * time.Millisecond)
	g.signal(syscall.SIGKILL)
	killed := time.Now()
	g.ends()
	wg.Wait()

	var tokens, late int64
	up.mu.Lock()
	taken := maps.Clone(up.finished) // some may still be on their way to nobody
	up.mu.Unlock()
	account := make(map[string]line)
	for i, l := range g.account() {
		if l.Seq != uint64(i+1) {
			t.Fatalf("line %d has number %d", i+1, l.Seq)
		}
		account[l.ID] = l
		tokens += l.TokensIn + l.TokensOut
	}
	owed := 0
	for _, d := range seen {
		if killed.Sub(d.at) < time.Second {
			late++
			continue
		}
		owed++
		l, ok := account[d.id]
		if want := taken[d.id].tokens; !ok || l.TokensIn+l.TokensOut != want || !l.Allowed || l.Status != 200 {
			t.Fatalf("%s ended %s before the end with %d tokens; the ledger has %+v", d.id, killed.Sub(d.at), want, l)
		}
	}
	if owed < 10 {
		t.Fatalf("only %d answers ended a second before", owed)
	}
	for id, l := range account {
		if want := taken[id].tokens; l.Reason == "" && l.Route == "/api/chat" && l.TokensIn+l.TokensOut != want {
			t.Errorf("%s: the ledger has %d tokens, the upstream counted %d", id, l.TokensIn+l.TokensOut, want)
		}
	}
	// The usage is the ledger's, and so is what is left of a day after the restart.
	if sum := g.usage(); sum != tokens {
		t.Errorf("key usage has %d tokens, the ledger %d", sum, tokens)
	}
	t.Logf("%d answers ended a second before, %d later; %d lines, %d tokens", owed, late, len(account), tokens)
	g.start()
	g.served()
}

// usage is the tokens of all keys by `gatehouse key usage`.
func (g *plain) usage() (sum int64) {
	g.t.Helper()
	out, err := g.run("key", "--state-dir", g.state, "usage", "--json")
	if err != nil {
		g.t.Fatalf("%v: %s", err, out)
	}
	for text := range strings.Lines(out) {
		var u struct {
			In  int64 `json:"tokens_in"`
			Out int64 `json:"tokens_out"`
		}
		if err := json.Unmarshal([]byte(text), &u); err != nil {
			g.t.Fatalf("%q: %v", text, err)
		}
		sum += u.In + u.Out
	}
	return sum
}

// TestReload changes the configuration under an open stream, for good and for
// bad.
func TestReload(t *testing.T) {
	up := newStudio(t)
	g := newPlain(t, up.URL, "")
	open := g.open("open")

	// By itself, when the file changes.
	g.write(g.text + "hosts: [gate.example]\n")
	until(t, "the new name is taken up", func() bool { return g.host("gate.example") == 200 })
	// At once, by a signal.
	g.write(g.text + "hosts: [other.example]\n")
	g.signal(syscall.SIGHUP)
	until(t, "the other name is taken up", func() bool { return g.host("other.example") == 200 })
	if status := g.host("gate.example"); status != 421 {
		t.Errorf("the name that was taken out: %d", status)
	}
	// A bad one: everything stays, and the reason is told.
	g.write(g.text + "hosts: [third.example]\nqueue: {lenght: 3}\n")
	g.signal(syscall.SIGHUP)
	mistake := func(l line) bool {
		return l.Event == "config" && strings.Contains(l.Detail, "unknown field lenght") && strings.Contains(l.Detail, "line ")
	}
	until(t, "the mistake is in the ledger", func() bool { return slices.ContainsFunc(g.account(), mistake) })
	if other, third := g.host("other.example"), g.host("third.example"); other != 200 || third != 421 {
		t.Errorf("after a bad file: %d and %d", other, third)
	}
	if log, err := os.ReadFile(g.log); err != nil || !strings.Contains(string(log), "unknown field lenght") {
		t.Errorf("the log does not tell the mistake: %v %s", err, log)
	}
	if out, err := g.run("gate", "--check-config", "--config", g.config); err == nil || !strings.Contains(out, "unknown field lenght") {
		t.Errorf("--check-config: %v %s", err, out)
	}
	g.write(g.text)
	if out, err := g.run("gate", "--check-config", "--config", g.config); err != nil || !strings.Contains(out, "in order") {
		t.Errorf("--check-config: %v %s", err, out)
	}

	// The stream never noticed.
	close(up.release)
	if text := open.rest(t); !strings.Contains(text, `"done":true`) {
		t.Errorf("the stream ended in %q", text)
	}
}

// host is the status of a request under a name.
func (g *plain) host(name string) int {
	g.t.Helper()
	req, err := http.NewRequestWithContext(g.t.Context(), "GET", "http://"+g.addr+"/api/version", nil)
	if err != nil {
		g.t.Fatal(err)
	}
	req.Host, req.Close = name, true
	req.Header.Set("Authorization", "Bearer "+g.token)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		g.t.Fatal(err)
	}
	_ = resp.Body.Close() // only the status counts
	return resp.StatusCode
}

// TestDrain stops a gate under open streams: those that end in time end well,
// and those that do not are broken off and accounted for. systemd is told.
func TestDrain(t *testing.T) {
	up := newStudio(t)
	socket := filepath.Join(t.TempDir(), "notify")
	listener, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	t.Setenv("NOTIFY_SOCKET", socket)
	told := func() string {
		b := make([]byte, 100)
		_ = listener.SetReadDeadline(time.Now().Add(patience))
		n, err := listener.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		return string(b[:n])
	}
	g := newPlain(t, up.URL, "")
	if state := told(); state != "READY=1" {
		t.Errorf("systemd is told %q", state)
	}
	open := g.open("in-time")
	g.signal(syscall.SIGTERM)
	if state := told(); state != "STOPPING=1" {
		t.Errorf("systemd is told %q", state)
	}
	until(t, "no more are let in", func() bool {
		conn, err := net.Dial("tcp", g.addr)
		if err == nil {
			_ = conn.Close()
		}
		return err != nil
	})
	close(up.release)
	if text := open.rest(t); !strings.Contains(text, `"done":true`) {
		t.Errorf("the stream ended in %q", text)
	}
	if code := g.ends(); code != 0 {
		t.Errorf("exit code %d after a stop in peace", code)
	}

	// Again, with one that does not end.
	up.release = make(chan struct{})
	g.write(g.text + "drain: 300ms\n")
	g.start()
	open = g.open("too-late")
	g.signal(syscall.SIGTERM)
	_ = open.SetReadDeadline(time.Now().Add(patience))
	if text, _ := io.ReadAll(open.r); strings.Contains(string(text), `"done":true`) || strings.HasSuffix(string(text), "0\r\n\r\n") {
		t.Errorf("a stream that was broken off looks finished: %q", text)
	}
	if code := g.ends(); code != 1 {
		t.Errorf("exit code %d after a stop that broke a stream off", code)
	}
	account := g.account()
	for _, id := range []string{"in-time", "too-late"} {
		if !slices.ContainsFunc(account, func(l line) bool { return l.ID == id && l.Allowed && l.TokensOut > 0 }) {
			t.Errorf("%s is not accounted for", id)
		}
	}
	if last := account[len(account)-1]; last.Event != "stop" {
		t.Errorf("the last line is %+v", last)
	}
}

// TestAdmin has what an operator asks, with a collector of traces, and looks for
// secrets and prompts in all that the gate says anywhere.
func TestAdmin(t *testing.T) {
	up := newStudio(t)
	var mu sync.Mutex
	var spans []byte
	collector := &http.Server{Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		text, _ := io.ReadAll(r.Body)
		mu.Lock()
		defer mu.Unlock()
		spans = append(append(spans, r.URL.Path...), text...)
	})}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = collector.Serve(l) }()
	defer collector.Close()
	g := newPlain(t, up.URL, "traces: {endpoint: \"http://"+l.Addr().String()+"\"}\n")

	const prompt = "do-not-tell-anybody"
	guess := g.token[:len(g.token)-12] + "000000_abcdef"
	for _, token := range []string{g.token, guess, "gh_not-a-key-at-all"} {
		for _, body := range []string{chatBody(2, prompt), `{"model":"` + prompt, `{"model":"tiny","messages":"` + prompt + `"}`} {
			if _, _, err := g.try(token, "POST", "/api/chat", body); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, _, err := g.try("", "POST", "/api/chat?key="+g.token, chatBody(1, prompt), "X-Api-Key", g.token); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{"/healthz": "ok", "/readyz": "ok", "/status": `"inside":0`} {
		if status, text := g.look(path); status != 200 || !strings.Contains(text, want) {
			t.Errorf("%s: %d %s", path, status, text)
		}
	}
	if status, text, err := g.try(g.token, "GET", "/metrics", ""); err != nil || status.StatusCode != 404 {
		t.Errorf("/metrics for callers: %v %s", err, text)
	}
	_, metrics := g.look("/metrics")
	for _, want := range []string{
		`gatehouse_requests_total{power="infer",reason="ok",status="200"} `,
		`gen_ai_server_request_duration_seconds_count{gen_ai_operation_name="chat",gen_ai_request_model="tiny"} `,
		`gen_ai_server_time_to_first_token_seconds_count{`, `gen_ai_server_tokens_total{gen_ai_request_model="tiny",gen_ai_token_type="output"} `,
		"gatehouse_bypass_open 0", "gatehouse_ledger_ok 1", "gatehouse_queue_waiting 0", "gatehouse_streams 0",
	} {
		if !strings.Contains(metrics, want) {
			t.Errorf("/metrics has no %s", want)
		}
	}
	status, err := g.run("status", "--admin", g.admin)
	if err != nil || !strings.Contains(status, "healthy") {
		t.Errorf("status: %v %s", err, status)
	}
	g.signal(syscall.SIGTERM)
	g.ends() // so that the last traces are sent
	log, err := os.ReadFile(g.log)
	if err != nil {
		t.Fatal(err)
	}
	for text := range strings.Lines(string(log)) {
		if !json.Valid([]byte(text)) {
			t.Errorf("no JSON in the log: %s", text)
		}
	}
	denied, err := g.run("ledger", "--state-dir", g.state, "query", "--denied", "--since", "1h", "--json")
	if err != nil || strings.Count(denied, "\n") < 8 || strings.Contains(denied, `"allowed":true`) {
		t.Errorf("ledger query --denied: %v %s", err, denied)
	}
	mine, err := g.run("ledger", "--state-dir", g.state, "query", "--key", "holder")
	if err != nil || !strings.Contains(mine, "POST /api/chat") || strings.Contains(mine, "no-key") {
		t.Errorf("ledger query --key: %v %s", err, mine)
	}
	mu.Lock()
	defer mu.Unlock()
	if !strings.Contains(string(spans), "/v1/traces") || !strings.Contains(string(spans), "chat tiny") {
		t.Errorf("the collector has %q", spans)
	}
	said := map[string]string{"log": string(log), "metrics": metrics, "status": status, "traces": string(spans), "ledger": denied + mine}
	files, err := filepath.Glob(filepath.Join(g.state, "*"))
	segments, err2 := filepath.Glob(filepath.Join(g.state, "ledger", "*"))
	if err != nil || err2 != nil || len(segments) == 0 {
		t.Fatal(err, err2, segments)
	}
	for _, file := range append(files, segments...) {
		if text, err := os.ReadFile(file); err == nil {
			said[file] = string(text)
		}
	}
	secret := regexp.MustCompile(`gh_[0-9A-Za-z]+_`).ReplaceAllString(g.token, "")[:32]
	for where, text := range said {
		for _, never := range []string{g.token, secret, guess, "not-a-key-at-all", prompt} {
			if strings.Contains(text, never) {
				t.Errorf("%s holds %q", where, never)
			}
		}
	}
}
