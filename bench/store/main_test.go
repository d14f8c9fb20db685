package main

import (
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"gatehouse/bench/figures"
	"gatehouse/internal/finding"
	"gatehouse/internal/ollama"
)

// A verdict that is taken over from a host of the same shape is the host's own.
func TestVerdict(t *testing.T) {
	rules := finding.Rules{Advisories: ollama.Default()}
	kept := judge{rules: rules, known: make(map[shape]finding.Verdict)}
	for number := range 2 {
		for pos := uint64(0); pos < 2*2991; pos += 57 {
			o := observation(pos, number, &kept)
			if own := rules.Judge(&o.Host); !reflect.DeepEqual(own, o.Record.Verdict) {
				t.Fatalf("host %d of wave %d: %+v, its own is %+v", pos, number+1, o.Record.Verdict, own)
			}
		}
	}
}

// Every size has every figure once.
func TestFigures(t *testing.T) {
	b := bench{json: filepath.Join(t.TempDir(), "figures.json")}
	if err := b.run(t.Context(), []string{"60"}); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(b.json)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	read, err := figures.Read(f)
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[string]float64)
	for _, r := range read.Rows {
		if r.X != 120 || r.UnitX != "observations" || r.Peer != figures.Ours {
			t.Errorf("%+v", r)
		}
		got[r.Series] = r.Y
	}
	for _, name := range []string{"hosts kept", "file", "show", "trend", "diff", "read every record", "forget one address", "memory at most"} {
		if got[name] <= 0 {
			t.Errorf("%s is %v", name, got[name])
		}
	}
	if len(got) != len(read.Rows) || len(got) != 8 {
		t.Errorf("figures %v", got)
	}
	if err := b.run(t.Context(), []string{"60", "x"}); err == nil {
		t.Error("x is a number of hosts")
	}
}
