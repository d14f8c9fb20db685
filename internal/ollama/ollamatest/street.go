package ollamatest

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"
)

// House is a server at an address.
type House struct {
	Addr   netip.AddrPort // port 0 lets the system choose; the zero value is 127.0.0.1 with port 0
	Server *Server
}

// Street is a set of servers that are up.
type Street struct {
	Houses []House // with the ports that the system chose

	listeners []net.Listener
	wg        sync.WaitGroup
	mu        sync.Mutex
	visitors  map[net.Conn]struct{} // nil once the street is closed
}

// ErrNotLoopback says that a house was to stand where others could reach it.
var ErrNotLoopback = errors.New("not a loopback address")

// Open brings up every house, or none. It needs one file descriptor a house and
// one a visitor. On Linux all of 127.0.0.0/8 is there to build on; elsewhere it
// may be 127.0.0.1 alone.
func Open(houses ...House) (*Street, error) {
	st := &Street{Houses: make([]House, 0, len(houses)), visitors: make(map[net.Conn]struct{})}
	configs := make(map[*Server]*tls.Config)
	for _, h := range houses {
		if err := st.build(h, configs); err != nil {
			st.Close()
			return nil, err
		}
	}
	for i, ln := range st.listeners {
		s := st.Houses[i].Server
		cfg := configs[s]
		st.wg.Go(func() {
			st.welcome(ln, func(net.Conn) (*Server, *tls.Config) { return s, cfg })
		})
	}
	return st, nil
}

// One brings up one server on a free port of 127.0.0.1.
func One(s *Server) (*Street, error) { return Open(House{Server: s}) }

// build listens for one house.
func (st *Street) build(h House, configs map[*Server]*tls.Config) error {
	if !h.Addr.IsValid() {
		h.Addr = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), h.Addr.Port())
	}
	if !h.Addr.Addr().Unmap().IsLoopback() {
		return fmt.Errorf("build %s at %s: %w", h.Server.Name, h.Addr, ErrNotLoopback)
	}
	if h.Server.TLS && configs[h.Server] == nil {
		cfg, err := h.Server.tls.config()
		if err != nil {
			return fmt.Errorf("certificate for %s: %w", h.Server.Name, err)
		}
		configs[h.Server] = cfg
	}
	// A visit is over in milliseconds: keep-alive probes would be four system
	// calls a visit for nothing.
	lc := net.ListenConfig{KeepAlive: -1}
	ln, err := lc.Listen(context.Background(), "tcp", h.Addr.String())
	if err != nil {
		return fmt.Errorf("build %s: %w", h.Server.Name, err)
	}
	h.Addr = ln.Addr().(*net.TCPAddr).AddrPort()
	st.Houses = append(st.Houses, h)
	st.listeners = append(st.listeners, ln)
	return nil
}

// welcome takes a listener's visitors until it closes, each to the server that
// they came for.
func (st *Street) welcome(ln net.Listener, to func(net.Conn) (*Server, *tls.Config)) {
	for {
		c, err := ln.Accept()
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil: // out of file descriptors: some visitors will leave
			time.Sleep(5 * time.Millisecond)
			continue
		}
		if !st.enter(c) {
			_ = c.Close()
			return
		}
		st.wg.Go(func() {
			defer st.leave(c)
			s, cfg := to(c)
			switch {
			case s == nil:
				reset(nil, c)
			case cfg != nil:
				s.serveTLS(c, cfg)
			case s.talk != nil:
				s.talk(s, c)
			default:
				s.serve(c)
			}
		})
	}
}

// enter remembers c, so that Close can end it; false when the street is closed.
func (st *Street) enter(c net.Conn) bool {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.visitors == nil {
		return false
	}
	st.visitors[c] = struct{}{}
	return true
}

func (st *Street) leave(c net.Conn) {
	_ = c.Close()
	st.mu.Lock()
	delete(st.visitors, c)
	st.mu.Unlock()
}

// Close ends every conversation and frees every address. It is idempotent.
func (st *Street) Close() {
	for _, ln := range st.listeners {
		_ = ln.Close()
	}
	st.mu.Lock()
	for c := range st.visitors {
		_ = c.Close()
	}
	st.visitors = nil
	st.mu.Unlock()
	st.wg.Wait()
}

// Harm returns what visitors did that would have harmed a real server, for all
// houses together.
func (st *Street) Harm() []string {
	var all []string
	seen := make(map[*Server]bool)
	for _, h := range st.Houses {
		if !seen[h.Server] {
			seen[h.Server] = true
			for _, line := range h.Server.Harm() {
				all = append(all, h.Server.Name+": "+line)
			}
		}
	}
	return all
}
