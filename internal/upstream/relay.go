package upstream

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/net/http/httpguts"
)

// errMessage says that a request cannot be written as one of HTTP/1.1.
var errMessage = errors.New("the request has what no request may have")

// messages are requests being written.
var messages = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// relay passes a request on by the wire, and its answer back as it comes: what
// ReverseProxy does, without the copies of headers and the timer that it makes
// for each request. The error is of a request that got no answer; when an answer
// breaks off it panics with http.ErrAbortHandler, as ReverseProxy does.
func (s *server) relay(w http.ResponseWriter, r *http.Request) error {
	answer, body, err := s.trip(r.Context(), r)
	if err != nil {
		return err
	}
	defer body.Close()
	h := w.Header()
	drop := connection(answer.Header)
	for name, values := range answer.Header {
		if !hop(name) && !internal(name) && !named(drop, name) {
			h[name] = append(h[name], values...)
		}
	}
	if _, told := answer.Header["Content-Type"]; !told {
		h["Content-Type"] = nil // and net/http does not guess one
	}
	announced := len(answer.Trailer)
	for name := range answer.Trailer {
		h.Add("Trailer", name)
	}
	w.WriteHeader(answer.StatusCode)
	if err := pass(w, body); err != nil {
		panic(http.ErrAbortHandler) // who is told by it hangs up too
	}
	if len(answer.Trailer) == 0 {
		return nil
	}
	// Without this, net/http would take a short body for one of known length,
	// which has no trailers.
	_ = http.NewResponseController(w).Flush()
	for name, values := range answer.Trailer {
		if len(answer.Trailer) != announced {
			name = http.TrailerPrefix + name
		}
		h[name] = values
	}
	return nil
}

// pass copies a body as it comes, each piece at once. It holds no buffer while
// there is nothing to copy: of many open streams most are waiting.
func pass(w http.ResponseWriter, body *body) error {
	flush := http.NewResponseController(w)
	for {
		body.wait()
		n, err := piece(w, body)
		if err == io.EOF {
			return nil // what was read last goes with the end
		}
		if n > 0 {
			if err := flush.Flush(); err != nil && !errors.Is(err, http.ErrNotSupported) {
				return err
			}
		}
		if err != nil {
			return err
		}
	}
}

// piece copies what is there, and returns how much that was.
func piece(w io.Writer, body io.Reader) (n int, err error) {
	b := pool.Get().(*[4 << 10]byte)
	defer pool.Put(b)
	n, err = body.Read(b[:])
	if n > 0 {
		if _, failed := w.Write(b[:n]); failed != nil {
			return n, failed
		}
	}
	return n, err
}

// trip sends a request as one of the gate's own.
func (s *server) trip(ctx context.Context, r *http.Request) (*http.Response, *body, error) {
	m := messages.Get().(*bytes.Buffer)
	defer func() {
		m.Reset()
		messages.Put(m)
	}()
	if err := s.write(m, r); err != nil {
		return nil, nil, err
	}
	return s.wire.trip(ctx, r.Method, m.Bytes())
}

// write writes a request. What ReverseProxy and rewrite do to one is done here.
func (s *server) write(m *bytes.Buffer, r *http.Request) error {
	to := r.URL
	if s.base.Path != "" {
		out := &http.Request{URL: new(url.URL)}
		*out.URL = *r.URL
		(&httputil.ProxyRequest{In: r, Out: out}).SetURL(s.base)
		to = out.URL
	}
	path := to.EscapedPath()
	if path == "" {
		path = "/"
	}
	if !httpguts.ValidHeaderFieldName(r.Method) || path[0] != '/' {
		return errMessage
	}
	m.WriteString(r.Method)
	m.WriteByte(' ')
	m.WriteString(path) // and no query: see rewrite
	m.WriteString(" HTTP/1.1\r\nHost: ")
	m.WriteString(s.base.Host)
	m.WriteString("\r\n")
	drop := connection(r.Header)
	for name, values := range r.Header {
		if hop(name) || own(name) || named(drop, name) {
			continue
		}
		for _, v := range values {
			if !httpguts.ValidHeaderFieldName(name) || !httpguts.ValidHeaderFieldValue(v) {
				return errMessage
			}
			field(m, name, v)
		}
	}
	if httpguts.HeaderValuesContainsToken(r.Header["Te"], "trailers") {
		field(m, "Te", "trailers")
	}
	by := forwarded(r)
	if !httpguts.ValidHeaderFieldValue(by) {
		return errMessage
	}
	field(m, "Forwarded", by)
	return writeBody(m, r)
}

// writeBody ends the head and writes a body that takes allows.
func writeBody(m *bytes.Buffer, r *http.Request) error {
	if r.Body == nil || r.Body == http.NoBody {
		if r.Method == http.MethodPost || r.Method == http.MethodPut || r.Method == http.MethodPatch {
			field(m, "Content-Length", "0")
		}
		m.WriteString("\r\n")
		return nil
	}
	field(m, "Content-Length", strconv.FormatInt(r.ContentLength, 10))
	m.WriteString("\r\n")
	body, err := r.GetBody() // each time anew, for the next server
	if err != nil {
		return err
	}
	n, err := m.ReadFrom(io.LimitReader(body, maxInline+1))
	if err == nil && n != r.ContentLength {
		err = fmt.Errorf("a body of %d bytes where %d were told", n, r.ContentLength)
	}
	return err
}

func field(m *bytes.Buffer, name, value string) {
	m.WriteString(name)
	m.WriteString(": ")
	m.WriteString(value)
	m.WriteString("\r\n")
}

// hop reports whether a header is of one connection (RFC 9110, section 7.6.1, and
// what RFC 2616 had beside it).
func hop(name string) bool {
	switch name {
	case "Connection", "Proxy-Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization", "Te", "Trailer",
		"Transfer-Encoding", "Upgrade":
		return true
	}
	return false
}

// own reports whether a request's header is for the gate to say: what the caller
// says of itself nobody behind needs, or may believe.
func own(name string) bool {
	switch name {
	case "Host", "Content-Length", "Origin", "Referer", "Forwarded", "X-Real-Ip":
		return true
	}
	return strings.HasPrefix(name, "X-Forwarded-")
}

// internal reports whether an answer's header is between Ollama and the gate.
func internal(name string) bool {
	return name == "Server" || strings.HasPrefix(name, "Access-Control-")
}

// connection is what the Connection headers of a message name.
func connection(h http.Header) []string { return h["Connection"] }

// named reports whether a Connection header names another one, which is then of
// one connection too.
func named(connection []string, name string) bool {
	return len(connection) > 0 && httpguts.HeaderValuesContainsToken(connection, name)
}

// forwarded says whom the request is for, as the connection has it (RFC 7239).
func forwarded(r *http.Request) string {
	from := "unknown"
	if at, err := netip.ParseAddrPort(r.RemoteAddr); err == nil {
		if addr := at.Addr().Unmap().WithZone(""); addr.Is4() {
			from = addr.String()
		} else {
			from = `"[` + addr.String() + `]"`
		}
	}
	proto := ";proto=http"
	if r.TLS != nil {
		proto = ";proto=https"
	}
	return "for=" + from + ";host=" + strconv.Quote(r.Host) + proto
}
