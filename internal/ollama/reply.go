package ollama

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// Banner is the body of Ollama's answer to GET /.
const Banner = "Ollama is running"

// MaxModels is how many models a list may name before it is taken for hostile.
// Honest lists stay under a few hundred.
const MaxModels = 4096

// VersionReply is the answer to GET /api/version.
type VersionReply struct {
	Version string `json:"version"`
}

// TagsReply is the answer to GET /api/tags: the models on the server's disk.
type TagsReply struct {
	Models []Model `json:"models"`
}

// PsReply is the answer to GET /api/ps: the models in memory now.
type PsReply struct {
	Models []Running `json:"models"`
}

// Model is one entry of GET /api/tags. Size is in bytes on disk; Digest is the
// SHA-256 of the model's manifest, 64 hexadecimal digits.
type Model struct {
	Name        string  `json:"name"`
	Model       string  `json:"model"`
	RemoteModel string  `json:"remote_model,omitzero"`
	RemoteHost  string  `json:"remote_host,omitzero"`
	ModifiedAt  Time    `json:"modified_at"`
	Size        Int     `json:"size"`
	Digest      string  `json:"digest"`
	Details     Details `json:"details"`
}

// Details are a model's properties as its GGUF file states them.
type Details struct {
	ParentModel       string   `json:"parent_model"`
	Format            string   `json:"format"`
	Family            string   `json:"family"`
	Families          []string `json:"families"`
	ParameterSize     string   `json:"parameter_size"`     // such as "3.2B" or "134.52M"
	QuantizationLevel string   `json:"quantization_level"` // such as "Q4_K_M"
}

// Running is one entry of GET /api/ps. Size is the memory in use in bytes, of
// which SizeVRAM is on graphics processors.
type Running struct {
	Name          string  `json:"name"`
	Model         string  `json:"model"`
	Size          Int     `json:"size"`
	Digest        string  `json:"digest"`
	Details       Details `json:"details"`
	ExpiresAt     Time    `json:"expires_at"`
	SizeVRAM      Int     `json:"size_vram"`
	ContextLength Int     `json:"context_length"`
}

// ShowReply is what of the answer to POST /api/show is of use in judging a
// server. Texts that belong to the model's owner are kept by their length alone.
type ShowReply struct {
	Capabilities  []string
	ContextLength int64 // tokens the model was trained for; 0 when not stated
	SystemBytes   int   // length of the system prompt in bytes; 0 when there is none
	TemplateBytes int
	LicenseBytes  int
	RemoteHost    string
}

// ErrNoMember says that a reply is JSON but lacks the member that makes it a
// reply of Ollama's.
var ErrNoMember = errors.New("member missing")

// Int is an integer as a server sent it. Look-alikes send "" or 1.5 where
// Ollama sends an integer: that is kept as Odd instead of failing the reply.
type Int struct {
	N   int64
	Odd bool
}

// UnmarshalJSONFrom reads any JSON value; all but a 64-bit integer is Odd.
func (i *Int) UnmarshalJSONFrom(dec *jsontext.Decoder) error {
	v, err := dec.ReadValue()
	if err != nil {
		return err
	}
	if v.Kind() == '0' {
		// As json.Unmarshal would, without a decoder of its own for each number.
		n, err := strconv.ParseInt(string(v), 10, 64)
		if i.Odd = err != nil; !i.Odd {
			i.N = n
		}
		return nil
	}
	i.Odd = json.Unmarshal(v, &i.N) != nil
	return nil
}

// Time is a point in time as a server sent it; what is no RFC 3339 time is Odd.
type Time struct {
	time.Time
	Odd bool
}

// UnmarshalJSONFrom reads any JSON value; all but an RFC 3339 string is Odd.
func (t *Time) UnmarshalJSONFrom(dec *jsontext.Decoder) error {
	v, err := dec.ReadValue()
	if err != nil {
		return err
	}
	if v.Kind() == '"' && usualTime(v[1:len(v)-1]) {
		// As json.Unmarshal would, without a decoder of its own for each time.
		t.Odd = t.Time.UnmarshalText(v[1:len(v)-1]) != nil
		return nil
	}
	t.Odd = v.Kind() == 'n' || json.Unmarshal(v, &t.Time) != nil
	return nil
}

// usualTime reports whether text, if it is a time at all, has the form that Go
// writes. Package time alone takes more than RFC 3339 does: an hour of one digit,
// a comma before the fraction, zones a day or more away.
func usualTime(text []byte) bool {
	n := len(text)
	if n < len("2006-01-02T15:04:05Z") || text[13] != ':' || text[19] == ',' || bytes.IndexByte(text, '\\') >= 0 {
		return false
	}
	if text[n-1] == 'Z' {
		return true
	}
	return text[n-5] < '2' && text[n-2] < '6' // +19:59 at most
}

// list is a member that may be null but not absent.
type list[T any] struct {
	items   []T
	present bool
}

func (l *list[T]) UnmarshalJSONFrom(dec *jsontext.Decoder) error {
	l.present = true
	return json.UnmarshalDecode(dec, &l.items)
}

// ParseVersion reads the body of GET /api/version.
func ParseVersion(body []byte) (VersionReply, error) {
	var v VersionReply
	if err := unmarshal(body, &v); err != nil {
		return VersionReply{}, err
	}
	if v.Version == "" {
		return VersionReply{}, fmt.Errorf("version: %w", ErrNoMember)
	}
	return v, nil
}

// ParseTags reads the body of GET /api/tags. A server without models sends an
// empty list, or null before 0.1.25; a reply without the member is ErrNoMember.
func ParseTags(body []byte) (TagsReply, error) {
	models, err := parseModels[Model](body)
	return TagsReply{models}, err
}

// ParsePs reads the body of GET /api/ps.
func ParsePs(body []byte) (PsReply, error) {
	models, err := parseModels[Running](body)
	return PsReply{models}, err
}

func parseModels[T any](body []byte) ([]T, error) {
	var reply struct {
		Models list[T] `json:"models"`
	}
	if err := unmarshal(body, &reply); err != nil {
		return nil, err
	}
	if !reply.Models.present {
		return nil, fmt.Errorf("models: %w", ErrNoMember)
	}
	if n := len(reply.Models.items); n > MaxModels {
		return nil, fmt.Errorf("%d models listed, more than %d", n, MaxModels)
	}
	return reply.Models.items, nil
}

// ParseShow reads the body of POST /api/show and keeps the lengths of its texts,
// not the texts.
func ParseShow(body []byte) (ShowReply, error) {
	var raw struct {
		License      string                    `json:"license"`
		Template     string                    `json:"template"`
		System       string                    `json:"system"`
		RemoteHost   string                    `json:"remote_host"`
		ModelInfo    map[string]jsontext.Value `json:"model_info"`
		Capabilities []string                  `json:"capabilities"`
	}
	if err := unmarshal(body, &raw); err != nil {
		return ShowReply{}, err
	}
	r := ShowReply{
		Capabilities:  raw.Capabilities,
		SystemBytes:   len(raw.System),
		TemplateBytes: len(raw.Template),
		LicenseBytes:  len(raw.License),
		RemoteHost:    raw.RemoteHost,
	}
	for name, value := range raw.ModelInfo {
		// GGUF prefixes the key with the architecture: llama.context_length.
		if strings.HasSuffix(name, ".context_length") {
			var n Int
			if json.Unmarshal(value, &n) == nil && !n.Odd {
				r.ContextLength = max(r.ContextLength, n.N)
			}
		}
	}
	return r, nil
}

// unmarshal reads JSON strictly: a name that appears twice in an object, bytes
// that are not UTF-8, nesting deeper than 10,000 and trailing data are errors,
// as RFC 7493 (I-JSON) has it. Ollama sends none of them. Members that the type
// does not know are passed over, for new releases add some.
func unmarshal(body []byte, to any) error {
	if err := json.Unmarshal(body, to); err != nil {
		return fmt.Errorf("not the JSON of Ollama: %w", err)
	}
	return nil
}
