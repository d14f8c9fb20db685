package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"gatehouse/internal/report"
)

// unitFile is the user unit that starts connect for a gate, and its name.
func unitFile(gate *url.URL) (path, name string, err error) {
	dir, err := os.UserConfigDir() // where systemd looks too
	if err != nil {
		return "", "", err
	}
	name = "gatehouse-connect-" + fileName(gate) + ".service"
	return filepath.Join(dir, "systemd", "user", name), name, nil
}

// unit is that unit. It names where the key is and does not hold it.
func (c *connectCmd) unit(gate *url.URL, program string) (string, error) {
	words := []string{program, "connect", "--listen", c.Listen}
	for _, f := range []struct{ flag, value string }{{"--pin", c.Pin}, {"--ca", c.CA}, {"--key-file", c.KeyFile}} {
		if f.value == "" {
			continue
		}
		if f.flag != "--pin" { // it runs in another folder
			full, err := filepath.Abs(f.value)
			if err != nil {
				return "", err
			}
			f.value = full
		}
		words = append(words, f.flag, f.value)
	}
	if c.Tailnet {
		words = append(words, "--tailnet")
	}
	for _, o := range c.Origins {
		words = append(words, "--origins", o)
	}
	words = append(words, gate.String())
	for i, w := range words {
		if strings.ContainsFunc(w, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			return "", usage(fmt.Errorf("%q cannot stand in a unit", w), "--install takes names without control characters")
		}
		words[i] = `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "%", "%%", "$", "$$").Replace(w) + `"`
	}
	return `# Written by gatehouse connect --install; gatehouse connect --uninstall removes it.
# The key is not in here: it is read from where --login has kept it.
[Unit]
Description=Gatehouse, where programs look for Ollama
StartLimitIntervalSec=0

[Service]
ExecStart=` + strings.Join(words, " ") + `
Restart=on-failure
RestartSec=5
NoNewPrivileges=yes
LockPersonality=yes
RestrictRealtime=yes
UMask=0077

[Install]
WantedBy=default.target
`, nil
}

// install has systemd start connect whenever the user logs in, and now.
func (c *connectCmd) install(ctx context.Context, s streams, gate *url.URL) error {
	if err := userUnits(); err != nil {
		return err
	}
	if !c.Tailnet {
		// $GATEHOUSE_KEY is not there at the next login.
		if _, err := c.kept(gate); err != nil {
			return err
		}
	}
	text, err := c.unit(gate, self())
	if err != nil {
		return err
	}
	path, name, err := unitFile(gate)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if err := report.WriteFile(path, func(w io.Writer) error { _, err := io.WriteString(w, text); return err }); err != nil {
		return err
	}
	for _, words := range [][]string{{"daemon-reload"}, {"enable", name}, {"restart", name}} {
		if err := s.do(ctx, append([]string{"systemctl", "--user"}, words...), false); err != nil {
			return errors.Join(failed(fmt.Errorf("systemctl --user %s: %w", strings.Join(words, " "), err), "log in as yourself, not by su or sudo, for systemd to know you"), os.Remove(path))
		}
	}
	_, err = fmt.Fprintf(s.out, "Ollama on http://%s is %s from now on, at each login.\nHow it is: systemctl --user status %s\n", c.Listen, gate, name)
	return err
}

// uninstall undoes install. The key stays.
func (c *connectCmd) uninstall(ctx context.Context, s streams, gate *url.URL) error {
	if err := userUnits(); err != nil {
		return err
	}
	path, name, err := unitFile(gate)
	if err != nil {
		return err
	}
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return usage(fmt.Errorf("nothing is installed for %s", gate), "give the address that --install had; the units are in "+filepath.Dir(path))
	}
	if err := s.do(ctx, []string{"systemctl", "--user", "disable", "--now", name}, false); err != nil {
		return failed(fmt.Errorf("systemctl --user disable --now %s: %w", name, err), "log in as yourself, not by su or sudo, for systemd to know you")
	}
	if err := os.Remove(path); err != nil {
		return err
	}
	if err := s.do(ctx, []string{"systemctl", "--user", "daemon-reload"}, false); err != nil {
		return err
	}
	_, err = fmt.Fprintf(s.out, "It is started no more. The key is kept still: gatehouse connect --logout %s\n", gate)
	return err
}

// userUnits says where there is no systemd to install for.
func userUnits() error {
	if _, err := lookPath("systemctl"); runtime.GOOS != "linux" || err != nil {
		return usage(errors.New("--install needs systemd, which is not here"), "have gatehouse connect started at login by what this system has for that")
	}
	return nil
}
