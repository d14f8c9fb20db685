package dataset

import (
	"bytes"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"gatehouse/internal/evidence"
	"gatehouse/internal/ollama"
)

// story is the evidence of one place as an export tells it.
type story struct {
	Row
	source string
	others []string // protocols other than HTTP that something answered in
}

func (s *story) claim(what, value string) {
	if value = strings.TrimSpace(value); value == "" {
		return
	}
	source := s.source
	if !s.Host.ObservedAt.IsZero() {
		source += " " + s.Host.ObservedAt.Format("2006-01-02")
	}
	s.Claims = append(s.Claims, Claim{What: what, Value: value, Source: source})
}

// country claims a country, which is two letters; exports have "ZZ" or "-" where
// they do not know.
func (s *story) country(code string) {
	code = strings.ToUpper(strings.TrimSpace(code))
	if len(code) == 2 && code != "ZZ" && code != "XX" && strings.Trim(code, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") == "" {
		s.claim("country", code)
	}
}

// routes are the requests that a probe makes and an export may hold.
var routes = map[evidence.Ask]string{
	evidence.Root: "/", evidence.Version: "/api/version", evidence.Tags: "/api/tags", evidence.Ps: "/api/ps",
}

// askOf is the request that path answers; false when a probe makes no such.
func askOf(path string) (evidence.Ask, bool) {
	path, _, _ = strings.Cut(path, "?")
	if path == "" {
		path = "/"
	}
	for ask, p := range routes {
		if p == path {
			return ask, true
		}
	}
	return "", false
}

// exchange adds an answer, unless one to the same request is there already.
func (s *story) exchange(x evidence.Exchange) {
	if s.Host.Find(x.Ask) != nil {
		return
	}
	x.Method, x.Path = "GET", routes[x.Ask]
	if x.Retold == "" {
		x.Retold = s.source
	}
	s.Host.Exchanges = append(s.Host.Exchanges, x)
}

// says adds an answer in JSON, re-made from fields.
func (s *story) says(ask evidence.Ask, reply any) {
	body, err := json.Marshal(reply, jsontext.AllowInvalidUTF8(true), json.Deterministic(true))
	if err == nil {
		s.exchange(evidence.Exchange{Ask: ask, Status: http.StatusOK, Body: body})
	}
}

// version adds the answer that a version was taken from.
func (s *story) version(v string) {
	if v = strings.TrimSpace(v); v != "" {
		s.says(evidence.Version, ollama.VersionReply{Version: v})
	}
}

// product adds the banner that an export's name for the product stands for. A
// version beside it is Ollama's own; beside any other name it is not.
func (s *story) product(name, version string) {
	if !namesOllama(name) {
		return
	}
	x := evidence.Exchange{
		Ask: evidence.Root, Status: http.StatusOK, Body: []byte(ollama.Banner),
		Retold: s.source + ", which names the product",
	}
	if had := s.Host.Find(evidence.Root); had != nil && had.Status == http.StatusOK && len(had.Body) == 0 {
		had.Body, had.Retold = x.Body, x.Retold // the export has the header alone
	}
	s.exchange(x)
	s.version(version)
}

func namesOllama(s string) bool { return strings.Contains(strings.ToLower(s), "ollama") }

// model is a model in whichever form an export has it: as Ollama does, or with
// the details beside the name, as Censys does.
type model struct {
	Name         word                  `json:"name,omitzero"`
	Model        word                  `json:"model,omitzero"`
	ModifiedAt   word                  `json:"modified_at,omitzero"`
	Size         jsontext.Value        `json:"size,omitzero"`
	Digest       word                  `json:"digest,omitzero"`
	RemoteModel  word                  `json:"remote_model,omitzero"`
	RemoteHost   word                  `json:"remote_host,omitzero"`
	Details      maybe[map[string]any] `json:"details"`
	Family       word                  `json:"family,omitzero"`
	ParentModel  word                  `json:"parent_model,omitzero"`
	Parameters   word                  `json:"parameter_size,omitzero"`
	Quantization word                  `json:"quantization_level,omitzero"`
	ExpiresAt    word                  `json:"expires_at,omitzero"`
	SizeVRAM     jsontext.Value        `json:"size_vram,omitzero"`
}

// UnmarshalJSONFrom reads an object, or a name alone.
func (m *model) UnmarshalJSONFrom(dec *jsontext.Decoder) error {
	if dec.PeekKind() == '"' {
		return m.Name.UnmarshalJSONFrom(dec)
	}
	type plain model
	return json.UnmarshalDecode(dec, (*plain)(m))
}

// shape is the model in Ollama's shape, without what the export does not hold.
func (m *model) shape() map[string]any {
	o := map[string]any{}
	put := func(o map[string]any, name string, value word) {
		if value != "" {
			o[name] = string(value)
		}
	}
	put(o, "name", orElse(m.Name, m.Model))
	put(o, "model", orElse(m.Model, m.Name))
	put(o, "modified_at", m.ModifiedAt)
	put(o, "digest", m.Digest)
	put(o, "remote_model", m.RemoteModel)
	put(o, "remote_host", m.RemoteHost)
	put(o, "expires_at", m.ExpiresAt)
	if len(m.Size) > 0 {
		o["size"] = m.Size
	}
	if len(m.SizeVRAM) > 0 {
		o["size_vram"] = m.SizeVRAM
	}
	details := m.Details.T
	if details == nil {
		details = map[string]any{}
	}
	put(details, "family", m.Family)
	put(details, "parent_model", m.ParentModel)
	put(details, "parameter_size", m.Parameters)
	put(details, "quantization_level", m.Quantization)
	if len(details) > 0 {
		o["details"] = details
	}
	return o
}

func orElse(a, b word) word {
	if a != "" {
		return a
	}
	return b
}

// models adds a list of models as the answer to ask.
func (s *story) models(ask evidence.Ask, list []model) {
	items := make([]map[string]any, 0, len(list))
	for i := range list {
		items = append(items, list[i].shape())
	}
	s.says(ask, map[string]any{"models": items})
}

// tells is what an export says of an Ollama in fields of its own.
type tells struct {
	Version word            `json:"version"`
	Models  *several[model] `json:"models"`
	Running *several[model] `json:"running_models"`
	Ps      maybe[modelsOf] `json:"ps"`
	Tags    maybe[modelsOf] `json:"tags"`
}

type modelsOf struct {
	Models *several[model] `json:"models"`
}

func (s *story) ollama(t *tells) {
	s.version(string(t.Version))
	for _, list := range []*several[model]{t.Models, t.Tags.T.Models} {
		if list != nil {
			s.models(evidence.Tags, *list)
		}
	}
	for _, list := range []*several[model]{t.Running, t.Ps.T.Models} {
		if list != nil {
			s.models(evidence.Ps, *list)
		}
	}
}

// raw adds what a host answered to GET /, as bytes: a status line, the header,
// and the body if the export has it here.
func (s *story) raw(ask evidence.Ask, text []byte) bool {
	head, body, whole := bytes.Cut(text, []byte("\r\n\r\n"))
	if !whole {
		head, body, _ = bytes.Cut(text, []byte("\n\n"))
	}
	status, fields, _ := bytes.Cut(head, []byte("\n"))
	proto, rest, _ := strings.Cut(strings.TrimSpace(string(status)), " ")
	code, reason, _ := strings.Cut(rest, " ")
	n, err := strconv.Atoi(code)
	if !strings.HasPrefix(proto, "HTTP/") || err != nil || n < 100 || n > 999 {
		return false
	}
	x := evidence.Exchange{Ask: ask, Proto: proto, Status: n, Reason: reason, Body: bytes.Clone(body)}
	for line := range bytes.Lines(fields) {
		if name, value, ok := strings.Cut(strings.TrimSpace(string(line)), ":"); ok && name != "" {
			x.Header = append(x.Header, evidence.Field{Name: name, Value: strings.TrimSpace(value)})
		}
	}
	s.exchange(x)
	return true
}

// end closes the story of a port that was open and hands it out.
func (s *story) end(emit func(Row) error) error {
	if len(s.Host.Exchanges) > 0 {
		s.Host.Reach = evidence.Answered
		return emit(s.Row)
	}
	s.Host.Reach, s.Host.Reason = evidence.Unasked, "port open, not asked"
	if len(s.others) > 0 {
		s.Host.Reason = fmt.Sprintf("port open, asked in %.40s only", s.others[0])
	}
	return emit(s.Row)
}

// isHTTP reports whether an export's name for a protocol is one in which an
// Ollama may answer.
func isHTTP(name string) bool {
	name = strings.ToLower(name)
	return name == "" || strings.Contains(name, "http") || namesOllama(name) || name == "unknown" || name == "ssl" || name == "ssl/tls" || name == "tcpwrapped"
}
