package gateway

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"gatehouse/internal/key"
	"gatehouse/internal/ledger"
	"gatehouse/internal/limit"
	"gatehouse/internal/ollama"
)

// call is what is known of one request while it is on its way.
type call struct {
	gate    *Gateway
	w       http.ResponseWriter
	r       *http.Request // its path without the gate's prefix
	control *http.ResponseController
	ctx     context.Context
	began   time.Time
	from    netip.Addr

	record   ledger.Record
	identity key.Identity
	known    bool // the route is in the table
	route    ollama.Route
	ask      *ollama.Ask // nil when the route takes none
	body     []byte      // of the request, when it was read
	grant    *limit.Grant
	answer   *answer
	asked    bool // by a proxy that forwards itself: see ForwardAuth
}

// requestID is the header that names a request, inwards and outwards.
const requestID = "X-Request-Id"

func (g *Gateway) begin(w http.ResponseWriter, r *http.Request) *call {
	now := time.Now()
	c := &call{gate: g, w: w, r: r, control: http.NewResponseController(w), began: now, from: addrOf(r)}
	c.ctx = g.watch().Begin(r)
	id := ""
	if named := r.Header[requestID]; len(named) > 0 {
		id = named[0]
	}
	if !plainID(id) {
		id = rand.Text()
	}
	c.record = ledger.Record{
		Time: now, ID: id, Event: "request", Address: c.from.String(), Method: shorten(r.Method), BytesIn: 0,
	}
	if r.Body != nil && r.Body != http.NoBody {
		// Also for those who are turned away at once: the server reads on for what
		// is left of a small body, and nobody may have it wait without end.
		_ = c.control.SetReadDeadline(now.Add(orDefault(g.BodyTime, time.Minute)))
	}
	h := w.Header()
	h[requestID] = []string{id}
	h["Cache-Control"], h["X-Content-Type-Options"] = noStore, noSniff
	return c
}

// What each answer says in the same words; nobody changes these.
var noStore, noSniff = []string{"no-store"}, []string{"nosniff"}

// plainID reports whether a caller's request id is fit for headers and logs.
func plainID(id string) bool {
	if id == "" || len(id) > 64 {
		return false
	}
	return !strings.ContainsFunc(id, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_' || r == '.')
	})
}

func shorten(s string) string { return s[:min(len(s), 200)] }

// end writes the account. It runs however the call ended: ReverseProxy panics
// with http.ErrAbortHandler when a stream breaks.
func (c *call) end() {
	broken := recover()
	used := int64(0)
	if a := c.answer; a != nil {
		usage := a.usage()
		c.record.TokensIn, c.record.TokensOut = usage.Prompt, usage.Answer
		c.record.Status, c.record.BytesOut = a.status, a.bytes
		if !a.first.IsZero() {
			c.record.TTFT = a.first.Sub(c.began)
		}
		c.record.Estimated = usage.Estimated && usage.Total() > 0
		if a.cut {
			c.record.Reason, broken = "tokens-cut", nil
		} else if broken != nil || a.failed != nil {
			c.record.Reason = c.brokenBy()
		}
		used = usage.Total()
		if a.meter != nil && !usage.Done && !c.ask.Stream && a.status == 0 {
			// Nothing came of it that could be counted, and it was computed all the
			// same: all that was set aside for it counts.
			used = max(used, c.grant.Reserved())
		}
	} else if broken != nil && c.record.Reason == "" {
		c.record.Reason = c.brokenBy()
	}
	c.grant.Settle(used, time.Now())
	c.record.Duration = time.Since(c.began)
	// The caller may be gone, and the account is written all the same.
	if err := c.gate.Ledger.Append(c.record); err != nil && broken == nil {
		// What cannot be accounted for must not look finished.
		broken = http.ErrAbortHandler
	}
	c.gate.watch().End(context.WithoutCancel(c.ctx), &c.record, &c.identity)
	if broken != nil {
		panic(broken)
	}
}

// brokenBy says which side broke the stream off.
func (c *call) brokenBy() string {
	if c.r.Context().Err() != nil || c.answer != nil && c.answer.failed != nil {
		return "client-gone"
	}
	return "upstream-broke"
}

// shapeOK refuses what no client of Ollama sends, and finds the route.
func (c *call) shapeOK() bool {
	path, ok := c.path()
	c.record.Route = shorten(path)
	if !ok {
		c.known = false
		c.deny(http.StatusNotFound, "unknown-path", "there is nothing here")
		return false
	}
	return true
}

// path strips the gate's prefix, and refuses paths that are not written in the
// one plain way: what one router reads as one path and another as the next must
// not depend on who reads it first.
func (c *call) path() (string, bool) {
	u := c.r.URL
	if u.Opaque != "" || u.Host != "" && u.Host != c.r.Host || u.User != nil {
		return u.String(), false
	}
	path := u.EscapedPath()
	if c.gate.Prefix != "" {
		rest, ok := strings.CutPrefix(path, c.gate.Prefix)
		if !ok || rest != "" && rest[0] != '/' {
			return path, false
		}
		path = rest
		if path == "" {
			path = "/"
		}
		r := c.r.Clone(c.ctx)
		stripped, err := url.ParseRequestURI(path)
		if err != nil {
			return path, false
		}
		r.URL.Path, r.URL.RawPath = stripped.Path, stripped.RawPath
		c.r = r
	}
	c.route, c.known = ollama.ClassifyURL(c.r.Method, c.r.URL)
	if c.known {
		c.record.Power = string(c.route.Power)
		return c.route.Pattern, true
	}
	return path, true
}

// hostOK refuses names that are not this gate's: a page that rebinds its own
// name to this address is stopped here.
func (c *call) hostOK() bool {
	host := c.r.Host
	if host == "localhost" {
		return true
	}
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.ToLower(strings.Trim(strings.TrimSuffix(host, "."), "[]"))
	if host == "localhost" || slices.Contains(c.gate.Hosts, host) {
		return true
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return true
	}
	c.deny(http.StatusMisdirectedRequest, "unknown-host", "this gate does not go by that name; its operator can add it under hosts:")
	return false
}

// originOK holds web pages to the origins that the operator named, and answers
// preflights itself.
func (c *call) originOK() bool {
	origin := c.r.Header.Get("Origin")
	if origin == "" {
		return true
	}
	if !slices.Contains(c.gate.Origins, origin) {
		c.deny(http.StatusForbidden, "unknown-origin", "pages of that origin may not call; the operator can add it under origins:")
		return false
	}
	h := c.w.Header()
	h.Set("Access-Control-Allow-Origin", origin)
	h.Add("Vary", "Origin")
	h.Set("Access-Control-Expose-Headers", requestID)
	if c.r.Method == http.MethodOptions && c.r.Header.Get("Access-Control-Request-Method") != "" {
		h.Set("Access-Control-Allow-Methods", "GET, POST, DELETE, HEAD")
		h.Set("Access-Control-Allow-Headers", "Authorization, Content-Type, X-Api-Key, Anthropic-Version, X-Request-Id")
		h.Set("Access-Control-Max-Age", "600")
		c.record.Reason, c.record.Status = "preflight", http.StatusNoContent
		c.w.WriteHeader(http.StatusNoContent)
		return false
	}
	return true
}

// know puts the caller's name into the account.
func (c *call) know(id key.Identity) {
	c.identity = id
	c.record.Identity = ledger.Identity{Kind: string(id.Kind), ID: id.ID, Name: id.Name}
}

// read takes in the body of requests that name a model or ask for a bound to be
// held. Blobs pass as they come.
func (c *call) read() bool {
	if !c.known {
		return true
	}
	if !c.route.TakesJSON() {
		// The model, if there is one, is named in the path.
		c.ask = ollama.AskPath(c.route, c.r.URL.Path)
		c.noteModel()
		return true
	}
	limit := orDefault(c.gate.MaxBody, 64<<20)
	if own := c.identity.Terms.Caps.RequestBytes; own > 0 {
		limit = min(limit, own)
	}
	if c.r.ContentLength > limit {
		c.tooLarge(limit)
		return false
	}
	body, err := readAll(c.r.Body, c.r.ContentLength, limit)
	c.record.BytesIn = int64(len(body))
	switch {
	case errors.Is(err, errTooLarge):
		c.tooLarge(limit)
		return false
	case err != nil:
		c.w.Header().Set("Connection", "close")
		c.deny(http.StatusRequestTimeout, "body-broken", "the request's body did not arrive whole")
		return false
	}
	c.noHurry()
	if c.r.Header.Get("Content-Encoding") != "" {
		c.deny(http.StatusUnsupportedMediaType, "encoded-body", "send the body without Content-Encoding")
		return false
	}
	c.body = body
	if c.ask, err = ollama.ParseAsk(c.route, c.r.Header.Get("Content-Type"), body); err != nil {
		c.deny(http.StatusBadRequest, "bad-body", err.Error())
		return false
	}
	c.noteModel()
	return true
}

// noHurry takes back the deadline for the body: from here on a read is the
// server's, to learn whether the caller is still there.
func (c *call) noHurry() {
	if c.r.Body != nil && c.r.Body != http.NoBody {
		_ = c.control.SetReadDeadline(time.Time{})
	}
}

func (c *call) noteModel() {
	if c.ask != nil && len(c.ask.Models) > 0 {
		c.record.Model = shorten(c.ask.Models[0])
		if c.gate.Digest != nil {
			c.record.Digest = c.gate.Digest(c.ask.Models[0])
		}
	}
}

func (c *call) tooLarge(limit int64) {
	c.w.Header().Set("Connection", "close")
	c.deny(http.StatusRequestEntityTooLarge, "body-too-large", "the request is larger than "+strconv.FormatInt(limit, 10)+" bytes")
}

var errTooLarge = errors.New("body too large")

func readAll(r io.Reader, length, limit int64) ([]byte, error) {
	if length == 0 {
		return nil, nil
	}
	var b bytes.Buffer
	if length > 0 {
		// Grown as it comes, beyond this: a length is only a claim.
		b.Grow(int(min(length, 1<<20)) + bytes.MinRead)
	}
	n, err := b.ReadFrom(io.LimitReader(r, limit+1))
	if n > limit {
		return nil, errTooLarge
	}
	return b.Bytes(), err
}

// clamp changes the body as the policy decided.
func (c *call) clamp(clamp ollama.Clamp) {
	if c.ask == nil || !c.route.TakesJSON() {
		return
	}
	body, changed := c.ask.Apply(clamp)
	if changed {
		c.body = body
	}
}

// wants is how many tokens the call may use: the prompt as far as its length
// tells, and the answer as far as it is bounded.
func (c *call) wants() int64 {
	if c.route.Power != ollama.Infer || c.ask == nil {
		return 0
	}
	return c.ask.PromptTokens() + c.ask.AnswerTokens(orDefault(c.gate.MaxAnswer, 4096))
}

func (g *Gateway) watch() Watch {
	if g.Watch == nil {
		return nobody{}
	}
	return g.Watch
}

type nobody struct{}

func (nobody) Begin(r *http.Request) context.Context              { return r.Context() }
func (nobody) Waiting(int)                                        {}
func (nobody) Streaming(int)                                      {}
func (nobody) End(context.Context, *ledger.Record, *key.Identity) {}
