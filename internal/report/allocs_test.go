//go:build !race

package report_test

import (
	"io"
	"testing"

	"gatehouse/internal/report"
)

// What it costs to write a record does not grow unnoticed. The race detector
// empties pools at random, so that it counts others.
func TestLinesAllocate(t *testing.T) {
	lines, record := report.NewLines(io.Discard), big()
	const want = 5
	got := testing.AllocsPerRun(200, func() {
		if err := lines.Write(record); err != nil {
			t.Fatal(err)
		}
	})
	if got != want {
		t.Errorf("%v allocations to write a record, want %d", got, want)
	}
}
