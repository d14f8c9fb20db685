package harden

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/rogpeppe/go-internal/diff"
)

// Plan is what to change so that a machine is closed. The same machine has the
// same plan; a closed one has none.
type Plan struct {
	Steps  []Step
	ByHand []string // what only a person can do, or should
	Notes  []string // what to know about the steps
}

// Step changes a file or runs a command.
type Step struct {
	Why  string   `json:"why"`
	File *Change  `json:"file,omitempty"`
	Run  *Command `json:"run,omitempty"`
}

// Change is a file before and after. Before is nil where it was not there.
type Change struct {
	Path   string      `json:"path"`
	Before []byte      `json:"before"`
	After  []byte      `json:"after"`
	Is     bool        `json:"is"` // it was there
	Mode   fs.FileMode `json:"mode"`
}

// Command is run to make changes take effect. To take the step back, Undo is run;
// one that is to be run Again is run once more when the files are what they were.
// Either may be run twice: each leads to the same state as once.
type Command struct {
	Do    []string `json:"do"`
	Undo  []string `json:"undo,omitempty"`
	Again bool     `json:"again,omitempty"`
	Shows bool     `json:"shows,omitempty"` // what it prints is for the caller, such as a key
}

// Options say what a plan may make use of.
type Options struct {
	Gate    bool   // put the gate in front, as a service
	Program string // where gatehouse is installed
	Unit    []byte // the gate's unit
	State   string // the gate's state folder
}

// Errors of planning that a caller has a hint for.
var (
	ErrNoService = errors.New("the gate is a service of systemd, which does not run here")
	ErrNotPlaced = errors.New("gatehouse is not installed where a service can run it")
)

// planner is one plan in the making.
type planner struct {
	*Facts
	opt    Options
	plan   Plan
	texts  map[string][]byte // files as they will be
	why    map[string]string
	order  []string
	after  [][]string        // commands for when the files are in place
	reason map[string]string // of a command
	ports  map[uint16]string // to close by a table of our own
}

// Plan is the smallest change that closes what is open by v's causes.
func (f *Facts) Plan(v Verdict, opt Options) (*Plan, error) {
	p := &planner{Facts: f, opt: opt, texts: map[string][]byte{}, why: map[string]string{}, reason: map[string]string{}, ports: map[uint16]string{}}
	if opt.Gate {
		if !f.systemd {
			return nil, ErrNoService
		}
		if !strings.HasPrefix(opt.Program, "/usr/") && !strings.HasPrefix(opt.Program, "/opt/") {
			return nil, ErrNotPlaced
		}
	}
	causes := slices.Clone(v.Causes)
	slices.SortStableFunc(causes, func(a, b Cause) int {
		return cmp.Or(cmp.Compare(a.Place.File, b.Place.File), cmp.Compare(a.Place.Line, b.Place.Line), cmp.Compare(a.Kind, b.Kind))
	})
	units := map[*unit][]Cause{}
	for _, c := range causes {
		if c.Reach() <= OnMachine && !c.Pages {
			continue // a firewall keeps everybody out, and whom it lets in is its owner's choice
		}
		if c.unit != nil {
			units[c.unit] = append(units[c.unit], c)
			continue
		}
		p.close(c)
	}
	for _, u := range f.units {
		if list := units[u]; len(list) > 0 {
			p.closeUnit(u, list)
		}
	}
	if opt.Gate {
		p.gate(causes)
	}
	p.table()
	p.assemble()
	return &p.plan, nil
}

func (p *planner) byHand(format string, args ...any) {
	if s := fmt.Sprintf(format, args...); !slices.Contains(p.plan.ByHand, s) {
		p.plan.ByHand = append(p.plan.ByHand, s)
	}
}

func (p *planner) note(s string) {
	if !slices.Contains(p.plan.Notes, s) {
		p.plan.Notes = append(p.plan.Notes, s)
	}
}

// text is a file as the plan has it so far.
func (p *planner) text(file string) ([]byte, error) {
	if t, ok := p.texts[file]; ok {
		return t, nil
	}
	return p.machine.read(file)
}

func (p *planner) put(file string, text []byte, why string) {
	if _, ok := p.texts[file]; !ok {
		p.order = append(p.order, file)
		p.why[file] = why
	}
	p.texts[file] = text
}

func (p *planner) run(why string, words ...string) {
	p.after = append(p.after, words)
	p.reason[strings.Join(words, " ")] = why
}

// close plans for a cause that is no unit's.
func (p *planner) close(c Cause) {
	edit := c.edit
	if p.opt.Gate && c.toGate != nil {
		edit = c.toGate
	}
	edited := false
	if edit != nil {
		before, err := p.text(c.Place.File)
		if err == nil {
			var after []byte
			if after, err = edit(before); err == nil {
				p.put(c.Place.File, after, "against this: "+c.Means)
				edited = true
			}
		}
		if err != nil {
			p.byHand("%s: %v", c.Place, plain(err))
		}
	}
	restarted := false
	if edited && len(c.restart) > 0 {
		switch {
		case p.machine.Run == nil: // an image: it takes effect when it starts
			restarted = true
		case c.restart[0] != "systemctl" || p.systemd:
			p.run("so that the change takes effect", c.restart...)
			restarted = true
		case slices.Equal(c.restart, []string{"systemctl", "reload", "nginx"}):
			p.run("so that the change takes effect", "nginx", "-s", "reload")
			restarted = true
		default:
			p.byHand("restart what %s is for", c.Place.File)
		}
	}
	if edited && (restarted || !c.Live) {
		if kube(c.Kind) {
			p.byHand("%s", c.manual)
		}
		return
	}
	if edited && kube(c.Kind) {
		p.byHand("%s", c.manual)
		return
	}
	if !edited || c.Live {
		switch {
		case c.container != nil && c.compose == nil:
			p.byHand("have container %s on loopback alone; look at this first, it may lack settings of yours:\n%s", c.container.Name, c.container.recreate())
		case c.manual != "" && (!edited || c.Kind == EnvironmentHost || c.Kind == AnyOrigin):
			p.byHand("%s", c.manual)
		case c.compose != nil && !edited:
			p.byHand("%s: put 127.0.0.1: before the port of service %s, then docker compose up -d", c.Place, c.compose.service)
		}
	}
	if c.Live {
		for _, d := range c.Doors {
			p.closePort(d, c.Means)
		}
	}
}

func kube(k Kind) bool { return k == KubeService || k == KubeIngress || k == KubeHost }

// closePort has our own table drop what comes to a port from outside.
func (p *planner) closePort(d Door, why string) {
	if d.Far == Nobody && d.Port != 0 && p.ports[d.Port] == "" {
		p.ports[d.Port] = why
	}
}

// sandbox is what Ollama does without. What could take a graphics card away from it
// (devices, kernel modules, setuid helpers) is left alone.
const sandbox = `LockPersonality=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
`

// closeUnit has a service listen on loopback, by a drop-in that comes last.
func (p *planner) closeUnit(u *unit, causes []Cause) {
	var settings, exec []string
	live := false
	for _, c := range causes {
		live = live || c.Live
		name, value, _ := strings.Cut(c.Says, "=")
		if c.Kind == UnitHost && len(p.local) > 0 {
			p.note("a container here comes to Ollama by the machine's own address (" + strings.Join(p.local, ", ") + "): it stays on every address, and a table of rules keeps everybody else out")
			for _, d := range c.Doors {
				p.closePort(d, c.Means)
			}
			continue
		}
		closed := closedValue(name, value)
		switch {
		case slices.ContainsFunc(u.files2, func(f envFile) bool { return p.isEnvFile(f, c.Place.File) }):
			// What an EnvironmentFile= says counts more than any Environment=.
			text, err := p.text(c.Place.File)
			if err != nil {
				p.byHand("%s: %v", c.Place, plain(err))
				continue
			}
			lines := linesOf(text)
			if c.Place.Line > len(lines) {
				continue
			}
			is := lines[c.Place.Line-1].text
			after, err := replaceLine(c.Place.Line, is, name+"="+closed)(text)
			if err != nil {
				p.byHand("%s: %v", c.Place, err)
				continue
			}
			p.put(c.Place.File, after, "against this: "+c.Means)
		case slices.ContainsFunc(u.exec, func(a assignment) bool { return a.at == c.Place && strings.Contains(a.value, name+"=") }):
			exec = append(exec, name, value, closed)
		default:
			settings = append(settings, "Environment="+quoteUnit(name+"="+closed))
		}
	}
	if len(settings) > 0 || len(exec) > 0 {
		what := " listens on loopback alone"
		if !slices.ContainsFunc(causes, func(c Cause) bool { return c.Kind == UnitHost }) {
			what = " lets in no page that nobody named"
		}
		var b strings.Builder
		b.WriteString("# Written by gatehouse harden; gatehouse harden --undo takes it back.\n[Service]\n")
		for _, s := range settings {
			b.WriteString(s + "\n")
		}
		if len(exec) > 0 {
			b.WriteString("ExecStart=\n")
			for _, a := range u.exec {
				line := a.value
				for i := 0; i < len(exec); i += 3 {
					line = strings.ReplaceAll(line, exec[i]+"="+exec[i+1], exec[i]+"="+exec[i+2])
				}
				b.WriteString("ExecStart=" + line + "\n")
			}
		}
		b.WriteString(sandbox)
		p.put(path.Join(u.dropinDir(), u.last()), []byte(b.String()), u.name+what+", and has less power over the machine")
	}
	if len(settings)+len(exec) == 0 && len(p.texts) == 0 {
		return
	}
	switch {
	case p.machine.Run == nil:
	case u.user != "":
		p.byHand("as that user: systemctl --user daemon-reload && systemctl --user restart %s", u.name)
		if live {
			p.closeLive(causes)
		}
	case p.systemd:
		p.run("so that systemd reads the change", "systemctl", "daemon-reload")
		if live {
			p.run("so that Ollama listens where it should", "systemctl", "restart", u.name)
		}
	case live:
		p.byHand("restart Ollama: systemd does not run here")
		p.closeLive(causes)
	}
}

func (p *planner) closeLive(causes []Cause) {
	for _, c := range causes {
		for _, d := range c.Doors {
			p.closePort(d, c.Means)
		}
	}
}

func (p *planner) isEnvFile(f envFile, file string) bool {
	if f.path == file {
		return true
	}
	ok, err := path.Match(f.path, file)
	return ok && err == nil
}

func quoteUnit(s string) string {
	if strings.ContainsAny(s, " \t") {
		return `"` + s + `"`
	}
	return s
}

// Files of our own table of rules.
const (
	tableFile = "/etc/gatehouse/closed.nft"
	tableUnit = "/etc/systemd/system/gatehouse-closed.service"
	tableName = "gatehouse"
)

// rules is a table that drops what comes from outside to the ports. It stands
// before Docker's, which rewrite addresses in prerouting, and is one for IPv4 and
// IPv6. Loopback and the machine's own containers pass.
func rules(ports []uint16) []byte {
	var list []string
	for _, n := range ports {
		list = append(list, strconv.Itoa(int(n)))
	}
	return []byte(`#!/usr/sbin/nft -f
# Written by gatehouse harden; gatehouse harden --undo takes it back.
table inet gatehouse
delete table inet gatehouse
table inet gatehouse {
	chain closed {
		type filter hook prerouting priority -310; policy accept;
		iifname { "lo", "docker0" } accept
		iifname "br-*" accept
		iifname "podman*" accept
		iifname "cni-podman*" accept
		tcp dport { ` + strings.Join(list, ", ") + ` } fib daddr type local drop
	}
}
`)
}

const rulesUnit = `# Written by gatehouse harden; gatehouse harden --undo takes it back.
[Unit]
Description=Ollama's port is closed to other machines
Documentation=man:gatehouse(1)
DefaultDependencies=no
After=nftables.service
PartOf=nftables.service
Before=network-pre.target
Wants=network-pre.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/sbin/nft -f /etc/gatehouse/closed.nft
ExecStop=/usr/sbin/nft "add table inet gatehouse; delete table inet gatehouse"

[Install]
WantedBy=multi-user.target
`

// table closes ports by rules of our own, where the cause itself cannot be changed
// without somebody's help.
func (p *planner) table() {
	if len(p.ports) == 0 {
		return
	}
	ports := slices.Sorted(maps.Keys(p.ports))
	if p.machine.OS != "linux" {
		p.byHand("until then, have the system's firewall block %s from outside", portList(ports))
		return
	}
	if !p.nft && p.machine.Run != nil {
		p.byHand("or install nftables and call this again: then a table of rules closes %s at once", portList(ports))
		return
	}
	why := p.ports[ports[0]]
	for _, n := range p.closed() { // those that the table has now stay in it
		if !slices.Contains(ports, n) {
			ports = append(ports, n)
		}
	}
	slices.Sort(ports)
	p.put(tableFile, rules(ports), "against this: "+why)
	switch {
	case p.machine.Run == nil || p.systemd:
		p.put(tableUnit, []byte(rulesUnit), "so that the rules are there after a restart too")
		if p.machine.Run == nil {
			p.byHand("when the image runs: systemctl enable --now gatehouse-closed.service")
			return
		}
		p.run("so that systemd reads the change", "systemctl", "daemon-reload")
		p.run("closes "+portList(ports)+", IPv4 and IPv6, and at every start", "systemctl", "enable", "--now", "gatehouse-closed.service")
	default:
		p.run("closes "+portList(ports)+", IPv4 and IPv6", "nft", "-f", tableFile)
		p.note("systemd does not run here: after a restart of the machine, load the rules again with nft -f " + tableFile)
	}
}

func portList(ports []uint16) string {
	var list []string
	for _, n := range ports {
		list = append(list, strconv.Itoa(int(n)))
	}
	if len(list) == 1 {
		return "port " + list[0]
	}
	return "ports " + strings.Join(list, ", ")
}

// closed are the ports of our table, as its file has them.
func (p *planner) closed() (ports []uint16) {
	text, err := p.machine.read(tableFile)
	if err != nil {
		return nil
	}
	_, list, ok := bytes.Cut(text, []byte("tcp dport { "))
	list, _, _ = bytes.Cut(list, []byte(" }"))
	if !ok {
		return nil
	}
	for s := range strings.SplitSeq(string(list), ", ") {
		if n, err := strconv.ParseUint(s, 10, 16); err == nil {
			ports = append(ports, uint16(n))
		}
	}
	return ports
}

// Files of the gate as a service.
const (
	gateUnit   = "/etc/systemd/system/gatehouse.service"
	gateConfig = "/etc/gatehouse/gatehouse.yaml"
)

// gate installs the gate as a service, with a first key.
func (p *planner) gate(causes []Cause) {
	var names []string
	for _, c := range causes {
		names = append(names, c.names...)
	}
	slices.Sort(names)
	names = slices.Compact(names)
	if _, err := p.machine.read(gateUnit); err == nil {
		if len(names) > 0 {
			p.byHand("name these under hosts in the gate's configuration, if they are not there: %s", strings.Join(names, ", "))
		}
		return // it is somebody's already
	}
	text := bytes.ReplaceAll(p.opt.Unit, []byte("/usr/local/bin/gatehouse"), []byte(p.opt.Program))
	p.put(gateUnit, text, "the gate lets in those who hold a key")
	if _, err := p.machine.read(gateConfig); err != nil {
		text := "# Every field has a default; docs/gatehouse.yaml names them.\n"
		if len(names) > 0 {
			text += "hosts: [" + strings.Join(names, ", ") + "] # by which the proxy's callers know the gate\n"
		}
		p.put(gateConfig, []byte(text), "the gate's configuration")
	}
	p.run("so that systemd reads the change", "systemctl", "daemon-reload")
	p.run("makes the first key", p.opt.Program, "key", "--state-dir", p.opt.State, "add", "first", "--if-none")
	p.run("starts the gate, now and with the machine", "systemctl", "enable", "--now", "gatehouse.service")
}

// assemble puts the steps in order: files first, those by which units change in the
// end, then commands, each once.
func (p *planner) assemble() {
	slices.SortStableFunc(p.order, func(a, b string) int { return cmp.Compare(a, b) })
	for _, file := range p.order {
		before, err := p.machine.read(file)
		is := err == nil
		if is && bytes.Equal(before, p.texts[file]) {
			continue
		}
		mode := fs.FileMode(0o644)
		if is {
			if info, err := os.Stat(p.machine.real(file)); err == nil {
				mode = info.Mode().Perm()
			}
		} else if !errors.Is(err, fs.ErrNotExist) {
			p.byHand("%s: %v", file, plain(err))
			continue
		}
		p.plan.Steps = append(p.plan.Steps, Step{Why: p.why[file], File: &Change{Path: file, Before: before, After: p.texts[file], Is: is, Mode: mode}})
	}
	done := map[string]bool{}
	// systemd reads once, before anything is started.
	slices.SortStableFunc(p.after, func(a, b []string) int { return cmp.Compare(stage(a), stage(b)) })
	for _, words := range p.after {
		line := strings.Join(words, " ")
		if done[line] {
			continue
		}
		done[line] = true
		c := &Command{Do: words}
		switch {
		case line == "systemctl enable --now gatehouse-closed.service":
			c.Undo = []string{"systemctl", "disable", "--now", "gatehouse-closed.service"}
		case line == "systemctl enable --now gatehouse.service":
			c.Undo = []string{"systemctl", "disable", "--now", "gatehouse.service"}
		case words[0] == "nft":
			c.Undo = []string{"nft", "add table inet " + tableName + "; delete table inet " + tableName}
		case words[0] == p.opt.Program && p.opt.Program != "":
			c.Shows = true
		default:
			c.Again = true
		}
		p.plan.Steps = append(p.plan.Steps, Step{Why: p.reason[line], Run: c})
	}
}

func stage(words []string) int {
	switch {
	case slices.Equal(words, []string{"systemctl", "daemon-reload"}):
		return 0
	case words[0] == "nft" || slices.Contains(words, "gatehouse-closed.service"):
		return 1
	case slices.Contains(words, "restart") || slices.Contains(words, "up"):
		return 2
	case slices.Contains(words, "key"):
		return 3
	}
	return 4
}

// Empty reports whether there is nothing to do, not even by hand.
func (p *Plan) Empty() bool { return len(p.Steps) == 0 && len(p.ByHand) == 0 }

// Diff is a change as a unified diff.
func (c *Change) Diff() string {
	from := c.Path
	if !c.Is {
		from = "/dev/null"
	}
	text := string(diff.Diff(from, c.Before, c.Path, c.After))
	_, text, _ = strings.Cut(text, "\n") // the line that names the command
	return text
}

// Cuts says by which step a plan may cut the connection that its caller has come
// by, "" when by none. The value is that of SSH_CONNECTION.
func (p *Plan) Cuts(session string) string {
	f := strings.Fields(session)
	if len(f) != 4 {
		return ""
	}
	from, err := netip.ParseAddr(f[0])
	if err != nil {
		return ""
	}
	port := f[3]
	for _, s := range p.Steps {
		switch {
		case s.File != nil && s.File.Path == tableFile:
			_, list, _ := strings.Cut(string(s.File.After), "tcp dport { ")
			list, _, _ = strings.Cut(list, " }")
			if slices.Contains(strings.Split(list, ", "), port) && !from.IsLoopback() {
				return "it closes port " + port + ", by which this SSH session has come"
			}
		case s.Run != nil && from.IsLoopback():
			// The session comes by a program of this machine: a tunnel, or a proxy.
			for _, w := range s.Run.Do {
				switch w {
				case "cloudflared", "nginx", "haproxy", "caddy", "traefik":
					return "it restarts " + w + ", by which this SSH session may have come"
				}
			}
		}
	}
	return ""
}
