package sweep_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"time"

	"gatehouse/internal/sweep"
)

// A connection of the sweep's is one as package net makes them: it is read,
// written, timed and closed, and its errors are told apart in the same way.
func TestConn(t *testing.T) {
	for _, at := range []string{"127.0.0.1:0", "[::1]:0"} {
		ln, err := net.Listen("tcp", at)
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		to := ln.Addr().(*net.TCPAddr).AddrPort()
		s := sweep.Sweeper{Allows: all}
		conn, err := s.Dial(t.Context(), to)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		peer, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer peer.Close()
		if conn.RemoteAddr().String() != to.String() || conn.LocalAddr().String() != peer.RemoteAddr().String() {
			t.Errorf("%s: from %s to %s; the peer says from %s", to, conn.LocalAddr(), conn.RemoteAddr(), peer.RemoteAddr())
		}
		if _, err := conn.Write([]byte("hello")); err != nil {
			t.Error(err)
		}
		var b [16]byte
		if n, err := peer.Read(b[:]); string(b[:n]) != "hello" || err != nil {
			t.Errorf("%q, %v", b[:n], err)
		}
		if err := conn.SetDeadline(time.Now().Add(10 * time.Millisecond)); err != nil {
			t.Error(err)
		}
		if _, err := conn.Read(b[:]); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("read in vain: %v", err)
		}
		if err := conn.SetDeadline(time.Time{}); err != nil {
			t.Error(err)
		}
		if err := peer.(*net.TCPConn).CloseWrite(); err != nil {
			t.Error(err)
		}
		if _, err := conn.Read(b[:]); err != io.EOF {
			t.Errorf("at the end: %v", err)
		}
		if err := peer.(*net.TCPConn).SetLinger(0); err != nil {
			t.Error(err)
		}
		_ = peer.Close()
		for err = nil; err == nil; {
			_, err = conn.Write(b[:])
		}
		if op := new(net.OpError); !errors.As(err, &op) || !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
			t.Errorf("after a reset: %v", err)
		}
		_ = ln.Close()
		if _, err := s.Dial(t.Context(), to); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("nobody listens: %v", err)
		}
	}
}

// A connection whose context ends while it is waited for is given up, with the
// context's own error.
func TestConnGivenUp(t *testing.T) {
	if !apart(t) {
		return
	}
	loopbackUp(t)
	// A place whose queue of connections is full answers no more.
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(fd)
	if err := errors.Join(syscall.Bind(fd, &syscall.SockaddrInet4{Port: 11434, Addr: [4]byte{127, 0, 0, 1}}), syscall.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	to := netip.MustParseAddrPort("127.0.0.1:11434")
	s := sweep.Sweeper{Allows: all, Timeout: 100 * time.Millisecond}
	for {
		conn, err := s.Dial(t.Context(), to)
		if err == nil {
			defer conn.Close()
			continue
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("a full queue: %v", err)
		}
		break
	}
	s.Timeout = time.Minute
	ctx, cancel := context.WithTimeoutCause(t.Context(), 50*time.Millisecond, errEnough)
	defer cancel()
	if _, err := s.Dial(ctx, to); !errors.Is(err, errEnough) {
		t.Errorf("given up: %v", err)
	}
}

var errEnough = errors.New("enough")
