package connect

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"time"
)

// The addresses that Tailscale gives. Those of IPv4 are everybody's who shares
// addresses between customers (RFC 6598), so that they alone prove nothing;
// those of IPv6 are a prefix of Tailscale's own (RFC 4193).
var (
	tailnet4 = netip.MustParsePrefix("100.64.0.0/10")
	tailnet6 = netip.MustParsePrefix("fd7a:115c:a1e0::/48")
)

// OnTailnet reports whether host is an address, and one of a tailnet. A name is
// not: who answers for it is DNS's to say.
func OnTailnet(host string) bool {
	a, err := netip.ParseAddr(host)
	return err == nil && a.Zone() == "" && (tailnet4.Contains(a.Unmap()) || tailnet6.Contains(a))
}

// ErrNoTailnet says that the way to a tailnet's address is not the tailnet.
var ErrNoTailnet = errors.New("this machine does not reach that address by a tailnet, so it could be anybody's: is Tailscale up?")

// TailnetTransport reaches a gate without TLS, by a tailnet alone: WireGuard has
// the machine with that address answer and nobody else, and encrypts. A
// connection that leaves by anything but Tailscale's own interface is closed
// before a byte is sent, as it is when Tailscale is down.
func TailnetTransport() *http.Transport {
	t := Transport(nil)
	t.Proxy = nil
	dialer := &net.Dialer{Timeout: 10 * time.Second}
	t.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dialer.DialContext(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		local, err := netip.ParseAddrPort(conn.LocalAddr().String())
		if err == nil {
			var all [][]netip.Addr
			if all, err = interfaces(); err == nil && !byTailscale(local.Addr().Unmap(), all) {
				err = ErrNoTailnet
			}
		}
		if err != nil {
			return nil, errors.Join(err, conn.Close())
		}
		return conn, nil
	}
	return t
}

// byTailscale reports whether local is an address of an interface that Tailscale
// made, which always has one of its IPv6 addresses.
func byTailscale(local netip.Addr, interfaces [][]netip.Addr) bool {
	return slices.ContainsFunc(interfaces, func(addrs []netip.Addr) bool {
		return slices.Contains(addrs, local) && slices.ContainsFunc(addrs, tailnet6.Contains)
	})
}

// interfaces are the addresses of each interface of this machine.
func interfaces() (all [][]netip.Addr, err error) {
	list, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	for _, i := range list {
		nets, err := i.Addrs()
		if err != nil {
			return nil, err
		}
		var addrs []netip.Addr
		for _, n := range nets {
			if p, err := netip.ParsePrefix(n.String()); err == nil {
				addrs = append(addrs, p.Addr().Unmap())
			}
		}
		all = append(all, addrs)
	}
	return all, nil
}
