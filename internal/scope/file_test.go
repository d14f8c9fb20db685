package scope_test

import (
	"bytes"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"go4.org/netipx"

	"gatehouse/internal/scope"
)

func prefixRange(t testing.TB, s string) netipx.IPRange {
	t.Helper()
	r, err := scope.ParseRange(s)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

const whole = `# a comment
name: census
authority: order 7, signed 2026-10-01
contact: abuse@example.org
expires: 2027-01-31
include:
  - 8.8.8.0/24
  - 10.0.0.1-10.0.0.3
  - 2606:4700::1
exclude: 8.8.8.8
ports: [11434, 8080, 11434]
rate: 150.5
per_network_rate: 2
prove: true
`

func TestParse(t *testing.T) {
	s, err := scope.Parse([]byte(whole))
	if err != nil {
		t.Fatal(err)
	}
	if s.Name != "census" || s.Authority != "order 7, signed 2026-10-01" || s.Contact != "mailto:abuse@example.org" ||
		s.Rate != 150.5 || s.PerNetworkRate != 2 || !s.Prove || s.Local || len(s.Ports) != 2 || len(s.Include) != 4 {
		t.Errorf("%+v", s)
	}
	end := time.Date(2027, 1, 31, 23, 59, 59, 0, time.UTC)
	for addr, want := range map[string]error{
		"8.8.8.9": nil, "8.8.8.8": scope.ErrExcluded, "10.0.0.3": nil, "10.0.0.4": scope.ErrOutside, "2606:4700::1": nil,
	} {
		if err := s.Allows(netip.MustParseAddr(addr), end); !errors.Is(err, want) {
			t.Errorf("%s: %v", addr, err)
		}
	}
	if err := s.Allows(netip.MustParseAddr("8.8.8.9"), end.Add(time.Second)); !errors.Is(err, scope.ErrExpired) {
		t.Error(err)
	}
	s, err = scope.Parse([]byte(strings.Replace(whole, "2027-01-31", "2027-01-31T08:00:00+02:00", 1)))
	if want := time.Date(2027, 1, 31, 6, 0, 0, 0, time.UTC); err != nil || !s.Expires.Equal(want) {
		t.Error(s.Expires, err)
	}
}

func TestParseReportsAllMistakes(t *testing.T) {
	for _, tc := range []struct{ name, yaml, want string }{
		{"empty", "", "line 1: authority is missing\nline 1: contact is missing\nline 1: expires is missing\nline 1: include is missing"},
		{"many", `name: x
authority:
contact: nobody
expires: tomorrow
include: [8.8.8.0/33, host.example, {a: b}]
ports: [0, 70000, x]
rate: -1
per_network_rate: .inf
prove: yes
prove: true
owner: me
`, `line 2: authority is empty
line 3: contact "nobody" is no e-mail address and no mailto:, https: or tel: address
line 4: expires "tomorrow" is no date such as 2027-01-31 and no RFC 3339 time
line 5: "8.8.8.0/33" is no network (host names are not taken)
line 5: "host.example" is no address (host names are not taken)
line 5: a list of plain values is expected here
line 6: "0" is no port from 1 to 65535
line 6: "70000" is no port from 1 to 65535
line 6: "x" is no port from 1 to 65535
line 7: "-1" is no rate: a number of connections a second above 0
line 8: ".inf" is no rate: a number of connections a second above 0
line 9: prove is true or false, not "yes"
line 10: prove is given twice
line 11: unknown field "owner"`},
		{"list", "- 1\n", `line 1: a scope file is a list of fields such as "authority: …"`},
		{"null", strings.Replace(whole, "order 7, signed 2026-10-01", "~", 1), "line 3: authority is empty"},
		{"no YAML", "name: a\ninclude: [\n", "line 3: no YAML: did not find expected node content"},
		{"two documents", whole + "---\nname: y\n", "more than one document"},
		{"alias", strings.Replace(whole, "exclude: 8.8.8.8", "exclude: *a", 1), ""},
		{"large", strings.Repeat("#", 1<<20+1), "larger than 1048576 bytes; long lists of exclusions go into an exclude file"},
		{"nul", "authority: \x00", ""},
	} {
		_, err := scope.Parse([]byte(tc.yaml))
		if err == nil || tc.want != "" && err.Error() != tc.want {
			t.Errorf("%s: got\n%v\nwant\n%s", tc.name, err, tc.want)
		}
	}
}

func TestContact(t *testing.T) {
	for contact, want := range map[string]string{
		"a@example.org": "mailto:a@example.org", "mailto:a@example.org": "mailto:a@example.org",
		"https://example.org/abuse": "https://example.org/abuse", "tel:+49-30-1": "tel:+49-30-1",
		"http://example.org": "", "Ann <a@example.org>": "", "mailto:": "", "https:": "", "tel:": "",
		"https://u:p@example.org/": "", "javascript:alert(1)": "",
	} {
		s, err := scope.Parse([]byte(strings.Replace(whole, "abuse@example.org", "'"+contact+"'", 1)))
		if s.Contact != want || (err == nil) != (want != "") {
			t.Errorf("%q: got %q, %v", contact, s.Contact, err)
		}
	}
}

func TestTemplate(t *testing.T) {
	template := scope.Template(now)
	_, err := scope.Parse(template)
	if err == nil || strings.Count(err.Error(), "\n") != 2 {
		t.Errorf("as it stands: %v", err)
	}
	for _, f := range []struct{ blank, filled string }{
		{"\nauthority:", "\nauthority: I own these"},
		{"\ncontact:", "\ncontact: me@example.org"},
		{"#  - ", "  - "},
	} {
		if !bytes.Contains(template, []byte(f.blank)) {
			t.Fatalf("no %q to fill in", f.blank)
		}
		template = bytes.ReplaceAll(template, []byte(f.blank), []byte(f.filled))
	}
	s, err := scope.Parse(template)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Allows(netip.MustParseAddr("10.20.0.1"), now); err != nil {
		t.Error(err)
	}
	if err := s.Allows(netip.MustParseAddr("10.20.7.1"), now); !errors.Is(err, scope.ErrExcluded) {
		t.Error(err)
	}
	if err := s.Allows(netip.MustParseAddr("10.20.0.1"), now.AddDate(0, 3, 2)); !errors.Is(err, scope.ErrExpired) {
		t.Error(err)
	}
}

func TestParseRange(t *testing.T) {
	for s, want := range map[string]string{
		"10.0.0.5":                "10.0.0.5-10.0.0.5",
		"10.1.2.3/8":              "10.0.0.0-10.255.255.255",
		"10.0.0.1-50":             "10.0.0.1-10.0.0.50",
		"10.0.0.1-10.0.1.2":       "10.0.0.1-10.0.1.2",
		"::ffff:10.0.0.1":         "10.0.0.1-10.0.0.1",
		"::ffff:10.0.0.0/104":     "10.0.0.0-10.255.255.255",
		"2606::1-2606::3":         "2606::1-2606::3",
		"10.0.0.9-5":              "",
		"10.0.0.1-256":            "",
		"10.0.0.1-2606::1":        "",
		"10.0.0.1-":               "",
		"-10.0.0.1":               "",
		"2606::1-3":               "",
		"10.0.0.1-10.0.0.2-3":     "",
		"010.0.0.1":               "",
		"10.0.0.0/08":             "",
		"fe80::1%eth0":            "",
		"fe80::1%eth0-fe80::2":    "",
		"":                        "",
		"10.0.0.1/8-10.0.0.2":     "",
		"10.0.0.1-10.0.0.2/8":     "",
		"2606::/128-":             "",
		"::-::ffff:10.0.0.1":      "",
		"2606::ffff-2606::fffe":   "",
		"255.255.255.255-255":     "255.255.255.255-255.255.255.255",
		"0.0.0.0-255.255.255.255": "0.0.0.0-255.255.255.255",
	} {
		r, err := scope.ParseRange(s)
		switch {
		case want == "" && err == nil:
			t.Errorf("%q: got %s, want an error", s, r)
		case want != "" && (err != nil || r.String() != want):
			t.Errorf("%q: got %s, %v, want %s", s, r, err, want)
		}
	}
}

func TestParseBlocklist(t *testing.T) {
	got, err := scope.ParseBlocklist(strings.NewReader("\ufeff# zmap's\n0.0.0.0/8   # this network\r\n\n 9.9.9.9\n2620:fe::/48#x\n10.0.0.0-10.0.0.2"))
	if err != nil {
		t.Fatal(err)
	}
	var s []string
	for _, p := range got {
		s = append(s, p.String())
	}
	if got := strings.Join(s, " "); got != "0.0.0.0/8 9.9.9.9/32 2620:fe::/48 10.0.0.0/31 10.0.0.2/32" {
		t.Error(got)
	}

	_, err = scope.ParseBlocklist(strings.NewReader("9.9.9.9\nhost.example\n1.2.3.4/99 # x\n"))
	want := "line 2: \"host.example\" is no address (host names are not taken)\nline 3: \"1.2.3.4/99\" is no network (host names are not taken)"
	if err == nil || err.Error() != want {
		t.Errorf("got %v", err)
	}
	_, err = scope.ParseBlocklist(strings.NewReader("9.9.9.9\n" + strings.Repeat("1", 5000)))
	if err == nil || !strings.HasPrefix(err.Error(), "line 2: ") {
		t.Errorf("got %v", err)
	}
	_, err = scope.ParseBlocklist(strings.NewReader(strings.Repeat("x\n", 1000)))
	if n := strings.Count(err.Error(), "\n"); n != 19 {
		t.Errorf("%d mistakes listed", n+1)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(whole))
	f.Add(scope.Template(now))
	f.Add([]byte("a: &a [*a]\ninclude: *a\n"))
	f.Add([]byte("? {a: b}\n: c\n<<: {name: x}\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := scope.Parse(data)
		if err != nil {
			return
		}
		if s.Authority == "" || s.Contact == "" || s.Expires.IsZero() || len(s.Include) == 0 {
			t.Fatalf("incomplete, and no error: %+v", s)
		}
		for _, p := range s.Include {
			a := p.Addr()
			if err := s.Allows(a, s.Expires.Add(1)); err == nil {
				t.Fatalf("%s is allowed after expiry", a)
			}
		}
	})
}

func FuzzParseBlocklist(f *testing.F) {
	f.Add("0.0.0.0/8 # x\n9.9.9.9\n10.0.0.1-9\n")
	f.Add("::ffff:1.2.3.4/120\n")
	f.Fuzz(func(t *testing.T, s string) {
		got, err := scope.ParseBlocklist(strings.NewReader(s))
		if err != nil && got != nil {
			t.Fatal("an error and a list")
		}
		world := permitted(t, "0.0.0.0/0 ::/0", "")
		world.Exclude = got
		c := world.Checker()
		for _, p := range got {
			if !p.IsValid() || p != p.Masked() {
				t.Fatalf("%v is not in its canonical form", p)
			}
			if c.Allows(p.Addr(), now) == nil {
				t.Fatalf("%v is on the list and allowed", p)
			}
		}
	})
}
