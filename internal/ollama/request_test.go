package ollama_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"gatehouse/internal/ollama"
)

// route finds a route of the table by its pattern; the method is the one with a
// body.
func route(t testing.TB, pattern string) ollama.Route {
	t.Helper()
	i := slices.IndexFunc(ollama.Routes, func(r ollama.Route) bool {
		return r.Pattern == pattern && r.Method != http.MethodHead && (r.Method != http.MethodGet || !strings.HasPrefix(pattern, "/api/e"))
	})
	if i < 0 {
		t.Fatalf("no route %s", pattern)
	}
	return ollama.Routes[i]
}

func ask(t testing.TB, pattern, body string) *ollama.Ask {
	t.Helper()
	a, err := ollama.ParseAsk(route(t, pattern), "application/json", []byte(body))
	if err != nil {
		t.Fatalf("%s %s: %v", pattern, body, err)
	}
	return a
}

// said is what of an Ask a test compares, in one line.
func said(a *ollama.Ask) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s", strings.Join(a.Models, " "))
	for _, part := range []struct {
		name string
		say  bool
		v    any
	}{
		{"every", a.EveryModel, nil},
		{"stream", a.Stream, nil},
		{"ctx", a.NumCtx != 0, a.NumCtx},
		{"max", a.MaxTokens != 0, a.MaxTokens},
		{"keep", a.KeepAlive != nil, a.KeepAlive},
		{"unload", a.Unload, nil},
		{"images", a.Images != 0, a.Images},
		{"search", a.WebSearch, nil},
		{"remote", a.Remote, nil},
	} {
		if !part.say {
			continue
		}
		b.WriteString("; " + part.name)
		switch v := part.v.(type) {
		case nil:
		case *time.Duration:
			if *v == ollama.Forever {
				b.WriteString(" forever")
			} else {
				fmt.Fprintf(&b, " %v", *v)
			}
		default:
			fmt.Fprintf(&b, " %v", v)
		}
	}
	return b.String()
}

func TestParseAsk(t *testing.T) {
	const picture = "data:image/png;base64,AAAA"
	for _, test := range []struct{ pattern, body, want string }{
		{"/api/generate", `{"model":"m","prompt":"hi"}`, "m; stream"},
		{"/api/generate", `{"model":"m","prompt":"hi","stream":false,"options":{"num_ctx":4096,"num_predict":7,"temperature":0.5}}`, "m; ctx 4096; max 7"},
		{"/api/generate", ` { "mod\u0065l" : "a\/b:c" , "stream" : null , "options" : null , "keep_alive":null,"images":null } `, "a/b:c; stream"},
		{"/api/generate", `{"model":"m","prompt":"hi","options":{"num_ctx":4.096e3,"num_predict":-1}}`, "m; stream; ctx 4096"},
		{"/api/generate", `{"model":"m","options":{"num_ctx":-5,"num_predict":-2}}`, "m; stream"},
		{"/api/generate", `{"model":"m","prompt":"what","images":["AAAA",null]}`, "m; stream; images 2"},
		{"/api/generate", `{"model":"m","keep_alive":0}`, "m; stream; keep 0s; unload"},
		{"/api/generate", `{"model":"m","prompt":"","keep_alive":"0"}`, "m; stream; keep 0s; unload"},
		{"/api/generate", `{"model":"m","prompt":"x","keep_alive":0}`, "m; stream; keep 0s"},
		{"/api/generate", `{"model":"m","keep_alive":-1}`, "m; stream; keep forever"},
		{"/api/generate", `{"model":"m","keep_alive":-0.5}`, "m; stream; keep forever"},
		{"/api/generate", `{"model":"m","keep_alive":"-1m"}`, "m; stream; keep forever"},
		{"/api/generate", `{"model":"m","keep_alive":1.5}`, "m; stream; keep 1.5s"},
		{"/api/generate", `{"model":"m","keep_alive":1e-10}`, "m; stream; keep 0s; unload"},
		{"/api/generate", `{"model":"m","keep_alive":"1h30m"}`, "m; stream; keep 1h30m0s"},
		// What the stock Go client sends.
		{"/api/generate", `{"model":"m","prompt":"","suffix":"","system":"","template":"","options":null}`, "m; stream"},
		{"/api/show", `{"model":"m","system":"","template":"","verbose":false,"options":null,"name":""}`, "m"},
		{"/api/delete", `{"model":"m","name":""}`, "m"},
		{"/api/pull", `{"model":"m","username":"","password":"","name":""}`, "m; stream"},

		{"/api/chat", `{"model":"m","messages":[{"role":"user","content":"hi"}],"stream":true}`, "m; stream"},
		{"/api/chat", `{"model":"m","messages":[{"content":"a","images":["AAAA"]},{"content":"b","images":["AAAA","BBBB"]},null]}`, "m; stream; images 3"},
		{"/api/chat", `{"model":"m","messages":[],"keep_alive":0}`, "m; stream; keep 0s; unload"},
		{"/api/chat", `{"model":"m","messages":null,"keep_alive":"0s"}`, "m; stream; keep 0s; unload"},
		{"/api/chat", `{"model":"m","messages":[{}],"keep_alive":0}`, "m; stream; keep 0s"},
		{"/api/chat", `{"name":"other","model":"m"}`, "m; stream"}, // Ollama reads no name here
		{"/api/embed", `{"model":"m","input":["a","b"],"options":{"num_ctx":9},"keep_alive":"5m"}`, "m; ctx 9; keep 5m0s"},
		{"/api/embeddings", `{"model":"m","prompt":"a"}`, "m"},

		{"/v1/chat/completions", `{"model":"m","messages":[{"role":"user","content":"hi"}]}`, "m"},
		{"/v1/chat/completions", `{"model":"m","messages":[],"stream":true,"max_tokens":5,"stream_options":{"include_usage":true}}`, "m; stream; max 5"},
		{"/v1/chat/completions", `{"model":"m","messages":[],"max_completion_tokens":5}`, "m"},
		{"/v1/chat/completions", `{"model":"m","messages":[],"max_completion_tokens":5,"max_tokens":5}`, "m; max 5"},
		{"/v1/chat/completions", `{"model":"m","messages":[],"max_tokens":0}`, "m"},
		{"/v1/chat/completions", `{"model":"m","messages":[],"max_tokens":null}`, "m"},
		{"/v1/chat/completions", `{"model":"m","keep_alive":"1s","options":{"num_ctx":1}}`, "m"}, // nor these
		{"/v1/chat/completions", `{"model":"m","messages":[{"content":[{"type":"text","text":"image"},{"type":"image_url","image_url":{"url":"` + picture + `"}},{"image_url":"` + picture + `","type":"im\u0061ge_url"}]}]}`, "m; images 2"},
		{"/v1/completions", `{"model":"m","prompt":"hi","stream":true,"max_tokens":3}`, "m; stream; max 3"},
		{"/v1/embeddings", `{"model":"m","input":"a"}`, "m"},
		{"/v1/responses", `{"model":"m","input":"hi","stream":true,"max_output_tokens":3}`, "m; stream; max 3"},
		{"/v1/responses", `{"model":"m","input":[{"role":"user","content":[{"type":"input_text","text":"x"},{"type":"input_image","image_url":"` + picture + `"}]},{"type":"function_call_output","output":"x"}]}`, "m; images 1"},
		{"/v1/images/generations", `{"model":"m","prompt":"a cat","size":"64x64"}`, "m"},
		{"/v1/images/edits", `{"model":"m","prompt":"a cat","image":"` + picture + `"}`, "m; images 1"},
		{"/v1/messages", `{"model":"m","max_tokens":9,"messages":[{"role":"user","content":"hi"}],"stream":true}`, "m; stream; max 9"},
		{"/v1/messages", `{"model":"m","max_tokens":9,"messages":[{"role":"user","content":[{"type":"image","source":{"type":"base64","data":"AAAA"}},{"type":"tool_result","content":[{"type":"image","source":{}}]}]}]}`, "m; max 9; images 2"},
		{"/v1/messages", `{"model":"m","max_tokens":9,"messages":[{}],"tools":[{"name":"web_search","input_schema":{}}]}`, "m; max 9"},
		{"/v1/messages", `{"model":"m","max_tokens":9,"messages":[{}],"tools":[{"name":"x"},{"type":"web_search_20250305","name":"web_search"}]}`, "m; max 9; search"},

		{"/api/show", `{"name":"m"}`, "m"},
		{"/api/show", `{"name":"m","model":"m"}`, "m"},
		{"/api/push", `{"model":"m","stream":false}`, "m"},
		{"/api/create", `{"model":"mine","from":"base","files":{"a":"sha256:00"}}`, "mine base; stream"},
		{"/api/create", `{"name":"mine","from":"base","remote_host":"https://ollama.com"}`, "mine base; stream; remote"},
		{"/api/copy", `{"source":"a","destination":"b"}`, "a b"},
		{"/api/delete", `{"name":"m"}`, "m"},
		{"/api/experimental/aliases", `{"alias":"a","target":"b"}`, "b a"},
		{"/api/experimental/aliases", `{"alias":"a","target":"b","prefix_matching":true}`, "b; every"},
		{"/api/experimental/aliases", `{"alias":"a/","target":"b"}`, "b; every"},
		{"/api/show", `{}`, ""},
	} {
		got := said(ask(t, test.pattern, test.body))
		if got != test.want {
			t.Errorf("%s %s:\n got %s\nwant %s", test.pattern, test.body, got, test.want)
		}
	}
}

// Whatever Ollama could read in another way than the gate is refused, and so is
// what Ollama refuses itself.
func TestParseAskRefuses(t *testing.T) {
	deep := strings.Repeat("[", 10001) + strings.Repeat("]", 10001)
	for _, test := range []struct{ pattern, body, want string }{
		{"/api/generate", "", "missing request body"},
		{"/api/generate", " \n\t", "missing request body"},
		{"/api/generate", `null`, "no JSON object"},
		{"/api/generate", `["model"]`, "no JSON object"},
		{"/api/generate", `"model"`, "no JSON object"},
		{"/api/generate", `{"model":"m"`, "ends early"},
		{"/api/generate", `{"model":"m",}`, "not JSON"},
		{"/api/generate", `{'model':'m'}`, "not JSON"},
		{"/api/generate", "\xef\xbb\xbf{}", "not JSON"},
		{"/api/generate", `{"model":"m"}{"model":"n"}`, "something follows"},
		{"/api/generate", `{"model":"m"} x`, "something follows"},
		{"/api/generate", `{"model":"m"}` + "\x00", "something follows"},
		{"/api/generate", `{"model":"m","model":"n"}`, "duplicate"},
		{"/api/generate", `{"model":"m","mod\u0065l":"n"}`, "duplicate"},
		{"/api/generate", `{"model":"m","Model":"n"}`, `"Model" has to be written "model"`},
		{"/api/generate", `{"MODEL":"n"}`, `"model"`},
		{"/api/generate", `{"model":"m","\u017ftream":false}`, `"stream"`},
		{"/api/generate", `{"model":"m","` + "\u212a" + `eep_alive":0}`, `"keep_alive"`},
		{"/api/generate", `{"model":"m","Prompt":"x","keep_alive":0}`, `"prompt"`},
		{"/api/generate", `{"model":"m","options":{"num_ctx":1,"num_ctx":2}}`, "duplicate"},
		{"/api/generate", `{"model":"m","options":{"Num_Ctx":1}}`, `"num_ctx"`},
		{"/api/generate", `{"model":"m","format":{"a":1,"a":2}}`, "duplicate"},
		{"/api/generate", `{"model":"m` + "\xff" + `"}`, "UTF-8"},
		{"/api/generate", `{"model":"\ud800"}`, "not JSON"},
		{"/api/generate", `{"model":"m","x":` + deep + `}`, "depth"},
		{"/api/generate", `{"model":1}`, "model has to be a string"},
		{"/api/generate", `{"model":["m"]}`, "model has to be a string"},
		{"/api/generate", `{"model":"m","stream":"false"}`, "stream has to be true or false"},
		{"/api/generate", `{"model":"m","stream":0}`, "stream has to be"},
		{"/api/generate", `{"model":"m","options":[]}`, "options has to be an object"},
		{"/api/generate", `{"model":"m","options":{"num_ctx":"4096"}}`, "num_ctx has to be a whole number"},
		{"/api/generate", `{"model":"m","options":{"num_ctx":4096.5}}`, "num_ctx has to be a whole number"},
		{"/api/generate", `{"model":"m","options":{"num_ctx":1e30}}`, "num_ctx has to be a whole number"},
		{"/api/generate", `{"model":"m","options":{"num_predict":1e999}}`, "num_predict has to be a whole number"},
		{"/api/generate", `{"model":"m","options":{"num_predict":[1]}}`, "num_predict has to be a whole number"},
		{"/api/generate", `{"model":"m","keep_alive":"-1"}`, "keep_alive has to be"},
		{"/api/generate", `{"model":"m","keep_alive":true}`, "keep_alive has to be"},
		{"/api/generate", `{"model":"m","keep_alive":1e10}`, "keep_alive is too long"},
		{"/api/generate", `{"model":"m","images":"AAAA"}`, "images has to be an array"},
		{"/api/generate", `{"model":"m","images":[[1,2]]}`, "each of images has to be a string"},
		{"/api/generate", `{"model":"m","prompt":["a"]}`, "prompt has to be a string"},
		{"/api/chat", `{"model":"m","messages":{}}`, "messages has to be an array"},
		{"/api/chat", `{"model":"m","messages":[{"Images":["AAAA"]}]}`, `"images"`},
		{"/api/chat", `{"model":"m","messages":[{"images":["AAAA"],"images":[]}]}`, "duplicate"},
		{"/v1/chat/completions", `{"model":"m","max_tokens":"5"}`, "max_tokens has to be a whole number"},
		{"/v1/chat/completions", `{"model":"m","max_tokens":5.0}`, "max_tokens has to be a whole number"},
		{"/v1/chat/completions", `{"model":"m","max_tokens":9223372036854775808}`, "max_tokens has to be a whole number"},
		{"/v1/chat/completions", `{"model":"m","max_tokens":5,"max_completion_tokens":6}`, "differ"},
		{"/v1/chat/completions", `{"model":"m","Max_Tokens":5}`, `"max_tokens"`},
		{"/v1/chat/completions", `{"model":"m","stream_options":{"Include_usage":true}}`, `"include_usage"`},
		{"/v1/chat/completions", `{"model":"m","messages":[{"Content":[{"type":"image_url"}]}]}`, `"content"`},
		{"/v1/responses", `{"model":"m","input":[{"content":[{"Type":"input_image"}]}]}`, `"type"`},
		{"/v1/messages", `{"model":"m","tools":[{"Type":"web_search_20250305"}]}`, `"type"`},
		{"/v1/messages", `{"model":"m","tools":{"type":"web_search_20250305"}}`, "tools has to be an array"},
		{"/api/show", `{"model":"m","name":"n"}`, "two models"},
		{"/api/delete", `{"name":"n","Model":"m"}`, `"model"`},
		{"/api/create", `{"model":"m","From":"n"}`, `"from"`},
		{"/api/create", `{"model":"m","from":"n","Remote_Host":"x"}`, `"remote_host"`},
		{"/api/copy", `{"source":"a","destination":"b","SOURCE":"c"}`, `"source"`},
	} {
		a, err := ollama.ParseAsk(route(t, test.pattern), "", []byte(test.body))
		if err == nil {
			t.Errorf("%s %.80s: taken as %s", test.pattern, test.body, said(a))
		} else if !strings.Contains(err.Error(), test.want) || len(err.Error()) > 300 {
			t.Errorf("%s %.80s: %v, want %q", test.pattern, test.body, err, test.want)
		}
	}
	if _, err := ollama.ParseAsk(route(t, "/v1/images/edits"), "Multipart/form-data; boundary=x", []byte(`{"model":"m"}`)); err == nil {
		t.Error("a multipart form was taken")
	}
	long := strings.Repeat("x", 1<<16)
	if _, err := ollama.ParseAsk(route(t, "/api/chat"), "", []byte(`{"`+long+`":1,"`+long+`":2}`)); err == nil || len(err.Error()) > 300 {
		t.Errorf("the error repeats what was sent: %.400v", err)
	}
}

// Routes without JSON have no Ask; every other one that is about models has.
func TestTakesJSON(t *testing.T) {
	without := []string{"/api/blobs/:digest", "/api/me", "/api/signout", "/api/user/keys/:encodedKey", "/api/experimental/web_search", "/api/experimental/web_fetch"}
	for _, r := range ollama.Routes {
		want := r.Method != http.MethodGet && r.Method != http.MethodHead && !slices.Contains(without, r.Pattern)
		if r.TakesJSON() != want {
			t.Errorf("%s %s takes JSON: %v", r.Method, r.Pattern, !want)
		}
		if a, err := ollama.ParseAsk(r, "", []byte(`{"model":"m"}`)); err != nil || (a != nil) != want {
			t.Errorf("%s %s: %v, %v", r.Method, r.Pattern, a, err)
		}
		if r.Power == ollama.Infer && !r.NamesModels() {
			t.Errorf("%s %s computes with no model", r.Method, r.Pattern)
		}
		if lists := (r.Method == http.MethodGet || r.Method == http.MethodHead) && slices.Contains([]string{"/api/tags", "/api/ps", "/v1/models", "/api/experimental/aliases"}, r.Pattern); r.ListsModels() != lists {
			t.Errorf("%s %s lists models: %v", r.Method, r.Pattern, !lists)
		}
	}
	r, ok := ollama.Classify("GET", "/v1/models/a:b")
	if a := ollama.AskPath(r, "/v1/models/a:b"); !ok || a == nil || said(a) != "a:b" || !r.NamesModels() {
		t.Errorf("the model of a path: %+v", a)
	}
	if a := ollama.AskPath(route(t, "/api/show"), "/api/show"); a != nil {
		t.Errorf("a path without a model: %+v", a)
	}
}

func TestTokens(t *testing.T) {
	a := ask(t, "/api/chat", `{"model":"m","messages":[{"content":"`+strings.Repeat("a", 400)+`","images":["`+strings.Repeat("A", 9000)+`"]}]}`)
	if n := a.PromptTokens() - 768; n < 100 || n > 125 {
		t.Errorf("an image counts by its bytes: %d tokens", a.PromptTokens())
	}
	if a.AnswerTokens(9) != 9 || ask(t, "/v1/completions", `{"max_tokens":4}`).AnswerTokens(9) != 4 {
		t.Error("the bound on the answer is not the request's, or the given one")
	}
	for _, pattern := range []string{"/api/embed", "/v1/embeddings", "/v1/images/generations"} {
		if n := ask(t, pattern, `{"model":"m"}`).AnswerTokens(9); n != 0 {
			t.Errorf("%s: %d tokens of answer", pattern, n)
		}
	}
	if unload := ask(t, "/api/generate", `{"model":"m","keep_alive":0}`); unload.AnswerTokens(9) != 0 || unload.PromptTokens() != 0 {
		t.Error("unloading has a price")
	}
	if n := ask(t, "/api/pull", `{"model":"m"}`).PromptTokens(); n != 0 {
		t.Errorf("a pull has %d tokens", n)
	}
}

func TestApply(t *testing.T) {
	caps := ollama.Clamp{NumCtx: 4096, MaxTokens: 100, KeepAliveMin: time.Minute, KeepAlive: 5 * time.Minute, CountUsage: true}
	for _, test := range []struct{ pattern, body, want string }{ // want "": as it came
		{"/api/generate", `{"model":"m"}`, `{"options":{"num_predict":100},"model":"m"}`},
		{"/api/generate", `{ }`, `{"options":{"num_predict":100} }`},
		{"/api/generate", `{"options":null}`, `{"options":{"num_predict":100}}`},
		{"/api/generate", `{"options":{}}`, `{"options":{"num_predict":100}}`},
		{"/api/generate", `{"options":{ "seed":1 } }`, `{"options":{"num_predict":100, "seed":1 } }`},
		{"/api/generate", `{"options":{"num_ctx":2048,"num_predict":50},"keep_alive":"2m"}`, ""},
		{"/api/generate", `{"options":{"num_ctx":4096,"num_predict":100},"keep_alive":300}`, ""},
		{"/api/generate", `{"options" : {"num_predict": -1 ,"num_ctx":1e6}, "prompt":"x"}`, `{"options" : {"num_predict": 100 ,"num_ctx":4096}, "prompt":"x"}`},
		{"/api/generate", `{"options":{"num_predict":0,"num_ctx":null}}`, `{"options":{"num_predict":100,"num_ctx":null}}`},
		{"/api/generate", `{"options":{"num_predict":101,"num_ctx":4097},"keep_alive":-1}`, `{"options":{"num_predict":100,"num_ctx":4096},"keep_alive":"5m0s"}`},
		{"/api/chat", `{"keep_alive":"24h","messages":[{"content":"é\u00e9 \"x\""}],"options":{"num_ctx":1,"num_predict":1}}`, `{"keep_alive":"5m0s","messages":[{"content":"é\u00e9 \"x\""}],"options":{"num_ctx":1,"num_predict":1}}`},
		{"/api/chat", `{"keep_alive":1,"messages":[{}],"options":{"num_ctx":1,"num_predict":1}}`, `{"keep_alive":"1m0s","messages":[{}],"options":{"num_ctx":1,"num_predict":1}}`},
		{"/api/embed", `{"model":"m"}`, ``},
		{"/api/embeddings", `{"options":{"num_ctx":9999}}`, `{"options":{"num_ctx":4096}}`},

		{"/v1/chat/completions", `{"model":"m"}`, `{"max_tokens":100,"model":"m"}`},
		{"/v1/chat/completions", `{"max_tokens":7}`, ""},
		{"/v1/chat/completions", `{"max_tokens":null}`, `{"max_tokens":100}`},
		{"/v1/chat/completions", `{"max_tokens":-1}`, `{"max_tokens":100}`},
		{"/v1/chat/completions", `{"max_completion_tokens":7}`, `{"max_tokens":7,"max_completion_tokens":7}`},
		{"/v1/chat/completions", `{"max_completion_tokens":700}`, `{"max_tokens":100,"max_completion_tokens":100}`},
		{"/v1/chat/completions", `{"max_completion_tokens":700,"max_tokens":700}`, `{"max_completion_tokens":100,"max_tokens":100}`},
		{"/v1/chat/completions", `{"stream":true,"max_tokens":7}`, `{"stream_options":{"include_usage":true},"stream":true,"max_tokens":7}`},
		{"/v1/chat/completions", `{"stream":true,"max_tokens":7,"stream_options":{"include_usage":true}}`, ""},
		{"/v1/chat/completions", `{"stream":true,"max_tokens":7,"stream_options":{"include_usage":false}}`, `{"stream":true,"max_tokens":7,"stream_options":{"include_usage":true}}`},
		{"/v1/chat/completions", `{"stream":true,"max_tokens":7,"stream_options":{"x":1}}`, `{"stream":true,"max_tokens":7,"stream_options":{"include_usage":true,"x":1}}`},
		{"/v1/chat/completions", `{"stream":true,"max_tokens":7,"stream_options":null}`, `{"stream":true,"max_tokens":7,"stream_options":{"include_usage":true}}`},
		{"/v1/completions", `{"stream":true}`, `{"max_tokens":100,"stream_options":{"include_usage":true},"stream":true}`},
		{"/v1/responses", `{"stream":true,"max_output_tokens":101}`, `{"stream":true,"max_output_tokens":100}`},
		{"/v1/responses", `{"stream":true}`, `{"max_output_tokens":100,"stream":true}`},
		{"/v1/messages", `{"stream":true,"max_tokens":101}`, `{"stream":true,"max_tokens":100}`},
		{"/v1/messages", `{"stream":true,"max_tokens":100}`, ""},
		{"/v1/messages", `{"max_tokens":0}`, ""}, // Ollama refuses it
		{"/v1/messages", `{}`, ""},

		{"/v1/embeddings", `{"model":"m"}`, ""},
		{"/v1/images/generations", `{"model":"m"}`, ""},
		{"/api/show", `{"model":"m","options":{"num_ctx":99999}}`, ""},
		{"/api/create", `{"model":"m","parameters":{"num_ctx":99999}}`, ""},
		{"/api/pull", `{"model":"m"}`, ""},
	} {
		a := ask(t, test.pattern, test.body)
		body, changed := a.Apply(caps)
		want := test.want
		if want == "" {
			want = test.body
		}
		if string(body) != want || changed != (test.want != "") {
			t.Errorf("%s %s:\n got %s (%v)\nwant %s", test.pattern, test.body, body, changed, want)
			continue
		}
		if again := ask(t, test.pattern, string(body)); said(again) != said(a) {
			t.Errorf("%s %s: the Ask says %s, its body %s", test.pattern, body, said(a), said(again))
		}
	}
	for _, pattern := range []string{"/api/chat", "/v1/chat/completions", "/v1/messages"} {
		body := []byte(`{"model":"m","stream":true,"keep_alive":-1,"options":{"num_ctx":1000000}}`)
		a := ask(t, pattern, string(body))
		if got, changed := a.Apply(ollama.Clamp{}); changed || !bytes.Equal(got, body) {
			t.Errorf("%s: the zero Clamp changes it to %s", pattern, got)
		}
	}
}

func TestExceeds(t *testing.T) {
	caps := ollama.Clamp{NumCtx: 4096, MaxTokens: 100, KeepAliveMin: time.Minute, KeepAlive: 5 * time.Minute}
	for _, test := range []struct{ pattern, body, want string }{
		{"/api/chat", `{"options":{"num_ctx":4096,"num_predict":100},"keep_alive":"5m"}`, ""},
		{"/api/chat", `{}`, ""},
		{"/api/chat", `{"options":{"num_ctx":4097}}`, "num_ctx"},
		{"/api/chat", `{"options":{"num_predict":-1}}`, "num_predict"},
		{"/api/chat", `{"options":{"num_predict":101}}`, "num_predict"},
		{"/api/chat", `{"keep_alive":-1}`, "keep_alive"},
		{"/api/chat", `{"keep_alive":0}`, "keep_alive"},
		{"/v1/chat/completions", `{"max_tokens":101}`, "max_tokens"},
		{"/v1/chat/completions", `{"max_completion_tokens":101}`, "max_completion_tokens"},
		{"/v1/responses", `{"max_output_tokens":101}`, "max_output_tokens"},
		{"/v1/messages", `{"max_tokens":101}`, "max_tokens"},
		{"/v1/messages", `{"max_tokens":0}`, ""},
	} {
		if got := ask(t, test.pattern, test.body).Exceeds(caps); got != test.want {
			t.Errorf("%s %s: %q, want %q", test.pattern, test.body, got, test.want)
		}
	}
	if got := ask(t, "/api/chat", `{"options":{"num_ctx":1e9,"num_predict":-1},"keep_alive":-1}`).Exceeds(ollama.Clamp{}); got != "" {
		t.Errorf("the zero Clamp is passed by %s", got)
	}
}

// seeds are requests for the fuzzers, of every route.
var seeds = []string{
	`{"model":"m","prompt":"hi","stream":false,"options":{"num_ctx":4096,"num_predict":7},"keep_alive":"5m","images":["AAAA"]}`,
	`{"model":"m","messages":[{"role":"user","content":"hi","images":["AAAA"]}],"options":{"num_ctx":1e3},"keep_alive":-1}`,
	`{"model":"m","messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"data:image/png;base64,AAAA"}}]}],"stream":true,"max_tokens":5,"stream_options":{"include_usage":false}}`,
	`{"model":"m","input":[{"type":"message","content":[{"type":"input_image","image_url":"x"}]}],"max_output_tokens":5}`,
	`{"model":"m","max_tokens":9,"messages":[{"content":[{"type":"image","source":{"data":"AAAA"}}]}],"tools":[{"type":"web_search"}]}`,
	`{"model":"m","name":"m","from":"n","source":"a","destination":"b","alias":"a","target":"b","remote_host":"x"}`,
	`{"model":"m","Model":"n","\u017ftream":1,"keep_alive":0.5,"options":null,"stream_options":null,"max_tokens":null}`,
	`{"model":"m"}{"model":"n"}`,
}

// What ParseAsk takes, Ollama's decoder must read in the same way, or refuse; and
// what Apply makes of it must hold the bounds and differ in nothing else.
func FuzzParseAsk(f *testing.F) {
	var routes []ollama.Route
	for _, r := range ollama.Routes {
		if r.TakesJSON() {
			routes = append(routes, r)
		}
	}
	for i := range routes {
		for _, seed := range seeds {
			f.Add(uint(i), seed, int64(100), int64(60))
		}
	}
	f.Fuzz(func(t *testing.T, n uint, body string, limit, seconds int64) {
		r := routes[n%uint(len(routes))]
		a, err := ollama.ParseAsk(r, "", []byte(body))
		if err != nil {
			return
		}
		if want, err := readAsOllama(r, []byte(body)); err == nil {
			saw := *a
			// The gate counts what Ollama passes over, in case a release does not.
			if saw.Images >= want.Images {
				saw.Images = want.Images
			}
			saw.WebSearch = saw.WebSearch && want.WebSearch
			if got, want := said(&saw), said(want); got != want {
				t.Fatalf("%s %s:\nthe gate sees %s\nOllama sees   %s", r.Pattern, body, got, want)
			}
		}
		limit, seconds = 1+limit&0xffff, 1+seconds&0xffff
		keep := time.Duration(seconds) * time.Second
		clamp := ollama.Clamp{NumCtx: limit, MaxTokens: limit, KeepAliveMin: keep / 2, KeepAlive: keep, CountUsage: true}
		clamped, changed := a.Apply(clamp)
		if changed == (string(clamped) == body) {
			t.Fatalf("%s %s: changed %v to %s", r.Pattern, body, changed, clamped)
		}
		again, err := ollama.ParseAsk(r, "", clamped)
		if err != nil {
			t.Fatalf("%s %s: became %s: %v", r.Pattern, body, clamped, err)
		}
		if said(again) != said(a) || again.Exceeds(clamp) != "" {
			t.Fatalf("%s %s: became %s, which asks for %s, not %s", r.Pattern, body, clamped, said(again), said(a))
		}
		if got, changed := again.Apply(clamp); changed {
			t.Fatalf("%s %s: became %s, and then %s", r.Pattern, body, clamped, got)
		}
		if got, want := rest(t, clamped), rest(t, []byte(body)); !reflect.DeepEqual(got, want) {
			t.Fatalf("%s %s: became %s: other members changed", r.Pattern, body, clamped)
		}
	})
}

// rest decodes a body without the members that Apply may change.
func rest(t *testing.T, body []byte) map[string]any {
	t.Helper()
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.UseNumber()
	var m map[string]any
	if err := dec.Decode(&m); err != nil {
		t.Fatalf("%s: %v", body, err)
	}
	for _, part := range []struct {
		of    string
		names []string
	}{
		{"options", []string{"num_ctx", "num_predict"}},
		{"stream_options", []string{"include_usage"}},
	} {
		inner, _ := m[part.of].(map[string]any)
		maps.DeleteFunc(inner, func(name string, _ any) bool { return slices.Contains(part.names, name) })
		if len(inner) == 0 {
			delete(m, part.of)
		}
	}
	for _, name := range []string{"max_tokens", "max_completion_tokens", "max_output_tokens", "keep_alive"} {
		delete(m, name)
	}
	return m
}

func chatBody(size int) []byte {
	var b strings.Builder
	b.WriteString(`{"model":"llama3.2","messages":[`)
	for i := 0; b.Len() < size; i++ {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, `{"role":"user","content":%q}`, strings.Repeat("Tell me about the house and its doors.\n", 26))
	}
	b.WriteString(`],"stream":true,"options":{"temperature":0.7}}`)
	return []byte(b.String())
}

func BenchmarkParseAsk(b *testing.B) {
	for _, bench := range []struct{ name, pattern string }{{"native", "/api/chat"}, {"openai", "/v1/chat/completions"}} {
		b.Run(bench.name, func(b *testing.B) {
			r, body := route(b, bench.pattern), chatBody(20<<10)
			b.SetBytes(int64(len(body)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := ollama.ParseAsk(r, "application/json", body); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	b.Run("clamped", func(b *testing.B) {
		r, body := route(b, "/api/chat"), chatBody(20<<10)
		b.SetBytes(int64(len(body)))
		b.ReportAllocs()
		for b.Loop() {
			a, err := ollama.ParseAsk(r, "application/json", body)
			if err != nil {
				b.Fatal(err)
			}
			if _, changed := a.Apply(ollama.Clamp{NumCtx: 4096, MaxTokens: 100}); !changed {
				b.Fatal("not clamped")
			}
		}
	})
}
