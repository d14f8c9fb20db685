// Package harden reads how this machine is set up, says why its Ollama can be
// reached, plans the smallest change that closes it, makes the change, and takes
// it back: inspect, judge, plan, apply, undo. Inspecting changes nothing and asks
// nobody but the machine itself; nothing is written before [Apply].
package harden

import (
	"cmp"
	"context"
	"net/netip"
	"slices"
	"strconv"
	"time"
)

// Limits of what is read of one machine. A file that is larger, or one more of a
// kind, is told as not seen and never taken for harmless.
const (
	maxFile      = 1 << 20
	maxSockets   = 32 << 20 // of the kernel's tables, 150 bytes for each connection
	maxPrinted   = 8 << 20  // of what a command prints, such as a set of rules
	maxFiles     = 4096     // in one folder
	maxProcesses = 32768
	maxHomes     = 64
	commandTime  = 700 * time.Millisecond // for one command; several run at a time
)

// Machine is where to look. The zero Machine has nothing to see: no root, no
// commands, no engine.
type Machine struct {
	OS   string // linux, darwin or windows
	Root string // of its files: "/", or the folder of an image
	// Run runs a command that lists things and returns what it prints. Nil for an
	// image: nothing runs there.
	Run     func(ctx context.Context, name string, args ...string) ([]byte, error)
	Engines []Engine // what runs containers; none where nobody is to be asked

	Addresses  []netip.Addr // that the machine has
	Compose    []string     // compose files, besides those that are found
	Manifests  string       // folder of Kubernetes manifests
	Kubeconfig string       // of a cluster to ask by kubectl
	Here       string       // folder that the caller is in, where compose files are looked for
}

// Engine is what runs containers.
type Engine struct {
	Tool string // the command by which people use it: docker or podman
	// Ask asks in the words of Docker's API: a path such as /containers/json. Its
	// error is fs.ErrNotExist where the engine is not there.
	Ask func(ctx context.Context, path string) ([]byte, error)
}

// Facts is what was seen of a machine, and what was not.
type Facts struct {
	Listeners []Listener // of Ollama, and of what leads to it
	Causes    []Cause    // why others may reach it
	Firewall  Firewall
	Unseen    []Unseen
	Ollama    []string // where Ollama was found: a process, a unit, a container
	Guarded   []Place  // ways that lead to it and ask for credentials

	machine Machine
	all     []Listener
	systemd bool     // it is the init system, and running
	nft     bool     // the program is there
	local   []string // containers that come to Ollama by the host's address
	units   []*unit
}

// Unseen is what could not be looked at, why, and what to do about it.
type Unseen struct {
	What, Why, Do string
}

// Place is where something is written. Line is 0 where that has no lines.
type Place struct {
	File string
	Line int
}

func (p Place) String() string {
	if p.Line == 0 {
		return p.File
	}
	return p.File + ":" + strconv.Itoa(p.Line)
}

// Kind is a kind of cause. The words are a contract, as the ids of findings are.
type Kind string

// The kinds of causes.
const (
	UnitHost         Kind = "unit-host"         // a systemd unit, one of its drop-ins or environment files
	EnvironmentHost  Kind = "environment-host"  // a profile, /etc/environment, launchd's or Windows' environment
	ProcessHost      Kind = "process-host"      // a running process, whose settings are written nowhere that was seen
	DesktopExpose    Kind = "desktop-expose"    // the desktop app's switch for the network
	DesktopBrowser   Kind = "desktop-browser"   // its switch for web pages
	ContainerPublish Kind = "container-publish" // a port that Docker or Podman publishes
	ContainerHost    Kind = "container-host"    // a container in the host's network
	ComposePublish   Kind = "compose-publish"   // as a compose file says
	ComposeHost      Kind = "compose-host"
	KubeService      Kind = "kube-service"
	KubeIngress      Kind = "kube-ingress"
	KubeHost         Kind = "kube-host" // hostNetwork or hostPort
	ProxyOpen        Kind = "proxy-open"
	TunnelOpen       Kind = "tunnel-open"
	AnyOrigin        Kind = "any-origin"   // OLLAMA_ORIGINS lets web pages in
	OutsideOpen      Kind = "outside-open" // it answers who looked from outside, and nothing of the set-up says why
	Unexplained      Kind = "unexplained"
)

// A Cause is one thing in a machine's set-up by which others can reach Ollama.
type Cause struct {
	Kind  Kind
	Place Place
	Says  string // as it stands there
	Means string // in a sentence
	Doors []Door // where others come in by it
	Live  bool   // it is so now; else it will be once Ollama or the machine starts again
	Pages bool   // web pages can call the API through a visitor's browser

	V4, V6 Reach  // how far they may be who come in, firewall considered
	Behind string // the firewall's rule that alone keeps them out
	Seen   string // what who looked from outside saw of its doors, "" when nobody did
	Around string // the firewall's rule that would, were the way in not round it

	unit      *unit
	container *container
	compose   *composePort
	edit      func(text []byte) ([]byte, error) // the smallest change of Place.File that closes it
	toGate    func(text []byte) ([]byte, error) // the same, with the gate in between
	names     []string                          // by which callers of a proxy know it
	restart   []string                          // what to run for the change to take effect
	manual    string                            // what only a person can do
}

// Reach is how far they may be who come in.
func (c *Cause) Reach() Reach { return max(c.V4, c.V6) }

// Door is a place where somebody comes in.
type Door struct {
	Addr      netip.Addr // 0.0.0.0 is every IPv4 address, :: every address; not valid for Far
	Port      uint16
	Forwarded netip.AddrPort // the container that a published port leads to: the way is through Docker's chains
	Far       Reach          // for those who come by a tunnel or a cluster, not by an address of this machine
}

// Reach is how far away somebody can be and still come in.
type Reach int

// From nobody to anybody.
const (
	Nobody Reach = iota
	OnMachine
	OnNetwork
	OnInternet
)

func (r Reach) String() string {
	return [...]string{"nobody", "this machine only", "its whole network", "anybody"}[r]
}

// ReachOf is who can come to an address.
func ReachOf(a netip.Addr) Reach {
	a = a.Unmap()
	switch {
	case !a.IsValid():
		return Nobody
	case a.IsLoopback():
		return OnMachine
	case a.IsPrivate() || a.IsLinkLocalUnicast() || overlay.Contains(a):
		return OnNetwork
	}
	return OnInternet
}

// overlay is the address space of carriers' and overlay networks (RFC 6598), the
// tailnet's among them.
var overlay = netip.MustParsePrefix("100.64.0.0/10")

// look is one inspection under way.
type look struct {
	Machine
	*Facts
	ctx        context.Context
	processes  []process
	containers []*container
	seen       map[string]bool // paths that were told as unseen
}

// Inspect reads what there is to read. It works without root, says what it did
// not see, and ends when ctx does with what it has.
func Inspect(ctx context.Context, m Machine) *Facts {
	l := &look{Machine: m, ctx: ctx, seen: map[string]bool{}}
	l.Facts = &Facts{machine: m}
	printed := l.start() // commands and the engine take longest: they run while files are read
	l.readProcesses()
	l.readListeners(printed)
	l.readContainers(printed)
	switch m.OS {
	case "linux":
		l.readUnits()
		l.readLinuxEnvironment()
	case "darwin":
		l.readDarwin(printed)
	case "windows":
		l.readWindows(printed)
	}
	l.readDesktop()
	l.readRunning()
	l.readCompose()
	l.readManifests(printed)
	l.readProxies()
	l.readTunnels(printed)
	l.readFirewall(printed)
	l.explain()
	l.sort()
	return l.Facts
}

func (l *look) cause(c Cause) { l.Causes = append(l.Causes, c) }

func (l *look) unseen(what, why, do string) {
	if key := what + "\x00" + why; !l.seen[key] {
		l.seen[key] = true
		l.Unseen = append(l.Unseen, Unseen{what, why, do})
	}
}

// sort puts what was found in an order that does not depend on chance.
func (l *look) sort() {
	slices.SortStableFunc(l.Causes, func(a, b Cause) int {
		return cmp.Or(cmp.Compare(a.Place.File, b.Place.File), cmp.Compare(a.Place.Line, b.Place.Line), cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Says, b.Says))
	})
	l.Causes = slices.CompactFunc(l.Causes, func(a, b Cause) bool {
		return a.Kind == b.Kind && a.Place == b.Place && a.Says == b.Says
	})
	slices.SortStableFunc(l.Listeners, func(a, b Listener) int {
		return cmp.Or(cmp.Compare(a.Port, b.Port), a.Addr.Compare(b.Addr), cmp.Compare(a.PID, b.PID))
	})
	slices.SortFunc(l.Unseen, func(a, b Unseen) int { return cmp.Or(cmp.Compare(a.What, b.What), cmp.Compare(a.Why, b.Why)) })
	slices.Sort(l.Ollama)
	l.Ollama = slices.Compact(l.Ollama)
}

// Ports are those at which Ollama, or what leads to it, may be found.
func (f *Facts) Ports() []uint16 {
	var ports []uint16
	for _, l := range f.Listeners {
		ports = append(ports, l.Port)
	}
	for _, c := range f.Causes {
		for _, d := range c.Doors {
			if d.Port != 0 && d.Far == Nobody {
				ports = append(ports, d.Port)
			}
		}
	}
	slices.Sort(ports)
	return slices.Compact(ports)
}
