package main

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/zalando/go-keyring"
)

// TestConnectUsage holds mistakes to their message, hint and exit code.
func TestConnectUsage(t *testing.T) {
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	t.Setenv("HOME", t.TempDir())
	t.Setenv("GATEHOUSE_KEY", "")
	keyring.MockInit()
	dir := t.TempDir()
	open, empty, good := filepath.Join(dir, "open"), filepath.Join(dir, "empty"), filepath.Join(dir, "good")
	for name, mode := range map[string]os.FileMode{open: 0o644, empty: 0o600, good: 0o600} {
		text := "gh_x\n"
		if name == empty {
			text = "\n"
		}
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(name, mode); err != nil {
			t.Fatal(err)
		}
	}
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for _, c := range []struct{ args, wrong, hint string }{
		{"connect", `expected "<url>"`, "see gatehouse connect --help"},
		{"connect box", `"box" is no https URL`, "such as https://box:8443"},
		{"connect ftp://box", "is no https URL", "such as https://box:8443"},
		{"connect http://box:8443", "the key would travel in the clear", "https address"},
		{"connect http://box.tail-scale.ts.net:11434", "the key would travel in the clear", "its address on the tailnet"},
		{"connect http://100.128.0.1:11434", "the key would travel in the clear", "its address on the tailnet"},
		{"connect --tailnet http://192.168.1.2:11434", "the key would travel in the clear", "its address on the tailnet"},
		{"connect --tailnet --login http://100.64.0.1:11434", "--tailnet sends no key", "give one of them"},
		{"connect https://gh_x@box", "others can read the command line", "gatehouse connect --login"},
		{"connect https://box/?q=1", "goes on after its path", "such as"},
		{"connect https://box --listen 0.0.0.0:11434", "connect serves this machine only", "--listen 127.0.0.1:11434"},
		{"connect https://box --listen :11434", "connect serves this machine only", "--listen 127.0.0.1:11434"},
		{"connect https://box --listen [::]:11434", "connect serves this machine only", "--listen 127.0.0.1:11434"},
		{"connect https://box --listen 192.168.1.2:11434", "connect serves this machine only", "a key and a connect of their own"},
		{"connect https://box --listen 11434", "not an address with a port", "--listen 127.0.0.1:11434"},
		{"connect https://box --pin abc", `"abc" is no pin`, "prints it at its start"},
		{"connect https://box --ca /nonexistent", "no such file", "gatehouse trust"},
		{"connect https://box --ca " + good, "holds no certificate", "gatehouse trust"},
		{"connect https://box --ca x --pin y", "can't be used together", "see gatehouse connect --help"},
		{"connect https://box --origins *", "not an origin", "--origins https://chat.example"},
		{"connect https://box --origins chat.example", "not an origin", "--origins https://chat.example"},
		{"connect https://box", "no key is kept for https://box", "gatehouse connect --login https://box"},
		{"connect https://box --key-file /nonexistent", "no such file", "yours alone"},
		{"connect https://box --key-file " + open, "chmod 600 " + open, "yours alone"},
		{"connect https://box --key-file " + empty, "the key is empty", "yours alone"},
		{"connect https://box --login", "the key is empty", "gatehouse key add"},
		{"connect https://box --logout", "no key is kept for https://box", "give the one of --login"},
		{"connect https://box --logout --key-file /nonexistent", "no key is kept for https://box", "--key-file"},
		{"connect https://box --login --logout", "can't be used together", "see gatehouse connect --help"},
		{"connect https://box --key-file " + good + " --listen " + taken.Addr().String(), "address already in use", "an Ollama of this machine's own may be there"},
	} {
		code, out, errOut := gatehouse(t, "", strings.Fields(c.args)...)
		wrong, hint, _ := strings.Cut(errOut, "\nhint: ")
		if code != exitUsage || out != "" || !strings.Contains(wrong, c.wrong) || !strings.Contains(hint, c.hint) {
			t.Errorf("gatehouse %s: exit code %d\n%s%s", c.args, code, out, errOut)
		}
		if strings.Contains(errOut, "gh_x") {
			t.Errorf("gatehouse %s tells a secret: %s", c.args, errOut)
		}
	}
}

// TestConnectLogin: the key is kept under the gate's address however it is
// written, and shown to nobody.
func TestConnectLogin(t *testing.T) {
	keyring.MockInit()
	code, out, errOut := gatehouse(t, "gh_secret\n", "connect", "--login", "https://BOX:8443/")
	if code != exitOK || strings.Contains(out+errOut, "gh_secret") || !strings.Contains(out, "https://box:8443 is kept in the system's keyring") {
		t.Fatalf("exit code %d\n%s%s", code, out, errOut)
	}
	if kept, err := keyring.Get("gatehouse", "https://box:8443"); err != nil || kept != "gh_secret" {
		t.Errorf("kept: %q %v", kept, err)
	}
	code, out, errOut = gatehouse(t, "", "connect", "--logout", "https://box:8443")
	if code != exitOK || !strings.Contains(out, "https://box:8443 is deleted from the system's keyring") {
		t.Fatalf("exit code %d\n%s%s", code, out, errOut)
	}
	if kept, err := keyring.Get("gatehouse", "https://box:8443"); err == nil {
		t.Errorf("kept still: %q", kept)
	}
}

// TestConnectInstall: systemd is told of a unit that starts connect as it was
// asked for, without the key, and told to forget it again.
func TestConnectInstall(t *testing.T) {
	keyring.MockInit()
	dir := t.TempDir()
	told := filepath.Join(dir, "told")
	t.Setenv("XDG_CONFIG_HOME", filepath.Join(dir, "config"))
	t.Setenv("GATEHOUSE_KEY", "gh_environment")
	t.Setenv("PATH", dir+":/usr/bin:/bin")
	t.Setenv("TOLD", told)
	if err := os.WriteFile(filepath.Join(dir, "systemctl"), []byte("#!/bin/sh\n"+`echo "$@" >> "$TOLD"; test "$2" != "$REFUSED" || { echo no bus; exit 1; }`+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	unit := filepath.Join(dir, "config", "systemd", "user", "gatehouse-connect-box_8443.service")
	install := []string{"connect", "--install", "--pin", "SHA256:" + strings.Repeat("A", 43), "--origins", "https://chat.example", "https://box:8443/"}
	if code, _, errOut := gatehouse(t, "", install...); code != exitUsage || !strings.Contains(errOut, "gatehouse connect --login") {
		t.Errorf("without a key that lasts: exit code %d: %s", code, errOut)
	}
	if code, _, errOut := gatehouse(t, "gh_secret\n", "connect", "--login", "https://box:8443"); code != exitOK {
		t.Fatal(errOut)
	}
	t.Setenv("REFUSED", "enable")
	code, _, errOut := gatehouse(t, "", install...)
	if _, err := os.Stat(unit); code != exitFailed || !strings.Contains(errOut, "no bus\nhint: log in as yourself") || err == nil {
		t.Errorf("where systemd refuses: exit code %d: %s, and the unit is there: %v", code, errOut, err)
	}
	t.Setenv("REFUSED", "")
	if code, out, errOut := gatehouse(t, "", install...); code != exitOK || !strings.Contains(out, "at each login") {
		t.Errorf("exit code %d: %s%s", code, out, errOut)
	}
	text, err := os.ReadFile(unit)
	want := ` "connect" "--listen" "127.0.0.1:11434" "--pin" "SHA256:` + strings.Repeat("A", 43) + `" "--origins" "https://chat.example" "https://box:8443"` + "\n"
	if err != nil || !strings.Contains(string(text), want) || strings.Contains(string(text), "gh_") {
		t.Errorf("%v: the unit is\n%s\nand has not\n%s", err, text, want)
	}
	if code, out, errOut := gatehouse(t, "", "connect", "--uninstall", "https://box:8443"); code != exitOK || !strings.Contains(out, "started no more") {
		t.Errorf("exit code %d: %s%s", code, out, errOut)
	}
	if _, err := os.Stat(unit); err == nil {
		t.Error("the unit is there still")
	}
	if code, _, errOut := gatehouse(t, "", "connect", "--uninstall", "https://box:8443"); code != exitUsage || !strings.Contains(errOut, "nothing is installed") {
		t.Errorf("twice: exit code %d: %s", code, errOut)
	}
	if kept, err := keyring.Get("gatehouse", "https://box:8443"); err != nil || kept != "gh_secret" {
		t.Errorf("the key: %q %v", kept, err)
	}
	lines, err := os.ReadFile(told)
	name := filepath.Base(unit)
	if want := "--user daemon-reload\n--user enable " + name + "\n--user restart " + name + "\n--user disable --now " + name + "\n--user daemon-reload\n"; err != nil || !strings.HasSuffix(string(lines), want) {
		t.Errorf("systemd was told\n%swant\n%s", lines, want)
	}
}
