//go:build linux

package e2e

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"gatehouse/internal/ollama/ollamatest"
	"gatehouse/internal/ollama/realollama"
)

// The simulated internet: networks with public addresses, which lead nowhere
// but to this process. It lives in a network namespace of its own, as the test
// program that was started there again, and has no way out.

// system is one network (an autonomous system) of the simulated internet. Its first addresses are
// looked at.
type system struct {
	country, provider, name string
	asn                     uint32
	weight                  int // of its share of servers
}

const (
	inNetwork   = 5000 // addresses that are looked at
	networkBits = 19
	ollamaPort  = 11434
)

// networks are made up, but for the numbers that providers are told by. The
// countries are the databases' that the test writes.
var networks = []system{
	{"DE", "Hetzner", "Hetzner Online GmbH", 24940, 31},
	{"DE", "Contabo", "Contabo GmbH", 51167, 19},
	{"DE", "", "Rhein Kabel", 65001, 7},
	{"DE", "", "Elbe Telefon", 65002, 5},
	{"DE", "", "Hochschulnetz Isar", 65003, 3},
	{"FR", "OVH", "OVH SAS", 16276, 17},
	{"FR", "", "Loire Internet", 65004, 4},
	{"FR", "", "Rhone Mobile", 65005, 2},
	{"NL", "", "Polder Hosting", 65006, 5},
	{"NL", "", "Amstel Fiber", 65007, 3},
	{"FI", "Hetzner", "Hetzner Online GmbH Finland", 213230, 9},
	{"FI", "", "Saimaa Net", 65008, 1},
	{"PL", "", "Wisla Telekom", 65009, 4},
	{"PL", "", "Odra Hosting", 65010, 2},
	{"US", "AWS", "Amazon.com, Inc.", 16509, 21},
	{"US", "AWS", "Amazon.com, Inc. East", 14618, 8},
	{"US", "Google", "Google LLC", 396982, 12},
	{"US", "Azure", "Microsoft Corporation", 8075, 9},
	{"US", "", "Great Plains Cable", 65011, 6},
	{"US", "", "Cascadia Fiber", 65012, 4},
	{"US", "", "Mesa University", 65013, 2},
	{"CN", "", "Huabei Backbone", 65014, 33},
	{"CN", "", "Huanan Backbone", 65015, 25},
	{"CN", "", "Pearl River Cloud", 65016, 14},
	{"CN", "", "Sichuan Mobile", 65017, 6},
	{"GB", "", "Thames Broadband", 65018, 6},
	{"GB", "", "Mersey Hosting", 65019, 4},
	{"IN", "", "Ganga Telecom", 65020, 5},
	{"IN", "", "Deccan Fiber", 65021, 3},
	{"IN", "", "Kaveri Cloud", 65022, 2},
	{"JP", "", "Sumida Net", 65023, 6},
	{"JP", "", "Yodo Hosting", 65024, 3},
	{"BR", "", "Tiete Internet", 65025, 4},
	{"BR", "", "Capibaribe Fibra", 65026, 2},
	{"CH", "", "Aare Net", 65027, 3},
	{"CH", "", "Reuss Hosting", 65028, 2},
	{"KR", "", "Han River Cloud", 65029, 8},
	{"KR", "", "Nakdong Telecom", 65030, 4},
	{"US", "", "Hudson Colo", 65031, 1},
	{"CN", "", "Yangtze Campus", 65032, 1},
}

// union are the countries above that are in the European Union in 2026.
var union = map[string]bool{"DE": true, "FR": true, "NL": true, "FI": true, "PL": true}

// prefixOf is where a network is: no block of special purpose is near.
func prefixOf(n int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(31 + n), byte(64 + n), 0, 0}), networkBits)
}

func addressIn(n, k int) netip.Addr {
	base := prefixOf(n).Addr().As4()
	return netip.AddrFrom4([4]byte{base[0], base[1], byte(k >> 8), byte(k)})
}

// disk is one model that servers have, with what the published tables put it
// under: by hand, not by the program under test.
type disk struct {
	name, parameters, bits string
	hardware, loaded       string // the least that has it on disk, and in memory
	weight                 int
}

const (
	card8     = "consumer ≤8 GB"
	card12    = "consumer ≤12 GB"
	card16    = "consumer ≤16 GB"
	card24    = "consumer ≤24 GB"
	station48 = "workstation 48 GB"
	centre80  = "data-centre 80 GB (H100/A100)"
	several   = "several GPUs"
)

// classes are the classes of hardware from the least.
var classes = []string{card8, card12, card16, card24, station48, centre80, several}

var disks = []disk{
	{"llama3.2:3b", "3-8B", "4-bit", card8, card8, 24},
	{"llama3.2:1b", "1-3B", "8-bit", card8, card8, 8},
	{"deepseek-r1:7b", "3-8B", "4-bit", card8, card8, 19},
	{"nomic-embed-text:latest", "<1B", "16-bit", card8, card8, 15},
	{"llama3.1:8b", "8-15B", "4-bit", card8, card8, 13},
	{"gemma3:4b", "3-8B", "4-bit", card8, card8, 10},
	{"deepseek-r1:14b", "8-15B", "4-bit", card12, card12, 8},
	{"llava:7b", "3-8B", "4-bit", card8, card8, 6},
	{"qwen2.5:32b", "15-35B", "4-bit", card24, card24, 5},
	{"gpt-oss:20b", "15-35B", "4-bit", card16, card24, 4},
	{"smollm2:135m", "<1B", "16-bit", card8, card8, 4},
	{"llama3.3:70b", "35-80B", "4-bit", station48, centre80, 3},
	{"gpt-oss:120b", "80B+", "4-bit", centre80, centre80, 2},
	{"deepseek-r1:671b", "80B+", "4-bit", several, several, 1},
}

// release is one that servers run: whether a newer one mends a flaw of it that
// is on record (the last such was mended in 0.17.1), and whether it tells the
// capabilities of models, as releases do since 0.6.5.
type release struct {
	version           string
	outdated, capable bool
	weight            int
}

var servedVersions = []release{
	{"0.17.4", false, true, 20},
	{"0.17.1", false, true, 4},
	{"0.17.0", true, true, 9},
	{"0.13.5", true, true, 14},
	{"0.12.6", true, true, 11},
	{"0.9.6", true, true, 9},
	{"0.6.8", true, true, 7},
	{"0.5.7", true, false, 12},
	{"0.3.14", true, false, 3},
}

// server is an open server.
type server struct {
	net     int
	version int   // of servedVersions
	models  []int // of disks
	own     int   // the number of a model that nobody else has; 0 is none
	loaded  bool  // its first model is in memory
}

// house is what is at an address at one time: a server, or something else.
type house struct {
	kind   string // an outcome
	server server // when it is open
	other  string // the simulator's name for it when it is not
}

// What there is, and what becomes of it from wave to wave.
const (
	staying   = 2390 // open in all three, of which:
	upgraded  = 120  // have another version in the third
	restocked = 80   // have a model more in the third
	vanishing = 300  // gone in the third
	fixing    = 250  // guarded in the third
	moving    = 60   // at another address in the third
	appearing = 400  // not there before the third
	reopening = 30   // open, guarded, open
	returning = 20   // open, away, open

	locked  = 300
	alike   = 200
	bait    = 120
	foreign = 150
	hole    = 200 // silent
)

// choose draws an index by weight.
func choose[T any](rng *rand.Rand, list []T, weight func(*T) int) int {
	sum := 0
	for i := range list {
		sum += weight(&list[i])
	}
	at := rng.IntN(sum)
	for i := range list {
		if at -= weight(&list[i]); at < 0 {
			return i
		}
	}
	panic("no weight")
}

// internetAt is what is where in one of the three waves: the truth. It is the
// same in every process.
func internetAt(wave int) map[netip.Addr]house {
	rng := rand.New(rand.NewPCG(2026, 4))
	free := make([][]int, len(networks))
	for n := range free {
		free[n] = rng.Perm(inNetwork)
	}
	take := func() (int, netip.Addr) {
		n := choose(rng, networks, func(n *system) int { return n.weight })
		k := free[n][0]
		free[n] = free[n][1:]
		return n, addressIn(n, k)
	}
	made := 0
	open := func(n int, alone bool) server {
		s := server{net: n, version: choose(rng, servedVersions, func(r *release) int { return r.weight })}
		for range 1 + rng.IntN(3) {
			m := choose(rng, disks, func(d *disk) int { return d.weight })
			has := false
			for _, other := range s.models {
				has = has || other == m
			}
			if !has {
				s.models = append(s.models, m)
			}
		}
		s.loaded = rng.IntN(11) == 0
		if made++; alone || rng.IntN(4) > 0 {
			s.own = made
		}
		return s
	}
	at := make(map[netip.Addr]house)
	there := func(addr netip.Addr, s server) { at[addr] = house{kind: "open", server: s} }
	guard := func(addr netip.Addr, i int) { at[addr] = house{kind: "guarded", other: guards[i%len(guards)]} }

	for i := range staying {
		n, addr := take()
		s := open(n, false)
		switch {
		case wave < 3:
		case i < upgraded:
			s.version = (s.version + 1) % len(servedVersions)
		case i < upgraded+restocked:
			for m := range disks {
				if len(s.models) == 0 || !contains(s.models, m) {
					s.models = append(s.models, m)
					break
				}
			}
		}
		there(addr, s)
	}
	for range vanishing {
		n, addr := take()
		if s := open(n, false); wave < 3 {
			there(addr, s)
		}
	}
	for i := range fixing {
		n, addr := take()
		if s := open(n, false); wave < 3 {
			there(addr, s)
		} else {
			guard(addr, i)
		}
	}
	for range moving {
		n, from := take()
		s := open(n, true)
		n, to := take()
		if wave < 3 {
			there(from, s)
		} else {
			s.net = n
			there(to, s)
		}
	}
	for range appearing {
		n, addr := take()
		if s := open(n, false); wave == 3 {
			there(addr, s)
		}
	}
	for i := range reopening {
		n, addr := take()
		if s := open(n, false); wave == 2 {
			guard(addr, i)
		} else {
			there(addr, s)
		}
	}
	for range returning {
		n, addr := take()
		if s := open(n, false); wave != 2 {
			there(addr, s)
		}
	}
	for _, rest := range []struct {
		n     int
		kind  string
		names []string
	}{{locked, "guarded", guards}, {alike, "lookalike", alikes}, {bait, "honeypot", honeypots}, {foreign, "other", foreigners}, {hole, "silent", []string{""}}} {
		for i := range rest.n {
			_, addr := take()
			at[addr] = house{kind: rest.kind, other: rest.names[i%len(rest.names)]}
		}
	}
	return at
}

func contains(list []int, v int) bool {
	for _, have := range list {
		if have == v {
			return true
		}
	}
	return false
}

// The simulator's servers that are not open, each with one true outcome however
// it is looked at.
var guards, alikes, honeypots, foreigners = func() (g, a, h, o []string) {
	for _, s := range ollamatest.Variants() {
		kind, _, _ := strings.Cut(s.Name, "/")
		if s.Truth.Or != "" || s.Truth.Unproved != "" || s.Path != "" || s.TLS {
			continue
		}
		switch {
		case kind == "guard" && s.Truth.Outcome == "guarded":
			g = append(g, s.Name)
		case kind == "alike" && s.Truth.Outcome == "lookalike":
			a = append(a, s.Name)
		case kind == "honeypot" && s.Truth.Outcome == "honeypot":
			h = append(h, s.Name)
		case kind == "other" && s.Truth.Outcome == "other":
			o = append(o, s.Name)
		}
	}
	return g, a, h, o
}()

// ownName is the model that nobody else has.
func ownName(n int) string { return "tuned-" + strconv.Itoa(n) + ":latest" }

// build makes the server that a house holds.
func (h *house) build(rest map[string]*ollamatest.Server) *ollamatest.Server {
	if h.kind != "open" {
		return rest[h.other]
	}
	var names []string
	for _, m := range h.server.models {
		names = append(names, disks[m].name)
	}
	o := ollamatest.Ollama{Version: servedVersions[h.server.version].version, Models: ollamatest.Library(names...)}
	if h.server.loaded {
		o.Running = []ollamatest.Running{ollamatest.Loaded(o.Models[0])}
	}
	if h.server.own > 0 {
		tuned := ollamatest.Library(disks[0].name)[0]
		tuned.Name = ownName(h.server.own)
		sum := sha256.Sum256([]byte(tuned.Name))
		tuned.Digest = hex.EncodeToString(sum[:])
		tuned.Modified = tuned.Modified.Add(-time.Duration(h.server.own) * time.Minute)
		o.Models = append(o.Models, tuned)
	}
	return o.Server("ollama")
}

// internetEnv has the test program be the internet.
const internetEnv = "E2E_INTERNET"

func init() {
	if os.Getenv(internetEnv) == "" {
		return
	}
	if err := beInternet(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "internet:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// internet is the process that has the simulated internet.
type internet struct {
	t   *testing.T
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Scanner
}

// newInternet starts one in a network namespace of its own.
func newInternet(t *testing.T) *internet {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	i := &internet{t: t, cmd: exec.CommandContext(t.Context(), self)}
	i.cmd.Env = append(os.Environ(), internetEnv+"=1", noRest)
	i.cmd.Stderr = os.Stderr
	i.cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
	}
	if i.in, err = i.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := i.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	i.out = bufio.NewScanner(out)
	if err := i.cmd.Start(); err != nil {
		t.Fatalf("a network namespace of our own: %v; allow user namespaces, or run as root", err)
	}
	t.Cleanup(func() {
		i.in.Close()
		if err := i.cmd.Wait(); err != nil && t.Context().Err() == nil {
			t.Error("the internet:", err)
		}
	})
	return i
}

// becomes has the internet be as it is in a wave.
func (i *internet) becomes(wave int) {
	i.t.Helper()
	fmt.Fprintln(i.in, wave)
	if !i.out.Scan() || i.out.Text() != "ready" {
		i.t.Fatalf("the internet does not become wave %d: %q %v", wave, i.out.Text(), i.out.Err())
	}
}

// enter are the words before a command that has it run in there.
func (i *internet) enter() []string {
	return []string{"nsenter", "--target", strconv.Itoa(i.cmd.Process.Pid), "--user", "--net", "--preserve-credentials", "--"}
}

// beInternet is the life of the process in there: for each line, the number of
// a wave, it becomes the internet of that wave.
func beInternet(in io.Reader, out io.Writer) error {
	for n := range networks {
		if err := realollama.GiveLoopback("lo:"+strconv.Itoa(n), addressIn(n, inNetwork), net.CIDRMask(networkBits, 32)); err != nil {
			return fmt.Errorf("network %v: %w", prefixOf(n), err)
		}
	}
	rest := make(map[string]*ollamatest.Server)
	for _, s := range ollamatest.Variants() {
		rest[s.Name] = s
	}
	at := make(map[netip.Addr]*door)
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		wave, err := strconv.Atoi(lines.Text())
		if err != nil {
			return err
		}
		world := internetAt(wave)
		for addr, d := range at {
			if _, ok := world[addr]; !ok {
				d.close()
				delete(at, addr)
			}
		}
		for addr, h := range world {
			d := at[addr]
			if d == nil {
				if d, err = openDoor(addr, h.kind == "silent"); err != nil {
					return err
				}
				at[addr] = d
			}
			d.server.Store(h.build(rest))
		}
		fmt.Fprintln(out, "ready")
	}
	for _, d := range at {
		d.close()
	}
	return lines.Err()
}

// door is a listener with whoever is behind it.
type door struct {
	ln     net.Listener
	server atomic.Pointer[ollamatest.Server]
	wg     sync.WaitGroup
}

// openDoor listens at an address. A silent one has the kernel drop what comes
// in, the first packet of a connection too.
func openDoor(addr netip.Addr, silent bool) (*door, error) {
	lc := net.ListenConfig{KeepAlive: -1, Control: func(_, _ string, c syscall.RawConn) error {
		if !silent {
			return nil
		}
		var attach error
		err := c.Control(func(fd uintptr) {
			nothing := []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K}}
			attach = unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &nothing[0]})
		})
		return errors.Join(err, attach)
	}}
	ln, err := lc.Listen(context.Background(), "tcp4", netip.AddrPortFrom(addr, ollamaPort).String())
	if err != nil {
		return nil, err
	}
	d := &door{ln: ln}
	d.wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go d.server.Load().Serve(c)
		}
	})
	return d, nil
}

func (d *door) close() {
	_ = d.ln.Close()
	d.wg.Wait()
}
