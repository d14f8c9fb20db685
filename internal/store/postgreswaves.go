package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"

	"gatehouse/internal/wave"
)

// What a wave's hosts said is found by a subquery for each: a join may be planned
// as a pass over all that was said, for what two waves differ in is not known
// before. Its bounds are there so that no other wave's partition is planned for.
var postgresDialect = dialect{
	kind: "postgres", reading: &sql.TxOptions{ReadOnly: true, Isolation: sql.LevelRepeatableRead},

	pairs: `
	SELECT d.host, (SELECT record FROM said WHERE id = $3 + d.host AND id >= $3 AND id < $3 + 1099511627776),
		(SELECT record FROM said WHERE id = $4 + d.host AND id >= $4 AND id < $4 + 1099511627776) FROM (
		SELECT a.host FROM seen a LEFT JOIN seen b ON b.wave = $2 AND b.host = a.host
		WHERE a.wave = $1 AND b.state IS DISTINCT FROM a.state ORDER BY a.host) d
	UNION ALL
	SELECT d.host, NULL, (SELECT record FROM said WHERE id = $4 + d.host AND id >= $4 AND id < $4 + 1099511627776) FROM (
		SELECT b.host FROM seen b WHERE b.wave = $2
			AND NOT EXISTS (SELECT 1 FROM seen a WHERE a.wave = $1 AND a.host = b.host) ORDER BY b.host) d`,
	carried: carried + ` ORDER BY e.host`,

	openSaid: `SELECT s.host, record, evidence FROM seen s JOIN said ON said.id = $1 + s.host AND said.id >= $1 AND said.id < $1 + 1099511627776
		WHERE s.wave = $2 AND s.outcome = $3 AND NOT EXISTS (SELECT 1 FROM looks l WHERE l.wave = s.wave AND l.host = s.host AND l.look = $4) ORDER BY s.host`,
	lateSeen: `SELECT pos, record FROM seen JOIN said ON said.id = $1 + host AND said.id >= $1 AND said.id < $1 + 1099511627776
		WHERE wave = $2 AND (pos >= $3 OR pos < 0)`,
	dropNamed: `DELETE FROM letters WHERE strpos(body, $1) > 0 OR strpos(data, $1) > 0`,

	insertFinding: `SELECT gatehouse_finding($1)`, // two at the same time would give the same bit
	dropping:      10 * time.Minute,
}

// Who keeps observations shares this lock; who deletes hosts has it alone, for a
// host must not go while somebody is about to say that it was seen.
const (
	shareHosts = `SELECT pg_advisory_xact_lock_shared(hashtextextended(current_schema() || ' gatehouse hosts', 0))`
	takeHosts  = `SELECT pg_advisory_xact_lock(hashtextextended(current_schema() || ' gatehouse hosts', 0))`
)

// begun makes the partitions of a wave. They are made beside the tables and then
// attached, which lets those who read go on; to create them as partitions would
// wait for all of them.
func (*postgresEngine) begun(ctx context.Context, tx *sql.Tx, number int64) error {
	n, first, end := strconv.FormatInt(number, 10), strconv.FormatInt(saidID(number, 0), 10), strconv.FormatInt(saidID(number+1, 0), 10)
	_, err := tx.ExecContext(ctx, `CREATE TABLE seen_`+n+` (LIKE seen INCLUDING ALL, CHECK (wave = `+n+`));
		CREATE TABLE said_`+n+` (LIKE said INCLUDING ALL, CHECK (id >= `+first+` AND id < `+end+`));
		ALTER TABLE seen ATTACH PARTITION seen_`+n+` FOR VALUES IN (`+n+`);
		ALTER TABLE said ATTACH PARTITION said_`+n+` FOR VALUES FROM (`+first+`) TO (`+end+`)`)
	return err
}

const (
	hostsOf = `SELECT w.n, h.id FROM unnest($1::bytea[], $2::int[], $3::bytea[], $4::bytea[]) WITH ORDINALITY w(address, port, name, path, n)
		JOIN hosts h USING (address, port, name, path)`
	insertHosts = `INSERT INTO hosts (address, port, name, path)
		SELECT address, port, name, path FROM unnest($1::bytea[], $2::int[], $3::bytea[], $4::bytea[]) WITH ORDINALITY w(address, port, name, path, n)
		ORDER BY n ON CONFLICT DO NOTHING`
)

// places are hosts as they are asked for, a column each.
type places struct {
	address [][]byte
	port    []int32
	name    [][]byte
	path    [][]byte
	of      []int // which row
}

func (p *places) args() []any { return []any{p.address, p.port, p.name, p.path} }

// insert keeps observations by COPY. What is there of them already, of a run
// before, goes first.
func (e *postgresEngine) insert(ctx context.Context, w *Wave, tx *sql.Tx, rows func(int) *row, list []wave.Observation) error {
	// Only the last of a place counts.
	at := make(map[string]int, len(list))
	for i := range list {
		r := rows(i)
		if r.err != nil {
			return r.err
		}
		at[fmt.Sprint(r.place...)] = i
	}
	var want places
	masks := make(map[int]int64, len(at))
	for i := range list {
		r := rows(i)
		if at[fmt.Sprint(r.place...)] != i {
			continue
		}
		mask, err := w.mask(ctx, tx, list[i].Record.Findings)
		if err != nil {
			return err
		}
		masks[i] = mask
		want.add(r.place, i)
	}
	if len(want.of) == 0 {
		return nil
	}
	return w.conn.Raw(func(driverConn any) error {
		conn := driverConn.(*stdlib.Conn).Conn()
		if _, err := conn.Exec(ctx, shareHosts); err != nil {
			return err
		}
		hosts, err := hostIDs(ctx, conn, want)
		if err != nil {
			return err
		}
		ids := make([]int64, 0, len(hosts))
		saids := make([]int64, 0, len(hosts))
		for _, i := range want.of {
			ids, saids = append(ids, hosts[i]), append(saids, saidID(w.Info.Number, hosts[i]))
		}
		if _, err := conn.Exec(ctx, `DELETE FROM seen WHERE wave = $1 AND host = ANY($2)`, w.Info.Number, ids); err != nil {
			return err
		}
		if _, err := conn.Exec(ctx, `DELETE FROM said WHERE id = ANY($1) AND id >= $2 AND id < $3`, saids, saidID(w.Info.Number, 0), saidID(w.Info.Number+1, 0)); err != nil {
			return err
		}
		n := strconv.FormatInt(w.Info.Number, 10)
		_, err = conn.CopyFrom(ctx, pgx.Identifier{"seen_" + n},
			[]string{"wave", "host", "pos", "at", "outcome", "severity", "findings", "state", "version", "country", "asn", "provider"},
			pgx.CopyFromSlice(len(ids), func(k int) ([]any, error) {
				r := rows(want.of[k])
				seen := append([]any{w.Info.Number, ids[k]}, r.seen...)
				seen[6] = masks[want.of[k]]
				return seen, nil
			}))
		if err != nil {
			return err
		}
		_, err = conn.CopyFrom(ctx, pgx.Identifier{"said_" + n}, []string{"id", "record", "evidence"},
			pgx.CopyFromSlice(len(ids), func(k int) ([]any, error) {
				r := rows(want.of[k])
				return []any{saids[k], r.rec, r.said}, nil
			}))
		return err
	})
}

func (p *places) add(place []any, i int) {
	p.address = append(p.address, place[0].([]byte))
	p.port = append(p.port, int32(place[1].(int64)))
	p.name = append(p.name, []byte(place[2].(string)))
	p.path = append(p.path, []byte(place[3].(string)))
	p.of = append(p.of, i)
}

// hostIDs are the numbers of hosts by their row; new ones get theirs in the order
// of the rows.
func hostIDs(ctx context.Context, conn *pgx.Conn, want places) (map[int]int64, error) {
	ids := make(map[int]int64, len(want.of))
	find := func(p *places) error {
		rows, err := conn.Query(ctx, hostsOf, p.args()...)
		if err != nil {
			return err
		}
		var n, id int64
		_, err = pgx.ForEachRow(rows, []any{&n, &id}, func() error {
			ids[p.of[n-1]] = id
			return nil
		})
		return err
	}
	if err := find(&want); err != nil {
		return nil, err
	}
	var missing places
	for k, i := range want.of {
		if _, ok := ids[i]; !ok {
			missing.address = append(missing.address, want.address[k])
			missing.port = append(missing.port, want.port[k])
			missing.name = append(missing.name, want.name[k])
			missing.path = append(missing.path, want.path[k])
			missing.of = append(missing.of, i)
		}
	}
	if len(missing.of) == 0 {
		return ids, nil
	}
	if _, err := conn.Exec(ctx, insertHosts, missing.args()...); err != nil {
		return nil, err
	}
	if err := find(&missing); err != nil {
		return nil, err
	}
	if len(ids) != len(want.of) {
		return nil, errors.New("a host that was kept is not there")
	}
	return ids, nil
}

// again reports whether the same has a chance when it is asked again: somebody
// else was in the way.
func again(err error) bool {
	e := new(pgconn.PgError)
	return errors.As(err, &e) && (e.Code == "40P01" || e.Code == "40001" || e.Code == "23505")
}

// ended has PostgreSQL count what a wave has, so that it plans by it, and mark
// what nobody changes any more, so that a comparison reads the index alone.
func (e *postgresEngine) ended(number int64) error {
	n := strconv.FormatInt(number, 10)
	for _, table := range []string{"seen_" + n, "said_" + n, "hosts"} {
		if _, err := e.slow.ExecContext(context.Background(), `VACUUM (ANALYZE) `+table); err != nil {
			return err
		}
	}
	return nil
}

func (*postgresEngine) dropWave(ctx context.Context, tx *sql.Tx, number int64) error {
	n := strconv.FormatInt(number, 10)
	for _, q := range []struct {
		text string
		args []any
	}{
		{`SET LOCAL statement_timeout = 0`, nil}, // of many waves it takes long to find which hosts no other has
		{takeHosts, nil},
		{`CREATE TEMPORARY TABLE leaving ON COMMIT DROP AS SELECT host FROM seen_` + n, nil},
		{`ANALYZE leaving`, nil},
		{dropLooks, []any{number}},
		{dropWave, []any{number}},
		{`DROP TABLE seen_` + n + `, said_` + n, nil},
		{`DELETE FROM hosts h USING leaving l WHERE h.id = l.host AND NOT EXISTS (SELECT 1 FROM seen s WHERE s.host = l.host)`, nil},
	} {
		if _, err := tx.ExecContext(ctx, q.text, q.args...); err != nil {
			return err
		}
	}
	return nil
}

// seenAt asks for some hundred waves at a time, for each one that is asked for is
// locked, and the server has room for some thousand locks.
func (e *postgresEngine) seenAt(ctx context.Context, tx *sql.Tx, address []byte) (list [][2]int64, err error) {
	if _, err := tx.ExecContext(ctx, takeHosts); err != nil {
		return nil, err
	}
	const some = 200
	for after := int64(-1); ; {
		var waves []int64
		rows, err := e.db.QueryContext(ctx, `SELECT id FROM waves WHERE id > $1 ORDER BY id LIMIT $2`, after, some)
		if err != nil {
			return nil, err
		}
		for rows.Next() {
			var id int64
			if err := rows.Scan(&id); err != nil {
				return nil, errors.Join(err, rows.Close())
			}
			waves, after = append(waves, id), id
		}
		if err := errors.Join(rows.Err(), rows.Close()); err != nil {
			return nil, err
		}
		if len(waves) == 0 {
			return list, nil
		}
		rows, err = e.db.QueryContext(ctx, `SELECT wave, host FROM seen WHERE wave = ANY($1) AND host IN (SELECT id FROM hosts WHERE address = $2)`, waves, address)
		if err != nil {
			return nil, err
		}
		more, err := twoNumbers(rows)
		if err != nil {
			return nil, err
		}
		list = append(list, more...)
	}
}

// shred gives the room of what was deleted free, to be written over. The log and
// the backups of the server keep it for as long as they are kept.
func (e *postgresEngine) shred(waves []int64) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	tables := []string{"hosts", "notes", "letters", "looks"}
	for _, number := range waves {
		n := strconv.FormatInt(number, 10)
		tables = append(tables, "seen_"+n, "said_"+n)
	}
	for _, table := range tables {
		if _, err := e.slow.ExecContext(ctx, `VACUUM `+table); err != nil {
			return err
		}
	}
	return nil
}
