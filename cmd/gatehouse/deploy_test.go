package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"
)

// TestDeployConfigs has the gate itself read each configuration that deploy
// writes for it, also those that a proxy's comment tells.
func TestDeployConfigs(t *testing.T) {
	load := func(what, text string) *config {
		t.Helper()
		path := filepath.Join(t.TempDir(), "gatehouse.yaml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := loadConfig(path)
		if err != nil {
			t.Errorf("%s: %v\n%s", what, err, text)
			return new(config)
		}
		return c
	}
	for _, domain := range []string{"", "--domain ai.example.org --email a@example.org", "--domain 203.0.113.7", "--domain 2001:db8::1"} {
		args := func(first string) []string { return strings.Fields("deploy " + first + " " + domain) }

		_, out, _ := gatehouse(t, "", args("systemd")...)
		_, text, _ := strings.Cut(out, "cat >/etc/gatehouse/gatehouse.yaml <<'END'\n")
		text, _, ok := strings.Cut(text, "\nEND\n")
		if c := load("systemd", text); !ok || (c.TLS.Mode == "acme") != (domain != "") {
			t.Errorf("systemd %s: %+v", domain, c.TLS)
		}

		_, out, _ = gatehouse(t, "", args("compose")...)
		var compose struct {
			Configs map[string]struct {
				Content string `yaml:"content"`
			} `yaml:"configs"`
		}
		if err := yaml.Load([]byte(out), &compose); err != nil {
			t.Fatal(err)
		}
		if c := load("compose", compose.Configs["gate"].Content); len(c.Upstreams) != 1 || c.Upstreams[0].URL != "http://ollama:11434" {
			t.Errorf("compose %s: %+v", domain, c.Upstreams)
		}

		for _, proxy := range []string{"nginx", "caddy", "traefik"} {
			for _, mode := range []string{"", " --forward-auth"} {
				first := proxy + mode
				_, out, errOut := gatehouse(t, "", strings.Fields("deploy "+first+" "+strings.ReplaceAll(domain, "--email a@example.org", ""))...)
				lines := regexp.MustCompile(`(?m)^#       +((?:listen|tls|hosts|forward_auth): .*)$`).FindAllStringSubmatch(out, -1)
				var text strings.Builder
				for _, l := range lines {
					text.WriteString(l[1] + "\n")
				}
				c := load(first, text.String())
				if c.TLS.Mode != "off" || (c.Forward.Listen != "") != (mode != "") || len(c.Hosts) != 1 {
					t.Errorf("%s %s: %+v\n%s%s", first, domain, c, text.String(), errOut)
				}
			}
		}
	}
}

// TestDeployOut writes a chart into a folder and into an archive.
func TestDeployOut(t *testing.T) {
	dir := t.TempDir()
	folder, archive := filepath.Join(dir, "charts"), filepath.Join(dir, "chart.tgz")
	for _, out := range []string{folder, archive} {
		if code, text, errOut := gatehouse(t, "", "deploy", "helm", "--image", "r.example.org/gatehouse:1", "--out", out); code != exitOK || text != "" || !strings.Contains(errOut, "8 files") {
			t.Fatalf("%d %q %q", code, text, errOut)
		}
	}
	packed, err := os.ReadFile(archive)
	if err != nil {
		t.Fatal(err)
	}
	z, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for r := tar.NewReader(z); ; n++ {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		want, err := os.ReadFile(filepath.Join(folder, filepath.FromSlash(h.Name)))
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %v", h.Name, err)
		}
	}
	if n != 8 {
		t.Errorf("%d files in the archive", n)
	}
	if code, _, errOut := gatehouse(t, "", "deploy", "helm", "--image", "r.example.org/gatehouse:1", "--out", "/dev/null/x"); code != exitUsage || !strings.Contains(errOut, "--out") {
		t.Errorf("%d %q", code, errOut)
	}
}
