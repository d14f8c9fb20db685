package owner_test

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/maxmind/mmdbwriter"
	"github.com/maxmind/mmdbwriter/mmdbtype"

	"gatehouse/internal/evidence"
	"gatehouse/internal/owner"
)

// writeMMDB makes a database with one record for 1.2.3.0/24, and its own
// metadata as in the schemas that are in use.
func writeMMDB(t *testing.T, path, kind string, version int, record mmdbtype.Map) {
	t.Helper()
	tree, err := mmdbwriter.New(mmdbwriter.Options{DatabaseType: kind, BuildEpoch: june.Unix(), IPVersion: version, RecordSize: 24})
	if err != nil {
		t.Fatal(err)
	}
	_, network, err := net.ParseCIDR("1.2.3.0/24")
	if err != nil {
		t.Fatal(err)
	}
	if err := tree.Insert(network, record); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tree.WriteTo(f); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

type m = mmdbtype.Map

func TestSchemas(t *testing.T) {
	for _, c := range []struct {
		kind    string
		version int
		record  m
		want    owner.Owner // the plain fields
		names   string      // in its attribution
	}{
		{
			"GeoLite2-Country", 6,
			m{"country": m{"iso_code": mmdbtype.String("SE"), "names": m{"en": mmdbtype.String("Sweden")}}, "registered_country": m{"iso_code": mmdbtype.String("US")}},
			owner.Owner{Country: "SE", EU: true},
			"MaxMind",
		},
		{"GeoLite2-Country", 6, m{"registered_country": m{"iso_code": mmdbtype.String("NO")}}, owner.Owner{Country: "NO"}, "MaxMind"},
		{
			"GeoLite2-ASN", 6,
			m{"autonomous_system_number": mmdbtype.Uint32(24940), "autonomous_system_organization": mmdbtype.String("Hetzner Online GmbH")},
			owner.Owner{ASN: 24940, Network: "Hetzner Online GmbH", Provider: "Hetzner"},
			"MaxMind",
		},
		{"DBIP-Country-Lite", 6, m{"country": m{"iso_code": mmdbtype.String("GB")}}, owner.Owner{Country: "GB"}, "DB-IP"},
		{"country ipvAll", 6, m{"country_code": mmdbtype.String("HR")}, owner.Owner{Country: "HR", EU: true}, ""},
		{"country ipv4", 4, m{"country_code": mmdbtype.String("HR")}, owner.Owner{Country: "HR", EU: true}, ""},
		{
			"ipinfo bundle_location_lite.mmdb", 6,
			m{"country": mmdbtype.String("Germany"), "country_code": mmdbtype.String("DE"), "asn": mmdbtype.String("AS51167"), "as_name": mmdbtype.String("Contabo GmbH")},
			owner.Owner{Country: "DE", EU: true, ASN: 51167, Network: "Contabo GmbH", Provider: "Contabo"},
			"IPinfo",
		},
		{
			"ipinfo standard_country_asn.mmdb", 6,
			m{"country": mmdbtype.String("FR"), "country_name": mmdbtype.String("France"), "asn": mmdbtype.String("AS16276"), "as_name": mmdbtype.String("OVH SAS")},
			owner.Owner{Country: "FR", EU: true, ASN: 16276, Network: "OVH SAS", Provider: "OVH"},
			"IPinfo",
		},
		{"a region is no country", 6, m{"country_code": mmdbtype.String("EU"), "asn": mmdbtype.Uint32(1)}, owner.Owner{ASN: 1}, ""},
	} {
		dir := t.TempDir()
		writeMMDB(t, filepath.Join(dir, "x.mmdb"), c.kind, c.version, c.record)
		f, err := owner.Open(dir)
		if err != nil {
			t.Errorf("%s: %v", c.kind, err)
			continue
		}
		got := f.Of(t.Context(), host("1.2.3.4"))
		got.Claims = nil
		if !equal(got, c.want) {
			t.Errorf("%s: %+v, want %+v", c.kind, got, c.want)
		}
		for _, other := range []string{"1.2.4.4", "2a01:4f8::1"} {
			if o := f.Of(t.Context(), host(other)); len(o.Claims) > 0 {
				t.Errorf("%s: %s has %+v", c.kind, other, o)
			}
		}
		i := slices.IndexFunc(f.Sources(), func(s owner.Source) bool { return s.Name == c.kind })
		if i < 0 {
			t.Fatalf("%s is no source: %+v", c.kind, f.Sources())
		}
		s := f.Sources()[i]
		if !s.Built.Equal(june) || !strings.Contains(s.Attribution, c.names) || (c.names == "") != strings.Contains(s.Warning, "terms are not known") {
			t.Errorf("%s: %+v", c.kind, s)
		}
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	}
}

func equal(a, b owner.Owner) bool {
	return a.Country == b.Country && a.EU == b.EU && a.ASN == b.ASN && a.Network == b.Network &&
		a.Provider == b.Provider && a.Name == b.Name && a.Contact == b.Contact
}

func TestOpenMistakes(t *testing.T) {
	for name, write := range map[string]func(path string){
		"x.mmdb": func(path string) {
			writeMMDB(t, path, "cities", 6, m{"city": mmdbtype.String("Uppsala")})
		},
		"cut.mmdb": func(path string) {
			writeMMDB(t, path, "country", 6, m{"country_code": mmdbtype.String("SE")})
			text, _ := os.ReadFile(path)
			_ = os.WriteFile(path, text[100:], 0o600)
		},
		"x.csv":         func(path string) { _ = os.WriteFile(path, []byte("no,ranges,here\n"), 0o600) },
		"providers.txt": func(path string) { _ = os.WriteFile(path, []byte("date 2026-01-01\nHetzner 24940\n"), 0o600) },
	} {
		dir := t.TempDir()
		write(filepath.Join(dir, name))
		if _, err := owner.Open(dir); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := owner.Open(filepath.Join(t.TempDir(), "none")); !os.IsNotExist(err) {
		t.Error(err)
	}
}

func TestOwnProviders(t *testing.T) {
	dir := t.TempDir()
	list := "# ours\ndate 2026-10-01\nAS64500 The Cellar # of the old house\n"
	if err := os.WriteFile(filepath.Join(dir, "providers.txt"), []byte(list), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "asn.csv"), []byte("1.2.3.0,1.2.3.255,64500,Cellar Networks\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := owner.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	o := f.Of(t.Context(), host("1.2.3.4"))
	if o.Provider != "The Cellar" || o.ASN != 64500 {
		t.Errorf("%+v", o)
	}
	if i := slices.IndexFunc(o.Claims, func(c owner.Claim) bool { return c.What == owner.Provider }); o.Claims[i].Source != "provider list of 2026-10-01" {
		t.Errorf("%+v", o.Claims[i])
	}
	if f.Providers.Of(24940) != "" {
		t.Error("the list that is built in counts beside it")
	}
	for _, wrong := range []string{"24940 Hetzner\n", "date soon\n", "date 2026-01-01\n24940\n", "date 2026-01-01\n1 A\n1 B\n"} {
		if _, err := owner.ParseProviders(strings.NewReader(wrong)); err == nil {
			t.Errorf("%q is a list", wrong)
		}
	}
}

func TestMembers(t *testing.T) {
	for _, c := range []struct {
		country, day string
		eu, eea      bool
	}{
		{"GB", "1972-12-31", false, false},
		{"GB", "2020-01-31", true, true},
		{"GB", "2020-02-01", false, false},
		{"HR", "2013-06-30", false, false},
		{"HR", "2013-07-01", true, false},
		{"HR", "2014-04-12", true, true},
		{"DE", "1993-12-31", true, false},
		{"DE", "2026-11-25", true, true},
		{"NO", "2026-11-25", false, true},
		{"LI", "1995-04-30", false, false},
		{"LI", "1995-05-01", false, true},
		{"CH", "2026-11-25", false, false},
		{"RE", "2026-11-25", true, true},
		{"GL", "2026-11-25", false, false},
		{"US", "2026-11-25", false, false},
		{"", "2026-11-25", false, false},
	} {
		day, err := time.Parse(time.DateOnly, c.day)
		if err != nil {
			t.Fatal(err)
		}
		for _, at := range []time.Time{day, day.Add(24*time.Hour - time.Second)} {
			if eu, eea := owner.EU(c.country, at), owner.EEA(c.country, at); eu != c.eu || eea != c.eea {
				t.Errorf("%s at %s: EU %v, EEA %v", c.country, at, eu, eea)
			}
		}
	}
	// 27 countries, and the 7 territories with codes of their own.
	members := 0
	for a := 'A'; a <= 'Z'; a++ {
		for b := 'A'; b <= 'Z'; b++ {
			if owner.EU(string(a)+string(b), june) {
				members++
			}
		}
	}
	if members != 27+7 {
		t.Errorf("%d members today", members)
	}
}

// TestDayOfObservation: the same host in the same country, before and after.
func TestDayOfObservation(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "c.csv"), []byte("1.2.3.0,1.2.3.255,GB\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := owner.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	h := host("1.2.3.4")
	for day, want := range map[string]bool{"2019-06-01": true, "2026-06-01": false} {
		h.ObservedAt, _ = time.Parse(time.DateOnly, day)
		o := f.Of(t.Context(), h)
		member := slices.ContainsFunc(o.Claims, func(c owner.Claim) bool { return c.What == owner.Membership })
		if o.EU != want || member != want {
			t.Errorf("%s: %+v", day, o)
		}
	}
}

func TestCertificate(t *testing.T) {
	for _, c := range []struct {
		tls  evidence.TLS
		name string
		want []string // what=value@confidence
	}{
		{
			evidence.TLS{Subject: `CN=ollama.acme.de,O=Acme\, Inc.,C=DE`, Issuer: "CN=R11,O=Let's Encrypt,C=US", Names: []string{"ollama.acme.de", "Acme.de.", "*.acme.de"}},
			"Acme, Inc.",
			[]string{"name=Acme, Inc.", "hostname=ollama.acme.de", "name=acme.de", "hostname=acme.de", "hostname=*.acme.de", "issuer=CN=R11,O=Let's Encrypt,C=US"},
		},
		{evidence.TLS{Names: []string{"gpu.lab.uni.ac.uk"}}, "uni.ac.uk", []string{"hostname=gpu.lab.uni.ac.uk", "name=uni.ac.uk"}},
		{evidence.TLS{Subject: "CN=TRAEFIK DEFAULT CERT", Names: []string{"aa.bb.traefik.default", "127.0.0.1", "localhost", "box.local"}}, "", nil},
		{evidence.TLS{Subject: "O=Acme Co,CN=Kubernetes Ingress Controller Fake Certificate", Names: []string{"ingress.local"}}, "", nil},
		{evidence.TLS{Subject: "O=\x1b]0;rude\a\u202e" + strings.Repeat("x", 500), Names: []string{"a b.example.org", strings.Repeat("a.", 200) + "org", "\x1b.org", "com"}}, "]0;rude" + strings.Repeat("x", 121), []string{"name=]0;rude" + strings.Repeat("x", 121)}},
	} {
		for _, invalid := range []string{"", "self-signed"} {
			h := host("10.0.0.1")
			h.TLS = &c.tls
			h.TLS.Invalid = invalid
			o := (&owner.Finder{}).Of(t.Context(), h)
			var got []string
			for _, claim := range o.Claims {
				got = append(got, claim.What+"="+claim.Value)
				if !strings.HasPrefix(claim.Source, "certificate seen 2026-06-20") || (claim.Confidence < 0.3) != (invalid != "") {
					t.Errorf("%q: %+v", c.tls.Subject, claim)
				}
			}
			if o.Name != c.name || !slices.Equal(got, c.want) {
				t.Errorf("%q: %q, claims %q, want %q", c.tls.Subject, o.Name, got, c.want)
			}
		}
	}
	// A host with a thousand names is heard only so long.
	h := host("10.0.0.1")
	h.TLS = &evidence.TLS{}
	for i := range 1000 {
		h.TLS.Names = append(h.TLS.Names, strings.Repeat("a", i%60+1)+".x"+strings.Repeat("b", i/60+1)+".org")
	}
	if o := (&owner.Finder{}).Of(t.Context(), h); len(o.Claims) > 16 {
		t.Errorf("%d claims", len(o.Claims))
	}
}

func TestSecurityText(t *testing.T) {
	const good = "# hello\nContact: mailto:security@acme.example\nContact: https://acme.example/report\nExpires: 2027-01-01T00:00:00z\n"
	for _, c := range []struct {
		path, kind, body string
		status           int
		want             string
	}{
		{"/.well-known/security.txt", "text/plain; charset=utf-8", good, 200, "security@acme.example"},
		{"/ollama/.well-known/security.txt", "text/plain", strings.ReplaceAll(good, "\n", "\r\n"), 200, "security@acme.example"},
		{"/.well-known/security.txt", "text/plain", strings.Replace(good, "2027", "2025", 1), 200, ""},
		{"/.well-known/security.txt", "text/plain", "Contact: mailto:a@b.example\n", 200, ""},
		{"/.well-known/security.txt", "text/html", good, 200, ""},
		{"/.well-known/security.txt", "text/plain", good, 404, ""},
		{"/security", "text/plain", good, 200, ""},
		{"/.well-known/security.txt", "text/plain", "Contact: " + strings.Repeat("x", 9000) + "\nExpires: 2027-01-01T00:00:00Z\n", 200, strings.Repeat("x", 254)},
	} {
		h := host("10.0.0.1")
		h.Exchanges = []evidence.Exchange{{Path: c.path, Status: c.status, Body: []byte(c.body), Header: []evidence.Field{{Name: "content-type", Value: c.kind}}}}
		if o := (&owner.Finder{}).Of(t.Context(), h); o.Contact != c.want {
			t.Errorf("%s %s %d: %q, want %q", c.path, c.kind, c.status, o.Contact, c.want)
		}
	}
}

func TestZero(t *testing.T) {
	var f owner.Finder
	if o := f.Of(context.Background(), host("8.8.8.8")); !equal(o, owner.Owner{}) || o.Claims != nil {
		t.Errorf("%+v", o)
	}
	if s := f.Sources(); len(s) > 0 {
		t.Errorf("%+v", s)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
}
