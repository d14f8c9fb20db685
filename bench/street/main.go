// Command street is a network of simulated servers, for benchmarks: so many
// hosts at addresses spread over a network, all on one port. It says "ready"
// once all are up, and stays until it is interrupted.
//
// With -one it needs one listener for all of them, whatever their number, on
// one network interface that all their addresses lead to. Any interface but
// loopback has to be in a network namespace that leads nowhere else, for the
// addresses belong to somebody.
package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"time"

	"gatehouse/internal/ollama/ollamatest"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "street:", err)
		os.Exit(1)
	}
}

func run() error {
	var p plan
	flag.IntVar(&p.hosts, "n", 1000, "hosts")
	network := flag.String("net", "127.1.0.0/16", "`network` to spread them over")
	port := flag.Uint("port", 11434, "port of all hosts")
	flag.Float64Var(&p.open, "open", 0.2, "share of hosts that are an open Ollama")
	which := flag.String("opens", "", "which open Ollamas: `regexp` on variants' names")
	kinds := flag.String("kinds", "guard,alike,honeypot,other", "what the rest is: `prefixes` of variants' names, comma-separated")
	flag.Uint64Var(&p.seed, "seed", 1, "which addresses and which servers")
	list := flag.String("list", "", "write what stands where to this `file`, one JSON object a line")
	device := flag.String("one", "", "one listener for all hosts, on this network `interface`")
	flag.Parse()

	prefix, err := netip.ParsePrefix(*network)
	if err != nil {
		return err
	}
	opens, err := regexp.Compile(*which)
	if err != nil {
		return err
	}
	p.prefix, p.port, p.opens, p.kinds = prefix.Masked(), uint16(*port), opens, strings.Split(*kinds, ",")
	houses, err := p.houses()
	if err != nil {
		return err
	}
	if *list != "" {
		if err := write(*list, houses); err != nil {
			return err
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ready := fmt.Sprintf("ready: %d hosts in %s port %d\n", len(houses), p.prefix, p.port)
	if *device != "" {
		return one(ctx, *device, p.port, houses, ready)
	}
	st, err := ollamatest.Open(houses...)
	if err != nil {
		return err
	}
	defer st.Close()
	fmt.Print(ready)
	<-ctx.Done()
	for _, line := range st.Harm() {
		fmt.Println("harm:", line)
	}
	return nil
}

// plan says what street to build.
type plan struct {
	hosts  int
	prefix netip.Prefix
	port   uint16
	open   float64
	opens  *regexp.Regexp
	kinds  []string
	seed   uint64
}

// houses chooses different addresses of the network and what stands there. The
// servers that speak in a fixed way are shared by all their addresses.
func (p plan) houses() ([]ollamatest.House, error) {
	if !p.prefix.Addr().Is4() || p.hosts < 1 || p.hosts > 1<<(32-p.prefix.Bits()) {
		return nil, fmt.Errorf("%d hosts do not fit into %s", p.hosts, p.prefix)
	}
	var opens, rest []*ollamatest.Server
	for _, s := range ollamatest.Variants() {
		switch kind, _, _ := strings.Cut(s.Name, "/"); {
		case s.TLS || s.Path != "":
		case kind == "ollama" && s.Truth.Outcome == "open":
			if p.opens.MatchString(s.Name) {
				opens = append(opens, s)
			}
		default:
			for _, k := range p.kinds {
				if k != "" && strings.HasPrefix(s.Name, k) {
					rest = append(rest, s)
					break
				}
			}
		}
	}
	if p.open > 0 && len(opens) == 0 {
		return nil, fmt.Errorf("no open Ollama is called %s", p.opens)
	}
	if p.open < 1 && len(rest) == 0 {
		return nil, fmt.Errorf("no server's name begins with %s", strings.Join(p.kinds, " or "))
	}
	rng := rand.New(rand.NewPCG(p.seed, 0))
	base := p.prefix.Addr().As4()
	houses := make([]ollamatest.House, 0, p.hosts)
	taken := make(map[uint32]bool, p.hosts)
	for len(houses) < p.hosts {
		at := rng.Uint32N(uint32(1<<(32-p.prefix.Bits())-1) + 1)
		if taken[at] {
			continue
		}
		taken[at] = true
		pool := rest
		if rng.Float64() < p.open {
			pool = opens
		}
		addr := netip.AddrFrom4([4]byte{base[0] | byte(at>>24), base[1] | byte(at>>16), base[2] | byte(at>>8), base[3] | byte(at)})
		houses = append(houses, ollamatest.House{
			Addr: netip.AddrPortFrom(addr, p.port), Server: pool[rng.IntN(len(pool))],
		})
	}
	return houses, nil
}

// one serves all houses from one listener on the interface: which house is
// meant, the accepted connection's own address tells. An address with no house
// hangs up. It returns when ctx ends and the last visitor is gone.
func one(ctx context.Context, device string, port uint16, houses []ollamatest.House, ready string) error {
	at := make(map[netip.Addr]*ollamatest.Server, len(houses))
	for _, h := range houses {
		at[h.Addr.Addr()] = h.Server
	}
	config := net.ListenConfig{
		Control:         func(_, _ string, c syscall.RawConn) error { return bindToDevice(c, device) },
		KeepAliveConfig: net.KeepAliveConfig{Enable: false},
		KeepAlive:       -1,
	}
	ln, err := config.Listen(ctx, "tcp4", fmt.Sprintf("0.0.0.0:%d", port))
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { _ = ln.Close() })()
	fmt.Print(ready)
	var visitors sync.WaitGroup
	defer visitors.Wait()
	for {
		c, err := ln.Accept()
		switch {
		case errors.Is(err, net.ErrClosed):
			return nil
		case err != nil: // out of file descriptors: some visitors will leave
			time.Sleep(5 * time.Millisecond)
			continue
		}
		s := at[c.LocalAddr().(*net.TCPAddr).AddrPort().Addr().Unmap()]
		if s == nil {
			_ = c.Close()
			continue
		}
		visitors.Go(func() {
			defer context.AfterFunc(ctx, func() { _ = c.Close() })()
			s.Serve(c)
		})
	}
}

// write says what is true of each house, as far as reads tell, for a benchmark to
// check answers by.
func write(file string, houses []ollamatest.House) (err error) {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	defer func() {
		if e := f.Close(); err == nil {
			err = e
		}
	}()
	enc := json.NewEncoder(f)
	for _, h := range houses {
		err := enc.Encode(struct {
			Address netip.AddrPort `json:"address"`
			Name    string         `json:"name"`
			Outcome string         `json:"outcome"`
		}{h.Addr, h.Server.Name, cmp.Or(h.Server.Truth.Unproved, h.Server.Truth.Outcome)})
		if err != nil {
			return err
		}
	}
	return nil
}
