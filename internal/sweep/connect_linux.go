package sweep

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// dialTCP makes one attempt to connect, for at most timeout.
//
// Package net's way there is a dozen calls deep, through what finds addresses of
// names and tries several, with a context and a timer of its own: ten thousand
// attempts that wait would hold twice the memory.
func dialTCP(ctx context.Context, addr netip.AddrPort, timeout time.Duration) (net.Conn, error) {
	var to unix.Sockaddr
	family := unix.AF_INET
	switch ip := addr.Addr().Unmap(); {
	case ip.Is4():
		to = &unix.SockaddrInet4{Port: int(addr.Port()), Addr: ip.As4()}
	case ip.Zone() != "": // whose number is to be found out
		return dial(ctx, addr, timeout)
	default:
		family, to = unix.AF_INET6, &unix.SockaddrInet6{Port: int(addr.Port()), Addr: ip.As16()}
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	// An error leaves a slower connection, and no other.
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	if err := unix.Connect(fd, to); err != nil && err != unix.EINPROGRESS && err != unix.EINTR {
		_ = unix.Close(fd)
		return nil, os.NewSyscallError("connect", err)
	}
	// It does not block, and so is woken by the runtime's poller, as package net's
	// connections are.
	c := &conn{os.NewFile(uintptr(fd), "tcp"), addr}
	if err := c.connected(ctx, timeout); err != nil {
		_ = c.Close()
		return nil, err
	}
	return c, nil
}

// connected waits until the connection stands.
func (c *conn) connected(ctx context.Context, timeout time.Duration) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	if err := c.SetWriteDeadline(time.Now().Add(timeout)); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = c.SetWriteDeadline(time.Unix(1, 0)) })
	var refused error
	err = raw.Write(func(fd uintptr) (done bool) {
		// The poller may wake for nothing: what counts is whether there is a peer.
		if _, err := unix.Getpeername(int(fd)); err == nil {
			return true
		}
		if errno, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR); err != nil {
			refused = os.NewSyscallError("getsockopt", err)
		} else if errno != 0 {
			refused = os.NewSyscallError("connect", syscall.Errno(errno))
		}
		return refused != nil
	})
	if !stop() && ctx.Err() != nil {
		return context.Cause(ctx) // and the deadline is, or will be, the past
	}
	if err = errors.Join(err, refused); err != nil {
		return err
	}
	return c.SetWriteDeadline(time.Time{})
}

// conn is a TCP connection on a descriptor that the runtime's poller watches.
type conn struct {
	*os.File
	remote netip.AddrPort
}

func (c *conn) Read(b []byte) (int, error) {
	n, err := c.File.Read(b)
	return n, opError("read", err)
}

func (c *conn) Write(b []byte) (int, error) {
	n, err := c.File.Write(b)
	return n, opError("write", err)
}

// opError is err in the form that package net gives it.
func opError(op string, err error) error {
	if path := new(fs.PathError); errors.As(err, &path) {
		return &net.OpError{Op: op, Net: "tcp", Err: path.Err}
	}
	return err
}

func (c *conn) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(c.remote) }

func (c *conn) LocalAddr() net.Addr {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil
	}
	var local net.Addr
	_ = raw.Control(func(fd uintptr) { // fails on one that is closed, which has none
		switch a, _ := unix.Getsockname(int(fd)); a := a.(type) {
		case *unix.SockaddrInet4:
			local = &net.TCPAddr{IP: a.Addr[:], Port: a.Port}
		case *unix.SockaddrInet6:
			local = &net.TCPAddr{IP: a.Addr[:], Port: a.Port}
		}
	})
	return local
}
