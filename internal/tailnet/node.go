//go:build tailnet && ts_omit_peerapiserver

package tailnet

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"tailscale.com/client/local"
	"tailscale.com/client/tailscale/apitype"
	"tailscale.com/envknob"
	"tailscale.com/ipn"
	"tailscale.com/ipn/ipnstate"
	"tailscale.com/tsnet"

	"gatehouse/internal/key"
)

// Node is this process as a machine of the tailnet.
type Node struct {
	server  *tsnet.Server
	client  *local.Client
	config  Config
	stop    context.CancelFunc
	watcher sync.WaitGroup

	mu     sync.Mutex
	state  ipn.State
	refuse string // why the tailnet does not go on, "" when it does
	moved  chan struct{}
}

// Join brings the node up and waits until the tailnet has taken it in, or ctx
// ends. Close the node in the end.
func Join(ctx context.Context, c Config) (*Node, error) {
	// Before anything of Tailscale's runs: it is read there.
	envknob.SetNoLogsNoSupport()
	logf := func(format string, a ...any) {
		if c.Log.Enabled(context.Background(), slog.LevelDebug) {
			c.Log.Debug("tailnet", "says", strings.TrimSpace(fmt.Sprintf(format, a...)))
		}
	}
	n := &Node{config: c, moved: make(chan struct{}), server: &tsnet.Server{
		Dir: c.Dir, Hostname: c.Hostname, ControlURL: c.Control, AuthKey: c.AuthKey, Ephemeral: c.Ephemeral,
		Logf: logf, UserLogf: logf,
	}}
	if err := n.server.Start(); err != nil {
		return nil, fmt.Errorf("start on the tailnet: %w", err)
	}
	var err error
	if n.client, err = n.server.LocalClient(); err != nil {
		return nil, errors.Join(err, n.server.Close())
	}
	watched, stop := context.WithCancel(context.WithoutCancel(ctx))
	n.stop = stop
	n.watcher.Go(func() { n.watch(watched) })
	if err := n.running(ctx); err != nil {
		return nil, errors.Join(err, n.Close())
	}
	// Up forgets what an earlier program served from this state, a funnel to the
	// internet among it.
	if _, err := n.server.Up(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("join the tailnet: %w", err), n.Close())
	}
	return n, nil
}

// watch follows what becomes of the node until ctx ends.
func (n *Node) watch(ctx context.Context) {
	page := ""
	for ctx.Err() == nil {
		bus, err := n.client.WatchIPNBus(ctx, ipn.NotifyInitialState)
		for err == nil {
			var said ipn.Notify
			if said, err = bus.Next(); err != nil {
				bus.Close()
				break
			}
			if said.BrowseToURL != nil && *said.BrowseToURL != page {
				if page = *said.BrowseToURL; page != "" && n.config.Login != nil {
					n.config.Login(page)
				}
			}
			n.note(said.State, said.ErrMessage)
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Second): // the bus drops who is slow
		}
	}
}

func (n *Node) note(state *ipn.State, refuse *string) {
	if state == nil && refuse == nil {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if state != nil && *state != n.state {
		n.config.Log.Info("tailnet", "state", state.String())
		n.state = *state
		if n.state == ipn.Running {
			n.refuse = ""
		}
	}
	if refuse != nil {
		n.config.Log.Error("tailnet", "error", *refuse)
		n.refuse = *refuse
	}
	close(n.moved)
	n.moved = make(chan struct{})
}

// running waits until the node is on the tailnet.
func (n *Node) running(ctx context.Context) error {
	for {
		n.mu.Lock()
		state, refuse, moved := n.state, n.refuse, n.moved
		n.mu.Unlock()
		switch {
		case refuse != "":
			return fmt.Errorf("the tailnet does not take this machine: %s", refuse)
		case state == ipn.Running:
			return nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return fmt.Errorf("wait for the tailnet, which is at %s: %w", state, ctx.Err())
		}
	}
}

// Err says why nobody can call at the moment, nil when they can.
func (n *Node) Err() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.state != ipn.Running {
		return fmt.Errorf("the machine is not on the tailnet: %s", n.state)
	}
	return nil
}

// Place asks for where the node is now; its name can change at any time.
func (n *Node) Place(ctx context.Context) (Place, error) {
	status, err := n.client.StatusWithoutPeers(ctx)
	if err != nil {
		return Place{}, fmt.Errorf("ask for the place on the tailnet: %w", err)
	}
	return placeOf(status), nil
}

func placeOf(status *ipnstate.Status) Place {
	p := Place{Addrs: status.TailscaleIPs}
	if status.Self != nil {
		if name := strings.ToLower(strings.TrimSuffix(status.Self.DNSName, ".")); name != "" {
			short, _, _ := strings.Cut(name, ".")
			p.Names = []string{name, short}
		}
	}
	p.HTTPS = len(status.CertDomains) > 0 && status.CurrentTailnet != nil && status.CurrentTailnet.MagicDNSEnabled
	return p
}

// Listen opens a port on the tailnet, and nowhere else.
func (n *Node) Listen(port string) (net.Listener, error) {
	return n.server.Listen("tcp", net.JoinHostPort("", port))
}

// certTime is how long a certificate may take: an authority asks for a record in
// DNS first.
const certTime = 3 * time.Minute

// TLS serves with the certificate that the tailnet gives. The first is asked for
// now, before anybody waits for it.
func (n *Node) TLS(ctx context.Context, place Place) *tls.Config {
	n.watcher.Go(func() {
		ctx, cancel := context.WithTimeout(ctx, certTime)
		defer cancel()
		if len(place.Names) == 0 {
			return
		}
		if _, _, err := n.client.CertPair(ctx, place.Names[0]); err != nil && ctx.Err() == nil {
			n.config.Log.Error("the tailnet gives no certificate yet", "name", place.Names[0], "error", err.Error())
		}
	})
	return &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}, GetCertificate: n.client.GetCertificate}
}

// WhoIs is key.WhoIs. The address alone is asked for: with a port, tsnet would
// also look among connections that it made on the host itself. It takes some
// 0.2 ms (measured), which is little beside any answer, so that nothing is kept:
// who leaves the tailnet is out with the next request.
func (n *Node) WhoIs(ctx context.Context, addr netip.Addr) (key.Peer, error) {
	who, err := n.client.WhoIs(ctx, addr.String())
	switch {
	case errors.Is(err, local.ErrPeerNotFound):
		return key.Peer{}, key.ErrNoPeer
	case err != nil:
		return key.Peer{}, fmt.Errorf("ask whose %s is: %w", addr, err)
	}
	return peerOf(who)
}

func peerOf(who *apitype.WhoIsResponse) (key.Peer, error) {
	node := who.Node
	if node == nil || who.UserProfile == nil || node.Expired || node.UnsignedPeerAPIOnly || node.IsWireGuardOnly || node.IsJailed {
		// Those that may not open a connection here have opened none.
		return key.Peer{}, key.ErrNoPeer
	}
	name, _, _ := strings.Cut(strings.TrimSuffix(node.Name, "."), ".")
	return key.Peer{
		ID: string(node.StableID), Name: name, Login: who.UserProfile.LoginName, Tags: node.Tags,
		// Machines of those whom this one is shared with, and machines that others
		// share with this tailnet.
		Shared: node.Sharer != 0 || node.Hostinfo.Valid() && node.Hostinfo.ShareeNode(),
	}, nil
}

// Close takes the node off the tailnet. Its listeners are closed then.
func (n *Node) Close() error {
	n.stop()
	n.watcher.Wait()
	return n.server.Close()
}
