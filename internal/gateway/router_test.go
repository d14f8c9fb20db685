package gateway_test

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"gatehouse/internal/gateway"
	"gatehouse/internal/key"
	"gatehouse/internal/ledger"
	"gatehouse/internal/limit"
	"gatehouse/internal/ollama"
	"gatehouse/internal/ollama/realollama"
	"gatehouse/internal/upstream"
)

// wrongType is a body that no handler of Ollama's gets past. Almost all say
// which one they are, for encoding/json names the struct that it was to fill.
const wrongType = `{"model":7}`

// rightType is a body that the gate takes on every route.
const rightType = `{"model":"tiny","name":"tiny","source":"tiny","destination":"tiny","alias":"tiny","target":"tiny",` +
	`"prompt":"x","input":"x","max_tokens":1,"messages":[{"role":"user","content":"x"}]}`

// router is a gate that lets one key do everything, before a real Ollama. What
// the gate passes on it sends with a body that has Ollama's handler say its name.
type router struct {
	addr  string
	token string
	book  *book

	mu  sync.Mutex
	ran map[string][]string // by request id: the mark of each answer
}

func newRouter(t testing.TB, server *realollama.Server) *router {
	t.Helper()
	to, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	pool, err := upstream.New(upstream.Config{Servers: []upstream.Server{{URL: to, Slots: 4}}, OnError: gateway.UpstreamFailed})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	r := &router{book: &book{added: make(chan struct{}, 1)}, ran: make(map[string][]string)}
	token, k := newKey("everything", func(k *key.Key) {
		k.Terms = key.Terms{Powers: ollama.Powers, Models: []string{"*"}}
	})
	ring := new(key.Ring)
	ring.Replace([]key.Key{k})
	r.token = token
	front := httptest.NewUnstartedServer(&gateway.Gateway{
		Door: &key.Door{Ring: ring}, Limiter: limit.New(), Ledger: r.book,
		BodyTime: time.Second, // for who announces a body and sends none
		Upstream: http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			req.Body, req.ContentLength = http.NoBody, 0
			if req.Method != http.MethodGet && req.Method != http.MethodHead {
				req.Body, req.ContentLength = io.NopCloser(strings.NewReader(wrongType)), int64(len(wrongType))
			}
			req.GetBody = nil
			m := &marked{ResponseWriter: w}
			pool.ServeHTTP(m, req)
			id := req.Header.Get("X-Request-Id")
			r.mu.Lock()
			r.ran[id] = append(r.ran[id], m.mark(req.Method))
			r.mu.Unlock()
		}),
	})
	front.Config.DisableGeneralOptionsHandler = true
	front.Start()
	t.Cleanup(front.Close)
	r.addr = front.Listener.Addr().String()
	return r
}

// marked keeps what an answer is known by.
type marked struct {
	http.ResponseWriter
	status int
	body   bytes.Buffer
}

func (m *marked) WriteHeader(status int) {
	m.status = status
	m.ResponseWriter.WriteHeader(status)
}

func (m *marked) Write(p []byte) (int, error) {
	if m.body.Len() < 4096 {
		m.body.Write(p)
	}
	return m.ResponseWriter.Write(p)
}

func (m *marked) Unwrap() http.ResponseWriter { return m.ResponseWriter }

// mark is the handler's: its status and words, without what names the request.
func (m *marked) mark(method string) string {
	return mark(method, m.status, m.body.String())
}

// ownName is what in an answer depends on the request.
var ownName = regexp.MustCompile(`model '[^']*' not found|model is required|req_\w+|invalid digest format|digest mismatch[^"]*`)

func mark(method string, status int, body string) string {
	if method == http.MethodHead {
		return fmt.Sprintf("HEAD %v", status == http.StatusOK) // there are no words
	}
	if !strings.Contains(body, `"error"`) && len(body) > 60 {
		body = body[:60] // a list: how it begins
	}
	return fmt.Sprintf("%s %d %s", method, status, ownName.ReplaceAllString(body, "…"))
}

// send writes a request line as it is and reads until the gate hangs up, so that
// its account is written when it returns.
func (r *router) send(t testing.TB, method, target string) {
	t.Helper()
	conn, err := net.Dial("tcp", r.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(conn, "%s %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAuthorization: Bearer %s\r\nContent-Length: %d\r\n\r\n%s",
		method, target, r.token, len(rightType), rightType)
	// A gate that hangs up with a body unread resets the connection; that says no less.
	_, _ = io.Copy(io.Discard, conn)
}

// take returns what came of the requests so far, and forgets it.
func (r *router) take() ([]ledger.Record, map[string][]string) {
	r.book.mu.Lock()
	defer r.book.mu.Unlock()
	r.mu.Lock()
	defer r.mu.Unlock()
	records, ran := r.book.records, r.ran
	r.book.records, r.ran = nil, make(map[string][]string)
	return records, ran
}

// example is a path of a route.
func example(route ollama.Route) string {
	return strings.NewReplacer(":digest", "sha256-x", ":model", "none:x", ":encodedKey", "abc").Replace(route.Pattern)
}

// marks asks the real server itself for each route of the table in the plainest
// way, and returns how each handler's answer is known.
func marks(t testing.TB, server *realollama.Server) map[ollama.Route]string {
	t.Helper()
	list := make(map[ollama.Route]string)
	powers := make(map[string]ollama.Route)
	for _, route := range ollama.Routes {
		ask := realollama.Request{Method: route.Method, Path: example(route), Host: "localhost"}
		if route.Method != http.MethodGet && route.Method != http.MethodHead {
			ask.Body = wrongType
		}
		reply := server.Ask(t, ask)
		m := mark(route.Method, reply.Status, string(reply.Body))
		list[route] = m
		if reply.Status == http.StatusNotFound && strings.Contains(m, "page not found") {
			continue // of another release
		}
		// A HEAD has no words; and no HEAD does more than read.
		if other, ok := powers[m]; ok && other.Power != route.Power && route.Method != http.MethodHead {
			t.Fatalf("%s %s and %s %s cannot be told apart: %s", route.Method, route.Pattern, other.Method, other.Pattern, m)
		}
		powers[m] = route
	}
	return list
}

// hold sends a request line and holds the account of it against the handler that
// ran. It reports whether the gate let it in.
func (r *router) hold(t testing.TB, want map[ollama.Route]string, method, target string) (allowed bool) {
	t.Helper()
	r.take()
	r.send(t, method, target)
	records, ran := r.take()
	// What is no HTTP, net/http answers by itself.
	if len(records) > 1 {
		t.Fatalf("%q %q: %d lines in the ledger", method, target, len(records))
	}
	for _, record := range records {
		marks := ran[record.ID]
		delete(ran, record.ID)
		if !record.Allowed {
			if len(marks) > 0 {
				t.Fatalf("%q %q: denied, and Ollama answered %q", method, target, marks)
			}
			continue
		}
		allowed = true
		route := ollama.Route{Method: record.Method, Pattern: record.Route, Power: ollama.Power(record.Power)}
		if !slices.Contains(ollama.Routes, route) {
			t.Fatalf("%q %q: let in as %+v, which is not in the table", method, target, route)
		}
		if len(marks) != 1 || marks[0] != want[route] {
			t.Fatalf("%q %q: let in as %s %s, and what ran was %q, not %q", method, target, route.Method, route.Pattern, marks, want[route])
		}
	}
	if len(ran) > 0 {
		t.Fatalf("%q %q: Ollama answered what is in no account: %v", method, target, ran)
	}
	return allowed
}

// TestRouteTable holds our table against the one that the real Ollama prints.
func TestRouteTable(t *testing.T) {
	server := realollama.Start(t, realollama.Empty())
	log, err := os.ReadFile(server.Log)
	if err != nil {
		t.Fatal(err)
	}
	registered := regexp.MustCompile(`(?m)^\[GIN-debug\] ([A-Z]+) +(\S+) +-->`)
	real := make(map[string]bool)
	for _, m := range registered.FindAllStringSubmatch(string(log), -1) {
		real[m[1]+" "+m[2]] = true
	}
	if len(real) < 30 {
		t.Fatalf("the real Ollama lists %d routes", len(real))
	}
	for _, route := range ollama.Routes {
		name := route.Method + " " + route.Pattern
		if !real[name] && !strings.HasPrefix(route.Pattern, "/api/experimental/web_") { // of later releases
			t.Errorf("%s is not a route of Ollama %s", name, realollama.Version)
		}
		delete(real, name)
	}
	for name := range real {
		t.Errorf("Ollama %s has the route %s, and the table has not", realollama.Version, name)
	}
}

// tricks are request lines that somebody could read as another.
func tricks() (lines [][2]string) {
	for _, route := range ollama.Routes {
		path := example(route)
		dir, last := path[:strings.LastIndexByte(path, '/')], path[strings.LastIndexByte(path, '/')+1:]
		for _, target := range []string{
			path, path + "?", path + "?ts=1&x=%2f..", path + "/", path + "//", "/" + path, "//x" + path, "/." + path, "/x/.." + path, path + "/.", path + "/..",
			path + "/../delete", path + ";", path + ";x=1", path + "/..;/delete", path + ".", path + "..", path + "%20", path + "%00", path + "%0a", path + "%3f", path + "%23",
			path + "#x", path + "%2f", path + "%2e", path + "%", path + "%2", path + "%zz", path + "\\", path + "%5c..", dir + "%2f" + last, dir + "%2F" + last,
			dir + "%252f" + last, dir + "/%2e/" + last, dir + "/%2e%2e" + path, dir + "\\" + last, dir + "/./" + last, dir + "//" + last, dir + "/;/" + last,
			strings.ToUpper(path), strings.Replace(path, "api", "Api", 1), strings.Replace(path, "api", "%61pi", 1), strings.Replace(path, "v1", "%76%31", 1),
			"http://localhost" + path, "http://evil.example" + path, "https://localhost" + path, "HTTP://LOCALHOST" + path, "http://u:p@localhost" + path, "http:" + path,
			"localhost" + path, "*", "*" + path, "?" + path, "/?" + path, "/" + strings.TrimPrefix(path, "/") + "\t", "/%c0%ae%c0%ae" + path, "/\u2024" + path, path + "\u200b",
			strings.ReplaceAll(path, "/", "\uff0f"), strings.ReplaceAll(path, "e", "%65"),
		} {
			lines = append(lines, [2]string{route.Method, target})
		}
		for _, method := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PROPFIND", "post", "Get", "POST\x0b", "*"} {
			lines = append(lines, [2]string{method, path})
		}
	}
	for _, model := range []string{"tiny", "a:b", "a%3Ab", "a%3ab", "a%2fb", "a/b", ".", "..", "%2e%2e", "a%00", "a;b", "a?b", "..%2f..%2fapi%2fdelete", "~", "@"} {
		lines = append(lines, [2]string{"GET", "/v1/models/" + model}, [2]string{"POST", "/api/blobs/" + model}, [2]string{"HEAD", "/api/blobs/" + model}, [2]string{"DELETE", "/api/user/keys/" + model})
	}
	return lines
}

// TestRouter has a real Ollama say, for each request line that the gate lets in,
// which of its handlers ran: it is the one that the gate decided on.
func TestRouter(t *testing.T) {
	server := realollama.Start(t, realollama.Empty())
	want := marks(t, server)
	r := newRouter(t, server)
	in := make(map[string]bool)
	lines := tricks()
	for _, line := range lines {
		if r.hold(t, want, line[0], line[1]) {
			in[line[0]+" "+line[1]] = true
		}
	}
	for _, route := range ollama.Routes {
		if !in[route.Method+" "+example(route)] {
			t.Errorf("%s %s is not let in as it is", route.Method, example(route))
		}
	}
	// What is let in is written in the one plain way, but for a query and a colon.
	plain := regexp.MustCompile(`^[A-Z]+ /[a-z0-9/_:.-]*(%3[Aa][a-z]+)?(\?.*)?$`)
	for line := range in {
		if _, target, _ := strings.Cut(line, " "); !plain.MatchString(line) || strings.Contains(target, "//") || strings.Contains(target, "/.") && !strings.Contains(target, "?") {
			t.Errorf("%q is let in", line)
		}
	}
	t.Logf("%d request lines, %d let in", len(lines), len(in))
}

// FuzzRouter is TestRouter with whatever the fuzzer thinks of.
func FuzzRouter(f *testing.F) {
	server := realollama.Start(f, realollama.Empty())
	want := marks(f, server)
	r := newRouter(f, server)
	seen := make(map[[2]string]bool)
	for i, line := range tricks() {
		if i%23 == 0 && !seen[line] { // TestRouter has them all
			seen[line] = true
			f.Add(line[0], line[1])
		}
	}
	f.Fuzz(func(t *testing.T, method, target string) {
		if strings.ContainsAny(method+target, "\n") || len(target) > 4096 {
			return // no request line
		}
		r.hold(t, want, method, target)
	})
}
