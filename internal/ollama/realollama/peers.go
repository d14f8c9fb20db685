package realollama

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// Peer finds a file that scripts/peers.sh installs, below the folder that it
// fills; what is its name for people. Without it the test ends as in [Start].
func Peer(t testing.TB, what string, path ...string) string {
	t.Helper()
	name := filepath.Join(append([]string{peers(t)}, path...)...)
	if _, err := os.Stat(name); err != nil {
		Missing(t, what+" is not installed: run make peers")
	}
	return name
}

// Program finds a program that scripts/peers.sh installs, in PATH or where Debian
// keeps those of administrators. Without it the test ends as in [Start].
func Program(t testing.TB, name string) string {
	t.Helper()
	for _, at := range []string{name, "/usr/sbin/" + name} {
		if bin, err := exec.LookPath(at); err == nil {
			return bin
		}
	}
	Missing(t, name+" is not installed: run make peers")
	return ""
}

// Missing skips the test for want of a part, or fails it where all are required.
func Missing(t testing.TB, why string) {
	t.Helper()
	if os.Getenv("GATEHOUSE_REQUIRE_PEERS") == "1" {
		t.Fatal(why)
	}
	t.Skip(why)
}

// Cache is the folder that the scripts put what they fetch and build into; both
// find it in the same way.
func Cache(t testing.TB) string {
	t.Helper()
	if dir := os.Getenv("GATEHOUSE_CACHE"); dir != "" {
		return dir
	}
	if dir := os.Getenv("XDG_CACHE_HOME"); dir != "" {
		return filepath.Join(dir, "gatehouse")
	}
	home, err := os.UserHomeDir()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(home, ".cache", "gatehouse")
}

// peers is the folder that scripts/peers.sh fills.
func peers(t testing.TB) string {
	t.Helper()
	return filepath.Join(Cache(t), "peers")
}
