package store

import (
	"time"

	"gatehouse/internal/finding"
	"gatehouse/internal/wave"
)

// sketch is what of a record two waves are compared by: to read the evidence of
// each finding and every claim as well takes three times as long.
type sketch struct {
	Address    string          `json:"address"`
	Port       uint16          `json:"port"`
	Name       string          `json:"name"`
	Path       string          `json:"path"`
	ObservedAt time.Time       `json:"observed_at"`
	Outcome    finding.Outcome `json:"outcome"`
	Powers     finding.Powers  `json:"powers"`
	TLS        *struct {
		SHA256 string `json:"sha256"`
	} `json:"tls"`
	Identity struct {
		Version string `json:"version"`
	} `json:"identity"`
	Models []struct {
		Digest string `json:"digest"`
	} `json:"models"`
	Findings []struct {
		ID string `json:"id"`
	} `json:"findings"`
	Owner struct {
		Country  string `json:"country"`
		ASN      uint32 `json:"asn"`
		Provider string `json:"provider"`
	} `json:"owner"`
}

// state is wave.StateOf the record that k is a sketch of.
func (k *sketch) state() wave.State {
	r := wave.Record{Address: k.Address, Port: k.Port, Name: k.Name, Path: k.Path, ObservedAt: k.ObservedAt}
	r.Outcome, r.Powers, r.Identity.Version = k.Outcome, k.Powers, k.Identity.Version
	r.Owner.Country, r.Owner.ASN, r.Owner.Provider = k.Owner.Country, k.Owner.ASN, k.Owner.Provider
	r.Models = make([]finding.Model, len(k.Models))
	for i := range k.Models {
		r.Models[i].Digest = k.Models[i].Digest
	}
	r.Findings = make([]finding.Finding, len(k.Findings))
	for i := range k.Findings {
		r.Findings[i].ID = k.Findings[i].ID
	}
	s := wave.StateOf(&r)
	if k.TLS != nil {
		s.Certificate = k.TLS.SHA256
	}
	return s
}
