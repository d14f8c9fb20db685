package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"iter"
	"time"

	"gatehouse/internal/evidence"
	"gatehouse/internal/finding"
	"gatehouse/internal/target"
	"gatehouse/internal/wave"
)

const (
	openSaid   = `SELECT s.host, record, evidence FROM seen s JOIN said ON said.id = $1 + s.host WHERE s.wave = $2 AND s.outcome = $3 AND NOT EXISTS (SELECT 1 FROM looks l WHERE l.wave = s.wave AND l.host = s.host AND l.look = $4) ORDER BY s.host`
	upsertLook = `INSERT INTO looks (wave, host, look, at, answered, running) VALUES ($1, $2, $3, $4, $5, $6)
		ON CONFLICT (wave, host, look) DO UPDATE SET at = excluded.at, answered = excluded.answered, running = excluded.running`
	allLooks = `SELECT host, at, answered, running FROM looks WHERE wave = $1 ORDER BY host, look`
)

// Open yields the places that the wave found open and that this look, from 1,
// was not kept for yet. The first look is the observation itself: Open keeps it
// while it goes.
func (w *Wave) Open(look int) iter.Seq2[target.Place, error] {
	return func(yield func(target.Place, error) bool) {
		rows, err := w.store.slow.QueryContext(context.Background(), w.store.q.openSaid, saidID(w.Info.Number, 0), w.Info.Number, indexOf(outcomes, finding.Open), look)
		if err != nil {
			yield(target.Place{}, w.store.failed(err))
			return
		}
		defer rows.Close()
		for rows.Next() {
			var host int64
			var packed, said sql.RawBytes
			var r wave.Record
			var h evidence.Host
			if err := rows.Scan(&host, &packed, &said); err != nil {
				yield(target.Place{}, w.store.failed(err))
				return
			}
			if err := errors.Join(unpack(packed, &r), unpack(said, &h)); err != nil {
				yield(target.Place{}, w.store.failed(fmt.Errorf("wave %d, host %d: %w", w.Info.Number, host, err)))
				return
			}
			if look == 1 {
				if err := w.keepLook(host, 1, wave.LookOf(&h)); err != nil {
					yield(target.Place{}, err)
					return
				}
			}
			place := wave.PlaceOf(&r)
			place.Pos = uint64(host)
			if !yield(place, nil) {
				return
			}
		}
		if err := rows.Err(); err != nil {
			yield(target.Place{}, w.store.failed(err))
		}
	}
}

// KeepLook keeps one look, from 2, at a place that Open yielded.
func (w *Wave) KeepLook(p target.Place, look int, l wave.Look) error {
	return w.keepLook(int64(p.Pos), look, l)
}

// lookRow is one look as it is written.
type lookRow struct {
	host    int64
	look    int
	at      int64
	answers bool
	running []byte
}

// maxLooks is how many looks wait to be written together at most. Those that a
// process takes with it are looked at again.
const maxLooks = 256

func (w *Wave) keepLook(host int64, look int, l wave.Look) error {
	running, err := pack(l.Running)
	if err != nil {
		return w.store.failed(err)
	}
	w.looks = append(w.looks, lookRow{host, look, l.At.UnixNano(), l.Answered, running})
	if len(w.looks) < maxLooks {
		return nil
	}
	return w.flushLooks()
}

func (w *Wave) flushLooks() error {
	if len(w.looks) == 0 {
		return nil
	}
	err := w.write(func(ctx context.Context, tx *sql.Tx) error {
		stmt, err := tx.PrepareContext(ctx, upsertLook)
		if err != nil {
			return err
		}
		defer stmt.Close()
		for _, l := range w.looks {
			if _, err := stmt.ExecContext(ctx, w.Info.Number, l.host, l.look, l.at, l.answers, l.running); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil {
		w.looks = w.looks[:0]
	}
	return err
}

// watched counts what the looks of the wave showed.
func (w *Wave) watched() (seen wave.Watched, err error) {
	if err := w.flushLooks(); err != nil {
		return seen, err
	}
	rows, err := w.store.slow.QueryContext(context.Background(), allLooks, w.Info.Number)
	if err != nil {
		return seen, w.store.failed(err)
	}
	defer rows.Close()
	var looks []wave.Look
	of := int64(-1)
	for rows.Next() {
		var host, at int64
		var l wave.Look
		var running sql.RawBytes
		if err := rows.Scan(&host, &at, &l.Answered, &running); err != nil {
			return seen, w.store.failed(err)
		}
		if err := unpack(running, &l.Running); err != nil {
			return seen, w.store.failed(fmt.Errorf("wave %d, host %d: %w", w.Info.Number, host, err))
		}
		l.At = time.Unix(0, at).UTC()
		if host != of && len(looks) > 0 {
			seen.Add(looks)
			looks = looks[:0]
		}
		of = host
		looks = append(looks, l)
	}
	if len(looks) > 0 {
		seen.Add(looks)
	}
	if err := rows.Err(); err != nil {
		return seen, w.store.failed(err)
	}
	return seen, nil
}
