package upstream

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"gatehouse/internal/ollama/realollama"
)

func parse(t *testing.T, raw string) *url.URL {
	t.Helper()
	u, err := url.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// front serves a pool over the servers as a gate does.
func front(t *testing.T, servers ...string) (*Pool, *httptest.Server) {
	t.Helper()
	c := Config{OnError: func(w http.ResponseWriter, _ *http.Request, err error) {
		w.WriteHeader(http.StatusBadGateway)
		_, _ = io.WriteString(w, err.Error())
	}}
	for _, s := range servers {
		c.Servers = append(c.Servers, Server{URL: parse(t, s), Slots: 2})
	}
	p, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if body, err := io.ReadAll(io.LimitReader(r.Body, 1<<16)); err == nil && len(body) < 1<<16 {
			r.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(string(body))), nil }
			r.ContentLength, r.TransferEncoding = int64(len(body)), nil
		} else {
			r.Body = io.NopCloser(io.MultiReader(strings.NewReader(string(body)), r.Body))
		}
		p.ServeHTTP(w, r.WithContext(WithModel(r.Context(), r.Header.Get("X-Model"))))
	}))
	t.Cleanup(func() { s.Close(); p.Close() })
	return p, s
}

func get(t *testing.T, url string, header ...string) (int, string, http.Header) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), "GET", url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body), resp.Header
}

// closed is an address where nobody listens.
func closed(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return "http://" + l.Addr().String()
}

func TestHeaders(t *testing.T) {
	var got *http.Request
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got = r
		w.Header().Set("Access-Control-Allow-Origin", "*")
		w.Header().Set("Server", "x")
		w.Header().Set("X-Kept", "yes")
	}))
	defer up.Close()
	_, s := front(t, up.URL+"/base")
	_, _, header := get(t, s.URL+"/api/tags?ts=1", "Origin", "https://x.example", "Referer", "https://x.example/", "X-Forwarded-For", "1.2.3.4",
		"X-Forwarded-Prefix", "/x", "Forwarded", "for=1.2.3.4", "Connection", "X-Hop", "X-Hop", "1", "X-Request-Id", "abc")
	if got.URL.Path != "/base/api/tags" || got.URL.RawQuery != "" || got.Host != strings.TrimPrefix(up.URL, "http://") {
		t.Errorf("%s of %s", got.URL, got.Host)
	}
	for name := range got.Header {
		if strings.HasPrefix(name, "X-F") || slices.Contains([]string{"Origin", "Referer", "X-Hop"}, name) {
			t.Errorf("%s reaches the upstream", name)
		}
	}
	if want := fmt.Sprintf("for=127.0.0.1;host=%q;proto=http", strings.TrimPrefix(s.URL, "http://")); got.Header.Get("Forwarded") != want {
		t.Errorf("forwarded %s, want %s", got.Header["Forwarded"], want)
	}
	if got.Header.Get("X-Request-Id") != "abc" || header.Get("Access-Control-Allow-Origin") != "" || header.Get("Server") != "" || header.Get("X-Kept") != "yes" {
		t.Errorf("%v came back", header)
	}
}

func TestForwarded(t *testing.T) {
	for from, want := range map[string]string{
		"192.0.2.1:5":              "192.0.2.1",
		"[::ffff:192.0.2.1]:5":     "192.0.2.1",
		"[2001:db8::1]:5":          `"[2001:db8::1]"`,
		"[fe80::1%eth0;proto=x]:5": `"[fe80::1]"`,
		"@":                        "unknown",
	} {
		r := httptest.NewRequest("GET", "https://box:8443/", nil)
		r.RemoteAddr = from
		if got := forwarded(r); got != "for="+want+`;host="box:8443";proto=https` {
			t.Errorf("%s: %s", from, got)
		}
	}
}

// TestTrailers: what comes after an answer passes, and what a caller puts after a
// request, where nobody looks for credentials, does not.
func TestTrailers(t *testing.T) {
	var got http.Header
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Trailer", "X-Sum")
		_, _ = io.Copy(w, r.Body)
		got = r.Trailer
		w.Header().Set("X-Sum", "there")
		w.Header().Set(http.TrailerPrefix+"X-Late", "too")
	}))
	defer up.Close()
	p, err := New(Config{Servers: []Server{{URL: parse(t, up.URL)}}})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	s := httptest.NewServer(p)
	defer s.Close()
	r, err := http.NewRequestWithContext(t.Context(), "POST", s.URL, io.NopCloser(strings.NewReader("body")))
	if err != nil {
		t.Fatal(err)
	}
	r.Trailer = http.Header{"X-Api-Key": {"secret"}}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if err != nil || string(body) != "body" || len(got) > 0 || resp.Trailer.Get("X-Sum") != "there" || resp.Trailer.Get("X-Late") != "too" {
		t.Errorf("%q %v, up %v, down %v", body, err, got, resp.Trailer)
	}
}

func TestUnixSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ollama.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.URL.Path) })}
	go func() { _ = srv.Serve(l) }()
	defer srv.Close()
	_, s := front(t, "unix://"+path)
	if status, body, _ := get(t, s.URL+"/api/tags"); status != 200 || body != "/api/tags" {
		t.Errorf("%d %s", status, body)
	}
}

func TestBadURLs(t *testing.T) {
	for _, raw := range []string{"ftp://x", "http:", "unix://relative.sock", "unix:///"[:7]} {
		if _, err := New(Config{Servers: []Server{{URL: parse(t, raw)}}}); err == nil {
			t.Errorf("%s is taken", raw)
		}
	}
	if _, err := New(Config{Servers: []Server{{}}}); err == nil {
		t.Error("no URL is taken")
	}
	if _, err := New(Config{}); !errors.Is(err, ErrNone) {
		t.Error(err)
	}
}

// TestStream: a piece comes out before the next goes in, and a caller that
// leaves ends the request behind.
func TestStream(t *testing.T) {
	next, ended := make(chan string), make(chan struct{})
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for {
			select {
			case p := <-next:
				_, _ = io.WriteString(w, p)
				w.(http.Flusher).Flush()
			case <-r.Context().Done():
				close(ended)
				return
			}
		}
	}))
	defer up.Close()
	_, s := front(t, up.URL)
	ctx, cancel := context.WithCancel(t.Context())
	r, err := http.NewRequestWithContext(ctx, "GET", s.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	go func() { next <- "0\n" }()
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	lines := bufio.NewReader(resp.Body)
	for i := range 5 {
		if i > 0 {
			next <- fmt.Sprint(i, "\n")
		}
		if line, err := lines.ReadString('\n'); line != fmt.Sprint(i, "\n") {
			t.Fatalf("%q %v", line, err)
		}
	}
	cancel()
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		t.Error("the upstream goes on")
	}
}

func TestRetry(t *testing.T) {
	var asked atomic.Int64
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		body, _ := io.ReadAll(r.Body)
		_, _ = w.Write(body)
	}))
	defer up.Close()
	_, s := front(t, closed(t), up.URL)
	resp, err := http.Post(s.URL, "text/plain", strings.NewReader("hello"))
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if err != nil || string(body) != "hello" || asked.Load() != 1 {
		t.Errorf("%q %v, asked %d times", body, err, asked.Load())
	}

	// What may have begun is not done twice.
	asked.Store(0)
	broken := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		panic(http.ErrAbortHandler)
	}))
	defer broken.Close()
	_, s = front(t, broken.URL, broken.URL)
	resp, err = http.Post(s.URL, "text/plain", strings.NewReader("hello"))
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != 502 || asked.Load() != 1 {
		t.Errorf("%s, asked %d times", resp.Status, asked.Load())
	}
	_, s = front(t, closed(t))
	if status, body, _ := get(t, s.URL); status != 502 || !strings.Contains(body, "refused") {
		t.Errorf("%d %s", status, body)
	}
}

func TestGarbage(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(conn, "SSH-2.0-x\r\n\r\n")
			_ = conn.Close()
		}
	}()
	_, s := front(t, "http://"+l.Addr().String())
	if status, _, _ := get(t, s.URL); status != 502 {
		t.Errorf("garbage: %d", status)
	}
}

// TestEjection: an outage is counted once however many requests it met, pauses
// grow, and one that works ends them.
func TestEjection(t *testing.T) {
	p, err := New(Config{Servers: []Server{{URL: parse(t, "http://a.invalid")}, {URL: parse(t, "http://b.invalid")}}})
	if err != nil {
		t.Fatal(err)
	}
	a := p.servers[0]
	now := time.Now()
	for range maxFailures {
		if p.order("", now)[0] != a {
			t.Fatal("passed over too soon")
		}
		a.failed(io.EOF, now)
	}
	for range 50 {
		a.failed(io.EOF, now)
	}
	if p.order("", now)[0] == a || p.order("", now.Add(firstPause))[0] != a {
		t.Errorf("passed over until %s, want %s", a.until, now.Add(firstPause))
	}
	for i := range 20 {
		now = a.until
		a.failed(io.EOF, now)
		if pause := a.until.Sub(now); pause > maxPause || pause < firstPause {
			t.Fatalf("pause %d is %s", i, pause)
		}
	}
	if a.until.Sub(now) != maxPause {
		t.Errorf("the last pause is %s", a.until.Sub(now))
	}
}

func TestChoice(t *testing.T) {
	serve := func(models, loaded string) string {
		mux := http.NewServeMux()
		mux.HandleFunc("/api/version", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{"version":"0.17.4"}`) })
		mux.HandleFunc("/api/tags", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintf(w, `{"models":[%s]}`, models) })
		mux.HandleFunc("/api/ps", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintf(w, `{"models":[%s]}`, loaded) })
		s := httptest.NewServer(mux)
		t.Cleanup(s.Close)
		return s.URL
	}
	const a, b = `{"name":"a:latest"}`, `{"name":"b:latest","remote_host":"https://ollama.com:443"}`
	empty, has, loaded := serve("", ""), serve(a, ""), serve(a+","+b, a)
	p, _ := front(t, empty, has, loaded, closed(t))
	for _, s := range p.servers {
		s.look(t.Context())
	}
	first := func(model string) string { return p.order(model, time.Now())[0].URL.String() }
	if got := first("a"); got != loaded {
		t.Errorf("a goes to %s", got)
	}
	p.servers[2].inFlight = 2 // no place left where it is loaded
	if got := first("a"); got != has {
		t.Errorf("a goes to %s when there is no place", got)
	}
	if got := first("b:latest"); got != loaded {
		t.Errorf("b goes to %s", got)
	}
	if got := first("c"); got == loaded {
		t.Errorf("c goes to the busiest")
	}
	status := p.Status()
	if status[3].Healthy || status[3].Error == "" || !status[2].Healthy || !slices.Equal(status[2].Loaded, []string{"a:latest"}) || status[0].Version != "0.17.4" {
		t.Errorf("%+v", status)
	}
	if text, err := json.Marshal(status); err != nil || !strings.Contains(string(text), `"in_flight":2`) {
		t.Errorf("%s %v", text, err)
	}
	if p.Elsewhere("a:latest") || !p.Elsewhere("b:latest") || p.Elsewhere("c:latest") {
		t.Error("which models compute elsewhere is not known")
	}
	if p.Slots() != 8 {
		t.Errorf("%d slots", p.Slots())
	}
}

// TestUpload sends more than memory should hold.
func TestUpload(t *testing.T) {
	const size = 256 << 20
	var got int64
	up := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got, _ = io.Copy(io.Discard, r.Body) }))
	defer up.Close()
	_, s := front(t, up.URL)
	var most atomic.Uint64
	body := io.LimitReader(readerFunc(func(p []byte) (int, error) {
		if most.Load() == 0 || got%(1<<20) == 0 {
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			most.Store(max(most.Load(), m.HeapInuse))
		}
		return len(p), nil
	}), size)
	resp, err := http.Post(s.URL, "application/octet-stream", io.NopCloser(io.LimitReader(body, size)))
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != 200 || got != size || most.Load() > 64<<20 {
		t.Errorf("%s, %d bytes, %d MiB of heap", resp.Status, got, most.Load()>>20)
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// TestAborted leaves 300 streams and counts what is left over.
func TestAborted(t *testing.T) {
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "x")
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	}))
	defer up.Close()
	p, s := front(t, up.URL)
	before := runtime.NumGoroutine()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	for range 300 {
		ctx, cancel := context.WithCancel(t.Context())
		r, err := http.NewRequestWithContext(ctx, "GET", s.URL, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		cancel()
		_ = resp.Body.Close()
	}
	p.Close()
	for end := time.Now().Add(10 * time.Second); runtime.NumGoroutine() > before+10 || p.Status()[0].InFlight > 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d goroutines, %d before; %d in flight", runtime.NumGoroutine(), before, p.Status()[0].InFlight)
		}
	}
}

// TestCancelReal: the real Ollama stops computing when a caller leaves.
func TestCancelReal(t *testing.T) {
	server := realollama.Start(t, realollama.Env("OLLAMA_NUM_PARALLEL=1"))
	_, s := front(t, server.URL)
	ctx, cancel := context.WithCancel(t.Context())
	r, err := http.NewRequestWithContext(ctx, "POST", s.URL+"/api/generate",
		strings.NewReader(`{"model":"tiny","prompt":"hi","options":{"num_predict":1000000,"num_ctx":512}}`))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := bufio.NewReader(resp.Body).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	cancel()
	_ = resp.Body.Close()
	// The one place is free again: another request is answered.
	ctx, stop := context.WithTimeout(t.Context(), 20*time.Second)
	defer stop()
	r, err = http.NewRequestWithContext(ctx, "POST", s.URL+"/api/generate", strings.NewReader(`{"model":"tiny","prompt":"hi","stream":false,"options":{"num_predict":2}}`))
	if err != nil {
		t.Fatal(err)
	}
	resp, err = http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, err := io.ReadAll(resp.Body); err != nil || !strings.Contains(string(body), `"done":true`) {
		t.Errorf("%s %v", body, err)
	}
}

func TestBypass(t *testing.T) {
	serve := func(answer http.HandlerFunc) string {
		s := httptest.NewServer(answer)
		t.Cleanup(s.Close)
		return strings.TrimPrefix(s.URL, "http://")
	}
	behind := map[string]string{
		"192.0.2.1": serve(func(w http.ResponseWriter, r *http.Request) {
			if r.Host == "localhost" && r.URL.Path == "/api/version" {
				_, _ = io.WriteString(w, `{"version":"0.17.4"}`)
			}
		}),
		"192.0.2.2": serve(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/" {
				_, _ = io.WriteString(w, "Ollama is running")
			} else {
				w.WriteHeader(404)
			}
		}),
		"192.0.2.3": serve(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(401) }),
		"192.0.2.4": serve(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") }),
	}
	b := Bypass{Dial: func(ctx context.Context, at netip.AddrPort) (net.Conn, error) {
		to, ok := behind[at.Addr().String()]
		if !ok {
			return nil, errors.New("nobody there")
		}
		return new(net.Dialer).DialContext(ctx, "tcp", to)
	}}
	var addrs []netip.Addr
	for i := range 6 {
		addrs = append(addrs, netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}))
	}
	if got := fmt.Sprint(b.Find(t.Context(), addrs, 11434)); got != "[192.0.2.1 192.0.2.2]" {
		t.Errorf("found %s", got)
	}
	here := netip.MustParseAddrPort(behind["192.0.2.1"])
	if got := (Bypass{}).Find(t.Context(), []netip.Addr{here.Addr()}, here.Port()); len(got) != 1 {
		t.Errorf("found %v", got)
	}
}

func BenchmarkGet(b *testing.B) {
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{"version":"0.17.4"}`) }))
	defer up.Close()
	u, err := url.Parse(up.URL)
	if err != nil {
		b.Fatal(err)
	}
	p, err := New(Config{Servers: []Server{{URL: u, Slots: 4}}})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		w := httptest.NewRecorder()
		p.ServeHTTP(w, httptest.NewRequest("GET", "/api/version", nil))
		if w.Code != 200 {
			b.Fatal(w.Code)
		}
	}
}
