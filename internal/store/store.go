// Package store keeps what outlasts the process, in SQLite: the keys of the gate,
// and the waves with what each host said. It never sees a secret, only hashes.
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
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/database"
	"modernc.org/sqlite"
	sqlitelib "modernc.org/sqlite/lib"
)

//go:embed migrations
var migrations embed.FS

var (
	// ErrNotFound says that there is no such key.
	ErrNotFound = errors.New("no such key")
	// ErrDuplicate says that another key has the name, the id or the public key.
	ErrDuplicate = errors.New("taken by another key")
	// ErrInUse says that another process keeps this wave now.
	ErrInUse = errors.New("another process has it")
	// ErrDamaged says that what is kept of a key cannot be understood.
	ErrDamaged = errors.New("damaged, or of a later release")

	// What is wrong with the store as a whole, whatever was asked of it.

	// ErrFull says that the disk has no room.
	ErrFull = errors.New("the disk is full")
	// ErrCorrupt says that SQLite does not understand the file.
	ErrCorrupt = errors.New("the file is damaged, or not a database")
	// ErrReadOnly says that this process may not write there.
	ErrReadOnly = errors.New("the file or its folder cannot be written")
	// ErrBusy says that the wait for another process was too long.
	ErrBusy = errors.New("another process has held it too long")
	// ErrLater says that a later release made the store.
	ErrLater = errors.New("made by a later release")
)

// Store is an open store. It is safe for any number of callers, and for several
// processes: a gate and those who change its keys.
type Store struct {
	db   *sql.DB
	path string

	// SQLite has one writer at a time. Those of this process wait here, where the
	// next is woken at once, and not in SQLite, which looks again now and then.
	changing sync.Mutex
}

const (
	// timeout bounds one question to the store, waiting for other writers included.
	timeout = 10 * time.Second
	// connections of one process: questions are short, and few ask at once.
	connections = 4
)

// Open opens the store at dsn, makes it if it is not there, and brings its
// tables up to date. The dsn is "sqlite:" and a path, or the path alone; the
// folder has to exist. Nobody but the owner may read the file.
func Open(dsn string) (*Store, error) {
	path, ok := strings.CutPrefix(dsn, "sqlite:")
	if ok {
		path = strings.TrimPrefix(path, "//")
	} else if kind, _, other := strings.Cut(dsn, "://"); other {
		return nil, fmt.Errorf("store: %q is no kind of store, sqlite is", kind)
	}
	if path == "" {
		return nil, errors.New("store: no path")
	}
	s := &Store{path: path}
	if err := s.open(); err != nil {
		return nil, s.failed(err)
	}
	return s, nil
}

func (s *Store) open() error {
	// Two that make the same store at once would be in each other's way.
	unlock, err := lockDir(filepath.Dir(s.path))
	if err != nil {
		return err
	}
	defer unlock()
	if err := private(s.path); err != nil {
		return err
	}
	q := url.Values{
		"_pragma": {"busy_timeout(5000)", "journal_mode(wal)", "synchronous(full)", "foreign_keys(on)", "cache_size(-16000)"},
		"_txlock": {"immediate"},
	}
	s.db, err = sql.Open("sqlite", "file:"+(&url.URL{Path: s.path}).EscapedPath()+"?"+q.Encode())
	if err != nil {
		return err
	}
	s.db.SetMaxOpenConns(connections)
	s.db.SetMaxIdleConns(connections)
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	if err := s.migrate(ctx); err != nil {
		return errors.Join(err, s.db.Close())
	}
	return nil
}

// private makes the file at path if there is none, for SQLite would make it
// readable for all, and closes one that others may read. It does not open one
// that is there: to close that again would end this process's locks on it.
func private(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err == nil {
		return f.Close()
	}
	if !errors.Is(err, fs.ErrExist) {
		return errors.Unwrap(err)
	}
	for _, end := range []string{"", "-wal", "-shm"} {
		info, err := os.Stat(path + end)
		switch {
		case errors.Is(err, fs.ErrNotExist) && end != "":
		case err != nil:
			return errors.Unwrap(err)
		case info.IsDir():
			return errors.New("is a directory")
		case info.Mode().Perm()&0o077 != 0:
			if err := os.Chmod(path+end, info.Mode().Perm()&0o700); err != nil {
				return fmt.Errorf("others may read it: %w", err)
			}
		}
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
	latest := int64(0)
	for _, m := range provider.ListSources() {
		latest = max(latest, m.Version)
	}
	at, err := provider.GetDBVersion(ctx)
	switch {
	case err != nil:
		return err
	case at > latest:
		return fmt.Errorf("%w (version %d, this one knows %d)", ErrLater, at, latest)
	case at == latest:
		return nil
	}
	_, err = provider.Up(ctx)
	return err
}

// Close closes the store. It may be called again.
func (s *Store) Close() error {
	if err := s.db.Close(); err != nil {
		return s.failed(err)
	}
	return nil
}

// failed is err in one line that names the store.
func (s *Store) failed(err error) error { return fmt.Errorf("store %s: %w", s.path, plain(err)) }

// plain is err in words for whom the driver's numbers say nothing.
func plain(err error) error {
	e := new(sqlite.Error)
	if !errors.As(err, &e) {
		return err
	}
	switch e.Code() & 0xff {
	case sqlitelib.SQLITE_FULL:
		return ErrFull
	case sqlitelib.SQLITE_NOTADB, sqlitelib.SQLITE_CORRUPT:
		return ErrCorrupt
	case sqlitelib.SQLITE_READONLY, sqlitelib.SQLITE_CANTOPEN, sqlitelib.SQLITE_PERM:
		return ErrReadOnly
	case sqlitelib.SQLITE_BUSY:
		return ErrBusy
	case sqlitelib.SQLITE_IOERR:
		return fmt.Errorf("the disk fails: %w", e)
	}
	return err
}

// read runs what, which only reads, in one transaction: it sees one state.
func (s *Store) read(what func(context.Context, *sql.Tx) error) error {
	return s.do(&sql.TxOptions{ReadOnly: true}, what)
}

// write runs what in one transaction, all or nothing.
func (s *Store) write(what func(context.Context, *sql.Tx) error) error {
	s.changing.Lock()
	defer s.changing.Unlock()
	return s.do(nil, what)
}

// change is write for keys: it counts the change, so that a gate takes it up.
func (s *Store) change(what func(context.Context, *sql.Tx) error) error {
	return s.write(func(ctx context.Context, tx *sql.Tx) error {
		if err := what(ctx, tx); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, countChange)
		return err
	})
}

// theirs is an error that is passed on as it is: the caller's own, or one of
// ours that says all there is to say.
type theirs struct{ error }

func (s *Store) do(o *sql.TxOptions, what func(context.Context, *sql.Tx) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	err := func() error {
		tx, err := s.db.BeginTx(ctx, o)
		if err != nil {
			return err
		}
		defer tx.Rollback() // does nothing after Commit
		if err := what(ctx, tx); err != nil {
			return err
		}
		return tx.Commit()
	}()
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[theirs](err); ok {
		return e.error
	}
	return s.failed(err)
}
