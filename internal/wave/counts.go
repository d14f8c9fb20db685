package wave

import (
	"sync"

	"gatehouse/internal/finding"
)

// Counts is the account of some places.
type Counts struct {
	Visited  uint64                      `json:"visited"`
	Denied   uint64                      `json:"denied"`
	Outcomes map[finding.Outcome]uint64  `json:"outcomes"`
	Severity map[finding.Severity]uint64 `json:"severities"`
}

func (c *Counts) add(r *result) {
	if r.denied {
		c.Denied++
		return
	}
	c.Add(&r.record)
}

// Add counts one record.
func (c *Counts) Add(r *Record) {
	c.Visited++
	if c.Outcomes == nil {
		c.Outcomes = make(map[finding.Outcome]uint64, 1)
	}
	c.Outcomes[r.Outcome]++
	for _, f := range r.Findings {
		if c.Severity == nil {
			c.Severity = make(map[finding.Severity]uint64, 1)
		}
		c.Severity[f.Severity]++
	}
}

func (c *Counts) plus(d Counts) {
	c.Visited += d.Visited
	c.Denied += d.Denied
	if c.Outcomes == nil {
		c.Outcomes = make(map[finding.Outcome]uint64)
	}
	if c.Severity == nil {
		c.Severity = make(map[finding.Severity]uint64)
	}
	for k, n := range d.Outcomes {
		c.Outcomes[k] += n
	}
	for k, n := range d.Severity {
		c.Severity[k] += n
	}
}

// tracker knows up to which position everything is done, though places are
// done in any order. It holds one entry for each place from the first that is
// not done to the last that was begun.
type tracker struct {
	mu     sync.Mutex
	queue  []entry // positions as they were begun, growing
	index  map[uint64]int
	base   int    // index of queue[0]
	at     uint64 // the mark: every position below is done
	counts Counts // of the positions below the mark
}

type entry struct {
	pos    uint64
	done   bool
	counts Counts
}

func newTracker(m Mark) *tracker {
	t := &tracker{index: make(map[uint64]int), at: m.At}
	t.counts.plus(m.Counts)
	return t
}

func (t *tracker) begin(pos uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.index[pos] = t.base + len(t.queue)
	t.queue = append(t.queue, entry{pos: pos})
}

func (t *tracker) end(r *result, c Counts) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := &t.queue[t.index[r.place.Pos]-t.base]
	e.done, e.counts = true, c
	for len(t.queue) > 0 && t.queue[0].done {
		first := &t.queue[0]
		t.counts.plus(first.counts)
		t.at = first.pos + 1
		delete(t.index, first.pos)
		*first = entry{}
		t.queue = t.queue[1:]
		t.base++
	}
}

func (t *tracker) mark() Mark {
	t.mu.Lock()
	defer t.mu.Unlock()
	m := Mark{At: t.at}
	m.Counts.plus(t.counts)
	return m
}

// total is the account of all that is done.
func (t *tracker) total() Counts {
	t.mu.Lock()
	defer t.mu.Unlock()
	var all Counts
	all.plus(t.counts)
	for i := range t.queue {
		if t.queue[i].done {
			all.plus(t.queue[i].counts)
		}
	}
	return all
}
