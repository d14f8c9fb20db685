// Command start measures how long Gatehouse takes to start, beside programs that
// people run for the same, and what its file is made of.
//
//	go run ./bench/start -rounds 15
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"gatehouse/bench/figures"
)

func main() {
	b := bench{file: figures.File{Machine: figures.Here(), Versions: map[string]string{}, Commands: map[string]string{}}}
	flag.StringVar(&b.gatehouse, "gatehouse", "./gatehouse", "the program to measure")
	flag.IntVar(&b.rounds, "rounds", 15, "rounds, all programs in turn")
	out := flag.String("json", "", "write the figures to this `file` too")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGPIPE)
	defer stop()
	err := b.run(ctx)
	if err == nil && *out != "" {
		err = b.file.Write(*out)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench/start:", err)
		os.Exit(1)
	}
}

type bench struct {
	gatehouse string
	rounds    int

	dir      string
	upstream string // address of what the gate stands in front of
	key      string
	file     figures.File
}

// command is a program that is run to its end.
type command struct{ series, peer, line string }

var commands = []command{
	{"version", figures.Ours, "gatehouse --version"},
	{"version", "caddy", "caddy version"},
	{"version", "haproxy", "haproxy -v"},
	{"version", "nginx", "nginx -v"},
	{"version", "nmap", "nmap --version"},
	{"version", "ollama", "ollama --version"},
	{"help of a command", figures.Ours, "gatehouse check --help"},
	{"help of a command", "caddy", "caddy help run"},
}

// server is a program that is run until it has answered once.
type server struct {
	peer   string
	config string // at DIR/config; LISTEN, ADMIN, UPSTREAM and DIR are filled in
	line   string
}

var servers = []server{
	{
		figures.Ours,
		"listen: [\"LISTEN\"]\nadmin: \"ADMIN\"\ntls: {mode: \"off\"}\nupstreams: [{url: \"http://UPSTREAM\"}]\n",
		"gatehouse gate --config DIR/config --state-dir DIR/state",
	},
	{"caddy", "", "caddy respond --listen LISTEN ok"},
	{
		"haproxy",
		"defaults\n  mode http\n  timeout connect 5s\n  timeout client 5s\n  timeout server 5s\nfrontend f\n  bind LISTEN\n" +
			"  http-request return status 200 content-type text/plain string ok\n",
		"haproxy -db -f DIR/config",
	},
	{
		"nginx",
		"daemon off; pid DIR/pid; error_log DIR/error.log; events {}\nhttp { access_log off; client_body_temp_path DIR/b; proxy_temp_path DIR/p;\n" +
			"fastcgi_temp_path DIR/f; uwsgi_temp_path DIR/u; scgi_temp_path DIR/s; server { listen LISTEN; return 200 ok; } }\n",
		"nginx -e DIR/error.log -c DIR/config",
	},
}

// limit is how long one program may take.
const limit = 20 * time.Second

func (b *bench) run(ctx context.Context) (err error) {
	if b.dir, err = os.MkdirTemp("", "gatehouse-bench"); err != nil {
		return err
	}
	defer os.RemoveAll(b.dir)
	if b.gatehouse, err = filepath.Abs(b.gatehouse); err != nil {
		return err
	}
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, `{"version":"0.17.4","models":[]}`)
	}))
	defer up.Close()
	b.upstream = up.Listener.Addr().String()
	key, err := exec.CommandContext(ctx, b.gatehouse, "key", "--state-dir", filepath.Join(b.dir, figures.Ours, "state"), "add", "bench", "--rpm", "1G").Output()
	if err != nil {
		return fmt.Errorf("make a key: %w", err)
	}
	b.key = strings.TrimSpace(string(key))

	for round := range b.rounds {
		for _, c := range commands {
			if err := b.finish(ctx, c, round+1); err != nil {
				return fmt.Errorf("%s: %w", c.line, err)
			}
		}
		for _, s := range servers {
			if err := b.answer(ctx, s, round+1); err != nil {
				return fmt.Errorf("%s: %w", s.line, err)
			}
		}
	}
	if err := b.sizes(ctx); err != nil {
		return err
	}
	b.print()
	return nil
}

// finish runs the command to its end.
func (b *bench) finish(ctx context.Context, c command, round int) error {
	words := strings.Fields(c.line)
	program, err := b.find(words[0])
	if err != nil {
		return nil // a peer that is not installed is not measured
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, words[1:]...)
	cmd.Env = append(os.Environ(), "HOME="+b.dir, "OLLAMA_HOST=127.0.0.1:9") // nobody is asked
	began := time.Now()
	text, err := cmd.CombinedOutput()
	took := time.Since(began)
	if err != nil {
		return fmt.Errorf("%w: %s", err, text[:min(len(text), 500)])
	}
	b.file.Commands[c.series+", "+c.peer] = c.line
	if c.series == "version" {
		line, _, _ := strings.Cut(strings.TrimSpace(string(text)), "\n")
		b.file.Versions[c.peer] = line
	}
	b.add("start", c.series, c.peer, "ms", round, float64(took.Microseconds())/1e3)
	return nil
}

// answer starts the server, asks until the first answer has come, and stops it.
func (b *bench) answer(ctx context.Context, s server, round int) (err error) {
	words := strings.Fields(s.line)
	program, err := b.find(words[0])
	if err != nil {
		return nil // a peer that is not installed is not measured
	}
	dir := filepath.Join(b.dir, s.peer)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	listen, admin, err := free()
	if err != nil {
		return err
	}
	fill := strings.NewReplacer("LISTEN", listen, "ADMIN", admin, "UPSTREAM", b.upstream, "DIR", dir)
	if err := os.WriteFile(filepath.Join(dir, "config"), []byte(fill.Replace(s.config)), 0o600); err != nil {
		return err
	}
	for i := range words {
		words[i] = fill.Replace(words[i])
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	said, err := os.Create(filepath.Join(dir, "said"))
	if err != nil {
		return err
	}
	defer said.Close()
	cmd := exec.CommandContext(ctx, program, words[1:]...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) } // nginx would leave its workers
	cmd.WaitDelay = 5 * time.Second
	cmd.Env = append(os.Environ(), "HOME="+b.dir, "XDG_DATA_HOME="+b.dir, "XDG_CONFIG_HOME="+b.dir)
	cmd.Stdout, cmd.Stderr = said, said
	began := time.Now()
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan struct{})
	go func() { _ = cmd.Wait(); close(ended) }() // it is told to end below
	asking := b.ask(ctx, listen, ended)
	took := time.Since(began)
	cancel()
	<-ended
	if asking != nil {
		text, _ := os.ReadFile(filepath.Join(dir, "said"))
		return fmt.Errorf("%w: %s", asking, text[:min(len(text), 500)])
	}
	b.file.Commands["first answer, "+s.peer] = s.line
	b.add("start", "first answer", s.peer, "ms", round, float64(took.Microseconds())/1e3)
	return nil
}

// ask asks the server until it answers 200.
func (b *bench) ask(ctx context.Context, listen string, ended <-chan struct{}) error {
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	again := time.NewTicker(500 * time.Microsecond)
	defer again.Stop()
	last := errors.New("it does not come up")
	for {
		select {
		case <-ctx.Done():
			return last
		case <-ended:
			return errors.New("it ended before it had answered")
		case <-again.C:
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+listen+"/api/version", nil)
		if err != nil {
			return err
		}
		req.Header.Set("Authorization", "Bearer "+b.key)
		resp, err := client.Do(req)
		if err != nil {
			continue // nobody listens yet
		}
		_, err = io.Copy(io.Discard, io.LimitReader(resp.Body, 1<<20))
		_ = resp.Body.Close()
		if err == nil && resp.StatusCode == http.StatusOK {
			return nil
		}
		last = fmt.Errorf("it answers %s", resp.Status)
	}
}

// find is where a program is: our own, in PATH, or among those of the system.
func (b *bench) find(name string) (string, error) {
	if name == figures.Ours {
		return b.gatehouse, nil
	}
	if path, err := exec.LookPath(name); err == nil {
		return path, nil
	}
	return exec.LookPath(filepath.Join("/usr/sbin", name))
}

// free are two addresses of loopback that nobody listens on.
func free() (a, b string, err error) {
	one, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", "", err
	}
	two, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", "", errors.Join(err, one.Close())
	}
	return one.Addr().String(), two.Addr().String(), errors.Join(one.Close(), two.Close())
}

func (b *bench) add(section, series, peer, unit string, round int, y float64) {
	b.file.Rows = append(b.file.Rows, figures.Row{Bench: section, Series: series, X: 1, Y: y, UnitY: unit, Round: round, Peer: peer})
}

// print shows the figures as they came; bench/report makes medians of them.
func (b *bench) print() {
	t := tabwriter.NewWriter(os.Stdout, 2, 0, 2, ' ', 0)
	for _, r := range b.file.Rows {
		fmt.Fprintf(t, "round %d\t%s\t%s\t%.3f %s\n", r.Round, r.Series, r.Peer, r.Y, r.UnitY)
	}
	_ = t.Flush()
}
