package dataset

import (
	"bytes"
	"cmp"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// Exports hold what hosts said, and are written by many programs and releases:
// a member of an odd type is passed over, and not the record with it.
var lenient = []jsontext.Options{jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true)}

func unmarshal(text []byte, to any) error {
	return json.Unmarshal(text, to, lenient[0], lenient[1])
}

// word is a text, or a number or a truth as a text; "" when it is anything else.
type word string

func (w *word) UnmarshalJSONFrom(dec *jsontext.Decoder) error {
	v, err := dec.ReadValue()
	if err != nil {
		return err
	}
	switch v.Kind() {
	case '"':
		var s string
		if unmarshal(v, &s) == nil {
			*w = word(s)
		}
	case '0', 't', 'f':
		*w = word(v)
	}
	return nil
}

// several is a list of what can be read as a T, or one of them alone. A list
// in an object of its own, as Censys has for header fields, is one too.
type several[T any] []T

func (s *several[T]) UnmarshalJSONFrom(dec *jsontext.Decoder) error {
	v, err := dec.ReadValue()
	if err != nil {
		return err
	}
	if v.Kind() != '[' {
		if one := new(T); v.Kind() != 'n' && unmarshal(v, one) == nil {
			*s = several[T]{*one}
		}
		return nil
	}
	var items []jsontext.Value
	if unmarshal(v, &items) != nil {
		return nil
	}
	for _, item := range items {
		if one := new(T); item.Kind() != 'n' && unmarshal(item, one) == nil {
			*s = append(*s, *one)
		}
	}
	return nil
}

// maybe is a T if the value can be read as one.
type maybe[T any] struct {
	T  T
	ok bool
}

func (m *maybe[T]) UnmarshalJSONFrom(dec *jsontext.Decoder) error {
	v, err := dec.ReadValue()
	if err != nil {
		return err
	}
	if v.Kind() == 'n' {
		return nil
	}
	var t T
	if unmarshal(v, &t) == nil {
		m.T, m.ok = t, true
	}
	return nil
}

// addrOf reads an address, and port a port.
func addrOf(s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(strings.TrimSpace(s))
	if err != nil || a.Zone() != "" {
		return netip.Addr{}, errNoAddr
	}
	return a, nil
}

func portOf(s string) (uint16, error) {
	n, err := strconv.ParseUint(strings.TrimSpace(s), 10, 16)
	if err != nil || n == 0 {
		return 0, errNoPort
	}
	return uint16(n), nil
}

// placeOf reads an address and a port.
func placeOf(addr, port word) (netip.Addr, uint16, error) {
	a, errA := addrOf(string(addr))
	p, errP := portOf(string(port))
	return a, p, cmp.Or(errA, errP)
}

// times are the forms in which exports say when; without a zone they are in UTC.
var times = []string{
	time.RFC3339Nano,
	"2006-01-02T15:04:05.999999999",
	"2006-01-02T15:04:05.999999999Z0700",
	"2006-01-02 15:04:05.999999999Z07:00",
	"2006-01-02 15:04:05.999999999",
	"20060102150405Z",
	"2006-01-02",
}

// timeOf reads a time, or seconds since 1970; zero when it is neither.
func timeOf(s string) time.Time {
	if s = strings.TrimSpace(s); s == "" {
		return time.Time{}
	}
	if seconds, _, _ := strings.Cut(s, "."); len(seconds) < 12 {
		if n, err := strconv.ParseInt(seconds, 10, 64); err == nil && n > 0 {
			return time.Unix(n, 0).UTC()
		}
	}
	for _, form := range times {
		if t, err := time.Parse(form, s); err == nil && t.Year() >= 1970 && t.Year() <= 9999 {
			return t.UTC()
		}
	}
	return time.Time{}
}

// number reads an autonomous system's number, with AS or without.
func number(s word) string {
	n := strings.TrimPrefix(strings.ToUpper(strings.TrimSpace(string(s))), "AS")
	if v, err := strconv.ParseUint(n, 10, 32); err != nil || v == 0 {
		return ""
	}
	return n
}

// unescape undoes \xHH and the letters that C has, as masscan and nmap write
// what is not printable.
func unescape(s string) []byte {
	if strings.IndexByte(s, '\\') < 0 {
		return []byte(s)
	}
	var out bytes.Buffer
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' || i+1 == len(s) {
			out.WriteByte(s[i])
			continue
		}
		i++
		switch s[i] {
		case 'r':
			out.WriteByte('\r')
		case 'n':
			out.WriteByte('\n')
		case 't':
			out.WriteByte('\t')
		case '0':
			out.WriteByte(0)
		case 'x':
			if i+2 < len(s) {
				if n, err := strconv.ParseUint(s[i+1:i+3], 16, 8); err == nil {
					out.WriteByte(byte(n))
					i += 2
					continue
				}
			}
			out.WriteByte('x')
		default:
			out.WriteByte(s[i])
		}
	}
	return out.Bytes()
}
