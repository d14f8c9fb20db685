package store_test

import (
	"bufio"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib"
	_ "modernc.org/sqlite"

	"gatehouse/internal/key"
	"gatehouse/internal/store"
	"gatehouse/internal/store/postgrestest"
)

func TestMain(m *testing.M) {
	path := os.Getenv("GATEHOUSE_TEST_PATH")
	switch os.Getenv("GATEHOUSE_TEST_STORE") {
	case "add":
		addKeys(path, 1<<40)
	case "add some":
		addKeys(path, 20)
	case "copy":
		copyStore(path)
	case "full disk":
		fillDisk(path)
	case "not allowed":
		lookNotAllowed(path)
	default:
		os.Exit(m.Run())
	}
}

// fresh makes a place for an empty store of each kind, and returns its dsn.
var fresh = map[string]func(testing.TB) string{
	"SQLite":     func(t testing.TB) string { return filepath.Join(t.TempDir(), "gatehouse.db") },
	"PostgreSQL": func(t testing.TB) string { return postgrestest.Database(t) },
}

// onEach runs a test on each kind of store: SQLite always, PostgreSQL where one
// runs.
func onEach(t *testing.T, test func(t *testing.T, dsn string)) {
	for _, kind := range []string{"SQLite", "PostgreSQL"} {
		t.Run(kind, func(t *testing.T) { test(t, fresh[kind](t)) })
	}
}

// kindOf is the kind of store that a test is on now.
func kindOf(t *testing.T) string {
	t.Helper()
	for part := range strings.SplitSeq(t.Name(), "/") {
		if _, ok := fresh[part]; ok {
			return part
		}
	}
	t.Fatal("not within onEach")
	return ""
}

// placeOf is how errors name a store.
func placeOf(dsn string) string {
	u, err := url.Parse(dsn)
	if err != nil || u.Scheme == "" {
		return dsn
	}
	return "postgres://" + u.Host + u.Path
}

func open(t *testing.T, path string) *store.Store {
	t.Helper()
	s, err := store.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() }) // again, where the test did
	return s
}

// raw is the file or the database without the store: what another program would see.
func raw(t *testing.T, path string) *sql.DB {
	t.Helper()
	driver := "sqlite"
	if strings.Contains(path, "://") {
		driver = "pgx"
	}
	db, err := sql.Open(driver, path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

func exec1(t *testing.T, path, what string, args ...any) {
	t.Helper()
	if _, err := raw(t, path).ExecContext(context.WithoutCancel(t.Context()), what, args...); err != nil {
		t.Fatal(err)
	}
}

// oneLine holds that an error is one line, with the path and some words.
func oneLine(t *testing.T, err error, words ...string) {
	t.Helper()
	for _, w := range words {
		if err == nil || !strings.Contains(err.Error(), w) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%v, want one line with %q", err, w)
		}
	}
}

func TestOpen(t *testing.T) {
	dir := t.TempDir()
	for _, dsn := range []string{
		filepath.Join(dir, "a.db"),
		"sqlite:" + filepath.Join(dir, "b.db"),
		"sqlite://" + filepath.Join(dir, "c.db"),
		filepath.Join(dir, "od d%41?mode=ro#é&_txlock=x.db"),
	} {
		s := open(t, dsn)
		if err := s.AddKey(newKey("one")); err != nil {
			t.Errorf("%s: %v", dsn, err)
		}
		path := strings.TrimPrefix(strings.TrimPrefix(dsn, "sqlite:"), "//")
		for _, end := range []string{"", "-wal", "-shm"} {
			if info, err := os.Stat(path + end); err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("%s%s: %v, %v", path, end, info, err)
			}
		}
		if err := errors.Join(s.Close(), s.Close()); err != nil {
			t.Error(err)
		}
		text, err := os.ReadFile(path)
		if err != nil || strings.Contains(string(text), "gh_") {
			t.Errorf("%s: a token is in the file, %v", path, err)
		}
		// What others could read is closed to them.
		if err := os.Chmod(path, 0o664); err != nil {
			t.Fatal(err)
		}
		if keys, err := open(t, dsn).Keys(); err != nil || len(keys) != 1 {
			t.Errorf("%d keys, %v", len(keys), err)
		}
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", path, info, err)
		}
	}
	for _, dsn := range []string{"", "sqlite:", "mysql://localhost/x", "postgres://local host/x"} {
		if _, err := store.Open(dsn); err == nil || !strings.HasPrefix(err.Error(), "store: ") {
			t.Errorf("%q: %v", dsn, err)
		}
	}
}

func TestBadFiles(t *testing.T) {
	dir := t.TempDir()
	text := filepath.Join(dir, "text.db")
	if err := os.WriteFile(text, []byte(strings.Repeat("this is no database ", 500)), 0o600); err != nil {
		t.Fatal(err)
	}
	later := filepath.Join(dir, "later.db")
	if err := open(t, later).Close(); err != nil {
		t.Fatal(err)
	}
	exec1(t, later, "INSERT INTO goose_db_version (version_id, is_applied) VALUES (99, 1)")
	for path, want := range map[string]string{
		text:                               "damaged, or not a database",
		later:                              "made by a later release (version 99",
		filepath.Join(dir, "none", "k.db"): "no such file",
		filepath.Join(text, "k.db"):        "not a directory",
		dir:                                "is a directory",
	} {
		_, err := store.Open(path)
		oneLine(t, err, want, path)
	}
}

// TestSpoiledPages writes over the file, page by page.
func TestSpoiledPages(t *testing.T) {
	path := filepath.Join(t.TempDir(), "k.db")
	s := open(t, path)
	for i := range 15 {
		k := full()
		k.Name, k.Ed25519 = strconv.Itoa(i), nil
		if err := s.AddKey(k); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	noticed := 0
	for page := 0; page < len(text); page += 4096 {
		spoiled := []byte(string(text))
		for i := range 4096 {
			spoiled[page+i] = byte(i * 7)
		}
		bad := filepath.Join(t.TempDir(), "bad.db")
		if err := os.WriteFile(bad, spoiled, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := store.Open(bad)
		if err == nil {
			_, err = s.Keys()
			_ = s.Close()
		}
		if err != nil {
			noticed++
			oneLine(t, err, "store "+bad)
		}
	}
	if noticed < 3 {
		t.Errorf("%d of %d spoiled pages are noticed", noticed, len(text)/4096)
	}
}

// TestDamagedKey: one key that cannot be understood lets nobody in, and keeps
// nobody else out.
func TestDamagedKey(t *testing.T) { onEach(t, testDamagedKey) }

func testDamagedKey(t *testing.T, path string) {
	s := open(t, path)
	for what, change := range map[string]string{
		"no version":     `UPDATE keys SET terms = '{}' WHERE name = 'b'`,
		"later version":  `UPDATE keys SET terms = '{"version":2}' WHERE name = 'b'`,
		"unknown field":  `UPDATE keys SET terms = '{"version":1,"only_on_sundays":true}' WHERE name = 'b'`,
		"unknown power":  `UPDATE keys SET terms = '{"version":1,"powers":["infer","fly"]}' WHERE name = 'b'`,
		"twice":          `UPDATE keys SET terms = '{"version":1,"strict":true,"strict":false}' WHERE name = 'b'`,
		"other case":     `UPDATE keys SET terms = '{"version":1,"Strict":true}' WHERE name = 'b'`,
		"no prefix":      `UPDATE keys SET terms = '{"version":1,"sources":["everywhere"]}' WHERE name = 'b'`,
		"eighth day":     `UPDATE keys SET terms = '{"version":1,"hours":[{"days":[7]}]}' WHERE name = 'b'`,
		"not JSON":       `UPDATE keys SET terms = 'x' WHERE name = 'b'`,
		"secrets":        `UPDATE keys SET secrets = '[{"sha256":"00"}]' WHERE name = 'b'`,
		"secrets' field": `UPDATE keys SET secrets = '[{"token":"x"}]' WHERE name = 'b'`,
	} {
		exec1(t, path, `DELETE FROM keys`)
		var b key.Key
		for _, name := range []string{"a", "b", "c"} {
			b = newKey(name)
			if err := s.AddKey(b); err != nil {
				t.Fatal(err)
			}
		}
		exec1(t, path, change)
		keys, err := s.Keys()
		if !errors.Is(err, store.ErrDamaged) || len(keys) != 2 || keys[0].Name != "a" || keys[1].Name != "c" {
			t.Errorf("%s: %v, %v", what, keys, err)
		}
		oneLine(t, err, placeOf(path), "key ")
		if _, err := s.FindKey("b"); !errors.Is(err, store.ErrDamaged) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// TestBusy has another process hold the store.
func TestBusy(t *testing.T) {
	t.Parallel() // for it waits
	path := filepath.Join(t.TempDir(), "k.db")
	s := open(t, path)
	hold, err := raw(t, path).Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := hold.ExecContext(t.Context(), "BEGIN IMMEDIATE"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Keys(); err != nil {
		t.Errorf("reading waits for a writer: %v", err)
	}
	began := time.Now()
	err = s.AddKey(newKey("a"))
	oneLine(t, err, path, "another process has held it too long")
	if took := time.Since(began); took < 4*time.Second || took > 9*time.Second {
		t.Errorf("it waited %v", took)
	}
	if _, err := hold.ExecContext(t.Context(), "ROLLBACK"); err != nil {
		t.Fatal(err)
	}
	if err := s.AddKey(newKey("a")); err != nil {
		t.Error(err)
	}
}

// TestClosed asks a store that is closed.
func TestClosed(t *testing.T) { onEach(t, testClosed) }

func testClosed(t *testing.T, path string) {
	s := open(t, path)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	_, err := s.Version()
	oneLine(t, err, placeOf(path), "closed")
	_, err = s.Keys()
	oneLine(t, err, placeOf(path), "closed")
	oneLine(t, s.AddKey(newKey("a")), placeOf(path), "closed")
}

// child starts this test as a program of its own.
func child(t *testing.T, what, path string) (*exec.Cmd, io.Reader) {
	t.Helper()
	c := exec.CommandContext(t.Context(), os.Args[0])
	c.Env = append(os.Environ(), "GATEHOUSE_TEST_STORE="+what, "GATEHOUSE_TEST_PATH="+path)
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if what == "full disk" {
		// In a world of its own it may mount a disk.
		c.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
			UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
		}
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	return c, out
}

func check(err error) {
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
}

// addKeys adds keys and changes each, and says so.
func addKeys(path string, n int) {
	s, err := store.Open(path)
	check(err)
	for range n {
		_, k := key.Mint(time.Now())
		k.Name = k.ID
		check(s.AddKey(k))
		fmt.Println("added", k.ID)
		check(s.UpdateKey(k.ID, func(k *key.Key) error { k.Revoked = time.Now(); return nil }))
		fmt.Println("revoked", k.ID)
	}
	check(s.Close())
}

// integrity holds that nothing of the file is damaged.
func integrity(t *testing.T, path string) {
	t.Helper()
	if strings.Contains(path, "://") {
		return // what a client's end could damage is not the server's files
	}
	var verdict string
	if err := raw(t, path).QueryRowContext(t.Context(), "PRAGMA integrity_check").Scan(&verdict); err != nil || verdict != "ok" {
		t.Fatalf("integrity: %s, %v", verdict, err)
	}
}

// TestKill kills a process that adds and changes keys, at moments of chance:
// what it had said was done is.
func TestKill(t *testing.T) { onEach(t, testKill) }

func testKill(t *testing.T, path string) {
	seed := uint64(time.Now().UnixNano())
	random := rand.New(rand.NewPCG(seed, 0))
	done := make(map[string]string)
	for range 12 {
		c, out := child(t, "add", path)
		lines := bufio.NewScanner(out)
		stop := time.NewTimer(time.Hour)
		said := make(chan string)
		go func() {
			defer close(said)
			for lines.Scan() {
				said <- lines.Text()
			}
		}()
		for line := range said {
			what, id, _ := strings.Cut(line, " ")
			if what == "error" {
				t.Fatal(line)
			}
			if len(done) == 0 || done[id] == "" {
				stop.Reset(time.Duration(random.IntN(40_000)) * time.Microsecond)
			}
			done[id] = what
			select {
			case <-stop.C:
				if err := c.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			default:
			}
		}
		_ = c.Wait() // it was killed
		integrity(t, path)
		s := open(t, path)
		for id, what := range done {
			if k, err := s.FindKey(id); err != nil || what == "revoked" && k.Revoked.IsZero() {
				t.Fatalf("seed %d: %s was %s: %v", seed, id, what, err)
			}
		}
		if keys, err := s.Keys(); err != nil || len(keys) < len(done) {
			t.Fatalf("seed %d: %d keys, %v", seed, len(keys), err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if len(done) < 24 {
		t.Errorf("only %d keys were added", len(done))
	}
}

// TestTogether has several processes make the same store at the same moment.
func TestTogether(t *testing.T) { onEach(t, testTogether) }

func testTogether(t *testing.T, path string) {
	const n = 6
	var children [n]*exec.Cmd
	var outs [n]io.Reader
	for i := range n {
		children[i], outs[i] = child(t, "add some", path)
	}
	for i, c := range children {
		said, err := io.ReadAll(outs[i])
		if err := errors.Join(err, c.Wait()); err != nil {
			t.Errorf("%v: %s", err, said)
		}
	}
	s := open(t, path)
	if keys, err := s.Keys(); err != nil || len(keys) != 20*n || version(t, s) != 40*n {
		t.Errorf("%d keys, %v", len(keys), err)
	}
	integrity(t, path)
}

// fillDisk mounts a disk of one MiB on a folder, fills it, adds keys to a store
// there for as long as it can, gives room, and goes on.
func fillDisk(dir string) {
	check(syscall.Mount("", "/", "", syscall.MS_PRIVATE|syscall.MS_REC, ""))
	check(syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"))
	path := filepath.Join(dir, "k.db")
	s, err := store.Open(path)
	check(err)
	check(s.AddKey(newKey("0")))
	ballast, err := os.Create(filepath.Join(dir, "ballast"))
	check(err)
	for err == nil {
		_, err = ballast.Write(make([]byte, 4096))
	}
	if !errors.Is(err, syscall.ENOSPC) {
		check(err)
	}
	n := 1
	for err = nil; err == nil; {
		if err = s.AddKey(newKey(strconv.Itoa(n))); err == nil {
			n++
		}
	}
	fmt.Println(err)
	_, err = store.Open(filepath.Join(dir, "other.db"))
	fmt.Println(err)
	keys, err := s.Keys()
	check(err)
	if len(keys) != n {
		check(fmt.Errorf("%d keys of %d on a full disk", len(keys), n))
	}
	check(ballast.Truncate(0))
	check(s.AddKey(newKey(strconv.Itoa(n))))
	check(s.Close())
	s, err = store.Open(path)
	check(err)
	keys, err = s.Keys()
	check(err)
	fmt.Println(len(keys) - n)
}

func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	c, out := child(t, "full disk", dir)
	said, err := io.ReadAll(out)
	if err := errors.Join(err, c.Wait()); err != nil {
		t.Fatalf("%v: %s", err, said)
	}
	want := fmt.Sprintf("store %s/k.db: the disk is full\nstore %s/other.db: the disk is full\n1\n", dir, dir)
	if string(said) != want {
		t.Errorf("%s\nwant %s", said, want)
	}
}

// lookNotAllowed opens stores as somebody who may not write them.
func lookNotAllowed(dir string) {
	if os.Getuid() == 0 { // who may do everything
		check(syscall.Setgroups(nil))
		check(syscall.Setgid(65534))
		check(syscall.Setuid(65534))
	}
	for _, name := range []string{"theirs.db", "open.db", "folder/new.db"} {
		s, err := store.Open(filepath.Join(dir, name))
		if err == nil {
			err = s.AddKey(newKey("a"))
		}
		fmt.Println(err)
	}
}

func TestNotAllowed(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"theirs.db", "open.db"} {
		if err := open(t, filepath.Join(dir, name)).Close(); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "folder"), 0o755); err != nil {
		t.Fatal(err)
	}
	mode := map[string]fs.FileMode{filepath.Dir(dir): 0o755, "theirs.db": 0o400, "open.db": 0o444, "folder": 0o555, "": 0o555}
	for name, mode := range mode {
		if !filepath.IsAbs(name) {
			name = filepath.Join(dir, name)
		}
		if err := os.Chmod(name, mode); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { _ = os.Chmod(dir, 0o755) }) // so that it can be removed
	c, out := child(t, "not allowed", dir)
	said, err := io.ReadAll(out)
	if err := errors.Join(err, c.Wait()); err != nil {
		t.Fatalf("%v: %s", err, said)
	}
	lines := strings.Split(strings.TrimSpace(string(said)), "\n")
	if len(lines) != 3 {
		t.Fatalf("%q", lines)
	}
	oneLine(t, errors.New(lines[0]), "store "+dir+"/theirs.db: ", "cannot be written")
	oneLine(t, errors.New(lines[1]), "store "+dir+"/open.db: ") // as root's: others may read it; as one's own: cannot be written
	oneLine(t, errors.New(lines[2]), "store "+dir+"/folder/new.db: permission denied")
}

func BenchmarkVersion(b *testing.B) {
	s, err := store.Open(filepath.Join(b.TempDir(), "k.db"))
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	for b.Loop() {
		if _, err := s.Version(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkKeys(b *testing.B) {
	path := filepath.Join(b.TempDir(), "k.db")
	s, err := store.Open(path)
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	k := full()
	k.Ed25519 = nil
	if err := s.AddKey(k); err != nil {
		b.Fatal(err)
	}
	db, err := sql.Open("sqlite", path)
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	const n = 10_000
	if _, err := db.ExecContext(b.Context(), `INSERT INTO keys WITH RECURSIVE c(i) AS (SELECT 2 UNION ALL SELECT i + 1 FROM c WHERE i < ?)
		SELECT 'id' || i, 'name' || i, secrets, NULL, terms, created, expires, revoked FROM keys, c`, n); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if keys, err := s.Keys(); err != nil || len(keys) != n {
			b.Fatal(len(keys), err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/key")
}
