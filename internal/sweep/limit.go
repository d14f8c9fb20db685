package sweep

import (
	"context"
	"hash/maphash"
	"net/netip"
	"sync/atomic"
	"time"
)

// Limit bounds attempts a second, over all and to any one network (an IPv4 /24
// or an IPv6 /48). A nil Limit bounds nothing.
type Limit struct {
	all      *gcra
	allGap   float64 // ns; a fraction of one is 1 % at 10,000,000 a second
	networks []gcra
	netGap   time.Duration
	seed     maphash.Seed
}

// networkSlots bounds the memory of the rates by network: 512 KiB. Two networks
// that fall into one slot share its rate, which errs to the side of too slow.
const networkSlots = 1 << 16

// NewLimit allows rate attempts a second over all and perNetwork to one
// network; zero or less does not bound.
func NewLimit(rate, perNetwork float64) *Limit {
	l := &Limit{seed: maphash.MakeSeed()}
	if rate > 0 {
		l.all, l.allGap = new(gcra), gap(rate)
	}
	if perNetwork > 0 {
		l.networks, l.netGap = make([]gcra, networkSlots), time.Duration(gap(perNetwork))
	}
	return l
}

// gap is the time from one attempt to the next, in nanoseconds. At a rate of less than one a
// day it is a day: no overflow, and nobody waits for a second attempt.
func gap(rate float64) float64 {
	return min(float64(time.Second)/rate, float64(24*time.Hour))
}

// burst is how far attempts may run ahead of their rate, in time: long enough
// that a timer's coarseness does not cost rate, too short for a flood.
const burst = 10 * time.Millisecond

func (l *Limit) wait(ctx context.Context, addr netip.Addr) error {
	if l == nil {
		return nil
	}
	now := time.Now()
	if at := l.network(now, addr); at.After(now) {
		// The whole is asked when the network's turn has come, so that one
		// crowded network does not use up what the others could have.
		if err := sleepUntil(ctx, at); err != nil {
			return err
		}
	}
	return l.waitAll(ctx, 1)
}

// network takes the next turn of addr's network and returns when it is.
func (l *Limit) network(now time.Time, addr netip.Addr) time.Time {
	if l == nil || l.networks == nil {
		return now
	}
	prefix, _ := addr.Prefix(networkBits(addr))
	return l.networks[maphash.Comparable(l.seed, prefix)%networkSlots].reserve(now, l.netGap)
}

// together is how many attempts may go out at once, most at most: no more than
// a fifth of what the burst allows.
func (l *Limit) together(most int) int {
	if l == nil || l.all == nil {
		return most
	}
	return int(max(1, min(float64(most), float64(burst/5)/l.allGap)))
}

// waitAll waits until n attempts may be made over all. Their networks have been
// asked.
func (l *Limit) waitAll(ctx context.Context, n int) error {
	if l == nil || l.all == nil {
		return nil
	}
	return sleepUntil(ctx, l.all.reserve(time.Now(), time.Duration(float64(n)*l.allGap)))
}

// networkBits is the size of what is taken for one network.
func networkBits(addr netip.Addr) int {
	if addr.Is4() {
		return 24
	}
	return 48
}

// gcra is the generic cell rate algorithm (ITU-T I.371): the whole state is the
// theoretical arrival time of the next cell, in UnixNano.
type gcra struct{ next atomic.Int64 }

// reserve takes the next place and returns when it may be used.
func (g *gcra) reserve(now time.Time, gap time.Duration) time.Time {
	for {
		next := g.next.Load()
		at := max(next, now.UnixNano())
		if g.next.CompareAndSwap(next, at+int64(gap)) {
			// What lies within the burst may go at once.
			return time.Unix(0, max(at-int64(burst), now.UnixNano()))
		}
	}
}
