package ollama

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/go-json-experiment/json/jsontext"
)

// listed is where the answers of the routes that list models have the list, and
// where its entries have the names.
var listed = map[routeKey]struct {
	member string
	names  []string
}{
	{"GET", "/api/tags"}:                 {"models", []string{"name", "model"}},
	{"GET", "/api/ps"}:                   {"models", []string{"name", "model"}},
	{"GET", "/v1/models"}:                {"data", []string{"id"}},
	{"GET", "/api/experimental/aliases"}: {"aliases", []string{"alias", "target"}},
}

// FilterModels takes out of the answer of a route that lists models, one with
// status 200, the entries with a name that keep does not want. The bytes of the
// others, and of what is around the list, stay as they came. An entry without a
// name is taken out. An answer of another shape is an error, and must not be
// passed on.
func FilterModels(r Route, body []byte, keep func(model string) bool) ([]byte, error) {
	list, ok := listed[r.key()]
	if !ok {
		return nil, fmt.Errorf("%s %s lists no models", r.Method, r.Pattern)
	}
	p := parser{dec: jsontext.NewDecoder(bytes.NewBuffer(body)), body: body}
	if p.dec.PeekKind() != '{' {
		return nil, errors.New("the list of models is no JSON object")
	}
	var entries []slot
	found, wanted := false, 0
	_, err := p.object([]string{list.member}, func(name string) error {
		found = true
		return p.array(name, func() error {
			if p.dec.PeekKind() != '{' {
				return p.wrong("each of "+name, "an object")
			}
			named, want := false, true
			o, err := p.object(list.names, func(name string) error {
				model, err := p.text(name)
				if model != "" {
					named, want = true, want && keep(model)
				}
				return err
			})
			if err != nil {
				return err
			}
			entry := slot{start: o.start - 1, end: o.end + 1, set: named && want}
			if entry.set {
				wanted++
			}
			entries = append(entries, entry)
			return nil
		})
	})
	if err != nil {
		return nil, fmt.Errorf("list of models: %w", err)
	}
	if _, err := p.dec.ReadToken(); err == nil || !found {
		return nil, errors.New("the list of models has not the shape of Ollama's")
	}
	if wanted == len(entries) {
		return body, nil
	}
	out := append(make([]byte, 0, len(body)), body[:entries[0].start]...)
	comma := false
	for _, e := range entries {
		if !e.set {
			continue
		}
		if comma {
			out = append(out, ',')
		}
		out = append(out, body[e.start:e.end]...)
		comma = true
	}
	return append(out, body[entries[len(entries)-1].end:]...), nil
}

// hider takes out of a stream of OpenAI's what it says of its usage: the event
// that has nothing else, and the member that /v1/completions has in each.
type hider struct {
	on   bool
	held []byte // of a line that is not whole yet
	long bool   // the line is too long to hold: it passes as it comes
	skip bool   // the empty line after an event that was taken out
	out  []byte
}

// maxLine is how much of a line is held, in bytes.
const maxLine = 1 << 20

// passHiding is Pass for a stream whose usage the caller is not to see.
func (m *Meter) passHiding(p []byte) []byte {
	h := &m.hide
	h.out = h.out[:0]
	for len(p) > 0 && !m.over {
		part, whole := p, false
		if end := bytes.IndexByte(p, '\n'); end >= 0 {
			part, whole = p[:end+1], true
		}
		p = p[len(part):]
		m.count(part)
		switch {
		case h.long:
			h.out = append(h.out, part...)
			h.long = !whole
		case len(h.held)+len(part) > maxLine:
			h.out = append(append(h.out, h.held...), part...)
			h.held, h.long = h.held[:0], !whole
		case !whole:
			h.held = append(h.held, part...)
		case len(h.held) > 0:
			h.held = append(h.held, part...)
			h.pass(h.held)
			h.held = h.held[:0]
		default:
			h.pass(part)
		}
	}
	return h.out
}

// pass passes on what of a line the caller is to see.
func (h *hider) pass(line []byte) {
	if h.skip {
		h.skip = false
		if len(bytes.TrimRight(line, "\r\n")) == 0 {
			return
		}
	}
	const data = "data:"
	if !bytes.HasPrefix(line, []byte(data)) || !bytes.Contains(line, []byte(`"usage"`)) {
		h.out = append(h.out, line...)
		return
	}
	body := line[len(data):]
	cut, alone := usageIn(body)
	if alone {
		h.skip = true
		return
	}
	h.out = append(h.out, line[:len(data)+cut.start]...)
	h.out = append(h.out, body[cut.end:]...)
}

// usageIn finds the member usage of a chunk, with the comma that goes with it,
// and whether the chunk is there for its sake alone. What is no chunk has none.
func usageIn(chunk []byte) (member slot, alone bool) {
	dec := jsontext.NewDecoder(bytes.NewBuffer(chunk))
	if dec.PeekKind() != '{' {
		return slot{}, false
	}
	if _, err := dec.ReadToken(); err != nil {
		return slot{}, false
	}
	noChoice := false
	for dec.PeekKind() == '"' {
		before := int(dec.InputOffset()) // the comma, if there is one, follows
		quoted, err := dec.ReadValue()
		if err != nil {
			return slot{}, false
		}
		name := string(quoted)
		value, err := dec.ReadValue()
		if err != nil {
			return slot{}, false
		}
		switch name {
		case `"choices"`:
			noChoice = value[0] == '[' && len(bytes.TrimSpace(value[1:len(value)-1])) == 0
		case `"usage"`:
			member = slot{start: before, end: int(dec.InputOffset()), set: true}
		}
	}
	if !member.set {
		return slot{}, false
	}
	// Of the first member it is the comma behind that goes.
	if at := bytes.TrimLeft(chunk[member.start:], " \t\r\n"); len(at) > 0 && at[0] != ',' {
		if rest := bytes.TrimLeft(chunk[member.end:], " \t\r\n"); len(rest) > 0 && rest[0] == ',' {
			member.end = len(chunk) - len(rest) + 1
		}
	}
	return member, noChoice
}
