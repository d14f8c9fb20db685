package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"iter"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"github.com/go-json-experiment/json"

	"gatehouse/internal/evidence"
	"gatehouse/internal/finding"
	"gatehouse/internal/wave"
)

// ErrNoWave says that there is no such wave.
var ErrNoWave = errors.New("no such wave")

// All that is asked of the database about waves. Positions and seeds are kept
// as signed numbers with the same bits.
const (
	selectWaves = `SELECT id, name, scope, source, plan, covers, seed, looks, started, ended, method, summary, tally, watched, mark FROM waves`
	waveByID    = selectWaves + ` WHERE id = $1`
	waveByName  = selectWaves + ` WHERE name = $1`
	allWaves    = selectWaves + ` WHERE scope = $1 OR $1 = '' ORDER BY id`
	openWave    = selectWaves + ` WHERE ended = 0 AND source = $1 AND scope = $2 AND plan = $3 AND started >= $4 ORDER BY id DESC LIMIT 1`
	insertWave  = `INSERT INTO waves (name, scope, source, plan, covers, seed, looks, started, ended, mark, method, summary, tally, watched) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 0, '', $9, '', '', '') RETURNING id`
	markWave    = `UPDATE waves SET mark = $2 WHERE id = $1`
	endWave     = `UPDATE waves SET started = $8, ended = $2, looks = $3, method = $4, summary = $5, tally = $6, watched = $7 WHERE id = $1`
	tallyWave   = `UPDATE waves SET tally = $2 WHERE id = $1`
	dropWave    = `DELETE FROM waves WHERE id = $1`
	dropSeen    = `DELETE FROM seen WHERE wave = $1`
	dropLooks   = `DELETE FROM looks WHERE wave = $1`
	dropSaid    = `DELETE FROM said WHERE id >= $1 AND id < $2`
	dropHosts   = `DELETE FROM hosts WHERE NOT EXISTS (SELECT 1 FROM seen WHERE seen.host = hosts.id)`

	hostOf     = `SELECT id FROM hosts WHERE address = $1 AND port = $2 AND name = $3 AND path = $4`
	insertHost = `INSERT INTO hosts (address, port, name, path) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING RETURNING id`
	upsertSeen = `INSERT INTO seen (wave, host, pos, at, outcome, severity, findings, state, version, country, asn, provider)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
		ON CONFLICT (wave, host) DO UPDATE SET pos = excluded.pos, at = excluded.at, outcome = excluded.outcome,
		severity = excluded.severity, findings = excluded.findings, state = excluded.state, version = excluded.version,
		country = excluded.country, asn = excluded.asn, provider = excluded.provider`
	upsertSaid = `INSERT INTO said (id, record, evidence) VALUES ($1, $2, $3)
		ON CONFLICT (id) DO UPDATE SET record = excluded.record, evidence = excluded.evidence`
	updateSaid = `UPDATE said SET record = $2 WHERE id = $1`

	allRecords = `SELECT id, record FROM said WHERE id >= $1 AND id < $2 ORDER BY id`
	allSaid    = `SELECT said.id, record, evidence, pos FROM said JOIN seen ON seen.wave = $3 AND seen.host = said.id - $1 WHERE said.id >= $1 AND said.id < $2 AND said.id > $4 ORDER BY said.id LIMIT $5`
	lateSeen   = `SELECT pos, record FROM seen JOIN said ON said.id = $1 + host WHERE wave = $2 AND (pos >= $3 OR pos < 0)`

	allFindings   = `SELECT bit, id FROM findings`
	insertFinding = `INSERT INTO findings (bit, id) SELECT count(*), $1 FROM findings HAVING count(*) < 63 AND NOT EXISTS (SELECT 1 FROM findings WHERE id = $1)`
)

// saidID is the key of what was said by a host in a wave; the hosts of a wave
// are together.
func saidID(wave, host int64) int64 { return wave<<40 | host }

// outcomes are the outcomes by the number under which they are kept. The order
// never changes; a new one goes to the end.
var outcomes = []finding.Outcome{
	finding.Open, finding.Guarded, finding.Lookalike, finding.Honeypot, finding.Broken,
	finding.Other, finding.Silent, finding.Refused,
}

var severities = []finding.Severity{finding.None, finding.Low, finding.Medium, finding.High, finding.Critical}

func scanInfo(row interface{ Scan(...any) error }) (i wave.Info, mark string, err error) {
	var seed, started, ended int64
	var method, summary, tally, watched string
	err = row.Scan(&i.Number, &i.Name, &i.Scope, &i.Source, &i.Plan, &i.Covers, &seed, &i.Looks, &started, &ended, &method, &summary, &tally, &watched, &mark)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return i, "", theirs{ErrNoWave}
	case err != nil:
		return i, "", err
	}
	i.Seed, i.Started, i.Ended = uint64(seed), atMilli(started), atMilli(ended)
	for _, part := range []struct {
		text string
		to   any
	}{{method, &i.Method}, {summary, &i.Summary}, {tally, &i.Tally}, {watched, &i.Watched}} {
		if part.text == "" {
			continue
		}
		if err := json.Unmarshal([]byte(part.text), part.to); err != nil {
			return i, "", fmt.Errorf("wave %d: %w: %w", i.Number, ErrDamaged, err)
		}
	}
	return i, mark, nil
}

func atMilli(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms).UTC()
}

// Waves are the waves of a scope, of all scopes for "", the oldest first.
func (s *Store) Waves(scope string) (list []wave.Info, err error) {
	err = s.read(func(ctx context.Context, tx *sql.Tx) error {
		rows, err := tx.QueryContext(ctx, allWaves, scope)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			i, _, err := scanInfo(rows)
			if err != nil {
				return err
			}
			list = append(list, i)
		}
		return rows.Err()
	})
	return list, err
}

// Wave is the wave with a number or a name, or ErrNoWave. "last" is the newest.
func (s *Store) Wave(which string) (i wave.Info, err error) {
	err = s.read(func(ctx context.Context, tx *sql.Tx) error {
		row := tx.QueryRowContext(ctx, waveByName, which)
		if n, notNumber := strconv.ParseInt(which, 10, 64); notNumber == nil {
			row = tx.QueryRowContext(ctx, waveByID, n)
		} else if which == "last" {
			row = tx.QueryRowContext(ctx, selectWaves+` ORDER BY id DESC LIMIT 1`)
		}
		i, _, err = scanInfo(row)
		return err
	})
	return i, err
}

// MaxAge is how old a wave that did not come to its end may be to be taken up
// again: older, its hosts would be of two times that say different things.
const MaxAge = 7 * 24 * time.Hour

// Unfinished is the newest wave of a plan that did not come to its end and
// began in the week before now, or ErrNoWave.
func (s *Store) Unfinished(source, scope, plan string, now time.Time) (i wave.Info, err error) {
	err = s.read(func(ctx context.Context, tx *sql.Tx) error {
		i, _, err = scanInfo(tx.QueryRowContext(ctx, openWave, source, scope, plan, now.Add(-MaxAge).UnixMilli()))
		return err
	})
	return i, err
}

// Begin begins a wave. Its Number is the store's to give; what says how it
// ended is left out.
func (s *Store) Begin(i wave.Info) (*Wave, error) {
	method, err := json.Marshal(i.Method)
	if err != nil {
		return nil, err
	}
	err = s.write(func(ctx context.Context, tx *sql.Tx) error {
		if err := tx.QueryRowContext(ctx, insertWave, i.Name, i.Scope, i.Source, i.Plan, i.Covers, int64(i.Seed), max(i.Looks, 1), i.Started.UnixMilli(), string(method)).Scan(&i.Number); err != nil {
			return err
		}
		return s.begun(ctx, tx, i.Number)
	})
	if err != nil {
		return nil, err
	}
	return s.Continue(i)
}

// Continue takes up a wave that did not come to its end. Only one process at a
// time can.
func (s *Store) Continue(i wave.Info) (*Wave, error) {
	lease, err := s.lock(fmt.Sprintf("wave %d", i.Number))
	if err != nil {
		return nil, s.failed(fmt.Errorf("wave %d: %w", i.Number, err))
	}
	w := &Wave{Info: i, store: s, lease: lease}
	err = s.read(func(ctx context.Context, tx *sql.Tx) error {
		_, mark, err := scanInfo(tx.QueryRowContext(ctx, waveByID, i.Number))
		if err != nil {
			return err
		}
		if mark != "" {
			if err := json.Unmarshal([]byte(mark), &w.mark); err != nil {
				return fmt.Errorf("wave %d: %w: %w", i.Number, ErrDamaged, err)
			}
			w.partial = true
		}
		w.bits, err = bitsOf(ctx, tx)
		return err
	})
	if err != nil {
		return nil, errors.Join(err, lease.free())
	}
	return w, nil
}

// bitsOf are the bits that stand for findings.
func bitsOf(ctx context.Context, tx *sql.Tx) (map[string]int, error) {
	rows, err := tx.QueryContext(ctx, allFindings)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	bits := make(map[string]int)
	for rows.Next() {
		var bit int
		var id string
		if err := rows.Scan(&bit, &id); err != nil {
			return nil, err
		}
		bits[id] = bit
	}
	return bits, rows.Err()
}

// Records yields the records of a wave, in the order in which their hosts were
// first seen in any wave, with the notes on them that hold today.
func (s *Store) Records(number int64) iter.Seq2[wave.Record, error] {
	return func(yield func(wave.Record, error) bool) {
		note, err := s.Noted(time.Now())
		if err != nil {
			yield(wave.Record{}, err)
			return
		}
		// No deadline: whoever reads them says how long that takes.
		rows, err := s.slow.QueryContext(context.Background(), allRecords, saidID(number, 0), saidID(number+1, 0))
		if err != nil {
			yield(wave.Record{}, s.failed(err))
			return
		}
		defer rows.Close()
		for rows.Next() {
			var id int64
			var packed sql.RawBytes
			var r wave.Record
			if err := rows.Scan(&id, &packed); err != nil {
				yield(r, s.failed(err))
				return
			}
			if err := unpack(packed, &r); err != nil {
				err = s.failed(fmt.Errorf("wave %d, host %d: %w", number, id&(1<<40-1), err))
				if !yield(r, err) {
					return
				}
				continue
			}
			note(&r)
			if !yield(r, nil) {
				return
			}
		}
		if err := rows.Err(); err != nil {
			yield(wave.Record{}, s.failed(err))
		}
	}
}

// Forget deletes all that is kept of one address, in every wave, and returns how
// many observations that were (GDPR, Article 17). The statistics of waves that
// ended are sums and stay.
func (s *Store) Forget(addr netip.Addr) (n int, err error) {
	var waves []int64
	addr = addr.Unmap()
	err = s.write(func(ctx context.Context, tx *sql.Tx) error {
		seen, err := s.seenAt(ctx, tx, addr.AsSlice())
		if err != nil {
			return err
		}
		n, waves = len(seen), nil
		for _, wh := range seen {
			waves = append(waves, wh[0])
			for _, q := range []string{`DELETE FROM seen WHERE wave = $1 AND host = $2`, `DELETE FROM looks WHERE wave = $1 AND host = $2`} {
				if _, err := tx.ExecContext(ctx, q, wh[0], wh[1]); err != nil {
					return err
				}
			}
			if _, err := tx.ExecContext(ctx, `DELETE FROM said WHERE id = $1`, saidID(wh[0], wh[1])); err != nil {
				return err
			}
		}
		for _, q := range []string{`DELETE FROM hosts WHERE address = $1`, `DELETE FROM notes WHERE address = $1`} {
			if _, err := tx.ExecContext(ctx, q, addr.AsSlice()); err != nil {
				return err
			}
		}
		_, err = tx.ExecContext(ctx, s.q.dropNamed, addr.String())
		return err
	})
	if err != nil {
		return 0, err
	}
	slices.Sort(waves)
	if err := s.shred(slices.Compact(waves)); err != nil {
		return n, s.failed(err)
	}
	return n, nil
}

// Drop deletes a wave with all its observations.
func (s *Store) Drop(number int64) error {
	s.changing.Lock()
	defer s.changing.Unlock()
	return s.doFor(s.q.dropping, s.db, nil, func(ctx context.Context, tx *sql.Tx) error {
		var name string
		if err := tx.QueryRowContext(ctx, `SELECT name FROM waves WHERE id = $1`, number).Scan(&name); errors.Is(err, sql.ErrNoRows) {
			return theirs{ErrNoWave}
		} else if err != nil {
			return err
		}
		return s.dropWave(ctx, tx, number)
	})
}

// Rejudge judges what a wave heard by other rules, and returns how many records
// changed. The owners stay as they were found.
func (s *Store) Rejudge(number int64, judge func(*evidence.Host) finding.Verdict) (changed int, err error) {
	i, err := s.Wave(strconv.FormatInt(number, 10))
	if err != nil {
		return 0, err
	}
	w, err := s.Continue(i)
	if err != nil {
		return 0, err
	}
	defer w.Close()
	tally := wave.Tally{}
	first, end := saidID(number, 0), saidID(number+1, 0)
	for after := first; ; {
		var list []wave.Observation
		last := after
		err := s.read(func(ctx context.Context, tx *sql.Tx) error {
			rows, err := tx.QueryContext(ctx, allSaid, first, end, number, after, 1000)
			if err != nil {
				return err
			}
			defer rows.Close()
			for rows.Next() {
				var packed, said sql.RawBytes
				var pos int64
				var o wave.Observation
				if err := rows.Scan(&last, &packed, &said, &pos); err != nil {
					return err
				}
				if err := errors.Join(unpack(packed, &o.Record), unpack(said, &o.Host)); err != nil {
					return fmt.Errorf("wave %d, host %d: %w", number, last&(1<<40-1), err)
				}
				o.Pos = uint64(pos)
				list = append(list, o)
			}
			return rows.Err()
		})
		if err != nil {
			return changed, err
		}
		if len(list) == 0 {
			break
		}
		after = last
		var differ []wave.Observation
		for k := range list {
			r := &list[k].Record
			before := wave.StateOf(r)
			// What was imported as a verdict has nothing that could be judged.
			if h := &list[k].Host; len(h.Exchanges) > 0 || h.Reach != evidence.Unasked {
				r.Verdict = judge(h)
			}
			now := wave.StateOf(r)
			if now.Digest() != before.Digest() {
				changed++
			}
			differ = append(differ, list[k])
			tally.Add(r)
		}
		if err := w.Keep(differ); err != nil {
			return changed, err
		}
	}
	text, err := json.Marshal(&tally)
	if err != nil {
		return changed, err
	}
	return changed, s.write(func(ctx context.Context, tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, tallyWave, number, string(text))
		return err
	})
}

// bounds keeps a number in what SQL's BIGINT holds.
func bounds(n uint64) int64 { return int64(min(n, math.MaxInt64)) }

func indexOf[T comparable](list []T, v T) int { return max(slices.Index(list, v), 0) }
