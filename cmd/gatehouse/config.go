package main

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"
)

// config is gatehouse.yaml. The zero config is a gate with nothing but its
// defaults: Ollama on 127.0.0.1:11434, TLS with a certificate of its own on
// :8443, and no key that opens it.
type config struct {
	Listen    []string         `yaml:"listen"` // addresses with ports; default :8443
	Admin     string           `yaml:"admin"`  // health, metrics; "off" for none; default 127.0.0.1:9643
	Prefix    string           `yaml:"prefix"` // path under which the API is served, such as /ollama
	Hosts     []string         `yaml:"hosts"`  // names of this gate, beside those of its certificate
	Origins   []string         `yaml:"origins"`
	TLS       tlsConfig        `yaml:"tls"`
	Tailnet   tailnetConfig    `yaml:"tailnet"`
	Upstreams []upstreamConfig `yaml:"upstreams"`
	Queue     struct {
		Length int  `yaml:"length"` // requests that may wait; default 256
		Wait   span `yaml:"wait"`   // for how long at most; default 5m
	} `yaml:"queue"`
	Requests struct {
		MaxBody   size  `yaml:"max_body"`   // default 64MiB; blobs are not held to it
		MaxAnswer count `yaml:"max_answer"` // tokens reserved where a request names no bound; default 4096
		BodyTime  span  `yaml:"body_time"`  // default 1m
		WriteTime span  `yaml:"write_time"` // default 1m
	} `yaml:"requests"`
	Login    loginConfig          `yaml:"login"`
	Forward  forwardConfig        `yaml:"forward_auth"`
	Policies map[string]Allowance `yaml:"policies"`
	Store    string               `yaml:"store"` // read at the start; default gatehouse.db in the state folder
	Drain    span                 `yaml:"drain"` // for streams to end when the gate stops; default 30s
	Traces   tracesConfig         `yaml:"traces"`
	Log      string               `yaml:"log"` // "json" or "text"; default text on a terminal
}

type tlsConfig struct {
	Mode  string   `yaml:"mode"` // self, files, acme or off; default self
	Cert  string   `yaml:"cert"`
	Key   string   `yaml:"key"`
	Names []string `yaml:"names"` // of the certificate, for self and acme: names and addresses
	Email string   `yaml:"email"` // of the ACME account
	CA    string   `yaml:"ca"`    // ACME directory; default Let's Encrypt
	HTTP  string   `yaml:"http"`  // address for http-01; default :80
	Force bool     `yaml:"force"` // allow off on other than loopback addresses
}

type upstreamConfig struct {
	URL   string `yaml:"url"`
	Slots int    `yaml:"slots"` // requests computed at a time: its OLLAMA_NUM_PARALLEL; default 4
	CA    string `yaml:"ca"`    // for an https upstream with a private authority
}

// forwardConfig is for proxies that forward to Ollama themselves, and ask first.
type forwardConfig struct {
	Listen   string   `yaml:"listen"`    // address to be asked on, at /auth; "" is off
	From     []source `yaml:"from"`      // the proxies that may ask; default this machine's loopback
	CloudOff bool     `yaml:"cloud_off"` // Ollama was started with OLLAMA_NO_CLOUD=1
}

func (f *forwardConfig) check() (errs []error) {
	if f.Listen == "" {
		if len(f.From) > 0 || f.CloudOff {
			errs = append(errs, errors.New("forward_auth: without listen nobody can ask; such as 127.0.0.1:9644"))
		}
		return errs
	}
	if _, _, err := net.SplitHostPort(f.Listen); err != nil {
		errs = append(errs, fmt.Errorf("forward_auth: listen %q is no address with a port, such as 127.0.0.1:9644", f.Listen))
	}
	for _, p := range f.From {
		if netip.Prefix(p).Bits() == 0 {
			errs = append(errs, fmt.Errorf("forward_auth: from %s is everybody", netip.Prefix(p)))
		}
	}
	return errs
}

type loginConfig struct {
	ClockWindow span         `yaml:"clock_window"` // of the ollama CLI's signatures; default 60s
	OIDC        []oidcConfig `yaml:"oidc"`
	Certs       struct {
		CA   string            `yaml:"ca"`   // file of the authorities of clients
		Maps map[string]string `yaml:"maps"` // subject common name, DNS name or mail -> policy; "*" for the rest
	} `yaml:"client_certificates"`
	Tailnet struct {
		Maps map[string]string `yaml:"maps"` // see key.Tailnet -> policy
	} `yaml:"tailnet"`
	Proxy struct {
		From   []source          `yaml:"from"`
		Header string            `yaml:"header"`
		Maps   map[string]string `yaml:"maps"` // user -> policy; "*" for the rest
	} `yaml:"trusted_proxy"`
}

type oidcConfig struct {
	Issuer   string            `yaml:"issuer"`
	Audience string            `yaml:"audience"`
	Claim    string            `yaml:"claim"` // whose value picks the policy; default sub
	Name     string            `yaml:"name"`  // claim with the name for people; default email
	Maps     map[string]string `yaml:"maps"`  // value -> policy; "*" for the rest
}

// maxConfig bounds a configuration file, in bytes.
const maxConfig = 1 << 20

// loadConfig reads and checks a file; all its mistakes come together, each with
// its line where it has one. An empty path is the defaults.
func loadConfig(path string) (*config, error) {
	return loadConfigOn(path, false)
}

// loadConfigOn is loadConfig for a gate that is on a tailnet, or that is where
// the file has it: some defaults depend on that.
func loadConfigOn(path string, tailnet bool) (*config, error) {
	c := new(config)
	if path != "" {
		text, err := readFile(path)
		if err != nil {
			return nil, usage(err, "--config takes a yaml file; without it the gate goes by its defaults")
		}
		if len(text) > maxConfig {
			return nil, usage(fmt.Errorf("%s is larger than %d bytes", path, maxConfig), "see gatehouse gate --help")
		}
		if slices.ContainsFunc(strings.Split(string(text), "\n"), says) {
			if err := yaml.Load(text, c, yaml.WithKnownFields(true)); err != nil {
				return nil, usage(yamlMistakes(path, err), "see docs/gatehouse.yaml for every field")
			}
		}
	}
	c.Tailnet.On = c.Tailnet.On || tailnet
	c.defaults()
	if err := c.check(); err != nil {
		return nil, usage(inFile(path, err), "see docs/gatehouse.yaml for every field")
	}
	return c, nil
}

// says reports whether a line of yaml is more than a comment.
func says(line string) bool {
	line = strings.TrimSpace(line)
	return line != "" && line[0] != '#'
}

func inFile(path string, err error) error {
	if path == "" {
		return err
	}
	return fmt.Errorf("%s: %w", path, err)
}

var (
	yamlNotFound = regexp.MustCompile(`field (\S+) not found in type .*`)
	yamlInto     = regexp.MustCompile("cannot construct !!(\\w+)(?: `(.*)`)? into .*")
	yamlTwice    = regexp.MustCompile(`^(line \d+: )line \d+: `)
)

// yamlMistakes says what the yaml package says without the names of our types.
func yamlMistakes(path string, err error) error {
	text := strings.TrimPrefix(strings.TrimPrefix(err.Error(), "yaml: "), "construct errors: ")
	var lines []string
	for m := range strings.SplitSeq(text, "; line ") {
		if !strings.HasPrefix(m, "line ") && len(lines) > 0 {
			m = "line " + m
		}
		m = yamlTwice.ReplaceAllString(m, "$1")
		m = yamlNotFound.ReplaceAllString(m, "unknown field $1")
		m = yamlInto.ReplaceAllString(m, "$2 is not what belongs here")
		lines = append(lines, path+": "+m)
	}
	return errors.New(strings.Join(lines, "\n"))
}

func (c *config) defaults() {
	switch {
	case len(c.Listen) > 0:
	case c.Tailnet.On:
		c.Listen = []string{":11434"} // where Ollama's clients look
	default:
		c.Listen = []string{":8443"}
	}
	c.Tailnet.Hostname = cmp.Or(c.Tailnet.Hostname, "gatehouse")
	c.Admin = cmp.Or(c.Admin, "127.0.0.1:9643")
	c.TLS.Mode = cmp.Or(c.TLS.Mode, "self")
	if len(c.Upstreams) == 0 {
		c.Upstreams = []upstreamConfig{{URL: "http://127.0.0.1:11434"}}
	}
	for i := range c.Upstreams {
		c.Upstreams[i].Slots = cmp.Or(c.Upstreams[i].Slots, 4)
	}
	c.Queue.Length = cmp.Or(c.Queue.Length, 256)
	c.Queue.Wait = cmp.Or(c.Queue.Wait, span(5*time.Minute))
	c.Drain = cmp.Or(c.Drain, span(30*time.Second))
	c.Traces.Share = cmp.Or(c.Traces.Share, 1)
	if c.Forward.Listen != "" && len(c.Forward.From) == 0 {
		c.Forward.From = []source{source(netip.MustParsePrefix("127.0.0.0/8")), source(netip.MustParsePrefix("::1/128"))}
	}
	c.Login.ClockWindow = cmp.Or(c.Login.ClockWindow, span(time.Minute))
	for i := range c.Login.OIDC {
		o := &c.Login.OIDC[i]
		o.Claim, o.Name = cmp.Or(o.Claim, "sub"), cmp.Or(o.Name, "email")
	}
}

// check finds what the yaml package cannot see. It changes nothing.
func (c *config) check() error {
	var errs []error
	wrong := func(format string, a ...any) { errs = append(errs, fmt.Errorf(format, a...)) }

	for _, l := range c.Listen {
		if _, _, err := net.SplitHostPort(l); err != nil {
			wrong("listen: %q is no address with a port, such as :8443", l)
		}
	}
	if c.Admin != "off" {
		if host, _, err := net.SplitHostPort(c.Admin); err != nil {
			wrong("admin: %q is no address with a port, such as 127.0.0.1:9643, and not off", c.Admin)
		} else if !isLoopback(host) {
			wrong("admin: %s is not a loopback address, and what it serves has no lock", c.Admin)
		}
	}
	if c.Prefix != "" && (!strings.HasPrefix(c.Prefix, "/") || strings.HasSuffix(c.Prefix, "/") || strings.ContainsAny(c.Prefix, "?#% ")) {
		wrong("prefix: %q is no plain path, such as /ollama", c.Prefix)
	}
	for _, o := range c.Origins {
		if u, err := url.Parse(o); err != nil || u.Scheme == "" || u.Host == "" || u.Path != "" || strings.Contains(o, "*") {
			wrong("origins: %q is no origin, such as https://chat.example; there are no wildcards", o)
		}
	}
	switch c.TLS.Mode {
	case "self":
	case "files":
		if c.TLS.Cert == "" || c.TLS.Key == "" {
			wrong("tls: mode files needs cert and key")
		}
	case "acme":
		if len(c.TLS.Names) == 0 {
			wrong("tls: mode acme needs names")
		}
	case "off":
		for _, l := range c.Listen {
			if host, _, err := net.SplitHostPort(l); err == nil && !isLoopback(host) && !c.TLS.Force && !c.Tailnet.On {
				wrong("tls: off would send keys and prompts in the clear on %s; listen on 127.0.0.1 behind a proxy, or set force: true", l)
			}
		}
	default:
		wrong("tls: mode %q is none of self, files, acme, off", c.TLS.Mode)
	}
	for _, u := range c.Upstreams {
		parsed, err := url.Parse(u.URL)
		switch {
		case err != nil || parsed.Scheme != "http" && parsed.Scheme != "https" && parsed.Scheme != "unix":
			wrong("upstreams: %q is no URL, such as http://127.0.0.1:11434", u.URL)
		case parsed.User != nil || parsed.RawQuery != "":
			wrong("upstreams: %q may have no user and no query", parsed.Redacted())
		}
		if u.Slots < 1 || u.Slots > 4096 {
			wrong("upstreams: slots %d is not between 1 and 4096", u.Slots)
		}
	}
	if c.Queue.Length < 0 || c.Queue.Length > 100_000 {
		wrong("queue: length %d is not between 0 and 100000", c.Queue.Length)
	}
	for name := range c.Policies {
		p := c.Policies[name]
		if _, err := p.terms(); err != nil {
			wrong("policies: %s: %w", name, err)
		}
	}
	uses := func(where string, maps map[string]string) {
		for value, policy := range maps {
			if _, ok := c.Policies[policy]; !ok {
				wrong("%s: %q is given the policy %q, which policies: does not have", where, value, policy)
			}
		}
	}
	for _, o := range c.Login.OIDC {
		if u, err := url.Parse(o.Issuer); err != nil || u.Scheme != "https" && !isLoopback(u.Hostname()) {
			wrong("login.oidc: issuer %q is no https URL", o.Issuer)
		}
		if o.Audience == "" {
			wrong("login.oidc: %s has no audience, so that a token for anything else would do", o.Issuer)
		}
		uses("login.oidc", o.Maps)
	}
	uses("login.client_certificates", c.Login.Certs.Maps)
	uses("login.tailnet", c.Login.Tailnet.Maps)
	uses("login.trusted_proxy", c.Login.Proxy.Maps)
	if (c.Login.Proxy.Header == "") != (len(c.Login.Proxy.From) == 0) {
		wrong("login.trusted_proxy: header and from belong together")
	}
	for _, p := range c.Login.Proxy.From {
		if netip.Prefix(p).Bits() == 0 {
			wrong("login.trusted_proxy: from %s is everybody", netip.Prefix(p))
		}
	}
	errs = append(errs, c.Forward.check()...)
	errs = append(errs, c.checkTailnet()...)
	if err := c.Traces.check(); err != nil {
		errs = append(errs, err)
	}
	switch c.Log {
	case "", "json", "text":
	default:
		wrong("log: %q is neither json nor text", c.Log)
	}
	return errors.Join(errs...)
}

func isLoopback(host string) bool {
	if host == "localhost" {
		return true
	}
	a, err := netip.ParseAddr(host)
	return err == nil && a.IsLoopback()
}

// stateDir is where keys, the ledger and certificates are kept: what the flag
// says, else /var/lib/gatehouse for the service (systemd's STATE_DIRECTORY),
// else $XDG_STATE_HOME/gatehouse.
func stateDir(flag string) (string, error) {
	if flag != "" {
		return flag, nil
	}
	if dir, _, _ := strings.Cut(os.Getenv("STATE_DIRECTORY"), ":"); dir != "" {
		return dir, nil
	}
	if dir := os.Getenv("XDG_STATE_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "gatehouse"), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", usage(fmt.Errorf("no place for the state: %w", err), "name one with --state-dir")
	}
	return filepath.Join(home, ".local", "state", "gatehouse"), nil
}

// names are what the gate may be called by.
func (c *config) names() []string {
	var names []string
	for _, n := range slices.Concat(c.Hosts, c.TLS.Names) {
		names = append(names, strings.ToLower(strings.TrimSuffix(n, ".")))
	}
	if host, err := os.Hostname(); err == nil {
		host = strings.ToLower(host)
		short, _, _ := strings.Cut(host, ".")
		names = append(names, host, short, short+".local")
	}
	slices.Sort(names)
	return slices.Compact(names)
}
