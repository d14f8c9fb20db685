package report

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"math"
	"sync"
	"time"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"gatehouse/internal/wave"
)

// Lines writes JSON Lines: one record a line, each whole and handed to the
// writer at once, so that a reader following along never sees half of one.
// It may be used from several goroutines.
type Lines struct {
	mu   sync.Mutex
	w    io.Writer
	text bytes.Buffer // of one record, as it is encoded
	line []byte       // and as it is written
}

// maxKept is the longest record whose room is kept for the next, in bytes.
const maxKept = 1 << 20

// NewLines returns a Lines that writes to w, which should not hold lines back.
func NewLines(w io.Writer) *Lines { return &Lines{w: w} }

// Write writes one record.
func (l *Lines) Write(r wave.Record) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text.Reset()
	if err := json.MarshalWrite(&l.text, &r, options); err != nil {
		return fmt.Errorf("encode %T: %w", r, err)
	}
	l.line = append(appendVisible(l.line[:0], l.text.Bytes()), '\n')
	_, err := l.w.Write(l.line)
	if cap(l.line) > maxKept {
		l.text, l.line = bytes.Buffer{}, nil
	}
	return err
}

// JSON writes one document, {"summary":…,"hosts":[…]}, a host a line. Its
// memory does not grow with the number of hosts.
func JSON(w io.Writer, sum wave.Summary, hosts Hosts) error {
	b := bufio.NewWriter(w)
	summary, err := encode(sum)
	if err != nil {
		return err
	}
	fmt.Fprintf(b, "{\"summary\":%s,\n\"hosts\":[", summary)
	separator := "\n"
	for r, err := range hosts {
		if err != nil {
			return fmt.Errorf("read records: %w", err)
		}
		host, err := encode(r)
		if err != nil {
			return err
		}
		b.WriteString(separator) // bufio keeps the first error for the next write
		if _, err := b.Write(host); err != nil {
			return err
		}
		separator = ",\n"
	}
	b.WriteString("\n]}\n")
	return b.Flush()
}

// options make JSON that any reader takes: lists are [] and never null, bytes
// that are not UTF-8 become U+FFFD, times are UTC, and a number that JSON
// cannot hold is null.
var options = json.JoinOptions(
	json.Deterministic(true),
	jsontext.AllowInvalidUTF8(true),
	json.WithMarshalers(json.JoinMarshalers(
		json.MarshalToFunc(func(e *jsontext.Encoder, f float64) error {
			if math.IsNaN(f) || math.IsInf(f, 0) {
				return e.WriteToken(jsontext.Null)
			}
			return e.WriteToken(jsontext.Float(round(f)))
		}),
		json.MarshalToFunc(func(e *jsontext.Encoder, t time.Time) error {
			t = t.UTC()
			if t.Year() < 0 || t.Year() > 9999 { // a host's own clock; RFC 3339 has four digits
				return e.WriteToken(jsontext.Null)
			}
			return e.WriteToken(jsontext.String(t.Format(time.RFC3339Nano)))
		}),
	)),
)

// round keeps four decimals, more than any of our weights mean.
func round(f float64) float64 {
	if math.Abs(f) > 1e9 {
		return f
	}
	return math.Round(f*1e4) / 1e4
}

// encode returns v as JSON on one line that is safe to show: what a terminal
// would obey or hide is escaped.
func encode(v any) ([]byte, error) {
	b, err := json.Marshal(v, options)
	if err != nil {
		return nil, fmt.Errorf("encode %T: %w", v, err)
	}
	return escapeInvisible(b), nil
}

// escapeInvisible writes the invisible characters in JSON text as \u escapes.
// Beyond ASCII and at DEL, JSON text is always inside a string, so this
// changes its form and not its meaning.
func escapeInvisible(text []byte) []byte {
	if beyondASCII(text) == len(text) {
		return text
	}
	return appendVisible(make([]byte, 0, len(text)+64), text)
}

// appendVisible appends text to out, escaped as escapeInvisible does.
func appendVisible(out, text []byte) []byte {
	for i := 0; i < len(text); {
		if n := beyondASCII(text[i:]); n > 0 { // most of it, and nothing to look at closely
			out = append(out, text[i:i+n]...)
			i += n
			continue
		}
		r, n := utf8.DecodeRune(text[i:])
		switch {
		case r < 0x7f || !invisible(r):
			out = append(out, text[i:i+n]...)
		case r > 0xffff:
			high, low := utf16.EncodeRune(r)
			out = fmt.Appendf(out, `\u%04x\u%04x`, high, low)
		default:
			out = fmt.Appendf(out, `\u%04x`, r)
		}
		i += n
	}
	return out
}

// beyondASCII is where the first byte of text stands that is DEL or not ASCII;
// the length of text when there is none.
func beyondASCII(text []byte) int {
	for i, c := range text {
		if c >= 0x7f {
			return i
		}
	}
	return len(text)
}
