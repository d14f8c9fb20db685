package upstream

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
	"syscall"
	"time"
)

// wire speaks HTTP/1.1 to one server on the goroutine that asks. net/http's
// Transport has two goroutines for each connection and hands every request and
// answer from one to the other, which costs an open stream their stacks and a
// small request as much as all the rest. Answers are read by net/http here too;
// what is ours is to write a request's head, and which connection is used when.
//
// It is for what the gate mostly passes: requests without a body, or with one
// that is short and in memory, in plain text. ReverseProxy takes the others.
type wire struct {
	dial  func(ctx context.Context, network, addr string) (net.Conn, error)
	plain bool   // there is no TLS
	host  string // to dial
	most  int    // lines that may be idle

	mu   sync.Mutex
	idle []*line // the one used last at the end
	shut bool
}

const (
	// maxInline is the longest body that is written in one piece with its head, in
	// bytes. A socket takes that much without its reader's help, so that a server
	// which answers before it has read does not stand against us.
	maxInline = 32 << 10
	// maxAnswerHead bounds what comes before an answer's body, in bytes.
	maxAnswerHead = 256 << 10
	// maxInformal is how many answers with a 1xx status may come before the one
	// that counts.
	maxInformal = 5
	// idleTime is how long a line may be idle.
	idleTime = 90 * time.Second
)

var (
	errLongHead = errors.New("the head of the answer is too long")
	errInformal = errors.New("too many answers before the one that counts")
	errSwitched = errors.New("the server switches to a protocol that nobody asked for")
)

// line is one connection, of one request at a time.
type line struct {
	conn  net.Conn
	raw   syscall.RawConn
	r     *bufio.Reader
	left  int // of the head that is coming, in bytes; below 0: what comes is no head
	quiet time.Time
	used  bool // has answered before
	hang  func()
	peek  peek
}

// Read reads what the server sends, for r.
func (l *line) Read(p []byte) (int, error) {
	if l.left == 0 {
		return 0, errLongHead
	}
	if l.left > 0 {
		p = p[:min(len(p), l.left)]
	}
	n, err := l.conn.Read(p)
	if l.left > 0 {
		l.left -= n
	}
	return n, err
}

// lineBuffer is read into at a time, in bytes: some twenty pieces of a stream,
// when they come faster than they are passed on.
const lineBuffer = 2 << 10

// takes reports whether the request is one for us.
func (w *wire) takes(r *http.Request) bool {
	if !w.plain || !canPeek {
		return false
	}
	inMemory := r.GetBody != nil && 0 < r.ContentLength && r.ContentLength <= maxInline
	return inMemory || r.Body == nil || r.Body == http.NoBody
}

// trip sends a request, whose message is written already, and returns the answer
// as far as its head. A request that came to an idle connection's end, and can do
// no harm twice, is sent once more.
func (w *wire) trip(ctx context.Context, method string, message []byte) (*http.Response, *body, error) {
	for fresh := false; ; fresh = true {
		l, err := w.line(ctx, fresh)
		if err != nil {
			return nil, nil, err
		}
		answer, body, err := w.ask(ctx, l, method, message)
		if err == nil {
			return answer, body, nil
		}
		safe := method == http.MethodGet || method == http.MethodHead
		if again := l.used && l.left == maxAnswerHead && safe; !again || ctx.Err() != nil {
			return nil, nil, err
		}
	}
}

// line returns a line to send on: an idle one that is alive, or a new one.
func (w *wire) line(ctx context.Context, fresh bool) (*line, error) {
	for !fresh {
		l := w.take(time.Now())
		if l == nil {
			break
		}
		if l.alive() {
			return l, nil
		}
		_ = l.conn.Close() // the server has
	}
	conn, err := w.dial(ctx, "tcp", w.host)
	if err != nil {
		return nil, err
	}
	l := &line{conn: conn}
	if c, ok := conn.(syscall.Conn); ok {
		if l.raw, err = c.SyscallConn(); err != nil {
			return nil, errors.Join(err, conn.Close())
		}
	}
	l.hang = func() { _ = conn.Close() }
	l.r = bufio.NewReaderSize(l, lineBuffer)
	return l, nil
}

// take takes the line that was used last, nil when there is none.
func (w *wire) take(now time.Time) *line {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sweep(now)
	n := len(w.idle)
	if n == 0 {
		return nil
	}
	l := w.idle[n-1]
	w.idle[n-1] = nil
	w.idle = w.idle[:n-1]
	return l
}

// rest closes what was idle for too long, or was hung up by the server: nothing
// else would tell before the line is needed.
func (w *wire) rest(now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sweep(now)
	w.idle = slices.DeleteFunc(w.idle, func(l *line) bool {
		if l.alive() {
			return false
		}
		_ = l.conn.Close() // the server has
		return true
	})
}

// sweep closes the lines that were idle for too long. The caller holds the lock.
func (w *wire) sweep(now time.Time) {
	old := 0
	for old < len(w.idle) && now.Sub(w.idle[old].quiet) > idleTime {
		_ = w.idle[old].conn.Close() // nothing is under way on it
		old++
	}
	w.idle = slices.Delete(w.idle, 0, old)
}

// put gives a line back after a whole answer.
func (w *wire) put(l *line) {
	l.quiet = time.Now()
	w.mu.Lock()
	full := w.shut || len(w.idle) >= w.most
	if !full {
		w.idle = append(w.idle, l)
	}
	w.mu.Unlock()
	if full {
		_ = l.conn.Close() // nothing is under way on it
	}
}

// close lets go of what is idle, and of what becomes so.
func (w *wire) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.shut = true
	for _, l := range w.idle {
		_ = l.conn.Close() // nothing is under way on it
	}
	w.idle = nil
}

// ask sends a request on a line and reads the head of its answer. When ctx ends
// the line is hung up, until the answer is at its end.
func (w *wire) ask(ctx context.Context, l *line, method string, message []byte) (*http.Response, *body, error) {
	stop := context.AfterFunc(ctx, l.hang)
	answer, err := l.ask(method, message)
	if err != nil {
		stop()
		_ = l.conn.Close() // the error before says more
		if ended := context.Cause(ctx); ended != nil {
			err = ended
		}
		return nil, nil, err
	}
	b := &body{ReadCloser: answer.Body, wire: w, line: l, ctx: ctx, stop: stop, again: !answer.Close}
	if answer.Body == http.NoBody {
		b.end(true)
	}
	return answer, b, nil
}

// asked is what net/http has to know of a request to read its answer.
var asked, askedHead = &http.Request{Method: http.MethodGet}, &http.Request{Method: http.MethodHead}

func (l *line) ask(method string, message []byte) (*http.Response, error) {
	r := asked
	if method == http.MethodHead {
		r = askedHead
	}
	l.left = maxAnswerHead
	if _, err := l.conn.Write(message); err != nil {
		return nil, err
	}
	for range maxInformal + 1 {
		answer, err := http.ReadResponse(l.r, r)
		switch {
		case err != nil:
			if errors.Is(err, io.ErrUnexpectedEOF) && l.left == maxAnswerHead {
				err = io.EOF
			}
			return nil, err
		case answer.StatusCode == http.StatusSwitchingProtocols:
			return nil, errSwitched
		case answer.StatusCode >= 200:
			l.left, l.used = -1, true
			return answer, nil
		}
	}
	return nil, errInformal
}

// body is of an answer. At its end the line goes back.
type body struct {
	io.ReadCloser // net/http's
	wire          *wire
	line          *line
	ctx           context.Context
	stop          func() bool // the hanging up
	again         bool        // the line may be used again
	ended         bool
}

// wait waits until there is something to read.
func (b *body) wait() {
	if !b.ended {
		_, _ = b.line.r.Peek(1) // what is wrong, Read will say
	}
}

func (b *body) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil {
		b.end(err == io.EOF)
		if ended := context.Cause(b.ctx); err != io.EOF && ended != nil {
			err = ended
		}
	}
	return n, err
}

// Close hangs up, unless the answer came to its end.
func (b *body) Close() error {
	b.end(false)
	return nil
}

func (b *body) end(whole bool) {
	if b.ended {
		return
	}
	b.ended = true
	// What came unasked after the answer would be taken for the next.
	if b.stop() && whole && b.again && b.line.r.Buffered() == 0 {
		b.wire.put(b.line)
		return
	}
	_ = b.line.conn.Close() // what was to be said of the answer is
}
