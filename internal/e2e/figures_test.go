//go:build linux

package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"
)

// TestFigures imports the published counts of two dates, as the README does it,
// and finds in the trend what was published: 22 times as many in seven months,
// 30 % in the European Union, Germany third.
func TestFigures(t *testing.T) {
	dir, state := t.TempDir(), t.TempDir()
	for _, month := range []string{"2026-04", "2025-09"} { // the later one first: a trend goes by date
		export, err := exec.CommandContext(t.Context(), "../../scripts/figures.sh", month).Output()
		if err != nil {
			t.Fatal(err)
		}
		name := filepath.Join(dir, month+".json")
		if err := os.WriteFile(name, export, 0o600); err != nil {
			t.Fatal(err)
		}
		run(t, "import", "--save", "--state-dir", state, "--as", "published", "--fail-on", "never", "--quiet", "--format", "csv", "--out", filepath.Join(dir, "out.csv"), name).exits(t, 0)
	}

	trend := run(t, "wave", "--state-dir", state, "trend", "published")
	trend.exits(t, 0)
	for _, line := range []string{
		"     2  2025-09-10      1,139          30 %        0  CN 25 %, US 18 %, DE 14 %",
		"     1  2026-04-10     25,000     ×22  30 %        0  CN 25 %, US 18 %, DE 14 %",
	} {
		if !slices.Contains(strings.Split(trend.out, "\n"), line) {
			t.Errorf("no line %q in\n%s", line, trend.out)
		}
	}
	show := run(t, "wave", "--state-dir", state, "show", "1")
	show.exits(t, 0)
	for _, line := range []string{
		"×22 the 1,139 of wave 2, 212 days before", "30 % in the European Union: 7,600 of the 25,000 whose country is known",
		"    3 DE      3,550    14 %", "Imported from 2026-04.json of ", "Hetzner      5,000    20 %",
	} {
		if !strings.Contains(show.out, line) {
			t.Errorf("no %q in\n%s", line, show.out)
		}
	}

	var waves []struct {
		Tally struct {
			Open      uint64 `json:"open"`
			EU        uint64 `json:"eu"`
			Countries counts `json:"countries"`
		} `json:"tally"`
	}
	r := run(t, "wave", "--state-dir", state, "trend", "published", "--json")
	r.exits(t, 0)
	if err := json.Unmarshal([]byte(r.out), &waves); err != nil || len(waves) != 2 {
		t.Fatalf("%d waves, %v", len(waves), err)
	}
	before, now := waves[0].Tally, waves[1].Tally
	if before.Open != 1139 || now.Open != 25_000 || now.EU != 7600 || now.Countries["DE"] != 3550 {
		t.Errorf("%d and %d open, %d in the EU, %d in Germany", before.Open, now.Open, now.EU, now.Countries["DE"])
	}
	larger := 0
	for _, n := range now.Countries {
		if n > 3550 {
			larger++
		}
	}
	if larger != 2 {
		t.Errorf("%d countries have more than Germany, want 2", larger)
	}
}
