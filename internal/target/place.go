// Package target turns what the user named into places to look at, in a
// permuted order that needs no list in memory. It looks at none of them.
package target

import (
	"net"
	"net/netip"
	"strconv"
)

// Place is one address and port to look at, with what is needed to ask for it
// the way the user meant.
type Place struct {
	Pos    uint64     // position in the order; a resumed scan counts in it
	Addr   netip.Addr // resolved; never invalid
	Port   uint16
	Name   string // host name for Host and SNI; "" when the user gave an address
	Scheme string // "http", "https", or "" to find out
	Path   string // prefix before every request path, such as "/ollama"; "" for none
	Target string // what the user wrote
}

// AddrPort is the address to dial.
func (p Place) AddrPort() netip.AddrPort { return netip.AddrPortFrom(p.Addr, p.Port) }

// String is how the place is shown: name, or address, and port.
func (p Place) String() string {
	host := p.Name
	if host == "" {
		host = p.Addr.String()
	}
	return net.JoinHostPort(host, strconv.Itoa(int(p.Port))) + p.Path
}
