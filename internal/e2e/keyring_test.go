//go:build linux

package e2e

import (
	"context"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"gatehouse/internal/ollama/realollama"
)

// TestConnectKeyring: the keyring of a desktop, on a session bus of the test's own,
// holds the key in no form that can be read, gives it to the next start, and gives
// it up.
func TestConnectKeyring(t *testing.T) {
	t.Parallel()
	bus, ring := realollama.Program(t, "dbus-run-session"), realollama.Program(t, "gnome-keyring-daemon")
	home, runtime := t.TempDir(), t.TempDir() // which are the user's alone
	const gate = "https://127.0.0.1:1"        // where nothing is
	script := `printf password | "$1" --unlock --components=secrets >&2 && {
	echo gh_secret | "$0" connect --login $2
	"$0" connect --check $2; echo "check: $?"
	grep -rl gh_secret "$HOME"
	"$0" connect --logout $2; "$0" connect --logout $2; echo "again: $?"
}`
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, bus, "--", "sh", "-c", script, gatehouse, ring, gate)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + home, "XDG_RUNTIME_DIR=" + runtime, noRest}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v:\n%s", err, out)
	}
	said := string(out)
	for _, want := range []string{
		"The key for " + gate + " is kept in the system's keyring.", gate + ": nothing listens there", "check: 1\n",
		"is deleted from the system's keyring", "no key is kept for " + gate, "again: 2\n",
	} {
		if !strings.Contains(said, want) {
			t.Errorf("nothing says %q:\n%s", want, said)
		}
	}
	kept := false
	err = filepath.WalkDir(home, func(path string, d fs.DirEntry, err error) error {
		kept = kept || strings.HasSuffix(path, ".keyring")
		if strings.HasSuffix(path, ".key") || err == nil && strings.Contains(said, path+"\n") {
			t.Errorf("the key can be read in %s", path)
		}
		return err
	})
	if err != nil || !kept {
		t.Errorf("no keyring in %s: %v", home, err)
	}
}
