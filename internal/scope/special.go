package scope

import (
	"net/netip"

	"go4.org/netipx"
)

// local is what may be looked at without a scope file.
var local = []netip.Prefix{
	netip.MustParsePrefix("127.0.0.0/8"),    // RFC 1122
	netip.MustParsePrefix("10.0.0.0/8"),     // RFC 1918
	netip.MustParsePrefix("172.16.0.0/12"),  // RFC 1918
	netip.MustParsePrefix("192.168.0.0/16"), // RFC 1918
	netip.MustParsePrefix("::1/128"),        // RFC 4291
	netip.MustParsePrefix("fc00::/7"),       // RFC 4193
}

// special is what is never touched, whatever a scope includes: the IANA IPv4
// and IPv6 Special-Purpose Address Registries (entries up to RFC 9780 of 2025,
// the newest at 2026-11) without the local ones, and what the IANA address
// space registries give to multicast, to the future or to nobody. The first
// that holds an address names it, so the narrower stand before the wider.
//
// The blocks that carry an IPv4 address inside an IPv6 one (6to4, NAT64,
// Teredo, IPv4-compatible) are all here, so that none is a way round a refusal;
// IPv4-mapped addresses are judged as IPv4 before this table is asked.
var special = []struct {
	prefix netip.Prefix
	name   string
}{
	{netip.MustParsePrefix("0.0.0.0/8"), "this network, RFC 791"},
	{netip.MustParsePrefix("100.64.0.0/10"), "shared address space, RFC 6598"},
	{netip.MustParsePrefix("169.254.0.0/16"), "link-local, RFC 3927"},
	{netip.MustParsePrefix("192.0.0.0/24"), "IETF protocol assignments, RFC 6890"},
	{netip.MustParsePrefix("192.0.2.0/24"), "TEST-NET-1, RFC 5737"},
	{netip.MustParsePrefix("192.31.196.0/24"), "AS112-v4, RFC 7535"},
	{netip.MustParsePrefix("192.52.193.0/24"), "AMT, RFC 7450"},
	{netip.MustParsePrefix("192.88.99.0/24"), "deprecated 6to4 relay anycast, RFC 7526"},
	{netip.MustParsePrefix("192.175.48.0/24"), "direct delegation AS112 service, RFC 7534"},
	{netip.MustParsePrefix("198.18.0.0/15"), "benchmarking, RFC 2544"},
	{netip.MustParsePrefix("198.51.100.0/24"), "TEST-NET-2, RFC 5737"},
	{netip.MustParsePrefix("203.0.113.0/24"), "TEST-NET-3, RFC 5737"},
	{netip.MustParsePrefix("224.0.0.0/4"), "multicast, RFC 5771"},
	{netip.MustParsePrefix("255.255.255.255/32"), "limited broadcast, RFC 919"},
	{netip.MustParsePrefix("240.0.0.0/4"), "reserved, RFC 1112"},

	{netip.MustParsePrefix("::/128"), "unspecified address, RFC 4291"},
	{netip.MustParsePrefix("::ffff:0:0/96"), "IPv4-mapped, RFC 4291"},
	{netip.MustParsePrefix("64:ff9b::/96"), "IPv4-IPv6 translation, RFC 6052"},
	{netip.MustParsePrefix("64:ff9b:1::/48"), "IPv4-IPv6 translation, RFC 8215"},
	{netip.MustParsePrefix("100::/64"), "discard-only, RFC 6666"},
	{netip.MustParsePrefix("100:0:0:1::/64"), "dummy prefix, RFC 9780"},
	{netip.MustParsePrefix("2001::/32"), "Teredo, RFC 4380"},
	{netip.MustParsePrefix("2001:2::/48"), "benchmarking, RFC 5180"},
	{netip.MustParsePrefix("2001:3::/32"), "AMT, RFC 7450"},
	{netip.MustParsePrefix("2001:4:112::/48"), "AS112-v6, RFC 7535"},
	{netip.MustParsePrefix("2001:10::/28"), "deprecated ORCHID, RFC 4843"},
	{netip.MustParsePrefix("2001:20::/28"), "ORCHIDv2, RFC 7343"},
	{netip.MustParsePrefix("2001:30::/28"), "drone remote ID, RFC 9374"},
	{netip.MustParsePrefix("2001::/23"), "IETF protocol assignments, RFC 2928"},
	{netip.MustParsePrefix("2001:db8::/32"), "documentation, RFC 3849"},
	{netip.MustParsePrefix("2002::/16"), "6to4, RFC 3056"},
	{netip.MustParsePrefix("2620:4f:8000::/48"), "direct delegation AS112 service, RFC 7534"},
	{netip.MustParsePrefix("3fff::/20"), "documentation, RFC 9637"},
	{netip.MustParsePrefix("5f00::/16"), "segment routing SIDs, RFC 9602"},
	{netip.MustParsePrefix("fe80::/10"), "link-local, RFC 4291"},
	{netip.MustParsePrefix("fec0::/10"), "deprecated site-local, RFC 3879"},
	{netip.MustParsePrefix("ff00::/8"), "multicast, RFC 4291"},

	// What is left of IPv6 beside 2000::/3, the one block that global addresses
	// are given out of.
	{netip.MustParsePrefix("::/3"), "reserved, RFC 4291"},
	{netip.MustParsePrefix("4000::/2"), "reserved, RFC 4291"},
	{netip.MustParsePrefix("8000::/1"), "reserved, RFC 4291"},
}

// specials is the set of all special addresses; it holds no local one.
var specials = func() *netipx.IPSet {
	var b netipx.IPSetBuilder
	for _, s := range special {
		b.AddPrefix(s.prefix)
	}
	for _, p := range local {
		b.RemovePrefix(p)
	}
	return set(&b)
}()
