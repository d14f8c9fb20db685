package gateway

import (
	"bytes"
	"errors"
	"net/http"
	"strconv"
	"time"

	"gatehouse/internal/ollama"
	"gatehouse/internal/policy"
)

// answer is the way back: it passes on what the upstream sends as it comes,
// counts it, and ends it where the key's tokens end. Lists of models are held
// until they are whole, and cut down to the key's.
type answer struct {
	call    *call
	w       http.ResponseWriter
	control *http.ResponseController

	status int
	whole  bool // the answer states its length
	bytes  int64
	first  time.Time // when the first byte of the body passed
	meter  *ollama.Meter
	cut    bool  // ended by the gate
	failed error // the caller does not take it

	list    *bytes.Buffer // of a list that is held; nil when nothing is
	patient time.Time     // until when the caller has time to take what is sent
}

// maxList bounds a list of models that is held, in bytes.
const maxList = 16 << 20

var (
	errCut     = errors.New("the key's tokens are used up")
	errTooLong = errors.New("the list of models is too long")
)

func newAnswer(c *call) *answer {
	a := &answer{call: c, w: c.w, control: c.control}
	if c.route.Power == ollama.Infer {
		a.meter = c.ask.Meter()
		if budget := c.grant.Budget(); budget >= 0 {
			a.meter.Limit(budget)
		}
	}
	return a
}

func (a *answer) Header() http.Header { return a.w.Header() }

func (a *answer) WriteHeader(status int) {
	if status >= 100 && status < 200 {
		return // the gate has nothing to say before the answer
	}
	if a.status != 0 {
		return
	}
	a.status = status
	h := a.w.Header()
	h[requestID] = []string{a.call.record.ID}
	// What comes whole is passed on whole; only a stream can be cut.
	a.whole = len(h["Content-Length"]) > 0
	if a.call.route.ListsModels() && status == http.StatusOK && !policy.AllowsEveryModel(a.call.identity.Terms) {
		h.Del("Content-Length") // of a list that is not this key's
		if a.call.r.Method != http.MethodHead {
			a.list = new(bytes.Buffer)
			return
		}
	}
	a.w.WriteHeader(status)
}

func (a *answer) Write(p []byte) (int, error) {
	if a.status == 0 {
		a.WriteHeader(http.StatusOK)
	}
	if a.cut {
		return 0, errCut
	}
	if a.first.IsZero() && len(p) > 0 {
		a.first = time.Now()
	}
	if a.list != nil {
		if a.list.Len()+len(p) > maxList {
			return 0, errTooLong
		}
		return a.list.Write(p)
	}
	out := p
	if a.meter != nil {
		out = a.meter.Pass(p)
	}
	if err := a.send(out); err != nil {
		return 0, err
	}
	if a.meter != nil && !a.whole && a.meter.Over() {
		a.end()
		return 0, errCut
	}
	return len(p), nil
}

// send writes to the caller, who has to take it in time.
func (a *answer) send(p []byte) error {
	if len(p) == 0 {
		return nil
	}
	wait := orDefault(a.call.gate.WriteTime, time.Minute)
	if now := time.Now(); a.patient.Sub(now) < wait/2 {
		a.patient = now.Add(wait)
		_ = a.control.SetWriteDeadline(a.patient)
	}
	n, err := a.w.Write(p)
	a.bytes += int64(n)
	if err != nil {
		a.failed = err
	}
	return err
}

// FlushError sends on what was written. ReverseProxy calls it after each read
// of a stream, and once before: a header alone is not worth a packet, and what
// comes whole is sent when it ends.
func (a *answer) FlushError() error {
	if a.list != nil || a.cut || a.whole || a.bytes == 0 {
		return nil
	}
	err := a.control.Flush()
	if err != nil {
		a.failed = err
	}
	return err
}

// end ends the stream in the words of its dialect. The error that Write returns
// then has the upstream let go.
func (a *answer) end() {
	a.cut = true
	if line := a.meter.CutLine("the key's tokens are used up"); len(line) > 0 && a.send(line) == nil {
		_ = a.control.Flush()
	}
}

// finish sends what was held back.
func (a *answer) finish() {
	if a.meter != nil && !a.cut && a.failed == nil {
		_ = a.send(a.meter.Rest())
	}
	if a.list == nil {
		return
	}
	keep := func(model string) bool { return policy.AllowsModel(a.call.identity.Terms, model) }
	body, err := ollama.FilterModels(a.call.route, a.list.Bytes(), keep)
	a.list = nil
	if err != nil {
		a.status, a.bytes = 0, 0
		c := a.call
		c.answer = nil
		c.record.Allowed = false
		c.deny(http.StatusBadGateway, "upstream-garbage", "what answers behind the gate is no list of models")
		return
	}
	a.w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	a.w.WriteHeader(a.status)
	_ = a.send(body)
}

// usage is what the call used, as far as it came.
func (a *answer) usage() ollama.Usage {
	if a.meter == nil {
		return ollama.Usage{}
	}
	return a.meter.Usage()
}
