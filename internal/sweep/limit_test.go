package sweep_test

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"gatehouse/internal/sweep"
)

// paced makes one attempt at each of places, all at the same time, and returns
// when each was made. It has to run in a bubble.
func paced(t *testing.T, limit *sweep.Limit, places []netip.Addr) map[netip.Addr][]time.Duration {
	t.Helper()
	var mu sync.Mutex
	start := time.Now()
	made := make(map[netip.Addr][]time.Duration)
	s := sweep.Sweeper{Allows: all, Limit: limit, Connect: func(_ context.Context, a netip.AddrPort) (net.Conn, error) {
		mu.Lock()
		defer mu.Unlock()
		made[a.Addr()] = append(made[a.Addr()], time.Since(start))
		return nopConn{}, nil
	}}
	var wg sync.WaitGroup
	for _, a := range places {
		wg.Go(func() {
			if _, err := s.Dial(t.Context(), netip.AddrPortFrom(a, 11434)); err != nil {
				t.Errorf("%s: %v", a, err)
			}
		})
	}
	wg.Wait()
	return made
}

// times are all of made, in order.
func times(made map[netip.Addr][]time.Duration) (all []time.Duration) {
	for _, at := range made {
		all = append(all, at...)
	}
	slices.Sort(all)
	return all
}

// row is n addresses from first, one after the other.
func row(first string, n int) []netip.Addr {
	a := netip.MustParseAddr(first)
	all := make([]netip.Addr, n)
	for i := range all {
		all[i], a = a, a.Next()
	}
	return all
}

// burst is how far attempts may run ahead of their rate.
const burst = 10 * time.Millisecond

func TestRate(t *testing.T) {
	for _, c := range []struct {
		rate float64
		n    int
	}{
		{0.5, 4}, {1, 5}, {30, 100}, {1000, 2000}, {20_000, 10_000},
	} {
		t.Run(fmt.Sprint(c.rate), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				at := times(paced(t, sweep.NewLimit(c.rate, 0), row("10.0.0.0", c.n)))
				if len(at) != c.n {
					t.Fatalf("%d attempts, want %d", len(at), c.n)
				}
				gap := time.Duration(float64(time.Second) / c.rate)
				whole := time.Duration(c.n-1)*gap - burst
				if last := at[c.n-1]; last < whole-gap || last > whole+gap {
					t.Errorf("%d attempts took %v, want %v", c.n, last, whole)
				}
				// No second has more than its share and the burst.
				most := int(float64(time.Second+burst)/float64(gap)) + 1
				for i := range at {
					if j := i + most; j < c.n && at[j]-at[i] < time.Second {
						t.Fatalf("%d attempts within %v", most+1, at[j]-at[i])
					}
				}
			})
		})
	}
}

// TestIdle has an unused rate not saved up for a flood.
func TestIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		limit := sweep.NewLimit(100, 0)
		for range 3 {
			at := times(paced(t, limit, row("10.0.0.0", 11)))
			if last := at[10]; last < 90*time.Millisecond {
				t.Errorf("11 attempts at 100 a second in %v", last)
			}
			time.Sleep(time.Hour)
		}
	})
}

func TestNetworkRate(t *testing.T) {
	for _, c := range []struct {
		name      string
		places    []netip.Addr
		perSecond float64 // of the network with most places
		took      time.Duration
	}{
		{"one /24", row("192.168.7.0", 256), 100, 2550*time.Millisecond - burst},
		{"one /48", slices.Concat(row("fd00:1:2::", 10), row("fd00:1:2:ffff::", 10)), 10, 1900*time.Millisecond - burst},
		{"two /48s", slices.Concat(row("fd00:1:2::", 10), row("fd00:1:3::", 10)), 10, 900*time.Millisecond - burst},
		{"two /24s", row("192.168.7.206", 100), 100, 490*time.Millisecond - burst},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				at := times(paced(t, sweep.NewLimit(0, c.perSecond), c.places))
				if last := at[len(at)-1]; last != c.took {
					t.Errorf("took %v, want %v", last, c.took)
				}
			})
		})
	}
}

// TestZone has one link-local network for every address of a link.
func TestZone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		places := []netip.Addr{netip.MustParseAddr("fe80::1%a"), netip.MustParseAddr("fe80::2%a")}
		if at := times(paced(t, sweep.NewLimit(0, 1), places)); at[1] != time.Second-burst {
			t.Errorf("attempts at %v", at)
		}
	})
}

// TestCrowded has a network of many places not hold up the others, and not use
// up the rate that all share while it waits.
func TestCrowded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		crowd, others := row("192.168.7.0", 200), row("10.9.8.0", 5)
		made := paced(t, sweep.NewLimit(10, 1), slices.Concat(crowd, others))
		for i, a := range others {
			// At its own turn, and a little for the whole's.
			if at := made[a][0]; at > time.Duration(len(others))*time.Second {
				t.Errorf("place %d of the quiet network had to wait %v", i, at)
			}
		}
		if at := times(made); at[len(at)-1] < 198*time.Second {
			t.Errorf("200 places of one network took %v at one a second", at[len(at)-1])
		}
	})
}

func TestBothRates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// 40 networks of 10: the whole's rate is the narrower one.
		var places []netip.Addr
		for n := range 40 {
			places = append(places, row(fmt.Sprintf("10.1.%d.0", n), 10)...)
		}
		at := times(paced(t, sweep.NewLimit(50, 20), places))
		if last := at[len(at)-1]; last < 7900*time.Millisecond || last > 8500*time.Millisecond {
			t.Errorf("400 attempts at 50 a second took %v", last)
		}
	})
}

// TestNoRate has a rate that is not given bound nothing, and one that is next
// to nothing not turn into none.
func TestNoRate(t *testing.T) {
	for _, limit := range []*sweep.Limit{nil, sweep.NewLimit(0, 0), sweep.NewLimit(-1, -1)} {
		synctest.Test(t, func(t *testing.T) {
			at := times(paced(t, limit, row("10.0.0.0", 1000)))
			if last := at[len(at)-1]; last != 0 {
				t.Errorf("took %v without a rate", last)
			}
		})
	}
	for _, rate := range []float64{1e-6, 1e-12, 5e-324} {
		for _, limit := range []*sweep.Limit{sweep.NewLimit(rate, 0), sweep.NewLimit(0, rate)} {
			synctest.Test(t, func(t *testing.T) {
				at := times(paced(t, limit, row("10.0.0.0", 3)))
				if at[0] != 0 || at[1] < 23*time.Hour || at[2] < 47*time.Hour {
					t.Errorf("at %v a second, attempts were made at %v", rate, at)
				}
			})
		}
	}
}
