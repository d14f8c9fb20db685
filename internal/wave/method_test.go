package wave_test

import (
	"strings"
	"testing"
	"time"

	"gatehouse/internal/finding"
	"gatehouse/internal/wave"
)

func TestMethod(t *testing.T) {
	start := time.Date(2026, 11, 24, 22, 0, 0, 0, time.FixedZone("CET", 3600))
	sum := &wave.Summary{
		Scope: "acme", Started: start, Ended: start.Add(2 * time.Hour), Seed: 7,
		Places: 200_000, Visited: 1_999, Denied: 1,
	}
	tally := &wave.Tally{Outcomes: map[finding.Outcome]uint64{
		finding.Open: 30, finding.Guarded: 1200, finding.Lookalike: 3, finding.Honeypot: 2, finding.Silent: 500, finding.Other: 9,
	}}
	m := wave.MethodOf(sum, tally)
	m.Ports, m.Sample = []uint16{11434, 443}, 0.01
	m.Looks, m.Every = 3, 600
	m.Owners = []string{"geo-whois-asn-country 2026-11-01 (CC0)"}
	want := `Window: 2026-11-24 21:00 to 23:00 UTC. A count is of servers that were up then, not of all that ever were.
Scope: acme; 200,000 places, 1,999 visited, 1 excluded and not touched.
Ports: 11434, 443. A server on another port is not counted.
Sampling: 1 % of the places, a simple random sample (seed 7); totals are estimates with a 95 % interval.
Looks: 3 at each place, 10m0s apart; a server counts when one of them saw it.
Not counted as open: 1,200 guarded, 3 look-alikes, 2 honeypots, 9 other services.
Countries and networks: geo-whois-asn-country 2026-11-01 (CC0). Such databases err.`
	if got := m.String(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}

	m = wave.MethodOf(&wave.Summary{Scope: "acme", Started: start, Ended: start.Add(26 * time.Hour), Places: 10, Visited: 4, Stopped: "interrupted"}, &wave.Tally{})
	want = `Window: 2026-11-24 21:00 to 2026-11-25 23:00 UTC. A count is of servers that were up then, not of all that ever were.
Scope: acme; 10 places, 4 visited.
Sampling: none, every place was to be visited.
Looks: one at each place; a server that was down at that moment is not counted.
Not counted as open: look-alikes, honeypots and guarded servers; none was found.
Incomplete: interrupted. Counts are of what was visited until then.`
	if got := m.String(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}

	imported := strings.Join(wave.Method{Source: "shodan.json.gz of 2026-04-02"}.Lines(), "\n")
	for _, part := range []string{"Imported from shodan.json.gz of 2026-04-02", "Window: not known", "Scope: not named"} {
		if !strings.Contains(imported, part) {
			t.Errorf("%q is missing in\n%s", part, imported)
		}
	}
	if strings.Contains(imported, "Sampling") || strings.Contains(imported, "Looks") {
		t.Errorf("an import says how it was scanned:\n%s", imported)
	}
}
