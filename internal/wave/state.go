package wave

import (
	"net/netip"
	"time"

	"gatehouse/internal/finding"
)

// Place names a host across waves: where it was found, and by which name it was
// asked, since one address may serve several.
type Place struct {
	Address netip.Addr `json:"address"`
	Port    uint16     `json:"port"`
	Name    string     `json:"name,omitzero"`
	Path    string     `json:"path,omitzero"`
}

// State is what two waves are compared by: what one place was in one wave.
type State struct {
	Place       Place           `json:"place"`
	ObservedAt  time.Time       `json:"observed_at"`
	Outcome     finding.Outcome `json:"outcome"`
	Version     string          `json:"version"`
	Powers      finding.Powers  `json:"powers"`
	Models      []string        `json:"models"`      // digests, sorted, each once
	Certificate string          `json:"certificate"` // SHA-256 of the leaf, "" without TLS
	Findings    []string        `json:"findings"`    // ids, sorted
	Country     string          `json:"country"`
	ASN         uint32          `json:"asn"`
	Provider    string          `json:"provider"`
}

// Pair is one place in two waves, nil where the wave did not see it.
type Pair struct {
	Before, After *State
	// Earlier are the outcomes of the place in the waves of the scope that went
	// before Before, the latest first; a wave that did not see it has "".
	Earlier []finding.Outcome
	// Unseen is in how many looks in a row, up to the later wave, the place did
	// not answer; 0 when After saw it.
	Unseen int
}
