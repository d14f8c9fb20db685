package report

import (
	"bufio"
	"cmp"
	"compress/gzip"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"fmt"
	"html/template"
	"io"
	"maps"
	"strings"
	"time"

	"gatehouse/internal/finding"
	"gatehouse/internal/wave"
)

const (
	// hostsPage is how many hosts stand in the page as they are. The others lie
	// in it packed, which a browser passes over, until its script shows them: one
	// file is kept and sent more easily than a folder of them.
	hostsPage = 1000
	// hostsMost is how many hosts a page holds; beyond that it is no page to read.
	hostsMost = 100_000
	listRows  = 12
)

var (
	//go:embed html/page.html
	pageHTML string
	//go:embed html/page.css
	pageCSS string
	//go:embed html/page.js
	pageJS string

	pageTemplate = template.Must(template.New("page").Parse(pageHTML))

	// The page may run this script and nothing else, and load nothing at all.
	pagePolicy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-" + hashOf(pageJS) + "'; base-uri 'none'; form-action 'none'"
)

func hashOf(script string) string {
	sum := sha256.Sum256([]byte(script))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// pageView is what the template shows. Every text in it is Clean.
type pageView struct {
	Policy  string
	CSS     template.CSS
	Title   string
	Lede    string
	Facts   []string
	Big     []bigFigure
	Parts   []pagePart
	Places  *bars
	Map     *tileMap
	Strip   *strip
	Trend   *trend
	Changes *changesView
	Carry   []bars
	Runs    []bars
	Advice  []adviceView
	Account []barRow
	Method  []string
	Limits  []string
	Sources []sourceView

	Listed   string // hosts in the table
	Total    int
	Size     int
	More     string // hosts beyond the first page
	Unlisted string // hosts that answered and are no row
	Beyond   string // hosts that have a row in no page
	Version  string
	Anon     bool
}

type pagePart struct{ ID, Name string }

type bigFigure struct {
	Name, Number, Note, Class string
}

type changesView struct {
	Since string
	Rows  []barRow
}

type adviceView struct {
	Severity, Score, Title, ID, Hosts, Share, Remedy string
}

type sourceView struct {
	Name, Date, Attribution, Warning string
}

// HTML writes the report as one page that needs nothing else: no network, and no
// script to be read. It reads the hosts once and writes nothing before it has
// read them all; they wait in a temporary file.
func HTML(w io.Writer, d Data) error {
	s, err := spoolOf(d.hosts())
	if err != nil {
		return err
	}
	defer s.close()
	b := bufio.NewWriterSize(w, 64<<10)
	v := viewOf(d, s)
	if err := pageTemplate.ExecuteTemplate(b, "top", v); err != nil {
		return err
	}
	rows := min(len(s.rows), hostsMost)
	for i := range min(rows, hostsPage) {
		h, err := s.row(i)
		if err != nil {
			return err
		}
		if err := pageTemplate.ExecuteTemplate(b, "host", h); err != nil {
			return err
		}
	}
	if err := pageTemplate.ExecuteTemplate(b, "middle", v); err != nil {
		return err
	}
	for i := hostsPage; i < rows; i += hostsPage {
		chunk, err := s.chunk(i, min(i+hostsPage, rows))
		if err != nil {
			return err
		}
		b.WriteString("<script type=\"application/gzip\" data-hosts>") // bufio keeps the first error for the next write
		if err := packed(b, chunk); err != nil {
			return err
		}
		if _, err := b.WriteString("</script>\n"); err != nil {
			return err
		}
	}
	if len(s.rows) > 0 {
		b.WriteString("<script>" + pageJS + "</script>\n")
	}
	if err := pageTemplate.ExecuteTemplate(b, "bottom", v); err != nil {
		return err
	}
	return b.Flush()
}

// packed writes text as gzip in base64: the same few hundred texts make up most
// hosts, and a page a fifth as long opens sooner and can be sent.
func packed(w io.Writer, text []byte) error {
	letters := base64.NewEncoder(base64.StdEncoding, w)
	z := gzip.NewWriter(letters)
	if _, err := z.Write(text); err != nil {
		return err
	}
	return cmp.Or(z.Close(), letters.Close())
}

func viewOf(d Data, s *spool) pageView {
	t := d.Tally
	shown := min(len(s.rows), hostsMost)
	v := pageView{
		Policy: pagePolicy, CSS: template.CSS(pageCSS),
		Title:   short(cmp.Or(d.Title, titleOf(d.Summary)), 200),
		Lede:    ledeOf(d),
		Facts:   factsOf(d.Summary),
		Big:     figuresOf(d),
		Map:     europe(t.Countries),
		Strip:   european(t),
		Trend:   trendOf(d.Trend),
		Changes: changesOf(d.Changes),
		Advice:  adviceOf(s.found(), s.hosts),
		Account: accountOf(d.Summary, t),
		Method:  cleanAll(d.Method),
		Limits:  limits,
		Total:   shown, Size: hostsPage,
		Listed:  plural(uint64(shown), "host"),
		Version: short(d.Version, 60),
		Anon:    d.anonymous,
	}
	for _, src := range d.Sources {
		v.Sources = append(v.Sources, sourceView{short(src.Name, 200), day(src.Date), short(src.Attribution, 400), short(src.Warning, 400)})
	}
	if shown > hostsPage {
		v.More = count(uint64(shown - hostsPage))
	}
	if n := less(s.hosts, uint64(len(s.rows))); n > 0 {
		v.Unlisted = plural(n, "place")
	}
	if n := len(s.rows) - shown; n > 0 {
		v.Beyond = plural(uint64(n), "host")
	}
	if rows := ranked(t.Countries, t.Rest["countries"], 15, t.Open, countryName); len(rows) > 0 {
		v.Places = &bars{Title: "Open servers by country", Head: "Country", Unit: "Servers", Rows: rows}
	}
	list := func(into *[]bars, column, title, head, unit, note string, m map[string]uint64, whole uint64) {
		name := func(s string) string { return short(s, 100) }
		if rows := ranked(m, t.Rest[column], listRows, whole, name); len(rows) > 0 {
			*into = append(*into, bars{title, note, head, unit, rows})
		}
	}
	list(&v.Carry, "providers", "Providers", "Provider", "Servers", "", t.Providers, t.Open)
	list(&v.Carry, "networks", "Networks", "Network", "Servers", "", t.Networks, t.Open)
	list(&v.Runs, "models", "Models", "Model", "Servers", "Open servers that list the model.", t.Models, t.Open)
	list(&v.Runs, "families", "Families", "Family", "Servers", "", t.Families, t.Open)
	list(&v.Runs, "parameters", "Size of the models", "Parameters", "Models", "", t.Parameters, t.Listed)
	list(&v.Runs, "quantizations", "Quantisation", "Format", "Models", "", t.Quantizations, t.Listed)
	list(&v.Runs, "capabilities", "What the models can do", "Capability", "Servers", "Of the servers that were asked for details.", t.Capabilities, t.Detailed)
	list(&v.Runs, "hardware", "Hardware", "Least machine that explains it", "Servers", "Of the servers whose hardware can be told.", t.Hardware, t.Sized)
	list(&v.Runs, "versions", "Versions", "Release", "Servers", behind(t, d.Summary.Started), t.Versions, t.Open)

	part := func(ok bool, id, name string) {
		if ok {
			v.Parts = append(v.Parts, pagePart{id, name})
		}
	}
	part(v.Places != nil || v.Map != nil, "where", "Where")
	part(v.Trend != nil || v.Changes != nil, "change", "What changed")
	part(len(v.Carry) > 0, "carry", "Who carries them")
	part(len(v.Runs) > 0, "run", "What runs")
	part(len(v.Advice) > 0, "advice", "What to do")
	part(shown > 0, "hosts", "Hosts")
	part(true, "method", "Method and limits")
	return v
}

func titleOf(sum wave.Summary) string {
	if sum.Scope != "" && sum.Scope != "local" {
		return "Open Ollama servers: " + sum.Scope
	}
	return "Open Ollama servers"
}

// ledeOf is the report in a few plain sentences.
func ledeOf(d Data) string {
	t := d.Tally
	if t.Open == 0 {
		return "No server that was looked at answers strangers."
	}
	verb, them := "answer", "them"
	if t.Open == 1 {
		verb, them = "answers", "it"
	}
	text := plural(t.Open, "Ollama server") + " " + verb + " strangers"
	if t.Placed > 0 && t.EU > 0 {
		text += ", " + count(t.EU) + " of them in the European Union"
		if t.Placed == t.Open {
			text += " (" + percent(t.EU, t.Open) + ")"
		}
	}
	text += ". Whoever reaches " + them + " can list the models, and, where no lock stands before it, compute, pull and delete."
	if c := d.Changes; c != nil && !c.Since.IsZero() {
		text += fmt.Sprintf(" Since %s, %s appeared and %s closed.", day(c.Since), count(c.New), count(c.Fixed))
	}
	return text
}

func factsOf(sum wave.Summary) (facts []string) {
	add := func(label, s string) {
		if s != "" {
			facts = append(facts, label+" "+s)
		}
	}
	when := day(sum.Started)
	if end := day(sum.Ended); end != when && end != "" {
		when = strings.TrimPrefix(when+" to "+end, " to ")
	}
	add("Seen", when)
	add("Wave", short(sum.Wave, 80))
	if sum.Scope != "" {
		add("Scope", short(sum.Scope, 80))
	}
	if sum.Places > 0 {
		add("Places asked", count(sum.Places))
	}
	return facts
}

func figuresOf(d Data) (list []bigFigure) {
	t := d.Tally
	if t.Outcomes == nil {
		t.Outcomes = d.Summary.Outcomes
	}
	note := "answer strangers"
	if t.Hosts > 0 {
		note = percent(t.Open, t.Hosts) + " of " + count(t.Hosts) + " that answered"
	}
	list = append(list, bigFigure{"Open", count(t.Open), note, "open"})
	list = append(list, bigFigure{"Guarded", count(t.Outcomes[finding.Guarded]), "ask for credentials", "guarded"})
	if t.Placed > 0 {
		of := " servers"
		if t.Placed < t.Open {
			of = " of " + count(t.Placed) + " whose country is known"
		}
		list = append(list, bigFigure{"In the EU", percent(t.EU, t.Placed), count(t.EU) + of, ""})
	}
	if c := d.Changes; c != nil {
		since := ""
		if !c.Since.IsZero() {
			since = " since " + day(c.Since)
		}
		list = append(list, bigFigure{"New", count(c.New), "appeared" + since, ""})
		list = append(list, bigFigure{"Fixed", count(c.Fixed), "were open, are shut" + since, "guarded"})
	}
	switch {
	case d.Active != nil && d.Active.Whole > 0:
		list = append(list, bigFigure{"At work", percent(d.Active.Part, d.Active.Whole), short(d.Active.Method, 120), ""})
	case t.Loaded > 0:
		list = append(list, bigFigure{"Model loaded", percent(t.Loaded, t.Open), count(t.Loaded) + " when looked at", ""})
	}
	return list
}

func changesOf(c *Changes) *changesView {
	if c == nil {
		return nil
	}
	v := &changesView{Since: day(c.Since)}
	most := max(c.New, c.Gone, c.Fixed, c.Reopened, c.Moved, c.Changed, c.NotSeen)
	for _, row := range []struct {
		name string
		n    uint64
	}{
		{"new: open, and not there before", c.New},
		{"reopened: was shut, is open again", c.Reopened},
		{"fixed: was open, is guarded", c.Fixed},
		{"gone: nothing answers any more", c.Gone},
		{"moved: the same server at another address", c.Moved},
		{"changed: another version, models or powers", c.Changed},
		{"not seen: no answer yet, too early to say", c.NotSeen},
	} {
		v.Rows = append(v.Rows, barRow{0, row.name, count(row.n), "", barWidth(row.n, most)})
	}
	return v
}

func barWidth(n, top uint64) string {
	if n == 0 {
		return "0"
	}
	return width(n, top)
}

func adviceOf(kinds []*kind, hosts uint64) (list []adviceView) {
	for _, k := range kinds[:min(len(kinds), 40)] {
		// The command that looks again is for one host; here it is for all.
		remedy, _, _ := strings.Cut(k.Remedy, " Then look again")
		list = append(list, adviceView{
			Severity: short(string(k.Severity), 20), Score: fmt.Sprintf("%.1f", base(k.Score)),
			Title: short(cmp.Or(k.Title, k.ID), 200), ID: short(k.ID, 60),
			Hosts: count(k.Hosts), Share: percent(k.Hosts, hosts), Remedy: short(remedy, 1000),
		})
	}
	return list
}

// accountOf is what became of every place.
func accountOf(sum wave.Summary, t wave.Tally) (rows []barRow) {
	outcomes := sum.Outcomes
	if len(outcomes) == 0 {
		outcomes = t.Outcomes
	}
	whole := uint64(0)
	for n := range maps.Values(outcomes) {
		whole += n
	}
	for _, o := range finding.Outcomes {
		if n := outcomes[o]; n > 0 {
			rows = append(rows, barRow{0, string(o) + ": " + outcomeMeans[o], count(n), percent(n, whole), width(n, whole)})
		}
	}
	return rows
}

var outcomeMeans = map[finding.Outcome]string{
	finding.Open:      "an Ollama that answers strangers",
	finding.Guarded:   "asks for credentials",
	finding.Lookalike: "speaks the API, is another product",
	finding.Honeypot:  "contradicts itself",
	finding.Broken:    "hostile or malformed",
	finding.Other:     "the port is open, no Ollama",
	finding.Silent:    "no answer in time",
	finding.Refused:   "the connection was rejected",
}

// limits are what no count of this kind can say.
var limits = []string{
	"A count is of one window: what was off, full or behind another address at that time is not in it, and a server that changes its address may be in it twice.",
	"Look-alikes and honeypots are told by what they say, and left out of every figure but the account. One that plays its part perfectly is counted as a server.",
	"Nobody was asked who they are. Country, network and provider are what data sets say of an address, and each of them errs.",
	"The hardware is the least machine that explains what a server holds. A model on disk may never have run.",
	"Nothing was changed on any server, no password was tried, and no model was asked anything.",
}

// behind says how old the releases are, "" when that is not known.
func behind(t wave.Tally, at time.Time) string {
	ages := t.Ages(at)
	if at.IsZero() || ages.Known == 0 {
		return ""
	}
	return fmt.Sprintf("%s ran the newest release of that day; half were %d days behind or more.", percent(ages.Current, ages.Known), ages.MedianDays)
}

// day is a date, "" when there is none.
func day(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.DateOnly)
}
