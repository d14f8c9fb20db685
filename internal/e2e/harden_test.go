//go:build linux

package e2e

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"gatehouse/internal/ollama/realollama"
)

// box is a machine of the test's own: a network namespace with an address on a
// network, and an /etc that nobody else sees. A second namespace, the vantage, is
// the other machine on that network.
type box struct {
	t       *testing.T
	inside  []string // the words before a command that have it run on the box
	own     []string // those before gatehouse, where they are others
	outside []string // those that have it run at the vantage
	etc     string   // folder of what was written to /etc
	state   string   // of harden; "" for where it is by itself
}

const (
	boxV4 = "10.77.1.2"
	boxV6 = "fd77::2"
)

// hold starts a process that holds namespaces open until the test ends.
func hold(t *testing.T, words ...string) int {
	t.Helper()
	cmd := exec.Command(words[0], append(words[1:], "sh", "-c", "echo ready; exec cat")...)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Wait()
	})
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "ready\n" {
		t.Fatalf("%v: %q, %v", words, line, err)
	}
	return cmd.Process.Pid
}

// child is the one process that a process has started; 0 while there is none.
func child(t *testing.T, pid int) int {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", pid))
	if err != nil {
		t.Fatal(err)
	}
	n, _ := strconv.Atoi(strings.TrimSpace(string(text)))
	return n
}

func enter(pid int, more ...string) []string {
	words := []string{"nsenter", "--target", strconv.Itoa(pid), "--user", "--net", "--preserve-credentials"}
	return append(append(words, more...), "--")
}

func newBox(t *testing.T) *box {
	t.Helper()
	dir := t.TempDir()
	b := &box{t: t, etc: filepath.Join(dir, "up"), state: filepath.Join(t.TempDir(), "state")}
	// It has processes of its own too: other tests' Ollamas come and go.
	self := child(t, hold(t, "unshare", "--user", "--map-root-user", "--net", "--mount-proc", "--pid", "--fork", "--kill-child", "--"))
	vantage := hold(t, append(enter(self), "unshare", "--net", "--")...)
	b.inside, b.outside = enter(self, "--mount", "--pid"), enter(vantage)
	b.own = b.inside
	for _, name := range []string{b.etc, filepath.Join(dir, "work")} {
		if err := os.Mkdir(name, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	b.in("mount", "-t", "overlay", "overlay", "-o", fmt.Sprintf("lowerdir=/etc,upperdir=%s,workdir=%s/work", b.etc, dir), "/etc")
	b.in("mount", "-t", "tmpfs", "tmpfs", "/run") // no systemd of this machine's is to be asked
	b.must(enter(self), []string{"ip", "link", "add", "wire", "type", "veth", "peer", "name", "wire", "netns", strconv.Itoa(vantage)})
	for _, end := range []struct {
		run    func(...string) string
		v4, v6 string
	}{{b.in, boxV4, boxV6}, {b.from, "10.77.1.1", "fd77::1"}} {
		end.run("ip", "link", "set", "lo", "up")
		end.run("ip", "address", "add", end.v4+"/24", "dev", "wire")
		end.run("ip", "address", "add", end.v6+"/64", "dev", "wire", "nodad")
		end.run("ip", "link", "set", "wire", "up")
	}
	return b
}

// in runs a command on the box, from one at the vantage.
func (b *box) in(words ...string) string   { b.t.Helper(); return b.must(b.inside, words) }
func (b *box) from(words ...string) string { b.t.Helper(); return b.must(b.outside, words) }

func (b *box) must(via, words []string) string {
	b.t.Helper()
	all := slices.Concat(via, words)
	out, err := exec.CommandContext(b.t.Context(), all[0], all[1:]...).CombinedOutput()
	if err != nil {
		b.t.Fatalf("%v: %v\n%s", words, err, out)
	}
	return string(out)
}

// start starts a server on the box and waits until it answers there.
func (b *box) start(port string, env []string, words ...string) {
	b.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, b.inside[0], slices.Concat(b.inside[1:], words)...)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + b.t.TempDir()}, env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	if err := cmd.Start(); err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() {
		cancel()
		_ = cmd.Wait()
	})
	up := append(slices.Clone(b.inside), "curl", "-s", "-o", "/dev/null", "--retry", "60", "--retry-delay", "1", "--retry-all-errors", "http://127.0.0.1:"+port+"/")
	if out, err := exec.CommandContext(b.t.Context(), up[0], up[1:]...).CombinedOutput(); err != nil {
		b.t.Fatalf("%v does not come up: %v\n%s", words, err, out)
	}
}

// sees is what curl gets at the vantage: a status, or 000 when nothing comes.
func (b *box) sees(host, port string) string {
	b.t.Helper()
	words := append(slices.Clone(b.outside), "curl", "-g", "-s", "-o", "/dev/null", "-w", "%{http_code}", "--connect-timeout", "1", "--max-time", "10", "http://"+host+":"+port+"/api/version")
	out, err := exec.CommandContext(b.t.Context(), words[0], words[1:]...).Output()
	if len(out) != 3 {
		b.t.Fatalf("curl: %q, %v", out, err)
	}
	return string(out)
}

func (b *box) expect(port, v4, v6, when string) {
	b.t.Helper()
	got4, got6 := b.sees(boxV4, port), b.sees("["+boxV6+"]", port)
	// A service that was started may not listen yet, and nginx answers a reload before
	// its old workers have stopped to accept.
	for end := time.Now().Add(patience / 3); (got4 != v4 || got6 != v6) && time.Now().Before(end); {
		got4, got6 = b.sees(boxV4, port), b.sees("["+boxV6+"]", port)
	}
	if got4 != v4 || got6 != v6 {
		b.t.Errorf("%s: the vantage gets %s by IPv4 and %s by IPv6, want %s and %s", when, got4, got6, v4, v6)
	}
}

// check has the box look at itself.
func (b *box) check(code int, says ...string) {
	b.t.Helper()
	r := runVia(b.t, b.own, "check")
	r.exits(b.t, code)
	for _, s := range says {
		if !strings.Contains(strings.Join(strings.Fields(r.out), " "), s) {
			b.t.Errorf("check does not say %q:\n%s", s, r.out)
		}
	}
}

func (b *box) harden(code int, args ...string) result {
	b.t.Helper()
	args = append([]string{"harden"}, args...)
	if b.state != "" {
		args = append(args, "--state-dir", b.state)
	}
	r := runVia(b.t, b.own, args...)
	r.exits(b.t, code)
	return r
}

// etcText is what was written to the box's /etc, with owners and modes.
func (b *box) etcText() string {
	b.t.Helper()
	var all strings.Builder
	err := filepath.WalkDir(b.etc, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		var text []byte
		switch owner := info.Sys().(*syscall.Stat_t); {
		case d.Type().IsRegular():
			text, err = os.ReadFile(path)
			fmt.Fprintf(&all, "%s %v %d:%d\n%s\n", path, info.Mode(), owner.Uid, owner.Gid, text)
		case d.Type() == os.ModeSymlink:
			var to string
			to, err = os.Readlink(path)
			fmt.Fprintf(&all, "%s -> %s\n", path, to)
		default: // what the overlay keeps of a file that was removed
			fmt.Fprintf(&all, "%s %v\n", path, info.Mode())
		}
		return err
	})
	if err != nil {
		b.t.Fatal(err)
	}
	return all.String()
}

// TestHarden: a real Ollama on every address, started by hand. What check says, what
// curl gets from another machine, and what harden does, agree.
func TestHarden(t *testing.T) {
	t.Parallel()
	bin := realollama.Binary(t)
	b := newBox(t)
	b.start("11434", []string{"OLLAMA_HOST=0.0.0.0", "OLLAMA_NO_CLOUD=1"}, bin, "serve")

	b.expect("11434", "200", "200", "as it is")
	b.check(3, "OPEN TO THE NETWORK", "OLLAMA_HOST=0.0.0.0")

	// A firewall for IPv4 alone leaves IPv6 open.
	b.in("nft", "add table ip own; add chain ip own in { type filter hook input priority 0; policy drop; }; add rule ip own in iif lo accept; add rule ip own in ct state established,related accept")
	b.expect("11434", "000", "200", "with IPv4 filtered")
	b.check(3, "OPEN TO THE NETWORK", "leaves IPv6 open")

	// One for both closes it, and nothing else does.
	b.in("nft", "add table ip6 own; add chain ip6 own in { type filter hook input priority 0; policy drop; }; add rule ip6 own in iif lo accept; add rule ip6 own in icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept; add rule ip6 own in ct state established,related accept")
	b.expect("11434", "000", "000", "with both filtered")
	b.check(0, "GUARDED", "firewall")
	b.in("nft", "flush ruleset")

	before, ruleset := b.etcText(), b.in("nft", "list ruleset")
	r := b.harden(3)
	if !strings.Contains(r.out, "+++ /etc/gatehouse/closed.nft") || b.etcText() != before {
		t.Errorf("the plan changes something, or shows nothing:\n%s", r.out)
	}
	if again := b.harden(3); again.out != r.out {
		t.Errorf("two plans of one machine:\n%s\n%s", r.out, again.out)
	}
	_, port, token := startVantage(t, b.outside)
	from := "10.77.1.1:" + port
	r = b.harden(0, "--apply", "--from", from, "--from-token", token)
	for _, want := range []string{"OPEN TO THE NETWORK: Ollama answers " + from + " at 10.77.1.2:11434, without a lock.", "Done. Now it is GUARDED", from + " gets no answer at 10.77.1.2:11434"} {
		if !strings.Contains(strings.Join(strings.Fields(r.out), " "), want) {
			t.Errorf("%v does not say %q:\n%s", r, want, r.out)
		}
	}
	b.expect("11434", "000", "000", "hardened")
	b.check(0, "GUARDED", "inet gatehouse closed")
	if got := b.in("curl", "-s", "http://127.0.0.1:11434/"); got != "Ollama is running" {
		t.Errorf("hardened, Ollama says to its own machine: %q", got)
	}
	if r := b.harden(0); !strings.Contains(r.out, "Nothing to change.") {
		t.Errorf("hardened, there is more to do:\n%s", r.out)
	}
	r = b.harden(0, "--undo", "--from", from, "--from-token", token)
	if !strings.Contains(strings.Join(strings.Fields(r.out), " "), "It is OPEN TO THE NETWORK: Ollama answers "+from+" at 10.77.1.2:11434") {
		t.Errorf("%v:\n%s", r, r.out)
	}
	b.expect("11434", "200", "200", "taken back")
	if after := b.etcText(); after != before {
		t.Errorf("taken back, /etc is\n%s\nand was\n%s", after, before)
	}
	if after := b.in("nft", "list ruleset"); after != ruleset {
		t.Errorf("taken back, the rules are\n%s\nand were\n%s", after, ruleset)
	}
}

// TestHardenNginx: an Ollama on loopback, and a real nginx that leads everybody to it.
func TestHardenNginx(t *testing.T) {
	t.Parallel()
	bin := realollama.Binary(t)
	b := newBox(t)
	b.start("11434", []string{"OLLAMA_NO_CLOUD=1"}, bin, "serve")
	dir := t.TempDir()
	conf := fmt.Sprintf(`user root;
pid %[1]s/nginx.pid;
error_log %[1]s/error.log;
events {}
http {
	access_log off;
	client_body_temp_path %[1]s/a; proxy_temp_path %[1]s/b; fastcgi_temp_path %[1]s/c; uwsgi_temp_path %[1]s/d; scgi_temp_path %[1]s/e;
	server {
		listen 8080;
		listen [::]:8080;
		location / {
			proxy_pass http://127.0.0.1:11434; # as in the FAQ
			proxy_set_header Host localhost:11434;
		}
	}
}
`, dir)
	file := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(file, []byte(conf), 0o644); err != nil {
		t.Fatal(err)
	}
	b.in("mkdir", "-p", "/etc/nginx")
	b.in("cp", file, "/etc/nginx/nginx.conf")
	nginx := "/usr/sbin/nginx"
	if path, err := exec.LookPath("nginx"); err == nil {
		nginx = path
	}
	b.start("8080", nil, nginx, "-c", "/etc/nginx/nginx.conf", "-g", "daemon off;")

	b.expect("11434", "000", "000", "Ollama itself")
	b.expect("8080", "200", "200", "by nginx")
	b.check(3, "OPEN TO THE NETWORK", "/etc/nginx/nginx.conf:12", "asks for no credentials")
	before := b.etcText()
	b.harden(0, "--apply")
	b.expect("8080", "403", "403", "hardened")
	if got := b.in("curl", "-s", "http://127.0.0.1:8080/"); got != "Ollama is running" {
		t.Errorf("hardened, nginx says to its own machine: %q", got)
	}
	b.check(0)
	b.harden(0, "--undo")
	b.expect("8080", "200", "200", "taken back")
	if after := b.etcText(); after != before {
		t.Errorf("taken back, /etc is\n%s\nand was\n%s", after, before)
	}
}
