//go:build linux

package e2e

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"gatehouse/internal/key"
)

// rest is what a gate holds when nobody is there.
type rest struct{ goroutines, files int64 }

func (g *plain) rests() rest {
	return rest{g.metric("go_goroutines"), g.metric("process_open_fds")}
}

// calm waits until the gate holds no more than before, but for a few that come
// and go: those of the admin listener and of a health check.
func (g *plain) calm(before rest) {
	g.t.Helper()
	const few = 12
	var now rest
	until(g.t, fmt.Sprintf("the gate holds no more than %+v", before), func() bool {
		now = g.rests()
		return now.goroutines <= before.goroutines+few && now.files <= before.files+few
	})
	g.t.Logf("%+v before, %+v after", before, now)
}

// served is one look and one chat by who holds a key.
func (g *plain) served() {
	g.t.Helper()
	if status, text := g.ask("GET", "/api/tags", ""); status != 200 || !strings.Contains(text, "tiny") {
		g.t.Fatalf("the holder of a key gets %d %s", status, text)
	}
	if status, text := g.ask("POST", "/api/chat", chatBody(3, "hi")); status != 200 || !strings.Contains(text, `"done":true`) {
		g.t.Fatalf("the holder of a key gets %d %s", status, text)
	}
}

// resident is how much memory the gate holds, as the kernel counts it.
func (g *plain) resident() int64 {
	g.t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", g.cmd.Process.Pid))
	if err != nil {
		g.t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(text), "VmRSS:")
	kb, err := strconv.ParseInt(strings.Fields(after)[0], 10, 64)
	if err != nil {
		g.t.Fatal(err)
	}
	return kb << 10
}

// TestIdle has ten thousand connections that say nothing.
func TestIdle(t *testing.T) {
	t.Parallel()
	g := newPlain(t, newStudio(t).URL, "")
	g.served()
	before, weight := g.rests(), g.resident()
	const many = 10_000
	conns := make([]net.Conn, many)
	for i := range conns {
		conn, err := net.Dial("tcp", g.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conns[i] = conn
	}
	g.served()
	t.Logf("%d connections, %d KiB each", g.metric("process_open_fds")-before.files, (g.resident()-weight)/many>>10)
	// The gate ends them itself when they say nothing for too long.
	for _, conn := range conns {
		_ = conn.SetReadDeadline(time.Now().Add(patience))
		if _, err := conn.Read(make([]byte, 1)); err != io.EOF {
			t.Fatalf("an idle connection ends in %v", err)
		}
	}
	g.calm(before)
	g.served()
}

// TestSlow has hundreds that send a header, or a body, a byte at a time.
func TestSlow(t *testing.T) {
	t.Parallel()
	g := newPlain(t, newStudio(t).URL, "requests: {body_time: 2s}\n")
	g.served()
	before := g.rests()
	const many = 500
	heads := "GET /api/tags HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer " + g.token + "\r\nX-Slow: "
	body := "POST /api/chat HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer " + g.token + "\r\nContent-Length: 100000\r\n\r\n{"
	conns := make([]net.Conn, 2*many)
	for i := range conns {
		conn, err := net.Dial("tcp", g.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		start := heads
		if i%2 == 1 {
			start = body
		}
		if _, err := io.WriteString(conn, start); err != nil {
			t.Fatal(err)
		}
		conns[i] = conn
	}
	g.served()
	// All go on, a byte each time, until the gate has had enough of each.
	var wg sync.WaitGroup
	answers := make([]string, len(conns))
	for i, conn := range conns {
		wg.Go(func() {
			_ = conn.SetReadDeadline(time.Now().Add(patience))
			text, _ := io.ReadAll(conn) // reset or closed, it ends
			answers[i] = string(text)
		})
	}
	ended := make(chan struct{})
	go func() { wg.Wait(); close(ended) }()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for over := false; !over; {
		select {
		case <-ended:
			over = true
		case <-tick.C:
			for _, conn := range conns {
				_, _ = conn.Write([]byte{'x'}) // it may be closed
			}
		}
	}
	for i, text := range answers {
		if i%2 == 1 && !strings.HasPrefix(text, "HTTP/1.1 408 ") {
			t.Fatalf("a slow body is answered %q", text)
		}
		if i%2 == 0 && text != "" && !strings.HasPrefix(text, "HTTP/1.1 4") {
			t.Fatalf("a slow header is answered %q", text)
		}
	}
	g.calm(before)
	g.served()
	broken := 0
	for _, l := range g.account() {
		if l.Reason == "body-broken" && !l.Allowed {
			broken++
		}
	}
	if broken != many {
		t.Errorf("%d lines of the ledger for %d slow bodies", broken, many)
	}
}

// TestHeaders has requests with more headers than anybody needs.
func TestHeaders(t *testing.T) {
	g := newPlain(t, newStudio(t).URL, "")
	g.served()
	before, weight := g.rests(), g.resident()
	var flood strings.Builder
	flood.WriteString("GET /api/tags HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer " + g.token + "\r\n")
	for i := range 20_000 {
		fmt.Fprintf(&flood, "X-%d: %d\r\n", i, i)
	}
	flood.WriteString("\r\n")
	var wg sync.WaitGroup
	var refused atomic.Int64
	for range 8 {
		wg.Go(func() {
			for range 50 {
				conn, err := net.Dial("tcp", g.addr)
				if err != nil {
					t.Error(err)
					return
				}
				_ = conn.SetDeadline(time.Now().Add(patience))
				_, _ = io.WriteString(conn, flood.String()) // it is not taken to its end
				line, _ := bufio.NewReader(conn).ReadString('\n')
				_ = conn.Close()
				// Refused, or closed with what was sent unread, which resets.
				if line != "" && !strings.HasPrefix(line, "HTTP/1.1 431 ") {
					t.Errorf("a flood of headers is answered %q", line)
				}
				refused.Add(1)
			}
		})
	}
	g.served()
	wg.Wait()
	g.calm(before)
	g.served()
	if grown := g.resident() - weight; refused.Load() != 400 || grown > 64<<20 {
		t.Errorf("%d were refused, and the gate has grown by %d MiB", refused.Load(), grown>>20)
	}
}

// TestGuessing tries a hundred thousand keys, some of them with an id that there
// is, from many addresses. Nobody enters, each leaves its line, and the holder
// of the key comes and goes.
func TestGuessing(t *testing.T) {
	const tries, hands = 100_000, 8
	g := newPlain(t, newStudio(t).URL, "")
	g.served()
	before, weight := g.rests(), g.resident()
	id := strings.Split(g.token, "_")[1]
	var wg sync.WaitGroup
	var statuses [600]atomic.Int64
	for hand := range hands {
		wg.Go(func() {
			from := netip.AddrFrom4([4]byte{127, 9, byte(hand), 1})
			for done := 0; done < tries/hands; {
				// A connection for each 500, from the next address.
				n := min(500, tries/hands-done)
				if err := guess(g.addr, from, id, n, func(status int) { statuses[status].Add(1) }); err != nil {
					t.Error(err)
					return
				}
				done += n
				from = from.Next()
			}
		})
	}
	over := make(chan struct{})
	go func() { wg.Wait(); close(over) }()
	visits := 0
	for busy := true; busy; visits++ {
		g.served()
		select {
		case <-over:
			busy = false
		default:
		}
	}
	wrong, locked := statuses[401].Load(), statuses[429].Load()
	if wrong+locked != tries || wrong == 0 || locked == 0 {
		t.Errorf("%d wrong and %d locked out, of %d", wrong, locked, tries)
	}
	g.calm(before)
	grown := g.resident() - weight
	if grown > 128<<20 {
		t.Errorf("the gate has grown by %d MiB", grown>>20)
	}
	t.Logf("%d wrong, %d locked out; %d visits of the holder meanwhile; %d MiB more", wrong, locked, visits, grown>>20)
	g.signal(os.Interrupt)
	g.ends() // so that all is written
	lines := 0
	for _, l := range g.account() {
		if !l.Allowed && l.Event == "request" {
			lines++
		}
	}
	if lines != tries {
		t.Errorf("%d lines of the ledger for %d tries", lines, tries)
	}
}

// guess tries n keys on one connection, every other with the id of a real key.
func guess(addr string, from netip.Addr, id string, n int, answered func(status int)) error {
	dialer := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0))}
	conn, err := dialer.Dial("tcp", addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	r := bufio.NewReader(conn)
	for i := range n {
		token, _ := key.Mint(time.Now())
		if i%2 == 0 {
			parts := strings.Split(token, "_")
			token = "gh_" + id + "_" + parts[2] + "_" + parts[3]
		}
		if _, err := fmt.Fprintf(conn, "GET /api/tags HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %s\r\n\r\n", token); err != nil {
			return err
		}
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			return err
		}
		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			return err
		}
		answered(resp.StatusCode)
	}
	return nil
}

// TestManyStreams has five thousand answers under way at the same time.
func TestManyStreams(t *testing.T) {
	const many = 5000
	up := newStudio(t)
	g := newPlain(t, up.URL, "queue: {length: 10}\n")
	g.write(strings.Replace(g.text, "slots: 4096", "slots: 4096}, {url: \""+strings.Replace(up.URL, "127.0.0.1", "localhost", 1)+"\", slots: 4096", 1))
	g.signal(os.Interrupt)
	g.ends()
	g.start()
	g.served()
	before, weight := g.rests(), g.resident()
	streams := make([]stream, many)
	for i := range streams {
		streams[i] = g.begin(fmt.Sprint("s-", i))
	}
	for _, s := range streams {
		s.piece(t)
	}
	if n := up.holds(); n != many {
		t.Fatalf("%d of %d are under way", n, many)
	}
	g.served()
	each := (g.resident() - weight) / many
	t.Logf("%d streams, %d bytes of memory each, %d of them stacks", many, each, g.metric("go_memstats_stack_inuse_bytes")/many)
	if each > 64<<10 {
		t.Errorf("an open stream takes %d bytes", each)
	}
	close(up.release)
	for i, s := range streams {
		if text := s.rest(t); !strings.Contains(text, `"done":true`) {
			t.Fatalf("stream %d ends in %q", i, text)
		}
		_ = s.Close()
	}
	up.Config.SetKeepAlivesEnabled(false) // the gate keeps connections to Ollama for the next
	g.calm(before)
	g.served()
}
