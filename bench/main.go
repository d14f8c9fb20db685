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
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == "pool" {
		exit(runPool(os.Args[2:]))
	}
	var b bench
	flag.IntVar(&b.hosts, "hosts", 20_000, "simulated hosts")
	flag.IntVar(&b.rounds, "rounds", 3, "rounds, the tools in turn")
	flag.IntVar(&b.slow, "slow", 200, "hosts for nmap, which takes minutes for more")
	flag.StringVar(&b.gatehouse, "gatehouse", "./gatehouse", "the program to measure")
	flag.IntVar(&b.concurrency, "concurrency", 256, "places or transfers at a time, for all that can be told")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGPIPE)
	defer stop()
	exit(b.run(ctx))
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
	gatehouse                        string

	dir     string
	scanner string            // namespace of the scanners; "" on loopback
	mac     string            // of the hosts' side, for masscan
	truth   map[string]string // address -> outcome
}

const (
	network = "10.98.0.0/16" // the hosts', inside their namespace
	loop    = "127.98.0.0/16"
	port    = "11434"
	timeout = 2 * time.Minute // for one tool and round
)

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
}

var tools = []tool{
	{
		name: "gatehouse", what: "4 requests a host, product, version, models, findings",
		command: func(b *bench, out string) []string {
			return []string{
				b.gatehouse, "scan", "--targets", b.file("hosts"), "--format", "jsonl", "--out", out, "--fail-on", "never", "--quiet",
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
				"-e", "scan0", "--adapter-ip", "10.99.0.9", "--adapter-port", "32768-49151", "--router-mac", b.mac,
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

	fmt.Printf("%s, %d cores, shared by the scanner and %d simulated hosts; %d rounds\n", runtime.Version(), runtime.NumCPU(), b.hosts, b.rounds)
	if b.scanner == "" {
		fmt.Println("on loopback: namespaces need root and the command ip (Debian: iproute2), so that masscan is left out")
	}
	results := make(map[string][]result)
	var absent []string
	for round := range b.rounds {
		for _, t := range tools {
			if _, err := exec.LookPath(t.command(b, "")[0]); err != nil || t.raw && b.scanner == "" {
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
			fmt.Fprintf(os.Stderr, "round %d: %-18s %6d hosts in %s\n", round+1, t.name, r.found, r.took.Round(time.Millisecond))
		}
	}
	b.print(results, append(absent, missing...))
	return nil
}

// result is one tool's round.
type result struct {
	found, asked int
	took         time.Duration
	cpu          time.Duration
	peakKB       int
	cut          bool // stopped when its time was over
}

func (r result) rate() float64 { return float64(r.found) / r.took.Seconds() }

func (b *bench) measure(ctx context.Context, t tool) (r result, err error) {
	out := b.file("out")
	_ = os.Remove(out) // of the round before
	ctx, cancel := context.WithTimeout(ctx, timeout)
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
	r.cpu = cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	if t.few {
		r.asked = min(b.slow, b.hosts)
	}
	if r.cut = ctx.Err() != nil; err != nil && !r.cut && t.name != "curl -Z" { // curl's code is that of its last failure
		text, _ := os.ReadFile(b.file("stderr"))
		return r, fmt.Errorf("%w: %s", err, text[:min(len(text), 500)])
	}
	r.found, err = t.count(b, out)
	return r, err
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
	fmt.Fprintln(t, "\ntool\tidentified\thosts/s\tspread\tof gatehouse\tCPU ms/host\tpeak RSS\twhat it does")
	ours := median(results["gatehouse"], result.rate)
	for _, tool := range tools {
		list := results[tool.name]
		if len(list) == 0 {
			continue
		}
		rate := median(list, result.rate)
		low := slices.MinFunc(list, func(a, b result) int { return cmp.Compare(a.rate(), b.rate()) })
		high := slices.MaxFunc(list, func(a, b result) int { return cmp.Compare(a.rate(), b.rate()) })
		cpu := median(list, func(r result) float64 { return float64(r.cpu.Microseconds()) / 1000 / float64(max(r.found, 1)) })
		peak := median(list, func(r result) float64 { return float64(r.peakKB) / 1024 })
		note := tool.what
		if slices.ContainsFunc(list, func(r result) bool { return r.cut }) {
			note += "; stopped after " + timeout.String()
		}
		fmt.Fprintf(t, "%s\t%.0f of %d\t%.0f\t%.0f–%.0f\t%.2f\t%.2f\t%.0f MB\t%s\n", tool.name,
			median(list, func(r result) float64 { return float64(r.found) }), list[0].asked, rate, low.rate(), high.rate(), rate/ours, cpu, peak, note)
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
