package key

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// Certificates gives identities to client certificates, whose chains TLS has
// verified already.
type Certificates struct {
	// Terms by the certificate's common name, or one of its DNS names or mail
	// addresses; "*" is for every other certificate of the authority.
	Terms map[string]Terms
}

func (c *Certificates) identify(cert *x509.Certificate) (Identity, *Refusal) {
	sum := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	id := "cert:" + hex.EncodeToString(sum[:8])
	names := slices.Concat([]string{cert.Subject.CommonName}, cert.DNSNames, cert.EmailAddresses)
	terms, name, ok := pick(c.Terms, names)
	if !ok {
		return Identity{}, &Refusal{Reason: NoPolicy, Message: "this certificate is given nothing here", KeyID: id}
	}
	return Identity{Kind: ByCertificate, ID: id, Name: name, Terms: terms}, nil
}

// pick returns the terms of the first of names that has any, else those of "*".
func pick(terms map[string]Terms, names []string) (Terms, string, bool) {
	for _, n := range names {
		if t, ok := terms[n]; ok && n != "" && n != "*" {
			return t, n, true
		}
	}
	t, ok := terms["*"]
	name := ""
	if len(names) > 0 {
		name = names[0]
	}
	return t, name, ok
}

// TrustedProxy takes the caller's name from a header that a proxy of the
// operator's sets, and from nobody else. The nil TrustedProxy trusts nobody.
type TrustedProxy struct {
	From   []netip.Prefix
	Header string // such as Remote-User or X-Forwarded-User
	Terms  map[string]Terms
}

func (p *TrustedProxy) trusts(from netip.Addr) bool {
	return p != nil && p.Header != "" && from.IsValid() &&
		slices.ContainsFunc(p.From, func(n netip.Prefix) bool { return n.Contains(from) })
}

func (p *TrustedProxy) identify(r *http.Request) (Identity, *Refusal) {
	// One value: a second is one that the caller slipped in and the proxy left.
	values := r.Header.Values(p.Header)
	if len(values) != 1 || values[0] == "" || len(values[0]) > 256 || strings.ContainsRune(values[0], ',') {
		return Identity{}, &Refusal{Reason: NoCredentials, Message: "the proxy in front named no user"}
	}
	user := values[0]
	terms, name, ok := pick(p.Terms, []string{user})
	if !ok {
		return Identity{}, &Refusal{Reason: NoPolicy, Message: "this user is given nothing here", KeyID: "user:" + user}
	}
	return Identity{Kind: ByHeader, ID: "user:" + user, Name: name, Terms: terms}, nil
}
