package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"

	"github.com/caddyserver/certmagic"
	"go.uber.org/zap"
)

// acme has certificates made and renewed by an ACME authority, for names and for
// bare addresses. Its http-01 answers are served on port 80 (or tls.http), and
// tls-alpn-01 on the gate's own listener.
func (g *gate) acme(ctx context.Context, cfg *config, c *tls.Config) error {
	storage := &certmagic.FileStorage{Path: filepath.Join(g.dir, "tls", "acme")}
	var magic *certmagic.Config
	cache := certmagic.NewCache(certmagic.CacheOptions{
		GetConfigForCert: func(certmagic.Certificate) (*certmagic.Config, error) { return magic, nil },
		Logger:           zap.NewNop(),
	})
	magic = certmagic.New(cache, certmagic.Config{Storage: storage, Logger: zap.NewNop(), OnEvent: func(_ context.Context, event string, data map[string]any) error {
		if event == "cert_failed" {
			g.log.Error("no certificate", "name", fmt.Sprint(data["identifier"]), "error", fmt.Sprint(data["error"]))
		}
		return nil
	}})
	issuer := certmagic.ACMEIssuer{CA: cfg.TLS.CA, Email: cfg.TLS.Email, Agreed: true, Logger: zap.NewNop()}
	if issuer.CA == "" {
		issuer.CA = certmagic.LetsEncryptProductionCA
	}
	for _, name := range cfg.TLS.Names {
		if _, err := netip.ParseAddr(name); err == nil {
			issuer.Profile = "shortlived" // the only one that has addresses
		}
	}
	acme := certmagic.NewACMEIssuer(magic, issuer)
	magic.Issuers = []certmagic.Issuer{acme}

	addr := cfg.TLS.HTTP
	if addr == "" {
		addr = ":80"
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return usage(fmt.Errorf("listen on %s for ACME: %w", addr, plainListen(err)), "choose another with tls.http, and forward port 80 there")
	}
	srv := &http.Server{
		Handler:           acme.HTTPChallengeHandler(http.HandlerFunc(toHTTPS)),
		ReadHeaderTimeout: headerTime, ReadTimeout: headerTime, WriteTimeout: headerTime, MaxHeaderBytes: maxHeader,
		ErrorLog: slog.NewLogLogger(g.log.Handler(), slog.LevelDebug),
	}
	go func() {
		if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			g.log.Error("ACME listener", "error", err.Error())
		}
	}()
	context.AfterFunc(ctx, func() { _ = srv.Close(); cache.Stop() })
	if err := magic.ManageAsync(ctx, cfg.TLS.Names); err != nil {
		return err
	}
	c.GetCertificate = magic.GetCertificate
	c.NextProtos = append(c.NextProtos, "acme-tls/1")
	return nil
}

// toHTTPS answers what is not ACME's: there is nothing here in the clear.
func toHTTPS(w http.ResponseWriter, _ *http.Request) {
	http.Error(w, "this gate speaks HTTPS", http.StatusForbidden)
}
