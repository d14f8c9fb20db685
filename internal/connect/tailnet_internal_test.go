package connect

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"testing"
)

func TestOnTailnet(t *testing.T) {
	for host, want := range map[string]bool{
		"100.64.0.1": true, "100.127.255.254": true, "fd7a:115c:a1e0::1": true, "fd7a:115c:a1e0:ab12::7": true, "::ffff:100.64.0.1": true,
		"100.128.0.1": false, "100.63.255.255": false, "fd7a:115c:a1e1::1": false, "fd00::1": false, "192.168.1.20": false,
		"gatehouse": false, "gatehouse.tail-scale.ts.net": false, "localhost": false, "": false, "fd7a:115c:a1e0::1%eth0": false, "100.64.1": false,
	} {
		if OnTailnet(host) != want {
			t.Errorf("%q: want %v", host, want)
		}
	}
}

func TestByTailscale(t *testing.T) {
	addrs := func(texts ...string) (list []netip.Addr) {
		for _, s := range texts {
			list = append(list, netip.MustParseAddr(s))
		}
		return list
	}
	lo, lan := addrs("127.0.0.1", "::1"), addrs("192.168.1.20", "fd00::20")
	shared := addrs("100.64.3.4", "fe80::1") // of a provider that shares addresses
	ts := addrs("100.101.102.103", "fd7a:115c:a1e0::6701:6667")
	for _, c := range []struct {
		name  string
		local string
		all   [][]netip.Addr
		want  bool
	}{
		{"by Tailscale", "100.101.102.103", [][]netip.Addr{lo, lan, ts}, true},
		{"by Tailscale and IPv6", "fd7a:115c:a1e0::6701:6667", [][]netip.Addr{lo, lan, ts}, true},
		{"down, by the provider", "100.64.3.4", [][]netip.Addr{lo, shared}, false},
		{"up, and by the provider", "100.64.3.4", [][]netip.Addr{lo, shared, ts}, false},
		{"down, by the router", "192.168.1.20", [][]netip.Addr{lo, lan}, false},
		{"nothing", "100.101.102.103", nil, false},
	} {
		if byTailscale(netip.MustParseAddr(c.local), c.all) != c.want {
			t.Errorf("%s: want %v", c.name, c.want)
		}
	}
}

// TestTailnetTransport: what is reached by another interface hears nothing.
func TestTailnetTransport(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("a request was sent") }))
	defer srv.Close()
	resp, err := (&http.Client{Transport: TailnetTransport()}).Get(srv.URL)
	if err == nil {
		resp.Body.Close()
	}
	if !errors.Is(err, ErrNoTailnet) || !Untrusted(err) {
		t.Errorf("%v", err)
	}
}

// TestKeyless: to a gate that knows the machine no key goes, not even the one
// that a program made up.
func TestKeyless(t *testing.T) {
	gate := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" || r.Header.Get("X-Api-Key") != "" || r.Header.Get("Cookie") != "" {
			t.Errorf("the gate was sent %v", r.Header)
		}
	}))
	defer gate.Close()
	to, err := url.Parse(gate.URL)
	if err != nil {
		t.Fatal(err)
	}
	for _, keyless := range []bool{true, false} {
		f := &Forwarder{Gate: to, Keyless: keyless, Transport: Transport(nil)}
		r := httptest.NewRequest("GET", "http://localhost/api/tags", nil)
		r.Header.Set("Authorization", "Bearer sk-made-up")
		r.Header.Set("X-Api-Key", "sk-made-up")
		r.Header.Set("Cookie", "a=b")
		w := httptest.NewRecorder()
		f.ServeHTTP(w, r)
		if keyless != (w.Code == http.StatusOK) {
			t.Errorf("keyless %v: %d %s", keyless, w.Code, w.Body)
		}
	}
}
