package finding_test

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"gatehouse/internal/evidence"
	"gatehouse/internal/finding"
)

// told is a host of which somebody told: the banner, the version, and models by
// name alone, as an export may have them.
func told(by string) evidence.Host {
	models := `{"models":[{"name":"llama3.2:3b"},{"name":"qwen3:8b"},{"name":"gemma3:4b"}]}`
	return evidence.Host{
		Address: netip.MustParseAddr("192.0.2.1"), Port: 11434, Reach: evidence.Answered,
		ObservedAt: time.Date(2026, 11, 24, 10, 0, 0, 0, time.UTC),
		Exchanges: []evidence.Exchange{
			{Ask: evidence.Root, Method: "GET", Path: "/", Status: 200, Body: []byte("Ollama is running"), Retold: by},
			{Ask: evidence.Version, Method: "GET", Path: "/api/version", Status: 200, Body: []byte(`{"version":"0.17.4"}`), Retold: by},
			{Ask: evidence.Tags, Method: "GET", Path: "/api/tags", Status: 200, Body: []byte(models), Retold: by},
		},
	}
}

// TestRetold: what an export leaves out is no contradiction of the host's. What
// the host itself leaves out is.
func TestRetold(t *testing.T) {
	h := told("shodan")
	v := finding.Rules{}.Judge(&h)
	if v.Outcome != finding.Open || len(v.Models) != 3 || v.Identity.Version != "0.17.4" {
		t.Errorf("told: %s (%s), %d models", v.Outcome, v.Reason, len(v.Models))
	}
	for _, f := range v.Findings {
		for _, line := range f.Evidence {
			if !strings.HasSuffix(line, "(told by shodan)") {
				t.Errorf("%s passes for heard: %q", f.ID, line)
			}
		}
	}
	h = told("")
	if v := (finding.Rules{}).Judge(&h); v.Outcome == finding.Open {
		t.Error("heard: a list without digests and sizes, in another stack's form, passes for Ollama's")
	}
}

// TestRetoldContradiction: what is told and contradicts itself still does.
func TestRetoldContradiction(t *testing.T) {
	h := told("shodan")
	h.Exchanges[1].Body = []byte(`{"version":"0.3.99"}`)
	if v := (finding.Rules{}).Judge(&h); v.Outcome != finding.Honeypot {
		t.Errorf("a version that never existed: %s (%s)", v.Outcome, v.Reason)
	}
}

func TestUnasked(t *testing.T) {
	h := told("")
	h.Reach, h.Reason, h.Exchanges = evidence.Unasked, "port open, not asked", nil
	v := finding.Rules{}.Judge(&h)
	if v.Outcome != finding.Other || v.Reason != h.Reason || len(v.Findings) > 0 || v.Powers.Hello != finding.Unknown {
		t.Errorf("%+v", v)
	}
}
