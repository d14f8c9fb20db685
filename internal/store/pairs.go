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
// compared where they are, so that the millions that are as before are not read,
// and as two lists in the same order: to find each host of one wave in the other
// takes five times as long.
const pairs = `
	SELECT d.host, a.record, b.record FROM (
		SELECT host, state FROM seen WHERE wave = $1 EXCEPT SELECT host, state FROM seen WHERE wave = $2 ORDER BY 1, 2) d
		JOIN said a ON a.id = $3 + d.host LEFT JOIN said b ON b.id = $4 + d.host
	UNION ALL
	SELECT d.host, NULL, b.record FROM (
		SELECT host FROM seen WHERE wave = $2 EXCEPT SELECT host FROM seen WHERE wave = $1 ORDER BY 1) d
		JOIN said b ON b.id = $4 + d.host`

// carried are the places that neither wave saw, and one before them found open.
const carried = `
	SELECT e.host FROM seen e WHERE e.wave = $3 AND e.outcome = $4
		AND NOT EXISTS (SELECT 1 FROM seen a WHERE a.wave = $1 AND a.host = e.host)
		AND NOT EXISTS (SELECT 1 FROM seen b WHERE b.wave = $2 AND b.host = e.host)`

const (
	recordOf   = `SELECT record FROM said WHERE id = $1`
	scopeWaves = `SELECT w.id, w.looks FROM waves w JOIN waves b ON b.id = $1 WHERE w.scope = b.scope AND (w.covers = b.covers OR w.id = $2) AND w.ended <> 0 AND w.started <= b.started ORDER BY w.started DESC, w.id DESC LIMIT 33`
	outcomeIn  = `SELECT outcome FROM seen WHERE wave = $1 AND host = $2`
)

// Pairs yields the places that waves a and b say different things of, a being
// the earlier, and those that neither saw though an earlier wave of the scope
// found them open, as long as they were not seen in fewer than so many looks.
// Each has the history that tells "new" from "reopened", and "not seen" from
// "gone"; it goes back 32 waves, those that looked at the same places.
func (s *Store) Pairs(a, b int64, looks int) iter.Seq2[wave.Pair, error] {
	return func(yield func(wave.Pair, error) bool) {
		// No deadline: whoever reads them says how long that takes.
		ctx := context.Background()
		end := errors.New("the reader has enough")
		err := func() error {
			tx, err := s.slow.BeginTx(ctx, s.q.reading)
			if err != nil {
				return err
			}
			defer tx.Rollback() // it only reads
			h, err := newHistory(ctx, s, tx, a, b)
			if err != nil {
				return err
			}
			defer h.close()
			rows, err := s.each(ctx, tx, s.q.pairs, a, b, saidID(a, 0), saidID(b, 0))
			if err != nil {
				return err
			}
			defer rows.Close()
			for rows.Next() {
				var host int64
				var before, after sql.RawBytes
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
			if err := rows.Err(); err != nil {
				return err
			}
			return h.carry(tx, looks, func(p wave.Pair) error {
				if !yield(p, nil) {
					return end
				}
				return nil
			})
		}()
		if err != nil && err != end {
			yield(wave.Pair{}, s.failed(err))
		}
	}
}

// history finds what the waves of a scope said of one host.
type history struct {
	store   *Store
	ctx     context.Context
	a, b    int64
	earlier []pastWave // before a, the latest first
	between []pastWave // after a and up to b, the latest first
	looksA  int
	record  *sql.Stmt
	outcome *sql.Stmt
}

type pastWave struct {
	id    int64
	looks int
}

func newHistory(ctx context.Context, s *Store, tx *sql.Tx, a, b int64) (h *history, err error) {
	h = &history{store: s, ctx: ctx, a: a, b: b}
	rows, err := tx.QueryContext(ctx, scopeWaves, b, a)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	passed := false
	for rows.Next() {
		var w pastWave
		if err := rows.Scan(&w.id, &w.looks); err != nil {
			return nil, err
		}
		switch {
		case w.id == a:
			passed, h.looksA = true, w.looks
		case passed:
			h.earlier = append(h.earlier, w)
		default:
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

// pair is what the two waves say of a host, from its packed records, nil where
// there is none.
func (h *history) pair(host int64, before, after []byte) (p wave.Pair, err error) {
	if before != nil {
		if p.Before, err = stateOf(h.a, host, before); err != nil {
			return p, err
		}
	}
	if after != nil {
		if p.After, err = stateOf(h.b, host, after); err != nil {
			return p, err
		}
	}
	switch {
	case p.After == nil:
		p.Unseen, err = h.unseen(host)
	case p.After.Outcome == finding.Open && (p.Before == nil || p.Before.Outcome != finding.Open), p.Before == nil:
		err = h.past(host, &p)
	}
	return p, err
}

// unseen is in how many looks in a row, up to b's last, a host that a saw did
// not answer.
func (h *history) unseen(host int64) (looks int, err error) {
	for _, w := range h.between {
		seen, err := h.seen(w.id, host)
		if err != nil {
			return 0, err
		}
		if seen != "" {
			break
		}
		looks += max(w.looks, 1)
	}
	return max(looks, 1), nil
}

// past adds what the waves before a said of a host and, where a did not see it,
// when and how it was last seen.
func (h *history) past(host int64, p *wave.Pair) error {
	gap := max(h.looksA, 1)
	for _, w := range h.earlier {
		seen, err := h.seen(w.id, host)
		if err != nil {
			return err
		}
		p.Earlier = append(p.Earlier, seen)
		switch {
		case p.Before != nil || p.Last != nil:
		case seen == "":
			gap += max(w.looks, 1)
		default:
			if p.Last, err = h.state(w.id, host); err != nil {
				return err
			}
			p.Gap = gap
		}
	}
	return nil
}

// carry yields the hosts that neither a nor b saw, from the waves before a that
// are not too many looks ago.
func (h *history) carry(tx *sql.Tx, looks int, yield func(wave.Pair) error) error {
	since := 0
	for _, w := range h.between {
		since += max(w.looks, 1)
	}
	gap := max(h.looksA, 1)
	for i, w := range h.earlier {
		if gap >= looks {
			break
		}
		rows, err := h.store.each(h.ctx, tx, h.store.q.carried, h.a, h.b, w.id, indexOf(outcomes, finding.Open))
		if err != nil {
			return err
		}
		err = func() error {
			defer rows.Close()
			for rows.Next() {
				var host int64
				if err := rows.Scan(&host); err != nil {
					return err
				}
				later := false // one that saw it comes first, and has it
				for _, l := range h.earlier[:i] {
					seen, err := h.seen(l.id, host)
					if err != nil {
						return err
					}
					later = later || seen != ""
				}
				for _, l := range h.between {
					seen, err := h.seen(l.id, host)
					if err != nil {
						return err
					}
					later = later || seen != ""
				}
				if later {
					continue
				}
				p := wave.Pair{Unseen: gap + since}
				if err := h.past(host, &p); err != nil {
					return err
				}
				if err := yield(p); err != nil {
					return err
				}
			}
			return rows.Err()
		}()
		if err != nil {
			return err
		}
		gap += max(w.looks, 1)
	}
	return nil
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
	return stateOf(number, host, packed)
}

func stateOf(number, host int64, packed []byte) (*wave.State, error) {
	var k sketch
	if err := unpack(packed, &k); err != nil {
		return nil, fmt.Errorf("wave %d, host %d: %w", number, host, err)
	}
	s := k.state()
	return &s, nil
}

// Both is how many places two waves both found open.
func (s *Store) Both(a, b int64) (n uint64, err error) {
	open := indexOf(outcomes, finding.Open)
	err = s.read(func(ctx context.Context, tx *sql.Tx) error {
		return tx.QueryRowContext(ctx, `SELECT count(*) FROM seen a JOIN seen b ON b.wave = $2 AND b.host = a.host WHERE a.wave = $1 AND a.outcome = $3 AND b.outcome = $3`, a, b, open).Scan(&n)
	})
	return n, err
}
