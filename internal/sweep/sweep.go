// Package sweep finds out which places have their port open, by TCP connect,
// and hands the open connection on; or by raw SYNs, and says which answered (see
// SYN). It sends no byte over a connection, and dials and asks nothing that its
// scope forbids.
//
// A raw sweep is stateless, as ZMap's is (Durumeric and others, USENIX Security
// 2013). That a place answers a SYN does not make it a service (Izhikevich and
// others, "LZR", USENIX Security 2021): whoever runs it connects to those that
// answer at once, and holds the sweep back when it can't keep up.
package sweep

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"gatehouse/internal/scope"
)

// Sweeper opens connections at a bounded rate. Its fields are set once, before
// the first Dial; any number of Dials may run at the same time.
type Sweeper struct {
	// Allows is asked before every attempt; nil allows nothing.
	Allows func(netip.Addr) error
	// Timeout of one attempt; default 3 s.
	Timeout time.Duration
	// Retries is how many more attempts are made when nothing comes back.
	// A refusal is an answer and is not asked for again.
	Retries int
	// Limit bounds the rate of attempts; nil does not.
	Limit *Limit
	// Connect makes one attempt; nil is the network.
	Connect func(context.Context, netip.AddrPort) (net.Conn, error)

	retried  atomic.Uint64
	pressure pressure
}

// Retried is how many attempts were made again because nothing came back.
func (s *Sweeper) Retried() uint64 { return s.retried.Load() }

// Pressure is how many attempts were put off because this machine ran short of
// files, ports or buffers. Such an attempt says nothing about the place and is
// made again until it can be.
func (s *Sweeper) Pressure() uint64 { return s.pressure.count.Load() }

// Dial connects to addr. The error is the scope's, the context's, or that of
// the last attempt; a place that never answers ends in os.ErrDeadlineExceeded.
func (s *Sweeper) Dial(ctx context.Context, addr netip.AddrPort) (net.Conn, error) {
	if s.Allows == nil {
		return nil, scope.ErrNoScope
	}
	timeout := cmp.Or(s.Timeout, 3*time.Second)
	for tries := 0; ; {
		if err := s.Allows(addr.Addr()); err != nil {
			return nil, err
		}
		if err := s.pressure.wait(ctx); err != nil {
			return nil, err
		}
		if err := s.Limit.wait(ctx, addr.Addr()); err != nil {
			return nil, err
		}
		conn, err := s.attempt(ctx, addr, timeout)
		switch {
		case err == nil:
			s.pressure.relieve()
			return conn, nil
		case ctx.Err() != nil:
			return nil, context.Cause(ctx)
		case short(err):
			s.pressure.raise()
		case timedOut(err) && tries < s.Retries:
			tries++
			s.retried.Add(1)
		case timedOut(err):
			return nil, fmt.Errorf("connect: %w", os.ErrDeadlineExceeded)
		default:
			return nil, err
		}
	}
}

func (s *Sweeper) attempt(ctx context.Context, addr netip.AddrPort, timeout time.Duration) (net.Conn, error) {
	if s.Connect != nil {
		ctx, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		return s.Connect(ctx, addr)
	}
	conn, err := dialTCP(ctx, addr, timeout)
	if errors.Is(err, syscall.EADDRNOTAVAIL) && !hasSource(addr) {
		return nil, fmt.Errorf("connect: %w", syscall.ENETUNREACH)
	}
	return conn, err
}

// dial is dialTCP by package net. It leaves the local port to connect. DialTCP
// with no local address would bind to port 0 first: that finds a port that is
// free towards every place, so that the ports run out after 28,000 connections
// however many places there are, and the search for the last of them takes the
// kernel milliseconds.
func dial(ctx context.Context, addr netip.AddrPort, timeout time.Duration) (net.Conn, error) {
	d := net.Dialer{Timeout: timeout, KeepAliveConfig: net.KeepAliveConfig{Enable: false}, KeepAlive: -1}
	return d.DialContext(ctx, "tcp", addr.String())
}

// hasSource reports whether this machine has an address to reach addr from.
// Where it has none, as with IPv6 switched off, connect fails with the same
// error as when the ports run out, and would for ever. Connecting a UDP socket
// needs the address too, and no TCP port; it sends nothing.
func hasSource(addr netip.AddrPort) bool {
	conn, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(addr))
	if err == nil {
		_ = conn.Close()
	}
	return !errors.Is(err, syscall.EADDRNOTAVAIL)
}

// short reports whether err says that this machine, not the place, is at its
// limit: out of files, of ephemeral ports, of buffers.
func short(err error) bool {
	for _, e := range []syscall.Errno{
		syscall.EMFILE, syscall.ENFILE, syscall.EADDRNOTAVAIL, syscall.ENOBUFS, syscall.ENOMEM, syscall.EAGAIN,
	} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// timedOut reports whether err says that nothing came back.
func timedOut(err error) bool {
	return errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded) ||
		errors.Is(err, syscall.ETIMEDOUT)
}

// pressure holds back all attempts while this machine is short of something,
// from 10 ms doubling to 1 s, so that running short slows a sweep down and
// never makes an open port look closed.
type pressure struct {
	count atomic.Uint64
	until atomic.Int64 // UnixNano; 0 when there is no pressure

	mu    sync.Mutex
	delay time.Duration
}

func (p *pressure) wait(ctx context.Context) error {
	until := p.until.Load()
	if until == 0 {
		return nil
	}
	return sleepUntil(ctx, time.Unix(0, until))
}

func (p *pressure) raise() {
	p.count.Add(1)
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	if now.UnixNano() < p.until.Load() {
		return // others failed at the same moment; one step is enough
	}
	p.delay = min(max(2*p.delay, 10*time.Millisecond), time.Second)
	p.until.Store(now.Add(p.delay).UnixNano())
}

func (p *pressure) relieve() {
	if p.until.Load() == 0 {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.until.Load() <= time.Now().UnixNano() {
		p.delay = 0
		p.until.Store(0)
	}
}

func sleepUntil(ctx context.Context, t time.Time) error {
	d := time.Until(t)
	if d <= 0 {
		return nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
