package ollama_test

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"gatehouse/internal/ollama"
)

// begins keeps models whose names begin so.
func begins(prefix string) func(string) bool {
	return func(model string) bool { return strings.HasPrefix(model, prefix) }
}

func TestFilterModels(t *testing.T) {
	a := `{"name":"a1","model":"a1", "digest" : "00", "details":{"families":["x",null]}}`
	b := `{"model":"b1","name":"b1"}`
	for _, test := range []struct{ pattern, body, keep, want string }{
		{"/api/tags", `{"models":[` + a + `,` + b + `]}`, "", `{"models":[` + a + `,` + b + `]}`},
		{"/api/tags", `{"models":[` + a + `,` + b + `]}`, "a", `{"models":[` + a + `]}`},
		{"/api/tags", `{"models":[` + a + `,` + b + `]}`, "b", `{"models":[` + b + `]}`},
		{"/api/tags", `{"models":[` + a + `,` + b + `]}`, "c", `{"models":[]}`},
		{"/api/tags", ` {"x":1, "models" : [ ` + b + ` , ` + a + ` , ` + b + " ] , \"y\":{} }\n", "a", ` {"x":1, "models" : [ ` + a + " ] , \"y\":{} }\n"},
		{"/api/tags", ` { "models" : [ ` + a + ` , ` + b + ` , ` + a + ` ] }`, "a", ` { "models" : [ ` + a + "," + a + ` ] }`},
		{"/api/tags", `{"models":[]}`, "a", `{"models":[]}`},
		{"/api/tags", `{"models":null}`, "a", `{"models":null}`},
		{"/api/tags", `{"models":[{"name":"a1","model":"b1"},{"model":"a2"},{"digest":"x"},{"name":""}]}`, "a", `{"models":[{"model":"a2"}]}`},
		{"/api/tags", `{"models":[{"n\u0061me":"b1"}]}`, "a", `{"models":[]}`},
		{"/api/ps", `{"models":[` + a + `,` + b + `]}`, "b", `{"models":[` + b + `]}`},
		{"/v1/models", `{"object":"list","data":[{"id":"a1","object":"model"},{"id":"b1"}]}`, "a", `{"object":"list","data":[{"id":"a1","object":"model"}]}`},
		{"/v1/models", `{"object":"list","data":null}`, "a", `{"object":"list","data":null}`},
		{"/api/experimental/aliases", `{"aliases":[{"alias":"a1","target":"b1"},{"alias":"a1","target":"a2"}]}`, "a", `{"aliases":[{"alias":"a1","target":"a2"}]}`},
	} {
		r, ok := ollama.Classify("GET", test.pattern)
		if !ok {
			t.Fatal(test.pattern)
		}
		got, err := ollama.FilterModels(r, []byte(test.body), begins(test.keep))
		if err != nil || string(got) != test.want {
			t.Errorf("%s %s with %q: %v\n got %s\nwant %s", test.pattern, test.body, test.keep, err, got, test.want)
		}
	}
	for _, name := range []string{"tags", "ps-loaded", "v1-models"} {
		for version, body := range captured(t, name) {
			pattern := map[string]string{"tags": "/api/tags", "ps-loaded": "/api/ps", "v1-models": "/v1/models"}[name]
			r, _ := ollama.Classify("GET", pattern)
			got, err := ollama.FilterModels(r, body, begins("tiny"))
			if err != nil || !bytes.Equal(got, body) {
				t.Errorf("%s of %s: %v, %s", name, version, err, got)
			}
			if got, err = ollama.FilterModels(r, body, begins("other")); err != nil || bytes.Contains(got, []byte("tiny")) {
				t.Errorf("%s of %s: %v, %s", name, version, err, got)
			}
		}
	}
}

// What is not surely the list is not passed on.
func TestFilterModelsRefuses(t *testing.T) {
	tags, _ := ollama.Classify("GET", "/api/tags")
	for _, body := range []string{
		"", "null", "[]", `{"error":"x"}`, `{"models":{}}`, `{"models":["a"]}`, `{"models":[null]}`, `{"models":[{"name":1}]}`,
		`{"models":[{"name":"a"}]`, `{"models":[]}{"models":[{"name":"b"}]}`, `{"models":[],"models":[{"name":"b"}]}`,
		`{"models":[],"Models":[{"name":"b"}]}`, `{"models":[{"name":"a","Name":"b"}]}`, `{"models":[{"name":"a","name":"b"}]}`,
		"{\"models\":[{\"name\":\"\xff\"}]}", "<html>",
	} {
		if got, err := ollama.FilterModels(tags, []byte(body), begins("")); err == nil {
			t.Errorf("%s passes as %s", body, got)
		}
	}
	if _, err := ollama.FilterModels(route(t, "/api/show"), []byte(`{"models":[]}`), begins("")); err == nil {
		t.Error("show lists models")
	}
}

// Nothing passes that a decoder would read as a model that was not wanted, and
// what was wanted passes as it came.
func FuzzFilterModels(f *testing.F) {
	f.Add(realTags, "gpt")
	f.Add(realPs, "tiny")
	f.Add(`{"models":[{"name":"a"},{"name":"b"} , {"name":"a","model":"c"}], "x":[{"name":"b"}]}`, "a")
	tags, _ := ollama.Classify("GET", "/api/tags")
	f.Fuzz(func(t *testing.T, body, prefix string) {
		got, err := ollama.FilterModels(tags, []byte(body), begins(prefix))
		if err != nil {
			return
		}
		var before, after struct {
			Models []json.RawMessage `json:"models"`
		}
		if json.Unmarshal([]byte(body), &before) != nil || json.Unmarshal(got, &after) != nil {
			t.Fatalf("%s became %s", body, got)
		}
		want := before.Models[:0:0]
		for _, entry := range before.Models {
			var names struct {
				Name  string `json:"name"`
				Model string `json:"model"`
			}
			if err := json.Unmarshal(entry, &names); err != nil {
				t.Fatalf("%s: %v", entry, err)
			}
			if names.Name+names.Model != "" && (names.Name == "" || strings.HasPrefix(names.Name, prefix)) &&
				(names.Model == "" || strings.HasPrefix(names.Model, prefix)) {
				want = append(want, entry)
			}
		}
		if !slices.EqualFunc(after.Models, want, func(a, b json.RawMessage) bool { return bytes.Equal(a, b) }) {
			t.Fatalf("%s with %q became %s", body, prefix, got)
		}
		again, err := ollama.FilterModels(tags, got, begins(prefix))
		if err != nil || !bytes.Equal(again, got) {
			t.Fatalf("%s, again %s, %v", got, again, err)
		}
	})
}
