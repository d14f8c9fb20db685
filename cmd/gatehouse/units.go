package main

import (
	"fmt"
	"math"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"

	"gatehouse/internal/key"
	"gatehouse/internal/ollama"
)

// span is a duration that may be given in days and weeks: 90d, 2w, 12h30m.
type span time.Duration

func (d *span) UnmarshalText(text []byte) error {
	s := string(text)
	for _, unit := range []struct {
		suffix string
		long   time.Duration
	}{{"d", 24 * time.Hour}, {"w", 7 * 24 * time.Hour}} {
		number, ok := strings.CutSuffix(s, unit.suffix)
		if !ok {
			continue
		}
		n, err := strconv.ParseFloat(number, 64)
		if err != nil || n < 0 || n*float64(unit.long) > math.MaxInt64/2 {
			return fmt.Errorf("%q is no duration, such as 90d, 12h or 30m", s)
		}
		*d = span(n * float64(unit.long))
		return nil
	}
	v, err := time.ParseDuration(s)
	if err != nil {
		return fmt.Errorf("%q is no duration, such as 90d, 12h or 30m", s)
	}
	*d = span(v)
	return nil
}

func (d span) String() string { return time.Duration(d).String() }

// count is a whole number that may be given in thousands and millions: 200k, 1.5M.
type count int64

func (c *count) UnmarshalText(text []byte) error {
	s := strings.ReplaceAll(string(text), "_", "")
	scale := 1.0
	switch {
	case strings.HasSuffix(s, "k"), strings.HasSuffix(s, "K"):
		scale, s = 1e3, s[:len(s)-1]
	case strings.HasSuffix(s, "M"), strings.HasSuffix(s, "m"):
		scale, s = 1e6, s[:len(s)-1]
	case strings.HasSuffix(s, "G"):
		scale, s = 1e9, s[:len(s)-1]
	}
	n, err := strconv.ParseFloat(s, 64)
	if err != nil || n < 0 || n*scale > 1e15 || n*scale != math.Trunc(n*scale) {
		return fmt.Errorf("%q is no whole number, such as 60, 200k or 1.5M", text)
	}
	*c = count(n * scale)
	return nil
}

// bytesOf is a size: 512, 20MB, 1GiB.
type size int64

func (b *size) UnmarshalText(text []byte) error {
	s := string(text)
	for _, unit := range []struct {
		suffix string
		scale  int64
	}{{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"KB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"k", 1e3}, {"M", 1e6}, {"G", 1e9}, {"B", 1}, {"", 1}} {
		number, ok := strings.CutSuffix(s, unit.suffix)
		if !ok {
			continue
		}
		n, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
		if err != nil || n < 0 || n*float64(unit.scale) > 1<<53 {
			break
		}
		*b = size(n * float64(unit.scale))
		return nil
	}
	return fmt.Errorf("%q is no size, such as 512KiB, 20MB or 1GiB", s)
}

// window is when a key may be used: "mon-fri 08:00-18:00 Europe/Berlin".
// Days and zone may be left out: every day, UTC.
type window key.Window

var weekdays = map[string]time.Weekday{
	"sun": time.Sunday, "mon": time.Monday, "tue": time.Tuesday, "wed": time.Wednesday,
	"thu": time.Thursday, "fri": time.Friday, "sat": time.Saturday,
}

func (w *window) UnmarshalText(text []byte) error {
	bad := fmt.Errorf("%q is no time of day, such as \"mon-fri 08:00-18:00 Europe/Berlin\"", text)
	*w = window{}
	timed := false
	for i, word := range strings.Fields(string(text)) {
		lower := strings.ToLower(word)
		switch {
		case !timed && strings.Contains(word, ":"):
			from, to, ok := strings.Cut(word, "-")
			if !ok || !clock(from, &w.From) || !clock(to, &w.To) {
				return bad
			}
			timed = true
		case i == 0 && len(lower) >= 3:
			if !w.days(lower) {
				return bad
			}
		case timed && w.Zone == "":
			if _, err := time.LoadLocation(word); err != nil || lower == "local" {
				return fmt.Errorf("%q is no time zone, such as Europe/Berlin", word)
			}
			w.Zone = word
		default:
			return bad
		}
	}
	if !timed && len(w.Days) == 0 {
		return bad
	}
	return nil
}

func clock(s string, to *time.Duration) bool {
	if s == "24:00" {
		*to = 24 * time.Hour
		return true
	}
	t, err := time.Parse("15:04", s)
	*to = time.Duration(t.Hour())*time.Hour + time.Duration(t.Minute())*time.Minute
	return err == nil
}

func (w *window) days(s string) bool {
	for part := range strings.SplitSeq(s, ",") {
		first, last, isRange := strings.Cut(part, "-")
		from, ok := weekdays[first]
		if !ok {
			return false
		}
		to := from
		if isRange {
			if to, ok = weekdays[last]; !ok {
				return false
			}
		}
		for d := from; ; d = (d + 1) % 7 {
			w.Days = append(w.Days, d)
			if d == to {
				break
			}
		}
	}
	return true
}

// source is an address or a network.
type source netip.Prefix

func (s *source) UnmarshalText(text []byte) error {
	if a, err := netip.ParseAddr(string(text)); err == nil {
		*s = source(netip.PrefixFrom(a, a.BitLen()))
		return nil
	}
	p, err := netip.ParsePrefix(string(text))
	if err != nil {
		return fmt.Errorf("%q is no address or network, such as 192.168.1.0/24", text)
	}
	*s = source(p.Masked())
	return nil
}

// power is one of Ollama's powers, by name.
type power ollama.Power

func (p *power) UnmarshalText(text []byte) error {
	for _, known := range ollama.Powers {
		if string(known) == string(text) {
			*p = power(known)
			return nil
		}
	}
	return fmt.Errorf("%q is no power: hello, read, infer, manage or account", text)
}

// The yaml package asks for this where a text is not enough: it gives numbers
// and durations as they stand in the file, and the line for the complaint.
func scalar(n *yaml.Node, to interface{ UnmarshalText([]byte) error }) error {
	if n.Kind != yaml.ScalarNode {
		return fmt.Errorf("one value is expected here")
	}
	return to.UnmarshalText([]byte(n.Value))
}

func (d *span) UnmarshalYAML(n *yaml.Node) error   { return scalar(n, d) }
func (c *count) UnmarshalYAML(n *yaml.Node) error  { return scalar(n, c) }
func (b *size) UnmarshalYAML(n *yaml.Node) error   { return scalar(n, b) }
func (w *window) UnmarshalYAML(n *yaml.Node) error { return scalar(n, w) }
func (s *source) UnmarshalYAML(n *yaml.Node) error { return scalar(n, s) }
func (p *power) UnmarshalYAML(n *yaml.Node) error  { return scalar(n, p) }

// Allowance is what a key, or an identity of another kind, may do: the flags of
// `gatehouse key add` and the entries under policies: in gatehouse.yaml.
type Allowance struct {
	Power   []power  `yaml:"powers" help:"What it may do: hello, read, infer, manage, account. Each by name." default:"hello,read,infer" placeholder:"POWER,…"`
	Models  []string `yaml:"models" help:"Which models: names or globs such as 'llama3.2:*'." default:"*" placeholder:"GLOB,…"`
	Sources []source `yaml:"sources" help:"Where it may be used from (default: anywhere)." placeholder:"CIDR,…"`
	Hours   []window `yaml:"hours" help:"When it may be used, such as 'mon-fri 08:00-18:00 Europe/Berlin' (default: always). Repeatable." placeholder:"WHEN" sep:"none"`

	RPM          count `yaml:"rpm" help:"Requests a minute." placeholder:"N"`
	TokensMinute count `yaml:"tokens_minute" help:"Tokens a minute, of prompts and answers." placeholder:"N"`
	TokensDay    count `yaml:"tokens_day" help:"Tokens a UTC day, of prompts and answers." placeholder:"N"`
	Streams      int   `yaml:"streams" help:"Requests at the same time." placeholder:"N"`
	Weight       int   `yaml:"weight" help:"Share of a busy server, beside the other keys' (default 1)." placeholder:"N"`

	NumCtx       count `yaml:"num_ctx" help:"Cap on the context of a request, in tokens." placeholder:"N"`
	MaxTokens    count `yaml:"max_tokens" help:"Cap on an answer, in tokens." placeholder:"N"`
	KeepAlive    span  `yaml:"keep_alive" help:"Cap on how long a model stays loaded after." placeholder:"TIME"`
	Images       *int  `yaml:"images" help:"Cap on images in a request; 0 allows none." placeholder:"N"`
	RequestBytes size  `yaml:"request_bytes" help:"Cap on a request's length." placeholder:"SIZE"`
	Strict       bool  `yaml:"strict" help:"Refuse what passes a cap, instead of clamping it."`
}

// terms are the allowance as the rooms know it.
func (a *Allowance) terms() (key.Terms, error) {
	if a.Streams < 0 || a.Weight < 0 || a.Images != nil && *a.Images < 0 {
		return key.Terms{}, fmt.Errorf("streams, weight and images cannot be negative")
	}
	t := key.Terms{
		Models: a.Models,
		Caps: key.Caps{
			NumCtx: int64(a.NumCtx), MaxTokens: int64(a.MaxTokens),
			KeepAlive: time.Duration(a.KeepAlive), RequestBytes: int64(a.RequestBytes),
		},
		Limits: key.Limits{
			PerMinute: int64(a.RPM), TokensMinute: int64(a.TokensMinute), TokensDay: int64(a.TokensDay),
			Streams: a.Streams, Weight: a.Weight,
		},
		Strict: a.Strict,
	}
	if a.Images != nil {
		if t.Caps.Images = *a.Images; t.Caps.Images == 0 {
			t.Caps.Images = -1
		}
	}
	for _, p := range a.Power {
		t.Powers = append(t.Powers, ollama.Power(p))
	}
	for _, s := range a.Sources {
		t.Sources = append(t.Sources, netip.Prefix(s))
	}
	for _, h := range a.Hours {
		t.Hours = append(t.Hours, key.Window(h))
	}
	return t, nil
}
