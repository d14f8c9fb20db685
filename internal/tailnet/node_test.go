//go:build tailnet && ts_omit_peerapiserver && linux

package tailnet

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"tailscale.com/client/tailscale/apitype"
	"tailscale.com/ipn/ipnlocal"
	"tailscale.com/ipn/ipnstate"
	"tailscale.com/tailcfg"
	"tailscale.com/tsnet"
	"tailscale.com/tstest/integration/testcontrol"

	"gatehouse/internal/key"
	"gatehouse/internal/tailnet/tailnettest"
)

// TestTailnetNode: a machine that somebody has to let in, and another that calls
// it, by TLS, as different things to the control server.
func TestTailnetNode(t *testing.T) {
	if !tailnettest.Apart(t) {
		return
	}
	control := tailnettest.Control(t, func(c *testcontrol.Server) { c.RequireAuth = true })
	ctx, cancel := context.WithTimeout(t.Context(), tailnettest.Patience)
	defer cancel()

	var logged bytes.Buffer
	var pages []string
	n, err := Join(ctx, Config{
		Dir: filepath.Join(t.TempDir(), "state"), Hostname: "gatehouse", Control: control.BaseURL(), Ephemeral: true,
		Log: slog.New(slog.NewTextHandler(&logged, nil)),
		Login: func(page string) {
			pages = append(pages, page)
			if !control.CompleteAuth(page) {
				t.Errorf("%q is no page of the control server", page)
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(pages) != 1 || !strings.HasPrefix(pages[0], control.BaseURL()+"/auth/") {
		t.Errorf("pages to log in: %q", pages)
	}
	if err := n.Err(); err != nil {
		t.Error(err)
	}
	// Nothing of tsnet's own is news, nor told to anybody but the control server.
	if text := logged.String(); strings.Contains(text, "says=") || !strings.Contains(text, "state=Running") {
		t.Errorf("logged:\n%s", text)
	}
	if !tailnettest.Node(t, control, "gatehouse").Hostinfo.NoLogsNoSupport() {
		t.Error("logs are uploaded")
	}
	place, err := n.Place(ctx)
	if err != nil || !slices.Equal(place.Names, []string{"gatehouse." + tailnettest.Domain, "gatehouse"}) || !place.HTTPS || len(place.Addrs) != 2 {
		t.Fatalf("%+v %v", place, err)
	}

	root := authority(t)
	tsnet.TestHooks.LocalBackend(n.server).ForTest().ConfigureCerts(root.pair)
	l, err := n.Listen("443")
	if err != nil {
		t.Fatal(err)
	}
	type heard struct {
		from netip.Addr
		peer key.Peer
		err  error
	}
	calls := make(chan heard, 1)
	srv := &http.Server{Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		var h heard
		h.from = netip.MustParseAddrPort(r.RemoteAddr).Addr()
		h.peer, h.err = n.WhoIs(r.Context(), h.from)
		calls <- h
	})}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(tls.NewListener(l, n.TLS(ctx, place))) }()

	control.RequireAuth = false // as no request is under way
	laptop := tailnettest.Machine(t, control, "laptop")
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true, DialContext: laptop.Dial, TLSClientConfig: &tls.Config{RootCAs: root.pool},
	}}
	call := func() heard {
		t.Helper()
		resp, err := client.Get("https://gatehouse." + tailnettest.Domain + "/")
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		return <-calls
	}
	want := key.Peer{ID: string(tailnettest.Node(t, control, "laptop").StableID), Name: "laptop", Login: "user-2@" + tailnettest.UserDomain}
	first := call()
	if first.err != nil || !equal(first.peer, want) {
		t.Fatalf("%+v, want %+v", first, want)
	}

	// What the control server says of the machine counts at once.
	becomes := func(change func(*tailcfg.Node), want func(key.Peer, error) bool) {
		t.Helper()
		node := tailnettest.Node(t, control, "laptop")
		change(node)
		control.UpdateNode(node)
		for {
			peer, err := n.WhoIs(ctx, first.from)
			if want(peer, err) {
				return
			}
			if ctx.Err() != nil {
				t.Fatalf("it stays %+v, %v", peer, err)
			}
		}
	}
	becomes(func(n *tailcfg.Node) { n.Tags = []string{"tag:ci"} }, func(p key.Peer, err error) bool { return err == nil && slices.Equal(p.Tags, []string{"tag:ci"}) })
	becomes(func(n *tailcfg.Node) { n.Tags, n.Sharer = nil, 7 }, func(p key.Peer, err error) bool { return err == nil && p.Shared && p.Tags == nil })
	becomes(func(n *tailcfg.Node) { n.Sharer, n.Expired = 0, true }, func(_ key.Peer, err error) bool { return errors.Is(err, key.ErrNoPeer) })
	becomes(func(n *tailcfg.Node) { n.Expired = false }, func(p key.Peer, err error) bool { return err == nil && equal(p, want) })

	// An address behind a machine that routes a network is no machine's.
	control.SetSubnetRoutes(tailnettest.Node(t, control, "laptop").Key, []netip.Prefix{netip.MustParsePrefix("10.9.0.0/16")})
	becomes(func(*tailcfg.Node) {}, func(key.Peer, error) bool {
		status, err := n.client.Status(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range status.Peer {
			return p.PrimaryRoutes != nil && p.PrimaryRoutes.Len() == 1
		}
		return false
	})
	for _, addr := range []string{"10.9.0.1", "127.0.0.1", "192.0.2.1", "::1"} {
		if peer, err := n.WhoIs(ctx, netip.MustParseAddr(addr)); !errors.Is(err, key.ErrNoPeer) {
			t.Errorf("%s is %+v, %v", addr, peer, err)
		}
	}
	if !control.AddRawMapResponse(tailnettest.Node(t, control, "gatehouse").Key, &tailcfg.MapResponse{
		PeersRemoved: []tailcfg.NodeID{tailnettest.Node(t, control, "laptop").ID},
	}) {
		t.Fatal("the gate's machine does not listen to the control server")
	}
	becomes(func(*tailcfg.Node) {}, func(_ key.Peer, err error) bool { return errors.Is(err, key.ErrNoPeer) })

	if err := n.Close(); err != nil {
		t.Error(err)
	}
	if err := <-served; !errors.Is(err, net.ErrClosed) {
		t.Errorf("the listener ended with %v", err)
	}
}

func equal(a, b key.Peer) bool {
	return a.ID == b.ID && a.Name == b.Name && a.Login == b.Login && slices.Equal(a.Tags, b.Tags) && a.Shared == b.Shared
}

// TestTailnetRefused: a key that the tailnet does not take ends the wait.
func TestTailnetRefused(t *testing.T) {
	if !tailnettest.Apart(t) {
		return
	}
	control := tailnettest.Control(t, func(c *testcontrol.Server) { c.RequireAuthKey = "tskey-right" })
	ctx, cancel := context.WithTimeout(t.Context(), tailnettest.Patience)
	defer cancel()
	n, err := Join(ctx, Config{
		Dir: t.TempDir(), Hostname: "gatehouse", Control: control.BaseURL(), AuthKey: "tskey-wrong", Log: slog.New(slog.DiscardHandler),
	})
	if err == nil || !strings.Contains(err.Error(), "invalid authkey") || strings.Contains(err.Error(), "tskey-") {
		t.Errorf("%v %v", n, err)
	}
}

// TestTailnetPlace: without MagicDNS, or without certificates, there is no TLS.
func TestTailnetPlace(t *testing.T) {
	addrs := []netip.Addr{netip.MustParseAddr("100.64.0.1")}
	for _, c := range []struct {
		name   string
		status ipnstate.Status
		https  bool
		names  int
	}{
		{"all", ipnstate.Status{Self: &ipnstate.PeerStatus{DNSName: "Gate.x.ts.net."}, CertDomains: []string{"gate.x.ts.net"}, CurrentTailnet: &ipnstate.TailnetStatus{MagicDNSEnabled: true}}, true, 2},
		{"no certificates", ipnstate.Status{Self: &ipnstate.PeerStatus{DNSName: "gate.x.ts.net."}, CurrentTailnet: &ipnstate.TailnetStatus{MagicDNSEnabled: true}}, false, 2},
		{"no MagicDNS", ipnstate.Status{Self: new(ipnstate.PeerStatus), CertDomains: []string{"gate.x.ts.net"}, CurrentTailnet: new(ipnstate.TailnetStatus)}, false, 0},
		{"nothing", ipnstate.Status{}, false, 0},
	} {
		c.status.TailscaleIPs = addrs
		p := placeOf(&c.status)
		if p.HTTPS != c.https || len(p.Names) != c.names || c.names > 0 && p.Names[0] != "gate.x.ts.net" || !slices.Equal(p.Addrs, addrs) {
			t.Errorf("%s: %+v", c.name, p)
		}
	}
}

// TestTailnetPeers: machines that may open no connection here are nobody.
func TestTailnetPeers(t *testing.T) {
	who := func(change func(*tailcfg.Node)) *apitype.WhoIsResponse {
		n := &tailcfg.Node{StableID: "n1", Name: "laptop.x.ts.net.", Hostinfo: new(tailcfg.Hostinfo).View()}
		change(n)
		return &apitype.WhoIsResponse{Node: n, UserProfile: &tailcfg.UserProfile{LoginName: "ada@example.com"}}
	}
	if p, err := peerOf(who(func(*tailcfg.Node) {})); err != nil || !equal(p, key.Peer{ID: "n1", Name: "laptop", Login: "ada@example.com"}) {
		t.Errorf("%+v %v", p, err)
	}
	if p, err := peerOf(who(func(n *tailcfg.Node) { n.Hostinfo = (&tailcfg.Hostinfo{ShareeNode: true}).View() })); err != nil || !p.Shared {
		t.Errorf("a guest's machine: %+v %v", p, err)
	}
	if p, err := peerOf(who(func(n *tailcfg.Node) { n.Hostinfo = tailcfg.HostinfoView{} })); err != nil || p.Shared {
		t.Errorf("a machine of which nothing is told: %+v %v", p, err)
	}
	for name, bad := range map[string]*apitype.WhoIsResponse{
		"no node":  {UserProfile: new(tailcfg.UserProfile)},
		"no user":  {Node: new(tailcfg.Node)},
		"expired":  who(func(n *tailcfg.Node) { n.Expired = true }),
		"unsigned": who(func(n *tailcfg.Node) { n.UnsignedPeerAPIOnly = true }),
		"foreign":  who(func(n *tailcfg.Node) { n.IsWireGuardOnly = true }),
		"jailed":   who(func(n *tailcfg.Node) { n.IsJailed = true }),
	} {
		if p, err := peerOf(bad); !errors.Is(err, key.ErrNoPeer) {
			t.Errorf("%s: %+v %v", name, p, err)
		}
	}
}

// root is an authority for the tailnet's names.
type root struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
}

func authority(t *testing.T) *root {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	r := &root{key: k, pool: x509.NewCertPool()}
	if r.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	r.pool.AddCert(r.cert)
	return r
}

// pair is a certificate for a name, as tsnet has it of Let's Encrypt.
func (r *root) pair(name string) (*ipnlocal.TLSCertKeyPair, error) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(2), DNSNames: []string{name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, r.cert, k.Public(), r.key)
	if err != nil {
		return nil, err
	}
	private, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		return nil, err
	}
	return &ipnlocal.TLSCertKeyPair{
		CertPEM: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		KeyPEM:  pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}),
	}, nil
}
