package key

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
)

// Issuer is an OpenID Connect provider whose tokens open the door. Its keys are
// fetched when the first token comes, and again when a token names one that is
// not known, at most once in ten seconds.
type Issuer struct {
	URL       string
	Audience  string           // that tokens have to be for
	Claim     string           // whose value picks the terms, a text or a list of texts
	NameClaim string           // with a name for people
	Terms     map[string]Terms // by value of Claim; "*" for every other
	Client    *http.Client     // nil is http.DefaultClient's transport

	mu       sync.Mutex
	verifier *oidc.IDTokenVerifier
	tried    time.Time
	failed   error
}

const (
	askEvery    = 10 * time.Second
	askTimeout  = 5 * time.Second
	maxDocument = 1 << 20 // bytes of a discovery document or a key set
)

// algorithms that a token may be signed with: public keys only, so that none
// is taken for a shared secret.
var algorithms = []string{
	oidc.RS256, oidc.RS384, oidc.RS512, oidc.PS256, oidc.PS384, oidc.PS512, oidc.ES256, oidc.ES384, oidc.ES512, oidc.EdDSA,
}

func (d *Door) byJWT(r *http.Request, raw string, from netip.Addr, now time.Time) (Identity, *Refusal) {
	if len(d.Issuers) == 0 {
		return Identity{}, &Refusal{Reason: Malformed, Message: "the credentials are none that this server knows; a key looks like gh_…"}
	}
	// Checking a token costs a signature, and perhaps a question to its issuer.
	if wait := d.Guesses.Locked(from, now); wait > 0 {
		return Identity{}, &Refusal{Reason: LockedOut, Message: "too many wrong keys; wait before the next", RetryAfter: wait}
	}
	var last error
	for _, issuer := range d.Issuers {
		id, refusal, err := issuer.identify(r.Context(), raw, now)
		if err == nil {
			if refusal == nil {
				d.Guesses.forgive(from)
			}
			return id, refusal
		}
		last = err
	}
	var away *issuerAway
	if errors.As(last, &away) {
		return Identity{}, &Refusal{Reason: BadToken, Message: "the token's issuer cannot be asked at the moment", RetryAfter: askEvery}
	}
	if wait := d.Guesses.Wrong(from, "", now); wait > 0 {
		return Identity{}, &Refusal{Reason: LockedOut, Message: "too many wrong keys; wait before the next", RetryAfter: wait}
	}
	message := "the token is not good here"
	if expired := new(oidc.TokenExpiredError); errors.As(last, &expired) {
		message = "the token expired on " + expired.Expiry.UTC().Format(time.RFC3339)
	}
	return Identity{}, &Refusal{Reason: BadToken, Message: message}
}

type issuerAway struct{ err error }

func (e *issuerAway) Error() string { return e.err.Error() }

func (i *Issuer) identify(ctx context.Context, raw string, now time.Time) (Identity, *Refusal, error) {
	verifier, err := i.get(now)
	if err != nil {
		return Identity{}, nil, &issuerAway{err}
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	token, err := verifier.Verify(ctx, raw)
	if err != nil {
		return Identity{}, nil, err
	}
	var claims map[string]any
	if err := token.Claims(&claims); err != nil {
		return Identity{}, nil, err
	}
	id := "oidc:" + i.URL + "#" + token.Subject
	terms, _, ok := pick(i.Terms, texts(claims[i.Claim]))
	if !ok {
		return Identity{}, &Refusal{Reason: NoPolicy, Message: "this token's holder is given nothing here", KeyID: id}, nil
	}
	name := token.Subject
	if names := texts(claims[i.NameClaim]); len(names) == 1 && names[0] != "" {
		name = names[0]
	}
	return Identity{Kind: ByToken, ID: id, Name: name, Terms: terms}, nil, nil
}

// texts is a claim as a list.
func texts(claim any) (list []string) {
	switch v := claim.(type) {
	case string:
		return []string{v}
	case []any:
		for _, one := range v {
			if s, ok := one.(string); ok {
				list = append(list, s)
			}
		}
	}
	return list
}

// get returns the issuer's verifier, and asks the issuer for what it takes if
// that was not done yet.
func (i *Issuer) get(now time.Time) (*oidc.IDTokenVerifier, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.verifier != nil {
		return i.verifier, nil
	}
	if now.Sub(i.tried).Abs() < askEvery {
		return nil, cmpErr(i.failed, errors.New("asked a moment ago"))
	}
	i.tried = now
	client := &http.Client{Timeout: askTimeout, Transport: &calm{next: i.transport()}}
	// The client lives as long as the issuer: key sets are fetched with it later.
	ctx := oidc.ClientContext(context.Background(), client)
	provider, err := oidc.NewProvider(ctx, strings.TrimSuffix(i.URL, "/"))
	if err != nil {
		provider, err = oidc.NewProvider(ctx, i.URL)
	}
	if err != nil {
		i.failed = fmt.Errorf("ask %s for its configuration: %w", i.URL, err)
		return nil, i.failed
	}
	i.verifier = provider.Verifier(&oidc.Config{ClientID: i.Audience, SupportedSigningAlgs: algorithms})
	return i.verifier, nil
}

func (i *Issuer) transport() http.RoundTripper {
	if i.Client != nil && i.Client.Transport != nil {
		return i.Client.Transport
	}
	return http.DefaultTransport
}

func cmpErr(a, b error) error {
	if a != nil {
		return a
	}
	return b
}

// calm asks for each document at most once in askEvery, so that tokens with
// made-up key ids do not become a flood to the issuer, and reads none without
// end.
type calm struct {
	next http.RoundTripper
	mu   sync.Mutex
	last map[string]time.Time
}

func (c *calm) RoundTrip(r *http.Request) (*http.Response, error) {
	c.mu.Lock()
	if c.last == nil {
		c.last = make(map[string]time.Time)
	}
	where := r.URL.String()
	ago := time.Since(c.last[where])
	if ago >= askEvery {
		c.last[where] = time.Now()
	}
	c.mu.Unlock()
	if ago < askEvery {
		return nil, errors.New("the issuer was asked a moment ago")
	}
	resp, err := c.next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	resp.Body = struct {
		io.Reader
		io.Closer
	}{io.LimitReader(resp.Body, maxDocument), resp.Body}
	return resp, nil
}
