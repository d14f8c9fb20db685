package connect

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Pin is the SHA-256 of a certificate's public key (RFC 7469, section 2.4).
type Pin [sha256.Size]byte

// ErrPin says that no certificate shown has the pinned key.
var ErrPin = errors.New("its certificate does not have the pinned key")

// ParsePin reads a pin as the gate prints it, SHA256:…, or as curl and RFC 7469
// have it, sha256/… and sha256//….
func ParsePin(s string) (p Pin, err error) {
	text := ""
	for _, prefix := range []string{"SHA256:", "sha256//", "sha256/"} {
		if rest, ok := strings.CutPrefix(s, prefix); ok {
			text = rest
			break
		}
	}
	sum, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(text, "="))
	if err != nil || len(sum) != len(p) {
		return p, fmt.Errorf("%q is no pin such as SHA256:… with 43 characters", s)
	}
	copy(p[:], sum)
	return p, nil
}

// Config verifies a server by the pin alone: names and public authorities do
// not count. The pinned key is the server's own, or that of the authority which
// signed for it.
func (p Pin) Config() *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS12,
		InsecureSkipVerify: true, // the pin decides, just below
		VerifyConnection:   func(s tls.ConnectionState) error { return p.verify(s.PeerCertificates) },
	}
}

func (p Pin) verify(chain []*x509.Certificate) error {
	i := slices.IndexFunc(chain, func(c *x509.Certificate) bool { return sha256.Sum256(c.RawSubjectPublicKeyInfo) == p })
	switch {
	case i < 0:
		return ErrPin
	case i == 0:
		return nil // whoever shook hands has its private key
	}
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(chain[i])
	for _, c := range chain[1:i] {
		between.AddCert(c)
	}
	if _, err := chain[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: between}); err != nil {
		return fmt.Errorf("%w: %w", ErrPin, err)
	}
	return nil
}
