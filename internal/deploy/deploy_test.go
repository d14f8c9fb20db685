package deploy_test

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"

	"gatehouse/internal/deploy"
)

const hex64 = "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"

// filled gives a format all that it needs, and of the rest what it takes.
func filled(f deploy.Format, o deploy.Options) deploy.Options {
	takes := func(flag string) bool { return slices.Contains(f.Takes, flag) }
	var r deploy.Options
	if takes("domain") {
		r.Domain = o.Domain
	}
	if takes("email") && o.Domain != "" {
		r.Email = o.Email
	}
	if takes("port") {
		r.Port = o.Port
	}
	if takes("gpu") {
		r.GPU = o.GPU
	}
	if takes("models") {
		r.Models = o.Models
	}
	if takes("forward-auth") {
		r.ForwardAuth = o.ForwardAuth
	}
	if takes("image") && (o.Image != "" || slices.Contains(f.Needs, "image")) {
		r.Image = "registry.example.org/gatehouse:1.0"
	}
	if takes("binary-url") {
		r.BinaryURL, r.SHA256 = "https://files.example.org/gatehouse?v=1&x=2", hex64
	}
	return r
}

// each calls do for every format with each kind of options.
func each(t *testing.T, do func(t *testing.T, f deploy.Format, o deploy.Options, files []deploy.File)) {
	for _, f := range deploy.Formats {
		for i, o := range []deploy.Options{
			{},
			{Domain: "ai.example.org", Email: "admin@example.org", GPU: "nvidia", Models: []string{"llama3.2:1b", "hf.co/a/B-GGUF:Q4_K_M"}, Image: "yes"},
			{Domain: "203.0.113.7", GPU: "amd", Port: 8444, ForwardAuth: true, Models: []string{"smollm2"}},
			{Domain: "2001:db8::7", ForwardAuth: true},
			{Domain: "BÜRO.example.org", ForwardAuth: true},
			{ForwardAuth: true},
		} {
			t.Run(fmt.Sprintf("%s/%d", f.Name, i), func(t *testing.T) {
				o := filled(f, o)
				files, err := f.Write(o)
				if err != nil {
					t.Fatal(err)
				}
				do(t, f, o, files)
			})
		}
	}
}

// TestSafe holds every output to what all have to be: no key, Ollama on loopback
// or a network inside, the gate in front, and a beginning that says what it is.
func TestSafe(t *testing.T) {
	aKey := regexp.MustCompile(`gh_[A-Za-z0-9]`)
	port := regexp.MustCompile(`\S*11434\S*`)
	each(t, func(t *testing.T, f deploy.Format, o deploy.Options, files []deploy.File) {
		all := ""
		for _, file := range files {
			all += file.Text
			if aKey.MatchString(file.Text) {
				t.Errorf("%s holds a key", file.Path)
			}
			if strings.Contains(file.Text, "<no value>") || strings.Contains(file.Text, "[[") && f.Name != "nixos" && f.Name != "compose" {
				t.Errorf("%s: a template is left: %s", file.Path, file.Text)
			}
			if strings.HasSuffix(file.Text, "\n\n") || !strings.HasSuffix(file.Text, "\n") {
				t.Errorf("%s does not end with its last line", file.Path)
			}
			for i, line := range strings.Split(file.Text, "\n") {
				if strings.TrimRight(line, " \t") != line {
					t.Errorf("%s:%d ends in spaces: %q", file.Path, i+1, line)
				}
				for _, where := range port.FindAllString(line, -1) {
					switch at := strings.Trim(where, `"',;.{}()`); {
					case strings.Contains(at, "127.0.0.1:11434"):
					case f.Name == "compose" && (at == "http://ollama:11434" || at == "0.0.0.0:11434" && strings.Contains(line, "OLLAMA_HOST")):
					case f.Name == "nixos" && strings.TrimSpace(line) == "port = 11434;":
					case f.Name == "ansible" && strings.Contains(line, "iif != lo tcp dport 11434 drop"):
					case f.Name == "ansible" && strings.Contains(line, "nobody else reaches port 11434"):
					default:
						t.Errorf("%s:%d: %s", file.Path, i+1, line)
					}
				}
			}
		}
		first := files[0].Text
		if !strings.HasPrefix(first, "#") && f.Name != "helm" {
			t.Errorf("it begins with %.60q", first)
		}
		if f.Name != "helm" && !strings.Contains(first, "Next:") {
			t.Error("it does not say what to do next")
		}
		gate := "gatehouse gate"
		if f.Name == "compose" || f.Name == "helm" {
			gate = "gate, --config"
		}
		if !strings.Contains(all, gate) {
			t.Error("no gate runs")
		}
		if o.Domain == "" && !strings.Contains(all, "self-signed") && !strings.Contains(all, "of Caddy's own authority") {
			t.Error("it does not say that the certificate is self-signed")
		}
		again, err := f.Write(o)
		if err != nil || !slices.Equal(files, again) {
			t.Errorf("the same options give something else: %v", err)
		}
	})
}

// TestYAML reads all that is YAML.
func TestYAML(t *testing.T) {
	each(t, func(t *testing.T, f deploy.Format, _ deploy.Options, files []deploy.File) {
		for _, file := range files {
			if !strings.HasSuffix(file.Path, ".yaml") || strings.Contains(file.Path, "/templates/") {
				continue
			}
			var v any
			if err := yaml.Load([]byte(file.Text), &v); err != nil {
				t.Errorf("%s: %v\n%s", file.Path, err, file.Text)
			}
		}
	})
}

// TestCompose looks at who is on which network, and at what is published.
func TestCompose(t *testing.T) {
	each(t, func(t *testing.T, f deploy.Format, o deploy.Options, files []deploy.File) {
		if f.Name != "compose" {
			return
		}
		var c struct {
			Services map[string]struct {
				Ports    []string `yaml:"ports"`
				Networks []string `yaml:"networks"`
				Cap      []string `yaml:"cap_drop"`
				Mode     string   `yaml:"network_mode"`
			} `yaml:"services"`
			Networks map[string]struct {
				Internal bool `yaml:"internal"`
			} `yaml:"networks"`
		}
		if err := yaml.Load([]byte(files[0].Text), &c); err != nil {
			t.Fatal(err)
		}
		if s := c.Services["ollama"]; len(s.Ports) > 0 || s.Mode != "" || fmt.Sprint(s.Networks) != "[inside]" || !c.Networks["inside"].Internal {
			t.Errorf("Ollama is not inside: %+v %+v", s, c.Networks)
		}
		for _, p := range c.Services["gate"].Ports {
			if !strings.HasSuffix(p, ":8443") && p != "80:8080" {
				t.Errorf("the gate publishes %s", p)
			}
		}
		if s := c.Services["pull"]; len(s.Ports) > 0 {
			t.Errorf("pull publishes %v", s.Ports)
		}
	})
}

// TestHostile holds options to what means itself in every format.
func TestHostile(t *testing.T) {
	var bad []string
	for _, core := range []string{"ai.example.org", "/etc/x.pem", "llama3.2", "registry.example.org/g:1.0", "https://f.example.org/g", "a@example.org", "0.35.1", hex64} {
		for _, in := range []string{
			"\n", "\r", "\x00", "\"", "'", "`", "$", "${x}", "$(id)", "{{.x}}", "[[.x]]", "{%", "%h", ";", "|", "&&x", " ", "\t", "\\", "<", ">", "#", "!", "*",
			"\u2028", "\u200b", "\xff", "{", "}",
		} {
			bad = append(bad, core+in, in+core, core[:3]+in+core[3:])
		}
	}
	bad = append(bad, "-x", "--help", "../x", "/a/../b", "http://f.example.org/g", "https://u:p@f.example.org/g", "https://f.example.org/a%0ab",
		"localhost", "*.example.org", "a..b.org", "-a.org", "1.2", "300.1.1.1", "0.0.0.0", "::", "fe80::1%eth0", "224.0.0.1", strings.Repeat("a", 64)+".org",
		"x:latest", "x@sha256:12", strings.ToUpper(hex64), hex64[1:], strings.Repeat("a/", 200))
	fields := map[string]func(*deploy.Options, string){
		"domain":         func(o *deploy.Options, s string) { o.Domain = s },
		"email":          func(o *deploy.Options, s string) { o.Email = s },
		"image":          func(o *deploy.Options, s string) { o.Image = s },
		"ollama-image":   func(o *deploy.Options, s string) { o.OllamaImage = s },
		"binary-url":     func(o *deploy.Options, s string) { o.BinaryURL = s },
		"sha256":         func(o *deploy.Options, s string) { o.SHA256 = s },
		"gpu":            func(o *deploy.Options, s string) { o.GPU = s },
		"models":         func(o *deploy.Options, s string) { o.Models = []string{s} },
		"ollama-version": func(o *deploy.Options, s string) { o.OllamaVersion = s },
		"cert":           func(o *deploy.Options, s string) { o.Cert = s },
		"key":            func(o *deploy.Options, s string) { o.Key = s },
		"folder":         func(o *deploy.Options, s string) { o.Folder = s },
	}
	danger := regexp.MustCompile("[\\x00-\\x20\"'`$\\\\{}\\[\\]<>;|#!*%]|[^\\x20-\\x7e]")
	for _, f := range deploy.Formats {
		for flag, set := range fields {
			if !slices.Contains(f.Takes, flag) {
				o := filled(f, deploy.Options{})
				set(&o, "x")
				if _, err := f.Write(o); err == nil {
					t.Errorf("%s takes --%s, which it has no use for", f.Name, flag)
				}
				continue
			}
			for _, value := range bad {
				o := filled(f, deploy.Options{Domain: "ai.example.org"})
				set(&o, value)
				files, err := f.Write(o)
				if err == nil {
					// What is taken, as a URL's & is, means itself; names in other scripts become ASCII.
					if danger.MatchString(value) && flag != "domain" {
						t.Errorf("%s takes --%s %q", f.Name, flag, value)
					}
					if strings.ContainsAny(value, "\n\"'`$ {}\\") || strings.Contains(files[0].Text, value) && danger.MatchString(value) {
						t.Errorf("%s takes --%s %q", f.Name, flag, value)
					}
					continue
				}
				m, ok := errors.AsType[*deploy.Mistake](err)
				if !ok || m.Hint == "" || strings.ContainsAny(err.Error(), "\n\r\x00") {
					t.Errorf("%s --%s %q: %q is not one line with a hint", f.Name, flag, value, err)
				}
			}
		}
	}
}

func TestNeeds(t *testing.T) {
	for name, want := range map[string]string{
		"cloud-init": "--binary-url", "terraform": "--binary-url", "nixos": "--sha256", "ansible": "--sha256", "helm": "--image",
	} {
		f, _ := deploy.Find(name)
		if _, err := f.Write(deploy.Options{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, ok := deploy.Find("docker"); ok {
		t.Error("docker is a format")
	}
}
