package report_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"gatehouse/internal/report"
	"gatehouse/internal/wave"
)

// TestNews: a message is bounded, leaves out what is noted, and passes on nothing
// of a host's that a channel would obey.
func TestNews(t *testing.T) {
	n := report.News{Excused: func(a netip.Addr, _ uint16) bool { return a == netip.MustParseAddr("10.0.0.7") }}
	for i := range 200 {
		p := wave.Place{Address: netip.AddrFrom4([4]byte{10, 0, 0, byte(199 - i)}), Port: 11434}
		s := wave.State{Place: p, Version: "0.17.4", Models: []string{"a", "b"}, Country: "DE", Provider: "Hetzner"}
		if i%2 == 0 {
			s.Version = "@everyone <!channel> https://evil.example"
		}
		if err := n.Add(wave.Difference{Event: wave.Appeared, Place: p, After: &s}); err != nil {
			t.Fatal(err)
		}
	}
	for _, e := range []wave.Event{wave.Fixed, wave.Gone, wave.Gone} {
		if err := n.Add(wave.Difference{Event: e, Place: wave.Place{Address: netip.MustParseAddr("2001:db8::1"), Port: 1}}); err != nil {
			t.Fatal(err)
		}
	}
	at := time.Date(2026, 11, 25, 8, 0, 0, 0, time.UTC)
	a := &wave.Info{Number: 5, Scope: "acme\x1b[31m", Started: at, Tally: &wave.Tally{Open: 1}}
	b := &wave.Info{Number: 6, Scope: "acme\x1b[31m", Started: at.Add(24 * time.Hour), Tally: &wave.Tally{Open: 199}}
	text := n.Text(a, b)
	for _, want := range []string{
		"New (199): ", "  10.0.0.0:11434", "  10.0.0.20:11434", "  and 179 more\n", "Fixed (1): ", "[2001:db8::1]:1", "Also: 2 gone.",
		"Left out, for a note says so: 1.", "All of it: gatehouse wave diff 5 6\n", "Ollama 0.17.4, 2 models, DE Hetzner",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the message has no %q", want)
		}
	}
	for _, bad := range []string{"everyone", "channel", "evil", "\x1b", "10.0.0.7:", "10.0.0.21:"} {
		if strings.Contains(text, bad) {
			t.Errorf("the message has %q", bad)
		}
	}
	for line := range strings.Lines(text) {
		if len(line) > 81 {
			t.Errorf("a long line: %q", line)
		}
	}
	if hosts := fmt.Sprint(n.Hosts()); strings.Contains(hosts, "everyone") || len(n.Hosts()[wave.Appeared]) != 20 {
		t.Errorf("for programs: %s", hosts)
	}
	if line := n.Line(); line != "199 new, 1 fixed" {
		t.Errorf("in short: %q", line)
	}
	if t.Failed() {
		t.Log(text)
	}
}

// TestNoNews: what is not told of makes no message.
func TestNoNews(t *testing.T) {
	n := report.News{Excused: func(netip.Addr, uint16) bool { return true }}
	for _, e := range wave.Events {
		if err := n.Add(wave.Difference{Event: e}); err != nil {
			t.Fatal(err)
		}
	}
	if n.Any() || n.Left != 3 {
		t.Errorf("%d left out, something to tell: %v", n.Left, n.Any())
	}
}
