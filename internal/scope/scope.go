// Package scope says what may be looked at, and by whose authority.
// It never looks at anything itself; the zero Scope touches nothing.
package scope

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"go4.org/netipx"
)

// Why an address is refused. Every error of a Checker wraps one of these.
var (
	ErrNoScope  = errors.New("no scope permits it")
	ErrExpired  = errors.New("the scope has expired")
	ErrOutside  = errors.New("outside the scope")
	ErrExcluded = errors.New("excluded")
	ErrSpecial  = errors.New("never touched")
)

// Scope is the permission to look. Its Checker decides; nothing else does.
type Scope struct {
	Name      string
	Authority string    // who permits it, and where that is written
	Contact   string    // where a complaint reaches the one who looks: mailto:, https: or tel:
	Expires   time.Time // after this nothing is allowed
	Include   []netip.Prefix
	Exclude   []netip.Prefix
	Ports     []uint16 // ports to look at where a target names none
	Rate      float64  // connections a second over everything
	// PerNetworkRate is connections a second to one IPv4 /24 or IPv6 /48.
	PerNetworkRate float64
	Prove          bool // powers may be proven (see package probe)

	// Local permits loopback and private addresses (RFC 1918, RFC 4193) where
	// there is no Include. An Include is the whole permission, for them too.
	Local bool

	own []netip.Addr // see Machine
}

// Machine is the scope that permits exactly addrs, the addresses of this
// machine, whatever kind they are: a link-local address keeps its zone. It
// does not expire.
func Machine(addrs []netip.Addr) Scope {
	return Scope{Name: "this machine", Authority: "this machine", own: slices.Clone(addrs)}
}

// Allows returns nil when addr may be looked at. It compiles the scope anew
// every time; whoever asks often keeps the Checker.
func (s *Scope) Allows(addr netip.Addr, now time.Time) error {
	return s.Checker().Allows(addr, now)
}

// Checker is a Scope made ready to be asked about many addresses: a question
// costs O(log n) of inclusions and exclusions. It does not change, and serves
// any number of goroutines. A nil or zero Checker allows nothing.
type Checker struct {
	// Scope is what the Checker was made from; changing it here has no effect.
	Scope Scope

	lacks string // what an Include needs and does not have
	own   map[netip.Addr]bool
	// Sorted and disjoint.
	known   []netipx.IPRange // what a target may name: permitted or special
	allowed []netipx.IPRange // permitted, not special, not excluded
	exclude []netipx.IPRange
}

// Checker compiles the scope as it is now.
func (s *Scope) Checker() *Checker {
	c := &Checker{}
	if s == nil {
		return c
	}
	c.Scope = *s
	var base, own, exclude netipx.IPSetBuilder
	switch {
	case s.own != nil:
		c.own = make(map[netip.Addr]bool, len(s.own))
		for _, a := range s.own {
			a = a.Unmap()
			c.own[a] = true
			if a.IsValid() && a.Zone() == "" { // a set of addresses has no zones
				own.Add(a)
			}
		}
	case len(s.Include) > 0:
		switch {
		case s.Authority == "":
			c.lacks = "authority"
		case s.Contact == "":
			c.lacks = "contact"
		case s.Expires.IsZero():
			c.lacks = "date of expiry"
		default:
			addPrefixes(&base, s.Include)
		}
	case s.Local:
		addPrefixes(&base, local)
	}
	addPrefixes(&exclude, s.Exclude)
	baseSet, ownSet, excludeSet := set(&base), set(&own), set(&exclude)

	var known, allowed netipx.IPSetBuilder
	known.AddSet(baseSet)
	known.AddSet(specials)
	known.AddSet(ownSet)
	c.known = set(&known).Ranges()

	allowed.AddSet(baseSet)
	allowed.RemoveSet(specials)
	allowed.AddSet(ownSet)
	allowed.RemoveSet(excludeSet)
	c.allowed = set(&allowed).Ranges()
	c.exclude = excludeSet.Ranges()
	return c
}

// set is what b has gathered. Its only error is an invalid range, and none is
// put in here; going on without an exclusion would be worse than stopping.
func set(b *netipx.IPSetBuilder) *netipx.IPSet {
	s, err := b.IPSet()
	if err != nil {
		panic(err)
	}
	return s
}

func addPrefixes(b *netipx.IPSetBuilder, prefixes []netip.Prefix) {
	for _, p := range prefixes {
		if p = unmap(p); p.IsValid() {
			b.AddPrefix(p)
		}
	}
}

// unmap turns a prefix of IPv4-mapped IPv6 addresses into the IPv4 one.
func unmap(p netip.Prefix) netip.Prefix {
	if p.Addr().Is4In6() && p.Bits() >= 96 {
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	return p.Masked()
}

// Allows returns nil when addr may be looked at now, and otherwise an error
// that says why not and wraps one of the errors above. An IPv4-mapped address
// is judged as the IPv4 address it is, and a zone is ignored except on an
// address of this machine (see Machine).
func (c *Checker) Allows(addr netip.Addr, now time.Time) error {
	addr = addr.Unmap()
	switch {
	case c == nil || !addr.IsValid():
		return fmt.Errorf("%s: %w", addr, ErrNoScope)
	case c.own[addr]:
		if holds(c.exclude, addr.WithZone("")) {
			return c.refuse(addr, now)
		}
		return nil
	case addr.Zone() != "":
		if c.own != nil {
			return c.refuse(addr, now) // the same address on another link is another machine
		}
		addr = addr.WithZone("")
	}
	if holds(c.allowed, addr) {
		return c.expired(addr, now)
	}
	return c.refuse(addr, now)
}

// CheckRange returns nil when somebody may name r as a target: none of it lies
// outside the scope, and some of it may be looked at now. What is special or
// excluded inside a larger range is no error; Cut leaves it out.
func (c *Checker) CheckRange(r netipx.IPRange, now time.Time) error {
	switch {
	case c == nil || !r.IsValid():
		return fmt.Errorf("%s: %w", r, ErrNoScope)
	case r.From() == r.To():
		return c.Allows(r.From(), now)
	}
	i, ok := search(c.known, r.From())
	if !ok {
		return c.refuse(r.From(), now)
	}
	if last := c.known[i].To(); last.Less(r.To()) {
		return c.refuse(last.Next(), now)
	}
	parts := c.Cut(r)
	if len(parts) == 0 {
		return c.refuse(r.From(), now)
	}
	return c.expired(parts[0].From(), now)
}

// Cut returns the parts of r that may be looked at while the scope has not
// expired, in ascending order.
func (c *Checker) Cut(r netipx.IPRange) []netipx.IPRange {
	if c == nil || !r.IsValid() {
		return nil
	}
	var parts []netipx.IPRange
	i, _ := search(c.allowed, r.From())
	for ; i < len(c.allowed) && !r.To().Less(c.allowed[i].From()); i++ {
		from, to := c.allowed[i].From(), c.allowed[i].To()
		if from.Less(r.From()) {
			from = r.From()
		}
		if r.To().Less(to) {
			to = r.To()
		}
		parts = append(parts, netipx.IPRangeFrom(from, to))
	}
	return parts
}

func (c *Checker) expired(addr netip.Addr, now time.Time) error {
	if c.Scope.Expires.IsZero() || !now.After(c.Scope.Expires) {
		return nil
	}
	return fmt.Errorf("%s: %w (%s)", addr, ErrExpired, c.Scope.Expires.UTC().Format(time.RFC3339))
}

// refuse says why addr, which is not in the allowed set, is refused.
func (c *Checker) refuse(addr netip.Addr, now time.Time) error {
	bare := addr.WithZone("")
	if specials.Contains(bare) && !c.own[addr] {
		for _, s := range special {
			if s.prefix.Contains(bare) {
				return fmt.Errorf("%s is in %s (%s), which is %w", addr, s.prefix, s.name, ErrSpecial)
			}
		}
	}
	if err := c.expired(addr, now); err != nil {
		return err
	}
	if i, ok := search(c.exclude, bare); ok {
		return fmt.Errorf("%s is in %s, which is %w", addr, show(c.exclude[i]), ErrExcluded)
	}
	switch {
	case c.lacks != "":
		return fmt.Errorf("%s: %w: it names no %s", addr, ErrNoScope, c.lacks)
	case c.own != nil || len(c.Scope.Include) > 0:
		return fmt.Errorf("%s is %w %q", addr, ErrOutside, c.Scope.Name)
	case c.Scope.Local:
		return fmt.Errorf("%s is a public address: %w", addr, ErrNoScope)
	}
	return fmt.Errorf("%s: %w", addr, ErrNoScope)
}

func show(r netipx.IPRange) string {
	if p, ok := r.Prefix(); ok {
		return p.String()
	}
	return r.String()
}

// search finds the range that holds addr, or else the place of the first range
// after it, in ranges sorted and disjoint.
func search(ranges []netipx.IPRange, addr netip.Addr) (int, bool) {
	i, _ := slices.BinarySearchFunc(ranges, addr, func(r netipx.IPRange, a netip.Addr) int {
		return r.To().Compare(a)
	})
	return i, i < len(ranges) && ranges[i].Contains(addr)
}

func holds(ranges []netipx.IPRange, addr netip.Addr) bool {
	_, ok := search(ranges, addr)
	return ok
}
