package gateway_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"gatehouse/internal/gateway"
	"gatehouse/internal/key"
	"gatehouse/internal/ledger"
	"gatehouse/internal/ollama"
)

// question is what a proxy asks at /auth about a request, and from where.
func question(t *testing.T, f *gateway.ForwardAuth, from string, h http.Header) *httptest.ResponseRecorder {
	t.Helper()
	return questionAt(t, f, from, "127.0.0.1:9644", h)
}

func questionAt(t *testing.T, f *gateway.ForwardAuth, from, host string, h http.Header) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "http://127.0.0.1:9644/auth", nil)
	r.RemoteAddr, r.Header, r.Host = from, h, host
	w := httptest.NewRecorder()
	f.ServeHTTP(w, r)
	return w
}

// about are the headers that a proxy sets, in nginx's way.
func about(method, target, token string) http.Header {
	h := http.Header{"X-Original-Method": {method}, "X-Original-Uri": {target}, "X-Forwarded-For": {"198.51.100.7"}}
	if token != "" {
		h.Set("Authorization", "Bearer "+token)
	}
	return h
}

const proxy = "127.0.0.1:40000"

func newForwardAuth(t *testing.T, cloudOff bool, keys ...key.Key) (*gateway.ForwardAuth, *rig) {
	t.Helper()
	r := newRig(t, func(http.ResponseWriter, *http.Request) { t.Error("the upstream was asked") }, keys...)
	r.front.Hosts = []string{"ai.example"}
	return &gateway.ForwardAuth{Gate: r.front, From: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, CloudOff: cloudOff}, r
}

// everyModel is a key with powers over all models.
func everyModel(powers ...ollama.Power) (string, key.Key) {
	return newKey("all", func(k *key.Key) { k.Terms = key.Terms{Powers: powers, Models: []string{"*"}} })
}

// targetOf is a target of the route.
func targetOf(r ollama.Route) string {
	before, name, param := strings.Cut(r.Pattern, ":")
	if !param {
		return before
	}
	return before + map[string]string{"digest": "sha256:00", "model": "tiny", "encodedKey": "abc"}[name]
}

func TestForwardAuthRoutes(t *testing.T) {
	for _, power := range ollama.Powers {
		token, k := everyModel(power)
		f, rig := newForwardAuth(t, true, k)
		for i, route := range ollama.Routes {
			w := question(t, f, proxy, about(route.Method, targetOf(route), token))
			want := http.StatusOK
			if route.Power != power {
				want = http.StatusForbidden
			}

			if w.Code != want {
				t.Errorf("%s at %s %s: %d, want %d: %s", power, route.Method, route.Pattern, w.Code, want, w.Body)
			}
			if want == http.StatusOK {
				if got := w.Header().Get("X-Gatehouse-Identity"); got != k.ID {
					t.Errorf("identity %q, want %q", got, k.ID)
				}
				if got := w.Header().Get("X-Gatehouse-Power"); got != string(power) {
					t.Errorf("power %q, want %q", got, power)
				}
			}
			if r := rig.book.last(t, i+1); r.Allowed != (want == http.StatusOK) || r.Route != route.Pattern || r.Method != route.Method ||
				r.Address != "198.51.100.7" || r.Identity.ID != k.ID || r.Status != want || r.Event != ledger.Request {
				t.Errorf("%s %s is in the ledger as %+v", route.Method, route.Pattern, r)
			}
		}
	}
}

// TestForwardAuthStrangers has every kind of stranger at every route.
func TestForwardAuthStrangers(t *testing.T) {
	list, keys := strangers(t)
	f, rig := newForwardAuth(t, true, keys...)
	n := 0
	for _, s := range list {
		for _, route := range ollama.Routes {
			if s.at != nil && !s.at(route) || s.name == "over its length" && (route.Method == http.MethodGet || route.Method == http.MethodHead) {
				continue // a body that Ollama does not read is the proxy's to refuse
			}
			r, err := http.NewRequest(route.Method, targetOf(route), nil)
			if err != nil {
				t.Fatal(err)
			}
			s.show(r)
			h := about(route.Method, r.URL.RequestURI(), "")
			for name, values := range r.Header {
				h[name] = values
			}
			host := r.Host
			if host == "" {
				host = "127.0.0.1:9644"
			}
			w := questionAt(t, f, proxy, host, h)
			if w.Code != http.StatusUnauthorized && w.Code != http.StatusForbidden && w.Code != http.StatusTooManyRequests {
				t.Errorf("%s at %s %s: %d %s", s.name, route.Method, route.Pattern, w.Code, w.Body)
			}
			if w.Header().Get("X-Gatehouse-Identity") != "" {
				t.Errorf("%s at %s %s is told who it is", s.name, route.Method, route.Pattern)
			}
			n++
		}
	}
	if n < 1000 || rig.book.len() != n {
		t.Errorf("%d questions, %d records", n, rig.book.len())
	}
}

// TestForwardAuthQuestions is what a proxy may say, and what a client may have
// slipped in.
func TestForwardAuthQuestions(t *testing.T) {
	token, k := everyModel(ollama.Hello, ollama.Read)
	f, rig := newForwardAuth(t, true, k)
	good := func(change func(http.Header)) http.Header {
		h := about("GET", "/api/tags", token)
		change(h)
		return h
	}
	forwarded := func(method, target string) func(http.Header) {
		return func(h http.Header) {
			h["X-Forwarded-Method"], h["X-Forwarded-Uri"] = []string{method}, []string{target}
		}
	}
	for i, test := range []struct {
		name   string
		from   string
		header http.Header
		status int
		reason string
	}{
		{"nginx's way", proxy, good(func(http.Header) {}), 200, ""},
		{"Caddy's and Traefik's way", proxy, good(func(h http.Header) {
			forwarded("GET", "/api/tags")(h)
			h.Del("X-Original-Method")
			h.Del("X-Original-Uri")
		}), 200, ""},
		{"both, and the same", proxy, good(forwarded("GET", "/api/tags")), 200, ""},
		{"another path in the other pair", proxy, good(forwarded("GET", "/api/version")), 403, "bad-question"},
		{"another method in the other pair", proxy, good(forwarded("HEAD", "/api/tags")), 403, "bad-question"},
		{"another spelling in the other pair", proxy, good(forwarded("GET", "/api/tags?")), 403, "bad-question"},
		{"half of the other pair", proxy, good(func(h http.Header) { h.Set("X-Forwarded-Uri", "/api/tags") }), 403, "bad-question"},
		{"no method", proxy, good(func(h http.Header) { h.Del("X-Original-Method") }), 403, "bad-question"},
		{"no target", proxy, good(func(h http.Header) { h.Del("X-Original-Uri") }), 403, "bad-question"},
		{"a method made whole from the other pair", proxy, good(func(h http.Header) {
			h.Del("X-Original-Method")
			h.Set("X-Forwarded-Method", "GET")
		}), 403, "bad-question"},
		{"two targets", proxy, good(func(h http.Header) { h.Add("X-Original-Uri", "/api/tags") }), 403, "bad-question"},
		{"two methods", proxy, good(func(h http.Header) { h.Add("X-Original-Method", "GET") }), 403, "bad-question"},
		{"an empty target", proxy, good(func(h http.Header) { h.Set("X-Original-Uri", "") }), 403, "bad-question"},
		{"nothing", proxy, http.Header{"Authorization": {"Bearer " + token}}, 403, "bad-question"},
		{"no client", proxy, good(func(h http.Header) { h.Del("X-Forwarded-For") }), 403, "bad-question"},
		{"a client that is no address", proxy, good(func(h http.Header) { h.Set("X-Forwarded-For", "198.51.100.7, unknown") }), 403, "bad-question"},
		{"a client that says it is another", proxy, good(func(h http.Header) { h.Set("X-Forwarded-For", "10.0.0.1, 198.51.100.7") }), 200, ""},
		{"a proxy that is not listed", "192.0.2.1:80", good(func(http.Header) {}), 403, "unknown-proxy"},
		{"no address at all", "", good(func(http.Header) {}), 403, "unknown-proxy"},
		{"a page of another origin", proxy, good(func(h http.Header) { h.Set("Origin", "https://evil.example") }), 403, "unknown-origin"},
		{"a method that overrides", proxy, good(func(h http.Header) { h.Set("X-Http-Method-Override", "DELETE") }), 200, ""},
		{"no key", proxy, good(func(h http.Header) { h.Del("Authorization") }), 401, key.NoCredentials},
	} {
		w := question(t, f, test.from, test.header)
		if r := rig.book.last(t, i+1); w.Code != test.status || r.Reason != test.reason {
			t.Errorf("%s: %d %q, want %d %q: %s", test.name, w.Code, r.Reason, test.status, test.reason, w.Body)
		}
	}
}

// TestForwardAuthPaths holds targets to the one plain way of writing them.
func TestForwardAuthPaths(t *testing.T) {
	token, k := everyModel(ollama.Powers...)
	f, _ := newForwardAuth(t, true, k)
	for target, want := range map[string]int{
		"/api/tags": 200, "/api/tags?x=1": 200, "/api/tags?": 200, "/v1/models/tiny%3Alatest": 200, "/v1/models/tiny:latest": 200,

		"//api/tags": 403, "/api//tags": 403, "/api/./tags": 403, "/api/x/../tags": 403, "/../api/tags": 403, "/api/tags/": 403,
		"/api/%74ags": 403, "/api%2ftags": 403, "/api/tags%00": 403, "/api/tags%0d%0a": 403, "/api/tags%3f": 403, "/api/tags;x": 403,
		"/API/tags": 403, "/api/tags#": 403, "api/tags": 403, "*": 403, "http://127.0.0.1/api/tags": 403, "\\api\\tags": 403,
		"/%2e%2e/api/tags": 403, "/api/tags%": 403, "/api/tags ": 403, "/api/tags\t": 403, "/v1/models/..": 403, "/v1/models/%2e%2e": 403,
		"/v1/models/a%2fb": 403, "/nothing": 403, "/auth": 403, "?": 403, "/api/version/../tags": 403, "/api/\u0074ags\u200b": 403,
	} {
		if w := question(t, f, proxy, about("GET", target, token)); w.Code != want {
			t.Errorf("%q: %d, want %d", target, w.Code, want)
		}
	}
	for _, method := range []string{"get", "GET ", "PATCH", "TRACE", "CONNECT", "DELETE", "POST", "OPTIONS", "G ET"} {
		if w := question(t, f, proxy, about(method, "/api/tags", token)); w.Code != 403 {
			t.Errorf("method %q: %d", method, w.Code)
		}
	}
	// Nor does it answer anything but its own question.
	for _, ask := range [][2]string{{"POST", "/auth"}, {"GET", "/"}, {"GET", "/api/tags"}, {"GET", "/auth/"}, {"GET", "/%61uth"}, {"OPTIONS", "/auth"}} {
		r := httptest.NewRequestWithContext(t.Context(), ask[0], "http://127.0.0.1:9644"+ask[1], nil)
		r.RemoteAddr, r.Header = proxy, about("GET", "/api/tags", token)
		w := httptest.NewRecorder()
		if f.ServeHTTP(w, r); w.Code != 403 {
			t.Errorf("%v: %d", ask, w.Code)
		}
	}
}

// TestForwardAuthUnseen is what the gate denies because it sees no body.
func TestForwardAuthUnseen(t *testing.T) {
	every := key.Terms{Powers: ollama.Powers[:4], Models: []string{"*"}} // all but account
	change := func(f func(*key.Terms)) key.Terms {
		terms := every
		f(&terms)
		return terms
	}
	for _, test := range []struct {
		name     string
		terms    key.Terms
		cloudOff bool
		allowed  []string
		denied   []string
	}{
		{"every model", every, true, []string{"POST /api/chat", "POST /api/create", "GET /api/tags", "POST /api/pull", "POST /api/blobs/sha256:00"}, nil},
		{
			"every model, and perhaps a cloud", every, false,
			[]string{"GET /api/tags", "POST /api/show", "DELETE /api/delete", "POST /api/pull"},
			[]string{"POST /api/chat", "POST /v1/chat/completions", "POST /v1/messages", "POST /api/copy", "POST /api/create", "POST /api/experimental/aliases"},
		},
		{"the account too", change(func(t *key.Terms) { t.Powers = ollama.Powers }), false, []string{"POST /api/chat", "POST /api/create"}, nil},
		{
			"some models", change(func(t *key.Terms) { t.Models = []string{"tiny", "llama*"} }), true,
			[]string{"GET /", "GET /api/version", "GET /v1/models/tiny", "POST /api/blobs/sha256:00"},
			[]string{"POST /api/chat", "POST /v1/embeddings", "POST /api/show", "GET /api/tags", "HEAD /api/tags", "GET /api/ps", "GET /v1/models", "GET /v1/models/other", "DELETE /api/delete"},
		},
		{"a cap on context", change(func(t *key.Terms) { t.Caps.NumCtx = 10 }), true, []string{"GET /api/tags"}, []string{"POST /api/chat"}},
		{"a cap on images", change(func(t *key.Terms) { t.Caps.Images = -1 }), true, []string{"GET /api/tags"}, []string{"POST /api/chat"}},
		{"a cap on length", change(func(t *key.Terms) { t.Caps.RequestBytes = 10 }), true, []string{"GET /api/tags"}, []string{"POST /api/chat", "POST /api/blobs/sha256:00"}},
		{"tokens a minute", change(func(t *key.Terms) { t.Limits.TokensMinute = 10 }), true, []string{"GET /api/tags"}, []string{"POST /api/chat"}},
		{"tokens a day", change(func(t *key.Terms) { t.Limits.TokensDay = 10 }), true, []string{"GET /api/tags"}, []string{"POST /api/chat"}},
		{"streams", change(func(t *key.Terms) { t.Limits.Streams = 1 }), true, []string{"GET /api/tags"}, []string{"POST /api/chat"}},
		{"somewhere else", change(func(t *key.Terms) { t.Sources = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")} }), true, nil, []string{"GET /api/tags", "POST /api/chat"}},
		{"here", change(func(t *key.Terms) { t.Sources = []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")} }), true, []string{"GET /api/tags", "POST /api/chat"}, nil},
	} {
		token, k := newKey(test.name, func(k *key.Key) { k.Terms = test.terms })
		f, _ := newForwardAuth(t, test.cloudOff, k)
		for _, line := range slices.Concat(test.allowed, test.denied) {
			method, target, _ := strings.Cut(line, " ")
			want := http.StatusOK
			if slices.Contains(test.denied, line) {
				want = http.StatusForbidden
			}
			if w := question(t, f, proxy, about(method, target, token)); w.Code != want {
				t.Errorf("%s at %s: %d, want %d: %s", test.name, line, w.Code, want, w.Body)
			}
		}
	}
}

func TestForwardAuthLimits(t *testing.T) {
	token, k := newKey("two a minute", func(k *key.Key) {
		k.Terms = key.Terms{Powers: ollama.Powers, Models: []string{"*"}, Limits: key.Limits{PerMinute: 2}}
	})
	f, rig := newForwardAuth(t, true, k)
	var codes []int
	for range 3 {
		w := question(t, f, proxy, about("POST", "/api/chat", token))
		codes = append(codes, w.Code)
		if (w.Code == http.StatusTooManyRequests) != (w.Header().Get("Retry-After") != "") {
			t.Errorf("%d says Retry-After %q", w.Code, w.Header().Get("Retry-After"))
		}
	}
	if fmt.Sprint(codes) != "[200 200 429]" {
		t.Errorf("answers %v", codes)
	}
	rig.book.mu.Lock()
	rig.book.err = http.ErrServerClosed
	rig.book.mu.Unlock()
	if w := question(t, f, proxy, about("GET", "/", token)); w.Code != http.StatusServiceUnavailable {
		t.Errorf("without a ledger: %d", w.Code)
	}
}

// TestForwardAuthZero lets nobody ask.
func TestForwardAuthZero(t *testing.T) {
	token, k := everyModel(ollama.Powers...)
	f, rig := newForwardAuth(t, true, k)
	f.From = nil
	if w := question(t, f, proxy, about("GET", "/", token)); w.Code != http.StatusForbidden {
		t.Errorf("%d", w.Code)
	}
	if r := rig.book.last(t, 1); r.Reason != "unknown-proxy" || r.Identity.ID != "" {
		t.Errorf("%+v", r)
	}
}

// FuzzForwardAuth looks for a target that passes and is none of the table's.
func FuzzForwardAuth(f *testing.F) {
	for _, s := range []string{"/api/tags", "//api/tags", "/api/%74ags", "/v1/models/a%3Ab", "/api/chat?x#y"} {
		f.Add("GET", s, "GET", s)
	}
	token, k := everyModel(ollama.Powers...)
	f.Fuzz(func(t *testing.T, method, target, method2, target2 string) {
		auth, _ := newForwardAuth(t, true, k)
		h := about(method, target, token)
		h["X-Forwarded-Method"], h["X-Forwarded-Uri"] = []string{method2}, []string{target2}
		w := question(t, auth, proxy, h)
		if w.Code != http.StatusOK {
			return
		}
		path, _, _ := strings.Cut(target, "?")
		path = strings.NewReplacer("%3A", ":", "%3a", ":").Replace(path)
		if _, ok := ollama.Classify(method, path); !ok || method != method2 || target != target2 {
			t.Errorf("%q %q %q %q passes", method, target, method2, target2)
		}
	})
}
