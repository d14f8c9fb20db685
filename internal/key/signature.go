package key

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
)

// bySignature checks the signature of a stock ollama CLI with OLLAMA_AUTH=1.
// It signs "METHOD,/path?ts=<unix seconds>" with its ed25519 key, without the
// path prefix of OLLAMA_HOST, and sends the public key along (api/client.go and
// auth/auth.go of Ollama 0.17.4). The body is not signed: the connection has to
// protect that.
func (d *Door) bySignature(r *http.Request, header string, from netip.Addr, now time.Time) (Identity, *Refusal) {
	pub, sig, err := parseSignature(header)
	if err != nil {
		return Identity{}, &Refusal{Reason: Malformed, Message: "the signature is not one of the ollama CLI's: " + err.Error()}
	}
	k := d.ring().byPublicKey(pub)
	if k == nil {
		return Identity{}, d.wrong(UnknownKey, fingerprint(pub), from, now)
	}
	ts := r.URL.Query()["ts"]
	if len(ts) != 1 {
		return Identity{}, &Refusal{Reason: BadSignature, Message: "the signature needs one ts in the query", KeyID: k.ID}
	}
	if !ed25519.Verify(pub, challenge(r.Method, r.URL.Path, ts[0]), sig) {
		return Identity{}, d.wrong(BadSignature, k.ID, from, now)
	}
	seconds, err := strconv.ParseInt(ts[0], 10, 64)
	window := d.ClockWindow
	if window <= 0 {
		window = time.Minute
	}
	if off := now.Sub(time.Unix(seconds, 0)); err != nil || off.Abs() > window {
		return Identity{}, &Refusal{
			Reason: BadClock, KeyID: k.ID,
			Message: fmt.Sprintf("the signature is from another time: this server's clock says %s", now.UTC().Format(time.RFC3339)),
		}
	}
	if !d.Seen.first(sig, from, now, window) {
		return Identity{}, &Refusal{Reason: Replayed, Message: "this signature was used from another address", KeyID: k.ID}
	}
	return d.good(k, BySignature, from, now)
}

func challenge(method, path, ts string) []byte {
	return []byte(method + "," + path + "?ts=" + ts)
}

// parseSignature takes apart <base64 of an ssh public key>:<base64 signature>.
func parseSignature(header string) (ed25519.PublicKey, []byte, error) {
	key, signed, _ := strings.Cut(header, ":")
	wire, err := base64.StdEncoding.DecodeString(key)
	if err != nil {
		return nil, nil, errors.New("the public key is not base64")
	}
	pub, err := publicKey(wire)
	if err != nil {
		return nil, nil, err
	}
	sig, err := base64.StdEncoding.DecodeString(signed)
	if err != nil || len(sig) != ed25519.SignatureSize {
		return nil, nil, errors.New("the signature has not the form of one")
	}
	return pub, sig, nil
}

// publicKey reads an ed25519 key as ssh writes it on the wire (RFC 8709, section 4).
func publicKey(wire []byte) (ed25519.PublicKey, error) {
	parsed, err := ssh.ParsePublicKey(wire)
	if err != nil {
		return nil, errors.New("the public key is not ssh's")
	}
	crypto, ok := parsed.(ssh.CryptoPublicKey)
	if !ok {
		return nil, errors.New("the public key is not ed25519")
	}
	pub, ok := crypto.CryptoPublicKey().(ed25519.PublicKey)
	if !ok {
		return nil, errors.New("the public key is not ed25519")
	}
	return pub, nil
}

// ParseSSH reads a public key file: one line of "ssh-ed25519 AAAA… comment".
func ParseSSH(text []byte) (ed25519.PublicKey, error) {
	if bytes.Contains(text, []byte("PRIVATE KEY")) {
		return nil, errors.New("this is a private key; give the file that ends in .pub")
	}
	parsed, _, _, _, err := ssh.ParseAuthorizedKey(text)
	if err != nil {
		return nil, errors.New("not a public key such as \"ssh-ed25519 AAAA…\"")
	}
	return publicKey(parsed.Marshal())
}

// fingerprint names a public key as ssh-keygen -l does.
func fingerprint(pub ed25519.PublicKey) string {
	key, err := ssh.NewPublicKey(pub)
	if err != nil {
		return ""
	}
	return ssh.FingerprintSHA256(key)
}

// Seen remembers signatures while they are good, and where they came from: one
// that was overheard does not open from elsewhere. The same caller may send one
// again, for the CLI signs by the second and two equal requests within one are
// signed alike. It holds 65,536 at most, the latest.
type Seen struct {
	mu       sync.Mutex
	now, old map[[16]byte]netip.Addr
	turned   time.Time
}

// maxSeen is how many signatures each of the two generations holds.
const maxSeen = 32 << 10

// first reports whether sig may be used from an address.
func (s *Seen) first(sig []byte, from netip.Addr, now time.Time, window time.Duration) bool {
	if s == nil {
		return true
	}
	sum := sha256.Sum256(sig)
	id := [16]byte(sum[:])
	s.mu.Lock()
	defer s.mu.Unlock()
	// A signature is good for twice the window: from a clock ahead to one behind.
	if s.now == nil || len(s.now) >= maxSeen || now.Sub(s.turned).Abs() > 2*window {
		s.old, s.now, s.turned = s.now, make(map[[16]byte]netip.Addr), now
	}
	for _, generation := range []map[[16]byte]netip.Addr{s.now, s.old} {
		if at, ok := generation[id]; ok {
			return at == from
		}
	}
	s.now[id] = from
	return true
}
