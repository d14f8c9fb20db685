package owner

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// Limits of what others wrote, in bytes.
const (
	maxName    = 128
	maxHost    = 253 // of a DNS name
	maxContact = 254 // of a mail address
	maxHosts   = 8   // names of one certificate, or of one address
)

// clip makes one line of valid text of at most so many bytes out of whatever
// others wrote: what cannot be seen or would be obeyed is left out.
func clip(s string, most int) string {
	// The rest of a long text is not even looked at; a dropped rune takes 4 bytes.
	if len(s) > 4*most {
		s = s[:4*most]
	}
	s = strings.Map(func(r rune) rune {
		switch {
		case r == utf8.RuneError, unicode.Is(unicode.Cf, r):
			return -1
		case unicode.IsSpace(r):
			return ' '
		case !unicode.IsPrint(r):
			return -1
		}
		return r
	}, s)
	s = strings.TrimSpace(s)
	if len(s) <= most {
		return s
	}
	for most > 0 && !utf8.RuneStart(s[most]) {
		most--
	}
	return strings.TrimSpace(s[:most])
}

// hostname is the name in the form that DNS compares, "" when it is none: a host
// can put anything into a certificate, a network anything into reverse DNS.
func hostname(s string) string {
	s = strings.ToLower(strings.TrimSuffix(s, "."))
	if s == "" || len(s) > maxHost || !strings.Contains(s, ".") {
		return ""
	}
	for i, label := range strings.Split(s, ".") {
		if label == "*" && i == 0 {
			continue
		}
		if label == "" || len(label) > 63 {
			return ""
		}
		for j := range len(label) {
			if c := label[j]; c != '-' && c != '_' && (c < '0' || c > '9') && (c < 'a' || c > 'z') {
				return ""
			}
		}
	}
	return s
}
