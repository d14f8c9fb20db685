// Package store keeps what outlasts the process: the keys of the gate, the waves
// with what each host said, and what the watches have to tell. It never sees a
// secret, only hashes.
//
// It keeps them in a file, by SQLite, or in PostgreSQL when there is more than
// one machine. Both say and do the same, and are held to it by one suite of
// tests; what they do differently is an engine. The statements need no
// translation: both understand $1, and the few that are not the same words are
// two constants beside each other, which is read more easily than what a
// rewriter would make of one.
//
// # Two releases at once
//
// While many machines are brought up to a new release, some run the one before,
// on the same store. So a migration only adds: a table, an index, a column that
// has a default. What an earlier release reads or writes keeps its name, its type
// and its meaning. What nobody reads any more is taken away by a later release,
// whose migration then raises "since" in the table compatible: programs that do
// not know that level are refused with ErrLater, all others go on. TestExpand
// holds every migration to this. A release is brought out before the one that
// takes away what it needs.
package store

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"sync"
	"time"

	"gatehouse/internal/wave"
)

//go:embed migrations/*/*.sql
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
	// ErrUnreachable says that PostgreSQL does not answer, or went away.
	ErrUnreachable = errors.New("cannot be reached")
	// ErrDenied says that PostgreSQL does not let this login do it.
	ErrDenied = errors.New("the login is refused")
	// ErrUnready says that a database is none that a store can be in.
	ErrUnready = errors.New("cannot be used")
	// ErrAddress says that what is to say where a store is does not.
	ErrAddress = errors.New("is not where a store can be")
	// ErrCopying says that the store is being filled from another one.
	ErrCopying = errors.New("a copy into it did not come to its end")
)

// Store is an open store. It is safe for any number of callers, and for several
// processes: a gate and those who change its keys.
type Store struct {
	db    *sql.DB
	slow  *sql.DB // for what takes as long as it takes: PostgreSQL ends nothing of it
	place string  // for people: a path or a URL, without a password
	engine
	q     dialect
	state Level

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

// engine is what SQLite and PostgreSQL do differently.
type engine interface {
	// plain is an error of the driver's in words for people.
	plain(error) error
	// taken is which of a key's fields another has, "" when that is not the error.
	taken(error) string
	// alone runs what while no other process opens the store.
	alone(what func(context.Context) error) error
	// lock is a lock of a name, held until it is let go or the process ends. It
	// does not wait: the error is ErrInUse.
	lock(name string) (*lease, error)
	// begun makes room for a wave.
	begun(ctx context.Context, tx *sql.Tx, number int64) error
	// insert keeps observations of a wave.
	insert(ctx context.Context, w *Wave, tx *sql.Tx, rows func(int) *row, list []wave.Observation) error
	// ended tidies up after a wave.
	ended(number int64) error
	// dropWave deletes a wave with its observations, and the hosts of no other.
	dropWave(ctx context.Context, tx *sql.Tx, number int64) error
	// seenAt are the waves and hosts in which an address was seen. Nobody adds one
	// until tx ends.
	seenAt(ctx context.Context, tx *sql.Tx, address []byte) ([][2]int64, error)
	// shred has what was deleted leave the files, as far as that can be had.
	shred(waves []int64) error
	// each yields the rows of a question, and lets others be asked in between.
	each(ctx context.Context, tx *sql.Tx, query string, args ...any) (cursor, error)
	// sized is what Status says of the database itself.
	sized(ctx context.Context, st *Status) error
}

// dialect is the statements that are not the same in both, and what goes with them.
type dialect struct {
	kind    string // of goose, and the folder of the migrations
	reading *sql.TxOptions

	dropping time.Duration // how long it may take to delete a wave

	pairs, carried, openSaid, lateSeen, dropNamed, insertFinding string
}

// lease is a lock that is held.
type lease struct {
	// conn is the connection that holds it, nil where a file does. What is written
	// by it is not written once the lock is lost.
	conn *sql.Conn
	free func() error
}

// cursor is what is asked of the rows of a question.
type cursor interface {
	Next() bool
	Scan(...any) error
	Err() error
	Close() error
}

// Open opens the store at dsn, makes its tables if they are not there, and brings
// them up to date. The dsn is what libpq takes, such as "postgres://db/gatehouse", or "sqlite:"
// and a path, or the path alone; the folder has to exist, and nobody but the
// owner may read the file. What has to stay secret of a dsn is in no error.
func Open(dsn string) (*Store, error) {
	s, err := open(dsn)
	if err != nil {
		return nil, err
	}
	if s.state.Copying != "" {
		return nil, errors.Join(s.failed(fmt.Errorf("%w, from %s", ErrCopying, s.state.Copying)), s.Close())
	}
	return s, nil
}

// keywords are how libpq takes an address, too: "host=db dbname=gatehouse".
var keywords = regexp.MustCompile(`^\s*(host|hostaddr|port|dbname|user|password|passfile|service|ssl\w+)\s*=`)

// open is Open for a store that is being copied into, too.
func open(dsn string) (*Store, error) {
	kind, _, other := strings.Cut(dsn, "://")
	switch {
	case kind == "postgres" && other, kind == "postgresql" && other, keywords.MatchString(dsn):
		return openPostgres(dsn)
	case strings.HasPrefix(dsn, "sqlite:"):
		return openSQLite(strings.TrimPrefix(strings.TrimPrefix(dsn, "sqlite:"), "//"))
	case other:
		return nil, fmt.Errorf("store: %q %w: sqlite and postgres are the kinds there are", kind, ErrAddress)
	}
	return openSQLite(dsn)
}

// Close closes the store. It may be called again.
func (s *Store) Close() error {
	err := s.db.Close()
	if s.slow != s.db {
		err = errors.Join(err, s.slow.Close())
	}
	if err != nil {
		return s.failed(err)
	}
	return nil
}

// failed is err in one line that names the store.
func (s *Store) failed(err error) error {
	if f, ok := errors.AsType[*failure](err); ok && f.place == s.place {
		return err // said already
	}
	return &failure{s.place, s.plain(err), s.q.kind == "postgres"}
}

// failure is what went wrong, and where.
type failure struct {
	place    string
	err      error
	postgres bool
}

func (f *failure) Error() string { return "store " + f.place + ": " + f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

// read runs what, which only reads, in one transaction: it sees one state.
func (s *Store) read(what func(context.Context, *sql.Tx) error) error {
	return s.do(s.db, s.q.reading, what)
}

// write runs what in one transaction, all or nothing.
func (s *Store) write(what func(context.Context, *sql.Tx) error) error {
	s.changing.Lock()
	defer s.changing.Unlock()
	return s.do(s.db, nil, what)
}

// change is write for keys: it counts the change, so that a gate takes it up.
func (s *Store) change(what func(context.Context, *sql.Tx) error) error {
	return s.write(func(ctx context.Context, tx *sql.Tx) error {
		// First, for PostgreSQL lets others change keys, too, until this is counted.
		if _, err := tx.ExecContext(ctx, countChange); err != nil {
			return err
		}
		return what(ctx, tx)
	})
}

// theirs is an error that is passed on as it is: the caller's own, or one of
// ours that says all there is to say.
type theirs struct{ error }

// beginner is a *sql.DB or one connection of it.
type beginner interface {
	BeginTx(context.Context, *sql.TxOptions) (*sql.Tx, error)
}

func (s *Store) do(db beginner, o *sql.TxOptions, what func(context.Context, *sql.Tx) error) error {
	return s.doFor(timeout, db, o, what)
}

func (s *Store) doFor(limit time.Duration, db beginner, o *sql.TxOptions, what func(context.Context, *sql.Tx) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	err := func() error {
		tx, err := db.BeginTx(ctx, o)
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
