package gateway_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"gatehouse/internal/gateway"
	"gatehouse/internal/key"
	"gatehouse/internal/ledger"
	"gatehouse/internal/limit"
	"gatehouse/internal/ollama"
)

// book is a ledger in memory.
type book struct {
	mu      sync.Mutex
	records []ledger.Record
	err     error
	added   chan struct{}
}

func (b *book) Append(r ledger.Record) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.records = append(b.records, r)
	select {
	case b.added <- struct{}{}:
	default:
	}
	return nil
}

func (b *book) Err() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.err
}

// last waits until there are n records and returns the last.
func (b *book) last(t *testing.T, n int) ledger.Record {
	t.Helper()
	timeout := time.After(10 * time.Second)
	for {
		b.mu.Lock()
		if len(b.records) >= n {
			r := b.records[n-1]
			b.mu.Unlock()
			return r
		}
		b.mu.Unlock()
		select {
		case <-b.added:
		case <-timeout:
			t.Fatalf("no record %d", n)
		}
	}
}

func (b *book) len() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.records)
}

// rig is a gate before an upstream that a test makes up.
type rig struct {
	*httptest.Server
	front *gateway.Gateway
	book  *book
	ring  *key.Ring

	mu    sync.Mutex
	asked []*http.Request
}

func (r *rig) requests() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.asked)
}

// newRig makes a gate in front of serve.
func newRig(t *testing.T, serve http.HandlerFunc, keys ...key.Key) *rig {
	t.Helper()
	r := &rig{book: &book{added: make(chan struct{}, 1)}, ring: new(key.Ring)}
	r.ring.Replace(keys)
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		r.mu.Lock()
		r.asked = append(r.asked, req)
		r.mu.Unlock()
		serve(w, req)
	}))
	t.Cleanup(up.Close)
	to, err := url.Parse(up.URL)
	if err != nil {
		t.Fatal(err)
	}
	r.front = &gateway.Gateway{
		Door: &key.Door{Ring: r.ring}, Limiter: limit.New(), Queue: limit.NewQueue(8, 8), Ledger: r.book,
		Upstream: &httputil.ReverseProxy{
			Rewrite:       func(p *httputil.ProxyRequest) { p.SetURL(to) },
			FlushInterval: -1,
			ErrorHandler:  gateway.UpstreamFailed,
		},
	}
	r.Server = httptest.NewUnstartedServer(r.front)
	r.Config.DisableGeneralOptionsHandler = true
	r.Start()
	t.Cleanup(r.Close)
	return r
}

// newKey is a key with powers over models.
func newKey(name string, change func(*key.Key)) (string, key.Key) {
	token, k := key.Mint(time.Now())
	k.Name = name
	k.Terms = key.Terms{Powers: []ollama.Power{ollama.Hello, ollama.Read, ollama.Infer}, Models: []string{"tiny"}}
	if change != nil {
		change(&k)
	}
	return token, k
}

func (r *rig) do(t *testing.T, method, path, token, body string) (int, http.Header, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, r.URL+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := r.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, string(text)
}

const chat = `{"model":"tiny","messages":[{"role":"user","content":"hi"}]}`

// pieces is a native stream of n pieces.
func pieces(n int) []string {
	var list []string
	for range n {
		list = append(list, `{"model":"tiny","message":{"role":"assistant","content":" blue"},"done":false}`+"\n")
	}
	return append(list, fmt.Sprintf(`{"model":"tiny","message":{"role":"assistant","content":""},"done":true,"done_reason":"stop","prompt_eval_count":12,"eval_count":%d}`+"\n", n))
}

func stream(list []string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "application/x-ndjson")
		for _, p := range list {
			_, _ = io.WriteString(w, p)
			w.(http.Flusher).Flush()
		}
	}
}

// TestNobodyEnters holds every route against everybody who has no business there.
func TestNobodyEnters(t *testing.T) {
	good, goodKey := newKey("good", nil)
	callers := map[string]string{"no key": "", "unknown": good[:3] + "0000000000" + good[13:], "cut off": good[:len(good)-2]}
	keys := []key.Key{goodKey}
	stranger, _ := newKey("stranger", nil)
	callers["of another gate"] = stranger
	add := func(name string, change func(*key.Key)) {
		token, k := newKey(name, change)
		callers[name] = token
		keys = append(keys, k)
	}
	every := []ollama.Power{ollama.Hello, ollama.Read, ollama.Infer, ollama.Manage, ollama.Account}
	add("revoked", func(k *key.Key) { k.Revoked = time.Now() })
	add("expired", func(k *key.Key) { k.Expires = time.Now().Add(-time.Second) })
	add("nothing given", func(k *key.Key) { k.Terms = key.Terms{} })
	add("wrong source", func(k *key.Key) {
		k.Terms.Powers = every
		k.Terms.Sources = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
	})
	add("out of hours", func(k *key.Key) {
		k.Terms.Powers = every
		at := time.Now().UTC()
		now := time.Duration(at.Hour()) * time.Hour
		k.Terms.Hours = []key.Window{{From: (now + 3*time.Hour) % (24 * time.Hour), To: (now + 4*time.Hour) % (24 * time.Hour)}}
	})
	r := newRig(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) }, keys...)
	n := 0
	for _, route := range ollama.Routes {
		path := strings.NewReplacer(":digest", "sha256:"+strings.Repeat("0", 64), ":model", "tiny", ":encodedKey", "abc").Replace(route.Pattern)
		for name, token := range callers {
			body := ""
			if route.Method == "POST" {
				body = chat
			}
			status, header, text := r.do(t, route.Method, path, token, body)
			n++
			record := r.book.last(t, n)
			if status < 400 || status >= 500 || strings.Contains(text, token) && token != "" || header.Get("X-Request-Id") == "" {
				t.Errorf("%s at %s %s: %d %s", name, route.Method, path, status, text)
			}
			if record.Allowed || record.Reason == "" || record.Status != status || record.ID != header.Get("X-Request-Id") || record.Power != string(route.Power) {
				t.Errorf("%s at %s %s: %+v", name, route.Method, path, record)
			}
		}
	}
	if r.requests() > 0 || r.book.len() != n {
		t.Errorf("%d requests came through; %d lines in the ledger for %d", r.requests(), r.book.len(), n)
	}
	// A key with every power but the one, and one for another model.
	for _, route := range ollama.Routes {
		token, k := newKey("all but one", func(k *key.Key) {
			k.Terms.Powers = slices.DeleteFunc(slices.Clone(every), func(p ollama.Power) bool { return p == route.Power })
			k.Terms.Models = []string{"*"}
		})
		r.ring.Replace([]key.Key{k})
		path := strings.NewReplacer(":digest", "sha256:"+strings.Repeat("0", 64), ":model", "tiny", ":encodedKey", "abc").Replace(route.Pattern)
		if status, _, text := r.do(t, route.Method, path, token, chat); status != 403 {
			t.Errorf("%s %s without %s: %d %s", route.Method, path, route.Power, status, text)
		}
	}
	token, k := newKey("another model", func(k *key.Key) { k.Terms.Models = []string{"other:*"} })
	r.ring.Replace([]key.Key{k})
	for _, path := range []string{"/api/chat", "/api/generate", "/api/show", "/v1/chat/completions", "/v1/messages", "/api/embed"} {
		if status, _, text := r.do(t, "POST", path, token, chat); status < 400 || status >= 500 {
			t.Errorf("%s of another model: %d %s", path, status, text)
		}
	}
	if r.requests() > 0 {
		t.Errorf("%d requests came through", r.requests())
	}
}

// TestTargets writes request lines that one router reads so and another so.
func TestTargets(t *testing.T) {
	token, k := newKey("laptop", nil)
	r := newRig(t, func(w http.ResponseWriter, _ *http.Request) {}, k)
	for _, line := range []string{
		"GET /api//tags", "GET //api/tags", "GET /api/./tags", "GET /api/x/../tags", "GET /api/tags/", "GET /API/tags", "GET /api/tags;x",
		"GET /api%2ftags", "GET /api/%74ags", "GET /api/tags%00", "GET /api/tags%20", "GET /api/tags/..;/delete", "GET http://evil.example/api/tags",
		"GET *", "OPTIONS *", "CONNECT x:1", "TRACE /api/tags", "PATCH /api/tags", "get /api/tags", "GET /v1/models/a%2fb", "GET /api/tags#x", "GET /..%2fapi/tags",
		"DELETE /api/tags", "POST /api/nothing", "PROPFIND /api/chat", "GET /metrics", "GET /debug/pprof/",
	} {
		conn, err := net.Dial("tcp", r.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
		fmt.Fprintf(conn, "%s HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %s\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", line, token)
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		if resp.StatusCode < 400 || resp.StatusCode >= 500 {
			t.Errorf("%s: %s", line, resp.Status)
		}
		_ = resp.Body.Close()
		_ = conn.Close()
	}
	if r.requests() > 0 {
		t.Errorf("%s %s came through", r.asked[0].Method, r.asked[0].URL)
	}
}

func TestStreams(t *testing.T) {
	token, k := newKey("laptop", nil)
	list := pieces(20)
	r := newRig(t, stream(list), k)
	status, header, text := r.do(t, "POST", "/api/chat?ts=1", token, chat)
	if status != 200 || text != strings.Join(list, "") || header.Get("Content-Type") != "application/x-ndjson" {
		t.Errorf("%d %v %q", status, header, text)
	}
	record := r.book.last(t, 1)
	if !record.Allowed || record.TokensIn != 12 || record.TokensOut != 20 || record.Model != "tiny" || record.Identity.Name != "laptop" ||
		record.BytesIn != int64(len(chat)) || record.BytesOut != int64(len(text)) || record.TTFT <= 0 || record.Duration < record.TTFT || record.Reason != "" || record.Estimated {
		t.Errorf("%+v", record)
	}
	for name, values := range r.asked[0].Header {
		if strings.Contains(strings.Join(values, " "), "gh_") || name == "Authorization" {
			t.Errorf("%s reaches the upstream", name)
		}
	}
	if r.asked[0].Header.Get("X-Request-Id") != record.ID {
		t.Error("the upstream is not told the request's id")
	}
}

// TestFlush: each piece comes out before the next goes in.
func TestFlush(t *testing.T) {
	token, k := newKey("laptop", nil)
	next := make(chan string)
	r := newRig(t, func(w http.ResponseWriter, _ *http.Request) {
		for p := range next {
			_, _ = io.WriteString(w, p)
			w.(http.Flusher).Flush()
		}
	}, k)
	list := pieces(5)
	req, err := http.NewRequestWithContext(t.Context(), "POST", r.URL+"/api/chat", strings.NewReader(chat))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	go func() { next <- list[0] }()
	resp, err := r.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	lines := bufio.NewReader(resp.Body)
	for i, want := range list {
		if i > 0 {
			next <- want
		}
		if line, err := lines.ReadString('\n'); line != want {
			t.Fatalf("piece %d: %q %v", i, line, err)
		}
	}
	close(next)
}

// TestBudget cuts a stream where the key's tokens end, in the dialect's words.
func TestBudget(t *testing.T) {
	token, k := newKey("laptop", func(k *key.Key) { k.Terms.Limits.TokensDay = 60 })
	ended := make(chan struct{})
	r := newRig(t, func(w http.ResponseWriter, req *http.Request) {
		defer close(ended)
		for req.Context().Err() == nil {
			_, _ = io.WriteString(w, pieces(1)[0])
			w.(http.Flusher).Flush()
			time.Sleep(time.Millisecond)
		}
	}, k)
	status, _, text := r.do(t, "POST", "/api/chat", token, chat)
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	last := lines[len(lines)-1]
	if status != 200 || !strings.Contains(last, `"done":true`) || len(lines) > 62 || len(lines) < 20 {
		t.Errorf("%d, %d lines, the last %s", status, len(lines), last)
	}
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		t.Error("the upstream goes on")
	}
	if record := r.book.last(t, 1); record.Reason != "tokens-cut" || !record.Allowed || !record.Estimated || record.TokensOut < 20 {
		t.Errorf("%+v", record)
	}
	status, header, text := r.do(t, "POST", "/api/chat", token, chat)
	if status != 429 || header.Get("Retry-After") == "" || !strings.Contains(text, "tokens") {
		t.Errorf("%d %v %s", status, header, text)
	}
}

// TestGone: a caller that leaves lets the upstream go, and is accounted for.
func TestGone(t *testing.T) {
	token, k := newKey("laptop", nil)
	ended := make(chan struct{})
	r := newRig(t, func(w http.ResponseWriter, req *http.Request) {
		_, _ = io.WriteString(w, pieces(1)[0])
		w.(http.Flusher).Flush()
		<-req.Context().Done()
		close(ended)
	}, k)
	ctx, cancel := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, "POST", r.URL+"/api/chat", strings.NewReader(chat))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := r.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := resp.Body.Read(make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	cancel()
	_ = resp.Body.Close()
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		t.Fatal("the upstream goes on")
	}
	if record := r.book.last(t, 1); record.Reason != "client-gone" || !record.Allowed || record.TokensOut == 0 {
		t.Errorf("%+v", record)
	}
}

// TestUpstreamBreaks: what broke off is seen to be broken off, and accounted for.
func TestUpstreamBreaks(t *testing.T) {
	token, k := newKey("laptop", nil)
	r := newRig(t, func(w http.ResponseWriter, req *http.Request) {
		if req.URL.Path == "/api/generate" {
			hijacked, _, err := http.NewResponseController(w).Hijack()
			if err == nil {
				_ = hijacked.Close()
			}
			return
		}
		_, _ = io.WriteString(w, pieces(1)[0])
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}, k)
	req, err := http.NewRequestWithContext(t.Context(), "POST", r.URL+"/api/chat", strings.NewReader(chat))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := r.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(resp.Body); err == nil {
		t.Error("a stream that broke off looks whole")
	}
	_ = resp.Body.Close()
	if record := r.book.last(t, 1); record.Reason != "upstream-broke" || !record.Allowed {
		t.Errorf("%+v", record)
	}
	status, _, text := r.do(t, "POST", "/api/generate", token, `{"model":"tiny","prompt":"x"}`)
	if record := r.book.last(t, 2); status != 502 || record.Reason != "upstream-down" || record.Error == "" || strings.Contains(text, "127.0.0.1") {
		t.Errorf("%d %s %+v", status, text, record)
	}
}

func TestLists(t *testing.T) {
	token, k := newKey("laptop", nil)
	r := newRig(t, func(w http.ResponseWriter, req *http.Request) {
		if req.URL.Path == "/v1/models" {
			_, _ = io.WriteString(w, `{"object":"list","data":[{"id":"tiny:latest"},{"id":"secret:latest"}]}`)
			return
		}
		_, _ = io.WriteString(w, `{"models":[{"name":"tiny:latest","model":"tiny:latest"},{"name":"secret:latest","model":"secret:latest"}]}`)
	}, k)
	for _, path := range []string{"/api/tags", "/api/ps", "/v1/models"} {
		status, header, text := r.do(t, "GET", path, token, "")
		if status != 200 || strings.Contains(text, "secret") || !strings.Contains(text, "tiny") || header.Get("Content-Length") != fmt.Sprint(len(text)) {
			t.Errorf("%s: %d %s", path, status, text)
		}
	}
}

func TestLedgerFails(t *testing.T) {
	token, k := newKey("laptop", nil)
	r := newRig(t, stream(pieces(1)), k)
	r.book.mu.Lock()
	r.book.err = errors.New("disk full")
	r.book.mu.Unlock()
	status, _, text := r.do(t, "POST", "/api/chat", token, chat)
	if status != 503 || r.requests() > 0 || strings.Contains(text, "disk") {
		t.Errorf("%d %s, %d requests", status, text, r.requests())
	}
}

func TestHostAndOrigin(t *testing.T) {
	token, k := newKey("laptop", nil)
	r := newRig(t, stream(pieces(1)), k)
	r.front.Hosts, r.front.Origins = []string{"box.example"}, []string{"https://chat.example"}
	for _, c := range []struct {
		host, origin string
		want         int
	}{
		{"", "", 200},
		{"localhost:8443", "", 200},
		{"[::1]:8443", "", 200},
		{"BOX.example.", "", 200},
		{"evil.example", "", 421},
		{"127.0.0.1.evil.example", "", 421},
		{"", "https://chat.example", 200},
		{"", "https://evil.example", 403},
		{"", "https://chat.example.evil.example", 403},
		{"", "null", 403},
	} {
		req, err := http.NewRequestWithContext(t.Context(), "POST", r.URL+"/api/chat", strings.NewReader(chat))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+token)
		if c.host != "" {
			req.Host = c.host
		}
		if c.origin != "" {
			req.Header.Set("Origin", c.origin)
		}
		resp, err := r.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		allowed := resp.Header.Get("Access-Control-Allow-Origin")
		if resp.StatusCode != c.want || c.want == 200 && allowed != c.origin || c.want != 200 && allowed != "" {
			t.Errorf("%+v: %s, allows %q", c, resp.Status, allowed)
		}
	}
	req, err := http.NewRequestWithContext(t.Context(), "OPTIONS", r.URL+"/api/chat", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Origin", "https://chat.example")
	req.Header.Set("Access-Control-Request-Method", "POST")
	resp, err := r.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != 204 || !strings.Contains(resp.Header.Get("Access-Control-Allow-Methods"), "POST") {
		t.Errorf("preflight: %s", resp.Status)
	}
}

func TestBodies(t *testing.T) {
	token, k := newKey("laptop", func(k *key.Key) { k.Terms.Caps.RequestBytes = 1000; k.Terms.Caps.MaxTokens = 7 })
	var got bytes.Buffer
	r := newRig(t, func(w http.ResponseWriter, req *http.Request) {
		got.Reset()
		_, _ = io.Copy(&got, req.Body)
		stream(pieces(1))(w, req)
	}, k)
	for _, c := range []struct {
		body string
		want int
	}{
		{chat, 200},
		{`{"model":"tiny","Model":"other"}`, 400},
		{`{"model":"tiny","model":"other"}`, 400},
		{`{"model":"tiny"} {"model":"other"}`, 400},
		{`not json`, 400},
		{`{"model":"tiny","prompt":"` + strings.Repeat("x", 1000) + `"}`, 413},
	} {
		if status, _, text := r.do(t, "POST", "/api/chat", token, c.body); status != c.want {
			t.Errorf("%.60s: %d %s, want %d", c.body, status, text, c.want)
		}
	}
	if r.requests() != 1 || !strings.Contains(got.String(), `"num_predict":7`) {
		t.Errorf("%d requests came through, the last %s", r.requests(), got.String())
	}
}

func TestLimits(t *testing.T) {
	token, k := newKey("laptop", func(k *key.Key) { k.Terms.Limits.PerMinute = 2 })
	r := newRig(t, stream(pieces(1)), k)
	for i, want := range []int{200, 200, 429} {
		status, header, _ := r.do(t, "POST", "/api/chat", token, chat)
		if status != want || header.Get("X-Ratelimit-Limit-Requests") != "2" || (header.Get("Retry-After") != "") != (want == 429) {
			t.Errorf("request %d: %d %v", i, status, header)
		}
	}
	if status, header, _ := r.do(t, "POST", "/v1/messages", token, `{"model":"tiny","max_tokens":5,"messages":[]}`); status != 429 || header.Get("Anthropic-Ratelimit-Requests-Limit") != "2" {
		t.Errorf("%d %v", status, header)
	}
}

// TestQueue fills the places and the queue.
func TestQueue(t *testing.T) {
	token, k := newKey("laptop", nil)
	inside, release := make(chan struct{}, 4), make(chan struct{})
	r := newRig(t, func(w http.ResponseWriter, req *http.Request) {
		if req.Method == "POST" {
			inside <- struct{}{}
			<-release
		}
		stream(pieces(1))(w, req)
	}, k)
	r.front.Queue = limit.NewQueue(1, 1)
	var wg sync.WaitGroup
	statuses := make(chan int, 2)
	for range 2 {
		wg.Go(func() {
			status, _, _ := r.do(t, "POST", "/api/chat", token, chat)
			statuses <- status
		})
	}
	<-inside
	for {
		if _, waiting := r.front.Queue.Stats(); waiting == 1 {
			break
		}
		time.Sleep(time.Millisecond)
	}
	status, header, _ := r.do(t, "POST", "/api/chat", token, chat)
	if status != 503 || header.Get("Retry-After") == "" {
		t.Errorf("a third: %d", status)
	}
	if status, _, _ := r.do(t, "GET", "/api/version", token, ""); status == 503 {
		t.Error("what computes nothing waits too")
	}
	close(release)
	wg.Wait()
	if a, b := <-statuses, <-statuses; a != 200 || b != 200 {
		t.Errorf("%d and %d", a, b)
	}
}

// TestBlob: a body of any size passes as it comes, for who may manage.
func TestBlob(t *testing.T) {
	token, k := newKey("laptop", func(k *key.Key) {
		k.Terms.Powers = append(k.Terms.Powers, ollama.Manage)
		k.Terms.Models = []string{"*"}
	})
	var n int64
	r := newRig(t, func(w http.ResponseWriter, req *http.Request) {
		n, _ = io.Copy(io.Discard, req.Body)
		w.WriteHeader(http.StatusCreated)
	}, k)
	const size = 100 << 20
	req, err := http.NewRequestWithContext(t.Context(), "POST", r.URL+"/api/blobs/sha256:"+strings.Repeat("0", 64), io.LimitReader(zeros{}, size))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := r.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if record := r.book.last(t, 1); resp.StatusCode != 201 || n != size || record.BytesIn != size {
		t.Errorf("%s, %d bytes, %+v", resp.Status, n, record)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }
