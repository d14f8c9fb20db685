package main

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"gatehouse/bench/figures"
)

// What each tool wrote is counted host by host: a line that tells of nothing,
// or of a host once more, does not count.
func TestCounts(t *testing.T) {
	outputs := map[string]string{
		"masscan --banners": "#masscan\nopen tcp 11434 10.98.0.1 1795523791\nbanner tcp 11434 10.98.0.1 1795523791 http HTTP/1.1 200 OK\n" +
			"banner tcp 11434 10.98.0.1 1795523791 http.server nginx\nbanner tcp 11434 10.98.0.2 1795523791 unknown x\n# end\n",
		"nmap -sV": "# Nmap\nHost: 10.98.0.1 ()\tStatus: Up\nHost: 10.98.0.1 ()\tPorts: 11434/open/tcp//http//nginx/\n" +
			"Host: 10.98.0.2 ()\tPorts: 11434/closed/tcp//unknown///\n",
		"curl -Z":         "http://10.98.0.1:11434/ 200\nhttp://10.98.0.1:11434/api/tags 200\nhttp://10.98.0.2:11434/api/tags 000\n",
		"net/http pool":   "10.98.0.1:11434 200 0.17.4 3 1\n10.98.0.2:11434 \n",
		"zmap | curl -Z":  "http://10.98.0.1:11434/api/ps 200\nhttp://10.98.0.1:11434/api/tags 200\nhttp://10.98.0.2:11434/api/tags 000\n",
		"gatehouse sweep": `{"address":"10.98.0.1","port":11434,"outcome":"open"}` + "\n" + `{"address":"10.98.0.3","port":11434,"outcome":"open"}` + "\n",
		"gatehouse":       `{"address":"10.98.0.1","port":11434,"outcome":"open"}` + "\n" + `{"address":"10.98.0.2","port":11434,"outcome":"open"}` + "\n",
	}
	for _, tool := range tools {
		b := &bench{dir: t.TempDir(), truth: map[string]string{"10.98.0.1": "open", "10.98.0.2": "honeypot"}}
		text, ok := outputs[tool.name]
		if !ok {
			t.Errorf("nothing to count for %s", tool.name)
			continue
		}
		for _, name := range []string{"out", "stdout"} {
			if err := os.WriteFile(filepath.Join(b.dir, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if n, err := tool.count(b, b.file("out")); n != 1 || err != nil {
			t.Errorf("%s: %d hosts, %v", tool.name, n, err)
		}
	}
}

// What a round brought is there for who draws it, each figure with its unit; a
// shell's memory is nobody's.
func TestRows(t *testing.T) {
	b := &bench{hosts: 100}
	b.note(tool{name: "curl -Z"}, 2, result{found: 50, took: 2 * time.Second, cpu: time.Second, peakKB: 2048})
	b.note(tool{name: "gatehouse"}, 1, result{found: 50, took: time.Second})
	for _, want := range []figures.Row{
		{Bench: "scan", Series: "identified", X: 100, UnitX: "hosts", Y: 25, UnitY: "hosts/s", Round: 2, Peer: "curl -Z"},
		{Bench: "scan", Series: "memory at most", X: 100, UnitX: "hosts", Y: 2, UnitY: "MB", Round: 2, Peer: "curl -Z"},
		{Bench: "scan", Series: "processor time a host", X: 100, UnitX: "hosts", Y: 20, UnitY: "ms", Round: 2, Peer: "curl -Z"},
		{Bench: "scan", Series: "identified", X: 100, UnitX: "hosts", Y: 50, UnitY: "hosts/s", Round: 1, Peer: figures.Ours},
	} {
		if !slices.Contains(b.out.Rows, want) {
			t.Errorf("no row %+v in %+v", want, b.out.Rows)
		}
	}
	if slices.ContainsFunc(b.out.Rows, func(r figures.Row) bool { return r.UnitY == "MB" && r.Peer == figures.Ours }) {
		t.Error("a memory that was not measured")
	}
	b.hosts, b.sweep = sweepHosts, true
	b.note(tool{name: "gatehouse sweep"}, 1, result{found: sweepHosts, took: time.Second})
	if r := b.out.Rows[len(b.out.Rows)-1]; r.Series != "a /16 from sweep to store, found" || r.Peer != figures.Ours {
		t.Errorf("%+v", r)
	}
}

func TestMedian(t *testing.T) {
	list := []result{{found: 30, took: time.Second}, {found: 10, took: time.Second}, {found: 40, took: 2 * time.Second}}
	if m := median(list, result.rate); m != 20 {
		t.Errorf("median %v", m)
	}
	if m := median(nil, result.rate); m != 0 {
		t.Errorf("median of nothing %v", m)
	}
}
