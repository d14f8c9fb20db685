// Package evidence is the unedited record of what one place said when it was
// asked: each request, the answer byte for byte up to a limit, and how it ended.
// It never judges; package finding does, again and again, from the same record.
package evidence

import (
	"net/http"
	"net/netip"
	"net/textproto"
	"strings"
	"time"
)

// Reach is how far the conversation with a place got.
type Reach string

// How far a conversation can get.
const (
	Refused  Reach = "refused"  // the connection was reset or rejected
	Silent   Reach = "silent"   // nothing came back in time
	Broken   Reach = "broken"   // something came back that is not HTTP, or breaks its rules or a budget
	Answered Reach = "answered" // at least one whole HTTP answer
	Unasked  Reach = "unasked"  // somebody else saw the port open, and nothing of what is behind it
)

// Host is the record of one place at one time. A host may be a liar: every
// string in it, except where said, is the host's own and may hold anything.
type Host struct {
	Target     string     `json:"target"` // what the user asked for; ours
	Address    netip.Addr `json:"address"`
	Port       uint16     `json:"port"`
	Name       string     `json:"name,omitzero"` // Host and SNI asked for; ours
	Path       string     `json:"path,omitzero"` // prefix before every request path; ours
	ObservedAt time.Time  `json:"observed_at"`
	Reach      Reach      `json:"reach"`
	Reason     string     `json:"reason,omitzero"` // why it is not Answered, or what went wrong after; ours
	TLS        *TLS       `json:"tls,omitzero"`
	Exchanges  []Exchange `json:"exchanges,omitzero"`
}

// TLS is what the handshake showed. An invalid certificate is recorded here and
// stops nothing: the question is what answers, not whether to trust it.
type TLS struct {
	Version   string    `json:"version"`
	Names     []string  `json:"names,omitzero"` // of the certificate
	Subject   string    `json:"subject,omitzero"`
	Issuer    string    `json:"issuer,omitzero"`
	NotBefore time.Time `json:"not_before,omitzero"`
	NotAfter  time.Time `json:"not_after,omitzero"`
	SHA256    string    `json:"sha256,omitzero"`  // of the leaf certificate, hexadecimal
	Invalid   string    `json:"invalid,omitzero"` // why a browser would object; ours
}

// Ask names a request that a probe can make.
type Ask string

// The requests that a probe can make. The first four are all that is asked by
// default; Show is asked for details, and the rest to prove powers.
const (
	Root    Ask = "root"    // GET /
	Version Ask = "version" // GET /api/version
	Tags    Ask = "tags"    // GET /api/tags
	Ps      Ask = "ps"      // GET /api/ps

	Show Ask = "show" // POST /api/show for one model that the server listed

	NoModel    Ask = "no-model"    // GET /v1/models/{a name that cannot exist}
	NoPath     Ask = "no-path"     // GET of a path that no Ollama has
	ProveRead  Ask = "read"        // POST /api/show, no body
	ProveInfer Ask = "infer"       // POST /api/generate, no body
	ProveChat  Ask = "infer-chat"  // POST /v1/chat/completions, no body
	Delete     Ask = "manage"      // DELETE /api/delete, no body
	Pull       Ask = "manage-pull" // POST /api/pull, no body
	Create     Ask = "manage-new"  // POST /api/create, no body
	Blob       Ask = "manage-blob" // POST /api/blobs/x: not a digest
	Rebind     Ask = "rebind"      // GET /api/version, Host: a name that is not the server's
	Origin     Ask = "origin"      // GET /api/version, Origin: a web page that is not the server's
)

// Exchange is one request and its answer.
type Exchange struct {
	Ask    Ask           `json:"ask"`
	Method string        `json:"method"`         // ours
	Path   string        `json:"path"`           // ours, prefix included
	Model  string        `json:"model,omitzero"` // for Show: the model asked about
	Proto  string        `json:"proto,omitzero"`
	Status int           `json:"status,omitzero"` // 0 when no whole answer came
	Reason string        `json:"reason_phrase,omitzero"`
	Header []Field       `json:"header,omitzero"`  // in the order they came
	Body   []byte        `json:"body,omitzero"`    // decoded from chunks and gzip, cut at the budget; of Show without its texts
	Cut    bool          `json:"cut,omitzero"`     // the body was longer than the budget
	Took   time.Duration `json:"took_ns,omitzero"` // from sending the request to the last byte
	Error  string        `json:"error,omitzero"`   // what broke this answer; ours
	// Retold says who told of this answer, where it was not heard from the host
	// itself; ours. Its form then says nothing: fields may have been left out, and
	// the rest put into this shape.
	Retold string `json:"retold,omitzero"`
}

// Field is one header line, its name as the host spelt it.
type Field struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// Get returns the first value of the header name, "" when there is none.
func (x *Exchange) Get(name string) string {
	for _, f := range x.Header {
		if strings.EqualFold(f.Name, name) {
			return f.Value
		}
	}
	return ""
}

// HTTPHeader returns the header in net/http's form, which loses the order.
func (x *Exchange) HTTPHeader() http.Header {
	h := make(http.Header, len(x.Header))
	for _, f := range x.Header {
		h.Add(textproto.CanonicalMIMEHeaderKey(f.Name), f.Value)
	}
	return h
}

// Find returns the first exchange that asked ask, nil when it was not asked.
func (h *Host) Find(ask Ask) *Exchange {
	for i := range h.Exchanges {
		if h.Exchanges[i].Ask == ask {
			return &h.Exchanges[i]
		}
	}
	return nil
}
