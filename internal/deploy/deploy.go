// Package deploy writes what others run: units, playbooks, charts and the
// configurations of proxies that put the gate in front of an Ollama nobody else
// can reach. It never writes a key, and puts nothing into a file that could be
// read there as anything but a value.
package deploy

import (
	"bytes"
	"cmp"
	"embed"
	"fmt"
	"io/fs"
	"net/netip"
	"path"
	"slices"
	"strings"
	"text/template"

	"gatehouse/internal/ollama"
)

// Options are what a user can say about a deployment. A format takes those that
// its Takes lists; the zero value of each is its default.
type Options struct {
	Domain string // name or address that clients use; "" has the gate make a certificate of its own
	Email  string // of the ACME account
	Port   uint16 // that clients use; default 443 with a domain, else 8443
	SSH    uint16 // port that the firewall leaves open for the operator; default 22

	Image     string // container image whose entrypoint is gatehouse
	BinaryURL string // where the machine gets gatehouse from
	SHA256    string // of what is there

	GPU           string   // none, nvidia or amd
	Models        []string // pulled at the first start
	OllamaVersion string   // default the newest that is known
	OllamaImage   string   // default ollama/ollama and the version

	ForwardAuth bool   // the proxy forwards by itself and asks the gate first
	Cert, Key   string // files of the proxy's certificate
	Folder      string // where the proxy's own files are installed, such as its Lua
}

// Format is something that can be written.
type Format struct {
	Name  string
	What  string   // in a few words
	Takes []string // flags, besides those that all take
	Needs []string // of these, those that it cannot do without; "image|binary-url" is either

	templates []file
	single    bool // one file, which can go to standard output as it is
}

// File is one file of a deployment.
type File struct {
	Path string // in the folder that is written
	Mode fs.FileMode
	Text string
}

type file struct {
	template, path string
	mode           fs.FileMode
}

var machineFlags = []string{"domain", "email", "port", "ssh-port", "gpu", "models", "ollama-version", "binary-url", "sha256"}

// Formats are all that can be written, in the order they are told.
var Formats = []Format{
	{
		Name: "cloud-init", What: "user data of a new machine, with a firewall", single: true,
		Takes: machineFlags, Needs: []string{"binary-url", "sha256"}, templates: []file{{"cloud-init.yaml", "user-data.yaml", 0o644}},
	},
	{
		Name: "compose", What: "a compose file; Ollama's network leads nowhere", single: true,
		Takes:     []string{"domain", "email", "port", "gpu", "models", "ollama-version", "ollama-image", "image"},
		templates: []file{{"compose.yaml", "compose.yaml", 0o644}},
	},
	{
		Name: "systemd", What: "a script, for a machine that runs Ollama already", single: true,
		Takes: []string{"domain", "email", "port"}, templates: []file{{"systemd.sh", "gatehouse-systemd.sh", 0o755}},
	},
	{
		Name: "nginx", What: "a server block for nginx", single: true,
		Takes: []string{"domain", "port", "forward-auth", "cert", "key"}, templates: []file{{"nginx.conf", "gatehouse.conf", 0o644}},
	},
	{
		Name: "caddy", What: "a Caddyfile", single: true,
		Takes: []string{"domain", "email", "port", "forward-auth"}, templates: []file{{"Caddyfile", "Caddyfile", 0o644}},
	},
	{
		Name: "traefik", What: "a file for Traefik's file provider", single: true,
		Takes: []string{"domain", "forward-auth"}, templates: []file{{"traefik.yaml", "gatehouse.yaml", 0o644}},
	},
	{
		Name: "haproxy", What: "a configuration for HAProxy, and its Lua", single: true,
		Takes:     []string{"domain", "port", "forward-auth", "cert", "folder"},
		templates: []file{{"haproxy.cfg", "haproxy.cfg", 0o644}},
	},
	{
		Name: "helm", What: "a chart; Ollama is on its pod's loopback",
		Takes: []string{"domain", "email", "port", "gpu", "models", "ollama-version", "ollama-image", "image"}, Needs: []string{"image"},
		templates: []file{
			{"helm/Chart.yaml", "gatehouse/Chart.yaml", 0o644},
			{"helm/values.yaml", "gatehouse/values.yaml", 0o644},
			{"helm/helmignore", "gatehouse/.helmignore", 0o644},
			{"helm/NOTES.txt", "gatehouse/templates/NOTES.txt", 0o644},
			{"helm/configmap.yaml", "gatehouse/templates/configmap.yaml", 0o644},
			{"helm/statefulset.yaml", "gatehouse/templates/statefulset.yaml", 0o644},
			{"helm/service.yaml", "gatehouse/templates/service.yaml", 0o644},
			{"helm/networkpolicy.yaml", "gatehouse/templates/networkpolicy.yaml", 0o644},
		},
	},
	{
		Name: "terraform", What: "the cloud-init, for any provider", single: true,
		Takes: machineFlags, Needs: []string{"binary-url", "sha256"}, templates: []file{{"main.tf", "main.tf", 0o644}},
	},
	{
		Name: "nixos", What: "a NixOS module", single: true,
		Takes: []string{"domain", "email", "port", "gpu", "models", "binary-url", "sha256"}, Needs: []string{"binary-url", "sha256"},
		templates: []file{{"gatehouse.nix", "gatehouse.nix", 0o644}},
	},
	{
		Name: "ansible", What: "a playbook for Debian and Ubuntu", single: true,
		Takes: []string{"domain", "email", "port", "gpu", "models", "ollama-version", "binary-url", "sha256"}, Needs: []string{"binary-url", "sha256"},
		templates: []file{{"playbook.yaml", "playbook.yaml", 0o644}},
	},
}

// Find is the format of a name.
func Find(name string) (Format, bool) {
	i := slices.IndexFunc(Formats, func(f Format) bool { return f.Name == name })
	if i < 0 {
		return Format{}, false
	}
	return Formats[i], true
}

//go:embed all:templates
var templates embed.FS

// Write makes the files of the format. Errors are [*Mistake]s of the options,
// joined, one for each.
func (f Format) Write(o Options) ([]File, error) {
	if err := f.check(&o); err != nil {
		return nil, err
	}
	list := f.templates
	if f.Name == "haproxy" && o.ForwardAuth {
		list = append(slices.Clone(list), file{"gatehouse.lua", "gatehouse.lua", 0o644})
	}
	var files []File
	for _, t := range list {
		text, err := render(t.template, f, o)
		if err != nil {
			return nil, err
		}
		files = append(files, File{Path: t.path, Mode: t.mode, Text: text})
	}
	return files, nil
}

// Single reports whether the files are one that can go to standard output.
func (f Format) Single(files []File) bool { return f.single && len(files) == 1 }

// machine is what the templates see.
type machine struct {
	Options
	Format Format
	Where  string // "machine", "proxy", "container" or "pod": where the gate runs
	Loop   string // URL of Ollama as the gate has it
}

func render(name string, f Format, o Options) (string, error) {
	text, err := fs.ReadFile(templates, path.Join("templates", name))
	if err != nil {
		return "", err
	}
	m := machine{Options: o, Format: f, Where: "machine", Loop: "http://127.0.0.1:11434"}
	switch f.Name {
	case "compose":
		m.Where, m.Loop = "container", "http://ollama:11434"
	case "helm":
		m.Where = "pod"
	case "nginx", "caddy", "traefik", "haproxy":
		m.Where = "proxy"
	}
	t, err := template.New(name).Delims("[[", "]]").Option("missingkey=error").Funcs(template.FuncMap{
		"include": func(name string) (string, error) {
			text, err := render(name, f, o)
			return strings.TrimSuffix(text, "\n"), err
		},
		"indent":  indent,
		"comment": comment,
		"hcl":     escapeHCL,
	}).Parse(string(text))
	if err != nil {
		return "", err
	}
	var b bytes.Buffer
	if err := t.Execute(&b, m); err != nil {
		return "", err
	}
	return b.String(), nil
}

// indent puts n spaces before each line that is not empty.
func indent(n int, text string) string {
	pad := strings.Repeat(" ", n)
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	for i, l := range lines {
		if l != "" {
			lines[i] = pad + l
		}
	}
	return strings.Join(lines, "\n")
}

// comment makes a text the comment of the format's.
func comment(text string) string {
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	for i, l := range lines {
		lines[i] = strings.TrimSuffix("# "+l, " ")
	}
	return strings.Join(lines, "\n")
}

// escapeHCL has a text mean itself in a heredoc of Terraform's.
func escapeHCL(text string) string {
	return strings.NewReplacer("${", "$${", "%{", "%%{").Replace(text)
}

// Address is the domain as it stands in a URL.
func (m machine) Address() string {
	if a, err := netip.ParseAddr(m.Domain); err == nil && a.Is6() {
		return "[" + m.Domain + "]"
	}
	return m.Domain
}

// URL is where clients go.
func (m machine) URL() string {
	host := cmp.Or(m.Address(), "<this machine>")
	if m.Port == 443 {
		return "https://" + host
	}
	return fmt.Sprintf("https://%s:%d", host, m.Port)
}

// IsAddress reports whether the domain is an address.
func (m machine) IsAddress() bool {
	_, err := netip.ParseAddr(m.Domain)
	return err == nil
}

// Latest is the newest release of Ollama that is known.
func Latest() string {
	series := ollama.KnownReleases().Series
	last := series[len(series)-1]
	return fmt.Sprintf("%d.%d.%d", last.Major, last.Minor, last.Last)
}
