package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/term"

	"gatehouse/internal/gateway"
	"gatehouse/internal/key"
	"gatehouse/internal/ledger"
	"gatehouse/internal/limit"
	"gatehouse/internal/store"
	"gatehouse/internal/tailnet"
	"gatehouse/internal/upstream"
)

type gateCmd struct {
	Config      string `short:"c" help:"Configuration file; without one the gate goes by its defaults." placeholder:"FILE"`
	StateDir    string `help:"Where keys, the ledger and certificates are kept." placeholder:"DIR"`
	Stores      `embed:""`
	Listen      string `help:"Address to serve on, over the file's (default :8443)." placeholder:"ADDR"`
	Tailnet     bool   `help:"Listen on the tailnet and nowhere else, as a machine of its own; login.tailnet in the file says who may do what."`
	Upstream    string `help:"The Ollama behind the gate, over the file's (default http://127.0.0.1:11434)." placeholder:"URL"`
	TLS         string `name:"tls" help:"self, files, acme or off, over the file's; off is for loopback only." placeholder:"MODE"`
	Admin       string `help:"Loopback address for health and metrics, or off, over the file's (default 127.0.0.1:9643)." placeholder:"ADDR"`
	FirstKey    string `help:"Write the first key to this file, readable by nobody else, instead of printing it: for services, whose output is logged." placeholder:"FILE"`
	CheckConfig bool   `help:"Say what is wrong with the configuration, and start nothing."`
	AllowBypass bool   `help:"Start although Ollama can be reached around the gate."`
}

func (gateCmd) Help() string {
	return `Serves Ollama's API to those who hold a key, and to nobody else. The first start makes a key and prints it once.

  gatehouse gate                      Ollama on 127.0.0.1:11434, TLS on :8443
  gatehouse key add laptop            one more key
  gatehouse gate --tailnet -c FILE    for the users of a tailnet, without keys
  gatehouse status                    who is inside

Signals: SIGHUP reads the configuration again, SIGTERM and Ctrl-C let what is under way end first.`
}

func (c *gateCmd) load() (*config, error) {
	cfg, err := loadConfigOn(c.Config, c.Tailnet)
	if err != nil {
		return nil, err
	}
	if c.Listen != "" {
		cfg.Listen = []string{c.Listen}
	}
	if c.Upstream != "" {
		cfg.Upstreams = []upstreamConfig{{URL: c.Upstream, Slots: 4}}
	}
	if c.TLS != "" {
		cfg.TLS.Mode = c.TLS
	}
	if c.Admin != "" {
		cfg.Admin = c.Admin
	}
	if c.Store == "" && c.StoreFile == "" {
		c.Store = cfg.Store
	}
	if err := cfg.check(); err != nil {
		return nil, usage(err, "see gatehouse gate --help")
	}
	if cfg.Tailnet.On && joinTailnet == nil {
		return nil, usage(errors.New("this gatehouse was built without the tailnet"), "make build TAGS=tailnet builds one with it")
	}
	return cfg, nil
}

func (c *gateCmd) Run(ctx context.Context, s streams) error {
	cfg, err := c.load()
	if err != nil {
		return err
	}
	if c.CheckConfig {
		_, err := fmt.Fprintln(s.out, "the configuration is in order")
		return err
	}
	dir, err := stateDir(c.StateDir)
	if err != nil {
		return err
	}
	g := &gate{cmd: c, streams: s, dir: dir, log: newLogger(s.err, cfg.Log)}
	return g.run(ctx, cfg)
}

// gate is a running gate: what stays while configurations come and go.
type gate struct {
	cmd     *gateCmd
	streams streams
	dir     string
	log     *slog.Logger

	store   *store.Store
	ledger  *ledger.Log
	ring    *key.Ring
	guesses *key.Guesses
	seen    *key.Seen
	limiter *limit.Limiter
	queue   *limit.Queue
	metrics *metrics
	tailnet tailnetNode        // nil when the gate is on none
	watch   gateway.Watch      // the metrics, and traces where they are wanted
	version int64              // of the store, when the ring was filled
	keys    map[string]key.Key // as they were then, by id

	now     atomic.Pointer[serving]
	bypass  atomic.Pointer[[]netip.AddrPort] // where Ollama answers around the gate
	stopped atomic.Bool

	reloading sync.Mutex
}

// serving is what one configuration serves.
type serving struct {
	cfg   *config
	front *gateway.Gateway
	asked *gateway.ForwardAuth
	pool  *upstream.Pool
	tls   *tls.Config // nil when it is off
	trust string      // what clients have to trust; "" for a public authority
	place tailnet.Place
	stop  func() // the pool's health checks
}

func newLogger(w io.Writer, form string) *slog.Logger {
	if form == "" {
		form = "json"
		if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
			form = "text"
		}
	}
	if form == "json" {
		return slog.New(slog.NewJSONHandler(w, nil))
	}
	return slog.New(slog.NewTextHandler(w, nil))
}

func (g *gate) run(ctx context.Context, cfg *config) (err error) {
	if err := g.open(); err != nil {
		return err
	}
	// The store and the ledger close last, when no call is left.
	defer func() { err = errors.Join(err, g.ledger.Close(), g.store.Close()) }()

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	endTraces, err := g.openTraces(ctx, cfg.Traces)
	if err != nil {
		return err
	}
	if cfg.Tailnet.On {
		if err := g.join(ctx, cfg); err != nil {
			return err
		}
		defer func() { cancel(); err = errors.Join(err, g.tailnet.Close()) }()
	}
	next, err := g.build(ctx, cfg)
	if err != nil {
		return err
	}
	g.now.Store(next)
	defer func() { g.now.Load().stop() }()
	if err := g.lookBypass(ctx, cfg); err != nil {
		return err
	}
	servers, err := g.listen(cfg)
	if err != nil {
		return err
	}
	if err := g.firstKey(); err != nil {
		return err
	}
	g.event("start", versionString())
	g.hello()

	// Before anybody is served: who was may change the file, or stop the gate.
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGHUP, syscall.SIGTERM, syscall.SIGINT)
	defer signal.Stop(signals)
	background := g.background(ctx)
	failed := make(chan error, len(servers))
	for _, srv := range servers {
		go func() { failed <- srv.serve() }()
	}
	notify("READY=1")

	for {
		select {
		case sig := <-signals:
			if sig == syscall.SIGHUP {
				g.reload(ctx)
				continue
			}
			g.log.Info("stopping", "signal", sig.String(), "drain", time.Duration(g.now.Load().cfg.Drain).String())
		case <-ctx.Done():
		case err = <-failed:
		}
		break
	}
	notify("STOPPING=1")
	g.stopped.Store(true)
	err = errors.Join(err, g.drain(servers, signals))
	cancel()
	background.Wait()
	g.event("stop", "")
	last, done := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
	defer done()
	if lost := endTraces(last); lost != nil {
		g.log.Warn("some traces are lost", "error", lost.Error())
	}
	return err
}

// open opens what lasts as long as the process.
func (g *gate) open() error {
	if err := os.MkdirAll(g.dir, 0o700); err != nil {
		return usage(fmt.Errorf("state folder: %w", err), "name another with --state-dir")
	}
	var err error
	if g.store, err = openState(g.dir, &g.cmd.Stores); err != nil {
		return err
	}
	if g.ledger, err = ledger.Open(filepath.Join(g.dir, "ledger"), ledger.Options{}); err != nil {
		return errors.Join(err, g.store.Close())
	}
	g.ring, g.guesses, g.seen, g.limiter = new(key.Ring), key.NewGuesses(), new(key.Seen), limit.New()
	g.queue = limit.NewQueue(0, 0)
	g.metrics = newMetrics(g)
	if err := g.seed(); err != nil {
		return errors.Join(err, g.ledger.Close(), g.store.Close())
	}
	return nil
}
