// Package ledger is the account of who did what at the gate: one line for each
// decision, in files that are only ever added to. It never holds a prompt, an
// answer or a secret.
package ledger

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// Record is one line of the ledger. The JSON names are a contract; a field that
// is zero is left out, but for allowed and status of a request.
type Record struct {
	Time     time.Time
	Seq      uint64 // given by the log; grows by one with each record
	ID       string // the request's
	Event    string // "request", or what the gate itself did: "start", "stop", "config", "key"
	Identity Identity
	Address  string // the caller's
	Method   string
	Route    string // as the route table has it
	Power    string
	Model    string
	Digest   string // of the model, when it is known

	TokensIn, TokensOut int64 // of the prompt and the answer
	Estimated           bool  // the tokens were not all counted by the model
	BytesIn, BytesOut   int64 // of the bodies
	Status              int
	Duration            time.Duration // from the request's arrival to the end of its answer
	TTFT                time.Duration // to the first byte of the answer's body

	Allowed bool
	Reason  string // why not, or how it ended
	Error   string // what went wrong behind the gate
	Detail  string // of what is no request: what happened
}

// Identity is who the gate decided the caller was.
type Identity struct {
	Kind string
	ID   string
	Name string
}

// Request is the event of a record about a request.
const Request = "request"

// timeForm is RFC 3339 in UTC and of one length, so that times compare as texts.
const timeForm = "2006-01-02T15:04:05.000000Z"

// appendTo appends r as JSON, without the brace and the sequence number that
// the log puts before it.
func (r *Record) appendTo(b []byte) []byte {
	b = append(b, `"time":"`...)
	b = r.Time.UTC().AppendFormat(b, timeForm)
	b = append(b, '"')
	b = text(b, "id", r.ID)
	b = text(b, "event", r.Event)
	if r.Identity != (Identity{}) {
		b = append(b, `,"identity":{"kind":`...)
		b = quote(b, r.Identity.Kind)
		b = text(b, "id", r.Identity.ID)
		b = text(b, "name", r.Identity.Name)
		b = append(b, '}')
	}
	b = text(b, "address", r.Address)
	b = text(b, "method", r.Method)
	b = text(b, "route", r.Route)
	b = text(b, "power", r.Power)
	b = text(b, "model", r.Model)
	b = text(b, "digest", r.Digest)
	b = number(b, "tokens_in", r.TokensIn)
	b = number(b, "tokens_out", r.TokensOut)
	if r.Estimated {
		b = append(b, `,"estimated":true`...)
	}
	b = number(b, "bytes_in", r.BytesIn)
	b = number(b, "bytes_out", r.BytesOut)
	if r.Event == Request || r.Status != 0 {
		b = append(b, `,"status":`...)
		b = strconv.AppendInt(b, int64(r.Status), 10)
	}
	b = millis(b, "duration_ms", r.Duration)
	b = millis(b, "ttft_ms", r.TTFT)
	if r.Event == Request {
		b = append(b, `,"allowed":`...)
		b = strconv.AppendBool(b, r.Allowed)
	}
	b = text(b, "reason", r.Reason)
	b = text(b, "error", r.Error)
	b = text(b, "detail", r.Detail)
	return append(b, '}', '\n')
}

func text(b []byte, name, value string) []byte {
	if value == "" {
		return b
	}
	b = append(b, `,"`...)
	b = append(b, name...)
	b = append(b, `":`...)
	return quote(b, value)
}

// maxText bounds one text of a record, in bytes: a line stays far below what a
// reader takes.
const maxText = 1024

func quote(b []byte, value string) []byte {
	value = value[:min(len(value), maxText)]
	// Plain ASCII, which nearly all is, needs no look at each rune.
	for i := range len(value) {
		if c := value[i]; c < 0x20 || c >= 0x7f || c == '"' || c == '\\' {
			quoted, err := jsontext.AppendQuote(b, value)
			_ = err // invalid UTF-8 is replaced, and that is all there is to say of it
			return quoted
		}
	}
	b = append(b, '"')
	b = append(b, value...)
	return append(b, '"')
}

func number(b []byte, name string, n int64) []byte {
	if n == 0 {
		return b
	}
	b = append(b, `,"`...)
	b = append(b, name...)
	b = append(b, `":`...)
	return strconv.AppendInt(b, n, 10)
}

func millis(b []byte, name string, d time.Duration) []byte {
	if d <= 0 {
		return b
	}
	b = append(b, `,"`...)
	b = append(b, name...)
	b = append(b, `":`...)
	return strconv.AppendFloat(b, float64(d.Microseconds())/1000, 'f', -1, 64)
}

// appendSeq appends the beginning of a line.
func appendSeq(b []byte, seq uint64) []byte {
	b = append(b, `{"seq":`...)
	b = strconv.AppendUint(b, seq, 10)
	return append(b, ',')
}

// MarshalJSON is the line as the log writes it.
func (r Record) MarshalJSON() ([]byte, error) {
	b := r.appendTo(appendSeq(nil, r.Seq))
	return b[:len(b)-1], nil
}

// parse reads one line. A field that is not known is passed over: it is of a
// later release.
func parse(line []byte) (Record, error) {
	var w struct {
		Time     time.Time `json:"time"`
		Seq      uint64    `json:"seq"`
		ID       string    `json:"id"`
		Event    string    `json:"event"`
		Identity struct {
			Kind string `json:"kind"`
			ID   string `json:"id"`
			Name string `json:"name"`
		} `json:"identity"`
		Address    string  `json:"address"`
		Method     string  `json:"method"`
		Route      string  `json:"route"`
		Power      string  `json:"power"`
		Model      string  `json:"model"`
		Digest     string  `json:"digest"`
		TokensIn   int64   `json:"tokens_in"`
		TokensOut  int64   `json:"tokens_out"`
		Estimated  bool    `json:"estimated"`
		BytesIn    int64   `json:"bytes_in"`
		BytesOut   int64   `json:"bytes_out"`
		Status     int     `json:"status"`
		DurationMS float64 `json:"duration_ms"`
		TTFTMS     float64 `json:"ttft_ms"`
		Allowed    bool    `json:"allowed"`
		Reason     string  `json:"reason"`
		Error      string  `json:"error"`
		Detail     string  `json:"detail"`
	}
	if err := json.Unmarshal(line, &w); err != nil {
		return Record{}, fmt.Errorf("not a record: %w", err)
	}
	if w.Time.IsZero() || w.Event == "" {
		return Record{}, errors.New("not a record: it has no time or no event")
	}
	return Record{
		Time: w.Time, Seq: w.Seq, ID: w.ID, Event: w.Event, Identity: Identity(w.Identity), Address: w.Address,
		Method: w.Method, Route: w.Route, Power: w.Power, Model: w.Model, Digest: w.Digest,
		TokensIn: w.TokensIn, TokensOut: w.TokensOut, Estimated: w.Estimated, BytesIn: w.BytesIn, BytesOut: w.BytesOut,
		Status: w.Status, Duration: duration(w.DurationMS), TTFT: duration(w.TTFTMS),
		Allowed: w.Allowed, Reason: w.Reason, Error: w.Error, Detail: w.Detail,
	}, nil
}

// duration is ms milliseconds, to the microsecond to which it was written.
func duration(ms float64) time.Duration {
	return time.Duration(math.Round(min(max(ms, 0), 1e12)*1000)) * time.Microsecond
}
