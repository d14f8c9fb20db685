package harden

import (
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// Port is Ollama's own.
const Port = 11434

// Bind is where a value of OLLAMA_HOST has Ollama listen, as it reads the value
// itself (envconfig.Host): no port, or one that is none, is 11434, or that of the
// scheme, and no host before a port is every address. Addr is not valid for a
// name other than localhost.
func Bind(host string) (addr netip.Addr, port uint16) {
	host = strings.Trim(strings.TrimSpace(host), `"'`)
	scheme, rest, ok := strings.Cut(host, "://")
	port = Port
	switch {
	case !ok:
		rest = host
	case scheme == "http":
		port = 80
	case scheme == "https":
		port = 443
	}
	rest, _, _ = strings.Cut(rest, "/")
	name, number, err := net.SplitHostPort(rest)
	if err != nil {
		name, number = strings.Trim(rest, "[]"), ""
		if name == "" {
			name = "127.0.0.1"
		}
	}
	if n, err := strconv.ParseInt(number, 10, 32); err == nil && n > 0 && n <= 65535 {
		port = uint16(n)
	}
	switch name {
	case "":
		return netip.IPv6Unspecified(), port
	case "localhost":
		return netip.AddrFrom4([4]byte{127, 0, 0, 1}), port
	}
	addr, err = netip.ParseAddr(name)
	if err != nil {
		return netip.Addr{}, port
	}
	// Go listens on both families where it is told 0.0.0.0 or ::.
	if addr = addr.Unmap().WithZone(""); addr.IsUnspecified() {
		addr = netip.IPv6Unspecified()
	}
	return addr, port
}

// doorOf is the door that a value of OLLAMA_HOST opens, and whether it is one for
// others than this machine.
func doorOf(host string) (Door, bool) {
	addr, port := Bind(host)
	return Door{Addr: addr, Port: port}, addr.IsValid() && !addr.IsLoopback()
}

// onLoopback is a value for OLLAMA_HOST with the same port, on loopback.
func onLoopback(host string) string {
	_, port := Bind(host)
	return "127.0.0.1:" + strconv.Itoa(int(port))
}

// hostMeans says what a value does.
func hostMeans(host string) string {
	d, _ := doorOf(host)
	switch {
	case !d.Addr.IsValid():
		return "Ollama listens on the address of a name"
	case d.Addr.IsUnspecified():
		return "Ollama listens on every address, IPv4 and IPv6"
	}
	return "Ollama listens on " + d.Addr.String()
}

// anyOrigin reports whether a value of OLLAMA_ORIGINS lets in pages of sites that
// nobody named. Ollama's own list has no such entry.
func anyOrigin(value string) bool {
	for o := range strings.SplitSeq(strings.Trim(strings.TrimSpace(value), `"'`), ",") {
		switch strings.TrimSpace(o) {
		case "*", "http://*", "https://*", "*://*", "http://*:*", "https://*:*":
			return true
		}
	}
	return false
}

// narrowed is a value of OLLAMA_ORIGINS without what lets everybody in.
func narrowed(value string) string {
	var kept []string
	for o := range strings.SplitSeq(strings.Trim(strings.TrimSpace(value), `"'`), ",") {
		if !anyOrigin(o) && strings.TrimSpace(o) != "" {
			kept = append(kept, strings.TrimSpace(o))
		}
	}
	return strings.Join(kept, ",")
}
