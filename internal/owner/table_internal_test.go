package owner

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestParseTable(t *testing.T) {
	for _, c := range []struct{ name, csv, addr, want string }{
		{"addresses", "1.0.0.0,1.0.0.255,13335,\"Cloudflare, Inc.\"\n", "1.0.0.7", "13335 Cloudflare, Inc."},
		{"the first of a range", "1.0.0.0,1.0.0.255,13335,C\n", "1.0.0.0", "13335 C"},
		{"the last of a range", "1.0.0.0,1.0.0.255,13335,C\n", "1.0.0.255", "13335 C"},
		{"after a range", "1.0.0.0,1.0.0.255,13335,C\n", "1.0.1.0", ""},
		{"before the first", "1.0.0.0,1.0.0.255,13335,C\n", "0.255.255.255", ""},
		{"numbers", "16777216,16777471,13335,C\n", "1.0.0.7", "13335 C"},
		{"IPv6", "2001:200::,2001:200:ffff:ffff:ffff:ffff:ffff:ffff,2500,WIDE\n", "2001:200:1::9", "2500 WIDE"},
		{"IPv6 numbers", "42540528726795050063891204319802818560,42540528806023212578155541913346768895,2500,WIDE\n", "2001:200:ffff:ffff:ffff:ffff:ffff:ffff", "2500 WIDE"},
		{"both families", "1.0.0.0,1.0.0.255,13335,C\n\n2001:200::,2001:200::ff,2500,WIDE\n", "2001:200::1", "2500 WIDE"},
		{"one family does not answer for the other", "16777216,16777471,13335,C\n", "::1000:7", ""},
		{"AS before the number", "1.0.0.0,1.0.0.255,AS13335,C\n", "1.0.0.7", "13335 C"},
		{"no name", "1.0.0.0,1.0.0.255,13335\n", "1.0.0.7", "13335 "},
		{"nobody's", "1.0.0.0,1.0.0.255,0,Not routed\n1.0.1.0,1.0.1.255,5,x\n", "1.0.0.7", ""},
		{"country", "1.0.0.0,1.0.0.255,au\n", "1.0.0.7", "AU"},
		{"a country of another spelling", "1.0.0.0,1.0.0.255,UK\n", "1.0.0.7", "GB"},
		{"no country", "1.0.0.0,1.0.0.255,DE\n1.0.1.0,1.0.1.255,ZZ\n", "1.0.1.7", ""},
		{"column names", "start_ip,end_ip,asn,name\n1.0.0.0,1.0.0.255,13335,C\n", "1.0.0.7", "13335 C"},
		{"out of order", "2.0.0.0,2.0.0.255,2,B\n1.0.0.0,1.0.0.255,1,A\n", "1.0.0.7", "1 A"},
		{"a range within another", "1.0.0.0,1.0.255.255,1,A\n1.0.7.0,1.0.7.255,2,B\n", "1.0.7.7", "2 B"},
		{"before it", "1.0.0.0,1.0.255.255,1,A\n1.0.7.0,1.0.7.255,2,B\n", "1.0.6.255", "1 A"},
		{"after it", "1.0.0.0,1.0.255.255,1,A\n1.0.7.0,1.0.7.255,2,B\n", "1.0.8.0", "1 A"},
		{"the last address", "255.0.0.0,255.255.255.255,1,A\n255.255.255.0,255.255.255.255,2,B\n", "255.255.255.255", "2 B"},
		{"a long, rude name", "1.0.0.0,1.0.0.255,1,\"\x1b[2J" + strings.Repeat("é", 300) + "\"\n", "1.0.0.7", "1 [2J" + strings.Repeat("é", 62)},
	} {
		tab, err := parseTable(strings.NewReader(c.csv))
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		p := tab.find(netip.MustParseAddr(c.addr))
		got := p.country
		if p.asn != 0 {
			got = fmt.Sprint(p.asn, " ", p.name)
		}
		if got != c.want {
			t.Errorf("%s: %s is %q, want %q", c.name, c.addr, got, c.want)
		}
	}
}

func TestParseTableMistakes(t *testing.T) {
	for text, want := range map[string]string{
		"":                              "no ranges",
		"1.0.0.0,1.0.0.255\n":           "line 1: want start,end",
		"1.0.0.9,1.0.0.1,5,x\n":         "line 1: \"1.0.0.9\" to \"1.0.0.1\" is no range",
		"1.0.0.0,::1,5,x\n":             "is no range",
		"1.0.0.0,1.0.0.1,5,x\n1,2,DE\n": "line 2: \"DE\" is no network number",
		"1,2,DE\n3,4,5\n":               "line 2: \"5\" is no country",
		"nonsense,1.0.0.1,5,x\n":        "\"nonsense\" is no address",
		"fe80::1%eth0,fe80::2,5,x\n":    "is no address",
		"1,340282366920938463463374607431768211456,5,x\n": "is no address",
		"1.0.0.0,1.0.0.1,4294967296,x\n":                  "is no network number",
		",,5,x\n":                                         "\"\" is no address",
	} {
		if _, err := parseTable(strings.NewReader(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

// TestFlatten compares with a table of every address, for ranges that lie in
// and across each other at random.
func TestFlatten(t *testing.T) {
	r := rand.New(rand.NewPCG(4, 2))
	for range 2000 {
		var s spans[uint32]
		const base = 1<<32 - 64 // up to the last address there is
		n := 1 + r.IntN(12)
		for v := range n {
			a, b := uint32(r.IntN(64)), uint32(r.IntN(64))
			s.add(base+min(a, b), base+max(a, b), uint32(v+1))
		}
		given := s
		s.finish(cmp.Compare[uint32], next32, prev32)
		for i := 1; i < len(s.first); i++ {
			if s.last[i-1] >= s.first[i] {
				t.Fatalf("%v still overlaps: from %v", s, given)
			}
		}
		for a := uint32(base); ; a++ {
			want, begins := uint32(0), uint32(0)
			for i := range given.first {
				if given.first[i] <= a && a <= given.last[i] && given.first[i] >= begins {
					want, begins = given.value[i], given.first[i]
				}
			}
			if got := s.find(a, cmp.Compare[uint32]); got != want {
				t.Fatalf("%d is %d, want %d: %v from %v", a-base, got, want, s, given)
			}
			if a == 1<<32-1 {
				break
			}
		}
	}
}

// TestWide: the neighbours of an address across the half of its bits.
func TestWide(t *testing.T) {
	end, after := wide{1, 1<<64 - 1}, wide{2, 0}
	if nextWide(end) != after || prevWide(after) != end {
		t.Errorf("after %v is %v, before %v is %v", end, nextWide(end), after, prevWide(after))
	}
	tab, err := parseTable(strings.NewReader("2001:db8::,2001:db8:0:1::5,1,A\n2001:db8:0:1::,2001:db8:0:1::2,2,B\n"))
	if err != nil {
		t.Fatal(err)
	}
	for addr, want := range map[string]uint32{"2001:db8::ffff:ffff:ffff:ffff": 1, "2001:db8:0:1::": 2, "2001:db8:0:1::3": 1, "2001:db8:0:1::6": 0} {
		if got := tab.find(netip.MustParseAddr(addr)).asn; got != want {
			t.Errorf("%s is %d, want %d", addr, got, want)
		}
	}
}

func TestCompressedTable(t *testing.T) {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	fmt.Fprint(z, "1.0.0.0,1.0.0.255,DE\n")
	z.Close()
	path := filepath.Join(t.TempDir(), "x.csv.gz")
	if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	d, err := OpenFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got := d.find(netip.MustParseAddr("1.0.0.1")).country; got != "DE" || !d.Countries || d.Networks {
		t.Errorf("%q, %+v", got, d)
	}
	if !strings.Contains(d.Warning, "the date is that of the file") || !strings.Contains(d.Warning, "terms are not known") {
		t.Errorf("warning %q", d.Warning)
	}
	// Half of it is no database.
	if err := os.WriteFile(path, b.Bytes()[:b.Len()-6], 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenFile(path); err == nil {
		t.Error("a file that was cut off was opened")
	}
}

// FuzzTable: whatever the file holds, what was read can be asked.
func FuzzTable(f *testing.F) {
	f.Add("1.0.0.0,1.0.0.255,13335,\"Cloudflare, Inc.\"\n", "1.0.0.7")
	f.Add("1.0.0.0,1.0.0.255,DE\n2001::,2001::1,FR\n", "2001::")
	f.Add("1,9,1,a\n2,3,2,b\n3,10,3,c\n", "0.0.0.3")
	f.Fuzz(func(t *testing.T, text, addr string) {
		tab, err := parseTable(strings.NewReader(text))
		if err != nil {
			return
		}
		for i := 1; i < len(tab.v4.first); i++ {
			if tab.v4.last[i-1] >= tab.v4.first[i] || tab.v4.first[i] > tab.v4.last[i] {
				t.Fatalf("%+v is not in order", tab.v4)
			}
		}
		for i := 1; i < len(tab.v6.first); i++ {
			if compareWide(tab.v6.last[i-1], tab.v6.first[i]) >= 0 {
				t.Fatalf("%+v is not in order", tab.v6)
			}
		}
		if a, err := netip.ParseAddr(addr); err == nil {
			p := tab.find(a.Unmap())
			if p.country != "" && country(p.country) != p.country || len(p.name) > maxName {
				t.Fatalf("%s: %+v", a, p)
			}
		}
	})
}

// FuzzRDAP: a registry, or who sits in between, may answer anything.
func FuzzRDAP(f *testing.F) {
	f.Add([]byte(`{"objectClassName":"ip network","startAddress":"192.0.2.0","endAddress":"192.0.2.255","name":"X","country":"DE",
		"entities":[{"objectClassName":"entity","roles":["registrant"],"vcardArray":["vcard",[["fn",{},"text","Acme"]]],
		"entities":[{"objectClassName":"entity","roles":["abuse"],"vcardArray":["vcard",[["email",{},"text","abuse@acme.example"]]]}]}]}`))
	f.Add([]byte(`{"objectClassName":"ip network","startAddress":"::","endAddress":"::","entities":[{"vcardArray":["vcard",[[]]]}]}`))
	f.Add([]byte(`{"errorCode":404}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		r, err := parseRDAP(text, "test")
		if err != nil {
			return
		}
		for _, c := range r.claims {
			if c.Value == "" || len(c.Value) > maxContact || c.Value != clip(c.Value, maxContact) {
				t.Fatalf("%+v", c)
			}
		}
	})
}

// FuzzAttribute: names are what a host's certificate says.
func FuzzAttribute(f *testing.F) {
	f.Add(`CN=x,O=Acme\, Inc.,C=DE`)
	f.Fuzz(func(t *testing.T, name string) {
		if v := attribute(name, "O"); len(v) > len(name) {
			t.Fatalf("%q of %q", v, name)
		}
		if h := hostname(name); h != "" && h != hostname(h) {
			t.Fatalf("%q becomes %q", h, hostname(h))
		}
	})
}
