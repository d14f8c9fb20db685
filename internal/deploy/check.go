package deploy

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/net/idna"

	"gatehouse/internal/ollama"
)

// Mistake is an option that cannot be. Flag names it, without dashes.
type Mistake struct {
	Flag string
	What string
	Hint string
}

func (m *Mistake) Error() string { return "--" + m.Flag + ": " + m.What }

// What an option may be made of. Each is text that means itself in every format:
// no quotes, spaces, braces, or signs that a shell, systemd, nginx, Terraform or
// Helm would read.
var (
	label    = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)
	mailbox  = regexp.MustCompile(`^[A-Za-z0-9](?:[A-Za-z0-9._+-]{0,62}[A-Za-z0-9])?$`)
	version  = regexp.MustCompile(`^[0-9]{1,4}\.[0-9]{1,4}\.[0-9]{1,4}(-rc[0-9]{1,3})?$`)
	image    = regexp.MustCompile(`^[a-z0-9][a-z0-9.-]*(:[0-9]{1,5}/)?[a-z0-9._/-]*(:[A-Za-z0-9_][A-Za-z0-9._-]{0,127})?(@sha256:[0-9a-f]{64})?$`)
	source   = regexp.MustCompile(`^https://[A-Za-z0-9.-]+(:[0-9]{1,5})?/[A-Za-z0-9._~/+=&?,:@-]+$`)
	digest   = regexp.MustCompile(`^[0-9a-f]{64}$`)
	filePath = regexp.MustCompile(`^/[A-Za-z0-9._/+-]+$`)
	model    = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._:/-]{0,199}$`)
)

// check completes the options, or says all that is wrong with them.
func (f Format) check(o *Options) error {
	var errs []error
	wrong := func(flag, hint, format string, a ...any) {
		errs = append(errs, &Mistake{Flag: flag, Hint: hint, What: fmt.Sprintf(format, a...)})
	}
	given := o.given()
	for _, flag := range given {
		if !slices.Contains(f.Takes, flag) {
			wrong(flag, fmt.Sprintf("%s takes %s", f.Name, flags(f.Takes)), "%s has no use for it", f.Name)
		}
	}
	for _, flag := range f.Needs {
		if !slices.Contains(given, flag) {
			wrong(flag, needs[flag], "%s needs it", f.Name)
		}
	}
	if o.Domain != "" {
		domain, err := hostName(o.Domain)
		if err != nil {
			wrong("domain", "such as --domain ai.example.org, or an address", "%.100q %v", o.Domain, err)
		}
		o.Domain = domain
	}
	if o.Email != "" {
		user, host, ok := strings.Cut(o.Email, "@")
		if domain, err := hostName(host); !ok || err != nil || domain != host || !mailbox.MatchString(user) || strings.Contains(user, "..") {
			wrong("email", "such as --email admin@example.org", "%.100q is no plain mail address", o.Email)
		}
		if o.Domain == "" {
			wrong("email", "it is for the certificate of --domain", "without a domain there is no ACME account")
		}
	}
	if o.BinaryURL != "" {
		if u, err := url.Parse(o.BinaryURL); err != nil || !source.MatchString(o.BinaryURL) || u.User != nil || len(o.BinaryURL) > 1000 {
			wrong("binary-url", "such as --binary-url https://files.example.org/gatehouse --sha256 HEX", "%.100q is no plain https URL", o.BinaryURL)
		}
	}
	if o.SHA256 != "" && !digest.MatchString(o.SHA256) {
		wrong("sha256", "what sha256sum prints", "%.100q is not 64 hexadecimal digits", o.SHA256)
	}
	checkImage := func(flag, ref string) {
		name, _, pinned := strings.Cut(ref, "@")
		_, tag, tagged := strings.Cut(name[strings.LastIndexByte(name, '/')+1:], ":")
		switch {
		case ref == "":
		case !image.MatchString(ref) || len(ref) > 255 || strings.Contains(ref, ".."):
			wrong(flag, "such as --"+flag+" registry.example.org/gatehouse:1.0", "%.100q is no image", ref)
		case !pinned && (!tagged || tag == "latest"):
			wrong(flag, "give a tag other than latest, or @sha256:…", "%s is another image tomorrow", ref)
		}
	}
	checkImage("image", o.Image)
	checkImage("ollama-image", o.OllamaImage)
	if o.OllamaVersion != "" && !version.MatchString(o.OllamaVersion) {
		wrong("ollama-version", "such as --ollama-version "+Latest(), "%.100q is no version", o.OllamaVersion)
	}
	for _, m := range o.Models {
		if !model.MatchString(m) || ollama.CanonicalName(m) == "" || strings.Contains(m, "..") {
			wrong("models", "such as --models llama3.2,nomic-embed-text", "%.100q is no model's name", m)
		}
	}
	if !slices.Contains([]string{"", "none", "nvidia", "amd"}, o.GPU) {
		wrong("gpu", "none, nvidia or amd", "%.100q is no kind of GPU known here", o.GPU)
	}
	for flag, p := range map[string]string{"cert": o.Cert, "key": o.Key, "folder": o.Folder} {
		if p != "" && (!filePath.MatchString(p) || slices.Contains(strings.Split(p, "/"), "..") || len(p) > 1000) {
			wrong(flag, "such as --"+flag+" /etc/ssl/private/gatehouse.pem", "%.100q is no plain absolute path", p)
		}
	}
	if o.SSH != 0 && o.SSH == o.Port {
		wrong("ssh-port", "give another with --port", "%d is the gate's own", o.SSH)
	}
	if o.Port == 11434 || o.Port == 9643 || o.Port == 9644 || o.Port == 80 {
		wrong("port", "443 is what clients expect", "%d is taken", o.Port)
	}
	if len(errs) > 0 {
		slices.SortFunc(errs, func(a, b error) int { return cmp.Compare(a.Error(), b.Error()) })
		return errors.Join(errs...)
	}
	o.complete(f)
	return nil
}

// needs say how to give what a format cannot do without.
var needs = map[string]string{
	"binary-url": "the machine has to get gatehouse from somewhere: --binary-url https://… --sha256 HEX, of a file of yours",
	"sha256":     "what sha256sum prints for the file at --binary-url",
	"image":      "an image of yours, whose entrypoint is gatehouse: docs/deploy.md says how to make one",
}

// complete fills in the defaults.
func (o *Options) complete(f Format) {
	fallback := uint16(8443)
	if o.Domain != "" {
		fallback = 443
	}
	switch f.Name {
	case "nginx", "caddy", "haproxy":
		fallback = 443 // beside the gate, which has 8443
	}
	o.Port = cmp.Or(o.Port, fallback)
	o.SSH = cmp.Or(o.SSH, 22)
	o.GPU = cmp.Or(o.GPU, "none")
	o.OllamaVersion = cmp.Or(o.OllamaVersion, Latest())
	if o.OllamaImage == "" {
		o.OllamaImage = "ollama/ollama:" + o.OllamaVersion
		if o.GPU == "amd" {
			o.OllamaImage += "-rocm"
		}
	}
	o.Folder = cmp.Or(o.Folder, "/etc/haproxy")
	if f.Name == "haproxy" {
		o.Cert = cmp.Or(o.Cert, "/etc/haproxy/gatehouse.pem")
	} else if o.Domain != "" {
		o.Cert = cmp.Or(o.Cert, "/etc/letsencrypt/live/"+o.Domain+"/fullchain.pem")
		o.Key = cmp.Or(o.Key, "/etc/letsencrypt/live/"+o.Domain+"/privkey.pem")
	} else {
		o.Cert = cmp.Or(o.Cert, "/etc/ssl/gatehouse/cert.pem")
		o.Key = cmp.Or(o.Key, "/etc/ssl/gatehouse/key.pem")
	}
}

// given are the flags of the options that are not zero.
func (o *Options) given() (list []string) {
	for _, f := range []struct {
		name string
		set  bool
	}{
		{"domain", o.Domain != ""},
		{"email", o.Email != ""},
		{"port", o.Port != 0},
		{"ssh-port", o.SSH != 0},
		{"image", o.Image != ""},
		{"binary-url", o.BinaryURL != ""},
		{"sha256", o.SHA256 != ""},
		{"gpu", o.GPU != ""},
		{"models", len(o.Models) > 0},
		{"ollama-version", o.OllamaVersion != ""},
		{"ollama-image", o.OllamaImage != ""},
		{"forward-auth", o.ForwardAuth},
		{"cert", o.Cert != ""},
		{"key", o.Key != ""},
		{"folder", o.Folder != ""},
	} {
		if f.set {
			list = append(list, f.name)
		}
	}
	return list
}

func flags(names []string) string { return "--" + strings.Join(names, ", --") }

// hostName is a name as DNS has it, or an address.
func hostName(s string) (string, error) {
	if a, err := netip.ParseAddr(s); err == nil {
		if a.Zone() != "" || a.IsUnspecified() || a.IsMulticast() || a.Is4In6() {
			return "", errors.New("is no address that clients can use")
		}
		return a.String(), nil
	}
	ascii, err := idna.Lookup.ToASCII(s)
	ascii = strings.ToLower(strings.TrimSuffix(ascii, "."))
	labels := strings.Split(ascii, ".")
	if err != nil || len(ascii) > 253 || len(labels) < 2 || strings.Trim(labels[len(labels)-1], "0123456789") == "" ||
		slices.ContainsFunc(labels, func(l string) bool { return !label.MatchString(l) }) {
		return "", errors.New("is no full name in DNS and no address")
	}
	return ascii, nil
}
