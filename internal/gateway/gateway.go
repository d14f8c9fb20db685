// Package gateway is the path of one request from a caller to Ollama and back:
// who are you, may you, how much, then the answer as it comes, and an account
// of it. It lets nothing pass that it could not name, and never keeps what was
// said.
package gateway

import (
	"context"
	"errors"
	"net/http"
	"net/netip"
	"time"

	"gatehouse/internal/key"
	"gatehouse/internal/ledger"
	"gatehouse/internal/limit"
	"gatehouse/internal/ollama"
	"gatehouse/internal/policy"
)

// Gateway is the door as an http.Handler. Its fields are set once, before the
// first request; the zero Gateway lets nobody in. A new configuration is a new
// Gateway.
type Gateway struct {
	Door     *key.Door
	Limiter  *limit.Limiter
	Queue    *limit.Queue // in front of what computes; nil for none
	Upstream http.Handler
	Ledger   Ledger

	// Elsewhere reports whether a model computes on another server than the ones
	// behind this gate; nil goes by the model's name.
	Elsewhere func(model string) bool
	// ForModel tells the upstream which model a request is for; nil tells nothing.
	ForModel func(ctx context.Context, model string) context.Context

	// Digest is the digest of a model as the upstream last told it, "" when it is
	// not known; nil knows none.
	Digest func(model string) string

	// Prefix is the path under which the API is served, such as "/ollama";
	// "" is the root.
	Prefix string
	// Hosts are the names that callers may use for this gate, in lower case and
	// without a port. Addresses are always allowed: rebinding needs a name.
	Hosts []string
	// Origins are the web origins whose pages may call, such as
	// "https://chat.example"; none by default.
	Origins []string

	MaxBody   int64         // of a request that is read whole, in bytes; default 64 MiB
	MaxAnswer int64         // tokens reserved for an answer that states no bound; default 4096
	BodyTime  time.Duration // for a request's body to arrive; default 1 min
	QueueTime time.Duration // to wait for a free place at most; default 5 min
	WriteTime time.Duration // for the caller to take what is sent; default 1 min

	// Watch is told of every call when it ends, and of the stages it is in; nil
	// is nobody.
	Watch Watch
}

// Ledger takes the account of each call. Err says why it cannot, at the
// moment; while it does not return nil nobody is let in.
type Ledger interface {
	Append(ledger.Record) error
	Err() error
}

// Watch observes calls, for metrics and traces.
type Watch interface {
	// Begin is called for each request and returns the context to go on with.
	Begin(*http.Request) context.Context
	// Waiting is called with +1 and -1 as a call enters and leaves the queue,
	// Streaming as it enters and leaves the upstream.
	Waiting(delta int)
	Streaming(delta int)
	// End is called with the account of the call.
	End(ctx context.Context, r *ledger.Record, identity *key.Identity)
}

// ServeHTTP is the whole way, in order. What denies a request says so in the
// caller's dialect and leaves one line in the ledger, like what is let in.
func (g *Gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c := g.begin(w, r)
	defer c.end()

	if !c.shapeOK() || !c.hostOK() || !c.originOK() {
		return
	}
	if err := g.Ledger.Err(); err != nil {
		c.deny(http.StatusServiceUnavailable, "ledger", "the gate cannot keep its ledger, so it lets nobody in")
		return
	}

	// Each stage keeps what it needs to itself: what stood here would stay on the
	// stack of every open stream.
	if !c.who() || !c.read() || !c.may() || !c.howMuch() {
		return
	}
	if c.route.Power == ollama.Infer && g.Queue != nil {
		leave, err := c.enter()
		if err != nil {
			c.busy(err)
			return
		}
		defer leave()
	}

	// In you go.
	c.record.Allowed = true
	c.forward()
}

// who are you?
func (c *call) who() bool {
	identity, refusal := c.gate.Door.Identify(c.r, c.from, c.began)
	if refusal != nil {
		c.refuse(refusal)
		return false
	}
	c.know(identity)
	return true
}

// may you?
func (c *call) may() bool {
	decision := policy.Decide(c.identity, policy.Request{
		Route: c.route, Known: c.known, Ask: c.ask, From: c.from, Now: c.began, Bytes: c.r.ContentLength,
		Elsewhere: c.gate.Elsewhere,
	})
	if !decision.Allow {
		c.deny(decision.Status, decision.Reason, decision.Message)
		return false
	}
	c.clamp(decision.Clamp)
	return true
}

// how much?
func (c *call) howMuch() bool {
	grant, over := c.gate.Limiter.Admit(c.identity.ID, c.identity.Terms.Limits, c.wants(), c.began)
	c.quota()
	if over != nil {
		c.tooMuch(over)
		return false
	}
	c.grant = grant
	return true
}

// enter waits for a place in front of the upstream.
func (c *call) enter() (leave func(), err error) {
	weight := c.identity.Terms.Limits.Weight
	if leave := c.gate.Queue.TryEnter(); leave != nil {
		return leave, nil
	}
	ctx, cancel := context.WithTimeout(c.ctx, orDefault(c.gate.QueueTime, 5*time.Minute))
	defer cancel()
	c.gate.watch().Waiting(1)
	defer c.gate.watch().Waiting(-1)
	return c.gate.Queue.Enter(ctx, c.identity.ID, weight)
}

// busy answers a call that got no place.
func (c *call) busy(err error) {
	switch {
	case c.r.Context().Err() != nil:
		c.gone()
	case errors.Is(err, limit.ErrFull):
		c.retryAfter(5 * time.Second)
		c.deny(http.StatusServiceUnavailable, "queue-full", "too many requests wait for the model; try again soon")
	default:
		c.retryAfter(10 * time.Second)
		c.deny(http.StatusServiceUnavailable, "queue-timeout", "no place became free in time; try again soon")
	}
}

// tooMuch answers a call that passes a limit of its key.
func (c *call) tooMuch(over *limit.Refusal) {
	c.retryAfter(over.RetryAfter)
	c.deny(http.StatusTooManyRequests, over.Reason, over.Message())
}

func orDefault[T comparable](v, fallback T) T {
	var zero T
	if v == zero {
		return fallback
	}
	return v
}

// addrOf is the caller's address as the connection has it; nothing that the
// caller says is believed.
func addrOf(r *http.Request) netip.Addr {
	ap, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	return ap.Addr().Unmap().WithZone("")
}
