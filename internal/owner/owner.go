// Package owner says who probably runs a host. It never asks the host itself,
// and never makes one truth of what its sources say: each claim stands with its
// source and how far to trust it.
package owner

// Owner is who probably runs a host; the zero value says that nobody looked.
// The fields before Claims are the most trusted claim of each kind.
type Owner struct {
	Country  string  `json:"country"` // ISO 3166-1 alpha-2
	EU       bool    `json:"eu"`      // a member on the day of the observation
	ASN      uint32  `json:"asn"`
	Network  string  `json:"network"`  // the name of the ASN
	Provider string  `json:"provider"` // "Hetzner", "OVH", …
	Name     string  `json:"name"`
	Contact  string  `json:"contact"` // where abuse is reported
	Claims   []Claim `json:"claims"`
}

// Claim is one statement about an owner and how far to trust it.
type Claim struct {
	What       string  `json:"what"` // "country", "network", "name", "contact", …
	Value      string  `json:"value"`
	Source     string  `json:"source"`     // with its date
	Confidence float64 `json:"confidence"` // 0 to 1
}
