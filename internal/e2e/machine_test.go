//go:build linux

package e2e

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"gatehouse/internal/ollama/realollama"
)

// machine is a box that boots: a Debian with systemd as its first process, in
// namespaces and a cgroup of its own. What it writes outlasts its boots.
type machine struct {
	*box
	dir     string // what it writes, and below up/ all that differs from the installed Debian
	vantage int
	cgroup  string
	first   *exec.Cmd // its first process's parent; nil while it is off
	ended   chan struct{}
}

var machines atomic.Int32

// newMachine prepares a machine that has gatehouse, Ollama and the tiny model, and
// does not start it.
func newMachine(t *testing.T) *machine {
	t.Helper()
	installed := realollama.Peer(t, "a Debian to boot", "debian")
	bin := realollama.Binary(t)
	models := realollama.Peer(t, "the tiny model", "tiny-"+realollama.Version, "models")
	if os.Geteuid() != 0 {
		realollama.Missing(t, "only root can boot a machine in namespaces")
	}
	m := &machine{box: &box{t: t}, dir: t.TempDir()}
	m.etc = filepath.Join(m.dir, "up", "etc")
	m.vantage = hold(t, "unshare", "--net", "--")
	m.outside = []string{"nsenter", "--target", strconv.Itoa(m.vantage), "--net", "--"}
	m.from("ip", "link", "set", "lo", "up")
	mounts, err := os.ReadFile("/proc/mounts")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); f[2] == "cgroup2" {
			m.cgroup = filepath.Join(f[1], fmt.Sprintf("gatehouse-test-%d-%d", os.Getpid(), machines.Add(1)))
		}
	}
	if m.cgroup == "" {
		realollama.Missing(t, "no cgroup2 is mounted here")
	}
	if err := os.Symlink(installed, filepath.Join(m.dir, "installed")); err != nil {
		t.Fatal(err)
	}
	m.file("etc/machine-id", "0123456789abcdef0123456789abcdef\n") // without one, the first boot enables every service
	for from, to := range map[string]string{gatehouse: "usr/local/bin/gatehouse", bin: "usr/local/bin/ollama"} {
		m.copy(from, to)
	}
	m.copy(models, "usr/share/models")
	return m
}

// file writes a file of the machine, from below: while it does not run.
func (m *machine) file(name, text string) {
	m.t.Helper()
	name = filepath.Join(m.dir, "up", name)
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		m.t.Fatal(err)
	}
	write(m.t, name, text)
}

func (m *machine) copy(from, to string) {
	m.t.Helper()
	to = filepath.Join(m.dir, "up", to)
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		m.t.Fatal(err)
	}
	if out, err := exec.Command("cp", "--recursive", "--no-preserve=ownership", from, to).CombinedOutput(); err != nil {
		m.t.Fatalf("%v: %s", err, out)
	}
}

// boot starts the machine and waits until it has come up.
func (m *machine) boot() {
	t := m.t
	t.Helper()
	if err := os.Mkdir(m.cgroup, 0o755); err != nil {
		t.Fatal(err)
	}
	cgroup, err := os.Open(m.cgroup)
	if err != nil {
		t.Fatal(err)
	}
	defer cgroup.Close()
	var said bytes.Buffer
	cmd := exec.Command("unshare", "--mount", "--propagation", "private", "--net", "--uts", "--ipc", "--",
		"sh", "testdata/boot.sh", filepath.Join(m.dir, "installed"), m.dir, strconv.Itoa(m.vantage))
	cmd.Stdout, cmd.Stderr = &said, &said
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, UseCgroupFD: true, CgroupFD: int(cgroup.Fd())}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	m.first, m.ended = cmd, make(chan struct{})
	go func() {
		_ = cmd.Wait() // by a signal
		close(m.ended)
	}()
	t.Cleanup(func() {
		if m.first != nil {
			if t.Failed() {
				m.tell()
			}
			m.off()
		}
	})
	first := 0
	until(t, "the machine has a first process", func() bool {
		select {
		case <-m.ended:
			t.Fatalf("it ended at once: %s", said.String())
		default:
		}
		first = child(t, cmd.Process.Pid)
		name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", first)) // it may be too early
		return string(name) == "systemd\n"
	})
	m.inside = []string{
		"nsenter", "--target", strconv.Itoa(first), "--all", "--", "env", "-i", "HOME=/root", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin",
	}
	m.own = append(m.inside[:len(m.inside):len(m.inside)], "sh", "-c", `shift; exec gatehouse "$@"`, "sh")
	state := ""
	until(t, "the machine has come up", func() bool {
		out, _ := exec.CommandContext(t.Context(), m.inside[0], append(m.inside[1:], "systemctl", "is-system-running", "--wait")...).CombinedOutput()
		state = strings.TrimSpace(string(out))
		return state == "running" || state == "degraded"
	})
	if state != "running" {
		t.Errorf("the machine is %s:\n%s", state, m.in("systemctl", "--failed", "--no-pager"))
	}
	for _, address := range []string{"10.77.1.1/24", "fd77::1/64"} {
		m.from("sh", "-c", "ip address replace "+address+" dev wire $0", map[bool]string{true: "nodad"}[strings.Contains(address, ":")])
	}
	m.from("ip", "link", "set", "wire", "up")
}

// tell logs what the machine's services said.
func (m *machine) tell() {
	out, err := exec.Command(m.inside[0], append(m.inside[1:], "journalctl", "--boot", "--no-pager", "--lines", "80")...).CombinedOutput()
	m.t.Logf("the machine's journal (%v):\n%s", err, out)
}

// off ends the machine, if it still runs, and waits until nothing of it is left.
func (m *machine) off() {
	t := m.t
	t.Helper()
	if err := os.WriteFile(filepath.Join(m.cgroup, "cgroup.kill"), []byte("1"), 0o200); err != nil {
		t.Error(err)
	}
	<-m.ended
	m.first = nil
	until(t, "the machine has gone", func() bool {
		events, err := os.ReadFile(filepath.Join(m.cgroup, "cgroup.events"))
		return err != nil || strings.Contains(string(events), "populated 0")
	})
	if out, err := exec.Command("find", m.cgroup, "-depth", "-type", "d", "-delete").CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	// The network goes with its last process, but not at once.
	_ = exec.Command(m.outside[0], append(m.outside[1:], "ip", "link", "delete", "wire")...).Run() // it may have gone
}

// reboot has the machine's systemd end everything in its order, and starts it again.
func (m *machine) reboot() {
	m.t.Helper()
	_ = exec.Command(m.inside[0], append(m.inside[1:], "systemctl", "reboot")...).Run() // it ends under its caller
	until(m.t, "the machine goes down", func() bool {
		select {
		case <-m.ended:
			return true
		default:
			return false
		}
	})
	m.off()
	m.boot()
}

// away asks the machine from the vantage, and returns the status and what came.
func (m *machine) away(words ...string) string {
	m.t.Helper()
	out, err := exec.CommandContext(m.t.Context(), m.outside[0], slices.Concat(m.outside[1:], []string{"curl", "-g", "-s", "-S", "-w", " %{http_code}", "--max-time", "60"}, words)...).CombinedOutput()
	if err != nil {
		m.t.Errorf("curl %v: %v %s", words, err, out)
	}
	return string(out)
}

// TestSystemd: Ollama as its makers install it, and the drop-in that guides tell people
// to write. harden closes it, puts the gate in front, and a client with the key gets in,
// after a restart of the machine too.
func TestSystemd(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.file("etc/systemd/system/ollama.service", `[Unit]
Description=Ollama Service
After=network-online.target

[Service]
ExecStart=/usr/local/bin/ollama serve
User=ollama
Group=ollama
Restart=always
RestartSec=3
Environment="PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin"

[Install]
WantedBy=default.target
`)
	m.file("etc/systemd/system/ollama.service.d/models.conf", "[Service]\nEnvironment=OLLAMA_MODELS=/usr/share/models OLLAMA_NO_CLOUD=1\n")
	m.file("etc/systemd/system/ollama.service.d/override.conf", "[Service]\nEnvironment=\"OLLAMA_HOST=0.0.0.0\"\n")
	m.boot()
	m.in("useradd", "--system", "--shell", "/bin/false", "--user-group", "--create-home", "--home-dir", "/usr/share/ollama", "ollama")
	m.in("systemctl", "enable", "--now", "ollama")

	m.expect("11434", "200", "200", "as it is")
	m.check(3, "OPEN TO THE NETWORK", "/etc/systemd/system/ollama.service.d/override.conf:2", "OLLAMA_HOST=0.0.0.0")
	before, ran := m.etcText(), m.in("systemctl", "show", "-P", "MainPID", "ollama")
	m.harden(3, "--gate")
	if m.etcText() != before {
		t.Error("the plan changes something")
	}

	r := m.harden(0, "--apply", "--gate")
	keys := regexp.MustCompile(`gh_\S+`).FindAllString(r.out, -1)
	if len(keys) != 1 {
		t.Fatalf("there are %d keys in what apply prints:\n%s", len(keys), r.out)
	}
	m.expect("11434", "000", "000", "hardened")
	m.check(0)
	if again := m.harden(0, "--gate"); !strings.Contains(again.out, "Nothing to change.") {
		t.Errorf("hardened, there is more to do:\n%s", again.out)
	}
	if now := m.in("systemctl", "show", "-P", "MainPID", "ollama"); now == ran || m.in("systemctl", "show", "-P", "NeedDaemonReload", "ollama") != "no\n" {
		t.Errorf("Ollama was process %s and is %s", ran, now)
	}
	m.in("systemctl", "is-active", "ollama", "gatehouse")
	m.in("systemctl", "is-enabled", "ollama", "gatehouse")
	said := m.in("journalctl", "--unit", "gatehouse", "--output", "cat", "--no-pager")
	pin := regexp.MustCompile(`SHA256:\S+`).FindString(said)
	if pin == "" || strings.Contains(said, keys[0]) {
		t.Fatalf("the gate's journal has no fingerprint, or the key:\n%s", said)
	}

	// A stranger gets nowhere; who has the key gets in by connect, which stays.
	_, out := serve(t, slices.Concat(m.outside, []string{
		gatehouse, "connect", "https://" + boxV4 + ":8443", "--pin", pin, "--listen", "127.0.0.1:11434", "--key-file", file(t, "key", keys[0]+"\n"),
	}))
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatalf("connect said %q: %v", line, err)
	}
	// Root minds the keys beside the gate, which has a user of its own.
	second := strings.TrimSpace(m.in("gatehouse", "key", "--state-dir", "/var/lib/gatehouse", "add", "second"))
	until(t, "the gate takes up a key", func() bool {
		return strings.HasSuffix(m.away("--insecure", "--header", "Authorization: Bearer "+second, "https://"+boxV4+":8443/api/tags"), " 200")
	})
	guarded := func(when string) {
		t.Helper()
		for _, host := range []string{boxV4, "[" + boxV6 + "]"} {
			if got := m.away("--insecure", "https://"+host+":8443/api/tags"); !strings.HasSuffix(got, " 401") {
				t.Errorf("%s, a stranger gets %s", when, got)
			}
		}
		chat := fmt.Sprintf(`{"model":%q,"messages":[{"role":"user","content":"hi"}],"options":{"num_predict":8}}`, realollama.Model)
		if got := m.away("--no-buffer", "http://127.0.0.1:11434/api/chat", "--data", chat); strings.Count(got, "\n") < 3 || !strings.HasSuffix(got, " 200") {
			t.Errorf("%s, a client with the key gets %s", when, got)
		}
	}
	guarded("hardened")
	m.in("systemd-analyze", "security", "--no-pager", "--threshold=20", "gatehouse.service") // 1.5 of 10
	m.in("systemd-analyze", "security", "--no-pager", "--threshold=75", "ollama.service")    // 7.0, and 9.2 as its makers have it

	m.reboot()
	m.in("systemctl", "is-active", "ollama", "gatehouse")
	m.expect("11434", "000", "000", "hardened and started again")
	guarded("started again")
	m.harden(0, "--undo")
	m.expect("11434", "200", "200", "taken back")
	if after := m.etcText(); after != before {
		t.Errorf("taken back, /etc is\n%s\nand was\n%s", after, before)
	}
	if units := m.in("systemctl", "list-units", "--all", "--plain", "--no-legend", "gatehouse*"); units != "" {
		t.Errorf("taken back, there are %s", units)
	}

	// Once more: the keys of before are good.
	m.in("gatehouse", "key", "--state-dir", "/var/lib/gatehouse", "list")
	if r := m.harden(0, "--apply", "--gate"); strings.Contains(r.out, "gh_") || !strings.Contains(r.out, `key "first" is good`) {
		t.Errorf("done again, it makes another key:\n%s", r.out)
	}
	m.expect("11434", "000", "000", "done again")
	guarded("done again")
}

// image makes the image that ollama/ollama is, as far as is seen from outside, for
// an engine that no registry can be asked by.
func (m *machine) image(tool string) {
	m.t.Helper()
	m.in("sh", "-c", `tar --create --dereference --directory / usr/local/bin/ollama usr/share/models $(ldd /usr/local/bin/ollama | grep -o '/[^ ]*' | cut -c 2-) |
		`+tool+` import --change 'ENTRYPOINT ["/usr/local/bin/ollama"]' --change 'CMD ["serve"]' --change 'EXPOSE 11434' \
		--change 'ENV OLLAMA_HOST=0.0.0.0:11434' --change 'ENV OLLAMA_MODELS=/usr/share/models' --change 'ENV OLLAMA_NO_CLOUD=1' --change 'ENV HOME=/' - docker.io/ollama/ollama:latest`)
}

// TestEngines: a real Docker that publishes Ollama past ufw, and a real Podman beside it.
func TestEngines(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.boot()
	m.in("systemctl", "enable", "--now", "docker")
	m.image("docker")
	m.in("ufw", "--force", "enable")
	m.in("docker", "run", "--detach", "--restart", "always", "--name", "ollama", "--publish", "11434:11434", "ollama/ollama")

	// Docker's program itself takes calls by IPv6, which ufw sees.
	m.expect("11434", "200", "000", "published by Docker, with ufw")
	m.check(3, "OPEN TO THE NETWORK", "container ollama", "-p 11434:11434", "the firewall does not see it (ufw's")
	m.in("ufw", "disable")
	m.expect("11434", "200", "200", "published by Docker")
	m.check(3, "OPEN TO THE NETWORK", "container ollama", "on all addresses, IPv4 and IPv6")
	m.in("ufw", "--force", "enable")

	before, ruleset := m.etcText(), m.in("nft", "list ruleset")
	r := m.harden(3)
	if !strings.Contains(r.out, "docker rm -f ollama && docker run -d --name ollama --restart always ") || !strings.Contains(r.out, " -p 127.0.0.1:11434:11434 ollama/ollama\n") {
		t.Errorf("the plan does not say how to have the container on loopback:\n%s", r.out)
	}
	m.harden(0, "--apply")
	m.expect("11434", "000", "000", "hardened")
	m.check(0, "GUARDED", "inet gatehouse closed")
	for _, again := range [][]string{{"docker", "restart", "ollama"}, {"systemctl", "restart", "docker"}, {"ufw", "reload"}} {
		m.in(again...)
		m.expect("11434", "000", "000", "hardened, and after "+strings.Join(again, " "))
	}
	m.reboot()
	until(t, "Docker starts the container with the machine", func() bool {
		return strings.Contains(m.in("docker", "ps"), "0.0.0.0:11434->11434/tcp")
	})
	m.expect("11434", "000", "000", "hardened, and the machine was started again")
	m.check(0, "GUARDED", "inet gatehouse closed")
	m.harden(0, "--undo")
	m.expect("11434", "200", "000", "taken back")
	if after := m.etcText(); after != before {
		t.Errorf("taken back, /etc is\n%s\nand was\n%s", after, before)
	}
	if after := m.in("nft", "list ruleset"); strings.Contains(after, "gatehouse") {
		t.Errorf("taken back, the rules are\n%s\nand were\n%s", after, ruleset)
	}

	// Podman beside Docker, whose container is on loopback now.
	m.in("docker", "rm", "--force", "ollama")
	m.in("docker", "run", "--detach", "--name", "ollama", "--publish", "127.0.0.1:11434:11434", "ollama/ollama")
	m.in("ufw", "disable")
	m.image("podman")
	m.in("podman", "run", "--detach", "--pids-limit", "-1", "--name", "other", "--publish", "11500:11434", "ollama/ollama")
	m.expect("11434", "000", "000", "on loopback")
	m.expect("11500", "200", "000", "published by Podman")
	m.check(3, "OPEN TO THE NETWORK", "container other", "-p 11500:11434")
	m.in("systemctl", "start", "podman.socket")
	m.check(3, "OPEN TO THE NETWORK", "container other", "-p 11500:11434")
	near := []string{"podman", "exec", "--env", "OLLAMA_HOST=10.88.0.1:11500", "other", "/usr/local/bin/ollama", "list"}
	m.in(near...) // a container of the machine's own gets in, and goes on to
	r = m.harden(3)
	if !strings.Contains(r.out, "podman rm -f other && podman run -d --name other") || strings.Contains(r.out, "docker rm") {
		t.Errorf("the plan does not say how to have Podman's container on loopback:\n%s", r.out)
	}
	m.harden(0, "--apply")
	m.expect("11500", "000", "000", "published by Podman and hardened")
	m.in(near...)
	m.check(0, "GUARDED", "inet gatehouse closed")
	m.harden(0, "--undo")
	m.expect("11500", "200", "000", "taken back")
}
