// Package owner says who probably runs a host. It never asks the host itself,
// and never makes one truth of what its sources say: each claim stands with its
// source and how far to trust it.
package owner

import (
	"cmp"
	"context"
	"errors"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"gatehouse/internal/evidence"
)

// Owner is who probably runs a host; the zero value says that nobody looked.
// The fields before Claims are the most trusted claim of each kind.
type Owner struct {
	Country  string  `json:"country"` // ISO 3166-1 alpha-2
	EU       bool    `json:"eu"`      // a member on the day of the observation
	ASN      uint32  `json:"asn"`
	Network  string  `json:"network"`  // the name of the ASN
	Provider string  `json:"provider"` // "Hetzner", "OVH", …
	Name     string  `json:"name"`
	Contact  string  `json:"contact"` // where abuse is reported
	Claims   []Claim `json:"claims"`
}

// Claim is one statement about an owner and how far to trust it.
type Claim struct {
	What       string  `json:"what"` // "country", "network", "name", "contact", …
	Value      string  `json:"value"`
	Source     string  `json:"source"`     // with its date
	Confidence float64 `json:"confidence"` // 0 to 1
}

// What claims can be about.
const (
	Country    = "country"
	Membership = "membership" // "EU, EEA" or "EEA", by the country
	ASN        = "asn"
	Network    = "network"
	Provider   = "provider"
	Name       = "name"     // of a person, an organisation or its domain
	Hostname   = "hostname" // by reverse DNS or a certificate
	Issuer     = "issuer"   // of the certificate
	Netname    = "netname"  // of the registered block of addresses
	Contact    = "contact"
)

// How far each kind of source is trusted. The figures are judgement, not
// measurement: what counts is their order, and that a reader sees them.
const (
	routed     = 0.95 // who announces an address is there for all to see
	located    = 0.8  // country by the registry entry or geofeed of a small block
	registered = 0.6  // country where a network, which may span many, is registered
	rdapPlace  = 0.5  // country of a registry entry, often that of a head office
	vouched    = 0.7  // an authority looked at what a certificate says
	unvouched  = 0.2  // anybody can write anything into a certificate of their own
	confirmed  = 0.6  // a name that leads back to the address
	reverse    = 0.3  // a name that does not
	abuseDesk  = 0.8  // the abuse contact that the registry lists
	registrant = 0.6  // may be the provider, may be its customer
	published  = 0.7  // security.txt, which the host itself publishes
)

// Finder finds who runs a host. The zero Finder knows no database and asks
// nobody: it says what the evidence itself tells. Its fields are set once;
// after that any number of goroutines may use it.
type Finder struct {
	Databases []*Database
	Providers Providers
	Names     *Names    // reverse DNS; nil asks nobody
	Registry  *Registry // RDAP; nil asks nobody
}

// Of collects what is known about who runs the host, as of its observation. It
// waits for nothing but Names and Registry, and for them no longer than ctx.
func (f *Finder) Of(ctx context.Context, h *evidence.Host) Owner {
	claims := make([]Claim, 0, 8)
	addr := h.Address.Unmap().WithZone("")
	if global(addr) {
		for _, db := range f.Databases {
			claims = db.claims(claims, addr)
		}
		claims = f.Providers.claims(claims)
		if f.Registry != nil {
			claims = append(claims, f.Registry.claims(ctx, addr)...)
		}
	}
	claims = certificate(claims, h)
	claims = securityText(claims, h)
	if f.Names != nil {
		claims = append(claims, f.Names.claims(ctx, addr)...)
	}
	if len(claims) == 0 {
		return Owner{}
	}
	o := Owner{Claims: claims}
	o.settle(h.ObservedAt)
	return o
}

// settle fills the plain fields from the claims, and adds the membership that
// follows from the country.
func (o *Owner) settle(day time.Time) {
	best := func(what, source string) *Claim {
		var most *Claim
		for i := range o.Claims {
			c := &o.Claims[i]
			if c.What == what && (source == "" || c.Source == source) && (most == nil || c.Confidence > most.Confidence) {
				most = c
			}
		}
		return most
	}
	value := func(what string) string {
		if c := best(what, ""); c != nil {
			return c.Value
		}
		return ""
	}
	o.Provider, o.Name, o.Contact = value(Provider), value(Name), value(Contact)
	if c := best(ASN, ""); c != nil {
		n, _ := strconv.ParseUint(c.Value, 10, 32)
		o.ASN = uint32(n)
		// The name has to be that of this number, so of the same source.
		if c := best(Network, c.Source); c != nil {
			o.Network = c.Value
		}
	}
	if c := best(Country, ""); c != nil {
		o.Country, o.EU = c.Value, EU(c.Value, day)
		if bloc := blocs(c.Value, day); bloc != "" {
			o.Claims = append(o.Claims, Claim{Membership, bloc, membersSource, c.Confidence})
		}
	}
}

// Source is where claims come from, for a report to name. The claims name it
// too, in short.
type Source struct {
	Name        string    `json:"name"`
	Built       time.Time `json:"built"`
	Attribution string    `json:"attribution"` // "" when its terms are not known
	Warning     string    `json:"warning"`
}

// Sources are the sources that f goes by, sorted by name.
func (f *Finder) Sources() []Source {
	var all []Source
	for _, db := range f.Databases {
		all = append(all, db.Source)
	}
	if f.Providers.names != nil {
		all = append(all, Source{Name: "provider list", Built: f.Providers.Date})
	}
	if f.Registry != nil {
		if n := f.Registry.skipped.Load(); n > 0 {
			all = append(all, Source{Name: "RDAP", Warning: strconv.FormatUint(n, 10) + " hosts were not asked about: the turn to ask did not come in time"})
		}
	}
	slices.SortStableFunc(all, func(a, b Source) int { return cmp.Compare(a.Name, b.Name) })
	return all
}

// Close lets go of the databases. No Of may be under way.
func (f *Finder) Close() error {
	var errs []error
	for _, db := range f.Databases {
		errs = append(errs, db.Close())
	}
	return errors.Join(errs...)
}

// global reports whether an address can have one owner that the world knows of:
// those of private and special-purpose networks have none, whatever a database
// says.
func global(a netip.Addr) bool {
	if !a.IsGlobalUnicast() || a.IsPrivate() {
		return false
	}
	return !slices.ContainsFunc(nobodys, func(p netip.Prefix) bool { return p.Contains(a) })
}

// nobodys is what netip does not know of the IANA special-purpose registries.
var nobodys = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"),
	netip.MustParsePrefix("100.64.0.0/10"),
	netip.MustParsePrefix("192.0.0.0/24"),
	netip.MustParsePrefix("192.0.2.0/24"),
	netip.MustParsePrefix("198.18.0.0/15"),
	netip.MustParsePrefix("198.51.100.0/24"),
	netip.MustParsePrefix("203.0.113.0/24"),
	netip.MustParsePrefix("240.0.0.0/4"),
	netip.MustParsePrefix("::/3"), // global addresses are given out of 2000::/3
	netip.MustParsePrefix("2001:db8::/32"),
	netip.MustParsePrefix("2002::/16"),
	netip.MustParsePrefix("3fff::/20"),
	netip.MustParsePrefix("4000::/2"),
	netip.MustParsePrefix("8000::/1"),
}
