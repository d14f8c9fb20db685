package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"time"

	"gatehouse/internal/sweep"
	"gatehouse/internal/target"
)

// Sweeps are the flags about how open ports are found.
type Sweeps struct {
	Sweep      string        `help:"How open ports are found: by connect, by raw syn (Linux, root or CAP_NET_RAW), or auto: syn for 4096 places or more, most of them behind a gateway on Ethernet (default: auto)." enum:"auto,connect,syn" default:"auto" placeholder:"HOW"`
	Probes     int           `help:"syn: SYNs at most to a place that keeps silent (default: one more than --retries)." placeholder:"N"`
	Cooldown   time.Duration `help:"syn: how long answers are waited for after the last SYN to a place." default:"5s"`
	Interface  string        `help:"syn: send there (default: where the routes lead)." placeholder:"NAME"`
	SourceIP   []netip.Addr  `name:"source-ip" help:"syn: send from there, an address a family (default: the routes')." placeholder:"ADDRESS"`
	GatewayMAC string        `name:"gateway-mac" help:"syn: send to that next hop (default: the gateway's, by ARP or neighbour discovery)." placeholder:"MAC"`
}

// worthwhile is how many places make a raw sweep worth its cooldown. Connecting
// to as many silent ones takes half a minute with the defaults.
const worthwhile = 4096

// syn is the raw sweep that was asked for, or that --sweep auto chooses; nil is
// to connect to each place.
func (j *job) syn(ctx context.Context, allows func(netip.Addr) error, limit *sweep.Limit) (*sweep.SYN, error) {
	l := &j.looks
	walk, walked := j.wave.Source.(*target.Walk)
	asked := l.Sweep == "syn"
	switch {
	case l.Sweep != "syn" && l.Sweep != "auto":
		return nil, nil
	case !walked && asked:
		return nil, usage(errors.New("--sweep syn needs targets that are known at the start, which standard input is not"), "write them to a file first; --targets takes the same lines")
	case !walked, !asked && walk.Count() < worthwhile:
		return nil, nil
	}
	opt, err := l.links()
	if err != nil {
		return nil, err
	}
	links, err := sweep.FindLinks(ctx, walk, opt)
	switch {
	case err == nil:
	case ctx.Err() != nil:
		return nil, err
	case !asked:
		return nil, nil // connecting needs none of it
	default:
		return nil, usage(fmt.Errorf("--sweep syn: %w", err), sweepHint(err))
	}
	return &sweep.SYN{
		Allows: allows, Limit: limit, Probes: cmp.Or(l.Probes, l.Retries+1), Cooldown: l.Cooldown, Links: links,
	}, nil
}

// links are the flags about the way out.
func (l *Sweeps) links() (opt sweep.LinkOptions, err error) {
	opt = sweep.LinkOptions{Interface: l.Interface, Sources: l.SourceIP}
	if l.GatewayMAC != "" {
		mac, err := net.ParseMAC(l.GatewayMAC)
		if err != nil || len(mac) != len(opt.GatewayMAC) {
			return opt, usage(fmt.Errorf("--gateway-mac %q is no hardware address", l.GatewayMAC), "such as --gateway-mac 02:00:5e:10:00:01")
		}
		opt.GatewayMAC = [6]byte(mac)
	}
	return opt, nil
}

func sweepHint(err error) string {
	switch {
	case errors.Is(err, fs.ErrPermission):
		return "be root, or let the program do it: setcap cap_net_raw+ep gatehouse; --sweep connect needs no right"
	case errors.Is(err, sweep.ErrNoGateway):
		return "--sweep connect finds the way to each; or name one with --interface and --gateway-mac"
	case errors.Is(err, sweep.ErrSystem):
		return "--sweep connect works everywhere"
	}
	return "--sweep connect leaves the way to the system; --interface, --source-ip and --gateway-mac name one"
}

// dryRun writes the packets that a raw sweep would send to a file, each with the
// time at which its turn would be.
func (j *job) dryRun(ctx context.Context, file string) (err error) {
	walk, ok := j.wave.Source.(*target.Walk)
	if !ok {
		return usage(errors.New("--dry-run needs targets that are known at the start, which standard input is not"), "write them to a file first; --targets takes the same lines")
	}
	opt, err := j.looks.links()
	if err != nil {
		return err
	}
	opt.Quiet = true
	links, err := sweep.FindLinks(ctx, walk, opt)
	if err != nil {
		return usage(fmt.Errorf("--dry-run: %w", err), sweepHint(err))
	}
	f, err := os.Create(file)
	if err != nil {
		return usage(err, "--dry-run takes a file that can be written")
	}
	s := sweep.SYN{
		Allows: func(a netip.Addr) error { return j.checker.Allows(a, time.Now()) },
		Links:  links,
	}
	n, err := s.DryRun(ctx, f, walk, j.looks.Rate)
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", file, err)
	}
	if !j.outputs.Quiet {
		fmt.Fprintf(j.streams.err, "gatehouse: %d packets written to %s; nothing was sent\n", n, file)
	}
	return nil
}
