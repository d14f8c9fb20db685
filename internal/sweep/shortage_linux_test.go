package sweep_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"gatehouse/internal/sweep"
)

// apartEnv tells the test program that it is in a network of its own.
const apartEnv = "GATEHOUSE_SWEEP_APART"

// apart runs the calling test once more, in a process and a network namespace of
// its own, which has a loopback device that is down and no more. It reports
// whether this is that run.
func apart(t *testing.T) bool {
	t.Helper()
	if os.Getenv(apartEnv) != "" {
		return true
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self, "-test.run=^"+t.Name()+"$", "-test.timeout=60s")
	cmd.Env = append(os.Environ(), apartEnv+"=1", "GORACE=atexit_sleep_ms=0")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("in a network of its own (it takes unprivileged user namespaces, or root): %v\n%s", err, out)
	}
	return false
}

// loopbackUp brings up the loopback device of a namespace.
func loopbackUp(t *testing.T) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	up, err := unix.NewIfreq("lo")
	if err != nil {
		t.Fatal(err)
	}
	up.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, up); err != nil {
		t.Fatal(err)
	}
}

// TestNoAddressOfOurs is a machine with no IPv6 address, as in a container with
// IPv6 switched off: a place that cannot be reached from it is no shortage, for
// which the sweep would wait for ever.
func TestNoAddressOfOurs(t *testing.T) {
	if !apart(t) {
		return
	}
	for _, to := range []string{"[::1]:11434", "[fd00::1]:11434", "127.0.0.1:11434", "10.0.0.1:11434"} {
		s := sweep.Sweeper{Allows: all}
		_, err := s.Dial(t.Context(), netip.MustParseAddrPort(to))
		if !errors.Is(err, syscall.ENETUNREACH) || s.Pressure() != 0 {
			t.Errorf("%s: %v, pressure %d; want network unreachable", to, err, s.Pressure())
		}
	}
}

// TestFewPorts opens thirty connections to one place from a machine that has
// ports for ten at a time.
func TestFewPorts(t *testing.T) {
	if !apart(t) {
		return
	}
	loopbackUp(t)
	at := backlog(t)
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_local_port_range", []byte("20000 20009"), 0); err != nil {
		t.Fatal(err)
	}
	crowd(t, at, 30)
}

// TestFewFilesForReal opens a hundred connections with files for two dozen.
func TestFewFilesForReal(t *testing.T) {
	if !apart(t) {
		return
	}
	loopbackUp(t)
	at := backlog(t)
	files, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	var before syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &before); err != nil {
		t.Fatal(err)
	}
	few := syscall.Rlimit{Cur: uint64(len(files) + 24), Max: before.Max}
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &few); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Setrlimit(syscall.RLIMIT_NOFILE, &before) })
	crowd(t, at, 100)
}

// backlog is a place whose system takes connections for a program that never
// asks for them, and so holds no file for any.
func backlog(t *testing.T) netip.AddrPort {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	return ln.Addr().(*net.TCPAddr).AddrPort()
}

// crowd opens n connections to at, which is more than this machine can hold, and
// hangs up on all of them each time that the sweep feels it.
func crowd(t *testing.T, at netip.AddrPort, n int) {
	t.Helper()
	s := sweep.Sweeper{Allows: all, Retries: 3}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	held := make(chan net.Conn, n)
	var letGo sync.WaitGroup
	letGo.Go(func() {
		tick := time.NewTicker(time.Millisecond) // the system tells nobody
		defer tick.Stop()
		for felt := uint64(0); ctx.Err() == nil; <-tick.C {
			if p := s.Pressure(); p > felt {
				felt = p
				hangUp(held)
			}
		}
		hangUp(held)
	})
	opened := 0
	for ; opened < n; opened++ {
		conn, err := s.Dial(ctx, at)
		if err != nil {
			t.Errorf("connection %d came out as %v", opened, err)
			break
		}
		held <- conn
	}
	cancel()
	letGo.Wait()
	if s.Pressure() == 0 {
		t.Error("felt no pressure: the test is one of nothing")
	}
	t.Logf("%d connections, pressure %d", opened, s.Pressure())
}

func hangUp(held <-chan net.Conn) {
	for len(held) > 0 {
		conn := <-held
		if raw, err := conn.(syscall.Conn).SyscallConn(); err == nil {
			_ = raw.Control(func(fd uintptr) { // gives the port back at once
				_ = unix.SetsockoptLinger(int(fd), unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
			})
		}
		_ = conn.Close()
	}
}
