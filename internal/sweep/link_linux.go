package sweep

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"go4.org/netipx"
	"golang.org/x/sys/unix"

	"gatehouse/internal/target"
)

// FindLinks finds the ways by which raw packets get to the places of walk: for
// each family the gateway that most of it lies behind, on an Ethernet link. What
// lies elsewhere is in Link.Elsewhere. The error wraps one of those above, or
// os.ErrPermission.
func FindLinks(ctx context.Context, walk *target.Walk, opt LinkOptions) ([]*Link, error) {
	if !opt.Quiet {
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return nil, fmt.Errorf("raw packets: %w", err)
		}
		_ = unix.Close(fd)
	}
	var links []*Link
	for _, addrs := range sampled(walk) {
		if len(addrs) == 0 {
			continue
		}
		l, err := findLink(addrs, opt)
		if err == nil && l.NextHop == ([6]byte{}) && !opt.Quiet {
			l.NextHop, err = nextHop(ctx, l)
		}
		switch {
		case err == nil:
			links = append(links, l)
		case !errors.Is(err, ErrNoGateway):
			return nil, err
		}
	}
	if len(links) == 0 {
		return nil, ErrNoGateway
	}
	return links, nil
}

// hop is where a route leads.
type hop struct {
	index   int
	gateway netip.Addr
}

func hopOf(r *netlink.Route) hop {
	gw, _ := netip.AddrFromSlice(r.Gw)
	if via, ok := r.Via.(*netlink.Via); ok {
		gw, _ = netip.AddrFromSlice(via.Addr)
	}
	return hop{r.LinkIndex, gw.Unmap()}
}

func findLink(addrs []netip.Addr, opt LinkOptions) (*Link, error) {
	fam := addrs[0].BitLen()
	source := netip.Addr{}
	for _, a := range opt.Sources {
		if a = a.Unmap(); a.BitLen() == fam {
			source = a
		}
	}
	if opt.Interface != "" && opt.GatewayMAC != [6]byte{} {
		device, err := ethernet(netlink.LinkByName(opt.Interface))
		if err != nil {
			return nil, fmt.Errorf("interface %s: %w", opt.Interface, err)
		}
		if !source.IsValid() {
			if source, err = sourceOn(device, fam); err != nil {
				return nil, err
			}
		}
		return newLink(device, source, netip.Addr{}, opt.GatewayMAC), nil
	}
	// The way that most of the samples go.
	count, sourceOf := map[hop]int{}, map[hop]netip.Addr{}
	ways := make([]hop, len(addrs))
	var main hop
	for i, a := range addrs {
		found, err := netlink.RouteGetWithOptions(a.AsSlice(), &netlink.RouteGetOptions{Oif: opt.Interface})
		if err != nil || len(found) == 0 {
			continue // unreachable
		}
		h := hopOf(&found[0])
		ways[i] = h
		if src, ok := netip.AddrFromSlice(found[0].Src); ok {
			sourceOf[h] = src.Unmap()
		}
		if !h.gateway.IsValid() && opt.GatewayMAC == [6]byte{} {
			continue
		}
		if count[h]++; count[h] > count[main] {
			main = h
		}
	}
	if count[main] == 0 {
		return nil, ErrNoGateway
	}
	device, err := ethernet(netlink.LinkByIndex(main.index))
	if err != nil {
		return nil, err
	}
	if !source.IsValid() {
		source = sourceOf[main]
	}
	if !source.IsValid() {
		return nil, fmt.Errorf("no source address on %s", device.Name)
	}
	l := newLink(device, source, main.gateway, opt.GatewayMAC)
	if opt.Interface == "" {
		if l.Elsewhere, err = elsewhere(fam, main); err != nil {
			return nil, err
		}
		for i, a := range addrs {
			if l.Elsewhere.Contains(a) == (ways[i] == main) {
				return nil, fmt.Errorf("%s: %w", a, ErrRoutes)
			}
		}
	}
	return l, nil
}

func newLink(device *netlink.LinkAttrs, source, gateway netip.Addr, mac [6]byte) *Link {
	return &Link{
		Interface: device.Name, Index: device.Index, MAC: [6]byte(device.HardwareAddr),
		Gateway: gateway, NextHop: mac, Source: source, Elsewhere: new(netipx.IPSet),
	}
}

// ethernet are the attributes of a link that takes Ethernet frames.
func ethernet(l netlink.Link, err error) (*netlink.LinkAttrs, error) {
	if err != nil {
		return nil, err
	}
	a := l.Attrs()
	if a.EncapType != "ether" || a.Flags&net.FlagLoopback != 0 || len(a.HardwareAddr) != 6 {
		return nil, fmt.Errorf("%s: %w", a.Name, ErrNoGateway)
	}
	return a, nil
}

// sourceOn is an address of the family on a link.
func sourceOn(device *netlink.LinkAttrs, bits int) (netip.Addr, error) {
	list, err := netlink.AddrList(&netlink.Device{LinkAttrs: *device}, netlink.FAMILY_ALL)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("addresses of %s: %w", device.Name, err)
	}
	for _, a := range list {
		if addr, ok := netip.AddrFromSlice(a.IP); ok && addr.Unmap().BitLen() == bits && !addr.IsLinkLocalUnicast() {
			return addr.Unmap(), nil
		}
	}
	return netip.Addr{}, fmt.Errorf("no source address on %s", device.Name)
}

// elsewhere is what the routing table leads another way than main.
func elsewhere(bits int, main hop) (*netipx.IPSet, error) {
	fam, all := netlink.FAMILY_V4, netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	if bits == 128 {
		fam, all = netlink.FAMILY_V6, netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	}
	routes, err := netlink.RouteListFiltered(fam, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
	if err != nil {
		return nil, fmt.Errorf("read the routes: %w", err)
	}
	prefix := func(r *netlink.Route) netip.Prefix {
		if p, ok := netipx.FromStdIPNet(cmp.Or(r.Dst, &net.IPNet{})); ok {
			return p
		}
		return all
	}
	// The longer prefix decides, then the lower metric: it comes last here.
	slices.SortStableFunc(routes, func(a, b netlink.Route) int {
		return cmp.Or(cmp.Compare(prefix(&a).Bits(), prefix(&b).Bits()), cmp.Compare(b.Priority, a.Priority))
	})
	var set netipx.IPSetBuilder
	set.AddPrefix(all)
	for i := range routes {
		r := &routes[i]
		switch {
		case r.Table != unix.RT_TABLE_MAIN && r.Table != unix.RT_TABLE_LOCAL && r.Table != unix.RT_TABLE_DEFAULT:
		case r.Type == unix.RTN_UNICAST && len(r.MultiPath) == 0 && hopOf(r) == main:
			set.RemovePrefix(prefix(r))
		default:
			set.AddPrefix(prefix(r))
		}
	}
	return set.IPSet()
}

// nextHop finds the MAC of a gateway. If the kernel does not know it, an empty
// datagram to the gateway's discard port has it asked for in the way that suits
// the family.
func nextHop(ctx context.Context, l *Link) (mac [6]byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	gateway := l.Gateway
	if gateway.IsLinkLocalUnicast() {
		gateway = gateway.WithZone(l.Interface)
	}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for asked := false; ; asked = true {
		known, err := netlink.NeighList(l.Index, netlink.FAMILY_ALL)
		if err != nil {
			return mac, fmt.Errorf("read the neighbours of %s: %w", l.Interface, err)
		}
		for _, n := range known {
			if bytes.Equal(n.IP, l.Gateway.AsSlice()) || n.IP.Equal(l.Gateway.AsSlice()) {
				if len(n.HardwareAddr) == 6 && n.State&(unix.NUD_INCOMPLETE|unix.NUD_FAILED) == 0 {
					return [6]byte(n.HardwareAddr), nil
				}
			}
		}
		if !asked {
			conn, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(gateway, 9)))
			if err != nil {
				return mac, err
			}
			_, err = conn.Write(nil)
			if err := errors.Join(err, conn.Close()); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
				return mac, err
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return mac, fmt.Errorf("gateway %s on %s does not say its hardware address", l.Gateway, l.Interface)
		}
	}
}
