//go:build !race

package gateway_test

import (
	"bytes"
	"io"
	"net/http"
	"net/netip"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"gatehouse/internal/gateway"
	"gatehouse/internal/key"
	"gatehouse/internal/ledger"
	"gatehouse/internal/limit"
	"gatehouse/internal/ollama"
	"gatehouse/internal/policy"
)

// shelf is a ledger that takes everything and keeps nothing.
type shelf struct{}

func (shelf) Append(ledger.Record) error { return nil }
func (shelf) Err() error                 { return nil }

// taker is a caller that takes everything.
type taker struct {
	h      http.Header
	status int
}

func (w *taker) Header() http.Header         { return w.h }
func (w *taker) WriteHeader(status int)      { w.status = status }
func (w *taker) Write(p []byte) (int, error) { return len(p), nil }

func (w *taker) FlushError() error                { return nil }
func (w *taker) SetReadDeadline(time.Time) error  { return nil }
func (w *taker) SetWriteDeadline(time.Time) error { return nil }

// again is a body that can be read again and again.
type again struct{ *bytes.Reader }

func (again) Close() error { return nil }

// TestAllocs holds what one request costs in allocations, where it does not
// drift as times do: who is it, which route, may it, how much; and the whole way
// through the gate, without the upstream. With the race detector, pools forget
// at random.
func TestAllocs(t *testing.T) {
	token, k := newKey("laptop", func(k *key.Key) {
		k.Terms.Models = []string{"*"}
		k.Terms.Limits = key.Limits{PerMinute: 1e9, TokensMinute: 1e12, TokensDay: 1e12, Streams: 1e6}
	})
	ring := new(key.Ring)
	ring.Replace([]key.Key{k})
	lines := []byte(pieces(1)[0])
	g := &gateway.Gateway{
		Door: &key.Door{Ring: ring, Guesses: key.NewGuesses()}, Limiter: limit.New(), Queue: limit.NewQueue(4, 4),
		Ledger: shelf{}, Watch: gateway.NewMetrics(prometheus.NewRegistry()),
		Upstream: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			for range 20 {
				_, _ = w.Write(lines)
			}
		}),
	}
	request := func(method, path, body string) *http.Request {
		r, err := http.NewRequestWithContext(t.Context(), method, path, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.RemoteAddr, r.Host = "127.0.0.1:5", "localhost"
		r.Header.Set("Authorization", "Bearer "+token)
		if body != "" {
			r.Body, r.ContentLength = again{bytes.NewReader([]byte(body))}, int64(len(body))
		}
		return r
	}

	// Who has used something today is remembered; as is who is new.
	g.Limiter.Seed(k.ID, 1, time.Now())

	get := request("GET", "/api/tags", "")
	now, from := time.Now(), netip.MustParseAddr("127.0.0.1")
	decide := func() {
		route, known := ollama.ClassifyURL(get.Method, get.URL)
		id, refusal := g.Door.Identify(get, from, now)
		if refusal != nil {
			t.Fatal(refusal)
		}
		if d := policy.Decide(id, policy.Request{Route: route, Known: known, From: from, Now: now}); !d.Allow {
			t.Fatal(d)
		}
		grant, over := g.Limiter.Admit(id.ID, id.Terms.Limits, 0, now)
		if over != nil {
			t.Fatal(over)
		}
		grant.Settle(0, now)
	}
	w := &taker{h: make(http.Header)}
	whole := func(r *http.Request) func() {
		return func() {
			clear(w.h)
			if body, ok := r.Body.(again); ok {
				_, _ = body.Seek(0, io.SeekStart)
			}
			if g.ServeHTTP(w, r); w.status != http.StatusOK {
				t.Fatal(w.status)
			}
		}
	}
	for _, c := range []struct {
		name string
		want float64
		run  func()
	}{
		{"identify, classify, decide and admit", 1, decide},
		{"a list", 20, whole(get)},
		{"a streamed chat of 20 lines", 51, whole(request("POST", "/api/chat", chat))},
	} {
		if got := testing.AllocsPerRun(200, c.run); got != c.want {
			t.Errorf("%s: %v allocations, want %v", c.name, got, c.want)
		}
	}
}
