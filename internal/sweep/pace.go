package sweep

import (
	"context"
	"time"
)

// pace slows a sender down while this machine loses packets: to seven tenths of what it was doing, and then up again by a
// tenth every tenth of a second, until it is no bound any more. Its zero value
// does not bound.
type pace struct {
	rate   float64   // packets a second; 0 is no bound
	next   time.Time // when the next may leave
	slowed time.Time
	raised time.Time

	since time.Time // from when on count is
	count int
	did   float64 // packets a second, measured
}

const (
	paceStep  = 100 * time.Millisecond
	slowest   = 100.0 // packets a second
	stallTime = time.Millisecond
)

// slow is told that packets were lost, or had no room.
func (p *pace) slow(now time.Time) {
	p.next = now.Add(stallTime)
	if now.Sub(p.slowed) < paceStep {
		return // one step for what was lost together
	}
	rate := p.did
	if p.rate > 0 {
		rate = min(rate, p.rate)
	}
	p.rate = max(slowest, 0.7*rate)
	p.slowed, p.raised = now, now
}

// wait waits until packets may leave.
func (p *pace) wait(ctx context.Context) error {
	if p.next.IsZero() {
		return nil
	}
	return sleepUntil(ctx, p.next)
}

// sent is told that n packets left now.
func (p *pace) sent(n int) {
	now := time.Now()
	if p.count += n; now.Sub(p.since) >= paceStep {
		p.did, p.since, p.count = float64(p.count)/now.Sub(p.since).Seconds(), now, 0
	}
	if p.rate == 0 {
		return
	}
	if now.Sub(p.raised) >= paceStep {
		p.raised = now
		if p.rate *= 1.1; p.rate > 4*p.did {
			*p = pace{since: p.since, count: p.count, did: p.did}
			return
		}
	}
	if p.next.Before(now) {
		p.next = now
	}
	p.next = p.next.Add(time.Duration(float64(n) / p.rate * float64(time.Second)))
}
