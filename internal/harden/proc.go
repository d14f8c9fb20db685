package harden

import (
	"bytes"
	"encoding/hex"
	"net/netip"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
)

// Listener is a socket that takes connections.
type Listener struct {
	Addr    netip.Addr // 0.0.0.0 is every IPv4 address, :: every address of both
	Port    uint16
	PID     int    // 0 where it is not known
	Program string // "" where it is not known
	inode   string
}

// process is what is known of a running program.
type process struct {
	pid       int
	program   string // the base name of what it runs
	args      []string
	unit      string // the systemd unit it belongs to
	container string // the id of its container
	env       map[string]string
	blind     bool // its environment could not be read
}

func (p *process) ollama() bool {
	return p.program == "ollama" && (len(p.args) < 2 || slices.Contains(p.args[1:], "serve") || slices.Contains(p.args[1:], "start"))
}

// readProcesses reads the processes of Linux. Those of other systems come with
// their listeners.
func (l *look) readProcesses() {
	if l.OS != "linux" {
		return
	}
	n := 0
	for _, name := range l.list("/proc") {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		if n++; n > maxProcesses {
			l.unseen("some processes", "there are too many", "look at ss -tlnp")
			break
		}
		text, err := l.Machine.read("/proc/" + name + "/cmdline")
		if err != nil || len(text) == 0 {
			continue // it ended meanwhile, or is the kernel's
		}
		p := process{pid: pid, args: strings.Split(strings.TrimRight(string(text), "\x00"), "\x00")}
		p.program = path.Base(strings.TrimSuffix(p.args[0], ":")) // "nginx: master process"
		if first, _, ok := strings.Cut(p.program, ": "); ok {
			p.program = first
		}
		p.program = strings.TrimSuffix(p.program, ".avx2") // what pasta is called on most machines
		if !interesting[p.program] {
			continue
		}
		if cgroup, err := l.Machine.read("/proc/" + name + "/cgroup"); err == nil {
			p.unit, p.container = cgroupOf(cgroup)
		}
		// What is in another network is no listener of this one.
		if ours, err := os.Readlink(l.real("/proc/self/ns/net")); err == nil && p.container == "" {
			if theirs, err := os.Readlink(l.real("/proc/" + name + "/ns/net")); err == nil && theirs != ours {
				continue
			}
		}
		if p.program == "ollama" {
			env, err := l.Machine.read("/proc/" + name + "/environ")
			if err != nil {
				p.blind = true
				l.unseen("the environment of process "+name+" ("+p.program+")", "no permission to read it", asRoot)
			}
			p.env = environment(env)
		}
		l.processes = append(l.processes, p)
		if p.ollama() && p.container == "" {
			l.Ollama = append(l.Ollama, "process "+name)
		}
	}
}

// interesting are programs whose command line says something about Ollama.
var interesting = map[string]bool{
	"ollama": true, "docker-proxy": true, "rootlessport": true, "rootlesskit": true, "slirp4netns": true, "pasta": true, "conmon": true, "cloudflared": true, "ngrok": true, "ssh": true, "autossh": true, "frpc": true,
	"socat": true, "nginx": true, "caddy": true, "traefik": true, "haproxy": true, "tailscaled": true, "bore": true, "lt": true, "zrok": true,
}

// publishers hold the ports that containers publish, for those who may not ask
// whose container it is.
var publishers = map[string]bool{"docker-proxy": true, "conmon": true, "rootlessport": true, "rootlesskit": true, "slirp4netns": true, "pasta": true}

func environment(text []byte) map[string]string {
	env := map[string]string{}
	for pair := range bytes.SplitSeq(text, []byte{0}) {
		if k, v, ok := strings.Cut(string(pair), "="); ok && strings.HasPrefix(k, "OLLAMA_") {
			env[k] = v
		}
	}
	return env
}

// cgroupOf says by the cgroup of a process which unit and container it is part of.
func cgroupOf(text []byte) (unit, container string) {
	for part := range strings.FieldsFuncSeq(string(text), func(r rune) bool { return r == '/' || r == '\n' || r == ':' }) {
		id := strings.TrimSuffix(part, ".scope")
		for _, prefix := range []string{"docker-", "libpod-", "cri-containerd-", "crio-"} {
			if rest, ok := strings.CutPrefix(id, prefix); ok {
				id = rest
			}
		}
		if len(id) == 64 && strings.Trim(id, "0123456789abcdef") == "" {
			container = id
		}
		if strings.HasSuffix(part, ".service") && !strings.HasPrefix(part, "user@") {
			unit = part
		}
	}
	return unit, container
}

// readListeners finds who listens.
func (l *look) readListeners(out printout) {
	var all []Listener
	switch l.OS {
	case "linux":
		all = l.linuxListeners()
	case "darwin":
		all = l.darwinListeners(out)
	case "windows":
		all = l.windowsListeners(out)
	}
	l.all = all
	ports := map[uint16]bool{Port: true}
	for _, s := range all {
		if s.Program == "ollama" {
			ports[s.Port] = true
		}
	}
	for _, p := range l.processes {
		if host, ok := p.env["OLLAMA_HOST"]; ok && p.ollama() && p.container == "" {
			_, port := Bind(host)
			ports[port] = true
		}
	}
	for _, s := range all {
		if ports[s.Port] {
			l.Listeners = append(l.Listeners, s)
		}
	}
}

const stateListen = "0A"

func (l *look) linuxListeners() []Listener {
	var all []Listener
	for _, name := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		text, _ := l.read(name)
		for line := range bytes.Lines(text) {
			f := strings.Fields(string(line))
			if len(f) < 10 || f[3] != stateListen {
				continue
			}
			addr, port, ok := kernelAddr(f[1])
			if ok {
				all = append(all, Listener{Addr: addr, Port: port, inode: f[9]})
			}
		}
	}
	if len(all) == 0 {
		return nil
	}
	// Only the processes that matter here are asked for their sockets: on a busy
	// machine the others hold a hundred thousand.
	owner := map[string]*process{}
	for i := range l.processes {
		p := &l.processes[i]
		dir := "/proc/" + strconv.Itoa(p.pid) + "/fd"
		fds, err := os.ReadDir(l.real(dir))
		if err != nil {
			continue
		}
		for _, fd := range fds {
			to, err := os.Readlink(path.Join(l.real(dir), fd.Name()))
			if inode, ok := strings.CutPrefix(to, "socket:["); err == nil && ok {
				owner[strings.TrimSuffix(inode, "]")] = p
			}
		}
	}
	for i := range all {
		if p := owner[all[i].inode]; p != nil {
			all[i].PID, all[i].Program = p.pid, p.program
		}
	}
	return all
}

// kernelAddr reads an address as /proc/net/tcp writes it: words of four bytes in
// the machine's order, which is the little end first on all that Ollama runs on.
func kernelAddr(s string) (netip.Addr, uint16, bool) {
	host, port, ok := strings.Cut(s, ":")
	raw, err := hex.DecodeString(host)
	n, err2 := strconv.ParseUint(port, 16, 16)
	if !ok || err != nil || err2 != nil || len(raw)%4 != 0 {
		return netip.Addr{}, 0, false
	}
	for i := 0; i < len(raw); i += 4 {
		slices.Reverse(raw[i : i+4])
	}
	addr, ok := netip.AddrFromSlice(raw)
	return addr.Unmap(), uint16(n), ok
}

// readRunning looks at the processes of Ollama for what no file says.
func (l *look) readRunning() {
	for i := range l.processes {
		p := &l.processes[i]
		if !p.ollama() || p.container != "" {
			continue
		}
		at := Place{File: "process " + strconv.Itoa(p.pid)}
		if host := p.env["OLLAMA_HOST"]; host != "" {
			if d, outside := doorOf(host); outside && !l.explained(p, d) {
				l.cause(Cause{
					Kind: ProcessHost, Place: at, Says: "OLLAMA_HOST=" + host, Means: hostMeans(host), Doors: []Door{d},
					manual: "end process " + strconv.Itoa(p.pid) + " and start it again with OLLAMA_HOST=" + onLoopback(host),
				})
			}
		}
		if o := p.env["OLLAMA_ORIGINS"]; anyOrigin(o) && !l.written(AnyOrigin) {
			l.cause(Cause{
				Kind: AnyOrigin, Place: at, Says: "OLLAMA_ORIGINS=" + o, Means: "any web page may call the API from a visitor's browser", Pages: true, Live: true,
				manual: "end process " + strconv.Itoa(p.pid) + " and start it again without the * in OLLAMA_ORIGINS",
			})
		}
	}
	// docker-proxy tells what Docker publishes where Docker itself is not to be asked.
	for _, p := range l.processes {
		if p.program != "docker-proxy" || len(l.containers) > 0 {
			continue
		}
		arg := func(name string) string {
			if i := slices.Index(p.args, name); i >= 0 && i+1 < len(p.args) {
				return p.args[i+1]
			}
			return ""
		}
		addr, err := netip.ParseAddr(arg("-host-ip"))
		port, err2 := strconv.ParseUint(arg("-host-port"), 10, 16)
		inner, err3 := strconv.ParseUint(arg("-container-port"), 10, 16)
		in, err4 := netip.ParseAddr(arg("-container-ip"))
		if err != nil || err2 != nil || err3 != nil || err4 != nil || inner != Port || addr.IsLoopback() {
			continue
		}
		l.cause(Cause{
			Kind: ContainerPublish, Place: Place{File: "process " + strconv.Itoa(p.pid) + " (docker-proxy)"},
			Says: "-p " + strconv.Itoa(int(port)) + ":" + strconv.Itoa(int(inner)), Means: "Docker publishes a container's port " + strconv.Itoa(Port) + publishedOn(addr),
			Doors: []Door{{Addr: addr, Port: uint16(port), Forwarded: netip.AddrPortFrom(in, uint16(inner))}}, Live: true,
			manual: "start the container with -p 127.0.0.1:" + strconv.Itoa(int(port)) + ":" + strconv.Itoa(int(inner)),
		})
	}
}

func publishedOn(a netip.Addr) string {
	switch {
	case a.IsUnspecified() && a.Is4():
		return " on all IPv4 addresses"
	case a.IsUnspecified():
		return " on all addresses"
	}
	return " on " + a.String()
}

// written reports whether a cause of the kind was found in a file.
func (l *look) written(k Kind) bool {
	return slices.ContainsFunc(l.Causes, func(c Cause) bool { return c.Kind == k })
}

// explained reports whether a file that was read says why a process of Ollama
// opens the door.
func (l *look) explained(p *process, d Door) bool {
	for i := range l.Causes {
		c := &l.Causes[i]
		switch c.Kind {
		case UnitHost:
			if c.unit != nil && p.unit != "" && c.unit.name != p.unit {
				continue
			}
		case EnvironmentHost, DesktopExpose:
		default:
			continue
		}
		if slices.Contains(c.Doors, d) {
			return true
		}
	}
	return false
}

// explain marks what is so now, and adds what nothing explains.
func (l *look) explain() {
	for i := range l.Causes {
		c := &l.Causes[i]
		for _, d := range c.Doors {
			if d.Far == Nobody && slices.ContainsFunc(l.Listeners, func(s Listener) bool { return s.opens(d) }) {
				c.Live = true
			}
		}
	}
	for _, s := range l.Listeners {
		if s.Addr.IsLoopback() || s.Program != "ollama" && s.Program != "" && !publishers[s.Program] {
			continue
		}
		d := Door{Addr: s.Addr, Port: s.Port}
		if slices.ContainsFunc(l.Causes, func(c Cause) bool {
			return slices.ContainsFunc(c.Doors, func(d Door) bool { return d.Far == Nobody && s.opens(d) })
		}) {
			continue
		}
		if publishers[s.Program] {
			l.cause(Cause{
				Kind: ContainerPublish, Place: Place{File: "process " + strconv.Itoa(s.PID) + " (" + s.Program + ")"}, Says: "port " + strconv.Itoa(int(s.Port)),
				Means: "a container's port is published" + publishedOn(s.Addr), Doors: []Door{d}, Live: true,
				manual: "publish the container's port as 127.0.0.1:" + strconv.Itoa(int(s.Port)) + ":" + strconv.Itoa(Port),
			})
			continue
		}
		says := "port " + strconv.Itoa(int(s.Port))
		at := Place{File: "port " + strconv.Itoa(int(s.Port))}
		if s.PID != 0 {
			at.File = "process " + strconv.Itoa(s.PID)
		}
		means := "Ollama listens on " + s.Addr.String()
		if s.Addr.IsUnspecified() {
			means = "Ollama listens on every address"
		}
		if s.Program == "" {
			means = "something listens on Ollama's port, on " + strings.TrimPrefix(means, "Ollama listens on ")
		}
		l.cause(Cause{Kind: Unexplained, Place: at, Says: says, Means: means + ", and nothing that could be read says why", Doors: []Door{d}, Live: true})
	}
}

// opens reports whether a door leads to the listener.
func (s Listener) opens(d Door) bool {
	if s.Port != d.Port || s.Addr.IsLoopback() {
		return false
	}
	return s.Addr == d.Addr || s.Addr.IsUnspecified() || !d.Addr.IsValid() || d.Addr.IsUnspecified()
}
