package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestVantageUsage holds mistakes to their message, hint and exit code.
func TestVantageUsage(t *testing.T) {
	dir := t.TempDir()
	open, odd := filepath.Join(dir, "open"), filepath.Join(dir, "odd")
	for name, mode := range map[string]os.FileMode{open: 0o644, odd: 0o600} {
		if err := os.WriteFile(name, []byte("gv_x\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(name, mode); err != nil {
			t.Fatal(err)
		}
	}
	bad := filepath.Join(dir, "bad")
	if err := os.MkdirAll(filepath.Join(bad, "vantage"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(bad, "vantage", "token.sha256"), []byte("short"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ args, wrong, hint string }{
		{"vantage --listen 7443", "not an address with a port", "such as --listen :7443"},
		{"vantage --listen 127.0.0.1:0 --state-dir /dev/null", "state folder", "--state-dir"},
		{"vantage --listen 127.0.0.1:0 --state-dir " + bad, "holds no hash", "--new-token"},
		{"check --from there.example", "not a host with a port", "such as --from there.example:7443"},
		{"check --from :7443", "not a host with a port", "such as --from there.example:7443"},
		{"check --from there.example:7443", "--from without a token", "--from-token"},
		{"check --from there.example:7443 --from-token /nonexistent", "no such file", "yours alone"},
		{"check --from there.example:7443 --from-token " + open, "chmod 600 " + open, "yours alone"},
		{"check --from there.example:7443 --from-token " + odd, "not a token as gatehouse vantage prints it", "gv_…@SHA256:…"},
	} {
		code, out, errOut := gatehouse(t, "", strings.Fields(c.args)...)
		wrong, hint, _ := strings.Cut(errOut, "\nhint: ")
		if code != exitUsage || out != "" || !strings.Contains(wrong, c.wrong) || !strings.Contains(hint, c.hint) || strings.Contains(errOut, "gv_x") {
			t.Errorf("gatehouse %s: exit code %d\n%s%s", c.args, code, out, errOut)
		}
	}
}
