package report

import (
	"bufio"
	"cmp"
	"fmt"
	"io"
	"regexp"
	"strings"
)

// markdownHosts is how many hosts a Markdown report lists: a comment on GitHub
// takes 65,536 characters.
const markdownHosts = 150

// Markdown writes the report as GitHub's Markdown: the figures, what is wrong
// and what to do, and the first hosts.
func Markdown(w io.Writer, d Data) error {
	s, err := spoolOf(d.hosts())
	if err != nil {
		return err
	}
	defer s.close()
	b := bufio.NewWriter(w)
	v := viewOf(d, s)
	line := func(format string, args ...any) { fmt.Fprintf(b, format+"\n", args...) }
	text := markdownText

	line("# %s\n\n%s\n", text(v.Title), text(v.Lede))
	for _, f := range v.Facts {
		line("- %s", text(f))
	}
	line("\n| Figure | | |\n| --- | ---: | --- |")
	for _, f := range v.Big {
		line("| %s | %s | %s |", text(f.Name), text(f.Number), text(f.Note))
	}
	table := func(title, head, unit string, rows []barRow) {
		line("\n## %s\n\n| %s | %s | Share |\n| --- | ---: | ---: |", text(title), text(head), text(unit))
		for _, r := range rows {
			line("| %s | %s | %s |", text(r.Name), r.Count, text(r.Share))
		}
	}
	if v.Changes != nil {
		title := "What changed"
		if v.Changes.Since != "" {
			title += " since " + v.Changes.Since
		}
		table(title, "Servers that are", "Servers", v.Changes.Rows)
	}
	if v.Trend != nil {
		line("\n## Trend\n\n| Wave of | Open | Since the first |\n| --- | ---: | ---: |")
		for _, r := range v.Trend.Rows {
			line("| %s | %s | %s |", r[0], r[1], text(r[2]))
		}
	}
	if v.Places != nil {
		table(v.Places.Title, v.Places.Head, v.Places.Unit, v.Places.Rows)
	}
	for _, list := range append(v.Carry, v.Runs...) {
		table(list.Title, list.Head, list.Unit, list.Rows)
	}
	if len(v.Advice) > 0 {
		line("\n## What is wrong, and what to do\n\n| Severity | Finding | Hosts | What to do |\n| --- | --- | ---: | --- |")
		for _, a := range v.Advice {
			line("| %s %s | %s (%s) | %s | %s |", text(a.Severity), a.Score, text(a.Title), text(a.ID), a.Hosts, text(a.Remedy))
		}
	}
	if n := min(len(s.rows), markdownHosts); n > 0 {
		line("\n## Hosts\n\n| Severity | Host | Outcome | Version | Models | Place | Findings |\n| --- | --- | --- | --- | --- | --- | --- |")
		for i := range n {
			h, err := s.row(i)
			if err != nil {
				return err
			}
			line("| %s | %s | %s | %s | %s | %s | %s |", text(h.Severity), text(strings.TrimSpace(h.Host+" "+h.Address)), text(h.Outcome), text(h.Version),
				text(cmp.Or(h.Largest, h.Models)), text(strings.TrimSpace(h.Place+" "+h.Network)), text(h.Summary))
		}
		if more := len(s.rows) - n; more > 0 {
			line("\nAnd %s more, in the other formats of this report.", plural(uint64(more), "host"))
		}
	}
	line("\n## Method and limits\n")
	for _, m := range append(v.Method, v.Limits...) {
		line("- %s", text(m))
	}
	for _, src := range v.Sources {
		line("- %s", text(strings.Join(strings.Fields(strings.Join([]string{src.Name, src.Date, src.Attribution, src.Warning}, " ")), " ")))
	}
	return b.Flush()
}

// markdownEscapes are the characters that could begin something in Markdown or
// in HTML, a mention or a link that makes itself among them.
var markdownEscapes = func() *strings.Replacer {
	var pairs []string
	for _, c := range "&<>|\\`*_[]()#!~@:{}\"'$" {
		pairs = append(pairs, string(c), fmt.Sprintf("&#%d;", c))
	}
	return strings.NewReplacer(append(pairs, "www.", "www&#46;", "WWW.", "WWW&#46;")...)
}()

// bareAddress is an address that may be written as it is.
var bareAddress = regexp.MustCompile(`^[0-9.]+(:[0-9]+)?$`)

// markdownText is s, which is Clean, as plain text in a line or a cell: no
// character of it does anything.
func markdownText(s string) string {
	if bareAddress.MatchString(s) {
		return s
	}
	s = markdownEscapes.Replace(s)
	if s == "" {
		return s
	}
	// What would begin a list or a heading.
	if strings.ContainsRune("-+=", rune(s[0])) {
		return fmt.Sprintf("&#%d;", s[0]) + s[1:]
	}
	return s
}
