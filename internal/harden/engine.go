package harden

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// container is a running container, as the engine describes it.
type container struct {
	ID     string
	Name   string
	Image  string
	Pid    int
	host   bool // in the host's network
	env    map[string]string
	ports  []published
	labels map[string]string
	local  bool   // it comes to Ollama by the host's address
	tool   string // the command of its engine

	spec containerSpec
}

type published struct {
	addr  netip.Addr // of the host
	port  uint16
	inner uint16
	in    netip.Addr
}

// containerSpec is the part of /containers/{id}/json that is read.
type containerSpec struct {
	ID    string `json:"Id"`
	Name  string
	State struct {
		Running bool
		Pid     int
	}
	Config struct {
		Image  string
		Env    []string
		Cmd    []string
		Labels map[string]string
	}
	HostConfig struct {
		NetworkMode    string
		Binds          []string
		Runtime        string
		RestartPolicy  struct{ Name string }
		PortBindings   map[string][]portBinding
		DeviceRequests []struct {
			Driver       string
			Count        int
			DeviceIDs    []string
			Capabilities [][]string
		}
		Devices    []struct{ PathOnHost string }
		ExtraHosts []string
	}
	Mounts []struct {
		Type, Name, Source, Destination string
		RW                              bool
	}
	NetworkSettings struct {
		Ports    map[string][]portBinding
		Networks map[string]struct{ IPAddress, GlobalIPv6Address, Gateway string }
	}
}

type portBinding struct{ HostIp, HostPort string } //nolint:revive // the engine's own names

// maxContainers bounds what is asked of the engine.
const maxContainers = 500

// readContainers asks the engines for what runs.
func (l *look) readContainers(printout) {
	known := map[string]bool{}
	for _, e := range l.Engines {
		for _, c := range l.ask(e) {
			if !known[c.ID] { // one engine may have two sockets
				known[c.ID] = true
				l.containers = append(l.containers, c)
			}
		}
	}
	l.containers = append(l.containers, l.podman(known)...)
	slices.SortFunc(l.containers, func(a, b *container) int { return cmp.Compare(a.Name, b.Name) })
	for _, c := range l.containers {
		if !c.ollama() {
			if c.local {
				l.Facts.local = append(l.Facts.local, c.Name)
			}
			continue
		}
		l.Ollama = append(l.Ollama, "container "+c.Name)
		l.judgeContainer(c)
	}
}

// ask has an engine describe its containers.
func (l *look) ask(e Engine) (all []*container) {
	text, err := e.Ask(l.ctx, "/containers/json")
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil // no engine here
	case errors.Is(err, fs.ErrPermission):
		l.unseen("containers", "no permission to ask "+e.Tool, asRoot)
		return nil
	case err != nil:
		l.unseen("containers", err.Error(), "look at "+e.Tool+" ps")
		return nil
	}
	var list []struct {
		ID string `json:"Id"`
	}
	if err := json.Unmarshal(text, &list); err != nil {
		l.unseen("containers", "the engine's answer is not understood", "look at "+e.Tool+" ps")
		return nil
	}
	if len(list) > maxContainers {
		l.unseen("some containers", "there are more than "+strconv.Itoa(maxContainers), "look at "+e.Tool+" ps")
		list = list[:maxContainers]
	}
	// Each is asked for by itself, eight at a time.
	found := make([]*container, len(list))
	var wg sync.WaitGroup
	turn := make(chan struct{}, 8)
	for i, c := range list {
		turn <- struct{}{}
		wg.Go(func() {
			defer func() { <-turn }()
			text, err := e.Ask(l.ctx, "/containers/"+c.ID+"/json")
			var s containerSpec
			if err == nil && json.Unmarshal(text, &s) == nil {
				found[i] = containerOf(s, e.Tool)
			}
		})
	}
	wg.Wait()
	for i, c := range found {
		if c == nil {
			l.unseen("container "+short(list[i].ID), "the engine does not describe it", "look at "+e.Tool+" inspect "+short(list[i].ID))
			continue
		}
		all = append(all, c)
	}
	return all
}

// podman asks the program for those of Podman's containers that no engine told of:
// it needs no engine that runs, but has a monitor beside each container.
func (l *look) podman(known map[string]bool) (all []*container) {
	args := []string{"container", "inspect"}
	for _, p := range l.processes {
		if p.program != "conmon" {
			continue
		}
		if i := slices.Index(p.args, "-c"); i > 0 && i+1 < len(p.args) && !known[p.args[i+1]] && len(args) < maxContainers {
			args = append(args, p.args[i+1])
		}
	}
	if len(args) == 2 || l.Run == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(l.ctx, commandTime)
	defer cancel()
	var list []containerSpec
	text, err := l.Run(ctx, "podman", args...)
	if len(text) > maxPrinted || json.Unmarshal(text, &list) != nil {
		list = nil
	}
	for _, s := range list {
		all = append(all, containerOf(s, "podman"))
	}
	if n := len(args) - 2 - len(list); n > 0 {
		why := "podman does not tell of them: they may be another user's"
		if errors.Is(err, context.DeadlineExceeded) {
			why = "podman does not answer in time"
		}
		l.unseen("containers of Podman's ("+strconv.Itoa(n)+")", why, "look at podman ps as their user")
	}
	return all
}

func short(id string) string { return id[:min(len(id), 12)] }

func containerOf(s containerSpec, tool string) *container {
	c := &container{
		ID: s.ID, Name: strings.TrimPrefix(s.Name, "/"), Image: s.Config.Image, Pid: s.State.Pid,
		host: s.HostConfig.NetworkMode == "host", labels: s.Config.Labels, env: map[string]string{}, tool: tool, spec: s,
	}
	for _, pair := range s.Config.Env {
		k, v, _ := strings.Cut(pair, "=")
		if strings.HasPrefix(k, "OLLAMA_") {
			c.env[k] = v
			if strings.Contains(v, "host.docker.internal") || strings.Contains(v, "host.containers.internal") || gatewayOf(s, v) {
				c.local = true
			}
		}
	}
	var in4, in6 netip.Addr
	for _, n := range s.NetworkSettings.Networks {
		if a, err := netip.ParseAddr(n.IPAddress); err == nil && (!in4.IsValid() || a.Less(in4)) {
			in4 = a
		}
		if a, err := netip.ParseAddr(n.GlobalIPv6Address); err == nil && (!in6.IsValid() || a.Less(in6)) {
			in6 = a
		}
	}
	for key, bindings := range s.NetworkSettings.Ports {
		number, proto, _ := strings.Cut(key, "/")
		inner, err := strconv.ParseUint(number, 10, 16)
		if err != nil || proto != "tcp" && proto != "" {
			continue
		}
		for _, b := range bindings {
			port, err := strconv.ParseUint(b.HostPort, 10, 16)
			addr, err2 := netip.ParseAddr(cmp.Or(b.HostIp, "0.0.0.0"))
			if err == nil && err2 == nil {
				in := in4
				if addr.Is6() && in6.IsValid() {
					in = in6
				}
				c.ports = append(c.ports, published{addr, uint16(port), uint16(inner), in})
			}
		}
	}
	slices.SortFunc(c.ports, func(a, b published) int {
		return cmp.Or(cmp.Compare(a.inner, b.inner), cmp.Compare(a.port, b.port), a.addr.Compare(b.addr))
	})
	return c
}

// gatewayOf reports whether a setting names the host as the container sees it.
func gatewayOf(s containerSpec, value string) bool {
	for _, n := range s.NetworkSettings.Networks {
		if n.Gateway != "" && strings.Contains(value, "//"+n.Gateway+":") {
			return true
		}
	}
	return false
}

// ollama reports whether Ollama runs in the container: by its image's name, or
// because it is told so by Ollama's own settings and has its port.
func (c *container) ollama() bool {
	if ollamaImage(c.Image) {
		return true
	}
	return c.env["OLLAMA_HOST"] != "" && slices.ContainsFunc(c.ports, func(p published) bool { return p.inner == Port })
}

// ollamaImage goes by the last part of an image's name, without its tag.
func ollamaImage(image string) bool {
	name, _, _ := strings.Cut(image, "@")
	name = name[strings.LastIndexByte(name, '/')+1:]
	name, _, _ = strings.Cut(name, ":")
	return name == "ollama" || strings.HasPrefix(name, "ollama-") && !strings.Contains(name, "webui") || strings.HasSuffix(name, "-ollama")
}

// bind is where Ollama listens in the container: the image sets OLLAMA_HOST to
// 0.0.0.0, unlike the program.
func (c *container) bind() string { return cmp.Or(c.env["OLLAMA_HOST"], "127.0.0.1") }

func (c *container) judgeOrigins() (string, bool) {
	o := c.env["OLLAMA_ORIGINS"]
	return o, anyOrigin(o)
}

func (l *look) judgeContainer(c *container) {
	at := Place{File: "container " + c.Name}
	_, inner := Bind(c.bind())
	if c.host {
		if d, outside := doorOf(c.bind()); outside {
			l.cause(Cause{
				Kind: ContainerHost, Place: at, Says: "--network host, OLLAMA_HOST=" + c.bind(),
				Means: hostMeans(c.bind()) + ", in the host's own network", Doors: []Door{d}, Live: true, container: c,
			})
		}
	}
	var doors []Door
	var says []string
	for _, p := range c.ports {
		if p.inner != inner || p.addr.IsLoopback() {
			continue
		}
		doors = append(doors, Door{Addr: p.addr, Port: p.port, Forwarded: netip.AddrPortFrom(p.in, p.inner)})
		if s := "-p " + strconv.Itoa(int(p.port)) + ":" + strconv.Itoa(int(p.inner)); !slices.Contains(says, s) {
			says = append(says, s)
		}
	}
	if len(doors) > 0 {
		l.cause(Cause{
			Kind: ContainerPublish, Place: at, Says: strings.Join(says, " "), Means: "port " + strconv.Itoa(int(doors[0].Port)) + " is published" + publishedOnAll(doors),
			Doors: doors, Live: true, container: c,
		})
	}
	if o, any := c.judgeOrigins(); any && (c.host || len(c.ports) > 0) {
		l.cause(Cause{Kind: AnyOrigin, Place: at, Says: "OLLAMA_ORIGINS=" + o, Means: "any web page may call the API from a visitor's browser", Pages: true, Live: true, container: c})
	}
}

func publishedOnAll(doors []Door) string {
	v4, v6 := false, false
	for _, d := range doors {
		if d.Addr.IsUnspecified() {
			v4, v6 = v4 || d.Addr.Is4(), v6 || d.Addr.Is6()
		}
	}
	switch {
	case v4 && v6:
		return " on all addresses, IPv4 and IPv6"
	case v4:
		return " on all IPv4 addresses"
	case v6:
		return " on all IPv6 addresses"
	}
	return " on " + doors[0].Addr.String()
}

// recreate is the command that starts the container anew with its ports on
// loopback. It has what is commonly given; the rest is for who knows the container.
func (c *container) recreate() string {
	words := []string{c.tool, "run", "-d", "--name", c.Name}
	s := c.spec
	if r := s.HostConfig.RestartPolicy.Name; r != "" && r != "no" {
		words = append(words, "--restart", r)
	}
	for _, d := range s.HostConfig.DeviceRequests {
		switch {
		case len(d.DeviceIDs) > 0:
			words = append(words, "--gpus", `'"device=`+strings.Join(d.DeviceIDs, ",")+`"'`)
		case d.Count < 0:
			words = append(words, "--gpus", "all")
		case d.Count > 0:
			words = append(words, "--gpus", strconv.Itoa(d.Count))
		}
	}
	for _, d := range s.HostConfig.Devices {
		words = append(words, "--device", d.PathOnHost)
	}
	if s.HostConfig.Runtime != "" && s.HostConfig.Runtime != "runc" && s.HostConfig.Runtime != "crun" && s.HostConfig.Runtime != "oci" {
		words = append(words, "--runtime", s.HostConfig.Runtime)
	}
	for _, m := range s.Mounts {
		v := cmp.Or(m.Name, m.Source) + ":" + m.Destination
		if !m.RW {
			v += ":ro"
		}
		words = append(words, "-v", v)
	}
	var names []string
	for k := range c.env {
		names = append(names, k)
	}
	slices.Sort(names)
	for _, k := range names {
		v := c.env[k]
		switch {
		case k == "OLLAMA_HOST" && c.host:
			v = onLoopback(v)
		case k == "OLLAMA_ORIGINS" && anyOrigin(v):
			if v = narrowed(v); v == "" {
				continue
			}
		case k == "OLLAMA_HOST" && !c.host:
			continue // the image's own
		}
		words = append(words, "-e", k+"="+v)
	}
	if c.host {
		words = append(words, "--network", "host")
	} else if m := s.HostConfig.NetworkMode; m != "" && m != "default" && m != "bridge" {
		words = append(words, "--network", m)
	}
	done := map[string]bool{}
	for _, p := range c.ports {
		w := "127.0.0.1:" + strconv.Itoa(int(p.port)) + ":" + strconv.Itoa(int(p.inner))
		if !done[w] {
			done[w] = true
			words = append(words, "-p", w)
		}
	}
	words = append(words, c.Image)
	return c.tool + " rm -f " + c.Name + " && " + strings.Join(words, " ")
}
