package main

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/net/netutil"

	"gatehouse/internal/connect"
	"gatehouse/internal/finding"
	"gatehouse/internal/report"
	"gatehouse/internal/vantage"
)

type vantageCmd struct {
	Listen   string `help:"Address to be asked on." default:":7443" placeholder:"ADDR"`
	StateDir string `help:"Where the token's hash and the certificate are kept." placeholder:"DIR"`
	NewToken bool   `help:"Make a new token; the old one is good no more."`
}

func (vantageCmd) Help() string {
	return `Runs on another machine of yours, and tells those that hold its token how they look from there. It connects back to the address that asked, and to no other, on the ports that are asked for, and makes the same four reads as a scan.

  gatehouse vantage                          there; it prints its token once
  gatehouse check --from there.example:7443  here`
}

func (c *vantageCmd) Run(ctx context.Context, s streams) error {
	if _, _, err := net.SplitHostPort(c.Listen); err != nil {
		return usage(fmt.Errorf("--listen %s: not an address with a port", c.Listen), "such as --listen :7443")
	}
	dir, err := stateDir(c.StateDir)
	if err != nil {
		return err
	}
	dir = filepath.Join(dir, "vantage")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return usage(fmt.Errorf("state folder: %w", err), "name another with --state-dir")
	}
	a, err := openAuthority(filepath.Join(dir, "tls"), nil)
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", c.Listen)
	if err != nil {
		return usage(fmt.Errorf("listen on %s: %w", c.Listen, plainListen(err)), "choose another with --listen")
	}
	defer l.Close()
	hash, err := c.token(s, dir, fingerprint(a.cert))
	if err != nil {
		return err
	}
	errs := log.New(s.err, "gatehouse: ", log.LstdFlags)
	server := &vantage.Server{
		Token: hash, UserAgent: userAgent("asked for by the address it looks at"),
		Looked: func(a vantage.Answer) {
			var seen []string
			for _, p := range a.Ports {
				seen = append(seen, fmt.Sprintf("%d %s", p.Port, p.Outcome))
			}
			errs.Printf("looked at %s: %s", a.Address, strings.Join(seen, ", "))
		},
	}
	srv := &http.Server{
		Handler: server, ReadHeaderTimeout: headerTime, ReadTimeout: headerTime, WriteTimeout: time.Minute,
		MaxHeaderBytes: maxHeader, ErrorLog: log.New(io.Discard, "", 0), // what strangers do wrong is not news
	}
	fmt.Fprintf(s.out, " Vantage on %s. Ctrl-C ends it.\n", l.Addr())
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	served := make(chan error, 1)
	go func() {
		served <- srv.Serve(tls.NewListener(netutil.LimitListener(l, maxStrangers),
			&tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: a.certificate}))
	}()
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	stop()
	_ = srv.Close() // a look broken off harms nobody
	<-served
	return nil
}

// maxStrangers is how many connections a vantage holds at one time.
const maxStrangers = 256

// token is the hash of the one that callers have to show. The first start makes
// one and prints it, this once; the vantage's pin goes with it, so that there is
// one thing to carry over.
func (c *vantageCmd) token(s streams, dir, pin string) (hash [sha256.Size]byte, err error) {
	file := filepath.Join(dir, "token.sha256")
	text, err := os.ReadFile(file)
	switch {
	case err == nil && !c.NewToken:
		sum, err := hex.DecodeString(strings.TrimSpace(string(text)))
		if err != nil || len(sum) != len(hash) {
			return hash, usage(fmt.Errorf("%s holds no hash", file), "--new-token makes a new one")
		}
		copy(hash[:], sum)
		return hash, nil
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return hash, err
	}
	secret := "gv_" + rand.Text()
	hash = sha256.Sum256([]byte(secret))
	if err := writeNew(file, []byte(hex.EncodeToString(hash[:])+"\n"), 0o600); err != nil {
		return hash, err
	}
	_, err = fmt.Fprintf(s.out, "\n The token, shown this once; put it into a file of your own on the machine that\n asks, chmod 600:\n\n   %s@%s\n\n", secret, pin)
	return hash, err
}

// fromFlags has another machine look at this one.
type fromFlags struct {
	From      string `help:"Also ask the vantage there how this machine looks from outside." placeholder:"HOST:PORT"`
	FromToken string `help:"File with the vantage's token, which only you may read." placeholder:"FILE"`
}

// look asks the vantage by IPv4 and by IPv6, says on w what it saw, and reports
// whether an Ollama answered it.
func (f *fromFlags) look(ctx context.Context, w io.Writer, ports []uint16) (open bool, err error) {
	if f.From == "" {
		return false, nil
	}
	host, _, err := net.SplitHostPort(f.From)
	if err != nil || host == "" {
		return false, usage(fmt.Errorf("--from %s: not a host with a port", f.From), "such as --from there.example:7443")
	}
	if f.FromToken == "" {
		return false, usage(errors.New("--from without a token"), "put the token that gatehouse vantage printed into a file, and name it with --from-token")
	}
	text, err := connect.ReadKey(f.FromToken)
	if err != nil {
		return false, usage(err, "--from-token takes a file that holds the token and is yours alone")
	}
	token, fingerprint, _ := strings.Cut(text, "@")
	pin, err := connect.ParsePin(fingerprint)
	if err != nil {
		return false, usage(fmt.Errorf("%s: not a token as gatehouse vantage prints it", f.FromToken), "it is gv_…@SHA256:…")
	}
	if len(ports) > vantage.MaxPorts {
		return false, usage(fmt.Errorf("a vantage looks at %d ports at most", vantage.MaxPorts), "name fewer with --ports")
	}
	var answers []vantage.Answer
	var lines []string
	for _, version := range []string{"4", "6"} {
		family := "IPv" + version
		a, err := vantage.Ask(ctx, "tcp"+version, f.From, token, pin.Config(), ports)
		if err != nil {
			lines = append(lines, fmt.Sprintf("   %s  not looked at: %s", family, report.Clean(whyNot(err))))
			continue
		}
		answers = append(answers, a)
		for _, p := range a.Ports {
			what := p.Reason
			if p.Outcome == finding.Open {
				open = true
				what = "Ollama " + p.Version
			}
			place := net.JoinHostPort(a.Address.String(), strconv.Itoa(int(p.Port)))
			lines = append(lines, fmt.Sprintf("   %s  %-9s  %s  %s", family, report.Clean(string(p.Outcome)), place, report.Clean(what)))
		}
	}
	if len(answers) == 0 {
		return false, fmt.Errorf("ask the vantage at %s:\n%s", f.From, strings.Join(lines, "\n"))
	}
	verdict := "NOT OPEN FROM OUTSIDE, as far as the vantage could look."
	if open {
		verdict = "OPEN FROM OUTSIDE: Ollama answers the vantage, without a lock."
	}
	_, err = fmt.Fprintf(w, "\n %s\n\n Seen from %s:\n\n%s\n\n What it looks at is the address that this machine has there: behind NAT, that of\n the router.\n",
		verdict, report.Clean(f.From), strings.Join(slices.Compact(lines), "\n"))
	return open, err
}

// joinOutside adds what was seen from outside to how the check ended.
func joinOutside(open bool, err error) error {
	if open && err == nil {
		return codeError(exitFindings)
	}
	return err
}

func whyNot(err error) string {
	if addr := new(net.AddrError); errors.As(err, &addr) {
		return "the vantage has no such address"
	}
	return connect.Why(err)
}
