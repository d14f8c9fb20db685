package ollamatest

import (
	"bytes"
	"errors"
	"strconv"
)

// maxHead and maxBody bound what a simulated server reads of one request, in
// bytes. Go's own limit for a header is 1 MiB; no probe comes near it.
const (
	maxHead = 64 << 10
	maxBody = 1 << 20
)

// Request is one request as it came. Its slices are the connection's buffer:
// they hold until the answer is written.
type Request struct {
	Method, Target []byte
	Path, Query    []byte // Target, cut at the question mark and not decoded
	Head           []byte // the header lines, each ended by CRLF or LF
	Host, Origin   []byte
	Authorization  []byte
	Body           []byte // decoded from chunks
	Old            bool   // HTTP/1.0
	Close          bool   // the connection ends after the answer
	KeepAlive      bool   // HTTP/1.0 asked to keep the connection
	hosts          int    // Host lines seen
}

// get reports whether it is a GET for path.
func (r *Request) get(path string) bool {
	return string(r.Path) == path && string(r.Method) == "GET"
}

// readOnly reports whether the method is one that asks for nothing but a look.
func (r *Request) readOnly() bool {
	switch string(r.Method) {
	case "GET", "HEAD", "OPTIONS":
		return true
	}
	return false
}

// Errors that end a connection, with what Go's server says to them.
var (
	errIncomplete = errors.New("incomplete request")
	errMalformed  = errors.New("400 Bad Request")
	errNoHost     = errors.New("400 Bad Request: missing required Host header")
	errVersion    = errors.New("505 HTTP Version Not Supported: unsupported protocol version")
	errTooLarge   = errors.New("431 Request Header Fields Too Large")
)

// parse reads one request from the start of buf and says how many bytes it
// took. It returns errIncomplete when more bytes are needed.
func (r *Request) parse(buf []byte) (int, error) {
	*r = Request{}
	head := bytes.Index(buf, []byte("\r\n\r\n"))
	end := head + 4
	if head < 0 {
		if len(buf) > maxHead {
			return 0, errTooLarge
		}
		// A line with no CR ends a header too (RFC 9112, section 2.2).
		if head = bytes.Index(buf, []byte("\n\n")); head < 0 {
			return 0, errIncomplete
		}
		end = head + 2
	}
	if head > maxHead {
		return 0, errTooLarge
	}
	if err := r.line(buf[:head]); err != nil {
		return 0, err
	}
	length, chunked, err := r.fields()
	if err != nil {
		return 0, err
	}
	if r.hosts == 0 && !r.Old {
		return 0, errNoHost
	}
	r.Close = r.Close || r.Old && !r.KeepAlive
	if chunked {
		n, err := r.chunks(buf[end:])
		return end + n, err
	}
	if len(buf)-end < length {
		return 0, errIncomplete
	}
	r.Body = buf[end : end+length]
	return end + length, nil
}

// line reads the request line and sets Head to what follows it.
func (r *Request) line(head []byte) error {
	line, rest, _ := bytes.Cut(head, []byte("\n"))
	line = bytes.TrimSuffix(line, []byte("\r"))
	r.Head = rest
	var version []byte
	var ok bool
	r.Method, line, ok = bytes.Cut(line, []byte(" "))
	if !ok || len(r.Method) == 0 {
		return errMalformed
	}
	r.Target, version, ok = bytes.Cut(line, []byte(" "))
	if !ok {
		return errMalformed
	}
	switch string(version) {
	case "HTTP/1.1":
	case "HTTP/1.0":
		r.Old = true
	default:
		if len(version) == len("HTTP/1.1") && string(version[:5]) == "HTTP/" {
			return errVersion
		}
		return errMalformed
	}
	if len(r.Target) == 0 || r.Target[0] != '/' && string(r.Target) != "*" {
		return errMalformed
	}
	r.Path, r.Query, _ = bytes.Cut(r.Target, []byte("?"))
	return nil
}

// fields reads the header lines that decide how a server answers.
func (r *Request) fields() (length int, chunked bool, err error) {
	for rest := r.Head; len(rest) > 0; {
		var line []byte
		line, rest, _ = bytes.Cut(rest, []byte("\n"))
		colon := bytes.IndexByte(line, ':')
		if colon <= 0 {
			return 0, false, errMalformed
		}
		name, value := line[:colon], bytes.TrimSpace(line[colon+1:])
		// Most header lines are none of these, and their length tells it.
		switch len(name) {
		case len("Host"):
			if fold(name, "host") {
				r.Host = value
				r.hosts++
			}
		case len("Origin"):
			if fold(name, "origin") {
				r.Origin = value
			}
		case len("Connection"):
			if fold(name, "connection") {
				r.Close = r.Close || fold(value, "close")
				r.KeepAlive = r.KeepAlive || fold(value, "keep-alive")
			}
		case len("Authorization"):
			if fold(name, "authorization") {
				r.Authorization = value
			}
		case len("Content-Length"):
			if fold(name, "content-length") {
				n, err := strconv.ParseUint(string(value), 10, 31)
				if err != nil || n > maxBody {
					return 0, false, errMalformed
				}
				length = int(n)
			}
		case len("Transfer-Encoding"):
			if fold(name, "transfer-encoding") {
				if !fold(value, "chunked") {
					return 0, false, errMalformed
				}
				chunked = true
			}
		}
	}
	if r.hosts > 1 {
		return 0, false, errMalformed
	}
	return length, chunked, nil
}

// chunks decodes a chunked body in place and says how many bytes it took.
func (r *Request) chunks(buf []byte) (int, error) {
	var body []byte
	for at := 0; ; {
		line, _, ok := bytes.Cut(buf[at:], []byte("\n"))
		if !ok {
			if len(buf)-at > maxHead {
				return 0, errMalformed
			}
			return 0, errIncomplete
		}
		at += len(line) + 1
		size, _, _ := bytes.Cut(bytes.TrimSpace(line), []byte(";"))
		n, err := strconv.ParseUint(string(bytes.TrimSpace(size)), 16, 31)
		if err != nil || len(body)+int(n) > maxBody {
			return 0, errMalformed
		}
		if n == 0 { // no probe sends trailers
			if len(buf)-at < 2 {
				return 0, errIncomplete
			}
			if string(buf[at:at+2]) != "\r\n" {
				return 0, errMalformed
			}
			r.Body = body
			return at + 2, nil
		}
		if len(buf)-at < int(n)+2 {
			return 0, errIncomplete
		}
		body = append(body, buf[at:at+int(n)]...)
		if string(buf[at+int(n):at+int(n)+2]) != "\r\n" {
			return 0, errMalformed
		}
		at += int(n) + 2
	}
}

// fold reports whether b is lower, a lower-case ASCII string, in any case.
func fold(b []byte, lower string) bool {
	if len(b) != len(lower) {
		return false
	}
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		if c != lower[i] {
			return false
		}
	}
	return true
}
