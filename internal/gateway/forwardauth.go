package gateway

import (
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"gatehouse/internal/ollama"
	"gatehouse/internal/policy"
)

// ForwardAuth answers a proxy of the operator's that asks, before it forwards a
// request to Ollama itself, whether it may: nginx's auth_request, Caddy's
// forward_auth, Traefik's ForwardAuth. It sees who asks for which route, and not
// the body: so it denies what only the body would tell. It never forwards
// anything.
type ForwardAuth struct {
	Gate *Gateway
	// From are the proxies that may ask; none by default.
	From []netip.Prefix
	// CloudOff says that the Ollama behind the proxy was started with
	// OLLAMA_NO_CLOUD=1, so that no model in it computes with an account.
	CloudOff bool
}

// AuthPath is where ForwardAuth is asked.
const AuthPath = "/auth"

// The headers of an answer that lets a request pass. Proxies may hand them on.
const (
	identityHeader = "X-Gatehouse-Identity" // as the ledger has it
	nameHeader     = "X-Gatehouse-Name"     // for people
	powerHeader    = "X-Gatehouse-Power"
)

// ServeHTTP is the way of Gateway.ServeHTTP without its second half: the answer
// is that the request may pass, or why not.
func (f *ForwardAuth) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c := f.Gate.begin(w, r)
	c.asked = true
	defer c.end()

	if !f.proxyOK(c) || !f.original(c) || !c.hostOK() || !c.originOK() {
		return
	}
	if err := f.Gate.Ledger.Err(); err != nil {
		c.deny(http.StatusServiceUnavailable, "ledger", "the gate cannot keep its ledger, so it lets nobody in")
		return
	}
	if !c.who() || !f.may(c) || !c.howMuch() {
		return
	}
	c.record.Allowed, c.record.Status = true, http.StatusOK
	h := w.Header()
	h.Set(identityHeader, headerText(c.identity.ID))
	h.Set(nameHeader, headerText(c.identity.Name))
	h.Set(powerHeader, string(c.route.Power))
	w.WriteHeader(http.StatusOK)
}

// proxyOK holds the question to who may ask it, and to how it is asked.
func (f *ForwardAuth) proxyOK(c *call) bool {
	if !slices.ContainsFunc(f.From, func(p netip.Prefix) bool { return p.Contains(c.from) }) {
		c.deny(http.StatusForbidden, "unknown-proxy", "only the proxies that the operator lists under forward_auth: may ask here")
		return false
	}
	if r := c.r; r.URL.Path != AuthPath || r.URL.RawPath != "" || r.Method != http.MethodGet && r.Method != http.MethodHead {
		c.deny(http.StatusForbidden, "unknown-path", "a proxy asks with GET "+AuthPath)
		return false
	}
	return true
}

// original puts the request that the proxy asks about in the place of its
// question.
func (f *ForwardAuth) original(c *call) bool {
	h := c.r.Header
	method, target, ok := originalLine(h)
	if !ok {
		c.deny(http.StatusForbidden, "bad-question", "the proxy has to set X-Original-Method and X-Original-URI, or X-Forwarded-Method and X-Forwarded-Uri, each once; and both pairs alike where it sets both")
		return false
	}
	c.record.Method, c.record.Route = shorten(method), shorten(target)
	from, ok := originalAddress(h)
	if !ok {
		c.deny(http.StatusForbidden, "bad-question", "the proxy has to say whose request it is, as the last address in X-Forwarded-For")
		return false
	}
	c.from, c.record.Address = from, from.String()
	u, err := url.ParseRequestURI(target)
	if err != nil || target[0] != '/' {
		c.deny(http.StatusForbidden, "unknown-path", "there is nothing here")
		return false
	}
	r := c.r.Clone(c.ctx)
	r.Method, r.URL, r.RequestURI, r.Body, r.TLS = method, u, target, http.NoBody, nil
	c.r = r
	return c.shapeOK()
}

// originalLine is the method and the target that the proxy was asked with, from
// the pairs of headers that proxies use. A client may have sent such headers too,
// and the proxy left them: so a pair has to be whole, each header may be there
// once, and two pairs have to say the same.
func originalLine(h http.Header) (method, target string, ok bool) {
	for _, pair := range [][2]string{{"X-Original-Method", "X-Original-Uri"}, {"X-Forwarded-Method", "X-Forwarded-Uri"}} {
		methods, targets := h[pair[0]], h[pair[1]]
		if len(methods) == 0 && len(targets) == 0 {
			continue
		}
		if len(methods) != 1 || len(targets) != 1 || methods[0] == "" || targets[0] == "" {
			return "", "", false
		}
		if ok && (methods[0] != method || targets[0] != target) {
			return "", "", false
		}
		method, target, ok = methods[0], targets[0], true
	}
	return method, target, ok
}

// originalAddress is the client's, which the proxy saw: it appends it to what the
// client may have made up.
func originalAddress(h http.Header) (netip.Addr, bool) {
	values := h["X-Forwarded-For"]
	if len(values) == 0 {
		return netip.Addr{}, false
	}
	last := values[len(values)-1]
	last = strings.TrimSpace(last[strings.LastIndexByte(last, ',')+1:])
	addr, err := netip.ParseAddr(last)
	if err != nil {
		return netip.Addr{}, false
	}
	return addr.Unmap().WithZone(""), true
}

// may decides without the body.
func (f *ForwardAuth) may(c *call) bool {
	if c.known && !c.route.TakesJSON() {
		c.ask = ollama.AskPath(c.route, c.r.URL.Path)
		c.noteModel()
	}
	decision := policy.Decide(c.identity, policy.Request{
		Route: c.route, Known: c.known, Ask: c.ask, From: c.from, Now: c.began,
		Elsewhere: c.gate.Elsewhere, Unseen: true, CloudOff: f.CloudOff,
	})
	if !decision.Allow {
		c.deny(decision.Status, decision.Reason, decision.Message)
	}
	return decision.Allow
}

// proxyStatus is a status that proxies take for an answer: nginx knows 401 and
// 403, and takes all others for a fault of ours.
func proxyStatus(status int) int {
	switch {
	case status == http.StatusUnauthorized, status == http.StatusTooManyRequests, status >= 500:
		return status
	}
	return http.StatusForbidden
}

// headerText is s without what has no place in a header.
func headerText(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, s)
}
