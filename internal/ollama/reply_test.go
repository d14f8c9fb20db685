package ollama_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"gatehouse/internal/ollama"
)

// Replies as a real Ollama 0.17.4 gives them, shortened.
const (
	realTags = `{"models":[{"name":"tiny:latest","model":"tiny:latest","modified_at":"2026-11-23T10:51:00.123456789+01:00",
		"size":517346,"digest":"5b1c","details":{"parent_model":"","format":"gguf","family":"llama","families":["llama"],
		"parameter_size":"136.26K","quantization_level":"F16"}},
		{"name":"gpt-oss:120b-cloud","model":"gpt-oss:120b-cloud","remote_model":"gpt-oss:120b","remote_host":"https://ollama.com:443",
		"modified_at":"2026-11-22T08:00:00Z","size":384,"digest":"569662","details":{"families":null}}]}`
	realPs = `{"models":[{"name":"tiny:latest","model":"tiny:latest","size":8462336,"digest":"5b1c",
		"details":{"format":"gguf","family":"llama","parameter_size":"136.26K","quantization_level":"F16"},
		"expires_at":"2026-11-23T10:56:30.5Z","size_vram":1024,"context_length":4096}]}`
	realShow = `{"license":"MIT","modelfile":"FROM x","template":"{{ .Prompt }}","system":"You are a pirate.",
		"details":{},"model_info":{"general.architecture":"llama","llama.context_length":131072,"llama.block_count":2,
		"tokenizer.ggml.tokens":null},"capabilities":["completion","tools"],"modified_at":"2026-11-23T10:51:00Z"}`
)

// captured reads the bodies of the replies called name that were taken from
// real servers, one for each version there is.
func captured(t *testing.T, name string) map[string][]byte {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("testdata", "*", name+".http"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no %s: %v", name, err)
	}
	bodies := make(map[string][]byte, len(files))
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		reply, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(raw)), nil)
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		body, err := io.ReadAll(reply.Body)
		if err != nil || reply.Body.Close() != nil {
			t.Fatalf("%s: %v", file, err)
		}
		bodies[filepath.Base(filepath.Dir(file))] = body
	}
	return bodies
}

func TestRealReplies(t *testing.T) {
	for version, body := range captured(t, "version") {
		if got, err := ollama.ParseVersion(body); err != nil || got.Version != version || ollama.Existence(version) != ollama.Known {
			t.Errorf("%s: %+v, %v", version, got, err)
		}
	}
	for version, body := range captured(t, "tags") {
		got, err := ollama.ParseTags(body)
		if err != nil || len(got.Models) == 0 {
			t.Errorf("%s: %+v, %v", version, got, err)
		}
		for _, m := range got.Models {
			if fits, known := ollama.SizeFits(m); !ollama.ValidName(m.Name) || !ollama.ValidDigest(m.Digest) ||
				m.Size.Odd || m.ModifiedAt.Odd || !fits || !known {
				t.Errorf("%s: a real model looks false: %+v", version, m)
			}
		}
	}
	for version, body := range captured(t, "tags-empty") {
		if got, err := ollama.ParseTags(body); err != nil || len(got.Models) != 0 {
			t.Errorf("%s: %+v, %v", version, got, err)
		}
	}
	for version, body := range captured(t, "ps-loaded") {
		got, err := ollama.ParsePs(body)
		if err != nil || len(got.Models) != 1 || got.Models[0].Size.N <= 0 || got.Models[0].ExpiresAt.Odd {
			t.Errorf("%s: %+v, %v", version, got, err)
		}
	}
	for version, body := range captured(t, "show") {
		got, err := ollama.ParseShow(body)
		if err != nil || got.ContextLength == 0 || got.SystemBytes == 0 || len(got.Capabilities) == 0 {
			t.Errorf("%s: %+v, %v", version, got, err)
		}
	}
}

func TestParseTags(t *testing.T) {
	got, err := ollama.ParseTags([]byte(realTags))
	if err != nil || len(got.Models) != 2 {
		t.Fatalf("got %+v, %v", got, err)
	}
	m := got.Models[0]
	if m.Name != "tiny:latest" || m.Size != (ollama.Int{N: 517346}) || m.Details.ParameterSize != "136.26K" ||
		m.Details.QuantizationLevel != "F16" || m.ModifiedAt.Odd || m.Remote() {
		t.Errorf("got %+v", m)
	}
	if want := time.Date(2026, 11, 23, 9, 51, 0, 123456789, time.UTC); !m.ModifiedAt.Equal(want) {
		t.Errorf("modified at %v, want %v", m.ModifiedAt, want)
	}
	if m := got.Models[1]; !m.Remote() || m.RemoteHost != "https://ollama.com:443" || m.RemoteModel != "gpt-oss:120b" {
		t.Errorf("got %+v, want a model elsewhere", m)
	}
}

// A server may send what Ollama never sends: it is kept as odd, so that the
// rest of the reply can still be judged.
func TestParseTagsOdd(t *testing.T) {
	for body, want := range map[string]ollama.Int{
		`{"models":[{"size":1.5}]}`:                     {Odd: true},
		`{"models":[{"size":""}]}`:                      {Odd: true},
		`{"models":[{"size":"5"}]}`:                     {Odd: true},
		`{"models":[{"size":{"a":[1]}}]}`:               {Odd: true},
		`{"models":[{"size":99999999999999999999999}]}`: {Odd: true},
		`{"models":[{"size":-7}]}`:                      {N: -7},
		`{"models":[{"size":9223372036854775807}]}`:     {N: 1<<63 - 1},
	} {
		got, err := ollama.ParseTags([]byte(body))
		if err != nil || len(got.Models) != 1 || got.Models[0].Size.Odd != want.Odd || !want.Odd && got.Models[0].Size.N != want.N {
			t.Errorf("%s: %+v, %v; want size %+v", body, got, err, want)
		}
	}
	for body, odd := range map[string]bool{
		`"2026-11-23T10:51:00Z"`: false, `"2023-01-01T00:00:00.1-07:00"`: false,
		`"yesterday"`: true, `""`: true, `null`: true, `5`: true, `{}`: true, `[1,[2]]`: true,
	} {
		got, err := ollama.ParseTags([]byte(`{"models":[{"modified_at":` + body + `,"name":"after"}]}`))
		if err != nil || got.Models[0].ModifiedAt.Odd != odd || got.Models[0].Name != "after" {
			t.Errorf("modified_at %s: %+v, %v; want odd %v", body, got, err, odd)
		}
	}
}

func TestParseLists(t *testing.T) {
	full := func(n int) string {
		return `{"models":[` + strings.TrimSuffix(strings.Repeat(`{"name":"a"},`, n), ",") + `]}`
	}
	for _, test := range []struct {
		name, body string
		models     int
		ok, member bool // member: refused for the member that is missing
	}{
		{"none", `{"models":[]}`, 0, true, false},
		{"null, as before 0.1.25", `{"models":null}`, 0, true, false},
		{"one, empty", `{"models":[{}]}`, 1, true, false},
		{"members of a later release", `{"models":[{"name":"a","new":{"x":[1]}}],"cursor":"x"}`, 1, true, false},
		{"as many as may be", full(ollama.MaxModels), ollama.MaxModels, true, false},
		{"too many", full(ollama.MaxModels + 1), 0, false, false},
		{"not there", `{}`, 0, false, true},
		{"OpenAI's list", `{"object":"list","data":[]}`, 0, false, true},
		{"other case", `{"Models":[]}`, 0, false, true},
		{"an object", `{"models":{}}`, 0, false, false},
		{"a list of texts", `{"models":["a"]}`, 0, false, false},
		{"a list", `[]`, 0, false, false},
		{"nothing", ``, 0, false, false},
		{"a page", `<html></html>`, 0, false, false},
		{"cut short", `{"models":[{"name":"a"`, 0, false, false},
		{"twice a member", `{"models":[],"models":[]}`, 0, false, false},
		{"twice a member, deep", `{"models":[{"name":"a","name":"b"}]}`, 0, false, false},
		{"not UTF-8", "{\"models\":[{\"name\":\"\xff\"}]}", 0, false, false},
		{"more behind", `{"models":[]}{"models":[]}`, 0, false, false},
		{"not a number", `{"models":[{"size":NaN}]}`, 0, false, false},
		{"very deep", `{"models":` + strings.Repeat("[", 100_000) + strings.Repeat("]", 100_000) + `}`, 0, false, false},
	} {
		tags, err := ollama.ParseTags([]byte(test.body))
		if (err == nil) != test.ok || len(tags.Models) != test.models || errors.Is(err, ollama.ErrNoMember) != test.member {
			t.Errorf("tags, %s: %d models, %v", test.name, len(tags.Models), err)
		}
		ps, err := ollama.ParsePs([]byte(test.body))
		if (err == nil) != test.ok || len(ps.Models) != test.models || errors.Is(err, ollama.ErrNoMember) != test.member {
			t.Errorf("ps, %s: %d models, %v", test.name, len(ps.Models), err)
		}
	}
}

func TestParsePs(t *testing.T) {
	got, err := ollama.ParsePs([]byte(realPs))
	if err != nil || len(got.Models) != 1 {
		t.Fatalf("got %+v, %v", got, err)
	}
	r := got.Models[0]
	if r.Name != "tiny:latest" || r.Size.N != 8462336 || r.SizeVRAM.N != 1024 || r.ContextLength.N != 4096 || r.ExpiresAt.Odd {
		t.Errorf("got %+v", r)
	}
}

func TestParseVersion(t *testing.T) {
	if got, err := ollama.ParseVersion([]byte(`{"version":"0.17.4"}`)); err != nil || got.Version != "0.17.4" {
		t.Errorf("got %+v, %v", got, err)
	}
	for body, member := range map[string]bool{
		`{}`: true, `{"version":""}`: true, `{"Version":"0.1.0"}`: true,
		`{"version":17}`: false, `"0.17.4"`: false, `0.17.4`: false, ``: false, `{"version":"a","version":"b"}`: false,
	} {
		if got, err := ollama.ParseVersion([]byte(body)); err == nil || errors.Is(err, ollama.ErrNoMember) != member || got.Version != "" {
			t.Errorf("%s: %+v, %v; want the member missing: %v", body, got, err, member)
		}
	}
}

func TestParseShow(t *testing.T) {
	got, err := ollama.ParseShow([]byte(realShow))
	want := ollama.ShowReply{
		Capabilities: []string{"completion", "tools"}, ContextLength: 131072,
		SystemBytes: 17, TemplateBytes: 13, LicenseBytes: 3,
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
	if s := fmt.Sprintf("%+v", got); strings.Contains(s, "pirate") {
		t.Errorf("the system prompt is kept: %s", s)
	}
	for body, length := range map[string]int64{
		`{}`: 0,
		`{"model_info":{"a.context_length":"x"}}`:                    0,
		`{"model_info":{"a.context_length":1.5}}`:                    0,
		`{"model_info":{"context_length":9}}`:                        0,
		`{"model_info":{"a.context_length":5,"b.context_length":9}}`: 9,
	} {
		if got, err := ollama.ParseShow([]byte(body)); err != nil || got.ContextLength != length {
			t.Errorf("%s: %+v, %v, want %d tokens", body, got, err, length)
		}
	}
	for _, body := range []string{``, `[]`, `{"system":5}`, `{"system":"a","system":"b"}`, `{"capabilities":"tools"}`} {
		if got, err := ollama.ParseShow([]byte(body)); err == nil {
			t.Errorf("%s: %+v, want an error", body, got)
		}
	}
}

func FuzzParseTags(f *testing.F) {
	f.Add([]byte(realTags))
	f.Add([]byte(`{"models":null}`))
	f.Add([]byte(`{"models":[{"size":1e3,"modified_at":5}]}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		got, err := ollama.ParseTags(body)
		if err != nil && got.Models != nil || len(got.Models) > ollama.MaxModels {
			t.Errorf("%d models, %v", len(got.Models), err)
		}
		// What is made of foreign models holds for any of them.
		for _, m := range got.Models {
			ollama.SizeFits(m)
		}
		checkMemory(t, ollama.MinMemory(got.Models, nil))
	})
}

func FuzzParsePs(f *testing.F) {
	f.Add([]byte(realPs))
	f.Add([]byte(`{"models":[{"size":-1,"size_vram":9223372036854775807}]}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		got, err := ollama.ParsePs(body)
		if err != nil && got.Models != nil || len(got.Models) > ollama.MaxModels {
			t.Errorf("%d models, %v", len(got.Models), err)
		}
		checkMemory(t, ollama.MinMemory(nil, got.Models))
	})
}

// checkMemory holds that a basis has nothing of a host's own that could harm
// where it is printed.
func checkMemory(t *testing.T, m ollama.Memory) {
	t.Helper()
	if m.Bytes < 0 || m.Bytes > 1<<51 || (m.Bytes == 0) != (m.Basis == "") {
		t.Errorf("%+v", m)
	}
	for _, c := range m.Basis {
		if c < ' ' || c > '~' && c != '×' {
			t.Errorf("%+q holds %+q", m.Basis, c)
		}
	}
}

func FuzzParseVersion(f *testing.F) {
	f.Add([]byte(`{"version":"0.17.4"}`))
	f.Add([]byte(`{"version":"0.0.0","x":null}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		got, err := ollama.ParseVersion(body)
		if (err == nil) != (got.Version != "") {
			t.Errorf("%+v, %v", got, err)
		}
		ollama.Default().For(got.Version)
	})
}

func FuzzParseShow(f *testing.F) {
	f.Add([]byte(realShow))
	f.Add([]byte(`{"model_info":{"a.context_length":-1}}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		got, err := ollama.ParseShow(body)
		if err != nil && !reflect.DeepEqual(got, ollama.ShowReply{}) {
			t.Errorf("%+v with %v", got, err)
		}
		if got.ContextLength < 0 || got.SystemBytes > len(body) || got.TemplateBytes > len(body) {
			t.Errorf("%+v of %d bytes", got, len(body))
		}
	})
}

// FuzzValues holds the short ways in which numbers and times are read to what
// the JSON library makes of them: the same values, and odd where it refuses.
func FuzzValues(f *testing.F) {
	for _, v := range []string{
		`0`, `-0`, `517346`, `-9223372036854775808`, `9223372036854775807`, `9223372036854775808`, `1e3`, `1.0`, `null`, `""`, `"12"`, `[]`, `{"a":1}`, `true`,
		`"2026-11-23T10:51:00.123456789+01:00"`, `"0001-01-01T00:00:00Z"`, `"2026-11-23T1:51:00Z"`, `"2026-11-23T10:51:00,5Z"`, `"2026-11-23T10:51:00+24:00"`,
		`"2026-11-23T10:51:00\u005a"`, `"2026-02-30T10:51:00Z"`,
	} {
		f.Add(v)
	}
	f.Fuzz(func(t *testing.T, text string) {
		value := jsontext.Value(text)
		if !value.IsValid() {
			return
		}
		var number ollama.Int
		if err := json.Unmarshal(value, &number); err != nil {
			t.Fatalf("%s as a number: %v", text, err)
		}
		var n int64
		want := ollama.Int{Odd: json.Unmarshal(value, &n) != nil}
		if want.N = n; number != want {
			t.Errorf("%s as a number: %+v, want %+v", text, number, want)
		}
		var at ollama.Time
		if err := json.Unmarshal(value, &at); err != nil {
			t.Fatalf("%s as a time: %v", text, err)
		}
		var then time.Time
		odd := value.Kind() == 'n' || json.Unmarshal(value, &then) != nil
		if at.Odd != odd || !odd && !at.Equal(then) {
			t.Errorf("%s as a time: %+v, want %v, odd %v", text, at, then, odd)
		}
	})
}
