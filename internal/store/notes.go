package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"gatehouse/internal/wave"
)

// ErrNoNote says that there is no such note.
var ErrNoNote = errors.New("no such note")

// AddNote keeps a note and gives it its number. The same said twice is one note:
// what is said of its end now is what counts.
func (s *Store) AddNote(n *wave.Note) error {
	return s.write(func(ctx context.Context, tx *sql.Tx) error {
		return tx.QueryRowContext(ctx, `INSERT INTO notes (address, port, kind, text, made, until) VALUES ($1, $2, $3, $4, $5, $6)
			ON CONFLICT (address, port, kind, text) DO UPDATE SET made = excluded.made, until = excluded.until RETURNING id`,
			n.Address.Unmap().AsSlice(), n.Port, string(n.Kind), n.Text, n.Made.Unix(), untilUnix(n.Until)).Scan(&n.Number)
	})
}

// RemoveNote deletes a note; it is ErrNoNote when there is none of this number.
func (s *Store) RemoveNote(number int64) error {
	return s.write(func(ctx context.Context, tx *sql.Tx) error {
		done, err := tx.ExecContext(ctx, `DELETE FROM notes WHERE id = $1`, number)
		if err != nil {
			return err
		}
		if n, err := done.RowsAffected(); err != nil || n == 0 {
			return errors.Join(err, ErrNoNote)
		}
		return nil
	})
}

// Notes are all notes, those that no longer hold too, by address.
func (s *Store) Notes() (list []wave.Note, err error) {
	err = s.read(func(ctx context.Context, tx *sql.Tx) error {
		rows, err := tx.QueryContext(ctx, `SELECT id, address, port, kind, text, made, until FROM notes ORDER BY length(address), address, port, id`)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var n wave.Note
			var addr []byte
			var kind string
			var made, until int64
			if err := rows.Scan(&n.Number, &addr, &n.Port, &kind, &n.Text, &made, &until); err != nil {
				return err
			}
			var ok bool
			if n.Address, ok = netip.AddrFromSlice(addr); !ok {
				return fmt.Errorf("note %d: %d bytes are no address", n.Number, len(addr))
			}
			n.Kind, n.Made = wave.NoteKind(kind), time.Unix(made, 0).UTC()
			if until != 0 {
				n.Until = time.Unix(until, 0).UTC()
			}
			list = append(list, n)
		}
		return rows.Err()
	})
	return list, err
}

func untilUnix(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.Unix()
}

// Noted returns what puts the notes that hold at now on a record. Notes made later
// are not among them.
func (s *Store) Noted(now time.Time) (func(*wave.Record), error) {
	list, err := s.Notes()
	if err != nil {
		return nil, err
	}
	byAddr := make(map[netip.Addr][]wave.Note)
	for _, n := range list {
		if n.Holds(now) {
			byAddr[n.Address] = append(byAddr[n.Address], n)
		}
	}
	return func(r *wave.Record) {
		if len(byAddr) == 0 {
			return
		}
		addr, err := netip.ParseAddr(r.Address)
		if err != nil {
			return
		}
		for _, n := range byAddr[addr.Unmap()] {
			if n.Port == 0 || n.Port == r.Port {
				r.Notes = append(r.Notes, n)
			}
		}
	}, nil
}
