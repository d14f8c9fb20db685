package gateway

import (
	"math"
	"net/http"
	"strconv"
	"time"

	"gatehouse/internal/key"
	"gatehouse/internal/limit"
	"gatehouse/internal/ollama"
)

// deny answers in the gate's own name, in the dialect that the caller speaks,
// and notes why.
func (c *call) deny(status int, reason, message string) {
	if c.asked {
		status = proxyStatus(status)
	}
	c.record.Status, c.record.Reason, c.record.Allowed = status, reason, false
	contentType, body := ollama.Refuse(c.dialect(), status, reason, message)
	h := c.w.Header()
	h.Set("Content-Type", contentType)
	h.Set("Content-Length", strconv.Itoa(len(body)))
	c.w.WriteHeader(status)
	if c.r.Method != http.MethodHead {
		n, _ := c.w.Write(body) // a caller gone is no matter
		c.record.BytesOut = int64(n)
	}
}

// dialect is the one to answer in, also where the route is none of Ollama's.
func (c *call) dialect() ollama.Dialect {
	if c.known {
		return c.route.Dialect()
	}
	return ollama.DialectOf(c.r.URL.Path)
}

// refuse answers a caller who did not show who it is.
func (c *call) refuse(refusal *key.Refusal) {
	c.record.Identity.ID = refusal.KeyID
	if refusal.RetryAfter > 0 {
		c.retryAfter(refusal.RetryAfter)
		c.deny(http.StatusTooManyRequests, refusal.Reason, refusal.Message)
		return
	}
	c.w.Header().Set("WWW-Authenticate", `Bearer realm="gatehouse"`)
	c.deny(http.StatusUnauthorized, refusal.Reason, refusal.Message)
}

// gone notes a caller that left before its turn.
func (c *call) gone() {
	c.record.Status, c.record.Reason = 499, "client-gone" // nginx's number for it; nobody reads it
}

// quota tells the caller how far it is from its limits, in the headers that
// clients of each dialect look for.
func (c *call) quota() {
	limits := c.identity.Terms.Limits
	if limits.PerMinute == 0 && limits.TokensMinute == 0 {
		return
	}
	requests, tokens := c.gate.Limiter.States(c.identity.ID, limits, c.began)
	h, names := c.w.Header(), &quotaNames
	anthropic := c.dialect() == ollama.Anthropic
	if anthropic {
		names = &quotaNamesAnthropic
	}
	var values [6]string
	for i, s := range []limit.State{requests, tokens} {
		if s.Limit == 0 {
			continue
		}
		v := values[3*i : 3*i+3]
		v[0], v[1] = strconv.FormatInt(s.Limit, 10), strconv.FormatInt(s.Remaining, 10)
		if anthropic {
			v[2] = c.began.Add(s.Reset).UTC().Format(time.RFC3339)
		} else {
			v[2] = s.Reset.Round(time.Millisecond).String()
		}
		for j := range v {
			h[names[3*i+j]] = v[j : j+1 : j+1]
		}
	}
}

// quotaNames are the headers of quota, as http.Header writes names.
var (
	quotaNames = [6]string{
		"X-Ratelimit-Limit-Requests", "X-Ratelimit-Remaining-Requests", "X-Ratelimit-Reset-Requests",
		"X-Ratelimit-Limit-Tokens", "X-Ratelimit-Remaining-Tokens", "X-Ratelimit-Reset-Tokens",
	}
	quotaNamesAnthropic = [6]string{
		"Anthropic-Ratelimit-Requests-Limit", "Anthropic-Ratelimit-Requests-Remaining", "Anthropic-Ratelimit-Requests-Reset",
		"Anthropic-Ratelimit-Tokens-Limit", "Anthropic-Ratelimit-Tokens-Remaining", "Anthropic-Ratelimit-Tokens-Reset",
	}
)

// retryAfter says when to come again, in whole seconds (RFC 9110, section 10.2.3).
func (c *call) retryAfter(d time.Duration) {
	seconds := max(1, int64(math.Ceil(d.Seconds())))
	c.w.Header().Set("Retry-After", strconv.FormatInt(seconds, 10))
}

// UpstreamFailed answers for an upstream that gave no answer of its own; err is
// for the log, not for the caller. It is for the upstream's proxy to call with
// the writer that the gateway gave it.
func UpstreamFailed(w http.ResponseWriter, r *http.Request, err error) {
	a, ok := w.(*answer)
	if !ok || a.status != 0 {
		panic(http.ErrAbortHandler)
	}
	c := a.call
	c.answer = nil
	if c.r.Context().Err() != nil {
		c.gone()
		return
	}
	c.record.Error = err.Error()
	c.retryAfter(5 * time.Second)
	c.deny(http.StatusBadGateway, "upstream-down", "no Ollama behind the gate answers; try again soon")
	c.record.Allowed = true // it was let in; what it wanted was not there
}
