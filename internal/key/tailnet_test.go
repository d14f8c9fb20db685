package key_test

import (
	"context"
	"errors"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"

	"gatehouse/internal/key"
)

// whoIs is a tailnet with one machine.
type whoIs struct {
	peer key.Peer
	err  error
}

func (w whoIs) WhoIs(_ context.Context, addr netip.Addr) (key.Peer, error) {
	if addr != home {
		return key.Peer{}, key.ErrNoPeer
	}
	return w.peer, w.err
}

// named are terms that tell by which rule they were given.
func named(rules ...string) map[string]key.Terms {
	terms := make(map[string]key.Terms)
	for _, r := range rules {
		terms[r] = key.Terms{Models: []string{r}}
	}
	return terms
}

func TestTailnet(t *testing.T) {
	ada := key.Peer{ID: "n1", Name: "laptop", Login: "ada@example.com"}
	ci := key.Peer{ID: "n2", Name: "builder", Login: "tagged-devices", Tags: []string{"tag:web", "tag:ci"}}
	bob := key.Peer{ID: "n3", Name: "desk", Login: "bob@example.com", Shared: true}
	theirs := key.Peer{ID: "n4", Name: "box", Login: "tagged-devices", Tags: []string{"tag:ci"}, Shared: true}
	local := key.Peer{ID: "n5", Name: "box", Login: "grace"} // as Headscale has them
	for _, c := range []struct {
		name     string
		peer     key.Peer
		rules    []string
		rule, id string // whose terms, and who it is; or
		reason   string // why not
	}{
		{"login", ada, []string{"*", "*@example.com", "ada@example.com"}, "ada@example.com", "tailnet:ada@example.com", ""},
		{"domain", ada, []string{"*", "*@example.com", "bob@example.com"}, "*@example.com", "tailnet:ada@example.com", ""},
		{"anybody", ada, []string{"*", "*@example.org"}, "*", "tailnet:ada@example.com", ""},
		{"another", ada, []string{"bob@example.com", "*@ple.com", "tag:ci", "shared:ada@example.com", "laptop", "n1"}, "", "tailnet:ada@example.com", key.NoPolicy},
		{"no rule", ada, nil, "", "tailnet:ada@example.com", key.NoPolicy},
		{"no domain", local, []string{"*@", "grace"}, "grace", "tailnet:grace", ""},
		{"tag", ci, []string{"*", "tag:web"}, "tag:web", "tailnet:node:n2", ""},
		{"first tag", ci, []string{"tag:web", "tag:ci"}, "tag:ci", "tailnet:node:n2", ""},
		{"tagged, by its user", ci, []string{"*", "tagged-devices", "tag:db"}, "", "tailnet:node:n2", key.NoPolicy},
		{"shared", bob, []string{"*", "shared:bob@example.com"}, "shared:bob@example.com", "tailnet:shared:bob@example.com", ""},
		{"shared, as if ours", bob, []string{"*", "*@example.com", "bob@example.com"}, "", "tailnet:shared:bob@example.com", key.NoPolicy},
		{"another tailnet's tag", theirs, []string{"*", "tag:ci", "shared:tagged-devices"}, "", "tailnet:node:n4", key.NoPolicy},
	} {
		d := door()
		d.Tailnet = &key.Tailnet{WhoIs: whoIs{peer: c.peer}, Terms: named(c.rules...)}
		id, refusal := d.Identify(httptest.NewRequest("GET", "/", nil), home, now)
		switch {
		case reason(refusal) != c.reason:
			t.Errorf("%s: refused as %q, want %q", c.name, reason(refusal), c.reason)
		case refusal != nil:
			if refusal.KeyID != c.id {
				t.Errorf("%s: the ledger is told %q, want %q", c.name, refusal.KeyID, c.id)
			}
		case id.Kind != key.ByTailnet || id.ID != c.id || id.Terms.Models[0] != c.rule || !strings.HasSuffix(id.Name, " on "+c.peer.Name):
			t.Errorf("%s: %+v", c.name, id)
		}
	}
}

// TestTailnetHostile: names that would lie in a ledger, or that read as a rule
// for somebody else, open nothing.
func TestTailnetHostile(t *testing.T) {
	long := strings.Repeat("a", 10_000)
	for name, change := range map[string]func(*key.Peer){
		"no login":        func(p *key.Peer) { p.Login = "" },
		"no id":           func(p *key.Peer) { p.ID = "" },
		"long login":      func(p *key.Peer) { p.Login = long },
		"long name":       func(p *key.Peer) { p.Name = long },
		"long tag":        func(p *key.Peer) { p.Tags = []string{"tag:" + long} },
		"many tags":       func(p *key.Peer) { p.Tags = strings.Split(strings.Repeat("tag:a ", 1000)+"tag:ci", " ") },
		"turned around":   func(p *key.Peer) { p.Login = "ada\u202emoc.elpmaxe@" },
		"turned name":     func(p *key.Peer) { p.Name = "lap\u2066top" },
		"zero width":      func(p *key.Peer) { p.Login = "ada@exam\u200bple.com" },
		"line":            func(p *key.Peer) { p.Login = "ada@example.com\n" },
		"space":           func(p *key.Peer) { p.Login = "ada@example.com on laptop" },
		"no UTF-8":        func(p *key.Peer) { p.Login = "ada\xff@example.com" },
		"a tag's rule":    func(p *key.Peer) { p.Login = "tag:ci" },
		"a guest's rule":  func(p *key.Peer) { p.Login = "shared:bob@example.com" },
		"everybody":       func(p *key.Peer) { p.Login = "*" },
		"a domain":        func(p *key.Peer) { p.Login = "*@example.org" },
		"a login as tag":  func(p *key.Peer) { p.Tags = []string{"ada@example.com"} },
		"everybody's tag": func(p *key.Peer) { p.Tags = []string{"tag:ci", "*"} },
		"empty tag":       func(p *key.Peer) { p.Tags = []string{""} },
	} {
		peer := key.Peer{ID: "n1", Name: "laptop", Login: "ada@example.com"}
		d := door()
		d.Tailnet = &key.Tailnet{Terms: named("*", "*@example.org", "*@", "ada@example.com", "tag:ci", "shared:bob@example.com", "tag:"+long, long, "")}
		d.Tailnet.WhoIs = whoIs{peer: peer}
		if _, refusal := d.Identify(httptest.NewRequest("GET", "/", nil), home, now); refusal != nil {
			t.Fatalf("%+v", refusal)
		}
		change(&peer)
		d.Tailnet.WhoIs = whoIs{peer: peer}
		if id, refusal := d.Identify(httptest.NewRequest("GET", "/", nil), home, now); reason(refusal) != key.UnknownPeer || refusal.KeyID != "" {
			t.Errorf("%s: %+v %+v", name, id, refusal)
		}
	}
}

// TestTailnetDoor: what comes before the tailnet and what does not come after.
func TestTailnetDoor(t *testing.T) {
	ada := key.Peer{ID: "n1", Name: "laptop", Login: "ada@example.com"}
	token, k := mint(t, "laptop")
	d := door(k)
	d.Tailnet = &key.Tailnet{WhoIs: whoIs{peer: ada}, Terms: named("*")}
	d.Proxy = &key.TrustedProxy{From: []netip.Prefix{netip.PrefixFrom(other, 32)}, Header: "Remote-User", Terms: named("root")}

	if id, refusal := d.Identify(bearer(token), home, now); refusal != nil || id.Kind != key.ByKey {
		t.Errorf("a key on the tailnet: %+v %+v", id, refusal)
	}
	wrong, _ := mint(t, "nobody")
	if _, refusal := d.Identify(bearer(wrong), home, now); reason(refusal) != key.UnknownKey {
		t.Errorf("the tailnet makes a wrong key good: %+v", refusal)
	}
	r := httptest.NewRequest("GET", "/", nil)
	r.Header.Set("Remote-User", "root")
	if _, refusal := d.Identify(r, other, now); reason(refusal) != key.UnknownPeer {
		t.Errorf("an address behind a subnet router is believed for a proxy's: %+v", refusal)
	}
	d.Tailnet.WhoIs = whoIs{err: errors.New("no answer")}
	if _, refusal := d.Identify(r, home, now); reason(refusal) != key.PeerUnsure || refusal.RetryAfter == 0 {
		t.Errorf("a tailnet that fails: %+v", refusal)
	}
	d.Tailnet = &key.Tailnet{Terms: named("*")}
	if _, refusal := d.Identify(r, home, now); reason(refusal) != key.UnknownPeer {
		t.Errorf("nobody to ask: %+v", refusal)
	}
}

type silent struct{}

func (silent) WhoIs(ctx context.Context, _ netip.Addr) (key.Peer, error) {
	<-ctx.Done()
	return key.Peer{}, ctx.Err()
}

// TestTailnetSilent: a tailnet that does not answer holds nobody for long.
func TestTailnetSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := door()
		d.Tailnet = &key.Tailnet{WhoIs: silent{}, Terms: named("*")}
		r := httptest.NewRequestWithContext(t.Context(), "GET", "/", nil)
		if _, refusal := d.Identify(r, home, now); reason(refusal) != key.PeerUnsure {
			t.Errorf("%+v", refusal)
		}
	})
}
