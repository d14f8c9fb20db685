// Package key says who a caller is: it mints and checks keys, and reads the
// other ways to show an identity. It never keeps a secret, only its hash, and
// never decides what an identity may do.
package key

import (
	"crypto/ed25519"
	"time"
)

// Key is what is kept of one key: never the secret itself.
type Key struct {
	ID      string // of the token, public
	Name    string // for people, unique
	Secrets []Secret
	Ed25519 ed25519.PublicKey // of the stock ollama CLI; nil for none
	Terms   Terms
	Created time.Time
	Expires time.Time // zero: never
	Revoked time.Time // zero: not
}

// Secret is one secret of a key. Rotation leaves the old one valid for a while.
type Secret struct {
	Hash  [32]byte  // SHA-256 of the whole token
	Until time.Time // zero: as long as the key
}
