// Package store keeps what outlasts the process: for now the keys, in SQLite.
// It never sees a secret, only hashes.
package store

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/database"
	"modernc.org/sqlite"
	sqlitelib "modernc.org/sqlite/lib"

	"gatehouse/internal/key"
)

//go:embed migrations
var migrations embed.FS

// ErrNotFound says that there is no such key; ErrDuplicate that there is one of
// that name already.
var (
	ErrNotFound  = errors.New("no such key")
	ErrDuplicate = errors.New("there is a key of that name")
)

// Store is an open store. It is safe for any number of callers, and for several
// processes: a gate and those who change its keys.
type Store struct {
	db   *sql.DB
	path string
}

// timeout bounds one question to the store, waiting for other writers included.
const timeout = 10 * time.Second

// Open opens the SQLite file at path, makes it if it is not there, and brings
// its tables up to date. Nobody but its owner may read it.
func Open(path string) (*Store, error) {
	s := &Store{path: path}
	if err := s.open(); err != nil {
		return nil, fmt.Errorf("store %s: %w", path, err)
	}
	return s, nil
}

func (s *Store) open() error {
	// Made here, for SQLite would make it readable for all.
	f, err := os.OpenFile(s.path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return errors.Unwrap(err)
	}
	if err := f.Close(); err != nil {
		return err
	}
	q := url.Values{"_pragma": {"busy_timeout(5000)", "journal_mode(wal)", "synchronous(full)", "foreign_keys(on)"}, "_txlock": {"immediate"}}
	if s.db, err = sql.Open("sqlite", "file:"+(&url.URL{Path: s.path}).EscapedPath()+"?"+q.Encode()); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	if err := s.migrate(ctx); err != nil {
		return errors.Join(plain(err), s.db.Close())
	}
	return nil
}

func (s *Store) migrate(ctx context.Context) error {
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return err
	}
	provider, err := goose.NewProvider(database.DialectSQLite3, s.db, files)
	if err != nil {
		return err
	}
	latest, newest := int64(0), provider.ListSources()
	for _, m := range newest {
		latest = max(latest, m.Version)
	}
	at, err := provider.GetDBVersion(ctx)
	switch {
	case err != nil:
		return err
	case at > latest:
		return fmt.Errorf("made by a later release (version %d, this one knows %d)", at, latest)
	case at == latest:
		return nil
	}
	// Two processes may come at the same time: the second finds the work done.
	if _, err := provider.Up(ctx); err != nil {
		if at, again := provider.GetDBVersion(ctx); again != nil || at < latest {
			return err
		}
	}
	return nil
}

// Close closes the store. It may be called again.
func (s *Store) Close() error { return s.db.Close() }

// plain is err in one line without the driver's numbers.
func plain(err error) error {
	if e := new(sqlite.Error); errors.As(err, &e) {
		switch e.Code() & 0xff {
		case sqlitelib.SQLITE_FULL:
			return errors.New("the disk is full")
		case sqlitelib.SQLITE_NOTADB, sqlitelib.SQLITE_CORRUPT:
			return errors.New("the file is damaged, or not a database")
		case sqlitelib.SQLITE_READONLY:
			return errors.New("the file or its folder cannot be written")
		case sqlitelib.SQLITE_BUSY:
			return errors.New("another process has held it too long")
		}
	}
	return err
}

// do runs what in one transaction; a change is counted.
func (s *Store) do(change bool, what func(context.Context, *sql.Tx) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	err := func() error {
		tx, err := s.db.BeginTx(ctx, &sql.TxOptions{ReadOnly: !change})
		if err != nil {
			return err
		}
		defer tx.Rollback() // does nothing after Commit
		if err := what(ctx, tx); err != nil {
			return err
		}
		if change {
			if _, err := tx.ExecContext(ctx, "UPDATE changes SET n = n + 1"); err != nil {
				return err
			}
		}
		return tx.Commit()
	}()
	if err == nil || errors.Is(err, ErrNotFound) || errors.Is(err, ErrDuplicate) {
		return err
	}
	if p := plain(err); p != err {
		return fmt.Errorf("store %s: %w", s.path, p)
	}
	return err
}

// Version grows by one with each change. To ask costs little.
func (s *Store) Version() (n int64, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	if err := s.db.QueryRowContext(ctx, "SELECT n FROM changes").Scan(&n); err != nil {
		return 0, fmt.Errorf("store %s: %w", s.path, plain(err))
	}
	return n, nil
}

// AddKey keeps a new key. ErrDuplicate says that its name is taken.
func (s *Store) AddKey(k key.Key) error {
	return s.do(true, func(ctx context.Context, tx *sql.Tx) error {
		row, err := rowOf(&k)
		if err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, `INSERT INTO keys (id, name, secrets, ed25519, terms, created, expires, revoked) VALUES (?, ?, ?, ?, ?, ?, ?, ?)`, row...)
		if e := new(sqlite.Error); errors.As(err, &e) && e.Code()&0xff == sqlitelib.SQLITE_CONSTRAINT {
			return ErrDuplicate
		}
		return err
	})
}

const columns = "SELECT id, name, secrets, ed25519, terms, created, expires, revoked FROM keys"

// Keys are all keys, by name.
func (s *Store) Keys() (keys []key.Key, err error) {
	err = s.do(false, func(ctx context.Context, tx *sql.Tx) error {
		rows, err := tx.QueryContext(ctx, columns+" ORDER BY name")
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			k, err := scanKey(rows)
			if err != nil {
				return err
			}
			keys = append(keys, k)
		}
		return rows.Err()
	})
	return keys, err
}

// FindKey is the key with an id or, if there is none, of a name.
func (s *Store) FindKey(idOrName string) (k key.Key, err error) {
	err = s.do(false, func(ctx context.Context, tx *sql.Tx) error {
		k, err = scanKey(tx.QueryRowContext(ctx, columns+" WHERE id = ?1 OR name = ?1 ORDER BY id = ?1 DESC LIMIT 1", idOrName))
		return err
	})
	return k, err
}

// UpdateKey changes a key, by its id, as change says; an error of change's
// leaves it as it was. Nobody else changes it meanwhile.
func (s *Store) UpdateKey(id string, change func(*key.Key) error) error {
	return s.do(true, func(ctx context.Context, tx *sql.Tx) error {
		k, err := scanKey(tx.QueryRowContext(ctx, columns+" WHERE id = ?", id))
		if err != nil {
			return err
		}
		if err := change(&k); err != nil {
			return err
		}
		row, err := rowOf(&k)
		if err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, `UPDATE keys SET name = ?2, secrets = ?3, ed25519 = ?4, terms = ?5, created = ?6, expires = ?7, revoked = ?8 WHERE id = ?1`, row...)
		return err
	})
}

func rowOf(k *key.Key) ([]any, error) {
	if k.ID == "" || strings.TrimSpace(k.Name) == "" {
		return nil, errors.New("a key needs an id and a name")
	}
	secrets, err := encodeSecrets(k.Secrets)
	if err != nil {
		return nil, err
	}
	terms, err := encodeTerms(&k.Terms)
	if err != nil {
		return nil, err
	}
	return []any{k.ID, k.Name, secrets, []byte(k.Ed25519), terms, unix(k.Created), unix(k.Expires), unix(k.Revoked)}, nil
}

func scanKey(row interface{ Scan(...any) error }) (k key.Key, err error) {
	var secrets, terms string
	var created, expires, revoked int64
	var ed25519 []byte
	err = row.Scan(&k.ID, &k.Name, &secrets, &ed25519, &terms, &created, &expires, &revoked)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return k, ErrNotFound
	case err != nil:
		return k, err
	}
	if len(ed25519) > 0 {
		k.Ed25519 = ed25519
	}
	k.Created, k.Expires, k.Revoked = at(created), at(expires), at(revoked)
	if k.Secrets, err = decodeSecrets(secrets); err != nil {
		return k, fmt.Errorf("key %s: secrets: %w", k.ID, err)
	}
	if k.Terms, err = decodeTerms(terms); err != nil {
		return k, fmt.Errorf("key %s: terms: %w", k.ID, err)
	}
	return k, nil
}

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
