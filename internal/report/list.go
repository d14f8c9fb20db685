package report

import (
	"io"
	"strings"

	"github.com/charmbracelet/x/ansi"
)

// List writes rows under their heads, in as much room as the terminal has: when
// it is too little, the widest columns give way first. Cells need not be Clean.
func List(w io.Writer, heads []string, rows [][]string, o Options) error {
	p := newPage(o)
	widths := make([]int, len(heads))
	for i, h := range heads {
		widths[i] = ansi.StringWidth(h)
	}
	clean := make([][]string, len(rows))
	for r, row := range rows {
		clean[r] = make([]string, len(heads))
		for i := range min(len(row), len(heads)) {
			clean[r][i] = Clean(row[i])
			widths[i] = max(widths[i], ansi.StringWidth(clean[r][i]))
		}
	}
	shrink(widths, p.width-1-2*len(widths))
	write := func(cells []string, heading bool) {
		var parts []string
		for i, c := range cells {
			cell := pad(fit(c, widths[i]), widths[i], false)
			if heading {
				cell = p.paint(faint, cell)
			}
			parts = append(parts, "  ", cell)
		}
		p.line(strings.Join(parts, ""))
	}
	write(heads, true)
	for _, row := range clean {
		write(row, false)
	}
	return p.writeTo(w)
}

// narrowest is how far a column gives way, in terminal columns.
const narrowest = 6

// shrink takes from the widest until the sum is within room.
func shrink(widths []int, room int) {
	sum := 0
	for _, w := range widths {
		sum += w
	}
	for ; sum > room; sum-- {
		widest := 0
		for i, w := range widths {
			if w > widths[widest] {
				widest = i
			}
		}
		if widths[widest] <= narrowest {
			return
		}
		widths[widest]--
	}
}

// Bars are the figures of one name, one for each day.
type Bars struct {
	Name  string
	Days  []uint64
	Total uint64
	Note  string // after the total
}

// Chart writes a bar chart for each name: a column a day, all names to one
// scale so that they can be compared, the first day on the left.
func Chart(w io.Writer, title, first, last string, bars []Bars, o Options) error {
	p := newPage(o)
	p.heading(Clean(title))
	p.line()
	top := uint64(1)
	longest := 0
	for _, b := range bars {
		longest = max(longest, ansi.StringWidth(short(Clean(b.Name), 24)))
		for _, n := range b.Days {
			top = max(top, n)
		}
	}
	days := 0
	for _, b := range bars {
		// Two columns a day where there is room, else as many days as fit.
		room := p.width - longest - 40
		step := 2
		if 2*len(b.Days) > room {
			step = 1
		}
		shown := b.Days[max(0, len(b.Days)-max(room/step, 7)):]
		days = max(days, len(shown)*step)
		var line strings.Builder
		for _, n := range shown {
			line.WriteString(strings.Repeat(bar(n, top), step))
		}
		name := pad(short(Clean(b.Name), 24), longest, false)
		p.line("  ", p.paint(strong, name), "  ", p.paint(severityStyle("low"), line.String()), "  ", count(b.Total), " ", p.paint(faint, Clean(b.Note)))
	}
	gap := max(1, days-len(first)-len(last))
	p.line("  ", strings.Repeat(" ", longest+2), p.paint(faint, first+strings.Repeat(" ", gap)+last))
	return p.writeTo(w)
}

// bar is one column of a chart: an eighth of a line for each eighth of top, and
// never nothing for what is not nothing.
func bar(n, top uint64) string {
	if n == 0 {
		return "·"
	}
	levels := []rune("▁▂▃▄▅▆▇█")
	i := int(float64(n)/float64(top)*float64(len(levels)) - 0.000001)
	return string(levels[min(max(i, 0), len(levels)-1)])
}
