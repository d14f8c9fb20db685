package owner

import (
	"bufio"
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
)

// Providers names the providers of networks by number. The zero Providers knows
// none.
type Providers struct {
	Date   time.Time
	names  map[uint32]string
	source string
}

//go:embed providers.txt
var providersText []byte

// DefaultProviders is the list that is built in.
func DefaultProviders() Providers {
	p, err := ParseProviders(bytes.NewReader(providersText))
	if err != nil {
		panic(err) // a test reads it
	}
	return p
}

// ParseProviders reads a list: "date 2026-06-17" first, then a number and a name
// on each line; # begins a comment.
func ParseProviders(r io.Reader) (Providers, error) {
	p := Providers{names: make(map[uint32]string)}
	lines := bufio.NewScanner(io.LimitReader(r, 16<<20))
	for n := 1; lines.Scan(); n++ {
		line, _, _ := strings.Cut(lines.Text(), "#")
		key, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		if key == "" {
			continue
		}
		value = clip(value, maxName)
		if key == "date" {
			day, err := time.Parse(time.DateOnly, value)
			if err != nil {
				return Providers{}, fmt.Errorf("line %d: %q is no date such as 2026-06-17", n, value)
			}
			p.Date = day
			continue
		}
		number, err := strconv.ParseUint(strings.TrimPrefix(key, "AS"), 10, 32)
		if err != nil || value == "" {
			return Providers{}, fmt.Errorf("line %d: want a network number and a name, such as 24940 Hetzner", n)
		}
		if old, ok := p.names[uint32(number)]; ok && old != value {
			return Providers{}, fmt.Errorf("line %d: %d is %s already", n, number, old)
		}
		p.names[uint32(number)] = value
	}
	if err := lines.Err(); err != nil {
		return Providers{}, err
	}
	if p.Date.IsZero() {
		return Providers{}, errors.New("no date line, such as: date 2026-06-17")
	}
	p.source = "provider list of " + p.Date.Format(time.DateOnly)
	return p, nil
}

// Of is the provider whose network has the number, "" when none is known.
func (p Providers) Of(asn uint32) string { return p.names[asn] }

// claims adds a provider for each network number that is claimed.
func (p Providers) claims(claims []Claim) []Claim {
	if len(p.names) == 0 {
		return claims
	}
	for _, c := range claims {
		if c.What != ASN {
			continue
		}
		n, _ := strconv.ParseUint(c.Value, 10, 32)
		if name := p.names[uint32(n)]; name != "" {
			claims = append(claims, Claim{Provider, name, p.source, c.Confidence})
		}
	}
	return claims
}
