package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/charmbracelet/x/ansi"

	"gatehouse/internal/evidence"
	"gatehouse/internal/owner"
	"gatehouse/internal/report"
)

type geoCmd struct {
	StateDir string `help:"Where the databases are kept, in its folder geo." placeholder:"DIR"`

	Update geoUpdateCmd `cmd:"" help:"Fetch the databases that tell countries and networks."`
	Show   geoShowCmd   `cmd:"" help:"Say what the databases know of addresses."`
	Status geoStatusCmd `cmd:"" help:"Which databases there are, and of which day."`
}

func (c *geoCmd) dir() (string, error) {
	dir, err := stateDir(c.StateDir)
	return filepath.Join(dir, "geo"), err
}

// open opens the databases there are; none is a mistake of the caller's.
func (c *geoCmd) open() (*owner.Finder, error) {
	dir, err := c.dir()
	if err != nil {
		return nil, err
	}
	f, err := owner.Open(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, usage(err, "gatehouse geo update replaces it")
	case len(f.Databases) > 0:
		return f, nil
	}
	return nil, usage(fmt.Errorf("no databases in %s", dir), "gatehouse geo update --country URL --asn URL fetches them")
}

type geoUpdateCmd struct {
	Country string        `help:"Database of countries: an https URL or a file." placeholder:"URL|FILE"`
	ASN     string        `name:"asn" help:"Database of network numbers: an https URL or a file." placeholder:"URL|FILE"`
	Timeout time.Duration `help:"How long it may take in all." default:"10m"`
}

func (geoUpdateCmd) Help() string {
	return `A database may be an MMDB (MaxMind's, DB-IP's, IPinfo's or ip-location-db's schema), a CSV with lines of start,end,country or start,end,number,name, either of them compressed by gzip, or an npm package (.tgz) that holds one, as ip-location-db is published. The old one stays until the new one was read to its end.

Examples:
  gatehouse geo update --country country.mmdb --asn asn.tgz
  gatehouse geo update --asn https://example.org/asn.csv.gz`
}

func (c *geoUpdateCmd) Run(ctx context.Context, s streams, parent *geoCmd) error {
	switch {
	case c.Country == "" && c.ASN == "":
		return usage(errors.New("no database is named"), "--country and --asn take an https URL or a file")
	case c.Timeout <= 0:
		return usage(errors.New("--timeout has to be above 0"), "try --timeout 10m")
	}
	dir, err := parent.dir()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		return usage(fmt.Errorf("state folder: %w", err), "name another with --state-dir")
	}
	ctx, cancel := context.WithTimeoutCause(ctx, c.Timeout, fmt.Errorf("not done in %v", c.Timeout))
	defer cancel()
	for _, d := range []struct{ what, from string }{{"country", c.Country}, {"asn", c.ASN}} {
		if d.from == "" {
			continue
		}
		db, err := owner.Install(ctx, dir, d.what, d.from, nil)
		if errors.Is(err, owner.ErrFetch) {
			return err
		}
		if err != nil {
			return usage(err, "--"+d.what+" takes an https URL or a file: .mmdb, .csv, .csv.gz or an npm package (.tgz)")
		}
		_, err = fmt.Fprintf(s.out, "%s: %s of %s\n", d.what, report.Clean(db.Name), db.Built.Format(time.DateOnly))
		if err := errors.Join(err, db.Close()); err != nil {
			return err
		}
	}
	return nil
}

type geoShowCmd struct {
	Address []string `arg:"" help:"Addresses."`
	JSON    bool     `name:"json" help:"As JSON Lines."`
}

func (c *geoShowCmd) Run(ctx context.Context, s streams, parent *geoCmd) error {
	addrs := make([]netip.Addr, len(c.Address))
	for i, text := range c.Address {
		a, err := netip.ParseAddr(text)
		if err != nil {
			return usage(fmt.Errorf("%q is no address", text), "such as: gatehouse geo show 192.0.2.1")
		}
		addrs[i] = a
	}
	f, err := parent.open()
	if err != nil {
		return err
	}
	defer f.Close()
	for _, a := range addrs {
		o := f.Of(ctx, &evidence.Host{Address: a, ObservedAt: time.Now().UTC()})
		if c.JSON {
			err = printJSON(s, struct {
				Address netip.Addr  `json:"address"`
				Owner   owner.Owner `json:"owner"`
			}{a, o})
		} else {
			err = showOwner(s, a, &o)
		}
		if err != nil {
			return err
		}
	}
	if c.JSON {
		return nil
	}
	return tellSources(s, f)
}

func showOwner(s streams, a netip.Addr, o *owner.Owner) error {
	if _, err := fmt.Fprintf(s.out, "\n %s\n", a); err != nil {
		return err
	}
	if len(o.Claims) == 0 {
		_, err := fmt.Fprintln(s.out, "  nothing is known of it")
		return err
	}
	rows := make([][]string, len(o.Claims))
	for i, c := range o.Claims {
		rows[i] = []string{c.What, c.Value, strconv.FormatFloat(c.Confidence, 'f', 2, 64), c.Source}
	}
	return report.List(s.out, []string{"WHAT", "VALUE", "TRUST", "SOURCE"}, rows, options(s.out))
}

type geoStatusCmd struct {
	JSON bool `name:"json" help:"As JSON Lines."`
}

func (c *geoStatusCmd) Run(s streams, parent *geoCmd) error {
	f, err := parent.open()
	if err != nil {
		return err
	}
	defer f.Close()
	if c.JSON {
		for _, source := range f.Sources() {
			if err := printJSON(s, source); err != nil {
				return err
			}
		}
		return nil
	}
	rows := make([][]string, 0, len(f.Databases))
	for _, d := range f.Databases {
		var tells []string
		if d.Countries {
			tells = append(tells, "countries")
		}
		if d.Networks {
			tells = append(tells, "networks")
		}
		days := int(time.Since(d.Built).Hours() / 24)
		rows = append(rows, []string{filepath.Base(d.Path), strings.Join(tells, ", "), d.Built.Format(time.DateOnly), strconv.Itoa(days) + " days", d.Name})
	}
	rows = append(rows, []string{"", "providers", f.Providers.Date.Format(time.DateOnly), strconv.Itoa(int(time.Since(f.Providers.Date).Hours()/24)) + " days", "provider list"})
	if err := report.List(s.out, []string{"FILE", "TELLS", "BUILT", "AGE", "NAME"}, rows, options(s.out)); err != nil {
		return err
	}
	return tellSources(s, f)
}

// methodOwners is what the method of a wave says of where its owners are from.
func methodOwners(f *owner.Finder) (list []string) {
	if len(f.Databases) == 0 {
		return nil
	}
	for _, source := range f.Sources() {
		text := source.Name
		if !source.Built.IsZero() {
			text += " of " + source.Built.Format(time.DateOnly)
		}
		if source.Attribution != "" {
			text += " (" + strings.TrimSuffix(source.Attribution, ".") + ")"
		}
		list = append(list, text)
	}
	return list
}

// tellSources names whoever the data is from, as their licences ask, and what is
// known to be wrong with it.
func tellSources(s streams, f *owner.Finder) error {
	var b strings.Builder
	for _, source := range f.Sources() {
		if source.Attribution == "" && source.Warning == "" {
			continue
		}
		fmt.Fprintf(&b, "\n %s", report.Clean(source.Name))
		if !source.Built.IsZero() {
			fmt.Fprintf(&b, " of %s", source.Built.Format(time.DateOnly))
		}
		b.WriteByte('\n')
		for _, says := range []struct{ what, text string }{{"data", source.Attribution}, {"mind", source.Warning}} {
			if says.text == "" {
				continue
			}
			const indent = "         "
			lines := ansi.Wrap(report.Clean(says.text), max(options(s.out).Width, 40)-len(indent), "")
			fmt.Fprintf(&b, "   %s: %s\n", says.what, strings.ReplaceAll(lines, "\n", "\n"+indent))
		}
	}
	if b.Len() > 0 && len(f.Databases) > 0 {
		b.WriteString("\n Such databases err: a country is where a block of addresses is said to be,\n not where a machine was seen.\n")
	}
	_, err := s.out.Write([]byte(b.String()))
	return err
}

// Owners are the flags about who runs a host.
type Owners struct {
	Geo  string `help:"Folder of databases that tell countries and networks (default: what gatehouse geo update fetched)." placeholder:"DIR"`
	RDNS bool   `name:"rdns" help:"Ask reverse DNS for names; your resolver learns the addresses."`
	RDAP bool   `name:"rdap" help:"Ask the registries of addresses who holds each and where abuse is reported, once a second."`

	state string // the --state-dir, whose databases are the default
}

// finder is what the flags ask for.
func (o *Owners) finder(contact string) (*owner.Finder, error) {
	dir := o.Geo
	if dir == "" {
		state, err := stateDir(o.state)
		if err == nil {
			dir = filepath.Join(state, "geo")
		}
	}
	f := &owner.Finder{}
	if dir != "" {
		opened, err := owner.Open(dir)
		switch {
		case err == nil:
			f = opened
		case o.Geo == "" && (errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR)): // the store says that of the state folder
		default:
			return nil, usage(fmt.Errorf("--geo %s: %w", dir, err), "--geo takes a folder of .mmdb and .csv files; gatehouse geo update fetches them")
		}
		if o.Geo != "" && len(f.Databases) == 0 {
			return nil, usage(fmt.Errorf("--geo %s: no database in it", dir), "--geo takes a folder of .mmdb and .csv files")
		}
	}
	if o.RDNS {
		f.Names = owner.NewNames(net.DefaultResolver, 32)
	}
	if o.RDAP {
		f.Registry = owner.NewRegistry(owner.RegistryOptions{UserAgent: userAgent(cmp.Or(contact, "no contact given"))})
	}
	return f, nil
}
