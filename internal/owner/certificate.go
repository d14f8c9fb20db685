package owner

import (
	"net/netip"
	"strings"
	"time"

	"golang.org/x/net/publicsuffix"

	"gatehouse/internal/evidence"
)

// certificate adds what the certificate of the host tells. One that a browser
// would accept was vouched for by an authority; any other says what its maker
// liked it to say.
func certificate(claims []Claim, h *evidence.Host) []Claim {
	t := h.TLS
	if t == nil {
		return claims
	}
	source, trust := "certificate seen "+h.ObservedAt.UTC().Format(time.DateOnly), vouched
	if t.Invalid != "" {
		source, trust = source+", not valid", unvouched
	}
	add := func(what, value string, trust float64) {
		if value != "" {
			claims = append(claims, Claim{what, value, source, trust})
		}
	}
	// Default certificates carry the name of the program that made them.
	if org := clip(attribute(t.Subject, "O"), maxName); !nameless(org) {
		add(Name, org, trust)
	}
	domains := make(map[string]bool)
	hosts := 0
	for _, n := range t.Names {
		name := hostname(n)
		if _, err := netip.ParseAddr(name); name == "" || err == nil || nameless(name) {
			continue
		}
		if hosts++; hosts > maxHosts {
			break
		}
		add(Hostname, name, trust)
		domain, err := publicsuffix.EffectiveTLDPlusOne(strings.TrimPrefix(name, "*."))
		if err == nil && !domains[domain] {
			domains[domain] = true
			// An organisation's own name, where it is there, says more.
			add(Name, domain, trust*0.9)
		}
	}
	add(Issuer, clip(t.Issuer, maxName), trust)
	return claims
}

// nameless reports whether a name is one that says nothing of an owner.
func nameless(name string) bool {
	low := strings.ToLower(name)
	for _, suffix := range []string{".local", ".localhost", ".localdomain", ".internal", ".lan", ".home.arpa", ".invalid", ".example", ".test"} {
		if strings.HasSuffix(low, suffix) {
			return true
		}
	}
	for _, word := range []string{"default", "snakeoil", "fake", "acme co", "internet widgits", "self-signed", "self signed", "my company", "traefik", "kubernetes", "plesk", "localhost"} {
		if strings.Contains(low, word) {
			return true
		}
	}
	return low == ""
}

// attribute is the first value of a distinguished name's attribute, as RFC 2253
// writes it: O=Acme\, Inc.,C=DE.
func attribute(name, key string) string {
	var word strings.Builder
	key += "="
	wanted := func() (string, bool) { return strings.CutPrefix(word.String(), key) }
	for i := 0; i < len(name); i++ {
		switch c := name[i]; {
		case c == '\\' && i+1 < len(name):
			i++
			word.WriteByte(name[i])
		case c == ',' || c == '+':
			if v, ok := wanted(); ok {
				return v
			}
			word.Reset()
		default:
			word.WriteByte(c)
		}
	}
	v, _ := wanted()
	return v
}

// securityText adds the contact of a security.txt (RFC 9116), when whoever made
// the evidence asked for it. A probe of ours does not: it is not among the reads
// that it promises to keep to.
func securityText(claims []Claim, h *evidence.Host) []Claim {
	for i := range h.Exchanges {
		x := &h.Exchanges[i]
		if x.Status != 200 || !strings.HasSuffix(x.Path, "/.well-known/security.txt") ||
			!strings.HasPrefix(strings.ToLower(x.Get("Content-Type")), "text/plain") {
			continue
		}
		contact, expires := parseSecurityText(string(x.Body[:min(len(x.Body), 32<<10)]))
		if contact == "" || !expires.After(h.ObservedAt) {
			continue // RFC 9116, section 2.5.5: stale data is not to be used
		}
		return append(claims, Claim{Contact, contact, "security.txt seen " + h.ObservedAt.UTC().Format(time.DateOnly), published})
	}
	return claims
}

// parseSecurityText returns the first contact, which its owner prefers.
func parseSecurityText(text string) (contact string, expires time.Time) {
	for line := range strings.Lines(text) {
		field, value, ok := strings.Cut(line, ":")
		value = strings.TrimSpace(value)
		switch {
		case !ok:
		case strings.EqualFold(field, "contact") && contact == "":
			contact = clip(strings.TrimPrefix(value, "mailto:"), maxContact)
		case strings.EqualFold(field, "expires"):
			expires, _ = time.Parse(time.RFC3339, strings.ToUpper(value))
		}
	}
	return contact, expires
}
