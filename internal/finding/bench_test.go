package finding_test

import (
	"testing"

	"gatehouse/internal/evidence"
	"gatehouse/internal/finding"
	"gatehouse/internal/ollama"
)

// BenchmarkJudge judges an open server with three models, as a scan does for
// each that it finds.
func BenchmarkJudge(b *testing.B) {
	h := told("shodan")
	h.Exchanges = append(h.Exchanges, evidence.Exchange{
		Ask: evidence.Ps, Method: "GET", Path: "/api/ps", Status: 200, Body: []byte(`{"models":[]}`), Retold: "shodan",
	})
	rules := finding.Rules{Advisories: ollama.Default()}
	b.ReportAllocs()
	for b.Loop() {
		if v := rules.Judge(&h); v.Outcome != finding.Open {
			b.Fatal(v.Outcome, v.Reason)
		}
	}
}
