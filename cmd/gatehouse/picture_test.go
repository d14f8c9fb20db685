package main

import (
	"bytes"
	"encoding/xml"
	"flag"
	"fmt"
	"io"
	"net/netip"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/charmbracelet/x/ansi"

	"gatehouse/internal/report"
	"gatehouse/internal/wave"
)

var update = flag.Bool("update", false, "draw docs/table.svg anew")

// TestPicture holds docs/table.svg to what the demo shows now, in 80 columns and
// in colour. go test ./cmd/gatehouse -run TestPicture -update draws it anew.
func TestPicture(t *testing.T) {
	houses := demoHouses()
	for i := range houses {
		houses[i].Addr = netip.AddrPortFrom(houses[i].Addr.Addr(), 0) // 11434 may be taken
	}
	street, targets, err := openStreet(houses)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(street.Close)
	var sum wave.Summary
	var records []wave.Record
	if err := scanDemo(t.Context(), streams{err: io.Discard}, targets, collect(&sum, &records)); err != nil {
		t.Fatal(err)
	}
	for i := range records {
		at := netip.AddrPortFrom(netip.MustParseAddr(records[i].Address), records[i].Port).String()
		records[i].Port = 11434
		for j := range records[i].Findings {
			f := &records[i].Findings[j]
			f.Remedy = strings.ReplaceAll(f.Remedy, at, records[i].Address+":11434")
		}
	}
	report.Sort(records)
	sum.Ended = sum.Started.Add(90 * time.Millisecond)

	var page bytes.Buffer
	if err := report.Table(&page, sum, report.Records(records), report.Options{Width: 80, Color: true}); err != nil {
		t.Fatal(err)
	}
	// The table and the first findings; the others look the same.
	text := "\x1b[2m$\x1b[m \x1b[1mgatehouse demo\x1b[m\n" + page.String()
	shown := strings.SplitAfter(text, "\n\n")
	const parts = 7
	if len(shown) < parts {
		t.Fatalf("the demo shows %d parts:\n%s", len(shown), text)
	}
	picture := draw(strings.TrimSuffix(strings.Join(shown[:parts], ""), "\n"), 80)

	const name = "../../docs/table.svg"
	if *update {
		if err := os.WriteFile(name, picture, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	was, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(was, picture) {
		t.Errorf("%s is not what the demo shows any more: draw it anew with -update", name)
	}
}

// collect returns a finish that keeps what was found.
func collect(sum *wave.Summary, records *[]wave.Record) func(wave.Summary, report.Hosts) error {
	return func(s wave.Summary, hosts report.Hosts) error {
		*sum = s
		for r, err := range hosts {
			if err != nil {
				return err
			}
			*records = append(*records, r)
		}
		return nil
	}
}

// The size of a character, and the colours, of the picture of a terminal.
const (
	charWidth  = 8.4
	lineHeight = 18.0
	margin     = 18.0
)

var palette = map[int]string{31: "#ff7b72", 32: "#7ee787", 33: "#e3b341", 34: "#79c0ff", 35: "#d2a8ff", 36: "#76e3ea"}

var sgr = regexp.MustCompile(`\x1b\[([0-9;]*)m`)

// draw makes a picture of text on a terminal. Each run of one style stands at
// its own column and is as wide as its characters are, whatever the font.
func draw(text string, columns int) []byte {
	lines := strings.Split(text, "\n")
	width := margin*2 + charWidth*float64(columns)
	height := margin*2 + lineHeight*float64(len(lines))
	var b bytes.Buffer
	fmt.Fprintf(&b, "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%.0f\" height=\"%.0f\" role=\"img\">\n", width, height)
	fmt.Fprintf(&b, "<title>gatehouse demo</title>\n<rect width=\"100%%\" height=\"100%%\" rx=\"8\" fill=\"#0d1117\"/>\n")
	fmt.Fprintf(&b, "<g font-family=\"ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace\" font-size=\"14\" fill=\"#e6edf3\" xml:space=\"preserve\" style=\"white-space:pre\">\n")
	for i, line := range lines {
		y := margin + lineHeight*float64(i) + 13
		column, style := 0, ""
		run := func(text string) {
			n := ansi.StringWidth(text)
			if strings.TrimSpace(text) != "" {
				lead := len(text) - len(strings.TrimLeft(text, " "))
				body := strings.TrimSpace(text)
				fmt.Fprintf(&b, `<text x="%.1f" y="%.1f" textLength="%.1f"%s>`,
					margin+charWidth*float64(column+lead), y, charWidth*float64(ansi.StringWidth(body)), style)
				_ = xml.EscapeText(&b, []byte(body)) // of a bytes.Buffer: never an error
				b.WriteString("</text>\n")
			}
			column += n
		}
		at := 0
		for _, m := range sgr.FindAllStringSubmatchIndex(line, -1) {
			run(line[at:m[0]])
			style, at = styleOf(line[m[2]:m[3]]), m[1]
		}
		run(line[at:])
	}
	b.WriteString("</g>\n</svg>\n")
	return b.Bytes()
}

// styleOf is a terminal's style as attributes of SVG.
func styleOf(codes string) (attributes string) {
	for code := range strings.SplitSeq(codes, ";") {
		switch n, _ := strconv.Atoi(code); { // none is 0, which ends every style
		case n == 0:
			attributes = ""
		case n == 1:
			attributes += ` font-weight="bold"`
		case n == 2:
			attributes += ` opacity="0.6"`
		case palette[n] != "":
			attributes += ` fill="` + palette[n] + `"`
		}
	}
	return attributes
}
