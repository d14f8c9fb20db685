package key

import (
	"hash/maphash"
	"net/netip"
	"sync"
	"time"
)

// Guesses slows down who tries wrong keys: after a few, each wrong try has to
// wait, twice as long as the one before. It counts by address (IPv6 by /64) and
// by the key that is guessed at, in a table of fixed size: a million addresses
// take no more room than one, and only make it forget sooner.
//
// It never keeps out a right key; see Door.
type Guesses struct {
	seed maphash.Seed
	rows [guessRows]guessRow
}

const (
	guessRows = 4096
	guessWays = 8 // slots in a row, of which the longest untouched gives way

	freeTries = 5               // wrong tries that are answered at once
	firstWait = time.Second     // after these
	maxWait   = 5 * time.Minute // grown to
	forget    = 15 * time.Minute
)

type guessRow struct {
	mu    sync.Mutex
	slots [guessWays]guess
}

type guess struct {
	tag   uint64
	tries uint32
	last  int64 // Unix nanoseconds
}

// NewGuesses returns an empty table of about 800 KiB.
func NewGuesses() *Guesses { return &Guesses{seed: maphash.MakeSeed()} }

// Wrong counts a wrong try from an address at a key, and says how long the next
// has to wait: 0 for the first few.
func (g *Guesses) Wrong(from netip.Addr, id string, now time.Time) time.Duration {
	if g == nil {
		return 0
	}
	wait := g.count(g.place(from), now)
	if id != "" {
		// At the key: many addresses with a few tries each.
		wait = max(wait, g.count(g.tag(id), now))
	}
	return wait
}

// Locked says how long an address has to wait before what costs much to check
// is checked for it; 0 when it need not.
func (g *Guesses) Locked(from netip.Addr, now time.Time) time.Duration {
	if g == nil {
		return 0
	}
	tag := g.place(from)
	row := &g.rows[tag>>1%guessRows]
	row.mu.Lock()
	defer row.mu.Unlock()
	for i := range row.slots {
		if s := &row.slots[i]; s.tag == tag {
			return max(0, waitFor(s.tries)-now.Sub(time.Unix(0, s.last)).Abs())
		}
	}
	return 0
}

// forgive forgets the wrong tries of an address that then came with a right key.
func (g *Guesses) forgive(from netip.Addr) {
	if g == nil {
		return
	}
	tag := g.place(from)
	row := &g.rows[tag>>1%guessRows]
	row.mu.Lock()
	for i := range row.slots {
		if row.slots[i].tag == tag {
			row.slots[i] = guess{}
		}
	}
	row.mu.Unlock()
}

// tag is what the table knows a key by.
func (g *Guesses) tag(id string) uint64 {
	var h maphash.Hash
	h.SetSeed(g.seed)
	h.WriteByte('k')
	h.WriteString(id)
	return h.Sum64() | 1 // 0 is an empty slot
}

// place is what the table knows by what one holder of addresses has: an IPv4
// address, an IPv6 /64.
func (g *Guesses) place(a netip.Addr) uint64 {
	b := a.As16() // in which an IPv4 address is mapped
	if a.Is6() && !a.Is4In6() {
		clear(b[8:])
	}
	var h maphash.Hash
	h.SetSeed(g.seed)
	h.WriteByte('a')
	h.Write(b[:])
	return h.Sum64() | 1
}

func (g *Guesses) count(tag uint64, now time.Time) time.Duration {
	row := &g.rows[tag>>1%guessRows]
	row.mu.Lock()
	defer row.mu.Unlock()
	slot := &row.slots[0]
	for i := range row.slots {
		s := &row.slots[i]
		if s.tag == tag {
			slot = s
			break
		}
		if s.last < slot.last {
			slot = s
		}
	}
	// A clock that was set back counts as time gone by.
	if slot.tag != tag || now.Sub(time.Unix(0, slot.last)).Abs() > forget {
		*slot = guess{tag: tag}
	}
	slot.tries++
	slot.last = now.UnixNano()
	return waitFor(slot.tries)
}

func waitFor(tries uint32) time.Duration {
	if tries <= freeTries {
		return 0
	}
	return min(maxWait, firstWait<<min(tries-freeTries-1, 20))
}
