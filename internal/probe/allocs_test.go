//go:build unix && !race

package probe_test

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"gatehouse/internal/evidence"
	"gatehouse/internal/ollama/realollama"
	"gatehouse/internal/probe"
	"gatehouse/internal/target"
)

// What it costs to ask a real server the four reads does not grow unnoticed. The
// race detector empties pools at random, so that it counts others.
func TestProbeAllocates(t *testing.T) {
	var replies [][]byte
	for _, name := range []string{"root", "version", "tags", "ps"} {
		raw, err := os.ReadFile(filepath.Join("..", "ollama", "testdata", realollama.Version, name+".http"))
		if err != nil {
			t.Fatal(err)
		}
		replies = append(replies, raw)
	}
	// The banner is asked for alone, the others together.
	answers := [][]byte{replies[0], bytes.Join(replies[1:], nil)}
	conn := new(taped)
	p := &probe.Prober{Allows: func(netip.Addr) error { return nil }, UserAgent: agent}
	place := target.Place{Addr: netip.MustParseAddr("10.0.0.1"), Port: 11434}
	var host evidence.Host
	const want = 22
	got := testing.AllocsPerRun(200, func() {
		conn.answers = answers
		host = p.Probe(context.Background(), place, conn)
	})
	if got != want {
		t.Errorf("%v allocations to ask a host, want %d", got, want)
	}
	if len(host.Exchanges) != 4 || host.Reach != evidence.Answered || host.Reason != "" {
		t.Errorf("%d exchanges, %s %s", len(host.Exchanges), host.Reach, host.Reason)
	}
}

// taped is a connection that answers each write with the next of its answers.
type taped struct {
	net.Conn
	answers [][]byte
	left    []byte
}

func (c *taped) Write(b []byte) (int, error) {
	if len(c.answers) > 0 {
		c.left, c.answers = c.answers[0], c.answers[1:]
	}
	return len(b), nil
}

func (c *taped) Read(b []byte) (int, error) {
	if len(c.left) == 0 {
		return 0, io.EOF
	}
	n := copy(b, c.left)
	c.left = c.left[n:]
	return n, nil
}

func (c *taped) SetDeadline(time.Time) error { return nil }
func (c *taped) Close() error                { return nil }
