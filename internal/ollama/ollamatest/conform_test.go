//go:build unix

package ollamatest_test

import (
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"

	"gatehouse/internal/ollama"
	"gatehouse/internal/ollama/ollamatest"
	"gatehouse/internal/ollama/realollama"
)

// held returns the models that a real server says it has.
func held(t *testing.T, real *realollama.Server) []ollamatest.Model {
	t.Helper()
	tags, err := ollama.ParseTags(real.Ask(t, realollama.Request{Method: "GET", Path: "/api/tags"}).Body)
	if err != nil {
		t.Fatal(err)
	}
	var models []ollamatest.Model
	for _, m := range tags.Models {
		models = append(models, ollamatest.Model{
			Name: m.Name, Size: m.Size.N, Digest: m.Digest, Modified: m.ModifiedAt.Time,
			Format: m.Details.Format, Family: m.Details.Family, Params: m.Details.ParameterSize, Quant: m.Details.QuantizationLevel,
			Context: 512, Abilities: []string{"completion"}, System: "You are the doorman of a small house.",
		})
	}
	return models
}

// more are requests beyond what a probe sends: the edges of router, CORS and
// decoding.
var more = []realollama.Request{
	{Name: "version-head", Method: "HEAD", Path: "/api/version"},
	{Name: "tags-head", Method: "HEAD", Path: "/api/tags"},
	{Name: "ps-head", Method: "HEAD", Path: "/api/ps"},
	{Name: "query", Method: "GET", Path: "/api/version?a=b"},
	{Name: "escaped", Method: "GET", Path: "/api%2fversion"},
	{Name: "show-get", Method: "GET", Path: "/api/show"},
	{Name: "delete-get", Method: "GET", Path: "/api/delete"},
	{Name: "tags-put", Method: "PUT", Path: "/api/tags"},
	{Name: "tags-options", Method: "OPTIONS", Path: "/api/tags"},
	{Name: "blob-get", Method: "GET", Path: "/api/blobs/x"},
	{Name: "blob-head", Method: "HEAD", Path: "/api/blobs/x"},
	{Name: "aliases-put", Method: "PUT", Path: "/api/experimental/aliases"},
	{Name: "no-path-put", Method: "PUT", Path: "/none"},
	{Name: "no-path-head", Method: "HEAD", Path: "/none"},
	{Name: "other-case", Method: "GET", Path: "/API/tags"},
	{Name: "slash-end", Method: "GET", Path: "/api/tags/"},
	{Name: "slash-end-post", Method: "POST", Path: "/api/generate/"},
	{Name: "slash-twice", Method: "GET", Path: "//api/tags"},
	{Name: "dots", Method: "GET", Path: "/api/../api/version"},
	{Name: "show-braces", Method: "POST", Path: "/api/show", Body: `{}`},
	{Name: "show-junk", Method: "POST", Path: "/api/show", Body: `{x}`},
	{Name: "show-list", Method: "POST", Path: "/api/show", Body: `[]`},
	{Name: "show-cut", Method: "POST", Path: "/api/show", Body: `{"model":`},
	{Name: "show-spaces", Method: "POST", Path: "/api/show", Body: `{"model":"a b c"}`},
	{Name: "show-case", Method: "POST", Path: "/api/show", Body: `{"name":"TINY"}`},
	{Name: "chat-empty", Method: "POST", Path: "/api/chat", Body: `{}`},
	{Name: "generate-empty", Method: "POST", Path: "/api/generate", Body: `{}`},
	{Name: "embed-unknown", Method: "POST", Path: "/api/embed", Body: `{"model":"none"}`},
	{Name: "embeddings-unknown", Method: "POST", Path: "/api/embeddings", Body: `{"model":"none"}`},
	{Name: "v1-chat-braces", Method: "POST", Path: "/v1/chat/completions", Body: `{}`},
	{Name: "v1-chat-junk", Method: "POST", Path: "/v1/chat/completions", Body: `{x}`},
	{Name: "v1-chat-unknown", Method: "POST", Path: "/v1/chat/completions", Body: `{"model":"none","messages":[{"role":"user","content":"a"}]}`},
	{Name: "v1-embeddings-braces", Method: "POST", Path: "/v1/embeddings", Body: `{}`},
	{Name: "host-localhost", Method: "GET", Path: "/", Host: "localhost:11434"},
	{Name: "host-private", Method: "GET", Path: "/", Host: "192.168.1.5"},
	{Name: "host-public", Method: "GET", Path: "/", Host: "192.0.2.1"},
	{Name: "host-local", Method: "GET", Path: "/", Host: "box.local"},
	{Name: "host-six", Method: "GET", Path: "/", Host: "[::1]:11434"},
	{Name: "host-foreign-put", Method: "PUT", Path: "/api/tags", Host: "evil.example"},
	{Name: "host-name-options", Method: "OPTIONS", Path: "/api/tags", Host: "localhost"},
	{Name: "origin-wildcard", Method: "GET", Path: "/", Header: []string{"Origin: http://localhost:80.evil.example"}},
	{Name: "origin-null", Method: "GET", Path: "/", Header: []string{"Origin: null"}},
	{Name: "origin-app", Method: "GET", Path: "/none", Header: []string{"Origin: app://obsidian.md"}},
	{Name: "preflight", Method: "OPTIONS", Path: "/api/tags", Header: []string{"Origin: http://localhost:3000", "Access-Control-Request-Method: POST"}},
	{Name: "preflight-foreign", Method: "OPTIONS", Path: "/api/tags", Header: []string{"Origin: https://evil.example", "Access-Control-Request-Method: POST"}},
	{Name: "preflight-no-path", Method: "OPTIONS", Path: "/none", Header: []string{"Origin: http://127.0.0.1", "Access-Control-Request-Method: POST"}},
	{Name: "close", Method: "GET", Path: "/api/version", Header: []string{"Connection: close"}},
}

// TestConform sends every harmless request to a real Ollama and to a simulated
// one and compares the bytes that come back.
func TestConform(t *testing.T) {
	for _, c := range []struct {
		name      string
		simulated ollamatest.Ollama
		option    realollama.Option
	}{
		{"loopback", ollamatest.Ollama{Loopback: true}, realollama.Env()},
		{"everywhere", ollamatest.Ollama{}, realollama.Everywhere()},
		{"any-origin", ollamatest.Ollama{Loopback: true, AnyOrigin: true}, realollama.Env("OLLAMA_ORIGINS=*")},
		{"empty", ollamatest.Ollama{Loopback: true}, realollama.Empty()},
	} {
		t.Run(c.name, func(t *testing.T) {
			real := realollama.Start(t, c.option)
			c.simulated.Version, c.simulated.Models, c.simulated.NoCloud = realollama.Version, held(t, real), true
			s := c.simulated.Server(c.name)
			simulated := open(t, s)
			for _, r := range slices.Concat(realollama.Harmless, more) {
				compare(t, r, real.AddrPort, simulated)
			}
		})
	}
}

// TestConformLoaded compares what the two say of a model in memory.
func TestConformLoaded(t *testing.T) {
	real := realollama.Start(t)
	real.Load(t)
	models := held(t, real)
	simulated := open(t, ollamatest.Ollama{
		Models: models, Loopback: true, Running: []ollamatest.Running{ollamatest.Loaded(models[0])},
	}.Server("loaded"))
	compare(t, realollama.Request{Name: "loaded", Method: "GET", Path: "/api/ps"}, real.AddrPort, simulated)
}

func compare(t *testing.T, r realollama.Request, real, simulated netip.AddrPort) {
	t.Helper()
	want, err := realollama.Ask(t.Context(), real, r)
	if err != nil {
		t.Errorf("%s: the real one: %v", r.Name, err)
		return
	}
	got, err := realollama.Ask(t.Context(), simulated, r)
	if err != nil {
		t.Errorf("%s: the simulated one: %v", r.Name, err)
		return
	}
	if r.Name == "show" || r.Name == "show-case" { // whose values are the model's
		if g, w := got.Shape(), want.Shape(); g != w {
			t.Errorf("%s:\n-- simulated\n%s\n-- real\n%s", r.Name, g, w)
		}
		return
	}
	if g, w := mask(got.Raw, simulated), mask(want.Raw, real); g != w {
		t.Errorf("%s:\n-- simulated\n%s\n-- real\n%s", r.Name, g, w)
	}
}

// different is what two servers of one release do not share: times, digests,
// sizes in memory, and the identifiers of errors.
var different = regexp.MustCompile(`(\nDate: |"modified_at":"|"expires_at":"|"digest":"|"request_id":"|"created":|"context_length":|"size(?:_vram)?":)[^"\r,}]*`)

func mask(raw []byte, at netip.AddrPort) string {
	s := strings.ReplaceAll(string(raw), at.String(), "ADDRESS")
	if strings.Contains(s, `"expires_at"`) { // of a nanosecond's length
		s = regexp.MustCompile(`Content-Length: \d+`).ReplaceAllString(s, "Content-Length: …")
	}
	s = different.ReplaceAllString(s, "${1}…")
	// The date's value has a comma.
	return regexp.MustCompile(`\nDate: [^\r]*`).ReplaceAllString(s, "\nDate: …")
}
