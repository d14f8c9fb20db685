// Package probe holds one conversation with one place and brings back evidence.
// It never judges what it hears, never writes on the server it asks, follows no
// redirect, tries no credentials, and dials nothing that its scope forbids.
package probe

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"gatehouse/internal/evidence"
	"gatehouse/internal/ollama"
	"gatehouse/internal/target"
)

// Prober asks places what they are. Its fields are set once, before the first
// Probe, and any number of Probes may run at the same time.
type Prober struct {
	// Allows is asked before every dial; nil allows nothing. It has the last
	// word, after names are resolved.
	Allows func(netip.Addr) error
	// Dial opens a connection; the sweep's, so that its rates hold here too.
	Dial func(context.Context, netip.AddrPort) (net.Conn, error)
	// UserAgent says who asks; it has to name a contact (RFC 9511, section 4).
	UserAgent string
	// Details is for how many models POST /api/show is asked; 0 for none.
	Details int
	// Prove asks what shows each power; see prove.go for what is sent and why
	// it changes nothing.
	Prove  bool
	Budget Budget
}

// Budget bounds what one place may cost. A zero field takes its default.
type Budget struct {
	Bytes int64         // read from the place, over all connections; default 8 MiB
	Body  int64         // of one reply, decoded; default 2 MiB
	Reply time.Duration // from one request to the end of its reply; default 5 s
	Time  time.Duration // for the place as a whole; default 15 s
}

func (b Budget) withDefaults() Budget {
	return Budget{
		Bytes: cmp.Or(b.Bytes, 8<<20),
		Body:  cmp.Or(b.Body, 2<<20),
		Reply: cmp.Or(b.Reply, 5*time.Second),
		Time:  cmp.Or(b.Time, 15*time.Second),
	}
}

// reads are the requests that every place is asked, in this order.
var reads = []request{
	{ask: evidence.Root, method: "GET", path: "/"},
	{ask: evidence.Version, method: "GET", path: "/api/version"},
	{ask: evidence.Tags, method: "GET", path: "/api/tags"},
	{ask: evidence.Ps, method: "GET", path: "/api/ps"},
}

// request is one thing to ask.
type request struct {
	ask    evidence.Ask
	method string
	path   string
	model  string // for evidence.Show
	body   string // for evidence.Show; all else has none
	header string // further header lines, each ended by CRLF
	host   string // instead of the place's own
}

// Probe asks place what it is, over conn if that is not nil, and closes it.
// What goes wrong is part of the evidence, so there is no error to return.
func (p *Prober) Probe(ctx context.Context, place target.Place, conn net.Conn) evidence.Host {
	budget := p.Budget.withDefaults()
	now := time.Now()
	c := &conversation{
		prober: p, place: place, budget: budget,
		left: budget.Bytes, deadline: now.Add(budget.Time),
		tls: place.Scheme == "https" || place.Scheme == "" && (place.Port == 443 || place.Port == 8443),
		host: evidence.Host{
			Target: place.Target, Address: place.Addr, Port: place.Port, Name: place.Name,
			Path: place.Path, ObservedAt: now.UTC(),
		},
	}
	defer c.hangUp()
	c.host.Exchanges = make([]evidence.Exchange, 0, len(reads))
	if conn != nil {
		c.use(ctx, conn)
	}
	c.run(ctx)
	c.conclude()
	return c.host
}

// conversation is what is known and open while one place is asked.
type conversation struct {
	prober   *Prober
	place    target.Place
	budget   Budget
	left     int64     // bytes of the budget
	deadline time.Time // for the place as a whole
	tls      bool      // speak TLS on the next connection
	plain    bool      // TLS was tried and is not spoken here
	host     evidence.Host

	raw    net.Conn // as dialled
	conn   net.Conn // raw, or TLS over it; nil when none is open
	stop   func() bool
	armed  time.Time     // the deadline that raw has now
	reader *reader       // nil while nothing is read or written
	ahead  ahead         // what the reader reads from
	first  [keepRaw]byte // what ahead begins with
}

var readers = sync.Pool{New: func() any { return newReader() }}

// hold has a reader for the open connection, and letGo gives it back. Most of
// its time a conversation waits: ten thousand of them wait with no buffers but
// the few bytes of first.
func (c *conversation) hold() *reader {
	if c.reader == nil {
		c.reader = readers.Get().(*reader)
		c.reader.br.Reset(&c.ahead)
	}
	return c.reader
}

func (c *conversation) letGo() {
	if c.reader == nil {
		return
	}
	if cap(c.reader.body) > 64<<10 {
		c.reader.body = nil
	}
	c.reader.br.Reset(nil)
	readers.Put(c.reader)
	c.reader = nil
}

// read reads the next reply into x.
func (c *conversation) read(x *evidence.Exchange) (keep bool, err error) {
	if c.reader == nil || c.reader.br.Buffered() == 0 {
		c.letGo()
		n, err := c.conn.Read(c.first[:])
		c.ahead = ahead{c.first[:n], err, c.conn}
	}
	return c.hold().read(x, c.budget.Body)
}

// ahead is a connection of which some bytes, or its end, were read already.
type ahead struct {
	bytes []byte
	err   error
	conn  net.Conn
}

func (a *ahead) Read(b []byte) (int, error) {
	if len(a.bytes) > 0 {
		n := copy(b, a.bytes)
		a.bytes = a.bytes[n:]
		return n, nil
	}
	if a.err != nil {
		return 0, a.err
	}
	return a.conn.Read(b)
}

// run asks all that is to be asked, as far as the place plays along.
func (c *conversation) run(ctx context.Context) {
	// The banner goes first and alone: it shows what the port speaks.
	if err := c.askFirst(ctx); err != nil {
		return
	}
	if !c.askTogether(ctx, reads[1:]) {
		return
	}
	if c.prober.Details > 0 {
		for _, show := range c.shows(c.prober.Details) {
			if !c.ask(ctx, show) {
				return
			}
		}
	}
	if c.prober.Prove {
		for _, r := range c.proofs() {
			if !c.ask(ctx, r) {
				return
			}
		}
	}
}

// askFirst asks for the banner, by TLS if the port turns out to speak that.
func (c *conversation) askFirst(ctx context.Context) error {
	err := c.exchange(ctx, reads[0])
	switch {
	case c.place.Scheme != "":
	case c.tls && c.host.TLS == nil && (errors.Is(err, errNotTLS) || gone(err)):
		c.tls, c.plain = false, true
		return c.again(ctx)
	case !c.tls && !c.plain && c.wantsTLS(err):
		c.tls = true
		plain, saysTLS := c.host, err == nil
		err := c.again(ctx)
		stalled := saysTLS && late(err)
		if c.host.TLS == nil && !stalled && !strings.HasPrefix(c.host.Exchanges[0].Error, refusedTLS) {
			// Not that either: what the place said in the clear is the evidence.
			c.host = plain
		}
		return err
	}
	return err
}

// again asks for the banner once more, on a new connection, in place of the
// first time.
func (c *conversation) again(ctx context.Context) error {
	c.hangUp()
	c.host.Exchanges = nil
	return c.exchange(ctx, reads[0])
}

// wantsTLS reports whether the answer to a plain request is how a TLS port
// answers one: an alert, a page that says so (net/http, nginx, Apache), or the
// connection closed without a word.
func (c *conversation) wantsTLS(err error) bool {
	x := &c.host.Exchanges[len(c.host.Exchanges)-1]
	if errors.Is(err, errNotHTTP) {
		return len(x.Body) > 1 && x.Body[0] == 0x15 && x.Body[1] == 0x03
	}
	if err != nil {
		return x.Status == 0 && (errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET))
	}
	return x.Status == 400 && saysTLS(x.Body)
}

// ask makes one request and reports whether there is any use in another.
func (c *conversation) ask(ctx context.Context, r request) bool {
	err := c.exchange(ctx, r)
	return err == nil || !c.spent(ctx)
}

// spent reports whether the place has used up its budget.
func (c *conversation) spent(ctx context.Context) bool {
	return ctx.Err() != nil || c.left <= 0 || !time.Now().Before(c.deadline)
}

// askTogether sends several reads at once on the open connection and reads the
// replies one after the other (pipelining, RFC 9112, section 9.3.2): one round
// trip instead of three. Replies that do not come that way are asked for singly.
func (c *conversation) askTogether(ctx context.Context, rs []request) bool {
	if c.conn == nil {
		return c.askSingly(ctx, rs)
	}
	out := c.hold().out[:0]
	for i := range rs {
		out = c.appendRequest(out, &rs[i])
	}
	c.reader.out = out
	sent := time.Now()
	c.arm(sent)
	if _, err := c.conn.Write(out); err != nil {
		c.hangUp()
		return c.askSingly(ctx, rs)
	}
	for i := range rs {
		x := c.newExchange(&rs[i])
		before := c.left
		keep, err := c.read(x)
		x.Took = time.Since(sent)
		if err != nil && x.Status == 0 && len(x.Body) == 0 && (gone(err) || c.left == before && late(err)) {
			if c.spent(ctx) {
				c.fail(x, err)
				return false
			}
			// Not this reply's fault: the server takes one request at a time, and
			// hangs up on the others or throws them away.
			c.host.Exchanges = c.host.Exchanges[:len(c.host.Exchanges)-1]
			c.hangUp()
			return c.askSingly(ctx, rs[i:])
		}
		if err != nil {
			c.fail(x, err)
			return !c.spent(ctx) && c.askSingly(ctx, rs[i+1:])
		}
		if !keep {
			c.hangUp()
			return !c.spent(ctx) && c.askSingly(ctx, rs[i+1:])
		}
		c.arm(time.Now())
	}
	return true
}

func (c *conversation) askSingly(ctx context.Context, rs []request) bool {
	for _, r := range rs {
		if !c.ask(ctx, r) {
			return false
		}
	}
	return true
}

// exchange makes one request, on the open connection or a new one, and appends
// what came of it to the evidence.
func (c *conversation) exchange(ctx context.Context, r request) error {
	x := c.newExchange(&r)
	reused := c.conn != nil && len(c.host.Exchanges) > 1
	err := c.roundTrip(ctx, x, &r)
	if err != nil && reused && x.Status == 0 && len(x.Body) == 0 && gone(err) && !c.spent(ctx) {
		// A kept connection may be closed at any time; that says nothing.
		c.hangUp()
		err = c.roundTrip(ctx, x, &r)
	}
	if err != nil {
		c.fail(x, err)
	}
	if r.ask == evidence.Show && x.Status == 200 {
		x.Body = ollama.BlankShow(x.Body)
	}
	return err
}

func (c *conversation) roundTrip(ctx context.Context, x *evidence.Exchange, r *request) error {
	if c.conn == nil {
		if err := c.dial(ctx); err != nil {
			return err
		}
	}
	sent := time.Now()
	c.arm(sent)
	if c.tls && c.conn == c.raw {
		if err := c.handshake(ctx); err != nil {
			return err
		}
	}
	out := c.appendRequest(c.hold().out[:0], r)
	c.reader.out = out
	if _, err := c.conn.Write(out); err != nil {
		// The answer may be there all the same: a lock that has seen enough
		// answers and closes before the request is whole.
		if !gone(err) {
			return err
		}
	}
	keep, err := c.read(x)
	x.Took = time.Since(sent)
	if err == nil && !keep {
		c.hangUp()
	}
	return err
}

func (c *conversation) newExchange(r *request) *evidence.Exchange {
	c.host.Exchanges = append(c.host.Exchanges, evidence.Exchange{
		Ask: r.ask, Method: r.method, Path: c.place.Path + r.path, Model: r.model,
	})
	return &c.host.Exchanges[len(c.host.Exchanges)-1]
}

// fail records why x has no whole answer and drops the connection, on which the
// next reply would start nobody knows where.
func (c *conversation) fail(x *evidence.Exchange, err error) {
	x.Error = c.describe(err)
	c.hangUp()
}

func (c *conversation) appendRequest(b []byte, r *request) []byte {
	b = append(b, r.method...)
	b = append(b, ' ')
	b = append(b, c.place.Path...)
	b = append(b, r.path...)
	b = append(b, " HTTP/1.1\r\nHost: "...)
	if r.host != "" {
		b = append(b, r.host...)
	} else {
		b = c.appendHost(b)
	}
	b = append(b, "\r\nUser-Agent: "...)
	b = append(b, c.prober.UserAgent...)
	b = append(b, "\r\nAccept: */*\r\n"...)
	b = append(b, r.header...)
	if r.body != "" {
		b = append(b, "Content-Type: application/json\r\n"...)
	}
	if r.method == "POST" || r.method == "DELETE" {
		b = append(b, "Content-Length: "...)
		b = strconv.AppendInt(b, int64(len(r.body)), 10)
		b = append(b, "\r\n"...)
	}
	b = append(b, "\r\n"...)
	return append(b, r.body...)
}

// appendHost appends what the place is asked under. A loopback address is called
// localhost: an Ollama bound to ::1 refuses the Host [::1], which would look
// like a lock.
func (c *conversation) appendHost(b []byte) []byte {
	switch {
	case c.place.Name != "":
		b = append(b, c.place.Name...)
	case c.place.Addr == netip.IPv6Loopback():
		b = append(b, "localhost"...)
	case c.place.Addr.Is6():
		b = append(c.place.Addr.WithZone("").AppendTo(append(b, '[')), ']')
	default:
		b = c.place.Addr.AppendTo(b)
	}
	if c.place.Port == 80 && !c.tls || c.place.Port == 443 && c.tls {
		return b
	}
	return strconv.AppendUint(append(b, ':'), uint64(c.place.Port), 10)
}

// dial opens a connection, if the scope allows the address.
func (c *conversation) dial(ctx context.Context) error {
	if c.prober.Allows == nil {
		return errors.New("no scope")
	}
	if err := c.prober.Allows(c.place.Addr); err != nil {
		return err
	}
	soon, cancel := context.WithDeadline(ctx, earlier(c.deadline, time.Now().Add(c.budget.Reply)))
	defer cancel()
	conn, err := c.prober.Dial(soon, c.place.AddrPort())
	if err != nil {
		return err
	}
	c.use(ctx, conn)
	return nil
}

// use makes conn the open connection.
func (c *conversation) use(ctx context.Context, conn net.Conn) {
	c.raw = metered{conn, &c.left}
	c.conn = c.raw
	c.armed = time.Time{}
	c.stop = context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
}

// arm sets the connection's deadline for a request made at now.
// It lets one stand that is less than a 64th of the reply's time too early, for
// that of one connection's replies would be set four times within a millisecond.
func (c *conversation) arm(now time.Time) {
	at := earlier(c.deadline, now.Add(c.budget.Reply))
	if late := at.Sub(c.armed); late >= 0 && late < c.budget.Reply/64 {
		return
	}
	c.armed = at
	_ = c.raw.SetDeadline(at)
}

func (c *conversation) hangUp() {
	c.letGo()
	if c.conn == nil {
		return
	}
	c.stop()
	// No close_notify and no waiting: the place may be one that never reads.
	_ = c.raw.Close()
	c.conn, c.raw = nil, nil
}

// metered is the open connection as dialled, read against the byte budget.
type metered struct {
	net.Conn
	left *int64
}

var errBytes = errors.New("byte budget used up")

func (m metered) Read(b []byte) (int, error) {
	if *m.left <= 0 {
		return 0, errBytes
	}
	if int64(len(b)) > *m.left {
		b = b[:*m.left]
	}
	n, err := m.Conn.Read(b)
	*m.left -= int64(n)
	return n, err
}

// conclude says how far the conversation got.
func (c *conversation) conclude() {
	h := &c.host
	for i := range h.Exchanges {
		if x := &h.Exchanges[i]; x.Status != 0 && x.Error == "" {
			h.Reach = evidence.Answered
		} else if h.Reason == "" {
			h.Reason = x.Error
		}
	}
	if h.Reach == evidence.Answered || len(h.Exchanges) == 0 {
		return
	}
	first := &h.Exchanges[0]
	switch {
	case first.Status != 0 || len(first.Body) > 0 || h.TLS != nil || c.left < c.budget.Bytes:
		h.Reach = evidence.Broken
	case first.Error == reasonRefused:
		h.Reach = evidence.Refused
	case first.Error == reasonTimeout:
		h.Reach = evidence.Silent
	default:
		h.Reach = evidence.Broken
	}
}

// Reasons that are told apart later.
const (
	reasonRefused = "connection refused"
	reasonTimeout = "no answer in time"
)

// describe puts err in words of ours: no addresses, no system's jargon.
func (c *conversation) describe(err error) string {
	switch {
	case errors.Is(err, errBytes):
		return fmt.Sprintf("more than %d bytes", c.budget.Bytes)
	case late(err):
		if got := c.budget.Bytes - c.left; got > 0 {
			return fmt.Sprintf("too slow: %d bytes in all", got)
		}
		return reasonTimeout
	case errors.Is(err, syscall.ECONNREFUSED):
		return reasonRefused
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return "connection reset"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "connection closed without an answer"
	case errors.Is(err, context.Canceled):
		return "stopped"
	}
	var op *net.OpError
	if errors.As(err, &op) {
		return op.Err.Error()
	}
	return err.Error()
}

// gone reports whether err says that the other side ended the connection.
func gone(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// late reports whether err says that time ran out.
func late(err error) bool {
	return errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded)
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}
