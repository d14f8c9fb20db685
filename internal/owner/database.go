package owner

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/oschwald/maxminddb-golang/v2"
)

// Database tells the country or the network of addresses, from a file. Any
// number of goroutines may ask it.
type Database struct {
	Source
	Path      string
	Countries bool // it tells countries
	Networks  bool // it tells network numbers
	Count     int  // ranges that it knows; 0 when they were not counted

	trust  float64 // of a country
	credit string  // what each claim names as its source
	find   func(netip.Addr) place
	close  func() error
}

// place is what a database says of an address.
type place struct {
	country string
	asn     uint32
	name    string
}

func (d *Database) claims(claims []Claim, addr netip.Addr) []Claim {
	p := d.find(addr)
	if c := country(p.country); c != "" {
		claims = append(claims, Claim{Country, c, d.credit, d.trust})
	}
	if p.asn != 0 {
		claims = append(claims, Claim{ASN, strconv.FormatUint(uint64(p.asn), 10), d.credit, routed})
		if name := clip(p.name, maxName); name != "" {
			claims = append(claims, Claim{Network, name, d.credit, routed})
		}
	}
	return claims
}

// Close lets go of the file.
func (d *Database) Close() error { return d.close() }

// country is a code as ISO 3166-1 has it, "" for what is no country: registries
// write EU and AP for regions, and databases ZZ for nobody.
func country(code string) string {
	if len(code) != 2 {
		return ""
	}
	code = strings.ToUpper(code)
	switch code {
	case "UK":
		return "GB"
	case "EL":
		return "GR"
	case "EU", "AP", "ZZ", "XX":
		return ""
	}
	for i := range 2 {
		if code[i] < 'A' || code[i] > 'Z' {
			return ""
		}
	}
	return code
}

// label is kept beside an installed database, in a file that ends in .json: what
// the database itself does not say.
type label struct {
	Name    string    `json:"name"`
	Built   time.Time `json:"built,omitzero"`
	Licence string    `json:"licence,omitzero"`
	From    string    `json:"from"`
	Fetched time.Time `json:"fetched"`
	SHA256  string    `json:"sha256"` // of the database: a label of another is not its label
}

// Open opens every database in a folder, and the list of providers: its own
// (providers.txt), or the one that is built in.
func Open(dir string) (*Finder, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	f := &Finder{Providers: DefaultProviders()}
	for _, e := range entries {
		name, path := e.Name(), filepath.Join(dir, e.Name())
		switch {
		case strings.HasPrefix(name, "."):
		case name == "providers.txt":
			f.Providers, err = openProviders(path)
		case strings.HasSuffix(name, ".mmdb"), strings.HasSuffix(name, ".csv"), strings.HasSuffix(name, ".csv.gz"):
			var db *Database
			if db, err = OpenFile(path); err == nil {
				f.Databases = append(f.Databases, db)
			}
		}
		if err != nil {
			return nil, errors.Join(err, f.Close())
		}
	}
	return f, nil
}

func openProviders(path string) (Providers, error) {
	file, err := os.Open(path)
	if err != nil {
		return Providers{}, err
	}
	defer file.Close()
	p, err := ParseProviders(file)
	if err != nil {
		return p, fmt.Errorf("%s: %w", path, err)
	}
	return p, nil
}

// OpenFile opens one database, whatever its form: an MMDB with countries or
// network numbers in any of the usual schemas, or a CSV of ranges, which may be
// compressed by gzip. It is told by what is in it, not by its name.
func OpenFile(path string) (*Database, error) {
	d, err := openFile(path)
	if err != nil {
		return nil, fmt.Errorf("database %s: %w", path, err)
	}
	return d, nil
}

func openFile(path string) (*Database, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, cause(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, cause(err)
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("no regular file")
	}
	d := &Database{Path: path, close: func() error { return nil }}
	sum := sha256.New()
	form, err := sniff(f)
	if err != nil {
		return nil, cause(err)
	}
	if form == formMMDB {
		if _, err := io.Copy(sum, f); err != nil {
			return nil, cause(err)
		}
		err = d.openMMDB(path)
	} else {
		err = d.openTable(io.TeeReader(f, sum), form == formGzip)
		if err == nil {
			_, err = io.Copy(sum, f) // what gzip left
		}
	}
	if err != nil {
		return nil, err
	}
	d.describe(readLabel(path, hex.EncodeToString(sum.Sum(nil))), info)
	return d, nil
}

// describe says where the database comes from, as far as that is known.
func (d *Database) describe(l label, info fs.FileInfo) {
	d.Name = cmp.Or(l.Name, d.Name, filepath.Base(d.Path))
	if d.Built.IsZero() {
		d.Built = l.Built
	}
	var warnings []string
	if d.Warning != "" {
		warnings = append(warnings, d.Warning)
	}
	if d.Built.IsZero() {
		d.Built = info.ModTime().UTC()
		warnings = append(warnings, "it does not say when it was made: the date is that of the file")
	}
	var known *terms
	for i := range knownTerms {
		if t := &knownTerms[i]; strings.Contains(strings.ToLower(d.Name), t.name) {
			known = t
			break
		}
	}
	d.trust = located
	short := ""
	switch {
	case known != nil:
		d.Attribution, short = known.attribution, known.short
		if known.registered {
			d.trust = registered
		}
		if known.warning != "" {
			warnings = append(warnings, known.warning)
		}
	case l.Licence != "":
		d.Attribution, short = clip(l.Licence, maxName), clip(l.Licence, maxName)
	default:
		warnings = append(warnings, "its terms are not known: look at them before you publish what it says")
	}
	d.Warning = strings.Join(warnings, "; ")
	d.credit = d.Name + " of " + d.Built.UTC().Format(time.DateOnly)
	if short != "" {
		d.credit += " (" + short + ")"
	}
}

// terms is what is known of a database by its name.
type terms struct {
	name        string // or a part of it, in lower case; the longer before the shorter
	attribution string
	short       string
	registered  bool // its countries are those of networks
	warning     string
}

const npmEnds = "its README of June 2026 says that the data published by npm has errors, and that updates there end"

var knownTerms = []terms{
	{
		"ip-location-db/geo-whois-asn-country", "ip-location-db, CC0 1.0; with statistics of the NRO (nro.net), CC BY 4.0",
		"ip-location-db, CC0; NRO, CC BY 4.0", false, npmEnds,
	},
	{"ip-location-db/iptoasn-country", "ip-location-db and IPtoASN, PDDL 1.0", "IPtoASN, PDDL", true, npmEnds},
	{
		"ip-location-db/asn", "Route Views (routeviews.org), NRO (nro.net) and IP Geolocation by DB-IP (https://db-ip.com), by way of ip-location-db; CC BY 4.0",
		"Route Views, NRO, DB-IP.com; CC BY 4.0", true, npmEnds,
	},
	{
		"geolite2", "This product includes GeoLite Data created by MaxMind, available from https://www.maxmind.com; CC BY-SA 4.0 and the GeoLite EULA",
		"GeoLite by MaxMind", false, "",
	},
	{"geoip2", "GeoIP data by MaxMind, https://www.maxmind.com, under its EULA", "GeoIP by MaxMind", false, ""},
	{"dbip", "IP Geolocation by DB-IP, https://db-ip.com; the lite databases are CC BY 4.0", "DB-IP.com, CC BY 4.0", false, ""},
	{"ipinfo", "IP address data is powered by IPinfo, https://ipinfo.io; the free databases are CC BY-SA 4.0", "IPinfo, CC BY-SA 4.0", false, ""},
}

func readLabel(path, sum string) (l label) {
	text, err := os.ReadFile(path + ".json")
	if err != nil || json.Unmarshal(text, &l) != nil || l.SHA256 != sum {
		return label{}
	}
	l.Name = clip(l.Name, maxName)
	return l
}

// The forms that a file can have.
type form int

const (
	formText form = iota
	formGzip
	formMMDB
)

// sniff tells the form of a file, and leaves it at its beginning.
func sniff(f *os.File) (form, error) {
	var head [2]byte
	if n, _ := f.ReadAt(head[:], 0); n == 2 && head == [2]byte{0x1f, 0x8b} {
		return formGzip, nil
	}
	// The metadata of an MMDB stands in its last 128 KiB.
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return 0, err
	}
	tail := make([]byte, min(end, 128<<10))
	if _, err := f.ReadAt(tail, end-int64(len(tail))); err != nil && err != io.EOF {
		return 0, err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return 0, err
	}
	if bytes.Contains(tail, []byte("\xab\xcd\xefMaxMind.com")) {
		return formMMDB, nil
	}
	return formText, nil
}

// Where the schemas in use keep what we ask for: MaxMind and DB-IP, then
// ip-location-db and IPinfo, then older ones. registered_country is what
// MaxMind has where it cannot place an address.
var (
	countryPaths = [][]any{{"country", "iso_code"}, {"country_code"}, {"country"}, {"registered_country", "iso_code"}}
	asnPaths     = [][]any{{"autonomous_system_number"}, {"asn"}, {"as_number"}}
	namePaths    = [][]any{{"autonomous_system_organization"}, {"as_name"}, {"as_organization"}, {"name"}}
)

// maxSample is how many networks of an MMDB are looked at for its schema.
const maxSample = 4096

func (d *Database) openMMDB(path string) error {
	r, err := maxminddb.Open(path)
	if err != nil {
		return cause(err)
	}
	// Only the paths that occur are asked for later.
	var countries, asns, names [][]any
	seen := 0
	for res := range r.Networks() {
		if res.Err() != nil {
			_ = r.Close()
			return res.Err()
		}
		sample := func(from [][]any, to *[][]any, good func([]any) bool) {
			for _, p := range from {
				if !slices.ContainsFunc(*to, func(q []any) bool { return slices.Equal(p, q) }) && good(p) {
					*to = append(*to, p)
				}
			}
		}
		sample(countryPaths, &countries, func(p []any) bool { return country(text(res, p)) != "" })
		sample(asnPaths, &asns, func(p []any) bool { return number(res, p) != 0 })
		sample(namePaths, &names, func(p []any) bool { return text(res, p) != "" })
		if seen++; seen == maxSample {
			break
		}
	}
	d.Countries, d.Networks = len(countries) > 0, len(asns) > 0
	if !d.Countries && !d.Networks {
		_ = r.Close()
		return errors.New("it knows neither countries nor network numbers")
	}
	// In the order of preference, not of appearance.
	inOrder := func(all, some [][]any) (sorted [][]any) {
		for _, p := range all {
			if slices.ContainsFunc(some, func(q []any) bool { return slices.Equal(p, q) }) {
				sorted = append(sorted, p)
			}
		}
		return sorted
	}
	countries, asns, names = inOrder(countryPaths, countries), inOrder(asnPaths, asns), inOrder(namePaths, names)
	d.Name = clip(r.Metadata.DatabaseType, maxName)
	if r.Metadata.BuildEpoch > 0 {
		d.Built = r.Metadata.BuildTime().UTC()
	}
	d.close = r.Close
	d.find = func(a netip.Addr) (p place) {
		if a.Is6() && r.Metadata.IPVersion == 4 {
			return place{}
		}
		res := r.Lookup(a)
		if !res.Found() {
			return place{}
		}
		for _, path := range countries {
			if p.country = text(res, path); p.country != "" {
				break
			}
		}
		for _, path := range asns {
			if p.asn = number(res, path); p.asn != 0 {
				break
			}
		}
		if p.asn == 0 {
			return p
		}
		for _, path := range names {
			if p.name = text(res, path); p.name != "" {
				break
			}
		}
		return p
	}
	return nil
}

// text is the string at the path, "" when there is none.
func text(res maxminddb.Result, path []any) (s string) {
	if res.DecodePath(&s, path...) != nil {
		return "" // what stands there is something else
	}
	return s
}

// number is the network number at the path, as a number or as "AS24940".
func number(res maxminddb.Result, path []any) uint32 {
	var n uint32
	if res.DecodePath(&n, path...) == nil {
		return n
	}
	s := text(res, path)
	long, _ := strconv.ParseUint(strings.TrimPrefix(s, "AS"), 10, 32)
	return uint32(long)
}

// cause takes the path out of an error that is told with it.
func cause(err error) error {
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		return e.Err
	}
	return err
}
