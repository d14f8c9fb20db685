package ollama_test

import (
	"testing"
	"time"

	"gatehouse/internal/ollama"
)

func day(s string) time.Time {
	t, err := time.Parse(time.DateOnly, s)
	if err != nil {
		panic(err)
	}
	return t
}

// The numbers are counted by hand in releases.txt.
func TestLagAt(t *testing.T) {
	for _, c := range []struct {
		version, at, newest string
		releases, days      int
	}{
		{"0.35.1", "2026-10-09", "0.35.1", 0, 0},
		{"0.35.0", "2026-10-09", "0.35.1", 1, 30}, // September to October
		{"v0.34.2", "2026-10-09", "0.35.1", 4, 30},
		{"0.34.2-rc1", "2026-10-09", "0.35.1", 4, 30},
		{"0.24.0", "2026-07-01", "0.32.0", 12 + 3 + 1, 61}, // May to July; 0.32.1 was not out
		{"0.33.0", "2026-07-01", "0.32.0", 0, 0},           // newer than its time
		{"0.40.0", "2026-10-09", "0.35.1", 0, 0},           // newer than the list
		{"0.17.7", "2026-04-30", "0.22.0", 4 + 1 + 8 + 3 + 1, 31},
	} {
		lag, ok := ollama.LagAt(c.version, day(c.at))
		if !ok || lag.Releases != c.releases || lag.Days != c.days || lag.Newest.String() != c.newest {
			t.Errorf("%s at %s: %+v %v, want %d releases and %d days behind %s",
				c.version, c.at, lag, ok, c.releases, c.days, c.newest)
		}
	}
	for _, version := range []string{"", "0.0.0", "latest", "0.25.0", "0.23.9", "1e9.0.0"} {
		if lag, ok := ollama.LagAt(version, day("2026-10-09")); ok {
			t.Errorf("%q has an age: %+v", version, lag)
		}
	}
	if _, ok := ollama.LagAt("0.1.0", day("2020-01-01")); ok {
		t.Error("behind something before there was anything")
	}
}

// A newer version is never further behind, and time never brings one closer.
func TestLagGrows(t *testing.T) {
	known := ollama.KnownReleases()
	for at := day("2023-08-01"); at.Before(known.Date); at = at.AddDate(0, 0, 20) {
		before := ollama.Lag{Releases: 1 << 30, Days: 1 << 30}
		for _, s := range known.Series {
			for patch := range s.Last + 1 {
				r := ollama.Release{Major: s.Major, Minor: s.Minor, Patch: patch}
				if r == (ollama.Release{}) {
					continue // what a build from source calls itself
				}
				version := r.String()
				lag, ok := ollama.LagAt(version, at)
				if !ok || lag.Releases > before.Releases || lag.Days > before.Days {
					t.Fatalf("%s at %v: %+v after %+v", version, at, lag, before)
				}
				later, _ := ollama.LagAt(version, at.AddDate(0, 1, 0))
				if later.Releases < lag.Releases || later.Days < lag.Days {
					t.Fatalf("%s at %v: %+v, a month later %+v", version, at, lag, later)
				}
				before = lag
			}
		}
	}
}

func TestNominalBits(t *testing.T) {
	for quant, want := range map[string]int{
		"Q4_K_M": 4, "q4_0": 4, "IQ4_XS": 4, "MXFP4": 4, "NVFP4": 4, "INT4": 4, "Q4_K": 4,
		"Q8_0": 8, "FP8": 8, "F16": 16, "BF16": 16, "fp16": 16, "F32": 32,
		"Q6_K": 6, "Q5_1": 5, "IQ3_XXS": 3, "Q2_K": 2, "TQ1_0": 1, " Q4_0 ": 4,
	} {
		if bits, ok := ollama.NominalBits(quant); !ok || bits != want {
			t.Errorf("%s: %d %v, want %d", quant, bits, ok, want)
		}
	}
	for _, quant := range []string{"", "unknown", "Q4", "4", "Q99999999999999999999"} {
		if bits, ok := ollama.NominalBits(quant); ok {
			t.Errorf("%q has %d bits", quant, bits)
		}
	}
}
