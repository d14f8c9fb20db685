package store

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"modernc.org/sqlite"
	sqlitelib "modernc.org/sqlite/lib"

	"gatehouse/internal/wave"
)

// sqliteEngine keeps the store in a file.
type sqliteEngine struct {
	db   *sql.DB
	path string
}

var sqliteDialect = dialect{
	kind: "sqlite", reading: &sql.TxOptions{ReadOnly: true},
	pairs: pairs, carried: carried, openSaid: openSaid, lateSeen: lateSeen, dropNamed: dropNamed, insertFinding: insertFinding, dropping: timeout,
}

func openSQLite(path string) (*Store, error) {
	if path == "" {
		return nil, fmt.Errorf("store: %q %w: it has no path", "", ErrAddress)
	}
	e := &sqliteEngine{path: path}
	s := &Store{place: path, engine: e, q: sqliteDialect}
	if err := e.alone(func(ctx context.Context) error { return e.open(ctx, s) }); err != nil {
		return nil, s.failed(err)
	}
	return s, nil
}

// alone takes a lock on the folder: two that make the same store at once would be
// in each other's way.
func (e *sqliteEngine) alone(what func(context.Context) error) error {
	unlock, err := lockDir(filepath.Dir(e.path))
	if err != nil {
		return err
	}
	defer unlock()
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	return what(ctx)
}

func (e *sqliteEngine) open(ctx context.Context, s *Store) (err error) {
	if err := private(e.path); err != nil {
		return err
	}
	q := url.Values{
		"_pragma": {"busy_timeout(5000)", "journal_mode(wal)", "synchronous(full)", "foreign_keys(on)", "cache_size(-16000)"},
		"_txlock": {"immediate"},
	}
	e.db, err = sql.Open("sqlite", "file:"+(&url.URL{Path: e.path}).EscapedPath()+"?"+q.Encode())
	if err != nil {
		return err
	}
	e.db.SetMaxOpenConns(connections)
	e.db.SetMaxIdleConns(connections)
	s.db, s.slow = e.db, e.db
	if err := s.migrate(ctx); err != nil {
		return errors.Join(err, e.db.Close())
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

func (*sqliteEngine) plain(err error) error {
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

func (*sqliteEngine) taken(err error) string {
	e := new(sqlite.Error)
	if !errors.As(err, &e) {
		return ""
	}
	switch e.Code() {
	case sqlitelib.SQLITE_CONSTRAINT_PRIMARYKEY:
		return "id"
	case sqlitelib.SQLITE_CONSTRAINT_UNIQUE:
		if strings.Contains(e.Error(), "keys.ed25519") {
			return "ed25519"
		}
		return "name"
	}
	return ""
}

func (e *sqliteEngine) lock(name string) (*lease, error) {
	kind, which, _ := strings.Cut(name, " ")
	if kind != "wave" { // which may hold what no file's name can
		sum := sha256.Sum256([]byte(which))
		which = hex.EncodeToString(sum[:8])
	}
	free, err := lockFile(filepath.Join(filepath.Dir(e.path), "."+kind+"-"+which+".lock"))
	if err != nil {
		return nil, err
	}
	return &lease{free: free}, nil
}

func (*sqliteEngine) begun(context.Context, *sql.Tx, int64) error { return nil }

func (*sqliteEngine) insert(ctx context.Context, w *Wave, tx *sql.Tx, rows func(int) *row, list []wave.Observation) error {
	return w.insert(ctx, tx, rows, list)
}

func (*sqliteEngine) ended(int64) error { return nil }

func (*sqliteEngine) dropWave(ctx context.Context, tx *sql.Tx, number int64) error {
	for _, q := range []struct {
		text string
		args []any
	}{
		{dropSaid, []any{saidID(number, 0), saidID(number+1, 0)}},
		{dropSeen, []any{number}},
		{dropLooks, []any{number}},
		{dropWave, []any{number}},
		{dropHosts, nil},
	} {
		if _, err := tx.ExecContext(ctx, q.text, q.args...); err != nil {
			return err
		}
	}
	return nil
}

func (*sqliteEngine) seenAt(ctx context.Context, tx *sql.Tx, address []byte) ([][2]int64, error) {
	rows, err := tx.QueryContext(ctx, `SELECT wave, host FROM seen WHERE host IN (SELECT id FROM hosts WHERE address = $1)`, address)
	if err != nil {
		return nil, err
	}
	return twoNumbers(rows)
}

// twoNumbers reads rows of two numbers, and closes them.
func twoNumbers(rows *sql.Rows) (list [][2]int64, err error) {
	defer rows.Close()
	for rows.Next() {
		var two [2]int64
		if err := rows.Scan(&two[0], &two[1]); err != nil {
			return nil, err
		}
		list = append(list, two)
	}
	return list, rows.Err()
}

// shred empties the log, where SQLite leaves deleted bytes until it is written
// over.
func (e *sqliteEngine) shred([]int64) error {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	var busy, log, moved int
	if err := e.db.QueryRowContext(ctx, `PRAGMA wal_checkpoint(TRUNCATE)`).Scan(&busy, &log, &moved); err != nil {
		return err
	}
	if busy != 0 {
		return errors.New("deleted, but a process that reads the store keeps old pages in its log; end it, then repeat")
	}
	return nil
}

func (*sqliteEngine) each(ctx context.Context, tx *sql.Tx, query string, args ...any) (cursor, error) {
	return tx.QueryContext(ctx, query, args...)
}

func (e *sqliteEngine) sized(ctx context.Context, st *Status) error {
	st.Kind = "sqlite"
	if err := e.db.QueryRowContext(ctx, `SELECT sqlite_version()`).Scan(&st.Version); err != nil {
		return err
	}
	for _, end := range []string{"", "-wal"} {
		info, err := os.Stat(e.path + end)
		if errors.Is(err, fs.ErrNotExist) && end != "" {
			continue
		}
		if err != nil {
			return errors.Unwrap(err)
		}
		st.Bytes += info.Size()
	}
	return nil
}
