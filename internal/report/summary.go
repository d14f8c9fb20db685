package report

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/charmbracelet/x/ansi"

	"gatehouse/internal/finding"
	"gatehouse/internal/sweep"
	"gatehouse/internal/wave"
)

// Summary writes the exact account of a wave: what was asked, what became of
// it, what was not done and why, and how to do the same again.
func Summary(w io.Writer, sum wave.Summary, o Options) error {
	p := newPage(o)
	p.summary(sum)
	return p.writeTo(w)
}

func (p *page) summary(sum wave.Summary) {
	p.heading("Summary")
	places := count(sum.Places) + " asked, " + count(sum.Visited) + " visited"
	if sum.Places == 0 && sum.Stopped != "" {
		places = count(sum.Visited) + " visited, of a number not known"
	}
	if sum.Denied > 0 {
		places += ", " + count(sum.Denied) + " outside the scope and not touched"
	}
	if left := less(sum.Places, sum.Visited, sum.Denied); left > 0 || sum.Stopped != "" && sum.Places > 0 {
		places += ", " + count(left) + " not visited"
	}
	if sum.Source != "" {
		p.entry("Imported", sum.Source)
		places = count(sum.Places) + " told of, not looked at"
	}
	p.entry("Places", places)
	if sum.Stopped != "" {
		p.para(" "+p.paint(alarm, pad("Stopped", 11, false)), normal, sum.Stopped)
	}

	var outcomes []string
	known := uint64(0)
	for _, o := range finding.Outcomes {
		if n := sum.Outcomes[o]; n > 0 {
			outcomes = append(outcomes, p.paint(outcomeStyle(o), count(n)+" "+string(o)))
			known += n
		}
	}
	if rest := less(sum.Visited, known); rest > 0 {
		outcomes = append(outcomes, count(rest)+" without an outcome")
	}
	p.list("Outcomes", outcomes)

	var found []string
	for _, s := range severities {
		if n := sum.Severity[s]; n > 0 {
			found = append(found, p.paint(severityStyle(s), count(n)+" "+string(s)))
		}
	}
	if len(found) == 0 {
		found = []string{"none"}
	}
	p.list("Findings", found)

	p.sweep(sum.Sweep)

	var trouble []string
	if sum.Retried > 0 {
		trouble = append(trouble, plural(sum.Retried, "attempt")+" made again")
	}
	if sum.Pressure > 0 {
		trouble = append(trouble, plural(sum.Pressure, "attempt")+" delayed: this machine ran short of ports or open files")
	}
	if len(trouble) > 0 {
		p.entry("Trouble", strings.Join(trouble, ", "))
	}

	if took := sum.Ended.Sub(sum.Started); !sum.Started.IsZero() && took > 0 {
		text := duration(took)
		if rate := float64(sum.Visited) / took.Seconds(); rate >= 1 {
			text += ", " + plural(uint64(rate), "place") + " a second"
		} else if sum.Visited > 0 {
			text += fmt.Sprintf(", %.2f places a second", rate)
		}
		p.entry("Time", text)
	}
	if sum.Places > 1 && sum.Source == "" {
		p.entry("Again", "--seed "+strconv.FormatUint(sum.Seed, 10)+" repeats the order")
	}
}

// sweep writes the account of a raw sweep.
func (p *page) sweep(s *sweep.Stats) {
	if s == nil {
		return
	}
	sent := count(s.Sent) + " SYNs sent"
	if s.Again > 0 {
		sent += ", " + count(s.Again) + " of them again"
	}
	parts := []string{sent, count(s.Open) + " answered", count(s.Refused) + " refused"}
	for _, part := range []struct {
		n    uint64
		what string
	}{
		{s.Unreachable, "unreachable"},
		{s.Duplicates, "answers twice"},
		{s.Late, "late"},
		{s.Invalid, "not to ours"},
		{s.Dropped, "dropped by the kernel"},
		{s.Short, "pauses for want of buffers"},
	} {
		if part.n > 0 {
			parts = append(parts, count(part.n)+" "+part.what)
		}
	}
	p.list("Sweep", parts)
}

// list writes a label and its parts; painted text is not wrapped inside a part.
func (p *page) list(label string, parts []string) {
	const between = " · "
	lead := " " + p.paint(faint, pad(label, 11, false))
	line := ""
	for _, part := range parts {
		if line != "" && ansi.StringWidth(lead)+ansi.StringWidth(line)+ansi.StringWidth(between)+ansi.StringWidth(part) >= p.width {
			p.line(lead, line)
			lead, line = strings.Repeat(" ", 12), ""
		}
		if line != "" {
			line += between
		}
		line += part
	}
	if line != "" {
		p.line(lead, line)
	}
}

// less is a without each of bs, and never below zero.
func less(a uint64, bs ...uint64) uint64 {
	for _, b := range bs {
		a -= min(a, b)
	}
	return a
}

func duration(d time.Duration) string {
	switch {
	case d < time.Second:
		return d.Round(time.Millisecond).String()
	case d < time.Minute:
		return fmt.Sprintf("%.1f s", d.Seconds())
	}
	return d.Round(time.Second).String()
}
