// Package scope says what may be looked at, and by whose authority.
// It never looks at anything itself; the zero Scope touches nothing.
package scope

import (
	"net/netip"
	"time"
)

// Scope is the permission to look. Allows decides; nothing else does.
type Scope struct {
	Name      string
	Authority string    // who permits it, and where that is written
	Contact   string    // where a complaint reaches the one who looks: mailto: or https:
	Expires   time.Time // after this nothing is allowed
	Include   []netip.Prefix
	Exclude   []netip.Prefix
	Ports     []uint16 // ports to look at where a target names none
	Rate      float64  // connections a second over everything
	// PerNetworkRate is connections a second to one IPv4 /24 or IPv6 /48.
	PerNetworkRate float64
	Prove          bool // powers may be proven (see package probe)

	// Local permits loopback and private addresses without anything further.
	Local bool
}
