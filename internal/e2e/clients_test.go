//go:build linux

package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"gatehouse/internal/ollama/realollama"
)

// handy is made from the tiny model and says that it can use tools.
const handy = `FROM tiny
TEMPLATE """{{ if .System }}{{ .System }} {{ end }}{{ range .Tools }}{{ .Function.Name }} {{ end }}{{ .Prompt }} """
`

// cli runs the ollama program.
func cli(t *testing.T, dir string, env []string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, realollama.Binary(t), args...)
	cmd.Dir = dir
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH")}, env...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	return out.String(), err
}

// makeHandy creates the model on the server itself.
func makeHandy(t *testing.T, server *realollama.Server) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "Modelfile"), []byte(handy), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := cli(t, dir, []string{"HOME=" + server.Home, "OLLAMA_HOST=" + server.URL}, "create", "handy", "-f", "Modelfile"); err != nil {
		t.Fatalf("create: %v %s", err, out)
	}
}

// call is what a client says of one of its calls.
type call struct {
	Call string `json:"call"`
	Got  any    `json:"got"`
}

// calls runs a client to its end and reads what it says. One that does not end
// says so in its last call.
func calls(t *testing.T, env []string, args ...string) (list []call) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH")}, env...)
	var errOut bytes.Buffer
	cmd.Stderr = &errOut
	out, err := cmd.Output()
	late := ctx.Err() != nil
	if err != nil && !late {
		t.Fatalf("%v: %v\n%s%s", args, err, out, errOut.String())
	}
	for line := range bytes.Lines(out) {
		var c call
		if err := json.Unmarshal(line, &c); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		c.Got = comparable(c.Got)
		list = append(list, c)
	}
	if late {
		list = append(list, call{"no end", patience.String()})
	}
	return list
}

// hangs reports whether Ollama itself computes for nobody any more. Once in some
// twenty runs the runner of 0.17.4 did not notice that a stream without end was
// left: clients that asked it with nothing in between got no answer then either.
func hangs(t *testing.T, server *realollama.Server) bool {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, server.URL+"/api/generate", strings.NewReader(`{"model":"tiny","prompt":"hi","stream":false,"options":{"num_predict":1}}`))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return ctx.Err() != nil
	}
	_ = resp.Body.Close()
	return false
}

// ofItsOwn are the members that differ from one answer of Ollama's to the next:
// times, durations, and names that it draws by lot.
var ofItsOwn = []string{
	"created_at", "created", "expires_at", "total_duration", "load_duration", "prompt_eval_duration", "eval_duration",
	"id", "request_id", "item_id",
}

// drawn is an id of Ollama's in the text of an error.
var drawn = regexp.MustCompile(`req_\w+`)

// comparable takes from a document what is never the same twice. Lists of models
// are in the order of their use, and a model's parameters in any, so they are
// sorted.
func comparable(v any) any {
	switch v := v.(type) {
	case map[string]any:
		maps.DeleteFunc(v, func(name string, _ any) bool { return slices.Contains(ofItsOwn, name) })
		for name := range v {
			v[name] = comparable(v[name])
		}
	case []any:
		for i := range v {
			v[i] = comparable(v[i])
		}
		if len(v) > 0 {
			if m, ok := v[0].(map[string]any); ok && m["digest"] != nil {
				slices.SortFunc(v, func(a, b any) int { return strings.Compare(fmt.Sprint(a), fmt.Sprint(b)) })
			}
		}
	case string:
		lines := strings.Split(drawn.ReplaceAllString(v, ""), "\n")
		slices.Sort(lines)
		return strings.Join(lines, "\n")
	}
	return v
}

// clients are programs that people have: npm's ollama, openai and
// @anthropic-ai/sdk, and Ollama's Go client.
func clients(t *testing.T) map[string]func(base, token, ca, home string) []call {
	t.Helper()
	dir := t.TempDir()
	script, err := os.ReadFile("testdata/clients.mjs")
	if err != nil {
		t.Fatal(err)
	}
	node := filepath.Join(dir, "clients.mjs")
	if err := os.WriteFile(node, script, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(realollama.SDKs(t), filepath.Join(dir, "node_modules")); err != nil {
		t.Fatal(err)
	}
	list := make(map[string]func(base, token, ca, home string) []call)
	for _, name := range []string{"ollama", "openai", "anthropic"} {
		list[name] = func(base, token, ca, _ string) []call {
			return calls(t, []string{"CLIENT=" + name, "BASE=" + base, "KEY=" + token, "NODE_EXTRA_CA_CERTS=" + ca}, "node", node)
		}
	}
	program := filepath.Join(dir, "goclient")
	build := exec.CommandContext(t.Context(), "go", "build", "-modfile="+realollama.GoClient(t), "-o", program, "./testdata/goclient/main.go")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the Go client: %v\n%s", err, out)
	}
	list["go"] = func(base, token, ca, home string) []call {
		env := []string{"OLLAMA_HOST=" + base, "HOME=" + home}
		if token != "" { // it has no place for one: it signs
			env = append(env, "OLLAMA_AUTH=1", "SSL_CERT_FILE="+ca)
		}
		return calls(t, env, program)
	}
	return list
}

// TestClients has clients that know nothing of Gatehouse get through the gate
// what they get without it, whole and in pieces, and leave in the middle: Ollama
// has one place, so that it answers the next call only once it computes the last
// one no more.
func TestClients(t *testing.T) {
	var server *realollama.Server
	var g *gate
	fresh := func() {
		server = realollama.Start(t, realollama.Env("OLLAMA_NUM_PARALLEL=1", "OLLAMA_MAX_LOADED_MODELS=2"))
		makeHandy(t, server)
		server.Load(t)
		g = startGate(t, server.URL)
		g.run("key", "--state-dir", g.state, "add", "go", "--ssh", filepath.Join(server.Home, ".ollama", "id_ed25519.pub"))
	}
	fresh()
	wrong := strings.TrimSpace(g.run("key", "--state-dir", filepath.Join(t.TempDir(), "another"), "add", "another"))
	list := clients(t)
	for _, name := range slices.Sorted(maps.Keys(list)) {
		t.Run(name, func(t *testing.T) {
			run := list[name]
			try := func() (wrong []string) {
				want := run(server.URL, "", "", server.Home)
				before := len(g.account())
				wrong = differences(want, run(g.url, g.token, g.ca, server.Home))
				for _, w := range want {
					failed, _ := w.Got.(map[string]any)
					meant := w.Call == "no such model" || w.Call == "tools of a model without"
					if (failed["failed"] != nil) != meant {
						wrong = append(wrong, fmt.Sprintf("%s without the gate: %v", w.Call, w.Got))
					}
				}
				left, counted := 0, 0
				for _, r := range g.account()[before:] {
					if r["reason"] == "client-gone" {
						left++
					}
					if r["tokens_out"] == 8.0 && r["allowed"] == true && r["estimated"] != true {
						counted++
					}
				}
				if left != 1 || counted < 3 {
					wrong = append(wrong, fmt.Sprintf("the ledger has %d calls that were left and %d that used 8 tokens", left, counted))
				}
				return wrong
			}
			attempt(t, try, func() bool { return hangs(t, server) }, fresh)
			if name == "go" {
				return
			}
			for _, c := range run(g.url, wrong, g.ca, "") {
				refused, _ := c.Got.(map[string]any)
				status := refused["status"]
				if refused["failed"] == nil || status != 401.0 && status != 429.0 || strings.Contains(fmt.Sprint(c.Got), wrong) {
					t.Errorf("%s with a wrong key: %v", c.Call, c.Got)
				}
			}
		})
	}
}

// attempt tells what is wrong; when it is Ollama that hangs, after one more try
// with another.
func attempt(t *testing.T, try func() (wrong []string), hangs func() bool, fresh func()) {
	t.Helper()
	wrong := try()
	if len(wrong) > 0 && hangs() {
		t.Logf("Ollama itself hangs: once more, with another\n%s", strings.Join(wrong, "\n"))
		fresh()
		wrong = try()
	}
	for _, w := range wrong {
		t.Error(w)
	}
}

// differences are the calls that gave another thing by the way that is tested.
func differences(want, got []call) (list []string) {
	if len(want) < 8 || len(got) != len(want) {
		return []string{fmt.Sprintf("%d calls without the gate, %d with it: %v", len(want), len(got), got)}
	}
	for i := range want {
		if !reflect.DeepEqual(got[i], want[i]) {
			list = append(list, fmt.Sprintf("%s:\nthrough the gate %v\n     without it %v", want[i].Call, got[i].Got, want[i].Got))
		}
	}
	return list
}

// tap stands between the gate and Ollama and keeps what each says.
type tap struct {
	URL string

	mu    sync.Mutex
	lines []*tapped
}

type tapped struct{ asked, answered bytes.Buffer }

func newTap(t *testing.T, to string) *tap {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &tap{URL: "http://" + l.Addr().String()}
	var wg sync.WaitGroup
	t.Cleanup(func() { _ = l.Close(); wg.Wait() })
	keep := func(b *bytes.Buffer) io.Writer {
		return writerFunc(func(data []byte) (int, error) {
			p.mu.Lock()
			defer p.mu.Unlock()
			return b.Write(data)
		})
	}
	wg.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", to)
			if err != nil {
				_ = in.Close()
				continue
			}
			line := new(tapped)
			p.mu.Lock()
			p.lines = append(p.lines, line)
			p.mu.Unlock()
			stop := context.AfterFunc(t.Context(), func() { _ = in.Close(); _ = out.Close() })
			wg.Go(func() {
				_, _ = io.Copy(io.MultiWriter(out, keep(&line.asked)), in)
				_ = out.Close()
			})
			wg.Go(func() {
				defer stop()
				_, _ = io.Copy(io.MultiWriter(keep(&line.answered), in), out)
				_ = in.Close()
			})
		}
	})
	return p
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// exchange finds what was asked under a request id, and the answer to it.
func (p *tap) exchange(t *testing.T, id string) (*http.Request, *http.Response, []byte) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, line := range p.lines {
		asked, answered := bufio.NewReader(bytes.NewReader(line.asked.Bytes())), bufio.NewReader(bytes.NewReader(line.answered.Bytes()))
		for {
			req, err := http.ReadRequest(asked)
			if err != nil {
				break
			}
			if _, err := io.Copy(io.Discard, req.Body); err != nil {
				break
			}
			resp, err := http.ReadResponse(answered, req)
			if err != nil {
				break
			}
			body, err := io.ReadAll(resp.Body)
			if req.Header.Get("X-Request-Id") != id {
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			return req, resp, body
		}
	}
	t.Fatalf("nothing was asked under %s", id)
	return nil, nil, nil
}

// TestSameBytes: what a caller gets is what Ollama said, byte for byte, and
// nothing of the caller's credentials is in what Ollama was asked.
func TestSameBytes(t *testing.T) {
	server := realollama.Start(t)
	between := newTap(t, server.AddrPort.String())
	g := startGate(t, between.URL)
	client := g.client()
	const message = `"model":"tiny","messages":[{"role":"user","content":"hi"}]`
	for i, c := range []struct{ method, path, body string }{
		{"GET", "/", ""},
		{"HEAD", "/", ""},
		{"GET", "/api/version", ""},
		{"GET", "/api/tags", ""},
		{"HEAD", "/api/tags", ""},
		{"POST", "/api/show", `{"model":"tiny","verbose":true}`},
		{"GET", "/v1/models", ""},
		{"GET", "/v1/models/tiny", ""},
		{"POST", "/api/generate", `{"model":"tiny","prompt":"hi"}`},
		{"POST", "/api/generate", `{"model":"tiny","prompt":"hi","stream":false}`},
		{"POST", "/api/generate", `{"model":"none","prompt":"hi"}`},
		{"POST", "/api/chat", `{` + message + `}`},
		{"POST", "/api/chat", `{` + message + `,"stream":false,"format":"json"}`},
		{"POST", "/api/embed", `{"model":"tiny","input":["hi","there"]}`},
		{"POST", "/api/embeddings", `{"model":"tiny","prompt":"hi"}`},
		{"POST", "/v1/chat/completions", `{` + message + `,"max_tokens":8}`},
		{"POST", "/v1/chat/completions", `{` + message + `,"max_tokens":8,"stream":true,"stream_options":{"include_usage":true}}`},
		{"POST", "/v1/completions", `{"model":"tiny","prompt":"hi","max_tokens":8}`},
		{"POST", "/v1/completions", `{"model":"tiny","prompt":"hi","max_tokens":8,"stream":true,"stream_options":{"include_usage":true}}`},
		{"POST", "/v1/embeddings", `{"model":"tiny","input":"hi"}`},
		{"POST", "/v1/responses", `{"model":"tiny","input":"hi","max_output_tokens":8,"stream":true}`},
		{"POST", "/v1/messages", `{` + message + `,"max_tokens":8}`},
		{"POST", "/v1/messages", `{` + message + `,"max_tokens":8,"stream":true}`},
	} {
		id := fmt.Sprintf("call-%d", i)
		req, err := http.NewRequestWithContext(t.Context(), c.method, g.url+c.path, strings.NewReader(c.body))
		if err != nil {
			t.Fatal(err)
		}
		for name, value := range map[string]string{
			"X-Request-Id": id, "Authorization": "Bearer " + g.token, "X-Api-Key": g.token, "Cookie": "token=" + g.token, "X-Forwarded-For": "192.0.2.1",
		} {
			req.Header.Set(name, value)
		}
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err != nil {
			t.Fatalf("%s: %v", c.path, err)
		}
		asked, answered, want := between.exchange(t, id)
		if resp.StatusCode != answered.StatusCode || resp.Header.Get("Content-Type") != answered.Header.Get("Content-Type") || !bytes.Equal(got, want) {
			t.Errorf("%s %s %s:\n the caller got %d %q\n Ollama said    %d %q", c.method, c.path, c.body, resp.StatusCode, got, answered.StatusCode, want)
		}
		if c.method == "HEAD" && resp.ContentLength != answered.ContentLength {
			t.Errorf("HEAD %s: length %d, of Ollama's %d", c.path, resp.ContentLength, answered.ContentLength)
		}
		if text := fmt.Sprint(asked.Header, asked.URL); strings.Contains(text, "gh_") || strings.Contains(text, "192.0.2.1") || asked.Host != strings.TrimPrefix(between.URL, "http://") {
			t.Errorf("Ollama was asked with %v for %s", asked.Header, asked.Host)
		}
	}
}
