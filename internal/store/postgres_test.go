package store_test

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"gatehouse/internal/finding"
	"gatehouse/internal/store"
	"gatehouse/internal/store/postgrestest"
	"gatehouse/internal/wave"
)

// TestPostgresRefused opens what is no store, by logins of all kinds: one line,
// which holds no password.
func TestPostgresRefused(t *testing.T) {
	dsn := fresh["PostgreSQL"](t)
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	database := strings.TrimPrefix(u.Path, "/")
	for _, q := range []string{
		`DO $$ BEGIN IF NOT EXISTS (SELECT 1 FROM pg_roles WHERE rolname = 'gatehouse_test_guest') THEN CREATE ROLE gatehouse_test_guest LOGIN; END IF; END $$`,
		`REVOKE ALL ON SCHEMA public FROM PUBLIC`,
		`GRANT USAGE ON SCHEMA public TO gatehouse_test_guest`,
		`CREATE DATABASE ` + database + `_latin TEMPLATE template0 ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C'`,
	} {
		exec1(t, dsn, q)
	}
	t.Cleanup(func() { exec1(t, dsn, `DROP DATABASE `+database+`_latin WITH (FORCE)`) })
	const secret = "s3cr3t:@!"
	with := func(change func(*url.URL)) string {
		w := *u
		w.User = url.UserPassword("gatehouse", secret)
		change(&w)
		return w.String()
	}
	for dsn, want := range map[string]struct {
		is    error
		words string
	}{
		with(func(w *url.URL) { w.Host = "127.0.0.1:1" }):                                             {store.ErrUnreachable, "connection refused"},
		with(func(w *url.URL) { w.Host = "nowhere.invalid" }):                                         {store.ErrUnreachable, "no host nowhere.invalid"},
		with(func(w *url.URL) { w.Path += "_none" }):                                                  {store.ErrUnready, "does not exist"},
		with(func(w *url.URL) { w.Path += "_latin" }):                                                 {store.ErrUnready, "its encoding is LATIN1"},
		with(func(w *url.URL) { w.User = url.UserPassword("gatehouse_test_nobody", secret) }):         {store.ErrDenied, "does not exist"},
		with(func(w *url.URL) { w.User = url.UserPassword("gatehouse_test_guest", secret) }):          {store.ErrDenied, "permission denied"},
		with(func(w *url.URL) { w.RawQuery += "&default_transaction_read_only=on" }):                  {store.ErrReadOnly, "read-only"},
		with(func(w *url.URL) { w.RawQuery += "&search_path=none" }):                                  {store.ErrUnready, "search_path"},
		"postgres://gatehouse:" + secret + "%zz@127.0.0.1/x":                                          {store.ErrAddress, "it cannot be read"},
		"postgres://gatehouse:" + secret + "@127.0.0.1:port/x":                                        {store.ErrAddress, "it cannot be read"},
		"postgresql://gatehouse:" + secret + "@127.0.0.1/x?sslmode=" + secret + "&password=" + secret: {store.ErrAddress, "it cannot be read"},
	} {
		_, err := store.Open(dsn)
		oneLine(t, err, "store", want.words)
		if want.is != nil && !errors.Is(err, want.is) {
			t.Errorf("%v, want %v", err, want.is)
		}
		if err == nil || strings.Contains(err.Error(), "s3cr3t") || strings.Contains(err.Error(), "zz") {
			t.Errorf("a password is told: %v", err)
		}
	}
}

// TestPostgresSchemas has two stores in two schemas of one database: neither sees
// the other's keys, nor its locks.
func TestPostgresSchemas(t *testing.T) {
	dsn := fresh["PostgreSQL"](t)
	var stores [2]*store.Store
	var unlock [2]func() error
	for i, schema := range []string{"one", "two"} {
		exec1(t, dsn, `CREATE SCHEMA `+schema)
		stores[i] = open(t, dsn+"&search_path="+schema)
		if err := stores[i].AddKey(newKey("same")); err != nil {
			t.Fatal(err)
		}
		begin(t, stores[i], "w")
		var err error
		if unlock[i], err = stores[i].Lock("watch"); err != nil {
			t.Errorf("a lock of another store: %v", err)
		}
	}
	for i, s := range stores {
		if keys, err := s.Keys(); err != nil || len(keys) != 1 {
			t.Errorf("%d keys, %v", len(keys), err)
		}
		if err := unlock[i](); err != nil {
			t.Error(err)
		}
	}
}

// TestPostgresBusy has somebody else hold what is to be changed.
func TestPostgresBusy(t *testing.T) {
	t.Parallel() // for it waits
	dsn := fresh["PostgreSQL"](t)
	s := open(t, dsn)
	hold, err := raw(t, dsn).Begin()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := hold.Exec("LOCK TABLE changes IN EXCLUSIVE MODE"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Keys(); err != nil {
		t.Errorf("reading waits for a writer: %v", err)
	}
	began := time.Now()
	err = s.AddKey(newKey("a"))
	oneLine(t, err, placeOf(dsn), "another process has held it too long")
	if took := time.Since(began); !errors.Is(err, store.ErrBusy) || took < 4*time.Second || took > 12*time.Second {
		t.Errorf("it waited %v for %v", took, err)
	}
	if err := hold.Rollback(); err != nil {
		t.Fatal(err)
	}
	if err := s.AddKey(newKey("a")); err != nil {
		t.Error(err)
	}
}

// TestPostgresTogether keeps waves over the same hosts from several stores at
// once, while waves are dropped and hosts forgotten: every host has one number,
// and no wave has one that is not there.
func TestPostgresTogether(t *testing.T) {
	dsn := fresh["PostgreSQL"](t)
	var wg sync.WaitGroup
	for i := range 3 {
		wg.Go(func() {
			s, err := store.Open(dsn)
			if err != nil {
				t.Error(err)
				return
			}
			defer s.Close()
			for n := range 3 {
				w, err := s.Begin(wave.Info{Name: fmt.Sprint(i, n), Scope: "acme", Source: "scan", Started: observed})
				if err != nil {
					t.Error(err)
					return
				}
				for from := uint64(0); from < 200; from += 50 {
					list := observations(from, from+50)
					if i == 1 { // in another order
						for a, b := 0, len(list)-1; a < b; a, b = a+1, b-1 {
							list[a], list[b] = list[b], list[a]
						}
					}
					list[0].Record.Findings = append(list[0].Record.Findings, finding.Finding{ID: fmt.Sprint("of ", i, n)})
					if err := w.Keep(list); err != nil {
						t.Error(err)
					}
				}
				if err := errors.Join(w.End(wave.Summary{Ended: observed}), w.Close()); err != nil {
					t.Error(err)
				}
				if n == 1 {
					if err := s.Drop(w.Info.Number); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	wg.Wait()
	var hosts, stray, seen, findings int
	if err := raw(t, dsn).QueryRowContext(t.Context(), `SELECT (SELECT count(*) FROM hosts), (SELECT count(*) FROM seen s WHERE NOT EXISTS (SELECT 1 FROM hosts h WHERE h.id = s.host)),
		(SELECT count(*) FROM seen), (SELECT count(*) FROM findings WHERE id LIKE 'of %')`).Scan(&hosts, &stray, &seen, &findings); err != nil {
		t.Fatal(err)
	}
	if hosts != 200 || stray != 0 || seen != 6*200 || findings != 9 {
		t.Errorf("%d hosts, %d observations of none, %d observations, %d findings", hosts, stray, seen, findings)
	}
}

// TestPostgresKilled kills the server (kill -9) while a wave is kept: what was
// acknowledged is there, the wave that lost its lock writes no more, and the next
// run goes on.
func TestPostgresKilled(t *testing.T) {
	server := postgrestest.New(t)
	s := open(t, server.DSN)
	w := begin(t, s, "w")
	kept := uint64(0)
	for round := range 3 {
		type kept1 struct {
			upTo uint64
			err  error
		}
		said := make(chan kept1)
		go func() {
			defer close(said)
			for from := kept; ; from += 20 {
				err := errors.Join(w.Keep(observations(from, from+20)))
				said <- kept1{from + 20, err}
				if err != nil {
					return
				}
			}
		}()
		var failed error
		for k := range said {
			if failed = k.err; failed != nil {
				break
			}
			if kept = k.upTo; kept == uint64(round+1)*200 {
				server.Kill()
			}
		}
		for range said {
		}
		oneLine(t, failed, placeOf(server.DSN), "cannot be reached")
		if !errors.Is(failed, store.ErrUnreachable) {
			t.Fatal(failed)
		}
		_, err := store.Open(server.DSN)
		if !errors.Is(err, store.ErrUnreachable) {
			t.Errorf("it is away: %v", err)
		}
		server.Start()
		// The same store, as a gate has it, goes on; the wave has lost its lock.
		if i, err := s.Unfinished("scan", "acme", "p", observed); err != nil || i.Number != 1 {
			t.Fatalf("%+v, %v", i, err)
		}
		if err := w.Keep(observations(0, 1)); !errors.Is(err, store.ErrUnreachable) {
			t.Errorf("a wave that lost its lock is written: %v", err)
		}
		if err := w.Close(); err != nil {
			t.Error(err)
		}
		if w, err = s.Continue(w.Info); err != nil {
			t.Fatal(err)
		}
		p, err := w.Resume()
		if err != nil {
			t.Fatal(err)
		}
		for pos := range kept {
			if _, ok := p.Late[pos]; !ok {
				t.Fatalf("%d of %d was acknowledged, and is lost", pos, kept)
			}
		}
	}
	if err := errors.Join(w.Close(), s.Close()); err != nil {
		t.Error(err)
	}
}
