package gateway_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"gatehouse/internal/gateway"
	"gatehouse/internal/key"
	"gatehouse/internal/ledger"
	"gatehouse/internal/limit"
)

// blotter is a ledger that keeps nothing.
type blotter struct{ n int }

func (b *blotter) Append(ledger.Record) error { b.n++; return nil }
func (b *blotter) Err() error                 { return nil }

// sink is an answer that goes nowhere.
type sink struct {
	header http.Header
	code   int
}

func (s *sink) Header() http.Header         { return s.header }
func (s *sink) Write(p []byte) (int, error) { return len(p), nil }
func (s *sink) WriteHeader(code int)        { s.code = code }
func (s *sink) Flush()                      {}

// BenchmarkServe is the gate alone, from the request to the upstream and back,
// with no network on either side.
func BenchmarkServe(b *testing.B) {
	list := strings.Join(pieces(20), "")
	for _, c := range []struct {
		name, method, path, body string
		serve                    http.HandlerFunc
	}{
		{"get", "GET", "/api/version", "", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, `{"version":"0.17.4"}`)
		}},
		{"chat", "POST", "/api/chat", chat, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/x-ndjson")
			_, _ = io.WriteString(w, list)
		}},
	} {
		b.Run(c.name, func(b *testing.B) {
			token, k := newKey("bench", nil)
			ring, book := new(key.Ring), new(blotter)
			ring.Replace([]key.Key{k})
			gate := &gateway.Gateway{
				Door: &key.Door{Ring: ring}, Limiter: limit.New(), Queue: limit.NewQueue(8, 8), Ledger: book, Upstream: c.serve,
			}
			b.ReportAllocs()
			for b.Loop() {
				r := httptest.NewRequestWithContext(b.Context(), c.method, c.path, strings.NewReader(c.body))
				r.Host = "localhost"
				r.Header.Set("Authorization", "Bearer "+token)
				w := &sink{header: make(http.Header), code: http.StatusOK}
				if gate.ServeHTTP(w, r); w.code != http.StatusOK {
					b.Fatalf("answered %d", w.code)
				}
			}
			if book.n < b.N {
				b.Errorf("%d of %d requests are in the ledger", book.n, b.N)
			}
		})
	}
}
