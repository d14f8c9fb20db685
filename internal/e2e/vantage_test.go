//go:build linux

package e2e

import (
	"bufio"
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"gatehouse/internal/ollama/realollama"
)

// startVantage runs gatehouse vantage, by way of another program if via names
// one, and returns its process, its port and the file with its token.
func startVantage(t *testing.T, via []string) (cmd *exec.Cmd, port, tokenFile string) {
	t.Helper()
	args := slices.Concat(via, []string{gatehouse, "vantage", "--listen", ":0", "--state-dir", filepath.Join(t.TempDir(), "state")})
	cmd, out := serve(t, args)
	token := ""
	for lines := bufio.NewScanner(out); port == "" && lines.Scan(); {
		if found := regexp.MustCompile(`gv_\S+@SHA256:\S+`).FindString(lines.Text()); found != "" {
			token = found
		}
		if found := regexp.MustCompile(`Vantage on \S+:(\d+)\.`).FindStringSubmatch(lines.Text()); found != nil {
			port = found[1]
		}
	}
	if port == "" || token == "" {
		t.Fatalf("the vantage did not come up: port %q", port)
	}
	return cmd, port, file(t, "token", token+"\n")
}

// TestVantage: an Ollama that listens on 127.0.0.1 is seen by IPv4 and not by
// IPv6, from a vantage that was asked by each.
func TestVantage(t *testing.T) {
	server := realollama.Start(t, realollama.Empty())
	_, port, token := startVantage(t, nil)
	_, ollamaPort, err := net.SplitHostPort(strings.TrimPrefix(server.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	r := run(t, "check", "-p", ollamaPort, "--from", "127.0.0.1:"+port, "--from-token", token)
	r.exits(t, 0)
	for _, want := range []string{"LOCAL ONLY", "IPv4  open       127.0.0.1:" + ollamaPort + "  Ollama 0.17.4", "IPv6  not looked at: the vantage has no such address", "what it sees is not the outside"} {
		if !strings.Contains(r.out, want) {
			t.Errorf("%v says nothing of %q:\n%s", r, want, r.out)
		}
	}
	r = run(t, "check", "-p", ollamaPort, "--from", "[::1]:"+port, "--from-token", token)
	r.exits(t, 0)
	for _, want := range []string{"LOCAL ONLY", "IPv6  refused    [::1]:" + ollamaPort, "IPv4  not looked at"} {
		if !strings.Contains(r.out, want) {
			t.Errorf("%v says nothing of %q:\n%s", r, want, r.out)
		}
	}

	// Another token, and another vantage's pin.
	text, err := os.ReadFile(token)
	if err != nil {
		t.Fatal(err)
	}
	secret, pin, _ := strings.Cut(strings.TrimSpace(string(text)), "@")
	r = run(t, "check", "-p", ollamaPort, "--from", "127.0.0.1:"+port, "--from-token", file(t, "token", "gv_other@"+pin))
	r.exits(t, 1) // for the outside was not tested
	if !strings.Contains(r.err, "not this vantage's token") || !strings.Contains(r.err, "\nhint: ") || !strings.Contains(r.out, "LOCAL ONLY") || !strings.Contains(r.out, "Not tested from outside") {
		t.Errorf("%v: %s%s", r, r.out, r.err)
	}
	r = run(t, "check", "--from", "127.0.0.1:"+port, "--from-token", file(t, "token", secret+"@SHA256:"+strings.Repeat("A", 43)))
	r.exits(t, 1)
	if !strings.Contains(r.err, "does not have the pinned key") || strings.Contains(r.err, secret) {
		t.Errorf("%v: %s", r, r.err)
	}
}

// TestVantageBeyond: a machine whose IPv4 is filtered and whose IPv6 was left
// open, and a vantage on another machine, as namespaces with a wire in between.
// From inside both look the same.
func TestVantageBeyond(t *testing.T) {
	server := realollama.Start(t, realollama.Everywhere())
	box := server.Enter(t)
	apart := slices.Concat(box, []string{"unshare", "--net", "sh", "-c", `PATH=$PATH:/usr/sbin:/sbin; ip link set lo up && exec "$0" "$@"`})
	there, port, token := startVantage(t, apart)
	beyond := slices.Concat(box, []string{"nsenter", "--net=/proc/" + strconv.Itoa(there.Process.Pid) + "/ns/net"})
	sh := func(via []string, line string) (string, error) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		args := slices.Concat(via, strings.Fields(line))
		cmd := exec.CommandContext(ctx, args[0], args[1:]...)
		cmd.Env = []string{"PATH=" + os.Getenv("PATH") + ":/usr/sbin:/sbin"}
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	for _, step := range []struct {
		via  []string
		line string
	}{
		{box, "ip link add wire type veth peer name eriw netns " + strconv.Itoa(there.Process.Pid)},
		{box, "ip addr add 172.29.77.1/24 dev wire"},
		{box, "ip addr add fd29:77::1/64 dev wire nodad"},
		{box, "ip link set wire up"},
		{beyond, "ip addr add 172.29.77.2/24 dev eriw"},
		{beyond, "ip addr add fd29:77::2/64 dev eriw nodad"},
		{beyond, "ip link set eriw up"},
		// What a firewall with no rule for IPv6 does: Ollama's answers go nowhere.
		{box, "ip -4 rule add priority 1 to 172.29.77.0/24 ipproto tcp sport 11434 blackhole"},
	} {
		if out, err := sh(step.via, step.line); err != nil {
			t.Fatalf("%s: %v %s", step.line, err, out)
		}
	}
	r := runVia(t, box, "check", "--from", "172.29.77.2:"+port, "--from-token", token)
	r.exits(t, 3) // for what it sees from inside
	for _, want := range []string{"IPv4  silent     172.29.77.1:11434", "OPEN TO THE NETWORK", "172.29.77.2:" + port + " gets no answer at 172.29.77.1:11434"} {
		if !strings.Contains(strings.Join(strings.Fields(r.out), " "), strings.Join(strings.Fields(want), " ")) {
			t.Errorf("%v says nothing of %q:\n%s", r, want, r.out)
		}
	}
	r = runVia(t, box, "check", "--from", "[fd29:77::2]:"+port, "--from-token", token)
	r.exits(t, 3)
	for _, want := range []string{"\n OPEN TO THE NETWORK: Ollama answers [fd29:77::2]:" + port, "IPv6  open       [fd29:77::1]:11434  Ollama 0.17.4"} {
		if !strings.Contains(r.out, want) {
			t.Errorf("%v says nothing of %q:\n%s", r, want, r.out)
		}
	}
	r = runVia(t, box, "check", "--from", "[fd29:77::2]:"+port, "--from-token", token, "--format", "jsonl")
	r.exits(t, 3)
	if want := `"address":"fd29:77::1","port":11434,`; !strings.Contains(r.out, want) || !strings.Contains(r.out, `"from":"[fd29:77::2]:`+port+`","outcome":"open"`) {
		t.Errorf("%v has no record of what the vantage saw:\n%s", r, r.out)
	}
	// Another program there sees the same.
	if out, err := sh(beyond, "curl -sS -m 3 http://172.29.77.1:11434/"); err == nil {
		t.Errorf("curl by IPv4: %s", out)
	}
	if out, err := sh(beyond, "curl -sS -m 30 http://[fd29:77::1]:11434/"); err != nil || !strings.Contains(out, "Ollama is running") {
		t.Errorf("curl by IPv6: %v %s", err, out)
	}
}
