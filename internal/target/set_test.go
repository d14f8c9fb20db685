package target_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"gatehouse/internal/scope"
	"gatehouse/internal/target"
)

var now = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

// names is a Resolver of a fixed table.
type names map[string]string

func (n names) LookupNetIP(_ context.Context, network, host string) (addrs []netip.Addr, err error) {
	if _, ok := n[host]; !ok || network != "ip" {
		return nil, errors.New("no such host")
	}
	for _, s := range strings.Fields(n[host]) {
		addrs = append(addrs, netip.MustParseAddr(s))
	}
	return addrs, nil
}

var hosts = names{
	"a.example":     "10.0.0.2 10.0.0.1 fd00::1",
	"b.example":     "10.0.0.1",
	"10-0.example":  "10.0.0.1",
	"out.example":   "10.0.0.1 8.8.8.8",
	"meta.example":  "169.254.169.254",
	"empty.example": "",
	"mapped":        "::ffff:10.0.0.9",
}

func options(s scope.Scope, ports ...uint16) target.Options {
	return target.Options{
		Scope: s.Checker(), Now: func() time.Time { return now }, Ports: ports, Resolver: hosts,
	}
}

func permit(t testing.TB, include, exclude string) scope.Scope {
	t.Helper()
	s := scope.Scope{Name: "test", Authority: "a", Contact: "mailto:a@example.org", Expires: now.Add(time.Hour)}
	for dst, list := range map[*[]netip.Prefix]string{&s.Include: include, &s.Exclude: exclude} {
		for _, f := range strings.Fields(list) {
			r, err := scope.ParseRange(f)
			if err != nil {
				t.Fatal(err)
			}
			*dst = r.AppendPrefixes(*dst)
		}
	}
	return s
}

func parse(t testing.TB, opt target.Options, targets ...string) *target.Set {
	t.Helper()
	s, err := target.Parse(t.Context(), targets, nil, opt)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func walk(t testing.TB, s *target.Set, o target.Order) *target.Walk {
	t.Helper()
	w, err := s.Walk(o)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func collect(t testing.TB, s *target.Set, o target.Order) []target.Place {
	t.Helper()
	return slices.Collect(walk(t, s, o).Places(t.Context()))
}

// show is a place as the tests below write it.
func show(p target.Place) string {
	s := p.AddrPort().String()
	if p.Name != "" || p.Scheme != "" || p.Path != "" {
		s += fmt.Sprintf("(%s,%s,%s)", p.Name, p.Scheme, p.Path)
	}
	return s
}

func shown(places []target.Place) string {
	var all []string
	for _, p := range places {
		all = append(all, show(p))
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}

var local = scope.Scope{Local: true}

func TestTargets(t *testing.T) {
	for _, tc := range []struct{ targets, want string }{
		{"10.0.0.5", "10.0.0.5:1 10.0.0.5:2"},
		{"10.0.0.5:80", "10.0.0.5:80"},
		{"10.0.0.7/31", "10.0.0.6:1 10.0.0.6:2 10.0.0.7:1 10.0.0.7:2"},
		{"10.0.0.7/31:80", "10.0.0.6:80 10.0.0.7:80"},
		{"10.0.0.1-2:80", "10.0.0.1:80 10.0.0.2:80"},
		{"10.0.0.255-10.0.1.0:80", "10.0.0.255:80 10.0.1.0:80"},
		{"fd00::1", "[fd00::1]:1 [fd00::1]:2"},
		{"[fd00::1]", "[fd00::1]:1 [fd00::1]:2"},
		{"[fd00::1]:80", "[fd00::1]:80"},
		{"fd00::ffff-fd00::1:0", "[fd00::1:0]:1 [fd00::1:0]:2 [fd00::ffff]:1 [fd00::ffff]:2"},
		{"[fd00::/127]:80", "[fd00::1]:80 [fd00::]:80"},
		{"::ffff:10.0.0.5", "10.0.0.5:1 10.0.0.5:2"},
		{"[::ffff:10.0.0.5]:80 10.0.0.5:80", "10.0.0.5:80"},
		{"a.example:80", "10.0.0.1:80(a.example,,) 10.0.0.2:80(a.example,,) [fd00::1]:80(a.example,,)"},
		{"10-0.example:80", "10.0.0.1:80(10-0.example,,)"}, // no range
		{"B.Example.", "10.0.0.1:1(b.example,,) 10.0.0.1:2(b.example,,)"},
		{"mapped:80", "10.0.0.9:80(mapped,,)"},
		{"https://[::1]:443/ollama", "[::1]:443(,https,/ollama)"},
		{"https://b.example/ollama/", "10.0.0.1:443(b.example,https,/ollama)"},
		{"http://b.example", "10.0.0.1:80(b.example,http,)"},
		{"HTTP://10.0.0.1:8080/a%20b", "10.0.0.1:8080(,http,/a%20b)"},

		// Each place once.
		{"10.0.0.5:1 10.0.0.5", "10.0.0.5:1 10.0.0.5:2"},
		{"10.0.0.4/31 10.0.0.5-6 10.0.0.4:2 10.0.0.6:3", "10.0.0.4:1 10.0.0.4:2 10.0.0.5:1 10.0.0.5:2 10.0.0.6:1 10.0.0.6:2 10.0.0.6:3"},
		{"10.0.0.1 b.example:1", "10.0.0.1:1(b.example,,) 10.0.0.1:2"},
		{"b.example:80 10.0.0.0-2:80", "10.0.0.0:80 10.0.0.1:80(b.example,,) 10.0.0.2:80"},
		{"10.0.0.0/30 b.example", "10.0.0.0:1 10.0.0.0:2 10.0.0.1:1(b.example,,) 10.0.0.1:2(b.example,,) 10.0.0.2:1 10.0.0.2:2 10.0.0.3:1 10.0.0.3:2"},
		{"http://b.example/x 10.0.0.1:80", "10.0.0.1:80 10.0.0.1:80(b.example,http,/x)"},
		{"b.example:80 a.example:80", "10.0.0.1:80(a.example,,) 10.0.0.1:80(b.example,,) 10.0.0.2:80(a.example,,) [fd00::1]:80(a.example,,)"},
		{"b.example:80 http://b.example b.example:80", "10.0.0.1:80(b.example,http,)"},
		{"http://b.example:80 https://b.example:80", "10.0.0.1:80(b.example,http,) 10.0.0.1:80(b.example,https,)"},
	} {
		s := parse(t, options(local, 1, 2, 1), strings.Fields(tc.targets)...)
		places := collect(t, s, target.Order{})
		if got := shown(places); got != tc.want {
			t.Errorf("%s:\ngot  %s\nwant %s", tc.targets, got, tc.want)
		}
		if int(s.Count()) != len(places) || s.Denied != 0 {
			t.Errorf("%s: %d places, counted %d, %d denied", tc.targets, len(places), s.Count(), s.Denied)
		}
	}
}

func TestTargetIsWhatWasWritten(t *testing.T) {
	s := parse(t, options(local, 1), "10.0.0.8/31", "10.0.0.1", "10.0.0.2:80", "b.example:9", "http://[fd00::5]/x", "10.1.0.1-2:7")
	got := map[string]string{}
	for _, p := range collect(t, s, target.Order{}) {
		got[show(p)] = p.Target
	}
	for place, want := range map[string]string{
		"10.0.0.8:1": "10.0.0.8/31", "10.0.0.1:1": "10.0.0.1", "10.0.0.2:80": "10.0.0.2:80", "10.0.0.1:9(b.example,,)": "b.example:9",
		"[fd00::5]:80(,http,/x)": "http://[fd00::5]/x", "10.1.0.2:7": "10.1.0.1-2:7",
	} {
		if got[place] != want {
			t.Errorf("%s: got %q, want %q", place, got[place], want)
		}
	}
}

func TestWrongTargets(t *testing.T) {
	for _, tc := range []struct{ in, want string }{
		{"", "a target is empty"},
		{"10.0.0.256", `"10.0.0.256" is no address, network, range, host name or URL: not a host name`},
		{"10.0.0", `"10.0.0" is no address, network, range, host name or URL: not a host name`},
		{"2130706433", `"2130706433" is no address, network, range, host name or URL: not a host name`},
		{"10.0.0.0/33", `"10.0.0.0/33" is no network`},
		{"10.0.0.9-1", `"10.0.0.9-1" is no range: it must go from a lower to a higher address of one kind`},
		{"10.0.0.1:0", `"10.0.0.1:0": "0" is no port from 1 to 65535`},
		{"10.0.0.1:", `"10.0.0.1:": "" is no port from 1 to 65535`},
		{"b.example:65536", `"b.example:65536": "65536" is no port from 1 to 65535`},
		{"[10.0.0.1]:80", `"[10.0.0.1]:80" is no address in brackets`},
		{"[::1]80", `"[::1]80" is no address in brackets`},
		{"[::1", `"[::1" is no address in brackets`},
		{"fe80::1%eth0", `"fe80::1%eth0" has a zone; write the address without it`},
		{"b.example/ollama", `"b.example/ollama" has a path: write it as a URL, "https://b.example/ollama"`},
		{"bücher.example", `"bücher.example" is no address, network, range, host name or URL: write the host name in its ASCII form (xn--…)`},
		{"-x.example", `"-x.example" is no address, network, range, host name or URL: not a host name`},
		{"x..example", `"x..example" is no address, network, range, host name or URL: not a host name`},
		{"\x1b[31mx", `"\x1b[31mx" is no address, network, range, host name or URL: not a host name`},
		{strings.Repeat("x", 5000), `"` + strings.Repeat("x", 40) + `"… is too long for a target`},
		{"https://u:secret@b.example/", `the URL for "b.example" names a user: no credentials are tried`},
		{"ftp://b.example/", `"ftp://b.example/": only http and https are looked at`},
		{"http://b.example/?q", `"http://b.example/?q": a target ends with its path`},
		{"http://b.example/#f", `"http://b.example/#f": a target ends with its path`},
		{"http://b.example/../x", `"http://b.example/../x": a path has no ".." in it`},
		{"http://b.example/%2e%2e/x", `"http://b.example/%2e%2e/x": a path has no ".." in it`},
		{"http://b.example:0/", `"http://b.example:0/": "0" is no port from 1 to 65535`},
		{"http:///x", `"http:///x": not a host name`},
		{"http://10.0.0.0-5/", `"http://10.0.0.0-5/": not a host name`},
		{"http://[fe80::1%25eth0]/", `"http://[fe80::1%25eth0]/" has a zone; write the address without it`},
		{"nowhere.example", "look up nowhere.example: no such host"},
		{"empty.example", "look up empty.example: no address"},
	} {
		_, err := target.Parse(t.Context(), []string{tc.in}, nil, options(local, 1))
		if err == nil || err.Error() != tc.want {
			t.Errorf("%.60q:\ngot  %v\nwant %s", tc.in, err, tc.want)
		}
	}

	list := target.List{Name: "hosts.txt", R: strings.NewReader("10.0.0.1\n\n# c\n10.0.0.2 10.0.0.300 # no\n8.8.8.8:80\n")}
	_, err := target.Parse(t.Context(), []string{"10.0.0.0/99"}, []target.List{list}, options(local, 1))
	want := "\"10.0.0.0/99\" is no network\n" +
		"hosts.txt line 4: \"10.0.0.300\" is no address, network, range, host name or URL: not a host name\n" +
		"hosts.txt line 5: 8.8.8.8 is a public address: no scope permits it"
	if err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}

	many := target.List{Name: "m", R: strings.NewReader(strings.Repeat("x!\n", 1000))}
	_, err = target.Parse(t.Context(), nil, []target.List{many}, options(local, 1))
	if err == nil || !strings.HasSuffix(err.Error(), "\nand 980 more") {
		t.Errorf("got %v", err)
	}

	broken := target.List{Name: "b", R: io.MultiReader(strings.NewReader("10.0.0.1\n"), failing{})}
	if _, err = target.Parse(t.Context(), nil, []target.List{broken}, options(local, 1)); !errors.Is(err, errRead) {
		t.Errorf("got %v", err)
	}
}

var errRead = errors.New("disk on fire")

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, errRead }

func TestScopeOfTargets(t *testing.T) {
	public := permit(t, "8.8.0.0/16 192.0.2.0/24 2606::/32", "8.8.8.0/24 2606::8/125")
	for _, tc := range []struct {
		scope  scope.Scope
		target string
		want   error
		count  uint64
		denied uint64
	}{
		{local, "10.0.0.0/8", nil, 1 << 24, 0},
		{local, "8.8.8.8", scope.ErrNoScope, 0, 0},
		{local, "10.0.0.0-11.0.0.0", scope.ErrNoScope, 0, 0},
		{local, "0.0.0.0/0", scope.ErrNoScope, 0, 0},
		{local, "::/0", scope.ErrNoScope, 0, 0},
		{local, "169.254.169.254", scope.ErrSpecial, 0, 0},
		{local, "192.0.2.0/24", scope.ErrSpecial, 0, 0},
		{local, "out.example", scope.ErrNoScope, 0, 0},
		{local, "meta.example", scope.ErrSpecial, 0, 0},
		{local, "http://8.8.8.8/x", scope.ErrNoScope, 0, 0},
		{local, "fd00::/64", nil, 0, 0}, // too large
		{local, "::/64", nil, 1, 0},     // ::1 alone
		{scope.Scope{}, "127.0.0.1", scope.ErrNoScope, 0, 0},
		{public, "8.8.0.0/16", nil, 1<<16 - 256, 256},
		{public, "8.8.8.255-8.8.9.0", nil, 1, 1},
		{public, "8.8.8.8", scope.ErrExcluded, 0, 0},
		{public, "8.8.8.0/25", scope.ErrExcluded, 0, 0},
		{public, "192.0.2.0/24", scope.ErrSpecial, 0, 0},
		{public, "8.8.0.0/15", scope.ErrOutside, 0, 0},
		{public, "10.0.0.1", scope.ErrOutside, 0, 0},
		{public, "2606::/120", nil, 248, 8},
	} {
		s, err := target.Parse(t.Context(), []string{tc.target}, nil, options(tc.scope, 80))
		switch {
		case tc.target == "fd00::/64":
			if err == nil || err.Error() != "fd00::/64 is too large: a /64 cannot be walked" {
				t.Errorf("%s: %v", tc.target, err)
			}
		case !errors.Is(err, tc.want):
			t.Errorf("%s: got %v, want %v", tc.target, err, tc.want)
		case err == nil && s.Count() != tc.count:
			t.Errorf("%s: %d places, want %d", tc.target, s.Count(), tc.count)
		case err == nil && tc.target != "::/64" && s.Denied != tc.denied:
			t.Errorf("%s: %d denied, want %d", tc.target, s.Denied, tc.denied)
		}
	}

	_, err := target.Parse(t.Context(), []string{"out.example"}, nil, options(local, 1))
	if want := `"out.example": 8.8.8.8 is a public address: no scope permits it`; err == nil || err.Error() != want {
		t.Errorf("got %v", err)
	}
	opt := options(public)
	opt.Now = func() time.Time { return now.Add(2 * time.Hour) }
	for _, targets := range [][]string{nil, {"8.8.0.0/16"}, {"8.8.0.1"}} {
		if _, err := target.Parse(t.Context(), targets, nil, opt); !errors.Is(err, scope.ErrExpired) {
			t.Errorf("%v after expiry: %v", targets, err)
		}
	}
	if _, err := target.Parse(t.Context(), []string{"127.0.0.1"}, nil, target.Options{}); !errors.Is(err, scope.ErrNoScope) {
		t.Errorf("zero options: %v", err)
	}
}

func TestListsPassOverExclusions(t *testing.T) {
	public := permit(t, "8.8.0.0/16 192.0.2.0/24", "8.8.8.0/24")
	list := target.List{Name: "l", R: strings.NewReader("8.8.8.8\n8.8.8.8:80\n192.0.2.1:80\n8.8.1.1:80\nnowhere.example\n8.8.8.0/31:81\n")}
	s, err := target.Parse(t.Context(), nil, []target.List{list}, options(public, 1, 2))
	if err != nil {
		t.Fatal(err)
	}
	if got := shown(collect(t, s, target.Order{})); got != "8.8.1.1:80" || s.Denied != 6 {
		t.Errorf("got %s, %d denied", got, s.Denied)
	}
	if len(s.Unresolved) != 1 || s.Unresolved[0].Error() != "l line 5: look up nowhere.example: no such host" {
		t.Errorf("unresolved: %v", s.Unresolved)
	}
}

func TestScopeIsTheTarget(t *testing.T) {
	s := permit(t, "8.8.8.0/30 192.0.2.0/24 fd00::1 10.0.0.4/31", "8.8.8.2 10.0.0.4/31")
	s.Ports = []uint16{81}
	set := parse(t, options(s))
	if got := shown(collect(t, set, target.Order{})); got != "8.8.8.0:81 8.8.8.1:81 8.8.8.3:81 [fd00::1]:81" || set.Denied != 259 {
		t.Errorf("got %s, %d denied", got, set.Denied)
	}
	if _, err := target.Parse(t.Context(), nil, nil, options(local)); err == nil || err.Error() != "no target" {
		t.Error(err)
	}
	s.Ports = nil
	if got := parse(t, options(s), "8.8.8.1"); got.Count() != 1 || collect(t, got, target.Order{})[0].Port != 11434 {
		t.Error("the default port is not 11434")
	}
}

func TestIPv4InsideAnIPv6Range(t *testing.T) {
	// Numerically ::/0 goes over the IPv4-mapped addresses; they stay IPv4's.
	s := permit(t, "::/0 10.0.0.0/31", "1::/16 2::/15 4::/14 8::/13 10::/12 20::/11 40::/10 80::/9 100::/8 200::/7 400::/6 800::/5 1000::/4 2000::/3 4000::/2 8000::/1")
	set := parse(t, options(s, 80), "::/0", "10.0.0.0/31")
	if got := shown(collect(t, set, target.Order{})); got != "10.0.0.0:80 10.0.0.1:80 [::1]:80" {
		t.Error(got)
	}
}

// TestSetAgainstBruteForce holds random overlapping targets and exclusions
// against a plain set of all their places.
func TestSetAgainstBruteForce(t *testing.T) {
	rnd := rand.New(rand.NewPCG(5, 6))
	addr := func() netip.Addr {
		if rnd.IntN(2) == 0 {
			return netip.AddrFrom4([4]byte{10, 0, 0, byte(rnd.IntN(64))})
		}
		a := netip.MustParseAddr("fd00::").As16()
		a[15] = byte(rnd.IntN(64))
		return netip.AddrFrom16(a)
	}
	random := func() string {
		a := addr()
		switch b := a.As16(); rnd.IntN(3) {
		case 0:
			return netip.PrefixFrom(a, a.BitLen()-rnd.IntN(5)).String()
		case 1:
			b[15] += byte(rnd.IntN(20))
			return a.String() + "-" + netip.AddrFrom16(b).Unmap().String()
		}
		return a.String()
	}
	for round := range 400 {
		sc := permit(t, "10.0.0.0/24 fd00::/120", "")
		var targets []string
		want, denied := map[string]bool{}, map[string]bool{}
		excluded := map[netip.Addr]bool{}
		for range rnd.IntN(4) {
			r, _ := scope.ParseRange(random())
			sc.Exclude = r.AppendPrefixes(sc.Exclude)
			for a := r.From(); r.Contains(a); a = a.Next() {
				excluded[a] = true
			}
		}
		hosts := names{}
		ports := []uint16{1, 2, 3}[:1+rnd.IntN(3)]
		var bare []string
		for range 1 + rnd.IntN(8) {
			if rnd.IntN(4) == 0 {
				name := fmt.Sprintf("h%d.example", len(hosts))
				a := addr()
				if excluded[a] {
					continue
				}
				hosts[name] = a.String()
				port := uint16(1 + rnd.IntN(4))
				targets = append(targets, fmt.Sprintf("%s:%d", name, port))
				want[fmt.Sprintf("%s(%s,,)", netip.AddrPortFrom(a, port), name)] = true
				bare = append(bare, netip.AddrPortFrom(a, port).String())
				continue
			}
			text := random()
			r, _ := scope.ParseRange(text)
			own := ports
			if rnd.IntN(2) == 0 {
				own = []uint16{uint16(1 + rnd.IntN(4))}
				if r.From().Is6() {
					text = "[" + text + "]"
				}
				text = fmt.Sprintf("%s:%d", text, own[0])
			}
			some := false
			for a := r.From(); r.Contains(a); a = a.Next() {
				some = some || !excluded[a]
			}
			if !some {
				continue
			}
			targets = append(targets, text)
			for a := r.From(); r.Contains(a); a = a.Next() {
				for _, p := range own {
					if excluded[a] {
						denied[netip.AddrPortFrom(a, p).String()] = true
					} else {
						want[netip.AddrPortFrom(a, p).String()] = true
					}
				}
			}
		}
		if len(targets) == 0 {
			continue
		}
		for _, b := range bare {
			delete(want, b)
		}
		opt := options(sc, ports...)
		opt.Resolver = hosts
		set := parse(t, opt, targets...)
		got := map[string]bool{}
		for _, p := range collect(t, set, target.Order{Seed: uint64(round)}) {
			if got[show(p)] {
				t.Fatalf("%v: %s twice", targets, show(p))
			}
			got[show(p)] = true
			if !want[show(p)] {
				t.Fatalf("%v: %s is too much", targets, show(p))
			}
		}
		if len(got) != len(want) || set.Count() != uint64(len(want)) || set.Denied != uint64(len(denied)) {
			t.Fatalf("%v: %d places (counted %d), want %d; %d denied, want %d", targets, len(got), set.Count(), len(want), set.Denied, len(denied))
		}
	}
}

// TestShardsAndSamples: the shards of every sample are disjoint and complete,
// their counts are exact, and a walk can begin anywhere.
func TestShardsAndSamples(t *testing.T) {
	set := parse(t, options(local, 1, 2), "10.0.0.0/25", "fd00::/121", "10.9.0.1:99", "a.example:7")
	all := collect(t, set, target.Order{Seed: 9})
	for i, p := range all {
		if p.Pos != uint64(i) {
			t.Fatalf("position %d says it is %d", i, p.Pos)
		}
	}
	if shown(collect(t, set, target.Order{Seed: 9})) != shown(all) {
		t.Fatal("a walk cannot be repeated")
	}
	for _, sample := range []target.Sample{0, 0.001, 0.3, 1} {
		part := collect(t, set, target.Order{Seed: 9, Sample: sample})
		if !slices.Equal(part, all[:len(part)]) {
			t.Fatalf("sample %v is not the beginning of the order", sample)
		}
		if want := sample * target.Sample(len(all)); sample > 0 && (target.Sample(len(part)) < want || target.Sample(len(part)) >= want+1) {
			t.Errorf("sample %v has %d of %d places", sample, len(part), len(all))
		}
		for _, n := range []uint64{1, 2, 3, 7, 1000} {
			var together []target.Place
			for i := uint64(1); i <= n; i++ {
				o := target.Order{Seed: 9, Sample: sample, Shard: target.Shard{I: i, N: n}}
				one := collect(t, set, o)
				together = append(together, one...)
				for _, from := range []uint64{0, 1, 5, 100, uint64(len(part)), 1 << 40, 1<<64 - 1} {
					o.From = from
					want := slices.DeleteFunc(slices.Clone(one), func(p target.Place) bool { return p.Pos < from })
					w := walk(t, set, o)
					if got := slices.Collect(w.Places(t.Context())); !slices.Equal(got, want) || w.Count() != uint64(len(want)) {
						t.Fatalf("shard %d/%d of %v from %d: %d places, counted %d, want %d", i, n, sample, from, len(got), w.Count(), len(want))
					}
				}
			}
			slices.SortFunc(together, func(a, b target.Place) int { return int(a.Pos) - int(b.Pos) })
			if !slices.Equal(together, part) {
				t.Fatalf("%d shards of sample %v have %d places together, want %d", n, sample, len(together), len(part))
			}
		}
	}
	for _, o := range []target.Order{{Shard: target.Shard{I: 0, N: 2}}, {Shard: target.Shard{I: 3, N: 2}}, {Sample: 1.1}, {Sample: -1}} {
		if _, err := set.Walk(o); err == nil {
			t.Errorf("%+v is taken for an order", o)
		}
	}
}

// TestFind has each place found again by its address alone, and nothing else.
func TestFind(t *testing.T) {
	set := parse(t, options(permit(t, "10.0.0.0/8 fd00::/8", "10.0.1.128/25"), 80, 443, 11434),
		"10.0.0.0/23", "10.0.7.3-10.0.7.9", "10.0.7.3:8080", "10.0.9.0/30:80", "fd00::/123", "http://10.0.0.7:443", "[fd00::5]:22", "http://10.0.3.1/x")
	for _, o := range []target.Order{
		{Seed: 1},
		{Seed: 2, Shard: target.Shard{I: 2, N: 3}},
		{Seed: 3, Sample: 0.3},
		{Seed: 4, Shard: target.Shard{I: 5, N: 7}, Sample: 0.5},
		{Seed: 5, From: 700},
		{Seed: 6, From: 701, Shard: target.Shard{I: 3, N: 4}},
	} {
		w := walk(t, set, o)
		k, bare := uint64(0), map[netip.AddrPort]bool{}
		for p := range w.Places(t.Context()) {
			pos, addr, plain := w.Nth(k)
			if pos != p.Pos || addr != p.AddrPort() || plain != (p.Name == "" && p.Scheme == "") {
				t.Fatalf("%v: place %d is %d %v %v, want %v", o, k, pos, addr, plain, p)
			}
			if r := w.Rank(pos); r != k {
				t.Fatalf("%v: %d places lie below position %d, want %d", o, r, pos, k)
			}
			found, ok := w.Find(addr)
			if plain && (!ok || found != k) {
				t.Fatalf("%v: %v is found as %d %v, want %d", o, addr, found, ok, k)
			}
			bare[addr] = bare[addr] || plain
			k++
		}
		if k != w.Count() || w.Rank(w.End()) != k {
			t.Fatalf("%v: %d places, %d below the end, want %d", o, k, w.Rank(w.End()), w.Count())
		}
		for _, network := range []string{"10.0.0.0/20", "fd00::/120"} {
			prefix := netip.MustParsePrefix(network)
			for a := prefix.Addr(); prefix.Contains(a); a = a.Next() {
				for _, port := range []uint16{22, 80, 443, 8080, 11434} {
					at := netip.AddrPortFrom(a, port)
					if _, ok := w.Find(at); ok != bare[at] {
						t.Fatalf("%v: %v is found: %v, want %v", o, at, ok, bare[at])
					}
				}
			}
		}
	}
}

func TestSeedsGiveOtherOrders(t *testing.T) {
	set := parse(t, options(local, 80), "10.0.0.0/24")
	seen := map[string]bool{}
	for seed := range uint64(50) {
		seen[fmt.Sprint(collect(t, set, target.Order{Seed: seed})[:8])] = true
	}
	if len(seen) != 50 {
		t.Errorf("50 seeds gave %d orders", len(seen))
	}
}

func TestDigest(t *testing.T) {
	digest := func(targets ...string) string { return parse(t, options(local, 1, 2), targets...).Digest() }
	if digest("10.0.0.0/24", "a.example") != digest("10.0.0.0-255", "a.example", "10.0.0.7") {
		t.Error("the same set has two digests")
	}
	for _, other := range [][]string{{"10.0.0.0/24"}, {"10.0.0.0/23", "a.example"}, {"10.0.0.0/24", "b.example"}, {"10.0.0.0/24", "a.example:1"}} {
		if digest("10.0.0.0/24", "a.example") == digest(other...) {
			t.Errorf("%v has the digest of another set", other)
		}
	}
}

func TestCancelEndsAWalk(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	set := parse(t, options(local, 80), "10.0.0.0/8")
	n := 0
	for range walk(t, set, target.Order{}).Places(ctx) {
		if n++; n == 10 {
			cancel()
		}
	}
	if n != 10 {
		t.Errorf("%d places after the end", n-10)
	}
}

// TestLargeSetStartsAtOnce: a /8 on three ports, 50 million places, costs no
// more memory than a /24, and no network takes a burst.
func TestLargeSetStartsAtOnce(t *testing.T) {
	first := func(network string, n int) (places []target.Place) {
		for p := range walk(t, parse(t, options(local, 1, 2, 3), network), target.Order{Seed: 1}).Places(t.Context()) {
			if places = append(places, p); len(places) == n {
				break
			}
		}
		return places
	}
	memory := func(network string) uint64 {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		first(network, 1)
		runtime.ReadMemStats(&after)
		return after.TotalAlloc - before.TotalAlloc
	}
	if small, large := memory("10.0.0.0/24"), memory("10.0.0.0/8"); large > small+4096 || large > 256<<10 {
		t.Errorf("a /8 takes %d bytes, a /24 %d", large, small)
	}
	networks := map[netip.Prefix]int{}
	for _, p := range first("10.0.0.0/8", 1000) {
		network, _ := p.Addr.Prefix(24)
		if networks[network]++; networks[network] > 5 {
			t.Fatalf("%s has %d of the first 1000 places", network, networks[network])
		}
	}
	if n := len(first("10.0.0.0/8", 1000)); n != 1000 {
		t.Fatalf("%d places", n)
	}

	set := parse(t, options(local, 1, 2, 3), "10.0.0.0/8", "fd00::/70")
	w := walk(t, set, target.Order{})
	var pos uint64
	if n := testing.AllocsPerRun(1000, func() { w.At(pos * 12345); pos++ }); n != 0 {
		t.Errorf("At allocates %v times", n)
	}
}

func TestWholeInternet(t *testing.T) {
	set := parse(t, options(permit(t, "0.0.0.0/0", ""), 1, 2), "0.0.0.0/0")
	if total := set.Count() + set.Denied; total != 2<<32 {
		t.Errorf("%d places and %d denied", set.Count(), set.Denied)
	}
	c := permit(t, "0.0.0.0/0", "")
	check := c.Checker()
	n := 0
	for p := range walk(t, set, target.Order{}).Places(t.Context()) {
		if err := check.Allows(p.Addr, now); err != nil {
			t.Fatal(err)
		}
		if n++; n == 100_000 {
			break
		}
	}
}

func BenchmarkAt(b *testing.B) {
	exclude := make([]string, 100_000)
	for i := range exclude {
		exclude[i] = fmt.Sprintf("%d.%d.%d.7", 11+i>>14, i>>6&255, i<<2&255)
	}
	for name, s := range map[string]scope.Scope{
		"plain": permit(b, "0.0.0.0/0", ""), "100k exclusions": permit(b, "0.0.0.0/0", strings.Join(exclude, " ")),
	} {
		b.Run(name, func(b *testing.B) {
			w := walk(b, parse(b, options(s, 1, 2, 3), "0.0.0.0/0"), target.Order{})
			b.ReportAllocs()
			var i uint64
			for b.Loop() {
				w.At(i)
				i++
			}
		})
	}
}

func BenchmarkParseList(b *testing.B) {
	const n = 1_000_000
	var text strings.Builder
	for i := range n {
		fmt.Fprintf(&text, "10.%d.%d.%d:%d\n", i>>16&255, i>>8&255, i&255, 80+i%7)
	}
	b.ReportAllocs()
	for b.Loop() {
		set, err := target.Parse(b.Context(), nil, []target.List{{Name: "l", R: strings.NewReader(text.String())}}, options(local, 1))
		if err != nil || set.Count() != n {
			b.Fatal(set, err)
		}
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		b.ReportMetric(float64(m.HeapAlloc-uint64(text.Len()))/n, "held-B/place")
		runtime.KeepAlive(set)
	}
}

// slowNames gives every name the address 10.0.0.1 after a second.
type slowNames struct {
	mu        sync.Mutex
	now, most int
}

func (s *slowNames) LookupNetIP(ctx context.Context, _, _ string) ([]netip.Addr, error) {
	s.mu.Lock()
	s.now++
	s.most = max(s.most, s.now)
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		s.now--
		s.mu.Unlock()
	}()
	select {
	case <-time.After(time.Second):
		return []netip.Addr{netip.MustParseAddr("10.0.0.1")}, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func TestNamesAreResolvedTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opt := options(local, 80)
		slow := &slowNames{}
		opt.Resolver = slow
		var targets []string
		for i := range 40 {
			targets = append(targets, fmt.Sprintf("h%d.example", i))
		}
		start := time.Now()
		if n := parse(t, opt, targets...).Count(); n != 40 {
			t.Errorf("%d places", n)
		}
		if took := time.Since(start); took != 3*time.Second || slow.most != 16 {
			t.Errorf("took %v, %d at once", took, slow.most)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second/2)
		defer cancel()
		if _, err := target.Parse(ctx, targets, nil, opt); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
	})
}
