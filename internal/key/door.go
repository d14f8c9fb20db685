package key

import (
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"net/netip"
	"strings"
	"time"
)

// Door finds out who a caller is. Its fields are set once, before the first
// Identify; the zero Door knows nobody.
type Door struct {
	Ring    *Ring
	Guesses *Guesses // slows down who guesses; nil slows nobody down
	// ClockWindow is how far the clock in an ollama CLI's signature may be off,
	// either way; default 1 min.
	ClockWindow time.Duration
	Seen        *Seen // signatures of late; nil lets each be used again in its window
	Issuers     []*Issuer
	// Certificate gives a verified client certificate its identity.
	Certificate *Certificates
	// Tailnet is for a door that is on a tailnet and nowhere else. It comes before
	// Proxy: on a tailnet nobody is believed for an address.
	Tailnet *Tailnet
	Proxy   *TrustedProxy
}

// Refusal is why a caller stays outside.
type Refusal struct {
	Reason     string        // one of the constants below, for the ledger and metrics
	Message    string        // for the caller; it gives a guesser nothing
	RetryAfter time.Duration // 0 where waiting does not help
	KeyID      string        // the id that was named, known or not; may be ""
}

// The reasons.
const (
	NoCredentials = "no-credentials"
	Ambiguous     = "ambiguous-credentials"
	Malformed     = "malformed-key"
	Typo          = "mistyped-key"
	UnknownKey    = "unknown-key"
	WrongKey      = "wrong-key"
	RevokedKey    = "revoked-key"
	ExpiredKey    = "expired-key"
	BadSignature  = "bad-signature"
	BadClock      = "clock-off"
	Replayed      = "replayed-signature"
	BadToken      = "bad-token"
	NoPolicy      = "no-policy"
	UnknownPeer   = "unknown-peer"
	PeerUnsure    = "tailnet-unsure"
	LockedOut     = "too-many-tries"
)

// Headers that carry credentials. None of them reaches the upstream.
var credentialHeaders = []string{"Authorization", "Proxy-Authorization", "X-Api-Key", "Cookie"}

// Strip removes what says who the caller is.
func Strip(h http.Header) {
	for _, name := range credentialHeaders {
		h.Del(name)
	}
}

// maxCredential bounds what is looked at, in bytes: more than any JWT in use.
const maxCredential = 16 << 10

// Identify says who sent r, from the address that the connection has. A
// credential that is there has to be right: a wrong key is not made good by a
// certificate beside it.
func (d *Door) Identify(r *http.Request, from netip.Addr, now time.Time) (Identity, *Refusal) {
	c, refusal := credentialOf(r)
	switch {
	case refusal != nil:
		return Identity{}, refusal
	case c.token != "":
		return d.byToken(c.token, from, now)
	case c.signature != "":
		return d.bySignature(r, c.signature, from, now)
	case c.jwt != "":
		return d.byJWT(r, c.jwt, from, now)
	case d.Certificate != nil && r.TLS != nil && len(r.TLS.VerifiedChains) > 0:
		return d.Certificate.identify(r.TLS.VerifiedChains[0][0])
	case d.Tailnet != nil:
		return d.Tailnet.identify(r.Context(), from)
	case d.Proxy.trusts(from):
		return d.Proxy.identify(r)
	}
	return Identity{}, &Refusal{Reason: NoCredentials, Message: "this server asks for a key: Authorization: Bearer gh_…"}
}

// credential is what a request shows; one field is set.
type credential struct {
	token     string // of ours
	signature string // of the ollama CLI
	jwt       string
}

// credentialOf finds the one credential in r. Clients put a key where their
// dialect has it, and some put the same one in two places.
func credentialOf(r *http.Request) (credential, *Refusal) {
	var found credential
	different := false
	for _, name := range []string{"Authorization", "Proxy-Authorization", "X-Api-Key"} {
		for _, value := range r.Header[name] {
			if value == "" {
				continue
			}
			if len(value) > maxCredential {
				return credential{}, malformed()
			}
			c, ok := parseCredential(name, value)
			if !ok {
				return credential{}, malformed()
			}
			if found != (credential{}) && found != c {
				different = true
			}
			found = c
		}
	}
	if different {
		return credential{}, &Refusal{Reason: Ambiguous, Message: "the request carries different credentials; send one"}
	}
	return found, nil
}

func malformed() *Refusal {
	return &Refusal{Reason: Malformed, Message: "the credentials are none that this server knows; a key looks like gh_…"}
}

func parseCredential(header, value string) (c credential, ok bool) {
	value = strings.TrimSpace(value)
	if header == "X-Api-Key" {
		return credential{token: value}, strings.HasPrefix(value, prefix)
	}
	scheme, rest, _ := strings.Cut(value, " ")
	rest = strings.TrimSpace(rest)
	switch {
	case strings.EqualFold(scheme, "Bearer") && strings.HasPrefix(rest, prefix):
		return credential{token: rest}, true
	case strings.EqualFold(scheme, "Bearer") && strings.Count(rest, ".") == 2:
		return credential{jwt: rest}, true
	case strings.EqualFold(scheme, "Basic"):
		// Any user name will do; the key is the password.
		plain, err := base64.StdEncoding.DecodeString(rest)
		if err != nil {
			return c, false
		}
		_, password, ok := strings.Cut(string(plain), ":")
		return credential{token: password}, ok && strings.HasPrefix(password, prefix)
	case header == "Authorization" && rest == "" && strings.Contains(value, ":"):
		return credential{signature: value}, true
	}
	return c, false
}

// unknown is the answer to a key that there is not and to a wrong secret alike.
func unknown(reason, id string) *Refusal {
	return &Refusal{Reason: reason, Message: "this key is not known here", KeyID: id}
}

// byToken checks a key of ours. That costs one SHA-256, so that it is done
// however often an address guessed wrong before: the right key always opens,
// and no number of wrong ones comes near 256 bits.
func (d *Door) byToken(token string, from netip.Addr, now time.Time) (Identity, *Refusal) {
	id, err := Parse(token)
	if err != nil {
		// The checksum is public, so that saying this helps nobody guess.
		return Identity{}, &Refusal{Reason: Typo, Message: "this is no whole key: a character was changed or lost on the way"}
	}
	var whole [tokenLen]byte // as Parse found it to be
	copy(whole[:], token)
	hash := sha256.Sum256(whole[:])
	k := d.ring().Get(id)
	if k == nil {
		// As long as for a key that is there.
		(&Key{Secrets: []Secret{{}}}).holds(hash, now)
		return Identity{}, d.wrong(UnknownKey, id, from, now)
	}
	if !k.holds(hash, now) {
		return Identity{}, d.wrong(WrongKey, id, from, now)
	}
	return d.good(k, ByKey, from, now)
}

// good lets the holder of k in, if k is.
func (d *Door) good(k *Key, kind Kind, from netip.Addr, now time.Time) (Identity, *Refusal) {
	switch k.State(now) {
	case Revoked:
		return Identity{}, &Refusal{Reason: RevokedKey, Message: "this key was revoked", KeyID: k.ID}
	case Expired:
		return Identity{}, &Refusal{Reason: ExpiredKey, Message: "this key expired on " + k.Expires.UTC().Format(time.DateOnly), KeyID: k.ID}
	}
	d.Guesses.forgive(from)
	return Identity{Kind: kind, ID: k.ID, Name: k.Name, Terms: k.Terms}, nil
}

// wrong counts a wrong try and refuses it: with 429 for who tried too often.
func (d *Door) wrong(reason, id string, from netip.Addr, now time.Time) *Refusal {
	if wait := d.Guesses.Wrong(from, id, now); wait > 0 {
		return &Refusal{Reason: LockedOut, Message: "too many wrong keys; wait before the next", RetryAfter: wait, KeyID: id}
	}
	return unknown(reason, id)
}

func (d *Door) ring() *Ring {
	if d.Ring == nil {
		return new(Ring)
	}
	return d.Ring
}
