package report_test

import (
	"bytes"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/charmbracelet/x/ansi"

	"gatehouse/internal/report"
)

func TestMeterDrawsTenTimesASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b bytes.Buffer
		w := &writes{w: &b}
		m := &report.Meter{Terminal: w}
		for i := range 2000 {
			m.Show(report.Progress{Places: 2000, Visited: uint64(i)})
			time.Sleep(time.Millisecond)
		}
		if w.n != 20 {
			t.Errorf("drawn %d times in 2 s, want 20", w.n)
		}
	})
}

func TestMeterLine(t *testing.T) {
	p := report.Progress{Places: 65536, Visited: 27525, Open: 12, Found: 1040, Rate: 5310.7, Left: 7400 * time.Millisecond}
	for _, test := range []struct {
		name  string
		width int
		p     report.Progress
		want  string
	}{
		{"all", 100, p, "━━━━━╌╌╌╌╌╌╌   41 %  27,525 of 65,536  12 open  1,040 found  5,310/s  0:07 left"},
		{"narrow", 50, p, " 41 %  27,525 of 65,536  12 open  1,040 found  5…"},
		{"start", 80, report.Progress{Places: 10}, "╌╌╌╌╌╌╌╌╌╌╌╌    0 %  0 of 10  0 open  0 found"},
		{"end", 80, report.Progress{Places: 10, Visited: 10, Left: time.Hour + 62*time.Second}, "━━━━━━━━━━━━  100 %  10 of 10  0 open  0 found  1:01:02 left"},
		{"unknown", 80, report.Progress{Visited: 7, Rate: 0.5}, "7 visited  0 open  0 found  0/s"},
	} {
		var b strings.Builder
		(&report.Meter{Terminal: &b, Width: test.width}).Show(test.p)
		got, ok := strings.CutPrefix(b.String(), "\r\x1b[K")
		if !ok || got != test.want {
			t.Errorf("%s:\n%q, want\n%q", test.name, got, test.want)
		}
		if w := ansi.StringWidth(got); w >= test.width {
			t.Errorf("%s: %d columns of %d", test.name, w, test.width)
		}
	}
}

func TestMeterMakesRoom(t *testing.T) {
	var screen strings.Builder
	m := &report.Meter{Terminal: &screen}
	out := m.Over(&screen)
	m.Clear() // nothing there yet
	io.WriteString(out, "first\n")
	m.Show(report.Progress{Visited: 1})
	io.WriteString(out, "second\n")
	io.WriteString(out, "third\n")
	m.Clear()
	want := "first\n\r\x1b[K1 visited  0 open  0 found\r\x1b[Ksecond\nthird\n"
	if screen.String() != want {
		t.Errorf("%q, want\n%q", screen.String(), want)
	}
}

func TestMeterWithoutATerminalDrawsNothing(t *testing.T) {
	var zero report.Meter
	var none *report.Meter
	for _, m := range []*report.Meter{&zero, none} {
		var b strings.Builder
		m.Show(report.Progress{Places: 1})
		m.Clear()
		if w := m.Over(&b); w != io.Writer(&b) {
			t.Error("another writer")
		}
		if b.Len() > 0 {
			t.Errorf("drew %q", b.String())
		}
	}
}
