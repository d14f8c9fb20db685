package upstream

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// raw is a server that answers each request on a connection with the same bytes,
// and hangs up after the last of them. It tells how many connections and how
// many requests there were.
func raw(t *testing.T, answers ...string) (url string, dialed, asked *atomic.Int64) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	dialed, asked = new(atomic.Int64), new(atomic.Int64)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			dialed.Add(1)
			go func() {
				defer conn.Close()
				_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
				r := bufio.NewReader(conn)
				for _, answer := range answers {
					request, err := http.ReadRequest(r)
					if err != nil {
						return
					}
					_, _ = io.Copy(io.Discard, request.Body)
					asked.Add(1)
					if _, err := io.WriteString(conn, answer); err != nil {
						return
					}
				}
			}()
		}
	}()
	return "http://" + l.Addr().String(), dialed, asked
}

const okAnswer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

// seen is what a caller gets to see of an answer.
func seen(t *testing.T, url, method string) string {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return "nothing"
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if resp.StatusCode == http.StatusBadGateway {
		return "502"
	}
	resp.Header.Del("Date")
	if strings.HasPrefix(resp.Header.Get("Content-Type"), "text/plain") {
		resp.Header.Del("Content-Type") // net/http may have guessed it, when ReverseProxy was fast enough
	}
	if resp.Header.Get("Transfer-Encoding") == "" && resp.ContentLength >= 0 {
		// net/http states the length of a short body that is there at once; whether
		// it is depends on how it came.
		resp.Header.Del("Content-Length")
	}
	whole := "whole"
	if err != nil {
		whole = "broken off"
	}
	return fmt.Sprintf("%d %v %q %s %v", resp.StatusCode, resp.Header, body, whole, resp.Trailer)
}

// hostile are answers that are wrong in some way, or unusual.
var hostile = map[string]string{
	"length":              okAnswer,
	"chunked":             "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n1;x=y\r\n!\r\n0\r\n\r\n",
	"trailers":            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 1\r\n\r\n",
	"unannounced trailer": "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-Late: 1\r\n\r\n",
	"HTTP/1.0":            "HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\nto the end",
	"no length":           "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nto the end",
	"no content":          "HTTP/1.1 204 No Content\r\n\r\n",
	"not modified":        "HTTP/1.1 304 Not Modified\r\nEtag: \"x\"\r\n\r\n",
	"empty":               "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
	"status 500":          "HTTP/1.1 500 X\r\nContent-Length: 1\r\n\r\nx",
	"hop by hop": "HTTP/1.1 200 OK\r\nConnection: X-Hop, keep-alive\r\nKeep-Alive: timeout=5\r\nX-Hop: 1\r\nUpgrade: h2c\r\nProxy-Authenticate: x\r\n" +
		"X-Two: 1\r\nX-Two: 2\r\nServer: x\r\nAccess-Control-Allow-Origin: *\r\nContent-Length: 2\r\n\r\nok",
	"continue first":    "HTTP/1.1 100 Continue\r\n\r\n" + okAnswer,
	"hints first":       "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + okAnswer,
	"switches":          "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhello",
	"silent":            "",
	"cut status":        "HTTP/1.1 20",
	"cut head":          "HTTP/1.1 200 OK\r\nContent-Le",
	"cut length":        "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok",
	"cut chunk":         "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nok",
	"no last chunk":     "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n",
	"bad chunk":         "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nok\r\n0\r\n\r\n",
	"huge chunk":        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff1\r\nok\r\n0\r\n\r\n",
	"two lengths":       "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nokk",
	"bad length":        "HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\nok",
	"length and chunks": "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
	"other encoding":    "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
	"folded header":     "HTTP/1.1 200 OK\r\nX-Fold: a\r\n b\r\nContent-Length: 2\r\n\r\nok",
	"bad header":        "HTTP/1.1 200 OK\r\nX Bad: a\r\nContent-Length: 2\r\n\r\nok",
	"no HTTP":           "SSH-2.0-x\r\n\r\n",
	"bad status":        "HTTP/1.1 abc OK\r\n\r\n",
	"long head":         "HTTP/1.1 200 OK\r\nX-Long: " + strings.Repeat("x", maxAnswerHead) + "\r\nContent-Length: 2\r\n\r\nok",
	"many headers":      "HTTP/1.1 200 OK\r\n" + strings.Repeat("X-Many: x\r\n", maxAnswerHead/8) + "Content-Length: 2\r\n\r\nok",
	"says too much":     okAnswer + okAnswer,
}

// TestWireAsProxy: what comes back by the wire is what ReverseProxy makes of it.
func TestWireAsProxy(t *testing.T) {
	for name, answer := range hostile {
		t.Run(name, func(t *testing.T) {
			url, _, _ := raw(t, answer)
			for _, method := range []string{"GET", "POST", "HEAD"} {
				_, s := front(t, url)
				wire := seen(t, s.URL, method)
				p, s := front(t, url)
				p.servers[0].wire.plain = false
				if proxy := seen(t, s.URL, method); wire != proxy {
					t.Errorf("%s by the wire\n%.300s\nby ReverseProxy\n%.300s", method, wire, proxy)
				}
			}
		})
	}
}

// TestWireInformal: answers before the one that counts come to an end.
func TestWireInformal(t *testing.T) {
	for n, want := range map[int]int{maxInformal: 200, maxInformal + 1: 502} {
		url, _, _ := raw(t, strings.Repeat("HTTP/1.1 100 Continue\r\n\r\n", n)+okAnswer)
		_, s := front(t, url)
		if status, _, _ := get(t, s.URL); status != want {
			t.Errorf("after %d: %d", n, status)
		}
	}
}

// TestWireRequest: what goes out by the wire is what ReverseProxy sends.
func TestWireRequest(t *testing.T) {
	var got *http.Request
	var body string
	up := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		text, _ := io.ReadAll(r.Body)
		got, body = r, string(text)
	}))
	defer up.Close()
	for _, base := range []string{"", "/", "/base", "/base/"} {
		p, s := front(t, up.URL+base)
		for _, to := range []struct{ method, path, body string }{
			{"GET", "/api/tags?ts=1", ""},
			{"HEAD", "/", ""},
			{"GET", "/v1/models/a%3Ab", ""},
			{"GET", "/a%2Fb//c", ""},
			{"POST", "/api/me", ""},
			{"DELETE", "/api/delete", `{"model":"x"}`},
			{"POST", "/api/chat", strings.Repeat("x", maxInline)},
			{"POST", "/api/chat", strings.Repeat("x", maxInline+1)},
		} {
			var sent []string
			for _, plain := range []bool{true, false} {
				p.servers[0].wire.plain = plain
				r, err := http.NewRequestWithContext(t.Context(), to.method, s.URL+to.path, strings.NewReader(to.body))
				if err != nil {
					t.Fatal(err)
				}
				for name, value := range map[string]string{
					"Te": "trailers, deflate", "Connection": "X-Hop", "X-Hop": "1", "X-Kept": "yes", "Accept": "a, b", "Proxy-Connection": "close",
					"X-Forwarded-Proto": "https", "X-Real-Ip": "192.0.2.1", "Forwarded": "for=x", "Origin": "https://x", "User-Agent": "",
				} {
					r.Header.Set(name, value)
				}
				r.Header.Add("X-Two", "1")
				r.Header.Add("X-Two", "2")
				resp, err := http.DefaultClient.Do(r)
				if err != nil {
					t.Fatal(err)
				}
				_ = resp.Body.Close()
				sent = append(sent, fmt.Sprint(got.Method, got.RequestURI, got.Host, got.Header, got.ContentLength, got.TransferEncoding, len(body)))
			}
			if sent[0] != sent[1] {
				t.Errorf("%s to %q: by the wire\n%s\nby ReverseProxy\n%s", to.path, base, sent[0], sent[1])
			}
		}
	}
}

// TestWireRefuses: what would be read as more than one header is not sent.
func TestWireRefuses(t *testing.T) {
	url, _, asked := raw(t, okAnswer)
	p, _ := front(t, url)
	for _, change := range []func(*http.Request){
		func(r *http.Request) { r.Header["X-A"] = []string{"1\r\nAuthorization: x"} },
		func(r *http.Request) { r.Header["X-A: 1\r\nX-B"] = []string{"1"} },
		func(r *http.Request) { r.Header["X A"] = []string{"1"} },
		func(r *http.Request) { r.Method = "GET / HTTP/1.1\r\nX-A: 1\r\n\r\nGET" },
		func(r *http.Request) { r.URL.Path, r.URL.RawPath = "*", "" },
		func(r *http.Request) {
			r.Body, r.ContentLength = io.NopCloser(strings.NewReader("short")), 9
			r.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader("short")), nil }
		},
		func(r *http.Request) {
			r.Body, r.ContentLength = io.NopCloser(strings.NewReader("long")), 1
			r.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader("long")), nil }
		},
	} {
		r := httptest.NewRequest("GET", "/", nil)
		change(r)
		w := httptest.NewRecorder()
		p.ServeHTTP(w, r)
		if w.Code != 502 || asked.Load() != 0 {
			t.Errorf("%q %v: %d, asked %d times", r.Method, r.Header, w.Code, asked.Load())
		}
	}
}

// TestWireReuse: one connection does for requests after each other, as long as
// nothing was wrong with it.
func TestWireReuse(t *testing.T) {
	for name, c := range map[string]struct {
		answers []string
		dialed  int64
	}{
		"well":          {[]string{okAnswer, okAnswer, okAnswer, okAnswer}, 1},
		"chunked":       {slices.Repeat([]string{"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"}, 4), 1},
		"says too much": {slices.Repeat([]string{okAnswer + okAnswer}, 4), 4},
		"says close":    {slices.Repeat([]string{"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"}, 4), 4},
		"closes":        {[]string{okAnswer}, 4},
	} {
		t.Run(name, func(t *testing.T) {
			url, dialed, asked := raw(t, c.answers...)
			p, s := front(t, url)
			for range 4 {
				// A server that hangs up needs a moment for it to be known.
				for end := time.Now().Add(10 * time.Second); len(p.servers[0].wire.idle) > 0 && c.dialed > 1; {
					if l := p.servers[0].wire.idle[0]; !l.alive() || time.Now().After(end) {
						break
					}
				}
				resp, err := http.Post(s.URL, "text/plain", strings.NewReader("hello"))
				if err != nil {
					t.Fatal(err)
				}
				body, err := io.ReadAll(resp.Body)
				_ = resp.Body.Close()
				if err != nil || resp.StatusCode != 200 || string(body) != "ok" {
					t.Fatalf("%s %q %v", resp.Status, body, err)
				}
			}
			if dialed.Load() != c.dialed || asked.Load() != 4 {
				t.Errorf("%d connections for %d requests", dialed.Load(), asked.Load())
			}
		})
	}
}

// TestWireStale: a request that met a connection's end is sent again if that can
// do no harm, and once at most.
func TestWireStale(t *testing.T) {
	url, dialed, asked := raw(t, okAnswer, "") // the second request of each is not answered
	_, s := front(t, url)
	for i := range 3 {
		if status, body, _ := get(t, s.URL); status != 200 || body != "ok" {
			t.Fatalf("request %d: %d %s", i, status, body)
		}
	}
	if dialed.Load() != 3 || asked.Load() != 5 {
		t.Errorf("%d connections, asked %d times", dialed.Load(), asked.Load())
	}
	before := asked.Load()
	resp, err := http.Post(s.URL, "text/plain", strings.NewReader("hello"))
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != 502 || asked.Load() != before+1 {
		t.Errorf("%s, asked %d times", resp.Status, asked.Load()-before)
	}
}

// TestWireIdle: no more lines are kept than may be, none for too long, and none
// after the end.
func TestWireIdle(t *testing.T) {
	up := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer up.Close()
	p, _ := front(t, up.URL)
	w := p.servers[0].wire
	w.most = 2
	var lines []*line
	for range 3 {
		l, err := w.line(t.Context(), false)
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, l)
	}
	for _, l := range lines {
		w.put(l)
	}
	if len(w.idle) != 2 {
		t.Fatalf("%d lines are idle", len(w.idle))
	}
	w.idle[0].quiet = time.Now().Add(-2 * idleTime)
	if w.rest(time.Now()); len(w.idle) != 1 {
		t.Errorf("%d lines are idle after a while", len(w.idle))
	}
	last := w.idle[0]
	l, err := w.line(t.Context(), false)
	if err != nil || l != last {
		t.Errorf("another line than the idle one, %v", err)
	}
	w.put(last)
	up.CloseClientConnections()
	for end := time.Now().Add(10 * time.Second); len(w.idle) > 0 && time.Now().Before(end); {
		w.rest(time.Now())
	}
	if len(w.idle) > 0 {
		t.Error("a line is kept that the server has hung up")
	}
	if last, err = w.line(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	w.put(last)
	p.Close()
	if l := w.take(time.Now()); l != nil {
		t.Error("a line is left after the end")
	}
	if w.put(last); len(w.idle) > 0 || last.alive() {
		t.Error("a line is kept after the end")
	}
}

// told is a caller that tells when the answer has begun.
type told struct {
	*httptest.ResponseRecorder
	begun chan struct{}
}

func (w *told) Write(p []byte) (int, error) {
	close(w.begun)
	return len(p), nil
}

// TestWireCancel: a caller that leaves ends the request, wherever that is, and
// the line is not used again.
func TestWireCancel(t *testing.T) {
	for name, begins := range map[string]string{
		"before the answer": "", "in the head": "HTTP/1.1 200 OK\r\n", "in the body": "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nx",
	} {
		t.Run(name, func(t *testing.T) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			p, err := New(Config{Servers: []Server{{URL: parse(t, "http://"+l.Addr().String())}}})
			if err != nil {
				t.Fatal(err)
			}
			defer p.Close()
			ctx, cancel := context.WithCancel(t.Context())
			done, w := make(chan any), &told{httptest.NewRecorder(), make(chan struct{})}
			go func() {
				defer func() { done <- recover() }()
				p.ServeHTTP(w, httptest.NewRequest("GET", "/", nil).WithContext(ctx))
			}()
			conn, err := l.Accept()
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
			if _, err := http.ReadRequest(bufio.NewReader(conn)); err != nil {
				t.Fatal(err)
			}
			if _, err := io.WriteString(conn, begins); err != nil {
				t.Fatal(err)
			}
			if strings.HasSuffix(name, "body") {
				<-w.begun
			}
			cancel()
			if _, err := conn.Read(make([]byte, 1)); err == nil {
				t.Error("the line stays")
			}
			if broke := <-done; (broke != nil) != strings.HasSuffix(name, "body") {
				t.Errorf("it ended with %v", broke)
			}
			if len(p.servers[0].wire.idle) > 0 {
				t.Error("the line is kept")
			}
		})
	}
}
