package gateway_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"gatehouse/internal/gateway"
	"gatehouse/internal/key"
	"gatehouse/internal/ledger"
	"gatehouse/internal/limit"
	"gatehouse/internal/ollama"
	"gatehouse/internal/policy"
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

	mu      sync.Mutex
	asked   []*http.Request
	reached atomic.Int64 // bytes that came to the upstream
}

// counting is a listener that counts the bytes that come in.
type counting struct {
	net.Listener
	n *atomic.Int64
}

func (l counting) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return countingConn{conn, l.n}, nil
}

type countingConn struct {
	net.Conn
	n *atomic.Int64
}

func (c countingConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.n.Add(int64(n))
	return n, err
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
	up := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		r.mu.Lock()
		r.asked = append(r.asked, req)
		r.mu.Unlock()
		serve(w, req)
	}))
	up.Listener = counting{up.Listener, &r.reached}
	up.Start()
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

// stranger is a caller who has no business at a route.
type stranger struct {
	name   string
	show   func(*http.Request)       // puts on what it has for credentials
	at     func(ollama.Route) bool   // where it has no business; nil: anywhere
	body   func(ollama.Route) string // of the request; nil: a good one
	reason func(ollama.Route) string // that the ledger has
	status int                       // of the answer
}

func as(reason string) func(ollama.Route) string { return func(ollama.Route) string { return reason } }

func withKey(token string) func(*http.Request) {
	return func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+token) }
}

func header(name, value string) func(*http.Request) {
	return func(r *http.Request) { r.Header.Set(name, value) }
}

// asks is a request that has what each route wants.
func asks(model string, tokens int) string {
	return fmt.Sprintf(`{"model":%[1]q,"name":%[1]q,"source":%[1]q,"destination":%[1]q,"alias":%[1]q,"target":%[1]q,"prompt":"x","input":"x",`+
		`"max_tokens":%[2]d,"max_output_tokens":%[2]d,"options":{"num_predict":%[2]d},"messages":[{"role":"user","content":"x"}]}`, model, tokens)
}

// strangers are all who are to stay outside, and the keys that some of them hold.
func strangers(t *testing.T) (list []stranger, keys []key.Key) {
	t.Helper()
	mint := func(name string, change func(*key.Key)) string {
		token, k := newKey(name, func(k *key.Key) {
			k.Terms = key.Terms{Powers: ollama.Powers, Models: []string{"tiny"}}
			if change != nil {
				change(k)
			}
		})
		keys = append(keys, k)
		return token
	}
	add := func(s stranger) { list = append(list, s) }
	good := mint("good", nil)
	other := mint("other", nil)
	forged := keys[0]
	wrong := forged.Rotate(time.Now(), 0)
	unknown, _ := newKey("of another gate", nil)

	// Who are you?
	add(stranger{name: "no key", show: func(*http.Request) {}, reason: as(key.NoCredentials), status: 401})
	add(stranger{name: "wrong key", show: withKey(wrong), reason: as(key.WrongKey), status: 401})
	add(stranger{name: "unknown key", show: withKey(unknown), reason: as(key.UnknownKey), status: 401})
	add(stranger{name: "cut off key", show: withKey(good[:len(good)-2]), reason: as(key.Typo), status: 401})
	add(stranger{name: "mistyped key", show: withKey(good[:20] + "~" + good[21:]), reason: as(key.Typo), status: 401})
	add(stranger{name: "revoked key", show: withKey(mint("revoked", func(k *key.Key) { k.Revoked = time.Now() })), reason: as(key.RevokedKey), status: 401})
	add(stranger{name: "expired key", show: withKey(mint("expired", func(k *key.Key) { k.Expires = time.Now().Add(-time.Second) })), reason: as(key.ExpiredKey), status: 401})
	rotated := mint("rotated", nil)
	keys[len(keys)-1].Rotate(time.Now().Add(-time.Hour), time.Minute)
	add(stranger{name: "key rotated away", show: withKey(rotated), reason: as(key.WrongKey), status: 401})
	for _, name := range []string{"Api-Key", "X-Goog-Api-Key", "X-Auth-Token", "X-Api-Token", "Cookie", "Remote-User"} {
		add(stranger{name: "good key in " + name, show: header(name, good), reason: as(key.NoCredentials), status: 401})
	}
	add(stranger{name: "good key in the query", show: func(r *http.Request) { r.URL.RawQuery = "key=" + good + "&api_key=" + good }, reason: as(key.NoCredentials), status: 401})
	for name, value := range map[string]string{
		"Authorization": good, "Proxy-Authorization": "Token " + good, "X-Api-Key": "Bearer " + good,
	} {
		add(stranger{name: "good key written wrong in " + name, show: header(name, value), reason: as(key.Malformed), status: 401})
	}
	add(stranger{name: "key as the user of Basic", show: func(r *http.Request) { r.SetBasicAuth(good, "") }, reason: as(key.Malformed), status: 401})
	add(stranger{name: "token of an unknown issuer", show: header("Authorization", "Bearer e30.e30.e30"), reason: as(key.Malformed), status: 401})
	add(stranger{name: "two keys", show: func(r *http.Request) { withKey(good)(r); r.Header.Set("X-Api-Key", other) }, reason: as(key.Ambiguous), status: 401})

	// The stock program's signature.
	sign := func(private ed25519.PrivateKey, of func(*http.Request) string, at time.Time) func(*http.Request) {
		return func(r *http.Request) {
			ts := strconv.FormatInt(at.Unix(), 10)
			r.URL.RawQuery = "ts=" + ts
			public, err := ssh.NewPublicKey(private.Public())
			if err != nil {
				t.Fatal(err)
			}
			signature := ed25519.Sign(private, []byte(of(r)+"?ts="+ts))
			r.Header.Set("Authorization", base64.StdEncoding.EncodeToString(public.Marshal())+":"+base64.StdEncoding.EncodeToString(signature))
		}
	}
	itself := func(r *http.Request) string { return r.Method + "," + r.URL.Path }
	_, stray, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	mint("signs", func(k *key.Key) { k.Ed25519 = public })
	add(stranger{name: "unknown signature", show: sign(stray, itself, time.Now()), reason: as(key.UnknownKey), status: 401})
	add(stranger{name: "signature of another path", show: sign(private, func(r *http.Request) string { return r.Method + ",/other" }, time.Now()), reason: as(key.BadSignature), status: 401})
	add(stranger{name: "signature of another method", show: sign(private, func(r *http.Request) string { return "PUT," + r.URL.Path }, time.Now()), reason: as(key.BadSignature), status: 401})
	add(stranger{name: "old signature", show: sign(private, itself, time.Now().Add(-time.Hour)), reason: as(key.BadClock), status: 401})
	add(stranger{name: "early signature", show: sign(private, itself, time.Now().Add(time.Hour)), reason: as(key.BadClock), status: 401})

	// May you?
	from := mint("from elsewhere", func(k *key.Key) { k.Terms.Sources = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")} })
	add(stranger{name: "wrong source", show: withKey(from), reason: as(policy.Source), status: 403})
	late := mint("at other times", func(k *key.Key) {
		now := time.Duration(time.Now().UTC().Hour()) * time.Hour
		k.Terms.Hours = []key.Window{{From: (now + 3*time.Hour) % (24 * time.Hour), To: (now + 4*time.Hour) % (24 * time.Hour)}}
	})
	add(stranger{name: "wrong hour", show: withKey(late), reason: as(policy.Hours), status: 403})
	add(stranger{name: "key with no terms", show: withKey(mint("nothing", func(k *key.Key) { k.Terms = key.Terms{} })), reason: as(policy.Power), status: 403})
	for _, power := range ollama.Powers {
		token := mint("all but "+string(power), func(k *key.Key) {
			k.Terms.Powers = slices.DeleteFunc(slices.Clone(ollama.Powers), func(p ollama.Power) bool { return p == power })
			k.Terms.Models = []string{"*"}
		})
		add(stranger{name: "all but " + string(power), show: withKey(token), at: func(r ollama.Route) bool { return r.Power == power }, reason: as(policy.Power), status: 403})
	}
	add(stranger{
		name: "other key's model", show: withKey(mint("other model", func(k *key.Key) { k.Terms.Models = []string{"other:*"} })),
		at: func(r ollama.Route) bool { return r.NamesModels() || r.Power == ollama.Infer }, reason: as(policy.Model), status: 403,
	})
	add(stranger{
		name: "no model", show: withKey(mint("no model", func(k *key.Key) { k.Terms.Models = nil })),
		at: func(r ollama.Route) bool { return r.NamesModels() || r.Power == ollama.Infer }, reason: as(policy.Model), status: 403,
	})
	add(stranger{name: "over its length", show: withKey(mint("short", func(k *key.Key) { k.Terms.Caps.RequestBytes = 9 })), reason: func(r ollama.Route) string {
		if r.TakesJSON() {
			return "body-too-large"
		}
		return policy.Size
	}, status: 413})
	add(stranger{
		name: "over its tokens", show: withKey(mint("capped", func(k *key.Key) { k.Terms.Strict = true; k.Terms.Caps.MaxTokens = 5 })),
		body: func(ollama.Route) string { return asks("tiny", 6) },
		at:   func(r ollama.Route) bool { return r.Power == ollama.Infer && !strings.Contains(r.Pattern, "embed") },
		reason: func(r ollama.Route) string {
			if !r.Bounded() {
				return policy.Uncounted
			}
			return policy.Capped
		}, status: 403,
	})

	// Whoever you are.
	add(stranger{name: "another name for the gate", show: func(r *http.Request) { withKey(good)(r); r.Host = "evil.example" }, reason: as("unknown-host"), status: 421})
	add(stranger{name: "a web page", show: func(r *http.Request) { withKey(good)(r); r.Header.Set("Origin", "https://evil.example") }, reason: as("unknown-origin"), status: 403})
	return list, keys
}

// TestNobodyEnters holds every route against everybody who has no business there:
// not a byte reaches the upstream, and each leaves one line in the ledger.
func TestNobodyEnters(t *testing.T) {
	list, keys := strangers(t)
	r := newRig(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) }, keys...)
	n := 0
	for _, s := range list {
		for _, route := range ollama.Routes {
			if s.at != nil && !s.at(route) {
				continue
			}
			path := strings.NewReplacer(":digest", "sha256:"+strings.Repeat("0", 64), ":model", "tiny", ":encodedKey", "abc").Replace(route.Pattern)
			body := asks("tiny", 5)
			if s.body != nil {
				body = s.body(route)
			}
			req, err := http.NewRequestWithContext(t.Context(), route.Method, r.URL+path, strings.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			s.show(req)
			resp, err := r.Client().Do(req)
			if err != nil {
				t.Fatal(err)
			}
			text, err := io.ReadAll(resp.Body)
			_ = resp.Body.Close()
			if err != nil {
				t.Fatal(err)
			}
			n++
			record := r.book.last(t, n)
			if resp.StatusCode != s.status || strings.Contains(string(text), "gh_") && !strings.Contains(string(text), "gh_…") || route.Method != "HEAD" && len(text) == 0 {
				t.Errorf("%s at %s %s: %s %s, want %d", s.name, route.Method, path, resp.Status, text, s.status)
			}
			if record.Allowed || record.Reason != s.reason(route) || record.Status != s.status || record.ID != resp.Header.Get("X-Request-Id") ||
				record.Power != string(route.Power) || record.Route != route.Pattern || record.Address != "127.0.0.1" || r.book.len() != n {
				t.Errorf("%s at %s %s: %d lines, %+v", s.name, route.Method, path, r.book.len(), record)
			}
		}
	}
	if got := r.reached.Load(); got > 0 || r.requests() > 0 {
		t.Errorf("%d bytes and %d requests came through", got, r.requests())
	}
	// And the rig would tell: the good key gets through at every route.
	for _, route := range ollama.Routes {
		path := strings.NewReplacer(":digest", "sha256:"+strings.Repeat("0", 64), ":model", "tiny", ":encodedKey", "abc").Replace(route.Pattern)
		req, err := http.NewRequestWithContext(t.Context(), route.Method, r.URL+path, strings.NewReader(asks("tiny", 5)))
		if err != nil {
			t.Fatal(err)
		}
		list[len(list)-1].show(req)
		req.Header.Del("Origin")
		resp, err := r.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusTeapot {
			t.Errorf("the good key at %s %s: %s", route.Method, path, resp.Status)
		}
	}
	if r.reached.Load() == 0 || r.requests() != len(ollama.Routes) {
		t.Errorf("%d bytes and %d requests came through, of %d", r.reached.Load(), r.requests(), len(ollama.Routes))
	}
	t.Logf("%d strangers, %d routes, %d requests", len(list), len(ollama.Routes), n)
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

// TestBlob: a body of any size passes as it comes, for who may manage, and
// leaves the heap as it was.
func TestBlob(t *testing.T) {
	token, k := newKey("laptop", func(k *key.Key) {
		k.Terms.Powers = append(k.Terms.Powers, ollama.Manage)
		k.Terms.Models = []string{"*"}
	})
	var n, most int64
	r := newRig(t, func(w http.ResponseWriter, req *http.Request) {
		p := make([]byte, 1<<20)
		for next := int64(0); ; {
			got, err := req.Body.Read(p)
			if n += int64(got); n >= next {
				next += 100 << 20
				var m runtime.MemStats
				runtime.ReadMemStats(&m)
				most = max(most, int64(m.HeapAlloc))
			}
			if err != nil {
				break
			}
		}
		w.WriteHeader(http.StatusCreated)
	}, k)
	const size = 1 << 30
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
	if most > 64<<20 {
		t.Errorf("%d MiB of heap", most>>20)
	}
	t.Logf("%d MiB, %d MiB of heap at most", n>>20, most>>20)
}

// TestTrailers: what comes after an answer passes, whole answers and streams.
func TestTrailers(t *testing.T) {
	token, k := newKey("laptop", nil)
	r := newRig(t, func(w http.ResponseWriter, req *http.Request) {
		w.Header().Set("Trailer", "X-Sum")
		stream(pieces(3))(w, req)
		w.Header().Set("X-Sum", "7")
		w.Header().Set(http.TrailerPrefix+"X-Late", "8")
	}, k)
	for _, path := range []string{"/api/chat", "/api/show"} {
		req, err := http.NewRequestWithContext(t.Context(), "POST", r.URL+path, strings.NewReader(chat))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+token)
		resp, err := r.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err != nil || string(text) != strings.Join(pieces(3), "") || resp.Trailer.Get("X-Sum") != "7" || resp.Trailer.Get("X-Late") != "8" {
			t.Errorf("%s: %q %v %v", path, text, resp.Trailer, err)
		}
	}
}

// TestHead: an answer without a body says how long it would be, unless that
// would tell of models that are not the key's.
func TestHead(t *testing.T) {
	some, one := newKey("some", nil)
	every, all := newKey("every", func(k *key.Key) { k.Terms.Models = []string{"*"} })
	r := newRig(t, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"models":[{"name":"tiny:latest"},{"name":"secret:latest"}]}`)
	}, one, all)
	for _, c := range []struct{ token, path, length string }{
		{every, "/api/tags", "60"}, {some, "/api/tags", ""}, {some, "/", "60"},
	} {
		status, header, text := r.do(t, "HEAD", c.path, c.token, "")
		if status != 200 || text != "" || header.Get("Content-Length") != c.length {
			t.Errorf("%s: %d %v %q", c.path, status, header, text)
		}
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }
