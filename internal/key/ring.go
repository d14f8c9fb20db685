package key

import (
	"crypto/ed25519"
	"sync/atomic"
)

// Ring is the keys that a running gate knows. It is read on every request and
// replaced as a whole when a key changes. The zero Ring has no keys.
type Ring struct {
	now atomic.Pointer[rings]
}

type rings struct {
	byID      map[string]*Key
	byEd25519 map[[ed25519.PublicKeySize]byte]*Key
}

// Replace puts keys in place of all there were.
func (r *Ring) Replace(keys []Key) {
	next := &rings{
		byID:      make(map[string]*Key, len(keys)),
		byEd25519: make(map[[ed25519.PublicKeySize]byte]*Key),
	}
	for i := range keys {
		k := &keys[i]
		next.byID[k.ID] = k
		if len(k.Ed25519) == ed25519.PublicKeySize {
			// Of two keys with one public key the good one counts.
			pub := [ed25519.PublicKeySize]byte(k.Ed25519)
			if old := next.byEd25519[pub]; old == nil || !old.Revoked.IsZero() {
				next.byEd25519[pub] = k
			}
		}
	}
	r.now.Store(next)
}

// Get is the key with an id, nil when there is none. It must not be changed.
func (r *Ring) Get(id string) *Key {
	if now := r.now.Load(); now != nil {
		return now.byID[id]
	}
	return nil
}

// Len is how many keys there are.
func (r *Ring) Len() int {
	if now := r.now.Load(); now != nil {
		return len(now.byID)
	}
	return 0
}

func (r *Ring) byPublicKey(pub ed25519.PublicKey) *Key {
	now := r.now.Load()
	if now == nil || len(pub) != ed25519.PublicKeySize {
		return nil
	}
	return now.byEd25519[[ed25519.PublicKeySize]byte(pub)]
}
