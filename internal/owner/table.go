package owner

import (
	"bufio"
	"cmp"
	"compress/gzip"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// table holds ranges of addresses, each with a country or a
// network number: 12 bytes a range of IPv4, 36 to 40 of IPv6, and each
// network's name once. 412,000 and 103,000 ranges with 83,000 names are some
// 13 MB.
type table struct {
	v4    spans[uint32]
	v6    spans[wide]
	names map[uint32]string // of network numbers; nil for countries

	overlaps int // ranges that overlapped others
}

// wide is an IPv6 address as a number.
type wide struct{ hi, lo uint64 }

// spans are ranges sorted by their first address.
type spans[A uint32 | wide] struct {
	first, last []A
	value       []uint32
}

func (s *spans[A]) add(first, last A, value uint32) {
	s.first, s.last, s.value = append(s.first, first), append(s.last, last), append(s.value, value)
}

// find returns the value of the range that has a, 0 when none has.
func (s *spans[A]) find(a A, compare func(A, A) int) uint32 {
	i, found := slices.BinarySearchFunc(s.first, a, compare)
	if !found {
		i--
	}
	if i < 0 || compare(s.last[i], a) < 0 {
		return 0
	}
	return s.value[i]
}

// finish sorts what was added, takes overlaps out, and gives back memory that
// was taken too much. It returns how many ranges overlapped one before them.
func (s *spans[A]) finish(compare func(A, A) int, next, prev func(A) A) (overlaps int) {
	if !slices.IsSortedFunc(s.first, compare) {
		order := make([]int, len(s.first))
		for i := range order {
			order[i] = i
		}
		slices.SortStableFunc(order, func(i, j int) int { return compare(s.first[i], s.first[j]) })
		var t spans[A]
		for _, i := range order {
			t.add(s.first[i], s.last[i], s.value[i])
		}
		*s = t
	}
	for i := 1; i < len(s.first); i++ {
		if compare(s.last[i-1], s.first[i]) >= 0 {
			overlaps++
		}
	}
	if overlaps > 0 {
		s.flatten(compare, next, prev)
	}
	s.first, s.last, s.value = slices.Clone(s.first), slices.Clone(s.last), slices.Clone(s.value)
	return overlaps
}

// flatten gives each address that several ranges have to the one that begins
// last, which is the narrower where one lies in the other.
func (s *spans[A]) flatten(compare func(A, A) int, next, prev func(A) A) {
	var flat spans[A]
	var open []int // ranges that hold the address at, each beginning after the one before
	var at A
	// closeTop gives the innermost range what is left of it.
	closeTop := func() {
		top := open[len(open)-1]
		open = open[:len(open)-1]
		if compare(at, s.last[top]) > 0 {
			return // one within it ended after it
		}
		flat.add(at, s.last[top], s.value[top])
		if at = next(s.last[top]); compare(at, s.last[top]) < 0 {
			open = open[:0] // that was the last address there is
		}
	}
	for i := range s.first {
		for len(open) > 0 && compare(s.last[open[len(open)-1]], s.first[i]) < 0 {
			closeTop()
		}
		if len(open) > 0 && compare(at, s.first[i]) < 0 {
			flat.add(at, prev(s.first[i]), s.value[open[len(open)-1]])
		}
		open, at = append(open, i), s.first[i]
	}
	for len(open) > 0 {
		closeTop()
	}
	*s = flat
}

func next32(a uint32) uint32 { return a + 1 }
func prev32(a uint32) uint32 { return a - 1 }

func nextWide(a wide) wide {
	lo, carry := bits.Add64(a.lo, 1, 0)
	return wide{a.hi + carry, lo}
}

func prevWide(a wide) wide {
	lo, borrow := bits.Sub64(a.lo, 1, 0)
	return wide{a.hi - borrow, lo}
}

func compareWide(a, b wide) int {
	return cmp.Or(cmp.Compare(a.hi, b.hi), cmp.Compare(a.lo, b.lo))
}

func (t *table) find(a netip.Addr) place {
	var value uint32
	if a.Is4() {
		value = t.v4.find(narrow(a), cmp.Compare[uint32])
	} else {
		value = t.v6.find(widen(a), compareWide)
	}
	switch {
	case value == 0:
		return place{}
	case t.names == nil:
		return place{country: string([]byte{byte(value >> 8), byte(value)})}
	}
	return place{asn: value, name: t.names[value]}
}

func narrow(a netip.Addr) uint32 {
	b := a.As4()
	return uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
}

func widen(a netip.Addr) wide {
	b := a.As16()
	var w wide
	for i := range 8 {
		w.hi, w.lo = w.hi<<8|uint64(b[i]), w.lo<<8|uint64(b[8+i])
	}
	return w
}

// maxRanges bounds a table: more than four times what all networks announce today.
const maxRanges = 8 << 20

func (d *Database) openTable(r io.Reader, compressed bool) error {
	if compressed {
		z, err := gzip.NewReader(bufio.NewReaderSize(r, 64<<10))
		if err != nil {
			return err
		}
		defer z.Close()
		r = z
	}
	limited := &io.LimitedReader{R: r, N: maxUnpacked}
	t, err := parseTable(limited)
	if err != nil {
		return err
	}
	if limited.N == 0 {
		return fmt.Errorf("longer than %d bytes", maxUnpacked)
	}
	if t.overlaps > 0 {
		d.Warning = fmt.Sprintf("%d of its ranges overlap others: the one that begins later counts", t.overlaps)
	}
	d.find, d.Count = t.find, len(t.v4.first)+len(t.v6.first)
	d.Countries, d.Networks = t.names == nil, t.names != nil
	return nil
}

// parseTable reads lines of start,end,country or start,end,number,name. Start
// and end are addresses, or the numbers that addresses are. A line that makes no
// sense is an error: half a database would place hosts wrongly without a word.
func parseTable(r io.Reader) (*table, error) {
	lines := csv.NewReader(bufio.NewReaderSize(r, 256<<10))
	lines.ReuseRecord, lines.FieldsPerRecord, lines.LazyQuotes = true, -1, true
	t := new(table)
	for n := 0; ; n++ {
		fields, err := lines.Read()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, err
		}
		line, _ := lines.FieldPos(0)
		if n == 0 && len(fields) > 2 && strings.ContainsAny(fields[0], "_ ") {
			n-- // a line of column names
			continue
		}
		if n == maxRanges {
			return nil, fmt.Errorf("more than %d lines", maxRanges)
		}
		if err := t.add(fields, n == 0); err != nil {
			return nil, fmt.Errorf("line %d: %w", line, err)
		}
	}
	if len(t.v4.first)+len(t.v6.first) == 0 {
		return nil, errors.New("no ranges in it")
	}
	t.overlaps = t.v4.finish(cmp.Compare[uint32], next32, prev32) + t.v6.finish(compareWide, nextWide, prevWide)
	return t, nil
}

func (t *table) add(fields []string, first bool) error {
	if len(fields) < 3 {
		return errors.New("want start,end,country or start,end,number,name")
	}
	if first && country(fields[2]) == "" {
		t.names = make(map[uint32]string)
	}
	value, err := t.value(fields)
	if err != nil {
		return err
	}
	from, err := parsePoint(fields[0])
	if err != nil {
		return err
	}
	to, err := parsePoint(fields[1])
	switch {
	case err != nil:
		return err
	case from.v4 != to.v4 || compareWide(from.wide, to.wide) > 0:
		return fmt.Errorf("%.40q to %.40q is no range", fields[0], fields[1])
	case value == 0: // a range that is nobody's
	case from.v4:
		t.v4.add(uint32(from.lo), uint32(to.lo), value)
	default:
		t.v6.add(from.wide, to.wide, value)
	}
	return nil
}

// value is the third column as a number: a network's, or the letters of a country.
func (t *table) value(fields []string) (uint32, error) {
	if t.names == nil {
		if len(fields[2]) != 2 {
			return 0, fmt.Errorf("%.40q is no country", fields[2])
		}
		c := country(fields[2])
		if c == "" {
			return 0, nil
		}
		return uint32(c[0])<<8 | uint32(c[1]), nil
	}
	n, err := strconv.ParseUint(strings.TrimPrefix(fields[2], "AS"), 10, 32)
	if err != nil {
		return 0, fmt.Errorf("%.40q is no network number", fields[2])
	}
	if _, ok := t.names[uint32(n)]; !ok && len(fields) > 3 {
		// A copy: the field is a piece of the whole line.
		t.names[uint32(n)] = strings.Clone(clip(fields[3], maxName))
	}
	return uint32(n), nil
}

// point is an address as a number, and which of the two kinds it is.
type point struct {
	wide
	v4 bool
}

func parsePoint(s string) (point, error) {
	if strings.ContainsAny(s, ".:") {
		a, err := netip.ParseAddr(s)
		if err != nil || a.Zone() != "" {
			return point{}, fmt.Errorf("%.40q is no address", s)
		}
		if a = a.Unmap(); a.Is4() {
			return point{wide{0, uint64(narrow(a))}, true}, nil
		}
		return point{widen(a), false}, nil
	}
	if s == "" || len(s) > 39 {
		return point{}, fmt.Errorf("%.40q is no address", s)
	}
	var w wide
	for i := range len(s) {
		digit := uint64(s[i] - '0')
		if digit > 9 {
			return point{}, fmt.Errorf("%.40q is no address", s)
		}
		over, hi := bits.Mul64(w.hi, 10)
		carry, lo := bits.Mul64(w.lo, 10)
		lo, c := bits.Add64(lo, digit, 0)
		hi, c = bits.Add64(hi, carry, c)
		if over != 0 || c != 0 {
			return point{}, fmt.Errorf("%.40q is no address", s)
		}
		w = wide{hi, lo}
	}
	// IPv6 addresses below 2^32 are of no network.
	return point{w, w.hi == 0 && w.lo < 1<<32}, nil
}
