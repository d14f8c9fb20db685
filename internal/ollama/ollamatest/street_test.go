package ollamatest_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
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

	"gatehouse/internal/ollama"
	"gatehouse/internal/ollama/ollamatest"
)

// open brings s up for the time of the test.
func open(t testing.TB, s *ollamatest.Server) netip.AddrPort {
	t.Helper()
	st, err := ollamatest.One(s)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(st.Close)
	return st.Houses[0].Addr
}

// get asks for path and returns status, header and at most 1 MiB of body.
func get(t testing.TB, s *ollamatest.Server, at netip.AddrPort, path string) (*http.Response, string, error) {
	t.Helper()
	scheme := "http"
	if s.TLS {
		scheme = "https"
	}
	client := &http.Client{
		Timeout: 400 * time.Millisecond,
		Transport: &http.Transport{
			TLSClientConfig:        &tls.Config{InsecureSkipVerify: true}, // nobody's certificates
			MaxResponseHeaderBytes: 64 << 10,
			DisableCompression:     true,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	defer client.CloseIdleConnections()
	req, err := http.NewRequestWithContext(t.Context(), "GET", scheme+"://"+at.String()+s.Path+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	return resp, string(body), err
}

func TestVariantNames(t *testing.T) {
	all := ollamatest.Variants()
	if len(all) < 200 {
		t.Errorf("%d variants, want at least 200", len(all))
	}
	outcomes := []string{"open", "guarded", "lookalike", "honeypot", "broken", "other", "silent", "refused"}
	seen := make(map[string]bool)
	for _, s := range all {
		if s.Name == "" || seen[s.Name] {
			t.Errorf("name %q is empty or used twice", s.Name)
		}
		seen[s.Name] = true
		if !slices.Contains(outcomes, s.Truth.Outcome) {
			t.Errorf("%s: outcome %q is none", s.Name, s.Truth.Outcome)
		}
		gives := s.Truth.Powers()
		if (s.Truth.Outcome == "open" || s.Truth.Unproved == "open") != gives[ollama.Read] {
			t.Errorf("%s: outcome %s, gives %v", s.Name, s.Truth.Outcome, s.Truth.Gives)
		}
	}
	for _, s := range ollamatest.Demo() {
		if !seen[s.Name] {
			t.Errorf("the demo has %s, which is no variant", s.Name)
		}
	}
}

// TestVariants asks every variant the four reads and holds the answers against
// its truth, as far as one look at them can tell.
func TestVariants(t *testing.T) {
	for _, s := range ollamatest.Variants() {
		t.Run(s.Name, func(t *testing.T) {
			t.Parallel()
			at := open(t, s)
			began := time.Now()
			_, root, _ := get(t, s, at, "/")
			v, version, verr := get(t, s, at, "/api/version")
			g, tags, err := get(t, s, at, "/api/tags")
			switch s.Truth.Outcome {
			case "open":
				if root != ollama.Banner {
					t.Errorf("GET / is %q", root)
				}
				if want := `{"version":"` + s.Truth.Version + `"}`; verr != nil || version != want {
					t.Errorf("GET /api/version is %q, %v; want %s", version, verr, want)
				}
				var list struct {
					Models []struct{ Name, Digest string }
				}
				if err != nil || json.Unmarshal([]byte(tags), &list) != nil || list.Models == nil {
					t.Errorf("GET /api/tags is %.200q, %v", tags, err)
				}
				for _, m := range list.Models {
					if len(m.Digest) != 64 {
						t.Errorf("%s has digest %q", m.Name, m.Digest)
					}
				}
			case "guarded":
				if err == nil && !slices.Contains([]int{302, 400, 401, 403, 407}, g.StatusCode) {
					t.Errorf("GET /api/tags is %s", g.Status)
				}
				if hello := s.Truth.Powers()[ollama.Hello]; hello != (root == ollama.Banner) {
					t.Errorf("GET / is %.80q; says hello: %t", root, hello)
				}
			case "lookalike", "other":
				if err == nil && g.StatusCode == 200 && v != nil && v.StatusCode == 200 && root == ollama.Banner &&
					len(g.Header) == 3 && strings.Contains(tags, `"quantization_level"`) && !strings.Contains(s.Name, "localai") {
					t.Errorf("nothing tells it from Ollama: %v", g.Header)
				}
			case "broken":
				if err == nil && json.Valid([]byte(tags)) && g.StatusCode == 200 && !strings.Contains(s.Name, "duplicate") &&
					!strings.Contains(s.Name, "before-asked") && !strings.Contains(s.Name, "utf8") {
					t.Errorf("GET /api/tags is sound: %.200s", tags)
				}
			case "silent", "refused":
				if err == nil {
					t.Errorf("GET /api/tags answers %s", g.Status)
				}
			case "honeypot":
				if err != nil || g.StatusCode != 200 {
					t.Errorf("GET /api/tags fails: %v", err)
				}
			}
			if took := time.Since(began); took > 10*time.Second {
				t.Errorf("took %s", took)
			}
			if harm := s.Harm(); harm != nil {
				t.Errorf("reads are said to harm: %q", harm)
			}
		})
	}
}

// TestSame holds that names and answers are the same in every run.
func TestSame(t *testing.T) {
	twins := ollamatest.Variants()
	for i, s := range ollamatest.Variants() {
		if strings.HasPrefix(s.Name, "hostile/") || s.TLS {
			continue
		}
		twin := twins[i]
		_, a, _ := get(t, s, open(t, s), "/api/tags")
		_, b, _ := get(t, twin, open(t, twin), "/api/tags")
		if a != b && s.Name != "ollama/clock-ahead" {
			t.Errorf("%s answers once %.300q, once %.300q", s.Name, a, b)
		}
	}
}

// ask sends raw on a new connection and returns all that comes back.
func ask(t testing.TB, at netip.AddrPort, raw string) string {
	t.Helper()
	c, err := net.Dial("tcp", at.String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(c, raw); err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(c)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestPipeline(t *testing.T) {
	at := open(t, ollamatest.Ollama{}.Server("pipeline"))
	const host = " HTTP/1.1\r\nHost: 127.0.0.1\r\n"
	got := ask(t, at, "GET /"+host+"\r\nPOST /api/show"+host+"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"+
		"GET /api/version"+host+"\r\nHEAD /api/tags"+host+"\r\nGET /none"+host+"Connection: close\r\n\r\nGET /"+host+"\r\n")
	r := bufio.NewReader(strings.NewReader(got))
	for i, want := range []struct {
		method, body string
		status       int
	}{
		{"GET", ollama.Banner, 200},
		{"POST", `{"error":"model is required"}`, 400},
		{"GET", `{"version":"` + ollamatest.Newest + `"}`, 200},
		{"HEAD", "", 200},
		{"GET", "404 page not found", 404},
	} {
		resp, err := http.ReadResponse(r, &http.Request{Method: want.method})
		if err != nil {
			t.Fatalf("answer %d: %v in %q", i, err, got)
		}
		body, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != want.status || string(body) != want.body {
			t.Errorf("answer %d is %d %q, %v; want %d %q", i, resp.StatusCode, body, err, want.status, want.body)
		}
	}
	if rest, _ := io.ReadAll(r); len(rest) > 0 {
		t.Errorf("answers after the connection was to close: %q", rest)
	}
}

func TestBadRequests(t *testing.T) {
	at := open(t, ollamatest.Ollama{}.Server("bad"))
	for raw, want := range map[string]string{
		"XYZ\r\n\r\n":                                                          "HTTP/1.1 400 Bad Request\r\n",
		"GET / HTTP/1.1\r\n\r\n":                                               "HTTP/1.1 400 Bad Request: missing required Host header\r\n",
		"GET / HTTP/3.7\r\nHost: a\r\n\r\n":                                    "HTTP/1.1 505 HTTP Version Not Supported",
		"GET / HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n":                             "HTTP/1.1 400 Bad Request\r\n",
		"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n":                         "HTTP/1.1 400 Bad Request\r\n",
		"GET / HTTP/1.0\r\n\r\n":                                               "HTTP/1.0 200 OK\r\n",
		"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999\r\n\r\n":     "HTTP/1.1 400 Bad Request\r\n",
		"GET /" + strings.Repeat("a", 70<<10) + " HTTP/1.1\r\nHost: a\r\n\r\n": "HTTP/1.1 431 ",
	} {
		if got := ask(t, at, raw); !strings.HasPrefix(got, want) {
			t.Errorf("%.60q is answered %.200q, want %q", raw, got, want)
		}
	}
}

func TestHarm(t *testing.T) {
	s := ollamatest.Ollama{Version: "0.1.32", Models: ollamatest.Library("llama3.2:1b")}.Server("harm")
	at := open(t, s)
	send := func(method, path, header, body string) {
		ask(t, at, fmt.Sprintf("%s %s HTTP/1.1\r\nHost: a\r\nConnection: close\r\n%sContent-Length: %d\r\n\r\n%s", method, path, header, len(body), body))
	}
	for _, path := range []string{"/api/show", "/api/generate", "/api/chat", "/api/pull", "/api/create", "/api/copy", "/v1/chat/completions"} {
		send("POST", path, "", "")
		send("POST", path, "", "{not json")
	}
	send("DELETE", "/api/delete", "", "")
	send("POST", "/api/show", "", `{"model":"llama3.2:1b"}`)
	send("HEAD", "/api/blobs/sha256:"+strings.Repeat("0", 64), "", "")
	if harm := s.Harm(); harm != nil && !strings.HasPrefix(harm[0], "HEAD") {
		t.Fatalf("harmless requests are said to harm: %q", harm)
	}
	s.Reset()
	for _, r := range [][4]string{
		{"DELETE", "/api/delete", "", `{"model":"llama3.2:1b"}`},
		{"POST", "/api/pull", "", `{"model":"x"}`},
		{"POST", "/api/generate", "", `{"model":"llama3.2:1b","keep_alive":0}`},
		{"POST", "/v1/chat/completions", "", `{"model":"x"}`},
		{"POST", "/api/blobs/x", "", ""},
		{"POST", "/api/me", "", ""},
		{"GET", "/api/tags", "Authorization: Basic YTph\r\n", ""},
	} {
		before := len(s.Harm())
		send(r[0], r[1], r[2], r[3])
		if len(s.Harm()) != before+1 {
			t.Errorf("%s %s %s%s is not said to harm", r[0], r[1], r[2], r[3])
		}
	}
	if n := s.Requests()["POST /api/pull"]; n != 1 {
		t.Errorf("POST /api/pull was counted %d times, want 1", n)
	}
	if head := s.Head("GET /api/tags"); !strings.Contains(head, "Authorization: Basic YTph") {
		t.Errorf("the last header is %q", head)
	}
}

// TestReleases holds the differences between releases that a scanner meets.
func TestReleases(t *testing.T) {
	for _, c := range []struct {
		version, method, path, body string
		status                      int
		want                        string
	}{
		{"0.1.32", "GET", "/api/ps", "", 404, "404 page not found"},
		{"0.1.38", "GET", "/api/ps", "", 200, `{"models":[]}`},
		{"0.1.38", "GET", "/api/tags", "", 200, `"expires_at":"0001-01-01T00:00:00Z"`},
		{"0.2.8", "GET", "/api/tags", "", 200, `"quantization_level":"Q8_0"}}`},
		{"0.1.20", "POST", "/v1/chat/completions", "", 404, "404 page not found"},
		{"0.1.24", "POST", "/v1/chat/completions", "", 400, `"message":"EOF"`},
		{"0.1.38", "GET", "/v1/models", "", 404, "404 page not found"},
		{"0.3.14", "GET", "/v1/models", "", 200, `"object":"list"`},
		{"0.3.14", "GET", "/api/show", "", 404, "404 page not found"},
		{"0.9.6", "GET", "/api/show", "", 405, "405 method not allowed"},
		{"0.1.38", "POST", "/api/generate", `{"model":"none"}`, 404, "try pulling it first"},
		{"0.9.6", "POST", "/api/generate", `{"model":"none"}`, 404, "model 'none' not found\"}"},
		{"0.1.28", "POST", "/api/blobs/x", "", 400, "digest mismatch"},
		{"0.1.38", "POST", "/api/blobs/x", "", 400, "invalid digest format"},
	} {
		at := open(t, ollamatest.Ollama{Version: c.version, Models: ollamatest.Library("llama3.2:1b")}.Server(c.version))
		got := ask(t, at, fmt.Sprintf("%s %s HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s", c.method, c.path, len(c.body), c.body))
		if !strings.HasPrefix(got, fmt.Sprintf("HTTP/1.1 %d ", c.status)) || !strings.Contains(got, c.want) {
			t.Errorf("%s: %s %s is %.300q, want %d and %s", c.version, c.method, c.path, got, c.status, c.want)
		}
	}
}

// TestBomb holds that the bomb is one: sound gzip that does not end soon.
func TestBomb(t *testing.T) {
	s := ollamatest.Variant("hostile/gzip-bomb")
	resp, err := http.Get("http://" + open(t, s).String() + "/") // which unpacks it
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	n, err := io.Copy(io.Discard, resp.Body)
	if err != nil || n != 1<<30 {
		t.Errorf("unpacks to %d bytes, %v; want 1 GiB", n, err)
	}
}

func TestOpen(t *testing.T) {
	s := ollamatest.Ollama{}.Server("far")
	if _, err := ollamatest.Open(ollamatest.House{Addr: netip.MustParseAddrPort("192.0.2.1:80"), Server: s}); !errors.Is(err, ollamatest.ErrNotLoopback) {
		t.Errorf("a house beyond loopback: %v", err)
	}
	at := open(t, s)
	if _, err := ollamatest.Open(ollamatest.House{Server: s}, ollamatest.House{Addr: at, Server: s}); err == nil {
		t.Error("two houses at one address")
	}

	before := runtime.NumGoroutine()
	st, err := ollamatest.Open(ollamatest.House{Server: ollamatest.Variant("hostile/never-answers")}, ollamatest.House{Server: s})
	if err != nil {
		t.Fatal(err)
	}
	var waiting []net.Conn
	for _, h := range st.Houses {
		c, err := net.Dial("tcp", h.Addr.String())
		if err != nil {
			t.Fatal(err)
		}
		waiting = append(waiting, c)
	}
	st.Close()
	st.Close()
	for _, c := range waiting {
		if n, err := c.Read(make([]byte, 1)); err == nil {
			t.Errorf("%d bytes after Close", n)
		}
		c.Close()
	}
	// A goroutine that is done may take a moment more to be gone.
	after := runtime.NumGoroutine()
	for end := time.Now().Add(10 * time.Second); after > before && time.Now().Before(end); after = runtime.NumGoroutine() {
		runtime.Gosched()
	}
	if after > before {
		t.Errorf("%d goroutines before, %d after", before, after)
	}
	if _, err := net.Dial("tcp", st.Houses[1].Addr.String()); err == nil {
		t.Error("a closed house still answers")
	}
}

// street builds n houses at addresses of their own, on one port.
func street(t testing.TB, n int) *ollamatest.Street {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("127.0.0.0/8 is one address here")
	}
	all := slices.DeleteFunc(ollamatest.Variants(), func(s *ollamatest.Server) bool {
		return !strings.HasPrefix(s.Name, "ollama/") || s.TLS || s.Path != ""
	})
	ln, err := net.Listen("tcp", "127.0.0.1:0") // for a port that is free
	if err != nil {
		t.Fatal(err)
	}
	port := ln.Addr().(*net.TCPAddr).AddrPort().Port()
	ln.Close()
	houses := make([]ollamatest.House, n)
	for i := range houses {
		houses[i] = ollamatest.House{
			Addr:   netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 77, byte(i >> 8), byte(i)}), port),
			Server: all[i%len(all)],
		}
	}
	st, err := ollamatest.Open(houses...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(st.Close)
	return st
}

// TestFill holds that one listener can be a network of servers, and is none to
// anybody beyond it.
func TestFill(t *testing.T) {
	network := netip.MustParsePrefix("127.88.0.0/16")
	a, b := ollamatest.Ollama{Version: "0.5.7"}.Server("a"), ollamatest.Ollama{Version: "0.9.6"}.Server("b")
	ln, err := net.Listen("tcp", "127.0.0.1:0") // for a port that is free
	if err != nil {
		t.Fatal(err)
	}
	port := ln.Addr().(*net.TCPAddr).AddrPort().Port()
	ln.Close()
	st, err := ollamatest.Fill(network, port, func(at netip.Addr) *ollamatest.Server {
		switch at.As4()[3] {
		case 1:
			return a
		case 2:
			return b
		}
		return nil
	})
	if errors.Is(err, errors.ErrUnsupported) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	for addr, want := range map[string]string{
		"127.88.0.1": `{"version":"0.5.7"}`, "127.88.255.2": `{"version":"0.9.6"}`, "127.88.0.3": "", "127.87.0.1": "",
	} {
		_, body, err := get(t, a, netip.AddrPortFrom(netip.MustParseAddr(addr), port), "/api/version")
		if body != want || (err != nil) != (want == "") {
			t.Errorf("%s says %q, %v; want %q", addr, body, err, want)
		}
	}
	if _, err := ollamatest.Fill(netip.MustParsePrefix("192.0.2.0/24"), port, nil); !errors.Is(err, ollamatest.ErrNotLoopback) {
		t.Errorf("a network beyond loopback: %v", err)
	}
}

// TestThousands holds that 5,000 houses cost less than 40 MB.
func TestThousands(t *testing.T) {
	if testing.Short() {
		t.Skip("5,000 listeners")
	}
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapInuse + m.StackInuse
	}
	before := heap()
	st := street(t, 5000)
	for _, i := range []int{0, 2500, 4999} {
		if _, body, err := get(t, st.Houses[i].Server, st.Houses[i].Addr, "/"); err != nil || body != ollama.Banner {
			t.Errorf("house %d says %q, %v", i, body, err)
		}
	}
	used := heap() - before
	t.Logf("5,000 houses: %.1f MB", float64(used)/1e6)
	if used > 40e6 {
		t.Errorf("5,000 houses take %d bytes", used)
	}
}

// BenchmarkVisit measures visits of four requests each on a connection of their
// own, the client's side included.
func BenchmarkVisit(b *testing.B) {
	for _, c := range []struct {
		name  string
		piped bool
	}{{"one-by-one", false}, {"piped", true}} {
		b.Run(c.name, func(b *testing.B) {
			st := street(b, 1000)
			var next atomic.Int64
			var wg sync.WaitGroup
			ctx, cancel := context.WithCancel(b.Context())
			defer cancel()
			b.ResetTimer()
			for range 64 {
				wg.Go(func() {
					buf := make([]byte, 64<<10)
					for i := next.Add(1); i <= int64(b.N) && ctx.Err() == nil; i = next.Add(1) {
						if err := visit(st.Houses[int(i)%len(st.Houses)].Addr, buf, c.piped); err != nil {
							b.Error(err)
							cancel()
						}
					}
				})
			}
			wg.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "hosts/s")
		})
	}
}

var asks = []string{"/", "/api/version", "/api/tags", "/api/ps"}

func visit(at netip.AddrPort, buf []byte, piped bool) error {
	c, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(at))
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetLinger(0) // no TIME_WAIT: the ports would run out
	if !piped {
		for _, path := range asks {
			if _, err := io.WriteString(c, "GET "+path+" HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"); err != nil {
				return err
			}
			if _, err := c.Read(buf); err != nil {
				return err
			}
		}
		return nil
	}
	var all strings.Builder
	for _, path := range asks {
		all.WriteString("GET " + path + " HTTP/1.1\r\nHost: 127.0.0.1\r\n")
		if path == asks[len(asks)-1] {
			all.WriteString("Connection: close\r\n")
		}
		all.WriteString("\r\n")
	}
	if _, err := io.WriteString(c, all.String()); err != nil {
		return err
	}
	for {
		if _, err := c.Read(buf); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
	}
}
