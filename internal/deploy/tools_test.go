//go:build linux

package deploy_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v4"

	"gatehouse/internal/deploy"
	"gatehouse/internal/ollama/realollama"
)

// runs runs a command, which has to end well, and returns what it prints.
func runs(t *testing.T, env []string, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%s %s: %v\n%s", filepath.Base(name), strings.Join(args, " "), err, out)
	}
	return string(out)
}

// put writes the files into a folder, each text as change has it.
func put(t *testing.T, files []deploy.File, change *strings.Replacer) string {
	t.Helper()
	dir := t.TempDir()
	for _, f := range files {
		at := filepath.Join(dir, f.Path)
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			t.Fatal(err)
		}
		text := f.Text
		if change != nil {
			text = change.Replace(text)
		}
		if err := os.WriteFile(at, []byte(text), f.Mode); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// pair writes a certificate and its key, both into cert and key too.
func pair(t *testing.T) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"ai.example.org"}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	var both bytes.Buffer
	for _, block := range []*pem.Block{{Type: "CERTIFICATE", Bytes: der}, {Type: "PRIVATE KEY", Bytes: pkcs8}} {
		if err := pem.Encode(&both, block); err != nil {
			t.Fatal(err)
		}
	}
	cert = filepath.Join(t.TempDir(), "both.pem")
	if err := os.WriteFile(cert, both.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return cert, cert
}

// TestTools has each format read by the program it is for.
func TestTools(t *testing.T) {
	each(t, func(t *testing.T, f deploy.Format, o deploy.Options, files []deploy.File) {
		switch f.Name {
		case "nginx":
			cert, key := pair(t)
			o.Cert, o.Key = cert, key
			files = again(t, f, o)
			// nginx -t binds what it is told to: here that is a socket in a folder.
			files[0].Text = listens.ReplaceAllString(files[0].Text, "listen unix:"+t.TempDir()+"/$1 ssl;")
			dir := put(t, files, nil)
			main := filepath.Join(dir, "nginx.conf")
			text := "pid " + dir + "/pid; error_log stderr; events {} http { access_log off; include " + dir + "/gatehouse.conf; }\n"
			if err := os.WriteFile(main, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
			runs(t, nil, realollama.Program(t, "nginx"), "-t", "-e", "stderr", "-p", dir, "-c", main)
		case "caddy":
			dir := put(t, files, nil)
			runs(t, []string{"HOME=" + dir, "XDG_DATA_HOME=" + dir, "XDG_CONFIG_HOME=" + dir}, realollama.Program(t, "caddy"), "validate", "--adapter", "caddyfile", "--config", dir+"/Caddyfile")
		case "haproxy":
			cert, _ := pair(t)
			o.Cert, o.Folder = cert, t.TempDir()
			files = again(t, f, o)
			dir := put(t, files, nil)
			if o.ForwardAuth {
				runs(t, nil, "cp", dir+"/gatehouse.lua", o.Folder)
			}
			runs(t, nil, realollama.Program(t, "haproxy"), "-c", "-f", dir+"/haproxy.cfg")
		case "cloud-init":
			dir := put(t, files, nil)
			lib := realollama.Peer(t, "cloud-init", "cloud-init")
			out := runs(t, []string{"PYTHONPATH=" + lib + "/usr/lib/python3/dist-packages"}, "/usr/bin/python3", "-m", "cloudinit.cmd.main", "schema", "-c", dir+"/user-data.yaml")
			if !strings.Contains(out, "Valid") {
				t.Errorf("cloud-init: %s", out)
			}
			if size := len(files[0].Text); size > 16<<10 {
				t.Errorf("the user data has %d bytes, more than some providers take", size)
			}
		case "ansible":
			dir := put(t, files, nil)
			runs(t, []string{"HOME=" + dir, "ANSIBLE_LOCAL_TEMP=" + dir}, realollama.Program(t, "ansible-playbook"), "--syntax-check", "-i", "ollama,", dir+"/playbook.yaml")
		case "nixos":
			dir := put(t, files, nil)
			runs(t, nil, realollama.Program(t, "nix-instantiate"), "--parse", dir+"/gatehouse.nix")
		case "terraform":
			dir := put(t, files, nil)
			// Debian has no Terraform, so it is not required; see TestTerraformValue.
			if bin, err := exec.LookPath("terraform"); err == nil {
				runs(t, []string{"HOME=" + dir, "CHECKPOINT_DISABLE=1"}, bin, "-chdir="+dir, "validate")
				runs(t, []string{"HOME=" + dir, "CHECKPOINT_DISABLE=1"}, bin, "-chdir="+dir, "fmt", "-check", "-diff")
			}
		case "helm":
			dir := put(t, files, nil)
			bin := realollama.Peer(t, "helm", "helm-v3.21.4", "helm")
			env := []string{"HOME=" + dir}
			runs(t, env, bin, "lint", "--strict", dir+"/gatehouse")
			out := runs(t, env, bin, "template", "box", dir+"/gatehouse")
			for _, want := range []string{"value: 127.0.0.1:11434", "targetPort: gate", "kind: NetworkPolicy", "box-gatehouse"} {
				if !strings.Contains(out, want) {
					t.Errorf("the chart gives no %q", want)
				}
			}
		case "systemd":
			dir := put(t, files, nil)
			runs(t, nil, "sh", "-n", dir+"/gatehouse-systemd.sh")
		}
	})
}

var listens = regexp.MustCompile(`listen (\S+) ssl;`)

func again(t *testing.T, f deploy.Format, o deploy.Options) []deploy.File {
	t.Helper()
	files, err := f.Write(o)
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// heredocs are the files that a script of systemd's writes.
func heredocs(script string) map[string]string {
	files := make(map[string]string)
	for part := range strings.SplitSeq(script, "\ncat >") {
		name, text, ok := strings.Cut(part, " <<'END'\n")
		if ok {
			text, _, _ = strings.Cut(text, "\nEND")
			files[name] = text + "\n"
		}
	}
	return files
}

// TestUnits has systemd read the units, and judge the gate's.
func TestUnits(t *testing.T) {
	f, _ := deploy.Find("systemd")
	files := heredocs(again(t, f, deploy.Options{Domain: "ai.example.org"})[0].Text)
	if len(files) != 4 {
		t.Fatalf("%d files", len(files))
	}
	dir := t.TempDir()
	unit := strings.ReplaceAll(files["/etc/systemd/system/gatehouse.service"], "/usr/local/bin/gatehouse", "/bin/true")
	if err := os.WriteFile(dir+"/gatehouse.service", []byte(unit), 0o644); err != nil {
		t.Fatal(err)
	}
	analyze := realollama.Program(t, "systemd-analyze")
	if out := runs(t, nil, analyze, "verify", "--man=no", dir+"/gatehouse.service"); strings.Contains(out, "gatehouse.service:") {
		t.Errorf("systemd says: %s", out)
	}
	runs(t, nil, analyze, "security", "--offline=yes", "--threshold=20", dir+"/gatehouse.service")

	// The unit is docs/gatehouse.service, but for where the first key goes.
	sample, err := os.ReadFile("../../docs/gatehouse.service")
	if err != nil {
		t.Fatal(err)
	}
	skip := func(line string) bool { return strings.HasPrefix(line, "#") || strings.HasPrefix(line, "ExecStart=") }
	ours := slices.DeleteFunc(strings.Split(files["/etc/systemd/system/gatehouse.service"], "\n"), skip)
	if theirs := slices.DeleteFunc(strings.Split(string(sample), "\n"), skip); !slices.Equal(ours, theirs) {
		t.Errorf("the unit is not docs/gatehouse.service:\n%s", strings.Join(ours, "\n"))
	}
}

// machineFiles are those that cloud-init writes, by path.
func machineFiles(t *testing.T, o deploy.Options) map[string]string {
	t.Helper()
	f, _ := deploy.Find("cloud-init")
	var c struct {
		Files []struct {
			Path    string `yaml:"path"`
			Content string `yaml:"content"`
		} `yaml:"write_files"`
	}
	if err := yaml.Load([]byte(again(t, f, filled(f, o))[0].Text), &c); err != nil {
		t.Fatal(err)
	}
	files := make(map[string]string)
	for _, f := range c.Files {
		files[f.Path] = f.Content
	}
	return files
}

// TestMachineFiles has each file that cloud-init writes read by what it is for.
func TestMachineFiles(t *testing.T) {
	files := machineFiles(t, deploy.Options{Domain: "ai.example.org", GPU: "amd", Models: []string{"smollm2"}})
	if len(files) != 7 {
		t.Fatalf("%d files", len(files))
	}
	dir := t.TempDir()
	for name, text := range files {
		at := filepath.Join(dir, filepath.Base(name))
		text = strings.ReplaceAll(text, "ExecStart=/usr/local/bin/", "ExecStart=/bin/true ")
		if err := os.WriteFile(at, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		switch filepath.Ext(name) {
		case ".service":
			if out := runs(t, nil, realollama.Program(t, "systemd-analyze"), "verify", "--man=no", at); strings.Contains(out, filepath.Base(name)+":") {
				t.Errorf("systemd says: %s", out)
			}
		case ".nft":
			runs(t, nil, realollama.Program(t, "unshare"), "--map-root-user", "--net", realollama.Program(t, "nft"), "--check", "--file", at)
		case "":
			runs(t, nil, "sh", "-n", at)
		}
	}
}

// TestInstall runs the installation with nothing but stand-ins for what it
// calls: it stops where gatehouse is not the file that it should be.
func TestInstall(t *testing.T) {
	script := machineFiles(t, deploy.Options{Models: []string{"smollm2"}})["/usr/local/sbin/gatehouse-install"]
	for _, test := range []struct {
		served, ends string
		ok           bool
	}{
		{"a", "ollama pull smollm2", true}, // hex64 is of this
		{"b", "--retry 5 -o TMP/gatehouse https://files.example.org/gatehouse?v=1&x=2", false},
	} {
		dir := t.TempDir()
		log := filepath.Join(dir, "log")
		for _, name := range []string{"systemctl", "install", "useradd", "tar", "id", "ollama", "curl"} {
			text := "#!/bin/sh\necho " + name + ` "$@" >>` + log + "\n"
			if name == "curl" {
				text += `while [ $# -gt 0 ]; do [ "$1" != -o ] || printf ` + test.served + ` >"$2"; shift; done` + "\n"
			}
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		cmd := exec.CommandContext(t.Context(), "sh", "-c", script)
		cmd.Env = []string{"PATH=" + dir + ":/usr/bin:/bin", "TMPDIR=" + dir}
		out, err := cmd.CombinedOutput()
		if (err == nil) != test.ok {
			t.Errorf("it serves %q: %v\n%s", test.served, err, out)
		}
		did, err := os.ReadFile(log)
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(strings.TrimSpace(string(did)), "\n")
		if lines[0] != "systemctl daemon-reload" || lines[1] != "systemctl enable --now gatehouse-firewall.service" {
			t.Errorf("it begins with %q", lines[:2])
		}
		last := regexp.MustCompile(dir+`/tmp\.\w+`).ReplaceAllString(lines[len(lines)-1], "TMP")
		if !strings.HasSuffix(last, test.ends) {
			t.Errorf("it ends with %q, want %q", last, test.ends)
		}
		if started := strings.Contains(string(did), "enable --now ollama.service gatehouse.service"); started != test.ok {
			t.Errorf("it serves %q, and starts: %v", test.served, started)
		}
	}
}
