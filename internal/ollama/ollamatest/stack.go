package ollamatest

import (
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// reply is what a server says, before its web server puts it on the wire.
type reply struct {
	status int
	ctype  string // "" sends no Content-Type
	lines  string // further header lines in the names' order, each ended by CRLF
	body   string
	stream bool // proxies pass it on in chunks, as they got it
	closes bool // the server ends the connection after this answer
}

func text(status int, body string) reply {
	return reply{status: status, ctype: "text/plain; charset=utf-8", body: body}
}

func page(status int, body string) reply {
	return reply{status: status, ctype: "text/html", body: body}
}

func jsonReply(status int, body string) reply {
	return reply{status: status, ctype: "application/json", body: body}
}

func (p reply) with(lines ...string) reply {
	for _, l := range lines {
		p.lines += l + "\r\n"
	}
	return p
}

// stack is how one kind of web server writes an answer: which header lines, in
// which order and case. It appends to out and returns it.
type stack func(out []byte, r *Request, p reply) []byte

// goServer writes as net/http does: the handler's header sorted by name, then
// Date, Content-Length and Connection. What one write brings of more than 2,048
// bytes goes out in chunks. Measured on Ollama 0.17.4.
func goServer(out []byte, r *Request, p reply) []byte {
	if r.Old {
		out = append(out, "HTTP/1.0 "...)
	} else {
		out = append(out, "HTTP/1.1 "...)
	}
	out = status(out, p.status)
	before, after := p.lines, ""
	if p.ctype != "" {
		before, after = splitLines(p.lines, "Content-Type")
		out = append(out, before...)
		out = append(out, "Content-Type: "...)
		out = append(out, p.ctype...)
		out = append(out, "\r\n"...)
		out = append(out, after...)
	} else {
		out = append(out, before...)
	}
	out = append(out, "Date: "...)
	out = append(out, date()...)
	out = append(out, "\r\n"...)
	chunked := len(p.body) > 2048 && !r.Old
	switch {
	case p.status == http.StatusNoContent || p.status == http.StatusNotModified:
		p.body = ""
	case chunked:
		out = append(out, "Transfer-Encoding: chunked\r\n"...)
	case string(r.Method) == "HEAD" && p.body == "":
	case len(p.body) > 2048: // HTTP/1.0: its end is the connection's
		r.Close = true
	default:
		out = append(out, "Content-Length: "...)
		out = strconv.AppendInt(out, int64(len(p.body)), 10)
		out = append(out, "\r\n"...)
	}
	switch {
	case r.Close && !r.Old:
		out = append(out, "Connection: close\r\n"...)
	case r.Old && r.KeepAlive && !r.Close:
		out = append(out, "Connection: keep-alive\r\n"...)
	}
	out = append(out, "\r\n"...)
	return appendBody(out, r, p.body, chunked)
}

// splitLines cuts header lines, sorted by name, before the first that comes
// after name.
func splitLines(lines, name string) (before, after string) {
	for at := 0; at < len(lines); {
		if lines[at:] > name {
			return lines[:at], lines[at:]
		}
		at += strings.Index(lines[at:], "\r\n") + 2
	}
	return lines, ""
}

// layout is a stack whose header lines stand in a fixed order. In it %d is the
// date, %x the reply's further lines, %c keep-alive or close, and a line with
// %t (content type) or %n (content length) falls away where there is none.
type layout struct {
	proto string // "HTTP/1.1" unless set
	head  string
}

func (l layout) write(out []byte, r *Request, p reply) []byte {
	if l.proto == "HTTP/1.0" {
		r.Close = true
	}
	out = append(out, l.protocol()...)
	out = append(out, ' ')
	out = status(out, p.status)
	noBody := p.status == http.StatusNoContent || p.status == http.StatusNotModified
	chunked := p.stream && !r.Old && l.proto == ""
	for rest := l.head; rest != ""; {
		var line string
		line, rest, _ = strings.Cut(rest, "\n")
		before, after, verb := strings.Cut(line, "%")
		if !verb {
			out = append(append(out, line...), "\r\n"...)
			continue
		}
		switch after {
		case "x":
			out = append(out, p.lines...)
			continue
		case "t":
			if p.ctype == "" {
				continue
			}
			out = append(append(out, before...), p.ctype...)
		case "n":
			if noBody {
				continue
			}
			switch {
			case !chunked:
				out = strconv.AppendInt(append(out, before...), int64(len(p.body)), 10)
			case before[0] == 'c':
				out = append(out, "transfer-encoding: chunked"...)
			default:
				out = append(out, "Transfer-Encoding: chunked"...)
			}
		case "d":
			out = append(append(out, before...), date()...)
		case "c":
			out = append(out, before...)
			if r.Close {
				out = append(out, "close"...)
			} else {
				out = append(out, "keep-alive"...)
			}
		}
		out = append(out, "\r\n"...)
	}
	out = append(out, "\r\n"...)
	return appendBody(out, r, p.body, chunked)
}

func (l layout) protocol() string {
	if l.proto == "" {
		return "HTTP/1.1"
	}
	return l.proto
}

func appendBody(out []byte, r *Request, body string, chunked bool) []byte {
	if string(r.Method) == "HEAD" {
		return out
	}
	if !chunked {
		return append(out, body...)
	}
	out = strconv.AppendInt(out, int64(len(body)), 16)
	out = append(out, "\r\n"...)
	out = append(out, body...)
	return append(out, "\r\n0\r\n\r\n"...)
}

func status(out []byte, code int) []byte {
	out = strconv.AppendInt(out, int64(code), 10)
	out = append(out, ' ')
	out = append(out, http.StatusText(code)...)
	return append(out, "\r\n"...)
}

// The web servers that stand before an Ollama or imitate one. Orders and
// spellings are those of the release named.
var (
	nginx = layout{head: "Server: nginx/1.24.0 (Ubuntu)\nDate: %d\nContent-Type: %t\n" +
		"Content-Length: %n\nConnection: %c\n%x"}.write // nginx 1.24
	openresty = layout{head: "Server: openresty\nDate: %d\nContent-Type: %t\n" +
		"Content-Length: %n\nConnection: %c\n%x"}.write // Nginx Proxy Manager 2
	apache = layout{head: "Date: %d\nServer: Apache/2.4.58 (Ubuntu)\n%x\n" +
		"Content-Length: %n\nConnection: %c\nContent-Type: %t"}.write // Apache 2.4
	cloudflare = layout{head: "Date: %d\nContent-Type: %t\nContent-Length: %n\nConnection: %c\n%x\n" +
		"Server: cloudflare\nCF-RAY: 8f1e2d3c4b5a6978-FRA\nalt-svc: h3=\":443\"; ma=86400"}.write
	uvicorn = layout{head: "date: %d\nserver: uvicorn\n%x\ncontent-length: %n\ncontent-type: %t"}.write // uvicorn 0.30
	express = layout{head: "X-Powered-By: Express\n%x\nContent-Type: %t\nContent-Length: %n\n" +
		"Date: %d\nConnection: %c\nKeep-Alive: timeout=5"}.write // Express 4 on Node.js 20
	httplib = layout{head: "Keep-Alive: timeout=5, max=100\nContent-Type: %t\nServer: llama.cpp\n" +
		"Content-Length: %n\nAccess-Control-Allow-Origin: \n%x"}.write // llama.cpp b6000
	httplibSorted = layout{head: "Access-Control-Allow-Origin: \nContent-Length: %n\nContent-Type: %t\n" +
		"Keep-Alive: timeout=5, max=5\nServer: llama.cpp\n%x"}.write // llama.cpp b4000
	basePython = layout{proto: "HTTP/1.0", head: "Server: BaseHTTP/0.6 Python/3.11.2\nDate: %d\n" +
		"Content-type: %t\nContent-Length: %n\n%x"}.write // http.server of Python 3.11
	werkzeug = layout{head: "Server: Werkzeug/3.0.1 Python/3.12.3\nDate: %d\nContent-Type: %t\n" +
		"Content-Length: %n\n%x\nConnection: close"}.write // Flask 3's own server
	kobold = layout{proto: "HTTP/1.0", head: "Server: ConcedoLlamaForKoboldServer \nDate: %d\n" +
		"content-length: %n\nAccess-Control-Allow-Origin: *\nAccess-Control-Allow-Methods: *\n" +
		"Access-Control-Allow-Headers: *\ncache-control: no-store\ncontent-type: %t\n%x"}.write // KoboldCpp 1.80
	redirector = layout{proto: "HTTP/1.0", head: "Date: %d\nContent-Type: %t\nContent-Length: %n\n%x"}.write
)

// over returns a stack of Go's that adds header lines of its own, as Caddy and
// other servers written in Go do.
func over(name, value string) stack {
	line := name + ": " + value + "\r\n"
	return func(out []byte, r *Request, p reply) []byte {
		before, after := splitLines(p.lines, name)
		p.lines = before + line + after
		return goServer(out, r, p)
	}
}

var caddy = over("Server", "Caddy") // Caddy 2

// clock holds the text of the current second for the Date header.
type clock struct {
	second int64
	text   string
}

var now atomic.Pointer[clock]

// date returns the current time as HTTP writes it (RFC 9110, section 5.6.7).
func date() string {
	t := time.Now()
	c := now.Load()
	if c == nil || c.second != t.Unix() {
		c = &clock{t.Unix(), t.UTC().Format(http.TimeFormat)}
		now.Store(c)
	}
	return c.text
}
