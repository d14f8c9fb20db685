package wave

import (
	"context"
	"sync"

	"gatehouse/internal/finding"
	"gatehouse/internal/sweep"
	"gatehouse/internal/target"
)

// Sweep finds out which places answer. A *sweep.SYN is one.
type Sweep interface {
	Run(ctx context.Context, stop <-chan struct{}, walk *target.Walk, from uint64, events sweep.Events) (bool, error)
	Stats() sweep.Stats
}

var _ Sweep = (*sweep.SYN)(nil)

// plenty is how many places that answered may wait for a worker before a sweep
// begins no more. What was asked by then still comes in, and none of it is
// dropped, so that more may wait: 24 bytes for each.
const plenty = 4096

// sweeping is a wave's sweep on its way, and its account. The account is by the
// sweep's batches: their places that answered are counted one by one, those that
// did not all at once, since there may be a million a second.
type sweeping struct {
	w    *Wave
	walk *target.Walk
	done *Progress
	to   chan<- looked

	mu      sync.Mutex
	changed chan struct{} // closed when waiting changes
	waiting []answer
	swept   bool // no more will come

	parts  []part // by serial, those that are not behind the mark
	base   uint64 // serial of the first
	at     uint64 // the mark
	counts Counts // of what is below it
}

// answer is a place that answered, or has to be looked at for another reason.
type answer struct {
	pos   uint64
	part  uint64
	state sweep.State
}

// part is the account of one batch.
type part struct {
	counts Counts // of the places that were looked at, and of earlier runs
	// The places that nothing is recorded of.
	refused, silent, denied uint64
	open                    uint64 // places that are not done
	swept                   bool   // the sweep is through with it
	end                     uint64 // its end, when it is swept
}

func (w *Wave) newSweeping(done *Progress, to chan<- looked) *sweeping {
	s := &sweeping{w: w, done: done, to: to, changed: make(chan struct{}), at: done.Mark.At}
	s.counts.plus(done.Mark.Counts)
	s.walk, _ = w.Source.(*target.Walk)
	return s
}

// run sweeps until all is swept and handed on, or beginning ends, and reports
// whether it came to the end of the places. An error that ends it is told by
// cancel at once.
func (s *sweeping) run(ctx, beginning context.Context, cancel func()) (exhausted bool, err error) {
	var handing sync.WaitGroup
	handing.Go(func() { s.hand(ctx, beginning) })
	events := sweep.Events{Skip: s.skip, Answer: s.answer, Room: s.room(beginning.Done()), Done: s.batch}
	exhausted, err = s.w.Sweep.Run(ctx, beginning.Done(), s.walk, s.done.Mark.At, events)
	if err != nil {
		cancel()
	}
	s.change(func() { s.swept = true })
	handing.Wait()
	return exhausted && beginning.Err() == nil && err == nil, err
}

// change changes what others wait for.
func (s *sweeping) change(by func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	by()
	close(s.changed)
	s.changed = make(chan struct{})
}

// part is the account of a batch. The caller holds mu.
func (s *sweeping) part(serial uint64) *part {
	for s.base+uint64(len(s.parts)) <= serial {
		s.parts = append(s.parts, part{})
	}
	return &s.parts[serial-s.base]
}

// skip passes over a place that an earlier run is done with.
func (s *sweeping) skip(pos, serial uint64) bool {
	c, ok := s.done.Late[pos]
	if ok {
		delete(s.done.Late, pos)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.part(serial).counts.plus(c)
	}
	return ok
}

// answer takes what a place said. Those that nothing is recorded of are only
// counted.
func (s *sweeping) answer(_, pos uint64, state sweep.State, serial uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.part(serial)
	if !s.w.All {
		switch state {
		case sweep.Refused:
			p.refused++
			s.w.Visited.Add(1)
			return
		case sweep.Unreachable:
			p.silent++
			s.w.Visited.Add(1)
			return
		}
	}
	p.open++
	if s.waiting = append(s.waiting, answer{pos, serial, state}); len(s.waiting) == 1 {
		close(s.changed)
		s.changed = make(chan struct{})
	}
}

// all is the whole account of a part.
func (p *part) all() Counts {
	c := Counts{Visited: p.refused + p.silent, Denied: p.denied, Outcomes: map[finding.Outcome]uint64{}}
	for o, n := range map[finding.Outcome]uint64{finding.Refused: p.refused, finding.Silent: p.silent} {
		if n > 0 {
			c.Outcomes[o] = n
		}
	}
	c.plus(p.counts)
	return c
}

// room returns when few enough answers wait.
func (s *sweeping) room(stop <-chan struct{}) func(context.Context) error {
	return func(ctx context.Context) error {
		for {
			s.mu.Lock()
			few, changed := len(s.waiting) < plenty, s.changed
			s.mu.Unlock()
			if few {
				return nil
			}
			select {
			case <-changed:
			case <-stop:
				return nil
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
	}
}

// batch takes a batch whose time is over.
func (s *sweeping) batch(b sweep.Batch) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.part(b.Serial)
	p.swept, p.end, p.denied = true, b.End, b.Denied
	if s.w.All {
		b.Unheard(func(rank uint64) bool {
			pos, _, _ := s.walk.Nth(rank)
			s.waiting = append(s.waiting, answer{pos, b.Serial, sweep.Silent})
			p.open++
			return true
		})
		close(s.changed)
		s.changed = make(chan struct{})
	} else {
		p.silent += b.Silent
		s.w.Visited.Add(b.Silent)
	}
	s.advance()
	return nil
}

// hand hands on the places that answered, to their end.
func (s *sweeping) hand(ctx, beginning context.Context) {
	for {
		s.mu.Lock()
		list, over, changed := s.waiting, s.swept, s.changed
		s.waiting = nil
		if len(list) >= plenty {
			close(s.changed)
			s.changed = make(chan struct{})
		}
		s.mu.Unlock()
		if len(list) == 0 {
			if over {
				return
			}
			select {
			case <-changed:
			case <-ctx.Done():
				return
			}
			continue
		}
		for _, a := range list {
			select {
			case s.to <- looked{s.walk.At(a.pos), a.part, a.state}:
			case <-beginning.Done():
				// Not looked at; a later run does it.
			}
		}
	}
}

// end takes the account of a place that is done.
func (s *sweeping) end(r *result, c Counts) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.part(r.part)
	p.counts.plus(c)
	p.open--
	s.advance()
}

// advance moves the mark behind all that is done. The caller holds mu.
func (s *sweeping) advance() {
	for len(s.parts) > 0 && s.parts[0].swept && s.parts[0].open == 0 {
		s.counts.plus(s.parts[0].all())
		s.at = s.parts[0].end
		s.parts[0] = part{}
		s.parts = s.parts[1:]
		s.base++
	}
}

func (s *sweeping) mark() Mark {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := Mark{At: s.at}
	m.Counts.plus(s.counts)
	return m
}

func (s *sweeping) total() Counts {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all Counts
	all.plus(s.counts)
	for i := range s.parts {
		all.plus(s.parts[i].all())
	}
	return all
}
