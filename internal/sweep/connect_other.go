//go:build !linux

package sweep

import (
	"context"
	"net"
	"net/netip"
	"time"
)

// dialTCP makes one attempt to connect, for at most timeout.
func dialTCP(ctx context.Context, addr netip.AddrPort, timeout time.Duration) (net.Conn, error) {
	return dial(ctx, addr, timeout)
}
