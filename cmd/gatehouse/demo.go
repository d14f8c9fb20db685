package main

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"gatehouse/internal/ollama/ollamatest"
	"gatehouse/internal/report"
	"gatehouse/internal/scope"
	"gatehouse/internal/target"
	"gatehouse/internal/wave"
)

type demoCmd struct{}

// Run builds a street of simulated servers on loopback and scans it for real.
func (demoCmd) Run(ctx context.Context, s streams) error {
	street, targets, err := openDemo()
	if err != nil {
		return fmt.Errorf("build the demo street: %w", err)
	}
	defer street.Close()
	fmt.Fprintf(s.out, "\n A street of %d simulated servers on this machine's loopback, scanned for real\n with --prove --details.\n", len(targets))

	return scanDemo(ctx, s, targets, func(sum wave.Summary, hosts report.Hosts) error {
		if err := report.Table(s.out, sum, hosts, options(s.out)); err != nil {
			return err
		}
		_, err := fmt.Fprint(s.out, nextSteps)
		return err
	})
}

func scanDemo(ctx context.Context, s streams, targets []string, finish func(wave.Summary, report.Hosts) error) error {
	checker := (&scope.Scope{Name: "demo", Local: true}).Checker()
	set, err := target.Parse(ctx, targets, nil, target.Options{Scope: checker})
	if err != nil {
		return err
	}
	walk, err := set.Walk(target.Order{Seed: 1})
	if err != nil {
		return err
	}
	j := job{
		wave:    &wave.Wave{ID: newWaveID(), Scope: "demo", Seed: 1, Source: walk, Places: walk.Count()},
		checker: checker, plan: "demo", streams: s,
		looks: Looks{
			Prove: true, Details: true, MaxDetails: 4, Contact: "demo",
			Rate: 1000, NetworkRate: 1000, Concurrency: 64, Timeout: time.Second, MaxTime: 4 * time.Second, MaxBytes: 8 << 20,
		},
		outputs: Outputs{Format: "table", FailOn: "never", All: true},
		finish:  finish,
	}
	return j.run(ctx)
}

const nextSteps = `
 Now on your own:
   gatehouse check                                   is this machine open?
   gatehouse scan 192.168.1.0/24 --prove             a network of yours
   gatehouse scan 192.168.1.0/24 --format sarif -o findings.sarif
   gatehouse scope init > scope.yaml                 permission for public ones
   gatehouse scan --help

`

// openDemo builds the street, on port 11434 of addresses of its own if that is
// free there, else on ports of 127.0.0.1, which is all that other systems have,
// that the system chooses.
func openDemo() (*ollamatest.Street, []string, error) {
	own, rest := demoHouses(), demoHouses()
	for i := range own {
		rest[i].Addr = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), 0)
	}
	street, targets, err := openStreet(own)
	if err != nil {
		return openStreet(rest)
	}
	return street, targets, nil
}

func demoHouses() []ollamatest.House {
	servers := ollamatest.Demo()
	houses := make([]ollamatest.House, len(servers))
	for i, server := range servers {
		addr := netip.AddrFrom4([4]byte{127, 114, 34, byte(10 + i)})
		houses[i] = ollamatest.House{Addr: netip.AddrPortFrom(addr, 11434), Server: server}
	}
	return houses
}

// openStreet opens houses and returns how a user names each.
func openStreet(houses []ollamatest.House) (*ollamatest.Street, []string, error) {
	street, err := ollamatest.Open(houses...)
	if err != nil {
		return nil, nil, err
	}
	targets := make([]string, len(street.Houses))
	for i, h := range street.Houses {
		targets[i] = targetOf(h)
	}
	return street, targets, nil
}

func targetOf(h ollamatest.House) string {
	scheme := "http://"
	if h.Server.TLS {
		scheme = "https://"
	} else if h.Server.Path == "" {
		return h.Addr.String()
	}
	return scheme + h.Addr.String() + h.Server.Path
}
