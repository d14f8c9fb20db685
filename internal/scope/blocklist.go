package scope

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"strings"

	"go4.org/netipx"
)

// maxMistakes is how many wrong lines one error lists.
const maxMistakes = 20

// maxLine bounds a line of a blocklist, in bytes.
const maxLine = 4096

// ParseRange reads an address, a network (10.0.0.0/8; bits set behind the mask
// do not matter) or a range (10.0.0.1-10.0.0.50, or 10.0.0.1-50 for short).
// IPv4-mapped IPv6 becomes IPv4; zones are refused.
func ParseRange(s string) (netipx.IPRange, error) {
	switch {
	case strings.Contains(s, "%"):
		return netipx.IPRange{}, fmt.Errorf("%q has a zone; write the address without it", s)
	case strings.Contains(s, "/"):
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return netipx.IPRange{}, fmt.Errorf("%q is no network", s)
		}
		return netipx.RangeOfPrefix(unmap(p)), nil
	}
	first, last, isRange := strings.Cut(s, "-")
	from, err := parseAddr(first)
	if err != nil {
		return netipx.IPRange{}, err
	}
	to := from
	if isRange {
		if to, err = parseLast(from, last); err != nil {
			return netipx.IPRange{}, err
		}
	}
	r := netipx.IPRangeFrom(from, to)
	if !r.IsValid() {
		return netipx.IPRange{}, fmt.Errorf("%q is no range: it must go from a lower to a higher address of one kind", s)
	}
	return r, nil
}

func parseAddr(s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("%q is no address", s)
	}
	return a.Unmap(), nil
}

// parseLast reads the end of a range that begins at from.
func parseLast(from netip.Addr, s string) (netip.Addr, error) {
	if n, err := strconv.ParseUint(s, 10, 8); err == nil && from.Is4() {
		a := from.As4()
		a[3] = byte(n)
		return netip.AddrFrom4(a), nil
	}
	return parseAddr(s)
}

// ParseBlocklist reads zmap's blocklist format: an address or network a line,
// with # before a comment. Ranges a-b are understood too. A host name is an
// error, since its addresses can change under a scan. All wrong lines, up to
// 20, are in the one error.
func ParseBlocklist(r io.Reader) ([]netip.Prefix, error) {
	var prefixes []netip.Prefix
	var mistakes []error
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 0, maxLine), maxLine)
	n := 0
	for lines.Scan() && len(mistakes) < maxMistakes {
		n++
		text, _, _ := strings.Cut(strings.TrimPrefix(lines.Text(), "\ufeff"), "#")
		text = strings.TrimSpace(text)
		if text == "" {
			continue
		}
		r, err := ParseRange(text)
		if err != nil {
			mistakes = append(mistakes, fmt.Errorf("line %d: %w (host names are not taken)", n, err))
			continue
		}
		prefixes = r.AppendPrefixes(prefixes)
	}
	if err := lines.Err(); err != nil {
		mistakes = append(mistakes, fmt.Errorf("line %d: %w", n+1, err))
	}
	if len(mistakes) > 0 {
		return nil, errors.Join(mistakes...)
	}
	return prefixes, nil
}
