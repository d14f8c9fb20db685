package wave

import "time"

// Look is what one of several looks at a server saw. Running is what GET
// /api/ps listed; a look that got no such list has not Answered.
type Look struct {
	At       time.Time
	Answered bool
	Running  []Loaded
}

// Loaded is a model in a server's memory, and until when it stays there if
// nobody asks it anything more.
type Loaded struct {
	Name      string
	ExpiresAt time.Time
}

// Activity is what a server was seen to do over several looks.
type Activity string

// The activities.
const (
	Active    Activity = "active"    // somebody was served
	Resident  Activity = "resident"  // a model is loaded, nobody was seen to be served
	Pinned    Activity = "pinned"    // the same, and it stays loaded whether used or not
	Idle      Activity = "idle"      // nothing is loaded
	Unwatched Activity = "unwatched" // it did not answer twice, so nothing can be told
)

// pinned is how far off an expiry is that nobody waits for: keep_alive -1 gives
// 292 years, the longest duration Go has.
const pinned = 10 * 365 * 24 * time.Hour

// ActivityOf tells a server at work from one that merely has a model in memory.
// Looks are in order of time.
//
// Ollama sets a model's expiry anew when a request ends, to then plus keep_alive
// (server/sched.go of 0.17.4), and while the first request is under way
// /api/ps gives the time of asking plus keep_alive. So an expiry that moved
// forward, or a model that was not there before, is a request between the looks.
// A model pinned with keep_alive -1 has an expiry 292 years off, which moves in
// the same way: it stays where it is while nobody asks, however long the model
// is loaded.
//
// Only times of the server's own clock are compared with each other, for its
// clock may be wrong. What is missed makes the share of active servers a lower
// bound: a request that began before the first look and ends after the last,
// when it was not the model's first; keep_alive 0; and a model that was loaded
// and unloaded between two looks. Several servers behind one address that take
// turns look active.
func ActivityOf(looks []Look) Activity {
	var before *Look
	state := Unwatched
	for i := range looks {
		now := &looks[i]
		if !now.Answered {
			continue
		}
		if before != nil {
			if moved(before.Running, now.Running) {
				return Active
			}
			state = atRest(now)
		}
		before = now
	}
	return state
}

// moved reports whether a request was served between two looks.
func moved(before, now []Loaded) bool {
	expiry := make(map[string]time.Time, len(before))
	for _, m := range before {
		expiry[m.Name] = m.ExpiresAt
	}
	for _, m := range now {
		if was, ok := expiry[m.Name]; !ok || m.ExpiresAt.After(was) {
			return true
		}
	}
	return false
}

// atRest is what a server is where nothing moved.
func atRest(l *Look) Activity {
	if len(l.Running) == 0 {
		return Idle
	}
	for _, m := range l.Running {
		if m.ExpiresAt.Sub(l.At) < pinned {
			return Resident
		}
	}
	return Pinned
}

// Activities counts servers by what they were seen to do.
type Activities map[Activity]uint64

// Active is the share of active servers among those of which it can be told,
// and its 95 % interval as though they were a sample of many more moments; ok is
// false when there are none.
func (a Activities) Active() (share float64, i Interval, ok bool) {
	n := a[Active] + a[Resident] + a[Pinned] + a[Idle]
	if n == 0 {
		return 0, Interval{0, 1}, false
	}
	return float64(a[Active]) / float64(n), Wilson(float64(a[Active]), float64(n)), true
}

// Uptime is in how many of several looks a server was there.
type Uptime string

// The classes of uptime.
const (
	Never     Uptime = "never"
	Once      Uptime = "once"
	Sometimes Uptime = "sometimes"
	Always    Uptime = "always"
)

// UptimeOf is the class of a server that was seen in so many of several looks.
// One look alone cannot tell once from always: it says Once.
func UptimeOf(seen, looks int) Uptime {
	switch {
	case seen <= 0:
		return Never
	case seen == 1:
		return Once
	case seen >= looks:
		return Always
	}
	return Sometimes
}

// Uptimes counts servers by class of uptime.
type Uptimes map[Uptime]uint64

// Seen is how many servers were seen at all: what classes are shares of.
func (u Uptimes) Seen() uint64 { return u[Once] + u[Sometimes] + u[Always] }
