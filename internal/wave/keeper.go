package wave

import (
	"iter"

	"gatehouse/internal/evidence"
)

// Keeper keeps what a wave finds, so that one that was stopped or killed goes
// on where it was. Only one wave uses it at a time.
type Keeper interface {
	// Resume says what earlier runs kept.
	Resume() (Progress, error)
	// Keep keeps observations, all of them or none. What it returned nil for
	// outlives the process, and a place kept twice counts once.
	Keep([]Observation) error
	// Mark keeps how far the wave got and brings all to the disk. It is called
	// about once a second, and at the end.
	Mark(Mark) error
	// Records yields what was kept, in no order; not while a wave is running.
	Records() iter.Seq2[Record, error]
	// Close lets go of what was opened. Nothing is kept after it.
	Close() error
}

var _ Keeper = (*Journal)(nil)

// Observation is what was found at one position of the walk.
type Observation struct {
	Pos    uint64
	Record Record
	Host   evidence.Host
}

// Mark says that every position below At is done, and the account of them.
type Mark struct {
	At     uint64 `json:"at"`
	Counts Counts `json:"counts"`
}

// Progress is what earlier runs of a wave did: all below the mark, and some
// places at or above it.
type Progress struct {
	Mark Mark
	Late map[uint64]Counts
}

// total is the account of all that is not done again.
func (p *Progress) total() Counts {
	var c Counts
	c.plus(p.Mark.Counts)
	c.plus(p.lateTotal())
	return c
}

func (p *Progress) lateTotal() Counts {
	var c Counts
	for _, l := range p.Late {
		c.plus(l)
	}
	return c
}
