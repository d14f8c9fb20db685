//go:build unix

package realollama

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
)

var update = flag.Bool("update", false, "write what the real server answers to ../testdata")

// TestModelsFolder makes the tiny model; scripts/peers.sh calls it.
func TestModelsFolder(t *testing.T) {
	dir := modelsFolder(t, Binary(t))
	if again := modelsFolder(t, Binary(t)); again != dir {
		t.Errorf("second call gave %s, first %s", again, dir)
	}
	manifest := filepath.Join(dir, "manifests/registry.ollama.ai/library/tiny/latest")
	if _, err := os.Stat(manifest); err != nil {
		t.Error(err)
	}
}

func post(t *testing.T, s *Server, path, body string) string {
	t.Helper()
	reply := s.Ask(t, Request{Method: http.MethodPost, Path: path, Body: body})
	if reply.Status != http.StatusOK {
		t.Fatalf("POST %s: %d %s", path, reply.Status, reply.Body)
	}
	return string(reply.Body)
}

func TestServerAnswers(t *testing.T) {
	s := Start(t)
	if got := s.Ask(t, harmless("root")).Body; string(got) != "Ollama is running" {
		t.Errorf("GET /: %q", got)
	}
	if got := s.Ask(t, harmless("version")).Body; string(got) != `{"version":"`+Version+`"}` {
		t.Errorf("GET /api/version: %s", got)
	}
	if got := string(s.Ask(t, harmless("tags")).Body); !strings.Contains(got, `"name":"`+Model+`"`) {
		t.Errorf("GET /api/tags: %s", got)
	}

	chat := `{"model":"tiny","messages":[{"role":"user","content":"who is there"}]`
	t.Run("generate", func(t *testing.T) {
		var got struct {
			Response  string
			Done      bool
			EvalCount int `json:"eval_count"`
		}
		doc := post(t, s, "/api/generate", `{"model":"tiny","prompt":"who is there","stream":false}`)
		if err := json.Unmarshal([]byte(doc), &got); err != nil {
			t.Fatal(err)
		}
		if !got.Done || got.Response == "" || got.EvalCount != 16 {
			t.Errorf("got %+v, want 16 tokens of text", got)
		}
	})
	t.Run("stream", func(t *testing.T) {
		lines := strings.Split(strings.TrimSpace(post(t, s, "/api/chat", chat+`}`)), "\n")
		if len(lines) < 4 || !strings.Contains(lines[len(lines)-1], `"done":true`) {
			t.Errorf("want lines of which the last says done, got %d:\n%s", len(lines), strings.Join(lines, "\n"))
		}
	})
	t.Run("embed", func(t *testing.T) {
		var got struct{ Embeddings [][]float64 }
		doc := post(t, s, "/api/embed", `{"model":"tiny","input":"who is there"}`)
		if err := json.Unmarshal([]byte(doc), &got); err != nil {
			t.Fatal(err)
		}
		if len(got.Embeddings) != 1 || len(got.Embeddings[0]) != tinyWidth {
			t.Errorf("want one embedding of %d numbers: %s", tinyWidth, doc)
		}
	})
	t.Run("v1", func(t *testing.T) {
		doc := post(t, s, "/v1/chat/completions", chat+`}`)
		if !strings.Contains(doc, `"object":"chat.completion"`) || !strings.Contains(doc, `"completion_tokens":16`) {
			t.Errorf("not a chat completion of 16 tokens: %s", doc)
		}
	})
	t.Run("v1 stream", func(t *testing.T) {
		doc := post(t, s, "/v1/chat/completions", chat+`,"stream":true}`)
		if !strings.HasPrefix(doc, "data: {") || !strings.HasSuffix(doc, "data: [DONE]\n\n") {
			t.Errorf("not server-sent events to the end: %s", doc)
		}
	})
}

func TestStopLeavesNoProcess(t *testing.T) {
	for name, opts := range map[string][]Option{"loopback": nil, "everywhere": {Everywhere()}} {
		t.Run(name, func(t *testing.T) {
			s := Start(t, opts...)
			s.Load(t) // so that there is a runner
			s.Stop()
			s.Stop()
			if err := syscall.Kill(-s.cmd.Process.Pid, 0); !errors.Is(err, syscall.ESRCH) {
				t.Errorf("a process of the server is left: %v", err)
			}
			if _, err := Ask(t.Context(), s.AddrPort, harmless("root")); err == nil {
				t.Errorf("%s still answers", s.AddrPort)
			}
		})
	}
}

func TestIPv6AndEmpty(t *testing.T) {
	s := Start(t, IPv6(), Empty())
	if !s.AddrPort.Addr().Is6() {
		t.Errorf("listens on %s, want [::1]", s.AddrPort)
	}
	if got := s.Ask(t, Request{Method: "GET", Path: "/api/tags", Host: "localhost"}); string(got.Body) != `{"models":[]}` {
		t.Errorf("GET /api/tags: %d %s", got.Status, got.Body)
	}
	// A quirk of this release: it takes its own address, in brackets, for a
	// foreign name when there is no port with it.
	if got := s.Ask(t, Request{Method: "GET", Path: "/api/tags", Host: "[::1]"}); got.Status != http.StatusForbidden {
		t.Errorf("Host [::1]: %d, want 403", got.Status)
	}
}

// want says what a server answers.
type want struct {
	status int
	body   string // is in the body
}

// answers is what every request of Harmless gets from a server on loopback.
var answers = map[string]want{
	"root":             {200, "Ollama is running"},
	"root-head":        {200, ""},
	"version":          {200, `{"version":"0.17.4"}`},
	"tags":             {200, `"models":[{`},
	"ps":               {200, `"models":[`},
	"v1-models":        {200, `"object":"list"`},
	"v1-model":         {200, `"object":"model"`},
	"status":           {200, `"cloud"`},
	"aliases":          {200, `"aliases"`},
	"show":             {200, `"capabilities":["completion"]`},
	"no-path":          {404, "404 page not found"},
	"no-model":         {404, `"error"`},
	"rebind":           {403, ""},
	"origin":           {403, ""},
	"origin-localhost": {200, `"version"`},
	"blob-zeros":       {404, ""},

	"read":                {400, "missing request body"},
	"infer":               {400, "missing request body"},
	"infer-apichat":       {400, "missing request body"},
	"infer-embed":         {400, "missing request body"},
	"infer-embeddings":    {400, "missing request body"},
	"infer-chat":          {400, `"type":"invalid_request_error"`},
	"infer-completions":   {400, `"type":"invalid_request_error"`},
	"infer-v1-embeddings": {400, `"type":"invalid_request_error"`},
	"infer-responses":     {400, `"type":"invalid_request_error"`},
	"infer-messages":      {400, `"type":"invalid_request_error"`},
	"manage":              {400, "missing request body"},
	"manage-pull":         {400, "missing request body"},
	"manage-push":         {400, "missing request body"},
	"manage-new":          {400, "missing request body"},
	"manage-copy":         {400, "missing request body"},
	"manage-blob":         {400, "invalid digest format"},

	"delete-empty":     {400, "invalid"},
	"delete-unknown":   {404, "not found"},
	"show-unknown":     {404, "not found"},
	"generate-unknown": {404, "not found"},
	"chat-unknown":     {404, "not found"},
}

func TestHarmlessRequestsLeaveNoTrace(t *testing.T) {
	for _, c := range []struct {
		name   string
		opts   []Option
		differ map[string]want
	}{
		{"loopback", nil, nil},
		// Bound to every address it looks at no Host; Origin is another matter.
		{"everywhere", []Option{Everywhere()}, map[string]want{
			"rebind": {200, `"version"`},
		}},
		{"any origin", []Option{Env("OLLAMA_ORIGINS=*")}, map[string]want{
			"origin": {200, `"version"`},
		}},
		{"everywhere, any origin", []Option{Everywhere(), Env("OLLAMA_ORIGINS=*")}, map[string]want{
			"rebind": {200, `"version"`},
			"origin": {200, `"version"`},
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := Start(t, c.opts...)
			s.Load(t)
			first := s.Snapshot(t)
			for _, r := range Harmless {
				want, ok := c.differ[r.Name]
				if !ok {
					want = answers[r.Name]
				}
				got := s.Ask(t, r)
				if got.Status != want.status || !strings.Contains(string(got.Body), want.body) {
					t.Errorf("%s: %s %s: %d %q, want %d %q", r.Name, r.Method, r.Path, got.Status, got.Body, want.status, want.body)
				}
				t.Logf("%s: %s %s\n%s", r.Name, r.Method, r.Path, got.Raw)
				if diff := first.Diff(s.Snapshot(t)); diff != "" {
					t.Fatalf("%s: %s %s left a trace:\n%s", r.Name, r.Method, r.Path, diff)
				}
			}
		})
	}
}

// TestSnapshotSeesTraces is the proof that the test above could fail: these are
// the requests that look as harmless and are not.
func TestSnapshotSeesTraces(t *testing.T) {
	for _, c := range []struct {
		name string
		r    Request
		want string
	}{
		{
			"copy of an unknown model",
			Request{Method: "POST", Path: "/api/copy", Body: `{"source":"gatehouse-none","destination":"gatehouse-none-either"}`},
			"manifests/",
		},
		{"empty blob", Request{Method: "POST", Path: "/api/blobs/" + zeroDigest}, "blobs/"},
		{"load", Request{Method: "POST", Path: "/api/generate", Body: `{"model":"tiny"}`}, "/api/ps"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := Start(t)
			before := s.Snapshot(t)
			reply := s.Ask(t, c.r)
			if diff := before.Diff(s.Snapshot(t)); !strings.Contains(diff, c.want) {
				t.Errorf("answered %d %s; the difference does not name %q:\n%s", reply.Status, reply.Body, c.want, diff)
			}
		})
	}
}

// TestFirstList pins the one trace that a read leaves, and only on a server that
// never had a model nor was ever asked for its list: an empty folder.
func TestFirstList(t *testing.T) {
	s := Start(t, Empty())
	manifests := filepath.Join(s.Models, "manifests")
	for _, name := range []string{"root", "version", "ps"} {
		s.Ask(t, harmless(name))
	}
	if _, err := os.Stat(manifests); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("%s is there before it was asked for: %v", manifests, err)
	}
	s.Ask(t, harmless("tags"))
	if entries, err := os.ReadDir(manifests); err != nil || len(entries) > 0 {
		t.Errorf("after GET /api/tags: %v, %v, want an empty folder", entries, err)
	}
}

func TestSnapshotDiff(t *testing.T) {
	for _, c := range []struct {
		a, b Snapshot
		want string
	}{
		{nil, nil, ""},
		{Snapshot{"x", "y"}, Snapshot{"x", "y"}, ""},
		{Snapshot{"x", "y"}, Snapshot{"x", "z"}, "- y\n+ z\n"},
		{Snapshot{"x"}, Snapshot{"x", "x"}, "+ x\n"},
		{Snapshot{"x", "y"}, Snapshot{"y", "x"}, "the same lines in another order\n"},
	} {
		if got := c.a.Diff(c.b); got != c.want {
			t.Errorf("%q to %q: %q, want %q", c.a, c.b, got, c.want)
		}
	}
}

// modelsPath is how a server's answers name the folder that it keeps models in.
// A model tells where it was made, too.
var modelsPath = regexp.MustCompile(`/[^"\s\\]*/models/blobs/`)

// settle moves what was captured to a folder that is the same in every capture,
// and the body's length with it.
func settle(t *testing.T, r Reply) []byte {
	t.Helper()
	body := modelsPath.ReplaceAll(r.Body, []byte("/home/user/.ollama/models/blobs/"))
	if bytes.Equal(body, r.Body) {
		return r.Raw
	}
	head, _, _ := bytes.Cut(r.Raw, []byte("\r\n\r\n"))
	if r.Header.Get("Content-Length") == "" { // so it came in chunks
		return fmt.Appendf(nil, "%s\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", head, len(body), body)
	}
	length := regexp.MustCompile(`(?m)^Content-Length: \d+`)
	if !length.Match(head) {
		t.Fatalf("no length in\n%s", head)
	}
	head = length.ReplaceAll(head, fmt.Appendf(nil, "Content-Length: %d", len(body)))
	return fmt.Appendf(nil, "%s\r\n\r\n%s", head, body)
}

func TestSettle(t *testing.T) {
	const (
		before = `{"a":"FROM /tmp/x/1/models/blobs/sha256-0\nTEMPLATE","b":"/var/y/models/blobs/sha256-1"}`
		after  = `{"a":"FROM /home/user/.ollama/models/blobs/sha256-0\nTEMPLATE","b":"/home/user/.ollama/models/blobs/sha256-1"}`
	)
	for _, frame := range []string{
		"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nDate: x\r\n\r\n%s",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n",
	} {
		reply, err := ParseReply(fmt.Appendf(nil, frame, len(before), before), "GET")
		if err != nil {
			t.Fatal(err)
		}
		want := fmt.Sprintf(frame, len(after), after)
		if got := settle(t, reply); string(got) != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// TestCaptured holds the captured answers that other tests judge by against the
// server they were captured from. With -update it captures them.
func TestCaptured(t *testing.T) {
	idle, empty := Start(t), Start(t, Empty())
	loaded := Start(t)
	loaded.Load(t)
	open := Start(t, Everywhere(), Env("OLLAMA_ORIGINS=*"))

	captured := make(map[string]bool)
	hold := func(s *Server, name, request string) {
		t.Helper()
		r := harmless(request)
		path := filepath.Join("..", "testdata", Version, name+".http")
		captured[name+".http"] = true
		live := s.Ask(t, r)
		if *update {
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, settle(t, live), 0o644); err != nil {
				t.Fatal(err)
			}
			return
		}
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Error(err)
			return
		}
		kept, err := ParseReply(raw, r.Method)
		if err != nil {
			t.Errorf("%s: %v", path, err)
			return
		}
		if !bytes.Equal(settle(t, kept), raw) {
			t.Errorf("%s names a folder of the machine it was captured on", path)
		}
		if got, want := live.Shape(), kept.Shape(); got != want {
			t.Errorf("%s is not what the server answers:\n%s\nbut\n%s", path, want, got)
		}
	}
	for _, r := range Harmless {
		hold(idle, r.Name, r.Name)
	}
	hold(empty, "tags-empty", "tags")
	hold(loaded, "ps-loaded", "ps")
	hold(open, "rebind-everywhere", "rebind")
	hold(open, "origin-everywhere", "origin")

	files, err := os.ReadDir(filepath.Join("..", "testdata", Version))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if strings.HasSuffix(f.Name(), ".http") && !captured[f.Name()] {
			t.Errorf("nothing here captures %s", f.Name())
		}
	}
}

func TestNginxGuards(t *testing.T) {
	s := Start(t)
	n := StartNginx(t, s.URL)
	for _, r := range Harmless {
		got, err := Ask(t.Context(), n.AddrPort, r)
		if err != nil {
			t.Fatal(err)
		}
		if got.Status != http.StatusUnauthorized || got.Header.Get("WWW-Authenticate") != `Basic realm="Ollama"` {
			t.Errorf("%s: %d %v, want 401 and a realm", r.Name, got.Status, got.Header)
		}
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, n.URL+"/api/version", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.SetBasicAuth(NginxUser, NginxPassword)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Errorf("with the password: %s", resp.Status)
	}
	n.Stop()
	if err := syscall.Kill(-n.cmd.Process.Pid, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("a process of nginx is left: %v", err)
	}
}

// TestMissing checks the rule on absent peers with a cache that has none.
func TestMissing(t *testing.T) {
	for require, want := range map[string]string{"": "skip", "1": "fatal"} {
		t.Setenv("GATEHOUSE_CACHE", t.TempDir())
		t.Setenv("GATEHOUSE_REQUIRE_PEERS", require)
		fake := &fakeTB{TB: t}
		func() {
			defer func() { _ = recover() }()
			Start(fake)
		}()
		if got := fmt.Sprint(fake.how, ": ", fake.why); got != want+": real Ollama is not installed: run make peers" {
			t.Errorf("GATEHOUSE_REQUIRE_PEERS=%q: %s", require, got)
		}
	}
}

// fakeTB records how a test would have ended.
type fakeTB struct {
	testing.TB
	how, why string
}

func (f *fakeTB) end(how string, args []any) {
	if f.how == "" {
		f.how, f.why = how, fmt.Sprint(args...)
	}
	panic("the test ends here")
}

func (f *fakeTB) Skip(args ...any)  { f.end("skip", args) }
func (f *fakeTB) Fatal(args ...any) { f.end("fatal", args) }
