package wave

import (
	"crypto/sha256"
	"encoding/binary"
	"net/netip"
	"slices"
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
	// Last is the place as it was last seen in those waves, where Before did not
	// see it; nil when none did. Gap is in how many looks in a row, up to Before's
	// wave, it did not answer; 0 counts one for each wave that did not see it.
	Last *State
	Gap  int
	// Unseen is in how many looks in a row, up to the later wave, the place did
	// not answer; 0 when After saw it.
	Unseen int
}

// StateOf is what r is compared by. An address that is none gives the zero
// address.
func StateOf(r *Record) State {
	addr, _ := netip.ParseAddr(r.Address)
	s := State{
		Place:      Place{addr.Unmap(), r.Port, r.Name, r.Path},
		ObservedAt: r.ObservedAt, Outcome: r.Outcome, Version: r.Identity.Version, Powers: r.Powers,
		Country: r.Owner.Country, ASN: r.Owner.ASN, Provider: r.Owner.Provider,
	}
	if r.TLS != nil {
		s.Certificate = r.TLS.SHA256
	}
	for i := range r.Models {
		s.Models = append(s.Models, r.Models[i].Digest)
	}
	for i := range r.Findings {
		s.Findings = append(s.Findings, r.Findings[i].ID)
	}
	slices.Sort(s.Models)
	s.Models = slices.Compact(s.Models)
	slices.Sort(s.Findings)
	return s
}

// Digest is equal for two states that Compare finds no difference between. It
// tells nothing of the place, the time or the owner. A host can't choose what it
// says so that a change goes unseen: it is the beginning of a SHA-256.
func (s *State) Digest() uint64 {
	h := sha256.New()
	part := func(text string) {
		var n [8]byte // a length before each text, so that two lists never read the same
		binary.LittleEndian.PutUint64(n[:], uint64(len(text)))
		h.Write(n[:])
		h.Write([]byte(text))
	}
	for _, text := range []string{
		string(s.Outcome), s.Version, s.Certificate,
		string(s.Powers.Hello), string(s.Powers.Read), string(s.Powers.Infer), string(s.Powers.Manage), string(s.Powers.Account),
	} {
		part(text)
	}
	for _, m := range s.Models {
		part(m)
	}
	part("findings")
	for _, f := range s.Findings {
		part(f)
	}
	return binary.LittleEndian.Uint64(h.Sum(nil))
}
