package wave

import (
	"context"
	"errors"
	"iter"
	"net"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"gatehouse/internal/evidence"
	"gatehouse/internal/finding"
	"gatehouse/internal/owner"
	"gatehouse/internal/scope"
	"gatehouse/internal/sweep"
	"gatehouse/internal/target"
)

// Wave is one pass. Its fields are set once, before Run.
type Wave struct {
	ID     string
	Scope  string // the scope's name
	Seed   uint64
	Places uint64 // how many there are; 0 when that is not known before the end
	Denied uint64 // how many were left out before the start

	// Source yields the places; Pos has to grow.
	Source interface {
		Places(context.Context) iter.Seq[target.Place]
	}
	// Dial finds out whether a place has its port open, at the permitted rate.
	Dial func(context.Context, netip.AddrPort) (net.Conn, error)
	// Sweep, unless nil, finds out first which places of Source, a *target.Walk,
	// answer at all, so that Dial is left with those.
	Sweep Sweep
	// Probe asks an open place what it is, and closes the connection.
	Probe func(context.Context, target.Place, net.Conn) evidence.Host
	// Judge says what the evidence means.
	Judge func(*evidence.Host) finding.Verdict
	// Own says who probably runs a host whose outcome is recorded; nil for nobody.
	Own func(context.Context, *evidence.Host) owner.Owner
	// Workers is how many places are looked at at once; default 256.
	Workers int

	// Keeper keeps what was found, so that the wave can be taken up again; nil is
	// allowed.
	Keeper Keeper
	// Started is when the wave began, if an earlier run did; else it begins now.
	Started time.Time
	// Record is called with each place that answered, one at a time, after the
	// keeper has it; nil is allowed. An error ends the wave.
	Record func(Record) error
	// All has the places that refused or kept silent recorded too.
	All bool

	// What may be read while Run goes on.
	Visited, Open, Found atomic.Uint64
}

// result is what came of one place.
type result struct {
	place   target.Place
	record  Record
	host    evidence.Host
	denied  bool   // by the scope, at the last moment
	stopped bool   // the context ended first: as if never visited
	part    uint64 // of a sweep, that it belongs to
}

// account knows what is done of a wave, and up to which position all is.
type account interface {
	end(r *result, c Counts)
	mark() Mark
	total() Counts // of all that is done, behind the mark or not
}

// Run looks at every place and returns the account. When stop is closed it
// begins no more places and finishes the ones that are connected; when ctx ends
// it lets go of those too. Either way what was recorded is in the summary, and the
// error says only what could not be done: the journal, or Record.
func (w *Wave) Run(ctx context.Context, stop <-chan struct{}) (Summary, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	workers := w.Workers
	if workers <= 0 {
		workers = 256
	}
	if w.Places > 0 && uint64(workers) > w.Places {
		workers = int(w.Places)
	}

	done, err := w.resume()
	if err != nil {
		return Summary{}, err
	}
	earlier := done.total()
	w.count(&earlier)
	sum := Summary{
		Wave: w.ID, Scope: w.Scope, Seed: w.Seed, Started: time.Now().UTC(),
		Places: w.Places, Denied: w.Denied,
	}
	if !w.Started.IsZero() {
		sum.Started = w.Started
	}

	// beginning ends at the stop: neither the next line of the input is waited
	// for then, nor the turn to connect, which may be minutes away.
	beginning, cease := context.WithCancel(ctx)
	defer cease()
	places := make(chan looked)
	// What waits here is whole hosts, with all that they said.
	results := make(chan *result, min(workers, maxBatch))
	var begun, finished, judged sync.WaitGroup
	exhausted := false // read after begun.Wait, as swept is
	var swept error
	var track account
	if w.Sweep == nil {
		t := newTracker(done.Mark)
		track = t
		begun.Go(func() {
			defer close(places)
			exhausted = w.feed(beginning, &done, t, places)
		})
	} else {
		s := w.newSweeping(&done, places)
		track = s
		begun.Go(func() {
			defer close(places)
			exhausted, swept = s.run(ctx, beginning, cancel)
		})
	}
	begun.Go(func() {
		select {
		case <-stop:
			cease()
		case <-beginning.Done():
		}
	})
	// Judging takes a processor and deep stacks, which thousands of workers that
	// mostly wait would each keep; so it is done by as many as there are processors.
	bench := make(chan judging)
	for range min(workers, runtime.GOMAXPROCS(0)) {
		judged.Go(func() {
			for j := range bench {
				*j.verdict = w.Judge(j.host)
				j.done <- struct{}{}
			}
		})
	}
	for range workers {
		finished.Go(func() {
			done := make(chan struct{}, 1)
			for l := range places {
				r := w.visit(ctx, beginning, l, func(host *evidence.Host, verdict *finding.Verdict) {
					bench <- judging{host, verdict, done}
					<-done
				})
				r.part = l.part
				results <- r
			}
		})
	}
	go func() {
		finished.Wait()
		close(bench)
		judged.Wait()
		close(results)
	}()

	err = w.collect(results, track, cancel)
	cease()
	begun.Wait()

	err = errors.Join(err, swept)

	sum.Ended = time.Now().UTC()
	all := track.total()
	all.plus(done.lateTotal()) // what feed did not come to
	sum.Visited, sum.Outcomes, sum.Severity = all.Visited, all.Outcomes, all.Severity
	sum.Denied += all.Denied
	if sum.Places == 0 && exhausted {
		sum.Places = all.Visited + all.Denied
	}
	if !exhausted || sum.Visited+all.Denied < sum.Places {
		sum.Stopped = "stopped before the end"
	}
	if w.Sweep != nil {
		stats := w.Sweep.Stats()
		sum.Sweep = &stats
	}
	return sum, err
}

// looked is a place to look at, with what a sweep found out of it.
type looked struct {
	target.Place
	part  uint64
	state sweep.State // 0 is nothing yet
}

// feed hands out the places that are not done and reports whether it came to
// their end before ctx ended.
func (w *Wave) feed(ctx context.Context, done *Progress, track *tracker, to chan<- looked) bool {
	for place := range w.Source.Places(ctx) {
		if place.Pos < done.Mark.At {
			continue
		}
		if c, ok := done.Late[place.Pos]; ok {
			delete(done.Late, place.Pos)
			track.begin(place.Pos)
			track.end(&result{place: place}, c)
			continue
		}
		track.begin(place.Pos)
		select {
		case to <- looked{Place: place}:
		case <-ctx.Done():
			return false
		}
	}
	return ctx.Err() == nil
}

// maxBatch is how many results are kept at once at most: what a store writes in
// a few milliseconds.
const maxBatch = 1024

// collect takes the results as they come, to their end. Those that wait
// together are kept together, so that a keeper which is slow to write is asked
// less often.
func (w *Wave) collect(results <-chan *result, track account, cancel func()) (err error) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	var batch []*result
	for {
		select {
		case r, ok := <-results:
			if !ok {
				if err == nil {
					err = w.take(batch, track)
				}
				return errors.Join(err, w.mark(track))
			}
			if r.stopped || err != nil {
				continue // not visited; a later run does it
			}
			if batch = append(batch, r); len(batch) < maxBatch && len(results) > 0 {
				continue
			}
			if err = w.take(batch, track); err != nil {
				cancel()
			}
			clear(batch)
			batch = batch[:0]
		case <-tick.C:
			if err == nil {
				if err = w.mark(track); err != nil {
					cancel()
				}
			}
		}
	}
}

func (w *Wave) take(batch []*result, track account) error {
	recorded := func(r *result) bool { return !r.denied && (w.All || reported(r.record.Outcome)) }
	if w.Keeper != nil {
		var list []Observation
		for i := range batch {
			if r := batch[i]; recorded(r) {
				list = append(list, Observation{r.place.Pos, r.record, r.host})
			}
		}
		if len(list) > 0 {
			if err := w.Keeper.Keep(list); err != nil {
				return err
			}
		}
	}
	for i := range batch {
		r := batch[i]
		var one Counts
		one.add(r)
		track.end(r, one)
		w.count(&one)
		if recorded(r) && w.Record != nil {
			if err := w.Record(r.record); err != nil {
				return err
			}
		}
	}
	return nil
}

func (w *Wave) resume() (Progress, error) {
	if w.Keeper == nil {
		return Progress{}, nil
	}
	return w.Keeper.Resume()
}

// mark has the keeper note how far the wave got.
func (w *Wave) mark(t account) error {
	if w.Keeper == nil {
		return nil
	}
	return w.Keeper.Mark(t.mark())
}

// count adds to what may be read while the wave goes on.
func (w *Wave) count(c *Counts) {
	w.Visited.Add(c.Visited)
	w.Open.Add(c.Visited - c.Outcomes[finding.Refused] - c.Outcomes[finding.Silent])
	w.Found.Add(c.Outcomes[finding.Open])
}

// reported reports whether a place with this outcome is worth a line.
func reported(o finding.Outcome) bool {
	return o != finding.Refused && o != finding.Silent
}

// judging is one host for the bench.
type judging struct {
	host    *evidence.Host
	verdict *finding.Verdict
	done    chan<- struct{}
}

// visit looks at one place, from the first packet to the verdict. A connection
// that does not stand when beginning ends is given up.
func (w *Wave) visit(ctx, beginning context.Context, l looked, judge func(*evidence.Host, *finding.Verdict)) *result {
	place := l.Place
	conn, err := w.connect(beginning, &l)
	switch {
	case err == nil:
	case beginning.Err() != nil:
		return &result{place: place, stopped: true}
	case errors.Is(err, scope.ErrSpecial), errors.Is(err, scope.ErrExcluded), errors.Is(err, scope.ErrOutside),
		errors.Is(err, scope.ErrNoScope), errors.Is(err, scope.ErrExpired):
		return &result{place: place, denied: true}
	default:
		return w.judged(ctx, &result{place: place, host: unreached(place, err)}, judge)
	}
	r := &result{place: place}
	r.host = w.Probe(ctx, place, conn)
	return w.judged(ctx, r, judge)
}

// judged has the host in r judged, and makes the record of it.
func (w *Wave) judged(ctx context.Context, r *result, judge func(*evidence.Host, *finding.Verdict)) *result {
	if ctx.Err() != nil {
		r.stopped = true
		return r
	}
	host := &r.host
	r.record = Record{
		Wave: w.ID, Target: host.Target, Address: host.Address.String(), Port: host.Port,
		Name: host.Name, Path: host.Path, TLS: host.TLS, ObservedAt: host.ObservedAt,
	}
	judge(host, &r.record.Verdict)
	if w.Own != nil && reported(r.record.Outcome) {
		r.record.Owner = w.Own(ctx, host)
	}
	return r
}

// connect connects to a place, unless a sweep knows that this is in vain.
func (w *Wave) connect(ctx context.Context, l *looked) (net.Conn, error) {
	switch l.state {
	case sweep.Refused:
		return nil, syscall.ECONNREFUSED
	case sweep.Unreachable:
		return nil, syscall.EHOSTUNREACH
	case sweep.Silent:
		return nil, os.ErrDeadlineExceeded
	}
	return w.Dial(ctx, l.AddrPort())
}

// unreached is the evidence of a place that did not let itself be connected to.
func unreached(place target.Place, err error) evidence.Host {
	h := evidence.Host{
		Target: place.Target, Address: place.Addr, Port: place.Port, Name: place.Name, Path: place.Path,
		ObservedAt: time.Now().UTC(), Reach: evidence.Silent,
	}
	switch {
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ECONNRESET):
		h.Reach, h.Reason = evidence.Refused, "connection refused"
	case errors.Is(err, os.ErrDeadlineExceeded):
		h.Reason = "no answer in time"
	default:
		h.Reason = "not reached"
		var errno syscall.Errno
		if errors.As(err, &errno) {
			h.Reason = errno.Error()
		}
	}
	return h
}
