package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"text/tabwriter"
	"time"

	"gatehouse/internal/key"
	"gatehouse/internal/ollama"
	"gatehouse/internal/store"
)

func (b *bench) mostStreams() (most int) {
	for _, n := range b.streams {
		most = max(most, n)
	}
	return most
}

// raiseFiles lets this process and those that it starts have as many open files
// as may be. A proxy needs two for each stream: what cannot be is made fewer.
func (b *bench) raiseFiles() error {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return err
	}
	want := uint64(max(4096, spareFiles+2*b.mostStreams()))
	higher := syscall.Rlimit{Cur: max(limit.Max, want), Max: max(limit.Max, want)}
	if syscall.Setrlimit(syscall.RLIMIT_NOFILE, &higher) != nil {
		higher = syscall.Rlimit{Cur: limit.Max, Max: limit.Max} // who may not raise it has what is there
		if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &higher); err != nil {
			return fmt.Errorf("limit of open files: %w", err)
		}
	}
	b.files = int(higher.Cur)
	for i, n := range b.streams {
		if most := (b.files - spareFiles) / 2; n > most {
			fmt.Printf("%d streams need more than the %d open files that this user may have: %d it is\n", n, b.files, most)
			b.streams[i] = most
		}
	}
	return nil
}

// spareFiles is what a process may have open besides its streams.
const spareFiles = 400

// runStreams opens streams that do not end, counts what each costs in memory,
// and what a small request takes beside them.
func (b *bench) runStreams(ctx context.Context, list []*contender) error {
	for _, n := range b.streams {
		fmt.Printf("\n%d open streams\n", n)
		t := tabwriter.NewWriter(os.Stdout, 2, 0, 2, ' ', tabwriter.AlignRight)
		fmt.Fprintln(t, "\tRSS\teach\tp50 of a GET\tp99\t")
		for _, c := range list {
			if c.process == nil {
				continue
			}
			before := residentKB(c.process.Process.Pid)
			open, err := b.open(ctx, c, n)
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if err != nil { // which is a result too
				fmt.Fprintf(t, "%s\t%v\t\t\t\t\n", c.name, err)
				continue
			}
			rss := residentKB(c.process.Process.Pid)
			get := busyGet
			get.clients = 1
			for round := range b.rounds {
				l, err := drive(ctx, c.addr, fmt.Sprintf(get.request, b.key), get, b.time, 0)
				if err != nil {
					return fmt.Errorf("%s with %d streams: %w", c.name, n, err)
				}
				b.record.add("p99 of a GET by open streams", c.name, round, float64(n), "streams", l.p99.Seconds()*1e3, "ms")
				if round == 0 {
					fmt.Fprintf(t, "%s\t%d MB\t%.1f KB\t%s\t%s\t\n", c.name, rss/1024, float64(rss-before)/float64(n), short(l.p50), short(l.p99))
				}
			}
			b.record.add("memory by open streams", c.name, 0, float64(n), "streams", float64(rss)/1024, "MB")
			for _, conn := range open {
				_ = conn.Close() // nothing is lost
			}
			if err := b.settled(ctx, c); err != nil {
				return err
			}
		}
		t.Flush()
	}
	return nil
}

// open opens n streams, and returns when the first line of each is there.
func (b *bench) open(ctx context.Context, c *contender, n int) (open []net.Conn, err error) {
	defer func() {
		if err != nil {
			for _, conn := range open {
				_ = conn.Close() // the error says more
			}
		}
	}()
	request := []byte(fmt.Sprintf(post("/api/generate", `{"model":"tiny","prompt":"Why is the sky blue?"}`), b.key))
	r := bufio.NewReader(nil)
	for end := time.Now().Add(openTime); len(open) < n; {
		if err := ctx.Err(); err != nil {
			return open, err
		}
		if time.Now().After(end) {
			return open, fmt.Errorf("%d are open after %s", len(open), openTime)
		}
		conn, err := net.Dial("tcp", c.addr)
		if err != nil {
			return open, err
		}
		open = append(open, conn)
		_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
		if _, err := conn.Write(request); err != nil {
			return open, err
		}
		r.Reset(conn)
		for {
			line, err := r.ReadSlice('\n')
			if err != nil {
				return open, err
			}
			if bytes.Contains(line, []byte(" blue")) {
				break
			}
			if bytes.HasPrefix(line, []byte("HTTP/1.1")) && !bytes.Contains(line, []byte(" 200 ")) {
				return open, fmt.Errorf("stream %d is answered %q", len(open), line)
			}
		}
	}
	return open, nil
}

// openTime is how long opening all streams may take.
const openTime = time.Minute

// settled waits until a proxy has let its streams go.
func (b *bench) settled(ctx context.Context, c *contender) error {
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end) && ctx.Err() == nil; time.Sleep(20 * time.Millisecond) {
		if connections(c.process.Process.Pid) < 2*64+64 {
			return nil
		}
	}
	return errors.Join(ctx.Err(), fmt.Errorf("%s does not let its streams go", c.name))
}

// runKeys starts a gate for each number of keys, and asks with one of the keys
// in the middle.
func (b *bench) runKeys(ctx context.Context) error {
	if len(b.keys) == 0 {
		return nil
	}
	fmt.Println("\nkeys of the gate")
	t := tabwriter.NewWriter(os.Stdout, 2, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "keys\trequests/s\tp50\tp99\tRSS\tup after\t")
	for _, n := range b.keys {
		if err := b.oneOfKeys(ctx, t, n); err != nil {
			return fmt.Errorf("%d keys: %w", n, err)
		}
	}
	return t.Flush()
}

func (b *bench) oneOfKeys(ctx context.Context, t *tabwriter.Writer, n int) error {
	state := filepath.Join(b.dir, "keys-"+strconv.Itoa(n))
	token, err := fill(state, n)
	if err != nil {
		return err
	}
	c := &contender{name: "gatehouse-" + strconv.Itoa(n)}
	if c.addr, err = freeAddr(); err != nil {
		return err
	}
	if c.process, err = b.gate(ctx, c.addr, state); err != nil {
		return err
	}
	began := time.Now()
	defer func() { kill(c.process) }()
	if err := b.start(ctx, c); err != nil {
		return err
	}
	up := time.Since(began)
	get := busyGet
	var all []load
	for round := range b.rounds {
		l, err := drive(ctx, c.addr, fmt.Sprintf(get.request, token), get, b.time, 0)
		if err != nil {
			return err
		}
		all = append(all, l)
		b.record.add("requests by keys", "gatehouse", round, float64(n), "keys", l.rate, "requests/s")
		b.record.add("p99 of a GET by keys", "gatehouse", round, float64(n), "keys", l.p99.Seconds()*1e3, "ms")
	}
	rss := residentKB(c.process.Process.Pid)
	b.record.add("memory by keys", "gatehouse", 0, float64(n), "keys", float64(rss)/1024, "MB")
	s := summary(all)
	_, err = fmt.Fprintf(t, "%d\t%.0f\t%s\t%s\t%d MB\t%s\t\n", n, s.rate, short(s.p50), short(s.p99), rss/1024, up.Round(10*time.Millisecond))
	return err
}

// fill makes a state folder with n keys, and returns one's token.
func fill(state string, n int) (token string, err error) {
	if err := os.MkdirAll(state, 0o700); err != nil {
		return "", err
	}
	s, err := store.Open(filepath.Join(state, "gatehouse.db"))
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	for i := range n {
		one, k := key.Mint(time.Now())
		k.Name = "key-" + strconv.Itoa(i)
		k.Terms = key.Terms{
			Powers: []ollama.Power{ollama.Hello, ollama.Read, ollama.Infer}, Models: []string{"*"},
			Limits: key.Limits{PerMinute: 1e9, TokensMinute: 1e12, TokensDay: 1e12, Streams: 1e5},
		}
		if err := s.AddKey(k); err != nil {
			return "", err
		}
		if i == n/2 {
			token = one
		}
	}
	return token, nil
}
