// Package connect is the client's end of the gate: an http.Handler on loopback
// that adds the key to whatever a program of this machine asks, and passes it on.
// It never serves pages of foreign origins, never hands the key to anything but
// the gate whose certificate it knows, and keeps nothing of what is said.
package connect

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"gatehouse/internal/ollama"
)

// Forwarder passes requests on to a gate. Its fields are set once, before the
// first request; without a Key everything is refused, unless it is Keyless.
type Forwarder struct {
	Gate    *url.URL // with the path under which the gate serves, if any
	Key     string   // the gate's, in place of whatever the program sends
	Keyless bool     // the gate knows this machine by its tailnet: none is sent
	// Reread looks for the key again when the gate does not accept it: it may have
	// been rotated. It is called every [RereadEvery] at most, by one request at a
	// time. Nil keeps Key for good.
	Reread func() (string, error)
	// Transport reaches the gate; see [Transport].
	Transport http.RoundTripper
	// Origins are web origins whose pages may call, besides those that Ollama
	// itself lets in: pages of this machine, and desktop programs.
	Origins  []string
	ErrorLog *log.Logger // nil is the log package's own

	reading sync.Mutex
	read    time.Time              // when Reread was called; guarded by reading
	newer   atomic.Pointer[string] // what it found, in place of Key
}

// RereadEvery is the least time between two looks for a new key, however many
// requests the gate turns away meanwhile.
const RereadEvery = 5 * time.Second

// maxAgain bounds a body, in bytes, that is kept to be sent once more with another
// key. A larger one, or one whose length nobody knows, is not sent twice: its
// program gets the gate's answer, and the next request has the new key.
const maxAgain = 256 << 10

// credentials are the headers that carry one. What a program puts there is a
// placeholder that its library insists on, or meant for somebody else.
var credentials = []string{"Authorization", "X-Api-Key", "Proxy-Authorization", "Cookie"}

// ServeHTTP is the whole way of one request.
func (f *Forwarder) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !localName(r.Host) {
		// A page that rebinds its own name to 127.0.0.1 calls us by that name.
		refuse(w, r, http.StatusForbidden, "unknown-host", "gatehouse connect answers to localhost and to loopback addresses only")
		return
	}
	origin := r.Header.Get("Origin")
	if !f.mayCall(origin, r.Header.Get("Sec-Fetch-Site")) {
		refuse(w, r, http.StatusForbidden, "unknown-origin", "pages of that origin may not call; gatehouse connect --origins adds one")
		return
	}
	if origin != "" {
		h := w.Header()
		h.Add("Vary", "Origin")
		h.Set("Access-Control-Allow-Origin", origin)
		h.Set("Access-Control-Expose-Headers", "X-Request-Id, Retry-After")
		if r.Method == http.MethodOptions && r.Header.Get("Access-Control-Request-Method") != "" {
			preflight(h, r)
			w.WriteHeader(http.StatusNoContent)
			return
		}
	}
	if f.key() == "" && !f.Keyless {
		refuse(w, r, http.StatusUnauthorized, "no-key", "gatehouse connect has no key for the gate")
		return
	}
	if f.Reread != nil && !f.Keyless && r.ContentLength > 0 && r.ContentLength <= maxAgain {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			refuse(w, r, http.StatusBadRequest, "broken-body", "the request's body is not whole")
			return
		}
		r = r.Clone(r.Context())
		r.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
		r.Body, _ = r.GetBody()
	}
	proxy := httputil.ReverseProxy{
		Rewrite: f.rewrite, Transport: keyed{f}, ErrorHandler: f.failed, ErrorLog: f.ErrorLog,
		FlushInterval:  -1, // each piece as it comes, whatever its type
		ModifyResponse: ownCORS,
	}
	proxy.ServeHTTP(w, r)
}

func (f *Forwarder) rewrite(p *httputil.ProxyRequest) {
	p.SetURL(f.Gate)
	p.Out.URL.RawQuery = p.In.URL.RawQuery
	h := p.Out.Header
	for _, name := range credentials {
		h.Del(name)
	}
	// Whose page it was is settled here; the gate has a list of its own, for
	// pages that call it directly.
	for name := range h {
		if name == "Origin" || name == "Referer" || strings.HasPrefix(name, "Sec-Fetch-") {
			h.Del(name)
		}
	}
}

// keyed is the way to the gate, with the key, if one is sent.
type keyed struct{ *Forwarder }

// RoundTrip adds the key, and asks once more where the gate does not accept it and
// another is found.
func (f keyed) RoundTrip(r *http.Request) (*http.Response, error) {
	if f.Keyless {
		return f.Transport.RoundTrip(r)
	}
	secret := f.key()
	r.Header.Set("Authorization", "Bearer "+secret) // r is ReverseProxy's own copy
	resp, err := f.Transport.RoundTrip(r)
	if err != nil || resp.StatusCode != http.StatusUnauthorized || !f.renew(secret) {
		return resp, err
	}
	again := r.Clone(r.Context())
	switch {
	case r.GetBody != nil:
		if again.Body, err = r.GetBody(); err != nil {
			return resp, nil
		}
	case r.Body != nil && r.Body != http.NoBody:
		return resp, nil
	}
	_ = resp.Body.Close() // said again, or not at all
	again.Header.Set("Authorization", "Bearer "+f.key())
	return f.Transport.RoundTrip(again)
}

func (f *Forwarder) key() string {
	if newer := f.newer.Load(); newer != nil {
		return *newer
	}
	return f.Key
}

// renew looks for another key than the one that was refused, unless somebody does
// or did so a moment ago, and reports whether there is one.
func (f *Forwarder) renew(refused string) bool {
	if f.Reread == nil || !f.reading.TryLock() { // a keyring may take its time
		return f.key() != refused
	}
	defer f.reading.Unlock()
	if f.key() != refused {
		return true
	}
	if now := time.Now(); f.read.IsZero() || now.Sub(f.read) >= RereadEvery {
		f.read = now
		if secret, err := f.Reread(); err == nil && secret != "" && secret != refused {
			f.newer.Store(&secret)
			return true
		}
	}
	return false
}

// ownCORS leaves what a page may read to ServeHTTP.
func ownCORS(resp *http.Response) error {
	for name := range resp.Header {
		if strings.HasPrefix(name, "Access-Control-") {
			resp.Header.Del(name)
		}
	}
	resp.Header.Del("Set-Cookie")
	return nil
}

func preflight(h http.Header, r *http.Request) {
	h.Set("Access-Control-Allow-Methods", "GET, HEAD, POST, DELETE")
	if asked := r.Header.Get("Access-Control-Request-Headers"); asked != "" {
		h.Set("Access-Control-Allow-Headers", asked)
	}
	if r.Header.Get("Access-Control-Request-Private-Network") != "" {
		h.Set("Access-Control-Allow-Private-Network", "true")
	}
	h.Set("Access-Control-Max-Age", "600")
}

// failed answers for a gate that gave no answer of its own.
func (f *Forwarder) failed(w http.ResponseWriter, r *http.Request, err error) {
	if r.Context().Err() != nil {
		return // nobody is left to read it
	}
	status, code := http.StatusServiceUnavailable, "gate-away"
	if Untrusted(err) {
		status, code = http.StatusBadGateway, "gate-untrusted" // which trying again does not change
	} else {
		w.Header().Set("Retry-After", "2")
	}
	refuse(w, r, status, code, "gatehouse connect: "+f.Gate.Redacted()+": "+Why(err))
}

// refuse answers in the words of the API that the program speaks.
func refuse(w http.ResponseWriter, r *http.Request, status int, code, message string) {
	dialect := ollama.DialectOf(r.URL.Path)
	if route, ok := ollama.ClassifyURL(r.Method, r.URL); ok {
		dialect = route.Dialect()
	}
	contentType, body := ollama.Refuse(dialect, status, code, message)
	h := w.Header()
	h.Set("Content-Type", contentType)
	h.Set("Content-Length", strconv.Itoa(len(body)))
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	if r.Method != http.MethodHead {
		_, _ = w.Write(body) // a caller gone is no matter
	}
}

// localName reports whether host, with a port or without, names loopback.
func localName(host string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.ToLower(strings.Trim(host, "[]"))
	if host == "localhost" {
		return true
	}
	a, err := netip.ParseAddr(host)
	return err == nil && a.Unmap().IsLoopback()
}

// desktop are the schemes of programs that are pages by build; Ollama lets the
// same in.
var desktop = []string{"app", "file", "tauri", "vscode-webview", "vscode-file"}

// mayCall reports whether a request comes from no page, or from one that may.
func (f *Forwarder) mayCall(origin, site string) bool {
	if origin == "" {
		// An image or a form of a foreign page has no Origin, and says this.
		return site != "cross-site"
	}
	if slices.Contains(f.Origins, origin) {
		return true
	}
	u, err := url.Parse(origin)
	if err != nil || u.User != nil {
		return false
	}
	switch u.Scheme {
	case "http", "https":
		return u.Path == "" && (localName(u.Host) || u.Hostname() == "0.0.0.0")
	}
	return slices.Contains(desktop, u.Scheme)
}

// Transport reaches a gate whose certificate config verifies. It has no deadline
// for an answer to begin, for a model may think for minutes; a connection that
// died is noticed by pings, and the next request opens another.
func Transport(config *tls.Config) *http.Transport {
	dialer := &net.Dialer{Timeout: 10 * time.Second}
	return &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		DialContext:         dialer.DialContext,
		TLSClientConfig:     config,
		TLSHandshakeTimeout: 10 * time.Second,
		ForceAttemptHTTP2:   true,
		HTTP2:               &http.HTTP2Config{SendPingTimeout: 15 * time.Second, PingTimeout: 10 * time.Second},
		MaxIdleConnsPerHost: 16,
		IdleConnTimeout:     90 * time.Second,
		// The caller's own wishes pass unchanged.
		DisableCompression: true,
	}
}

// Untrusted reports whether err says that the gate showed a wrong certificate, or
// that what answers may be another.
func Untrusted(err error) bool {
	var verification *tls.CertificateVerificationError
	return errors.As(err, &verification) || errors.Is(err, ErrPin) || errors.Is(err, ErrNoTailnet)
}

// Why is a reason that the gate was not reached, in words for its user.
func Why(err error) string {
	var unknown x509.UnknownAuthorityError
	var name x509.HostnameError
	var record tls.RecordHeaderError
	var dns *net.DNSError
	var op *net.OpError
	switch {
	case errors.Is(err, ErrPin):
		return ErrPin.Error() + ": it is another gate, or somebody is in between"
	case errors.Is(err, ErrNoTailnet):
		return ErrNoTailnet.Error()
	case errors.As(err, &unknown):
		return "nobody this machine trusts signed its certificate; give --pin or --ca"
	case errors.As(err, &name):
		return "its certificate is for another name; call it by one of its own, or give --pin"
	case errors.As(err, &record):
		return "what answers there speaks no TLS"
	case errors.As(err, &dns):
		return "no such name: " + dns.Name
	case errors.Is(err, syscall.ECONNREFUSED):
		return "nothing listens there; is the gate running?"
	case errors.Is(err, context.DeadlineExceeded):
		return "no answer in time"
	case errors.As(err, &op):
		return cmp.Or(op.Err.Error(), err.Error())
	}
	return err.Error()
}
