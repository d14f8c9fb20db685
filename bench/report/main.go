// Command report makes docs/performance.md and its curves from what the
// benchmarks wrote, and with -measure runs the benchmarks first. A benchmark
// that fails is named, on the page too.
//
//	go run ./bench/report           # draw anew from the figures that are there
//	go run ./bench/report -measure  # run every benchmark, then draw
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

//go:generate go run . -dir ../../docs/performance

func main() {
	var m measurement
	dir := flag.String("dir", "docs/performance", "the figures, as JSON; the page is made beside the folder")
	measure := flag.Bool("measure", false, "run the benchmarks first, from the top of the tree (25 minutes)")
	flag.BoolVar(&m.quick, "quick", false, "fewer points and rounds: 3 minutes, to see that it works")
	flag.StringVar(&m.only, "only", "", "run this one step alone and leave the other figures as they are")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, m, *dir, *measure); err != nil {
		fmt.Fprintln(os.Stderr, "bench/report:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, m measurement, dir string, measure bool) error {
	var failed error
	if measure {
		if failed = m.run(ctx, dir); ctx.Err() != nil {
			return failed // no page from half a run
		}
	}
	return errors.Join(failed, redraw(dir))
}
