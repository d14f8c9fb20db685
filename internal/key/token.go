package key

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"hash/crc32"
	"math/big"
	"strings"
	"time"
)

// A token is gh_<id>_<secret>_<checksum>: a prefix that secret scanners can
// look for, the key's public id, 256 random bits, and a CRC-32 of all before
// it, so that a typo is told from a wrong key without asking anybody.
const (
	prefix      = "gh_"
	idLen       = 10
	secretLen   = 43 // base62 digits that 256 bits take
	checksumLen = 6  // base62 digits that 32 bits take
	tokenLen    = len(prefix) + idLen + 1 + secretLen + 1 + checksumLen
)

const digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

// ErrForm says that a text is no token of ours; ErrChecksum that it was one
// before a character of it was changed or lost.
var (
	ErrForm     = errors.New("not a Gatehouse key")
	ErrChecksum = errors.New("the key's checksum does not fit: a character of it was changed or lost")
)

// Mint makes a new key and its token, which is not kept anywhere: who loses it
// needs a new one. The key has no name and no terms yet.
func Mint(now time.Time) (token string, k Key) {
	id := base62(idLen)
	token, secret := newSecret(id)
	return token, Key{ID: id, Secrets: []Secret{secret}, Created: now.UTC()}
}

func newSecret(id string) (token string, s Secret) {
	var random [32]byte
	_, _ = rand.Read(random[:]) // never fails: crypto/rand ends the program instead
	n := new(big.Int).SetBytes(random[:])
	body := prefix + id + "_" + pad62(n, secretLen) + "_"
	token = body + checksum(body)
	return token, Secret{Hash: sha256.Sum256([]byte(token))}
}

// base62 is n random digits, each equally likely.
func base62(n int) string {
	b := make([]byte, 0, n)
	var random [32]byte
	for len(b) < n {
		_, _ = rand.Read(random[:])
		for _, r := range random {
			// The greatest multiple of 62 in a byte: what is above would favour some.
			if r < 248 && len(b) < n {
				b = append(b, digits[r%62])
			}
		}
	}
	return string(b)
}

func pad62(n *big.Int, width int) string {
	b := make([]byte, width)
	n = new(big.Int).Set(n)
	base, rest := big.NewInt(62), new(big.Int)
	for i := width - 1; i >= 0; i-- {
		n.DivMod(n, base, rest)
		b[i] = digits[rest.Int64()]
	}
	return string(b)
}

func checksum(body string) string {
	b := checksumOf(body)
	return string(b[:])
}

// checksumOf is checksum without garbage, since it is asked for at each request:
// what crc32 is given would be.
func checksumOf(body string) (b [checksumLen]byte) {
	n := ^uint32(0)
	for i := range len(body) {
		n = crc32.IEEETable[byte(n)^body[i]] ^ n>>8
	}
	n = ^n
	for i := len(b) - 1; i >= 0; i-- {
		b[i] = digits[n%62]
		n /= 62
	}
	return b
}

// Parse returns the id that a token names. It says nothing about whether the
// token is right: ErrForm and ErrChecksum only tell what cannot be.
func Parse(token string) (id string, err error) {
	rest, ok := strings.CutPrefix(token, prefix)
	if !ok {
		return "", ErrForm
	}
	// What starts like one is one that suffered on its way, unless it is far off.
	if len(token) > 2*tokenLen {
		return "", ErrForm
	}
	if len(token) != tokenLen || rest[idLen] != '_' || rest[idLen+1+secretLen] != '_' {
		return "", ErrChecksum
	}
	for i := range len(rest) {
		if i != idLen && i != idLen+1+secretLen && !isDigit(rest[i]) {
			return "", ErrChecksum
		}
	}
	if sum := checksumOf(token[:tokenLen-checksumLen]); string(sum[:]) != token[tokenLen-checksumLen:] {
		return "", ErrChecksum
	}
	return rest[:idLen], nil
}

func isDigit(b byte) bool {
	return b >= '0' && b <= '9' || b >= 'A' && b <= 'Z' || b >= 'a' && b <= 'z'
}

// State is whether a key is good.
type State int

// The states of a key.
const (
	Active State = iota
	Expired
	Revoked
)

func (s State) String() string { return [...]string{"active", "expired", "revoked"}[s] }

// State is whether the key is good at now.
func (k *Key) State(now time.Time) State {
	switch {
	case !k.Revoked.IsZero():
		return Revoked
	case !k.Expires.IsZero() && !now.Before(k.Expires):
		return Expired
	}
	return Active
}

// Rotate gives the key a new secret and returns its token. The ones before it
// stay good for overlap, and no longer than they were to begin with.
func (k *Key) Rotate(now time.Time, overlap time.Duration) (token string) {
	token, s := newSecret(k.ID)
	kept := []Secret{s}
	for _, old := range k.Secrets {
		until := now.Add(overlap).UTC()
		if old.Until.IsZero() || until.Before(old.Until) {
			old.Until = until
		}
		if overlap > 0 && now.Before(old.Until) {
			kept = append(kept, old)
		}
	}
	k.Secrets = kept
	return token
}

// holds reports whether hash is that of a secret of the key's, in the same time
// whichever it is.
func (k *Key) holds(hash [32]byte, now time.Time) bool {
	found := 0
	for i := range k.Secrets {
		s := &k.Secrets[i]
		same := subtle.ConstantTimeCompare(hash[:], s.Hash[:])
		if s.Until.IsZero() || now.Before(s.Until) {
			found |= same
		}
	}
	return found == 1
}

// Format keeps secrets' hashes out of logs, whatever verb is used.
func (k Key) Format(f fmt.State, _ rune) { fmt.Fprintf(f, "key %s (%s)", k.ID, k.Name) }

// Format keeps the hash out of logs.
func (s Secret) Format(f fmt.State, _ rune) { fmt.Fprint(f, "secret") }
