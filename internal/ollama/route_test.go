package ollama_test

import (
	"bufio"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"
	"testing"

	"gatehouse/internal/ollama"
)

func TestClassify(t *testing.T) {
	zeros := "/api/blobs/sha256:" + strings.Repeat("0", 64)
	for _, test := range []struct {
		method, path string
		want         ollama.Power
	}{
		{"GET", "/", ollama.Hello},
		{"HEAD", "/", ollama.Hello},
		{"GET", "/api/version", ollama.Hello},
		{"GET", "/api/tags", ollama.Read},
		{"GET", "/api/ps", ollama.Read},
		{"POST", "/api/show", ollama.Read},
		{"HEAD", zeros, ollama.Read},
		{"GET", "/v1/models", ollama.Read},
		{"GET", "/v1/models/llama3.2:3b", ollama.Read},
		{"POST", "/api/generate", ollama.Infer},
		{"POST", "/v1/chat/completions", ollama.Infer},
		{"POST", "/v1/messages", ollama.Infer},
		{"POST", zeros, ollama.Manage},
		{"DELETE", "/api/delete", ollama.Manage},
		{"POST", "/api/pull", ollama.Manage},
		{"POST", "/api/experimental/aliases", ollama.Manage},
		{"POST", "/api/me", ollama.Account},
		{"DELETE", "/api/user/keys/AAAA", ollama.Account},

		// Nothing near a route is the route.
		{"POST", "/", ollama.Unknown},
		{"GET", "", ollama.Unknown},
		{"GET", "/api/generate", ollama.Unknown},
		{"POST", "/api/tags", ollama.Unknown},
		{"POST", "/api/delete", ollama.Unknown},
		{"get", "/api/tags", ollama.Unknown},
		{"GET", "/api/tags/", ollama.Unknown},
		{"GET", "/API/tags", ollama.Unknown},
		{"GET", "//api/tags", ollama.Unknown},
		{"GET", "/api/../api/tags", ollama.Unknown},
		{"GET", "/api/tags?x", ollama.Unknown},
		{"GET", "/api/tags\x00", ollama.Unknown},
		{"GET", "/v1/models/", ollama.Unknown},
		{"GET", "/v1/models/a/b", ollama.Unknown},
		{"POST", "/api/blobs/", ollama.Unknown},
		{"POST", "/api/blobs/a/b", ollama.Unknown},
		{"POST", "/api/new-in-a-later-release", ollama.Unknown},
	} {
		route, ok := ollama.Classify(test.method, test.path)
		if route.Power != test.want || ok != (test.want != ollama.Unknown) {
			t.Errorf("%s %s: %s, %v; want %s", test.method, test.path, route.Power, ok, test.want)
		}
	}
}

// What a caller with a lesser power cannot do must need a greater one, so no
// request that changes the server may pass for reading.
func TestRoutes(t *testing.T) {
	seen := map[string]bool{}
	for _, r := range ollama.Routes {
		key := r.Method + " " + r.Pattern
		if seen[key] {
			t.Errorf("%s is listed twice", key)
		}
		seen[key] = true
		if !slices.Contains(ollama.Powers, r.Power) {
			t.Errorf("%s: power %s", key, r.Power)
		}
		if r.Method == http.MethodDelete && r.Power != ollama.Manage && r.Power != ollama.Account {
			t.Errorf("%s gives %s", key, r.Power)
		}
		if !strings.HasPrefix(r.Pattern, "/") || strings.Count(r.Pattern, ":") > 1 {
			t.Errorf("%s: match does not read such a pattern", key)
		}
		path := r.Pattern
		if before, _, ok := strings.Cut(path, ":"); ok {
			path = before + "x"
		}
		if got, ok := ollama.Classify(r.Method, path); !ok || got != r {
			t.Errorf("%s %s is %+v, want %+v", r.Method, path, got, r)
		}
	}
	if ollama.Unknown.String() != "unknown" || ollama.Read.String() != "read" {
		t.Error("powers are not named")
	}
}

// target parses a request line's target as net/http's server does.
func target(t testing.TB, raw string) (*url.URL, bool) {
	t.Helper()
	r, err := http.ReadRequest(bufio.NewReader(strings.NewReader("GET " + raw + " HTTP/1.1\r\nHost: x\r\n\r\n")))
	if err != nil {
		return nil, false
	}
	return r.URL, true
}

func TestClassifyURL(t *testing.T) {
	zeros := "sha256:" + strings.Repeat("0", 64)
	for _, test := range []struct{ method, target, want string }{ // want "": unknown
		{"GET", "/", "/"},
		{"GET", "/?", "/"},
		{"GET", "/api/tags", "/api/tags"},
		{"GET", "/api/tags?ts=1&x=%2f;..//", "/api/tags"},
		{"POST", "/v1/chat/completions", "/v1/chat/completions"},
		{"GET", "/v1/models/llama3.2:3b", "/v1/models/:model"},
		{"GET", "/v1/models/llama3.2%3A3b", "/v1/models/:model"},
		{"GET", "/v1/models/llama3.2%3a3b", "/v1/models/:model"},
		{"HEAD", "/api/blobs/" + zeros, "/api/blobs/:digest"},
		{"POST", "/api/blobs/" + strings.Replace(zeros, ":", "-", 1), "/api/blobs/:digest"},
		{"DELETE", "/api/user/keys/c3NoLWVkMjU1MTk_-", "/api/user/keys/:encodedKey"},

		{"GET", "*", ""},
		{"GET", "http://x/api/tags", ""},
		{"GET", "//x/api/tags", ""},
		{"GET", "//api/tags", ""},
		{"GET", "/api//tags", ""},
		{"GET", "/api/tags/", ""},
		{"GET", "/api/tags/.", ""},
		{"GET", "/api/./tags", ""},
		{"GET", "/api/x/../tags", ""},
		{"GET", "/./api/tags", ""},
		{"GET", "/..", ""},
		{"GET", "/api/tags.", ""},
		{"GET", "/api/tags;x", ""},
		{"GET", "/;x/api/tags", ""},
		{"GET", "/API/TAGS", ""},
		{"GET", "/api%2ftags", ""},
		{"GET", "/api%2Ftags", ""},
		{"GET", "/api/%74ags", ""},
		{"GET", "/api/tags%00", ""},
		{"GET", "/api/tags%20", ""},
		{"GET", "/api/tags%3f", ""},
		{"GET", "/api/tags%23", ""},
		{"GET", "/api/tags#x", ""},
		{"GET", "/api\\tags", ""},
		{"GET", "/%61pi/tags", ""},
		{"GET", "/%2fapi/tags", ""},
		{"GET", "/%2e/api/tags", ""},
		{"GET", "/%c0%afapi/tags", ""},
		{"get", "/api/tags", ""},
		{"OPTIONS", "/api/tags", ""},
		{"CONNECT", "/api/tags", ""},
		{"HEAD", "/api/ps", ""},
		{"GET", "/v1/models/", ""},
		{"GET", "/v1/models/.", ""},
		{"GET", "/v1/models/..", ""},
		{"GET", "/v1/models/%2e%2e", ""},
		{"GET", "/v1/models/a%2fb", ""},
		{"GET", "/v1/models/a%5cb", ""},
		{"GET", "/v1/models/%61", ""},
		{"GET", "/v1/models/a%253Ab", ""},
		{"GET", "/v1/models%2fa", ""},
		{"GET", "/v1%2fmodels/a:b", ""},
		{"GET", "/v1/models/a%20b", ""},
		{"GET", "/v1/models/é", ""},
		{"GET", "/v1/models/a@b", ""},
		{"HEAD", "/api/blobs/sha256:00%2f..%2f..%2fx", ""},
		{"POST", "/api/blobs/..%2fdelete", ""},
		{"POST", "/debug/pprof/", ""},
	} {
		u, ok := target(t, test.target)
		if !ok {
			if test.want != "" {
				t.Errorf("%s: not a target", test.target)
			}
			continue
		}
		r, ok := ollama.ClassifyURL(test.method, u)
		if ok != (test.want != "") || ok && r.Pattern != test.want || !ok && r.Power != ollama.Unknown || r.Method != test.method {
			t.Errorf("%s %s: %+v, %v; want %q", test.method, test.target, r, ok, test.want)
		}
	}
	for _, u := range []*url.URL{
		{Path: "/api/tags", Host: "x"},
		{Path: "/api/tags", Scheme: "http"},
		{Path: "/api/tags", User: url.User("x")},
		{Path: "/api/tags", Fragment: "x"},
		{Path: "/api/tags", RawPath: "/api%2ftags"},
		{Opaque: "/api/tags"},
	} {
		if r, ok := ollama.ClassifyURL("GET", u); ok {
			t.Errorf("%+v is %+v", u, r)
		}
	}
}

func TestMethods(t *testing.T) {
	for path, want := range map[string]string{
		"/api/tags": "HEAD GET", "/": "HEAD GET", "/api/blobs/x": "HEAD POST", "/api/experimental/aliases": "GET POST DELETE",
		"/api/delete": "DELETE", "/api/none": "", "/api/tags/": "",
	} {
		if got := strings.Join(ollama.Methods(path), " "); got != want {
			t.Errorf("%s has %q, want %q", path, got, want)
		}
	}
}

// A target that ClassifyURL knows says the same to whoever reads it: it has no
// escapes but a colon's, and cleaning changes nothing.
func FuzzClassifyURL(f *testing.F) {
	for _, raw := range []string{"/api/tags?x", "/v1/models/a%3Ab", "/v1/models/a%2fb", "//api/tags", "/api/blobs/sha256:00", "http://x/api/tags", "/api/./tags"} {
		f.Add("GET", raw)
		f.Add("POST", raw)
	}
	f.Fuzz(func(t *testing.T, method, raw string) {
		u, ok := target(t, raw)
		if !ok {
			return
		}
		r, ok := ollama.ClassifyURL(method, u)
		if !ok {
			if r.Power != ollama.Unknown {
				t.Fatalf("%q: unknown, with the power %s", raw, r.Power)
			}
			return
		}
		if same, ok := ollama.Classify(method, u.Path); !ok || same != r {
			t.Fatalf("%q is %+v, its path %+v", raw, r, same)
		}
		line, _, _ := strings.Cut(raw, "?")
		plain := strings.ReplaceAll(strings.ReplaceAll(line, "%3A", ":"), "%3a", ":")
		if plain != u.Path || path.Clean(plain) != plain || strings.ContainsAny(plain, "%\\;#?\x00 ") || strings.Contains(line, "%") && r.Pattern == line {
			t.Fatalf("%q is %+v", raw, r)
		}
	})
}

func FuzzClassify(f *testing.F) {
	f.Add("GET", "/v1/models/x")
	f.Add("POST", "/api/blobs/sha256:00")
	f.Add("GET", "//api/tags")
	f.Fuzz(func(t *testing.T, method, path string) {
		route, ok := ollama.Classify(method, path)
		if ok != (route.Power != ollama.Unknown) || route.Method != method {
			t.Fatalf("%q %q: %+v, %v", method, path, route, ok)
		}
		before, _, param := strings.Cut(route.Pattern, ":")
		if ok && !param && route.Pattern != path || ok && !strings.HasPrefix(path, before) {
			t.Errorf("%q %q matched %s", method, path, route.Pattern)
		}
	})
}
