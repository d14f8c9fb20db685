package connect_test

import (
	"bufio"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/zalando/go-keyring"

	"gatehouse/internal/connect"
)

const secret = "gh_secret"

// between starts a forwarder in front of gate and returns its address.
func between(t *testing.T, gate *httptest.Server, path string, config *tls.Config, origins ...string) string {
	t.Helper()
	u, err := url.Parse(gate.URL + path)
	if err != nil {
		t.Fatal(err)
	}
	transport := connect.Transport(config)
	front := httptest.NewServer(&connect.Forwarder{Gate: u, Key: secret, Transport: transport, Origins: origins})
	t.Cleanup(func() { front.Close(); transport.CloseIdleConnections() })
	return front.URL
}

// gateway starts a stand-in for the gate, by TLS and HTTP/2.
func gateway(t *testing.T, h http.HandlerFunc) *httptest.Server {
	t.Helper()
	gate := httptest.NewUnstartedServer(h)
	gate.EnableHTTP2 = true
	gate.StartTLS()
	t.Cleanup(gate.Close)
	return gate
}

func pinOf(cert *x509.Certificate) connect.Pin { return sha256.Sum256(cert.RawSubjectPublicKeyInfo) }

func do(t *testing.T, method, url, body string, header ...string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		if header[i] == "Host" {
			req.Host = header[i+1]
			continue
		}
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(text)
}

// TestForwards: the path and the query as they came, the key in place of the
// program's own credentials, and nothing of the page that asked.
func TestForwards(t *testing.T) {
	asked := make(chan *http.Request, 1)
	gate := gateway(t, func(w http.ResponseWriter, r *http.Request) {
		asked <- r
		w.Header().Set("Access-Control-Allow-Origin", "https://evil.example")
		w.Header().Set("Set-Cookie", "a=b")
		w.WriteHeader(http.StatusTeapot)
		body, _ := io.ReadAll(r.Body) // a short one gets the wrong answer
		_, _ = w.Write(body)
	})
	front := between(t, gate, "/ollama", pinOf(gate.Certificate()).Config())
	resp, text := do(t, "POST", front+"/api//a%2Fb?ts=1;2&x=%zz", "body",
		"Authorization", "Bearer dummy", "X-Api-Key", "dummy", "Cookie", "c=d", "Origin", "http://localhost:3000", "Referer", "http://localhost:3000/x", "Sec-Fetch-Site", "same-site")
	r := <-asked
	if r.RequestURI != "/ollama/api//a%2Fb?ts=1;2&x=%zz" || r.ProtoMajor != 2 {
		t.Errorf("the gate was asked for %s by %s", r.RequestURI, r.Proto)
	}
	if got := r.Header["Authorization"]; len(got) != 1 || got[0] != "Bearer "+secret {
		t.Errorf("Authorization %q", got)
	}
	for _, name := range []string{"X-Api-Key", "Cookie", "Origin", "Referer", "Sec-Fetch-Site", "X-Forwarded-For"} {
		if r.Header.Get(name) != "" {
			t.Errorf("the gate got %s: %s", name, r.Header.Get(name))
		}
	}
	if resp.StatusCode != http.StatusTeapot || text != "body" {
		t.Errorf("the program got %d %q", resp.StatusCode, text)
	}
	if got := resp.Header.Get("Access-Control-Allow-Origin"); got != "http://localhost:3000" || resp.Header.Get("Set-Cookie") != "" {
		t.Errorf("the program got %v", resp.Header)
	}
}

// TestStreams: a piece arrives before the next is sent, upwards and then
// downwards, and the gate learns that the program left.
func TestStreams(t *testing.T) {
	arrived, more, left := make(chan string), make(chan string), make(chan struct{})
	gate := gateway(t, func(w http.ResponseWriter, r *http.Request) {
		in := bufio.NewReader(r.Body)
		for {
			line, err := in.ReadString('\n')
			if err != nil {
				break
			}
			arrived <- line
		}
		for line := range more {
			_, _ = io.WriteString(w, line) // one who is gone shows below
			_ = http.NewResponseController(w).Flush()
		}
		<-r.Context().Done()
		close(left)
	})
	front := between(t, gate, "", pinOf(gate.Certificate()).Config())
	body, out := io.Pipe()
	go func() {
		for _, line := range []string{"first\n", "second\n", "third\n"} {
			_, _ = io.WriteString(out, line) // what is not sent does not arrive
			if got := <-arrived; got != line {
				t.Errorf("%q arrived, of %q", got, line)
			}
		}
		_ = out.Close()
		more <- "fourth\n"
	}()
	req, err := http.NewRequestWithContext(t.Context(), "POST", front+"/api/blobs/x", body)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	in := bufio.NewReader(resp.Body)
	for _, want := range []string{"fourth\n", "fifth\n", "sixth\n"} {
		if want != "fourth\n" { // and only now
			more <- want
		}
		if line, err := in.ReadString('\n'); line != want {
			t.Fatalf("%q %v, want %q", line, err, want)
		}
	}
	_ = resp.Body.Close()
	close(more)
	<-left
}

// TestStrangers: what is not of this machine gets nothing, and the gate never
// hears of it.
func TestStrangers(t *testing.T) {
	gate := gateway(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") })
	front := between(t, gate, "", pinOf(gate.Certificate()).Config(), "https://chat.example")
	for _, c := range []struct {
		want   int
		header []string
	}{
		{200, nil},
		{200, []string{"Host", "localhost:11434"}},
		{200, []string{"Host", "LOCALHOST"}},
		{200, []string{"Host", "[::1]:11434"}},
		{200, []string{"Host", "127.0.0.2"}},
		{403, []string{"Host", "rebound.example:11434"}},
		{403, []string{"Host", "localhost.evil.example"}},
		{403, []string{"Host", "192.168.1.1"}},
		{200, []string{"Origin", "http://localhost:3000"}},
		{200, []string{"Origin", "https://127.0.0.1"}},
		{200, []string{"Origin", "http://[::1]:5173"}},
		{200, []string{"Origin", "http://0.0.0.0:8080"}},
		{200, []string{"Origin", "app://obsidian.md"}},
		{200, []string{"Origin", "vscode-webview://abc"}},
		{200, []string{"Origin", "https://chat.example"}},
		{403, []string{"Origin", "https://chat.example:444"}},
		{403, []string{"Origin", "http://chat.example"}},
		{403, []string{"Origin", "https://evil.example"}},
		{403, []string{"Origin", "null"}},
		{403, []string{"Origin", "http://localhost:80.evil.example"}},
		{403, []string{"Origin", "http://localhost@evil.example"}},
		{403, []string{"Origin", "http://evil.example@localhost"}},
		{403, []string{"Sec-Fetch-Site", "cross-site"}},
		{200, []string{"Sec-Fetch-Site", "same-origin"}},
		{200, []string{"Sec-Fetch-Site", "none"}},
	} {
		resp, text := do(t, "GET", front+"/api/tags", "", c.header...)
		if resp.StatusCode != c.want {
			t.Errorf("%q: %d %s, want %d", c.header, resp.StatusCode, text, c.want)
		}
		if c.want == 403 && resp.Header.Get("Access-Control-Allow-Origin") != "" {
			t.Errorf("%q may read the refusal", c.header)
		}
	}
	resp, _ := do(t, "OPTIONS", front+"/api/chat", "", "Origin", "https://chat.example", "Access-Control-Request-Method", "POST", "Access-Control-Request-Headers", "content-type,x-stainless-os")
	if resp.StatusCode != 204 || resp.Header.Get("Access-Control-Allow-Headers") != "content-type,x-stainless-os" {
		t.Errorf("a preflight: %d %v", resp.StatusCode, resp.Header)
	}
	if resp, _ := do(t, "OPTIONS", front+"/api/chat", "", "Origin", "https://evil.example", "Access-Control-Request-Method", "POST"); resp.StatusCode != 403 {
		t.Errorf("a preflight of a stranger: %d", resp.StatusCode)
	}
}

// TestAway: a gate that is not there, or is another, is told in the words of the
// API that was called; the gate that comes up answers the next request.
func TestAway(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	_ = l.Close()
	u := &url.URL{Scheme: "http", Host: addr}
	front := httptest.NewServer(&connect.Forwarder{Gate: u, Key: secret, Transport: connect.Transport(nil)})
	t.Cleanup(front.Close)
	for path, want := range map[string]string{
		"/api/chat":            `{"error":"gatehouse connect: ` + u.String() + `: nothing listens there`,
		"/v1/chat/completions": `{"error":{"message":"gatehouse connect: `,
		"/v1/messages":         `{"type":"error","error":{"type":"overloaded_error","message":"gatehouse connect: `,
	} {
		resp, text := do(t, "POST", front.URL+path, "{}")
		if resp.StatusCode != 503 || !strings.HasPrefix(text, want) || resp.Header.Get("Retry-After") == "" || strings.Contains(text, secret) {
			t.Errorf("%s: %d %s", path, resp.StatusCode, text)
		}
	}
	if l, err = net.Listen("tcp", addr); err != nil {
		t.Fatal(err)
	}
	gate := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "up") })}
	go func() { _ = gate.Serve(l) }() // until Close
	t.Cleanup(func() { _ = gate.Close() })
	if resp, text := do(t, "POST", front.URL+"/api/chat", "{}"); resp.StatusCode != 200 || text != "up" {
		t.Errorf("when it is up: %d %s", resp.StatusCode, text)
	}
}

// TestTrust: the key goes to no server that is not known.
func TestTrust(t *testing.T) {
	asked := false
	gate := gateway(t, func(http.ResponseWriter, *http.Request) { asked = true })
	for what, c := range map[string]struct {
		config *tls.Config
		says   string
	}{
		"the system's authorities": {&tls.Config{}, "nobody this machine trusts signed its certificate"},
		"another pin":              {connect.Pin{1}.Config(), "does not have the pinned key"},
	} {
		resp, text := do(t, "GET", between(t, gate, "", c.config)+"/api/tags", "")
		if resp.StatusCode != 502 || !strings.Contains(text, c.says) || asked {
			t.Errorf("by %s: %d %s", what, resp.StatusCode, text)
		}
	}
	if resp, text := do(t, "GET", between(t, gate, "", pinOf(gate.Certificate()).Config())+"/api/tags", ""); resp.StatusCode != 200 || !asked {
		t.Errorf("by the pin: %d %s", resp.StatusCode, text)
	}
}

func TestParsePin(t *testing.T) {
	want := connect.Pin(sha256.Sum256([]byte("a key")))
	raw, padded := base64.RawStdEncoding.EncodeToString(want[:]), base64.StdEncoding.EncodeToString(want[:])
	for _, s := range []string{"SHA256:" + raw, "sha256/" + padded, "sha256//" + padded, "sha256/" + raw} {
		if got, err := connect.ParsePin(s); err != nil || got != want {
			t.Errorf("%s: %v", s, err)
		}
	}
	for _, s := range []string{"", raw, "SHA256:", "SHA256:abc", "SHA256:" + raw + "AAAA", "md5/" + raw} {
		if _, err := connect.ParsePin(s); err == nil {
			t.Errorf("%q is a pin", s)
		}
	}
}

// TestKeys: in the keyring where there is one, else in a file that is its
// owner's alone.
func TestKeys(t *testing.T) {
	file := filepath.Join(t.TempDir(), "sub", "box.key")
	keyring.MockInit()
	if where, err := connect.Keep("https://box", secret, file); err != nil || where == file {
		t.Fatalf("kept in %s: %v", where, err)
	}
	if got, _, err := connect.Kept("https://box", file); err != nil || got != secret {
		t.Errorf("from the keyring: %q %v", got, err)
	}
	if _, _, err := connect.Kept("https://other", file); !errors.Is(err, connect.ErrNoKey) {
		t.Errorf("another gate's: %v", err)
	}

	if where, err := connect.Forget("https://box", file); err != nil || len(where) != 1 || where[0] == file {
		t.Errorf("forgotten in %q: %v", where, err)
	}
	if _, _, err := connect.Kept("https://box", file); !errors.Is(err, connect.ErrNoKey) {
		t.Errorf("forgotten, and kept: %v", err)
	}

	keyring.MockInitWithError(errors.New("no keyring here"))
	if where, err := connect.Keep("https://box", secret, file); err != nil || where != file {
		t.Fatalf("kept in %s: %v", where, err)
	}
	if got, where, err := connect.Kept("https://box", file); err != nil || got != secret || where != file {
		t.Errorf("from the file: %q %s %v", got, where, err)
	}
	for _, mode := range []os.FileMode{0o640, 0o604, 0o644, 0o620} {
		if err := os.Chmod(file, mode); err != nil {
			t.Fatal(err)
		}
		if got, _, err := connect.Kept("https://box", file); err == nil || !strings.Contains(err.Error(), "chmod 600 "+file) || got != "" {
			t.Errorf("mode %o: %q %v", mode, got, err)
		}
	}
	for _, wrong := range []string{"", "two words", "line\nbreak", "schlüssel", strings.Repeat("x", 9000)} {
		if _, err := connect.Keep("https://box", wrong, file); err == nil || wrong != "" && strings.Contains(err.Error(), wrong) {
			t.Errorf("%.20q is kept: %v", wrong, err)
		}
	}
	if where, err := connect.Forget("https://box", file); err != nil || len(where) != 1 || where[0] != file {
		t.Errorf("forgotten in %q: %v", where, err)
	}
	if _, err := os.Stat(file); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the file is there still: %v", err)
	}
	if _, err := connect.Forget("https://box", file); !errors.Is(err, connect.ErrNoKey) {
		t.Errorf("forgotten twice: %v", err)
	}
}

// TestRotation: a key that the gate accepts no more is looked for again, and the
// request that found out gets through; how often is bounded, whoever asks.
func TestRotation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		good, kept, reads := "gh_1", "gh_1", 0
		var bodies []string
		f := &connect.Forwarder{
			Gate: &url.URL{Scheme: "https", Host: "box"}, Key: "gh_1",
			Reread: func() (string, error) { reads++; return kept, nil },
			Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
				body := []byte{}
				if r.Body != nil {
					body, _ = io.ReadAll(r.Body)
				}
				bodies = append(bodies, string(body))
				w := httptest.NewRecorder()
				if r.Header.Get("Authorization") != "Bearer "+good {
					w.WriteHeader(http.StatusUnauthorized)
				}
				return w.Result(), nil
			}),
		}
		ask := func(body io.Reader, want, wantReads int) {
			t.Helper()
			r := httptest.NewRequest("POST", "http://localhost/api/chat", body)
			w := httptest.NewRecorder()
			f.ServeHTTP(w, r)
			if w.Code != want || reads != wantReads {
				t.Errorf("%d, want %d; the key was looked for %d times, want %d", w.Code, want, reads, wantReads)
			}
		}
		ask(strings.NewReader("{}"), 200, 0)
		good, kept = "gh_2", "gh_2"
		ask(strings.NewReader("{}"), 200, 1)
		if want := []string{"{}", "{}", "{}"}; !slices.Equal(bodies, want) {
			t.Errorf("the gate got %q, want %q", bodies, want)
		}
		good = "gh_3" // and nobody has put it where it is kept
		for range 50 {
			ask(nil, 401, 1)
		}
		time.Sleep(connect.RereadEvery)
		for range 50 {
			ask(nil, 401, 2)
		}
		kept = "gh_3"
		time.Sleep(connect.RereadEvery)
		// A body that cannot be sent twice is not; the next one has the key.
		ask(io.MultiReader(strings.NewReader("long")), 401, 3)
		ask(nil, 200, 3)
	})
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
