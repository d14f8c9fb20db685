//go:build linux

package e2e

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/go-json-experiment/json"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"gatehouse/internal/ollama/ollamatest"
)

// A provider is a network behind a gateway, in two network namespaces: the near
// one has the scanner, the far one the gateway and all that is behind it.
const (
	nearEnv = "E2E_SWEEP_NEAR"
	farEnv  = "E2E_SWEEP_FAR"

	providerNet   = "10.50.0.0/19" // behind the gateway; a quarter of it leads nowhere
	providerHosts = 40             // of it that serve
)

func init() {
	for env, be := range map[string]func(io.Reader, io.Writer) error{nearEnv: beNear, farEnv: beFar} {
		if os.Getenv(env) == "" {
			continue
		}
		if err := be(os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, env+":", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
}

// providerHost is where the n-th host of the provider is, and providerHole the
// part that answers nothing.
func providerHost(n int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, 50, byte(n % 24), byte(7 * n)})
}

var providerHole = netip.MustParsePrefix("10.50.24.0/21")

// beNear starts the far side and lays the wire, then waits for its input to end.
func beNear(in io.Reader, out io.Writer) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	far := exec.Command(self)
	far.Env = append(slices.DeleteFunc(os.Environ(), func(e string) bool { return strings.HasPrefix(e, nearEnv) }), farEnv+"=1")
	far.Stderr = os.Stderr
	far.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	farIn, err := far.StdinPipe()
	if err != nil {
		return err
	}
	farOut, err := far.StdoutPipe()
	if err != nil {
		return err
	}
	if err := far.Start(); err != nil {
		return err
	}
	near := netlink.NewLinkAttrs()
	near.Name = "near0"
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: near, PeerName: "far0", PeerNamespace: netlink.NsPid(far.Process.Pid)}); err != nil {
		return fmt.Errorf("a pair of interfaces: %w", err)
	}
	if err := address("near0", "10.49.0.1/24", "fd49::1/64"); err != nil {
		return err
	}
	_, network, _ := net.ParseCIDR("10.48.0.0/12")
	if err := netlink.RouteAdd(&netlink.Route{Dst: network, Gw: net.IPv4(10, 49, 0, 2)}); err != nil {
		return err
	}
	fmt.Fprintln(farIn, "go")
	lines := bufio.NewScanner(farOut)
	if !lines.Scan() || lines.Text() != "ready" {
		return errors.New("the far side did not come up")
	}
	fmt.Fprintln(out, "ready")
	_, err = io.Copy(io.Discard, in)
	return errors.Join(err, farIn.Close(), far.Wait())
}

// address gives addresses to an interface, and brings it up with loopback.
func address(name string, addrs ...string) error {
	device, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	for _, text := range addrs {
		addr, err := netlink.ParseAddr(text)
		if err != nil {
			return err
		}
		addr.Flags = unix.IFA_F_NODAD
		if err := netlink.AddrAdd(device, addr); err != nil {
			return err
		}
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	return errors.Join(netlink.LinkSetUp(lo), netlink.LinkSetUp(device))
}

// beFar is the gateway with the provider's hosts, until its input ends: an
// address without a listener refuses.
func beFar(in io.Reader, out io.Writer) error {
	lines := bufio.NewScanner(in)
	lines.Scan()
	if err := address("far0", "10.49.0.2/24", "fd49::2/64"); err != nil {
		return err
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	for _, network := range []string{"10.50.0.0/20", "10.50.16.0/21"} { // all but the hole
		_, dst, _ := net.ParseCIDR(network)
		if err := netlink.RouteAdd(&netlink.Route{Dst: dst, LinkIndex: lo.Attrs().Index, Type: unix.RTN_LOCAL, Table: unix.RT_TABLE_LOCAL, Scope: netlink.SCOPE_HOST}); err != nil {
			return err
		}
	}
	server := ollamatest.Ollama{Version: "0.17.4", Models: ollamatest.Library("llama3.2:3b")}.Server("ollama")
	var serving sync.WaitGroup
	for n := range providerHosts {
		ln, err := net.Listen("tcp", netip.AddrPortFrom(providerHost(n), ollamaPort).String())
		if err != nil {
			return err
		}
		serving.Go(func() {
			for {
				c, err := ln.Accept()
				if err != nil {
					return
				}
				serving.Go(func() { server.Serve(c) })
			}
		})
	}
	fmt.Fprintln(out, "ready")
	lines.Scan()
	os.Exit(0) // with whoever is still connected
	return nil
}

// newProvider starts one, and returns the words that have a command run beside it.
func newProvider(t *testing.T) (enter []string) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self)
	cmd.Env = append(os.Environ(), nearEnv+"=1", noRest)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatalf("a network namespace of our own: %v; allow user namespaces, or run as root", err)
	}
	t.Cleanup(func() {
		in.Close()
		if err := cmd.Wait(); err != nil && t.Context().Err() == nil {
			t.Error("the provider:", err)
		}
	})
	if lines := bufio.NewScanner(out); !lines.Scan() || lines.Text() != "ready" {
		t.Fatal("the provider did not come up")
	}
	return []string{"nsenter", "--target", strconv.Itoa(cmd.Process.Pid), "--user", "--net", "--preserve-credentials", "--"}
}

// TestRawSweep has a network behind a gateway swept by raw SYNs, chosen by itself,
// and looked at: the report is that of the engine that connects, to the host.
func TestRawSweep(t *testing.T) {
	enter := newProvider(t)
	type report struct {
		Summary struct {
			Places, Visited uint64
			Outcomes        map[string]uint64
			Sweep           *struct{ Sent, Again, Open, Refused, Duplicates, Invalid, Dropped uint64 }
		}
		Hosts []struct{ Address, Outcome string }
	}
	scan := func(args ...string) (r report) {
		t.Helper()
		got := runVia(t, enter, slices.Concat([]string{"scan", "--format", "json", "--fail-on", "never", "--rate", "4000", "--network-rate", "4000"}, args)...)
		got.exits(t, 0)
		if err := json.Unmarshal([]byte(got.out), &r, json.MatchCaseInsensitiveNames(true)); err != nil {
			t.Fatal(err)
		}
		return r
	}
	raw := scan("--cooldown", "2s", providerNet)
	want := map[string]uint64{"open": providerHosts, "refused": 24*256 - providerHosts, "silent": 8 * 256}
	for outcome, n := range want {
		if raw.Summary.Outcomes[outcome] != n {
			t.Errorf("%d are %s, want %d", raw.Summary.Outcomes[outcome], outcome, n)
		}
	}
	s := raw.Summary.Sweep
	if s == nil {
		t.Fatal("not swept by raw SYNs: --sweep auto did not choose them")
	}
	if s.Open != providerHosts || s.Refused != 24*256-providerHosts || s.Sent < 8192+8*256 || s.Invalid > 0 {
		t.Errorf("%+v", s)
	}
	if raw.Summary.Places != 8192 || raw.Summary.Visited != 8192 || len(raw.Hosts) != providerHosts {
		t.Errorf("%d places, %d visited, %d hosts", raw.Summary.Places, raw.Summary.Visited, len(raw.Hosts))
	}
	for _, h := range raw.Hosts {
		if h.Outcome != "open" || providerHole.Contains(netip.MustParseAddr(h.Address)) {
			t.Errorf("%s is %s", h.Address, h.Outcome)
		}
	}

	// A part that few places make, with each recorded: both engines say the same.
	few := []string{"--all", "10.50.0.0/25", "10.50.23.0/28", "10.50.24.0/30"}
	swept := scan(append([]string{"--sweep", "syn", "--cooldown", "1s", "--retries", "0"}, few...)...)
	connected := scan(append([]string{"--sweep", "connect", "--timeout", "1s", "--retries", "0"}, few...)...)
	if swept.Summary.Sweep == nil || connected.Summary.Sweep != nil {
		t.Errorf("%+v, %+v", swept.Summary.Sweep, connected.Summary.Sweep)
	}
	outcomes := func(r report) (list []string) {
		for _, h := range r.Hosts {
			list = append(list, h.Address+" "+h.Outcome)
		}
		slices.Sort(list)
		return list
	}
	if a, b := outcomes(swept), outcomes(connected); !slices.Equal(a, b) || len(a) != 128+16+4 {
		t.Errorf("by SYN\n%v\nby connect\n%v", a, b)
	}

	// Without a gateway there is nothing to sweep, and that is said.
	alone := runVia(t, enter, "scan", "--sweep", "syn", "10.49.0.0/28")
	alone.exits(t, 2)
	if !strings.Contains(alone.err, "no gateway") || !strings.Contains(alone.err, "hint: --sweep connect") {
		t.Error(alone.err)
	}

	// A dry run writes packets and sends none.
	file := filepath.Join(t.TempDir(), "packets.pcap")
	runVia(t, enter, "scan", "--dry-run", file, providerNet).exits(t, 0)
	if info, err := os.Stat(file); err != nil || info.Size() != 24+8192*(16+58) {
		t.Errorf("%v %v", info, err)
	}
}
