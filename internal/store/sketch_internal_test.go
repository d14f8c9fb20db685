package store

import (
	"reflect"
	"testing"
	"time"

	"gatehouse/internal/evidence"
	"gatehouse/internal/finding"
	"gatehouse/internal/owner"
	"gatehouse/internal/wave"
)

// TestSketch holds that a sketch has all of a record that a state has.
func TestSketch(t *testing.T) {
	r := wave.Record{
		Address: "192.0.2.1", Port: 11434, Name: "host.example", Path: "/ollama", ObservedAt: time.Date(2026, 4, 10, 1, 2, 3, 4, time.UTC),
		TLS: &evidence.TLS{SHA256: "ab"},
		Verdict: finding.Verdict{
			Outcome: finding.Open, Identity: finding.Identity{Product: "ollama", Version: "0.17.4"},
			Powers: finding.Powers{Hello: finding.Proven, Read: finding.Reachable, Infer: finding.Denied, Manage: finding.Unknown, Account: finding.Unknown},
			Models: []finding.Model{{Name: "b", Digest: "b"}, {Name: "a", Digest: "a"}},
			Findings: []finding.Finding{
				{ID: "ollama-open", Title: "x", Evidence: []string{"y"}}, {ID: "ollama-cleartext"},
			},
		},
		Owner: owner.Owner{Country: "DE", EU: true, ASN: 24940, Network: "n", Provider: "Hetzner", Claims: []owner.Claim{{What: "asn"}}},
	}
	want := wave.StateOf(&r)
	if v := reflect.ValueOf(want); v.IsValid() {
		for i := range v.NumField() {
			if v.Field(i).IsZero() {
				t.Errorf("%s is not tested", v.Type().Field(i).Name)
			}
		}
	}
	packed, err := pack(&r)
	if err != nil {
		t.Fatal(err)
	}
	var k sketch
	if err := unpack(packed, &k); err != nil {
		t.Fatal(err)
	}
	if got := k.state(); !reflect.DeepEqual(got, want) {
		t.Errorf("%+v\nwant %+v", got, want)
	}
}
