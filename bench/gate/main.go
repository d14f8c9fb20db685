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
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"gatehouse/bench/figures"
)

func main() {
	if len(os.Args) > 2 {
		switch os.Args[1] {
		case "upstream": // a stand-in for Ollama, in a process of its own
			exit(serveUpstream(os.Args[2]))
		case "keys": // the service that nginx's auth_request asks
			exit(serveKeys(os.Args[2], os.Args[3:]))
		case "bare": // a proxy that does nothing else
			exit(serveBare(os.Args[2], os.Args[3]))
		}
	}
	var b bench
	flag.DurationVar(&b.time, "time", 2*time.Second, "how long each measurement takes")
	flag.IntVar(&b.rounds, "rounds", 5, "rounds, one after the other")
	flag.StringVar(&b.gatehouse, "gatehouse", "./gatehouse", "the program to measure")
	flag.StringVar(&b.json, "json", "", "write each measurement to this file too")
	flag.BoolVar(&b.loud, "v", false, "show what the proxies log")
	smoke := flag.Bool("smoke", false, "measure next to nothing, only to see that all of it works")
	only := flag.String("only", "", "measure only these, such as gatehouse,direct")
	streams := flag.String("streams", "", "measure instead with so many streams open, such as 1,100,10000")
	keys := flag.String("keys", "", "measure instead a gate with so many keys, such as 10,1000,100000")
	flag.Parse()
	if *only != "" {
		b.only = strings.Split(*only, ",")
	}
	if *smoke {
		b.time, b.rounds = 50*time.Millisecond, 1
		*streams, *keys = cmp.Or(*streams, "1,20"), cmp.Or(*keys, "10,100")
	}
	var err error
	if b.streams, err = numbers(*streams); err != nil {
		exit(err)
	}
	if b.keys, err = numbers(*keys); err != nil {
		exit(err)
	}
	b.works = *smoke || len(b.streams)+len(b.keys) == 0
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGPIPE)
	defer stop()
	exit(b.run(ctx))
}

func numbers(list string) ([]int, error) {
	if list == "" {
		return nil, nil
	}
	return figures.Counts(list)
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench/gate:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

type bench struct {
	time          time.Duration
	rounds        int
	gatehouse     string
	only          []string
	json          string
	loud          bool
	works         bool // measure requests a second
	streams, keys []int
	files         int // that a process may have open

	dir      string
	key      string
	upstream string
	record   record
}

// contender is one way to Ollama.
type contender struct {
	name    string
	start   func(ctx context.Context, b *bench, listen string) (*exec.Cmd, error) // nil for the upstream itself
	needs   string                                                                // the program, "" for none
	addr    string
	missing bool
	process *exec.Cmd
	log     string // the file that its output goes to
}

var contenders = []*contender{
	{name: "direct"}, // net/http that answers from memory: what a server in Go can do
	{name: "gatehouse", start: startGatehouse},
	{name: "bare proxy", start: startBare}, // httputil's ReverseProxy, and nothing else
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
	lines   int // of a streamed answer; 0 for one that comes whole
}

const (
	getTags  = "GET /api/tags HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %s\r\n\r\n"
	chatBody = `{"model":"tiny","messages":[{"role":"user","content":"Why is the sky blue? Answer in one sentence."}]}`
)

// post is a request with a body.
func post(path, body string) string {
	return "POST " + path + " HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nContent-Length: " +
		strconv.Itoa(len(body)) + "\r\n\r\n" + body
}

var (
	busyGet = work{"GET /api/tags, c=32", getTags, 32, 0}
	works   = []work{
		busyGet,
		{"streamed chat, c=16", post("/api/chat", chatBody), 16, chatLines},
		{"GET /api/tags, c=1", getTags, 1, 0},
		{"streamed chat, c=1", post("/api/chat", chatBody), 1, chatLines},
	}
)

func (b *bench) run(ctx context.Context) (err error) {
	if b.dir, err = os.MkdirTemp("", "gatehouse-bench"); err != nil {
		return err
	}
	defer os.RemoveAll(b.dir)
	if err := b.raiseFiles(); err != nil {
		return err
	}
	up, err := b.startUpstream(ctx)
	if err != nil {
		return err
	}
	defer kill(up.process)
	if err := b.makeKey(ctx); err != nil {
		return err
	}
	list := slices.DeleteFunc(slices.Clone(contenders), func(c *contender) bool {
		return len(b.only) > 0 && !slices.Contains(b.only, c.name) && c.name != "direct"
	})
	defer func() {
		for _, c := range list {
			kill(c.process)
		}
	}()
	for _, c := range list {
		if err := b.startContender(ctx, c); err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
	}
	list = slices.DeleteFunc(list, func(c *contender) bool {
		if c.missing {
			fmt.Printf("%s is not installed\n", c.name)
		}
		return c.missing
	})
	b.record = b.newRecord(list)
	fmt.Printf("%s, %d cores, shared by the load, the upstream and what is between; %s each, %d rounds\n",
		runtime.Version(), runtime.NumCPU(), b.time, b.rounds)
	if b.works {
		if err := b.runWorks(ctx, list); err != nil {
			return err
		}
	}
	if err := b.runStreams(ctx, list); err != nil {
		return err
	}
	if err := b.runKeys(ctx); err != nil {
		return err
	}
	if b.json == "" {
		return nil
	}
	return b.record.Write(b.json)
}

func (b *bench) startUpstream(ctx context.Context) (up *contender, err error) {
	up = &contender{name: "upstream"}
	if up.addr, err = freeAddr(); err != nil {
		return nil, err
	}
	if up.process, err = b.self(ctx, "upstream", up.addr); err != nil {
		return nil, err
	}
	b.upstream = up.addr
	return up, b.start(ctx, up)
}

// self is this program in another of its parts.
func (b *bench) self(ctx context.Context, args ...string) (*exec.Cmd, error) {
	path, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return exec.CommandContext(ctx, path, args...), nil
}

// startContender starts one way to Ollama, and sees that it lets in who has the
// key and nobody else.
func (b *bench) startContender(ctx context.Context, c *contender) (err error) {
	if c.needs != "" {
		if _, err := lookPath(c.needs); err != nil {
			c.missing = true
			return nil
		}
	}
	if c.start == nil {
		c.addr = b.upstream
		return nil
	}
	if c.addr, err = freeAddr(); err != nil {
		return err
	}
	if c.process, err = c.start(ctx, b, c.addr); err != nil {
		return err
	}
	if err := b.start(ctx, c); err != nil {
		return err
	}
	if _, err := once(c.addr, fmt.Sprintf(getTags, b.key)); err != nil {
		return err
	}
	status, err := once(c.addr, fmt.Sprintf(getTags, "gh_wrong"))
	if open := c.name == "bare proxy"; !open && status != 401 {
		return fmt.Errorf("a wrong key is answered with %d, %w", status, err)
	}
	return nil
}

// runWorks measures requests a second, and latency when there is half as much
// to do as the gate can.
func (b *bench) runWorks(ctx context.Context, list []*contender) error {
	for _, w := range works {
		results, err := b.rounded(ctx, list, w, 0)
		if err != nil {
			return err
		}
		b.print(w, list, results)
		if ours := summary(results["gatehouse"]).rate; w.clients > 1 && ours > 0 {
			half := w
			half.name = fmt.Sprintf("%s, at %.0f/s, half of what the gate can", strings.Split(w.name, ",")[0], ours/2)
			if results, err = b.rounded(ctx, list, half, ours/2); err != nil {
				return err
			}
			b.print(half, list, results)
		}
	}
	return nil
}

// rounded measures all in turn, round by round.
func (b *bench) rounded(ctx context.Context, list []*contender, w work, rate float64) (map[string][]load, error) {
	results := make(map[string][]load)
	series := w.name
	if rate > 0 {
		series = strings.Split(w.name, ",")[0] + ", half load"
	}
	for round := range b.rounds {
		for _, c := range list {
			before := cpu(c)
			l, err := drive(ctx, c.addr, fmt.Sprintf(w.request, b.key), w, b.time, rate)
			if err != nil {
				return nil, fmt.Errorf("%s, %s: %w", c.name, w.name, err)
			}
			l.cpu = cpu(c) - before
			results[c.name] = append(results[c.name], l)
			b.record.load(series, c.name, w, round, l)
		}
	}
	return results, nil
}

func (b *bench) print(w work, list []*contender, results map[string][]load) {
	fmt.Printf("\n%s\n", w.name)
	t := tabwriter.NewWriter(os.Stdout, 2, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "\trequests/s\tspread\tof gate\tp50\tp99\tfirst\t+p50\t+p99\t+first\tCPU\tRSS\t")
	ours, direct := summary(results["gatehouse"]), summary(results["direct"])
	for _, c := range list {
		s := summary(results[c.name])
		ratio := "-"
		if ours.rate > 0 {
			ratio = fmt.Sprintf("%.2f", s.rate/ours.rate)
		}
		used, rss := "-", "-"
		if c.process != nil {
			rss = fmt.Sprintf("%d MB", residentKB(c.process.Process.Pid)/1024)
			used = fmt.Sprintf("%.0f µs", s.cpu*1e6)
			if w.lines > 0 {
				used = fmt.Sprintf("%.1f ms/klines", s.cpu*1e6/float64(w.lines))
			}
		}
		fmt.Fprintf(t, "%s\t%.0f\t%.0f–%.0f\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t\n", c.name, s.rate, s.low, s.high, ratio,
			short(s.p50), short(s.p99), short(s.first), short(s.p50-direct.p50), short(s.p99-direct.p99), short(s.first-direct.first), used, rss)
	}
	t.Flush()
}

func short(d time.Duration) string { return fmt.Sprintf("%.3f ms", float64(d.Nanoseconds())/1e6) }

// middle is what the rounds come to: the median of each figure.
type middle struct {
	rate, low, high float64
	p50, p99, first time.Duration
	cpu             float64 // seconds a request
}

func summary(loads []load) (m middle) {
	if len(loads) == 0 {
		return m
	}
	var rates, cpus []float64
	var p50, p99, first []time.Duration
	for _, l := range loads {
		rates, p50, p99, first = append(rates, l.rate), append(p50, l.p50), append(p99, l.p99), append(first, l.first)
		cpus = append(cpus, l.cpu.Seconds()/float64(l.requests))
	}
	m.rate, m.low, m.high = median(rates), slices.Min(rates), slices.Max(rates)
	m.p50, m.p99, m.first, m.cpu = median(p50), median(p99), median(first), median(cpus)
	return m
}

func median[T cmp.Ordered](list []T) T {
	list = slices.Clone(list)
	slices.Sort(list)
	return list[len(list)/2]
}

// start starts a process and waits until it takes connections.
func (b *bench) start(ctx context.Context, c *contender) error {
	c.log = filepath.Join(b.dir, strings.ReplaceAll(c.name, " ", "-")+".log")
	log, err := os.Create(c.log)
	if err != nil {
		return err
	}
	defer log.Close() // the process has its own
	c.process.Stdout, c.process.Stderr = log, log
	if b.loud {
		c.process.Stderr = os.Stderr
	}
	c.process.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := c.process.Start(); err != nil {
		return err
	}
	deadline := time.Now().Add(15 * time.Second)
	for time.Now().Before(deadline) && ctx.Err() == nil {
		conn, err := net.DialTimeout("tcp", c.addr, time.Second)
		if err == nil {
			return conn.Close()
		}
		time.Sleep(20 * time.Millisecond)
	}
	text, err := os.ReadFile(c.log)
	return errors.Join(fmt.Errorf("it does not come up: %s", text[max(0, len(text)-600):]), err)
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
