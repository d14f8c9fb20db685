package report

import (
	"io"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"gatehouse/internal/wave"
)

// Notes lists notes, one a line. Those that no longer hold say so.
func Notes(w io.Writer, list []wave.Note, now time.Time, o Options) error {
	rows := make([][]string, len(list))
	for i := range list {
		n := &list[i]
		host := n.Address.String()
		if n.Port != 0 {
			host = netip.AddrPortFrom(n.Address, n.Port).String()
		}
		until := ""
		if !n.Until.IsZero() {
			until = lastDay(n.Until)
			if !n.Holds(now) {
				until += ", over"
			}
		}
		rows[i] = []string{strconv.FormatInt(n.Number, 10), host, string(n.Kind), until, n.Text}
	}
	return List(w, []string{"NOTE", "HOST", "KIND", "UNTIL", "TEXT"}, rows, o)
}

// NoteLine is a note in one line of text, without its host.
func NoteLine(n *wave.Note) string {
	line := Clean(string(n.Kind))
	if !n.Until.IsZero() {
		line += " until " + lastDay(n.Until)
	}
	if n.Text != "" {
		line += ": " + Clean(n.Text)
	}
	return line
}

// lastDay is the last day, in UTC, of what ends at t.
func lastDay(t time.Time) string { return t.UTC().Add(-time.Second).Format(time.DateOnly) }

// notesOf are the notes on a host in one text.
func notesOf(r *wave.Record) string {
	lines := make([]string, len(r.Notes))
	for i := range r.Notes {
		lines[i] = NoteLine(&r.Notes[i])
	}
	return strings.Join(lines, " · ")
}
