package wave_test

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"gatehouse/internal/wave"
)

const oneDay = 24 * time.Hour

// TestSurvivalLeukaemia is the 6-MP group of E. J. Freireich and others, Blood 21
// (1963), with the estimates that J. P. Klein and M. L. Moeschberger, "Survival
// Analysis" (2nd ed. 2003), table 4.1, give for it.
func TestSurvivalLeukaemia(t *testing.T) {
	var s wave.Survival
	for _, weeks := range []int{10, 6, 23, 22, 6, 16, 13, 7, 6} {
		s.Add(time.Duration(weeks)*oneDay, true)
	}
	for _, weeks := range []int{20, 32, 34, 32, 25, 11, 19, 17, 35, 6, 9, 10} {
		s.Add(time.Duration(weeks)*oneDay, false)
	}
	want := []wave.Step{
		{6, 21, 3, 0.857, 0.0764},
		{7, 17, 1, 0.807, 0.0869},
		{10, 15, 1, 0.753, 0.0963},
		{13, 12, 1, 0.690, 0.1068},
		{16, 11, 1, 0.627, 0.1141},
		{22, 7, 1, 0.538, 0.1282},
		{23, 6, 1, 0.448, 0.1346},
	}
	got := s.Curve()
	if len(got) != len(want) {
		t.Fatalf("%d steps: %+v", len(got), got)
	}
	for i, w := range want {
		g := got[i]
		if g.After != w.After*oneDay || g.AtRisk != w.AtRisk || g.Fixed != w.Fixed {
			t.Errorf("step %d: %+v, want %+v", i, g, w)
		}
		near(t, "open", g.Open, w.Open, 5.1e-4)
		near(t, "standard error", g.StandardError, w.StandardError, 5.1e-5)
	}
	if m, ok := s.Within(0.5); !ok || m != 23*oneDay {
		t.Errorf("median %v %v", m, ok)
	}
	if p, ok := s.Within(0.9); ok {
		t.Errorf("90 %% were never fixed, not after %v", p)
	}
}

func TestSurvivalPlain(t *testing.T) {
	var s wave.Survival
	if m, ok := s.Within(0.5); ok || len(s.Curve()) != 0 {
		t.Errorf("nothing was seen: %v", m)
	}
	// Without censoring it is the plain quantile.
	for d := 1; d <= 10; d++ {
		s.Add(time.Duration(d)*oneDay, true)
	}
	for p, want := range map[float64]time.Duration{0.1: 1, 0.5: 5, 0.9: 9, 1: 10} {
		if got, ok := s.Within(p); !ok || got != want*oneDay {
			t.Errorf("%v: %v %v, want %d days", p, got, ok, want)
		}
	}
	s.Add(-oneDay, true) // a clock that was set back
	if got := s.Curve()[0]; got.After != 0 || got.AtRisk != 11 {
		t.Errorf("%+v", got)
	}
}

// TestSurvivalTruth draws times to fix with a known median and watches each for
// a time of its own: censoring must not shift the estimate, as leaving out what
// is open still would.
func TestSurvivalTruth(t *testing.T) {
	r := rand.New(rand.NewPCG(4, 5))
	var s wave.Survival
	naive, fixedOnly := 0.0, 0
	for range 20_000 {
		fix, watched := r.ExpFloat64()*30/math.Ln2, r.Float64()*200 // days: median 30
		s.Add(time.Duration(min(fix, watched)*float64(oneDay)), fix <= watched)
		if fix <= watched {
			naive += fix
			fixedOnly++
		}
	}
	median, ok := s.Within(0.5)
	p90, ok90 := s.Within(0.9)
	if !ok || !ok90 {
		t.Fatal("not reached")
	}
	near(t, "median", median.Hours()/24, 30, 1)
	near(t, "90th percentile", p90.Hours()/24, 30*math.Log2(10), 4)
	if mean := naive / float64(fixedOnly); mean > 0.9*30/math.Ln2 {
		t.Errorf("the mean of the fixed ones alone is %v: this censoring proves nothing", mean)
	}
}

func TestFixes(t *testing.T) {
	var f wave.Fixes
	for d := range 10 {
		f.Add("open-api", "Hetzner", time.Duration(d+1)*oneDay, true)
	}
	for range 4 {
		f.Add("open-api", "OVH", 40*oneDay, false)
	}
	f.Add("open-api", "", 3*oneDay, true)
	f.Add("old-version", "OVH", 7*oneDay, true)
	want := []wave.FixTimes{
		{"old-version", "", 1, 1, 7 * oneDay, 7 * oneDay, 7 * oneDay},
		// 11 of 15 fixed; at 7 days 8 of 15 are: the first below a half.
		{"open-api", "", 15, 11, 40 * oneDay, 7 * oneDay, 0},
		{"open-api", "Hetzner", 10, 10, 10 * oneDay, 5 * oneDay, 9 * oneDay},
		{"open-api", "OVH", 4, 0, 40 * oneDay, 0, 0},
	}
	got := f.Table(2)
	if len(got) != len(want) {
		t.Fatalf("%+v", got)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("row %d: %+v, want %+v", i, got[i], want[i])
		}
	}
	if f.Of("open-api", "unknown") == nil || f.Of("open-api", "Contabo") != nil {
		t.Error("owners are mixed up")
	}
}
