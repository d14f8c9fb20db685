//go:build !linux

package ollamatest

import (
	"errors"
	"net/netip"
)

// Fill needs Linux, where all of 127.0.0.0/8 is there to build on.
func Fill(netip.Prefix, uint16, func(netip.Addr) *Server) (*Street, error) {
	return nil, errors.ErrUnsupported
}
