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
	"gatehouse/internal/harden"
	"gatehouse/internal/report"
	"gatehouse/internal/scope"
	"gatehouse/internal/target"
	"gatehouse/internal/vantage"
	"gatehouse/internal/wave"
)

type checkCmd struct {
	Ports   []uint16 `short:"p" help:"Ports to look at (default: 11434, and that of OLLAMA_HOST)." placeholder:"PORT"`
	Format  string   `help:"table, jsonl, json, csv or sarif (default: table)." enum:"table,jsonl,json,csv,sarif" default:"table" placeholder:"FORMAT"`
	Out     string   `short:"o" help:"Write there instead of standard output." placeholder:"FILE"`
	Verbose bool     `short:"v" help:"Show the evidence and the models of what answers."`
	Setup

	Outside fromFlags `embed:""`

	facts *harden.Facts // how the machine is set up; nil when nobody looked
	seen  view          // how it looks from a vantage
}

// Setup says where set-ups lie besides the usual places.
type Setup struct {
	Compose    []string `help:"A compose file to read, besides those that are found." placeholder:"FILE" sep:"none"`
	Manifests  string   `help:"A folder of Kubernetes manifests to read." placeholder:"DIR"`
	Kubeconfig string   `help:"A cluster to ask, by kubectl." placeholder:"FILE"`
}

func (checkCmd) Help() string {
	return `Asks every address of this machine, loopback included, from this machine itself, and reads how the machine is set up: services, containers, compose files, proxies, tunnels and the firewall. The verdict comes first, then why, then the fix. What answers is also asked to prove what it lets strangers do. Nothing is changed.

It works without root, and says what it could not see. A firewall in front of the machine does not show from here: with --from, a vantage of yours looks too, and what answers it counts most.

Exits with 3 when an Ollama without a lock can be reached by others than this machine's own programs, else with 1 when the vantage of --from could not be asked, with 0 otherwise.`
}

// Run looks at every address this machine has, from this machine: what a
// service listens on shows, what a firewall lets through does not.
func (c *checkCmd) Run(ctx context.Context, s streams) error {
	from, err := c.Outside.open()
	if err != nil {
		return err
	}
	if from != nil && len(c.Ports) > vantage.MaxPorts {
		return usage(fmt.Errorf("a vantage looks at %d ports at most", vantage.MaxPorts), "name fewer with --ports")
	}
	m, err := c.Setup.machine()
	if err != nil {
		return err
	}
	limit, cancel := context.WithTimeout(ctx, inspectTime)
	defer cancel()
	c.facts = harden.Inspect(limit, m)
	c.seen = from.look(ctx, c.ports())
	return c.seen.join(s, c.check(ctx, s, m.Addresses))
}

// inspectTime bounds the reading of the set-up; what is not read by then is not seen.
const inspectTime = 1500 * time.Millisecond

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
	open := false
	j.finish = func(sum wave.Summary, hosts report.Hosts) error {
		var records []wave.Record
		for r, err := range hosts {
			if err != nil {
				return err
			}
			records = append(records, r)
		}
		verdict := c.judge(addrs, records)
		open = verdict.Open()
		if c.Format == "table" && c.Out == "" {
			return c.print(s, sum, records, verdict, addrs)
		}
		return j.outputs.write(s, sum, report.Records(append(records, c.seen.records(w.ID, sum.Ended)...)))
	}
	if err := j.run(ctx); err != nil {
		return err
	}
	if open {
		return codeError(exitFindings)
	}
	return nil
}

// judge joins what was read of the machine with what answered.
func (c *checkCmd) judge(addrs []netip.Addr, records []wave.Record) harden.Verdict {
	facts := c.facts
	if facts == nil {
		facts = harden.Inspect(context.Background(), harden.Machine{Addresses: addrs})
	}
	answers := c.seen.answers()
	for _, r := range records {
		if a, err := netip.ParseAddr(r.Address); err == nil {
			answers = append(answers, harden.Answer{Place: netip.AddrPortFrom(a, r.Port), Said: string(r.Outcome)})
		}
	}
	return facts.Judge(answers)
}

// print says the verdict first, then why, then what it rests on, then what to do.
func (c *checkCmd) print(s streams, sum wave.Summary, records []wave.Record, v harden.Verdict, own []netip.Addr) error {
	o := options(s.out) // which has a width
	slices.SortStableFunc(records, func(a, b wave.Record) int {
		return cmp.Or(cmp.Compare(reachOf(b), reachOf(a)), report.Compare(a, b))
	})
	var open []wave.Record
	for _, r := range records {
		if r.Outcome == finding.Open {
			open = append(open, r)
		}
	}
	var b strings.Builder
	fmt.Fprintln(&b)
	para(&b, o.Width, " ", string(v.Level)+": "+v.Says)
	if v.Later != "" {
		para(&b, o.Width, " ", "Once it starts again it is "+string(v.Later)+".")
	}
	fmt.Fprintln(&b)
	printCauses(&b, o.Width, v)
	if len(open) > 0 { // the rest says nothing that the verdict does not
		records = slices.DeleteFunc(records, func(r wave.Record) bool { return r.Outcome == finding.Refused })
	}
	place := func(r wave.Record) string { return net.JoinHostPort(r.Address, strconv.Itoa(int(r.Port))) }
	wide := 0
	for _, r := range records {
		wide = max(wide, len(place(r)))
	}
	for _, r := range records {
		line := fmt.Sprintf("   %-9s  %-*s  %s", r.Outcome, wide, place(r), describe(r))
		fmt.Fprintln(&b, ansi.Truncate(line, o.Width, "…"))
	}
	if c.seen.from == "" {
		fmt.Fprintf(&b, "\n Asked from this machine itself: a firewall between it and the others does not\n show here. What others see: gatehouse vantage on another machine of yours, then\n gatehouse check --from.\n")
	}
	if c.seen.from != "" {
		fmt.Fprintln(&b)
		c.seen.print(&b, o.Width, own)
	}
	if v.Level == harden.LocalOnly {
		fmt.Fprintf(&b, " Only programs on this machine reach it, which is Ollama's default.\n")
	}
	printUnseen(&b, o.Width, v)
	if fixable(v) {
		fmt.Fprintf(&b, "\n To close it:\n   gatehouse harden               shows what it would change\n   sudo gatehouse harden --apply  changes it; --undo takes it back\n")
	}
	if _, err := fmt.Fprint(s.out, b.String()); err != nil {
		return err
	}
	if v.Open() && len(open) > 0 || len(open) > 0 && c.Verbose {
		// One server on many addresses has the same findings on each.
		return report.Table(s.out, sum, report.Records(open[:1]), o)
	}
	return nil
}

// printCauses says why, each with the place where it is written.
func printCauses(b *strings.Builder, width int, v harden.Verdict) {
	for _, c := range v.Causes {
		if c.Kind == harden.Unexplained && c.Says == "answers" && c.Seen == "" {
			continue // the answers are listed below
		}
		para(b, width, "   ", c.Place.String())
		para(b, width, "     ", c.Says)
		means := c.Means
		if !c.Live {
			means += ", once it starts"
		}
		switch {
		case c.Behind != "" && c.Reach() <= harden.OnMachine:
			means += "; only the firewall keeps others out (" + c.Behind + ")"
		case c.Around != "":
			means += "; the firewall does not see it (" + c.Around + "), for the engine's own rules come first"
		case c.V6 > c.V4 && c.V4 == harden.OnMachine:
			means += "; the firewall closes it for IPv4 and leaves IPv6 open"
		case c.V4 > c.V6 && c.V6 == harden.OnMachine:
			means += "; the firewall closes it for IPv6 and leaves IPv4 open"
		}
		para(b, width, "     ", means+".")
		if c.Seen != "" {
			para(b, width, "     ", "From outside: "+c.Seen+".")
		}
		fmt.Fprintln(b)
	}
}

func printUnseen(b *strings.Builder, width int, v harden.Verdict) {
	if len(v.Unseen) == 0 {
		return
	}
	fmt.Fprintf(b, "\n Not seen:\n")
	for _, u := range v.Unseen {
		para(b, width, "   ", u.What+": "+u.Why+". Instead: "+u.Do+".")
	}
}

// fixable reports whether there is something to close.
func fixable(v harden.Verdict) bool {
	return slices.ContainsFunc(v.Causes, func(c harden.Cause) bool { return c.Reach() > harden.OnMachine || c.Pages })
}

// para writes a text in lines of at most width columns, each after indent. What it
// is made of may come from a file of anybody's.
func para(b *strings.Builder, width int, indent, text string) {
	for line := range strings.SplitSeq(ansi.Wordwrap(report.Clean(text), max(width-len(indent), 20), ""), "\n") {
		fmt.Fprintln(b, ansi.Truncate(indent+line, max(width, 20), "…"))
	}
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

// reachOf is how far away somebody can be who comes to a host's address.
func reachOf(r wave.Record) harden.Reach {
	a, err := netip.ParseAddr(r.Address)
	if err != nil {
		return harden.Nobody
	}
	return harden.ReachOf(a)
}

// ports are the ones asked for, else Ollama's own and the one that the
// environment and the set-up name.
func (c *checkCmd) ports() []uint16 {
	if len(c.Ports) > 0 {
		return c.Ports
	}
	ports := []uint16{harden.Port}
	if host := os.Getenv("OLLAMA_HOST"); host != "" {
		if _, port := harden.Bind(host); port != harden.Port {
			ports = append(ports, port)
		}
	}
	if c.facts != nil {
		for _, p := range c.facts.Ports() {
			if !slices.Contains(ports, p) {
				ports = append(ports, p)
			}
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
