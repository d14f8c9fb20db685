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

// notesAt returns what finds the notes on a place that hold at now. Notes made
// later are not among them.
func (s *Store) notesAt(now time.Time) (func(netip.Addr, uint16) []wave.Note, error) {
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
	return func(a netip.Addr, port uint16) (on []wave.Note) {
		for _, n := range byAddr[a.Unmap()] {
			if n.Port == 0 || n.Port == port {
				on = append(on, n)
			}
		}
		return on
	}, nil
}

// Noted returns what puts the notes that hold at now on a record.
func (s *Store) Noted(now time.Time) (func(*wave.Record), error) {
	notes, err := s.notesAt(now)
	if err != nil {
		return nil, err
	}
	return func(r *wave.Record) {
		if addr, err := netip.ParseAddr(r.Address); err == nil {
			r.Notes = notes(addr, r.Port)
		}
	}, nil
}

// Excused returns what says of a place whether people noted that it is no news:
// a risk that is accepted for now, or a false positive.
func (s *Store) Excused(now time.Time) (is func(netip.Addr, uint16) bool, err error) {
	notes, err := s.notesAt(now)
	if err != nil {
		return nil, err
	}
	return func(a netip.Addr, port uint16) bool {
		r := wave.Record{Notes: notes(a, port)}
		return r.Settled()
	}, nil
}
