package realollama

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

var errNoNamespace = errors.New("no network namespace of our own: allow unprivileged user namespaces, or run as root")

// inside is where a server in a namespace is reached from within; the namespace
// is all its own, so the port is free.
var inside = netip.MustParseAddrPort("127.0.0.1:11434")

// LAN is the address that a namespace of [Everywhere] and [Apart] has besides
// its loopback ones, as a machine has one on its local network.
var LAN = netip.MustParseAddr("10.77.0.2")

// Enter returns the words that go before a command to have it run in the network
// namespace of s, which has to be a server of Everywhere or Apart: those of
// util-linux's nsenter. Without it the test ends as in [Start] without Ollama.
func (s *Server) Enter(t testing.TB) []string {
	t.Helper()
	nsenter, err := exec.LookPath("nsenter")
	if err != nil {
		Missing(t, "nsenter is not installed: it is part of util-linux")
	}
	return []string{nsenter, "--target", strconv.Itoa(s.cmd.Process.Pid), "--user", "--net", "--preserve-credentials", "--"}
}

// insideEnv tells the test program that it is to be the way into a namespace.
const insideEnv = "GATEHOUSE_REALOLLAMA_INSIDE"

// A namespace can only be entered by a process that starts in it. So the test
// program starts itself there, with our listener: it starts the server, and
// leads each connection that the listener takes out here to the server in there.
func init() {
	if os.Getenv(insideEnv) == "" {
		return
	}
	os.Unsetenv(insideEnv)
	if err := runInside(os.Args); err != nil {
		fmt.Fprintln(os.Stderr, "realollama:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// moveOut changes s.cmd, which is not started yet, to start in a new namespace.
// Once it has, release lets go of what it was handed.
func (s *Server) moveOut() (release func(), err error) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	file, err := l.(*net.TCPListener).File()
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	release = func() {
		// The process in there has its own copy of the listener, so the port stays ours.
		_, _ = file.Close(), l.Close()
	}
	self, err := os.Executable()
	if err != nil {
		release()
		return nil, err
	}
	s.AddrPort = l.Addr().(*net.TCPAddr).AddrPort()
	s.cmd.Args = append([]string{self, s.cmd.Path}, s.cmd.Args[1:]...)
	s.cmd.Path = self
	// Built with the race detector, it would rest a second before it ends.
	s.cmd.Env = append(s.cmd.Env, insideEnv+"=1", "GORACE=atexit_sleep_ms=0")
	s.cmd.ExtraFiles = []*os.File{file}
	s.cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET
	s.cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
	s.cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
	return release, nil
}

// runInside is the life of the process in the namespace.
func runInside(args []string) error {
	file := os.NewFile(3, "listener")
	l, err := net.FileListener(file)
	if err != nil {
		return err
	}
	file.Close()
	if err := GiveLoopback("lo:lan", LAN, net.CIDRMask(32, 32)); err != nil {
		return fmt.Errorf("bring up the network: %w", err)
	}
	server := exec.Command(args[1], args[2:]...)
	server.Stdout, server.Stderr = os.Stdout, os.Stderr
	server.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM} // in our group
	if err := server.Start(); err != nil {
		return err
	}
	// The way in stays open until the server has ended.
	end := make(chan os.Signal, 1)
	signal.Notify(end, syscall.SIGTERM)
	go func() {
		for range end {
			_ = server.Process.Signal(syscall.SIGTERM)
		}
	}()
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go lead(conn.(*net.TCPConn))
		}
	}()
	return server.Wait()
}

// GiveLoopback brings up the loopback device of the network namespace that it is
// called in, and gives it addr under a name of its own, such as lo:lan: what a
// machine sends to an address of its own takes the loopback in any case. With a
// mask shorter than /32 it takes the whole network, as it does 127.0.0.0/8.
func GiveLoopback(name string, addr netip.Addr, mask net.IPMask) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	up, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	up.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, up); err != nil {
		return err
	}
	for _, set := range []struct {
		request uint
		to      []byte
	}{
		{unix.SIOCSIFADDR, addr.AsSlice()},
		{unix.SIOCSIFNETMASK, mask},
	} {
		req, err := unix.NewIfreq(name)
		if err != nil {
			return err
		}
		if err := req.SetInet4Addr(set.to); err != nil {
			return err
		}
		if err := unix.IoctlIfreq(fd, set.request, req); err != nil {
			return err
		}
	}
	return nil
}

// lead joins a connection from outside to the server in here, each way until its
// sender is done.
func lead(out *net.TCPConn) {
	defer out.Close()
	conn, err := net.DialTCP("tcp4", nil, net.TCPAddrFromAddrPort(inside))
	if err != nil {
		return
	}
	defer conn.Close()
	var both sync.WaitGroup
	pipe := func(to, from *net.TCPConn) {
		both.Go(func() {
			// A side that breaks off ends its way; the other may still be read.
			_, _ = io.Copy(to, from)
			_ = to.CloseWrite()
		})
	}
	pipe(conn, out)
	pipe(out, conn)
	both.Wait()
}
