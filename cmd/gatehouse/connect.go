package main

import (
	"bufio"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/term"

	"gatehouse/internal/connect"
	"gatehouse/internal/ollama"
	"gatehouse/internal/report"
)

type connectCmd struct {
	URL     string   `arg:"" help:"The gate's address, such as https://box:8443."`
	Listen  string   `help:"Loopback address that programs call." default:"127.0.0.1:11434" placeholder:"ADDR"`
	Pin     string   `help:"Trust the gate with this key, as it printed it at its start." placeholder:"SHA256:…" xor:"trust"`
	CA      string   `name:"ca" help:"Trust the authorities in this PEM file, and no others." placeholder:"FILE" xor:"trust"`
	KeyFile string   `help:"Read the key from this file, which only you may read." placeholder:"FILE"`
	Origins []string `help:"Web origins whose pages may call, besides those of this machine." placeholder:"ORIGIN"`
	Tailnet bool     `help:"Send no key: the gate is on this machine's tailnet and knows it by that."`
	Login   bool     `help:"Ask for the key, or read it from standard input, and keep it." xor:"do"`
	Logout  bool     `help:"Delete the key that is kept." xor:"do"`
	Check   bool     `help:"Say whether the gate is there, and what the key may do." xor:"do"`

	Install   bool `help:"Start it at login from now on, as a user unit of systemd." xor:"do"`
	Uninstall bool `help:"Start it no more." xor:"do"`
}

func (connectCmd) Help() string {
	return `Stands where programs of this machine look for Ollama, and passes what they ask on to a gate, with the key added. They need no change and never see the key.

  gatehouse connect --login https://box:8443         once: keep the key
  gatehouse connect --pin SHA256:… https://box:8443  then let it run
  ollama list
  gatehouse connect --tailnet http://100.64.0.1:11434  a gate on the tailnet

With --install, systemd starts it at each login; --uninstall ends that.

A key that the gate accepts no more, after a rotation, is looked for again where it is kept: a new --login is enough.

The key is kept in the system's keyring or, where there is none, in a file for you alone; $GATEHOUSE_KEY counts more than either. It is never taken from the command line, which others can read. The gate's certificate is held against the system's authorities, or --ca, or --pin. Without one, by http, a gate is reached at its address on this machine's tailnet and at no other.`
}

func (c *connectCmd) Run(ctx context.Context, s streams) error {
	gate, err := c.gate()
	if err != nil {
		return err
	}
	switch {
	case c.Login:
		return c.login(s, gate)
	case c.Logout:
		return c.logout(s, gate)
	case c.Uninstall:
		return c.uninstall(ctx, s, gate)
	}
	if err := c.valid(); err != nil {
		return err
	}
	config, how, err := c.verify()
	if err != nil {
		return err
	}
	if c.Install {
		return c.install(ctx, s, gate)
	}
	secret := ""
	if !c.Tailnet {
		if secret, err = c.secret(gate); err != nil {
			return err
		}
	}
	transport := connect.Transport(config)
	if gate.Scheme == "http" && connect.OnTailnet(gate.Hostname()) {
		transport, how = connect.TailnetTransport(), "by the tailnet"
	}
	defer transport.CloseIdleConnections()
	if c.Check {
		return c.check(ctx, s, gate, transport, how, secret)
	}
	f := &connect.Forwarder{
		Gate: gate, Key: secret, Keyless: c.Tailnet, Reread: func() (string, error) { return c.secret(gate) },
		Transport: transport, Origins: c.Origins, ErrorLog: log.New(s.err, "gatehouse: ", 0),
	}
	return c.serve(ctx, s, gate, f, how)
}

// gate is the address, in the one form that keys are kept under.
func (c *connectCmd) gate() (*url.URL, error) {
	const hint = "such as https://box:8443"
	u, err := url.Parse(c.URL)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Hostname() == "" {
		return nil, usage(fmt.Errorf("%q is no https URL", c.URL), hint)
	}
	if u.User != nil {
		return nil, usage(errors.New("the gate's address has a user in it: others can read the command line"), "keep the key with gatehouse connect --login")
	}
	if u.RawQuery != "" || u.Fragment != "" {
		return nil, usage(fmt.Errorf("%q goes on after its path", c.URL), hint)
	}
	if u.Scheme == "http" && !isLoopback(u.Hostname()) && !connect.OnTailnet(u.Hostname()) {
		return nil, usage(fmt.Errorf("%s: the key would travel in the clear", c.URL), "give the gate's https address, or its address on the tailnet, such as http://100.64.0.1:11434")
	}
	if c.Tailnet && c.Login {
		return nil, usage(errors.New("--tailnet sends no key, and --login keeps one"), "give one of them")
	}
	u.Host = strings.ToLower(u.Host)
	u.Path, u.RawPath = strings.TrimRight(u.Path, "/"), ""
	return u, nil
}

func (c *connectCmd) valid() error {
	host, port, err := net.SplitHostPort(c.Listen)
	if err != nil || port == "" {
		return usage(fmt.Errorf("--listen %s: not an address with a port", c.Listen), "such as --listen 127.0.0.1:11434")
	}
	if !isLoopback(host) {
		// Whoever can call it uses the key.
		return usage(fmt.Errorf("--listen %s: connect serves this machine only", c.Listen), "such as --listen 127.0.0.1:11434; other machines get a key and a connect of their own")
	}
	for _, o := range c.Origins {
		u, err := url.Parse(o)
		if err != nil || u.Scheme == "" || u.Host == "" || u.Path != "" || u.User != nil || u.RawQuery != "" || strings.Contains(o, "*") {
			return usage(fmt.Errorf("--origins %s: not an origin", o), "such as --origins https://chat.example")
		}
	}
	return nil
}

// verify says how the gate's certificate is held to be its own.
func (c *connectCmd) verify() (config *tls.Config, how string, err error) {
	switch {
	case c.Pin != "":
		pin, err := connect.ParsePin(c.Pin)
		if err != nil {
			return nil, "", usage(fmt.Errorf("--pin: %w", err), "gatehouse gate prints it at its start")
		}
		return pin.Config(), "by the pinned key", nil
	case c.CA != "":
		pool, err := authorities(c.CA)
		if err != nil {
			return nil, "", usage(err, "--ca takes a PEM file; gatehouse trust fetches a gate's own")
		}
		return &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: pool}, "by the authorities in " + c.CA, nil
	}
	return &tls.Config{MinVersion: tls.VersionTLS12}, "by the system's authorities", nil
}

// keyFile is where the key is kept when there is no keyring.
func (c *connectCmd) keyFile(gate *url.URL) (string, error) {
	if c.KeyFile != "" {
		return c.KeyFile, nil
	}
	dir, err := os.UserConfigDir()
	if err != nil {
		return "", usage(err, "name a file with --key-file")
	}
	return filepath.Join(dir, "gatehouse", fileName(gate)+".key"), nil
}

// fileName is a gate's address as files are named after it.
func fileName(gate *url.URL) string {
	return strings.NewReplacer("/", "_", ":", "_", "[", "", "]", "").Replace(gate.Host + gate.Path)
}

func (c *connectCmd) secret(gate *url.URL) (string, error) {
	if c.KeyFile == "" {
		if secret := os.Getenv("GATEHOUSE_KEY"); secret != "" {
			return secret, nil
		}
	}
	return c.kept(gate)
}

// kept is the key from where it lasts.
func (c *connectCmd) kept(gate *url.URL) (string, error) {
	file, err := c.keyFile(gate)
	if err != nil {
		return "", err
	}
	if c.KeyFile != "" {
		secret, err := connect.ReadKey(file)
		if err != nil {
			return "", usage(err, "--key-file takes a file that holds the key and is yours alone")
		}
		return secret, nil
	}
	secret, _, err := connect.Kept(gate.String(), file)
	switch {
	case errors.Is(err, connect.ErrNoKey):
		return "", usage(fmt.Errorf("no key is kept for %s", gate), "gatehouse connect --login "+gate.String())
	case err != nil:
		return "", usage(err, "or keep it anew: gatehouse connect --login "+gate.String())
	}
	return secret, nil
}

// login keeps a key.
func (c *connectCmd) login(s streams, gate *url.URL) error {
	file, err := c.keyFile(gate)
	if err != nil {
		return err
	}
	var line string
	if f, ok := s.in.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		fmt.Fprintf(s.err, "Key for %s (not shown): ", gate)
		text, err := term.ReadPassword(int(f.Fd()))
		fmt.Fprintln(s.err)
		if err != nil {
			return fmt.Errorf("read the key: %w", err)
		}
		line = string(text)
	} else if line, err = bufio.NewReader(io.LimitReader(s.in, 16<<10)).ReadString('\n'); err != nil && err != io.EOF {
		return fmt.Errorf("read the key: %w", err)
	}
	secret, where := strings.TrimSpace(line), file
	if c.KeyFile != "" {
		err = connect.WriteKey(file, secret)
	} else {
		where, err = connect.Keep(gate.String(), secret, file)
	}
	if err != nil {
		return usage(fmt.Errorf("keep the key: %w", err), "on the gate, gatehouse key add NAME makes one")
	}
	_, err = fmt.Fprintf(s.out, "The key for %s is kept in %s.\n", gate, report.Clean(where))
	return err
}

// logout deletes a key.
func (c *connectCmd) logout(s streams, gate *url.URL) error {
	file, err := c.keyFile(gate)
	if err != nil {
		return err
	}
	where := []string{file}
	if c.KeyFile != "" {
		err = os.Remove(file)
	} else {
		where, err = connect.Forget(gate.String(), file)
	}
	if errors.Is(err, connect.ErrNoKey) || errors.Is(err, fs.ErrNotExist) {
		return usage(fmt.Errorf("no key is kept for %s", gate), "keys are kept by address: give the one of --login, and its --key-file if it had one")
	}
	if err != nil {
		return fmt.Errorf("delete the key: %w", err)
	}
	_, err = fmt.Fprintf(s.out, "The key for %s is deleted from %s.\nOn the gate it is good until gatehouse key revoke.\n", gate, report.Clean(strings.Join(where, " and ")))
	return err
}

func (c *connectCmd) serve(ctx context.Context, s streams, gate *url.URL, f *connect.Forwarder, how string) error {
	l, err := net.Listen("tcp", c.Listen)
	if err != nil {
		hint := "choose another with --listen"
		if errors.Is(err, syscall.EADDRINUSE) {
			hint = "an Ollama of this machine's own may be there: stop it, or choose another with --listen 127.0.0.1:11435 and set OLLAMA_HOST=127.0.0.1:11435"
		}
		return usage(fmt.Errorf("listen on %s: %w", c.Listen, plainListen(err)), hint)
	}
	srv := &http.Server{
		Handler: f, DisableGeneralOptionsHandler: true, ReadHeaderTimeout: headerTime, IdleTimeout: idleTime, MaxHeaderBytes: maxHeader,
		ErrorLog: f.ErrorLog,
	}
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	fmt.Fprintf(s.out, "Ollama on http://%s is %s, verified %s. Ctrl-C ends it.\n", l.Addr(), gate, report.Clean(how))

	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }()
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	stop() // a second signal ends it at once
	soon, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if srv.Shutdown(soon) != nil {
		_ = srv.Close() // streams without end are broken off
	}
	<-served
	return nil
}

// check asks the gate what the key may do, with requests that do nothing: the
// model that they name is none.
func (c *connectCmd) check(ctx context.Context, s streams, gate *url.URL, transport http.RoundTripper, how, secret string) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	ask := func(method, path, body string) (int, error) {
		req, err := http.NewRequestWithContext(ctx, method, gate.String()+path, strings.NewReader(body))
		if err != nil {
			return 0, err
		}
		if secret != "" {
			req.Header.Set("Authorization", "Bearer "+secret)
		}
		req.Header.Set("Content-Type", "application/json")
		resp, err := transport.RoundTrip(req)
		if err != nil {
			return 0, err
		}
		_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 1<<20))
		return resp.StatusCode, resp.Body.Close()
	}
	const none = `{"model":"gatehouse-check:none"}`
	var lines []string
	known := true
	for _, q := range []struct {
		power              ollama.Power
		what               string
		method, path, body string
	}{
		{ollama.Hello, "see its version", "GET", "/api/version", ""},
		{ollama.Read, "list models", "GET", "/api/tags", ""},
		{ollama.Infer, "use models", "POST", "/api/generate", none},
		{ollama.Manage, "change models", "DELETE", "/api/delete", none},
	} {
		status, err := ask(q.method, q.path, q.body)
		if err != nil {
			return fmt.Errorf("%s: %s", gate, connect.Why(err))
		}
		says := "yes"
		switch {
		case status == http.StatusUnauthorized:
			known = false
		case status == http.StatusForbidden:
			says = "no"
		case status == http.StatusTooManyRequests || status >= 500:
			says = fmt.Sprintf("unknown: it answered %d", status)
		}
		lines = append(lines, fmt.Sprintf("   %-7s %-16s %s", q.power, q.what, says))
		if !known {
			break
		}
	}
	by, who := "its certificate is verified "+cmp.Or(how, "not"), "key"
	switch {
	case gate.Scheme == "http" && connect.OnTailnet(gate.Hostname()):
		by = "it is known " + how
	case gate.Scheme == "http":
		by = "its certificate is verified not: it is on this machine"
	}
	if c.Tailnet {
		who = "machine"
	}
	fmt.Fprintf(s.out, "\n %s answers; %s.\n", gate, report.Clean(by))
	if !known {
		return fmt.Errorf("%s does not accept the %s", gate, who)
	}
	_, err := fmt.Fprintf(s.out, " The %s is accepted:\n\n%s\n", who, strings.Join(lines, "\n"))
	return err
}
