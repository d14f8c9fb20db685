package probe

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"net/http/httputil"
	"strconv"
	"strings"

	"gatehouse/internal/evidence"
)

// Limits of one reply's head. A real Ollama's takes three lines.
const (
	maxHeadLine  = 8 << 10  // bytes in one line
	maxHeadBytes = 32 << 10 // bytes in all
	maxHeadLines = 128
	maxInterim   = 4 // 1xx answers before the real one
)

// keepRaw is how many of the bytes that are not HTTP are kept as evidence.
const keepRaw = 256

// errNotHTTP says that what came is no HTTP/1 answer. The exchange keeps the
// first bytes, for many protocols introduce themselves.
var errNotHTTP = errors.New("not an HTTP answer")

// reader reads HTTP/1 replies and keeps what net/http's reader throws away and
// a judge needs: the order and spelling of the header, and what was wrong.
type reader struct {
	br   *bufio.Reader
	head []byte // scratch for one head
	body []byte // scratch for one body
	out  []byte // scratch for what is asked
}

func newReader() *reader {
	return &reader{br: bufio.NewReaderSize(nil, maxHeadLine)}
}

// read fills x with the next reply to x.Method, its body cut at limit bytes.
// keep reports whether another reply can follow on the connection.
//
// The rules are those of RFC 9112, strictly: what it calls an error (section
// 6.3: conflicting lengths; 5.1 and 5.2: space in a name, folded lines) is one
// here, because proxies and servers that disagree about such a reply are how
// requests are smuggled.
func (r *reader) read(x *evidence.Exchange, limit int64) (keep bool, err error) {
	for range maxInterim + 1 {
		if err := r.readHead(x); err != nil {
			return false, err
		}
		if x.Status >= 200 {
			return r.readBody(x, limit)
		}
		if x.Status == 101 {
			return false, errors.New("switched protocols unasked")
		}
	}
	return false, fmt.Errorf("more than %d interim answers", maxInterim)
}

func (r *reader) readHead(x *evidence.Exchange) error {
	x.Header, x.Status = nil, 0
	r.head = r.head[:0]
	// Nothing longer than a head line is read before it is clear that this is
	// HTTP: many protocols answer with bytes that hold no line end at all.
	start, err := r.br.Peek(5)
	if err != nil && len(start) == 0 {
		return err
	}
	if !bytes.Equal(start, []byte("HTTP/")) {
		r.keepRaw(x)
		return errNotHTTP
	}
	var ends [maxHeadLines]int
	lines := 0
	for {
		line, err := r.br.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) {
			return fmt.Errorf("header line longer than %d bytes", maxHeadLine)
		}
		if err != nil {
			return fmt.Errorf("header cut short: %w", err)
		}
		line = bytes.TrimSuffix(line[:len(line)-1], []byte("\r"))
		if len(line) == 0 {
			break
		}
		if lines == maxHeadLines || len(r.head)+len(line) > maxHeadBytes {
			return fmt.Errorf("header longer than %d lines or %d bytes", maxHeadLines, maxHeadBytes)
		}
		r.head = append(r.head, line...)
		ends[lines] = len(r.head)
		lines++
	}
	if lines == 0 {
		return errors.New("empty head")
	}
	head := string(r.head) // one allocation for all names and values
	if err := parseStatus(head[:ends[0]], x); err != nil {
		return err
	}
	x.Header = make([]evidence.Field, 0, lines-1)
	for i := 1; i < lines; i++ {
		f, err := parseField(head[ends[i-1]:ends[i]])
		if err != nil {
			return err
		}
		x.Header = append(x.Header, f)
	}
	return nil
}

// keepRaw puts what has arrived into x as evidence; it waits for no more.
func (r *reader) keepRaw(x *evidence.Exchange) {
	raw, _ := r.br.Peek(min(r.br.Buffered(), keepRaw))
	x.Body = bytes.Clone(raw)
}

func parseStatus(line string, x *evidence.Exchange) error {
	proto, rest, _ := strings.Cut(line, " ")
	code, reason, _ := strings.Cut(rest, " ")
	if proto != "HTTP/1.1" && proto != "HTTP/1.0" {
		return fmt.Errorf("protocol %.20q", proto)
	}
	status, err := strconv.Atoi(code)
	if err != nil || len(code) != 3 || status < 100 || status > 599 {
		return fmt.Errorf("status %.20q", code)
	}
	x.Proto, x.Status, x.Reason = proto, status, reason
	return nil
}

func parseField(line string) (evidence.Field, error) {
	name, value, ok := strings.Cut(line, ":")
	if !ok || !isToken(name) {
		return evidence.Field{}, fmt.Errorf("header line %.40q", line)
	}
	value = strings.Trim(value, " \t")
	if strings.ContainsAny(value, "\x00\r") {
		return evidence.Field{}, fmt.Errorf("control byte in header %.40q", name)
	}
	return evidence.Field{Name: name, Value: value}, nil
}

// isToken reports whether s is a token of RFC 9110, section 5.6.2.
func isToken(s string) bool {
	for i := range len(s) {
		c := s[i]
		if c <= ' ' || c >= 0x7f || strings.IndexByte(`"(),/:;<=>?@[\]{}`, c) >= 0 {
			return false
		}
	}
	return s != ""
}

func (r *reader) readBody(x *evidence.Exchange, limit int64) (keep bool, err error) {
	if x.Method == "HEAD" || x.Status == 204 || x.Status == 304 {
		return persistent(x), nil
	}
	length, chunked, err := framing(x)
	if err != nil {
		return false, err
	}
	var body io.Reader
	keep = persistent(x)
	switch {
	case chunked:
		body = httputil.NewChunkedReader(r.br)
	case length >= 0:
		body = io.LimitReader(r.br, length)
	default: // to the end of the connection
		body, keep = r.br, false
	}

	n, err := r.fill(body, limit)
	x.Body = r.body[:n]
	switch {
	case errors.Is(err, errTooLong):
		x.Cut, keep = true, false
	case err != nil:
		x.Body = bytes.Clone(x.Body)
		if errors.Is(err, io.ErrUnexpectedEOF) {
			return false, errors.New("body cut short")
		}
		return false, fmt.Errorf("body: %w", err)
	case !chunked && length > int64(n):
		x.Body = bytes.Clone(x.Body)
		return false, fmt.Errorf("body cut short: %d of %d bytes", n, length)
	}
	if keep && chunked {
		if err := r.skipTrailer(); err != nil {
			return false, err
		}
	}
	return keep, r.decode(x, limit)
}

var errTooLong = errors.New("longer than the budget")

// fill reads body into the scratch buffer, at most limit bytes.
func (r *reader) fill(body io.Reader, limit int64) (int, error) {
	r.body = r.body[:0]
	for {
		if len(r.body) == cap(r.body) {
			r.body = append(r.body, 0)[:len(r.body)]
		}
		space := r.body[len(r.body):cap(r.body)]
		if left := limit + 1 - int64(len(r.body)); int64(len(space)) > left {
			space = space[:left]
		}
		n, err := body.Read(space)
		r.body = r.body[:len(r.body)+n]
		if int64(len(r.body)) > limit {
			return int(limit), errTooLong
		}
		if err == io.EOF {
			return len(r.body), nil
		}
		if err != nil {
			return len(r.body), err
		}
	}
}

// decode undoes gzip, which was not asked for, and gives x its own copy of the
// body. The limit holds for the bytes that come out: a bomb is cut, not blown up.
func (r *reader) decode(x *evidence.Exchange, limit int64) error {
	raw := bytes.Clone(x.Body)
	x.Body = raw
	encoding := x.Get("Content-Encoding")
	if encoding == "" || strings.EqualFold(encoding, "identity") {
		return nil
	}
	if !strings.EqualFold(encoding, "gzip") {
		return fmt.Errorf("content encoding %.20q, not asked for", encoding)
	}
	z, err := gzip.NewReader(bytes.NewReader(raw))
	if err != nil {
		return fmt.Errorf("body: %w", err)
	}
	n, err := r.fill(z, limit)
	x.Body = bytes.Clone(r.body[:n])
	switch {
	case errors.Is(err, errTooLong):
		x.Cut = true
	case err != nil && !x.Cut:
		return fmt.Errorf("body: %w", err)
	}
	return nil
}

// skipTrailer reads what follows the last chunk, so that the next reply starts
// at the right byte.
func (r *reader) skipTrailer() error {
	for range maxHeadLines {
		line, err := r.br.ReadSlice('\n')
		if err != nil {
			return fmt.Errorf("trailer: %w", err)
		}
		if len(bytes.TrimSuffix(line[:len(line)-1], []byte("\r"))) == 0 {
			return nil
		}
	}
	return fmt.Errorf("trailer longer than %d lines", maxHeadLines)
}

// framing says how the body's end is known: by length (-1: not by that) or by
// chunks. RFC 9112, section 6.3.
func framing(x *evidence.Exchange) (length int64, chunked bool, err error) {
	length = -1
	for _, f := range x.Header {
		switch {
		case strings.EqualFold(f.Name, "Content-Length"):
			n, err := strconv.ParseUint(f.Value, 10, 63)
			if err != nil {
				return 0, false, fmt.Errorf("content length %.40q", f.Value)
			}
			if length >= 0 && length != int64(n) {
				return 0, false, fmt.Errorf("two content lengths: %d and %d", length, n)
			}
			length = int64(n)
		case strings.EqualFold(f.Name, "Transfer-Encoding"):
			if chunked || !strings.EqualFold(f.Value, "chunked") {
				return 0, false, fmt.Errorf("transfer encoding %.40q", f.Value)
			}
			chunked = true
		}
	}
	if chunked && length >= 0 {
		return 0, false, errors.New("both a content length and chunks")
	}
	return length, chunked, nil
}

// persistent reports whether the connection outlives this reply (RFC 9112,
// section 9.3).
func persistent(x *evidence.Exchange) bool {
	connection := x.Get("Connection")
	if x.Proto == "HTTP/1.0" {
		return strings.EqualFold(connection, "keep-alive")
	}
	for option := range strings.SplitSeq(connection, ",") {
		if strings.EqualFold(strings.TrimSpace(option), "close") {
			return false
		}
	}
	return true
}
