// Package wave is one dated pass over one scope: it walks the places, has each
// looked at and judged, and keeps count. It writes nothing itself; whoever runs
// it says where a record goes.
package wave

import (
	"time"

	"gatehouse/internal/evidence"
	"gatehouse/internal/finding"
	"gatehouse/internal/owner"
	"gatehouse/internal/sweep"
)

// Record is what a wave says of one place: one line of its output. The JSON
// names are a contract with whoever reads it.
type Record struct {
	Wave       string        `json:"wave"`
	Target     string        `json:"target"`
	Address    string        `json:"address"`
	Port       uint16        `json:"port"`
	Name       string        `json:"name,omitzero"`
	Path       string        `json:"path,omitzero"`
	TLS        *evidence.TLS `json:"tls"`
	ObservedAt time.Time     `json:"observed_at"`
	From       string        `json:"from,omitzero"` // the vantage that looked; "" is the machine that tells

	finding.Verdict

	Owner owner.Owner `json:"owner"`

	// Notes are those that hold, of a wave that is kept. They belong to the host,
	// not to the wave, and are kept apart from it.
	Notes []Note `json:"notes,omitempty" cbor:"-"`
}

// Summary is the exact account of a wave: the counts add up to Places.
type Summary struct {
	Wave     string                      `json:"wave"`
	Scope    string                      `json:"scope"`
	Source   string                      `json:"source,omitzero"` // of an import, whose places are those it tells of
	Started  time.Time                   `json:"started"`
	Ended    time.Time                   `json:"ended"`
	Seed     uint64                      `json:"seed"`
	Places   uint64                      `json:"places"`  // asked for
	Visited  uint64                      `json:"visited"` // looked at to an end
	Outcomes map[finding.Outcome]uint64  `json:"outcomes"`
	Severity map[finding.Severity]uint64 `json:"severities"`       // findings by severity
	Denied   uint64                      `json:"denied"`           // outside the scope, not touched
	Retried  uint64                      `json:"retried"`          // connection attempts made again
	Pressure uint64                      `json:"pressure"`         // attempts delayed because this machine ran short of ports or files
	Sweep    *sweep.Stats                `json:"sweep,omitzero"`   // of a raw sweep; nil when each place was connected to
	Stopped  string                      `json:"stopped,omitzero"` // why it ended before Places, "" when it did not
}
