package harden

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/compose-spec/compose-go/v2/dotenv"
	"github.com/compose-spec/compose-go/v2/loader"
	"github.com/compose-spec/compose-go/v2/template"
	"github.com/compose-spec/compose-go/v2/types"
	"go.yaml.in/yaml/v4"
)

// composeNames are the files that docker compose looks for, each with the one
// that it lays over it.
var composeNames = []string{"compose.yaml", "compose.yml", "docker-compose.yaml", "docker-compose.yml"}

// project is a set of compose files that belong together.
type project struct {
	files []string // on the machine, in their order
	env   map[string]string
}

// composePort is where a compose file opens Ollama's port.
type composePort struct {
	project *project
	service string
}

// composeDirs bounds how many folders are searched for compose files.
const composeDirs = 400

// readCompose reads the compose files: those that running containers name, those
// that the caller names, and those that lie where people keep them.
func (l *look) readCompose() {
	var projects []*project
	known := map[string]bool{}
	add := func(files ...string) {
		if key := strings.Join(files, ","); len(files) > 0 && !known[key] && !known[files[0]] {
			known[key], known[files[0]] = true, true
			projects = append(projects, &project{files: files})
		}
	}
	for _, c := range l.containers {
		if files := c.labels["com.docker.compose.project.config_files"]; files != "" && c.ollama() {
			add(strings.Split(files, ",")...)
		}
	}
	for _, f := range l.Compose {
		if !l.exists(f) {
			l.unseen(f, "there is no such file", "--compose takes a compose file")
		}
		add(f)
	}
	searched := 0
	visit := func(dir string) {
		if searched++; searched > composeDirs {
			return
		}
		for _, name := range composeNames {
			file := path.Join(dir, name)
			if !l.exists(file) {
				continue
			}
			ext := path.Ext(name)
			over := strings.TrimSuffix(file, ext) + ".override" + ext
			if l.exists(over) {
				add(file, over)
			} else {
				add(file)
			}
			break
		}
	}
	if l.OS == "linux" || l.OS == "darwin" {
		roots := []string{"/opt", "/srv", "/var/lib/ollama"}
		if l.Here != "" {
			visit(l.Here)
		}
		for _, dir := range slices.Concat(roots, l.homes()) {
			visit(dir)
			for _, name := range l.list(dir) {
				if strings.HasPrefix(name, ".") || name == "node_modules" || !l.isDir(path.Join(dir, name)) {
					continue
				}
				visit(path.Join(dir, name))
			}
		}
		if searched > composeDirs {
			l.unseen("compose files in some folders", fmt.Sprintf("only %d folders are searched", composeDirs), "name the files with --compose")
		}
	}
	for _, p := range projects {
		l.judgeProject(p)
	}
}

// load reads the project as docker compose does.
func (l *look) load(p *project, replaced map[string][]byte) (*types.Project, error) {
	dir := path.Dir(p.files[0])
	details := types.ConfigDetails{WorkingDir: l.real(dir), Environment: types.Mapping{"PWD": dir}}
	if text, err := l.Machine.read(path.Join(dir, ".env")); err == nil {
		env, err := dotenv.ParseWithLookup(bytes.NewReader(text), nil)
		if err != nil {
			return nil, fmt.Errorf(".env: %w", err)
		}
		maps.Copy(details.Environment, env)
	}
	for _, f := range p.files {
		text, ok := replaced[f]
		if !ok {
			var err error
			if text, err = l.Machine.read(f); err != nil {
				return nil, err
			}
		}
		details.ConfigFiles = append(details.ConfigFiles, types.ConfigFile{Filename: l.real(f), Content: text})
	}
	p.env = details.Environment
	ctx, cancel := context.WithTimeout(l.ctx, commandTime)
	defer cancel()
	var files []string
	loaded, err := loader.LoadWithContext(ctx, details, func(o *loader.Options) {
		o.SetProjectName("gatehouse", false)
		o.SkipConsistencyCheck = true
		o.SkipValidation = true
		o.Profiles = []string{"*"}
		o.Listeners = append(o.Listeners, func(event string, metadata map[string]any) {
			if included, ok := metadata["path"]; event == "include" && ok {
				if list, ok := included.(types.StringList); ok {
					files = append(files, list...)
				}
			}
		})
	})
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		if !path.IsAbs(f) {
			f = path.Join(dir, filepath.ToSlash(f))
		}
		if !slices.Contains(p.files, f) {
			p.files = append(p.files[:len(p.files):len(p.files)], f)
		}
	}
	return loaded, nil
}

func (l *look) judgeProject(p *project) {
	base := slices.Clone(p.files)
	about := false
	for _, f := range p.files {
		text, err := l.Machine.read(f)
		if err == nil && (bytes.Contains(text, []byte("ollama")) || bytes.Contains(text, []byte(strconv.Itoa(Port))) || bytes.Contains(text, []byte("include"))) {
			about = true
		} else if err != nil && !slices.Contains(l.Compose, f) {
			l.unseen(f, err.Error(), asRoot)
			return
		}
	}
	if !about {
		return
	}
	loaded, err := l.load(p, nil)
	if err != nil {
		l.unseen(p.files[0], "it is no compose file that can be read: "+firstLine(err.Error()), "look at docker compose config")
		return
	}
	for _, name := range slices.Sorted(maps.Keys(loaded.Services)) {
		s := loaded.Services[name]
		if !ollamaService(s) {
			if e := s.Environment["OLLAMA_BASE_URL"]; e != nil && strings.Contains(*e, "host.docker.internal") && !slices.Contains(l.Facts.local, cmp.Or(s.ContainerName, name)) && l.runningService(p, name) != nil {
				l.Facts.local = append(l.Facts.local, name)
			}
			continue
		}
		running := l.runningService(p, name)
		before := len(l.Causes)
		l.judgeService(p, base, loaded, s, running)
		if len(l.Causes) > before && running != nil {
			// The file says why the container is as it is, so the container is no cause
			// of its own, as long as the file would make it so again.
			l.Causes = slices.DeleteFunc(l.Causes, func(c Cause) bool { return c.container == running && c.compose == nil })
		}
	}
}

func firstLine(s string) string {
	s, _, _ = strings.Cut(s, "\n")
	return s
}

func ollamaService(s types.ServiceConfig) bool {
	if ollamaImage(s.Image) {
		return true
	}
	for _, p := range s.Ports {
		if p.Target == Port {
			return true
		}
	}
	return s.Environment["OLLAMA_HOST"] != nil && !strings.Contains(s.Image, "webui")
}

// runningService is the container that runs a service of the project.
func (l *look) runningService(p *project, service string) *container {
	for _, c := range l.containers {
		files := strings.Split(c.labels["com.docker.compose.project.config_files"], ",")
		if c.labels["com.docker.compose.service"] == service && slices.Contains(files, p.files[0]) {
			return c
		}
	}
	return nil
}

// up is what makes a change of the files take effect.
func (p *project) up(base []string, service string) []string {
	words := []string{"docker", "compose"}
	for _, f := range base {
		words = append(words, "-f", f)
	}
	return append(words, "up", "-d", "--no-deps", service)
}

func (l *look) judgeService(p *project, base []string, loaded *types.Project, s types.ServiceConfig, running *container) {
	host := "0.0.0.0" // the image's own, unlike the program's
	if v := s.Environment["OLLAMA_HOST"]; v != nil && *v != "" {
		host = *v
	}
	_, inner := Bind(host)
	live := running != nil
	cause := func(c Cause, at Place, rewrite func([]byte) ([]byte, error)) {
		c.Place, c.Live = at, live
		c.compose = &composePort{p, s.Name}
		c.container = running
		c.edit = l.verified(base, loaded, s.Name, at.File, rewrite)
		if live {
			c.restart = p.up(base, s.Name)
		}
		l.cause(c)
	}
	if s.NetworkMode == "host" {
		if d, outside := doorOf(host); outside {
			at, edit := l.composeHost(p, s.Name, host)
			if running != nil && !running.host {
				return
			}
			cause(Cause{
				Kind: ComposeHost, Says: "network_mode: host", Means: "service " + s.Name + ": " + hostMeans(host) + ", in the host's own network",
				Doors: []Door{d},
			}, at, edit)
		}
	} else {
		for _, port := range s.Ports {
			addr, err := netip.ParseAddr(cmp.Or(port.HostIP, "0.0.0.0"))
			if err != nil || addr.IsLoopback() || port.Target != uint32(inner) || port.Protocol == "udp" {
				continue
			}
			at, text, edit := l.composePort(p, s.Name, port)
			d := Door{Addr: addr, Forwarded: netip.AddrPortFrom(netip.Addr{}, inner)}
			n, err := strconv.ParseUint(port.Published, 10, 16)
			if err == nil {
				d.Port = uint16(n)
			}
			doors := []Door{d}
			on := publishedOn(addr)
			if port.HostIP == "" {
				other := d
				other.Addr = netip.IPv6Unspecified()
				doors, on = append(doors, other), " on all addresses, IPv4 and IPv6"
			}
			if running != nil { // what runs tells it all
				d.Forwarded = netip.AddrPort{}
				doors = nil
				for _, r := range running.ports {
					if r.inner == inner && !r.addr.IsLoopback() && (d.Port == 0 || r.port == d.Port) {
						doors = append(doors, Door{Addr: r.addr, Port: r.port, Forwarded: netip.AddrPortFrom(r.in, r.inner)})
					}
				}
				live = len(doors) > 0
				if !live {
					doors = []Door{d}
				}
			}
			what := "publishes port " + cmp.Or(port.Published, "of the engine's choice")
			cause(Cause{Kind: ComposePublish, Says: text, Means: "service " + s.Name + " " + what + on, Doors: doors}, at, edit)
			live = running != nil
		}
	}
	if o := s.Environment["OLLAMA_ORIGINS"]; o != nil && anyOrigin(*o) {
		at, edit := l.composeOrigins(p, s.Name)
		cause(Cause{
			Kind: AnyOrigin, Says: "OLLAMA_ORIGINS=" + *o, Means: "service " + s.Name + ": any web page may call the API from a visitor's browser", Pages: true,
		}, at, edit)
	}
}

// verified gives an edit that is only made when the project, read again, has
// changed in this service's ports and settings and nowhere else.
func (l *look) verified(base []string, loaded *types.Project, service, file string, rewrite func([]byte) ([]byte, error)) func([]byte) ([]byte, error) {
	if rewrite == nil {
		return nil
	}
	m := l.Machine
	return func(text []byte) ([]byte, error) {
		before := loaded
		after, err := rewrite(text)
		if err != nil {
			return nil, err
		}
		again := &look{Machine: m, ctx: context.Background(), Facts: &Facts{}, seen: map[string]bool{}}
		files := base
		if !slices.Contains(base, file) { // it is included, and has to be a compose file by itself
			files = []string{file}
			if before, err = again.load(&project{files: files}, nil); err != nil {
				return nil, err
			}
		}
		loaded, err := again.load(&project{files: slices.Clone(files)}, map[string][]byte{file: after})
		if err != nil {
			return nil, fmt.Errorf("after the change it is no compose file: %s", firstLine(err.Error()))
		}
		if rest(before, service) != rest(loaded, service) {
			return nil, errors.New("the change would reach further than it should")
		}
		return after, nil
	}
}

// rest is a project but for what may change.
func rest(p *types.Project, service string) string {
	services := maps.Clone(p.Services)
	s := services[service]
	s.Ports, s.Environment = nil, nil
	services[service] = s
	text, err := json.Marshal(services)
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// composeNodes walks to a field of a service in each of the project's files.
func (l *look) composeNodes(p *project, service, field string, visit func(file string, text []byte, owner, node *yaml.Node) bool) {
	for _, file := range p.files {
		text, err := l.Machine.read(file)
		if err != nil {
			continue
		}
		var doc yaml.Node
		if yaml.Unmarshal(text, &doc) != nil || len(doc.Content) == 0 {
			continue
		}
		owner := child(child(doc.Content[0], "services"), service)
		if owner == nil {
			continue
		}
		if node := child(owner, field); node != nil && visit(file, text, owner, node) {
			return
		}
	}
}

// child is the value of a key, by way of aliases and merges.
func child(n *yaml.Node, key string) *yaml.Node {
	n = resolved(n)
	if n == nil || n.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return resolved(n.Content[i+1])
		}
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value != "<<" {
			continue
		}
		from := resolved(n.Content[i+1])
		if from.Kind != yaml.SequenceNode {
			from = &yaml.Node{Kind: yaml.SequenceNode, Content: []*yaml.Node{from}}
		}
		for _, m := range from.Content {
			if v := child(m, key); v != nil {
				return v
			}
		}
	}
	return nil
}

func resolved(n *yaml.Node) *yaml.Node {
	for n != nil && n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	return n
}

// composePort finds where a published port is written and how to have it on
// loopback alone.
func (l *look) composePort(p *project, service string, port types.ServicePortConfig) (at Place, says string, edit func([]byte) ([]byte, error)) {
	at, says = Place{File: p.files[0]}, cmp.Or(port.Published, "?")+":"+strconv.Itoa(int(port.Target))
	// An extended service has its ports where it is extended from, under another name.
	names := []string{service}
	for name := range allServices(l, p) {
		if name != service {
			names = append(names, name)
		}
	}
	for _, name := range names {
		found := false
		l.composeNodes(p, name, "ports", func(file string, text []byte, _, node *yaml.Node) bool {
			for _, item := range node.Content {
				item = resolved(item)
				if !l.isPort(p, item, port) {
					continue
				}
				at, found = Place{file, item.Line}, true
				switch item.Kind {
				case yaml.ScalarNode:
					says = item.Value
					edit = l.editShort(item)
				case yaml.MappingNode:
					says = "published: " + port.Published
					edit = editLong(item)
				}
				return true
			}
			return false
		})
		if found {
			return at, says, edit
		}
	}
	return at, says, nil
}

// allServices are the names of services in the project's files, in order.
func allServices(l *look, p *project) func(func(string) bool) {
	return func(yield func(string) bool) {
		for _, file := range p.files {
			text, err := l.Machine.read(file)
			var doc yaml.Node
			if err != nil || yaml.Unmarshal(text, &doc) != nil || len(doc.Content) == 0 {
				continue
			}
			services := child(doc.Content[0], "services")
			for i := 0; services != nil && i+1 < len(services.Content); i += 2 {
				if !yield(services.Content[i].Value) {
					return
				}
			}
		}
	}
}

func (l *look) isPort(p *project, item *yaml.Node, want types.ServicePortConfig) bool {
	switch item.Kind {
	case yaml.ScalarNode:
		text, err := template.Substitute(item.Value, func(name string) (string, bool) { v, ok := p.env[name]; return v, ok })
		if err != nil {
			return false
		}
		ports, err := types.ParsePortConfig(text)
		if err != nil {
			return false
		}
		return slices.ContainsFunc(ports, func(have types.ServicePortConfig) bool {
			return have.Target == want.Target && have.Published == want.Published && have.HostIP == want.HostIP
		})
	case yaml.MappingNode:
		value := func(key string) string {
			n := child(item, key)
			if n == nil {
				return ""
			}
			text, err := template.Substitute(n.Value, func(name string) (string, bool) { v, ok := p.env[name]; return v, ok })
			if err != nil {
				return n.Value
			}
			return text
		}
		return value("target") == strconv.Itoa(int(want.Target)) && value("published") == want.Published && value("host_ip") == want.HostIP
	}
	return false
}

// offsetOf is where a node begins in the text; yaml counts columns in characters.
func offsetOf(text []byte, n *yaml.Node) int {
	at := 0
	for range n.Line - 1 {
		i := bytes.IndexByte(text[at:], '\n')
		if i < 0 {
			return len(text)
		}
		at += i + 1
	}
	for range n.Column - 1 {
		if at < len(text) {
			at++
			for at < len(text) && text[at]&0xc0 == 0x80 {
				at++
			}
		}
	}
	return at
}

// editScalar replaces a scalar by another, within the quotes it has.
func editScalar(n *yaml.Node, by func(string) string) func([]byte) ([]byte, error) {
	return func(text []byte) ([]byte, error) {
		at := offsetOf(text, n)
		for at < len(text) && (text[at] == '&' || text[at] == '!') { // an anchor or a tag stands before it
			end := bytes.IndexByte(text[at:], ' ')
			if end < 0 {
				break
			}
			at += end + 1
		}
		if at < len(text) && (text[at] == '"' || text[at] == '\'') {
			at++
		}
		if !bytes.HasPrefix(text[at:], []byte(n.Value)) {
			return nil, fmt.Errorf("line %d is written in a way that is not changed here", n.Line)
		}
		with := by(n.Value)
		if plainScalar := n.Style&(yaml.DoubleQuotedStyle|yaml.SingleQuotedStyle) == 0; plainScalar && with != "" {
			// The values put in are host:port and the like, which are plain in YAML but
			// for one reading: two numbers with a colon, base 60 in YAML 1.1.
			if strings.Count(with, ":") == 1 && strings.Trim(with, "0123456789:") == "" {
				with = `"` + with + `"`
			}
		} else if plainScalar {
			with = `""`
		}
		return slices.Concat(text[:at], []byte(with), text[at+len(n.Value):]), nil
	}
}

// editShort has a port of the short form on loopback: [host:][published:]target.
func (l *look) editShort(n *yaml.Node) func([]byte) ([]byte, error) {
	return editScalar(n, func(s string) string {
		// Colons within ${…} are the variable's own.
		var parts []string
		depth, from := 0, 0
		for i, r := range s {
			switch {
			case r == '{' || r == '[':
				depth++
			case r == '}' || r == ']':
				depth--
			case r == ':' && depth == 0:
				parts = append(parts, s[from:i])
				from = i + 1
			}
		}
		parts = append(parts, s[from:])
		switch len(parts) {
		case 1:
			return "127.0.0.1::" + s
		case 2:
			return "127.0.0.1:" + s
		}
		return "127.0.0.1:" + strings.Join(parts[len(parts)-2:], ":")
	})
}

// editLong has a port of the long form on loopback: host_ip.
func editLong(n *yaml.Node) func([]byte) ([]byte, error) {
	if ip := child(n, "host_ip"); ip != nil {
		return editScalar(ip, func(string) string { return "127.0.0.1" })
	}
	return insertKey(n, "host_ip", "127.0.0.1")
}

// insertKey puts a key at the head of a mapping, in its own style.
func insertKey(n *yaml.Node, key, value string) func([]byte) ([]byte, error) {
	return func(text []byte) ([]byte, error) {
		if len(n.Content) == 0 {
			return nil, fmt.Errorf("line %d is written in a way that is not changed here", n.Line)
		}
		at := offsetOf(text, n.Content[0])
		pad := string(text[bytes.LastIndexByte(text[:at], '\n')+1 : at])
		pad = strings.Repeat(" ", len([]rune(pad)))
		put := key + ": " + value + "\n" + pad
		if n.Style&yaml.FlowStyle != 0 {
			put = key + ": " + value + ", "
		}
		return slices.Concat(text[:at], []byte(put), text[at:]), nil
	}
}

// composeHost has Ollama in the host's network listen on loopback.
func (l *look) composeHost(p *project, service, host string) (at Place, edit func([]byte) ([]byte, error)) {
	at = Place{File: p.files[0]}
	var owner *yaml.Node
	l.composeNodes(p, service, "network_mode", func(file string, _ []byte, o, node *yaml.Node) bool {
		at, owner = Place{file, node.Line}, o
		return true
	})
	closed := onLoopback(host)
	file := ""
	l.composeNodes(p, service, "environment", func(f string, _ []byte, _, node *yaml.Node) bool {
		file = f
		edit = editEnvironment(node, "OLLAMA_HOST", func(string) string { return closed }, closed)
		return edit != nil
	})
	if file == "" && owner != nil {
		edit = func(text []byte) ([]byte, error) {
			return insertKey(owner, "environment", "{OLLAMA_HOST: \""+closed+"\"}")(text)
		}
	} else if file != "" {
		at.File = file // the setting is changed where the settings are
		if l.lineIn(p, service, "network_mode") != file {
			at.Line = 0
		}
	}
	return at, edit
}

func (l *look) lineIn(p *project, service, field string) (file string) {
	l.composeNodes(p, service, field, func(f string, _ []byte, _, _ *yaml.Node) bool { file = f; return true })
	return file
}

func (l *look) composeOrigins(p *project, service string) (at Place, edit func([]byte) ([]byte, error)) {
	at = Place{File: p.files[0]}
	l.composeNodes(p, service, "environment", func(file string, _ []byte, _, node *yaml.Node) bool {
		n := environmentNode(node, "OLLAMA_ORIGINS")
		if n == nil {
			return false
		}
		at = Place{file, n.Line}
		edit = editEnvironment(node, "OLLAMA_ORIGINS", narrowed, "")
		return true
	})
	return at, edit
}

// environmentNode is the node that holds a setting: its value, or NAME=value.
func environmentNode(env *yaml.Node, name string) *yaml.Node {
	if env.Kind == yaml.MappingNode {
		return child(env, name)
	}
	for _, item := range env.Content {
		if item = resolved(item); strings.HasPrefix(item.Value, name+"=") {
			return item
		}
	}
	return nil
}

// editEnvironment changes a setting in a list or mapping of settings, or adds it.
func editEnvironment(env *yaml.Node, name string, by func(string) string, added string) func([]byte) ([]byte, error) {
	n := environmentNode(env, name)
	switch {
	case n != nil && env.Kind == yaml.MappingNode:
		return editScalar(n, by)
	case n != nil:
		return editScalar(n, func(s string) string { return name + "=" + by(strings.TrimPrefix(s, name+"=")) })
	case env.Kind == yaml.MappingNode:
		return insertKey(env, name, `"`+added+`"`)
	case env.Kind == yaml.SequenceNode && len(env.Content) > 0:
		return func(text []byte) ([]byte, error) {
			at := offsetOf(text, env.Content[0])
			begin := bytes.LastIndexByte(text[:at], '\n') + 1
			put := name + "=" + added + ", "
			if env.Style&yaml.FlowStyle == 0 {
				put = name + "=" + added + "\n" + string(text[begin:at])
			}
			return slices.Concat(text[:at], []byte(put), text[at:]), nil
		}
	}
	return nil
}
