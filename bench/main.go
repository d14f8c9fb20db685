// Bench measures a scan of Gatehouse's beside the tools that people look at
// networks with: hosts identified a second, processor time and memory, on the
// same hosts in one run.
//
// The hosts are simulated, in a network namespace of their own; the scanners
// run in another, joined to it by a pair of virtual interfaces. Neither leads
// anywhere else, and both are taken down at the end.
package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"gatehouse/bench/figures"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == "pool" {
		exit(runPool(os.Args[2:]))
	}
	b := bench{out: figures.File{Machine: figures.Here(), Versions: map[string]string{}}}
	hosts := flag.String("hosts", "20000", "simulated hosts; several `counts`, comma-separated, for a curve")
	flag.IntVar(&b.rounds, "rounds", 5, "rounds, the tools in turn")
	which := flag.String("tools", "", "which tools: `regexp` on their names")
	flag.BoolVar(&b.sweep, "sweep", false, "instead: find, ask, judge and keep a /16 of which one in a hundred answers, beside zmap | curl")
	jsonFile := flag.String("json", "", "write every figure of every round to this `file`, too")
	flag.IntVar(&b.slow, "slow", 200, "hosts for nmap, which takes minutes for more")
	flag.StringVar(&b.gatehouse, "gatehouse", "./gatehouse", "the program to measure")
	flag.IntVar(&b.concurrency, "concurrency", 256, "places or transfers at a time, for all that can be told")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGPIPE)
	defer stop()
	exit(b.runAll(ctx, *hosts, *which, *jsonFile))
}

// runAll runs the benchmark for each number of hosts.
func (b *bench) runAll(ctx context.Context, hosts, which, jsonFile string) (err error) {
	counts, err := figures.Counts(hosts)
	if err != nil {
		return fmt.Errorf("-hosts: %w", err)
	}
	if b.which, err = regexp.Compile(which); err != nil {
		return fmt.Errorf("-tools: %w", err)
	}
	if b.sweep {
		counts = []int{sweepHosts}
	}
	for _, name := range []string{"curl", "masscan", "nmap", "zmap"} {
		b.version(name, name, "--version")
	}
	b.version(figures.Ours, b.gatehouse, "version")
	for _, b.hosts = range counts {
		if err := b.run(ctx); err != nil {
			return err
		}
	}
	if jsonFile == "" {
		return nil
	}
	return b.out.Write(jsonFile)
}

// version notes a program's, if it is installed.
func (b *bench) version(name, program string, args ...string) {
	if line := figures.Version(program, args...); line != "" {
		b.out.Versions[name] = line
	}
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

type bench struct {
	hosts, rounds, slow, concurrency int
	sweep                            bool
	which                            *regexp.Regexp
	gatehouse                        string
	out                              figures.File

	dir     string
	street  int               // the process of the hosts
	scanner string            // namespace of the scanners; "" on loopback
	hostsNS string            // and of the hosts
	mac     string            // of the hosts' side, for masscan
	truth   map[string]string // address -> outcome
}

const (
	port = "11434"
	// The addresses of the wire between the namespaces, apart from the hosts'.
	here, there = "172.31.255.1", "172.31.255.2"
	masscanFrom = "172.31.255.9" // which the kernel does not know, and so resets nothing
	// sweepHosts are one in a hundred of a /16.
	sweepHosts = 655
	// wait is for how long the last packet of a sweep is waited for.
	wait = 2
)

// network is the hosts', inside their namespace.
func (b *bench) network() string {
	if b.hosts > 1<<16 {
		return "10.0.0.0/8"
	}
	return "10.98.0.0/16"
}

// loop is the hosts' network where there are no namespaces.
func (b *bench) loop() string {
	if b.hosts > 1<<16 {
		return "127.64.0.0/10"
	}
	return "127.98.0.0/16"
}

// timeout is for one tool and round. It grows with the hosts: a tool that looks
// at fewer than 1,000 a second is stopped on the way.
func (b *bench) timeout() time.Duration {
	return 2*time.Minute + time.Duration(b.hosts)*time.Millisecond
}

// tool is one way to find out what 20,000 hosts are.
type tool struct {
	name string
	what string // it is told to do
	// command returns what to run, and count how many hosts it identified, from
	// the file out and what it wrote to standard output.
	command func(b *bench, out string) []string
	count   func(b *bench, out string) (int, error)
	few     bool // gets the first b.slow hosts only
	raw     bool // needs a network interface of its own
	sweep   bool // finds the hosts in their network, and is not told them
}

var tools = []tool{
	{
		name: "gatehouse", what: "4 requests a host, product, version, models, findings",
		command: func(b *bench, out string) []string {
			return []string{
				b.gatehouse, "scan", "--sweep", "connect", "--targets", b.file("hosts"), "--format", "jsonl", "--out", out, "--fail-on", "never", "--quiet",
				"--rate", "1000000", "--network-rate", "1000000", "--concurrency", strconv.Itoa(b.concurrency),
			}
		},
		count: countGatehouse,
	},
	{
		name: "net/http pool", what: "4 requests a host by http.Client, version and models parsed",
		command: func(b *bench, out string) []string {
			self, err := os.Executable()
			if err != nil {
				self = "bench"
			}
			return []string{self, "pool", b.file("hosts"), out, strconv.Itoa(b.concurrency)}
		},
		count: countLines(func(line string) (string, bool) {
			host, rest, _ := strings.Cut(line, " ")
			return host, rest != ""
		}),
	},
	{
		name: "curl -Z", what: "4 requests a host, bodies thrown away",
		command: func(b *bench, out string) []string {
			return []string{"curl", "-sS", "-Z", "--parallel-max", strconv.Itoa(min(b.concurrency, 300)), "--max-time", "10", "-K", b.file("curl"), "-w", "%{url} %{http_code}\n"}
		},
		count: countLines(func(line string) (string, bool) {
			url, code, _ := strings.Cut(line, " ")
			url, ok := strings.CutSuffix(url, "/api/tags")
			return strings.TrimPrefix(url, "http://"), ok && code != "000"
		}),
	},
	{
		name: "masscan --banners", what: "1 request a host, banner kept", raw: true,
		command: func(b *bench, out string) []string {
			return []string{
				"masscan", "-iL", b.file("addresses"), "-p" + port, "--banners", "--hello=http", "--rate", "20000", "--wait", "3", "-oL", out,
				"-e", "scan0", "--adapter-ip", masscanFrom, "--adapter-port", "32768-49151", "--router-mac", b.mac,
			}
		},
		count: func(b *bench, out string) (int, error) {
			return countFile(out, func(line string) (string, bool) {
				f := strings.Fields(line)
				if len(f) < 6 || f[0] != "banner" || !strings.HasPrefix(f[5], "http") {
					return "", false
				}
				return f[3], true
			})
		},
	},
	{
		name: "nmap -sV", what: "service and version detection (--version-light)", few: true,
		command: func(b *bench, out string) []string {
			return []string{"nmap", "-n", "-Pn", "-sT", "-T4", "-sV", "--version-light", "--min-hostgroup", "256", "-p", port, "-iL", b.file("few"), "-oG", out}
		},
		count: func(b *bench, out string) (int, error) {
			return countFile(out, func(line string) (string, bool) {
				f := strings.Fields(line)
				if len(f) < 2 || !strings.Contains(line, "/open/tcp//") {
					return "", false
				}
				return f[1], true
			})
		},
	},
	{
		name: "gatehouse sweep", what: "a /16 swept, 4 requests an open host, judged, kept in the store", sweep: true,
		command: func(b *bench, out string) []string {
			return []string{
				b.gatehouse, "scan", b.network(), "--format", "jsonl", "--out", out, "--fail-on", "never", "--quiet",
				"--save", "--state-dir", b.file("state"), "--rate", "1000000", "--network-rate", "1000000",
				"--concurrency", "10000", "--timeout", fmt.Sprintf("%ds", wait), "--retries", "0",
			}
		},
		count: countGatehouse,
	},
	{
		name: "zmap | curl -Z", what: "a /16 swept, 4 requests an open host, bodies thrown away", raw: true, sweep: true,
		command: func(b *bench, _ string) []string {
			// curl begins when it has read all its urls.
			return []string{"sh", "-c", fmt.Sprintf("zmap -q -v 0 -b /dev/null -i scan0 -S %s -G %s -p %s -r 100000 -c %d -o - %s 2>/dev/null | "+
				`awk '{for (i = split("/ /api/version /api/tags /api/ps", p, " "); i > 0; i--) printf "url = \"http://%%s:%s%%s\"\noutput = \"/dev/null\"\n", $1, p[i]}' | `+
				`curl -sS -Z --parallel-max 300 --max-time 10 -K - -w '%%{url} %%{http_code}\n'`,
				here, strings.ReplaceAll(b.mac, "-", ":"), port, wait, b.network(), port)}
		},
		count: countLines(func(line string) (string, bool) {
			url, code, _ := strings.Cut(line, " ")
			url, ok := strings.CutSuffix(url, "/api/tags")
			return strings.TrimPrefix(url, "http://"), ok && code != "000"
		}),
	},
}

// missing are tools that would belong here and are in no Debian package.
var missing = []string{"zgrab2", "httpx"}

func (b *bench) file(name string) string { return filepath.Join(b.dir, name) }

func (b *bench) run(ctx context.Context) (err error) {
	if b.dir, err = os.MkdirTemp("", "gatehouse-bench"); err != nil {
		return err
	}
	defer os.RemoveAll(b.dir)
	down, err := b.up(ctx)
	defer down()
	if err != nil {
		return err
	}

	fmt.Printf("\n%s, %d cores, shared by the scanner and %d simulated hosts; %d rounds\n", runtime.Version(), runtime.NumCPU(), b.hosts, b.rounds)
	if b.scanner == "" {
		fmt.Println("on loopback: namespaces need root and the command ip (Debian: iproute2), so that masscan is left out")
	}
	results := make(map[string][]result)
	var absent []string
	for round := range b.rounds {
		for _, t := range tools {
			if t.sweep != b.sweep || !b.which.MatchString(t.name) {
				continue
			}
			if !installed(t.command(b, "")) || t.raw && b.scanner == "" {
				if round == 0 {
					absent = append(absent, t.name)
				}
				continue
			}
			r, err := b.measure(ctx, t)
			if err != nil {
				return fmt.Errorf("%s: %w", t.name, err)
			}
			results[t.name] = append(results[t.name], r)
			b.note(t, round+1, r)
			fmt.Fprintf(os.Stderr, "round %d: %-18s %6d hosts in %s\n", round+1, t.name, r.found, r.took.Round(time.Millisecond))
		}
	}
	b.print(results, append(absent, missing...))
	return nil
}

// installed reports whether the program that words run is there; of a pipe, all
// that are.
func installed(words []string) bool {
	names := words[:1]
	if words[0] == "sh" {
		names = []string{"zmap", "awk", "curl"}
	}
	return !slices.ContainsFunc(names, func(name string) bool {
		_, err := exec.LookPath(name)
		return err != nil
	})
}

// note writes down what a round brought.
func (b *bench) note(t tool, round int, r result) {
	what, x, unit := "", float64(b.hosts), "hosts"
	if b.sweep {
		what, x, unit = "a /16 from sweep to store, ", 1<<16, "addresses"
	}
	peer := t.name
	if peer == "gatehouse sweep" {
		peer = figures.Ours
	}
	hosts := float64(max(r.found, 1))
	for _, f := range []struct {
		series, unit string
		y            float64
	}{
		{"identified", "hosts/s", r.rate()},
		{"memory at most", "MB", float64(r.peakKB) / 1024},
		{"processor time a host", "ms", float64(r.cpu.Microseconds()) / 1000 / hosts},
		{"found", "hosts", float64(r.found)},
	} {
		if f.unit == "MB" && r.peakKB == 0 {
			continue
		}
		b.out.Rows = append(b.out.Rows, figures.Row{
			Bench: "scan", Series: what + f.series, X: x, UnitX: unit, Y: f.y, UnitY: f.unit, Round: round, Peer: peer,
		})
	}
}

// result is one tool's round.
type result struct {
	found, asked int
	took         time.Duration
	cpu          time.Duration
	street       time.Duration // processor time of the simulated hosts
	peakKB       int
	cut          bool // stopped when its time was over
}

func (r result) rate() float64 { return float64(r.found) / r.took.Seconds() }

func (b *bench) measure(ctx context.Context, t tool) (r result, err error) {
	out := b.file("out")
	_ = os.Remove(out) // of the round before
	_ = os.RemoveAll(b.file("state"))
	if err := os.Mkdir(b.file("state"), 0o700); err != nil {
		return r, err
	}
	ctx, cancel := context.WithTimeout(ctx, b.timeout())
	defer cancel()
	words := t.command(b, out)
	if b.scanner != "" {
		words = append([]string{"ip", "netns", "exec", b.scanner}, words...)
	}
	cmd := exec.CommandContext(ctx, words[0], words[1:]...)
	stdout, err := os.Create(b.file("stdout"))
	if err != nil {
		return r, err
	}
	defer stdout.Close()
	stderr, err := os.Create(b.file("stderr"))
	if err != nil {
		return r, err
	}
	defer stderr.Close()
	cmd.Stdout, cmd.Stderr = stdout, stderr
	before := processorTime(b.street)
	began := time.Now()
	if err := cmd.Start(); err != nil {
		return r, err
	}
	// "ip netns exec" becomes the tool, so that the process is the tool's.
	peak := make(chan int)
	done := make(chan struct{})
	go func() { peak <- watchPeak(cmd.Process.Pid, done) }()
	err = cmd.Wait()
	close(done)
	r.took, r.peakKB, r.asked = time.Since(began), <-peak, b.hosts
	if slices.Contains(words, "sh") {
		r.peakKB = 0 // the shell's, and not that of what it runs
	}
	r.cpu = cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	r.street = processorTime(b.street) - before
	if t.few {
		r.asked = min(b.slow, b.hosts)
	}
	if r.cut = ctx.Err() != nil; err != nil && !r.cut && !strings.Contains(t.name, "curl -Z") { // curl's code is that of its last failure
		text, _ := os.ReadFile(b.file("stderr"))
		return r, fmt.Errorf("%w: %s", err, text[:min(len(text), 500)])
	}
	r.found, err = t.count(b, out)
	return r, err
}

// processorTime is what a process used so far; see proc_pid_stat(5).
func processorTime(pid int) time.Duration {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	var ticks time.Duration
	if f := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:])); len(f) > 12 {
		for _, word := range f[11:13] {
			n, _ := strconv.ParseInt(word, 10, 64) // the kernel's own number
			ticks += time.Duration(n)
		}
	}
	return ticks * (time.Second / 100) // USER_HZ
}

// watchPeak reads the greatest resident size of a process, in KiB. The kernel's
// own figure in wait4 begins with that of the process that started it.
func watchPeak(pid int, done <-chan struct{}) (peak int) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err == nil {
			if _, rest, ok := strings.Cut(string(text), "VmHWM:"); ok {
				kb := 0
				if _, err := fmt.Sscan(rest, &kb); err == nil {
					peak = max(peak, kb)
				}
			}
		}
		select {
		case <-tick.C:
		case <-done:
			return peak
		}
	}
}

func (b *bench) print(results map[string][]result, absent []string) {
	t := tabwriter.NewWriter(os.Stdout, 2, 0, 2, ' ', 0)
	fmt.Fprintln(t, "\ntool\tidentified\thosts/s\tspread\tof gatehouse\tCPU ms/host\tthe hosts' own\tpeak RSS\twhat it does")
	ours := median(slices.Concat(results["gatehouse"], results["gatehouse sweep"]), result.rate)
	for _, tool := range tools {
		list := results[tool.name]
		if len(list) == 0 {
			continue
		}
		rate := median(list, result.rate)
		low := slices.MinFunc(list, func(a, b result) int { return cmp.Compare(a.rate(), b.rate()) })
		high := slices.MaxFunc(list, func(a, b result) int { return cmp.Compare(a.rate(), b.rate()) })
		cpu := median(list, func(r result) float64 { return float64(r.cpu.Microseconds()) / 1000 / float64(max(r.found, 1)) })
		street := median(list, func(r result) float64 { return float64(r.street.Microseconds()) / 1000 / float64(max(r.found, 1)) })
		peak := median(list, func(r result) float64 { return float64(r.peakKB) / 1024 })
		memory := "-"
		if peak > 0 {
			memory = fmt.Sprintf("%.0f MB", peak)
		}
		note := tool.what
		if slices.ContainsFunc(list, func(r result) bool { return r.cut }) {
			note += "; stopped after " + b.timeout().String()
		}
		fmt.Fprintf(t, "%s\t%.0f of %d\t%.0f\t%.0f–%.0f\t%.2f\t%.2f\t%.2f\t%s\t%s\n", tool.name,
			median(list, func(r result) float64 { return float64(r.found) }), list[0].asked, rate, low.rate(), high.rate(), rate/ours, cpu, street, memory, note)
	}
	_ = t.Flush()
	if len(absent) > 0 {
		fmt.Println("\nnot installed:", strings.Join(absent, ", "))
	}
}

func median(list []result, of func(result) float64) float64 {
	if len(list) == 0 {
		return 0
	}
	figures := make([]float64, len(list))
	for i, r := range list {
		figures[i] = of(r)
	}
	slices.Sort(figures)
	return figures[len(figures)/2]
}

// countGatehouse counts the hosts whose outcome is the true one.
func countGatehouse(b *bench, out string) (int, error) {
	f, err := os.Open(out)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	n := 0
	dec := json.NewDecoder(bufio.NewReaderSize(f, 1<<20))
	for dec.More() {
		var r struct {
			Address string `json:"address"`
			Port    int    `json:"port"`
			Outcome string `json:"outcome"`
		}
		if err := dec.Decode(&r); err != nil {
			return n, err
		}
		if b.truth[r.Address] == r.Outcome {
			n++
		}
	}
	return n, nil
}

// countLines counts the different hosts that standard output tells of.
func countLines(host func(string) (string, bool)) func(*bench, string) (int, error) {
	return func(b *bench, _ string) (int, error) { return countFile(b.file("stdout"), host) }
}

func countFile(path string, host func(string) (string, bool)) (int, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	seen := make(map[string]bool)
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 4<<20)
	for lines.Scan() {
		if h, ok := host(lines.Text()); ok {
			seen[h] = true
		}
	}
	return len(seen), lines.Err()
}

var errNoHosts = errors.New("the simulated hosts did not come up")
