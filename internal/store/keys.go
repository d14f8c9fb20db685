package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"

	"gatehouse/internal/key"
)

// All that is asked of the database about keys.
const (
	selectKeys  = `SELECT id, name, secrets, ed25519, terms, created, expires, revoked FROM keys`
	allKeys     = selectKeys + ` ORDER BY name`
	keyByID     = selectKeys + ` WHERE id = $1`
	keyByIDName = selectKeys + ` WHERE id = $1 OR name = $1 ORDER BY CASE WHEN id = $1 THEN 0 ELSE 1 END LIMIT 1`
	insertKey   = `INSERT INTO keys (id, name, secrets, ed25519, terms, created, expires, revoked) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`
	updateKey   = `UPDATE keys SET name = $2, secrets = $3, ed25519 = $4, terms = $5, created = $6, expires = $7, revoked = $8 WHERE id = $1`
	countChange = `UPDATE changes SET n = n + 1`
	lastChange  = `SELECT n FROM changes`
)

// Version grows by one with each change, whichever process makes it. To ask
// costs little: ask it before Keys, and again to learn whether to ask Keys again.
func (s *Store) Version() (n int64, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	if err := s.db.QueryRowContext(ctx, lastChange).Scan(&n); err != nil {
		return 0, s.failed(err)
	}
	return n, nil
}

// AddKey keeps a new key. Its times are kept to the second. ErrDuplicate says
// that another key has its name, its id or its public key.
func (s *Store) AddKey(k key.Key) error {
	return s.change(func(ctx context.Context, tx *sql.Tx) error {
		row, err := rowOf(&k)
		if err != nil {
			return theirs{err}
		}
		_, err = tx.ExecContext(ctx, insertKey, row...)
		return s.taken(err, &k)
	})
}

// taken is ErrDuplicate for an error that says so of k.
func (s *Store) taken(err error, k *key.Key) error {
	switch s.engine.taken(err) {
	case "id":
		return theirs{fmt.Errorf("the id %s is %w", k.ID, ErrDuplicate)}
	case "ed25519":
		return theirs{fmt.Errorf("the public key is %w", ErrDuplicate)}
	case "name":
		return theirs{fmt.Errorf("the name %q is %w", k.Name, ErrDuplicate)}
	}
	return err
}

// Keys are all keys, by name. A key that cannot be understood is left out, so it
// lets nobody in; the error, which then wraps ErrDamaged, names each of them,
// and all the others are returned with it.
func (s *Store) Keys() (keys []key.Key, err error) {
	var damaged []error
	err = s.read(func(ctx context.Context, tx *sql.Tx) error {
		rows, err := tx.QueryContext(ctx, allKeys)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			k, err := scanKey(rows)
			if errors.Is(err, ErrDamaged) {
				damaged = append(damaged, s.failed(err))
				continue
			}
			if err != nil {
				return err
			}
			keys = append(keys, k)
		}
		return rows.Err()
	})
	if err != nil {
		return nil, err
	}
	return keys, errors.Join(damaged...)
}

// FindKey is the key with an id or, if there is none, of a name.
func (s *Store) FindKey(idOrName string) (k key.Key, err error) {
	err = s.read(func(ctx context.Context, tx *sql.Tx) error {
		k, err = scanKey(tx.QueryRowContext(ctx, keyByIDName, idOrName))
		return err
	})
	return k, err
}

// UpdateKey changes a key, by its id, as change says; an error of change's is
// returned as it is and leaves the key as it was. Nobody else changes it
// meanwhile. The id stays.
func (s *Store) UpdateKey(id string, change func(*key.Key) error) error {
	return s.change(func(ctx context.Context, tx *sql.Tx) error {
		k, err := scanKey(tx.QueryRowContext(ctx, keyByID, id))
		if err != nil {
			return err
		}
		if err := change(&k); err != nil {
			return theirs{err}
		}
		k.ID = id
		row, err := rowOf(&k)
		if err != nil {
			return theirs{err}
		}
		_, err = tx.ExecContext(ctx, updateKey, row...)
		return s.taken(err, &k)
	})
}

func rowOf(k *key.Key) ([]any, error) {
	if k.ID == "" || strings.TrimSpace(k.Name) == "" {
		return nil, errors.New("a key needs an id and a name")
	}
	secrets, err := encodeSecrets(k.Secrets)
	if err != nil {
		return nil, fmt.Errorf("key %s: secrets: %w", k.Name, err)
	}
	terms, err := encodeTerms(&k.Terms)
	if err != nil {
		return nil, fmt.Errorf("key %s: terms: %w", k.Name, err)
	}
	var public any // none is NULL: two keys may both have none
	if len(k.Ed25519) > 0 {
		public = []byte(k.Ed25519)
	}
	return []any{k.ID, k.Name, secrets, public, terms, unix(k.Created), unix(k.Expires), unix(k.Revoked)}, nil
}

func scanKey(row interface{ Scan(...any) error }) (k key.Key, err error) {
	var secrets, terms string
	var created, expires, revoked int64
	var public []byte
	err = row.Scan(&k.ID, &k.Name, &secrets, &public, &terms, &created, &expires, &revoked)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return k, theirs{ErrNotFound}
	case err != nil:
		return k, err
	}
	k.Ed25519, k.Created, k.Expires, k.Revoked = public, at(created), at(expires), at(revoked)
	if k.Secrets, err = decodeSecrets(secrets); err != nil {
		return k, fmt.Errorf("key %s: secrets: %w: %w", k.ID, ErrDamaged, err)
	}
	if k.Terms, err = decodeTerms(terms); err != nil {
		return k, fmt.Errorf("key %s: terms: %w: %w", k.ID, ErrDamaged, err)
	}
	return k, nil
}

// unix is t in seconds since 1970, 0 for none.
func unix(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.Unix()
}

func at(seconds int64) time.Time {
	if seconds == 0 {
		return time.Time{}
	}
	return time.Unix(seconds, 0).UTC()
}
