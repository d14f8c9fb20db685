// Package upstream is the Ollama servers behind the gate: which of them are
// well, which has a model in memory, and the way to them and back.
// It never decides whether a request may go there, and keeps nothing of what
// passes.
package upstream

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"slices"
	"sync"
	"time"

	"gatehouse/internal/ollama"
)

// Server is one Ollama.
type Server struct {
	URL   *url.URL       // http, https or unix; may have a path
	Slots int            // requests it computes at a time
	CA    *x509.CertPool // of an https server; nil is the system's
}

// Config is what a Pool is made from.
type Config struct {
	Servers []Server
	// OnError answers when no server gave an answer; nil answers 502.
	OnError func(w http.ResponseWriter, r *http.Request, err error)
}

// Pool hands each request to the server that suits it best. It is an
// http.Handler; like ReverseProxy it panics with http.ErrAbortHandler when an
// answer breaks off.
type Pool struct {
	servers []*server
	onError func(http.ResponseWriter, *http.Request, error)
}

// server is a Server and how it is.
type server struct {
	Server
	wire  *wire
	proxy *httputil.ReverseProxy // for what the wire does not take
	rest  *http.Transport        // the proxy's
	base  *url.URL               // what requests are rewritten to

	mu       sync.Mutex
	inFlight int
	failures int       // connections that failed in a row
	until    time.Time // no requests before, after too many failures
	healthy  bool
	since    time.Time
	err      error
	version  string
	models   []string
	digests  map[string]string // of models, by name
	loaded   []string
	remote   []string // of models: what computes on another server
}

// Deadlines. There is none for the first byte of an answer: loading a model can
// take minutes.
const (
	dialTime = 5 * time.Second
	askTime  = 3 * time.Second // for a health check
	askEvery = 5 * time.Second

	// After so many connections that failed in a row a server is passed over, for
	// a second and then twice as long each time.
	maxFailures = 3
	firstPause  = time.Second
	maxPause    = 30 * time.Second
)

// ErrNone says that there is no server at all.
var ErrNone = errors.New("no upstream")

// New makes a pool. It talks to nobody before Run or the first request.
func New(c Config) (*Pool, error) {
	if len(c.Servers) == 0 {
		return nil, ErrNone
	}
	p := &Pool{onError: c.OnError}
	if p.onError == nil {
		p.onError = func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) }
	}
	for _, s := range c.Servers {
		one, err := newServer(s)
		if err != nil {
			return nil, err
		}
		p.servers = append(p.servers, one)
	}
	return p, nil
}

func newServer(s Server) (*server, error) {
	if s.URL == nil {
		return nil, errors.New("upstream without a URL")
	}
	one := &server{Server: s, since: time.Now(), healthy: true} // until it is known better
	one.Slots = max(s.Slots, 1)
	dialer := &net.Dialer{Timeout: dialTime, KeepAlive: 30 * time.Second}
	dial := dialer.DialContext
	base := *s.URL
	switch s.URL.Scheme {
	case "http", "https":
		if s.URL.Host == "" {
			return nil, fmt.Errorf("upstream %s: no host", s.URL.Redacted())
		}
	case "unix":
		if s.URL.Host != "" || s.URL.Path == "" {
			return nil, fmt.Errorf("upstream %s: not unix:/// and the path of a socket", s.URL.Redacted())
		}
		path := s.URL.Path
		dial = func(ctx context.Context, _, _ string) (net.Conn, error) { return dialer.DialContext(ctx, "unix", path) }
		base = url.URL{Scheme: "http", Host: "localhost"}
	default:
		return nil, fmt.Errorf("upstream %s: not http, https or unix", s.URL.Redacted())
	}
	one.base = &base
	idle := max(64, 2*one.Slots)
	one.rest = &http.Transport{
		DialContext:         dial,
		DisableCompression:  true, // bytes pass as they are
		MaxIdleConns:        idle,
		MaxIdleConnsPerHost: idle,
		IdleConnTimeout:     idleTime,
		TLSHandshakeTimeout: dialTime,
		// There is a pair for each open stream, of small pieces; what is large goes
		// past them.
		ReadBufferSize:         1 << 10,
		WriteBufferSize:        1 << 10,
		MaxResponseHeaderBytes: maxAnswerHead,
		TLSClientConfig:        &tls.Config{RootCAs: s.CA, MinVersion: tls.VersionTLS12},
		Protocols:              new(http.Protocols),
	}
	one.rest.Protocols.SetHTTP1(true)
	one.wire = &wire{dial: dial, plain: base.Scheme == "http", host: hostPort(&base), most: idle}
	one.proxy = &httputil.ReverseProxy{
		Rewrite:        one.rewrite,
		Transport:      one.rest,
		FlushInterval:  -1, // each piece of an answer at once
		BufferPool:     buffers{},
		ModifyResponse: clean,
		ErrorHandler:   note,
		ErrorLog:       silent,
	}
	return one, nil
}

// hostPort is what to dial for a URL.
func hostPort(u *url.URL) string {
	return net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), "80"))
}

// rewrite makes the request one of the gate's own. Host is the server's, so
// that its check of it passes, and the origin was checked at the door.
func (s *server) rewrite(r *httputil.ProxyRequest) {
	r.SetURL(s.base)
	r.Out.Host = s.base.Host
	for name := range r.Out.Header {
		if own(name) {
			delete(r.Out.Header, name)
		}
	}
	r.Out.Header.Set("Forwarded", forwarded(r.In))
	// The clock of the CLI's signature, and whatever else: no handler of Ollama's
	// reads a query.
	r.Out.URL.RawQuery = ""
	r.Out.Trailer = nil // nor what comes after a body
}

// clean takes from an answer what is between Ollama and the gate.
func clean(r *http.Response) error {
	for name := range r.Header {
		if internal(name) {
			delete(r.Header, name)
		}
	}
	return nil
}

// Close lets go of idle connections.
func (p *Pool) Close() {
	for _, s := range p.servers {
		s.wire.close()
		s.rest.CloseIdleConnections()
	}
}

// Slots is how many requests all servers compute at a time.
func (p *Pool) Slots() (n int) {
	for _, s := range p.servers {
		n += s.Slots
	}
	return n
}

// Elsewhere reports whether a model, by its canonical name, computes on another
// server than these, such as ollama.com, as far as they said when last asked.
func (p *Pool) Elsewhere(model string) bool {
	return slices.ContainsFunc(p.servers, func(s *server) bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return slices.Contains(s.remote, model)
	})
}

// Digest is the digest of a model as a server that has it last told, "" when
// none did.
func (p *Pool) Digest(model string) string {
	name := ollama.CanonicalName(model)
	for _, s := range p.servers {
		s.mu.Lock()
		digest := s.digests[name]
		s.mu.Unlock()
		if digest != "" {
			return digest
		}
	}
	return ""
}

type modelKey struct{}

// WithModel says which model a request is for, so that it goes where that is.
func WithModel(ctx context.Context, model string) context.Context {
	return context.WithValue(ctx, modelKey{}, model)
}

type failureKey struct{}

// note keeps the error of a request that ReverseProxy got no answer to, for the
// pool to decide what comes of it.
func note(_ http.ResponseWriter, r *http.Request, err error) {
	if failure, ok := r.Context().Value(failureKey{}).(*error); ok {
		*failure = err
	}
}

// ServeHTTP hands the request to a server, and to another one when the first
// cannot be reached and nothing of the request was used up.
func (p *Pool) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	model, _ := r.Context().Value(modelKey{}).(string)
	var err error
	for _, s := range p.order(model, time.Now()) {
		if err = s.serve(w, r); err == nil {
			return
		}
		reached := !unreached(err)
		err = fmt.Errorf("%s: %w", s.URL.Redacted(), err)
		if r.Context().Err() != nil || reached {
			break
		}
		if r.GetBody == nil && r.Body != nil && r.Body != http.NoBody {
			break // who knows what of the body is gone
		}
	}
	p.onError(w, r, err)
}

// unreached reports whether a request did not come to the server at all.
func unreached(err error) bool {
	op := new(net.OpError)
	return errors.As(err, &op) && op.Op == "dial"
}

// order is the servers, the one to try first in front: with the model in memory
// and a free place, with the model on disk, with the least to do. Those that
// failed of late come last, for when there is no other.
func (p *Pool) order(model string, now time.Time) []*server {
	if len(p.servers) == 1 {
		return p.servers
	}
	type rank struct {
		s    *server
		away bool
		fits int
		load float64
	}
	name := ollama.CanonicalName(model)
	ranks := make([]rank, len(p.servers))
	for i, s := range p.servers {
		s.mu.Lock()
		r := rank{s: s, away: !s.healthy || now.Before(s.until), load: float64(s.inFlight) / float64(s.Slots)}
		switch {
		case name != "" && slices.Contains(s.loaded, name) && s.inFlight < s.Slots:
			r.fits = 2
		case name != "" && slices.Contains(s.models, name):
			r.fits = 1
		}
		s.mu.Unlock()
		ranks[i] = r
	}
	slices.SortStableFunc(ranks, func(a, b rank) int {
		if a.away != b.away {
			if a.away {
				return 1
			}
			return -1
		}
		return cmp.Or(cmp.Compare(b.fits, a.fits), cmp.Compare(a.load, b.load))
	})
	list := make([]*server, len(ranks))
	for i, r := range ranks {
		list[i] = r.s
	}
	return list
}

// serve is one attempt, and what it says about the server: one that was reached
// is there, however the answer ended.
func (s *server) serve(w http.ResponseWriter, r *http.Request) (err error) {
	s.mu.Lock()
	s.inFlight++
	s.mu.Unlock()
	defer func() {
		lost := err != nil && unreached(err)
		if lost && r.Context().Err() == nil {
			s.failed(err, time.Now())
		}
		s.mu.Lock()
		s.inFlight--
		if !lost {
			s.failures, s.until = 0, time.Time{}
		}
		s.mu.Unlock()
	}()
	if s.wire.takes(r) {
		return s.relay(w, r)
	}
	out := r.WithContext(context.WithValue(r.Context(), failureKey{}, &err))
	if r.GetBody != nil {
		if out.Body, err = r.GetBody(); err != nil {
			return err
		}
	}
	s.proxy.ServeHTTP(w, out)
	return err
}

func (s *server) failed(err error, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
	if now.Before(s.until) {
		return // one outage, counted once, however many requests it met
	}
	if s.failures++; s.failures >= maxFailures {
		s.until = now.Add(min(maxPause, firstPause<<min(s.failures-maxFailures, 10)))
	}
}

// buffers lends what answers are copied with.
type buffers struct{}

var pool = sync.Pool{New: func() any { return new([4 << 10]byte) }}

func (buffers) Get() []byte  { return pool.Get().(*[4 << 10]byte)[:] }
func (buffers) Put(b []byte) { pool.Put((*[4 << 10]byte)(b)) }
