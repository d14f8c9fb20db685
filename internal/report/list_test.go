package report_test

import (
	"strings"
	"testing"

	"github.com/charmbracelet/x/ansi"

	"gatehouse/internal/report"
)

func TestListFits(t *testing.T) {
	rows := [][]string{
		{"laptop", "kX82jdk2", strings.Repeat("llama3.2:*,", 20), "never"},
		{"ci\x1b[31m", "aa", "*", "2027-01-01"},
	}
	for _, width := range []int{40, 80, 200} {
		var b strings.Builder
		if err := report.List(&b, []string{"NAME", "ID", "MODELS", "EXPIRES"}, rows, report.Options{Width: width}); err != nil {
			t.Fatal(err)
		}
		if strings.ContainsRune(b.String(), 0x1b) {
			t.Error("an escape sequence came through")
		}
		for line := range strings.Lines(b.String()) {
			if w := ansi.StringWidth(strings.TrimSuffix(line, "\n")); w > width {
				t.Errorf("a line of %d columns in %d: %q", w, width, line)
			}
		}
		for _, want := range []string{"laptop", "kX82jdk2", "never"} {
			if !strings.Contains(b.String(), want) {
				t.Errorf("at %d columns %q is missing:\n%s", width, want, b.String())
			}
		}
	}
}

func TestChart(t *testing.T) {
	var b strings.Builder
	bars := []report.Bars{
		{Name: "laptop", Days: []uint64{0, 1, 500, 1000}, Total: 1501, Note: "tokens, 7 requests"},
		{Name: "ci", Days: []uint64{0, 0, 0, 250}, Total: 250, Note: "tokens, 1 request, 2 denied"},
	}
	if err := report.Chart(&b, "Tokens a day", "11-21", "11-24", bars, report.Options{Width: 80}); err != nil {
		t.Fatal(err)
	}
	got := b.String()
	for _, want := range []string{"··▁▁▄▄██", "1,501 tokens, 7 requests", "······▂▂", "11-21"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is missing:\n%s", want, got)
		}
	}
}
