// Command store measures what keeping waves costs: two waves of many hosts are
// written, then shown, compared and forgotten from. It says how many hosts a
// second are kept, how long each question takes, the memory and the size of the
// file.
//
//	go run ./bench/store -hosts 1000000
//
// Of several numbers of hosts each is measured in a process of its own.
package main

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"gatehouse/bench/figures"
	"gatehouse/internal/evidence"
	"gatehouse/internal/finding"
	"gatehouse/internal/ollama"
	"gatehouse/internal/owner"
	"gatehouse/internal/store"
	"gatehouse/internal/wave"
)

func main() {
	var b bench
	hosts := flag.String("hosts", "1000000", "hosts in each of the two waves; several numbers, separated by commas, one after the other")
	flag.StringVar(&b.dir, "dir", "", "where to make the store (default: a temporary folder)")
	flag.StringVar(&b.dsn, "dsn", "", "an empty store to fill instead, such as postgres://…, with one number of hosts")
	flag.StringVar(&b.json, "json", "", "write the figures to this `file` too")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := b.run(ctx, strings.Split(*hosts, ",")); err != nil {
		fmt.Fprintln(os.Stderr, "bench/store:", err)
		os.Exit(1)
	}
}

type bench struct {
	dir, dsn, json string

	hosts uint64
	file  figures.File
}

func (b *bench) run(ctx context.Context, sizes []string) error {
	b.file.Machine = figures.Here()
	for _, size := range sizes {
		var err error
		if b.hosts, err = strconv.ParseUint(size, 10, 24); err != nil || b.hosts == 0 {
			return fmt.Errorf("-hosts: %q is not a number from 1 to %d", size, 1<<24-1)
		}
	}
	if len(sizes) > 1 {
		if b.dsn != "" {
			return errors.New("-dsn takes one number of -hosts: the next would find the store full")
		}
		if err := b.each(ctx, sizes); err != nil {
			return err
		}
	} else if err := b.measure(ctx, b.dir); err != nil {
		return err
	}
	return b.write()
}

// write writes the figures to the file that was asked for.
func (b *bench) write() error {
	if b.json == "" {
		return nil
	}
	return b.file.Write(b.json)
}

// each measures every size in a process of its own: the memory of one says
// nothing of the next.
func (b *bench) each(ctx context.Context, sizes []string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	tmp, err := os.MkdirTemp("", "gatehouse-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	for _, size := range sizes {
		path := filepath.Join(tmp, size)
		cmd := exec.CommandContext(ctx, self, "-hosts", size, "-json", path)
		if b.dir != "" {
			dir := filepath.Join(b.dir, size)
			if err := os.MkdirAll(dir, 0o700); err != nil {
				return err
			}
			cmd.Args = append(cmd.Args, "-dir", dir)
		}
		cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) } // it has a folder to remove
		cmd.WaitDelay = 10 * time.Second
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("%s hosts: %w", size, err)
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		part, err := figures.Read(f)
		_ = f.Close() // it was only read
		if err != nil {
			return fmt.Errorf("%s hosts: %w", size, err)
		}
		b.file.Rows = append(b.file.Rows, part.Rows...)
		if err := b.write(); err != nil { // what is measured stays when the next takes too long
			return err
		}
	}
	return nil
}

func (b *bench) add(series string, y float64, unit string) {
	b.file.Rows = append(b.file.Rows, figures.Row{
		Bench: "store", Series: series, X: float64(2 * b.hosts), UnitX: "observations", Y: y, UnitY: unit, Round: 1, Peer: figures.Ours,
	})
}

func (b *bench) measure(ctx context.Context, dir string) error {
	if dir == "" {
		d, err := os.MkdirTemp("", "gatehouse-bench-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(d)
		dir = d
	}
	hosts := b.hosts
	path := filepath.Join(dir, "bench.db")
	s, err := store.Open(cmp.Or(b.dsn, path))
	if err != nil {
		return err
	}
	defer s.Close()
	var spent time.Duration // in the store
	for number := range 2 {
		took, err := keep(ctx, s, number, hosts)
		if err != nil {
			return err
		}
		spent += took
	}
	b.add("hosts kept", float64(2*hosts)/spent.Seconds(), "hosts/s")
	st, err := s.Status()
	if err != nil {
		return err
	}
	fmt.Printf("%s: %d MB, %d bytes a host and wave\n", st.Kind, st.Bytes/1e6, st.Bytes/int64(2*hosts))
	b.add("file", float64(st.Bytes)/1e6, "MB")

	for _, q := range []struct {
		name string
		ask  func() (string, error)
	}{
		{"show", func() (string, error) {
			i, err := s.Wave("2")
			if err != nil {
				return "", err
			}
			return strconv.FormatUint(i.Tally.Open, 10) + " open", nil
		}},
		{"trend", func() (string, error) {
			list, err := s.Waves("bench")
			return strconv.Itoa(len(list)) + " waves", err
		}},
		{"diff", func() (string, error) {
			a, err := s.Wave("1")
			if err != nil {
				return "", err
			}
			b, err := s.Wave("2")
			if err != nil {
				return "", err
			}
			c, err := wave.Compare(s.Pairs(1, 2, 2), wave.CompareOptions{Before: a.Tally, After: b.Tally})
			return fmt.Sprintf("%d changed, %d still open", c.Changed, c.Still), err
		}},
		{"read every record", func() (string, error) {
			n := 0
			for _, err := range s.Records(2) {
				if err != nil {
					return "", err
				}
				n++
			}
			return strconv.Itoa(n) + " records", nil
		}},
		{"forget one address", func() (string, error) {
			n, err := s.Forget(addr(hosts / 2))
			return strconv.Itoa(n) + " observations", err
		}},
	} {
		began := time.Now()
		what, err := q.ask()
		if err != nil {
			return fmt.Errorf("%s: %w", q.name, err)
		}
		took := time.Since(began)
		fmt.Printf("%-20s %8.2f s  %s\n", q.name, took.Seconds(), what)
		b.add(q.name, float64(took.Microseconds())/1e3, "ms")
	}
	most := peak()
	fmt.Printf("memory at most: %d MB\n", most>>20)
	b.add("memory at most", float64(most)/1e6, "MB")
	return nil
}

// keep keeps a wave and says how long the store took for it.
func keep(ctx context.Context, s *store.Store, number int, hosts uint64) (spent time.Duration, err error) {
	now := time.Now().UTC()
	w, err := s.Begin(wave.Info{Name: "bench-" + strconv.Itoa(number), Scope: "bench", Source: "scan", Started: now})
	if err != nil {
		return 0, err
	}
	defer w.Close()
	judge := judge{rules: finding.Rules{Advisories: ollama.Default()}, known: make(map[shape]finding.Verdict)}
	batch := make([]wave.Observation, 0, 1024)
	flush := func() error {
		began := time.Now()
		err := w.Keep(batch)
		spent += time.Since(began)
		batch = batch[:0]
		return err
	}
	for pos := range hosts {
		if batch = append(batch, observation(pos, number, &judge)); len(batch) == cap(batch) {
			if err := cmp.Or(ctx.Err(), flush()); err != nil {
				return 0, err
			}
		}
	}
	if err := flush(); err != nil {
		return 0, err
	}
	if err := w.End(wave.Summary{Ended: time.Now()}); err != nil {
		return 0, err
	}
	fmt.Printf("wave %d: %d hosts kept in %.1f s of the store's: %.0f a second\n", number+1, hosts, spent.Seconds(), float64(hosts)/spent.Seconds())
	return spent, nil
}

// shape is what a verdict hangs on here. To judge each host, and not each shape,
// would take longer than to keep them.
type shape struct {
	name, models uint64
	version      string
}

type judge struct {
	rules finding.Rules
	known map[shape]finding.Verdict
}

func (j *judge) verdict(s shape, h *evidence.Host) finding.Verdict {
	v, ok := j.known[s]
	if !ok {
		v = j.rules.Judge(h)
		j.known[s] = v
	}
	return v
}

func addr(pos uint64) netip.Addr {
	return netip.AddrFrom4([4]byte{10, byte(pos >> 16), byte(pos >> 8), byte(pos)})
}

// observation is an open server with one to three models. In the second wave
// one in fifty has another version.
func observation(pos uint64, number int, judge *judge) wave.Observation {
	version := "0.17.4"
	if number == 1 && pos%50 == 0 {
		version = "0.17.5"
	}
	var models []string
	for m := range pos%3 + 1 {
		digest := sha256.Sum256(binary.BigEndian.AppendUint64(nil, pos%997*4+m))
		models = append(models, fmt.Sprintf(`{"name":"model-%d:latest","model":"model-%d:latest","modified_at":"2026-11-24T10:25:03.694682266Z","size":%d,"digest":"%x","details":{"parent_model":"","format":"gguf","family":"llama","families":["llama"],"parameter_size":"3.2B","quantization_level":"Q4_K_M"}}`, pos%997, m, 2019393189+m*7919, digest))
	}
	said := func(ask evidence.Ask, path, body string) evidence.Exchange {
		return evidence.Exchange{
			Ask: ask, Method: "GET", Path: path, Proto: "HTTP/1.1", Status: 200, Reason: "OK", Body: []byte(body), Took: time.Duration(pos) * 317 % time.Second,
			Header: []evidence.Field{
				{Name: "Content-Type", Value: "application/json; charset=utf-8"},
				{Name: "Date", Value: "Tue, 24 Nov 2026 10:00:00 GMT"},
				{Name: "Content-Length", Value: strconv.Itoa(len(body))},
			},
		}
	}
	a := addr(pos)
	h := evidence.Host{
		Target: "10.0.0.0/8", Address: a, Port: 11434, ObservedAt: time.Now().UTC(), Reach: evidence.Answered,
		Exchanges: []evidence.Exchange{
			said(evidence.Root, "/", ollama.Banner),
			said(evidence.Version, "/api/version", `{"version":"`+version+`"}`),
			said(evidence.Tags, "/api/tags", `{"models":[`+strings.Join(models, ",")+`]}`),
			said(evidence.Ps, "/api/ps", `{"models":[]}`),
		},
	}
	return wave.Observation{Pos: pos, Host: h, Record: wave.Record{
		Wave: "bench-" + strconv.Itoa(number), Target: h.Target, Address: a.String(), Port: h.Port, ObservedAt: h.ObservedAt, Verdict: judge.verdict(shape{pos % 997, pos % 3, version}, &h),
		Owner: owner.Owner{Country: "DE", EU: true, ASN: 24940, Provider: "Hetzner"},
	}}
}

// peak is the most memory this process had at once, in bytes.
func peak() uint64 {
	text, err := os.ReadFile("/proc/self/status")
	if err == nil {
		for line := range strings.Lines(string(text)) {
			var kb uint64
			if n, _ := fmt.Sscanf(line, "VmHWM: %d kB", &kb); n == 1 {
				return kb << 10
			}
		}
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.Sys
}
