package dataset

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"gatehouse/internal/evidence"
	"gatehouse/internal/finding"
)

// gatehouse reads the records that a scan writes as JSON lines. They hold
// verdicts, which are taken as they are; see Row.Verdict.
type gatehouse struct{}

func (gatehouse) parse(record []byte, emit func(Row) error) error {
	var r struct {
		Wave       string         `json:"wave"`
		Target     string         `json:"target"`
		Address    word           `json:"address"`
		Port       word           `json:"port"`
		Name       string         `json:"name"`
		Path       string         `json:"path"`
		TLS        *evidence.TLS  `json:"tls"`
		ObservedAt time.Time      `json:"observed_at"`
		Owner      maybe[ownerOf] `json:"owner"`

		finding.Verdict
	}
	if err := unmarshal(record, &r); err != nil {
		return err
	}
	addr, port, err := placeOf(r.Address, r.Port)
	if err != nil {
		return err
	}
	if !slices.Contains(finding.Outcomes, r.Outcome) {
		return fmt.Errorf("outcome %.40q is none of gatehouse's", string(r.Outcome))
	}
	s := story{source: "gatehouse " + r.Wave}
	s.Host = hostAt(addr, port)
	if r.Target != "" {
		s.Host.Target = r.Target
	}
	s.Host.Name, s.Host.Path, s.Host.TLS, s.Host.ObservedAt = r.Name, r.Path, r.TLS, r.ObservedAt.UTC()
	switch r.Outcome {
	case finding.Silent, finding.Refused, finding.Broken:
		s.Host.Reach, s.Host.Reason = evidence.Reach(r.Outcome), r.Reason
	default:
		s.Host.Reach = evidence.Answered
	}
	verdict := r.Verdict
	s.Verdict = &verdict
	r.Owner.T.tell(&s)
	return emit(s.Row)
}

// ownerOf is the owner in a record.
type ownerOf struct {
	Country  string    `json:"country"`
	ASN      uint32    `json:"asn"`
	Network  string    `json:"network"`
	Provider string    `json:"provider"`
	Name     string    `json:"name"`
	Contact  string    `json:"contact"`
	Claims   []claimOf `json:"claims"`
}

type claimOf struct {
	What       string  `json:"what"`
	Value      string  `json:"value"`
	Source     string  `json:"source"`
	Confidence float64 `json:"confidence"`
}

// tell gives the claims as they are, and what the record concluded from none of
// them.
func (o *ownerOf) tell(s *story) {
	for _, c := range o.Claims {
		s.Claims = append(s.Claims, Claim(c))
	}
	asn := ""
	if o.ASN != 0 {
		asn = strconv.FormatUint(uint64(o.ASN), 10)
	}
	for _, c := range []struct{ what, value string }{
		{"country", o.Country},
		{"asn", asn},
		{"network", o.Network},
		{"provider", o.Provider},
		{"name", o.Name},
		{"contact", o.Contact},
	} {
		told := func(had claimOf) bool { return had.What == c.what && strings.EqualFold(had.Value, c.value) }
		if !slices.ContainsFunc(o.Claims, told) {
			s.claim(c.what, c.value)
		}
	}
}
