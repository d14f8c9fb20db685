package sweep

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"math/bits"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"go4.org/netipx"

	"gatehouse/internal/scope"
	"gatehouse/internal/target"
)

// SYN finds out which places of a walk answer, by raw SYNs from one socket, and
// connects to none of them. It keeps no state for what it sent: a reply proves by
// the cookie that it brings back that it answers a SYN of this sweep, and the walk
// says which place that was. What it does keep is one bit for each place that
// can still answer, so that a place that answers twice, or has answered, is
// neither reported nor asked again.
//
// The kernel, which knows of no connection, answers each SYN-ACK with a RST. That
// is as it should be: it takes the half-open connection off the other side.
type SYN struct {
	// Allows is asked about every packet, right before it is queued; nil allows
	// nothing.
	Allows func(netip.Addr) error
	// Limit bounds the rate of SYNs; nil does not.
	Limit *Limit
	// Probes is how many SYNs a place that keeps silent gets, a second apart;
	// default 1.
	Probes int
	// Cooldown is how long after the last SYN to a place its answer is waited for;
	// default 5 s.
	Cooldown time.Duration
	// Links are the ways out, one for each family of addresses that there is a
	// way for.
	Links []*Link

	stats stats
	open  func(*Link, *frames) (wire, error) // nil is the network
}

// Link is one way out: an interface with its addresses, and the next hop.
type Link struct {
	Interface string
	Index     int
	MAC       [6]byte
	Gateway   netip.Addr // the next hop; may be invalid where its MAC was given
	NextHop   [6]byte    // its MAC
	Source    netip.Addr // says the family, too
	// Elsewhere are addresses that this link does not lead to: other routes do,
	// or they are on the link itself, so that each has a MAC of its own.
	Elsewhere *netipx.IPSet
}

// Batch is a run of places in the order of the walk.
type Batch struct {
	Serial uint64 // from 0, without gaps
	End    uint64 // every position below it is in this batch or an earlier one

	// What became of its places.
	Places  uint64 // all of them
	Skipped uint64 // passed over: see Events.Skip
	Denied  uint64 // by the scope, at the last moment
	Silent  uint64 // nothing came back
	// Unheard has the places that were silent.
	Unheard func(yield func(rank uint64) bool)
}

// Events are told what a sweep finds out. The calls for a batch come between no
// call and Done, which come in order of the batches.
type Events struct {
	// Skip reports whether a position needs no look any more.
	Skip func(pos uint64, batch uint64) bool
	// Answer is told once of each place that answered: which of the walk's it is
	// (see target.Walk.Nth), its position, and in which batch. It must not block.
	Answer func(rank, pos uint64, state State, batch uint64)
	// Room blocks while whoever takes the answers has more than enough of them.
	Room func(context.Context) error
	// Done is told of a batch whose time is over: what did not answer is silent.
	Done func(Batch) error
}

// Stats is the account of a raw sweep.
type Stats struct {
	Sent        uint64 `json:"sent"`        // SYNs
	Again       uint64 `json:"again"`       // of them to a place that had one
	Open        uint64 `json:"open"`        // places that answered with a SYN-ACK
	Refused     uint64 `json:"refused"`     // places that answered with a RST
	Unreachable uint64 `json:"unreachable"` // places that an ICMP error came for
	Duplicates  uint64 `json:"duplicates"`  // replies of a place that had answered
	Late        uint64 `json:"late"`        // replies after the cooldown, or to no SYN that this run sent
	Invalid     uint64 `json:"invalid"`     // packets without our cookie, forged ones among them
	Dropped     uint64 `json:"dropped"`     // packets that the kernel had no room for
	Short       uint64 `json:"short"`       // times that sending stopped because this machine ran short of buffers
}

type stats struct {
	sent, again, open, refused, unreachable, duplicates, late, invalid, dropped, short atomic.Uint64
}

// Stats is the account so far.
func (s *SYN) Stats() Stats {
	c := &s.stats
	return Stats{
		Sent: c.sent.Load(), Again: c.again.Load(), Open: c.open.Load(), Refused: c.refused.Load(),
		Unreachable: c.unreachable.Load(), Duplicates: c.duplicates.Load(), Late: c.late.Load(),
		Invalid: c.invalid.Load(), Dropped: c.dropped.Load(), Short: c.short.Load(),
	}
}

// wire sends and receives the packets of one link.
type wire interface {
	// send sends frames, and returns how many of them left. It wraps errShort when
	// the system had no room for the next.
	send(frames [][]byte) (int, error)
	// receive calls got with each packet, from its IP header on, until it is
	// closed; then it returns nil.
	receive(got func([]byte)) error
	// dropped is how many packets the kernel had no room for since the last call.
	dropped() uint64
	close() error
}

var errShort = errors.New("no buffer space")

const (
	chunk = 256     // frames that are handed to the kernel at once, at most
	room  = 1 << 14 // places of a batch
	// batchTime bounds a batch at a low rate, so that a sweep that is taken up again
	// repeats little.
	batchTime = 100 * time.Millisecond
	// again is how long after a SYN the next one to the same place goes out, as TCP
	// has it (RFC 6298).
	again = time.Second
	// putOff is how many places at most wait for the turn of their network before
	// no more are begun.
	putOff = 1 << 14
)

// batch is a Batch on its way.
type batch struct {
	serial, first, end uint64    // ranks
	sealed             bool      // has all its places
	rounds             int       // how often all were asked
	owed               int       // places that wait for their network's turn
	cursor             uint64    // the next rank of the round that goes on
	begun, last        time.Time // last is when the latest SYN left
	denied, skipped    uint64
	heard              [room / 64]uint64 // answered, or never asked
}

func (b *batch) hear(rank uint64) (first bool) {
	word, bit := &b.heard[(rank-b.first)/64], uint64(1)<<((rank-b.first)%64)
	first = *word&bit == 0
	*word |= bit
	return first
}

func (b *batch) has(rank uint64) bool {
	return b.heard[(rank-b.first)/64]>>((rank-b.first)%64)&1 != 0
}

// silent are the places that nothing came back from.
func (b *batch) silent() uint64 {
	n := b.end - b.first
	for _, word := range b.heard {
		n -= uint64(bits.OnesCount64(word))
	}
	return n
}

func (b *batch) unheard(yield func(rank uint64) bool) {
	for rank := b.first; rank < b.end; rank++ {
		if !b.has(rank) && !yield(rank) {
			return
		}
	}
}

// way is a link in use.
type way struct {
	link *Link
	*frames
	wire
}

// run is one run of a sweep.
type run struct {
	*SYN
	walk   *target.Walk
	events Events
	ways   [2]*way // IPv4, IPv6
	stop   <-chan struct{}

	probes   int
	cooldown time.Duration
	next     uint64 // the rank that is begun next
	serials  uint64 // batches so far
	ended    bool   // no more are begun
	later    queue  // places that wait for their network's turn
	pace     pace

	mu      sync.Mutex
	batches []*batch // by serial, those whose time is not over
	pool    []*batch
}

// item is one SYN to send.
type item struct {
	at    time.Time // its network's turn
	batch *batch
	rank  uint64
	addr  netip.AddrPort
	again bool // the place had a SYN already
}

// Run sends SYNs to the places of walk from position from on, and tells events
// what comes back. When stop is closed or ctx ends it returns: what still had
// time to answer is in no Batch. It reports whether it came to the end of the
// walk.
func (s *SYN) Run(ctx context.Context, stop <-chan struct{}, walk *target.Walk, from uint64, events Events) (bool, error) {
	if s.Allows == nil {
		return false, scope.ErrNoScope
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r := &run{
		SYN: s, walk: walk, events: events, stop: stop, next: walk.Rank(from),
		probes: max(1, s.Probes), cooldown: cmp.Or(s.Cooldown, 5*time.Second),
	}
	k := newKey()
	open := s.open
	if open == nil {
		open = openWire
	}
	var receivers sync.WaitGroup
	received := make(chan error, len(r.ways))
	var opened []wire
	end := func() (err error) {
		for _, w := range opened {
			err = errors.Join(err, w.close())
		}
		receivers.Wait()
		return err
	}
	for _, l := range s.Links {
		f := newFrames(k, sourcePorts(), l.Source, l.MAC, l.NextHop)
		w, err := open(l, f)
		if err != nil {
			return false, errors.Join(err, end())
		}
		opened = append(opened, w)
		r.ways[family(l.Source)] = &way{l, f, w}
		receivers.Go(func() {
			if err := w.receive(func(b []byte) { r.receive(f, b) }); err != nil {
				received <- err
				cancel()
			}
		})
	}
	err := r.sweep(ctx)
	if e := end(); err == nil {
		err = e
	}
	r.account()
	select {
	case e := <-received:
		err = e
	default:
	}
	return err == nil && r.next == walk.Count() && len(r.batches) == 0, err
}

func newKey() key {
	var b [16]byte
	_, _ = rand.Read(b[:]) // it never fails
	return key{binary.LittleEndian.Uint64(b[:8]), binary.LittleEndian.Uint64(b[8:])}
}

func family(a netip.Addr) int {
	if a.Is4() {
		return 0
	}
	return 1
}

// sweep sends until all is sent and the time of all is over.
func (r *run) sweep(ctx context.Context) error {
	var items []item
	frames := make([][]byte, chunk)
	for i := range frames {
		frames[i] = make([]byte, maxFrame)
	}
	for {
		if err := r.settle(time.Now()); err != nil {
			return err
		}
		if !r.ended {
			if err := r.events.Room(ctx); err != nil {
				return ended(ctx, err)
			}
		}
		select {
		case <-r.stop:
			return nil
		case <-ctx.Done():
			return nil
		default:
		}
		items = r.gather(time.Now(), r.Limit.together(chunk), items[:0])
		if len(items) == 0 {
			until, more := r.nextTime()
			if !more {
				return nil
			}
			if err := r.sleep(ctx, until); err != nil {
				return ended(ctx, err)
			}
			continue
		}
		if err := r.Limit.waitAll(ctx, len(items)); err != nil {
			return ended(ctx, err)
		}
		if err := r.send(ctx, items, frames); err != nil {
			return ended(ctx, err)
		}
	}
}

// ended is err, unless it is only that ctx ended.
func ended(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// sleep waits until a time, or the stop.
func (r *run) sleep(ctx context.Context, until time.Time) error {
	timer := time.NewTimer(time.Until(until))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-r.stop:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (r *run) seal(b *batch) {
	if !b.sealed {
		b.sealed, b.rounds, b.cursor = true, 1, b.first
	}
}

// settle tells of the batches whose time is over, in order.
func (r *run) settle(now time.Time) error {
	r.account()
	for {
		r.mu.Lock()
		if len(r.batches) == 0 || !r.over(r.batches[0], now) {
			r.mu.Unlock()
			return nil
		}
		b := r.batches[0]
		r.batches = r.batches[1:]
		r.mu.Unlock()
		pos := r.walk.End()
		if b.end < r.walk.Count() {
			pos, _, _ = r.walk.Nth(b.end)
		}
		done := Batch{
			Serial: b.serial, End: pos, Places: b.end - b.first, Skipped: b.skipped, Denied: b.denied,
			Silent: b.silent(), Unheard: b.unheard,
		}
		if err := r.events.Done(done); err != nil {
			return err
		}
		*b = batch{}
		r.pool = append(r.pool, b)
	}
}

// over reports whether a batch was asked to an end and cooled down.
func (r *run) over(b *batch, now time.Time) bool {
	return b.sealed && b.rounds >= r.probes && b.owed == 0 && !now.Before(b.last.Add(r.cooldown))
}

// account adds up what the kernel dropped, and slows down for it.
func (r *run) account() {
	for _, w := range r.ways {
		if w == nil {
			continue
		}
		if n := w.dropped(); n > 0 {
			r.stats.dropped.Add(n)
			r.pace.slow(time.Now())
		}
	}
}

// nextTime is when there is something to do again; false when there never is.
func (r *run) nextTime() (at time.Time, more bool) {
	earlier := func(t time.Time) {
		if !more || t.Before(at) {
			at, more = t, true
		}
	}
	if len(r.later) > 0 {
		earlier(r.later[0].at)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, b := range r.batches {
		switch {
		case !b.sealed || b.owed > 0:
		case b.rounds < r.probes:
			earlier(b.last.Add(again))
		default:
			earlier(b.last.Add(r.cooldown))
		}
	}
	return at, more
}

// gather takes up to n SYNs that may be sent now, as far as their networks go:
// first those whose turn has come, then those to be sent again, then new ones.
func (r *run) gather(now time.Time, n int, items []item) []item {
	r.mu.Lock()
	defer r.mu.Unlock()
	for len(items) < n && len(r.later) > 0 && !r.later[0].at.After(now) {
		it := r.later.pop()
		it.batch.owed--
		if it.batch.has(it.rank) {
			continue // it answered meanwhile
		}
		items = append(items, it)
	}
	if r.probes > 1 {
		for _, b := range r.batches {
			if !b.sealed || b.rounds >= r.probes || b.owed > 0 && b.cursor == b.first || now.Before(b.last.Add(again)) && b.cursor == b.first {
				continue
			}
			for ; b.cursor < b.end && len(items) < n && len(r.later) < putOff; b.cursor++ {
				if b.has(b.cursor) {
					continue
				}
				_, addr, _ := r.walk.Nth(b.cursor)
				items = r.turn(now, item{batch: b, rank: b.cursor, addr: addr, again: true}, items)
			}
			if b.cursor < b.end {
				break
			}
			b.rounds, b.cursor = b.rounds+1, b.first
			b.last = now // until they are sent
		}
	}
	for !r.ended && len(items) < n && len(r.later) < putOff {
		if r.next >= r.walk.Count() {
			r.ended = true
			if n := len(r.batches); n > 0 {
				r.seal(r.batches[n-1])
			}
			break
		}
		items = r.begin(now, items)
	}
	return items
}

// begin begins the next place.
func (r *run) begin(now time.Time, items []item) []item {
	b := r.current(now)
	rank := r.next
	r.next++
	b.end = r.next
	if b.end-b.first == room {
		defer r.seal(b)
	}
	pos, addr, bare := r.walk.Nth(rank)
	if r.events.Skip != nil && r.events.Skip(pos, b.serial) {
		b.hear(rank)
		b.skipped++
		return items
	}
	w := r.ways[family(addr.Addr())]
	if !bare || w == nil || w.link.Elsewhere.Contains(addr.Addr()) {
		b.hear(rank)
		r.events.Answer(rank, pos, Unasked, b.serial)
		return items
	}
	return r.turn(now, item{batch: b, rank: rank, addr: addr}, items)
}

// current is the batch that new places go into.
func (r *run) current(now time.Time) *batch {
	if n := len(r.batches); n > 0 {
		b := r.batches[n-1]
		if !b.sealed && now.Before(b.begun.Add(batchTime)) {
			return b
		}
		r.seal(b)
	}
	b := new(batch)
	if n := len(r.pool); n > 0 {
		b, r.pool = r.pool[n-1], r.pool[:n-1]
	}
	b.serial, b.first, b.end, b.last = r.serials, r.next, r.next, now
	b.begun = now
	r.serials++
	r.batches = append(r.batches, b)
	return b
}

// turn adds it to items, or puts it off until its network's turn.
func (r *run) turn(now time.Time, it item, items []item) []item {
	if at := r.Limit.network(now, it.addr.Addr()); at.After(now) {
		it.at = at
		it.batch.owed++
		r.later.push(it)
		return items
	}
	return append(items, it)
}

// send sends items, each of which is held against the scope once more.
func (r *run) send(ctx context.Context, items []item, buf [][]byte) error {
	for fam, w := range r.ways {
		if w == nil {
			continue
		}
		n := 0
		for i := range items {
			it := &items[i]
			if family(it.addr.Addr()) != fam {
				continue
			}
			if err := r.Allows(it.addr.Addr()); err != nil {
				r.mu.Lock()
				if it.batch.hear(it.rank) {
					it.batch.denied++
				}
				r.mu.Unlock()
				continue
			}
			buf[n] = buf[n][:w.write(buf[n][:maxFrame], it.addr)]
			n++
		}
		for out := buf[:n]; len(out) > 0; {
			if err := r.pace.wait(ctx); err != nil {
				return err
			}
			sent, err := w.send(out)
			r.stats.sent.Add(uint64(sent))
			r.pace.sent(sent)
			out = out[sent:]
			switch {
			case errors.Is(err, errShort):
				r.stats.short.Add(1)
				r.pace.slow(time.Now())
			case err != nil:
				return err
			}
		}
	}
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range items {
		items[i].batch.last = now
		if items[i].again {
			r.stats.again.Add(1)
		}
	}
	return nil
}

// receive takes one packet.
func (r *run) receive(f *frames, b []byte) {
	reply, ok := f.read(b)
	if !ok {
		r.stats.invalid.Add(1)
		return
	}
	rank, ok := r.walk.Find(reply.from)
	if !ok {
		r.stats.late.Add(1)
		return
	}
	pos, _, _ := r.walk.Nth(rank)
	r.mu.Lock()
	defer r.mu.Unlock()
	at := r.find(rank)
	if at == nil {
		r.stats.late.Add(1)
		return
	}
	if !at.hear(rank) {
		r.stats.duplicates.Add(1)
		return
	}
	switch {
	case reply.icmp:
		r.stats.unreachable.Add(1)
	case reply.state == Open:
		r.stats.open.Add(1)
	default:
		r.stats.refused.Add(1)
	}
	r.events.Answer(rank, pos, reply.state, at.serial)
}

// find is the batch that has rank; nil when its time is over. The caller holds
// mu.
func (r *run) find(rank uint64) *batch {
	lo, hi := 0, len(r.batches)
	for lo < hi {
		mid := (lo + hi) / 2
		switch b := r.batches[mid]; {
		case rank < b.first:
			hi = mid
		case rank >= b.end:
			lo = mid + 1
		default:
			return b
		}
	}
	return nil
}
