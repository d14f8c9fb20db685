package main

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"gatehouse/internal/ollama/ollamatest"
)

// hook is a receiver of webhooks that answers as it is told.
type hook struct {
	*httptest.Server
	mu     sync.Mutex
	status int
	got    chan string // the id and type of each post
}

func newHook(t *testing.T, status int) *hook {
	h := &hook{status: status, got: make(chan string, 100)}
	h.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		var m struct{ Type string }
		if err != nil || json.Unmarshal(body, &m) != nil {
			t.Errorf("a post that is no JSON: %s, %v", body, err)
		}
		h.mu.Lock()
		status := h.status
		h.mu.Unlock()
		w.WriteHeader(status)
		h.got <- r.Header.Get("webhook-id") + " " + m.Type
	}))
	t.Cleanup(h.Close)
	return h
}

func (h *hook) answer(status int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.status = status
}

// watchDir is a folder with the secret of webhooks.
func watchDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "secret"), []byte("whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestWatchKilled: what a watch had to tell when it was killed, it tells when it
// runs again, as the same message, and looks no second time for it.
func TestWatchKilled(t *testing.T) {
	t.Parallel()
	st, err := ollamatest.Open(ollamatest.House{Server: ollamatest.Variant("ollama/0.17.4")})
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	h, dir := newHook(t, http.StatusServiceUnavailable), watchDir(t)
	args := []string{"watch", targetOf(st.Houses[0]), "--every", "24h", "--state-dir", "state", "--notify", "webhook:" + h.URL + "/s3cr3t", "--webhook-secret-file", "secret"}
	p := start(t, dir, args...)
	first := <-h.got
	if !strings.HasSuffix(first, " wave.first") {
		t.Errorf("the first message is %q", first)
	}
	// A second watch of the same places would look and tell twice.
	if code, _, errOut := start(t, dir, args...).wait(); code != exitUsage || !strings.Contains(errOut, "another process has it") || !strings.Contains(errOut, "hint: ") {
		t.Errorf("a second watch: exit code %d, %s", code, errOut)
	}
	p.signal(syscall.SIGKILL)
	p.wait()
	h.answer(http.StatusOK)
	p = start(t, dir, args...)
	p.says("next wave at")
	// The try that was killed may have come in between, and is due soon.
	again := <-h.got
	if again != first {
		t.Errorf("told again as %q, was %q", again, first)
	}
	p.signal(os.Interrupt)
	code, out, errOut := p.wait()
	if code != exitStopped || out != "" || strings.Contains(errOut, "s3cr3t") {
		t.Errorf("exit code %d, looked again: %q; %s", code, out, errOut)
	}
}

// TestWatchOnce: a message for the first wave, none when nothing changed, one
// when a server was closed, and one when it is open again.
func TestWatchOnce(t *testing.T) {
	t.Parallel()
	open := ollamatest.Variant("ollama/0.17.4")
	st, err := ollamatest.Open(ollamatest.House{Server: open})
	if err != nil {
		t.Fatal(err)
	}
	addr := st.Houses[0].Addr
	h, dir := newHook(t, http.StatusOK), watchDir(t)
	args := []string{"watch", addr.String(), "--once", "--state-dir", filepath.Join(dir, "state"), "--notify", "webhook:" + h.URL, "--webhook-secret-file", filepath.Join(dir, "secret")}
	look := func(says, message string) {
		t.Helper()
		code, out, errOut := gatehouse(t, "", args...)
		if code != exitOK || !strings.Contains(out, says) {
			t.Errorf("exit code %d, %q, want %q; %s", code, out, says, errOut)
		}
		got := ""
		select {
		case got = <-h.got:
		default:
		}
		if !strings.HasSuffix(got, message) || message == "" && got != "" {
			t.Errorf("%s: told %q, want %q", says, got, message)
		}
	}
	swap := func(variant string) {
		t.Helper()
		st.Close()
		if st, err = ollamatest.Open(ollamatest.House{Addr: addr, Server: ollamatest.Variant(variant)}); err != nil {
			t.Fatal(err)
		}
	}
	look("1 open; the first over these places", "wave.first")
	look("1 open; nothing new", "")
	swap("guard/nginx-basic/" + ollamatest.Newest)
	look("0 open; 1 fixed", "wave.changed")
	swap("ollama/0.17.4")
	look("1 open; 1 reopened", "wave.changed")
	st.Close()

	code, out, errOut := gatehouse(t, "", "notify", "last", "--draft", filepath.Join(dir, "out"), "--from", "Acme CERT <cert@acme.example>", "--state-dir", filepath.Join(dir, "state"))
	if code != exitOK || !strings.Contains(out, "unknown-network.eml") || !strings.Contains(out, "Nothing was sent") {
		t.Errorf("notify: exit code %d, %s%s", code, out, errOut)
	}
	code, _, errOut = gatehouse(t, "", "notify", "last", "--draft", filepath.Join(dir, "out"), "--from", "cert@acme.example", "--state-dir", filepath.Join(dir, "state"))
	if code != exitUsage || !strings.Contains(errOut, "not empty") || !strings.Contains(errOut, "--force") {
		t.Errorf("notify into a folder with drafts: exit code %d, %s", code, errOut)
	}
	if code, out, errOut = gatehouse(t, "", "watch", "status", "--state-dir", filepath.Join(dir, "state")); code != exitOK || !strings.Contains(out, "delivered      3") {
		t.Errorf("status: exit code %d, %s%s", code, out, errOut)
	}
}

// TestWatchExpired: that the scope has expired is told, once.
func TestWatchExpired(t *testing.T) {
	t.Parallel()
	h, dir := newHook(t, http.StatusOK), watchDir(t)
	file := filepath.Join(dir, "scope.yaml")
	if err := os.WriteFile(file, []byte("name: acme\nauthority: order 12\ncontact: cert@acme.example\nexpires: 2020-01-01\ninclude: [127.0.0.1]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for n := range 2 {
		code, _, errOut := gatehouse(t, "", "watch", "--scope", file, "--once", "--state-dir", filepath.Join(dir, "state"), "--notify", "webhook:"+h.URL, "--webhook-secret-file", filepath.Join(dir, "secret"))
		if code == exitOK || !strings.Contains(errOut, "expired") {
			t.Errorf("run %d: exit code %d, %s", n, code, errOut)
		}
	}
	if got := <-h.got; !strings.HasSuffix(got, "watch.failed") {
		t.Errorf("told %q", got)
	}
	select {
	case got := <-h.got:
		t.Errorf("told a second time: %q", got)
	default:
	}
}

func TestWatchUsage(t *testing.T) {
	dir := watchDir(t)
	secret := " --webhook-secret-file " + filepath.Join(dir, "secret")
	for _, c := range []struct{ args, wrong, hint string }{
		{"watch", "nothing to watch", "--scope FILE"},
		{"watch 127.0.0.1 --every 0s", "--every 0s is not between 1s and 366d", "such as --every 24h"},
		{"watch 127.0.0.1 --every soon", `"soon" is no duration`, "see gatehouse watch"},
		{"watch 127.0.0.1 --jitter 80%", "--jitter 80% is not between 0% and 50%", "--jitter 10%"},
		{"watch 127.0.0.1 --jitter NaN", "--jitter NaN is not between", "--jitter 10%"},
		{"watch 127.0.0.1 --gone-after 0", "--gone-after 0 is none", "--gone-after 2"},
		{"watch -", "cannot take its targets from standard input", "--targets"},
		{"watch 8.8.8.8", "8.8.8.8 is a public address", "gatehouse scope init"},
		{"watch --scope nothere.yaml", "open nothere.yaml", "gatehouse scope init"},
		{"watch 127.0.0.1 --notify nonsense", "no kind of channel", "webhook:, slack:, mailto:"},
		{"watch 127.0.0.1 --notify webhook:https://example.org/s3cr3t", "without a secret", "--webhook-secret-file"},
		{"watch 127.0.0.1 --notify webhook:http://example.org/s3cr3t" + secret, "it has to be https", "see gatehouse watch run --help"},
		{"watch 127.0.0.1 --notify slack://s3cr3t", "slack://T…/B…/… is expected", "see gatehouse watch run --help"},
		{"watch 127.0.0.1 --notify mailto:ops@example.org --mail-from a@example.org", "no mail server", "--smtp"},
		{"watch 127.0.0.1 --notify mailto:ops@example.org --smtp localhost", "no sender", "--mail-from"},
		{"watch 127.0.0.1 --notify-file nothere", "open nothere", "--notify-file"},
		{"watch test", "nobody to tell", "--notify"},
		{"notify 99 --draft out --from a@example.org", `there is no wave "99"`, "gatehouse wave list"},
		{"notify 1 --draft out", "nobody writes", "--from"},
		{"notify 1 --draft out --from nobody", `--from "nobody" is no e-mail address`, "such as --from"},
		{"notify 1", "missing flags: --draft=DIR", "see gatehouse notify --help"},
	} {
		args := strings.Fields(c.args)
		if !strings.HasSuffix(c.args, "test") {
			args = append(args, "--state-dir", filepath.Join(dir, "state"))
		}
		code, out, errOut := gatehouse(t, "", args...)
		wrong, hint, _ := strings.Cut(errOut, "\nhint: ")
		if code != exitUsage || out != "" || !strings.Contains(wrong, c.wrong) || !strings.Contains(hint, c.hint) || strings.Contains(errOut, "s3cr3t") {
			t.Errorf("gatehouse %s: exit code %d\n%s%s", c.args, code, out, errOut)
		}
	}
}
