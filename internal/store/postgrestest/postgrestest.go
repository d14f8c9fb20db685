// Package postgrestest gives tests a PostgreSQL: a database of their own on the
// server that scripts/services.sh starts, or a server of their own, to be
// stopped and killed. Only tests import it.
package postgrestest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Missing skips the test for want of PostgreSQL, or fails it where all that tests
// need is required: with GATEHOUSE_REQUIRE_PEERS=1.
func Missing(t testing.TB, why string) {
	t.Helper()
	if os.Getenv("GATEHOUSE_REQUIRE_PEERS") == "1" {
		t.Fatal(why)
	}
	t.Skip(why)
}

// Services is the folder that scripts/services.sh fills.
func Services() string {
	if dir := os.Getenv("GATEHOUSE_SERVICES"); dir != "" {
		return dir
	}
	return "/var/tmp/gatehouse-services-" + strconv.Itoa(os.Getuid())
}

// Running is the address of the server that databases are made on, "" for none:
// GATEHOUSE_TEST_POSTGRES, or the one that scripts/services.sh started.
func Running() string {
	if dsn := os.Getenv("GATEHOUSE_TEST_POSTGRES"); dsn != "" {
		return dsn
	}
	text, err := os.ReadFile(filepath.Join(Services(), "postgres.dsn"))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(text))
}

// Database makes an empty database, which goes with the test, and returns its
// address.
func Database(t testing.TB) (dsn string) {
	t.Helper()
	server := Running()
	if server == "" {
		Missing(t, "no PostgreSQL is running: run make services")
	}
	name := "gatehouse_test_" + strings.ToLower(rand.Text())
	asked := func(what string) error {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), time.Minute)
		defer cancel()
		conn, err := pgx.Connect(ctx, server)
		if err != nil {
			return err
		}
		_, err = conn.Exec(ctx, what)
		return errors.Join(err, conn.Close(ctx))
	}
	if err := asked("CREATE DATABASE " + name + " TEMPLATE template0 ENCODING 'UTF8'"); err != nil {
		if said := new(pgconn.PgError); errors.As(err, &said) {
			t.Fatalf("the PostgreSQL that runs gives no database: %v", err)
		}
		Missing(t, fmt.Sprintf("PostgreSQL gives no database: %v; run make services", err))
	}
	t.Cleanup(func() {
		if err := asked("DROP DATABASE " + name + " WITH (FORCE)"); err != nil {
			t.Errorf("the test's database stays: %v", err)
		}
	})
	u, err := url.Parse(server)
	if err != nil {
		t.Fatal(err)
	}
	u.Path = "/" + name
	return u.String()
}

// Server is a PostgreSQL of one test.
type Server struct {
	DSN  string // of its database postgres
	t    testing.TB
	dir  string
	port int

	running *exec.Cmd // nil while it is stopped
}

// New makes a server and starts it. It ends with the test.
func New(t testing.TB) *Server {
	t.Helper()
	initdb := program(t, "initdb")
	// PostgreSQL is not run by root, and root's folders may be shut to others.
	dir, err := os.MkdirTemp("/var/tmp", "gatehouse-postgres-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := own(dir); err != nil {
		t.Fatal(err)
	}
	s := &Server{t: t, dir: filepath.Join(dir, "data"), port: freePort(t)}
	run(t, initdb, "-D", s.dir, "-U", "gatehouse", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8")
	more := fmt.Sprintf("\nlisten_addresses = '127.0.0.1'\nport = %d\nunix_socket_directories = ''\nshared_buffers = 32MB\ndynamic_shared_memory_type = mmap\n", s.port)
	conf, err := os.OpenFile(filepath.Join(s.dir, "postgresql.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = conf.WriteString(more)
	if err := errors.Join(err, conf.Close()); err != nil {
		t.Fatal(err)
	}
	s.DSN = fmt.Sprintf("postgres://gatehouse@127.0.0.1:%d/postgres?sslmode=disable", s.port)
	t.Cleanup(func() {
		if s.running != nil {
			s.Kill()
		}
	})
	s.Start()
	return s
}

// Start starts it, and waits until it answers.
func (s *Server) Start() {
	s.t.Helper()
	log, err := os.OpenFile(filepath.Join(filepath.Dir(s.dir), "log"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		s.t.Fatal(err)
	}
	defer log.Close()
	c := exec.Command(program(s.t, "postgres"), "-D", s.dir)
	c.Dir, c.Stderr = "/", log
	as(c)
	if err := c.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.running = c
	ctx, cancel := context.WithTimeout(s.t.Context(), time.Minute)
	defer cancel()
	for {
		conn, err := pgx.Connect(ctx, s.DSN)
		if err == nil {
			_ = conn.Close(ctx)
			return
		}
		if ctx.Err() != nil {
			text, _ := os.ReadFile(log.Name())
			s.t.Fatalf("PostgreSQL does not start: %v\n%s", err, text)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// Kill kills it with all that it started (kill -9), and waits until it is gone.
func (s *Server) Kill() {
	s.t.Helper()
	own := children(s.running.Process.Pid)
	_ = s.running.Process.Kill()
	for _, pid := range own {
		if p, err := os.FindProcess(pid); err == nil {
			_ = p.Kill() // it may have ended
		}
	}
	_ = s.running.Wait() // it was killed
	s.running = nil
	for _, pid := range own {
		for deadline := time.Now().Add(30 * time.Second); alive(pid); time.Sleep(5 * time.Millisecond) {
			if time.Now().After(deadline) {
				s.t.Fatal("PostgreSQL lives on after kill -9")
			}
		}
	}
}

func alive(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !strings.Contains(string(stat), ") Z ")
}

func children(parent int) (list []int) {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, name := range stats {
		text, err := os.ReadFile(name)
		if err != nil {
			continue // it ended
		}
		rest := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
		if pid, err := strconv.Atoi(strings.Split(name, "/")[2]); err == nil && len(rest) > 1 && rest[1] == strconv.Itoa(parent) {
			list = append(list, pid)
		}
	}
	return list
}

func run(t testing.TB, name string, args ...string) {
	t.Helper()
	c := exec.CommandContext(t.Context(), name, args...)
	c.Dir = "/"
	as(c)
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", name, err, out)
	}
}

// program finds one of PostgreSQL's, which Debian keeps out of PATH.
func program(t testing.TB, name string) string {
	t.Helper()
	if runtime.GOOS == "windows" {
		Missing(t, "no PostgreSQL of its own for a test on Windows")
	}
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/" + name)
	if len(found) > 0 {
		return found[len(found)-1]
	}
	bin, err := exec.LookPath(name)
	if err != nil {
		Missing(t, "PostgreSQL is not installed: run make services")
	}
	return bin
}

func freePort(t testing.TB) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return port
}
