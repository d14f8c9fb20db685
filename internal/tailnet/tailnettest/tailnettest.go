//go:build tailnet && ts_omit_peerapiserver && linux

// Package tailnettest is a tailnet for tests: Tailscale's own control server and
// relay on loopback, and machines of the tailnet in the test's process. It never
// reaches beyond a network namespace of its own.
package tailnettest

import (
	"context"
	"crypto/tls"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"tailscale.com/derp/derpserver"
	"tailscale.com/ipn/store/mem"
	"tailscale.com/net/stun/stuntest"
	"tailscale.com/tailcfg"
	"tailscale.com/tsnet"
	"tailscale.com/tstest/integration/testcontrol"
	tskey "tailscale.com/types/key"
	"tailscale.com/types/nettype"
)

// Domain is that of the machines' names, and UserDomain that of users.
const (
	Domain     = "tail-scale.ts.net"
	UserDomain = "fake-control.example.net"
)

// Patience is how long anything on the tailnet may take, on a busy machine. It
// bounds a hang and measures nothing.
const Patience = time.Minute

const apartEnv = "GATEHOUSE_TAILNET_APART"

// Apart runs the test that calls it once more, in a network namespace with a wire
// that ends nowhere, and returns true in there: a machine of a tailnet asks its
// router for a port, and looks for relays and ways out, of which a test has none
// to offer.
func Apart(t *testing.T) bool {
	t.Helper()
	if os.Getenv(apartEnv) != "" {
		for line := range strings.Lines(`link set lo up
link add wire type veth peer name eriw
addr add 10.77.0.2/24 dev wire
link set wire up
link set eriw up
route add default via 10.77.0.1
`) {
			ip := exec.CommandContext(t.Context(), "ip", strings.Fields(line)...)
			if out, err := ip.CombinedOutput(); err != nil {
				t.Fatalf("%v: %v %s", ip, err, out)
			}
		}
		return true
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self, "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=5m")
	cmd.Env = append(os.Environ(), apartEnv+"=1", "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
		Pdeathsig:   syscall.SIGKILL,
	}
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Errorf("in a network namespace: %v\n%s", err, out)
	}
	return false
}

// Control is a control server, changed before it serves, and a relay.
func Control(t *testing.T, change func(*testcontrol.Server)) *testcontrol.Server {
	t.Helper()
	quiet := func(string, ...any) {}
	c := &testcontrol.Server{
		DERPMap:        relay(t),
		DNSConfig:      &tailcfg.DNSConfig{Proxied: true},
		MagicDNSDomain: Domain,
		Logf:           quiet,
	}
	if change != nil {
		change(c)
	}
	c.HTTPTestServer = httptest.NewUnstartedServer(c)
	c.HTTPTestServer.Start()
	t.Cleanup(c.HTTPTestServer.Close)
	return c
}

// relay is a relay that also tells machines their addresses, as Tailscale's own
// tests have it (tstest/integration, which would bring the SDK of AWS along).
func relay(t *testing.T) *tailcfg.DERPMap {
	t.Helper()
	quiet := func(string, ...any) {}
	derp := derpserver.New(tskey.NewNode(), quiet)
	srv := httptest.NewUnstartedServer(derpserver.Handler(derp))
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	srv.Config.TLSNextProto = make(map[string]func(*http.Server, *tls.Conn, http.Handler)) // a machine takes the connection over
	srv.StartTLS()
	stun, stopStun := stuntest.ServeWithPacketListener(t, nettype.Std{})
	t.Cleanup(func() {
		srv.CloseClientConnections()
		srv.Close()
		derp.Close()
		stopStun()
	})
	return &tailcfg.DERPMap{Regions: map[int]*tailcfg.DERPRegion{1: {RegionID: 1, RegionCode: "test", Nodes: []*tailcfg.DERPNode{{
		Name: "t1", RegionID: 1, HostName: "127.0.0.1", IPv4: "127.0.0.1", IPv6: "none",
		DERPPort: srv.Listener.Addr().(*net.TCPAddr).Port, InsecureForTests: true,
		STUNPort: stun.Port, STUNTestIP: "127.0.0.1",
	}}}}}
}

// Machine is a machine of the tailnet by name. Users are user-1, user-2 and so on
// at UserDomain, in the order in which their machines came.
func Machine(t *testing.T, c *testcontrol.Server, name string) *tsnet.Server {
	t.Helper()
	quiet := func(string, ...any) {}
	s := &tsnet.Server{
		Dir: filepath.Join(t.TempDir(), name), ControlURL: c.BaseURL(), Hostname: name, AuthKey: c.RequireAuthKey,
		Ephemeral: true, Store: new(mem.Store), Logf: quiet, UserLogf: quiet,
	}
	ctx, cancel := context.WithTimeout(t.Context(), Patience)
	defer cancel()
	if _, err := s.Up(ctx); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// Node is the control server's record of a machine by name.
func Node(t *testing.T, c *testcontrol.Server, name string) *tailcfg.Node {
	t.Helper()
	for _, n := range c.AllNodes() {
		if n.Hostinfo.Hostname() == name {
			return n
		}
	}
	t.Fatalf("the tailnet has no machine %s", name)
	return nil
}
