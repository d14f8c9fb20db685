package sweep

import (
	"errors"
	"net/netip"

	"gatehouse/internal/target"
)

// Why there is no link for a raw sweep.
var (
	ErrSystem = errors.New("raw packets need Linux")
	// ErrNoGateway is of targets that are on the link itself, or on this machine,
	// or behind a tunnel: the kernel finds the way to each one by itself.
	ErrNoGateway = errors.New("no gateway on an Ethernet link leads to the targets")
	// ErrRoutes is of routes that only the kernel can follow.
	ErrRoutes = errors.New("the way to the targets is not in the routing table alone")
)

// LinkOptions say what is not to be found out.
type LinkOptions struct {
	Interface  string       // "" is where the routes lead
	Sources    []netip.Addr // for a family that it has none of, the route's
	GatewayMAC [6]byte      // zero is the gateway's, by ARP or neighbour discovery
	// Quiet asks no gateway for its MAC: where the system does not know it, it is
	// left zero. No permission is needed, either.
	Quiet bool
}

// samples is how many places of a walk are looked up to find out where it leads.
const samples = 64

// sampled are the addresses of some places, by family.
func sampled(walk *target.Walk) (addrs [2][]netip.Addr) {
	n := min(walk.Count(), samples)
	for i := range n {
		// The first of n equal parts each, in an order that is random already.
		if _, addr, bare := walk.Nth(walk.Count() / n * i); bare {
			fam := family(addr.Addr())
			addrs[fam] = append(addrs[fam], addr.Addr())
		}
	}
	return addrs
}
