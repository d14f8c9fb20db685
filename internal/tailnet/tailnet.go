// Package tailnet puts the gate on a tailnet as a machine of its own, by
// Tailscale's tsnet: WireGuard and TCP in this process, and no port of TCP on
// the host. It says whose a machine that calls is; what that user may do it
// never decides. It tells nobody but the control server of it: no logs are
// uploaded.
//
// It is built with the tag tailnet only, for it adds 24 MB to the 57, and only
// together with ts_omit_peerapiserver: tsnet would open Tailscale's PeerAPI on
// every address of the host otherwise (ipn/ipnlocal/peerapi.go, listen).
package tailnet

import (
	"log/slog"
	"net/netip"
)

// Config is what [Join] needs to know.
type Config struct {
	Dir      string // for its state, the private key among it
	Hostname string // that it asks the tailnet for
	Control  string // URL of the control server; "" is Tailscale's
	// AuthKey has the tailnet take the machine in, the first time; "" leaves it
	// to tsnet's variables (TS_AUTHKEY) and then to Login.
	AuthKey   string
	Ephemeral bool // the tailnet forgets the machine when it is gone
	// Login is called with the page on which somebody has to let the machine in,
	// once for each such page, also when its membership ends while it runs.
	Login func(page string)
	Log   *slog.Logger // what tsnet says is for debugging
}

// Place is where the tailnet has the node.
type Place struct {
	Names []string // the whole name, in lower case and without a dot at its end, then its first part
	Addrs []netip.Addr
	HTTPS bool // the tailnet gives it certificates
}
