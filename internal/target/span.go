package target

import (
	"cmp"
	"encoding/binary"
	"math/bits"
	"net/netip"
	"slices"

	"go4.org/netipx"
)

// number is an address as a 128-bit number, IPv4 in its IPv4-mapped place. It
// needs no pointer, unlike netip.Addr, and counts.
type number struct{ hi, lo uint64 }

func numberOf(a netip.Addr) number {
	b := a.As16()
	return number{binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])}
}

func (n number) addr() netip.Addr {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], n.hi)
	binary.BigEndian.PutUint64(b[8:], n.lo)
	return netip.AddrFrom16(b).Unmap()
}

func (n number) plus(d uint64) number {
	lo, carry := bits.Add64(n.lo, d, 0)
	return number{n.hi + carry, lo}
}

// minus is how far n lies above m, modulo 2^128.
func (n number) minus(m number) number {
	lo, borrow := bits.Sub64(n.lo, m.lo, 0)
	hi, _ := bits.Sub64(n.hi, m.hi, borrow)
	return number{hi, lo}
}

func (n number) next() number { return n.plus(1) }

func (n number) prior() number {
	lo, borrow := bits.Sub64(n.lo, 1, 0)
	return number{n.hi - borrow, lo}
}

func (n number) compare(m number) int {
	return cmp.Or(cmp.Compare(n.hi, m.hi), cmp.Compare(n.lo, m.lo))
}

func (n number) less(m number) bool { return n.compare(m) < 0 }

// span is the addresses from first to last, and which text named them.
type span struct {
	first, last number
	text        uint32
}

func spanOf(r netipx.IPRange, text uint32) span {
	return span{numberOf(r.From()), numberOf(r.To()), text}
}

// mapped is the place of IPv4 among the numbers.
var mapped = netipx.RangeOfPrefix(netip.MustParsePrefix("::ffff:0:0/96"))

// appendSpans appends r to spans. An IPv6 range that goes over the place of
// IPv4 goes round it: those addresses are judged as IPv4, so it has none there.
func appendSpans(spans []span, r netipx.IPRange, text uint32) []span {
	if r.From().Is4() || !r.Overlaps(mapped) {
		return append(spans, spanOf(r, text))
	}
	if r.From().Less(mapped.From()) {
		spans = append(spans, spanOf(netipx.IPRangeFrom(r.From(), mapped.From().Prev()), text))
	}
	if mapped.To().Less(r.To()) {
		spans = append(spans, spanOf(netipx.IPRangeFrom(mapped.To().Next(), r.To()), text))
	}
	return spans
}

func (s span) ipRange() netipx.IPRange { return netipx.IPRangeFrom(s.first.addr(), s.last.addr()) }

// size is how many addresses s has; false when that does not fit.
func (s span) size() (uint64, bool) {
	lo, borrow := bits.Sub64(s.last.lo, s.first.lo, 0)
	hi := s.last.hi - s.first.hi - borrow
	return lo + 1, hi == 0 && lo+1 != 0
}

// merge sorts spans and makes them disjoint, in place. What two of them have in
// common stays with the one that begins first, or else was named first.
func merge(spans []span) []span {
	slices.SortStableFunc(spans, func(a, b span) int { return a.first.compare(b.first) })
	kept := spans[:0]
	for _, s := range spans {
		if n := len(kept); n > 0 {
			if end := kept[n-1].last; !end.less(s.last) {
				continue
			} else if !end.less(s.first) {
				s.first = end.next()
			}
		}
		kept = append(kept, s)
	}
	return kept
}

// split divides spans into what is not in cut and what is; both are sorted and
// disjoint, and so are the results.
func split(spans, cut []span) (rest, common []span) {
	if len(cut) == 0 {
		return spans, nil
	}
	i := 0
	for _, s := range spans {
		for i < len(cut) && cut[i].last.less(s.first) {
			i++
		}
		open := true // whether some of s is left
		for j := i; j < len(cut) && !s.last.less(cut[j].first); j++ {
			c := cut[j]
			if s.first.less(c.first) {
				rest = append(rest, span{s.first, c.first.prior(), s.text})
				s.first = c.first
			}
			if !c.last.less(s.last) {
				common = append(common, s)
				open = false
				break
			}
			common = append(common, span{s.first, c.last, s.text})
			s.first = c.last.next()
		}
		if open {
			rest = append(rest, s)
		}
	}
	return rest, common
}
