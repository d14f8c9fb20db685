// Package limit says how much: requests and tokens a minute and a day, streams
// at the same time, and who is next in front of a busy Ollama.
// It never asks what a request is for, keeps nothing on disk, and forgets who
// has been idle.
package limit

import (
	"fmt"
	"hash/maphash"
	"math"
	"sync"
	"time"

	"gatehouse/internal/key"
)

// Limiter holds identities to their limits. It is safe for any number of
// callers, and takes no lock that all of them share.
type Limiter struct {
	seed   maphash.Seed
	shards [shards]shard
}

const (
	shards = 64
	// An identity at rest costs nothing: it is forgotten when none of its limits
	// remembers anything, which is looked for among a few at each Admit.
	sweepEach = 4
)

type shard struct {
	mu   sync.Mutex
	byID map[string]*account
	_    [40]byte // apart from the next shard's, on lines of their own
}

// account is what is remembered of one identity.
type account struct {
	requests gcra // a minute
	minute   gcra // tokens
	day      int64
	used     int64 // tokens of day, reserved ones included
	streams  int
}

// New returns a limiter that remembers nobody.
func New() *Limiter {
	l := &Limiter{seed: maphash.MakeSeed()}
	for i := range l.shards {
		l.shards[i].byID = make(map[string]*account)
	}
	return l
}

// gcra is the generic cell rate algorithm (ITU-T I.371): the time at which all
// that was taken will have been paid for.
type gcra struct {
	paid time.Time
}

// take takes n of limit a minute, all of which may come at once, and says how
// long to wait when that is too much.
func (g *gcra) take(n, limit int64, now time.Time) (wait time.Duration) {
	paid := g.at(now)
	next := paid.Add(cost(n, limit))
	if over := next.Sub(now) - time.Minute; over > 0 {
		return over
	}
	g.paid = next
	return 0
}

// at is paid, or now when that is past. A clock that was set back must not leave
// a debt of more than there can be.
func (g *gcra) at(now time.Time) time.Time {
	if g.paid.Before(now) || g.paid.Sub(now) > 2*time.Minute {
		return now
	}
	return g.paid
}

// give returns n that were taken; more than was given may be taken so, when n
// is below 0: that is a debt.
func (g *gcra) give(n, limit int64, now time.Time) {
	g.paid = g.at(now).Add(-cost(n, limit))
}

// left is how much may be taken at now.
func (g *gcra) left(limit int64, now time.Time) int64 {
	free := time.Minute - g.at(now).Sub(now)
	return max(0, int64(float64(free)/float64(time.Minute)*float64(limit)+1e-6))
}

func cost(n, limit int64) time.Duration {
	c := float64(n) / float64(limit) * float64(time.Minute)
	return time.Duration(min(max(c, -float64(2*time.Minute)), float64(2*time.Minute)))
}

// Refusal says which limit a request would have passed.
type Refusal struct {
	Reason     string // one of the constants below
	Limit      int64
	RetryAfter time.Duration
}

// The reasons.
const (
	Requests     = "requests-per-minute"
	TokensMinute = "tokens-per-minute"
	TokensDay    = "tokens-per-day"
	Streams      = "streams"
)

// Message says it to the caller.
func (r *Refusal) Message() string {
	switch r.Reason {
	case Requests:
		return fmt.Sprintf("this key may make %d requests a minute; try again in %s", r.Limit, r.RetryAfter.Round(time.Second))
	case TokensMinute:
		return fmt.Sprintf("this key may use %d tokens a minute; try again in %s", r.Limit, r.RetryAfter.Round(time.Second))
	case TokensDay:
		return fmt.Sprintf("this key may use %d tokens a day, and they are used up until midnight UTC", r.Limit)
	}
	return fmt.Sprintf("this key may have %d requests under way at the same time", r.Limit)
}

// Grant is what one admitted request was given. Settle has to be called when it
// ends; the nil Grant settles to nothing.
type Grant struct {
	limiter  *Limiter
	id       string
	limits   key.Limits
	reserved int64 // tokens
	day      int64
	once     sync.Once
}

// Admit lets a request in, or says why not. want is how many tokens it may come
// to use: they are set aside until Settle, so that requests at the same time do
// not spend the same ones. When fewer are left it gets those, as long as there
// are any; Budget says how many.
func (l *Limiter) Admit(id string, limits key.Limits, want int64, now time.Time) (*Grant, *Refusal) {
	s := l.shard(id)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forget(now)
	a := s.byID[id]
	if a == nil {
		a = new(account)
		s.byID[id] = a
	}
	a.turn(now)

	if limits.Streams > 0 && a.streams >= limits.Streams {
		return nil, &Refusal{Streams, int64(limits.Streams), time.Second}
	}
	want = max(want, 0)
	reserved := want
	if want > 0 {
		if limits.TokensDay > 0 {
			left := limits.TokensDay - a.used
			if left <= 0 {
				return nil, &Refusal{TokensDay, limits.TokensDay, untilMidnight(now)}
			}
			reserved = min(reserved, left)
		}
		if limits.TokensMinute > 0 {
			left := a.minute.left(limits.TokensMinute, now)
			if left <= 0 {
				wait := a.minute.at(now).Add(cost(1, limits.TokensMinute)).Sub(now) - time.Minute
				return nil, &Refusal{TokensMinute, limits.TokensMinute, max(wait, time.Second)}
			}
			reserved = min(reserved, left)
		}
	}
	// The last that can refuse is the first that takes.
	if limits.PerMinute > 0 {
		if wait := a.requests.take(1, limits.PerMinute, now); wait > 0 {
			return nil, &Refusal{Requests, limits.PerMinute, wait}
		}
	}
	if limits.TokensMinute > 0 {
		a.minute.take(reserved, limits.TokensMinute, now)
	}
	a.used += reserved
	a.streams++
	return &Grant{limiter: l, id: id, limits: limits, reserved: reserved, day: a.day}, nil
}

// Budget is how many tokens the request may use before it is to be ended, -1
// for no bound.
func (g *Grant) Budget() int64 {
	if g == nil || g.limits.TokensDay <= 0 && g.limits.TokensMinute <= 0 {
		return -1
	}
	return g.reserved
}

// Reserved is how many tokens were set aside, 0 for the nil Grant.
func (g *Grant) Reserved() int64 {
	if g == nil {
		return 0
	}
	return g.reserved
}

// Settle ends the request, which used so many tokens: what was set aside and
// not used is given back, what was used beyond it is owed. It counts once.
func (g *Grant) Settle(used int64, now time.Time) {
	if g == nil {
		return
	}
	g.once.Do(func() {
		s := g.limiter.shard(g.id)
		s.mu.Lock()
		defer s.mu.Unlock()
		a := s.byID[g.id]
		if a == nil {
			return // cannot be: who has a stream is not forgotten
		}
		a.streams--
		a.turn(now)
		unused := g.reserved - max(used, 0)
		if g.limits.TokensMinute > 0 {
			a.minute.give(unused, g.limits.TokensMinute, now)
		}
		if a.day == g.day {
			a.used -= unused
		} else {
			// Begun before midnight, and ended after: what it used counts today.
			a.used += max(used, 0)
		}
	})
}

// State is how far an identity is from a limit, for the headers that tell
// clients so.
type State struct {
	Limit, Remaining int64
	Reset            time.Duration // until all of it is there again
}

// States says how far an identity is from its requests and tokens a minute; the
// Limit is 0 where there is none.
func (l *Limiter) States(id string, limits key.Limits, now time.Time) (requests, tokens State) {
	s := l.shard(id)
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.byID[id]
	if a == nil {
		a = new(account)
	}
	state := func(g *gcra, limit int64) State {
		if limit <= 0 {
			return State{}
		}
		return State{limit, g.left(limit, now), g.at(now).Sub(now)}
	}
	return state(&a.requests, limits.PerMinute), state(&a.minute, limits.TokensMinute)
}

// Seed tells a limiter that was just made what an identity has used today.
func (l *Limiter) Seed(id string, tokens int64, now time.Time) {
	s := l.shard(id)
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.byID[id]
	if a == nil {
		a = new(account)
		s.byID[id] = a
	}
	a.turn(now)
	a.used += tokens
}

// Len is how many identities are remembered.
func (l *Limiter) Len() (n int) {
	for i := range l.shards {
		l.shards[i].mu.Lock()
		n += len(l.shards[i].byID)
		l.shards[i].mu.Unlock()
	}
	return n
}

func (l *Limiter) shard(id string) *shard {
	return &l.shards[maphash.String(l.seed, id)%shards]
}

// forget drops a few of those who have nothing to be remembered for.
func (s *shard) forget(now time.Time) {
	looked := 0
	for id, a := range s.byID {
		a.turn(now)
		if a.streams == 0 && a.used == 0 && a.requests.at(now).Equal(now) && a.minute.at(now).Equal(now) {
			delete(s.byID, id)
		}
		if looked++; looked >= sweepEach {
			return
		}
	}
}

// turn begins a new day. A clock that was set back does not bring back the
// tokens of the day before: only a later day is a new one, unless the clock had
// been far ahead.
func (a *account) turn(now time.Time) {
	day := now.Unix() / 86400
	if day > a.day || day < a.day-1 {
		a.day, a.used = day, 0
	}
}

func untilMidnight(now time.Time) time.Duration {
	rest := 86400 - now.Unix()%86400
	return time.Duration(min(rest, math.MaxInt32)) * time.Second
}
