//go:build linux

package e2e

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"

	"gatehouse/internal/ollama/ollamatest"
)

// maxPeak is the most memory that a scan may hold at once, whatever it meets.
const maxPeak = 150 << 20

// The network that TestNetwork scans, and what of it is not to be touched.
var (
	network  = netip.MustParsePrefix("127.77.0.0/16")
	excluded = netip.MustParsePrefix("127.77.128.0/24")
)

const (
	hosts     = 5000 // in the network
	hidden    = 20   // more, in what is excluded
	addresses = 1 << 16
)

// TestNetwork scans 65,536 addresses with 5,000 hosts of every kind among them,
// and holds the account of it to what is true, to the last one.
func TestNetwork(t *testing.T) {
	untouched := ollamatest.Variant("ollama/0.17.4")
	street := fill(t, cast(t), untouched)

	// As many at once as two cores, which the hosts are on too, answer in good
	// time while other tests run: what a host is must not hang on that.
	r := run(t, "scan", network.String(), "-p", fmt.Sprint(street.Houses[0].Addr.Port()), "--exclude", excluded.String(),
		"--rate", "100000", "--network-rate", "100000", "--concurrency", "300", "--timeout", "10s", "--max-time", "20s",
		"--seed", "1", "--format", "json")
	r.exits(t, 3)
	t.Logf("%d addresses, %d hosts in %v, %d MiB", addresses, hosts, r.took, r.peak>>20)
	if r.peak > maxPeak {
		t.Errorf("held %d MiB, want %d at most", r.peak>>20, maxPeak>>20)
	}

	truth := make(map[string]*ollamatest.Server, hosts)
	outcomes := make(map[string]uint64)
	for _, h := range street.Houses {
		if h.Server != untouched {
			truth[h.Addr.Addr().String()] = h.Server
			outcomes[h.Server.Truth.Outcome]++
		}
	}
	outcomes["refused"] += addresses - 256 - hosts
	got := r.report(t)
	sum := got.Summary
	if sum.Places != addresses-256 || sum.Visited != sum.Places || sum.Denied != 256 || sum.Stopped != "" {
		t.Errorf("%d places, %d visited, %d denied, stopped %q, want %d, all, 256, and no stop",
			sum.Places, sum.Visited, sum.Denied, sum.Stopped, addresses-256)
	}
	if !maps.Equal(sum.Outcomes, outcomes) {
		t.Errorf("outcomes %v, want %v", sum.Outcomes, outcomes)
	}

	severities := make(map[string]uint64)
	seen := make(map[string]bool)
	for _, rec := range got.Hosts {
		for _, f := range rec.Findings {
			severities[f.Severity]++
		}
		s := truth[rec.Address]
		switch {
		case s == nil:
			t.Errorf("%s at %s, where there is nothing", rec.Outcome, rec.Address)
			continue
		case seen[rec.Address]:
			t.Errorf("%s is told twice", rec.Address)
		case rec.Outcome != s.Truth.Outcome:
			t.Errorf("%s at %s is %s (%s), want %s", s.Name, rec.Address, rec.Outcome, rec.Reason, s.Truth.Outcome)
		case rec.Outcome == "open" && rec.Identity != (product{"ollama", s.Truth.Version}):
			t.Errorf("%s at %s is %v", s.Name, rec.Address, rec.Identity)
		}
		seen[rec.Address] = true
		if open := slices.Contains(rec.ids(), "ollama-open"); open && rec.Outcome != "open" {
			t.Errorf("%s at %s has ollama-open and is %s", s.Name, rec.Address, rec.Outcome)
		}
	}
	if !maps.Equal(sum.Severity, severities) {
		t.Errorf("findings %v, want %v, those of the hosts", sum.Severity, severities)
	}
	for address, s := range truth {
		if !seen[address] && s.Truth.Outcome != "silent" && s.Truth.Outcome != "refused" {
			t.Errorf("%s at %s is not told of", s.Name, address)
		}
	}

	if asked := untouched.Requests(); len(asked) > 0 {
		t.Errorf("excluded hosts were asked %v", asked)
	}
	for _, h := range street.Houses {
		for asked := range h.Server.Requests() {
			if !slices.Contains(reads, asked) {
				t.Fatalf("%s was asked %s", h.Server.Name, asked)
			}
		}
	}
}

// cast returns one server of each kind that has one true outcome, however it is
// looked at, and no need to be asked in a way of its own.
func cast(t *testing.T) []*ollamatest.Server {
	t.Helper()
	kinds := make(map[string]int)
	servers := slices.DeleteFunc(ollamatest.Variants(), func(s *ollamatest.Server) bool {
		return s.Truth.Or != "" || s.Truth.Unproved != "" || s.Path != ""
	})
	for _, s := range servers {
		kind, _, _ := strings.Cut(s.Name, "/")
		kinds[kind]++
	}
	t.Logf("kinds: %v", kinds)
	for kind, least := range map[string]int{"ollama": 60, "guard": 30, "alike": 10, "honeypot": 20, "other": 10, "hostile": 20} {
		if kinds[kind] < least {
			t.Fatalf("%d of %s, want %d at least", kinds[kind], kind, least)
		}
	}
	return servers
}

// fill opens the hosts at random addresses of the network, all on one port that
// nothing on this machine listens on: each of the cast once, and the rest of
// those that answer at once. Some houses of untouched stand in what is excluded.
func fill(t *testing.T, all []*ollamatest.Server, untouched *ollamatest.Server) *ollamatest.Street {
	t.Helper()
	quick := slices.DeleteFunc(slices.Clone(all), func(s *ollamatest.Server) bool { return strings.HasPrefix(s.Name, "hostile/") })
	rng := rand.New(rand.NewPCG(1, 2))
	base := network.Addr().As4()
	var inside, outside []ollamatest.House
	for _, at := range rng.Perm(addresses) {
		addr := netip.AddrFrom4([4]byte{base[0], base[1], byte(at >> 8), byte(at)})
		switch {
		case excluded.Contains(addr) && len(outside) < hidden:
			outside = append(outside, ollamatest.House{Addr: netip.AddrPortFrom(addr, 0), Server: untouched})
		case !excluded.Contains(addr) && len(inside) < hosts:
			s := quick[rng.IntN(len(quick))]
			if len(inside) < len(all) {
				s = all[len(inside)]
			}
			inside = append(inside, ollamatest.House{Addr: netip.AddrPortFrom(addr, 0), Server: s})
		}
	}
	houses := append(inside, outside...)
	// Below the ports that the system gives to whoever connects. One that is in
	// use on all addresses, or on one of ours, shows when it is built on.
	for port := uint16(20434); port < 20534; port++ {
		for i := range houses {
			houses[i].Addr = netip.AddrPortFrom(houses[i].Addr.Addr(), port)
		}
		street, err := ollamatest.Open(houses...)
		if errors.Is(err, syscall.EADDRINUSE) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(street.Close)
		return street
	}
	t.Fatal("no port is free")
	return nil
}
