package report

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/charmbracelet/x/ansi"
)

// maxMarks is how many combining marks one letter may carry. No living script
// needs more; a pile of them paints over the lines above.
const maxMarks = 3

// Clean returns s as it may be shown on a terminal: on one line, valid UTF-8,
// with every control character, bidirectional override, zero-width or other
// character that cannot be seen in its visible form, such as \n, \x1b, \u202e.
// A byte that is not UTF-8 is shown as \xff. A backslash is left alone, so the
// text cannot be turned back; the JSON formats are for that.
func Clean(s string) string {
	if plain(s) {
		return s
	}
	var b strings.Builder
	b.Grow(len(s) + 16)
	marks := maxMarks // a mark with no letter before it would sit on our own text
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && n == 1:
			fmt.Fprintf(&b, `\x%02x`, s[i])
			marks = 0
		case unicode.IsMark(r) && !invisible(r):
			if marks++; marks <= maxMarks {
				b.WriteRune(r)
			} else {
				escape(&b, r)
			}
		case invisible(r) || !unicode.IsPrint(r):
			escape(&b, r)
			marks = 0
		default:
			b.WriteRune(r)
			marks = 0
		}
		i += n
	}
	return b.String()
}

// plain reports whether s is nothing but printable ASCII, as most is.
func plain(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

// invisible reports whether r takes no place of its own or moves its
// neighbours: controls, format characters such as the bidirectional ones, line
// and paragraph separators, fillers and variation selectors.
func invisible(r rune) bool {
	return unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp,
		unicode.Other_Default_Ignorable_Code_Point, unicode.Variation_Selector)
}

func escape(b *strings.Builder, r rune) {
	switch {
	case r == '\n':
		b.WriteString(`\n`)
	case r == '\r':
		b.WriteString(`\r`)
	case r == '\t':
		b.WriteString(`\t`)
	case r < 0x80:
		fmt.Fprintf(b, `\x%02x`, r)
	case r < 0x10000:
		fmt.Fprintf(b, `\u%04x`, r)
	default:
		fmt.Fprintf(b, `\U%08x`, r)
	}
}

// short is Clean of at most limit bytes of s: what a host sends may be long.
func short(s string, limit int) string {
	if len(s) <= limit {
		return Clean(s)
	}
	for limit > 0 && !utf8.RuneStart(s[limit]) {
		limit--
	}
	return Clean(s[:limit]) + "…"
}

// fit cuts s to width columns, the last of them an ellipsis.
func fit(s string, width int) string { return ansi.Truncate(s, max(width, 0), "…") }

// fitMiddle cuts s to width columns from its middle, so that both a network
// and a port stay readable.
func fitMiddle(s string, width int) string {
	have := ansi.StringWidth(s)
	if have <= width {
		return s
	}
	tail := min(12, width*2/3)
	return ansi.Truncate(s, max(width-1-tail, 0), "") + "…" + ansi.TruncateLeft(s, have-tail, "")
}

// wrap breaks s into lines of at most width columns, at spaces where it can.
// It breaks at nothing else, so that a command's --flags stay whole.
func wrap(s string, width int) []string {
	width = max(width, 8)
	var lines []string
	line := ""
	for word := range strings.FieldsSeq(s) {
		if line != "" && ansi.StringWidth(line)+1+ansi.StringWidth(word) <= width {
			line += " " + word
			continue
		}
		if line != "" {
			lines = append(lines, line)
		}
		for ansi.StringWidth(word) > width {
			head := ansi.Truncate(word, width, "")
			if head == "" {
				break // one character wider than the line; the page cuts it
			}
			lines = append(lines, head)
			word = word[len(head):]
		}
		line = word
	}
	if line != "" {
		lines = append(lines, line)
	}
	return lines
}
