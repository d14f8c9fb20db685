package main

import (
	"bytes"
	"cmp"
	_ "embed"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"text/template"
	"unicode"

	"gatehouse/bench/figures"
)

//go:embed page.md.tmpl
var pageText string

// page is what the template shows.
type page struct {
	Folder   string // of the pictures and the figures, as the page links to it
	Record   record
	Machine  [][2]string
	Versions [][2]string
	Commands [][2]string
	Missing  []string
	Sections []section
	Losses   [][]string
	Why      string // what we lose and why, by hand
}

// section is what one benchmark found.
type section struct {
	Bench, Title, What string
	Tables             []table
	Notes              string // by hand
}

// table is a table, with the curves of what it holds.
type table struct {
	Title  string
	Curves []curve
	Head   []string
	Rows   [][]string
}

type curve struct{ Alt, File string }

// redraw makes the page and its pictures from the figures in dir.
func redraw(dir string) error {
	p, pictures, err := compose(dir)
	if err != nil {
		return err
	}
	tmpl, err := template.New("page").Funcs(template.FuncMap{"table": setTable, "list": func(words ...string) []string { return words }}).Parse(pageText)
	if err != nil {
		return err
	}
	var text bytes.Buffer
	if err := tmpl.Execute(&text, p); err != nil {
		return err
	}
	// A picture of a figure that is measured no more would stay for ever.
	old, err := filepath.Glob(filepath.Join(dir, "*.svg"))
	if err != nil {
		return err
	}
	for _, file := range old {
		if _, ok := pictures[filepath.Base(file)]; !ok {
			if err := os.Remove(file); err != nil {
				return err
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(pictures)) {
		if err := os.WriteFile(filepath.Join(dir, name), pictures[name], 0o644); err != nil {
			return err
		}
	}
	return os.WriteFile(strings.TrimSuffix(dir, "/")+".md", squeeze(text.Bytes()), 0o644)
}

// compose reads what is in dir and sets the page from it. A file that cannot be
// read is named among what is missing.
func compose(dir string) (*page, map[string][]byte, error) {
	p := &page{Folder: filepath.Base(dir)}
	var err error
	if p.Record, err = readRecord(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, err
	}
	machine := make(map[string][]string)
	add := func(m map[string]any) {
		for name, value := range m {
			if text := fmt.Sprint(value); !slices.Contains(machine[name], text) && text != "" {
				machine[name] = append(machine[name], text)
			}
		}
	}
	add(p.Record.Machine)
	versions, commands := make(map[string]string), make(map[string]string)
	var all []*series
	for _, s := range plan {
		f, err := readFile(filepath.Join(dir, s.Name+".json"))
		if err != nil {
			p.Missing = append(p.Missing, missing(s, p.Record, err))
			continue
		}
		if o := ended(s, p.Record); o.Error != "" {
			p.Missing = append(p.Missing, fmt.Sprintf("`%s` is not whole: %s", o.Command, inline(o.Error)))
		}
		add(f.Machine)
		for program, version := range f.Versions {
			versions[program] = cmp.Or(version, versions[program])
		}
		for what, line := range f.Commands {
			commands[s.Bench+": "+what] = line
		}
		// A curve of ours and a comparison at one point have figures of the same name.
		for _, one := range gather(f.Rows) {
			one.Step = s.Name
			all = append(all, one)
		}
	}
	if len(all) == 0 {
		return nil, nil, fmt.Errorf("no figures in %s: run the benchmarks with -measure first", dir)
	}
	for _, name := range slices.Sorted(maps.Keys(machine)) {
		p.Machine = append(p.Machine, [2]string{name, strings.Join(machine[name], "; ")})
	}
	p.Versions, p.Commands = pairs(versions), pairs(commands)

	pictures := make(map[string][]byte)
	for _, s := range sections {
		of := slices.DeleteFunc(slices.Clone(all), func(one *series) bool { return one.Bench != s.Bench })
		if len(of) == 0 {
			continue
		}
		out := section{Bench: s.Bench, Title: s.Title, What: s.What, Notes: prose(dir, s.Bench)}
		if s.Bench == parted {
			out.Tables = parts(of)
		} else if out.Tables, err = tables(of, p.Folder, pictures); err != nil {
			return nil, nil, err
		}
		p.Sections = append(p.Sections, out)
	}
	var last loss
	for _, l := range losses(all, references) {
		peer := l.Peer + " " + times(l.Ratio)
		if l.Series == last.Series && l.X == last.X {
			better := &p.Losses[len(p.Losses)-1][3]
			*better += "<br>" + peer
			continue
		}
		last = l
		at := ""
		if l.Series.UnitX != "" && len(l.Series.X) > 1 {
			at = figure(l.X) + " " + l.Series.UnitX
		}
		p.Losses = append(p.Losses, []string{l.Series.Bench, l.Series.Name + ", " + l.Series.UnitY, at, peer})
	}
	p.Why = prose(dir, "lose")
	return p, pictures, nil
}

// ended is how the step ended in the run, the zero outcome when it was not in it.
func ended(s step, rec record) outcome {
	for _, o := range rec.Steps {
		if o.Name == s.Name {
			return o
		}
	}
	return outcome{}
}

// missing says why a step has no figures.
func missing(s step, rec record, err error) string {
	switch o := ended(s, rec); {
	case o.Error != "":
		return fmt.Sprintf("`%s` failed: %s", o.Command, inline(o.Error))
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Sprintf("`%s` was not run.", s.command(rec.Quick))
	default:
		return fmt.Sprintf("`%s.json` cannot be read: %s", s.Name, inline(err.Error()))
	}
}

// tables sets a benchmark's figures: what is compared at one point in one
// table, each curve of several peers in its own, and the curves of ours alone
// side by side where they have the same points.
func tables(list []*series, folder string, pictures map[string][]byte) (out []table, err error) {
	var points []*series
	var curves [][]*series
	for _, s := range list {
		if !s.curve() {
			points = append(points, s)
			continue
		}
		at := slices.IndexFunc(curves, func(with []*series) bool {
			return len(s.Peers) == 1 && slices.Equal(s.Peers, with[0].Peers) && s.UnitX == with[0].UnitX && slices.Equal(s.X, with[0].X)
		})
		if at < 0 {
			curves = append(curves, []*series{s})
		} else {
			curves[at] = append(curves[at], s)
		}
	}
	for len(points) > 0 {
		// Those with the same peers share a table.
		peers := points[0].Peers
		var same, rest []*series
		for _, s := range points {
			if slices.Equal(s.Peers, peers) {
				same = append(same, s)
			} else {
				rest = append(rest, s)
			}
		}
		out, points = append(out, compared(same)), rest
	}
	for _, together := range curves {
		t := table{Head: []string{together[0].UnitX}}
		var titles []string
		for _, s := range together {
			name := slug(s.Step+" "+s.Name+" "+s.UnitY+" by "+s.UnitX) + ".svg"
			if pictures[name], err = render(s); err != nil {
				return nil, err
			}
			t.Curves = append(t.Curves, curve{fmt.Sprintf("%s (%s) by %s", s.Name, s.UnitY, s.UnitX), folder + "/" + name})
			titles = append(titles, s.Name)
			for _, peer := range s.Peers {
				head := peer + ", " + s.UnitY
				if len(together) > 1 {
					head = s.Name + ", " + s.UnitY
				}
				t.Head = append(t.Head, head)
			}
		}
		t.Title = "By " + together[0].UnitX
		if len(titles) < 3 {
			t.Title = strings.Join(titles, ", ") + " by " + together[0].UnitX
		}
		for _, x := range together[0].X {
			line := []string{figure(x)}
			for _, s := range together {
				for _, peer := range s.Peers {
					line = append(line, cell(s, x, peer))
				}
			}
			t.Rows = append(t.Rows, line)
		}
		out = append(out, t)
	}
	return out, nil
}

// compared is a table of figures at one point each, a column for each peer.
func compared(list []*series) table {
	t := table{Head: append([]string{""}, list[0].Peers...)}
	for _, s := range list {
		for _, x := range s.X {
			name := s.Name + ", " + s.UnitY
			if len(s.X) > 1 {
				name += ", " + figure(x) + " " + s.UnitX
			}
			line := []string{name}
			for _, peer := range s.Peers {
				line = append(line, cell(s, x, peer))
			}
			t.Rows = append(t.Rows, line)
		}
	}
	return t
}

// cell is a figure with its spread, and of a peer's how much it is of ours.
func cell(s *series, x float64, peer string) string {
	r := s.At[x][peer]
	sum := r.summary()
	if sum.Rounds == 0 {
		return "–"
	}
	text := "**" + figure(sum.Median) + "**"
	if sum.Rounds > 1 {
		text += "<br>" + figure(sum.Low) + " to " + figure(sum.High)
	}
	if ratio := r.ratio(s.At[x][figures.Ours]); peer != figures.Ours && ratio.Rounds > 0 {
		text += "<br>" + times(ratio)
	}
	return text
}

// times is a ratio with its spread: 0.45 × (0.43 to 0.48).
func times(r summary) string {
	text := figure(r.Median) + " ×"
	if r.Rounds > 1 {
		text += " (" + figure(r.Low) + " to " + figure(r.High) + ")"
	}
	return text
}

// parts are tables of what makes a whole, the greatest first. The peer "all" is
// the whole.
func parts(list []*series) (out []table) {
	for _, s := range list {
		t := table{Title: s.Name, Head: []string{"part", s.UnitY, "share"}}
		type part struct {
			name string
			size float64
		}
		var all []part
		whole := 0.0
		for _, x := range s.X {
			for peer, r := range s.At[x] {
				if size := r.summary().Median; peer == "all" {
					whole = size
				} else {
					all = append(all, part{peer, size})
				}
			}
		}
		slices.SortFunc(all, func(a, b part) int {
			return cmp.Or(rest(a.name)-rest(b.name), cmp.Compare(b.size, a.size), cmp.Compare(a.name, b.name))
		})
		for _, a := range all {
			share := "–"
			if whole > 0 {
				share = fmt.Sprintf("%.1f %%", 100*a.size/whole)
			}
			t.Rows = append(t.Rows, []string{a.name, figure(a.size), share})
		}
		if whole > 0 {
			t.Rows = append(t.Rows, []string{"all", figure(whole), ""})
		}
		out = append(out, t)
	}
	return out
}

// rest is 1 for what is left over, which comes last however large it is.
func rest(part string) int {
	if strings.HasSuffix(part, " others") {
		return 1
	}
	return 0
}

// prose is what somebody wrote beside the figures, "" when nobody did.
func prose(dir, name string) string {
	text, err := os.ReadFile(filepath.Join(dir, name+".md"))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(text))
}

func pairs(m map[string]string) (list [][2]string) {
	for _, name := range slices.Sorted(maps.Keys(m)) {
		list = append(list, [2]string{name, m[name]})
	}
	return list
}

// setTable is a table in Markdown, with names to the left and figures to the
// right.
func setTable(head []string, rows [][]string) string {
	line := func(cells []string) string {
		return "| " + strings.ReplaceAll(strings.Join(cells, "\x00"), "|", `\|`) + " |\n"
	}
	text := line(head) + "| --- |" + strings.Repeat(" ---: |", len(head)-1) + "\n"
	for _, cells := range rows {
		text += line(cells)
	}
	return strings.ReplaceAll(text, "\x00", " | ")
}

// inline is a message as it can stand in a line of Markdown.
func inline(text string) string {
	return "`" + strings.ReplaceAll(strings.Join(strings.Fields(text), " "), "`", "'") + "`"
}

func slug(text string) string {
	return strings.Join(strings.FieldsFunc(strings.ToLower(strings.ReplaceAll(text, "/s", " per second")), func(r rune) bool {
		return !unicode.IsLetter(r) && !unicode.IsDigit(r)
	}), "-")
}

var blank = regexp.MustCompile(`\n{3,}`)

// squeeze leaves one empty line where what is left out left several.
func squeeze(text []byte) []byte {
	return append(bytes.TrimSpace(blank.ReplaceAll(text, []byte("\n\n"))), '\n')
}
