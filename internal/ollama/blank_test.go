package ollama_test

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"os"
	"reflect"
	"testing"

	"gatehouse/internal/ollama"
)

// shown is the body of the show that was captured from the real server.
func shown(t testing.TB) []byte {
	t.Helper()
	text, err := os.ReadFile("testdata/0.17.4/show.http")
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(text)), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return body
}

func TestBlankShow(t *testing.T) {
	body := shown(t)
	blank := ollama.BlankShow(body)
	for _, text := range []string{"doorman", "Random numbers", ".Prompt", "modelfile", "PARAMETER"} {
		if !bytes.Contains(body, []byte(text)) {
			t.Errorf("%q is not in what was captured, so this test says nothing", text)
		}
		if bytes.Contains(blank, []byte(text)) {
			t.Errorf("%q is kept", text)
		}
	}
	want, err := ollama.ParseShow(body)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := ollama.ParseShow(blank); err != nil || !reflect.DeepEqual(got, want) || got.SystemBytes == 0 {
		t.Errorf("%+v, %v; before it was blanked %+v", got, err, want)
	}
	for _, odd := range []string{"", "my secret", `{"system":"my secret"`, `{"system":["my secret"]}`, `{"system":"my secret","system":"b"}`} {
		if blank := ollama.BlankShow([]byte(odd)); len(bytes.Trim(blank, "x")) != 0 || len(blank) != len(odd) {
			t.Errorf("%s: %s is kept", odd, blank)
		}
	}
}

func FuzzBlankShow(f *testing.F) {
	f.Add(shown(f))
	f.Add([]byte(`{"system":"é\u0000\"","model_info":{"a.context_length":1}}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		blank := ollama.BlankShow(body)
		want, err := ollama.ParseShow(body)
		if err != nil {
			if len(bytes.Trim(blank, "x")) != 0 {
				t.Fatalf("%q is kept", blank)
			}
			return
		}
		if got, err := ollama.ParseShow(blank); err != nil || !reflect.DeepEqual(got, want) {
			t.Fatalf("%+v, %v; before it was blanked %+v", got, err, want)
		}
	})
}
