package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/alecthomas/kong"
)

type manCmd struct{}

func (manCmd) Help() string {
	return `To read it, and to install it:
  gatehouse man | man -l -
  gatehouse man > /usr/local/share/man/man1/gatehouse.1`
}

// Run writes the manual page from what --help is made of, so that neither can
// say what the other does not.
func (manCmd) Run(s streams, app *kong.Application) error {
	_, err := io.WriteString(s.out, manual(app))
	return err
}

// manual is the page in roff with the man macros (groff_man(7)).
func manual(app *kong.Application) string {
	var m roff
	m.line(".TH GATEHOUSE 1 \"\" %q", "gatehouse "+versionString())
	m.line(".SH NAME")
	m.line(`gatehouse \- find Ollama servers that answer strangers`)
	m.line(".SH SYNOPSIS")
	walkCommands(app.Node, "", func(path string, n *kong.Node) {
		if n.Leaf() {
			m.line("\\fB%s\\fR%s\n.br", escape(n.FullPath()), escape(strings.TrimPrefix(n.Summary(), n.Path())))
		}
	})
	m.line(".SH DESCRIPTION")
	m.text(summary)
	m.text(started)
	m.line(".SH COMMANDS")
	walkCommands(app.Node, "", func(path string, n *kong.Node) {
		if n.Leaf() {
			m.command(n)
		}
	})
	m.line(".SH ENVIRONMENT")
	m.text(environment)
	m.line(".SH EXIT STATUS")
	m.text(exitCodes)
	return m.String()
}

type roff struct{ strings.Builder }

func (m *roff) line(format string, a ...any) { fmt.Fprintf(m, format+"\n", a...) }

func (m *roff) command(n *kong.Node) {
	m.line(".SS %q", escape("gatehouse "+n.Summary()))
	m.text(n.Help)
	m.text(n.Detail)
	for _, arg := range n.Positional {
		m.tagged(arg.Summary(), arg.Help)
	}
	group := ""
	for _, f := range n.Flags {
		if f.Name == "help" || f.Hidden {
			continue
		}
		if f.Group != nil && f.Group.Title != group {
			group = f.Group.Title
			m.line(".PP\n.I %s", escape(group))
		}
		name := "--" + f.Name
		if f.Short != 0 {
			name = "-" + string(f.Short) + ", " + name
		}
		if !f.IsBool() {
			name += "=" + f.FormatPlaceHolder()
		}
		m.tagged(name, f.Help)
	}
}

func (m *roff) tagged(tag, text string) {
	m.line(".TP\n.B %s\n%s", escape(tag), escape(text))
}

// text writes paragraphs, and lines that are indented as they are.
func (m *roff) text(text string) {
	if text == "" {
		return
	}
	as := false
	for line := range strings.SplitSeq(strings.TrimSpace(text), "\n") {
		switch indented := strings.HasPrefix(line, "  "); {
		case indented && !as:
			m.line(".RS 4\n.nf")
		case !indented && as:
			m.line(".fi\n.RE")
		}
		as = strings.HasPrefix(line, "  ")
		switch {
		case as:
			m.line("%s", escape(line[2:]))
		case line == "":
			m.line(".PP")
		default:
			m.line("%s", escape(line))
		}
	}
	if as {
		m.line(".fi\n.RE")
	}
	m.line(".PP")
}

// escape makes text stand for itself in roff.
func escape(text string) string {
	text = strings.NewReplacer(`\`, `\e`, "-", `\-`, "'", `\(aq`, "…", `\&...`).Replace(text)
	if strings.HasPrefix(text, ".") {
		text = `\&` + text
	}
	return text
}
