package main

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"runtime/pprof"
	"sync"
	"time"

	"gatehouse/internal/scope"
	"gatehouse/internal/sweep"
	"gatehouse/internal/target"
)

// runOurs is Gatehouse's raw sweep alone: it writes the addresses that answer,
// as zmap does, and asks none of them what it is.
func runOurs(ctx context.Context, args []string) error {
	var s sweep.SYN
	flags := flag.NewFlagSet("ours", flag.ContinueOnError)
	rate := flags.Float64("rate", 0, "packets a second; 0 is no bound")
	flags.DurationVar(&s.Cooldown, "cooldown", time.Second, "")
	flags.IntVar(&s.Probes, "probes", 1, "")
	profile := flags.String("cpuprofile", "", "`file` for a profile")
	if err := flags.Parse(args); err != nil {
		return err
	}
	sc := scope.Scope{Name: "local", Local: true}
	checker := sc.Checker()
	set, err := target.Parse(ctx, flags.Args(), nil, target.Options{Scope: checker, Ports: []uint16{port}})
	if err != nil {
		return err
	}
	walk, err := set.Walk(target.Order{Seed: 1})
	if err != nil {
		return err
	}
	if s.Links, err = sweep.FindLinks(ctx, walk, sweep.LinkOptions{}); err != nil {
		return err
	}
	if *profile != "" {
		f, err := os.Create(*profile)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := pprof.StartCPUProfile(f); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	s.Allows = func(a netip.Addr) error { return checker.Allows(a, time.Now()) }
	s.Limit = sweep.NewLimit(*rate, 0)
	out := bufio.NewWriter(os.Stdout)
	var mu sync.Mutex
	began, swept := time.Now(), time.Time{}
	done, err := s.Run(ctx, nil, walk, 0, sweep.Events{
		Answer: func(_, pos uint64, state sweep.State, _ uint64) {
			if state == sweep.Open {
				mu.Lock()
				fmt.Fprintln(out, walk.At(pos).Addr)
				mu.Unlock()
			}
		},
		Room: func(context.Context) error { return nil },
		Done: func(sweep.Batch) error { swept = time.Now(); return nil },
	})
	if err != nil || !done {
		return fmt.Errorf("not swept to the end: %w", err)
	}
	took := swept.Sub(began) - s.Cooldown
	stats := s.Stats()
	fmt.Fprintf(os.Stderr, "%.0f packets a second\n", float64(stats.Sent)/took.Seconds())
	if err := json.NewEncoder(os.Stderr).Encode(stats); err != nil {
		return err
	}
	return out.Flush()
}
