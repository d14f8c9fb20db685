package sweep_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"gatehouse/internal/scope"
	"gatehouse/internal/sweep"
)

var place = netip.MustParseAddrPort("127.0.0.1:11434")

func anything(netip.Addr) error { return nil }

// line answers each attempt with the next of its errors, nil a connection.
type line struct {
	mu     sync.Mutex
	errs   []error
	asked  int
	dialed []time.Time
}

func (l *line) connect(ctx context.Context, _ netip.AddrPort) (net.Conn, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.asked++
	l.dialed = append(l.dialed, time.Now())
	if len(l.errs) == 0 {
		return nil, nil
	}
	err := l.errs[0]
	l.errs = l.errs[1:]
	if errors.Is(err, context.DeadlineExceeded) {
		l.mu.Unlock()
		<-ctx.Done()
		l.mu.Lock()
		return nil, ctx.Err()
	}
	return nil, err
}

func TestScope(t *testing.T) {
	if _, err := new(sweep.Sweeper).Dial(t.Context(), place); err == nil {
		t.Error("the zero sweeper dials")
	}
	l := new(line)
	for _, denial := range []error{scope.ErrExcluded, scope.ErrSpecial, scope.ErrNoScope} {
		s := &sweep.Sweeper{Allows: func(netip.Addr) error { return denial }, Connect: l.connect}
		if _, err := s.Dial(t.Context(), place); !errors.Is(err, denial) {
			t.Errorf("%v, want %v", err, denial)
		}
	}
	if l.asked > 0 {
		t.Error("what was denied was dialled")
	}
}

func TestRealSocket(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &sweep.Sweeper{Allows: anything}
	conn, err := s.Dial(t.Context(), l.Addr().(*net.TCPAddr).AddrPort())
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
	_ = l.Close()
	if _, err := s.Dial(t.Context(), l.Addr().(*net.TCPAddr).AddrPort()); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("a closed port: %v", err)
	}
}

func TestRetries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, c := range []struct {
			name           string
			errs           []error
			asked, retried int
			want           error
			took           time.Duration
		}{
			{"answers", nil, 1, 0, nil, 0},
			{"refuses", []error{syscall.ECONNREFUSED}, 1, 0, syscall.ECONNREFUSED, 0},
			{"one packet lost", []error{context.DeadlineExceeded}, 2, 1, nil, 3 * time.Second},
			{"silent", []error{context.DeadlineExceeded, context.DeadlineExceeded, context.DeadlineExceeded}, 3, 2, os.ErrDeadlineExceeded, 9 * time.Second},
			{"no route", []error{syscall.EHOSTUNREACH}, 1, 0, syscall.EHOSTUNREACH, 0},
		} {
			l := &line{errs: c.errs}
			s := &sweep.Sweeper{Allows: anything, Connect: l.connect, Retries: 2, Timeout: 3 * time.Second}
			began := time.Now()
			_, err := s.Dial(t.Context(), place)
			if !errors.Is(err, c.want) || l.asked != c.asked || int(s.Retried()) != c.retried || time.Since(began) != c.took {
				t.Errorf("%s: %v after %d attempts and %s, %d counted", c.name, err, l.asked, time.Since(began), s.Retried())
			}
		}
	})
}

// TestPressure runs this machine short of what connections take: that never
// comes out as a closed port.
func TestPressure(t *testing.T) {
	for _, short := range []error{syscall.EMFILE, syscall.ENFILE, syscall.EADDRNOTAVAIL, syscall.ENOBUFS, syscall.ENOMEM} {
		synctest.Test(t, func(t *testing.T) {
			l := &line{errs: []error{
				&net.OpError{Op: "dial", Err: os.NewSyscallError("socket", short)}, short, short, short,
			}}
			s := &sweep.Sweeper{Allows: anything, Connect: l.connect}
			began := time.Now()
			if _, err := s.Dial(t.Context(), place); err != nil {
				t.Errorf("%v: %v", short, err)
			}
			if s.Pressure() != 4 || s.Retried() != 0 || time.Since(began) == 0 {
				t.Errorf("%v: %d counted as pressure, %d as retries, after %s", short, s.Pressure(), s.Retried(), time.Since(began))
			}
			for i := 2; i < len(l.dialed); i++ {
				if l.dialed[i].Sub(l.dialed[i-1]) < l.dialed[i-1].Sub(l.dialed[i-2]) {
					t.Errorf("%v: the pauses shrink", short)
				}
			}
		})
	}
}

func TestCancel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stop := errors.New("stopped")
		for name, s := range map[string]*sweep.Sweeper{
			"silent place": {Connect: (&line{errs: []error{context.DeadlineExceeded}}).connect, Timeout: time.Hour},
			"pressure":     {Connect: func(context.Context, netip.AddrPort) (net.Conn, error) { return nil, syscall.EMFILE }},
			"rate":         {Connect: new(line).connect, Limit: sweep.NewLimit(1.0/3600, 0)},
		} {
			s.Allows = anything
			if name == "rate" {
				if _, err := s.Dial(t.Context(), place); err != nil {
					t.Fatal(err)
				}
			}
			ctx, cancel := context.WithCancelCause(t.Context())
			time.AfterFunc(time.Second, func() { cancel(stop) })
			began := time.Now()
			if _, err := s.Dial(ctx, place); err == nil || time.Since(began) != time.Second {
				t.Errorf("%s: %v after %s", name, err, time.Since(began))
			}
			cancel(nil)
		}
	})
}

// TestRate dials as fast as it may, over all and to one network.
func TestRate(t *testing.T) {
	for _, c := range []struct {
		name             string
		rate, perNetwork float64
		addrs            []string
		n                int
		want             time.Duration
	}{
		{"no limit", 0, 0, []string{"192.0.2.1"}, 1000, 0},
		{"over all", 100, 0, []string{"192.0.2.1", "198.51.100.1", "203.0.113.1"}, 1000, 10 * time.Second},
		{"one /24", 0, 10, []string{"192.0.2.1", "192.0.2.200"}, 100, 10 * time.Second},
		{"two /24", 0, 10, []string{"192.0.2.1", "198.51.100.1"}, 100, 5 * time.Second},
		{"one /48", 0, 10, []string{"2001:db8:1::1", "2001:db8:1:ffff::1"}, 100, 10 * time.Second},
		{"two /48", 0, 10, []string{"2001:db8:1::1", "2001:db8:2::1"}, 100, 5 * time.Second},
	} {
		synctest.Test(t, func(t *testing.T) {
			l := new(line)
			s := &sweep.Sweeper{Allows: anything, Connect: l.connect, Limit: sweep.NewLimit(c.rate, c.perNetwork)}
			began := time.Now()
			var wg sync.WaitGroup
			for i := range c.n {
				addr := netip.AddrPortFrom(netip.MustParseAddr(c.addrs[i%len(c.addrs)]), 11434)
				wg.Go(func() {
					if _, err := s.Dial(t.Context(), addr); err != nil {
						t.Error(err)
					}
				})
			}
			wg.Wait()
			took := time.Since(began)
			if took > c.want || took < c.want*9/10 {
				t.Errorf("%s: %d dials took %s, want %s", c.name, c.n, took, c.want)
			}
			// No second has more than its share, but for the little that may run ahead.
			if rate := max(c.rate, c.perNetwork); rate > 0 && c.name[:3] != "two" {
				for i := int(rate) + int(rate/50) + 1; i < len(l.dialed); i++ {
					if gap := l.dialed[i].Sub(l.dialed[i-int(rate)-int(rate/50)-1]); gap < time.Second {
						t.Fatalf("%s: a burst: %d in %s", c.name, int(rate), gap)
					}
				}
			}
		})
	}
}

// TestCrowdedNetwork: who waits for a crowded network holds up no other.
func TestCrowdedNetwork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &sweep.Sweeper{Allows: anything, Connect: new(line).connect, Limit: sweep.NewLimit(1000, 1)}
		ctx, cancel := context.WithCancel(t.Context())
		for range 200 {
			go func() { _, _ = s.Dial(ctx, place) }() // stopped below
		}
		synctest.Wait()
		began := time.Now()
		if _, err := s.Dial(ctx, netip.MustParseAddrPort("10.0.0.1:11434")); err != nil {
			t.Error(err)
		}
		if took := time.Since(began); took > 100*time.Millisecond {
			t.Errorf("the other network waited %s", took)
		}
		cancel()
		synctest.Wait()
	})
}
