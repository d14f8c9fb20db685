//go:build !race

package upstream

import (
	"net"
	"net/http"
	"net/url"
	"testing"
)

// sink is a caller that takes everything.
type sink struct{ h http.Header }

func (s *sink) Header() http.Header         { return s.h }
func (s *sink) WriteHeader(int)             {}
func (s *sink) Write(p []byte) (int, error) { return len(p), nil }

// TestRelayAllocs: what a request and its answer cost in allocations on their way
// through the pool. With the race detector, pools forget at random.
func TestRelayAllocs(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	answer := []byte("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nDate: Thu, 26 Nov 2026 18:00:00 GMT\r\nContent-Length: 2\r\n\r\n{}")
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		for b := make([]byte, 4096); ; {
			if _, err := conn.Read(b); err != nil {
				return
			}
			if _, err := conn.Write(answer); err != nil {
				return
			}
		}
	}()
	p, err := New(Config{Servers: []Server{{URL: &url.URL{Scheme: "http", Host: l.Addr().String()}}}})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	r, err := http.NewRequestWithContext(t.Context(), "GET", "/api/tags", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.RemoteAddr, r.Host = "127.0.0.1:5", "localhost"
	r.Header.Set("Accept", "*/*")
	w := &sink{h: make(http.Header)}
	const want = 18
	got := testing.AllocsPerRun(200, func() {
		clear(w.h)
		p.ServeHTTP(w, r)
	})
	if len(w.h["Content-Type"]) != 1 {
		t.Fatalf("answered %v", w.h)
	}
	if got != want {
		t.Errorf("%v allocations, want %d", got, want)
	}
}
