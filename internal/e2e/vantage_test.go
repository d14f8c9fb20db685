//go:build linux

package e2e

import (
	"bufio"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"gatehouse/internal/ollama/realollama"
)

// startVantage runs gatehouse vantage and returns its port and the file with
// its token.
func startVantage(t *testing.T) (port, tokenFile string) {
	t.Helper()
	cmd := exec.Command(gatehouse, "vantage", "--listen", ":0", "--state-dir", filepath.Join(t.TempDir(), "state"))
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), noRest}
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		if err := cmd.Wait(); err != nil {
			t.Errorf("vantage after Ctrl-C: %v", err)
		}
	})
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
	return port, file(t, "token", token+"\n")
}

// TestVantage: an Ollama that listens on 127.0.0.1 is seen by IPv4 and not by
// IPv6, from a vantage that was asked by each.
func TestVantage(t *testing.T) {
	server := realollama.Start(t, realollama.Empty())
	port, token := startVantage(t)
	_, ollamaPort, err := net.SplitHostPort(strings.TrimPrefix(server.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	r := run(t, "check", "-p", ollamaPort, "--from", "127.0.0.1:"+port, "--from-token", token)
	r.exits(t, 3)
	for _, want := range []string{"OPEN FROM OUTSIDE", "IPv4  open       127.0.0.1:" + ollamaPort + "  Ollama 0.17.4", "IPv6  not looked at: the vantage has no such address", "LOCAL ONLY"} {
		if !strings.Contains(r.out, want) {
			t.Errorf("%v says nothing of %q:\n%s", r, want, r.out)
		}
	}
	r = run(t, "check", "-p", ollamaPort, "--from", "[::1]:"+port, "--from-token", token)
	r.exits(t, 0)
	for _, want := range []string{"NOT OPEN FROM OUTSIDE, as far as", "IPv6  refused    [::1]:" + ollamaPort, "IPv4  not looked at"} {
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
	r = run(t, "check", "--from", "127.0.0.1:"+port, "--from-token", file(t, "token", "gv_other@"+pin))
	r.exits(t, 1)
	if !strings.Contains(r.err, "not this vantage's token") {
		t.Errorf("%v: %s", r, r.err)
	}
	r = run(t, "check", "--from", "127.0.0.1:"+port, "--from-token", file(t, "token", secret+"@SHA256:"+strings.Repeat("A", 43)))
	r.exits(t, 1)
	if !strings.Contains(r.err, "does not have the pinned key") || strings.Contains(r.err, secret) {
		t.Errorf("%v: %s", r, r.err)
	}
}
