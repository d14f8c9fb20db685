//go:build unix

package ollama_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"gatehouse/internal/ollama"
	"gatehouse/internal/ollama/realollama"
)

var update = flag.Bool("update", false, "write what the real server streams to testdata")

// A Meter learns from every dialect of the real server what the native one says
// at its end. With -update the answers become testdata.
func TestMeterReal(t *testing.T) {
	server := realollama.Start(t)
	send := func(pattern, body string) []byte {
		t.Helper()
		reply := server.Ask(t, realollama.Request{Method: http.MethodPost, Path: pattern, Body: body})
		if reply.Status != http.StatusOK {
			t.Fatalf("%s: %d %s", pattern, reply.Status, reply.Body)
		}
		return reply.Body
	}
	for _, stream := range streams {
		answer := send(stream.pattern, stream.body)
		if *update {
			if err := os.WriteFile(filepath.Join("testdata", realollama.Version, "answer-"+stream.name+".txt"), answer, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		checkStream(t, stream.name, stream.pattern, stream.body, answer)
	}

	// What the gate has the server say, the caller does not see.
	unlike := regexp.MustCompile(`"(id|created)":("[^"]*"|\d+)`)
	for _, name := range []string{"openai-chat", "openai-completions"} {
		for _, stream := range streams {
			if stream.name != name {
				continue
			}
			a := ask(t, stream.pattern, stream.body)
			body, changed := a.Apply(ollama.Clamp{CountUsage: true})
			if !changed {
				t.Fatalf("%s: no usage is asked for", name)
			}
			meter := a.Meter()
			got := bytes.Clone(meter.Pass(send(stream.pattern, string(body))))
			want := send(stream.pattern, stream.body)
			if got, want := unlike.ReplaceAll(got, nil), unlike.ReplaceAll(want, nil); !bytes.Equal(got, want) {
				t.Errorf("%s: the caller sees\n%s\nwithout the gate\n%s", name, got, want)
			}
			if u := meter.Usage(); u.Estimated || !u.Done || u.Answer != 12 {
				t.Errorf("%s: %+v", name, u)
			}
		}
	}

	for _, test := range []struct {
		pattern, body string
		want          ollama.Usage
	}{
		{"/api/embed", `{"model":"tiny","input":["who","is there"]}`, ollama.Usage{Done: true, Model: "tiny"}},
		{"/v1/embeddings", `{"model":"tiny","input":["who","is there"]}`, ollama.Usage{Done: true, Model: "tiny"}},
		{"/api/generate", `{"model":"tiny"}`, ollama.Usage{Done: true, Model: "tiny"}},
		{"/api/generate", `{"model":"tiny","keep_alive":0}`, ollama.Usage{Done: true, Model: "tiny"}},
	} {
		answer := send(test.pattern, test.body)
		if test.want.Prompt = promptTokens(t, answer); test.want.Prompt == 0 && test.pattern != "/api/generate" {
			t.Errorf("%s: no tokens in %s", test.pattern, answer)
		}
		meter := ask(t, test.pattern, test.body).Meter()
		meter.Write(answer)
		if got := meter.Usage(); got != test.want {
			t.Errorf("%s: %+v, want %+v", test.pattern, got, test.want)
		}
	}
}

// promptTokens reads the answer to an embedding with another decoder.
func promptTokens(t *testing.T, answer []byte) int64 {
	t.Helper()
	var reply struct {
		Native int64 `json:"prompt_eval_count"`
		Usage  struct {
			Tokens int64 `json:"prompt_tokens"`
		} `json:"usage"`
	}
	if err := json.Unmarshal(answer, &reply); err != nil {
		t.Fatalf("%v: %s", err, answer)
	}
	return reply.Native + reply.Usage.Tokens
}
