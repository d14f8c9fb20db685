package sweep

import (
	"encoding/binary"
	"net/netip"

	"github.com/dchest/siphash"
)

// key is what the cookies of one sweep are made with.
type key struct{ k0, k1 uint64 }

// cookie is what a SYN to addr carries, so that a reply says by itself whether
// it answers one of ours: the sequence number, and a number to choose the source
// port by. It is a MAC of the destination (SipHash-2-4, which is made for short
// messages and a secret key), so that no table of what was sent is needed, and
// whoever didn't see the SYN can't make its answer.
func (k key) cookie(addr netip.AddrPort) (seq, port uint32) {
	var m [18]byte
	a := addr.Addr().As16()
	copy(m[:], a[:])
	binary.BigEndian.PutUint16(m[16:], addr.Port())
	h := siphash.Hash(k.k0, k.k1, m[:])
	return uint32(h), uint32(h >> 32)
}

// ports are the source ports of a sweep, both ends included.
type ports struct{ first, last uint16 }

func (p ports) of(n uint32) uint16 {
	return p.first + uint16(uint64(n)*(uint64(p.last)-uint64(p.first)+1)>>32)
}

const (
	ethernetLen = 14
	ipv4Len     = 20
	ipv6Len     = 40
	tcpLen      = 24 // with the one option that every system sends, the maximum segment size

	protoTCP, protoICMP, protoICMPv6 = 6, 1, 58

	flagSYN, flagRST, flagACK = 0x02, 0x04, 0x10

	maxFrame = ethernetLen + ipv6Len + tcpLen
	// snap is how much of a packet is read: an ICMP error with the whole of the
	// SYN that it is about, IPv6.
	snap = ipv6Len + 8 + ipv6Len + tcpLen + 16
)

// frames makes the SYNs of one family: Ethernet, IP and TCP headers.
type frames struct {
	key
	ports
	source   netip.Addr
	template [maxFrame]byte
	length   int
	ipSum    uint32 // of the IPv4 header without the destination
	tcpSum   uint32 // of pseudo header and segment without destination, ports and sequence number
}

func newFrames(k key, p ports, source netip.Addr, from, to [6]byte) *frames {
	f := &frames{key: k, ports: p, source: source}
	t := f.template[:]
	copy(t, to[:])
	copy(t[6:], from[:])
	ip := t[ethernetLen:]
	var tcp []byte
	if source.Is4() {
		f.length = ethernetLen + ipv4Len + tcpLen
		binary.BigEndian.PutUint16(t[12:], 0x0800)
		ip[0], ip[6], ip[8], ip[9] = 0x45, 0x40, 64, protoTCP // don't fragment; TTL
		binary.BigEndian.PutUint16(ip[2:], ipv4Len+tcpLen)
		copy(ip[12:], source.AsSlice())
		f.ipSum = sum(ip[:ipv4Len])
		f.tcpSum = sum(ip[12:16])
		tcp = ip[ipv4Len:]
	} else {
		f.length = maxFrame
		binary.BigEndian.PutUint16(t[12:], 0x86dd)
		ip[0], ip[6], ip[7] = 0x60, protoTCP, 64
		binary.BigEndian.PutUint16(ip[4:], tcpLen)
		copy(ip[8:], source.AsSlice())
		f.tcpSum = sum(ip[8:24])
		tcp = ip[ipv6Len:]
	}
	tcp[12], tcp[13] = tcpLen/4<<4, flagSYN
	binary.BigEndian.PutUint16(tcp[14:], 65535)
	tcp[20], tcp[21] = 2, 4
	binary.BigEndian.PutUint16(tcp[22:], 1460)
	f.tcpSum += protoTCP + tcpLen + sum(tcp[:tcpLen])
	return f
}

// write writes the SYN to addr into b, which has room for maxFrame, and returns
// its length.
func (f *frames) write(b []byte, addr netip.AddrPort) int {
	b = b[:maxFrame]
	copy(b, f.template[:f.length])
	seq, n := f.cookie(addr)
	tcpSum := f.tcpSum
	ip := b[ethernetLen:]
	var tcp []byte
	if addr.Addr().Is4() {
		to := addr.Addr().As4()
		copy(ip[16:], to[:])
		s := sum(to[:])
		tcpSum += s
		binary.BigEndian.PutUint16(ip[10:], ^fold(f.ipSum+s))
		tcp = ip[ipv4Len:]
	} else {
		to := addr.Addr().As16()
		copy(ip[24:], to[:])
		tcpSum += sum(to[:])
		tcp = ip[ipv6Len:]
	}
	from := f.of(n)
	binary.BigEndian.PutUint16(tcp, from)
	binary.BigEndian.PutUint16(tcp[2:], addr.Port())
	binary.BigEndian.PutUint32(tcp[4:], seq)
	tcpSum += uint32(from) + uint32(addr.Port()) + seq>>16 + seq&0xffff
	binary.BigEndian.PutUint16(tcp[16:], ^fold(tcpSum))
	return f.length
}

// sum adds up the 16-bit words of b, of even length (RFC 1071).
func sum(b []byte) (s uint32) {
	for ; len(b) > 1; b = b[2:] {
		s += uint32(b[0])<<8 | uint32(b[1])
	}
	return s
}

func fold(s uint32) uint16 {
	s = s&0xffff + s>>16
	return uint16(s + s>>16)
}

// State is what a place said to a SYN.
type State uint8

const (
	// Open is a SYN-ACK: something takes connections there, or pretends to.
	Open State = iota + 1
	// Refused is a RST, or an ICMP port unreachable.
	Refused
	// Unreachable is any other ICMP destination unreachable.
	Unreachable
	// Silent is nothing at all.
	Silent
	// Unasked is a place that no SYN was sent to, since another way leads there
	// or it goes by a name: it has to be connected to.
	Unasked
)

// reply is a packet that answers one of our SYNs.
type reply struct {
	from  netip.AddrPort // the place that was asked
	state State
	icmp  bool
}

// read makes of a packet from its IP header on what it says. It is foreign, and
// ok only if it proves with the cookie that it answers a SYN of ours. What the
// addresses of this machine are, and whether the checksums are right, does not
// matter for that: nobody else knows the cookies.
func (f *frames) read(b []byte) (r reply, ok bool) {
	switch {
	case len(b) < 1:
	case b[0]>>4 == 4:
		return f.read4(b)
	case b[0]>>4 == 6:
		return f.read6(b)
	}
	return reply{}, false
}

func (f *frames) read4(b []byte) (r reply, ok bool) {
	protocol, payload, ok := payload4(b)
	if !ok || binary.BigEndian.Uint16(b[6:])&0x1fff != 0 {
		return reply{}, false
	}
	switch protocol {
	case protoTCP:
		return f.readTCP(netip.AddrFrom4([4]byte(b[12:16])), payload)
	case protoICMP: // RFC 792: type 3, destination unreachable
		if len(payload) < 8 || payload[0] != 3 {
			return reply{}, false
		}
		inner := payload[8:]
		protocol, segment, ok := payload4(inner)
		if !ok || protocol != protoTCP {
			return reply{}, false
		}
		return f.readError(netip.AddrFrom4([4]byte(inner[16:20])), segment, payload[1] == 3)
	}
	return reply{}, false
}

// payload4 is what an IPv4 packet carries, or the beginning of it.
func payload4(b []byte) (protocol byte, payload []byte, ok bool) {
	if len(b) < ipv4Len || b[0]>>4 != 4 {
		return 0, nil, false
	}
	n := int(b[0]&0xf) * 4
	if n < ipv4Len || n > len(b) {
		return 0, nil, false
	}
	return b[9], b[n:], true
}

// read6 knows no extension headers: what answers a bare SYN has none.
func (f *frames) read6(b []byte) (r reply, ok bool) {
	if len(b) < ipv6Len {
		return reply{}, false
	}
	switch payload := b[ipv6Len:]; b[6] {
	case protoTCP:
		return f.readTCP(netip.AddrFrom16([16]byte(b[8:24])), payload)
	case protoICMPv6: // RFC 4443: type 1, destination unreachable; code 4, the port
		if len(payload) < 8 || payload[0] != 1 {
			return reply{}, false
		}
		inner := payload[8:]
		if len(inner) < ipv6Len || inner[0]>>4 != 6 || inner[6] != protoTCP {
			return reply{}, false
		}
		return f.readError(netip.AddrFrom16([16]byte(inner[24:40])), inner[ipv6Len:], payload[1] == 4)
	}
	return reply{}, false
}

// readTCP reads a segment that a place sent.
func (f *frames) readTCP(from netip.Addr, b []byte) (r reply, ok bool) {
	if len(b) < 20 {
		return reply{}, false
	}
	r.from = netip.AddrPortFrom(from, binary.BigEndian.Uint16(b))
	switch flags := b[13]; {
	case flags&(flagSYN|flagACK|flagRST) == flagSYN|flagACK:
		r.state = Open
	case flags&(flagRST|flagACK) == flagRST|flagACK:
		r.state = Refused
	default:
		return reply{}, false
	}
	seq, n := f.cookie(r.from)
	ok = binary.BigEndian.Uint32(b[8:]) == seq+1 && binary.BigEndian.Uint16(b[2:]) == f.of(n)
	return r, ok
}

// readError reads the beginning of a SYN of ours that an ICMP error brings back:
// 8 bytes at least, which are the ports and the sequence number.
func (f *frames) readError(to netip.Addr, b []byte, port bool) (r reply, ok bool) {
	if len(b) < 8 {
		return reply{}, false
	}
	r = reply{from: netip.AddrPortFrom(to, binary.BigEndian.Uint16(b[2:])), state: Unreachable, icmp: true}
	if port {
		r.state = Refused
	}
	seq, n := f.cookie(r.from)
	return r, binary.BigEndian.Uint32(b[4:]) == seq && binary.BigEndian.Uint16(b) == f.of(n)
}
