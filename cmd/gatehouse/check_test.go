package main

import (
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"gatehouse/internal/finding"
	"gatehouse/internal/harden"
	"gatehouse/internal/ollama/ollamatest"
	"gatehouse/internal/wave"
)

// TestExposure: who can come to an address decides the verdict and the exit
// code, and only where an Ollama is open there.
func TestExposure(t *testing.T) {
	for _, c := range []struct {
		address string
		want    harden.Level
	}{
		{"127.0.0.1", harden.LocalOnly},
		{"127.9.9.9", harden.LocalOnly},
		{"::1", harden.LocalOnly},
		{"10.0.0.5", harden.OpenToNetwork},
		{"172.17.0.1", harden.OpenToNetwork}, // Docker's bridge
		{"192.168.1.20", harden.OpenToNetwork},
		{"100.100.1.2", harden.OpenToNetwork}, // an overlay network, or a carrier's
		{"169.254.1.1", harden.OpenToNetwork},
		{"fd00::5", harden.OpenToNetwork},
		{"fe80::1", harden.OpenToNetwork},
		{"172.32.0.1", harden.OpenToInternet},
		{"8.8.8.8", harden.OpenToInternet},
		{"2606:4700::1111", harden.OpenToInternet},
	} {
		for _, o := range finding.Outcomes {
			r := wave.Record{Address: c.address}
			r.Outcome = o
			want := harden.NoOllama
			switch o {
			case finding.Open:
				want = c.want
			case finding.Guarded:
				want = harden.Guarded
			}
			addr := []netip.Addr{netip.MustParseAddr(c.address)}
			if v := new(checkCmd).judge(addr, []wave.Record{{Address: "127.0.0.1"}, r}); v.Level != want {
				t.Errorf("%s at %s: %s, want %s", o, c.address, v.Level, want)
			}
		}
	}
}

// TestCheckFormats runs check on a machine with one address, on which an Ollama
// answers, asks for a password, or is not.
func TestCheckFormats(t *testing.T) {
	here := []netip.Addr{netip.MustParseAddr("127.0.0.1")}
	look := func(variant string, c checkCmd) string {
		t.Helper()
		st, err := ollamatest.One(ollamatest.Variant(variant))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(st.Close)
		c.Ports = []uint16{st.Houses[0].Addr.Port()}
		var out, errOut strings.Builder
		if err := c.check(t.Context(), streams{out: &out, err: &errOut}, here); err != nil || errOut.Len() > 0 {
			t.Errorf("check of %s as %s: %v, %s", variant, c.Format, err, errOut.String())
		}
		if harm := st.Harm(); len(harm) > 0 {
			t.Errorf("check harms: %q", harm)
		}
		return out.String()
	}
	for variant, want := range map[string]string{
		"ollama/0.17.4":               "LOCAL ONLY: ",
		"guard/nginx-basic/0.17.4":    "GUARDED: ",
		"alike/llama.cpp-b6000":       "NO OLLAMA: ",
		"hostile/reset":               "NO OLLAMA: ",
		"hostile/terminal-escapes":    "LOCAL ONLY: ",
		"honeypot/python-canned":      "NO OLLAMA: ",
		"other/nginx-welcome":         "NO OLLAMA: ",
		"hostile/endless-header-line": "NO OLLAMA: ",
	} {
		out := look(variant, checkCmd{Format: "table"})
		if !strings.HasPrefix(out, "\n "+want) {
			t.Errorf("check of %s says\n%s", variant, out)
		}
		if line, columns := widest(out); columns > 80 || strings.Contains(out, "\x1b") {
			t.Errorf("check of %s has a line of %d columns, or an escape: %q", variant, columns, line)
		}
	}
	if out := look("ollama/0.17.4", checkCmd{Format: "table", Verbose: true}); !strings.Contains(out, "● manage") || !strings.Contains(out, "ollama-open") {
		t.Errorf("check --verbose shows no evidence:\n%s", out)
	}
	for format, want := range map[string]string{
		"jsonl": `"outcome":"open"`, "json": `"outcome":"open"`, "csv": ",open,", "sarif": `"ollama-open"`,
	} {
		out := look("ollama/0.17.4", checkCmd{Format: format})
		if !strings.Contains(out, want) || strings.Contains(out, "LOCAL") {
			t.Errorf("check as %s: %s", format, out)
		}
		if format != "csv" && !json.Valid([]byte(out)) {
			t.Errorf("check as %s is not JSON: %s", format, out)
		}
		name := filepath.Join(t.TempDir(), "found")
		if out := look("ollama/0.17.4", checkCmd{Format: format, Out: name}); out != "" {
			t.Errorf("check --out writes to standard output: %s", out)
		}
		if text, err := os.ReadFile(name); err != nil || !strings.Contains(string(text), want) {
			t.Errorf("check --out as %s: %v, %s", format, err, text)
		}
	}
}

// TestCheckPorts: Ollama's own port and the one that OLLAMA_HOST names.
func TestCheckPorts(t *testing.T) {
	for host, want := range map[string][]uint16{
		"":                            {11434},
		"0.0.0.0":                     {11434},
		"0.0.0.0:11434":               {11434},
		"127.0.0.1:8080":              {11434, 8080},
		"http://0.0.0.0:9000":         {11434, 9000},
		"https://host.example:443/ai": {11434, 443},
		"[::]:7000":                   {11434, 7000},
		":6000":                       {11434, 6000},
		"host:port":                   {11434},
		"host:99999":                  {11434},
	} {
		t.Setenv("OLLAMA_HOST", host)
		if got := (&checkCmd{}).ports(); !slices.Equal(got, want) {
			t.Errorf("OLLAMA_HOST=%s: ports %v, want %v", host, got, want)
		}
	}
	if got := (&checkCmd{Ports: []uint16{1}}).ports(); !slices.Equal(got, []uint16{1}) {
		t.Errorf("--ports 1: ports %v", got)
	}
	if addrs, err := ownAddresses(); err != nil || !slices.ContainsFunc(addrs, netip.Addr.IsLoopback) {
		t.Errorf("this machine's addresses are %v, without loopback: %v", addrs, err)
	}
}
