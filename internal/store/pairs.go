package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"iter"

	"gatehouse/internal/finding"
	"gatehouse/internal/wave"
)

// pairs are the places that two waves say different things of. The digests are
// compared where they are, so that the millions that are as before are not read.
const pairs = `
	SELECT a.host, a.outcome, b.outcome FROM seen a LEFT JOIN seen b ON b.wave = $2 AND b.host = a.host
		WHERE a.wave = $1 AND (b.host IS NULL OR a.state <> b.state)
	UNION ALL
	SELECT b.host, NULL, b.outcome FROM seen b LEFT JOIN seen a ON a.wave = $1 AND a.host = b.host
		WHERE b.wave = $2 AND a.host IS NULL`

const (
	recordOf   = `SELECT record FROM said WHERE id = $1`
	scopeWaves = `SELECT id, looks FROM waves WHERE scope = (SELECT scope FROM waves WHERE id = $1) AND source = (SELECT source FROM waves WHERE id = $1) AND ended <> 0 AND id < $2 ORDER BY id DESC LIMIT 32`
	outcomeIn  = `SELECT outcome FROM seen WHERE wave = $1 AND host = $2`
)

// Pairs yields the places that waves a and b say different things of, a being
// the earlier. What only one of them saw has the history that tells "new" from
// "reopened", and "not seen" from "gone".
func (s *Store) Pairs(a, b int64) iter.Seq2[wave.Pair, error] {
	return func(yield func(wave.Pair, error) bool) {
		// No deadline: whoever reads them says how long that takes.
		ctx := context.Background()
		end := errors.New("the reader has enough")
		err := func() error {
			tx, err := s.db.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
			if err != nil {
				return err
			}
			defer tx.Rollback() // it only reads
			h, err := newHistory(ctx, tx, a, b)
			if err != nil {
				return err
			}
			defer h.close()
			rows, err := tx.QueryContext(ctx, pairs, a, b)
			if err != nil {
				return err
			}
			defer rows.Close()
			for rows.Next() {
				var host int64
				var before, after sql.NullInt64
				if err := rows.Scan(&host, &before, &after); err != nil {
					return err
				}
				p, err := h.pair(host, before, after)
				if err != nil {
					return err
				}
				if !yield(p, nil) {
					return end
				}
			}
			return rows.Err()
		}()
		if err != nil && err != end {
			yield(wave.Pair{}, s.failed(err))
		}
	}
}

// history finds what the waves of a scope said of one host.
type history struct {
	ctx     context.Context
	a, b    int64
	earlier []pastWave // before a, the latest first
	between []pastWave // after a and up to b, the latest first
	record  *sql.Stmt
	outcome *sql.Stmt
}

type pastWave struct {
	id    int64
	looks int
}

func newHistory(ctx context.Context, tx *sql.Tx, a, b int64) (h *history, err error) {
	h = &history{ctx: ctx, a: a, b: b}
	rows, err := tx.QueryContext(ctx, scopeWaves, b, b+1)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var w pastWave
		if err := rows.Scan(&w.id, &w.looks); err != nil {
			return nil, err
		}
		switch {
		case w.id < a:
			h.earlier = append(h.earlier, w)
		case w.id > a:
			h.between = append(h.between, w)
		}
	}
	if err := rows.Err(); err != nil {
		return nil, err
	}
	if h.record, err = tx.PrepareContext(ctx, recordOf); err != nil {
		return nil, err
	}
	h.outcome, err = tx.PrepareContext(ctx, outcomeIn)
	return h, err
}

func (h *history) close() {
	_ = h.record.Close()
	_ = h.outcome.Close()
}

func (h *history) pair(host int64, before, after sql.NullInt64) (p wave.Pair, err error) {
	if before.Valid {
		if p.Before, err = h.state(h.a, host); err != nil {
			return p, err
		}
	}
	if after.Valid {
		if p.After, err = h.state(h.b, host); err != nil {
			return p, err
		}
	}
	switch {
	case p.After == nil:
		// a saw it: how many looks in a row, up to b's last, did not?
		for _, w := range h.between {
			seen, err := h.seen(w.id, host)
			if err != nil {
				return p, err
			}
			if seen != "" {
				break
			}
			p.Unseen += max(w.looks, 1)
		}
		p.Unseen = max(p.Unseen, 1)
	case p.After.Outcome == finding.Open && (p.Before == nil || p.Before.Outcome != finding.Open):
		for _, w := range h.earlier {
			seen, err := h.seen(w.id, host)
			if err != nil {
				return p, err
			}
			p.Earlier = append(p.Earlier, seen)
		}
	}
	return p, nil
}

// seen is the outcome of a host in a wave, "" when the wave did not see it.
func (h *history) seen(wave, host int64) (finding.Outcome, error) {
	var o int
	err := h.outcome.QueryRowContext(h.ctx, wave, host).Scan(&o)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return "", nil
	case err != nil:
		return "", err
	case o < 0 || o >= len(outcomes):
		return "", fmt.Errorf("wave %d, host %d: outcome %d: %w", wave, host, o, ErrDamaged)
	}
	return outcomes[o], nil
}

func (h *history) state(number, host int64) (*wave.State, error) {
	var packed []byte
	if err := h.record.QueryRowContext(h.ctx, saidID(number, host)).Scan(&packed); err != nil {
		return nil, err
	}
	var r wave.Record
	if err := unpack(packed, &r); err != nil {
		return nil, fmt.Errorf("wave %d, host %d: %w", number, host, err)
	}
	s := wave.StateOf(&r)
	return &s, nil
}
