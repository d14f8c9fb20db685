package key_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/go-json-experiment/json"

	"gatehouse/internal/key"
)

// issuer is an OpenID Connect provider, as far as a gate asks one.
type issuer struct {
	*httptest.Server
	private *ecdsa.PrivateKey
	asked   atomic.Int64 // for keys
	away    atomic.Bool
}

func newIssuer(t *testing.T) *issuer {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	i := &issuer{private: private}
	mux := http.NewServeMux()
	mux.HandleFunc("/.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		_ = json.MarshalWrite(w, map[string]any{
			"issuer": i.URL, "jwks_uri": i.URL + "/keys", "authorization_endpoint": i.URL, "token_endpoint": i.URL,
			"id_token_signing_alg_values_supported": []string{"ES256"},
		})
	})
	mux.HandleFunc("/keys", func(w http.ResponseWriter, _ *http.Request) {
		i.asked.Add(1)
		_ = json.MarshalWrite(w, map[string]any{"keys": []any{map[string]any{
			"kty": "EC", "crv": "P-256", "kid": "one", "alg": "ES256", "use": "sig",
			"x": b64(private.X.FillBytes(make([]byte, 32))), "y": b64(private.Y.FillBytes(make([]byte, 32))),
		}}})
	})
	i.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if i.away.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		mux.ServeHTTP(w, r)
	}))
	t.Cleanup(i.Close)
	return i
}

// token signs claims over the usual ones.
func (i *issuer) token(t *testing.T, alg jose.SignatureAlgorithm, with any, kid string, claims map[string]any) string {
	t.Helper()
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: with}, (&jose.SignerOptions{}).WithHeader("kid", kid))
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]any{"iss": i.URL, "aud": "gate", "sub": "ada", "exp": time.Now().Add(time.Hour).Unix(), "groups": []string{"x", "team"}, "email": "ada@example.org"}
	for name, v := range claims {
		all[name] = v
	}
	raw, err := jwt.Signed(signer).Claims(all).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func TestOIDC(t *testing.T) {
	i := newIssuer(t)
	stranger, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	d := door()
	d.Guesses = nil
	d.Issuers = []*key.Issuer{{URL: i.URL, Audience: "gate", Claim: "groups", NameClaim: "email", Terms: map[string]key.Terms{"team": {Strict: true}}}}
	id, refusal := d.Identify(bearer(i.token(t, jose.ES256, i.private, "one", nil)), home, time.Now())
	if refusal != nil || id.Kind != key.ByToken || id.Name != "ada@example.org" || !id.Terms.Strict || id.ID != "oidc:"+i.URL+"#ada" {
		t.Fatalf("%+v %+v", id, refusal)
	}
	good := i.token(t, jose.ES256, i.private, "one", nil)
	for name, c := range map[string]struct{ raw, want string }{
		"another audience":  {i.token(t, jose.ES256, i.private, "one", map[string]any{"aud": "mail"}), key.BadToken},
		"another issuer":    {i.token(t, jose.ES256, i.private, "one", map[string]any{"iss": "https://evil.example"}), key.BadToken},
		"expired":           {i.token(t, jose.ES256, i.private, "one", map[string]any{"exp": time.Now().Add(-time.Hour).Unix()}), key.BadToken},
		"another's key":     {i.token(t, jose.ES256, stranger, "one", nil), key.BadToken},
		"unknown key id":    {i.token(t, jose.ES256, stranger, "two", nil), key.BadToken},
		"a shared secret":   {i.token(t, jose.HS256, []byte(strings.Repeat("k", 32)), "one", nil), key.BadToken},
		"no signature":      {"eyJhbGciOiJub25lIn0." + strings.Split(good, ".")[1] + ".", key.BadToken},
		"a changed payload": {strings.Replace(good, ".", ".e", 1), key.BadToken},
		"no group of ours":  {i.token(t, jose.ES256, i.private, "one", map[string]any{"groups": "x"}), key.NoPolicy},
		"no groups":         {i.token(t, jose.ES256, i.private, "one", map[string]any{"groups": 7}), key.NoPolicy},
	} {
		if id, refusal := d.Identify(bearer(c.raw), home, time.Now()); reason(refusal) != c.want || id.ID != "" {
			t.Errorf("%s: %+v, %q", name, id, reason(refusal))
		}
	}
	// Made-up key ids are not a way to make the gate ask without end.
	for range 50 {
		if _, refusal := d.Identify(bearer(i.token(t, jose.ES256, stranger, "made-up", nil)), home, time.Now()); refusal == nil {
			t.Fatal("let in")
		}
	}
	if n := i.asked.Load(); n > 2 {
		t.Errorf("asked for the keys %d times", n)
	}
}

func TestIssuerAway(t *testing.T) {
	i := newIssuer(t)
	i.away.Store(true)
	d := door()
	d.Issuers = []*key.Issuer{{URL: i.URL, Audience: "gate", Claim: "sub", Terms: map[string]key.Terms{"*": {}}}}
	raw := i.token(t, jose.ES256, i.private, "one", nil)
	start := time.Now()
	for range 20 {
		_, refusal := d.Identify(bearer(raw), home, start)
		if reason(refusal) != key.BadToken || refusal.RetryAfter <= 0 {
			t.Fatalf("%+v", refusal)
		}
	}
}

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }
