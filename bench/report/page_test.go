package main

import (
	"bytes"
	"context"
	"encoding/xml"
	"flag"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"gatehouse/bench/figures"
)

var update = flag.Bool("update", false, "rewrite the golden page")

// folder is a copy of the figures in testdata.
func folder(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "figures")
	if err := os.CopyFS(dir, os.DirFS("testdata/figures")); err != nil {
		t.Fatal(err)
	}
	return dir
}

// In testdata a step failed, another left half of its figures, a third wrote
// what cannot be read, and some were not run: the page says so of each.
func TestPage(t *testing.T) {
	dir := folder(t)
	old := filepath.Join(dir, "measured-no-more.svg")
	if err := os.WriteFile(old, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := redraw(dir); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(dir + ".md")
	if err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile("testdata/page.md", got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile("testdata/page.md")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("the page differs from testdata/page.md (-update rewrites it):\n%s", got)
	}
	if _, err := os.Stat(old); err == nil {
		t.Error("a picture of what is measured no more is still there")
	}
	shown(t, dir+".md")
}

// The page in the tree is the one that its figures make, so that nobody mends a
// figure by hand.
func TestTree(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "performance")
	if err := os.CopyFS(dir, os.DirFS("../../docs/performance")); err != nil {
		t.Fatal(err)
	}
	if err := redraw(dir); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(dir + ".md")
	if err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile("../../docs/performance.md")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Error("docs/performance.md is not what its figures make: go generate ./bench/report")
	}
	pictures, err := filepath.Glob(filepath.Join(dir, "*.svg"))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range pictures {
		new, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		if old, err := os.ReadFile(filepath.Join("../../docs/performance", filepath.Base(p))); err != nil || !bytes.Equal(new, old) {
			t.Errorf("docs/performance/%s is not what its figures make (%v): go generate ./bench/report", filepath.Base(p), err)
		}
	}
}

// shown looks whether each picture of the page is there and is XML, and no other.
func shown(t *testing.T, path string) {
	t.Helper()
	page, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	linked := make(map[string]bool)
	for _, m := range regexp.MustCompile(`!\[[^\]]+\]\(([^)]+)\)`).FindAllStringSubmatch(string(page), -1) {
		linked[filepath.Base(m[1])] = true
		text, err := os.ReadFile(filepath.Join(filepath.Dir(path), m[1]))
		if err != nil {
			t.Error(err)
			continue
		}
		dec := xml.NewDecoder(bytes.NewReader(text))
		for {
			if _, err := dec.Token(); err == io.EOF {
				break
			} else if err != nil {
				t.Errorf("%s: %v", m[1], err)
				break
			}
		}
	}
	if len(linked) == 0 {
		t.Errorf("%s has no picture", path)
	}
	pictures, err := filepath.Glob(filepath.Join(strings.TrimSuffix(path, ".md"), "*.svg"))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range pictures {
		if !linked[filepath.Base(p)] {
			t.Errorf("%s is on no page", p)
		}
	}
}

// Without any figures there is no page: an empty one would replace a good one.
func TestNoFigures(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "figures")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := redraw(dir); err == nil || !strings.Contains(err.Error(), "-measure") {
		t.Errorf("%v", err)
	}
	if _, err := os.Stat(dir + ".md"); err == nil {
		t.Error("an empty page was written")
	}
}

// The points of a curve lie where the figures say: on logarithmic axes, equal
// factors are equal distances.
func TestPoints(t *testing.T) {
	var rows []figures.Row
	for i, p := range [][2]float64{{1, 10}, {10, 100}, {1000, 100}, {10000, 10000}} {
		rows = append(rows, figures.Row{Bench: "gate", Series: "p99", X: p[0], UnitX: "streams", Y: p[1], UnitY: "ms", Round: i, Peer: "gatehouse"})
	}
	got := points(t, rows)
	x, y := got[3][0]-got[0][0], got[3][1]-got[0][1] // four decades, three decades
	if x < 300 || y < 100 {
		t.Errorf("the curve is %.0f × %.0f points large", x, y)
	}
	for i, want := range [][2]float64{{0, 0}, {0.25, 1. / 3}, {0.75, 1. / 3}, {1, 1}} {
		at := [2]float64{(got[i][0] - got[0][0]) / x, (got[i][1] - got[0][1]) / y}
		if math.Abs(at[0]-want[0]) > 0.001 || math.Abs(at[1]-want[1]) > 0.001 {
			t.Errorf("point %d is at %.4f, want %.4f", i+1, at, want)
		}
	}
}

// On a linear axis nought is drawn too: half the figure is half the height
// above where the axis begins.
func TestPointsLinear(t *testing.T) {
	var rows []figures.Row
	for i, y := range []float64{40, 20, 30} {
		rows = append(rows, figures.Row{Bench: "gate", Series: "memory", X: float64(i + 1), UnitX: "streams", Y: y, UnitY: "MB", Peer: "gatehouse"})
	}
	got := points(t, rows)
	if half := (got[2][0] - got[0][0]) / 2; math.Abs(got[1][0]-got[0][0]-half) > 0.01 {
		t.Errorf("the second point is not in the middle: %v", got)
	}
	perMB := (got[0][1] - got[1][1]) / 20
	if math.Abs(got[2][1]-got[1][1]-10*perMB) > 0.01 {
		t.Errorf("30 is not in the middle of 20 and 40: %v", got)
	}
	// Nought lies as high as its grid line, which is the lowest.
	if nought := got[1][1] - 20*perMB; nought < 20 || nought > 60 {
		t.Errorf("nought is %.1f points above the picture's foot: %v", nought, got)
	}
}

// points are where the only curve of the picture of rows leads through.
func points(t *testing.T, rows []figures.Row) (list [][2]float64) {
	t.Helper()
	svg, err := render(gather(rows)[0])
	if err != nil {
		t.Fatal(err)
	}
	line := regexp.MustCompile(`<path d="M([^"Z]+)" style="fill:none;stroke:#005FA8;stroke-width:2.2"`).FindSubmatch(svg)
	if line == nil {
		t.Fatalf("no curve in\n%s", svg)
	}
	for point := range strings.SplitSeq(string(line[1]), "L") {
		x, y, _ := strings.Cut(point, ",")
		var at [2]float64
		for i, text := range []string{x, y} {
			if at[i], err = strconv.ParseFloat(text, 64); err != nil {
				t.Fatalf("%s: %v", line[1], err)
			}
		}
		list = append(list, at)
	}
	if len(list) != len(rows) {
		t.Fatalf("%d points, want %d", len(list), len(rows))
	}
	return list
}

func TestFigure(t *testing.T) {
	for _, c := range []struct {
		v           float64
		table, axis string
	}{
		{0, "0", "0"},
		{0.00012, "0.00012", "0.00012"},
		{0.0123, "0.0123", "0.0123"},
		{0.5, "0.500", "0.5"},
		{4.567, "4.57", "4.567"},
		{78.9, "78.9", "78.9"},
		{5999, "5,999", "5.999k"},
		{20000, "20,000", "20k"},
		{1e6, "1,000,000", "1M"},
		{5e9, "5,000,000,000", "5G"},
	} {
		if got := figure(c.v); got != c.table {
			t.Errorf("%v is %s in a table, want %s", c.v, got, c.table)
		}
		if got := short(c.v); got != c.axis {
			t.Errorf("%v is %s at an axis, want %s", c.v, got, c.axis)
		}
	}
}

func TestNice(t *testing.T) {
	for _, c := range []struct{ v, down, up float64 }{{1, 1, 1}, {3, 2, 5}, {0.07, 0.05, 0.1}, {5000, 5000, 5000}, {999, 500, 1000}} {
		if d, u := nice(c.v, math.Floor), nice(c.v, math.Ceil); math.Abs(d-c.down) > 1e-9*c.v || math.Abs(u-c.up) > 1e-9*c.v {
			t.Errorf("%v lies between %v and %v, want %v and %v", c.v, d, u, c.down, c.up)
		}
	}
}

// A step whose benchmark fails, or takes too long, or writes nothing, or is not
// there, is an error that says what was wrong; its old figures are gone.
func TestStep(t *testing.T) {
	t.Chdir("../..")
	for _, c := range []struct {
		how, want string
		figures   bool
	}{
		{"good", "", true},
		{"half", "it broke off", true},
		{"fail", "it broke off", false},
		{"panic", "panic: it fell over", false},
		{"nothing", "its figures: ", false},
		{"slow", "not done after 2s", false},
	} {
		t.Run(c.how, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "old.json")
			if err := os.WriteFile(path, []byte("of another run"), 0o600); err != nil {
				t.Fatal(err)
			}
			s := step{Name: "old", Dir: "./bench/report/testdata/fake", Args: c.how, Limit: 2 * time.Second}
			if c.how != "slow" {
				s.Limit = time.Minute
			}
			err := s.run(t.Context(), false, path)
			if fmt.Sprint(err) != "<nil>" && c.want == "" || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("%v, want %q", err, c.want)
			}
			if _, err := readFile(path); (err == nil) != c.figures {
				t.Errorf("figures: %v", err)
			}
			if text, _ := os.ReadFile(path); strings.Contains(string(text), os.TempDir()) {
				t.Errorf("the figures tell where temporary files were:\n%s", text)
			}
		})
	}
	err := step{Name: "gone", Dir: "./bench/gone"}.run(t.Context(), false, filepath.Join(t.TempDir(), "f.json"))
	if err == nil || !strings.Contains(err.Error(), "does not build") {
		t.Errorf("%v", err)
	}
}

// A run that is told to stop leaves the figures of the run before.
func TestStopped(t *testing.T) {
	dir := folder(t)
	ctx, stop := context.WithCancel(t.Context())
	stop()
	if err := run(ctx, measurement{}, dir, true); err == nil {
		t.Error("no error")
	}
	gate := plan[slices.IndexFunc(plan, func(s step) bool { return s.Name == "gate" })]
	if err := gate.run(ctx, false, filepath.Join(dir, "gate.json")); err == nil {
		t.Error("no error of the step")
	}
	if _, err := readFile(filepath.Join(dir, "gate.json")); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(dir + ".md"); err == nil {
		t.Error("a page was made of half a run")
	}
}

// Every step has its section and its quick form, and names are files.
func TestPlan(t *testing.T) {
	seen := make(map[string]bool)
	for _, s := range plan {
		if seen[s.Name] || s.Name == strings.TrimSuffix(recordFile, ".json") || slug(s.Name) != s.Name {
			t.Errorf("%q is no name for a file of figures", s.Name)
		}
		seen[s.Name] = true
		if s.Quick == "" || s.Limit == 0 {
			t.Errorf("%s has no quick form or no limit", s.Name)
		}
		found := false
		for _, one := range sections {
			found = found || one.Bench == s.Bench
		}
		if !found {
			t.Errorf("%s has no section on the page", s.Bench)
		}
	}
}
