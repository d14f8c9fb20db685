package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"gatehouse/internal/ollama/ollamatest"
)

// process is gatehouse at work in a process of its own.
type process struct {
	t      *testing.T
	cmd    *exec.Cmd
	in     io.WriteCloser
	out    *bufio.Reader
	errOut *bufio.Reader
}

// start runs gatehouse in dir. It is gone when the test is.
func start(t *testing.T, dir string, args ...string) *process {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	p := &process{t: t, cmd: exec.CommandContext(ctx, "gatehouse", args...)}
	p.cmd.Dir = dir
	p.cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0")
	in, err := p.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.in = in
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	errOut, err := p.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.out, p.errOut = bufio.NewReader(out), bufio.NewReader(errOut)
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		_ = p.cmd.Wait()
	})
	return p
}

// line waits for a line of standard output, "" at its end.
func (p *process) line() string {
	line, err := p.out.ReadString('\n')
	if err != nil && err != io.EOF {
		p.t.Fatal(err)
	}
	return line
}

// says waits for a line of standard error that holds text.
func (p *process) says(text string) {
	p.t.Helper()
	var all strings.Builder
	for {
		line, err := p.errOut.ReadString('\n')
		all.WriteString(line)
		if strings.Contains(line, text) {
			return
		}
		if err != nil {
			p.t.Fatalf("gatehouse did not say %q, but: %s", text, all.String())
		}
	}
}

func (p *process) signal(s os.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
}

// wait waits for the end and returns the exit code, -1 when a signal was it,
// and what is left of standard output and standard error.
func (p *process) wait() (code int, out, errOut string) {
	p.t.Helper()
	o, err := io.ReadAll(p.out)
	if err != nil {
		p.t.Fatal(err)
	}
	e, err := io.ReadAll(p.errOut)
	if err != nil {
		p.t.Fatal(err)
	}
	_ = p.cmd.Wait() // its error is the exit code
	if trace.Match(e) {
		p.t.Errorf("a stack trace:\n%s", e)
	}
	return p.cmd.ProcessState.ExitCode(), string(o), string(e)
}

// held is some servers that hear a request and say nothing before they are let
// go.
type held struct {
	targets []string
	arrived chan struct{} // gets one for each connection on which a request begins
	release func()
}

// heard is a connection of which some was read already.
type heard struct {
	net.Conn
	in io.Reader
}

func (h *heard) Read(p []byte) (int, error) { return h.in.Read(p) }

func hold(t *testing.T, n int) held {
	t.Helper()
	server := ollamatest.Variant("ollama/0.17.4")
	free := make(chan struct{})
	h := held{arrived: make(chan struct{}, 100), release: sync.OnceFunc(func() { close(free) })}
	var wg sync.WaitGroup
	var listeners []net.Listener
	for range n {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		listeners = append(listeners, ln)
		h.targets = append(h.targets, ln.Addr().String())
		wg.Go(func() {
			for {
				c, err := ln.Accept()
				if err != nil {
					return
				}
				wg.Go(func() {
					begin := make([]byte, 1)
					if _, err := io.ReadFull(c, begin); err == nil {
						h.arrived <- struct{}{}
						<-free
					}
					server.Serve(&heard{c, io.MultiReader(bytes.NewReader(begin), c)})
				})
			}
		})
	}
	t.Cleanup(func() {
		h.release()
		for _, ln := range listeners {
			_ = ln.Close()
		}
		wg.Wait()
	})
	return h
}

// wait waits until n servers hear a request.
func (h held) wait(t *testing.T, n int) {
	t.Helper()
	for range n {
		select {
		case <-h.arrived:
		case <-t.Context().Done():
			t.Fatal("nobody came")
		case <-time.After(30 * time.Second):
			t.Fatal("nobody came")
		}
	}
}

// TestInterrupt: the first Ctrl-C finishes the hosts in flight, begins no more,
// and the account says how many were not visited.
func TestInterrupt(t *testing.T) {
	t.Parallel()
	for _, format := range []string{"table", "jsonl", "json", "csv", "sarif"} {
		t.Run(format, func(t *testing.T) {
			t.Parallel()
			dir, h := t.TempDir(), hold(t, 4)
			p := start(t, dir, append([]string{"scan", "--concurrency", "2", "--format", format, "--out", "found"}, h.targets...)...)
			h.wait(t, 2)
			p.signal(os.Interrupt)
			p.says("gatehouse: stopping; finishing the hosts in flight")
			h.release()
			code, out, errOut := p.wait()
			if code != exitStopped || out != "" {
				t.Errorf("exit code %d, want %d; standard output %q", code, exitStopped, out)
			}
			found, err := os.ReadFile(filepath.Join(dir, "found"))
			if err != nil {
				t.Fatal(err)
			}
			account, open := errOut, `"outcome":"open"`
			switch format {
			case "table":
				account, open = string(found), " open "
			case "csv":
				open = ",open,"
			case "sarif":
				open = `"ruleId":"ollama-open"`
			}
			squeezed := strings.ReplaceAll(string(found), `": `, `":`)
			if n := strings.Count(squeezed, open); n != 2 {
				t.Errorf("%d hosts in flight were finished, want 2:\n%s", n, found)
			}
			if !strings.Contains(account, "4 asked, 2 visited, 2 not visited") {
				t.Errorf("the account does not say what was left out:\n%s", account)
			}
			if (format == "json" || format == "sarif") && !json.Valid(found) {
				t.Errorf("half a file of JSON:\n%s", found)
			}
		})
	}
}

// TestInterruptTwice: the second Ctrl-C waits for nobody.
func TestInterruptTwice(t *testing.T) {
	t.Parallel()
	dir, h := t.TempDir(), hold(t, 2)
	p := start(t, dir, append([]string{"scan", "--format", "json", "--out", "found", "--state", "wave.state"}, h.targets...)...)
	h.wait(t, 2)
	p.signal(os.Interrupt)
	p.says("again to stop at once")
	p.signal(os.Interrupt)
	code, out, errOut := p.wait() // the servers still say nothing
	if code != exitStopped || out != "" || strings.Contains(errOut, "Summary") {
		t.Errorf("exit code %d, want %d at once; %q %q", code, exitStopped, out, errOut)
	}
	if !strings.Contains(errOut, "gatehouse: stopped; what was found is in wave.state, the same command goes on from there") {
		t.Errorf("does not say how to go on: %q", errOut)
	}
	if files := list(t, dir); !slices.Equal(files, []string{"wave.state"}) {
		t.Errorf("left %v, want the state and nothing half", files)
	}
}

// TestInterruptIdle: Ctrl-C ends a scan that waits for its next line of standard
// input, too.
func TestInterruptIdle(t *testing.T) {
	t.Parallel()
	st, err := ollamatest.One(ollamatest.Variant("ollama/0.5.7"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(st.Close)
	p := start(t, t.TempDir(), "scan", "--format", "jsonl", "-")
	if _, err := io.WriteString(p.in, st.Houses[0].Addr.String()+"\n"); err != nil {
		t.Fatal(err)
	}
	if line := p.line(); !strings.Contains(line, `"outcome":"open"`) {
		t.Errorf("first line %q", line)
	}
	p.signal(os.Interrupt) // and no end of the input
	code, _, errOut := p.wait()
	if code != exitStopped || !strings.Contains(errOut, "1 visited") {
		t.Errorf("exit code %d, want %d; %q", code, exitStopped, errOut)
	}
}

// TestInterruptPatient: a place that waits for its turn to be connected to, at a
// low rate, is not in flight.
func TestInterruptPatient(t *testing.T) {
	t.Parallel()
	h := hold(t, 3)
	p := start(t, t.TempDir(), append([]string{"scan", "--rate", "0.001", "--format", "jsonl"}, h.targets...)...)
	h.wait(t, 1)
	p.signal(os.Interrupt)
	p.says("gatehouse: stopping")
	h.release()
	code, out, errOut := p.wait() // the next turn is a quarter of an hour away
	if code != exitStopped || strings.Count(out, "\n") != 1 || !strings.Contains(errOut, "3 asked, 1 visited, 2 not visited") {
		t.Errorf("exit code %d, want %d at once; %q", code, exitStopped, errOut)
	}
}

// TestKilled: a kill -9 in the middle leaves no half of an output, and nothing
// of its own; a file that was there is as it was.
func TestKilled(t *testing.T) {
	t.Parallel()
	h := hold(t, 1)
	for format, out := range map[string]string{"table": "new", "json": "old", "csv": "new", "sarif": "old"} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "old"), []byte("precious"), 0o600); err != nil {
			t.Fatal(err)
		}
		p := start(t, dir, "scan", "--format", format, "--out", out, h.targets[0])
		h.wait(t, 1)
		p.signal(syscall.SIGKILL)
		p.wait()
		old, err := os.ReadFile(filepath.Join(dir, "old"))
		if files := list(t, dir); err != nil || string(old) != "precious" || !slices.Equal(files, []string{"old"}) {
			t.Errorf("%s: left %v, and in old %q", format, files, old)
		}
	}
}

// TestLineByLine: a line of JSON Lines is there when its host is done, not when
// the scan is.
func TestLineByLine(t *testing.T) {
	t.Parallel()
	h := hold(t, 1)
	st, err := ollamatest.One(ollamatest.Variant("ollama/0.5.7"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(st.Close)
	p := start(t, t.TempDir(), "scan", "--format", "jsonl", st.Houses[0].Addr.String(), h.targets[0])
	h.wait(t, 1)
	if line := p.line(); !strings.Contains(line, `"version":"0.5.7"`) {
		t.Errorf("first line %q, want the server that answers at once", line)
	}
	h.release()
	if code, out, _ := p.wait(); code != exitFindings || strings.Count(out, "\n") != 1 {
		t.Errorf("exit code %d and then %q, want %d and one more line", code, out, exitFindings)
	}
}

// TestResume kills a scan with kill -9 in its middle, three times, and has the
// same command go on: in the end every host was reported once, those of the
// first runs with the very same line, and none was visited again but the few
// that were in flight.
func TestResume(t *testing.T) {
	t.Parallel()
	const (
		hosts    = 300
		kills    = 3
		inFlight = 8
	)
	server := ollamatest.Variant("ollama/0.17.4")
	houses := make([]ollamatest.House, hosts)
	for i := range houses {
		houses[i] = ollamatest.House{
			Addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 88, byte(i / 100), byte(1 + i%100)}), 0), Server: server,
		}
	}
	st, err := ollamatest.Open(houses...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(st.Close)
	dir := t.TempDir()
	var targets bytes.Buffer
	for _, h := range st.Houses {
		fmt.Fprintln(&targets, h.Addr)
	}
	if err := os.WriteFile(filepath.Join(dir, "hosts.txt"), targets.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	args := []string{
		"scan", "--targets", "hosts.txt", "--state", "wave.state", "--format", "jsonl", "--quiet",
		"--concurrency", fmt.Sprint(inFlight), "--rate", "500", "--network-rate", "500",
	}

	seen := map[string]string{} // address and port -> the line that told of it
	tell := func(lines string) {
		once := map[string]bool{}
		for line := range strings.Lines(lines) {
			if !strings.HasSuffix(line, "\n") {
				continue // cut off by the kill
			}
			var r struct {
				Address string
				Port    uint16
			}
			if err := json.Unmarshal([]byte(line), &r); err != nil {
				t.Fatalf("%v: %s", err, line)
			}
			place := fmt.Sprint(r.Address, ":", r.Port)
			if once[place] {
				t.Errorf("%s is reported twice", place)
			}
			once[place] = true
			if was, ok := seen[place]; ok && was != line {
				t.Errorf("%s is reported as\n%s and after the kill as\n%s", place, was, line)
			}
			seen[place] = line
		}
		for place := range seen {
			if !once[place] {
				t.Errorf("%s was reported and then lost", place)
			}
		}
	}
	for i := range kills {
		p := start(t, dir, args...)
		var lines strings.Builder
		for range (i + 1) * hosts / (kills + 2) {
			lines.WriteString(p.line())
		}
		p.signal(syscall.SIGKILL)
		code, rest, _ := p.wait()
		tell(lines.String() + rest)
		if code != -1 || len(seen) == hosts {
			t.Fatalf("exit code %d with %d of %d hosts: killed too late to show anything", code, len(seen), hosts)
		}
	}
	code, out, errOut := start(t, dir, args...).wait()
	if code != exitFindings {
		t.Errorf("exit code %d, want %d: %s", code, exitFindings, errOut)
	}
	tell(out)
	if len(seen) != hosts {
		t.Errorf("%d of %d hosts are reported", len(seen), hosts)
	}
	// In flight are those that a worker looks at, and as many that wait to be
	// written down.
	if visits := server.Requests()["GET /"]; visits > hosts+kills*(2*inFlight+1) {
		t.Errorf("%d visits to %d hosts: more than the ones in flight were visited again", visits, hosts)
	}

	// Once more, with nothing left to do.
	visits := server.Requests()["GET /"]
	_, out, _ = start(t, dir, args...).wait()
	tell(out)
	if again := server.Requests()["GET /"] - visits; again != 0 {
		t.Errorf("%d hosts were visited again after the end", again)
	}
}

// list returns the names of all files in dir.
func list(t *testing.T, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}
