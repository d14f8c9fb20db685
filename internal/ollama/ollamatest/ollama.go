package ollamatest

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"gatehouse/internal/ollama"
)

// Ollama describes an Ollama server. The zero value is the newest release,
// bound to every address, with no models.
type Ollama struct {
	Version   string // "" is Newest
	Models    []Model
	Running   []Running
	Loopback  bool // bound to a loopback address: it looks at the Host header
	AnyOrigin bool // OLLAMA_ORIGINS=*
	NoCloud   bool // OLLAMA_NO_CLOUD=1
}

// Newest is the release that the simulator was compared with byte for byte.
const Newest = "0.17.4"

// Server returns a server of this description with nothing before it, under the
// name given.
func (o Ollama) Server(name string) *Server {
	o.Version = cmp.Or(o.Version, Newest)
	return &Server{
		Name: name, say: o.engine().say, stack: goServer,
		Truth: Truth{Outcome: "open", Product: "ollama", Version: o.Version, Gives: all},
	}
}

// all are the powers that a stranger has on an open Ollama.
var all = []ollama.Power{ollama.Hello, ollama.Read, ollama.Infer, ollama.Manage}

// since says which release was the first to have a route, as far as the sources
// of 0.1.20, 0.1.24, 0.1.28, 0.1.33, 0.1.38, 0.2.8, 0.6.5, 0.9.6, 0.11.10,
// 0.12.6, 0.13.5, 0.16.2 and 0.17.4 tell it. Routes that are not listed were
// always there.
var since = map[string]string{
	"/v1/chat/completions":         "0.1.24",
	"/api/ps":                      "0.1.38",
	"/api/embed":                   "0.2.6",
	"/v1/models":                   "0.2.6",
	"/v1/models/:model":            "0.2.6",
	"/v1/completions":              "0.2.6",
	"/v1/embeddings":               "0.2.6",
	"/api/me":                      "0.12.0",
	"/api/signout":                 "0.12.0",
	"/api/user/keys/:encodedKey":   "0.12.0",
	"/v1/responses":                "0.13.3",
	"/v1/messages":                 "0.14.0",
	"/v1/images/generations":       "0.15.0",
	"/v1/images/edits":             "0.15.0",
	"/api/status":                  "0.16.0",
	"/api/experimental/aliases":    "0.16.0",
	"/api/experimental/web_search": "0.18.0",
	"/api/experimental/web_fetch":  "0.18.0",
}

// atLeast compares releases by their numbers. A version that is no release's,
// such as the 0.0.0 of a build from source, counts as the newest.
func atLeast(version, release string) bool {
	number := func(v string) (n int) {
		v, _, _ = strings.Cut(v, "-")
		for _, part := range strings.Split(v, ".") {
			p, err := strconv.Atoi(part)
			if err != nil {
				return 0
			}
			n = n*1000 + p
		}
		return n
	}
	n := number(version)
	return n == 0 || n >= number(release)
}

// engine is an Ollama with the answers that do not depend on the request made
// ready.
type engine struct {
	Ollama
	version, tags, ps, v1models reply

	hosts, wrong405, digests bool // what this release does; see since
}

func (o Ollama) engine() *engine {
	o.Version = cmp.Or(o.Version, Newest)
	o.Models = slices.Clone(o.Models)
	// Most recently modified first; longest in memory first.
	slices.SortStableFunc(o.Models, func(a, b Model) int { return b.Modified.Compare(a.Modified) })
	o.Running = slices.Clone(o.Running)
	slices.SortStableFunc(o.Running, func(a, b Running) int { return b.Expires.Compare(a.Expires) })
	return &engine{
		Ollama: o,
		version: ginJSON(200, struct {
			Version string `json:"version"`
		}{o.Version}),
		tags:     ginJSON(200, o.list()),
		ps:       ginJSON(200, o.loaded()),
		v1models: encoded(200, o.openai()),
		hosts:    o.Loopback && atLeast(o.Version, "0.1.29"),
		wrong405: atLeast(o.Version, "0.7.0"),
		digests:  atLeast(o.Version, "0.1.34"),
	}
}

// The JSON of the API, members in Ollama's order.
type (
	detailsJSON struct {
		ParentModel   string   `json:"parent_model"`
		Format        string   `json:"format"`
		Family        string   `json:"family"`
		Families      []string `json:"families"`
		ParameterSize string   `json:"parameter_size"`
		Quantization  string   `json:"quantization_level"`
	}
	modelJSON struct {
		Name        string      `json:"name"`
		Model       string      `json:"model"`
		RemoteModel string      `json:"remote_model,omitempty"`
		RemoteHost  string      `json:"remote_host,omitempty"`
		Modified    time.Time   `json:"modified_at"`
		Size        int64       `json:"size"`
		Digest      string      `json:"digest"`
		Details     detailsJSON `json:"details"`
		Expires     *time.Time  `json:"expires_at,omitempty"`
	}
	runningJSON struct {
		Name     string      `json:"name"`
		Model    string      `json:"model"`
		Modified *time.Time  `json:"modified_at,omitempty"`
		Size     int64       `json:"size"`
		Digest   string      `json:"digest"`
		Details  detailsJSON `json:"details"`
		Expires  time.Time   `json:"expires_at"`
		VRAM     int64       `json:"size_vram"`
		Context  *int64      `json:"context_length,omitempty"`
	}
	openaiJSON struct {
		ID      string `json:"id"`
		Object  string `json:"object"`
		Created int64  `json:"created"`
		Owner   string `json:"owned_by"`
	}
	showJSON struct {
		License     string         `json:"license,omitempty"`
		Modelfile   string         `json:"modelfile,omitempty"`
		Parameters  string         `json:"parameters,omitempty"`
		Template    string         `json:"template,omitempty"`
		System      string         `json:"system,omitempty"`
		Details     detailsJSON    `json:"details"`
		RemoteModel string         `json:"remote_model,omitempty"`
		RemoteHost  string         `json:"remote_host,omitempty"`
		Info        map[string]any `json:"model_info,omitempty"`
		Tensors     []tensorJSON   `json:"tensors,omitempty"`
		Abilities   []string       `json:"capabilities,omitempty"`
		Modified    *time.Time     `json:"modified_at,omitempty"`
	}
	tensorJSON struct {
		Name  string   `json:"name"`
		Type  string   `json:"type"`
		Shape []uint64 `json:"shape"`
	}
)

func (m Model) details() detailsJSON {
	d := detailsJSON{
		Format: m.Format, Family: m.Family, Families: m.Families,
		ParameterSize: m.Params, Quantization: m.Quant,
	}
	if d.Families == nil && m.Family != "" {
		d.Families = []string{m.Family}
	}
	return d
}

func (o Ollama) list() any {
	models := make([]modelJSON, 0, len(o.Models))
	for _, m := range o.Models {
		j := modelJSON{
			Name: m.Name, Model: m.Name, RemoteModel: m.RemoteModel, RemoteHost: m.RemoteHost,
			Modified: m.Modified, Size: m.Size, Digest: m.Digest, Details: m.details(),
		}
		if o.oneShape() {
			j.Expires = new(time.Time)
		}
		models = append(models, j)
	}
	return map[string]any{"models": models}
}

func (o Ollama) loaded() any {
	models := make([]runningJSON, 0, len(o.Running))
	for _, m := range o.Running {
		j := runningJSON{
			Name: m.Name, Model: m.Name, Size: m.Memory, Digest: m.Digest, Details: m.details(),
			Expires: m.Expires, VRAM: m.VRAM,
		}
		if o.oneShape() {
			j.Modified = new(time.Time)
		}
		if atLeast(o.Version, "0.10.0") {
			j.Context = &m.Context
		}
		models = append(models, j)
	}
	return map[string]any{"models": models}
}

// oneShape reports whether this release used one shape for tags and ps, with
// the members that did not apply set to the year 1.
func (o Ollama) oneShape() bool {
	return atLeast(o.Version, "0.1.38") && !atLeast(o.Version, "0.1.42")
}

func (o Ollama) openai() any {
	var data []openaiJSON // null when empty
	for _, m := range o.Models {
		data = append(data, m.openai(m.Name))
	}
	return struct {
		Object string       `json:"object"`
		Data   []openaiJSON `json:"data"`
	}{"list", data}
}

func (m Model) openai(id string) openaiJSON {
	owner := "library"
	if i := strings.LastIndexByte(m.Name, '/'); i >= 0 {
		owner = path.Base(m.Name[:i])
	}
	return openaiJSON{id, "model", m.Modified.Unix(), owner}
}

// ginJSON is what gin's Context.JSON writes.
func ginJSON(status int, v any) reply {
	return reply{status: status, ctype: "application/json; charset=utf-8"}.marshal(v, "")
}

// encoded is what a json.Encoder writes, with the header that Ollama's OpenAI
// layer sets.
func encoded(status int, v any) reply {
	return reply{status: status, ctype: "application/json"}.marshal(v, "\n")
}

func (p reply) marshal(v any, end string) reply {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // only our own types come here
	}
	p.body = string(b) + end
	p.stream = len(p.body) > 2048
	return p
}

func ginError(status int, format string, args ...any) reply {
	return ginJSON(status, map[string]string{"error": fmt.Sprintf(format, args...)})
}

// openaiError is the error of the OpenAI layer; by gin when the request is at
// fault, by the layer's own encoder when the handler behind it is.
func openaiError(status int, message string) reply {
	type inner struct {
		Message string  `json:"message"`
		Type    string  `json:"type"`
		Param   any     `json:"param"`
		Code    *string `json:"code"`
	}
	type outer struct {
		Error inner `json:"error"`
	}
	if status == http.StatusBadRequest {
		return ginJSON(status, outer{inner{Message: message, Type: "invalid_request_error"}})
	}
	return encoded(status, outer{inner{Message: message, Type: "api_error"}})
}

var (
	banner     = text(200, ollama.Banner)
	forbidden  = reply{status: http.StatusForbidden}
	notFound   = reply{status: http.StatusNotFound, ctype: "text/plain", body: "404 page not found"}
	notAllowed = reply{status: http.StatusMethodNotAllowed, ctype: "text/plain", body: "405 method not allowed"}
)

// say answers one request as Ollama's router, its middleware and its handlers do.
func (e *engine) say(r *Request) reply {
	if string(r.Method) == "GET" && len(r.Origin) == 0 && (!e.hosts || knows(r.Host) != stranger) {
		switch string(r.Path) { // what scanners ask, without the long way round
		case "/":
			return banner
		case "/api/version":
			return e.version
		case "/api/tags":
			return e.tags
		case "/api/ps":
			if e.has("/api/ps") {
				return e.ps
			}
		}
	}
	method := string(r.Method)
	p, err := url.PathUnescape(string(r.Path))
	if err != nil {
		return text(http.StatusBadRequest, "400 Bad Request")
	}
	if to := clean(p); to != p { // http.ServeMux, before the router
		return redirect(method, e.muxStatus(), to)
	}
	route, ok := ollama.Classify(method, p)
	ok = ok && e.has(route.Pattern)
	var allow string
	if !ok {
		if other, slash := e.otherSlash(method, p); slash {
			status := http.StatusTemporaryRedirect
			if method == "GET" {
				status = http.StatusMovedPermanently
			}
			return redirect(method, status, other)
		}
		if e.wrong405 {
			allow = e.allow(p)
		}
	}
	before, after, stop := e.middleware(r, method)
	lines := func(p reply) reply {
		if allow != "" {
			before += "Allow: " + allow + "\r\n"
		}
		p.lines = before + p.lines + after
		return p
	}
	switch {
	case stop != nil:
		return lines(*stop)
	case allow != "":
		return lines(notAllowed)
	case !ok:
		return lines(notFound)
	}
	return lines(e.handle(route, p, r.Body))
}

// has reports whether this release has the route.
func (e *engine) has(pattern string) bool {
	first := since[pattern]
	return first == "" || atLeast(e.Version, first)
}

// muxStatus is the redirect of the Go release that this Ollama was built with.
func (e *engine) muxStatus() int {
	if atLeast(e.Version, "0.17.0") {
		return http.StatusTemporaryRedirect
	}
	return http.StatusMovedPermanently
}

// clean is the path that http.ServeMux prefers.
func clean(p string) string {
	c := path.Clean("/" + strings.TrimPrefix(p, "/"))
	if strings.HasSuffix(p, "/") && c != "/" {
		c += "/"
	}
	return c
}

// redirect is net/http's Redirect. Only GET gets a body.
func redirect(method string, status int, to string) reply {
	p := reply{status: status}.with("Location: " + to)
	if method == "GET" || method == "HEAD" {
		p.ctype = "text/html; charset=utf-8"
	}
	if method == "GET" {
		p.body = "<a href=\"" + to + "\">" + http.StatusText(status) + "</a>.\n\n"
	}
	return p
}

// otherSlash returns p with or without its last slash, if that is a route.
func (e *engine) otherSlash(method, p string) (string, bool) {
	other, cut := strings.CutSuffix(p, "/")
	if !cut {
		other += "/"
	}
	route, ok := ollama.Classify(method, other)
	return other, ok && other != "" && e.has(route.Pattern)
}

// allow lists the methods that p has, in the order in which Ollama registers
// them.
func (e *engine) allow(p string) string {
	var methods []string
	for _, method := range []string{"HEAD", "GET", "POST", "DELETE"} {
		if route, ok := ollama.Classify(method, p); ok && e.has(route.Pattern) {
			methods = append(methods, method)
		}
	}
	return strings.Join(methods, ", ")
}

// middleware checks Origin, then Host. It returns header lines for before and
// after those of the answer, and the answer itself where it ends here.
func (e *engine) middleware(r *Request, method string) (before, after string, stop *reply) {
	origin := string(r.Origin)
	if host := string(r.Host); origin != "" && origin != "http://"+host && origin != "https://"+host {
		if !e.AnyOrigin && !allowedOrigin(origin) {
			return "", "", &forbidden
		}
		allowed := "Access-Control-Allow-Origin: " + origin + "\r\n"
		after = "Vary: Origin\r\n"
		if e.AnyOrigin {
			allowed, after = "Access-Control-Allow-Origin: *\r\n", ""
		}
		before = allowed
		if method == "OPTIONS" {
			before = preflight + allowed + "Access-Control-Max-Age: 43200\r\n"
			if after != "" {
				after += "Vary: Access-Control-Request-Method\r\nVary: Access-Control-Request-Headers\r\n"
			}
			return before, after, &reply{status: http.StatusNoContent}
		}
	}
	if e.hosts {
		switch by := knows(r.Host); {
		case by == stranger:
			return before, after, &forbidden
		case by == named && method == "OPTIONS":
			return before, after, &reply{status: http.StatusNoContent}
		}
	}
	return before, after, nil
}

const preflight = "Access-Control-Allow-Headers: Authorization,Content-Type,User-Agent,Accept,X-Requested-With," +
	"Openai-Beta,X-Stainless-Arch,X-Stainless-Async,X-Stainless-Custom-Poll-Interval,X-Stainless-Helper-Method," +
	"X-Stainless-Lang,X-Stainless-Os,X-Stainless-Package-Version,X-Stainless-Poll-Helper,X-Stainless-Retry-Count," +
	"X-Stainless-Runtime,X-Stainless-Runtime-Version,X-Stainless-Timeout\r\n" +
	"Access-Control-Allow-Methods: GET,POST,PUT,PATCH,DELETE,HEAD,OPTIONS\r\n"

// allowedOrigin applies the default list. Its wildcards match prefixes, so
// http://localhost:80.evil.example passes.
func allowedOrigin(origin string) bool {
	for _, host := range []string{"localhost", "127.0.0.1", "0.0.0.0"} {
		for _, scheme := range []string{"http://", "https://"} {
			rest, ok := strings.CutPrefix(origin, scheme+host)
			if ok && (rest == "" || rest[0] == ':') {
				return true
			}
		}
	}
	for _, scheme := range []string{"app://", "file://", "tauri://", "vscode-webview://", "vscode-file://"} {
		if strings.HasPrefix(origin, scheme) {
			return true
		}
	}
	return false
}

// How an Ollama that is bound to loopback knows a Host.
type acquaintance int

const (
	stranger  acquaintance = iota
	named                  // by its name
	addressed              // by its address
)

func knows(host []byte) acquaintance {
	name := strings.ToLower(string(host))
	if before, _, err := net.SplitHostPort(name); err == nil {
		name = before
	}
	if addr, err := netip.ParseAddr(name); err == nil {
		if addr.IsLoopback() || addr.IsPrivate() || addr.IsUnspecified() {
			return addressed
		}
		return stranger
	}
	if name == "" || name == "localhost" || strings.HasSuffix(name, ".localhost") ||
		strings.HasSuffix(name, ".local") || strings.HasSuffix(name, ".internal") {
		return named
	}
	return stranger
}

// call is what the bodies of all requests have in common.
type call struct {
	Model, Name         string
	Source, Destination string
	Messages            []any
	Input               any
}

func (c call) model() string { return cmp.Or(c.Model, c.Name) }

// requestTypes are the names under which decoding errors speak of a body.
var requestTypes = map[string]string{
	"/api/generate": "api.GenerateRequest", "/api/chat": "api.ChatRequest", "/api/embed": "api.EmbedRequest",
	"/api/embeddings": "api.EmbeddingRequest", "/api/show": "api.ShowRequest", "/api/pull": "api.PullRequest",
	"/api/push": "api.PushRequest", "/api/create": "api.CreateRequest", "/api/copy": "api.CopyRequest",
	"/api/delete": "api.DeleteRequest", "/v1/chat/completions": "openai.ChatCompletionRequest",
}

// handle is the handler of a route.
func (e *engine) handle(route ollama.Route, p string, body []byte) reply {
	param := path.Base(p)
	switch route.Pattern {
	case "/":
		return banner
	case "/api/version":
		return e.version
	case "/api/tags":
		return e.tags
	case "/api/ps":
		return e.ps
	case "/v1/models":
		return e.v1models
	case "/v1/models/:model":
		if m, ok := e.model(param); ok {
			return encoded(200, m.openai(param))
		}
		return openaiError(http.StatusNotFound, "model '"+param+"' not found")
	case "/api/status":
		source := "none"
		if e.NoCloud {
			source = "env"
		}
		return jsonReply(200, fmt.Sprintf(`{"cloud":{"disabled":%t,"source":%q}}`, e.NoCloud, source)).gin()
	case "/api/blobs/:digest":
		return e.blob(route.Method, param)
	case "/api/me", "/api/signout", "/api/user/keys/:encodedKey":
		return ginError(http.StatusUnauthorized, "unauthorized")
	case "/api/experimental/aliases":
		if route.Method == "GET" {
			return jsonReply(200, `{"aliases":[]}`).gin()
		}
	}
	var c call
	err := json.NewDecoder(bytes.NewReader(body)).Decode(&c)
	message := ""
	if err != nil {
		message = strings.ReplaceAll(err.Error(), "ollamatest.call", requestTypes[route.Pattern])
	}
	switch {
	case route.Pattern == "/v1/messages":
		return e.anthropic(c, message)
	case strings.HasPrefix(route.Pattern, "/v1/"):
		return e.v1(route.Pattern, c, message)
	case errors.Is(err, io.EOF):
		return ginError(http.StatusBadRequest, "missing request body")
	case err != nil:
		return ginError(http.StatusBadRequest, "%s", message)
	}
	return e.act(route.Pattern, c)
}

// act is what a handler does with a body that parsed: it says what Ollama would
// say, and changes nothing.
func (e *engine) act(pattern string, c call) reply {
	name := c.model()
	m, known := e.model(name)
	missing := ginError(http.StatusNotFound, "model '%s' not found", name)
	switch pattern {
	case "/api/show":
		switch {
		case name == "":
			return ginError(http.StatusBadRequest, "model is required")
		case strings.ContainsAny(name, " \t\r\n\"'<>"):
			return ginError(http.StatusInternalServerError, "unqualified name: registry.ollama.ai/library/%s:latest", name)
		case !known:
			return missing
		case m.RemoteHost != "" && e.NoCloud:
			return ginError(http.StatusForbidden, "ollama cloud is disabled: remote model details are unavailable")
		}
		return e.show(m)
	case "/api/generate", "/api/chat":
		switch {
		case name == "" && pattern == "/api/chat":
			return ginError(http.StatusBadRequest, "model is required")
		case !known && !atLeast(e.Version, "0.2.0"):
			return ginError(http.StatusNotFound, "model '%s' not found, try pulling it first", name)
		case !known:
			return missing
		}
		return ginJSON(200, map[string]any{
			"model": name, "created_at": Epoch, "response": "", "done": true, "done_reason": "load",
		})
	case "/api/embed", "/api/embeddings":
		switch {
		case name == "":
			return ginError(http.StatusBadRequest, "model is required")
		case !known:
			return ginError(http.StatusNotFound, "model %q not found, try pulling it first", name)
		}
		return ginJSON(200, map[string]any{"model": name, "embeddings": [][]float64{}})
	case "/api/delete":
		switch {
		case name == "":
			return ginError(http.StatusBadRequest, "name %q is invalid", name)
		case !known:
			return missing
		}
		return reply{status: 200}
	case "/api/copy":
		if c.Source == "" {
			return ginError(http.StatusBadRequest, "source %q is invalid", c.Source)
		}
		if _, ok := e.model(c.Source); !ok {
			return ginError(http.StatusNotFound, "model %q not found", c.Source)
		}
		return reply{status: 200}
	case "/api/pull":
		if name == "" {
			return ginError(http.StatusBadRequest, "invalid model name")
		}
	case "/api/push":
		if name == "" {
			return ginError(http.StatusBadRequest, "model is required")
		}
	}
	return reply{status: 200, ctype: "application/x-ndjson", body: "{\"status\":\"success\"}\n"}
}

// v1 is the OpenAI layer and the handler behind it.
func (e *engine) v1(pattern string, c call, message string) reply {
	if message == "" {
		switch pattern {
		case "/v1/chat/completions":
			if len(c.Messages) == 0 {
				message = "[] is too short - 'messages'"
			}
		case "/v1/embeddings":
			if c.Input == nil {
				message = "invalid input"
			}
		}
	}
	if message != "" {
		return openaiError(http.StatusBadRequest, message)
	}
	if _, ok := e.model(c.Model); !ok {
		return openaiError(http.StatusNotFound, "model '"+c.Model+"' not found")
	}
	return encoded(200, map[string]any{"object": "list", "model": c.Model})
}

// anthropic is the Anthropic layer.
func (e *engine) anthropic(c call, message string) reply {
	kind, status := "invalid_request_error", http.StatusBadRequest
	switch {
	case message != "":
	case c.Model == "":
		message = "model is required"
	default:
		kind, status, message = "not_found_error", http.StatusNotFound, "model '"+c.Model+"' not found"
	}
	return ginJSON(status, struct {
		Type  string `json:"type"`
		Error any    `json:"error"`
		ID    string `json:"request_id"`
	}{"error", struct {
		Type    string `json:"type"`
		Message string `json:"message"`
	}{kind, message}, "req_" + digest(seed(message))[:24]})
}

var digestForm = regexp.MustCompile("^sha256[:-][0-9a-fA-F]{64}$")

// blob answers for the files that models are made of. The simulator has none.
func (e *engine) blob(method, digest string) reply {
	switch {
	case e.digests && !digestForm.MatchString(digest):
		return ginError(http.StatusBadRequest, "invalid digest format")
	case method == "HEAD":
		return ginError(http.StatusNotFound, "blob %q not found", digest)
	}
	return ginError(http.StatusBadRequest, "digest mismatch, expected %q, got %q", digest,
		"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")
}

// model finds a model by the name that a caller may give it.
func (e *engine) model(name string) (Model, bool) {
	if !strings.Contains(path.Base(name), ":") {
		name += ":latest"
	}
	i := slices.IndexFunc(e.Models, func(m Model) bool { return strings.EqualFold(m.Name, name) })
	if i < 0 {
		return Model{}, false
	}
	return e.Models[i], true
}

// gin makes a JSON reply one of gin's.
func (p reply) gin() reply {
	p.ctype = "application/json; charset=utf-8"
	return p
}

// ggufInfo is what a model's file says of itself, beside what differs by model.
// Long lists are left out by Ollama.
var ggufInfo = map[string]any{
	"general.file_type":                      15,
	"llama.attention.head_count":             32,
	"llama.attention.head_count_kv":          8,
	"llama.attention.layer_norm_rms_epsilon": 1e-5,
	"llama.block_count":                      32,
	"llama.feed_forward_length":              14336,
	"llama.rope.dimension_count":             128,
	"llama.vocab_size":                       128256,
	"tokenizer.ggml.bos_token_id":            1,
	"tokenizer.ggml.eos_token_id":            2,
	"tokenizer.ggml.unknown_token_id":        0,
	"tokenizer.ggml.model":                   "llama",
	"tokenizer.ggml.scores":                  nil,
	"tokenizer.ggml.token_type":              nil,
	"tokenizer.ggml.tokens":                  nil,
}

// tensors are as many as the smallest model has, so that the answer is as long
// as real ones and goes out in chunks.
var tensors = func() []tensorJSON {
	ts := []tensorJSON{{"token_embd.weight", "Q4_K", []uint64{4096, 128256}}}
	for i := range 2 {
		for _, part := range []string{"attn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_norm", "ffn_gate", "ffn_up", "ffn_down"} {
			ts = append(ts, tensorJSON{fmt.Sprintf("blk.%d.%s.weight", i, part), "Q4_K", []uint64{4096, 4096}})
		}
	}
	return append(ts, tensorJSON{"output_norm.weight", "F32", []uint64{4096}}, tensorJSON{"output.weight", "Q6_K", []uint64{4096, 128256}})
}()

// show is the answer to POST /api/show.
func (e *engine) show(m Model) reply {
	const template = "{{ if .System }}{{ .System }} {{ end }}{{ .Prompt }} "
	blob := "/root/.ollama/models/blobs/sha256-" + digest(seed(m.Digest))
	j := showJSON{
		License:    "A licence that says what a licence says.",
		Parameters: "num_ctx                        " + strconv.FormatInt(min(m.Context, 4096), 10),
		Template:   template, System: m.System, Details: m.details(),
		RemoteModel: m.RemoteModel, RemoteHost: m.RemoteHost,
	}
	j.Modelfile = "# Modelfile generated by \"ollama show\"\n# To build a new Modelfile based on this, replace FROM with:\n# FROM " +
		m.Name + "\n\nFROM " + blob + "\nTEMPLATE \"" + template + "\"\n"
	if m.System != "" {
		j.Modelfile += "SYSTEM " + m.System + "\n"
	}
	if atLeast(e.Version, "0.2.0") {
		j.Modified = &m.Modified
		j.Info = map[string]any{
			"general.architecture":         m.Family,
			m.Family + ".context_length":   m.Context,
			m.Family + ".embedding_length": 4096,
		}
		if m.RemoteHost == "" {
			for key, value := range ggufInfo {
				j.Info[strings.Replace(key, "llama", m.Family, 1)] = value
			}
			j.Info["general.parameter_count"] = m.parameters()
		}
	}
	if atLeast(e.Version, "0.6.5") {
		j.Abilities = m.Abilities
		if m.RemoteHost == "" {
			j.Tensors = tensors
		}
	}
	return ginJSON(200, j)
}
