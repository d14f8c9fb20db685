package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"gatehouse/internal/connect"
	"gatehouse/internal/key"
	"gatehouse/internal/report"
	"gatehouse/internal/tailnet"
)

// tailnetConfig has the gate on a tailnet and nowhere else.
type tailnetConfig struct {
	On          bool   `yaml:"enabled"`       // as gate --tailnet
	Hostname    string `yaml:"hostname"`      // that it asks the tailnet for; default gatehouse
	Control     string `yaml:"control"`       // the control server, such as a Headscale; default Tailscale's
	AuthKeyFile string `yaml:"auth_key_file"` // lets it in the first time; $TS_AUTHKEY does too
	Ephemeral   bool   `yaml:"ephemeral"`     // the tailnet forgets it when it is gone
}

// joinTailnet is tailnet.Join, and nil in a program that was built without.
var joinTailnet func(context.Context, tailnet.Config) (tailnetNode, error)

// tailnetNode is the gate as a machine of the tailnet.
type tailnetNode interface {
	key.WhoIs
	Place(context.Context) (tailnet.Place, error)
	Listen(port string) (net.Listener, error)
	TLS(context.Context, tailnet.Place) *tls.Config
	Err() error // why nobody can call at the moment
	Close() error
}

var (
	dnsLabel = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)
	// tailnetRule is what the maps of login.tailnet have on their left side.
	tailnetRule = regexp.MustCompile(`^(\*|\*@[^@:*\s]+|tag:[^:*\s]+|(shared:)?[^:*\s]+)$`)
)

func (c *config) checkTailnet() (errs []error) {
	wrong := func(format string, a ...any) { errs = append(errs, fmt.Errorf(format, a...)) }
	for rule := range c.Login.Tailnet.Maps {
		if !tailnetRule.MatchString(rule) {
			wrong("login.tailnet: %q is none of ada@example.com, *@example.com, *, tag:ci and shared:bob@example.org", rule)
		}
	}
	if !dnsLabel.MatchString(c.Tailnet.Hostname) {
		wrong("tailnet: hostname %q is no name such as gatehouse", c.Tailnet.Hostname)
	}
	if u, err := url.Parse(c.Tailnet.Control); c.Tailnet.Control != "" && (err != nil || u.Host == "" || u.Scheme != "https" && !(u.Scheme == "http" && isLoopback(u.Hostname()))) {
		wrong("tailnet: control %q is no https URL", c.Tailnet.Control)
	}
	if !c.Tailnet.On {
		if len(c.Login.Tailnet.Maps) > 0 {
			wrong("login.tailnet: the gate is on no tailnet; start it with --tailnet, or set tailnet: {enabled: true}")
		}
		return errs
	}
	for _, l := range c.Listen {
		host, port, err := net.SplitHostPort(l)
		if n, bad := strconv.ParseUint(port, 10, 16); err == nil && (host != "" || bad != nil || n == 0) {
			wrong("listen: on a tailnet it is a port alone, such as :11434, and not %q", l)
		}
	}
	if c.TLS.Mode != "self" && c.TLS.Mode != "off" {
		wrong("tls: on a tailnet the certificate is the tailnet's, or none is needed: leave mode out, or off")
	}
	if c.Forward.Listen != "" {
		wrong("forward_auth: on a tailnet there is no other listener")
	}
	if c.Login.Certs.CA != "" {
		wrong("login.client_certificates: on a tailnet login.tailnet says who may enter")
	}
	if c.Login.Proxy.Header != "" {
		wrong("login.trusted_proxy: on a tailnet nobody is believed for an address")
	}
	return errs
}

// join has the tailnet take the gate in. Who has to let it in first is told once.
func (g *gate) join(ctx context.Context, cfg *config) error {
	c := tailnet.Config{
		Dir: filepath.Join(g.dir, "tailnet"), Hostname: cfg.Tailnet.Hostname, Control: cfg.Tailnet.Control, Ephemeral: cfg.Tailnet.Ephemeral,
		Log: g.log, Login: func(page string) {
			fmt.Fprintf(g.streams.out, "\n To let this gate into the tailnet, open:\n\n   %s\n\n", report.Clean(page))
		},
	}
	if file := cfg.Tailnet.AuthKeyFile; file != "" {
		var err error
		if c.AuthKey, err = connect.ReadKey(file); err != nil {
			return usage(fmt.Errorf("tailnet: %w", err), "auth_key_file holds a key of the tailnet and is yours alone")
		}
	}
	waiting, done := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer done()
	node, err := joinTailnet(waiting, c)
	switch {
	case err != nil && waiting.Err() != nil:
		return errors.New("stopped before the tailnet had let the gate in")
	case err != nil:
		return usage(err, "the key for the tailnet comes from tailnet: auth_key_file, or $TS_AUTHKEY")
	}
	g.tailnet = node
	return nil
}

// tailnetTLS is nil where the tailnet gives no certificates: WireGuard keeps
// secret what passes either way.
func (g *gate) tailnetTLS(ctx context.Context, cfg *config, place tailnet.Place) *tls.Config {
	if cfg.TLS.Mode == "off" || !place.HTTPS {
		return nil
	}
	return g.tailnet.TLS(ctx, place)
}

// places are where callers find a gate on the tailnet.
func (s *serving) places() (all []string) {
	host := s.cfg.Tailnet.Hostname
	switch {
	case len(s.place.Names) > 0:
		host = s.place.Names[0]
	case len(s.place.Addrs) > 0:
		host = s.place.Addrs[0].String()
	}
	for _, l := range s.cfg.Listen {
		if _, port, err := net.SplitHostPort(l); err == nil {
			all = append(all, net.JoinHostPort(host, port))
		}
	}
	return all
}

// helloTailnet says how to get in by the tailnet.
func (g *gate) helloTailnet(now *serving, scheme string) {
	base := scheme + "://" + now.places()[0] + now.cfg.Prefix
	var addrs []string
	for _, a := range now.place.Addrs {
		addrs = append(addrs, a.String())
	}
	fmt.Fprintf(g.streams.out, " Gate on %s, in front of %s\n On the tailnet and nowhere else: %s\n", report.Clean(base), now.cfg.Upstreams[0].URL, strings.Join(addrs, ", "))
	if now.tls == nil {
		fmt.Fprintln(g.streams.out, " Plain HTTP inside WireGuard, which encrypts it: TLS is off, or the tailnet gives\n no HTTPS certificates.")
	}
	rules := now.cfg.Login.Tailnet.Maps
	if len(rules) == 0 {
		fmt.Fprintln(g.streams.out, " Nobody of the tailnet may enter yet: login.tailnet in the configuration says who.")
		return
	}
	names := make([]string, 0, len(rules))
	for rule, policy := range rules {
		names = append(names, rule+" ("+policy+")")
	}
	slices.Sort(names)
	fmt.Fprintf(g.streams.out, " Who may enter: %s\n", report.Clean(strings.Join(names, ", ")))
}
