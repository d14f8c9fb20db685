package probe

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"os"

	"gatehouse/internal/evidence"
)

// errNotTLS says that the port answered the handshake with something else.
var errNotTLS = errors.New("not TLS")

// refusedTLS begins the error of a place that speaks TLS and would not with us.
const refusedTLS = "tls refused: "

// maxNames is how many of a certificate's names are kept.
const maxNames = 100

// saysTLS reports whether a 400 page is how a server says that its port speaks
// TLS: the words of net/http, nginx and Apache.
func saysTLS(body []byte) bool {
	for _, words := range []string{
		"HTTP request to an HTTPS server",
		"plain HTTP request was sent to HTTPS port",
		"speaking plain HTTP to an SSL-enabled server port",
	} {
		if bytes.Contains(body, []byte(words)) {
			return true
		}
	}
	return false
}

// handshake puts TLS over the open connection and keeps what it shows.
// An invalid certificate is evidence, not an obstacle: nothing secret is sent.
func (c *conversation) handshake(ctx context.Context) error {
	name := cmp.Or(c.place.Name, c.place.Addr.String())
	asked := false
	conn := tls.Client(c.raw, &tls.Config{
		ServerName:         name, // crypto/tls sends no SNI for an address
		InsecureSkipVerify: true, // recorded by describeTLS instead
		MinVersion:         tls.VersionTLS10,
		NextProtos:         []string{"http/1.1"},
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			asked = true
			return new(tls.Certificate), nil // we have none
		},
	})
	if err := conn.HandshakeContext(ctx); err != nil {
		if _, ok := errors.AsType[tls.RecordHeaderError](err); ok {
			return errNotTLS
		}
		if asked && !errors.Is(err, os.ErrDeadlineExceeded) {
			// Before TLS 1.3 the alert says no more than that the handshake failed,
			// and some servers just hang up.
			return fmt.Errorf("%scertificate required (%v)", refusedTLS, err)
		}
		if alert, ok := errors.AsType[tls.AlertError](err); ok {
			return fmt.Errorf("%s%w", refusedTLS, alert)
		}
		return fmt.Errorf("tls: %w", err)
	}
	c.host.TLS = describeTLS(conn.ConnectionState(), name)
	c.conn = conn
	return nil
}

func describeTLS(state tls.ConnectionState, name string) *evidence.TLS {
	t := &evidence.TLS{Version: tls.VersionName(state.Version)}
	if len(state.PeerCertificates) == 0 {
		return t
	}
	leaf := state.PeerCertificates[0]
	sum := sha256.Sum256(leaf.Raw)
	t.SHA256 = hex.EncodeToString(sum[:])
	t.Subject, t.Issuer = leaf.Subject.String(), leaf.Issuer.String()
	t.NotBefore, t.NotAfter = leaf.NotBefore.UTC(), leaf.NotAfter.UTC()
	t.Names = append(t.Names, leaf.DNSNames...)
	for _, ip := range leaf.IPAddresses {
		t.Names = append(t.Names, ip.String())
	}
	if len(t.Names) > maxNames {
		t.Names = t.Names[:maxNames]
	}
	chain := x509.NewCertPool()
	for _, cert := range state.PeerCertificates[1:] {
		chain.AddCert(cert)
	}
	if _, err := leaf.Verify(x509.VerifyOptions{DNSName: name, Intermediates: chain}); err != nil {
		t.Invalid = err.Error()
	}
	return t
}
