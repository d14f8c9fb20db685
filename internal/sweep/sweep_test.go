package sweep_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"gatehouse/internal/scope"
	"gatehouse/internal/sweep"
)

var place = netip.MustParseAddrPort("127.0.0.1:11434")

func all(netip.Addr) error { return nil }

// open is a Connect that succeeds at once.
func open(context.Context, netip.AddrPort) (net.Conn, error) { return nopConn{}, nil }

// nopConn is a connection that nobody uses.
type nopConn struct{ net.Conn }

func (nopConn) Close() error { return nil }

// silence is a Connect to a place that drops every packet, as the network's
// reports it.
func silence(ctx context.Context, _ netip.AddrPort) (net.Conn, error) {
	<-ctx.Done()
	return nil, &net.OpError{Op: "dial", Net: "tcp", Err: os.ErrDeadlineExceeded}
}

// system is an error as package net wraps one of the system's.
func system(call string, errno syscall.Errno) error {
	return &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError(call, errno)}
}

// listen takes connections on a free port of address until the test ends, and
// gives each to talk, which has to return once the connection is closed.
func listen(t *testing.T, address string, talk func(net.Conn)) netip.AddrPort {
	t.Helper()
	ln, err := net.Listen("tcp", net.JoinHostPort(address, "0"))
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer conn.Close()
				talk(conn)
			})
		}
	})
	t.Cleanup(wg.Wait)
	t.Cleanup(func() { _ = ln.Close() })
	return ln.Addr().(*net.TCPAddr).AddrPort()
}

// closedPort is a port of 127.0.0.1 at which nobody listens.
func closedPort(t *testing.T) netip.AddrPort {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().(*net.TCPAddr).AddrPort()
}

func TestZeroDialsNothing(t *testing.T) {
	var calls atomic.Int32
	s := sweep.Sweeper{Connect: func(context.Context, netip.AddrPort) (net.Conn, error) {
		calls.Add(1)
		return nopConn{}, nil
	}}
	if _, err := s.Dial(t.Context(), place); !errors.Is(err, scope.ErrNoScope) {
		t.Errorf("error %v, want one of scope's", err)
	}
	if _, err := new(sweep.Sweeper).Dial(t.Context(), place); !errors.Is(err, scope.ErrNoScope) {
		t.Errorf("error %v, want one of scope's", err)
	}
	if n := calls.Load(); n != 0 {
		t.Errorf("connected %d times", n)
	}
}

func TestRealPlaces(t *testing.T) {
	for _, address := range []string{"127.0.0.1", "::1"} {
		heard := make(chan []byte, 1)
		at := listen(t, address, func(conn net.Conn) {
			_, _ = io.WriteString(conn, "welcome")
			all, _ := io.ReadAll(conn)
			heard <- all
		})
		s := sweep.Sweeper{Allows: all}
		conn, err := s.Dial(t.Context(), at)
		if err != nil {
			t.Fatal(err)
		}
		if got := conn.RemoteAddr().String(); got != at.String() {
			t.Errorf("connected to %s, want %s", got, at)
		}
		// What is handed on is open, with nothing read from it ...
		welcome := make([]byte, 7)
		if _, err := io.ReadFull(conn, welcome); err != nil || string(welcome) != "welcome" {
			t.Errorf("read %q, %v", welcome, err)
		}
		// ... and nothing sent on it.
		_ = conn.Close()
		if got := <-heard; len(got) > 0 {
			t.Errorf("the place heard %q", got)
		}
	}

	s := sweep.Sweeper{Allows: all, Retries: 5}
	if _, err := s.Dial(t.Context(), closedPort(t)); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("a closed port: %v, want connection refused", err)
	}
	if s.Retried() != 0 || s.Pressure() != 0 {
		t.Errorf("a closed port was asked again: retried %d, pressure %d", s.Retried(), s.Pressure())
	}
}

// TestAllows holds the sweeper to asking before every attempt: a scope that
// expires while attempts are made ends them.
func TestAllows(t *testing.T) {
	for _, want := range []error{scope.ErrNoScope, scope.ErrExpired, scope.ErrOutside, scope.ErrExcluded, scope.ErrSpecial} {
		t.Run(want.Error(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				for attempts := range 4 {
					var steps []string
					left := attempts
					s := sweep.Sweeper{Retries: 10, Timeout: time.Second}
					s.Allows = func(a netip.Addr) error {
						steps = append(steps, "ask "+a.String())
						if left == 0 {
							return fmt.Errorf("%s: %w", a, want)
						}
						left--
						return nil
					}
					s.Connect = func(ctx context.Context, a netip.AddrPort) (net.Conn, error) {
						steps = append(steps, "connect "+a.String())
						if attempts%2 == 1 {
							return nil, system("socket", syscall.EMFILE)
						}
						return silence(ctx, a)
					}
					conn, err := s.Dial(t.Context(), place)
					if conn != nil || !errors.Is(err, want) {
						t.Errorf("%v, %v, want %v", conn, err, want)
					}
					var expected []string
					for range attempts {
						expected = append(expected, "ask 127.0.0.1", "connect 127.0.0.1:11434")
					}
					if expected = append(expected, "ask 127.0.0.1"); !slices.Equal(steps, expected) {
						t.Errorf("steps %q, want %q", steps, expected)
					}
				}
			})
		})
	}
}

func TestAnswersAreNotAskedForAgain(t *testing.T) {
	for _, errno := range []syscall.Errno{
		syscall.ECONNREFUSED, syscall.ECONNRESET, syscall.EHOSTUNREACH, syscall.ENETUNREACH, syscall.EACCES, syscall.EPERM,
	} {
		var calls int
		s := sweep.Sweeper{Allows: all, Retries: 3, Connect: func(context.Context, netip.AddrPort) (net.Conn, error) {
			calls++
			return nil, system("connect", errno)
		}}
		conn, err := s.Dial(t.Context(), place)
		if conn != nil || !errors.Is(err, errno) {
			t.Errorf("%v: %v, %v", errno, conn, err)
		}
		if calls != 1 || s.Retried() != 0 || s.Pressure() != 0 {
			t.Errorf("%v: %d attempts, retried %d, pressure %d; want one attempt", errno, calls, s.Retried(), s.Pressure())
		}
	}
}

func TestSilenceIsAskedAgain(t *testing.T) {
	errs := map[string]func(context.Context, netip.AddrPort) (net.Conn, error){
		"deadline": silence,
		"context":  func(ctx context.Context, _ netip.AddrPort) (net.Conn, error) { <-ctx.Done(); return nil, ctx.Err() },
		"system": func(ctx context.Context, _ netip.AddrPort) (net.Conn, error) {
			<-ctx.Done()
			return nil, system("connect", syscall.ETIMEDOUT)
		},
	}
	for name, fails := range errs {
		for _, timeout := range []time.Duration{0, 700 * time.Millisecond} {
			t.Run(fmt.Sprint(name, timeout), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					calls := 0
					s := sweep.Sweeper{Allows: all, Retries: 2, Timeout: timeout, Connect: func(ctx context.Context, a netip.AddrPort) (net.Conn, error) {
						calls++
						return fails(ctx, a)
					}}
					start := time.Now()
					conn, err := s.Dial(t.Context(), place)
					if conn != nil || !errors.Is(err, os.ErrDeadlineExceeded) {
						t.Errorf("%v, %v, want the deadline's error", conn, err)
					}
					if calls != 3 || s.Retried() != 2 || s.Pressure() != 0 {
						t.Errorf("%d attempts, retried %d, pressure %d; want 3, 2, 0", calls, s.Retried(), s.Pressure())
					}
					want := 3 * timeout
					if timeout == 0 {
						want = 9 * time.Second
					}
					if took := time.Since(start); took != want {
						t.Errorf("took %v, want %v", took, want)
					}
				})
			})
		}
	}
}

// TestLateAnswer is a place whose first packets are lost.
func TestLateAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		calls := 0
		s := sweep.Sweeper{Allows: all, Retries: 2, Connect: func(ctx context.Context, a netip.AddrPort) (net.Conn, error) {
			if calls++; calls < 3 {
				return silence(ctx, a)
			}
			return open(ctx, a)
		}}
		if conn, err := s.Dial(t.Context(), place); conn == nil || err != nil {
			t.Errorf("%v, %v, want a connection", conn, err)
		}
		if s.Retried() != 2 {
			t.Errorf("retried %d, want 2", s.Retried())
		}
	})
}

var shortages = []syscall.Errno{
	syscall.EMFILE, syscall.ENFILE, syscall.EADDRNOTAVAIL, syscall.ENOBUFS, syscall.ENOMEM, syscall.EAGAIN,
}

// TestShortage is a machine that runs out of something for a while: the place
// comes out open all the same, after pauses of 10 ms doubling to 1 s.
func TestShortage(t *testing.T) {
	for _, errno := range shortages {
		t.Run(errno.Error(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var at []time.Duration
				start := time.Now()
				s := sweep.Sweeper{Allows: all, Connect: func(ctx context.Context, a netip.AddrPort) (net.Conn, error) {
					if at = append(at, time.Since(start)); len(at) <= 10 {
						return nil, system("socket", errno)
					}
					return open(ctx, a)
				}}
				if conn, err := s.Dial(t.Context(), place); conn == nil || err != nil {
					t.Fatalf("%v, %v, want a connection", conn, err)
				}
				if s.Pressure() != 10 || s.Retried() != 0 {
					t.Errorf("pressure %d, retried %d; want 10, 0", s.Pressure(), s.Retried())
				}
				for i, pause := range []time.Duration{10, 20, 40, 80, 160, 320, 640, 1000, 1000, 1000} {
					if got := at[i+1] - at[i]; got != pause*time.Millisecond {
						t.Errorf("pause %d was %v, want %v", i, got, pause*time.Millisecond)
					}
				}
				// The pressure is off: the next attempt does not wait.
				before := time.Now()
				if _, err := s.Dial(t.Context(), place); err != nil || time.Since(before) > 0 {
					t.Errorf("the next attempt came after %v, %v", time.Since(before), err)
				}
			})
		})
	}
}

// TestFewFiles sweeps two hundred places with files for seven connections.
func TestFewFiles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var held atomic.Int32
		s := sweep.Sweeper{Allows: all, Connect: func(context.Context, netip.AddrPort) (net.Conn, error) {
			if held.Add(1) > 7 {
				held.Add(-1)
				return nil, system("socket", syscall.EMFILE)
			}
			return nopConn{}, nil
		}}
		var wg sync.WaitGroup
		var opened atomic.Int32
		for range 200 {
			wg.Go(func() {
				conn, err := s.Dial(t.Context(), place)
				if err != nil {
					t.Errorf("came out as %v", err)
					return
				}
				opened.Add(1)
				time.Sleep(50 * time.Millisecond)
				_ = conn.Close()
				held.Add(-1)
			})
		}
		start := time.Now()
		wg.Wait()
		if opened.Load() != 200 || s.Pressure() == 0 {
			t.Errorf("%d of 200 opened, pressure %d", opened.Load(), s.Pressure())
		}
		if took := time.Since(start); took > time.Minute {
			t.Errorf("took %v", took)
		}
	})
}

// TestCancel ends the context in each of the states that Dial can be in; it has
// to return at once, with the cause.
func TestCancel(t *testing.T) {
	cause := errors.New("enough")
	states := map[string]func(t *testing.T) *sweep.Sweeper{
		"attempt": func(t *testing.T) *sweep.Sweeper {
			return &sweep.Sweeper{Retries: 5, Timeout: time.Hour, Connect: silence}
		},
		"no answer": func(t *testing.T) *sweep.Sweeper {
			return &sweep.Sweeper{Retries: 1 << 30, Timeout: time.Second, Connect: silence}
		},
		"shortage": func(t *testing.T) *sweep.Sweeper {
			return &sweep.Sweeper{Connect: func(context.Context, netip.AddrPort) (net.Conn, error) {
				return nil, system("socket", syscall.EMFILE)
			}}
		},
		"rate": func(t *testing.T) *sweep.Sweeper {
			s := &sweep.Sweeper{Allows: all, Limit: sweep.NewLimit(0.01, 0), Connect: open}
			_, _ = s.Dial(t.Context(), place)
			return s
		},
		"network's rate": func(t *testing.T) *sweep.Sweeper {
			s := &sweep.Sweeper{Allows: all, Limit: sweep.NewLimit(0, 0.01), Connect: open}
			_, _ = s.Dial(t.Context(), place)
			return s
		},
	}
	for name, state := range states {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := state(t)
				s.Allows = all
				ctx, cancel := context.WithCancelCause(t.Context())
				var end time.Time
				go func() {
					time.Sleep(7654 * time.Millisecond)
					end = time.Now()
					cancel(cause)
				}()
				conn, err := s.Dial(ctx, place)
				if conn != nil || !errors.Is(err, cause) {
					t.Errorf("%v, %v, want the cause", conn, err)
				}
				if late := time.Since(end); late != 0 {
					t.Errorf("returned %v late", late)
				}
			})
		})
	}
}
