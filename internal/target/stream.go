package target

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"iter"
	"math/bits"
	"net/netip"
	"sync"
	"sync/atomic"
)

// window is how many places a stream remembers, to yield none twice: those that
// came last, by a hash of 64 bits. It takes up to 50 MB.
const window = 1 << 20

// ahead is how many lines a stream reads before they are asked for.
const ahead = 256

// Stream is places as they come in, one line after the other, in the forms that
// a List takes. It is for input that has no end, or that another program is
// still writing. A line that cannot be used is reported and passed over.
//
// A place that comes again is dropped if it is among the last 1,048,576. Shard
// and sample go by a hash of the place, keyed with the seed, so that they hold
// in whatever order the lines come.
type Stream struct {
	// Bad is how many lines could not be used, those that were refused by the
	// scope among them; Denied is how many places that refusal or an exclusion
	// left out; Repeated how many were dropped.
	Bad, Denied, Repeated atomic.Uint64

	opt    Options
	ports  []uint16
	order  Order
	r      io.Reader
	report func(line int, err error)
	keys   [4]uint64
	seen   map[uint64]struct{}
	last   []uint64 // the window as a ring
	oldest int
	pos    uint64
	err    error
}

// NewStream reads from r. It calls report, unless nil, with each line it could
// not use, from the goroutine that ranges over Places.
func NewStream(r io.Reader, opt Options, o Order, report func(line int, err error)) (*Stream, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	s := &Stream{opt: opt, ports: opt.ports(), order: o, r: r, report: report, seen: map[uint64]struct{}{}}
	seed := o.Seed
	for i := range s.keys {
		s.keys[i] = splitMix(&seed)
	}
	return s, nil
}

// Err is what ended the stream before its end; nil when nothing did.
func (s *Stream) Err() error { return s.err }

// item is one line on its way.
type item struct {
	line    int
	targets []resolved
	err     error
}

// resolved is a target whose name is being looked up; done is nil when it has
// none.
type resolved struct {
	spec
	done  chan struct{}
	addrs []netip.Addr
	err   error
}

// Places yields the places as they come, until the input or ctx ends. Pos is
// the running number of the place. It can be used once. A Read that does not
// return keeps its goroutine waiting after ctx has ended; nothing else is left.
func (s *Stream) Places(ctx context.Context) iter.Seq[Place] {
	return func(yield func(Place) bool) {
		ctx, cancel := context.WithCancel(ctx)
		items := make(chan item, ahead)
		ended := make(chan error, 1)
		go func() {
			defer close(items)
			ended <- s.pump(ctx, items)
		}()
		defer cancel()
		for {
			select {
			case <-ctx.Done():
				s.err = context.Cause(ctx)
				return
			case it, ok := <-items:
				if !ok {
					s.err = <-ended
					return
				}
				if !s.yield(ctx, it, yield) {
					return
				}
			}
		}
	}
}

// pump reads lines and begins to look their names up, at most lookups at a time.
func (s *Stream) pump(ctx context.Context, items chan<- item) error {
	var f format
	var wg sync.WaitGroup
	defer wg.Wait()
	busy := make(chan struct{}, lookups)
	lines := newLineReader(s.r)
	for {
		line, err := lines.next()
		if err != nil && !errors.Is(err, errLongLine) {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return fmt.Errorf("read targets: %w", err)
		}
		it := item{line: lines.n, err: err}
		if err == nil {
			var specs []spec
			if specs, it.err = f.parse(line); len(specs) == 0 && it.err == nil {
				continue
			}
			it.targets = make([]resolved, len(specs))
			for i, sp := range specs {
				it.targets[i].spec = sp
			}
		}
		for i := range it.targets {
			t := &it.targets[i]
			if t.name == "" {
				continue
			}
			t.done = make(chan struct{})
			select {
			case busy <- struct{}{}:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
			wg.Go(func() {
				t.addrs, t.err = s.opt.lookup(ctx, t.name)
				close(t.done)
				<-busy
			})
		}
		select {
		case items <- it:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// yield yields the places of one line; false when there shall be no more.
func (s *Stream) yield(ctx context.Context, it item, yield func(Place) bool) bool {
	err := it.err
	for i := range it.targets {
		t := &it.targets[i]
		if t.done != nil {
			select {
			case <-t.done:
			case <-ctx.Done():
				s.err = context.Cause(ctx)
				return false
			}
		}
		places, refused := s.places(t)
		if refused != nil {
			err = errors.Join(err, refused)
			continue
		}
		for p := range places {
			if s.err = context.Cause(ctx); s.err != nil || !s.pass(p, yield) {
				return false
			}
		}
	}
	if err != nil {
		s.Bad.Add(1)
		if s.report != nil {
			s.report(it.line, err)
		}
	}
	return true
}

// places is what a target permits to look at.
func (s *Stream) places(t *resolved) (iter.Seq[Place], error) {
	if t.err != nil {
		return nil, t.err
	}
	p := plan{opt: s.opt, ports: s.ports, texts: []string{""}}
	if err := p.add(t.spec, t.addrs, false); err != nil {
		s.Denied.Add(t.size(len(s.ports)))
		return nil, err
	}
	set, err := p.set()
	if err != nil {
		return nil, err
	}
	s.Denied.Add(set.Denied)
	return func(yield func(Place) bool) {
		// A network on a line gets no burst either.
		perm := newPermutation(set.Count(), s.order.Seed)
		for n := range set.Count() {
			if !yield(set.at(perm.at(n))) {
				return
			}
		}
	}, nil
}

// size is how many places a refused target would have been.
func (t *resolved) size(ports int) uint64 {
	if t.port != 0 {
		ports = 1
	}
	n, ok := uint64(len(t.addrs)), true
	if t.name == "" {
		n, ok = spanOf(t.r, 0).size()
	}
	hi, places := bits.Mul64(n, uint64(ports))
	if !ok || hi != 0 {
		return 1 << 63
	}
	return places
}

// pass yields p if it is new and belongs to the part that is walked; false when
// there shall be no more.
func (s *Stream) pass(p Place, yield func(Place) bool) bool {
	h := s.hash(p)
	if !s.order.Shard.holds(scramble(h^s.keys[2])) || !s.order.Sample.below(scramble(h^s.keys[3])) {
		return true
	}
	if !s.remember(h) {
		s.Repeated.Add(1)
		return true
	}
	p.Pos = s.pos
	s.pos++
	return p.Pos < s.order.From || yield(p)
}

func (s *Stream) hash(p Place) uint64 {
	n := numberOf(p.Addr)
	h := scramble(scramble(scramble(n.hi^s.keys[0])^n.lo^s.keys[1]) ^ uint64(p.Port))
	if p.Name != "" || p.Scheme != "" {
		f := fnv.New64a()
		fmt.Fprintf(f, "%s %s %s", p.Name, p.Scheme, p.Path)
		h = scramble(h ^ f.Sum64())
	}
	return h
}

// remember reports whether h is new, and keeps it in the window.
func (s *Stream) remember(h uint64) bool {
	if _, ok := s.seen[h]; ok {
		return false
	}
	if len(s.last) < window {
		s.last = append(s.last, h)
	} else {
		delete(s.seen, s.last[s.oldest])
		s.last[s.oldest] = h
		s.oldest = (s.oldest + 1) % window
	}
	s.seen[h] = struct{}{}
	return true
}
