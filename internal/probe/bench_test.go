package probe_test

import (
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"

	"gatehouse/internal/evidence"
)

// BenchmarkProbe asks one host its four questions over loopback. The host's own
// work is in the figure; what differs between two runs is the probe's.
func BenchmarkProbe(b *testing.B) {
	answers := map[string]string{
		"/": "Ollama is running", "/api/version": `{"version":"0.17.4"}`, "/api/ps": `{"models":[]}`,
		"/api/tags": `{"models":[{"name":"tiny:latest","model":"tiny:latest","modified_at":"2026-11-24T10:25:03.694682266Z","size":2019393189,` +
			`"digest":"a80c4f17acd55265feec403c7aef86be0c25983ab279d83f3bcd3abbcb5b8b72","details":{"parent_model":"","format":"gguf",` +
			`"family":"llama","families":["llama"],"parameter_size":"3.2B","quantization_level":"Q4_K_M"}}]}`,
	}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = w.Write([]byte(answers[r.URL.Path]))
	}))
	defer srv.Close()
	addr, err := netip.ParseAddrPort(srv.Listener.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	p := prober()
	b.ReportAllocs()
	for b.Loop() {
		if h := p.Probe(b.Context(), at(addr), nil); h.Reach != evidence.Answered || len(h.Exchanges) != 4 {
			b.Fatalf("%v, %d answers: %s", h.Reach, len(h.Exchanges), h.Reason)
		}
	}
}
