//go:build unix

package finding_test

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"gatehouse/internal/evidence"
	"gatehouse/internal/finding"
	"gatehouse/internal/ollama"
	"gatehouse/internal/ollama/realollama"
	"gatehouse/internal/probe"
	"gatehouse/internal/target"
)

// captured is the folder of what a real server answered, with what is to be
// found in it beside.
var captured = filepath.Join("..", "ollama", "testdata", realollama.Version)

// TestCaptured probes a listener that gives a real server's own answers, byte for
// byte, and holds the verdict to the one that was agreed on.
func TestCaptured(t *testing.T) {
	for _, c := range []struct {
		name  string
		reads bool              // no more than reads
		other map[string]string // captures that stand in for those of an idle server
	}{
		{name: "reads", reads: true},
		{name: "idle"},
		{name: "empty", other: map[string]string{"tags": "tags-empty"}},
		{name: "loaded", other: map[string]string{"ps": "ps-loaded"}},
		{name: "everywhere", other: map[string]string{"rebind": "rebind-everywhere", "origin": "origin-everywhere"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			host := replay(t, c.other, !c.reads)
			v := finding.Rules{Advisories: ollama.Default()}.Judge(&host)
			got, err := json.Marshal(v, json.Deterministic(true), jsontext.WithIndent("  "))
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, '\n')
			golden := filepath.Join(captured, c.name+".json")
			if *update {
				if err := os.WriteFile(golden, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("not the verdict of %s, but\n%s", golden, got)
			}
		})
	}
}

// replay returns the evidence of a server that answers as captured, looked at
// when the answers were captured, on the port that is Ollama's own.
func replay(t *testing.T, other map[string]string, prove bool) evidence.Host {
	t.Helper()
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := player{t: t, other: other}
	var serving sync.WaitGroup
	serving.Go(func() { p.serve(ln) })
	t.Cleanup(func() {
		_ = ln.Close()
		serving.Wait()
	})

	prober := &probe.Prober{
		Allows:    func(netip.Addr) error { return nil },
		UserAgent: "Gatehouse/test (+mailto:test@example.org)",
		Prove:     prove,
		Dial: func(ctx context.Context, at netip.AddrPort) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", at.String())
		},
	}
	if prove {
		prober.Details = 4
	}
	at := ln.Addr().(*net.TCPAddr).AddrPort()
	host := prober.Probe(t.Context(), target.Place{Addr: at.Addr(), Port: at.Port()}, nil)

	date, err := http.ParseTime(host.Find(evidence.Version).Get("Date"))
	if err != nil {
		t.Fatal(err)
	}
	host.Port, host.ObservedAt = 11434, date.UTC().Truncate(time.Second)
	host.Target = "127.0.0.1:11434"
	return host
}

// player answers each request with what the real server answered to it.
type player struct {
	t     *testing.T
	other map[string]string
}

// serve answers one connection after the other until ln closes.
func (p *player) serve(ln net.Listener) {
	for {
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		b := bufio.NewReader(conn)
		for {
			req, err := http.ReadRequest(b)
			if err != nil {
				break // the prober has hung up
			}
			if _, err := conn.Write(p.answer(req)); err != nil {
				break
			}
		}
		_ = conn.Close()
	}
}

// answer is the captured answer to req.
func (p *player) answer(req *http.Request) []byte {
	asked := slices.IndexFunc(realollama.Harmless, func(r realollama.Request) bool {
		return r.Method == req.Method && r.Path == req.URL.Path && (r.Body != "") == (req.ContentLength > 0) &&
			(r.Host != "") == strings.HasSuffix(req.Host, ".invalid") &&
			strings.TrimPrefix(cmp.Or(r.Header...), "Origin: ") == req.Header.Get("Origin")
	})
	if asked < 0 {
		p.t.Errorf("no answer was captured to %s %s", req.Method, req.URL)
		return []byte("HTTP/1.1 500 Not Captured\r\nContent-Length: 0\r\n\r\n")
	}
	name := realollama.Harmless[asked].Name
	raw, err := os.ReadFile(filepath.Join(captured, cmp.Or(p.other[name], name)+".http"))
	if err != nil {
		p.t.Error(err)
	}
	return raw
}
