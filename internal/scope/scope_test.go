package scope_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"gatehouse/internal/scope"
)

var now = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

func prefixes(t testing.TB, s string) (p []netip.Prefix) {
	t.Helper()
	for _, f := range strings.Fields(s) {
		r, err := scope.ParseRange(f)
		if err != nil {
			t.Fatal(err)
		}
		p = r.AppendPrefixes(p)
	}
	return p
}

func permitted(t testing.TB, include, exclude string) scope.Scope {
	t.Helper()
	return scope.Scope{
		Name: "test", Authority: "the owner", Contact: "mailto:a@example.org", Expires: now.Add(time.Hour),
		Include: prefixes(t, include), Exclude: prefixes(t, exclude),
	}
}

func TestAllows(t *testing.T) {
	local := scope.Scope{Local: true}
	world := permitted(t, "0.0.0.0/0 ::/0", "9.9.9.0/24 2620:fe::/48 ::ffff:4.4.4.0/120 10.9.0.0-10.9.0.6")
	ten := permitted(t, "10.0.0.0/8", "")
	ten.Local = true
	expired := permitted(t, "8.8.8.0/24", "")
	expired.Expires = now.Add(-time.Second)
	nobody := permitted(t, "8.8.8.0/24", "")
	nobody.Authority = ""
	forever := permitted(t, "8.8.8.0/24", "")
	forever.Expires = time.Time{}
	own := scope.Machine([]netip.Addr{
		netip.MustParseAddr("169.254.3.4"), netip.MustParseAddr("100.64.0.9"),
		netip.MustParseAddr("fe80::1%eth0"), netip.MustParseAddr("::ffff:8.8.4.4"),
	})

	for _, tc := range []struct {
		name  string
		scope scope.Scope
		want  error
		addrs string
	}{
		{"zero", scope.Scope{}, scope.ErrNoScope, "127.0.0.1 ::1 10.0.0.1 8.8.8.8 2606:4700::1"},
		{"zero", scope.Scope{}, scope.ErrSpecial, "224.0.0.1"},
		{"local", local, nil, "127.0.0.1 127.255.255.255 ::1 10.0.0.0 10.255.255.255 172.16.0.1 172.31.255.255 192.168.0.1 fc00:: fdff::1 ::ffff:10.0.0.1 fd00::1%eth0"},
		{"local", local, scope.ErrNoScope, "8.8.8.8 126.255.255.255 128.0.0.0 172.15.255.255 172.32.0.0 2606:4700::1 ::ffff:8.8.8.8"},
		{"local", local, scope.ErrSpecial, "169.254.169.254 100.64.0.1 0.0.0.0 fe80::1 fe80::1%eth0 fbff::1"},
		{"world", world, nil, "1.1.1.1 8.8.8.8 127.0.0.1 10.0.0.1 100.63.255.255 100.128.0.0 2606:4700::1 2001:200::1 2001:4860::8888 ::1 fd00::1"},
		{"world", world, scope.ErrExcluded, "9.9.9.9 2620:fe::9 ::ffff:9.9.9.9 4.4.4.4 10.9.0.6"},
		{"world", world, scope.ErrSpecial, `0.0.0.0 0.1.2.3 100.64.0.0 100.127.255.255 169.254.169.254 192.0.0.1 192.0.2.2 192.31.196.1
			192.52.193.1 192.88.99.1 192.175.48.1 198.18.0.1 198.19.255.255 198.51.100.1 203.0.113.1 224.0.0.1 239.255.255.255
			240.0.0.1 255.255.255.255 :: ::2 ::7f00:1 64:ff9b::808:808 64:ff9b:1::1 100::1 100:0:0:1::1 2001::1 2001:2::1 2001:3::1 2001:4:112::1
			2001:10::1 2001:20::1 2001:30::1 2001:1ff::1 2001:db8::1 2002:808:808::1 2620:4f:8000::1 3fff::1 4000::1 5f00::1
			fe80::1 febf::1 fec0::1 ff02::1 ::ffff:224.0.0.1 ::ffff:192.0.2.2 8000::1 ::ffff:0:8.8.8.8`},
		{"include bounds local", ten, nil, "10.0.0.1"},
		{"include bounds local", ten, scope.ErrOutside, "127.0.0.1 192.168.0.1 8.8.8.8 ::1"},
		{"expired", expired, scope.ErrExpired, "8.8.8.8 1.1.1.1 127.0.0.1"},
		{"expired", expired, scope.ErrSpecial, "192.0.2.1"},
		{"no authority", nobody, scope.ErrNoScope, "8.8.8.8"},
		{"no expiry", forever, scope.ErrNoScope, "8.8.8.8"},
		{"machine", own, nil, "169.254.3.4 100.64.0.9 fe80::1%eth0 8.8.4.4 ::ffff:169.254.3.4"},
		{"machine", own, scope.ErrSpecial, "169.254.3.5 fe80::1 fe80::1%eth1 fe80::2%eth0"},
		{"machine", own, scope.ErrOutside, "127.0.0.1 8.8.4.5"},
		{"no machine", scope.Machine(nil), scope.ErrNoScope, "127.0.0.1"},
	} {
		for _, s := range strings.Fields(tc.addrs) {
			err := tc.scope.Allows(netip.MustParseAddr(s), now)
			if !errors.Is(err, tc.want) {
				t.Errorf("%s: %s: got %v, want %v", tc.name, s, err, tc.want)
			}
		}
	}
	for _, c := range []*scope.Checker{nil, {}, (*scope.Scope)(nil).Checker()} {
		if err := c.Allows(netip.MustParseAddr("127.0.0.1"), now); !errors.Is(err, scope.ErrNoScope) {
			t.Errorf("zero checker: %v", err)
		}
	}
	if err := local.Allows(netip.Addr{}, now); err == nil {
		t.Error("the zero address is allowed")
	}
}

func TestExclusionsHoldForThisMachine(t *testing.T) {
	s := scope.Machine([]netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")})
	s.Exclude = prefixes(t, "10.0.0.2")
	if err := s.Allows(netip.MustParseAddr("10.0.0.2"), now); !errors.Is(err, scope.ErrExcluded) {
		t.Error(err)
	}
	if err := s.Allows(netip.MustParseAddr("10.0.0.1"), now.AddDate(50, 0, 0)); err != nil {
		t.Error(err)
	}
}

func TestRefusalsSayWhy(t *testing.T) {
	s := permitted(t, "0.0.0.0/0", "9.9.9.0/24")
	late := now.Add(2 * time.Hour)
	for _, tc := range []struct {
		scope scope.Scope
		addr  string
		now   time.Time
		want  string
	}{
		{s, "192.0.2.2", now, "192.0.2.2 is in 192.0.2.0/24 (TEST-NET-1, RFC 5737), which is never touched"},
		{s, "9.9.9.9", now, "9.9.9.9 is in 9.9.9.0/24, which is excluded"},
		{s, "2606::1", now, `2606::1 is outside the scope "test"`},
		{s, "1.1.1.1", late, "1.1.1.1: the scope has expired (2026-11-24T13:00:00Z)"},
		{scope.Scope{Local: true}, "1.1.1.1", now, "1.1.1.1 is a public address: no scope permits it"},
		{scope.Scope{}, "10.0.0.1", now, "10.0.0.1: no scope permits it"},
		{scope.Scope{Include: s.Include}, "1.1.1.1", now, "1.1.1.1: no scope permits it: it names no authority"},
	} {
		if err := tc.scope.Allows(netip.MustParseAddr(tc.addr), tc.now); err == nil || err.Error() != tc.want {
			t.Errorf("got  %v\nwant %s", err, tc.want)
		}
	}
}

func TestCheckRange(t *testing.T) {
	local := scope.Scope{Local: true}
	some := permitted(t, "8.8.0.0/16 10.0.0.0/8", "8.8.8.0/24")
	for _, tc := range []struct {
		scope scope.Scope
		r     string
		want  error
		parts string
	}{
		{local, "10.0.0.0/8", nil, "10.0.0.0-10.255.255.255"},
		{local, "127.0.0.0/8", nil, "127.0.0.0-127.255.255.255"},
		{local, "10.255.255.0-11.0.0.5", scope.ErrNoScope, "10.255.255.0-10.255.255.255"},
		{local, "9.255.255.0-10.0.0.5", scope.ErrNoScope, "10.0.0.0-10.0.0.5"},
		{local, "169.254.0.0/16", scope.ErrSpecial, ""},
		{local, "0.0.0.0/0", scope.ErrNoScope, "10.0.0.0-10.255.255.255 127.0.0.0-127.255.255.255 172.16.0.0-172.31.255.255 192.168.0.0-192.168.255.255"},
		{local, "::/0", scope.ErrNoScope, "::1-::1 fc00::-fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"},
		{local, "::/64", nil, "::1-::1"},
		{some, "8.8.7.0-8.8.9.255", nil, "8.8.7.0-8.8.7.255 8.8.9.0-8.8.9.255"},
		{some, "8.8.8.0/25", scope.ErrExcluded, ""},
		{some, "8.8.0.0/15", scope.ErrOutside, "8.8.0.0-8.8.7.255 8.8.9.0-8.8.255.255"},
		{some, "8.8.8.8", scope.ErrExcluded, ""},
		{some, "8.8.9.8", nil, "8.8.9.8-8.8.9.8"},
	} {
		r, err := scope.ParseRange(tc.r)
		if err != nil {
			t.Fatal(err)
		}
		c := tc.scope.Checker()
		if err := c.CheckRange(r, now); !errors.Is(err, tc.want) {
			t.Errorf("%s: got %v, want %v", tc.r, err, tc.want)
		}
		var parts []string
		for _, p := range c.Cut(r) {
			parts = append(parts, p.String())
		}
		if got := strings.Join(parts, " "); got != tc.parts {
			t.Errorf("%s: parts %s, want %s", tc.r, got, tc.parts)
		}
		late := now.Add(2 * time.Hour)
		if err := c.CheckRange(r, late); err == nil && !tc.scope.Local {
			t.Errorf("%s: allowed after expiry", tc.r)
		}
	}
	if err := (*scope.Checker)(nil).CheckRange(prefixRange(t, "10.0.0.0/8"), now); !errors.Is(err, scope.ErrNoScope) {
		t.Error(err)
	}
}

// TestCheckerAgreesWithPlainRules holds the compiled checker against the rules
// as one would write them down, on random scopes over a small space.
func TestCheckerAgreesWithPlainRules(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	random := func() netip.Prefix {
		a := netip.AddrFrom4([4]byte{192, 0, byte(rnd.IntN(4)), byte(rnd.IntN(256))})
		return netip.PrefixFrom(a, 20+rnd.IntN(13)).Masked()
	}
	has := func(ps []netip.Prefix, a netip.Addr) bool {
		return slices.ContainsFunc(ps, func(p netip.Prefix) bool { return p.Contains(a) })
	}
	special := prefixes(t, "192.0.0.0/24 192.0.2.0/24")
	for range 300 {
		s := permitted(t, "203.0.112.0", "")
		for range rnd.IntN(5) {
			s.Include = append(s.Include, random())
		}
		for range rnd.IntN(9) {
			s.Exclude = append(s.Exclude, random())
		}
		c := s.Checker()
		for range 200 {
			a := netip.AddrFrom4([4]byte{192, 0, byte(rnd.IntN(4)), byte(rnd.IntN(256))})
			want := error(nil)
			switch {
			case has(special, a):
				want = scope.ErrSpecial
			case has(s.Exclude, a):
				want = scope.ErrExcluded
			case !has(s.Include, a):
				want = scope.ErrOutside
			}
			if err := c.Allows(a, now); !errors.Is(err, want) {
				t.Fatalf("%s in %v without %v: got %v, want %v", a, s.Include, s.Exclude, err, want)
			}
		}
	}
}

func BenchmarkAllows(b *testing.B) {
	for _, n := range []int{0, 100_000} {
		s := permitted(b, "0.0.0.0/0", "")
		for i := range n {
			s.Exclude = append(s.Exclude, netip.PrefixFrom(netip.AddrFrom4([4]byte{11 + byte(i>>14), byte(i >> 6), byte(i << 2), 7}), 32))
		}
		c := s.Checker()
		b.Run(fmt.Sprintf("exclusions=%d", n), func(b *testing.B) {
			b.ReportAllocs()
			var i uint32
			for b.Loop() {
				i += 2654435761
				_ = c.Allows(netip.AddrFrom4([4]byte{11, byte(i >> 24), byte(i >> 16), 8}), now)
			}
		})
	}
}
