package ollamatest

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
)

// Fill brings up a whole network on one port, with one listener for all of its
// addresses: more servers than there are file descriptors. The listener is bound
// to the loopback device, so nothing from elsewhere reaches it. It calls at for
// every visit, from many goroutines; where that returns nil, the connection is
// reset: an address with no server is not refused, as it is on a street that
// was opened house by house.
func Fill(network netip.Prefix, port uint16, at func(netip.Addr) *Server) (*Street, error) {
	if !network.Addr().Is4() || !network.Masked().Addr().IsLoopback() || network.Bits() < 8 {
		return nil, fmt.Errorf("fill %s: %w", network, ErrNotLoopback)
	}
	lc := net.ListenConfig{KeepAlive: -1, Control: func(_, _ string, c syscall.RawConn) error {
		var bind error
		err := c.Control(func(fd uintptr) {
			bind = syscall.SetsockoptString(int(fd), syscall.SOL_SOCKET, syscall.SO_BINDTODEVICE, "lo")
		})
		return errors.Join(err, bind)
	}}
	ln, err := lc.Listen(context.Background(), "tcp4", fmt.Sprintf("0.0.0.0:%d", port))
	if err != nil {
		return nil, fmt.Errorf("fill %s: %w", network, err)
	}
	st := &Street{visitors: make(map[net.Conn]struct{}), listeners: []net.Listener{ln}}
	st.wg.Go(func() {
		st.welcome(ln, func(c net.Conn) (*Server, *tls.Config) {
			addr := c.LocalAddr().(*net.TCPAddr).AddrPort().Addr().Unmap()
			if !network.Contains(addr) {
				return nil, nil
			}
			return at(addr), nil
		})
	})
	return st, nil
}
