//go:build unix && !race

package finding_test

import (
	"testing"

	"gatehouse/internal/finding"
	"gatehouse/internal/ollama"
)

// What it costs to judge the reads of a real server with its models does not
// grow unnoticed: a scan judges thousands of hosts a second. The race detector
// empties pools at random, so that it counts others.
func TestJudgeAllocates(t *testing.T) {
	host := replay(t, nil, false)
	rules := finding.Rules{Advisories: ollama.Default()}
	const want = 89
	if got := testing.AllocsPerRun(200, func() { rules.Judge(&host) }); got != want {
		t.Errorf("%v allocations to judge a host, want %d", got, want)
	}
}
