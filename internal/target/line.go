package target

import (
	"bufio"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"go4.org/netipx"

	"gatehouse/internal/scope"
)

// maxLine bounds a line of a list or stream, in bytes: room for the hundreds of
// open ports that nmap writes into one.
const maxLine = 64 << 10

var errLongLine = fmt.Errorf("longer than %d bytes", maxLine)

// lineReader reads lines of bounded length and counts them.
type lineReader struct {
	r *bufio.Reader
	n int // number of the line read last
}

func newLineReader(r io.Reader) *lineReader { return &lineReader{r: bufio.NewReaderSize(r, maxLine)} }

// next returns the next line. After errLongLine there may be more lines; after
// any other error, io.EOF included, there are none.
func (l *lineReader) next() (string, error) {
	b, err := l.r.ReadSlice('\n')
	if len(b) == 0 && err != nil {
		return "", err
	}
	l.n++
	if errors.Is(err, bufio.ErrBufferFull) {
		for errors.Is(err, bufio.ErrBufferFull) {
			_, err = l.r.ReadSlice('\n')
		}
		return "", errLongLine
	}
	line := string(b)
	if l.n == 1 {
		line = strings.TrimPrefix(line, "\ufeff")
	}
	return strings.TrimSpace(line), nil
}

// format understands lines: targets as a user writes them, with # before a
// comment, and the output of zmap, masscan and nmap. It remembers the columns
// of a zmap header. The zero format has seen none.
type format struct {
	columns               bool
	saddr, sport, success int
}

// parse returns the targets of one line; none for a comment, or for a line that
// says that a port is not open.
func (f *format) parse(line string) ([]spec, error) {
	if line = uncomment(line); line == "" {
		return nil, nil
	}
	if f.header(line) {
		return nil, nil
	}
	switch words := strings.Fields(line); {
	case strings.HasPrefix(line, "Host: ") || strings.HasPrefix(line, "Timestamp: "):
		return parseGreppable(line)
	case strings.HasPrefix(line, "Discovered open port "):
		if len(words) < 6 || words[4] != "on" {
			return nil, fmt.Errorf("%.80q is no line of masscan's", line)
		}
		port, tcp := strings.CutSuffix(words[3], "/tcp")
		if !tcp {
			return nil, nil
		}
		return one(words[5], port)
	case len(words) >= 4 && slices.Contains([]string{"open", "closed", "banner"}, words[0]):
		if words[0] != "open" || words[1] != "tcp" {
			return nil, nil
		}
		return one(words[3], words[2])
	case f.columns:
		return f.row(line)
	case len(words) == 1 && strings.Contains(line, ","):
		if addr, port, ok := strings.Cut(line, ","); ok && !strings.Contains(port, ",") {
			return one(addr, port)
		}
		return nil, fmt.Errorf("%.80q: columns need a header that names saddr", line)
	default:
		specs := make([]spec, len(words))
		for i, w := range words {
			var err error
			if specs[i], err = parseSpec(w); err != nil {
				return nil, err
			}
		}
		return specs, nil
	}
}

func uncomment(line string) string {
	for i := range len(line) {
		if line[i] == '#' && (i == 0 || line[i-1] == ' ' || line[i-1] == '\t') {
			line = line[:i]
			break
		}
	}
	return strings.TrimSpace(line)
}

// one is a single address with a port, as the tools write them.
func one(addr, port string) ([]spec, error) {
	p, err := parsePort(port)
	if err != nil {
		return nil, err
	}
	r, err := scope.ParseRange(addr)
	if err == nil && r.From() != r.To() {
		err = fmt.Errorf("%q is no address", addr)
	}
	if err != nil {
		return nil, err
	}
	return []spec{{r: r, port: p}}, nil
}

// header takes line for the header of zmap's CSV when it names saddr.
func (f *format) header(line string) bool {
	names := strings.Split(line, ",")
	saddr := slices.Index(names, "saddr")
	if saddr < 0 {
		return false
	}
	*f = format{true, saddr, slices.Index(names, "sport"), slices.Index(names, "success")}
	return true
}

// row reads a row under zmap's header. Without a port column the port is the
// default; a row that says success 0 is no target.
func (f *format) row(line string) ([]spec, error) {
	cells := strings.Split(line, ",")
	if strings.Contains(line, `"`) {
		var err error
		if cells, err = csv.NewReader(strings.NewReader(line)).Read(); err != nil {
			return nil, fmt.Errorf("%.80q is no row of CSV", line)
		}
	}
	cell := func(i int) string {
		if i < 0 || i >= len(cells) {
			return ""
		}
		return strings.TrimSpace(cells[i])
	}
	if cell(f.success) == "0" {
		return nil, nil
	}
	if port := cell(f.sport); port != "" {
		return one(cell(f.saddr), port)
	}
	r, err := scope.ParseRange(cell(f.saddr))
	if err != nil {
		return nil, err
	}
	return []spec{{r: r}}, nil
}

// parseGreppable reads a line of nmap -oG or masscan -oG: fields with a tab
// between them, "Host: 192.0.2.1 (name)" and "Ports: 80/open/tcp//http///, …".
func parseGreppable(line string) ([]spec, error) {
	var host, ports string
	for field := range strings.SplitSeq(line, "\t") {
		if s, ok := strings.CutPrefix(field, "Host: "); ok {
			host, _, _ = strings.Cut(s, " ")
		} else if s, ok := strings.CutPrefix(field, "Ports: "); ok {
			ports = s
		}
	}
	r, err := scope.ParseRange(host)
	if err == nil && r.From() != r.To() {
		err = fmt.Errorf("%q is no address", host)
	}
	if err != nil {
		return nil, err
	}
	return portsOf(r, ports), nil
}

// portsOf reads nmap's list of ports. An entry that is none is a piece of a
// service's version with a comma in it.
func portsOf(r netipx.IPRange, list string) (specs []spec) {
	for entry := range strings.SplitSeq(list, ", ") {
		parts := strings.SplitN(entry, "/", 4)
		if len(parts) < 3 || parts[1] != "open" || parts[2] != "tcp" {
			continue
		}
		if port, err := parsePort(strings.TrimSpace(parts[0])); err == nil {
			specs = append(specs, spec{r: r, port: port})
		}
	}
	return specs
}
