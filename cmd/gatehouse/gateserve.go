package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"gatehouse/internal/gateway"
	"gatehouse/internal/upstream"
)

// server is a listener and what serves on it.
type server struct {
	http  *http.Server
	l     net.Listener
	drain bool // has callers to wait for
}

func (s *server) serve() error {
	if err := s.http.Serve(s.l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// Limits of a connection before anybody is known by it. What comes after, the
// gateway bounds by its own deadlines, for a model may think for minutes.
const (
	headerTime = 10 * time.Second
	idleTime   = 2 * time.Minute
	maxHeader  = 32 << 10
)

// listen opens the listeners; nothing is served yet.
func (g *gate) listen(cfg *config) (servers []*server, err error) {
	defer func() {
		if err != nil {
			for _, s := range servers {
				_ = s.l.Close() // nothing was served
			}
		}
	}()
	quiet := slog.NewLogLogger(g.log.Handler(), slog.LevelDebug) // what strangers do wrong is not news
	front := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { g.now.Load().front.ServeHTTP(w, r) })
	for _, addr := range cfg.Listen {
		l, err := g.listenFront(addr)
		if err != nil {
			return servers, usage(fmt.Errorf("listen on %s: %w", addr, plainListen(err)), "choose another with --listen")
		}
		if g.now.Load().tls != nil {
			l = tls.NewListener(l, &tls.Config{
				// The configuration of now, also after a reload.
				NextProtos: []string{"h2", "http/1.1"},
				GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
					return g.now.Load().tls, nil
				},
			})
		}
		servers = append(servers, &server{drain: true, l: l, http: &http.Server{
			Handler: front, DisableGeneralOptionsHandler: true, ReadHeaderTimeout: headerTime, IdleTimeout: idleTime, MaxHeaderBytes: maxHeader, ErrorLog: quiet,
		}})
	}
	if cfg.Forward.Listen != "" {
		l, err := net.Listen("tcp", cfg.Forward.Listen)
		if err != nil {
			return servers, usage(fmt.Errorf("listen on %s: %w", cfg.Forward.Listen, plainListen(err)), "choose another with forward_auth's listen")
		}
		asked := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { g.now.Load().asked.ServeHTTP(w, r) })
		servers = append(servers, &server{drain: true, l: l, http: &http.Server{
			Handler: asked, DisableGeneralOptionsHandler: true, ReadHeaderTimeout: headerTime, ReadTimeout: headerTime,
			WriteTimeout: headerTime, IdleTimeout: idleTime, MaxHeaderBytes: maxHeader, ErrorLog: quiet,
		}})
	}
	if cfg.Admin != "off" {
		l, err := net.Listen("tcp", cfg.Admin)
		if err != nil {
			return servers, usage(fmt.Errorf("listen on %s: %w", cfg.Admin, plainListen(err)), "choose another with --admin, or --admin off")
		}
		servers = append(servers, &server{l: l, http: &http.Server{
			Handler: g.admin(), ReadHeaderTimeout: headerTime, ReadTimeout: headerTime, WriteTimeout: headerTime, MaxHeaderBytes: maxHeader, ErrorLog: quiet,
		}})
	}
	return servers, nil
}

// listenFront opens an address for callers: on the tailnet, when the gate is on
// one, and on no other network then.
func (g *gate) listenFront(addr string) (net.Listener, error) {
	if g.tailnet == nil {
		return net.Listen("tcp", addr)
	}
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	return g.tailnet.Listen(port)
}

func plainListen(err error) error {
	if op := new(net.OpError); errors.As(err, &op) {
		return op.Err
	}
	return err
}

// drain lets what is under way end, as long as it may; a second signal ends it
// at once.
func (g *gate) drain(servers []*server, again <-chan os.Signal) (err error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(g.now.Load().cfg.Drain))
	defer cancel()
	go func() {
		select {
		case <-again:
			cancel()
		case <-ctx.Done():
		}
	}()
	for _, s := range servers {
		if s.http.Shutdown(ctx) != nil {
			// Broken off; each call still writes its account.
			_ = s.http.Close()
			if s.drain {
				err = errStillBusy
			}
		}
	}
	// Handlers of closed connections end by themselves; the ledger waits for them.
	for end := time.Now().Add(5 * time.Second); g.metrics.Underway() > 0 && time.Now().Before(end); {
		time.Sleep(10 * time.Millisecond)
	}
	return err
}

// metrics are the gateway's and the process's.
type metrics struct {
	*gateway.Metrics
	registry *prometheus.Registry
}

func newMetrics(g *gate) *metrics {
	r := prometheus.NewRegistry()
	m := &metrics{Metrics: gateway.NewMetrics(r), registry: r}
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	gauge := func(name, help string, value func() float64) {
		r.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, value))
	}
	gauge("gatehouse_bypass_open", "1 while Ollama can be reached around the gate.", func() float64 {
		if found := g.bypass.Load(); found != nil && len(*found) > 0 {
			return 1
		}
		return 0
	})
	gauge("gatehouse_ledger_ok", "0 while the ledger cannot be written, so that nobody is let in.", func() float64 {
		if g.ledger.Err() != nil {
			return 0
		}
		return 1
	})
	gauge("gatehouse_keys", "Keys, revoked and expired ones included.", func() float64 { return float64(g.ring.Len()) })
	return m
}

// admin serves what is for the operator: it has no lock, and listens on
// loopback only.
func (g *gate) admin() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if why := g.notReady(); why != "" {
			http.Error(w, why, http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(g.metrics.registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.MarshalWrite(w, g.status()) // a caller gone is no matter
	})
	return onlyLocal(mux)
}

// onlyLocal keeps web pages out: what they rebind is a name.
func onlyLocal(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host := r.Host
		if h, _, err := net.SplitHostPort(host); err == nil {
			host = h
		}
		if !isLoopback(strings.Trim(host, "[]")) || r.Header.Get("Origin") != "" {
			http.Error(w, "for this machine only", http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func (g *gate) notReady() string {
	if g.stopped.Load() {
		return "stopping"
	}
	if err := g.ledger.Err(); err != nil {
		return "ledger: " + err.Error()
	}
	if g.tailnet != nil {
		if err := g.tailnet.Err(); err != nil {
			return err.Error()
		}
	}
	for _, s := range g.now.Load().pool.Status() {
		if s.Healthy {
			return ""
		}
	}
	return "no Ollama behind the gate answers"
}

// gateStatus is what `gatehouse status` shows.
type gateStatus struct {
	Version   string            `json:"version"`
	Listen    []string          `json:"listen"`
	TLS       string            `json:"tls"`
	Trust     string            `json:"trust,omitzero"`
	Keys      int               `json:"keys"`
	Inside    int               `json:"inside"`
	Waiting   int               `json:"waiting"`
	Bypass    []string          `json:"bypass"`
	Ledger    string            `json:"ledger"`
	Upstreams []upstream.Status `json:"upstreams"`
}

func (g *gate) status() gateStatus {
	now := g.now.Load()
	s := gateStatus{
		Version: versionString(), Listen: now.cfg.Listen, TLS: now.cfg.TLS.Mode, Trust: now.trust,
		Keys: g.ring.Len(), Ledger: "ok", Upstreams: now.pool.Status(), Bypass: []string{},
	}
	if g.tailnet != nil {
		s.Listen, s.TLS = now.places(), "of the tailnet"
		if now.tls == nil {
			s.TLS = "off, inside WireGuard"
		}
	}
	s.Inside, s.Waiting = g.queue.Stats()
	for _, a := range *g.bypass.Load() {
		s.Bypass = append(s.Bypass, a.String())
	}
	if err := g.ledger.Err(); err != nil {
		s.Ledger = err.Error()
	}
	return s
}

// hello says how to get in.
func (g *gate) hello() {
	now := g.now.Load()
	scheme := "https"
	if now.tls == nil {
		scheme = "http"
	}
	where := now.cfg.Listen[0]
	if g.tailnet != nil {
		g.helloTailnet(now, scheme)
		return
	}
	if host, port, err := net.SplitHostPort(where); err == nil && (host == "" || host == "0.0.0.0" || host == "::") {
		name, err := os.Hostname()
		if err != nil {
			name = "localhost"
		}
		where = net.JoinHostPort(name, port)
	}
	base := scheme + "://" + where + now.cfg.Prefix
	fmt.Fprintf(g.streams.out, " Gate on %s, in front of %s\n", base, now.cfg.Upstreams[0].URL)
	if now.trust != "" {
		fmt.Fprintf(g.streams.out, " Its certificate is its own; on each client, once:\n\n   gatehouse trust %s --fingerprint %s > gatehouse-ca.pem\n\n or, for programs that cannot hold a key or a certificate:\n\n   gatehouse connect --pin %s %s\n\n", base, now.trust, now.trust, base)
	}
}

// notify tells systemd how the service is (sd_notify(3)); elsewhere nobody.
func notify(state string) {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return
	}
	if path[0] == '@' {
		path = "\x00" + path[1:]
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return
	}
	defer conn.Close()
	_, _ = conn.Write([]byte(state)) // systemd will notice
}
