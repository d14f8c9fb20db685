package report

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"charm.land/lipgloss/v2"
	"github.com/charmbracelet/x/ansi"

	"gatehouse/internal/finding"
	"gatehouse/internal/wave"
)

// Table writes the report for a person: the hosts, most severe first, what is
// wrong with them and what to type next, and the account of the wave. A single
// host is shown in full. Of many, the first o.Rows are listed; the findings and
// the account are always of all. Its memory does not grow with the number of
// hosts. Nothing is written when reading the records fails.
func Table(w io.Writer, sum wave.Summary, hosts Hosts, o Options) error {
	t := table{limit: o.Rows, groups: map[string]*group{}}
	if t.limit == 0 {
		t.limit = defaultRows
	}
	for r, err := range hosts {
		if err != nil {
			return fmt.Errorf("read records: %w", err)
		}
		t.add(&r)
	}
	p := newPage(o)
	switch t.hosts {
	case 0:
		p.line()
		p.line(" ", p.paint(strong, "Nothing answered."))
	case 1:
		p.card(t.first)
	default:
		t.verdict(p, sum)
		t.list(p)
		t.findings(p)
	}
	p.summary(sum)
	return p.writeTo(w)
}

// quietRows is how many hosts that are of no interest are listed; when there
// are more, they are only counted.
const quietRows = 8

// table is what is kept of the records.
type table struct {
	limit  int
	hosts  uint64
	open   uint64
	first  *wave.Record
	rows   []row
	loud   uint64 // hosts worth a row
	quiet  []row  // at most quietRows+1 of those that are not
	mute   uint64 // how many those are
	groups map[string]*group
}

// row is what is shown of a host; every text in it is Clean.
type row struct {
	rank
	severity finding.Severity
	outcome  finding.Outcome
	name     string // host, port and path
	bare     string // the same by address, for when two names are equal
	version  string
	powers   string
	models   int
	largest  string
	class    string
	memory   string
	findings int
}

// group is one kind of finding over all hosts.
type group struct {
	finding.Finding // the worst of them, of the first such host
	rank            rank
	hosts           uint64
	cves            map[string]bool
}

func (t *table) add(r *wave.Record) {
	t.hosts++
	if t.first == nil {
		first := *r
		t.first = &first
	}
	if r.Outcome == finding.Open {
		t.open++
	}
	for i, f := range r.Findings {
		g := t.groups[f.ID]
		if g == nil {
			g = &group{Finding: f, rank: rankOf(r), cves: map[string]bool{}}
			t.groups[f.ID] = g
		}
		// The order in which hosts answered must not show.
		if rank := rankOf(r); f.Score > g.Score || f.Score == g.Score && rank.compare(g.rank) < 0 {
			g.Finding, g.rank = f, rank
		}
		for _, cve := range f.CVEs {
			g.cves[cve] = true
		}
		if !slices.ContainsFunc(r.Findings[:i], func(other finding.Finding) bool { return other.ID == f.ID }) {
			g.hosts++
		}
	}

	if len(r.Findings) == 0 && outcomeRank(r.Outcome) >= outcomeRank(finding.Other) {
		if t.mute++; t.mute <= quietRows {
			t.quiet = append(t.quiet, rowOf(r))
		}
		return
	}
	t.loud++
	t.rows = append(t.rows, rowOf(r))
	if t.limit > 0 && len(t.rows) >= 2*t.limit+1000 {
		t.cut()
	}
}

// cut keeps the rows that will be listed.
func (t *table) cut() {
	slices.SortStableFunc(t.rows, func(a, b row) int { return a.compare(b.rank) })
	if t.limit > 0 && len(t.rows) > t.limit {
		t.rows = slices.Delete(t.rows, t.limit, len(t.rows))
	}
}

func rowOf(r *wave.Record) row {
	host := row{
		rank:     rankOf(r),
		severity: worst(r.Findings),
		outcome:  r.Outcome,
		name:     short(hostPort(r)+r.Path, 400),
		version:  short(version(r.Identity), 200),
		powers:   powers(r),
		models:   len(r.Models),
		findings: len(r.Findings),
	}
	bare := *r
	bare.Name = ""
	host.bare = short(hostPort(&bare)+r.Path, 400)
	if m := largest(r.Models); m != nil {
		host.largest = short(m.Name, 200)
	}
	if r.Hardware != nil {
		host.class = Clean(r.Hardware.Class)
		if least := r.Hardware.MinMemoryBytes; least > 0 {
			host.memory = size(least)
		}
	}
	return host
}

// version is what answers: Ollama's version, or another product and its own.
func version(id finding.Identity) string {
	if id.Product == "" || id.Product == "ollama" {
		return id.Version
	}
	return strings.TrimSpace(id.Product + " " + id.Version)
}

// powersLegend explains what powers returns.
const powersLegend = "r read, i infer, m manage, a account; R proven, r reachable, - no, · unknown"

// powers shows the powers in four characters, and nothing for what is no API.
func powers(r *wave.Record) string {
	if outcomeRank(r.Outcome) >= outcomeRank(finding.Broken) {
		return ""
	}
	var b strings.Builder
	for _, p := range []struct {
		state  finding.State
		letter string
	}{{r.Powers.Read, "r"}, {r.Powers.Infer, "i"}, {r.Powers.Manage, "m"}, {r.Powers.Account, "a"}} {
		switch p.state {
		case finding.Proven:
			b.WriteString(strings.ToUpper(p.letter))
		case finding.Reachable:
			b.WriteString(p.letter)
		case finding.Denied:
			b.WriteString("-")
		default:
			b.WriteString("·")
		}
	}
	return b.String()
}

// verdict is the answer in one line.
func (t *table) verdict(p *page, sum wave.Summary) {
	of := max(t.hosts, sum.Visited)
	p.line()
	if t.open == 0 {
		p.line(" ", p.paint(calm, "No open Ollama"), " on "+plural(of, "place")+".")
		return
	}
	verb := "answer"
	if t.open == 1 {
		verb = "answers"
	}
	p.line(" ", p.paint(alarm, count(t.open)+" of "+plural(of, "place")), " "+verb+" strangers.")
}

// field is one column of the table on the terminal.
type field struct {
	head  string
	right bool
	cell  func(r *row) string
	style func(r *row) lipgloss.Style
	cut   func(s string, width int) string
	width int
}

func (t *table) list(p *page) {
	if t.mute <= quietRows {
		t.rows, t.loud, t.mute = append(t.rows, t.quiet...), t.loud+t.mute, 0
	}
	t.cut()
	seen := map[string]int{}
	for _, r := range t.rows {
		seen[r.name]++
	}
	digits := 0
	ipv4 := 15 // columns the longest IPv4 place takes: those are never cut for want of room
	for i := range t.rows {
		r := &t.rows[i]
		if r.models > 0 {
			digits = max(digits, len(count(uint64(r.models))))
		}
		if r.addr.Is4() && r.name == r.bare {
			ipv4 = max(ipv4, min(ansi.StringWidth(r.name), 21))
		}
	}
	fields := []field{
		{
			head: "WORST",
			cell: func(r *row) string {
				if r.findings == 0 {
					return ""
				}
				return Clean(string(r.severity))
			},
			style: func(r *row) lipgloss.Style { return severityStyle(r.severity) },
		},
		{
			head: "HOST", cut: fitMiddle,
			cell: func(r *row) string {
				if seen[r.name] > 1 {
					return r.bare
				}
				return r.name
			},
			style: func(*row) lipgloss.Style { return strong },
		},
		{
			head:  "OUTCOME",
			cell:  func(r *row) string { return Clean(string(r.outcome)) },
			style: func(r *row) lipgloss.Style { return outcomeStyle(r.outcome) },
		},
		{
			head: "VERSION",
			cell: func(r *row) string { return r.version },
		},
		{
			head: "MAY",
			cell: func(r *row) string { return r.powers },
		},
		{
			head: "MODELS",
			cell: func(r *row) string {
				if r.models == 0 {
					return ""
				}
				return pad(count(uint64(r.models)), digits, true) + " " + r.largest
			},
		},
		{
			head: "≥ MEM", right: true,
			cell: func(r *row) string { return r.memory },
		},
	}
	if p.width >= wide {
		fields = append(fields,
			field{
				head: "HARDWARE",
				cell: func(r *row) string { return r.class },
			},
			field{
				head: "FOUND", right: true,
				cell: func(r *row) string {
					if r.findings == 0 {
						return ""
					}
					return strconv.Itoa(r.findings)
				},
			})
	}
	fields = t.lay(fields, p.width, []room{
		{"MODELS", 34},
		{"VERSION", 15},
		{"HOST", max(ipv4, 22)},
		{"MODELS", 18},
		{"HARDWARE", 17},
		{"HOST", ipv4},
		{"VERSION", 11},
		{"MODELS", 16},
		{"HARDWARE", 12},
		{"VERSION", 8},
		{"MODELS", 9},
	})

	if len(t.rows) > 0 {
		var heads []string
		total := 0
		for _, f := range fields {
			heads = append(heads, pad(f.head, f.width, f.right))
			total += f.width + len(gap)
		}
		p.line()
		p.line(" ", p.paint(faint, strings.TrimRight(strings.Join(heads, gap), " ")))
		p.line(" ", p.paint(faint, strings.Repeat("─", total-len(gap))))
	}
	for i := range t.rows {
		r := &t.rows[i]
		var cells []string
		for _, f := range fields {
			text := f.cell(r)
			if f.cut != nil {
				text = f.cut(text, f.width)
			} else {
				text = fit(text, f.width)
			}
			if f.style != nil {
				text = p.paint(f.style(r), text)
			}
			cells = append(cells, pad(text, f.width, f.right))
		}
		p.line(" ", strings.Join(cells, gap))
	}
	if more := t.loud - uint64(len(t.rows)); more > 0 {
		p.line(" ", p.paint(faint, "… "+count(more)+" more: --format csv"))
	}
	if t.mute > 0 {
		p.line(" ", p.paint(faint, "… "+plural(t.mute, "place")+" with nothing of interest not listed: --format csv"))
	}
	if slices.ContainsFunc(t.rows, func(r row) bool { return r.powers != "" }) {
		p.line()
		p.para(" ", faint, powersLegend)
	}
}

// gap is between two columns.
const gap = "  "

// room is how many columns a field must leave when the page is too narrow.
type room struct {
	head  string
	least int
}

// lay leaves out the columns that have nothing to say, gives each other one the
// width of its widest cell, and while that is too much takes columns away in
// the order of steps, and at last whole fields.
func (t *table) lay(fields []field, width int, steps []room) []field {
	fields = slices.DeleteFunc(fields, func(f field) bool {
		return !slices.ContainsFunc(t.rows, func(r row) bool { return f.cell(&r) != "" })
	})
	total := 1 - len(gap)
	for i := range fields {
		f := &fields[i]
		f.width = ansi.StringWidth(f.head)
		for j := range t.rows {
			f.width = max(f.width, ansi.StringWidth(f.cell(&t.rows[j])))
		}
		total += f.width + len(gap)
	}
	find := func(head string) int {
		return slices.IndexFunc(fields, func(f field) bool { return f.head == head })
	}
	for _, step := range steps {
		if i := find(step.head); i >= 0 && total > width {
			give := min(total-width, max(fields[i].width-step.least, 0))
			fields[i].width -= give
			total -= give
		}
	}
	for _, head := range []string{"≥ MEM", "MODELS", "VERSION", "MAY", "WORST"} {
		if i := find(head); i >= 0 && total > width {
			total -= fields[i].width + len(gap)
			fields = slices.Delete(fields, i, i+1)
		}
	}
	return fields
}

// findings lists what is wrong, once for each kind.
func (t *table) findings(p *page) {
	if len(t.groups) == 0 {
		return
	}
	var groups []*group
	for _, g := range t.groups {
		groups = append(groups, g)
	}
	slices.SortFunc(groups, func(a, b *group) int {
		return cmp.Or(
			cmp.Compare(severityRank(b.Severity), severityRank(a.Severity)),
			cmp.Compare(b.Score, a.Score),
			cmp.Compare(a.ID, b.ID),
		)
	})
	p.heading("What is wrong, and what to do")
	for _, g := range groups {
		var cves []string
		for cve := range g.cves {
			cves = append(cves, cve)
		}
		slices.Sort(cves)
		p.line()
		p.finding(g.Finding, plural(g.hosts, "host"), nil, cves)
	}
}

// finding writes one finding: its severity, score and id, right at the other
// edge, and below the title, what shows it, and the remedy.
func (p *page) finding(f finding.Finding, right string, evidence, cves []string) {
	const indent = "                "
	p.spread(" "+p.paint(severityStyle(f.Severity), pad(Clean(string(f.Severity)), 8, false))+
		fmt.Sprintf(" %4.1f  ", f.Score)+p.paint(strong, Clean(f.ID)), right)
	p.para(indent, normal, f.Title)
	if len(cves) > 0 {
		const shown = 4
		text := strings.Join(cves[:min(len(cves), shown)], " ")
		if len(cves) > shown {
			text += fmt.Sprintf(" and %d more", len(cves)-shown)
		}
		p.para(indent, normal, text)
	}
	for _, e := range evidence {
		p.line(indent, p.paint(faint, fit(short(e, 400), p.width-len(indent)-1)))
	}
	advice, command := f.Remedy, ""
	if i := strings.LastIndex(f.Remedy, ": gatehouse "); i >= 0 {
		advice, command = f.Remedy[:i+1], f.Remedy[i+2:]
	}
	lead := indent[:len(indent)-2] + p.paint(calm, "→") + " "
	for l := range strings.SplitSeq(advice, "\n") { // ours: its lines are lines
		p.para(lead, normal, l)
		lead = indent
	}
	p.para(indent+"  ", strong, command)
}
