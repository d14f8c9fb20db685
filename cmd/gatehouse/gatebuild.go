package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"sync"
	"time"

	"gatehouse/internal/gateway"
	"gatehouse/internal/key"
	"gatehouse/internal/ledger"
	"gatehouse/internal/store"
	"gatehouse/internal/upstream"
)

// build makes what a configuration serves. It changes nothing that runs.
func (g *gate) build(ctx context.Context, cfg *config) (*serving, error) {
	s := &serving{cfg: cfg}
	door, err := g.door(cfg)
	if err != nil {
		return nil, err
	}
	names := cfg.names()
	if g.tailnet != nil {
		if s.place, err = g.tailnet.Place(ctx); err != nil {
			return nil, err
		}
		names = append(names, s.place.Names...)
	}
	if s.pool, err = newPool(cfg); err != nil {
		return nil, err
	}
	if old := g.now.Load(); old != nil && reflect.DeepEqual(old.cfg.TLS, cfg.TLS) && old.cfg.Login.Certs.CA == cfg.Login.Certs.CA {
		s.tls, s.trust = old.tls, old.trust // and its renewals, which go on
	} else if g.tailnet != nil {
		s.tls = g.tailnetTLS(ctx, cfg, s.place)
	} else if s.tls, s.trust, err = g.tlsConfig(ctx, cfg); err != nil {
		return nil, err
	}
	s.front = &gateway.Gateway{
		Door: door, Limiter: g.limiter, Queue: g.queue, Upstream: s.pool, Ledger: g.ledger,
		ForModel: upstream.WithModel, Elsewhere: s.pool.Elsewhere, Prefix: cfg.Prefix, Hosts: names, Origins: cfg.Origins,
		MaxBody: int64(cfg.Requests.MaxBody), MaxAnswer: int64(cfg.Requests.MaxAnswer),
		BodyTime: time.Duration(cfg.Requests.BodyTime), WriteTime: time.Duration(cfg.Requests.WriteTime),
		QueueTime: time.Duration(cfg.Queue.Wait), Watch: g.watch,
		Digest: s.pool.Digest,
	}
	s.asked = &gateway.ForwardAuth{Gate: s.front, CloudOff: cfg.Forward.CloudOff}
	for _, p := range cfg.Forward.From {
		s.asked.From = append(s.asked.From, netip.Prefix(p))
	}
	g.queue.SetSlots(s.pool.Slots(), cfg.Queue.Length)

	running, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { s.pool.Run(running) })
	s.stop = func() { stop(); wg.Wait(); s.pool.Close() }
	return s, nil
}

func newPool(cfg *config) (*upstream.Pool, error) {
	c := upstream.Config{OnError: gateway.UpstreamFailed}
	for _, u := range cfg.Upstreams {
		parsed, err := url.Parse(u.URL)
		if err != nil {
			return nil, err // cannot be: check parsed it
		}
		server := upstream.Server{URL: parsed, Slots: u.Slots}
		if u.CA != "" {
			if server.CA, err = authorities(u.CA); err != nil {
				return nil, usage(err, "upstreams: ca is a PEM file")
			}
		}
		c.Servers = append(c.Servers, server)
	}
	return upstream.New(c)
}

// authorities reads a file of certificates.
func authorities(path string) (*x509.CertPool, error) {
	text, err := readFile(path)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("%s holds no certificate", path)
	}
	return pool, nil
}

func (g *gate) door(cfg *config) (*key.Door, error) {
	terms := func(maps map[string]string) map[string]key.Terms {
		byValue := make(map[string]key.Terms, len(maps))
		for value, policy := range maps {
			allowance := cfg.Policies[policy]
			t, err := allowance.terms()
			if err == nil { // check saw to that
				byValue[value] = t
			}
		}
		return byValue
	}
	d := &key.Door{Ring: g.ring, Guesses: g.guesses, Seen: g.seen, ClockWindow: time.Duration(cfg.Login.ClockWindow)}
	for _, o := range cfg.Login.OIDC {
		d.Issuers = append(d.Issuers, &key.Issuer{URL: o.Issuer, Audience: o.Audience, Claim: o.Claim, NameClaim: o.Name, Terms: terms(o.Maps)})
	}
	if cfg.Login.Certs.CA != "" {
		d.Certificate = &key.Certificates{Terms: terms(cfg.Login.Certs.Maps)}
	}
	if g.tailnet != nil {
		d.Tailnet = &key.Tailnet{WhoIs: g.tailnet, Terms: terms(cfg.Login.Tailnet.Maps)}
	}
	if p := cfg.Login.Proxy; p.Header != "" {
		d.Proxy = &key.TrustedProxy{Header: p.Header, Terms: terms(p.Maps)}
		for _, from := range p.From {
			d.Proxy.From = append(d.Proxy.From, netip.Prefix(from))
		}
	}
	return d, nil
}

// tlsConfig is what the listeners do TLS with, nil for none, and what clients
// have to trust when that is the gate's own authority.
func (g *gate) tlsConfig(ctx context.Context, cfg *config) (c *tls.Config, trust string, err error) {
	c = &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}}
	switch cfg.TLS.Mode {
	case "off":
		return nil, "", nil
	case "self":
		a, err := openAuthority(filepath.Join(g.dir, "tls"), cfg.names())
		if err != nil {
			return nil, "", err
		}
		c.GetCertificate, trust = a.certificate, fingerprint(a.cert)
	case "files":
		f, err := openFiles(cfg.TLS.Cert, cfg.TLS.Key, func(err error) {
			g.log.Error("the new certificate is not used", "error", err.Error())
		})
		if err != nil {
			return nil, "", usage(err, "tls: cert and key are PEM files that belong together")
		}
		c.GetCertificate = f.certificate
	case "acme":
		if err := g.acme(ctx, cfg, c); err != nil {
			return nil, "", err
		}
	}
	if cfg.Login.Certs.CA != "" {
		if c.ClientCAs, err = authorities(cfg.Login.Certs.CA); err != nil {
			return nil, "", usage(err, "login.client_certificates: ca is a PEM file")
		}
		c.ClientAuth = tls.VerifyClientCertIfGiven
	}
	return c, trust, nil
}

// seed fills the ring, and tells the limiter what was used today.
func (g *gate) seed() error {
	if err := g.refill(); err != nil {
		return err
	}
	now := time.Now().UTC()
	days, err := ledger.Usage(filepath.Join(g.dir, "ledger"), now.Truncate(24*time.Hour), now)
	if err != nil {
		g.log.Error("some of today's ledger cannot be read, and does not count", "error", err.Error())
	}
	for _, d := range days {
		g.limiter.Seed(d.ID, d.TokensIn+d.TokensOut, now)
	}
	return nil
}

// refill takes up the keys as they are now.
func (g *gate) refill() error {
	version, err := g.store.Version()
	if err != nil {
		return err
	}
	keys, err := g.store.Keys()
	if err != nil {
		return err
	}
	g.ring.Replace(keys)
	g.version, g.keys = version, make(map[string]key.Key, len(keys))
	for _, k := range keys {
		g.keys[k.ID] = k
	}
	return nil
}

// keyChanges says what became of keys, for the ledger.
func keyChanges(before, after map[string]key.Key, now time.Time) (changes []string) {
	for id, k := range after {
		old, ok := before[id]
		what := "changed"
		switch {
		case !ok:
			what = "added"
		case old.Revoked.IsZero() && !k.Revoked.IsZero():
			what = "revoked"
		case len(k.Secrets) > 0 && (len(old.Secrets) == 0 || old.Secrets[0].Hash != k.Secrets[0].Hash):
			what = "rotated"
		case reflect.DeepEqual(old.Terms, k.Terms) && old.Name == k.Name && old.Expires.Equal(k.Expires) && old.Revoked.Equal(k.Revoked):
			continue
		}
		changes = append(changes, fmt.Sprintf("%s %s (%s), %s", what, k.Name, id, k.State(now)))
	}
	for id, k := range before {
		if _, ok := after[id]; !ok {
			changes = append(changes, fmt.Sprintf("removed %s (%s)", k.Name, id))
		}
	}
	slices.Sort(changes)
	return changes
}

// firstKey makes a key where there is none at all, and prints it, this once. On
// a tailnet callers are known without one.
func (g *gate) firstKey() error {
	if g.tailnet != nil && g.cmd.FirstKey == "" {
		return nil
	}
	keys, err := g.store.Keys()
	if err != nil || len(keys) > 0 {
		return err
	}
	allowance := Allowance{Power: []power{"hello", "read", "infer"}, Models: []string{"*"}}
	token, k := key.Mint(time.Now().UTC())
	k.Name = "first"
	if k.Terms, err = allowance.terms(); err != nil {
		return err
	}
	if g.cmd.FirstKey != "" {
		if err := writeFirstKey(g.cmd.FirstKey, token); err != nil {
			return err
		}
	}
	if err := g.store.AddKey(k); err != nil {
		if errors.Is(err, store.ErrDuplicate) {
			err = nil // another gate of the same store was first
		}
		if g.cmd.FirstKey != "" {
			err = errors.Join(err, os.Remove(g.cmd.FirstKey)) // it opens nothing
		}
		return errors.Join(err, g.refill())
	}
	if err := g.refill(); err != nil {
		return err
	}
	if g.cmd.FirstKey != "" {
		_, err = fmt.Fprintf(g.streams.out, "\n The first key is in %s; it may list and use every model.\n\n", g.cmd.FirstKey)
		return err
	}
	_, err = fmt.Fprintf(g.streams.out, "\n The first key, shown this once; it may list and use every model:\n\n   %s\n\n", token)
	return err
}

// writeFirstKey writes the key to a file that was not there.
func writeFirstKey(path, token string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return usage(fmt.Errorf("first key: %w", err), "--first-key takes a file that is not there yet")
	}
	_, err = fmt.Fprintln(f, token)
	return errors.Join(err, f.Close())
}

// event puts what the gate itself did into the ledger.
func (g *gate) event(what, detail string) {
	if err := g.ledger.Append(ledger.Record{Time: time.Now(), Event: what, Detail: detail}); err != nil {
		g.log.Error("ledger", "event", what, "error", err.Error())
	}
}

// lookBypass looks whether Ollama answers around the gate, and refuses to start
// where it does.
func (g *gate) lookBypass(ctx context.Context, cfg *config) error {
	found := g.around(ctx, cfg)
	g.bypass.Store(&found)
	if len(found) == 0 {
		return nil
	}
	if g.cmd.AllowBypass {
		g.log.Warn("Ollama can be reached around the gate", "addresses", fmt.Sprint(found))
		return nil
	}
	return usage(fmt.Errorf("the Ollama behind this gate answers on %s without asking it", found[0]),
		"start it with OLLAMA_HOST=127.0.0.1, or give --allow-bypass")
}

// around lists the addresses of this machine, other than loopback, on which an
// upstream of ours answers.
func (g *gate) around(ctx context.Context, cfg *config) (found []netip.AddrPort) {
	addrs, err := ownAddresses()
	if err != nil {
		g.log.Error("list this machine's addresses", "error", err.Error())
		return nil
	}
	for _, u := range cfg.Upstreams {
		parsed, err := url.Parse(u.URL)
		if err != nil || !isLocal(parsed.Hostname(), addrs) {
			continue
		}
		port := uint16(80)
		if p := parsed.Port(); p != "" {
			_, _ = fmt.Sscan(p, &port)
		}
		var outside []netip.Addr
		for _, a := range addrs {
			if !a.IsLoopback() {
				outside = append(outside, a)
			}
		}
		for _, a := range (upstream.Bypass{}).Find(ctx, outside, port) {
			found = append(found, netip.AddrPortFrom(a, port))
		}
	}
	return found
}

func isLocal(host string, addrs []netip.Addr) bool {
	if isLoopback(host) {
		return true
	}
	a, err := netip.ParseAddr(host)
	if err != nil {
		return false
	}
	for _, own := range addrs {
		if own == a {
			return true
		}
	}
	return false
}

// background does what comes again and again until ctx ends.
func (g *gate) background(ctx context.Context) *sync.WaitGroup {
	var wg sync.WaitGroup
	every := func(d time.Duration, what func()) {
		wg.Go(func() {
			tick := time.NewTicker(d)
			defer tick.Stop()
			for {
				select {
				case <-tick.C:
					what()
				case <-ctx.Done():
					return
				}
			}
		})
	}
	// A revoked key is out within a second.
	failing := false
	every(250*time.Millisecond, func() {
		version, err := g.store.Version()
		if err == nil && version != g.version {
			before := g.keys
			if err = g.refill(); err == nil {
				for _, change := range keyChanges(before, g.keys, time.Now()) {
					g.log.Info("key", "change", change)
					g.event("key", change)
				}
			}
		}
		if (err != nil) != failing {
			failing = err != nil
			if failing {
				g.log.Error("the store cannot be read; the keys stay as they are", "error", err.Error())
			} else {
				g.log.Info("the store can be read again")
			}
		}
	})
	every(time.Minute, func() {
		before := *g.bypass.Load()
		found := g.around(ctx, g.now.Load().cfg)
		g.bypass.Store(&found)
		if len(found) > 0 && len(before) == 0 {
			g.log.Error("Ollama can be reached around the gate", "addresses", fmt.Sprint(found))
			g.event("bypass", fmt.Sprint(found))
		}
	})
	if path := g.cmd.Config; path != "" {
		var stamp time.Time
		if info, err := os.Stat(path); err == nil {
			stamp = info.ModTime()
		}
		every(2*time.Second, func() {
			info, err := os.Stat(path)
			if err == nil && !info.ModTime().Equal(stamp) {
				stamp = info.ModTime()
				g.reload(ctx)
			}
		})
	}
	return &wg
}

// reload takes up the configuration anew. Calls under way go on with the old
// one; when the new one is no good everything does.
func (g *gate) reload(ctx context.Context) {
	g.reloading.Lock()
	defer g.reloading.Unlock()
	cfg, err := g.cmd.load()
	if err != nil {
		g.log.Error("the configuration is not taken up", "error", err.Error())
		g.event("config", "refused: "+err.Error())
		return
	}
	old := g.now.Load()
	starts := func(c *config) string { return fmt.Sprint(c.Listen, c.Admin, c.Forward.Listen, c.Traces, c.Tailnet) }
	if starts(cfg) != starts(old.cfg) || (cfg.TLS.Mode == "off") != (old.cfg.TLS.Mode == "off") {
		g.log.Warn("listen, admin, forward_auth's listen, traces, tailnet and tls on or off change with the next start only")
	}
	next, err := g.build(ctx, cfg)
	if err != nil {
		g.queue.SetSlots(old.pool.Slots(), old.cfg.Queue.Length)
		g.log.Error("the configuration is not taken up", "error", err.Error())
		g.event("config", "refused: "+err.Error())
		return
	}
	g.now.Store(next)
	old.stop()
	g.log.Info("the configuration is taken up")
	g.event("config", "taken up")
}

var errStillBusy = errors.New("some calls were still under way when the time to drain was over")
