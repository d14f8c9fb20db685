package ollama_test

import (
	"net/http"
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
