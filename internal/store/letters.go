package store

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"gatehouse/internal/notice"
	"gatehouse/internal/wave"
)

const (
	selectWatches = `SELECT name, every, next, told, failures, failed, trouble FROM watches`
	upsertWatch   = `INSERT INTO watches (name, every, next, told, failures, failed, trouble) VALUES ($1, $2, $3, $4, $5, $6, $7)
		ON CONFLICT (name) DO UPDATE SET every = excluded.every, next = excluded.next, told = excluded.told,
		failures = excluded.failures, failed = excluded.failed, trouble = excluded.trouble`

	selectLetters = `SELECT id, channel, made, type, title, body, data, state, tries, next, said, settled FROM letters`
	insertLetter  = `INSERT INTO letters (watch, id, channel, made, type, title, body, data, state, tries, next, said, settled)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 'waiting', 0, 0, '', 0) ON CONFLICT (watch, id, channel) DO NOTHING`
	keepLetter  = `UPDATE letters SET state = $4, tries = $5, next = $6, said = $7, settled = $8 WHERE watch = $1 AND id = $2 AND channel = $3`
	dropNamed   = `DELETE FROM letters WHERE instr(body, $1) > 0 OR instr(data, $1) > 0`
	dropLetters = `DELETE FROM letters WHERE settled <> 0 AND settled < $1`
)

// letterLife is how long a letter that was delivered or given up is shown.
const letterLife = 90 * 24 * time.Hour

// Watch is what is kept of a watch beside its waves.
type Watch struct {
	Name     string
	Every    time.Duration
	Next     time.Time // when it looks next
	Told     int64     // the last wave that was compared and told of; 0 is none
	Failures int       // in a row
	Failed   time.Time // the last of them
	Trouble  string    // what it was; "" when the last look came to its end
}

func milli(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

func scanWatch(row interface{ Scan(...any) error }) (w Watch, err error) {
	var next, failed int64
	err = row.Scan(&w.Name, (*int64)(&w.Every), &next, &w.Told, &w.Failures, &failed, &w.Trouble)
	w.Next, w.Failed = atMilli(next), atMilli(failed)
	return w, err
}

// Watch is what is kept of the watch with a name: nothing but the name, when it
// never was.
func (s *Store) Watch(name string) (w Watch, err error) {
	err = s.read(func(ctx context.Context, tx *sql.Tx) error {
		w, err = scanWatch(tx.QueryRowContext(ctx, selectWatches+` WHERE name = $1`, name))
		if errors.Is(err, sql.ErrNoRows) {
			w, err = Watch{Name: name}, nil
		}
		return err
	})
	return w, err
}

// Watches are all watches that ever were, by name.
func (s *Store) Watches() (list []Watch, err error) {
	err = s.read(func(ctx context.Context, tx *sql.Tx) error {
		rows, err := tx.QueryContext(ctx, selectWatches+` ORDER BY name`)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			w, err := scanWatch(rows)
			if err != nil {
				return err
			}
			list = append(list, w)
		}
		return rows.Err()
	})
	return list, err
}

// KeepWatch keeps how it is with a watch, and puts a message to each of the
// channels into its box: both or neither, so that nothing is told of twice or
// never. A message with an id that is there already stays as it is.
func (s *Store) KeepWatch(w Watch, m *notice.Message, channels []string) error {
	return s.write(func(ctx context.Context, tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, upsertWatch, w.Name, int64(w.Every), milli(w.Next), w.Told, w.Failures, milli(w.Failed), w.Trouble); err != nil {
			return err
		}
		if m == nil {
			return nil
		}
		for _, c := range channels {
			if _, err := tx.ExecContext(ctx, insertLetter, w.Name, m.ID, c, milli(m.Made), m.Type, m.Title, m.Text, string(m.Data)); err != nil {
				return err
			}
		}
		_, err := tx.ExecContext(ctx, dropLetters, m.Made.Add(-letterLife).UnixMilli())
		return err
	})
}

// Box is the letters of one watch. It is a notice.Box.
type Box struct {
	store *Store
	watch string
}

var _ notice.Box = (*Box)(nil)

// Box is the letters of the watch with a name.
func (s *Store) Box(watch string) *Box { return &Box{s, watch} }

// Waiting are the letters that were neither delivered nor given up, the oldest
// first.
func (b *Box) Waiting() ([]notice.Letter, error) {
	return b.letters(` WHERE watch = $1 AND state = 'waiting' ORDER BY made, id, channel`)
}

// Letters are all that are kept, the oldest first.
func (b *Box) Letters() ([]notice.Letter, error) {
	return b.letters(` WHERE watch = $1 ORDER BY made, id, channel`)
}

func (b *Box) letters(where string) (list []notice.Letter, err error) {
	err = b.store.read(func(ctx context.Context, tx *sql.Tx) error {
		rows, err := tx.QueryContext(ctx, selectLetters+where, b.watch)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var l notice.Letter
			var made, next, settled int64
			var data string
			if err := rows.Scan(&l.ID, &l.Channel, &made, &l.Type, &l.Title, &l.Text, &data, &l.State, &l.Tries, &next, &l.Said, &settled); err != nil {
				return err
			}
			l.Made, l.Next, l.Settled, l.Data = atMilli(made), atMilli(next), atMilli(settled), jsontext.Value(data)
			list = append(list, l)
		}
		return rows.Err()
	})
	return list, err
}

// Keep keeps how it is with a letter now.
func (b *Box) Keep(l notice.Letter) error {
	return b.store.write(func(ctx context.Context, tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, keepLetter, b.watch, l.ID, l.Channel, string(l.State), l.Tries, milli(l.Next), l.Said, milli(l.Settled))
		return err
	})
}

// Lock keeps other processes, and this one, from having a lock of the same name
// until it is let go. It does not wait: the error is ErrInUse.
func (s *Store) Lock(name string) (unlock func() error, err error) {
	l, err := s.lock("watch " + name)
	if err != nil {
		return nil, s.failed(err)
	}
	return l.free, nil
}

// Running is a wave that another process is making now, of those that which says
// yes to, nil when there is none.
func (s *Store) Running(which func(*wave.Info) bool) (*wave.Info, error) {
	list, err := s.Waves("")
	if err != nil {
		return nil, err
	}
	for i := range list {
		if !which(&list[i]) || !list[i].Ended.IsZero() {
			continue
		}
		w, err := s.Continue(list[i])
		if errors.Is(err, ErrInUse) {
			return &list[i], nil
		}
		if err != nil {
			return nil, err
		}
		if err := w.Close(); err != nil {
			return nil, err
		}
	}
	return nil, nil
}
