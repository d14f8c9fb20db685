// Package ollamatest is a simulator that can be thousands of servers at once:
// Ollama in any release, with locks before it, its look-alikes, honeypots,
// hosts that are something else, and hostile ones. It serves tests, benchmarks
// and the demo.
// A simulated server never changes: it is there to be looked at, and counts
// every request that would have harmed a real one. It listens on loopback
// addresses only.
package ollamatest

import (
	"bytes"
	"encoding/json"
	"net"
	"slices"
	"strings"
	"sync"

	"gatehouse/internal/ollama"
)

// Truth is what a server really is: what a perfect scan would say of it.
type Truth struct {
	Outcome string // as finding.Outcome spells it
	Or      string // another outcome that what it does bears out as well; mostly ""
	// Unproved is the outcome that reads alone can show, where it is another:
	// some honeypots give themselves away only when asked for more.
	Unproved string
	Product  string // such as "ollama"; "" where nothing tells it
	Version  string // "" where nothing tells it
	// Gives are the powers that a stranger has on it; of a guarded or open
	// server every other power is denied. Account is not listed: only a request
	// with consequences could show it.
	Gives []ollama.Power
}

// Server is one simulated server. It may live at many addresses of a Street;
// what it counts is then the sum over them.
type Server struct {
	Name  string // stable, such as "guard/nginx-basic/0.17.4"
	Truth Truth
	TLS   bool   // speaks TLS, with a certificate of nobody's
	Path  string // prefix under which the API lives, such as "/ollama"

	say   func(*Request) reply // for what speaks HTTP
	stack stack
	talk  func(*Server, net.Conn) // for what does not: the whole conversation
	tls   certificate

	mu    sync.Mutex
	asked map[string]*asked // by "METHOD /path"
	harm  []string
}

// asked is what a server remembers of one kind of request.
type asked struct {
	times int
	head  []byte // header lines of the last one
}

// Requests returns how often each "METHOD /path" was asked for.
func (s *Server) Requests() map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := make(map[string]int, len(s.asked))
	for request, a := range s.asked {
		n[request] = a.times
	}
	return n
}

// Head returns the header lines of the last request for "METHOD /path", as they
// came; "" when there was none.
func (s *Server) Head(request string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if a := s.asked[request]; a != nil {
		return string(a.head)
	}
	return ""
}

// Harm returns, in order of arrival, the requests that would have changed a
// real Ollama, used its memory or its account, or tried a password.
func (s *Server) Harm() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.harm)
}

// Reset forgets all requests.
func (s *Server) Reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked, s.harm = nil, nil
}

// note counts r.
func (s *Server) note(r *Request) {
	harm := ""
	if !r.readOnly() || len(r.Authorization) > 0 {
		harm = harmOf(r, s.Path)
	}
	var key [96]byte
	k := append(append(append(key[:0], r.Method...), ' '), r.Path...)

	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.asked[string(k)]
	if a == nil && len(s.asked) < maxKeys {
		if s.asked == nil {
			s.asked = make(map[string]*asked)
		}
		a = new(asked)
		s.asked[string(k)] = a
	}
	if a != nil {
		a.times++
		a.head = append(a.head[:0], r.Head...)
	}
	if harm != "" && len(s.harm) < maxKeys {
		s.harm = append(s.harm, harm)
	}
}

// maxKeys bounds what a server remembers of its visitors.
const maxKeys = 256

// harmOf says what is wrong with a request, "" when it is harmless on every
// release of Ollama.
func harmOf(r *Request, prefix string) string {
	line := string(r.Method) + " " + string(r.Target)
	if len(r.Authorization) > 0 {
		return line + ": with credentials"
	}
	path := strings.TrimPrefix(string(r.Path), prefix)
	route, _ := ollama.Classify(string(r.Method), path)
	switch {
	case strings.HasPrefix(route.Pattern, "/api/blobs/"):
		return line + ": releases before 0.1.34 write a file for any digest"
	case route.Power == ollama.Account:
		return line + ": has the server call ollama.com"
	case len(bytes.TrimSpace(r.Body)) == 0:
		return ""
	case route.Power == ollama.Read: // POST /api/show
		return ""
	case json.Valid(r.Body):
		return line + ": with a body that parses"
	}
	return ""
}

// answer appends what the server writes in answer to r.
func (s *Server) answer(out []byte, r *Request) []byte {
	s.note(r)
	p := s.say(r)
	r.Close = r.Close || p.closes
	return s.stack(out, r, p)
}

// Serve holds one conversation as s on c and closes it, for whoever has a
// listener of their own. It speaks no TLS: of a server with TLS it is what is
// said inside.
func (s *Server) Serve(c net.Conn) {
	defer c.Close()
	if s.talk != nil {
		s.talk(s, c)
		return
	}
	s.serve(c)
}

// serve speaks HTTP/1 on c until either side ends it. Requests that came in one
// packet are answered in one.
func (s *Server) serve(c net.Conn) {
	b := buffers.Get().(*buffer)
	defer b.free()
	for {
		n, err := c.Read(b.in[b.n:])
		b.n += n
		if n > 0 {
			done := s.answers(b)
			if len(b.out) > 0 {
				if _, err := c.Write(b.out); err != nil {
					return
				}
				b.out = b.out[:0]
			}
			if done {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// answers answers every whole request in b and reports whether the connection
// ends with that.
func (s *Server) answers(b *buffer) (done bool) {
	var r Request
	at := 0
	for at < b.n {
		n, err := r.parse(b.in[at:b.n])
		if err == errIncomplete {
			break
		}
		if err != nil {
			// net/http says it in the same words; see its badRequestError.
			b.out = append(b.out, "HTTP/1.1 "+err.Error()+
				"\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n"+err.Error()...)
			return true
		}
		b.out = s.answer(b.out, &r)
		at += n
		if r.Close {
			return true
		}
	}
	b.n = copy(b.in, b.in[at:b.n])
	if b.n == len(b.in) {
		b.in = append(b.in, make([]byte, len(b.in))...)
	}
	return false
}

// buffer is what one connection reads into and writes from.
type buffer struct {
	in  []byte
	n   int // bytes of in that are filled
	out []byte
}

var buffers = sync.Pool{New: func() any { return &buffer{in: make([]byte, 2048)} }}

// free keeps b for the next connection, unless a visitor made it grow large.
func (b *buffer) free() {
	if len(b.in)+cap(b.out) <= 64<<10 {
		b.n, b.out = 0, b.out[:0]
		buffers.Put(b)
	}
}
