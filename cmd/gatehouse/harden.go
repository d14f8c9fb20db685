package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"gatehouse/docs"
	"gatehouse/internal/harden"
	"gatehouse/internal/report"
)

type hardenCmd struct {
	Apply    bool   `help:"Make the changes; without it they are shown." xor:"what"`
	Undo     bool   `help:"Take back the last changes." xor:"what"`
	Gate     bool   `help:"Put the gate in front too, as a service."`
	Root     string `help:"An image's folder instead of this machine: files are changed and nothing is run." placeholder:"DIR" type:"path"`
	StateDir string `help:"Where the changes are kept, so that they can be taken back." placeholder:"DIR"`
	Setup

	Outside fromFlags `embed:""`

	pause, patience time.Duration // settleTime and comeBackTime, unless a test has less
}

func (hardenCmd) Help() string {
	return `Shows what to change so that this machine's Ollama is closed to others: a unified diff of each file, and the commands that make it take effect. Nothing is changed without --apply.

  gatehouse harden                      the plan
  sudo gatehouse harden --apply         does it
  sudo gatehouse harden --apply --gate  and lets in those who hold a key
  sudo gatehouse harden --undo          every file as it was

Afterwards it looks whether Ollama still answers this machine's own programs wherever it did before, and takes everything back where it does not. With --from, a vantage of yours looks before and after: what it gets into is not closed.

A change that was interrupted, by a crash even, is gone on with by --apply and taken back by --undo.

Exits with 3 when there is something to close, or when it is not closed after --apply, else with 1 when the vantage of --from could not be asked, with 0 when there is nothing.`
}

// machine is this machine, and what besides the usual places is to be read.
func (c *Setup) machine() (harden.Machine, error) {
	addrs, err := ownAddresses()
	if err != nil {
		return harden.Machine{}, fmt.Errorf("list this machine's addresses: %w", err)
	}
	here, _ := os.Getwd() // without one, no compose file is looked for here
	m := harden.Machine{
		OS: runtime.GOOS, Root: "/", Run: listing, Engines: engines(), Addresses: addrs, Here: filepath.ToSlash(here),
	}
	for _, f := range c.Compose {
		full, err := filepath.Abs(f)
		if err == nil {
			_, err = os.Stat(full)
		}
		if err != nil {
			return m, usage(err, "--compose takes a compose file")
		}
		m.Compose = append(m.Compose, filepath.ToSlash(full))
	}
	for _, p := range []struct {
		flag, value string
		to          *string
		dir         bool
	}{{"--manifests", c.Manifests, &m.Manifests, true}, {"--kubeconfig", c.Kubeconfig, &m.Kubeconfig, false}} {
		if p.value == "" {
			continue
		}
		full, err := filepath.Abs(p.value)
		if err != nil {
			return m, err
		}
		info, err := os.Stat(full)
		if err == nil && info.IsDir() != p.dir {
			err = fmt.Errorf("%s is no %s", p.value, map[bool]string{true: "folder", false: "file"}[p.dir])
		}
		if err != nil {
			return m, usage(err, p.flag+" takes "+map[bool]string{true: "a folder of YAML files", false: "a kubeconfig file"}[p.dir])
		}
		*p.to = filepath.ToSlash(full)
	}
	return m, nil
}

// listing runs a program that lists things. Its output is bounded by who reads it.
func listing(ctx context.Context, name string, args ...string) ([]byte, error) {
	path, err := lookPath(name)
	if err != nil {
		return nil, fs.ErrNotExist
	}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	cmd.WaitDelay = time.Second
	out, err := cmd.Output()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		said, _, _ := strings.Cut(strings.TrimSpace(string(exit.Stderr)), "\n")
		return out, errors.New(said)
	}
	return out, err
}

// lookPath also looks where administrators' programs are, which is not in the PATH
// of everybody.
func lookPath(name string) (string, error) {
	path, err := exec.LookPath(name)
	if err == nil {
		return path, nil
	}
	for _, dir := range []string{"/usr/sbin", "/sbin"} {
		if info, e := os.Stat(filepath.Join(dir, name)); e == nil && !info.IsDir() {
			return filepath.Join(dir, name), nil
		}
	}
	return "", err
}

// engines are Docker and Podman, as far as there are sockets of theirs: the
// system's, the caller's own, and for root those of its people.
func engines() (all []harden.Engine) {
	docker := []string{"/var/run/docker.sock"}
	podman := []string{"/run/podman/podman.sock"}
	var dirs []string
	if dir := os.Getenv("XDG_RUNTIME_DIR"); os.Geteuid() == 0 {
		dirs, _ = filepath.Glob("/run/user/*") // the pattern is a good one
	} else if dir != "" {
		dirs = []string{dir}
	}
	for _, dir := range dirs {
		docker = append(docker, filepath.Join(dir, "docker.sock"))
		podman = append(podman, filepath.Join(dir, "podman/podman.sock"))
	}
	if host, ok := strings.CutPrefix(os.Getenv("DOCKER_HOST"), "unix://"); ok {
		docker = []string{host}
	}
	var known []fs.FileInfo
	for _, e := range []struct {
		tool    string
		sockets []string
	}{{"podman", podman}, {"docker", docker}} { // a link by Docker's name may lead to Podman's
		for _, socket := range e.sockets {
			info, err := os.Stat(socket)
			if err != nil || slices.ContainsFunc(known, func(k fs.FileInfo) bool { return os.SameFile(k, info) }) {
				continue
			}
			known = append(known, info)
			all = append(all, harden.Engine{Tool: e.tool, Ask: func(ctx context.Context, path string) ([]byte, error) { return ask(ctx, socket, path) }})
		}
	}
	return all
}

// ask asks an engine over its socket.
func ask(ctx context.Context, socket, path string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://engine"+path, nil)
	if err != nil {
		return nil, err
	}
	resp, err := transport.RoundTrip(req)
	if errors.Is(err, fs.ErrPermission) {
		return nil, fs.ErrPermission
	}
	if err != nil {
		return nil, fmt.Errorf("%s does not answer", socket)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 8<<20))
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s answers %s", socket, resp.Status)
	}
	return text, err
}

func (c *hardenCmd) Run(ctx context.Context, s streams) error {
	if c.Undo && c.Gate {
		return usage(errors.New("--gate goes with --apply"), "gatehouse harden --undo takes back the gate too")
	}
	from, err := c.Outside.open()
	if err == nil && from != nil && c.Root != "" {
		err = usage(errors.New("--from and --root: nobody can look at an image"), "leave out --from")
	}
	if err != nil {
		return err
	}
	m, err := c.Setup.machine()
	if err != nil {
		return err
	}
	dir, err := c.dir()
	if err != nil {
		return err
	}
	if c.Root != "" {
		if info, err := os.Stat(c.Root); err != nil || !info.IsDir() {
			return usage(fmt.Errorf("--root %s: no such folder", c.Root), "--root takes the folder in which an image is mounted")
		}
		// Which addresses it will have is not known: the worst is supposed.
		m.OS, m.Root, m.Run, m.Engines, m.Here = "linux", c.Root, nil, nil, ""
		m.Addresses = []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")}
	}
	k := &harden.Keeper{Machine: m, Dir: dir, Do: s.do, Told: func(what string) { fmt.Fprintln(s.out, "  ", what) }}
	if c.Undo {
		return c.undo(ctx, s, k, from)
	}
	if c.Apply {
		if err := c.resume(ctx, s, k); err != nil {
			return err
		}
	}
	facts, verdict, seen := c.look(ctx, m, from)
	plan, err := facts.Plan(verdict, harden.Options{Gate: c.Gate, Program: self(), Unit: docs.Unit, State: "/var/lib/gatehouse"})
	switch {
	case errors.Is(err, harden.ErrNoService):
		return usage(err, "leave out --gate, and start it by yourself: gatehouse gate")
	case errors.Is(err, harden.ErrNotPlaced):
		return usage(err, "sudo install gatehouse /usr/local/bin/gatehouse, and call that one")
	case err != nil:
		return err
	}
	if err := c.show(s, k, verdict, &seen, plan); err != nil {
		return err
	}
	if !c.Apply || len(plan.Steps) == 0 {
		if verdict.Open() || !c.Apply && !plan.Empty() {
			err = codeError(exitFindings)
		}
		return seen.join(s, err)
	}
	if why := plan.Cuts(os.Getenv("SSH_CONNECTION")); why != "" && c.Root == "" {
		return usage(errors.New(why), "run it from the console, or by another way in")
	}
	return c.apply(ctx, s, k, plan, c.clients(ctx, facts), from)
}

// dir is where the changes are kept. Root's are not in the gate's state folder: that
// belongs to the gate's user, who could have an undo write what he likes.
func (c *hardenCmd) dir() (string, error) {
	if c.StateDir == "" && os.Geteuid() == 0 && c.Root == "" {
		return "/var/lib/gatehouse-harden", nil
	}
	dir, err := stateDir(c.StateDir)
	return filepath.Join(dir, "harden"), err
}

func self() string {
	path, err := os.Executable()
	if err != nil {
		return ""
	}
	return path
}

// look inspects the machine and judges what it reads there; nobody is asked but the
// vantage, if there is one.
func (c *hardenCmd) look(ctx context.Context, m harden.Machine, from *viewpoint) (*harden.Facts, harden.Verdict, view) {
	limit, cancel := context.WithTimeout(ctx, 4*inspectTime)
	defer cancel()
	facts := harden.Inspect(limit, m)
	seen := from.look(ctx, (&checkCmd{facts: facts}).ports())
	return facts, facts.Judge(seen.answers()), seen
}

// show writes the verdict and the plan.
func (c *hardenCmd) show(s streams, k *harden.Keeper, v harden.Verdict, seen *view, p *harden.Plan) error {
	width := options(s.out).Width
	var b strings.Builder
	fmt.Fprintln(&b)
	para(&b, width, " ", string(v.Level)+": "+v.Says)
	if v.Later != "" {
		para(&b, width, " ", "Once it starts again it is "+string(v.Later)+".")
	}
	fmt.Fprintln(&b)
	printCauses(&b, width, v)
	if seen.from != "" {
		seen.print(&b, width, k.Machine.Addresses)
		fmt.Fprintln(&b)
	}
	if r, err := k.Pending(); err == nil && r != nil {
		para(&b, width, " ", fmt.Sprintf("An earlier change was interrupted after %d of %d steps: --apply goes on with it, --undo takes it back.", len(r.Done), len(r.Steps)))
		fmt.Fprintln(&b)
	}
	if p.Empty() {
		fmt.Fprintln(&b, " Nothing to change.")
	}
	for i, step := range p.Steps {
		para(&b, width, " ", fmt.Sprintf("%d. %s", i+1, step.Why))
		text := ""
		if step.File != nil {
			text = step.File.Diff()
		} else {
			text = "$ " + strings.Join(step.Run.Do, " ")
		}
		for line := range strings.SplitSeq(strings.TrimSuffix(text, "\n"), "\n") {
			fmt.Fprintln(&b, "   "+clean(line))
		}
		fmt.Fprintln(&b)
	}
	for _, note := range p.Notes {
		para(&b, width, " ", "Note: "+note+".")
	}
	if len(p.ByHand) > 0 {
		fmt.Fprintf(&b, " By hand:\n")
	}
	for _, what := range p.ByHand {
		first, command, _ := strings.Cut(what, "\n")
		para(&b, width, "   ", "- "+first)
		if command != "" {
			fmt.Fprintln(&b, "     "+clean(command)) // whole, to be copied
		}
	}
	printUnseen(&b, width, v)
	if !c.Apply && len(p.Steps) > 0 {
		again := "sudo gatehouse harden --apply"
		if c.Root != "" {
			again += " --root " + report.Clean(c.Root)
		}
		fmt.Fprintf(&b, "\n Nothing was changed. To do it: %s\n", again)
	}
	_, err := fmt.Fprint(s.out, b.String())
	return err
}

// clean makes a line of a file safe for a terminal, and keeps its tabs.
func clean(line string) string {
	parts := strings.Split(line, "\t")
	for i, p := range parts {
		parts[i] = report.Clean(p)
	}
	return strings.Join(parts, "\t")
}

// resume goes on with what was interrupted.
func (c *hardenCmd) resume(ctx context.Context, s streams, k *harden.Keeper) error {
	r, err := k.Pending()
	if err != nil || r == nil {
		return err
	}
	fmt.Fprintf(s.out, "\n Going on with the change that was interrupted:\n\n")
	if err := k.Resume(ctx); err != nil {
		return usage(err, "gatehouse harden --undo takes it back")
	}
	return k.Finish()
}

// apply makes the changes, looks whether Ollama still answers those that it answered
// here, and takes everything back where it does not. Then the vantage looks again.
func (c *hardenCmd) apply(ctx context.Context, s streams, k *harden.Keeper, p *harden.Plan, clients []uint16, from *viewpoint) error {
	fmt.Fprintln(s.out)
	err := k.Apply(ctx, p)
	if err == nil {
		err = c.comeBack(ctx, clients)
	}
	if err != nil {
		fmt.Fprintf(s.out, "\n That did not go well. Taking it back:\n\n")
		return errors.Join(err, k.Undo(context.WithoutCancel(ctx)))
	}
	if err := k.Finish(); err != nil {
		return err
	}
	if c.Root != "" {
		fmt.Fprintf(s.out, "\n Done. To take it back: gatehouse harden --undo --root %s\n", c.Root)
		return nil
	}
	_, after, seen := c.look(ctx, k.Machine, from)
	for tries := 0; tries < 2 && seen.open() && wait(ctx, cmp.Or(c.pause, settleTime)); tries++ {
		_, after, seen = c.look(ctx, k.Machine, from)
	}
	done := "Done. Now it is "
	if after.Open() {
		done = "Done, and it is not closed. It is "
		err = codeError(exitFindings)
	}
	c.tell(s, k, done, after, &seen)
	fmt.Fprintf(s.out, "\n To take it back: sudo gatehouse harden --undo\n")
	return seen.join(s, err)
}

const (
	// settleTime is given to what was reloaded: nginx answers before its old workers
	// have stopped to, and a vantage answers a few times a minute.
	settleTime = 5 * time.Second
	// comeBackTime is given to what was started again.
	comeBackTime = time.Minute
)

// tell says how the machine is now.
func (c *hardenCmd) tell(s streams, k *harden.Keeper, what string, v harden.Verdict, seen *view) {
	width := options(s.out).Width
	var b strings.Builder
	fmt.Fprintln(&b)
	para(&b, width, " ", what+string(v.Level)+": "+v.Says)
	fmt.Fprintln(&b)
	if v.Open() {
		printCauses(&b, width, v)
	}
	seen.print(&b, width, k.Machine.Addresses)
	fmt.Fprint(s.out, b.String())
}

func (c *hardenCmd) undo(ctx context.Context, s streams, k *harden.Keeper, from *viewpoint) error {
	runs, err := k.Runs()
	if err == nil && len(runs) == 0 {
		err = harden.ErrNothing
	}
	var clients []uint16
	if err == nil {
		facts := &harden.Facts{}
		if c.Root == "" {
			facts, _, _ = c.look(ctx, k.Machine, nil)
		}
		clients = c.clients(ctx, facts)
		err = k.Undo(ctx)
	}
	if errors.Is(err, harden.ErrNothing) {
		return usage(fmt.Errorf("%s: %w", k.Dir, err), "gatehouse harden shows what could be changed")
	}
	if err != nil {
		return err
	}
	fmt.Fprintf(s.out, "\n All is as it was before.\n")
	if err := c.comeBack(ctx, clients); err != nil {
		return err
	}
	if from == nil {
		return nil
	}
	_, v, seen := c.look(ctx, k.Machine, from)
	c.tell(s, k, "It is ", v, &seen)
	return seen.join(s, nil)
}

// clients are the ports on 127.0.0.1 at which programs of this machine get an Ollama
// without a key, by itself or by way of a proxy.
func (c *hardenCmd) clients(ctx context.Context, facts *harden.Facts) (ports []uint16) {
	if c.Root != "" {
		return nil
	}
	for _, p := range (&checkCmd{facts: facts}).ports() {
		if answers(ctx, p) == http.StatusOK {
			ports = append(ports, p)
		}
	}
	return ports
}

// answers is the status that programs of this machine get there, 0 for none.
func answers(ctx context.Context, port uint16) int {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d/api/version", port), nil)
	if err != nil {
		return 0
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		return 0
	}
	defer resp.Body.Close()
	return resp.StatusCode
}

// comeBack waits until Ollama, which may just have been started again, answers at
// each port of clients. Where the gate was put in between, it asks for a key there.
func (c *hardenCmd) comeBack(ctx context.Context, clients []uint16) error {
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(c.patience, comeBackTime))
	defer cancel()
	for _, port := range clients {
		for {
			if status := answers(ctx, port); status == http.StatusOK || c.Gate && status == http.StatusUnauthorized {
				break
			}
			if !wait(ctx, 200*time.Millisecond) {
				return fmt.Errorf("no Ollama answers on 127.0.0.1:%d any more", port)
			}
		}
	}
	return nil
}

// wait waits for d, and reports whether ctx lasts.
func wait(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// do runs a command of a plan.
func (s streams) do(ctx context.Context, words []string, show bool) error {
	path, err := lookPath(words[0])
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute) // docker compose may pull
	defer cancel()
	cmd := exec.CommandContext(ctx, path, words[1:]...)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if show {
		cmd.Stdout = s.out
	}
	if err := cmd.Run(); err != nil {
		for line := range strings.Lines(said.String()) {
			// What systemctl did before it failed is no reason.
			if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "Created symlink ") && !strings.HasPrefix(line, "Removed ") {
				return errors.New(line)
			}
		}
		return err
	}
	return nil
}
