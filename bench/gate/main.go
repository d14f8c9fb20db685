// Gate measures Gatehouse's gate beside the proxies that people put in front of
// Ollama today, in one run, on one upstream: requests a second and added
// latency, for a small GET and for a streamed chat.
//
// Everything of ours is switched on: keys, policy, limits, ledger, metrics. The
// others check a bearer key and nothing more.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"
)

func main() {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "upstream": // a stand-in for Ollama, in a process of its own
			exit(serveUpstream(os.Args[2]))
		case "keys": // the service that nginx's auth_request asks
			exit(serveKeys(os.Args[2], os.Args[3:]))
		}
	}
	var b bench
	flag.DurationVar(&b.time, "time", 2*time.Second, "how long each measurement takes")
	flag.IntVar(&b.rounds, "rounds", 5, "rounds, one after the other")
	flag.StringVar(&b.gatehouse, "gatehouse", "./gatehouse", "the program to measure")
	only := flag.String("only", "", "measure only these, such as gatehouse,direct")
	flag.Parse()
	if *only != "" {
		b.only = strings.Split(*only, ",")
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGPIPE)
	defer stop()
	exit(b.run(ctx))
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench/gate:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

type bench struct {
	time      time.Duration
	rounds    int
	gatehouse string
	only      []string

	dir      string
	key      string
	upstream string
}

// contender is one way to Ollama.
type contender struct {
	name    string
	start   func(ctx context.Context, b *bench, listen string) (*exec.Cmd, error) // nil for the upstream itself
	needs   string                                                                // the program, "" for none
	addr    string
	missing bool
	process *exec.Cmd
}

var contenders = []*contender{
	{name: "direct"},
	{name: "gatehouse", start: startGatehouse},
	{name: "nginx map", start: startNginx(nginxMap), needs: "nginx"},
	{name: "nginx auth_request", start: startNginx(nginxAuthRequest), needs: "nginx"},
	{name: "haproxy", start: startHAProxy, needs: "haproxy"},
	{name: "caddy", start: startCaddy, needs: "caddy"},
}

// work is one kind of request.
type work struct {
	name    string
	request string // with %s for the key
	clients int
	stream  bool
}

const chatBody = `{"model":"tiny","messages":[{"role":"user","content":"Why is the sky blue? Answer in one sentence."}]}`

var works = []work{
	{"GET /api/tags, c=32", "GET /api/tags HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %s\r\n\r\n", 32, false},
	{"streamed chat, c=16", "POST /api/chat HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nContent-Length: " + fmt.Sprint(len(chatBody)) + "\r\n\r\n" + chatBody, 16, true},
	{"GET /api/tags, c=1", "GET /api/tags HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %s\r\n\r\n", 1, false},
	{"streamed chat, c=1", "POST /api/chat HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nContent-Length: " + fmt.Sprint(len(chatBody)) + "\r\n\r\n" + chatBody, 1, true},
}

func (b *bench) run(ctx context.Context) (err error) {
	if b.dir, err = os.MkdirTemp("", "gatehouse-bench"); err != nil {
		return err
	}
	defer os.RemoveAll(b.dir)
	list := slices.DeleteFunc(slices.Clone(contenders), func(c *contender) bool {
		return len(b.only) > 0 && !slices.Contains(b.only, c.name) && c.name != "direct"
	})
	defer func() {
		for _, c := range list {
			kill(c.process)
		}
	}()
	up := &contender{}
	if up.addr, err = freeAddr(); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	up.process = exec.CommandContext(ctx, self, "upstream", up.addr)
	if err := start(ctx, up); err != nil {
		return err
	}
	defer kill(up.process)
	b.upstream = up.addr
	if err := b.makeKey(ctx); err != nil {
		return err
	}

	for _, c := range list {
		if c.needs != "" {
			if _, err := lookPath(c.needs); err != nil {
				c.missing = true
				continue
			}
		}
		if c.start == nil {
			c.addr = b.upstream
			continue
		}
		if c.addr, err = freeAddr(); err != nil {
			return err
		}
		if c.process, err = c.start(ctx, b, c.addr); err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
		if err := start(ctx, c); err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
	}

	fmt.Printf("%s, %d cores, shared by the load, the upstream and what is between; %s each, %d rounds\n",
		runtime.Version(), runtime.NumCPU(), b.time, b.rounds)
	for _, w := range works {
		results := make(map[string][]load)
		for range b.rounds {
			for _, c := range list {
				if c.missing {
					continue
				}
				l, err := drive(ctx, c.addr, fmt.Sprintf(w.request, b.key), w, b.time)
				if err != nil {
					return fmt.Errorf("%s, %s: %w", c.name, w.name, err)
				}
				results[c.name] = append(results[c.name], l)
			}
		}
		b.print(w, list, results)
	}
	return nil
}

func (b *bench) print(w work, list []*contender, results map[string][]load) {
	fmt.Printf("\n%s\n", w.name)
	t := tabwriter.NewWriter(os.Stdout, 2, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "\trequests/s\tspread\tof gatehouse\tp50\tp99\tfirst byte p50\tadded p50\tadded first\tRSS\t")
	ours, direct := summary(results["gatehouse"]), summary(results["direct"])
	for _, c := range list {
		if c.missing {
			fmt.Fprintf(t, "%s\tnot installed\t\t\t\t\t\t\t\t\t\n", c.name)
			continue
		}
		s := summary(results[c.name])
		ratio := "-"
		if ours.rate > 0 {
			ratio = fmt.Sprintf("%.2f", s.rate/ours.rate)
		}
		rss := "-"
		if c.process != nil {
			rss = fmt.Sprintf("%d MB", residentKB(c.process.Process.Pid)/1024)
		}
		fmt.Fprintf(t, "%s\t%.0f\t%.0f–%.0f\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t\n", c.name, s.rate, s.low, s.high, ratio,
			short(s.p50), short(s.p99), short(s.first), short(s.p50-direct.p50), short(s.first-direct.first), rss)
	}
	t.Flush()
}

func short(d time.Duration) string { return fmt.Sprintf("%.3f ms", float64(d.Nanoseconds())/1e6) }

// middle is what the rounds come to: the median of each figure.
type middle struct {
	rate, low, high float64
	p50, p99, first time.Duration
}

func summary(loads []load) (m middle) {
	if len(loads) == 0 {
		return m
	}
	var rates []float64
	var p50, p99, first []time.Duration
	for _, l := range loads {
		rates, p50, p99, first = append(rates, l.rate), append(p50, l.p50), append(p99, l.p99), append(first, l.first)
	}
	m.rate, m.low, m.high = median(rates), slices.Min(rates), slices.Max(rates)
	m.p50, m.p99, m.first = median(p50), median(p99), median(first)
	return m
}

func median[T cmp.Ordered](list []T) T {
	list = slices.Clone(list)
	slices.Sort(list)
	return list[len(list)/2]
}

// start starts a process and waits until it takes connections.
func start(ctx context.Context, c *contender) error {
	c.process.Stderr = os.Stderr
	c.process.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if c.process.Process == nil {
		if err := c.process.Start(); err != nil {
			return err
		}
	}
	deadline := time.Now().Add(15 * time.Second)
	for time.Now().Before(deadline) && ctx.Err() == nil {
		conn, err := net.DialTimeout("tcp", c.addr, time.Second)
		if err == nil {
			return conn.Close()
		}
		time.Sleep(20 * time.Millisecond)
	}
	return errors.New("it does not come up")
}

func kill(c *exec.Cmd) {
	if c == nil || c.Process == nil {
		return
	}
	_ = syscall.Kill(-c.Process.Pid, syscall.SIGTERM)
	done := make(chan struct{})
	go func() { _ = c.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(3 * time.Second):
		_ = syscall.Kill(-c.Process.Pid, syscall.SIGKILL)
		<-done
	}
}

func freeAddr() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

func lookPath(name string) (string, error) {
	if path, err := exec.LookPath(name); err == nil {
		return path, nil
	}
	return exec.LookPath(filepath.Join("/usr/sbin", name))
}

// residentKB is what a process group holds now, in KiB: workers included.
func residentKB(group int) (sum int) {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, stat := range stats {
		text, err := os.ReadFile(stat)
		if err != nil {
			continue
		}
		_, rest, _ := strings.Cut(string(text), ") ")
		fields := strings.Fields(rest)
		if len(fields) < 22 || fields[2] != fmt.Sprint(group) {
			continue
		}
		pages := 0
		fmt.Sscan(fields[21], &pages)
		sum += pages * os.Getpagesize() / 1024
	}
	return sum
}
