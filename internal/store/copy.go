package store

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
	"modernc.org/sqlite"
	sqlitelib "modernc.org/sqlite/lib"

	"gatehouse/internal/wave"
)

var (
	// ErrNotEmpty says that a store that is to be filled has something already.
	ErrNotEmpty = errors.New("is not empty, and no copy was begun into it")
	// ErrChanging says that the store that is copied is written to meanwhile.
	ErrChanging = errors.New("changed while it was copied")
)

// column is one of a table, in the order in which it is copied.
type column struct {
	name string
	kind columnKind
}

type columnKind int

const (
	number columnKind = iota
	text
	blob  // bytes in both
	bytes // bytes in PostgreSQL, text in SQLite, which takes any
	truth
)

// table is a table as it is copied: by its key, a part at a time.
type table struct {
	name    string
	key     int // so many of the first columns are the key, by which it is read
	columns []column
	part    string // condition for one wave: $1 is its number, $2 and $3 its first and last said; "" is the whole
	whole   bool   // small: copied anew each time
}

func columnsOf(text string) (list []column) {
	kinds := map[string]columnKind{"n": number, "t": 0, "b": blob, "r": bytes, "f": truth}
	for c := range strings.FieldsSeq(text) {
		name, kind, _ := strings.Cut(c, ":")
		k := kinds[kind]
		if kind == "t" {
			k = 1
		}
		list = append(list, column{name, k})
	}
	return list
}

// tables are all that a store has, hosts before what is said of them. TestCopyAll
// holds them to the migrations.
var tables = []table{
	{name: "changes", key: 1, whole: true, columns: columnsOf(`n:n`)},
	{name: "keys", key: 1, whole: true, columns: columnsOf(`id:t name:t secrets:t ed25519:b terms:t created:n expires:n revoked:n`)},
	{name: "findings", key: 1, whole: true, columns: columnsOf(`bit:n id:t`)},
	{name: "notes", key: 1, whole: true, columns: columnsOf(`id:n address:b port:n kind:t text:t made:n until:n`)},
	{name: "watches", key: 1, whole: true, columns: columnsOf(`name:t every:n next:n told:n failures:n failed:n trouble:t`)},
	{name: "letters", key: 3, whole: true, columns: columnsOf(`watch:t id:t channel:t made:n type:t title:t body:t data:t state:t tries:n next:n said:t settled:n`)},
	{name: "waves", key: 1, whole: true, columns: columnsOf(`id:n name:t scope:t source:t plan:t covers:t seed:n started:n ended:n looks:n mark:t method:t summary:t tally:t watched:t`)},
	{name: "hosts", key: 1, columns: columnsOf(`id:n address:b port:n name:r path:r`)},
	{name: "seen", key: 2, part: `wave = $1`, columns: columnsOf(`wave:n host:n pos:n at:n outcome:n severity:n findings:n state:n version:t country:t asn:n provider:t`)},
	{name: "said", key: 1, part: `id >= $2 AND id < $3`, columns: columnsOf(`id:n record:b evidence:b`)},
	{name: "looks", key: 3, part: `wave = $1`, columns: columnsOf(`wave:n host:n look:n at:n answered:f running:b`)},
}

// Copied is what a copy did with one part of a store.
type Copied struct {
	Table string
	Wave  int64 // 0 for what is of no wave
	Rows  int64 // that are there now
	Moved int64 // that were copied this time
}

// Copy fills the store at to with all that the one at from has, whatever kinds
// they are, and holds both against each other, row by row. One that was stopped,
// by kill -9 too, goes on where it was; the store that is filled serves nothing
// else until it is whole. said is told of each part.
func Copy(from, to string, said func(Copied)) (err error) {
	src, err := Open(from)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, src.Close()) }()
	dst, err := open(to)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dst.Close()) }()
	if src.place == dst.place {
		return dst.failed(errors.New("is the store that is to be copied"))
	}
	if src.state.At != dst.state.At {
		return src.failed(fmt.Errorf("%w: level %d and %d", ErrLater, src.state.At, dst.state.At))
	}
	unlock, err := dst.Lock("copy")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	switch running, err := src.Running(func(*wave.Info) bool { return true }); {
	case err != nil:
		return err
	case running != nil:
		return src.failed(fmt.Errorf("wave %d: %w", running.Number, ErrInUse))
	}
	c := &copier{src: src, dst: dst, said: said}
	parts, err := c.parts()
	if err != nil {
		return err
	}
	if err := c.start(); errors.Is(err, ErrNotEmpty) {
		return c.done(parts, err)
	} else if err != nil {
		return err
	}
	for _, p := range parts {
		if err := c.copy(p); err != nil {
			return err
		}
	}
	return c.end()
}

type copier struct {
	src, dst *Store
	said     func(Copied)
}

// part is a table, or what it has of one wave.
type part struct {
	*table
	wave int64
}

func (p part) where() (condition string, args []any) {
	if p.part == "" {
		return "TRUE", nil
	}
	var used []any
	condition = p.part
	for i, arg := range []int64{p.wave, saidID(p.wave, 0), saidID(p.wave+1, 0)} {
		if mark := "$" + strconv.Itoa(i+1); strings.Contains(condition, mark) {
			used = append(used, arg)
			condition = strings.ReplaceAll(condition, mark, "$"+strconv.Itoa(len(used)))
		}
	}
	return condition, used
}

// start notes in the store that it is being filled, unless it has something.
func (c *copier) start() error {
	source := c.src.place
	if c.src.q.kind == "sqlite" {
		var err error
		if source, err = filepath.Abs(source); err != nil {
			return err
		}
	}
	switch c.dst.state.Copying {
	case source:
		return nil
	case "":
	default:
		return c.dst.failed(fmt.Errorf("%w, from %s", ErrCopying, c.dst.state.Copying))
	}
	st, err := c.dst.Status()
	if err != nil {
		return err
	}
	if st.Keys+st.Waves+st.Hosts+st.Notes+st.Watches+st.Letters > 0 {
		return c.dst.failed(ErrNotEmpty)
	}
	return c.dst.write(func(ctx context.Context, tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `INSERT INTO copying (source) VALUES ($1)`, source)
		return err
	})
}

// done reports what the store has, when it is the whole of the other: a copy that
// was stopped after its last step is done. Otherwise it returns otherwise.
func (c *copier) done(parts []part, otherwise error) error {
	var all []Copied
	for _, p := range parts {
		want, rows, err := c.src.digest(p)
		if err != nil {
			return err
		}
		got, there, err := c.dst.digest(p)
		if err != nil {
			return err
		}
		if want != got || rows != there {
			return otherwise
		}
		all = append(all, Copied{Table: p.name, Wave: p.wave, Rows: rows})
	}
	for _, one := range all {
		c.said(one)
	}
	return c.end()
}

// parts are all that is to be copied, the waves one after the other.
func (c *copier) parts() (list []part, err error) {
	waves, err := c.src.Waves("")
	if err != nil {
		return nil, err
	}
	for i := range tables {
		t := &tables[i]
		if t.part == "" {
			list = append(list, part{t, 0})
		}
	}
	for _, w := range waves {
		for i := range tables {
			if t := &tables[i]; t.part != "" {
				list = append(list, part{t, w.Number})
			}
		}
	}
	return list, nil
}

// copy copies what a part lacks, holds it against its source, and does it all
// anew where it differs: something changed since the last time.
func (c *copier) copy(p part) error {
	moved := int64(0)
	for try := range 2 {
		if try > 0 || p.whole {
			if err := c.clear(p); err != nil {
				return err
			}
		}
		n, err := c.move(p)
		moved += n
		if err != nil && try == 0 && clashes(err) {
			continue // what is there is of an earlier state
		}
		if err != nil {
			return err
		}
		want, rows, err := c.src.digest(p)
		if err != nil {
			return err
		}
		got, there, err := c.dst.digest(p)
		if err != nil {
			return err
		}
		if want == got && rows == there {
			c.said(Copied{Table: p.name, Wave: p.wave, Rows: rows, Moved: moved})
			return nil
		}
	}
	of := p.name
	if p.wave > 0 {
		of += " of wave " + strconv.FormatInt(p.wave, 10)
	}
	return c.src.failed(fmt.Errorf("%s %w", of, ErrChanging))
}

// clashes reports whether a row is there already under another key.
func clashes(err error) bool {
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		return e.Code == "23505"
	}
	e, ok := errors.AsType[*sqlite.Error](err)
	return ok && e.Code()&0xff == sqlitelib.SQLITE_CONSTRAINT
}

// clear empties a part of the store that is filled. The partitions of waves that
// are not in the source any more go with their waves.
func (c *copier) clear(p part) error {
	if p.name == "waves" {
		return c.dropStrays()
	}
	where, args := p.where()
	return c.dst.doFor(maxCount, c.dst.slow, nil, func(ctx context.Context, tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `DELETE FROM `+p.name+` WHERE `+where, args...)
		return err
	})
}

// dropStrays deletes the waves that an earlier run copied and that are gone since.
func (c *copier) dropStrays() error {
	there, err := c.dst.Waves("")
	if err != nil {
		return err
	}
	still, err := c.src.Waves("")
	if err != nil {
		return err
	}
	has := make(map[int64]bool)
	for _, w := range still {
		has[w.Number] = true
	}
	for _, w := range there {
		if !has[w.Number] {
			if err := c.dst.Drop(w.Number); err != nil {
				return err
			}
		}
	}
	return nil
}

// batch is how many rows are written at a time, and what a stop costs.
const batch = 2000

// move copies the rows of a part that come after the last one that is there.
func (c *copier) move(p part) (moved int64, err error) {
	last, err := c.dst.last(p)
	if err != nil {
		return 0, err
	}
	if p.whole {
		last = nil
	}
	rows, err := c.src.rows(p, last)
	if err != nil {
		return 0, err
	}
	defer rows.Close()
	var list [][]any
	flush := func() error {
		if len(list) == 0 {
			return nil
		}
		err := c.dst.add(p, list)
		moved += int64(len(list))
		list = list[:0]
		return err
	}
	for {
		row, err := scanRow(rows, p.columns)
		if err != nil {
			return moved, c.src.failed(err)
		}
		if row == nil {
			return moved, flush()
		}
		if list = append(list, row); len(list) == batch {
			if err := flush(); err != nil {
				return moved, err
			}
		}
	}
}

// last is the key of the last row of a part, nil when there is none.
func (s *Store) last(p part) (key []any, err error) {
	var names, order []string
	for _, c := range p.columns[:p.key] {
		names, order = append(names, c.name), append(order, c.name+" DESC")
	}
	where, args := p.where()
	rows, err := s.slow.QueryContext(context.Background(), `SELECT `+strings.Join(names, ", ")+` FROM `+p.name+` WHERE `+where+` ORDER BY `+strings.Join(order, ", ")+` LIMIT 1`, args...)
	if err != nil {
		return nil, s.failed(err)
	}
	defer rows.Close()
	key, err = scanRow(rows, p.columns[:p.key])
	if err != nil {
		return nil, s.failed(err)
	}
	return key, nil
}

// rows are those of a part after a key, all for nil, by their key.
func (s *Store) rows(p part, after []any) (*sql.Rows, error) {
	var names, key, marks []string
	for i, c := range p.columns {
		names = append(names, c.name)
		if i < p.key {
			key = append(key, c.name)
		}
	}
	where, args := p.where()
	if after != nil {
		for _, v := range after {
			args = append(args, v)
			marks = append(marks, "$"+strconv.Itoa(len(args)))
		}
		where += ` AND (` + strings.Join(key, ", ") + `) > (` + strings.Join(marks, ", ") + `)`
	}
	rows, err := s.slow.QueryContext(context.Background(), `SELECT `+strings.Join(names, ", ")+` FROM `+p.name+` WHERE `+where+` ORDER BY `+strings.Join(key, ", "), args...)
	if err != nil {
		return nil, s.failed(err)
	}
	return rows, nil
}

// scanRow reads a row as it is in either kind of store, nil after the last.
func scanRow(rows *sql.Rows, columns []column) ([]any, error) {
	if !rows.Next() {
		return nil, rows.Err()
	}
	row := make([]any, len(columns))
	to := make([]any, len(columns))
	for i := range row {
		to[i] = &row[i]
	}
	if err := rows.Scan(to...); err != nil {
		return nil, err
	}
	for i, c := range columns {
		ok := row[i] == nil
		switch v := row[i].(type) {
		case int64:
			ok = ok || c.kind == number
			if c.kind == truth {
				row[i], ok = v != 0, true
			}
		case bool:
			ok = c.kind == truth
		case string:
			switch c.kind {
			case text:
				row[i], ok = valid(v), true
			case bytes:
				row[i], ok = []byte(v), true
			}
		case []byte:
			ok = c.kind == blob || c.kind == bytes
		}
		if !ok {
			return nil, fmt.Errorf("column %s holds %T: %w", c.name, row[i], ErrDamaged)
		}
	}
	return row, nil
}

// add writes rows of a part, all or none.
func (s *Store) add(p part, list [][]any) error {
	conn, err := s.slow.Conn(context.Background())
	if err != nil {
		return s.failed(err)
	}
	defer conn.Close()
	var names, marks, set []string
	for i, c := range p.columns {
		names, marks, set = append(names, c.name), append(marks, "$"+strconv.Itoa(i+1)), append(set, c.name+" = excluded."+c.name)
	}
	again := ""
	if p.name == "waves" { // which are not cleared, for what they have hangs on them
		again = ` ON CONFLICT (id) DO UPDATE SET ` + strings.Join(set, ", ")
	}
	return s.doFor(maxCount, conn, nil, func(ctx context.Context, tx *sql.Tx) error {
		if p.name == "waves" {
			for _, row := range list {
				if err := s.room(ctx, tx, row[0].(int64)); err != nil {
					return err
				}
			}
		}
		if s.q.kind == "postgres" && p.name != "waves" {
			return conn.Raw(func(driverConn any) error {
				c := driverConn.(*stdlib.Conn).Conn()
				_, err := c.CopyFrom(ctx, pgx.Identifier{p.name}, names, pgx.CopyFromRows(list))
				return err
			})
		}
		stmt, err := tx.PrepareContext(ctx, `INSERT INTO `+p.name+` (`+strings.Join(names, ", ")+`) VALUES (`+strings.Join(marks, ", ")+`)`+again)
		if err != nil {
			return err
		}
		defer stmt.Close()
		for _, row := range list {
			for i, c := range p.columns {
				if b, ok := row[i].([]byte); ok && c.kind == bytes {
					row[i] = string(b)
				}
			}
			if _, err := stmt.ExecContext(ctx, row...); err != nil {
				return err
			}
		}
		return nil
	})
}

// room makes the partitions of a wave, if there are none.
func (s *Store) room(ctx context.Context, tx *sql.Tx, number int64) error {
	if s.q.kind != "postgres" {
		return nil
	}
	var there bool
	if err := tx.QueryRowContext(ctx, `SELECT to_regclass('seen_`+strconv.FormatInt(number, 10)+`') IS NOT NULL`).Scan(&there); err != nil || there {
		return err
	}
	return s.begun(ctx, tx, number)
}

// digest is the number of rows of a part, and the SHA-256 of what they hold, the
// same for either kind of store.
func (s *Store) digest(p part) (sum [sha256.Size]byte, n int64, err error) {
	rows, err := s.rows(p, nil)
	if err != nil {
		return sum, 0, err
	}
	defer rows.Close()
	h := sha256.New()
	for {
		row, err := scanRow(rows, p.columns)
		if err != nil {
			return sum, n, s.failed(err)
		}
		if row == nil {
			return [sha256.Size]byte(h.Sum(nil)), n, nil
		}
		n++
		for _, v := range row {
			digestValue(h, v)
		}
	}
}

func digestValue(h hash.Hash, v any) {
	piece := func(kind byte, b []byte) {
		head := binary.BigEndian.AppendUint64([]byte{kind}, uint64(len(b)))
		h.Write(head)
		h.Write(b)
	}
	switch v := v.(type) {
	case nil:
		piece('0', nil)
	case int64:
		piece('n', binary.BigEndian.AppendUint64(nil, uint64(v)))
	case bool:
		piece('f', strconv.AppendBool(nil, v))
	case string:
		piece('t', []byte(v))
	case []byte:
		piece('b', v)
	}
}

// end makes the store that was filled one like any other.
func (c *copier) end() error {
	err := c.dst.doFor(maxCount, c.dst.slow, nil, func(ctx context.Context, tx *sql.Tx) error {
		if c.dst.q.kind == "postgres" {
			for _, t := range []string{"waves", "hosts", "notes"} {
				if _, err := tx.ExecContext(ctx, `SELECT setval(pg_get_serial_sequence('`+t+`', 'id'), (SELECT COALESCE(max(id), 0) + 1 FROM `+t+`), false)`); err != nil {
					return err
				}
			}
		}
		_, err := tx.ExecContext(ctx, `DELETE FROM copying`)
		return err
	})
	if err != nil || c.dst.q.kind != "postgres" {
		return err
	}
	waves, err := c.dst.Waves("")
	if err != nil {
		return err
	}
	for _, w := range waves {
		if err := c.dst.engine.ended(w.Number); err != nil {
			return c.dst.failed(err)
		}
	}
	return nil
}
