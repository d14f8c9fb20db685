package ollama_test

import (
	"slices"
	"testing"
	"time"

	"gatehouse/internal/ollama"
)

func TestParseRelease(t *testing.T) {
	for _, test := range []struct {
		in   string
		want ollama.Release
	}{
		{"0.17.4", ollama.Release{Minor: 17, Patch: 4}},
		{"v0.1.2", ollama.Release{Minor: 1, Patch: 2}},
		{"0.0.0", ollama.Release{}},
		{"2.0.1", ollama.Release{Major: 2, Patch: 1}},
		{"0.5.0-rc3", ollama.Release{Minor: 5, Pre: "rc3"}},
		{"0.9.1-ci2", ollama.Release{Minor: 9, Patch: 1, Pre: "ci2"}},
		{"0.9.3-12-gabcdef", ollama.Release{Minor: 9, Patch: 3, After: "12-gabcdef"}},
		{"0.6.3-rc1-5-g1a2b3c4-dirty", ollama.Release{Minor: 6, Patch: 3, Pre: "rc1", After: "5-g1a2b3c4-dirty"}},
		{"0.5.4-ipexllm-20250331", ollama.Release{Minor: 5, Patch: 4, After: "ipexllm-20250331"}},
		{"0.6.5+dfsg", ollama.Release{Minor: 6, Patch: 5, After: "dfsg"}},
		{"v0.9.3-0.20250620193251-65bff664cb39", ollama.Release{Minor: 9, Patch: 3, Pre: "0.20250620193251-65bff664cb39"}},
		{"v0.9.1-rc0.0.20250612211854-9f8a18ec050e", ollama.Release{Minor: 9, Patch: 1, Pre: "rc0.0.20250612211854-9f8a18ec050e"}},
	} {
		got, err := ollama.ParseRelease(test.in)
		if err != nil || got != test.want {
			t.Errorf("ParseRelease(%q) = %+v, %v, want %+v", test.in, got, err, test.want)
		}
	}
	for _, in := range []string{
		"", "v", "0.17", "0.17.4.1", "0.17.x", "0.+1.2", "0.-1.2", "01.2.3", "0.1.2-", "0.1.2 ", " 0.1.2",
		"0.1.2-rc1\n", "0.1.2-<script>", "1.2.99999999999999999999", "0.1.100000", "latest", "vv0.1.2",
	} {
		if got, err := ollama.ParseRelease(in); err == nil {
			t.Errorf("ParseRelease(%q) = %+v, want an error", in, got)
		}
	}
}

// The order is that of the code, not of Semantic Versioning: see 0.5.0-12-g….
func TestReleaseOrder(t *testing.T) {
	ordered := []string{
		"0.0.0", "0.0.21", "0.1.9", "0.1.10", "0.5.0-ci0", "0.5.0-rc0", "0.5.0-rc9", "0.5.0-rc10", "0.5.0",
		"0.5.0-2-gffff", "0.5.0-12-g1a2b", "0.5.0-dirty", "0.5.1-rc0", "0.5.1", "0.10.0", "1.0.0",
	}
	for i, a := range ordered {
		for j, b := range ordered {
			want := min(max(i-j, -1), 1)
			if got := parse(t, a).Compare(parse(t, b)); got != want {
				t.Errorf("%s.Compare(%s) = %d, want %d", a, b, got, want)
			}
		}
	}
}

func parse(t *testing.T, version string) ollama.Release {
	t.Helper()
	r, err := ollama.ParseRelease(version)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func FuzzParseRelease(f *testing.F) {
	for _, seed := range []string{"0.17.4", "v0.5.0-rc3", "0.0.0", "0.9.3-12-gabcdef", "0.9.3-0.20250620193251-65bff664cb39", "0.1.2-rc01-x"} {
		f.Add(seed, "0.17.4-rc1")
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		ra, errA := ollama.ParseRelease(a)
		rb, errB := ollama.ParseRelease(b)
		ollama.Existence(a)
		if series, newest := ollama.Behind(a); series < 0 || newest.Minor == 0 {
			t.Errorf("Behind(%q) = %d, %v", a, series, newest)
		}
		if errA != nil {
			return
		}
		if again, err := ollama.ParseRelease(ra.String()); err != nil || again.Compare(ra) != 0 {
			t.Errorf("%q -> %q -> %+v, %v", a, ra, again, err)
		}
		if errB == nil && (ra.Compare(rb) != -rb.Compare(ra) || (ra.Compare(rb) == 0) != (ra == rb)) {
			t.Errorf("%q and %q are not ordered", a, b)
		}
	})
}

func TestKnownReleases(t *testing.T) {
	known := ollama.KnownReleases()
	if known.Date.Before(time.Date(2026, 10, 1, 0, 0, 0, 0, time.UTC)) {
		t.Errorf("dated %v", known.Date)
	}
	if !slices.IsSortedFunc(known.Series, func(a, b ollama.Series) int {
		if a.Major == b.Major && a.Minor == b.Minor {
			return +1 // twice the same
		}
		return ollama.Release{Major: a.Major, Minor: a.Minor}.Compare(ollama.Release{Major: b.Major, Minor: b.Minor})
	}) {
		t.Error("series are not in order")
	}
	for i, s := range known.Series {
		if s.Latest.Before(s.First) || s.Latest.After(known.Date) || i > 0 && s.First.Before(known.Series[i-1].First) {
			t.Errorf("%d.%d: dates out of order: %v to %v", s.Major, s.Minor, s.First, s.Latest)
		}
	}
	// The releases that the Go module proxy has.
	for _, v := range []string{"v0.6.5", "v0.11.10", "v0.12.6", "v0.13.5", "v0.16.1", "v0.16.2", "v0.17.4"} {
		if got := ollama.Existence(v); got != ollama.Known {
			t.Errorf("%s is %s", v, got)
		}
	}
}

func TestExistence(t *testing.T) {
	for _, test := range []struct {
		want     ollama.Credence
		versions []string
	}{
		{ollama.Known, []string{"0.1.0", "0.1.48", "0.5.13", "0.17.4", "0.32.15", "0.35.1", "v0.9.6"}},
		{ollama.Plausible, []string{
			"0.0.0", "0.0.0-dirty", "", "abcdef0", "0.17", // own builds
			"0.5.0-rc3", "0.1.49-rc0", "0.25.0-rc0", // candidates
			"0.9.3-12-gabcdef", "0.5.4-ipexllm-20250331", // built on a release
			"0.34.9", "0.35.2", "0.36.0", "1.0.0", "3.2.1", // newer than the list
		}},
		{ollama.Impossible, []string{
			"0.0.22", "0.1.49", "0.1.99", "0.5.77", "0.8.1", "0.24.1", "0.33.99", // above a closed series
			"0.25.0", "0.29.3", // a skipped series
			"0.5.77-rc1", "0.25.1-rc0", "0.5.77-12-gabcdef", "0.1.99-mine", // built on what never was
		}},
	} {
		for _, v := range test.versions {
			if got := ollama.Existence(v); got != test.want {
				t.Errorf("Existence(%q) = %s, want %s", v, got, test.want)
			}
		}
	}
}

func TestBehind(t *testing.T) {
	for version, want := range map[string]int{
		"0.35.1": 0, "0.35.0": 0, "0.34.4": 1, "0.24.0": 6, "0.25.0": 6, "0.17.4": 13,
		"0.36.0": 0, "1.2.3": 0, "0.0.0": 0, "nonsense": 0,
	} {
		series, newest := ollama.Behind(version)
		if series != want || newest.String() != "0.35.1" {
			t.Errorf("Behind(%q) = %d, %s, want %d", version, series, newest, want)
		}
	}
}
