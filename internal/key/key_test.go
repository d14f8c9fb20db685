package key_test

import (
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"gatehouse/internal/key"
	"gatehouse/internal/ollama"
)

var (
	now   = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	home  = netip.MustParseAddr("192.0.2.7")
	other = netip.MustParseAddr("198.51.100.9")
)

func mint(t *testing.T, name string) (string, key.Key) {
	t.Helper()
	token, k := key.Mint(now)
	k.Name, k.Terms = name, key.Terms{Powers: []ollama.Power{ollama.Read}}
	return token, k
}

func door(keys ...key.Key) *key.Door {
	d := &key.Door{Ring: new(key.Ring), Guesses: key.NewGuesses(), Seen: new(key.Seen)}
	d.Ring.Replace(keys)
	return d
}

func bearer(token string) *http.Request {
	r := httptest.NewRequest("GET", "/api/tags", nil)
	r.Header.Set("Authorization", "Bearer "+token)
	return r
}

func reason(r *key.Refusal) string {
	if r == nil {
		return ""
	}
	return r.Reason
}

func TestToken(t *testing.T) {
	token, k := mint(t, "laptop")
	if id, err := key.Parse(token); err != nil || id != k.ID {
		t.Fatalf("%q, %v", id, err)
	}
	// Any one character changed, left out or doubled is a typo, and any two that
	// changed places.
	for i := 3; i < len(token); i++ {
		changed := []string{token[:i] + token[i+1:], token[:i] + token[i:i+1] + token[i:]}
		for _, c := range "0Az_-é " {
			changed = append(changed, token[:i]+string(c)+token[i+1:])
		}
		if i+1 < len(token) {
			changed = append(changed, token[:i]+token[i+1:i+2]+token[i:i+1]+token[i+2:])
		}
		for _, c := range changed {
			if c == token {
				continue
			}
			if _, err := key.Parse(c); !errors.Is(err, key.ErrChecksum) {
				t.Fatalf("%q: %v", c, err)
			}
		}
	}
	for _, c := range []string{"", "gh", "sk-1234", "ghp_abcdef", strings.Repeat("gh_", 1000)} {
		if _, err := key.Parse(c); !errors.Is(err, key.ErrForm) {
			t.Errorf("%.20q: %v", c, err)
		}
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x"} {
		for _, v := range []any{k, &k, k.Secrets[0], k.Secrets} {
			text := fmt.Sprintf(verb, v)
			if strings.Contains(text, fmt.Sprintf("%x", k.Secrets[0].Hash[:4])) || strings.Contains(text, fmt.Sprint(k.Secrets[0].Hash[0], " ", k.Secrets[0].Hash[1])) {
				t.Errorf("%s shows the hash: %s", verb, text)
			}
		}
	}
}

func TestMintsDiffer(t *testing.T) {
	seen := make(map[string]bool)
	for range 2000 {
		token, k := key.Mint(now)
		if seen[token] || seen[k.ID] {
			t.Fatal("the same again")
		}
		seen[token], seen[k.ID] = true, true
	}
}

func TestWhereKeysAre(t *testing.T) {
	token, k := mint(t, "laptop")
	otherToken, otherKey := mint(t, "other")
	d := door(k, otherKey)
	basic := func(password string) string {
		return "Basic " + base64.StdEncoding.EncodeToString([]byte("anybody:"+password))
	}
	for _, c := range []struct {
		header []string
		want   string
	}{
		{[]string{"Authorization", "Bearer " + token}, ""},
		{[]string{"Authorization", "bearer  " + token}, ""},
		{[]string{"Authorization", basic(token)}, ""},
		{[]string{"X-Api-Key", token}, ""},
		{[]string{"Proxy-Authorization", "Bearer " + token}, ""},
		{[]string{"Proxy-Authorization", basic(token)}, ""},
		{[]string{"Authorization", "Bearer " + token, "X-Api-Key", token}, ""},
		{[]string{"Authorization", "Bearer " + token, "X-Api-Key", otherToken}, key.Ambiguous},
		{[]string{"Authorization", "Bearer " + token, "Authorization", "Bearer " + otherToken}, key.Ambiguous},
		{nil, key.NoCredentials},
		{[]string{"Authorization", ""}, key.NoCredentials},
		{[]string{"Authorization", "Bearer sk-ollama"}, key.Malformed},
		{[]string{"Authorization", "Bearer"}, key.Malformed},
		{[]string{"Authorization", token}, key.Malformed},
		{[]string{"Authorization", basic("ollama")}, key.Malformed},
		{[]string{"Authorization", "Basic %%%"}, key.Malformed},
		{[]string{"Authorization", "Bearer " + strings.Repeat("x", 20<<10)}, key.Malformed},
		{[]string{"X-Api-Key", "sk-ant"}, key.Malformed},
		{[]string{"Authorization", "Bearer a.b.c"}, key.Malformed}, // no issuer is known
		{[]string{"Authorization", "Bearer " + token[:len(token)-1]}, key.Typo},
		{[]string{"Cookie", "key=" + token}, key.NoCredentials},
	} {
		r := httptest.NewRequest("GET", "/api/tags?key="+token, nil)
		for i := 0; i+1 < len(c.header); i += 2 {
			r.Header.Add(c.header[i], c.header[i+1])
		}
		id, refusal := d.Identify(r, home, now)
		if reason(refusal) != c.want {
			t.Errorf("%.60q: %q, want %q", c.header, reason(refusal), c.want)
		}
		if c.want == "" && (id.ID != k.ID || id.Name != "laptop" || id.Kind != key.ByKey || len(id.Terms.Powers) != 1) {
			t.Errorf("%.60q: %+v", c.header, id)
		}
		if c.want != "" && (id.ID != "" || id.Terms.Powers != nil) {
			t.Errorf("%.60q: refused and yet %+v", c.header, id)
		}
		key.Strip(r.Header)
		if text := fmt.Sprint(r.Header); strings.Contains(text, token) {
			t.Errorf("%s goes on to the upstream", text)
		}
	}
	if _, refusal := new(key.Door).Identify(bearer(token), home, now); reason(refusal) != key.UnknownKey {
		t.Error("the zero door lets somebody in")
	}
}

func TestStates(t *testing.T) {
	token, k := mint(t, "laptop")
	stranger, _ := mint(t, "nobody")
	k.Expires = now.Add(time.Hour)
	d := door(k)
	_, refusal := d.Identify(bearer(stranger), home, now)
	if reason(refusal) != key.UnknownKey {
		t.Error(reason(refusal))
	}
	// Another's secret under this key's id has another checksum, so it is made
	// here as a guesser would.
	k2 := k
	forged := k2.Rotate(now, 0)
	_, wrongSecret := d.Identify(bearer(forged), home, now)
	if reason(wrongSecret) != key.WrongKey || wrongSecret.Message != refusal.Message {
		t.Errorf("%+v and %+v tell ids apart", wrongSecret, refusal)
	}
	if _, refusal := d.Identify(bearer(token), home, now.Add(time.Hour)); reason(refusal) != key.ExpiredKey {
		t.Error(reason(refusal))
	}
	k.Revoked = now
	d.Ring.Replace([]key.Key{k})
	if _, refusal := d.Identify(bearer(token), home, now); reason(refusal) != key.RevokedKey {
		t.Error(reason(refusal))
	}
	d.Ring.Replace(nil)
	if _, refusal := d.Identify(bearer(token), home, now); reason(refusal) != key.UnknownKey {
		t.Error(reason(refusal))
	}
}

func TestRotate(t *testing.T) {
	first, k := mint(t, "laptop")
	second := k.Rotate(now, time.Hour)
	third := k.Rotate(now.Add(time.Minute), 2*time.Hour)
	d := door(k)
	for _, c := range []struct {
		token string
		after time.Duration
		want  string
	}{
		{first, 0, ""},
		{first, 59 * time.Minute, ""},
		{first, time.Hour, key.WrongKey}, // the second rotation does not make it last longer
		{second, time.Hour, ""},
		{second, 121 * time.Minute, key.WrongKey},
		{third, 1000 * time.Hour, ""},
	} {
		if _, refusal := d.Identify(bearer(c.token), home, now.Add(c.after)); reason(refusal) != c.want {
			t.Errorf("after %s: %q, want %q", c.after, reason(refusal), c.want)
		}
	}
	last := k.Rotate(now, 0)
	d.Ring.Replace([]key.Key{k})
	if _, refusal := d.Identify(bearer(third), home, now); reason(refusal) != key.WrongKey {
		t.Error("an overlap of nothing leaves the old secret")
	}
	if _, refusal := d.Identify(bearer(last), home, now); refusal != nil {
		t.Error(refusal)
	}
}

// sign makes a request as the stock CLI does (auth/auth.go of Ollama 0.17.4).
func sign(t *testing.T, seed byte, method, path string, ts time.Time) *http.Request {
	t.Helper()
	private := ed25519.NewKeyFromSeed([]byte(strings.Repeat(string(rune('a'+seed)), 32)))
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	stamp := strconv.FormatInt(ts.Unix(), 10)
	sig, err := signer.Sign(nil, []byte(method+","+path+"?ts="+stamp))
	if err != nil {
		t.Fatal(err)
	}
	line := strings.Fields(string(ssh.MarshalAuthorizedKey(signer.PublicKey())))
	r := httptest.NewRequest(method, path+"?ts="+stamp, nil)
	r.Header.Set("Authorization", line[1]+":"+base64.StdEncoding.EncodeToString(sig.Blob))
	return r
}

func TestSignature(t *testing.T) {
	private := ed25519.NewKeyFromSeed([]byte(strings.Repeat("a", 32)))
	k := key.Key{ID: "ssh", Name: "ci", Ed25519: private.Public().(ed25519.PublicKey)}
	d := door(k)
	id, refusal := d.Identify(sign(t, 0, "POST", "/api/chat", now), home, now)
	if refusal != nil || id.Kind != key.BySignature || id.ID != "ssh" {
		t.Fatalf("%+v %+v", id, refusal)
	}
	check := func(name string, r *http.Request, from netip.Addr, at time.Time, want string) {
		t.Helper()
		if _, refusal := d.Identify(r, from, at); reason(refusal) != want {
			t.Errorf("%s: %q, want %q", name, reason(refusal), want)
		}
	}
	r := sign(t, 0, "POST", "/api/chat", now)
	check("again", r, home, now, "")
	check("again from elsewhere", r, other, now, key.Replayed)
	check("ahead", sign(t, 0, "GET", "/", now.Add(59*time.Second)), home, now, "")
	check("too far ahead", sign(t, 0, "GET", "/", now.Add(61*time.Second)), home, now, key.BadClock)
	check("too old", sign(t, 0, "GET", "/", now.Add(-61*time.Second)), home, now, key.BadClock)
	check("another key", sign(t, 1, "GET", "/", now), home, now, key.UnknownKey)

	r = sign(t, 0, "GET", "/api/tags", now)
	r.Method = "DELETE"
	check("another method", r, home, now, key.BadSignature)
	r = sign(t, 0, "GET", "/api/tags", now)
	r.URL.Path = "/api/ps"
	check("another path", r, home, now, key.BadSignature)
	r = sign(t, 0, "GET", "/api/tags", now)
	r.URL.RawQuery += "&ts=1"
	check("two times", r, home, now, key.BadSignature)
	r = sign(t, 0, "GET", "/api/tags", now)
	r.URL.RawQuery = ""
	check("no time", r, home, now, key.BadSignature)
	for _, bad := range []string{":", "a:b", "AAAA:BBBB", strings.Repeat("A", 68) + ":" + strings.Repeat("A", 88)} {
		r := httptest.NewRequest("GET", "/", nil)
		r.Header.Set("Authorization", bad)
		check(bad, r, home, now, key.Malformed)
	}
	k.Revoked = now
	d.Ring.Replace([]key.Key{k})
	check("revoked", sign(t, 0, "GET", "/", now), home, now, key.RevokedKey)
}

func TestParseSSH(t *testing.T) {
	signer, err := ssh.NewSignerFromKey(ed25519.NewKeyFromSeed([]byte(strings.Repeat("a", 32))))
	if err != nil {
		t.Fatal(err)
	}
	line := string(ssh.MarshalAuthorizedKey(signer.PublicKey()))
	if pub, err := key.ParseSSH([]byte(strings.TrimSpace(line) + " me@laptop\n")); err != nil || len(pub) != 32 {
		t.Errorf("%v %v", pub, err)
	}
	for _, bad := range []string{"", "rubbish", "ssh-rsa AAAA", "-----BEGIN OPENSSH PRIVATE KEY-----\n", "ssh-ed25519 AAAA"} {
		if _, err := key.ParseSSH([]byte(bad)); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

func TestCertificates(t *testing.T) {
	d := door()
	d.Certificate = &key.Certificates{Terms: map[string]key.Terms{"box.example": {Strict: true}}}
	r := httptest.NewRequest("GET", "/", nil)
	cert := &x509.Certificate{Subject: pkix.Name{CommonName: "Box"}, DNSNames: []string{"box.example"}, RawSubjectPublicKeyInfo: []byte("spki")}
	r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{cert}}
	if _, refusal := d.Identify(r, home, now); reason(refusal) != key.NoCredentials {
		t.Error("a certificate that nobody verified opens")
	}
	r.TLS.VerifiedChains = [][]*x509.Certificate{{cert}}
	id, refusal := d.Identify(r, home, now)
	if refusal != nil || id.Name != "box.example" || !id.Terms.Strict || id.Kind != key.ByCertificate {
		t.Errorf("%+v %+v", id, refusal)
	}
	cert.DNSNames = nil
	if _, refusal := d.Identify(r, home, now); reason(refusal) != key.NoPolicy {
		t.Error(reason(refusal))
	}
	token, _ := mint(t, "nobody")
	r.Header.Set("Authorization", "Bearer "+token)
	cert.DNSNames = []string{"box.example"}
	if _, refusal := d.Identify(r, home, now); reason(refusal) != key.UnknownKey {
		t.Error("a certificate makes a wrong key good")
	}
}

func TestTrustedProxy(t *testing.T) {
	d := door()
	d.Proxy = &key.TrustedProxy{
		From: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/29")}, Header: "Remote-User",
		Terms: map[string]key.Terms{"ada": {Strict: true}},
	}
	for _, c := range []struct {
		from  netip.Addr
		users []string
		want  string
	}{
		{home, []string{"ada"}, ""},
		{other, []string{"ada"}, key.NoCredentials},
		{home, []string{"eve"}, key.NoPolicy},
		{home, []string{"ada", "eve"}, key.NoCredentials},
		{home, []string{"ada, eve"}, key.NoCredentials},
		{home, nil, key.NoCredentials},
		{netip.Addr{}, []string{"ada"}, key.NoCredentials},
	} {
		r := httptest.NewRequest("GET", "/", nil)
		for _, u := range c.users {
			r.Header.Add("Remote-User", u)
		}
		if id, refusal := d.Identify(r, c.from, now); reason(refusal) != c.want || c.want == "" && id.Name != "ada" {
			t.Errorf("%v from %s: %+v, %q", c.users, c.from, id, reason(refusal))
		}
	}
}

// TestGuessing has one address and a hundred thousand try keys: each is slowed
// down, and the holder of the right one gets in from anywhere.
func TestGuessing(t *testing.T) {
	token, k := mint(t, "laptop")
	d := door(k)
	forged := make([]string, 64)
	for i := range forged {
		guess := k
		forged[i] = guess.Rotate(now, 0)
	}
	locked, longest := 0, time.Duration(0)
	for i := range 100_000 {
		_, refusal := d.Identify(bearer(forged[i%64]), home, now.Add(time.Duration(i)*time.Millisecond))
		if refusal == nil {
			t.Fatal("a guess opened")
		}
		if refusal.Reason == key.LockedOut {
			locked++
			longest = max(longest, refusal.RetryAfter)
		}
	}
	if locked < 99_990 || longest != 5*time.Minute {
		t.Errorf("%d of 100,000 tries slowed down, by %s at most", locked, longest)
	}
	at := now.Add(100 * time.Second)
	for i := range 100_000 {
		from := netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
		if _, refusal := d.Identify(bearer(forged[i%64]), from, at); refusal == nil {
			t.Fatal("a guess opened")
		}
	}
	for _, from := range []netip.Addr{home, other} {
		if _, refusal := d.Identify(bearer(token), from, at); refusal != nil {
			t.Errorf("the right key from %s: %+v", from, refusal)
		}
	}
	// One network of IPv6 is one guesser, whatever address of it is used.
	for i := range 100 {
		from := netip.MustParseAddr(fmt.Sprintf("2001:db8::%x", i))
		_, refusal := d.Identify(bearer(forged[0]), from, at)
		if i > 10 && reason(refusal) != key.LockedOut {
			t.Fatalf("try %d: %s", i, reason(refusal))
		}
	}
}

// TestAllocations: letting a known key in costs next to nothing.
func TestAllocations(t *testing.T) {
	token, k := mint(t, "laptop")
	d := door(k)
	r := bearer(token)
	if n := testing.AllocsPerRun(1000, func() {
		if _, refusal := d.Identify(r, home, now); refusal != nil {
			t.Fatal(refusal)
		}
	}); n > 10 {
		t.Errorf("%v allocations", n)
	}
}

func FuzzCredentials(f *testing.F) {
	token, k := key.Mint(now)
	f.Add("Authorization", "Bearer "+token, "ts=1")
	f.Add("X-Api-Key", token[:20], "")
	f.Add("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte("a:"+token)), "")
	f.Add("Authorization", "AAAAC3NzaC1lZDI1NTE5AAAAIA==:AAAA", "ts=1&ts=2")
	f.Add("Authorization", "Bearer eyJhbGciOiJub25lIn0.e30.", "")
	d := door(k)
	f.Fuzz(func(t *testing.T, header, value, query string) {
		r := httptest.NewRequest("GET", "/", nil)
		r.URL.RawQuery = query
		r.Header.Set(header, value)
		id, refusal := d.Identify(r, home, now)
		if (refusal == nil) != (id.ID != "") {
			t.Fatalf("%+v %+v", id, refusal)
		}
		if refusal == nil && !strings.Contains(value, token) && !strings.HasPrefix(strings.ToLower(value), "basic") && !strings.HasPrefix(strings.ToLower(strings.TrimSpace(value)), "basic") {
			t.Fatalf("%q opened", value)
		}
	})
}

func BenchmarkIdentify(b *testing.B) {
	token, k := key.Mint(now)
	d := door(k)
	r := bearer(token)
	b.ReportAllocs()
	for b.Loop() {
		if _, refusal := d.Identify(r, home, now); refusal != nil {
			b.Fatal(refusal)
		}
	}
}
