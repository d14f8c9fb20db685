package notice

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"time"
)

// State is what became of a letter.
type State string

// The states of a letter.
const (
	Waiting   State = "waiting"
	Delivered State = "delivered"
	GivenUp   State = "given up"
)

// Letter is a message to one channel, and how often it was tried.
type Letter struct {
	Message
	Channel string // its name
	State   State
	Tries   int
	Next    time.Time // of a waiting one: when it is tried again
	Said    string    // why the last try came to nothing
	Settled time.Time // when it was delivered or given up
}

// Box keeps letters, so that they outlive the process.
type Box interface {
	// Waiting are the letters that were neither delivered nor given up, the oldest
	// first.
	Waiting() ([]Letter, error)
	// Keep keeps how it is with a letter now.
	Keep(Letter) error
}

// How often and for how long a letter is tried.
const (
	firstPause = 5 * time.Second
	maxPause   = time.Hour
	maxAge     = 3 * 24 * time.Hour
)

// Courier delivers what is in a box. A letter is delivered at least once: it is
// kept as waiting until its receiver took it.
type Courier struct {
	Box      Box
	Channels []*Channel
	Log      func(string) // is told what was not delivered, one line each
}

// Round tries every letter that is due, those of one channel one after the other,
// and says when the next is, which is zero when none waits.
func (c *Courier) Round(ctx context.Context) (next time.Time, err error) {
	letters, err := c.Box.Waiting()
	if err != nil {
		return next, err
	}
	by := make(map[string][]Letter)
	for _, l := range letters {
		by[l.Channel] = append(by[l.Channel], l)
	}
	var mu sync.Mutex
	var errs []error
	var wg sync.WaitGroup
	for name, list := range by { // a receiver that hangs keeps nobody else waiting
		wg.Go(func() {
			at, err := c.channel(ctx, name, list)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				errs = append(errs, err)
			}
			if !at.IsZero() && (next.IsZero() || at.Before(next)) {
				next = at
			}
		})
	}
	wg.Wait()
	return next, errors.Join(errs...)
}

// channel delivers the letters of one channel up to the first that is not taken,
// so that they come in order.
func (c *Courier) channel(ctx context.Context, name string, list []Letter) (next time.Time, err error) {
	var to *Channel
	for _, ch := range c.Channels {
		if ch.Name == name {
			to = ch
		}
	}
	for _, l := range list {
		now := time.Now()
		switch {
		case now.Sub(l.Made) > maxAge:
			l.State, l.Settled = GivenUp, now
			if to == nil && l.Said == "" {
				l.Said = "the channel is no longer named"
			}
			c.log("%s: given up after %d tries: %s (%s)", name, l.Tries, l.Title, l.Said)
			if err := c.Box.Keep(l); err != nil {
				return next, err
			}
			continue
		case to == nil:
			return l.Made.Add(maxAge + time.Second), nil // it may be named again
		case l.Next.After(now):
			return l.Next, nil
		}
		err := to.Send(ctx, l.Message)
		if ctx.Err() != nil && err != nil {
			return next, ctx.Err() // that was not the receiver's fault
		}
		l.Tries++
		now = time.Now()
		if err == nil {
			l.State, l.Settled, l.Said = Delivered, now, ""
		} else {
			l.Said = oneLine(err)
			c.fail(&l, now, err)
		}
		if err := c.Box.Keep(l); err != nil {
			return next, err
		}
		if l.State == Waiting {
			return l.Next, nil
		}
	}
	return next, nil
}

func (c *Courier) fail(l *Letter, now time.Time, err error) {
	pause := Pause(l.Tries)
	if t, ok := errors.AsType[*trouble](err); ok {
		if t.final {
			l.State, l.Settled = GivenUp, now
			c.log("%s: given up: %s", l.Channel, l.Said)
			return
		}
		pause = max(pause, min(t.after, maxPause))
	}
	l.Next = now.Add(pause)
	c.log("%s: not delivered: %s; try %d in %s", l.Channel, l.Said, l.Tries+1, pause.Round(time.Second))
}

// Pause is how long to wait after so many tries: twice as long each time, up to
// an hour, and a fifth more or less, so that receivers which were down are not
// all called at once.
func Pause(tries int) time.Duration {
	pause := maxPause
	if n := max(tries, 1) - 1; n < 10 {
		pause = min(firstPause<<n, maxPause)
	}
	return time.Duration(float64(pause) * (0.8 + 0.4*rand.Float64()))
}

func (c *Courier) log(format string, a ...any) {
	if c.Log != nil {
		c.Log(fmt.Sprintf(format, a...))
	}
}

// oneLine is what is told of an error: a receiver may have put much into it.
func oneLine(err error) string {
	text := strings.Join(strings.Fields(err.Error()), " ")
	if len(text) > 300 {
		text = text[:300] + "…"
	}
	return text
}

// brokenBox is how long to wait when the box itself fails.
const brokenBox = time.Minute

// Run delivers until ctx ends. Whoever puts something into the box wakes it.
func (c *Courier) Run(ctx context.Context, wake <-chan struct{}) {
	for {
		next, err := c.Round(ctx)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			c.log("%s", oneLine(err))
			next = time.Now().Add(brokenBox)
		}
		var timer <-chan time.Time // one that never comes, when nothing waits
		if !next.IsZero() {
			timer = time.After(time.Until(next))
		}
		select {
		case <-ctx.Done():
			return
		case <-wake:
		case <-timer:
		}
	}
}
