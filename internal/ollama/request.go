package ollama

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"
)

// Dialect is the API whose words a route speaks. The zero value is Native.
type Dialect int

// The dialects.
const (
	Native    Dialect = iota // Ollama's own: /api/…, lines of JSON
	OpenAI                   // /v1/…, server-sent events
	Anthropic                // /v1/messages, server-sent events with names
)

// Dialect is the API that the route belongs to, for answers in its words.
func (r Route) Dialect() Dialect {
	switch {
	case r.Pattern == "/v1/messages":
		return Anthropic
	case strings.HasPrefix(r.Pattern, "/v1/"):
		return OpenAI
	}
	return Native
}

// DialectOf is the API that a path belongs to where it may be no route of
// Ollama's: what begins like one of an API is answered in that one's words.
func DialectOf(path string) Dialect {
	switch {
	case strings.HasPrefix(path, "/v1/messages"):
		return Anthropic
	case strings.HasPrefix(path, "/v1/"):
		return OpenAI
	}
	return Native
}

// TakesJSON reports whether Ollama reads a JSON body on the route, so that
// [ParseAsk] has to see it whole. Bodies of other routes are none, or blobs.
func (r Route) TakesJSON() bool { return asked[r.key()] != nil }

// ListsModels reports whether the route's answer is a list that [FilterModels]
// cuts down, or tells the length of one.
func (r Route) ListsModels() bool {
	if r.Method == "HEAD" {
		r.Method = "GET"
	}
	return listed[r.key()].member != ""
}

type routeKey struct{ method, pattern string }

func (r Route) key() routeKey { return routeKey{r.Method, r.Pattern} }

// asked is what ParseAsk looks at in the body of each route: the members that
// Ollama 0.17.4 acts on (server/routes.go, openai, anthropic), as far as they
// choose a model or have a price.
var asked = map[routeKey][]string{
	{"POST", "/api/generate"}:   {"model", "prompt", "images", "stream", "keep_alive", "options"},
	{"POST", "/api/chat"}:       {"model", "messages", "stream", "keep_alive", "options"},
	{"POST", "/api/embed"}:      {"model", "keep_alive", "options"},
	{"POST", "/api/embeddings"}: {"model", "keep_alive", "options"},

	{"POST", "/v1/chat/completions"}:   {"model", "messages", "stream", "stream_options", "max_tokens", "max_completion_tokens"},
	{"POST", "/v1/completions"}:        {"model", "stream", "stream_options", "max_tokens"},
	{"POST", "/v1/embeddings"}:         {"model"},
	{"POST", "/v1/responses"}:          {"model", "input", "stream", "max_output_tokens"},
	{"POST", "/v1/images/generations"}: {"model"},
	{"POST", "/v1/images/edits"}:       {"model", "image"},
	{"POST", "/v1/messages"}:           {"model", "messages", "stream", "max_tokens", "tools"},

	{"POST", "/api/show"}:     {"model", "name"},
	{"POST", "/api/pull"}:     {"model", "name", "stream"},
	{"POST", "/api/push"}:     {"model", "name", "stream"},
	{"POST", "/api/create"}:   {"model", "name", "from", "remote_host", "stream"},
	{"POST", "/api/copy"}:     {"source", "destination"},
	{"DELETE", "/api/delete"}: {"model", "name"},

	{"POST", "/api/experimental/aliases"}:   {"alias", "target", "prefix_matching"},
	{"DELETE", "/api/experimental/aliases"}: {"alias"},
}

// Ask is what a request asks for, as Ollama will read it.
type Ask struct {
	Models     []string // every model named, as written: of a copy both, of a creation its base too
	EveryModel bool     // reaches names that it does not list, as a prefix alias does
	Stream     bool     // the answer is to come in pieces

	NumCtx    int64          // tokens of context; 0: not said
	MaxTokens int64          // tokens of answer; 0: no bound, said or not
	KeepAlive *time.Duration // how long the model stays loaded; nil: not said; see Forever
	Unload    bool           // does nothing but unload the model

	Images      int
	Bytes       int  // of the body
	PromptBytes int  // of the body, without its images
	WebSearch   bool // has the server search the web, with its account
	Remote      bool // makes a model that computes on another server

	route Route
	body  []byte
	told  told
}

// Forever is the keep_alive that never unloads a model.
const Forever time.Duration = math.MaxInt64

// told is where in the body the bounds are, as they came.
type told struct {
	top, options, streamOptions object
	numCtx, keepAlive           slot
	maxTokens, maxCompletion    slot
	includeUsage                slot // n is 1 for true
	addedUsage                  bool // by Apply
}

// slot is the place of a member's value; the zero slot says that it is absent.
type slot struct {
	start, end int
	set        bool // not null
	n          int64
}

func (s slot) absent() bool { return s.end == 0 }

// object is the place of an object's inside.
type object struct {
	slot       // set: it is an object
	empty bool // has no members
}

// ErrNoBody is what Ollama itself says when a request has no body.
var ErrNoBody = errors.New("missing request body")

// ParseAsk reads the body of a request for the route. It accepts less than
// Ollama does, so that both see the same request: Ollama takes the last of two
// members with one name, takes "MODEL" for "model", and passes over what comes
// after the first value; all of that is an error here, and so are two members
// that mean the same and differ, bytes that are not UTF-8, nesting deeper than
// 10,000, and bounds of a type or size that Ollama would refuse or round.
// Errors are worded for the caller, and belong to status 400.
//
// Ollama reads JSON whatever the content type says, so does ParseAsk; multipart
// bodies, which Ollama reads nowhere, get an error that says so. For a route
// whose body is no JSON of this kind the Ask is nil. The Ask refers to body.
func ParseAsk(r Route, contentType string, body []byte) (*Ask, error) {
	names := asked[r.key()]
	if names == nil {
		return nil, nil
	}
	if len(body) == 0 {
		return nil, ErrNoBody
	}
	const multipart = "multipart/"
	if len(contentType) >= len(multipart) && strings.EqualFold(contentType[:len(multipart)], multipart) {
		return nil, errors.New("the body has to be JSON, not a multipart form")
	}
	p := parser{dec: jsontext.NewDecoder(bytes.NewBuffer(body)), body: body, ask: &Ask{route: r, body: body}}
	if err := p.request(names); err != nil {
		return nil, err
	}
	return p.ask, nil
}

// AskPath is the Ask of a route that names its model in the path; of others it
// is nil.
func AskPath(r Route, path string) *Ask {
	if r.Pattern != "/v1/models/:model" {
		return nil
	}
	return &Ask{Models: []string{strings.TrimPrefix(path, "/v1/models/")}, route: r}
}

// NamesModels reports whether a request for the route is about models that its
// Ask names.
func (r Route) NamesModels() bool {
	return r.TakesJSON() || r.Pattern == "/v1/models/:model"
}

// Clamp bounds what a request may ask for. The zero Clamp changes nothing.
type Clamp struct {
	NumCtx    int64 // tokens of context; 0: no bound
	MaxTokens int64 // tokens of answer; 0: no bound

	// How long the model may stay loaded, from the least to the most; both 0: no
	// bound. A request that does not say is left to the server's own setting.
	KeepAliveMin, KeepAlive time.Duration

	// CountUsage has OpenAI's streams tell how many tokens they used, if the
	// caller did not ask for it. The Ask's Meter takes it out of the answer.
	CountUsage bool
}

// edit puts text in the place of bytes of the body.
type edit struct {
	start, end int
	text       string
}

// Exceeds names the first member by which the request asks to pass a bound of c,
// "" when there is none. What a request does not say passes no bound.
func (a *Ask) Exceeds(c Clamp) string {
	t := &a.told
	answers := a.AnswerTokens(1) > 0
	switch {
	case c.NumCtx > 0 && t.numCtx.set && t.numCtx.n > c.NumCtx:
		return "num_ctx"
	case c.MaxTokens > 0 && answers && a.passes(t.maxTokens, c.MaxTokens):
		return a.answerMember()
	case c.MaxTokens > 0 && answers && a.passes(t.maxCompletion, c.MaxTokens):
		return "max_completion_tokens"
	case a.KeepAlive != nil && c.keepAlive(*a.KeepAlive) != *a.KeepAlive:
		return "keep_alive"
	}
	return ""
}

// answerMember is the member that bounds the answer on the route.
func (a *Ask) answerMember() string {
	switch {
	case a.route.Dialect() == Native:
		return "num_predict"
	case a.route.Pattern == "/v1/responses":
		return "max_output_tokens"
	}
	return "max_tokens"
}

// passes reports whether a bound on the answer is above limit. Below 1 it is none
// at all, save to /v1/messages, which refuses that.
func (a *Ask) passes(s slot, limit int64) bool {
	return s.set && (s.n > limit || s.n < 1 && a.route.Dialect() != Anthropic)
}

func (c Clamp) keepAlive(d time.Duration) time.Duration {
	if c.KeepAliveMin == 0 && c.KeepAlive == 0 {
		return d
	}
	return max(c.KeepAliveMin, min(c.KeepAlive, d))
}

// Apply returns the body with what passes c brought down to it, and whether it
// had to change. Every other byte stays as it came. A bound on context or answer
// that the request does not state is stated, where the route has a member for
// it. The Ask says afterwards what the new body asks for; it is applied once.
func (a *Ask) Apply(c Clamp) (body []byte, changed bool) {
	t := &a.told
	var edits []edit
	var options, top []string // members to add
	if a.KeepAlive != nil {
		if d := c.keepAlive(*a.KeepAlive); d != *a.KeepAlive {
			edits = append(edits, edit{t.keepAlive.start, t.keepAlive.end, strconv.Quote(d.String())})
			a.KeepAlive, a.Unload = &d, false
		}
	}
	native := slices.Contains(asked[a.route.key()], "options")
	answers := a.AnswerTokens(1) > 0

	// A context that is not asked for is the server's own: naming one would have
	// it load the model again for each key with another cap.
	if c.NumCtx > 0 && native && t.numCtx.set && t.numCtx.n > c.NumCtx {
		set(&edits, &options, t.numCtx, "num_ctx", c.NumCtx)
		a.NumCtx = c.NumCtx
	}
	if c.MaxTokens > 0 && answers {
		limit := c.MaxTokens
		if s := t.maxCompletion; a.passes(s, limit) {
			set(&edits, nil, s, "max_completion_tokens", limit)
		} else if s.set {
			limit = s.n // and state it by the name that is acted on
		}
		missing := !t.maxTokens.set && a.route.Dialect() != Anthropic
		if missing || a.passes(t.maxTokens, limit) {
			into := &top
			if native {
				into = &options
			}
			set(&edits, into, t.maxTokens, a.answerMember(), limit)
			a.MaxTokens = limit
		}
	}
	if c.CountUsage && a.Stream && t.includeUsage.n == 0 && slices.Contains(asked[a.route.key()], "stream_options") {
		if s := t.includeUsage; !s.absent() {
			edits = append(edits, edit{s.start, s.end, "true"})
		} else {
			insert(&edits, &top, t.streamOptions, "stream_options", []string{`"include_usage":true`})
		}
		t.addedUsage = true
	}
	insert(&edits, &top, t.options, "options", options)
	insert(&edits, nil, t.top, "", top)
	if len(edits) == 0 {
		return a.body, false
	}
	return a.edit(edits), true
}

// set writes a number into the place of a member, or adds it to the members that
// are to be added.
func set(edits *[]edit, add *[]string, s slot, name string, n int64) {
	if s.absent() {
		*add = append(*add, fmt.Sprintf("%q:%d", name, n))
		return
	}
	*edits = append(*edits, edit{s.start, s.end, strconv.FormatInt(n, 10)})
}

// insert adds members to an object. If the object itself is missing, or null, it
// is written too.
func insert(edits *[]edit, add *[]string, o object, name string, members []string) {
	text := strings.Join(members, ",")
	switch {
	case text == "":
	case o.set && !o.empty:
		*edits = append(*edits, edit{o.start, o.start, text + ","})
	case o.set:
		*edits = append(*edits, edit{o.start, o.start, text})
	case o.absent():
		*add = append(*add, fmt.Sprintf("%q:{%s}", name, text))
	default:
		*edits = append(*edits, edit{o.slot.start, o.end, "{" + text + "}"})
	}
}

// edit carries out edits, which do not overlap.
func (a *Ask) edit(edits []edit) []byte {
	slices.SortFunc(edits, func(x, y edit) int { return cmp.Compare(x.start, y.start) })
	size := len(a.body)
	for _, e := range edits {
		size += len(e.text)
	}
	body, done := make([]byte, 0, size), 0
	for _, e := range edits {
		body = append(append(body, a.body[done:e.start]...), e.text...)
		done = e.end
	}
	return append(body, a.body[done:]...)
}

// Rough measures of a prompt, for as long as Ollama has not counted it.
const (
	bytesToken  = 4   // bytes of JSON to a token; Ollama reckons the same for /v1/messages
	imageTokens = 768 // of an image; models use 256 to some 1,600
)

// PromptTokens is a rough guess at the length of the prompt.
func (a *Ask) PromptTokens() int64 {
	if a.route.Power != Infer || a.Unload {
		return 0
	}
	return int64(a.PromptBytes+bytesToken-1)/bytesToken + int64(a.Images)*imageTokens
}

// AnswerTokens is how many tokens the answer may have: what the request, clamped
// or not, sets for a bound, or else unbounded; 0 where answers have none.
func (a *Ask) AnswerTokens(unbounded int64) int64 {
	switch a.route.Pattern {
	case "/api/generate", "/api/chat", "/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages":
	default:
		return 0
	}
	if a.Unload {
		return 0
	}
	if a.MaxTokens > 0 {
		return a.MaxTokens
	}
	return unbounded
}

// Bounded reports whether a bound on the tokens of the answer can be put on the
// route, and their number be learned. Of the routes that compute, those for images
// know neither, and yet run a model of text for as long as it likes.
func (r Route) Bounded() bool { return !strings.HasPrefix(r.Pattern, "/v1/images/") }

// parser reads one body into an Ask.
type parser struct {
	dec  *jsontext.Decoder
	body []byte
	ask  *Ask

	words struct { // that name models
		model, name, from, source, destination, alias, target, remoteHost string
	}
	prefix     bool // of an alias
	prompted   bool // there is something to compute
	stream     slot // n is 1 for true
	imageBytes int
}

// request reads the whole body.
func (p *parser) request(names []string) error {
	if p.dec.PeekKind() != '{' {
		if _, err := p.dec.ReadValue(); errors.Is(err, io.EOF) {
			return ErrNoBody
		} else if err != nil {
			return notJSON(err)
		}
		return errors.New("the body is no JSON object")
	}
	var err error
	if p.ask.told.top, err = p.object(names, p.member); err != nil {
		return err
	}
	if _, err := p.dec.ReadToken(); err != io.EOF {
		return errors.New("something follows the JSON object of the body")
	}
	return p.conclude()
}

// member reads the value of a member of the body.
func (p *parser) member(name string) (err error) {
	ask, words := p.ask, &p.words
	switch name {
	case "model":
		words.model, err = p.text(name)
	case "name":
		words.name, err = p.text(name)
	case "from":
		words.from, err = p.text(name)
	case "source":
		words.source, err = p.text(name)
	case "destination":
		words.destination, err = p.text(name)
	case "alias":
		words.alias, err = p.text(name)
	case "target":
		words.target, err = p.text(name)
	case "remote_host":
		words.remoteHost, err = p.text(name)
	case "prefix_matching":
		var s slot
		s, err = p.truth(name)
		p.prefix = s.n == 1
	case "stream":
		p.stream, err = p.truth(name)
	case "keep_alive":
		err = p.keepAlive()
	case "options":
		ask.told.options, err = p.maybeObject(name, []string{"num_ctx", "num_predict"}, p.option)
	case "stream_options":
		ask.told.streamOptions, err = p.maybeObject(name, []string{"include_usage"}, func(name string) (err error) {
			ask.told.includeUsage, err = p.truth(name)
			return err
		})
	case "max_tokens", "max_output_tokens":
		ask.told.maxTokens, err = p.integer(name)
	case "max_completion_tokens":
		ask.told.maxCompletion, err = p.integer(name)
	case "prompt":
		var s string
		s, err = p.text(name)
		p.prompted = s != ""
	case "image":
		var s string
		s, err = p.text(name)
		if s != "" {
			ask.Images++
			p.imageBytes += len(s)
		}
	case "images":
		err = p.images()
	case "messages", "input":
		err = p.messages(name)
	case "tools":
		err = p.tools()
	default:
		panic("ollama: no reader for the member " + name)
	}
	return err
}

// option reads a member of options, which Ollama keeps as floating point.
func (p *parser) option(name string) (err error) {
	if name == "num_ctx" {
		p.ask.told.numCtx, err = p.whole(name)
	} else {
		p.ask.told.maxTokens, err = p.whole(name)
	}
	return err
}

// conclude draws from what was read what the route makes of it.
func (p *parser) conclude() error {
	ask, words, told := p.ask, &p.words, &p.ask.told
	if words.model != "" && words.name != "" && words.model != words.name {
		return errors.New("model and name are two models: name one")
	}
	if told.maxTokens.set && told.maxCompletion.set && told.maxTokens.n != told.maxCompletion.n {
		return errors.New("max_tokens and max_completion_tokens differ: say one")
	}
	words.model = cmp.Or(words.model, words.name)
	for _, name := range []string{words.model, words.from, words.source, words.destination, words.target} {
		if name != "" {
			ask.Models = append(ask.Models, name)
		}
	}
	if words.alias != "" {
		// An alias that is no model's name matches the beginnings of names.
		if p.prefix || !ValidName(strings.TrimSpace(words.alias)) {
			ask.EveryModel = true
		} else {
			ask.Models = append(ask.Models, words.alias)
		}
	}
	ask.Remote = words.remoteHost != ""

	ask.Stream = p.stream.n == 1
	if !p.stream.set && ask.route.Dialect() == Native {
		ask.Stream = streams[ask.route.Pattern]
	}
	ask.Bytes = len(ask.body)
	ask.PromptBytes = ask.Bytes - p.imageBytes
	ask.NumCtx = max(0, told.numCtx.n)
	// Runners take every number below 1 for no bound at all.
	ask.MaxTokens = max(0, told.maxTokens.n)
	ask.Unload = !p.prompted && ask.KeepAlive != nil && *ask.KeepAlive == 0 &&
		(ask.route.Pattern == "/api/generate" || ask.route.Pattern == "/api/chat")
	return nil
}

// streams are Ollama's own routes that stream when the request does not say.
var streams = map[string]bool{
	"/api/generate": true, "/api/chat": true,
	"/api/pull": true, "/api/push": true, "/api/create": true,
}

// object reads the object that comes next. It calls member for each of its
// members that has one of the names, to read the value; others are passed over,
// unless encoding/json would take them for one of the names.
func (p *parser) object(names []string, member func(name string) error) (object, error) {
	if _, err := p.dec.ReadToken(); err != nil {
		return object{}, notJSON(err)
	}
	o := object{slot: slot{start: p.at(), set: true}, empty: true}
	for p.dec.PeekKind() != '}' {
		o.empty = false
		raw, err := p.dec.ReadValue()
		if err != nil {
			return o, notJSON(err)
		}
		name, err := known(raw, names)
		if err != nil {
			return o, err
		}
		if name == "" {
			if _, err := p.dec.ReadValue(); err != nil {
				return o, notJSON(err)
			}
		} else if err := member(name); err != nil {
			return o, err
		}
	}
	_, err := p.dec.ReadToken()
	if err != nil {
		return o, notJSON(err)
	}
	o.end = p.at() - 1
	return o, nil
}

// known returns which of the names a member's quoted name is; "" is none.
func known(quoted jsontext.Value, names []string) (string, error) {
	word := quoted[1 : len(quoted)-1]
	if bytes.IndexByte(word, '\\') >= 0 {
		var err error
		if word, err = jsontext.AppendUnquote(nil, quoted); err != nil {
			return "", notJSON(err)
		}
	}
	for _, name := range names {
		if string(word) == name {
			return name, nil
		}
		// By Unicode's simple folding, as encoding/json does it.
		if strings.EqualFold(string(word), name) {
			return "", fmt.Errorf("the member %q has to be written %q", word, name)
		}
	}
	return "", nil
}

// maybeObject reads an object or null.
func (p *parser) maybeObject(name string, names []string, member func(name string) error) (object, error) {
	switch p.dec.PeekKind() {
	case '{':
		return p.object(names, member)
	case 'n':
		_, s, err := p.value()
		return object{slot: s}, err
	}
	return object{}, p.wrong(name, "an object")
}

// array reads an array, whose elements element reads, or null.
func (p *parser) array(name string, element func() error) error {
	switch p.dec.PeekKind() {
	case 'n':
		_, _, err := p.value()
		return err
	case '[':
	default:
		return p.wrong(name, "an array")
	}
	if _, err := p.dec.ReadToken(); err != nil {
		return notJSON(err)
	}
	for p.dec.PeekKind() != ']' {
		if err := element(); err != nil {
			return err
		}
	}
	if _, err := p.dec.ReadToken(); err != nil {
		return notJSON(err)
	}
	return nil
}

// value reads any value, and where it is.
func (p *parser) value() (jsontext.Value, slot, error) {
	v, err := p.dec.ReadValue()
	if err != nil {
		return nil, slot{}, notJSON(err)
	}
	return v, slot{start: p.at() - len(v), end: p.at(), set: v.Kind() != 'n'}, nil
}

// wrong is the error of a member that has not the type wanted.
func (p *parser) wrong(name, want string) error {
	if _, _, err := p.value(); err != nil {
		return err
	}
	return fmt.Errorf("%s has to be %s", name, want)
}

// text reads a string; null is "".
func (p *parser) text(name string) (string, error) {
	switch p.dec.PeekKind() {
	case '"':
		token, err := p.dec.ReadToken()
		if err != nil {
			return "", notJSON(err)
		}
		return token.String(), nil
	case 'n':
		_, _, err := p.value()
		return "", err
	}
	return "", p.wrong(name, "a string")
}

// truth reads a boolean, 1 for true, or null.
func (p *parser) truth(name string) (slot, error) {
	switch p.dec.PeekKind() {
	case 't', 'f', 'n':
		v, s, err := p.value()
		if v.Kind() == 't' {
			s.n = 1
		}
		return s, err
	}
	return slot{}, p.wrong(name, "true or false")
}

// integer reads what Ollama decodes into an int, or null.
func (p *parser) integer(name string) (slot, error) {
	return p.number(name, func(v jsontext.Value) (int64, error) { return strconv.ParseInt(string(v), 10, 64) })
}

// whole reads what Ollama decodes into a float64 and then cuts to an integer, or
// null. What would be cut is refused.
func (p *parser) whole(name string) (slot, error) {
	return p.number(name, func(v jsontext.Value) (int64, error) {
		f, err := strconv.ParseFloat(string(v), 64)
		if err != nil || f != math.Trunc(f) || math.Abs(f) > 1<<53 {
			return 0, strconv.ErrRange
		}
		return int64(f), nil
	})
}

func (p *parser) number(name string, parse func(jsontext.Value) (int64, error)) (slot, error) {
	switch p.dec.PeekKind() {
	case '0':
		v, s, err := p.value()
		if err != nil {
			return s, err
		}
		if s.n, err = parse(v); err == nil {
			return s, nil
		}
	case 'n':
		_, s, err := p.value()
		return s, err
	default:
		if _, _, err := p.value(); err != nil {
			return slot{}, err
		}
	}
	return slot{}, fmt.Errorf("%s has to be a whole number", name)
}

// keepAlive reads seconds, a duration such as "5m", or null. What is negative
// means forever.
func (p *parser) keepAlive() error {
	kind := p.dec.PeekKind()
	v, s, err := p.value()
	if err != nil {
		return err
	}
	p.ask.told.keepAlive = s
	var d time.Duration
	switch kind {
	case 'n':
		return nil
	case '0':
		f, err := strconv.ParseFloat(string(v), 64)
		if err != nil || f > 9e9 { // seconds that fit a Duration
			return errors.New("keep_alive is too long; a negative number is forever")
		}
		d = time.Duration(max(f, -1) * float64(time.Second))
		if f < 0 {
			d = Forever
		}
	case '"':
		word, err := jsontext.AppendUnquote(nil, v)
		if err != nil {
			return notJSON(err)
		}
		if d, err = time.ParseDuration(string(word)); err != nil {
			return errors.New(`keep_alive has to be seconds, or a duration such as "5m"`)
		}
		if d < 0 {
			d = Forever
		}
	default:
		return errors.New(`keep_alive has to be seconds, or a duration such as "5m"`)
	}
	p.ask.KeepAlive = &d
	return nil
}

// images reads the images of a prompt or of a message.
func (p *parser) images() error {
	return p.array("images", func() error {
		if kind := p.dec.PeekKind(); kind != '"' && kind != 'n' {
			return p.wrong("each of images", "a string")
		}
		v, _, err := p.value()
		p.ask.Images++
		p.imageBytes += len(v)
		return err
	})
}

// messages reads the messages of a chat: strings or objects with content.
func (p *parser) messages(name string) error {
	if p.dec.PeekKind() == '"' { // the input of /v1/responses may be
		_, _, err := p.value()
		return err
	}
	names := []string{"content"}
	if p.ask.route.Dialect() == Native {
		names = []string{"content", "images"}
	}
	return p.array(name, func() error {
		p.prompted = true
		if p.dec.PeekKind() != '{' {
			_, _, err := p.value() // Ollama refuses it, or takes null for an empty one
			return err
		}
		_, err := p.object(names, func(name string) error {
			if name == "images" {
				return p.images()
			}
			return p.blocks(3)
		})
		return err
	})
}

// blocks reads a content: a string, or blocks of which some are images. Blocks
// may hold blocks, as a tool's result does, so deep.
func (p *parser) blocks(deep int) error {
	if p.dec.PeekKind() != '[' || deep == 0 {
		_, _, err := p.value()
		return err
	}
	return p.array("content", func() error {
		if p.dec.PeekKind() != '{' {
			_, _, err := p.value()
			return err
		}
		image := false
		block, err := p.object([]string{"type", "content"}, func(name string) error {
			if name == "content" {
				return p.blocks(deep - 1)
			}
			if p.dec.PeekKind() != '"' {
				_, _, err := p.value()
				return err
			}
			kind, err := p.text(name)
			image = strings.Contains(kind, "image") // image, image_url, input_image
			return err
		})
		if image {
			p.ask.Images++
			p.imageBytes += block.end - block.start
		}
		return err
	})
}

// tools looks for a tool that the server itself would run.
func (p *parser) tools() error {
	return p.array("tools", func() error {
		if p.dec.PeekKind() != '{' {
			_, _, err := p.value()
			return err
		}
		_, err := p.object([]string{"type"}, func(name string) error {
			kind, err := p.text(name)
			// Ollama knows web_search_… alone, so far.
			p.ask.WebSearch = p.ask.WebSearch || strings.HasPrefix(kind, "web_")
			return err
		})
		return err
	})
}

func (p *parser) at() int { return int(p.dec.InputOffset()) }

func notJSON(err error) error {
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return errors.New("the JSON of the body ends early")
	}
	// The decoder's words can have a long name of the body in them.
	return fmt.Errorf("the body is not JSON as it has to be: %.200s", strings.TrimPrefix(err.Error(), "jsontext: "))
}
