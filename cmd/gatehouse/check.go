package main

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/charmbracelet/x/ansi"

	"gatehouse/internal/finding"
	"gatehouse/internal/report"
	"gatehouse/internal/scope"
	"gatehouse/internal/target"
	"gatehouse/internal/wave"
)

type checkCmd struct {
	Ports   []uint16 `short:"p" help:"Ports to look at (default: 11434, and that of OLLAMA_HOST)." placeholder:"PORT"`
	Format  string   `help:"table, jsonl, json, csv or sarif (default: table)." enum:"table,jsonl,json,csv,sarif" default:"table" placeholder:"FORMAT"`
	Out     string   `short:"o" help:"Write there instead of standard output." placeholder:"FILE"`
	Verbose bool     `short:"v" help:"Show the evidence and the models of what answers."`

	Outside fromFlags `embed:""`
}

func (checkCmd) Help() string {
	return `Asks every address of this machine, loopback included, from this machine itself: what a service listens on shows, a firewall before it does not. What answers is also asked to prove what it lets strangers do, which changes nothing.

Exits with 3 when an Ollama without a lock answers on an address that others can reach, with 0 when there is none or on loopback alone.`
}

// Run looks at every address this machine has, from this machine: what a
// service listens on shows, what a firewall lets through does not.
func (c *checkCmd) Run(ctx context.Context, s streams) error {
	addrs, err := ownAddresses()
	if err != nil {
		return fmt.Errorf("list this machine's addresses: %w", err)
	}
	w := s.err // standard output is for records, where those are asked for
	if c.Format == "table" && c.Out == "" {
		w = s.out
	}
	open, err := c.Outside.look(ctx, w, c.ports())
	if err != nil {
		return err
	}
	return joinOutside(open, c.check(ctx, s, addrs))
}

func (c *checkCmd) check(ctx context.Context, s streams, addrs []netip.Addr) error {
	sc := scope.Machine(addrs)
	opt := target.Options{Scope: sc.Checker(), Ports: c.ports()}
	targets := make([]string, len(addrs))
	for i, a := range addrs {
		targets[i] = a.String()
	}
	set, err := target.Parse(ctx, targets, nil, opt)
	if err != nil {
		return err
	}
	walk, err := set.Walk(target.Order{Seed: 1})
	if err != nil {
		return err
	}
	w := wave.Wave{ID: newWaveID(), Scope: sc.Name, Seed: 1, Source: walk, Places: walk.Count()}
	j := job{
		wave: &w, checker: opt.Scope, plan: "check", streams: s,
		looks: Looks{
			Prove: true, Details: true, MaxDetails: 8, Contact: "this machine itself",
			Rate: 1000, NetworkRate: 1000, Concurrency: 64, Timeout: time.Second, Retries: 0, MaxTime: 10 * time.Second, MaxBytes: 8 << 20,
		},
		outputs: Outputs{Format: c.Format, Out: c.Out, FailOn: "never", Quiet: true, All: true},
	}
	worst := nowhere
	j.finish = func(sum wave.Summary, hosts report.Hosts) error {
		var records []wave.Record
		for r, err := range hosts {
			if err != nil {
				return err
			}
			records = append(records, r)
		}
		worst = exposure(records)
		if c.Format == "table" && c.Out == "" {
			return c.print(s, sum, records)
		}
		return c.write(&j, sum, records)
	}
	if err := j.run(ctx); err != nil {
		return err
	}
	if worst > onMachine {
		return codeError(exitFindings)
	}
	return nil
}

// write gives the records in the format asked for.
func (c *checkCmd) write(j *job, sum wave.Summary, records []wave.Record) error {
	j.finish = nil
	if c.Format == "jsonl" {
		lines, end, err := j.lines(&report.Meter{})
		if err != nil {
			return err
		}
		for _, r := range records {
			if err := lines(r); err != nil {
				return err
			}
		}
		return end()
	}
	return j.write(sum)
}

// print says the verdict first, then what it rests on, then what to do.
func (c *checkCmd) print(s streams, sum wave.Summary, records []wave.Record) error {
	o := options(s.out) // which has a width
	slices.SortStableFunc(records, func(a, b wave.Record) int {
		return cmp.Or(cmp.Compare(reachOf(b), reachOf(a)), report.Compare(a, b))
	})
	worst := exposure(records)
	var open []wave.Record
	for _, r := range records {
		if r.Outcome == finding.Open {
			open = append(open, r)
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "\n %s\n\n", verdictOf(worst, records))
	records = slices.DeleteFunc(records, func(r wave.Record) bool {
		return r.Outcome == finding.Refused && worst != nowhere
	})
	place := func(r wave.Record) string { return net.JoinHostPort(r.Address, strconv.Itoa(int(r.Port))) }
	wide := 0
	for _, r := range records {
		wide = max(wide, len(place(r)))
	}
	for _, r := range records {
		line := fmt.Sprintf("   %-9s  %-*s  %s", r.Outcome, wide, place(r), describe(r))
		fmt.Fprintln(&b, ansi.Truncate(line, o.Width, "…"))
	}
	fmt.Fprintf(&b, "\n Asked from this machine itself: a firewall between it and the others does not\n show here. To see what others see, run gatehouse scan on another machine.\n")
	if worst == onMachine {
		fmt.Fprintf(&b, " Only programs on this machine reach it, which is Ollama's default.\n")
	}
	if _, err := fmt.Fprint(s.out, b.String()); err != nil {
		return err
	}
	if worst > onMachine || len(open) > 0 && c.Verbose {
		// One server on many addresses has the same findings on each.
		return report.Table(s.out, sum, report.Records(open[:1]), o)
	}
	return nil
}

func describe(r wave.Record) string {
	if r.Outcome != finding.Open {
		return report.Clean(r.Reason)
	}
	models := "no models"
	if n := len(r.Models); n == 1 {
		models = "1 model"
	} else if n > 1 {
		models = strconv.Itoa(n) + " models"
	}
	return fmt.Sprintf("Ollama %s, %s, for %s", report.Clean(r.Identity.Version), models, reachOf(r))
}

// reach is who can come to an address.
type reach int

const (
	nowhere reach = iota
	onMachine
	onLAN
	onInternet
)

func (r reach) String() string {
	return [...]string{"nobody", "this machine only", "its whole network", "anybody"}[r]
}

func reachOf(r wave.Record) reach {
	a, err := netip.ParseAddr(r.Address)
	switch {
	case err != nil:
		return nowhere
	case a.IsLoopback():
		return onMachine
	case a.IsPrivate() || a.IsLinkLocalUnicast() || shared.Contains(a):
		return onLAN
	}
	return onInternet
}

// shared is the address space of carriers' and overlay networks (RFC 6598).
var shared = netip.MustParsePrefix("100.64.0.0/10")

// exposure is how far the farthest can be who comes to an open Ollama.
func exposure(records []wave.Record) reach {
	worst := nowhere
	for _, r := range records {
		if r.Outcome == finding.Open {
			worst = max(worst, reachOf(r))
		}
	}
	return worst
}

func verdictOf(worst reach, records []wave.Record) string {
	switch worst {
	case onInternet:
		return "OPEN TO THE INTERNET: Ollama answers on a public address, without a lock."
	case onLAN:
		return "OPEN TO THE NETWORK: Ollama answers on this machine's network, without a lock."
	case onMachine:
		return "LOCAL ONLY: Ollama answers on loopback and nowhere else."
	}
	for _, r := range records {
		if r.Outcome == finding.Guarded {
			return "GUARDED: what answers asks for credentials."
		}
	}
	return "NOT OPEN: no Ollama answers on this machine's addresses."
}

// ports are the ones asked for, else Ollama's own and the one that the
// environment names.
func (c *checkCmd) ports() []uint16 {
	if len(c.Ports) > 0 {
		return c.Ports
	}
	ports := []uint16{11434}
	host := os.Getenv("OLLAMA_HOST")
	if _, rest, ok := strings.Cut(host, "://"); ok {
		host = rest
	}
	host, _, _ = strings.Cut(host, "/")
	if _, port, err := net.SplitHostPort(host); err == nil {
		if n, err := strconv.ParseUint(port, 10, 16); err == nil && n > 0 && n != 11434 {
			ports = append(ports, uint16(n))
		}
	}
	return ports
}

func ownAddresses() ([]netip.Addr, error) {
	list, err := net.InterfaceAddrs()
	if err != nil {
		return nil, err
	}
	var addrs []netip.Addr
	for _, a := range list {
		ipnet, ok := a.(*net.IPNet)
		if !ok {
			continue
		}
		addr, ok := netip.AddrFromSlice(ipnet.IP)
		// A link-local address needs its interface named, and whoever comes by
		// it comes by the same wire as by the others.
		if addr = addr.Unmap(); ok && !addr.IsLinkLocalUnicast() && !addr.IsMulticast() {
			addrs = append(addrs, addr)
		}
	}
	slices.SortFunc(addrs, netip.Addr.Compare)
	return slices.Compact(addrs), nil
}
