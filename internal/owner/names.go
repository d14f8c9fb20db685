package owner

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"time"
)

// Resolver is what reverse DNS is asked by; net.Resolver is one.
type Resolver interface {
	LookupAddr(ctx context.Context, addr string) ([]string, error)
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

var _ Resolver = (*net.Resolver)(nil)

// Names asks reverse DNS for the names of addresses, each address once in an
// hour, and checks whether a name leads back to it. The resolver, and the
// servers that it asks, learn which addresses are looked at.
type Names struct {
	resolver Resolver
	timeout  time.Duration
	turn     chan struct{} // bounds how many are asked at once
	memo     memo[netip.Addr, []Claim]
}

// NewNames returns Names that ask the resolver, at most so many at once.
func NewNames(r Resolver, atOnce int) *Names {
	return &Names{
		resolver: r, timeout: 2 * time.Second, turn: make(chan struct{}, atOnce),
		memo: memo[netip.Addr, []Claim]{most: 1 << 16, keep: time.Hour},
	}
}

func (n *Names) claims(ctx context.Context, addr netip.Addr) []Claim {
	if !addr.IsValid() || addr.IsLoopback() {
		return nil
	}
	claims, _ := n.memo.get(ctx, addr, func() ([]Claim, bool) {
		select {
		case n.turn <- struct{}{}:
			defer func() { <-n.turn }()
		case <-ctx.Done():
			return nil, false
		}
		asking, cancel := context.WithTimeout(ctx, n.timeout)
		defer cancel()
		claims, err := n.ask(asking, addr)
		if gone, ok := errors.AsType[*net.DNSError](err); ok && gone.IsNotFound {
			err = nil // it has no name, which is an answer
		}
		// A resolver that is slow to answer once would be so the next time.
		return claims, err == nil || ctx.Err() == nil
	})
	return claims
}

func (n *Names) ask(ctx context.Context, addr netip.Addr) ([]Claim, error) {
	names, err := n.resolver.LookupAddr(ctx, addr.String())
	if err != nil {
		return nil, err
	}
	source := "reverse DNS of " + time.Now().UTC().Format(time.DateOnly)
	var claims []Claim
	for _, name := range names[:min(len(names), maxHosts)] {
		if name = hostname(name); name == "" {
			continue
		}
		c := Claim{Hostname, name, source, reverse}
		back, err := n.resolver.LookupNetIP(ctx, "ip", name)
		if err == nil && slices.ContainsFunc(back, func(b netip.Addr) bool { return b.Unmap() == addr }) {
			c.Source, c.Confidence = source+", leads back", confirmed
		}
		claims = append(claims, c)
	}
	return claims, nil
}
