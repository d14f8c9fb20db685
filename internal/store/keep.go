package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/go-json-experiment/json"

	"gatehouse/internal/finding"
	"gatehouse/internal/wave"
)

// Wave is a wave that is being kept. It is a wave.Keeper.
type Wave struct {
	Info wave.Info

	store  *Store
	*lease // nil once it is closed
	mark   wave.Mark
	bits   map[string]int // findings that have a bit already

	looks []lookRow // not written yet

	// tally counts what Keep was given; partial says that an earlier run was
	// given some too, so that End counts anew.
	tally   wave.Tally
	partial bool
}

var _ wave.Keeper = (*Wave)(nil)

// row is one observation as it is written.
type row struct {
	seen      []any // all of upsertSeen but wave and host
	place     []any // of hostOf
	said, rec []byte
	err       error
}

// Keep keeps observations, all or none.
func (w *Wave) Keep(list []wave.Observation) error {
	rows, end := packed(list)
	defer end()
	err := w.write(func(ctx context.Context, tx *sql.Tx) error { return w.store.insert(ctx, w, tx, rows, list) })
	if err != nil {
		return err
	}
	for i := range list {
		w.tally.Add(&list[i].Record)
	}
	return nil
}

// packed packs observations on all cores, ahead of whoever takes them, in their
// order. After end nothing of it goes on.
func packed(list []wave.Observation) (rows func(i int) *row, end func()) {
	const piece = 32
	all := make([]row, len(list))
	done := make([]chan struct{}, (len(list)+piece-1)/piece)
	for i := range done {
		done[i] = make(chan struct{})
	}
	var next atomic.Int64
	var wg sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), len(done)) {
		wg.Go(func() {
			for {
				k := int(next.Add(1)) - 1
				if k >= len(done) {
					return
				}
				for i := k * piece; i < min((k+1)*piece, len(list)); i++ {
					all[i] = rowOfObservation(&list[i])
				}
				close(done[k])
			}
		})
	}
	return func(i int) *row {
		<-done[i/piece]
		return &all[i]
	}, wg.Wait
}

func rowOfObservation(o *wave.Observation) (r row) {
	addr, err := netip.ParseAddr(o.Record.Address)
	if err != nil {
		return row{err: fmt.Errorf("record of %q: %w", o.Record.Address, err)}
	}
	state := wave.StateOf(&o.Record)
	worst := 0
	for _, f := range o.Record.Findings {
		worst = max(worst, indexOf(severities, f.Severity))
	}
	r.place = []any{addr.Unmap().AsSlice(), int64(o.Record.Port), o.Record.Name, o.Record.Path}
	r.seen = []any{
		int64(o.Pos), o.Record.ObservedAt.UnixMilli(), indexOf(outcomes, o.Record.Outcome), worst, int64(0), int64(state.Digest()),
		state.Version, state.Country, int64(state.ASN), state.Provider,
	}
	if r.rec, r.err = pack(&o.Record); r.err == nil {
		r.said, r.err = pack(&o.Host)
	}
	return r
}

func (w *Wave) insert(ctx context.Context, tx *sql.Tx, rows func(int) *row, list []wave.Observation) error {
	// The transaction ends with ctx. That each statement would, too, costs the
	// driver a goroutine for each.
	ctx = context.WithoutCancel(ctx)
	var stmts [4]*sql.Stmt
	for i, q := range []string{hostOf, insertHost, upsertSeen, upsertSaid} {
		s, err := tx.PrepareContext(ctx, q)
		if err != nil {
			return err
		}
		defer s.Close()
		stmts[i] = s
	}
	fresh := 0 // which of the first two is likely to find the host: what found the one before
	for i := range list {
		r := rows(i)
		if r.err != nil {
			return r.err
		}
		mask, err := w.mask(ctx, tx, list[i].Record.Findings)
		if err != nil {
			return err
		}
		r.seen[4] = mask
		var host int64
		err = stmts[fresh].QueryRowContext(ctx, r.place...).Scan(&host)
		if errors.Is(err, sql.ErrNoRows) {
			fresh = 1 - fresh
			err = stmts[fresh].QueryRowContext(ctx, r.place...).Scan(&host)
		}
		if err != nil {
			return err
		}
		if _, err := stmts[2].ExecContext(ctx, append([]any{w.Info.Number, host}, r.seen...)...); err != nil {
			return err
		}
		if _, err := stmts[3].ExecContext(ctx, saidID(w.Info.Number, host), r.rec, r.said); err != nil {
			return err
		}
	}
	return nil
}

// mask is the bits of findings. One that has none yet is given one.
func (w *Wave) mask(ctx context.Context, tx *sql.Tx, findings []finding.Finding) (mask int64, err error) {
	for i := range findings {
		bit, ok := w.bits[findings[i].ID]
		if !ok {
			if _, err := tx.ExecContext(ctx, w.store.q.insertFinding, findings[i].ID); err != nil {
				return 0, err
			}
			if w.bits, err = bitsOf(ctx, tx); err != nil {
				return 0, err
			}
			if bit, ok = w.bits[findings[i].ID]; !ok {
				continue // the 64th kind: it is in the record, and cannot be searched for
			}
		}
		mask |= 1 << bit
	}
	return mask, nil
}

// Resume says what earlier runs of the wave kept.
func (w *Wave) Resume() (wave.Progress, error) {
	p := wave.Progress{Mark: w.mark, Late: make(map[uint64]wave.Counts)}
	// No deadline of its own: a million hosts may have been kept.
	rows, err := w.store.slow.QueryContext(context.Background(), w.store.q.lateSeen, saidID(w.Info.Number, 0), w.Info.Number, bounds(w.mark.At))
	if err != nil {
		return p, w.store.failed(err)
	}
	defer rows.Close()
	for rows.Next() {
		var pos int64
		var packed sql.RawBytes
		var r wave.Record
		if err := rows.Scan(&pos, &packed); err != nil {
			return p, w.store.failed(err)
		}
		if err := unpack(packed, &r); err != nil {
			return p, w.store.failed(fmt.Errorf("wave %d: %w", w.Info.Number, err))
		}
		if uint64(pos) < w.mark.At {
			continue
		}
		var c wave.Counts
		c.Add(&r)
		p.Late[uint64(pos)] = c
		w.partial = true
	}
	if err := rows.Err(); err != nil {
		return p, w.store.failed(err)
	}
	return p, nil
}

// Mark keeps how far the wave got.
func (w *Wave) Mark(m wave.Mark) error {
	if m.At <= w.mark.At {
		return nil
	}
	text, err := json.Marshal(m)
	if err != nil {
		return err
	}
	err = w.write(func(ctx context.Context, tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, markWave, w.Info.Number, string(text))
		return err
	})
	if err == nil {
		w.mark = m
	}
	return err
}

// Records yields what was kept.
func (w *Wave) Records() iter.Seq2[wave.Record, error] { return w.store.Records(w.Info.Number) }

// End says that the wave came to its end, and keeps its statistics with it. What
// Info.Method says of ports, sample, looks and sources is kept with the rest.
func (w *Wave) End(sum wave.Summary) error {
	if w.partial {
		w.tally = wave.Tally{}
		for r, err := range w.Records() {
			if err != nil {
				return err
			}
			w.tally.Add(&r)
		}
	}
	i := &w.Info
	i.Looks = max(i.Looks, 1)
	i.Ended, i.Summary, i.Tally = sum.Ended.UTC(), &sum, &w.tally
	if !sum.Started.IsZero() {
		i.Started = sum.Started.UTC()
	}
	said := i.Method
	i.Method = wave.MethodOf(&sum, &w.tally)
	i.Method.Source, i.Method.Ports, i.Method.Owners = said.Source, said.Ports, said.Owners
	i.Method.Sample, i.Method.Population = said.Sample, said.Population
	i.Method.Looks, i.Method.Every = i.Looks, said.Every
	watched := ""
	if i.Looks > 1 {
		seen, err := w.watched()
		if err != nil {
			return err
		}
		i.Watched = &seen
		text, err := json.Marshal(&seen, json.Deterministic(true))
		if err != nil {
			return err
		}
		watched = string(text)
	}
	var texts [3]string
	for k, v := range []any{&i.Method, &sum, &w.tally} {
		text, err := json.Marshal(v, json.Deterministic(true))
		if err != nil {
			return err
		}
		texts[k] = string(text)
	}
	return w.write(func(ctx context.Context, tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, endWave, i.Number, i.Ended.UnixMilli(), i.Looks, texts[0], texts[1], texts[2], watched, i.Started.UnixMilli())
		return err
	})
}

// Close lets another process take the wave up. The store stays open.
func (w *Wave) Close() error {
	if w.lease == nil {
		return nil
	}
	err := w.flushLooks()
	err = errors.Join(err, w.free())
	w.lease = nil
	return err
}

// Store is where the wave is kept.
func (w *Wave) Store() *Store { return w.store }

// write is the store's, by the connection that holds the wave where one does.
func (w *Wave) write(what func(context.Context, *sql.Tx) error) error {
	if w.lease == nil {
		return w.store.failed(fmt.Errorf("wave %d: it is closed", w.Info.Number))
	}
	for try := 1; ; try++ {
		var err error
		if w.conn == nil {
			err = w.store.write(what)
		} else {
			err = w.store.do(w.conn, nil, what)
		}
		if err == nil {
			return nil
		}
		w.bits = nil // one that was given is taken back
		if try == 3 || !again(err) {
			return err
		}
	}
}
