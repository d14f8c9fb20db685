// Command store measures what keeping waves costs: two waves of many hosts are
// written, then shown, compared and forgotten from. It says how many hosts a
// second are kept, how long each question takes, the memory and the size of the
// file.
//
//	go run ./bench/store -hosts 1000000
package main

import (
	"crypto/sha256"
	"encoding/binary"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"gatehouse/internal/evidence"
	"gatehouse/internal/finding"
	"gatehouse/internal/ollama"
	"gatehouse/internal/owner"
	"gatehouse/internal/store"
	"gatehouse/internal/wave"
)

func main() {
	hosts := flag.Uint64("hosts", 1_000_000, "hosts in each of the two waves")
	dir := flag.String("dir", "", "where to make the store (default: a temporary folder)")
	flag.Parse()
	if err := run(*hosts, *dir); err != nil {
		fmt.Fprintln(os.Stderr, "bench/store:", err)
		os.Exit(1)
	}
}

func run(hosts uint64, dir string) error {
	if dir == "" {
		d, err := os.MkdirTemp("", "gatehouse-bench-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(d)
		dir = d
	}
	path := filepath.Join(dir, "bench.db")
	s, err := store.Open(path)
	if err != nil {
		return err
	}
	defer s.Close()
	for number := range 2 {
		if err := keep(s, number, hosts); err != nil {
			return err
		}
	}
	size, err := sizeOf(path)
	if err != nil {
		return err
	}
	fmt.Printf("file: %d MB, %d bytes a host and wave\n", size/1e6, size/int64(2*hosts))

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
		fmt.Printf("%-20s %8.2f s  %s\n", q.name, time.Since(began).Seconds(), what)
	}
	fmt.Printf("memory at most: %d MB\n", peak()>>20)
	return nil
}

func keep(s *store.Store, number int, hosts uint64) error {
	now := time.Now().UTC()
	w, err := s.Begin(wave.Info{Name: "bench-" + strconv.Itoa(number), Scope: "bench", Source: "scan", Started: now})
	if err != nil {
		return err
	}
	defer w.Close()
	rules := finding.Rules{Advisories: ollama.Default()}
	batch := make([]wave.Observation, 0, 1024)
	var spent time.Duration // in the store alone
	flush := func() error {
		began := time.Now()
		err := w.Keep(batch)
		spent += time.Since(began)
		batch = batch[:0]
		return err
	}
	for pos := range hosts {
		if batch = append(batch, observation(pos, number, &rules)); len(batch) == cap(batch) {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	if err := flush(); err != nil {
		return err
	}
	if err := w.End(wave.Summary{Ended: time.Now()}); err != nil {
		return err
	}
	fmt.Printf("wave %d: %d hosts kept in %.1f s of the store's: %.0f a second\n", number+1, hosts, spent.Seconds(), float64(hosts)/spent.Seconds())
	return nil
}

func addr(pos uint64) netip.Addr {
	return netip.AddrFrom4([4]byte{10, byte(pos >> 16), byte(pos >> 8), byte(pos)})
}

// observation is an open server with one to three models. In the second wave
// one in fifty has another version.
func observation(pos uint64, number int, rules *finding.Rules) wave.Observation {
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
		Wave: "bench-" + strconv.Itoa(number), Target: h.Target, Address: a.String(), Port: h.Port, ObservedAt: h.ObservedAt, Verdict: rules.Judge(&h),
		Owner: owner.Owner{Country: "DE", EU: true, ASN: 24940, Provider: "Hetzner"},
	}}
}

func sizeOf(path string) (total int64, err error) {
	for _, end := range []string{"", "-wal"} {
		info, err := os.Stat(path + end)
		if err != nil {
			return 0, err
		}
		total += info.Size()
	}
	return total, nil
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
