package store

import (
	"context"
	"database/sql"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"gatehouse/internal/store/postgrestest"
)

// TestPlans holds that what is asked of PostgreSQL about waves of 100,000 hosts
// is answered from an index, and from the partitions of those waves alone.
func TestPlans(t *testing.T) {
	s, err := Open(postgrestest.Database(t))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	const hosts = 100_000
	ctx := t.Context()
	if _, err := s.slow.ExecContext(ctx, `INSERT INTO hosts (address, port, name, path) SELECT decode(lpad(to_hex(n), 8, '0'), 'hex'), 11434, '', '' FROM generate_series(1, $1::int) n`, hosts); err != nil {
		t.Fatal(err)
	}
	for number := range int64(4) {
		number++
		err := s.write(func(ctx context.Context, tx *sql.Tx) error {
			_, err := tx.ExecContext(ctx, `INSERT INTO waves (name, scope, source, plan, covers, seed, looks, started, ended, mark, method, summary, tally, watched) VALUES ($1, 'acme', 'scan', '', '', 0, 1, $2, 1, '', '', '', '', '')`, fmt.Sprint(number), number)
			if err != nil {
				return err
			}
			return s.begun(ctx, tx, number)
		})
		if err != nil {
			t.Fatal(err)
		}
		if number == 4 { // is there to be left alone
			continue
		}
		// One in a hundred is not seen, one in fifty says something else.
		for _, q := range []string{
			`INSERT INTO seen SELECT $1::bigint, n, n, 0, 0, 4, 1, CASE WHEN n % 50 = 0 THEN $1::bigint ELSE n END, '0.17.4', 'DE', 24940, 'Hetzner' FROM generate_series(1, 100000) n WHERE n % 100 <> $1::bigint`,
			`INSERT INTO said SELECT $1::bigint * 1099511627776 + n, '\x00'::bytea, '\x00'::bytea FROM generate_series(1, 100000) n WHERE n % 100 <> $1::bigint`,
		} {
			if _, err := s.slow.ExecContext(ctx, q, number); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.ended(number); err != nil {
			t.Fatal(err)
		}
	}
	for what, q := range map[string]struct {
		query string
		args  []any
	}{
		"diff":          {s.q.pairs, []any{2, 3, saidID(2, 0), saidID(3, 0)}},
		"carried":       {s.q.carried, []any{2, 3, 1, 0}},
		"outcome":       {outcomeIn, []any{2, 77}},
		"record":        {recordOf, []any{saidID(2, 77)}},
		"records":       {allRecords, []any{saidID(2, 0), saidID(3, 0)}},
		"rejudge":       {allSaid, []any{saidID(2, 0), saidID(3, 0), 2, saidID(2, 500), 1000}},
		"forget, host":  {`SELECT id FROM hosts WHERE address = $1`, []any{[]byte{0, 0, 0, 77}}},
		"forget, seen":  {`SELECT wave, host FROM seen WHERE wave = ANY($1) AND host IN (SELECT id FROM hosts WHERE address = $2)`, []any{[]int64{1, 2, 3}, []byte{0, 0, 0, 77}}},
		"known hosts":   {hostsOf, []any{[][]byte{{0, 0, 0, 77}}, []int32{11434}, [][]byte{{}}, [][]byte{{}}}},
		"observation":   {`DELETE FROM seen WHERE wave = $1 AND host = ANY($2)`, []any{2, []int64{77}}},
		"what was said": {`DELETE FROM said WHERE id = ANY($1) AND id >= $2 AND id < $3`, []any{[]int64{saidID(2, 77)}, saidID(2, 0), saidID(3, 0)}},
	} {
		rows, err := s.db.QueryContext(ctx, `EXPLAIN (COSTS OFF) `+q.query, q.args...)
		if err != nil {
			t.Errorf("%s: %v", what, err)
			continue
		}
		var plan []string
		for rows.Next() {
			var line string
			if err := rows.Scan(&line); err != nil {
				t.Fatal(err)
			}
			plan = append(plan, line)
		}
		if err := rows.Err(); err != nil {
			t.Fatal(err)
		}
		text := strings.Join(plan, "\n")
		if strings.Contains(text, "Seq Scan") || !strings.Contains(text, "Index") {
			t.Errorf("%s reads a whole table:\n%s", what, text)
		}
		for _, other := range []string{"seen_4", "said_4"} {
			if strings.Contains(text, other) {
				t.Errorf("%s looks at a wave that was not asked for:\n%s", what, text)
			}
		}
		if strings.Contains(text, "Sort") && (what == "records" || what == "rejudge") {
			t.Errorf("%s sorts what an index has in order:\n%s", what, text)
		}
	}
}

// engines are how a test opens an empty store of each kind.
var engines = map[string]func(*testing.T) string{
	"sqlite":   func(t *testing.T) string { return filepath.Join(t.TempDir(), "a.db") },
	"postgres": func(t *testing.T) string { return postgrestest.Database(t) },
}

// upTo are the migrations of a kind up to a level, with more on top.
func upTo(t *testing.T, kind string, level int, more map[string]string) fs.FS {
	t.Helper()
	all, err := fs.Glob(migrations, "migrations/"+kind+"/*.sql")
	if err != nil || len(all) < level {
		t.Fatal(all, err)
	}
	files := make(fstest.MapFS)
	for _, name := range all[:level] {
		text, err := migrations.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		files[filepath.Base(name)] = &fstest.MapFile{Data: text}
	}
	for name, text := range more {
		files[name] = &fstest.MapFile{Data: []byte(text)}
	}
	return files
}

// blank is a store of a kind whose tables the test makes.
func blank(t *testing.T, kind string) (s *Store, dsn string) {
	t.Helper()
	dsn = engines[kind](t)
	if kind == "sqlite" {
		e := &sqliteEngine{path: dsn}
		s = &Store{place: dsn, engine: e, q: sqliteDialect}
		db, err := sql.Open("sqlite", dsn)
		if err != nil {
			t.Fatal(err)
		}
		e.db, s.db, s.slow = db, db, db
	} else {
		db, err := sql.Open("pgx", dsn)
		if err != nil {
			t.Fatal(err)
		}
		s = &Store{place: dsn, engine: &postgresEngine{db: db, slow: db}, q: postgresDialect, db: db, slow: db}
	}
	t.Cleanup(func() { _ = s.Close() }) // again, where the test did
	return s, dsn
}

// columnsIn are the columns of a store with their types, and whether an INSERT
// that does not know them fails.
func columnsIn(t *testing.T, s *Store) map[string]string {
	t.Helper()
	query := `SELECT m.name || '.' || p.name, p.type, p."notnull" AND p.dflt_value IS NULL AND p.pk = 0 FROM sqlite_schema m, pragma_table_info(m.name) p WHERE m.type = 'table' AND m.name NOT LIKE 'goose%' AND m.name NOT LIKE 'sqlite_%'`
	if s.q.kind == "postgres" {
		query = `SELECT table_name || '.' || column_name, data_type, is_nullable = 'NO' AND column_default IS NULL AND is_identity = 'NO' FROM information_schema.columns WHERE table_schema = current_schema() AND table_name NOT LIKE 'goose%'`
	}
	rows, err := s.db.QueryContext(t.Context(), query)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	all := make(map[string]string)
	for rows.Next() {
		var name, kind string
		var needed bool
		if err := rows.Scan(&name, &kind, &needed); err != nil {
			t.Fatal(err)
		}
		if needed {
			kind += " needed"
		}
		all[name] = kind
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return all
}

// TestExpand holds every migration to the rule for two releases at once: from the
// level that it says is old enough on, nothing goes and nothing new is asked for.
func TestExpand(t *testing.T) {
	for kind := range engines {
		t.Run(kind, func(t *testing.T) {
			s, _ := blank(t, kind)
			all, err := fs.Glob(migrations, "migrations/"+kind+"/*.sql")
			if err != nil {
				t.Fatal(err)
			}
			was := make(map[int64]map[string]string)
			for n := range all {
				level := int64(n + 1)
				if err := s.migrateBy(t.Context(), upTo(t, kind, n+1, nil)); err != nil {
					t.Fatal(err)
				}
				now := columnsIn(t, s)
				was[level] = now
				if level < 4 {
					continue
				}
				var said, since int64
				var copying sql.NullString
				if err := s.db.QueryRowContext(t.Context(), levelOf).Scan(&said, &since, &copying); err != nil || said != level || since > level {
					t.Errorf("migration %d says that it is level %d, and who knows %d may use it: %v", level, said, since, err)
				}
				for old := since; old < level; old++ {
					for column, kind := range was[old] {
						if now[column] != kind {
							t.Errorf("migration %d makes of %s %q, which level %d has as %q, and says that programs of that level may go on", level, column, now[column], old, kind)
						}
					}
					for column, kind := range now {
						table, _, _ := strings.Cut(column, ".")
						known := slices.ContainsFunc(slices.Collect(maps.Keys(was[old])), func(c string) bool { return strings.HasPrefix(c, table+".") })
						if _, ok := was[old][column]; !ok && known && strings.HasSuffix(kind, " needed") {
							t.Errorf("migration %d adds %s, without which level %d writes", level, column, old)
						}
					}
				}
			}
			other := map[string]string{"sqlite": "postgres", "postgres": "sqlite"}[kind]
			same, err := fs.Glob(migrations, "migrations/"+other+"/*.sql")
			if err != nil || len(same) != len(all) {
				t.Errorf("%d migrations, and %d of the other kind: %v", len(all), len(same), err)
			}
		})
	}
}

// What a later release might bring: what this one does not know, and does not
// need to.
const (
	expands = `-- +goose Up
ALTER TABLE keys ADD COLUMN colour TEXT NOT NULL DEFAULT 'red';
ALTER TABLE waves ADD COLUMN mood TEXT;
CREATE TABLE later (id BIGINT PRIMARY KEY);
CREATE INDEX hosts_port ON hosts (port);
UPDATE compatible SET level = 5, since = 4;
`
	contracts = `-- +goose Up
ALTER TABLE waves DROP COLUMN watched;
UPDATE compatible SET level = 6, since = 5;
`
)

// TestTwoReleases has this release work on a store that the next one has brought
// up to date: before and after, with what it had open and what it opens. What
// the one after that takes away is waited for with it.
func TestTwoReleases(t *testing.T) {
	for kind := range engines {
		t.Run(kind, func(t *testing.T) {
			dsn := engines[kind](t)
			before, err := Open(dsn)
			if err != nil {
				t.Fatal(err)
			}
			defer before.Close()
			level := int(before.state.At)
			next := upTo(t, kind, level, map[string]string{"00005_next.sql": expands})
			if err := before.alone(func(ctx context.Context) error {
				later := &Store{db: before.db, slow: before.slow, engine: before.engine, q: before.q}
				return later.migrateBy(ctx, next)
			}); err != nil {
				t.Fatal(err)
			}
			after, err := Open(dsn)
			if err != nil {
				t.Fatalf("this release is refused, though the next one lets it: %v", err)
			}
			defer after.Close()
			if after.state.At != 5 || after.state.Since != 4 {
				t.Errorf("%+v", after.state)
			}
			for i, s := range []*Store{before, after} {
				exercise(t, s, fmt.Sprint("wave ", i))
			}
			// The next release reads what this one wrote.
			var red, open int
			if err := after.db.QueryRowContext(t.Context(), `SELECT (SELECT count(*) FROM keys WHERE colour = 'red'), (SELECT count(*) FROM waves WHERE mood IS NULL)`).Scan(&red, &open); err != nil || red != 2 || open != 2 {
				t.Errorf("%d keys and %d waves, %v", red, open, err)
			}
			if err := before.alone(func(ctx context.Context) error {
				later := &Store{db: before.db, slow: before.slow, engine: before.engine, q: before.q}
				return later.migrateBy(ctx, upTo(t, kind, level, map[string]string{"00005_next.sql": expands, "00006_last.sql": contracts}))
			}); err != nil {
				t.Fatal(err)
			}
			if _, err := Open(dsn); err == nil || !strings.Contains(err.Error(), ErrLater.Error()) {
				t.Errorf("the store lacks what this release needs, and is opened: %v", err)
			}
		})
	}
}

// TestLevelBefore opens a store of the release before: it is brought up to date,
// and what that release had left there is there.
func TestLevelBefore(t *testing.T) {
	for kind := range engines {
		t.Run(kind, func(t *testing.T) {
			old, dsn := blank(t, kind)
			if err := old.migrateBy(t.Context(), upTo(t, kind, 3, nil)); err != nil {
				t.Fatal(err)
			}
			if _, err := old.db.ExecContext(t.Context(), `INSERT INTO watches (name, every, next, told, failures, failed, trouble) VALUES ('acme', 1, 2, 3, 0, 0, '')`); err != nil {
				t.Fatal(err)
			}
			s, err := Open(dsn)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			if s.state.Was != 3 || s.state.At != 4 {
				t.Errorf("%+v", s.state)
			}
			if w, err := s.Watch("acme"); err != nil || w.Told != 3 {
				t.Errorf("%+v, %v", w, err)
			}
			exercise(t, s, "a")
			// The release before goes on with its own words.
			if _, err := old.db.ExecContext(t.Context(), upsertWatch, "acme", 1, 2, 4, 0, 0, ""); err != nil {
				t.Error(err)
			}
			if w, err := s.Watch("acme"); err != nil || w.Told != 4 {
				t.Errorf("%+v, %v", w, err)
			}
		})
	}
}

// TestCopyAll holds what Copy copies to what a store has.
func TestCopyAll(t *testing.T) {
	for kind := range engines {
		t.Run(kind, func(t *testing.T) {
			s, err := Open(engines[kind](t))
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			want := columnsIn(t, s)
			for _, table := range tables {
				for _, c := range table.columns {
					name := table.name + "." + c.name
					if _, ok := want[name]; !ok {
						t.Errorf("there is no %s", name)
					}
					delete(want, name)
				}
			}
			for name := range want {
				if !strings.HasPrefix(name, "compatible.") && !strings.HasPrefix(name, "copying.") {
					t.Errorf("%s is not copied", name)
				}
			}
		})
	}
}
