//go:build linux

// Sweep measures Gatehouse's raw SYN sweep beside zmap and masscan: packets a
// second and completeness, on a network of which all answer and on a larger one
// of which few do, in turn in one run. Beside them stand loops that only send, by each
// way the kernel has: what it lets a program send at all.
//
// All of it is in two network namespaces, joined by a pair of virtual interfaces,
// that lead nowhere else and are taken down at the end. What answers is an XDP
// program, so that it costs less than any of those that ask; it counts the
// packets and notes when the first and the last came, for all tools alike.
package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"gatehouse/bench/figures"
)

const (
	port    = 11434
	timeout = 12 * time.Second // of one tool in one round
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	modes := map[string]func(context.Context, []string) error{"answer": runAnswer, "pass": runPass, "bare": runBare, "ours": runOurs}
	run := runBench
	args := os.Args[1:]
	if len(args) > 0 && modes[args[0]] != nil {
		run, args = modes[args[0]], args[1:]
	}
	if err := run(ctx, args); err != nil {
		fmt.Fprintln(os.Stderr, "sweep:", err)
		os.Exit(1)
	}
}

// network is one to sweep.
type network struct {
	what, first string
	bits        int
	share       float64 // of addresses that answer
}

func (n network) String() string { return fmt.Sprintf("%s/%d", n.first, n.bits) }

func (n network) size() int { return 1 << (32 - n.bits) }

// tool is one way to sweep. Its command has {net}, {first}, {n}, {mac} and {out} to
// fill in; what it found is in the file out, or on standard output without it.
type tool struct {
	name    string
	command string
	bare    bool // only sends
	address func(line string) string
}

func wholeLine(line string) string { return line }

func openLine(line string) string {
	if f := strings.Fields(line); len(f) > 3 && f[0] == "open" {
		return f[3]
	}
	return ""
}

const masscan = "-p11434 --wait 1 -oL {out} -e scan0 --router-mac {mac} --adapter-ip 10.99.0.9 --adapter-port 32768-49151"

var tools = []tool{
	{name: "gatehouse", command: "{self} ours {net}", address: wholeLine},
	{
		name: "zmap", address: wholeLine,
		command: "zmap -q --disable-syslog -i scan0 -G {mac} -p 11434 -r 0 -c 1 -b /dev/null -o {out} {net}",
	},
	{name: "masscan", command: "masscan {net} --rate 10000000 " + masscan, address: openLine},
	{name: "masscan --rate 50000", command: "masscan {net} --rate 50000 " + masscan, address: openLine},
	{name: "bare sendmmsg", command: "{self} bare mmsg scan0 {mac} {first} {n}", bare: true},
	{name: "bare sendmmsg, no qdisc", command: "{self} bare mmsg-bypass scan0 {mac} {first} {n}", bare: true},
	{name: "bare TX_RING", command: "{self} bare ring scan0 {mac} {first} {n}", bare: true},
	{name: "bare TX_RING, no qdisc", command: "{self} bare ring-bypass scan0 {mac} {first} {n}", bare: true},
}

type bench struct {
	rounds       int
	out          figures.File
	dir, self    string
	hosts, scans string // the namespaces
	mac          string // of the hosts' side
}

func runBench(ctx context.Context, args []string) (err error) {
	b := bench{hosts: fmt.Sprintf("gatehouse-hosts-%d", os.Getpid()), scans: fmt.Sprintf("gatehouse-scan-%d", os.Getpid())}
	flags := flag.NewFlagSet("sweep", flag.ExitOnError)
	flags.IntVar(&b.rounds, "rounds", 5, "rounds, the tools in turn")
	sparse := flags.Int("sparse", 12, "`bits` of the network of which 1 % answer, from 10 on; 0 leaves it out")
	jsonFile := flags.String("json", "", "write every figure of every round to this `file`, too")
	_ = flags.Parse(args)
	b.out.Machine, b.out.Versions = figures.Here(), make(map[string]string)
	for _, name := range []string{"zmap", "masscan"} {
		if line := figures.Version(name, "--version"); line != "" {
			b.out.Versions[name] = line
		}
	}
	if _, err := exec.LookPath("ip"); err != nil || os.Geteuid() != 0 {
		return errors.New("network namespaces need root and the command ip (Debian: iproute2)")
	}
	if b.dir, err = os.MkdirTemp("", "gatehouse-sweep"); err != nil {
		return err
	}
	defer os.RemoveAll(b.dir)
	if b.self, err = os.Executable(); err != nil {
		return err
	}
	defer func() {
		for _, ns := range []string{b.hosts, b.scans} {
			_ = exec.Command("ip", "netns", "del", ns).Run()
		}
	}()
	if err := b.up(ctx); err != nil {
		return err
	}
	pass, err := b.start(ctx, b.scans, "pass", "scan0")
	if err != nil {
		return err
	}
	defer pass.end()
	networks := []network{{"all answer", "10.98.0.0", 16, 1}}
	if *sparse > 0 {
		networks = append(networks, network{"1 % answer", "10.64.0.0", *sparse, 0.01})
	}
	for _, n := range networks {
		if err := b.compare(ctx, n); err != nil {
			return err
		}
	}
	if *jsonFile == "" {
		return nil
	}
	return b.out.Write(*jsonFile)
}

// up makes the namespaces and the wire between them.
func (b *bench) up(ctx context.Context) error {
	for _, line := range []string{
		"netns add " + b.hosts,
		"netns add " + b.scans,
		"-n " + b.scans + " link add scan0 type veth peer name host0 netns " + b.hosts,
		"-n " + b.hosts + " addr add 10.99.0.2/24 dev host0",
		"-n " + b.scans + " addr add 10.99.0.1/24 dev scan0",
		"-n " + b.hosts + " link set host0 up",
		"-n " + b.scans + " link set scan0 up",
		"-n " + b.scans + " route add 10.64.0.0/10 via 10.99.0.2",
	} {
		if text, err := exec.CommandContext(ctx, "ip", strings.Fields(line)...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %s: %s", line, strings.TrimSpace(string(text)))
		}
	}
	mac, err := exec.CommandContext(ctx, "ip", "netns", "exec", b.hosts, "cat", "/sys/class/net/host0/address").Output()
	b.mac = strings.TrimSpace(string(mac))
	return err
}

// child is this program in one of its modes, in a namespace.
type child struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Scanner
}

func (b *bench) start(ctx context.Context, ns string, args ...string) (*child, error) {
	c := &child{cmd: exec.CommandContext(ctx, "ip", append([]string{"netns", "exec", ns, b.self}, args...)...)}
	c.cmd.Stderr = os.Stderr
	var err error
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	c.out = bufio.NewScanner(out)
	if err := c.cmd.Start(); err != nil {
		return nil, err
	}
	if !c.out.Scan() || c.out.Text() != "ready" {
		c.end()
		return nil, fmt.Errorf("%s did not come up", args[0])
	}
	return c, nil
}

func (c *child) end() {
	_ = c.in.Close()
	_ = c.cmd.Wait() // what it had to say is on standard error
}

// counted is how many SYNs came since it was last asked, and within what time.
func (c *child) counted() (n uint64, took time.Duration, err error) {
	if _, err := fmt.Fprintln(c.in); err != nil {
		return 0, 0, err
	}
	if !c.out.Scan() {
		return 0, 0, errors.New("the responder is gone")
	}
	_, err = fmt.Sscan(c.out.Text(), &n, (*int64)(&took))
	return n, took, err
}

// result is one tool's round.
type result struct {
	rate  float64 // packets a second
	found float64 // of those that answer, 0 to 1
	cpu   time.Duration
	cut   bool
}

func (b *bench) compare(ctx context.Context, n network) error {
	answer, err := b.start(ctx, b.hosts, "answer", "host0", fmt.Sprint(n.share))
	if err != nil {
		return err
	}
	defer answer.end()
	truth := n.truth()
	results := make(map[string][]result)
	var missing []string
	for round := range b.rounds {
		for _, t := range tools {
			words := b.words(&t, n)
			if _, err := exec.LookPath(words[0]); err != nil {
				if round == 0 {
					missing = append(missing, t.name)
				}
				continue
			}
			r, err := b.measure(ctx, &t, words, answer, truth)
			if err != nil {
				return fmt.Errorf("%s: %w", t.name, err)
			}
			results[t.name] = append(results[t.name], r)
			fmt.Fprintf(os.Stderr, "%v, round %d: %-24s %9.0f packets/s", n, round+1, t.name, r.rate)
			if !t.bare {
				fmt.Fprintf(os.Stderr, " %8.3f %% found", 100*r.found)
			}
			fmt.Fprintln(os.Stderr)
		}
	}
	b.print(n, results, missing)
	return ctx.Err()
}

// truth are the addresses that answer.
func (n network) truth() map[string]bool {
	var a [4]byte
	_, _ = fmt.Sscanf(n.first, "%d.%d.%d.%d", &a[0], &a[1], &a[2], &a[3])
	list := make(map[string]bool)
	for range n.size() {
		if answers(a, threshold(n.share)) {
			list[fmt.Sprintf("%d.%d.%d.%d", a[0], a[1], a[2], a[3])] = true
		}
		for i := 3; i >= 0; i-- {
			if a[i]++; a[i] != 0 {
				break
			}
		}
	}
	return list
}

func (b *bench) words(t *tool, n network) []string {
	fill := strings.NewReplacer(
		"{self}", b.self, "{net}", n.String(), "{first}", n.first, "{n}", fmt.Sprint(n.size()), "{mac}", b.mac, "{out}", filepath.Join(b.dir, "out"),
	)
	words := strings.Fields(t.command)
	for i := range words {
		words[i] = fill.Replace(words[i])
	}
	return words
}

func (b *bench) measure(ctx context.Context, t *tool, words []string, answer *child, truth map[string]bool) (r result, err error) {
	file := filepath.Join(b.dir, "out")
	_ = os.Remove(file) // of the round before
	if _, _, err := answer.counted(); err != nil {
		return r, err
	}
	limited, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	cmd := exec.CommandContext(limited, "ip", append([]string{"netns", "exec", b.scans}, words...)...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 5 * time.Second
	var said, wrong strings.Builder
	cmd.Stdout, cmd.Stderr = &said, &wrong
	err = cmd.Run()
	if ctx.Err() != nil {
		return r, context.Cause(ctx)
	}
	if r.cut = limited.Err() != nil; err != nil && !r.cut {
		text := wrong.String()
		return r, fmt.Errorf("%w: %s", err, text[max(0, len(text)-500):])
	}
	r.cpu = cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	count, took, err := answer.counted()
	if err != nil {
		return r, err
	}
	r.rate = float64(count) / took.Seconds()
	if t.bare {
		return r, nil
	}
	text, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		text = []byte(said.String())
	}
	found := make(map[string]bool)
	for line := range strings.Lines(string(text)) {
		if a := t.address(strings.TrimSpace(line)); truth[a] {
			found[a] = true
		}
	}
	r.found = float64(len(found)) / float64(len(truth))
	return r, nil
}

// spread is median, least and most.
func spread(list []float64) (median, least, most float64) {
	s := slices.Sorted(slices.Values(list))
	return s[len(s)/2], s[0], s[len(s)-1]
}

// note writes down what a round brought.
func (b *bench) note(n network, t *tool, round int, r result) {
	for _, f := range []struct {
		series, unit string
		y            float64
	}{
		{"sent", "packets/s", r.rate},
		{"found", "%", 100 * r.found},
		{"processor time an address", "µs", float64(r.cpu.Microseconds()) / float64(n.size())},
	} {
		if t.bare && f.unit == "%" {
			continue
		}
		b.out.Rows = append(b.out.Rows, figures.Row{
			Bench: "sweep", Series: fmt.Sprintf("/%d, %s: %s", n.bits, n.what, f.series), X: float64(n.size()), UnitX: "addresses", Y: f.y, UnitY: f.unit, Round: round, Peer: t.name,
		})
	}
}

func (b *bench) print(n network, results map[string][]result, missing []string) {
	of := func(list []result, what func(result) float64) (figures []float64) {
		for _, r := range list {
			figures = append(figures, what(r))
		}
		return figures
	}
	for i := range tools {
		for round, r := range results[tools[i].name] {
			b.note(n, &tools[i], round+1, r)
		}
	}
	rate := func(r result) float64 { return r.rate }
	ours := of(results[tools[0].name], rate)
	fmt.Printf("\n%v, %s; %d rounds, median (least–most)\n", n, n.what, b.rounds)
	t := tabwriter.NewWriter(os.Stdout, 2, 0, 2, ' ', 0)
	fmt.Fprintln(t, "tool\tpackets/s\tgatehouse is\tfound\tCPU µs/address")
	for i := range tools {
		list := results[tools[i].name]
		if len(list) == 0 {
			continue
		}
		mid, low, high := spread(of(list, rate))
		var ratios []float64
		for round, r := range list {
			ratios = append(ratios, ours[round]/r.rate)
		}
		ratio, least, most := spread(ratios)
		found := "-"
		if !tools[i].bare {
			mid, low, _ := spread(of(list, func(r result) float64 { return 100 * r.found }))
			found = fmt.Sprintf("%.3f %% (least %.3f)", mid, low)
		}
		cpu, _, _ := spread(of(list, func(r result) float64 { return float64(r.cpu.Microseconds()) / float64(n.size()) }))
		note := ""
		if slices.ContainsFunc(list, func(r result) bool { return r.cut }) {
			note = ", stopped after " + timeout.String()
		}
		fmt.Fprintf(t, "%s\t%.0f (%.0f–%.0f)\t%.2f× (%.2f–%.2f)\t%s\t%.2f\n", tools[i].name, mid, low, high, ratio, least, most, found+note, cpu)
	}
	_ = t.Flush()
	if len(missing) > 0 {
		fmt.Println("not installed:", strings.Join(missing, ", "))
	}
}
