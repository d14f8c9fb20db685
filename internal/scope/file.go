package scope

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"math"
	"net/mail"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"
)

// maxFile bounds a scope file, in bytes.
const maxFile = 1 << 20

// Parse reads a scope file (see Template for its fields). It is strict: a field
// that is not known, or given twice, is an error. All mistakes are reported
// together, each with its line.
func Parse(data []byte) (Scope, error) {
	if len(data) > maxFile {
		return Scope{}, fmt.Errorf("larger than %d bytes; long lists of exclusions go into an exclude file", maxFile)
	}
	loader, err := yaml.NewLoader(strings.NewReader(string(data)), yaml.WithUniqueKeys(false)) // found here, with the line
	if err != nil {
		return Scope{}, err
	}
	var doc, more yaml.Node
	if err := loader.Load(&doc); err != nil && !errors.Is(err, io.EOF) {
		return Scope{}, noYAML(err)
	}
	if err := loader.Load(&more); !errors.Is(err, io.EOF) {
		return Scope{}, cmp.Or(noYAML(err), errors.New("more than one document"))
	}
	var f file
	root := &yaml.Node{Kind: yaml.MappingNode, Line: 1}
	if doc.Kind == yaml.DocumentNode && len(doc.Content) == 1 {
		root = doc.Content[0]
	}
	f.read(root)
	if len(f.mistakes) > 0 {
		slices.SortStableFunc(f.mistakes, func(a, b mistake) int { return cmp.Compare(a.line, b.line) })
		errs := make([]error, len(f.mistakes))
		for i, m := range f.mistakes {
			errs[i] = m
		}
		return Scope{}, errors.Join(errs...)
	}
	return f.scope, nil
}

// noYAML says on which line a file is no YAML, without the parser's own jargon.
func noYAML(err error) error {
	if e, ok := errors.AsType[*yaml.LoadError](err); ok {
		return mistake{e.Mark.Line, "no YAML: " + e.Message}
	}
	return err
}

// file is a scope file while it is read.
type file struct {
	scope    Scope
	mistakes []mistake
}

type mistake struct {
	line int
	text string
}

func (m mistake) Error() string { return fmt.Sprintf("line %d: %s", m.line, m.text) }

func (f *file) wrong(n *yaml.Node, format string, a ...any) {
	f.mistakes = append(f.mistakes, mistake{n.Line, fmt.Sprintf(format, a...)})
}

type field struct {
	name     string
	required bool
	read     func(f *file, v *yaml.Node)
}

var fields = []field{
	{"name", false, func(f *file, v *yaml.Node) { f.scope.Name = f.text(v) }},
	{"authority", true, func(f *file, v *yaml.Node) { f.scope.Authority = f.text(v) }},
	{"contact", true, (*file).contact},
	{"expires", true, (*file).expires},
	{"include", true, func(f *file, v *yaml.Node) { f.scope.Include = f.prefixes(v) }},
	{"exclude", false, func(f *file, v *yaml.Node) { f.scope.Exclude = f.prefixes(v) }},
	{"ports", false, (*file).ports},
	{"rate", false, func(f *file, v *yaml.Node) { f.scope.Rate = f.rate(v) }},
	{"per_network_rate", false, func(f *file, v *yaml.Node) { f.scope.PerNetworkRate = f.rate(v) }},
	{"prove", false, (*file).prove},
}

func (f *file) read(root *yaml.Node) {
	if root.Kind != yaml.MappingNode {
		f.wrong(root, "a scope file is a list of fields such as \"authority: …\"")
		return
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(root.Content); i += 2 {
		key, value := root.Content[i], root.Content[i+1]
		n := slices.IndexFunc(fields, func(d field) bool { return d.name == key.Value })
		switch {
		case n < 0 || key.Kind != yaml.ScalarNode:
			f.wrong(key, "unknown field %q", key.Value)
			continue
		case seen[key.Value]:
			f.wrong(key, "%s is given twice", key.Value)
			continue
		}
		seen[key.Value] = true
		if empty(value) {
			if fields[n].required {
				f.wrong(key, "%s is empty", key.Value)
			}
			continue
		}
		fields[n].read(f, value)
	}
	for _, d := range fields {
		if d.required && !seen[d.name] {
			f.wrong(root, "%s is missing", d.name)
		}
	}
}

func empty(v *yaml.Node) bool {
	return v.Kind != yaml.AliasNode && len(v.Content) == 0 &&
		(v.ShortTag() == "!!null" || strings.TrimSpace(v.Value) == "")
}

func (f *file) text(v *yaml.Node) string {
	if v.Kind != yaml.ScalarNode {
		f.wrong(v, "text is expected here")
		return ""
	}
	return strings.TrimSpace(v.Value)
}

func (f *file) contact(v *yaml.Node) {
	s := f.text(v)
	if a, err := mail.ParseAddress(s); err == nil && a.Address == s {
		f.scope.Contact = "mailto:" + s
		return
	}
	u, err := url.Parse(s)
	ok := err == nil
	switch {
	case !ok:
	case u.Scheme == "mailto":
		_, err = mail.ParseAddress(u.Opaque)
		ok = err == nil
	case u.Scheme == "https":
		ok = u.Hostname() != "" && u.User == nil
	default:
		ok = u.Scheme == "tel" && u.Opaque != ""
	}
	if !ok {
		f.wrong(v, "contact %q is no e-mail address and no mailto:, https: or tel: address", s)
		return
	}
	f.scope.Contact = s
}

func (f *file) expires(v *yaml.Node) {
	s := f.text(v)
	if day, err := time.Parse(time.DateOnly, s); err == nil {
		f.scope.Expires = day.Add(24*time.Hour - time.Second)
		return
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		f.wrong(v, "expires %q is no date such as 2027-01-31 and no RFC 3339 time", s)
		return
	}
	f.scope.Expires = t.UTC()
}

// items calls read with every element of a list, or with the one value.
func (f *file) items(v *yaml.Node, read func(n *yaml.Node, s string)) {
	nodes := []*yaml.Node{v}
	if v.Kind == yaml.SequenceNode {
		nodes = v.Content
	}
	for _, n := range nodes {
		if n.Kind != yaml.ScalarNode {
			f.wrong(n, "a list of plain values is expected here")
			continue
		}
		read(n, strings.TrimSpace(n.Value))
	}
}

func (f *file) prefixes(v *yaml.Node) (prefixes []netip.Prefix) {
	f.items(v, func(n *yaml.Node, s string) {
		r, err := ParseRange(s)
		if err != nil {
			f.wrong(n, "%v (host names are not taken)", err)
			return
		}
		prefixes = r.AppendPrefixes(prefixes)
	})
	return prefixes
}

func (f *file) ports(v *yaml.Node) {
	f.items(v, func(n *yaml.Node, s string) {
		port, err := strconv.ParseUint(s, 10, 16)
		switch {
		case err != nil || port == 0:
			f.wrong(n, "%q is no port from 1 to 65535", s)
		case !slices.Contains(f.scope.Ports, uint16(port)):
			f.scope.Ports = append(f.scope.Ports, uint16(port))
		}
	})
}

func (f *file) rate(v *yaml.Node) float64 {
	rate, err := strconv.ParseFloat(f.text(v), 64)
	if err != nil || !(rate > 0) || math.IsInf(rate, 0) {
		f.wrong(v, "%q is no rate: a number of connections a second above 0", v.Value)
		return 0
	}
	return rate
}

func (f *file) prove(v *yaml.Node) {
	switch v.Value {
	case "true":
		f.scope.Prove = true
	case "false":
	default:
		f.wrong(v, "prove is true or false, not %q", v.Value)
	}
}

// Template is a scope file to fill in. As it stands it permits nothing.
func Template(now time.Time) []byte {
	return fmt.Appendf(nil, template, now.UTC().AddDate(0, 3, 0).Format(time.DateOnly))
}

const template = `# What may be looked at, and by whose authority.
# Fill in authority, contact and include; the rest may stay as it is.

name: my networks

# Who permits this, and where that is written: a contract, an order, a policy,
# or the owner's own word.
authority:

# Where the owner of a host reaches you. It is sent with every request.
# An e-mail address, or a mailto:, https: or tel: address.
contact:

# After this day (UTC), or this RFC 3339 time, nothing is looked at any more.
expires: %s

# Addresses, networks and ranges. Nothing outside of them is touched.
include:
#  - 10.20.0.0/16
#  - 10.30.0.1-10.30.0.200
#  - fd00:1234::/120

# Never touched, even when included. Special-purpose networks (multicast,
# link-local, documentation and so on) never are.
exclude:
#  - 10.20.7.0/24

# Looked at where a target names no port.
ports: [11434]

# Connections a second: over everything, and to any one IPv4 /24 or IPv6 /48.
rate: 200
per_network_rate: 20

# true permits to prove what a server lets strangers do, with requests that
# carry no body and leave no trace.
prove: false
`
