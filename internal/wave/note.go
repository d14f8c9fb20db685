package wave

import (
	"net/netip"
	"time"
)

// Note is what people say of a host, whichever wave sees it. Counts do not heed
// it: what was seen was seen.
type Note struct {
	Number  int64      `json:"number"`
	Address netip.Addr `json:"address"`
	Port    uint16     `json:"port,omitzero"` // 0: every port of the address
	Kind    NoteKind   `json:"kind"`
	Text    string     `json:"text,omitzero"`
	Made    time.Time  `json:"made"`
	Until   time.Time  `json:"until,omitzero"` // zero: until it is removed
}

// NoteKind says what a note is for.
type NoteKind string

// The kinds of notes.
const (
	Accepted      NoteKind = "accepted"       // somebody answers for leaving it as it is
	FalsePositive NoteKind = "false positive" // it is not what it was taken for
	Ticket        NoteKind = "ticket"         // where it is being seen to
	Comment       NoteKind = "note"
)

// Settles reports whether a note of this kind says that nothing is left to do.
func (k NoteKind) Settles() bool { return k == Accepted || k == FalsePositive }

// Holds reports whether the note still counts at now.
func (n *Note) Holds(now time.Time) bool { return n.Until.IsZero() || now.Before(n.Until) }

// Settled reports whether a note says that nothing is left to do about r.
func (r *Record) Settled() bool {
	for i := range r.Notes {
		if r.Notes[i].Kind.Settles() {
			return true
		}
	}
	return false
}
