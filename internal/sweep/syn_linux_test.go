package sweep_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"gatehouse/internal/ollama/realollama"
	"gatehouse/internal/scope"
	"gatehouse/internal/sweep"
	"gatehouse/internal/target"
)

// far is all that is behind a gateway, at the far end of a TAP device: it sees
// every frame that leaves, and says what comes back.
type far struct {
	t   *testing.T
	tap *os.File
	mac net.HardwareAddr // the gateway's
	me  net.HardwareAddr // the device's
	// says is what comes back for the n-th SYN to a place, from 1: packets from their IP header on.
	says func(syn *syn, n int) [][]byte

	mu   sync.Mutex
	syns map[netip.AddrPort]int
	rsts map[netip.AddrPort]int
	at   []time.Time // when each SYN came
	done sync.WaitGroup
}

// syn is one SYN that came in.
type syn struct {
	ip       []byte // the whole packet
	from, to netip.AddrPort
	seq      uint32
}

const gateway4, gateway6 = "10.99.0.2", "fd99::2"

// newFar makes the device with what is behind it in the namespace of the test.
func newFar(t *testing.T, says func(*syn, int) [][]byte) *far {
	t.Helper()
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		realollama.Missing(t, "no TAP device: "+err.Error())
	}
	request, err := unix.NewIfreq("tap0")
	if err != nil {
		t.Fatal(err)
	}
	request.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, request); err != nil {
		realollama.Missing(t, "no TAP device: "+err.Error())
	}
	f := &far{
		t: t, tap: os.NewFile(uintptr(fd), "tap0"), mac: net.HardwareAddr{2, 0, 0x5e, 0x10, 0, 1}, says: says,
		syns: map[netip.AddrPort]int{}, rsts: map[netip.AddrPort]int{},
	}
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	device, err := netlink.LinkByName("tap0")
	check(err)
	f.me = device.Attrs().HardwareAddr
	for _, text := range []string{"10.99.0.1/24", "fd99::1/64"} {
		addr, err := netlink.ParseAddr(text)
		check(err)
		addr.Flags = unix.IFA_F_NODAD
		check(netlink.AddrAdd(device, addr))
	}
	check(netlink.LinkSetTxQLen(device, 1<<16))
	check(netlink.LinkSetUp(device))
	for to, via := range map[string]string{"10.0.0.0/8": gateway4, "fd00::/8": gateway6} {
		_, network, err := net.ParseCIDR(to)
		check(err)
		check(netlink.RouteAdd(&netlink.Route{Dst: network, Gw: net.ParseIP(via)}))
	}
	f.done.Go(f.life)
	t.Cleanup(func() {
		_ = f.tap.Close()
		f.done.Wait()
	})
	return f
}

func (f *far) life() {
	for b := make([]byte, 2048); ; {
		n, err := f.tap.Read(b)
		if err != nil {
			return
		}
		f.takes(b[:n])
	}
}

// takes takes one frame.
func (f *far) takes(b []byte) {
	p := gopacket.NewPacket(b, layers.LayerTypeEthernet, gopacket.Default)
	ethernet := p.Layer(layers.LayerTypeEthernet).(*layers.Ethernet)
	if arp, ok := p.Layer(layers.LayerTypeARP).(*layers.ARP); ok {
		f.frame(ethernet.SrcMAC, layers.EthernetTypeARP, &layers.ARP{
			AddrType: layers.LinkTypeEthernet, Protocol: layers.EthernetTypeIPv4, HwAddressSize: 6, ProtAddressSize: 4,
			Operation: layers.ARPReply, SourceHwAddress: f.mac, SourceProtAddress: arp.DstProtAddress,
			DstHwAddress: arp.SourceHwAddress, DstProtAddress: arp.SourceProtAddress,
		})
		return
	}
	if ask, ok := p.Layer(layers.LayerTypeICMPv6NeighborSolicitation).(*layers.ICMPv6NeighborSolicitation); ok {
		ip := &layers.IPv6{
			Version: 6, NextHeader: layers.IPProtocolICMPv6, HopLimit: 255,
			SrcIP: ask.TargetAddress, DstIP: p.NetworkLayer().(*layers.IPv6).SrcIP,
		}
		icmp := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(layers.ICMPv6TypeNeighborAdvertisement, 0)}
		_ = icmp.SetNetworkLayerForChecksum(ip)
		f.frame(ethernet.SrcMAC, layers.EthernetTypeIPv6, ip, icmp, &layers.ICMPv6NeighborAdvertisement{
			Flags: 0x60, TargetAddress: ask.TargetAddress,
			Options: layers.ICMPv6Options{{Type: layers.ICMPv6OptTargetAddress, Data: f.mac}},
		})
		return
	}
	tcp, ok := p.Layer(layers.LayerTypeTCP).(*layers.TCP)
	if !ok {
		return
	}
	source, _ := netip.AddrFromSlice(p.NetworkLayer().NetworkFlow().Src().Raw())
	destination, _ := netip.AddrFromSlice(p.NetworkLayer().NetworkFlow().Dst().Raw())
	s := &syn{
		ip:   slices.Clone(ethernet.Payload),
		from: netip.AddrPortFrom(source, uint16(tcp.SrcPort)), to: netip.AddrPortFrom(destination, uint16(tcp.DstPort)), seq: tcp.Seq,
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if tcp.RST {
		f.rsts[s.to]++
		return
	}
	if !bytes.Equal(ethernet.DstMAC, f.mac) {
		f.t.Errorf("a frame to %v, want the gateway's %v", ethernet.DstMAC, f.mac)
	}
	if again := serialised(p); !bytes.Equal(again[:len(b)], b) { // it pads frames
		f.t.Errorf("a SYN\n%x, by another's hand\n%x", b, again)
	}
	if !tcp.SYN || tcp.ACK || tcp.SrcPort < 61000 {
		f.t.Errorf("not a SYN from a port that is ours: %v", tcp)
	}
	f.syns[s.to]++
	f.at = append(f.at, time.Now())
	for _, packet := range f.says(s, f.syns[s.to]) {
		f.packet(packet)
	}
}

// serialised makes a packet anew, with lengths and checksums.
func serialised(p gopacket.Packet) []byte {
	var list []gopacket.SerializableLayer
	for _, l := range p.Layers() {
		if tcp, ok := l.(*layers.TCP); ok {
			_ = tcp.SetNetworkLayerForChecksum(p.NetworkLayer())
		}
		list = append(list, l.(gopacket.SerializableLayer))
	}
	return serialise(list...)
}

func serialise(list ...gopacket.SerializableLayer) []byte {
	b := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, list...); err != nil {
		panic(err)
	}
	return b.Bytes()
}

func (f *far) frame(to net.HardwareAddr, kind layers.EthernetType, list ...gopacket.SerializableLayer) {
	ethernet := &layers.Ethernet{SrcMAC: f.mac, DstMAC: to, EthernetType: kind}
	_, _ = f.tap.Write(serialise(append([]gopacket.SerializableLayer{ethernet}, list...)...))
}

// packet sends a packet to this side.
func (f *far) packet(ip []byte) {
	kind := layers.EthernetTypeIPv4
	if ip[0]>>4 == 6 {
		kind = layers.EthernetTypeIPv6
	}
	f.frame(f.me, kind, gopacket.Payload(ip))
}

// ipTo is the IP header of a packet from one address to another.
func ipTo(from, to netip.Addr, protocol layers.IPProtocol) gopacket.SerializableLayer {
	if from.Is4() {
		return &layers.IPv4{Version: 4, TTL: 60, Protocol: protocol, SrcIP: from.AsSlice(), DstIP: to.AsSlice()}
	}
	return &layers.IPv6{Version: 6, HopLimit: 60, NextHeader: protocol, SrcIP: from.AsSlice(), DstIP: to.AsSlice()}
}

// segment is a TCP segment from one place to another.
func segment(from, to netip.AddrPort, tcp layers.TCP) []byte {
	ip := ipTo(from.Addr(), to.Addr(), layers.IPProtocolTCP)
	tcp.SrcPort, tcp.DstPort, tcp.Window = layers.TCPPort(from.Port()), layers.TCPPort(to.Port()), 1024
	_ = tcp.SetNetworkLayerForChecksum(ip.(gopacket.NetworkLayer))
	return serialise(ip, &tcp)
}

func (s *syn) accepts() []byte {
	return segment(s.to, s.from, layers.TCP{SYN: true, ACK: true, Seq: rand.Uint32(), Ack: s.seq + 1})
}

func (s *syn) refuses() []byte {
	return segment(s.to, s.from, layers.TCP{RST: true, ACK: true, Ack: s.seq + 1})
}

// unreachable is the error of a router, or of the place itself when it is of the
// port.
func (s *syn) unreachable(port bool) []byte {
	if s.to.Addr().Is4() {
		code := uint8(layers.ICMPv4CodeHost)
		if port {
			code = layers.ICMPv4CodePort
		}
		return serialise(ipTo(netip.MustParseAddr("10.77.0.1"), s.from.Addr(), layers.IPProtocolICMPv4),
			&layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(layers.ICMPv4TypeDestinationUnreachable, code)}, gopacket.Payload(s.ip[:28]))
	}
	code := uint8(layers.ICMPv6CodeAddressUnreachable)
	if port {
		code = layers.ICMPv6CodePortUnreachable
	}
	ip := ipTo(netip.MustParseAddr("fd77::1"), s.from.Addr(), layers.IPProtocolICMPv6)
	icmp := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(layers.ICMPv6TypeDestinationUnreachable, code)}
	_ = icmp.SetNetworkLayerForChecksum(ip.(gopacket.NetworkLayer))
	return serialise(ip, icmp, gopacket.Payload(append([]byte{0, 0, 0, 0}, s.ip...)))
}

// last is the last byte of the address that was asked.
func (s *syn) last() int {
	b := s.to.Addr().AsSlice()
	return int(b[len(b)-1])
}

// swept is what a sweep told.
type swept struct {
	mu      sync.Mutex
	places  map[netip.AddrPort]sweep.State
	batches []sweep.Batch
	ended   bool
}

// sweeps sweeps targets to the end.
func sweeps(t *testing.T, s *sweep.SYN, opt sweep.LinkOptions, targets ...string) *swept {
	t.Helper()
	w := walkOf(t, targets...)
	var err error
	if s.Links, err = sweep.FindLinks(t.Context(), w, opt); err != nil {
		t.Fatal(err)
	}
	return run(t, s, w)
}

func walkOf(t testing.TB, targets ...string) *target.Walk {
	t.Helper()
	sc := scope.Scope{Name: "local", Local: true}
	set, err := target.Parse(t.Context(), targets, nil, target.Options{Scope: sc.Checker()})
	if err != nil {
		t.Fatal(err)
	}
	w, err := set.Walk(target.Order{Seed: 7})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func run(t *testing.T, s *sweep.SYN, w *target.Walk) *swept {
	t.Helper()
	r := &swept{places: map[netip.AddrPort]sweep.State{}}
	if s.Allows == nil {
		s.Allows = all
	}
	var err error
	r.ended, err = s.Run(t.Context(), nil, w, 0, sweep.Events{
		Answer: func(rank, pos uint64, state sweep.State, _ uint64) {
			r.mu.Lock()
			defer r.mu.Unlock()
			at, addr, _ := w.Nth(rank)
			if _, ok := r.places[addr]; ok || at != pos {
				t.Errorf("%v is told of twice, or at position %d instead of %d", addr, pos, at)
			}
			r.places[addr] = state
		},
		Room: func(context.Context) error { return nil },
		Done: func(b sweep.Batch) error { r.batches = append(r.batches, b); return nil },
	})
	if err != nil || !r.ended {
		t.Fatalf("ended %v, %v", r.ended, err)
	}
	var places, told, silent, denied uint64
	for i, b := range r.batches {
		places, silent, denied = places+b.Places, silent+b.Silent, denied+b.Denied
		if b.Serial != uint64(i) {
			t.Errorf("batch %d has serial %d", i, b.Serial)
		}
	}
	told = uint64(len(r.places))
	if places != w.Count() || told+silent+denied != places {
		t.Errorf("%d places in batches, %d told of, %d silent, %d denied; want %d", places, told, silent, denied, w.Count())
	}
	return r
}

// TestSYN has places that answer in each way there is, over IPv4 and IPv6.
func TestSYN(t *testing.T) {
	if !apart(t) {
		return
	}
	loopbackUp(t)
	f := newFar(t, func(s *syn, _ int) [][]byte {
		switch s.last() % 8 {
		case 0:
			return [][]byte{s.accepts()}
		case 1:
			return [][]byte{s.accepts(), s.accepts(), s.refuses()} // more than one answer
		case 2:
			return [][]byte{s.refuses()}
		case 3:
			return [][]byte{s.unreachable(false)}
		case 4:
			return [][]byte{s.unreachable(true)}
		case 5:
			return [][]byte{segment(s.to, s.from, layers.TCP{ACK: true, Seq: 1, Ack: s.seq + 1})} // neither
		}
		return nil
	})
	states := []sweep.State{sweep.Open, sweep.Open, sweep.Refused, sweep.Unreachable, sweep.Refused, 0, 0, 0}
	for _, network := range []string{"10.1.0.0/22", "fd01::/118"} {
		clear(f.syns)
		clear(f.rsts)
		s := sweep.SYN{Probes: 2, Cooldown: 500 * time.Millisecond, Limit: sweep.NewLimit(20_000, 0)}
		got := sweeps(t, &s, sweep.LinkOptions{}, network)
		f.mu.Lock()
		prefix := netip.MustParsePrefix(network)
		for a := prefix.Addr(); prefix.Contains(a); a = a.Next() {
			at := netip.AddrPortFrom(a, 11434)
			kind := a.AsSlice()[len(a.AsSlice())-1] % 8
			if got.places[at] != states[kind] {
				t.Errorf("%v is %v, want %v", at, got.places[at], states[kind])
			}
			asked := 2
			if states[kind] != 0 {
				asked = 1
			}
			if f.syns[at] != asked {
				t.Errorf("%v got %d SYNs, want %d", at, f.syns[at], asked)
			}
			if open := states[kind] == sweep.Open; (f.rsts[at] > 0) != (open || kind == 5) {
				t.Errorf("%v got %d RSTs of the kernel's", at, f.rsts[at])
			}
		}
		f.mu.Unlock()
		st := s.Stats()
		if st.Sent != 1024+384 || st.Again != 384 || st.Open != 256 || st.Refused != 128 || st.Unreachable != 256 || st.Duplicates != 256 {
			t.Errorf("%s: %+v", network, st)
		}
	}
}

// TestBadWire has SYNs and answers lost, doubled and in another order: every open
// place is found, and told of once.
func TestBadWire(t *testing.T) {
	if !apart(t) {
		return
	}
	loopbackUp(t)
	rng := rand.New(rand.NewPCG(1, 2))
	var held [][]byte
	f := newFar(t, func(s *syn, n int) [][]byte {
		if n <= s.last()%3 {
			return nil // lost, or its answer was
		}
		for range 1 + rng.IntN(3) {
			held = append(held, s.accepts())
		}
		if len(held) < 200 && n < 4 {
			return nil
		}
		rng.Shuffle(len(held), func(i, j int) { held[i], held[j] = held[j], held[i] })
		out := held
		held = nil
		return out
	})
	s := sweep.SYN{Probes: 4, Cooldown: 500 * time.Millisecond, Limit: sweep.NewLimit(20_000, 0)}
	got := sweeps(t, &s, sweep.LinkOptions{}, "10.2.0.0/21")
	if len(got.places) != 2048 {
		f.mu.Lock()
		defer f.mu.Unlock()
		t.Errorf("%d of 2048 found, %d held back", len(got.places), len(held))
	}
	if st := s.Stats(); st.Open != 2048 || st.Duplicates < 1000 || st.Invalid > 0 {
		t.Errorf("%+v", st)
	}
}

// TestForged has whoever sees nothing of the SYNs answer for places, in a flood:
// none is believed.
func TestForged(t *testing.T) {
	if !apart(t) {
		return
	}
	loopbackUp(t)
	quiet := netip.MustParsePrefix("10.3.0.0/22")
	f := newFar(t, func(s *syn, _ int) [][]byte {
		wrong := *s
		wrong.seq ^= 1 << (s.last() % 32)
		moved := *s
		moved.from = netip.AddrPortFrom(s.from.Addr(), 61000+(s.from.Port()-61000+1)%4000)
		other := *s
		other.to = netip.AddrPortFrom(s.to.Addr().Next(), s.to.Port())
		inner := wrong
		inner.ip = slices.Clone(s.ip)
		inner.ip[27] ^= 1
		short := s.accepts()
		return [][]byte{
			wrong.accepts(), wrong.refuses(), moved.accepts(), moved.refuses(), other.accepts(), inner.unreachable(false),
			segment(s.to, s.from, layers.TCP{RST: true, Seq: s.seq}), short[:30],
			segment(netip.AddrPortFrom(s.to.Addr(), 80), s.from, layers.TCP{SYN: true, ACK: true, Ack: s.seq + 1}),
		}
	})
	source, sent := netip.MustParseAddr("10.99.0.1"), 0
	flood := func(stop *atomic.Bool) {
		for ; !stop.Load(); sent++ {
			a := quiet.Addr().As4()
			binary.BigEndian.PutUint16(a[2:], uint16(a[2])<<8+uint16(sent%1024))
			f.packet(segment(netip.AddrPortFrom(netip.AddrFrom4(a), 11434), netip.AddrPortFrom(source, uint16(61000+sent%4000)), layers.TCP{SYN: true, ACK: true, Ack: uint32(sent)}))
		}
	}
	s := sweep.SYN{Cooldown: time.Second, Limit: sweep.NewLimit(2000, 0)}
	var stop atomic.Bool
	var flooding sync.WaitGroup
	flooding.Go(func() { flood(&stop) })
	got := sweeps(t, &s, sweep.LinkOptions{}, quiet.String())
	stop.Store(true)
	flooding.Wait()
	if len(got.places) > 0 {
		t.Errorf("believed: %v", got.places)
	}
	if st := s.Stats(); st.Invalid < 5*1024 || st.Open+st.Refused+st.Unreachable > 0 {
		t.Errorf("%+v", st)
	}
	t.Logf("%d packets of a flood; %+v", sent, s.Stats())
}

// TestNotAllowed has the scope asked about each packet: one that it refuses at the
// last moment does not leave.
func TestNotAllowed(t *testing.T) {
	if !apart(t) {
		return
	}
	loopbackUp(t)
	f := newFar(t, func(s *syn, _ int) [][]byte { return [][]byte{s.accepts()} })
	no := netip.MustParsePrefix("10.4.0.64/26")
	s := sweep.SYN{Cooldown: 200 * time.Millisecond, Probes: 3, Limit: sweep.NewLimit(20_000, 0), Allows: func(a netip.Addr) error {
		if no.Contains(a) {
			return scope.ErrExcluded
		}
		return nil
	}}
	got := sweeps(t, &s, sweep.LinkOptions{}, "10.4.0.0/24")
	f.mu.Lock()
	defer f.mu.Unlock()
	for at := range f.syns {
		if no.Contains(at.Addr()) {
			t.Errorf("%v got a SYN", at)
		}
	}
	var denied uint64
	for _, b := range got.batches {
		denied += b.Denied
	}
	if len(f.syns) != 192 || len(got.places) != 192 || denied != 64 {
		t.Errorf("%d asked, %d answered, %d denied", len(f.syns), len(got.places), denied)
	}
}

// TestLinks finds the way out, and what lies elsewhere, by the routes of a
// namespace.
func TestLinks(t *testing.T) {
	if !apart(t) {
		return
	}
	loopbackUp(t)
	f := newFar(t, func(*syn, int) [][]byte { return nil })
	device, err := net.InterfaceByName("tap0")
	if err != nil {
		t.Fatal(err)
	}
	for _, add := range []string{"10.5.1.0/24", "10.5.2.0/28"} { // on the link
		_, network, _ := net.ParseCIDR(add)
		if err := netlink.RouteAdd(&netlink.Route{Dst: network, LinkIndex: device.Index, Scope: netlink.SCOPE_LINK}); err != nil {
			t.Fatal(err)
		}
	}
	_, network, _ := net.ParseCIDR("10.5.1.128/25") // and back behind the gateway
	if err := netlink.RouteAdd(&netlink.Route{Dst: network, Gw: net.ParseIP(gateway4)}); err != nil {
		t.Fatal(err)
	}
	links, err := sweep.FindLinks(t.Context(), walkOf(t, "10.5.0.0/20", "fd05::/120"), sweep.LinkOptions{})
	if err != nil || len(links) != 2 {
		t.Fatalf("%d links, %v", len(links), err)
	}
	for i, want := range []struct{ source, gateway string }{{"10.99.0.1", gateway4}, {"fd99::1", gateway6}} {
		l := links[i]
		if l.Interface != "tap0" || l.Source != netip.MustParseAddr(want.source) || l.Gateway != netip.MustParseAddr(want.gateway) ||
			!bytes.Equal(l.NextHop[:], f.mac) || !bytes.Equal(l.MAC[:], device.HardwareAddr) {
			t.Errorf("%+v", l)
		}
	}
	for text, elsewhere := range map[string]bool{
		"10.5.0.1": false, "10.5.1.1": true, "10.5.1.129": false, "10.5.2.15": true, "10.5.2.16": false, "10.99.0.7": true, "127.0.0.1": true, "192.168.0.1": true,
	} {
		if links[0].Elsewhere.Contains(netip.MustParseAddr(text)) != elsewhere {
			t.Errorf("%s lies elsewhere: %v", text, !elsewhere)
		}
	}
	// What lies elsewhere is handed back unasked.
	s := sweep.SYN{Cooldown: 100 * time.Millisecond, Links: links}
	got := run(t, &s, walkOf(t, "10.5.0.0/23", "http://10.5.0.9/"))
	unasked := 0
	for at, state := range got.places {
		if state != sweep.Unasked || !links[0].Elsewhere.Contains(at.Addr()) && at.String() != "10.5.0.9:80" && at.String() != "10.5.0.9:11434" {
			t.Errorf("%v is %v", at, state)
		}
		unasked++
	}
	if unasked != 129 {
		t.Errorf("%d places unasked, want 129", unasked)
	}
	for _, targets := range []string{"127.0.0.0/20", "10.99.0.0/28", "192.168.0.0/20"} {
		if _, err := sweep.FindLinks(t.Context(), walkOf(t, targets), sweep.LinkOptions{}); !errors.Is(err, sweep.ErrNoGateway) {
			t.Errorf("%s: %v", targets, err)
		}
	}
	l, err := sweep.FindLinks(t.Context(), walkOf(t, "10.99.0.0/28"), sweep.LinkOptions{
		Interface: "tap0", GatewayMAC: [6]byte{2, 3, 4, 5, 6, 7}, Sources: []netip.Addr{netip.MustParseAddr("10.99.0.3")},
	})
	if err != nil || len(l) != 1 || l[0].NextHop != [6]byte{2, 3, 4, 5, 6, 7} || l[0].Source.String() != "10.99.0.3" {
		t.Errorf("%+v %v", l, err)
	}
}

// TestMeasuredRate has packets come at the far end as fast as was said, and no
// faster. How far below it a busy machine stays says nothing.
func TestMeasuredRate(t *testing.T) {
	if !apart(t) {
		return
	}
	loopbackUp(t)
	for _, c := range []struct {
		rate    float64
		network string
	}{{10, "10.6.0.0/28"}, {500, "10.6.16.0/22"}, {5000, "10.6.32.0/19"}} {
		t.Run(fmt.Sprint(c.rate), func(t *testing.T) {
			f := newFar(t, func(*syn, int) [][]byte { return nil })
			s := sweep.SYN{Cooldown: time.Millisecond, Limit: sweep.NewLimit(c.rate, 0)}
			sweeps(t, &s, sweep.LinkOptions{}, c.network)
			f.mu.Lock()
			defer f.mu.Unlock()
			n := len(f.at)
			took := f.at[n-1].Sub(f.at[0]) + 10*time.Millisecond // the burst
			rate := float64(n-1) / took.Seconds()
			if rate > 1.01*c.rate {
				t.Errorf("%d packets at %.2f a second, want %v at most", n, rate, c.rate)
			}
			t.Logf("%d packets at %.2f a second, %v were asked for", n, rate, c.rate)
		})
	}
}
