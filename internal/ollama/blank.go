package ollama

import (
	"bytes"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// BlankShow returns the body of a POST /api/show without the texts that belong to
// somebody: each letter of the system prompt, template and licence is an x, and
// what repeats them (modelfile, messages) or is long and says nothing here
// (parameters, tensors) is gone. ParseShow reads the same from it. A body that
// ParseShow does not understand comes back as x alone, for a prompt may be in it.
func BlankShow(body []byte) []byte {
	var show map[string]jsontext.Value
	if _, err := ParseShow(body); err != nil || json.Unmarshal(body, &show) != nil {
		return bytes.Repeat([]byte("x"), len(body))
	}
	for _, name := range []string{"modelfile", "messages", "parameters", "tensors"} {
		delete(show, name)
	}
	for _, name := range []string{"system", "template", "license"} {
		var text string
		if show[name] == nil || json.Unmarshal(show[name], &text) != nil {
			continue
		}
		show[name] = jsontext.Value(`"` + strings.Repeat("x", len(text)) + `"`)
	}
	blank, err := json.Marshal(show, json.Deterministic(true))
	if err != nil {
		return bytes.Repeat([]byte("x"), len(body))
	}
	return blank
}
