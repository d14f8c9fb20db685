package ollama

import (
	"bytes"
	"strconv"
)

// Usage is what an answer used, as far as it has passed.
type Usage struct {
	Prompt, Answer int64 // tokens
	Chunks         int64 // pieces of answer, of mostly one token each
	Estimated      bool  // the server has not told the tokens
	Done           bool  // the answer is whole
	Failed         bool  // the server ended it with an error
	Model          string
}

// Total is what the answer counts for.
func (u Usage) Total() int64 { return u.Prompt + u.Answer }

// Meter counts the tokens of one answer as it passes, cut anywhere: lines of
// JSON, server-sent events or one JSON object, whichever comes. It reads names
// and numbers near the top, and never keeps what is said: its memory is constant,
// but for the one line that Pass may hold.
//
// Until the server tells, the prompt is taken to be as long as its bytes suggest,
// and each piece of the answer for one token. That is how Ollama streams, but
// for pieces that it has to gather, such as tool calls: those count too little.
type Meter struct {
	route  Route
	stream bool
	prompt int64 // tokens, by guess
	limit  int64 // tokens; below 0: none

	scan   scanner
	now    event // that is coming
	text   bool  // the line that is coming has something in it
	usage  Usage // Prompt and Answer: as told
	asTold bool  // both are
	spent  bool  // the limit is passed: the event that is coming is the last
	over   bool  // it has come

	so   sofar
	hide hider
}

// sofar is what a stream has said of itself, to end it in its own name.
type sofar struct {
	id, created string
	createdAt   word  // Ollama's own, of the last line
	begun       bool  // by message_start
	block       int64 // of content, that is open; -1: none
	sequence    int64 // of the last event
}

// event is what one event, line or whole answer says.
type event struct {
	kind           kind
	done, notDone  bool
	failed         bool
	choice         bool  // has a choice
	finished       bool  // with its finish_reason
	progress       bool  // is of an image in the making
	embeddings     bool  // has some
	prompt, answer int64 // tokens; -1: not told
	begins         int64 // tokens of prompt as message_start guesses them; -1
	index          int64
}

var noEvent = event{prompt: -1, answer: -1, begins: -1}

// kind is the "type" of an event, as far as it matters.
type kind int

const (
	otherKind kind = iota
	startKind      // message_start
	openKind       // content_block_start
	deltaKind      // a piece of the answer
	closeKind      // content_block_stop
	lastKind       // message_stop, response.completed
)

// NewMeter returns a Meter for an answer on the route. stream says that the
// answer was asked for in pieces; only such a one can be ended early.
func NewMeter(r Route, stream bool) *Meter {
	m := &Meter{route: r, stream: stream, limit: -1, now: noEvent}
	m.so.block = -1
	return m
}

// Meter returns a Meter for the answer to the request, after Apply.
func (a *Ask) Meter() *Meter {
	m := NewMeter(a.route, a.Stream)
	m.prompt = a.PromptTokens()
	m.hide.on = a.told.addedUsage
	return m
}

// Limit has the Meter end the stream when it has used more tokens: see Pass.
// Below 0 there is no limit.
func (m *Meter) Limit(tokens int64) { m.limit = tokens }

// Over reports whether the limit was passed, and Pass returned the last of what
// the caller may see. Left to be sent is CutLine.
func (m *Meter) Over() bool { return m.over }

// Write counts p. It takes all of it, and never fails.
func (m *Meter) Write(p []byte) (int, error) {
	for rest := p; len(rest) > 0; {
		rest = rest[m.count(rest):]
		m.over = false // only Pass ends streams
	}
	return len(p), nil
}

// Pass counts p and returns what of it the caller is to get now, which is p
// itself with two exceptions. Of a stream that tells its usage only because the
// gate asked for it, lines are held until they are whole, and the usage is taken
// out. And of a stream that has passed its limit nothing is returned beyond the
// end of an event. What is returned is valid until the next call.
func (m *Meter) Pass(p []byte) []byte {
	switch {
	case m.over:
		return nil
	case m.hide.on:
		return m.passHiding(p)
	}
	return p[:m.count(p)]
}

// Rest returns what Pass holds of a stream that ended within a line.
func (m *Meter) Rest() []byte {
	if m.over {
		return nil
	}
	rest := m.hide.held
	m.hide.held = nil
	return rest
}

// Usage is what the answer used, as far as it has passed.
func (m *Meter) Usage() Usage {
	u := m.usage
	if m.asTold {
		return u
	}
	u.Answer = u.Chunks
	if u.Failed && u.Chunks == 0 {
		u.Prompt = 0 // it was refused
		return u
	}
	u.Estimated = true
	if u.Prompt == 0 {
		u.Prompt = m.prompt
	}
	return u
}

// count reads p up to its end, or to the end of the event that passes the limit,
// and returns how much that was.
func (m *Meter) count(p []byte) int {
	for read := 0; read < len(p); {
		end := bytes.IndexByte(p[read:], '\n')
		if end < 0 {
			m.piece(p[read:])
			break
		}
		m.piece(p[read : read+end])
		read += end + 1
		if ended := m.endLine(); ended && m.spent {
			m.over = true
			return read
		}
	}
	return len(p)
}

// piece reads a part of a line. What stands around the JSON, such as "data:",
// the scanner passes over.
func (m *Meter) piece(p []byte) {
	m.text = m.text || len(p) > 1 || len(p) == 1 && p[0] != '\r'
	m.scan.read(p, m)
}

// endLine reports whether an event ended with the line: native ones are a line
// each, the others end with an empty one.
func (m *Meter) endLine() bool {
	ended := !m.text || m.route.Dialect() == Native
	m.text = false
	if m.stream {
		// No event's JSON goes over lines, so nonsense does not spoil the next.
		m.scan.reset()
		m.now = noEvent
	}
	return ended
}

// open is told that the value of the member that the scanner is at is an object
// or an array.
func (m *Meter) open() {
	names := m.scan.path()
	switch {
	case len(names) == 1 && names[0].is("error"):
		m.now.failed = true
	case len(names) == 1 && names[0].is("embeddings"):
		m.now.embeddings = true
	case len(names) == 2 && names[0].is("choices"):
		m.now.choice = true
	}
}

// value is told the value of the member that the scanner is at: a string, or a
// number or other literal.
func (m *Meter) value(v []byte, quoted bool) {
	names := m.scan.path()
	name := names[len(names)-1].text()
	switch {
	case len(names) == 1:
		m.member(name, v, quoted)
	case len(names) == 2 && names[0].is("usage"), len(names) == 3 && names[0].is("response") && names[1].is("usage"):
		switch string(name) {
		case "prompt_tokens", "input_tokens":
			m.now.prompt = number(v)
		case "completion_tokens", "output_tokens":
			m.now.answer = number(v)
		}
	case len(names) == 2 && (names[0].is("message") || names[0].is("response")):
		switch string(name) {
		case "model", "id", "created_at":
			m.member(name, v, quoted)
		}
	case len(names) == 3 && names[0].is("message") && names[1].is("usage") && string(name) == "input_tokens":
		m.now.begins = number(v)
	case len(names) == 3 && names[0].is("choices") && string(name) == "finish_reason":
		m.now.finished = quoted
	}
}

// member is told a value at the top.
func (m *Meter) member(name, v []byte, quoted bool) {
	switch string(name) {
	case "":
		m.now.done = string(v) == "DONE" // of [DONE]
	case "done":
		m.now.done, m.now.notDone = string(v) == "true", string(v) == "false"
	case "prompt_eval_count":
		m.now.prompt = number(v)
	case "eval_count":
		m.now.answer = number(v)
	case "completed":
		m.now.progress = true
	case "error":
		m.now.failed = quoted
	case "type":
		m.now.kind = kindOf(v)
	case "index":
		m.now.index = number(v)
	case "sequence_number":
		m.so.sequence = number(v)
	case "model":
		note(&m.usage.Model, v)
	case "id":
		note(&m.so.id, v)
	case "created":
		note(&m.so.created, v)
	case "created_at":
		if quoted {
			m.so.createdAt.set(v)
		} else {
			note(&m.so.created, v)
		}
	}
}

// note keeps v in s, without garbage where it is the same each time.
func note(s *string, v []byte) {
	if string(v) != *s {
		*s = string(v)
	}
}

// number reads a count of tokens; -1 is none.
func number(v []byte) int64 {
	n, err := strconv.ParseUint(string(v), 10, 53)
	if err != nil {
		return -1
	}
	return int64(n)
}

func kindOf(v []byte) kind {
	switch string(v) {
	case "message_start":
		return startKind
	case "content_block_start":
		return openKind
	case "content_block_delta":
		return deltaKind
	case "content_block_stop":
		return closeKind
	case "message_stop", "response.completed", "response.incomplete", "response.failed":
		return lastKind
	}
	if bytes.HasPrefix(v, []byte("response.")) && bytes.HasSuffix(v, []byte(".delta")) {
		return deltaKind
	}
	return otherKind
}

// end is told that the JSON of an event is whole.
func (m *Meter) end() {
	e, u := m.now, &m.usage
	m.now = noEvent

	if e.begins > 0 {
		u.Prompt = max(e.begins, m.prompt) // of two guesses
	}
	native := e.done && m.route.Dialect() == Native
	if e.prompt > 0 || e.answer > 0 || native || e.embeddings {
		// Ollama leaves out what is 0. A whole event tells both.
		u.Prompt, u.Answer, m.asTold = max(0, e.prompt), max(0, e.answer), true
	}
	u.Failed = u.Failed || e.failed
	u.Done = u.Done || e.failed || e.done || e.kind == lastKind || !m.stream && !e.notDone

	switch e.kind {
	case startKind:
		m.so.begun = true
	case openKind:
		m.so.block = e.index
	case closeKind:
		m.so.block = -1
	}
	if e.notDone && !e.progress || e.choice && !e.finished || e.kind == deltaKind {
		u.Chunks++
		m.spent = m.stream && m.limit >= 0 && m.Usage().Total() > m.limit
	}
}

// scanner finds the members near the top of JSON that comes cut anywhere. It
// keeps the names of the members that it is in, and one short value. It takes
// much that is not JSON; what stands outside of objects and arrays it passes over.
type scanner struct {
	depth   int // how many objects and arrays are open
	objects [watched]bool
	names   [watched]word
	naming  bool // a string that comes is a name
	within  byte // '"': a string; 'x': another literal; 0: neither
	escaped bool
	keeping bool
	kept    [128]byte
	n       int // of kept; more than it has: too long
}

// watched is how deep the scanner looks.
const watched = 3

// path is the names of the members that the scanner is in, from the top; the
// elements of arrays have none.
func (s *scanner) path() []word { return s.names[:s.depth] }

// reset forgets what has come.
func (s *scanner) reset() {
	s.depth, s.naming, s.within, s.escaped = 0, false, 0, false
}

// read goes on with p and tells m what it finds.
func (s *scanner) read(p []byte, m *Meter) {
	for i := 0; i < len(p); {
		if s.within == '"' {
			i = s.readString(p, i, m)
			continue
		}
		c := p[i]
		i++
		switch c {
		case '"':
			if s.depth > 0 {
				s.within = '"'
				s.begin()
			}
		case '{', '[':
			s.literalEnds(m)
			if 0 < s.depth && s.depth <= watched {
				m.open()
			}
			s.depth++
			if s.depth <= watched {
				s.objects[s.depth-1] = c == '{'
				s.names[s.depth-1].n = 0
				s.naming = c == '{'
			}
		case '}', ']':
			s.literalEnds(m)
			s.naming = false
			if s.depth > 0 {
				s.depth--
				if s.depth == 0 {
					m.end()
				}
			}
		case ',':
			s.literalEnds(m)
			if 0 < s.depth && s.depth <= watched {
				s.naming = s.objects[s.depth-1]
			}
		case ':':
			s.naming = false
		case ' ', '\t', '\r', '\n':
			s.literalEnds(m)
		default:
			if s.depth == 0 || s.depth > watched {
				continue
			}
			if s.within == 0 {
				s.within = 'x'
				s.begin()
			}
			s.keep(p[i-1 : i])
		}
	}
}

// readString reads on in a string from p[i], and returns how far.
func (s *scanner) readString(p []byte, i int, m *Meter) int {
	if s.escaped {
		s.escaped = false
		s.keep(p[i : i+1])
		return i + 1
	}
	from := i
	for i < len(p) && p[i] != '"' && p[i] != '\\' {
		i++
	}
	s.keep(p[from:i])
	switch {
	case i == len(p):
		return i
	case p[i] == '\\':
		s.escaped = true
		s.keep(p[i : i+1])
	default:
		s.within = 0
		s.tell(m, true)
	}
	return i + 1
}

// begin begins a string or literal. In arrays within, there is nothing to keep.
func (s *scanner) begin() {
	s.n = 0
	s.keeping = s.depth <= watched && (s.depth == 1 || s.objects[s.depth-1])
}

func (s *scanner) keep(p []byte) {
	if !s.keeping || s.n > len(s.kept) {
		return
	}
	copy(s.kept[s.n:], p)
	s.n += len(p)
}

func (s *scanner) literalEnds(m *Meter) {
	if s.within == 'x' {
		s.within = 0
		s.tell(m, false)
	}
}

// tell tells what was kept: to the names, or to m.
func (s *scanner) tell(m *Meter, quoted bool) {
	switch {
	case !s.keeping:
	case s.naming:
		s.names[s.depth-1].set(s.kept[:min(s.n, len(s.kept))])
		s.naming = false
	case s.n <= len(s.kept):
		m.value(s.kept[:s.n], quoted)
	}
}

// word is a short piece of text. What does not fit is none.
type word struct {
	b [40]byte
	n int
}

func (w *word) set(b []byte) {
	w.n = 0
	if len(b) <= len(w.b) {
		w.n = copy(w.b[:], b)
	}
}

func (w *word) text() []byte     { return w.b[:w.n] }
func (w *word) is(s string) bool { return string(w.text()) == s }
