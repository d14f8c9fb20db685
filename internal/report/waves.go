package report

import (
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/charmbracelet/x/ansi"

	"gatehouse/internal/finding"
	"gatehouse/internal/wave"
)

// Waves lists waves, one a line.
func Waves(w io.Writer, list []wave.Info, o Options) error {
	rows := make([][]string, len(list))
	for i := range list {
		v := &list[i]
		row := []string{strconv.FormatInt(v.Number, 10), v.Started.Format("2006-01-02 15:04"), v.Scope, v.Source, "", "", ""}
		switch {
		case v.Ended.IsZero():
			row[4] = "unfinished"
		case v.Tally != nil:
			row[4], row[5] = count(v.Tally.Open), count(v.Tally.Outcomes[finding.Guarded])
			if v.Summary != nil && v.Summary.Places > 0 {
				row[6] = count(v.Summary.Places)
			}
		}
		rows[i] = row
	}
	return List(w, []string{"WAVE", "BEGUN (UTC)", "SCOPE", "FROM", "OPEN", "GUARDED", "PLACES"}, rows, o)
}

// Statistics writes what a wave counted: the tables that are published of such
// counts, each with its method. An earlier wave, if there is one, gives growth.
func Statistics(w io.Writer, v *wave.Info, earlier *wave.Info, o Options) error {
	p := newPage(o)
	t := v.Tally
	p.line()
	p.spread(" "+p.paint(strong, fmt.Sprintf("Wave %d", v.Number))+"  "+Clean(v.Scope), v.Started.Format("2006-01-02 15:04 UTC"))
	p.line()
	p.line("  ", p.paint(alarm, count(t.Open)), " open to strangers",
		"   ", p.paint(calm, count(t.Outcomes[finding.Guarded])), " guarded",
		"   ", count(t.Hosts), " answered")
	if earlier != nil && earlier.Tally != nil {
		if factor, ok := t.Growth(earlier.Tally); ok {
			p.line("  ", p.paint(strong, growth(factor)), fmt.Sprintf(" the %s of wave %d, %s before", count(earlier.Tally.Open), earlier.Number, days(v.Started.Sub(earlier.Started))))
		}
	}
	if share, ok := t.EUShare(); ok {
		p.line("  ", p.paint(strong, ratio(share)), fmt.Sprintf(" in the European Union: %s of the %s whose country is known", count(t.EU), count(t.Placed)))
	}
	if v.Watched != nil {
		if share, i, ok := v.Watched.Activities.Active(); ok {
			p.line("  ", p.paint(strong, ratio(share)), fmt.Sprintf(" at work while looked at (95 %%: %s to %s), in %d looks", ratio(i.Low), ratio(i.High), v.Looks))
		}
	} else if t.Open > 0 {
		p.line("  ", p.paint(strong, ratio(float64(t.Loaded)/float64(t.Open))), " had a model in memory")
	}

	p.ranked("Countries", t.Countries, t.Placed, t.Rest["countries"])
	p.ranked("Providers", t.Providers, t.Open, t.Rest["providers"])
	p.ranked("Networks", t.Networks, t.Open, t.Rest["networks"])
	p.ranked("Models", t.Models, t.Open, t.Rest["models"])
	p.ordered("Parameters, share of models", t.Parameters, t.Listed, wave.ParameterClasses)
	p.ranked("Bits a weight, share of models", t.Bits, t.Listed, t.Rest["bits"])
	p.ranked("Capabilities, share of servers asked for them", t.Capabilities, t.Detailed, 0)
	p.ranked("Hardware, the least that explains what is there", t.Hardware, t.Sized, 0)
	p.ranked("Versions", t.Versions, t.Open, t.Rest["versions"])
	if a := t.Ages(v.Started); a.Known > 0 {
		p.para("  ", faint, fmt.Sprintf("Half are %d days and %d releases behind %s or more; %s are current.",
			a.MedianDays, a.MedianReleases, a.Newest, ratio(float64(a.Current)/float64(a.Known))))
	}
	p.ranked("Findings", t.Findings, t.Open, 0)
	if v.Watched != nil {
		p.ranked("At work, over the looks", asCounts(v.Watched.Activities), sumOf(v.Watched.Activities), 0)
		p.ranked("There, over the looks", asCounts(v.Watched.Uptimes), sumOf(v.Watched.Uptimes), 0)
	}
	p.heading("Method")
	for _, l := range v.Method.Lines() {
		p.para("  · ", normal, l)
	}
	return p.writeTo(w)
}

func asCounts[K ~string](m map[K]uint64) map[string]uint64 {
	counts := make(map[string]uint64, len(m))
	for k, n := range m {
		counts[string(k)] = n
	}
	return counts
}

func sumOf[K comparable](m map[K]uint64) (n uint64) {
	for _, k := range m {
		n += k
	}
	return n
}

// rankedRows is how many rows a table of shares has on a terminal.
const rankedRows = 10

// ranked writes the largest of a map, with rank, share and a bar.
func (p *page) ranked(title string, m map[string]uint64, of, rest uint64) {
	rows := known(m, of)
	if len(rows) == 0 {
		return
	}
	more := 0
	for _, r := range rows[min(len(rows), rankedRows):] {
		rest += r.Count
		more++
	}
	p.shares(title, rows[:min(len(rows), rankedRows)], true)
	if more > 0 {
		p.line("      ", p.paint(faint, fmt.Sprintf("and %s more, with %s together", count(uint64(more)), count(rest))))
	} else if rest > 0 {
		p.line("      ", p.paint(faint, count(rest)+" more of rare names"))
	}
	if n := m[wave.UnknownClass]; n > 0 {
		p.line("      ", p.paint(faint, "of "+count(n)+" more it is not known"))
	}
}

// known are the rows of a table, ranked among those that have a name: what is not
// known is no provider that others come after.
func known(m map[string]uint64, of uint64) []wave.Share {
	named := maps.Clone(m)
	delete(named, wave.UnknownClass)
	return wave.Ranked(named, of)
}

// ordered writes all of a map in an order that means something.
func (p *page) ordered(title string, m map[string]uint64, of uint64, order []string) {
	var rows []wave.Share
	ranked := wave.Ranked(m, of)
	for _, key := range order {
		if i := slices.IndexFunc(ranked, func(s wave.Share) bool { return s.Key == key }); i >= 0 {
			rows = append(rows, ranked[i])
		}
	}
	if len(rows) > 0 {
		p.shares(title, rows, false)
	}
}

func (p *page) shares(title string, rows []wave.Share, rank bool) {
	p.heading(title)
	name := 0
	for _, r := range rows {
		name = max(name, ansi.StringWidth(short(Clean(r.Key), 36)))
	}
	top := 0.0
	for _, r := range rows {
		top = max(top, r.Share)
	}
	room := max(p.width-name-28, 4)
	for _, r := range rows {
		place := "    "
		if rank {
			place = pad(strconv.Itoa(r.Rank), 3, true) + " "
		}
		bar := ""
		if top > 0 {
			bar = strings.Repeat("█", max(int(math.Round(r.Share/top*float64(min(room, 30)))), 1))
		}
		p.line("  ", p.paint(faint, place), pad(short(Clean(r.Key), 36), name, false), "  ",
			pad(count(r.Count), 9, true), "  ", pad(ratio(r.Share), 6, true), "  ", p.paint(severityStyle("low"), bar))
	}
}

func days(d time.Duration) string {
	if d < 48*time.Hour {
		return duration(d)
	}
	return strconv.Itoa(int(d.Hours()/24+0.5)) + " days"
}

// Trend writes the waves of a scope as a course over time.
func Trend(w io.Writer, list []wave.Info, o Options) error {
	p := newPage(o)
	p.line()
	top := uint64(1)
	for i := range list {
		if list[i].Tally != nil {
			top = max(top, list[i].Tally.Open)
		}
	}
	p.line("  ", p.paint(faint, "WAVE  BEGUN            OPEN  GROWTH    EU  GUARDED  LARGEST COUNTRIES"))
	var before *wave.Tally
	for i := range list {
		v := &list[i]
		if v.Tally == nil {
			continue
		}
		more := ""
		if before != nil {
			if f, ok := v.Tally.Growth(before); ok {
				more = growth(f)
			}
		}
		before = v.Tally
		eu := ""
		if share, ok := v.Tally.EUShare(); ok {
			eu = ratio(share)
		}
		var largest []string
		ranked := known(v.Tally.Countries, v.Tally.Placed)
		for _, s := range ranked[:min(3, len(ranked))] {
			// Whole percents, so that three of them fit into a line.
			largest = append(largest, fmt.Sprintf("%s %.0f %%", s.Key, 100*s.Share))
		}
		p.line("  ", pad(strconv.FormatInt(v.Number, 10), 4, true), "  ", v.Started.Format(time.DateOnly), "  ",
			pad(count(v.Tally.Open), 9, true), "  ", pad(more, 6, true), "  ", pad(eu, 4, true), "  ",
			pad(count(v.Tally.Outcomes[finding.Guarded]), 7, true), "  ", Clean(strings.Join(largest, ", ")))
	}
	p.line()
	for i := range list {
		v := &list[i]
		if v.Tally == nil {
			continue
		}
		n := math.Round(float64(v.Tally.Open) / float64(top) * float64(p.width-30))
		if v.Tally.Open > 0 {
			n = max(n, 1)
		}
		p.line("  ", v.Started.Format(time.DateOnly), "  ", p.paint(severityStyle("low"), strings.Repeat("█", int(n))), " ", count(v.Tally.Open))
	}
	if len(list) > 1 {
		p.line()
		p.para("  ", faint, "A growth is of servers only where method, window and scope are the same: gatehouse wave show tells each wave's.")
	}
	return p.writeTo(w)
}

// eventWords say what an event means.
var eventWords = map[wave.Event]string{
	wave.Appeared:  "open, and never seen before",
	wave.Reopened:  "open again after it was guarded or gone",
	wave.Moved:     "the same server at another address",
	wave.Returned:  "open again after it did not answer",
	wave.Fixed:     "was open, asks for credentials now",
	wave.Gone:      "was open, and did not answer in several looks",
	wave.NotSeen:   "was open, did not answer this time",
	wave.Reclassed: "was open, is judged to be something else",
	wave.Changed:   "open as before, and not the same",
}

// Differences writes what became of each server between two waves.
func Differences(w io.Writer, a, b *wave.Info, c *wave.Comparison, o Options) error {
	p := newPage(o)
	p.line()
	p.spread(" "+p.paint(strong, fmt.Sprintf("Wave %d", a.Number))+" "+a.Started.Format(time.DateOnly)+"  →  "+
		p.paint(strong, fmt.Sprintf("Wave %d", b.Number))+" "+b.Started.Format(time.DateOnly), Clean(b.Scope))
	p.line()
	p.line("  ", p.paint(strong, count(c.Before)), " open, now ", p.paint(alarm, count(c.After)))
	p.line()
	counts := map[wave.Event]uint64{
		wave.Appeared: c.New, wave.Reopened: c.Reopened, wave.Moved: c.Moved, wave.Returned: c.Returned, wave.Fixed: c.Fixed,
		wave.Gone: c.Gone, wave.NotSeen: c.NotSeen, wave.Reclassed: c.Reclassed, wave.Changed: c.Changed,
	}
	for _, e := range wave.Events {
		style := normal
		switch e {
		case wave.Appeared, wave.Reopened:
			style = alarm
		case wave.Fixed:
			style = calm
		}
		p.line("  ", p.paint(style, pad(count(counts[e]), 9, true)+"  "+pad(string(e), 10, false)), "  ", p.paint(faint, eventWords[e]))
	}
	if len(c.What) > 0 {
		var what []string
		for _, k := range slices.Sorted(maps.Keys(c.What)) {
			what = append(what, k+" "+count(c.What[k]))
		}
		p.para("             ", faint, "changed: "+strings.Join(what, ", "))
	}
	limit := o.Rows
	if limit == 0 {
		limit = rankedRows
	}
	for _, e := range wave.Events {
		list := c.Lists[e]
		if len(list) == 0 {
			continue
		}
		p.heading(string(e))
		for i := range list {
			if limit >= 0 && i == limit {
				p.line("  ", p.paint(faint, "and "+count(counts[e]-uint64(i))+" more; --format jsonl has them all"))
				break
			}
			p.difference(&list[i])
		}
	}
	return p.writeTo(w)
}

func (p *page) difference(d *wave.Difference) {
	where := placeText(&d.Place)
	if d.To != nil {
		where += " → " + placeText(d.To)
	}
	var notes []string
	if d.Event == wave.Moved {
		notes = append(notes, ratio(d.Sure)+" sure")
		notes = append(notes, d.Basis...)
	}
	for _, what := range d.What {
		note := what
		if what == "version" && d.Before != nil && d.After != nil {
			note += " " + d.Before.Version + " → " + d.After.Version
		}
		notes = append(notes, note)
	}
	if s := d.After; s != nil && d.Event != wave.Changed && s.Version != "" {
		notes = append(notes, s.Version)
	}
	for _, s := range []*wave.State{d.After, d.Before} {
		if s != nil && s.Country+s.Provider != "" {
			notes = append(notes, strings.TrimSpace(s.Country+" "+s.Provider))
			break
		}
	}
	if len(notes) == 0 {
		p.line("  ", Clean(where))
		return
	}
	p.para("  "+pad(Clean(where), 24, false)+"  ", normal, strings.Join(notes, ", "))
}

func placeText(l *wave.Place) string {
	r := wave.Record{Address: l.Address.String(), Port: l.Port, Name: l.Name, Path: l.Path}
	return hostPort(&r) + l.Path
}

// FixTimes writes how long findings lasted.
func FixTimes(w io.Writer, rows []wave.FixTimes, o Options) error {
	cells := make([][]string, len(rows))
	for i, r := range rows {
		owner := r.Owner
		if owner == "" {
			owner = "all"
		}
		cells[i] = []string{r.Finding, owner, count(uint64(r.Seen)), count(uint64(r.Fixed)), fixTime(r.Median, r.Watched), fixTime(r.P90, r.Watched)}
	}
	return List(w, []string{"FINDING", "OWNER", "SEEN", "FIXED", "MEDIAN", "90 %"}, cells, o)
}

// fixTime is a quantile; one that was not reached is longer than all was watched.
func fixTime(d, watched time.Duration) string {
	if d == 0 {
		return "> " + days(watched)
	}
	return days(d)
}
