package report

import (
	"io"
	"strconv"
	"strings"

	"charm.land/lipgloss/v2"
	"github.com/charmbracelet/x/ansi"

	"gatehouse/internal/finding"
)

// Options say what the text is shown on. The zero value is 80 columns without
// colour.
type Options struct {
	Width int  // columns; 0 means 80
	Color bool // the writer is a terminal that wants colour
	Rows  int  // hosts listed at most; 0 means 40, less than 0 no limit
}

const (
	defaultWidth = 80
	defaultRows  = 40
	wide         = 100 // columns from which there is room for more than the essential
)

// The styles, in the terminal's own palette so that they suit its background.
var (
	strong = lipgloss.NewStyle().Bold(true)
	faint  = lipgloss.NewStyle().Faint(true)
	alarm  = lipgloss.NewStyle().Bold(true).Foreground(lipgloss.Red)
	calm   = lipgloss.NewStyle().Bold(true).Foreground(lipgloss.Green)
	normal = lipgloss.NewStyle()
)

func severityStyle(s finding.Severity) lipgloss.Style {
	switch s {
	case finding.Critical:
		return alarm
	case finding.High:
		return normal.Foreground(lipgloss.Red)
	case finding.Medium:
		return normal.Foreground(lipgloss.Yellow)
	case finding.Low:
		return normal.Foreground(lipgloss.Cyan)
	}
	return faint
}

func outcomeStyle(o finding.Outcome) lipgloss.Style {
	switch o {
	case finding.Open:
		return normal.Foreground(lipgloss.Red)
	case finding.Guarded:
		return normal.Foreground(lipgloss.Green)
	case finding.Lookalike:
		return normal.Foreground(lipgloss.Blue)
	case finding.Honeypot:
		return normal.Foreground(lipgloss.Magenta)
	case finding.Broken:
		return normal.Foreground(lipgloss.Yellow)
	}
	return faint
}

// page collects lines of text, none wider than the terminal.
type page struct {
	text  strings.Builder
	width int
	color bool
}

func newPage(o Options) *page {
	p := &page{width: o.Width, color: o.Color}
	if p.width <= 0 {
		p.width = defaultWidth
	}
	return p
}

// paint returns text in a style, when there is colour. The text is Clean.
func (p *page) paint(s lipgloss.Style, text string) string {
	if !p.color || text == "" {
		return text
	}
	return s.Render(text)
}

// line ends one line, cut to the width of the page.
func (p *page) line(parts ...string) {
	line := strings.TrimRight(strings.Join(parts, ""), " ")
	p.text.WriteString(fit(line, p.width))
	p.text.WriteByte('\n')
}

// para writes text, which need not be Clean, on as many lines as it takes: the
// first after lead, the others below its start.
func (p *page) para(lead string, s lipgloss.Style, text string) {
	indent := ansi.StringWidth(lead)
	for _, l := range wrap(short(text, 1000), p.width-indent-1) {
		p.line(lead, p.paint(s, l))
		lead = strings.Repeat(" ", indent)
	}
}

// spread writes left and right at the two edges of the page.
func (p *page) spread(left, right string) {
	gap := p.width - 1 - ansi.StringWidth(left) - ansi.StringWidth(right)
	p.line(left, strings.Repeat(" ", max(gap, 1)), right)
}

func (p *page) heading(text string) {
	p.line()
	p.line(" ", p.paint(strong, text))
}

func (p *page) writeTo(w io.Writer) error {
	_, err := io.WriteString(w, p.text.String())
	return err
}

// pad fills s with spaces to width columns, before it when right is set.
func pad(s string, width int, right bool) string {
	space := strings.Repeat(" ", max(width-ansi.StringWidth(s), 0))
	if right {
		return space + s
	}
	return s + space
}

// count shows a number with its thousands apart: 65,536.
func count(n uint64) string {
	s := strconv.FormatUint(n, 10)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// plural is "1 host" or "4 hosts".
func plural(n uint64, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return count(n) + " " + noun + "s"
}

// size shows bytes as Ollama does, in units of a thousand: 4.7 GB.
func size(n int64) string {
	if n < 0 {
		return "?" // no size is less than nothing: the host lies
	}
	f, unit := float64(n), "B"
	for _, u := range []string{"kB", "MB", "GB", "TB", "PB"} {
		if f < 999.5 {
			break
		}
		f, unit = f/1000, u
	}
	if f < 9.95 && unit != "B" {
		return strconv.FormatFloat(f, 'f', 1, 64) + " " + unit
	}
	return strconv.FormatFloat(f, 'f', 0, 64) + " " + unit
}
