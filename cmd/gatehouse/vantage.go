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
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/charmbracelet/x/ansi"
	"golang.org/x/net/netutil"

	"gatehouse/internal/connect"
	"gatehouse/internal/finding"
	"gatehouse/internal/harden"
	"gatehouse/internal/report"
	"gatehouse/internal/vantage"
	"gatehouse/internal/wave"
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

// viewpoint is a vantage that can be asked; nil is none.
type viewpoint struct {
	at    string // host and port
	token string
	pin   connect.Pin
}

// open reads the token, and returns nil where nobody is to be asked.
func (f *fromFlags) open() (*viewpoint, error) {
	if f.From == "" {
		if f.FromToken != "" {
			return nil, usage(errors.New("--from-token without a vantage"), "name it with --from, such as --from there.example:7443")
		}
		return nil, nil
	}
	host, _, err := net.SplitHostPort(f.From)
	if err != nil || host == "" {
		return nil, usage(fmt.Errorf("--from %s: not a host with a port", f.From), "such as --from there.example:7443")
	}
	if f.FromToken == "" {
		return nil, usage(errors.New("--from without a token"), "put the token that gatehouse vantage printed into a file, and name it with --from-token")
	}
	text, err := connect.ReadKey(f.FromToken)
	if err != nil {
		return nil, usage(err, "--from-token takes a file that holds the token and is yours alone")
	}
	token, fingerprint, _ := strings.Cut(text, "@")
	pin, err := connect.ParsePin(fingerprint)
	if err != nil {
		return nil, usage(fmt.Errorf("%s: not a token as gatehouse vantage prints it", f.FromToken), "it is gv_…@SHA256:…")
	}
	return &viewpoint{f.From, token, pin}, nil
}

// view is how this machine looks from a vantage. The zero view is of nobody.
type view struct {
	from  string
	looks []familyLook
	left  []uint16 // ports that the vantage was not asked about
}

// familyLook is what a vantage saw by IPv4 or by IPv6, or why it did not look.
type familyLook struct {
	family string
	answer vantage.Answer
	err    error
}

// look asks the vantage by both families at a time, about as many ports as one
// question has room for.
func (v *viewpoint) look(ctx context.Context, ports []uint16) view {
	if v == nil {
		return view{}
	}
	asked := ports[:min(len(ports), vantage.MaxPorts)]
	seen := view{from: v.at, looks: make([]familyLook, 2), left: ports[len(asked):]}
	var wg sync.WaitGroup
	for i, version := range []string{"4", "6"} {
		wg.Go(func() {
			a, err := vantage.Ask(ctx, "tcp"+version, v.at, v.token, v.pin.Config(), asked)
			seen.looks[i] = familyLook{"IPv" + version, a, err}
		})
	}
	wg.Wait()
	return seen
}

// untested says why nothing is known from outside, nil where something is or
// nobody was asked.
func (v *view) untested() error {
	var whys []string
	for _, l := range v.looks {
		if l.err == nil {
			return nil
		}
		// That a vantage has no address of a family says less than what the other says.
		if why := whyNot(l.err); !slices.Contains(whys, why) && (why != noAddress || len(whys) == 0) {
			whys = append(slices.DeleteFunc(whys, func(w string) bool { return w == noAddress }), why)
		}
	}
	if len(whys) == 0 {
		return nil
	}
	return failed(fmt.Errorf("not tested from outside: the vantage at %s: %s", v.from, strings.Join(whys, "; ")),
		"start gatehouse vantage there, or name another with --from and its token with --from-token")
}

// answers is what was seen, for a verdict.
func (v *view) answers() (answers []harden.Answer) {
	for _, l := range v.looks {
		for _, p := range l.answer.Ports {
			answers = append(answers, harden.Answer{Place: netip.AddrPortFrom(l.answer.Address.Unmap(), p.Port), Said: string(p.Outcome), From: v.from})
		}
	}
	return answers
}

// open reports whether an Ollama answered the vantage.
func (v *view) open() bool {
	return slices.ContainsFunc(v.answers(), func(a harden.Answer) bool { return a.Said == "open" && !a.Place.Addr().IsLoopback() })
}

// records are the same as a scan has them, marked with who looked.
func (v *view) records(waveID string, now time.Time) (records []wave.Record) {
	for _, l := range v.looks {
		for _, p := range l.answer.Ports {
			r := wave.Record{
				Wave: waveID, Target: l.answer.Address.String(), Address: l.answer.Address.Unmap().String(), Port: p.Port, ObservedAt: now, From: v.from,
				Verdict: finding.Verdict{Outcome: p.Outcome, Reason: p.Reason, Identity: finding.Identity{Version: p.Version}},
			}
			if p.Outcome == finding.Open {
				r.Identity.Product = "ollama"
			}
			records = append(records, r)
		}
	}
	return records
}

// print writes what was seen, place by place.
func (v *view) print(b *strings.Builder, width int, own []netip.Addr) {
	if v.from == "" {
		return
	}
	if err := v.untested(); err != nil {
		text := err.Error()
		para(b, width, " ", strings.ToUpper(text[:1])+text[1:]+".")
		return
	}
	fmt.Fprintf(b, " Seen from %s:\n", report.Clean(v.from))
	type line struct{ family, outcome, place, what string }
	var lines []line
	wide, loops := 0, false
	var foreign []string
	for _, l := range v.looks {
		if l.err != nil {
			lines = append(lines, line{family: l.family, what: "not looked at: " + whyNot(l.err)})
			continue
		}
		addr := l.answer.Address.Unmap()
		loops = loops || addr.IsLoopback()
		isOpen := func(p vantage.Seen) bool { return p.Outcome == finding.Open } // which is told as a reason
		if !slices.Contains(own, addr) && !slices.ContainsFunc(l.answer.Ports, isOpen) {
			foreign = append(foreign, addr.String())
		}
		for _, p := range l.answer.Ports {
			what := p.Reason
			if p.Outcome == finding.Open {
				what = "Ollama " + p.Version
			}
			place := net.JoinHostPort(addr.String(), strconv.Itoa(int(p.Port)))
			wide = max(wide, len(place))
			lines = append(lines, line{l.family, string(p.Outcome), place, what})
		}
	}
	for _, l := range lines {
		text := "   " + l.family + "  " + l.what
		if l.place != "" {
			text = fmt.Sprintf("   %s  %-9s  %-*s  %s", l.family, l.outcome, wide, l.place, l.what)
		}
		fmt.Fprintln(b, ansi.Truncate(report.Clean(text), width, "…"))
	}
	var notes []string
	if len(v.left) > 0 {
		notes = append(notes, fmt.Sprintf("It was not asked about %s: --ports says which it is.", portList(v.left)))
	}
	if loops {
		notes = append(notes, "That vantage is on this machine: what it sees is not the outside.")
	}
	for _, a := range foreign {
		notes = append(notes, a+" is no address of this machine: what was looked at is what stands there, such as a router.")
	}
	for _, n := range notes {
		para(b, width, " ", n)
	}
}

func portList(ports []uint16) string {
	var words []string
	for _, p := range ports {
		words = append(words, strconv.Itoa(int(p)))
	}
	if len(words) == 1 {
		return "port " + words[0]
	}
	return "ports " + strings.Join(words, ", ")
}

const noAddress = "the vantage has no such address"

// whyNot is why a vantage did not look, in words for who asked it.
func whyNot(err error) string {
	switch addr := new(net.AddrError); {
	case errors.As(err, &addr):
		return noAddress
	case errors.Is(err, connect.ErrPin):
		return connect.ErrPin.Error() + ": it is another vantage, or one that was set up anew"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "nothing listens there"
	}
	return connect.Why(err)
}

// join ends a command that asked a vantage: where the vantage could not be asked,
// that is no less an error than others, and a verdict that is bad anyhow counts
// more.
func (v *view) join(s streams, err error) error {
	untested := v.untested()
	if untested == nil {
		return err
	}
	if err == nil {
		return untested
	}
	if code, ok := errors.AsType[codeError](err); ok && code == exitFindings {
		complain(s.err, untested)
	}
	return err
}
