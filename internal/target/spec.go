package target

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	"go4.org/netipx"

	"gatehouse/internal/scope"
)

// maxSpec bounds one target as written, in bytes.
const maxSpec = 2048

// spec is one target as somebody wrote it, not yet resolved.
type spec struct {
	text   string
	r      netipx.IPRange // what to look at, unless a name says it
	name   string         // lower case, without the last dot
	scheme string
	path   string // "" or "/…" without the last slash
	port   uint16 // 0 where it names none
}

// named reports whether s asks for more than addresses and a port.
func (s spec) named() bool { return s.name != "" || s.scheme != "" }

// parseSpec reads one target: an address, network, range or host name, each
// with or without a port (IPv6 in brackets then), or a URL.
func parseSpec(s string) (spec, error) {
	switch {
	case s == "":
		return spec{}, errors.New("a target is empty")
	case len(s) > maxSpec:
		return spec{}, fmt.Errorf("%.40q… is too long for a target", s)
	case strings.Contains(s, "://"):
		return parseURL(s)
	}
	host, port, err := splitPort(s)
	if err != nil {
		return spec{}, err
	}
	sp := spec{text: s, port: port}
	if sp.r, err = scope.ParseRange(host); err == nil {
		return sp, nil
	}
	if strings.ContainsAny(host, "/%:") {
		if h, _, ok := strings.Cut(host, "/"); ok && validName(h) == nil {
			return spec{}, fmt.Errorf("%q has a path: write it as a URL, %q", s, "https://"+s)
		}
		return spec{}, err
	}
	if first, _, ok := strings.Cut(host, "-"); ok {
		if _, no := netip.ParseAddr(first); no == nil {
			return spec{}, err // it begins as a range does
		}
	}
	if err := validName(host); err != nil {
		return spec{}, fmt.Errorf("%q is no address, network, range, host name or URL: %w", s, err)
	}
	sp.name = canonical(host)
	return sp, nil
}

// splitPort takes the port off s: [host]:port, [host], host:port or host.
func splitPort(s string) (host string, port uint16, err error) {
	host = s
	if rest, ok := strings.CutPrefix(s, "["); ok {
		var after string
		if host, after, ok = strings.Cut(rest, "]"); !ok || after != "" && after[0] != ':' || !strings.Contains(host, ":") {
			return "", 0, fmt.Errorf("%q is no address in brackets", s)
		}
		if after == "" {
			return host, 0, nil
		}
		port, err = parsePort(after[1:])
	} else if strings.Count(s, ":") == 1 {
		var after string
		host, after, _ = strings.Cut(s, ":")
		port, err = parsePort(after)
	}
	if err != nil {
		return "", 0, fmt.Errorf("%q: %w", s, err)
	}
	return host, port, nil
}

func parsePort(s string) (uint16, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("%q is no port from 1 to 65535", s)
	}
	return uint16(n), nil
}

func parseURL(s string) (spec, error) {
	u, err := url.Parse(s)
	switch {
	case err != nil:
		return spec{}, fmt.Errorf("%q is no URL", s)
	case u.User != nil:
		// Not quoted: what stands there is somebody's password.
		return spec{}, fmt.Errorf("the URL for %q names a user: no credentials are tried", u.Host)
	case u.Scheme != "http" && u.Scheme != "https":
		return spec{}, fmt.Errorf("%q: only http and https are looked at", s)
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return spec{}, fmt.Errorf("%q: a target ends with its path", s)
	}
	sp := spec{text: s, scheme: u.Scheme, path: strings.TrimRight(u.EscapedPath(), "/"), port: 80}
	if u.Scheme == "https" {
		sp.port = 443
	}
	for part := range strings.SplitSeq(u.Path, "/") {
		if part == "." || part == ".." {
			return spec{}, fmt.Errorf("%q: a path has no %q in it", s, part)
		}
	}
	if u.Port() != "" {
		if sp.port, err = parsePort(u.Port()); err != nil {
			return spec{}, fmt.Errorf("%q: %w", s, err)
		}
	}
	host := u.Hostname()
	if a, err := netip.ParseAddr(host); err == nil {
		if a.Zone() != "" {
			return spec{}, fmt.Errorf("%q has a zone; write the address without it", s)
		}
		sp.r = netipx.IPRangeFrom(a.Unmap(), a.Unmap())
		return sp, nil
	}
	if err := validName(host); err != nil {
		return spec{}, fmt.Errorf("%q: %w", s, err)
	}
	sp.name = canonical(host)
	return sp, nil
}

func canonical(name string) string { return strings.ToLower(strings.TrimSuffix(name, ".")) }

// validName holds a host name to what RFC 1123 permits, and the underscore that
// people use. A name whose last label has no letter would be a mistyped address.
func validName(name string) error {
	name = strings.TrimSuffix(name, ".")
	if len(name) > 253 {
		return errors.New("a host name has at most 253 bytes")
	}
	letter := false
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return errors.New("not a host name")
		}
		letter = false
		for _, c := range []byte(label) {
			switch {
			case 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z':
				letter = true
			case c >= 0x80:
				return errors.New("write the host name in its ASCII form (xn--…)")
			case '0' <= c && c <= '9' || c == '-' || c == '_':
			default:
				return errors.New("not a host name")
			}
		}
	}
	if !letter {
		return errors.New("not a host name")
	}
	return nil
}
