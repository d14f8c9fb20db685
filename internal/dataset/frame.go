package dataset

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
)

// lines splits a text at its line ends. A last line without one was cut off:
// half an address may well be an address too.
type lines struct {
	in    *bufio.Reader
	limit int
	n     int
	buf   []byte
}

func (l *lines) next() ([]byte, int, error) {
	l.buf = l.buf[:0]
	long := false
	for {
		part, err := l.in.ReadSlice('\n')
		if err == nil && len(l.buf) == 0 && len(part) <= l.limit && !long {
			l.n++
			return bytes.TrimSuffix(part[:len(part)-1], []byte("\r")), l.n, nil
		}
		if long = long || len(l.buf)+len(part) > l.limit; !long {
			l.buf = append(l.buf, part...)
		}
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			continue
		case err == io.EOF && len(l.buf) == 0 && !long:
			return nil, l.n, io.EOF
		case err != nil && err != io.EOF:
			return nil, l.n, err
		}
		l.n++
		switch {
		case long:
			return nil, l.n, badRecord{fmt.Errorf("%w: %d bytes", errLong, l.limit)}
		case err == io.EOF:
			return nil, l.n, badRecord{fmt.Errorf("%w: the last line has no end", errCut)}
		}
		return bytes.TrimSuffix(l.buf[:len(l.buf)-1], []byte("\r")), l.n, nil
	}
}

// values finds the objects of a text in JSON: a line each, the items of an
// array, or one after the other. What is between them (brackets, commas too many)
// does not matter, so that an array may be cut off or badly ended. An object
// that cannot be whole is passed over to its line's end.
type values struct {
	in    *bufio.Reader
	limit int
	line  int
	buf   []byte

	layout layout
}

// layout is whether an object may go over several lines: the first one tells.
type layout int

const (
	anyLayout layout = iota
	onOneLine
	onSeveral
)

func (v *values) next() ([]byte, int, error) {
	for {
		c, err := v.in.ReadByte()
		if err != nil {
			return nil, v.line, err
		}
		switch c {
		case '\n':
			v.line++
		case ' ', '\t', '\r', '[', ']', ',':
		case '{':
			return v.object()
		default:
			at := v.line
			if err := v.skipLine(); err != nil {
				return nil, at, err
			}
			return nil, at, badRecord{fmt.Errorf("not JSON at %q", c)}
		}
	}
}

// object reads an object whose brace was read.
func (v *values) object() ([]byte, int, error) {
	began := v.line
	v.buf = append(v.buf[:0], '{')
	depth, quoted, escaped := 1, false, false
	bad := func(err error) ([]byte, int, error) { return v.buf, began, badRecord{err} }
	for depth > 0 {
		c, err := v.in.ReadByte()
		if err == io.EOF {
			return bad(errCut)
		}
		if err != nil {
			return nil, began, err
		}
		if len(v.buf) >= v.limit {
			if err := v.skipLine(); err != nil {
				return nil, began, err
			}
			return bad(fmt.Errorf("%w: %d bytes", errLong, v.limit))
		}
		v.buf = append(v.buf, c)
		switch {
		case c == '\n':
			v.line++
			if quoted || v.layout == onOneLine || v.layout == anyLayout && v.anotherBegins() {
				return bad(errCut)
			}
		case escaped:
			escaped = false
		case quoted:
			escaped, quoted = c == '\\', c != '"'
		case c == '"':
			quoted = true
		case c == '{' || c == '[':
			if depth++; depth > maxDepth {
				if err := v.skipLine(); err != nil {
					return nil, began, err
				}
				return bad(fmt.Errorf("more than %d values in each other", maxDepth))
			}
		case c == '}' || c == ']':
			depth--
		}
	}
	if v.layout == anyLayout {
		v.layout = onSeveral
		if v.line == began {
			v.layout = onOneLine
		}
	}
	return v.buf, began, nil
}

// anotherBegins reports whether the line that comes begins as an object that
// is on one line does, and none that is within another.
func (v *values) anotherBegins() bool {
	b, _ := v.in.Peek(2)
	return string(b) == `{"`
}

// skipLine passes over the rest of a line.
func (v *values) skipLine() error {
	for {
		_, err := v.in.ReadSlice('\n')
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			continue
		case err == nil:
			v.line++
			return nil
		case err == io.EOF: // next says so again
			return nil
		}
		return err
	}
}

// elements finds the <host> elements of nmap's XML. It needs no more of XML
// than that < and > are escaped where they are text, as nmap and masscan do; so
// that a file which was cut off, or damaged at one host, yields the others.
type elements struct {
	in    *bufio.Reader
	limit int
	line  int
	buf   []byte
	tag   []byte // what was read of the tag that is not ended

	inside bool
	began  int
}

func (e *elements) next() ([]byte, int, error) {
	for {
		part, err := e.in.ReadSlice('>')
		tagLine := e.line
		e.line += bytes.Count(part, []byte("\n"))
		if len(e.buf)+len(e.tag)+len(part) > e.limit {
			began := tagLine
			if e.inside {
				began = e.began
			}
			e.inside, e.buf, e.tag = false, e.buf[:0], e.tag[:0]
			return nil, began, badRecord{fmt.Errorf("%w: %d bytes", errLong, e.limit)}
		}
		e.tag = append(e.tag, part...)
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			continue
		case err == io.EOF && e.inside:
			e.inside = false
			return nil, e.began, badRecord{errCut}
		case err != nil:
			return nil, e.line, err
		}
		piece := e.tag
		e.tag = e.tag[:0]
		tag := piece[max(bytes.LastIndexByte(piece, '<'), 0):]
		switch {
		case begins(tag):
			cut, before := e.inside, e.began
			e.inside, e.began = true, e.line-bytes.Count(tag, []byte("\n"))
			e.buf = append(e.buf[:0], tag...)
			if cut {
				return nil, before, badRecord{errCut}
			}
		case !e.inside:
		case string(tag) == "</host>":
			e.inside = false
			e.buf = append(e.buf, piece...)
			return e.buf, e.began, nil
		default:
			e.buf = append(e.buf, piece...)
		}
	}
}

// begins reports whether tag is <host>, with whatever attributes.
func begins(tag []byte) bool {
	rest, ok := bytes.CutPrefix(tag, []byte("<host"))
	return ok && len(rest) > 0 && bytes.IndexByte([]byte(" \t\r\n>"), rest[0]) >= 0 && !bytes.HasSuffix(tag, []byte("/>"))
}

// splitCSV appends the cells of a line to cells; false when a quote in it does
// not end. Cells without quotes are parts of line.
func splitCSV(line []byte, cells [][]byte) ([][]byte, bool) {
	for {
		if len(line) == 0 || line[0] != '"' {
			cell, rest, more := bytes.Cut(line, []byte(","))
			cells = append(cells, bytes.TrimSpace(cell))
			if !more {
				return cells, true
			}
			line = rest
			continue
		}
		var cell []byte
		line = line[1:]
		for {
			i := bytes.IndexByte(line, '"')
			if i < 0 {
				return append(cells, line), false
			}
			cell = append(cell, line[:i]...)
			line = line[i+1:]
			if len(line) == 0 || line[0] != '"' {
				break
			}
			cell, line = append(cell, '"'), line[1:]
		}
		cells = append(cells, cell)
		_, rest, more := bytes.Cut(line, []byte(",")) // what follows the quote is no cell
		if !more {
			return cells, true
		}
		line = rest
	}
}

// table reads the lines of a CSV by the names in its first line.
type table struct {
	names []string
	cells [][]byte
}

// columnName is how a column is looked up: zmap has had both _ and - in names.
func columnName(cell []byte) string {
	return string(bytes.ToLower(bytes.ReplaceAll(bytes.TrimSpace(cell), []byte("-"), []byte("_"))))
}

func (t *table) header(line []byte) {
	cells, _ := splitCSV(line, nil)
	for _, c := range cells {
		t.names = append(t.names, columnName(c))
	}
}

// row takes a line; its cells are valid until the next.
func (t *table) row(line []byte) error {
	var whole bool
	if t.cells, whole = splitCSV(line, t.cells[:0]); !whole {
		return errors.New("a quote that does not end on its line")
	}
	if len(t.cells) != len(t.names) {
		return fmt.Errorf("%d columns, where the header names %d", len(t.cells), len(t.names))
	}
	return nil
}

// get is the cell of a column, nil when there is none.
func (t *table) get(name string) []byte {
	for i, n := range t.names {
		if n == name {
			return t.cells[i]
		}
	}
	return nil
}
