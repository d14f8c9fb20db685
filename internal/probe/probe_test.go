package probe_test

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"gatehouse/internal/evidence"
	"gatehouse/internal/ollama/ollamatest"
	"gatehouse/internal/probe"
	"gatehouse/internal/target"
)

const agent = "Gatehouse/test (+mailto:test@example.org)"

func dial(ctx context.Context, at netip.AddrPort) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, "tcp", at.String())
}

// prober has more time than any place that answers takes, even on a machine
// that is busy with other things.
func prober() *probe.Prober {
	return &probe.Prober{
		Allows: func(netip.Addr) error { return nil }, Dial: dial, UserAgent: agent,
		Budget: probe.Budget{Reply: 30 * time.Second, Time: time.Minute},
	}
}

// hasty gives up on a place that keeps silent after reply.
func hasty(reply time.Duration) *probe.Prober {
	p := prober()
	p.Budget.Reply = reply
	return p
}

// listen serves each connection with serve, in its own goroutine, until the
// test ends.
func listen(t *testing.T, serve func(net.Conn)) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer conn.Close()
				_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
				serve(conn)
			})
		}
	})
	t.Cleanup(func() { _ = l.Close(); wg.Wait() })
	return l.Addr().(*net.TCPAddr).AddrPort()
}

func at(addr netip.AddrPort) target.Place {
	return target.Place{Addr: addr.Addr(), Port: addr.Port(), Target: addr.String()}
}

// heard is what a server was asked, request by request.
type heard struct {
	mu   sync.Mutex
	list []string
	raw  []http.Header
	host []string
}

func (h *heard) add(r *http.Request) {
	h.mu.Lock()
	defer h.mu.Unlock()
	body, _ := io.ReadAll(r.Body)
	line := r.Method + " " + r.URL.Path
	if len(body) > 0 {
		line += " " + string(body)
	}
	h.list, h.raw, h.host = append(h.list, line), append(h.raw, r.Header), append(h.host, r.Host)
}

const (
	version = `{"version":"0.17.4"}`
	tags    = `{"models":[{"name":"a:latest","size":1},{"name":"cloud:latest","remote_host":"https://ollama.com:443"},{"name":"b:latest","size":1},{"name":"c:latest","size":1}]}`
)

// answers are what a small Ollama says.
var answers = map[string]string{"/": "Ollama is running", "/api/version": version, "/api/tags": tags, "/api/ps": `{"models":[]}`}

// serve answers requests on a connection until it ends, or after each when once
// is set.
func (h *heard) serve(answers map[string]string, once bool) func(net.Conn) {
	return func(conn net.Conn) {
		br := bufio.NewReader(conn)
		for {
			r, err := http.ReadRequest(br)
			if err != nil {
				return
			}
			h.add(r)
			body, ok := answers[r.URL.Path]
			status := "200 OK"
			if !ok {
				status, body = "404 Not Found", "404 page not found"
			}
			if r.Method != "GET" {
				status, body = "400 Bad Request", `{"error":"missing request body"}`
			}
			end := ""
			if once {
				end = "Connection: close\r\n"
			}
			fmt.Fprintf(conn, "HTTP/1.1 %s\r\n%sContent-Length: %d\r\n\r\n%s", status, end, len(body), body)
			if once {
				return
			}
		}
	}
}

var reads = []string{"GET /", "GET /api/version", "GET /api/tags", "GET /api/ps"}

func TestWhatIsAsked(t *testing.T) {
	shows := []string{`POST /api/show {"model":"a:latest"}`, `POST /api/show {"model":"b:latest"}`}
	proofs := []string{
		"GET /api/version", "GET /api/version", "GET /gatehouse-probe-no-such-path", "GET /v1/models/gatehouse-probe-no-such-model",
		"POST /api/show", "POST /api/generate", "POST /v1/chat/completions", "POST /api/pull", "POST /api/create", "DELETE /api/delete",
	}
	bare := map[string]string{"/": "hello", "/api/version": `{"version":"1"}`}
	noBanner := map[string]string{"/": "hello", "/api/version": version, "/api/tags": tags, "/api/ps": `{"models":[]}`}
	for _, c := range []struct {
		name    string
		answers map[string]string
		details int
		prove   bool
		once    bool
		want    []string
	}{
		{"reads", answers, 0, false, false, reads},
		{"reads, one a connection", answers, 0, false, true, reads},
		{"details", answers, 2, false, false, slices.Concat(reads, shows)},
		{"prove", answers, 0, true, false, slices.Concat(reads, proofs)},
		{"prove, one a connection", answers, 0, true, true, slices.Concat(reads, proofs)},
		{"all", answers, 2, true, false, slices.Concat(reads, shows, proofs)},
		{"prove another program", bare, 2, true, false, reads},
		{"prove behind a proxy's own page", noBanner, 0, true, false, slices.Concat(reads, proofs)},
	} {
		h := new(heard)
		p := prober()
		p.Details, p.Prove = c.details, c.prove
		host := p.Probe(t.Context(), at(listen(t, h.serve(c.answers, c.once))), nil)
		// One request that was sent along with others, to a server that closes
		// after each, is asked again: it was not read.
		if !slices.Equal(h.list, c.want) {
			t.Errorf("%s: asked %q, want %q", c.name, h.list, c.want)
		}
		if host.Reach != evidence.Answered || len(host.Exchanges) != len(c.want) {
			t.Errorf("%s: %v, %d exchanges", c.name, host.Reach, len(host.Exchanges))
		}
		for i, header := range h.raw {
			if header.Get("User-Agent") != agent || header.Get("Authorization") != "" || header.Get("Cookie") != "" {
				t.Errorf("%s: request %d says %v", c.name, i, header)
			}
		}
	}
}

func TestHost(t *testing.T) {
	h := new(heard)
	addr := listen(t, h.serve(answers, false))
	for _, c := range []struct {
		place target.Place
		want  string
	}{
		{target.Place{Addr: netip.MustParseAddr("192.0.2.1"), Port: 11434}, "192.0.2.1:11434"},
		{target.Place{Addr: netip.MustParseAddr("192.0.2.1"), Port: 80}, "192.0.2.1"},
		{target.Place{Addr: netip.MustParseAddr("192.0.2.1"), Port: 11434, Name: "box.example"}, "box.example:11434"},
		{target.Place{Addr: netip.MustParseAddr("2001:db8::1"), Port: 11434}, "[2001:db8::1]:11434"},
		{target.Place{Addr: netip.MustParseAddr("::1"), Port: 11434}, "localhost:11434"},
		{target.Place{Addr: netip.MustParseAddr("192.0.2.1"), Port: 80, Name: "box.example", Path: "/ollama", Scheme: "http"}, "box.example"},
	} {
		p := prober()
		p.Dial = func(ctx context.Context, _ netip.AddrPort) (net.Conn, error) { return dial(ctx, addr) }
		h.host, h.list = nil, nil
		p.Probe(t.Context(), c.place, nil)
		if len(h.host) != 4 || h.host[0] != c.want || h.host[3] != c.want || h.list[1] != "GET "+c.place.Path+"/api/version" {
			t.Errorf("%+v: asked %q of %q, want %q", c.place, h.list, h.host, c.want)
		}
	}
}

func TestScope(t *testing.T) {
	denial := errors.New("not in scope")
	p := prober()
	dialed := 0
	p.Dial = func(context.Context, netip.AddrPort) (net.Conn, error) { dialed++; return nil, io.EOF }
	p.Allows = func(netip.Addr) error { return denial }
	host := p.Probe(t.Context(), at(netip.MustParseAddrPort("192.0.2.1:11434")), nil)
	p.Allows = nil
	p.Probe(t.Context(), at(netip.MustParseAddrPort("192.0.2.1:11434")), nil)
	if dialed > 0 || host.Reach == evidence.Answered || !strings.Contains(host.Reason, "not in scope") {
		t.Errorf("%d dials, %v %q", dialed, host.Reach, host.Reason)
	}
	// The open connection is used; another is not made when the scope has changed.
	h := new(heard)
	conn, err := dial(t.Context(), listen(t, h.serve(answers, true)))
	if err != nil {
		t.Fatal(err)
	}
	p.Probe(t.Context(), at(netip.MustParseAddrPort("192.0.2.1:11434")), conn)
	if dialed > 0 || len(h.list) != 1 {
		t.Errorf("%d dials, asked %q", dialed, h.list)
	}
}

func TestRedirect(t *testing.T) {
	var touched atomic.Int64
	canary := listen(t, func(net.Conn) { touched.Add(1) })
	for _, to := range []string{"http://" + canary.String() + "/", "//" + canary.String() + "/x", "http://169.254.169.254/latest/meta-data/"} {
		addr := listen(t, func(conn net.Conn) {
			br := bufio.NewReader(conn)
			for {
				if _, err := http.ReadRequest(br); err != nil {
					return
				}
				fmt.Fprintf(conn, "HTTP/1.1 302 Found\r\nLocation: %s\r\nContent-Length: 0\r\n\r\n", to)
			}
		})
		p := prober()
		p.Dial = func(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
			if to != addr {
				t.Errorf("dials %s", to)
			}
			return dial(ctx, to)
		}
		p.Prove, p.Details = true, 4
		host := p.Probe(t.Context(), at(addr), nil)
		if x := host.Find(evidence.Root); x == nil || x.Status != 302 || x.Get("Location") != to || len(host.Exchanges) != 4 {
			t.Errorf("%s: %+v", to, host)
		}
	}
	if touched.Load() > 0 {
		t.Error("a redirect was followed")
	}
}

// certificate signs itself, for names, and ends when it says.
func certificate(t *testing.T, end time.Time) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "box"}, DNSNames: []string{"box.example"},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, NotBefore: end.AddDate(-1, 0, 0), NotAfter: end,
	}
	for i := range 200 {
		template.DNSNames = append(template.DNSNames, fmt.Sprintf("n%d.example", i))
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// overTLS serves TLS, and says in plain to who speaks that.
func overTLS(cfg *tls.Config, plain string, serve func(net.Conn)) func(net.Conn) {
	return func(conn net.Conn) {
		br := bufio.NewReader(conn)
		first, err := br.Peek(1)
		if err != nil {
			return
		}
		if first[0] != 0x16 {
			_, _ = br.ReadString('\n')
			_, _ = io.WriteString(conn, plain)
			return
		}
		secure := tls.Server(peeked{conn, br}, cfg)
		defer secure.Close()
		if secure.Handshake() == nil {
			serve(secure)
		}
	}
}

type peeked struct {
	net.Conn
	r io.Reader
}

func (p peeked) Read(b []byte) (int, error) { return p.r.Read(b) }

const (
	goPage    = "HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n"
	nginxPage = "HTTP/1.1 400 Bad Request\r\nServer: nginx\r\nContent-Length: 61\r\nConnection: close\r\n\r\nThe plain HTTP request was sent to HTTPS port, says this page"
)

func TestTLS(t *testing.T) {
	good := certificate(t, time.Now().AddDate(0, 1, 0))
	expired := certificate(t, time.Now().AddDate(0, -1, 0))
	for _, c := range []struct {
		name  string
		cert  tls.Certificate
		plain string
		p     *probe.Prober
	}{
		{"net/http's page", good, goPage, prober()},
		{"nginx's page", good, nginxPage, prober()},
		{"an alert", good, "\x15\x03\x01\x00\x02\x02\x0a", prober()},
		{"silence", good, "", hasty(2 * time.Second)},
		{"expired", expired, goPage, prober()},
	} {
		h := new(heard)
		addr := listen(t, overTLS(&tls.Config{Certificates: []tls.Certificate{c.cert}}, c.plain, h.serve(answers, false)))
		host := c.p.Probe(t.Context(), at(addr), nil)
		if host.TLS == nil || host.Reach != evidence.Answered || !slices.Equal(h.list, reads) || len(host.Exchanges) != 4 {
			t.Errorf("%s: %+v, asked %q", c.name, host, h.list)
			continue
		}
		if host.TLS.Subject != "CN=box" || host.TLS.Issuer != "CN=box" || len(host.TLS.Names) != 100 || host.TLS.Invalid == "" || len(host.TLS.SHA256) != 64 ||
			host.TLS.NotAfter.Before(time.Now()) != (c.name == "expired") {
			t.Errorf("%s: %+v", c.name, host.TLS)
		}
	}

	// A place that is called https is asked by TLS alone, and one on 443 that
	// does not speak it in the clear.
	h := new(heard)
	place := at(listen(t, h.serve(answers, false)))
	place.Scheme = "https"
	if host := prober().Probe(t.Context(), place, nil); len(h.list) > 0 || host.Reach == evidence.Answered {
		t.Errorf("asked %q in the clear of https", h.list)
	}
	plain := listen(t, h.serve(answers, false))
	p := prober()
	p.Dial = func(ctx context.Context, _ netip.AddrPort) (net.Conn, error) { return dial(ctx, plain) }
	if host := p.Probe(t.Context(), target.Place{Addr: plain.Addr(), Port: 443}, nil); host.TLS != nil || host.Reach != evidence.Answered {
		t.Errorf("plain on 443: %+v", host)
	}

	for _, max := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		cfg := &tls.Config{Certificates: []tls.Certificate{good}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: x509.NewCertPool(), MaxVersion: max}
		host := prober().Probe(t.Context(), at(listen(t, overTLS(cfg, goPage, h.serve(answers, false)))), nil)
		if host.Reach == evidence.Answered || !strings.Contains(host.Reason, "certificate required") {
			t.Errorf("a client certificate in %s: %v %q", tls.VersionName(max), host.Reach, host.Reason)
		}
	}

	stalls := listen(t, func(conn net.Conn) {
		br := bufio.NewReader(conn)
		if first, err := br.Peek(1); err == nil && first[0] != 0x16 {
			_, _ = io.WriteString(conn, nginxPage)
			return
		}
		_, _ = io.Copy(io.Discard, br)
	})
	if host := hasty(time.Second).Probe(t.Context(), at(stalls), nil); host.Reach == evidence.Answered || host.Reason == "" {
		t.Errorf("stalls after it says that it speaks TLS: %v %q", host.Reach, host.Reason)
	}
}

// TestHostile has places that would hold on to a probe for ever.
func TestHostile(t *testing.T) {
	forever := func(head string, piece string, every time.Duration) func(net.Conn) {
		return func(conn net.Conn) {
			if _, err := io.WriteString(conn, head); err != nil {
				return
			}
			for {
				if _, err := io.WriteString(conn, piece); err != nil {
					return
				}
				if every > 0 {
					time.Sleep(every)
				}
			}
		}
	}
	for name, serve := range map[string]func(net.Conn){
		"says nothing":     func(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) },
		"a byte at a time": forever("", "H", 50*time.Millisecond),
		"slow header":      forever("HTTP/1.1 200 OK\r\n", "A", 50*time.Millisecond),
		"endless headers":  forever("HTTP/1.1 200 OK\r\n", "A: b\r\n", 0),
		"one long header":  forever("HTTP/1.1 200 OK\r\nA: ", "bbbbbbbbbbbbbbbbbbbb", 0),
		"endless body":     forever("HTTP/1.1 200 OK\r\n\r\n", strings.Repeat("x", 1000), 0),
		"ten gigabytes":    forever("HTTP/1.1 200 OK\r\nContent-Length: 10000000000\r\n\r\n", strings.Repeat("x", 1000), 0),
		"endless chunks":   forever("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "a\r\n0123456789\r\n", 0),
		"noise":            forever("", "\x00\xff\x13", 0),
		"resets": func(conn net.Conn) {
			_ = conn.(*net.TCPConn).SetLinger(0)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			addr := listen(t, serve)
			var got atomic.Int64
			p := prober()
			p.Budget = probe.Budget{Bytes: 200_000, Body: 50_000, Reply: 500 * time.Millisecond, Time: 2 * time.Second}
			p.Dial = func(ctx context.Context, at netip.AddrPort) (net.Conn, error) {
				conn, err := dial(ctx, at)
				return counting{conn, &got}, err
			}
			began := time.Now()
			host := p.Probe(t.Context(), at(addr), nil)
			if took := time.Since(began); took > 5*p.Budget.Time { // none of these ends by itself
				t.Errorf("took %s", took)
			}
			if got.Load() > 200_000 {
				t.Errorf("read %d bytes", got.Load())
			}
			cut := slices.ContainsFunc(host.Exchanges, func(x evidence.Exchange) bool { return x.Cut })
			if host.Reason == "" && !cut {
				t.Errorf("no reason: %+v", host)
			}
		})
	}
}

type counting struct {
	net.Conn
	n *atomic.Int64
}

func (c counting) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.n.Add(int64(n))
	return n, err
}

// TestMemory probes every broken server of the simulator at once, again and
// again: what is held at the end is not more than after the first time.
func TestMemory(t *testing.T) {
	var houses []ollamatest.House
	for _, s := range ollamatest.Variants() {
		if s.Truth.Outcome == "broken" && s.Path == "" {
			houses = append(houses, ollamatest.House{Server: s})
		}
	}
	if len(houses) < 20 {
		t.Fatalf("only %d broken servers", len(houses))
	}
	street, err := ollamatest.Open(houses...)
	if err != nil {
		t.Fatal(err)
	}
	defer street.Close()
	p := prober()
	p.Budget = probe.Budget{Reply: 200 * time.Millisecond, Time: 600 * time.Millisecond}
	round := func() {
		var wg sync.WaitGroup
		for _, h := range street.Houses {
			for range 3 {
				wg.Go(func() { p.Probe(t.Context(), at(h.Addr), nil) })
			}
		}
		wg.Wait()
	}
	held := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	round()
	first := held()
	for range 2 {
		round()
		// The servers are in this process too, and may take a moment to see that
		// nobody listens any more.
		again := held()
		for end := time.Now().Add(10 * time.Second); again > first+16<<20 && time.Now().Before(end); again = held() {
			runtime.Gosched()
		}
		if again > first+16<<20 {
			t.Errorf("%d MiB are held, %d after the first round", again>>20, first>>20)
		}
	}
}

func TestCancel(t *testing.T) {
	addr := listen(t, func(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) })
	p := prober()
	p.Budget = probe.Budget{Reply: time.Minute, Time: time.Minute}
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	began := time.Now()
	host := p.Probe(ctx, at(addr), nil)
	if took := time.Since(began); took > 5*time.Second || host.Reach == evidence.Answered {
		t.Errorf("after %s: %+v", took, host)
	}
}

// TestThrowsAway: a server that reads one request of several that were sent
// together, and throws the others away, is asked again, one at a time.
func TestThrowsAway(t *testing.T) {
	h := new(heard)
	addr := listen(t, func(conn net.Conn) {
		buf := make([]byte, 64<<10)
		for {
			n, err := conn.Read(buf)
			if err != nil {
				return
			}
			r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(string(buf[:n]))))
			if err != nil {
				return
			}
			h.add(r)
			body := answers[r.URL.Path]
			fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
		}
	})
	host := hasty(2*time.Second).Probe(t.Context(), at(addr), nil)
	if !slices.Equal(h.list, reads) || len(host.Exchanges) != 4 {
		t.Errorf("asked %q, %d exchanges", h.list, len(host.Exchanges))
	}
	for _, x := range host.Exchanges {
		if x.Status != 200 || x.Error != "" {
			t.Errorf("%s: %d %s", x.Path, x.Status, x.Error)
		}
	}
}
