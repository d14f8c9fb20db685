package main

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"gatehouse/internal/key"
)

// TestSampleConfig holds docs/gatehouse.yaml to the program: it is taken, names
// the defaults, and leaves out no field.
func TestSampleConfig(t *testing.T) {
	got, err := loadConfig("../../docs/gatehouse.yaml")
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile("../../docs/gatehouse.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var walk func(reflect.Type)
	seen := make(map[reflect.Type]bool)
	walk = func(at reflect.Type) {
		for at.Kind() == reflect.Pointer || at.Kind() == reflect.Slice || at.Kind() == reflect.Map {
			at = at.Elem()
		}
		if at.Kind() != reflect.Struct || seen[at] {
			return
		}
		seen[at] = true
		for i := range at.NumField() {
			f := at.Field(i)
			if name := f.Tag.Get("yaml"); name != "" {
				if !strings.Contains(string(text), name+":") {
					t.Errorf("docs/gatehouse.yaml says nothing of %s", name)
				}
				walk(f.Type)
			}
		}
	}
	walk(reflect.TypeFor[config]())

	want, err := loadConfig("")
	if err != nil {
		t.Fatal(err)
	}
	got.Policies, got.Log = nil, ""
	got.Hosts, got.Origins = nil, nil
	got.Requests = want.Requests // 0 stands for the gateway's own defaults
	if !reflect.DeepEqual(got, want) {
		t.Errorf("the sample's defaults are not the program's:\n got %+v\nwant %+v", got, want)
	}
}

// TestConfigComments: a file that says nothing is the defaults, as no file is.
func TestConfigComments(t *testing.T) {
	path := filepath.Join(t.TempDir(), "gatehouse.yaml")
	if err := os.WriteFile(path, []byte("# Every field has a default.\n\n  # This one too.\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := loadConfig(path)
	if err != nil {
		t.Fatal(err)
	}
	want, err := loadConfig("")
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v, %v", got, want, err)
	}
}

func TestConfigMistakes(t *testing.T) {
	for text, want := range map[string]string{
		"lisen: [':1']\n":                                      "line 1: unknown field lisen",
		"\nqueue:\n  lenght: 3\n":                              "line 3: unknown field lenght",
		"queue: {wait: soon}\n":                                "line 1: \"soon\" is no duration",
		"queue: {length: many}\n":                              "line 1: many is not what belongs here",
		"listen: ['8443']\n":                                   "no address with a port",
		"admin: 0.0.0.0:9643\n":                                "not a loopback address",
		"prefix: ollama/\n":                                    "no plain path",
		"origins: ['https://*.example']\n":                     "no origin",
		"tls: {mode: maybe}\n":                                 "none of self, files, acme, off",
		"tls: {mode: 'off'}\n":                                 "in the clear",
		"tls: {mode: files}\n":                                 "needs cert and key",
		"tls: {mode: acme}\n":                                  "needs names",
		"upstreams: [{url: 'ftp://x'}]\n":                      "no URL",
		"upstreams: [{url: 'http://a:b@x'}]\n":                 "no user",
		"login: {oidc: [{issuer: 'http://x.example'}]}\n":      "no https URL",
		"login: {trusted_proxy: {from: [10.0.0.1]}}\n":         "belong together",
		"login: {client_certificates: {maps: {a: b}}}\n":       "policies: does not have",
		"policies: {a: {powers: [all]}}\n":                     "\"all\" is no power",
		"policies: {a: {rpm: 1.5}}\n":                          "no whole number",
		"policies: {a: {hours: ['8-17']}}\n":                   "no time of day",
		"policies: {a: {hours: ['mon 08:00-17:00 Mars/X']}}\n": "no time zone",
		"policies: {a: {sources: [10.0.0.0/33]}}\n":            "no address or network",
		"forward_auth: {listen: '9644'}\n":                     "forward_auth: listen \"9644\" is no address with a port",
		"forward_auth: {from: [10.0.0.2]}\n":                   "without listen nobody can ask",
		"forward_auth: {cloud_off: true}\n":                    "without listen nobody can ask",
		"forward_auth: {listen: ':1', from: [0.0.0.0/0]}\n":    "from 0.0.0.0/0 is everybody",
		"forward_auth: {listen: ':1', from: ['::/0']}\n":       "from ::/0 is everybody",
		"forward_auth: {listen: ':1', from: [proxy]}\n":        "no address or network",
		"log: loud\n":                                          "neither json nor text",
		"a: b: c\n":                                            "mapping values",
	} {
		path := filepath.Join(t.TempDir(), "g.yaml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := loadConfig(path)
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), path) || strings.Contains(err.Error(), "main.") {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

func TestUnits(t *testing.T) {
	var d span
	for text, want := range map[string]time.Duration{"90d": 90 * 24 * time.Hour, "2w": 14 * 24 * time.Hour, "1h30m": 90 * time.Minute, "0.5d": 12 * time.Hour} {
		if err := d.UnmarshalText([]byte(text)); err != nil || time.Duration(d) != want {
			t.Errorf("%s: %s %v", text, d, err)
		}
	}
	var c count
	for text, want := range map[string]count{"60": 60, "200k": 200_000, "1.5M": 1_500_000, "1_000": 1000} {
		if err := c.UnmarshalText([]byte(text)); err != nil || c != want {
			t.Errorf("%s: %d %v", text, c, err)
		}
	}
	var b size
	for text, want := range map[string]size{"512": 512, "1KiB": 1024, "20MB": 20_000_000, "1GiB": 1 << 30, "1.5 MiB": 3 << 19} {
		if err := b.UnmarshalText([]byte(text)); err != nil || b != want {
			t.Errorf("%s: %d %v", text, b, err)
		}
	}
	for _, text := range []string{"mon-fri 08:00-18:00 Europe/Berlin", "sat,sun", "22:00-06:00", "fri-mon 00:00-24:00"} {
		var w, again window
		if err := w.UnmarshalText([]byte(text)); err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if err := again.UnmarshalText([]byte(w.String())); err != nil || !reflect.DeepEqual(w, again) {
			t.Errorf("%s is shown as %s, which is another: %v", text, w, err)
		}
	}
	var w window
	if err := w.UnmarshalText([]byte("fri-mon 22:00-06:00")); err != nil || len(key.Window(w).Days) != 4 {
		t.Errorf("%+v %v", w, err)
	}
	for _, text := range []string{"", "now", "-1d", "1y", "99999999999d"} {
		if d.UnmarshalText([]byte(text)) == nil {
			t.Errorf("%q is a duration", text)
		}
	}
}

func TestKeyChanges(t *testing.T) {
	now := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	make := func(name string) key.Key {
		_, k := key.Mint(now)
		k.Name = name
		return k
	}
	same, rotated, revoked, changed, removed, added := make("same"), make("rotated"), make("revoked"), make("changed"), make("removed"), make("added")
	before := map[string]key.Key{}
	for _, k := range []key.Key{same, rotated, revoked, changed, removed} {
		before[k.ID] = k
	}
	rotated.Rotate(now, time.Hour)
	revoked.Revoked = now
	changed.Terms.Strict = true
	after := map[string]key.Key{}
	for _, k := range []key.Key{same, rotated, revoked, changed, added} {
		after[k.ID] = k
	}
	var got []string
	for _, change := range keyChanges(before, after, now) {
		got = append(got, strings.Join(strings.Fields(change)[:2], " "))
	}
	want := []string{"added added", "changed changed", "removed removed", "revoked revoked", "rotated rotated"}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}
