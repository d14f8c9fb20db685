//go:build unix

package realollama

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

const askTimeout = 30 * time.Second

// Request is what Ask sends. It goes out as written, nothing added but Host,
// User-Agent and, with a body, its length and type.
type Request struct {
	Name   string // of the file with the captured answer
	Method string
	Path   string
	Host   string   // "" for the address asked
	Header []string // lines such as "Origin: https://example.org"
	Body   string   // JSON; "" for none
}

// Reply is an answer as its bytes came: status line, header, body as transferred.
type Reply struct {
	Raw    []byte
	Status int
	Header http.Header
	Body   []byte // with the transfer coding undone
}

// Ask sends one request on a connection of its own, which it leaves open for the
// next one as a browser would, and reads the answer.
func (s *Server) Ask(t testing.TB, r Request) Reply {
	t.Helper()
	reply, err := Ask(t.Context(), s.AddrPort, r)
	if err != nil {
		t.Fatalf("%s %s: %v", r.Method, r.Path, err)
	}
	return reply
}

// Ask is [Server.Ask] for any server, such as a simulated one to compare with.
func Ask(ctx context.Context, at netip.AddrPort, r Request) (Reply, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", at.String())
	if err != nil {
		return Reply{}, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()

	host := r.Host
	if host == "" {
		host = at.String()
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: gatehouse-test\r\n", r.Method, r.Path, host)
	for _, line := range r.Header {
		b.WriteString(line + "\r\n")
	}
	if r.Body != "" {
		fmt.Fprintf(&b, "Content-Type: application/json\r\nContent-Length: %d\r\n", len(r.Body))
	}
	b.WriteString("\r\n" + r.Body)
	if _, err := io.WriteString(conn, b.String()); err != nil {
		return Reply{}, err
	}
	var raw bytes.Buffer
	reply, err := readReply(io.TeeReader(conn, &raw), r.Method)
	reply.Raw = raw.Bytes()
	return reply, err
}

// ParseReply reads an answer to method that was captured with [Ask].
func ParseReply(raw []byte, method string) (Reply, error) {
	reply, err := readReply(bytes.NewReader(raw), method)
	reply.Raw = raw
	return reply, err
}

func readReply(from io.Reader, method string) (Reply, error) {
	resp, err := http.ReadResponse(bufio.NewReader(from), &http.Request{Method: method})
	if err != nil {
		return Reply{}, err
	}
	body, err := io.ReadAll(resp.Body)
	err = errors.Join(err, resp.Body.Close())
	return Reply{Status: resp.StatusCode, Header: resp.Header, Body: body}, err
}

// Shape is what of an answer stays the same from one server to the next of its
// release: the status line, the names of the headers in their order, the content
// type, and the names of the JSON members. Two answers of one shape are told
// apart by nothing but their values.
func (r Reply) Shape() string {
	var b strings.Builder
	head, _, _ := strings.Cut(string(r.Raw), "\r\n\r\n")
	for i, line := range strings.Split(head, "\r\n") {
		name, _, header := strings.Cut(line, ":")
		if i == 0 || !header || strings.EqualFold(name, "Content-Type") {
			name = line
		}
		b.WriteString(name + "\n")
	}
	switch names, err := members(r.Body); {
	case len(r.Body) == 0:
	case err != nil:
		fmt.Fprintf(&b, "%q\n", r.Body)
	default:
		b.WriteString(strings.Join(names, "\n") + "\n")
	}
	return b.String()
}

// members returns the names of the members of a JSON document, each with the
// path that leads to it, sorted.
func members(doc []byte) ([]string, error) {
	var v any
	if err := json.Unmarshal(doc, &v); err != nil {
		return nil, err
	}
	var names []string
	var walk func(path string, v any)
	walk = func(path string, v any) {
		switch v := v.(type) {
		case map[string]any:
			for name, in := range v {
				names = append(names, path+"."+name)
				walk(path+"."+name, in)
			}
		case []any:
			for _, in := range v {
				walk(path+"[]", in)
			}
		}
	}
	walk("", v)
	slices.Sort(names)
	return slices.Compact(names), nil
}
