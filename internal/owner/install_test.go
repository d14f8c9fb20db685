package owner_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/maxmind/mmdbwriter/mmdbtype"

	"gatehouse/internal/owner"
)

const ranges = "1.2.3.0,1.2.3.255,64500,Cellar Networks\n"

func squeeze(t *testing.T, text []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if _, err := z.Write(text); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// pack makes an npm package of name, text, name, text.
func pack(t *testing.T, files ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for i := 0; i < len(files); i += 2 {
		if err := w.WriteHeader(&tar.Header{Name: files[i], Mode: 0o644, Size: int64(len(files[i+1])), Typeflag: tar.TypeReg}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(files[i+1])); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return squeeze(t, b.Bytes())
}

func TestInstall(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.mmdb")
	writeMMDB(t, path, "both", 6, m{"country_code": mmdbtype.String("SE"), "asn": mmdbtype.Uint32(64500)})
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	mmdb := string(text)
	const about = `{"name":"@cellar/asn","version":"1.0.2026061719","license":"CC0-1.0"}`
	other := "1.2.3.0,1.2.3.255,666,Wrong\n"
	for _, c := range []struct {
		name  string
		bytes []byte
		what  string
		file  string // in the folder afterwards
		named string
	}{
		{"mmdb", text, "asn", "asn.mmdb", "upload"},
		{"mmdb for countries", text, "country", "country.mmdb", "upload"},
		{"mmdb, compressed", squeeze(t, text), "asn", "asn.mmdb", "upload"},
		{"csv", []byte(ranges), "asn", "asn.csv", "upload"},
		{"csv, compressed", squeeze(t, []byte(ranges)), "asn", "asn.csv", "upload"},
		{"package of an mmdb", pack(t, "package/package.json", about, "package/x-ipv4.mmdb", "half", "package/x.mmdb", mmdb, "package/x.csv", "nonsense"), "asn", "asn.mmdb", "cellar/asn"},
		{"package of csv halves", pack(t, "package/x-ipv4-num.csv", other, "package/x-ipv4.csv", strings.TrimSuffix(ranges, "\n"), "package/x-ipv6.csv", "2001:200::,2001:200::1,2500,WIDE\n", "package/package.json", about), "asn", "asn.csv", "cellar/asn"},
	} {
		dir := t.TempDir()
		upload := filepath.Join(t.TempDir(), "upload")
		if err := os.WriteFile(upload, c.bytes, 0o600); err != nil {
			t.Fatal(err)
		}
		db, err := owner.Install(t.Context(), dir, c.what, upload, nil)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if filepath.Base(db.Path) != c.file || c.named != "upload" && db.Name != c.named {
			t.Errorf("%s: %s named %q, want %s named %q", c.name, db.Path, db.Name, c.file, c.named)
		}
		if strings.HasPrefix(c.named, "cellar") && (db.Attribution != "CC0-1.0" || !strings.HasPrefix(db.Built.Format(time.DateOnly), "2026-06-")) {
			t.Errorf("%s: %+v", c.name, db.Source)
		}
		_ = db.Close()
		f, err := owner.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		if o := f.Of(t.Context(), host("1.2.3.4")); o.ASN != 64500 {
			t.Errorf("%s: %+v", c.name, o)
		}
		_ = f.Close()
		if entries, _ := os.ReadDir(dir); len(entries) != 2 {
			t.Errorf("%s: %d files are left: %v", c.name, len(entries), entries)
		}
	}
}

// TestInstallRefuses: what is wrong changes nothing of what is there.
func TestInstallRefuses(t *testing.T) {
	dir := t.TempDir()
	good := filepath.Join(t.TempDir(), "good.csv")
	if err := os.WriteFile(good, []byte(ranges), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := owner.Install(t.Context(), dir, "asn", good, nil); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "x.mmdb")
	writeMMDB(t, path, "country", 6, m{"country_code": mmdbtype.String("SE")})
	countries, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	damaged := bytes.Clone(countries)
	for i := range 200 { // of the search tree
		damaged[i] = 0xff
	}
	for _, c := range []struct {
		name  string
		bytes []byte
		want  string
	}{
		{"nothing", nil, "no ranges"},
		{"a web page", []byte("<!doctype html><title>404</title>\n"), "line 1"},
		{"half a line", []byte("1.2.3.0,1.2.3.255,64500,x\n1.2.4.0,1.2"), "line 2"},
		{"countries for networks", countries, "tells no network numbers"},
		{"a damaged tree", damaged, ""},
		{"half a gzip", squeeze(t, []byte(ranges))[:20], "EOF"},
		{"an empty package", pack(t, "package/readme.md", "hello"), "holds no .mmdb"},
		{"two databases", pack(t, "package/a.mmdb", string(countries), "package/b.mmdb", string(countries)), "more than one database"},
		{"a bad package.json", pack(t, "package/package.json", "{", "package/a.csv", ranges), "package.json"},
	} {
		upload := filepath.Join(t.TempDir(), "upload")
		if err := os.WriteFile(upload, c.bytes, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := owner.Install(t.Context(), dir, "asn", upload, nil); err == nil || !strings.Contains(err.Error(), c.want) || errors.Is(err, owner.ErrFetch) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
	for _, from := range []string{"/nonexistent", dir, "http://192.0.2.1/x", "http://localhost/x", "ftp://192.0.2.1/x"} {
		if _, err := owner.Install(t.Context(), dir, "asn", from, nil); err == nil || errors.Is(err, owner.ErrFetch) {
			t.Errorf("%s: %v", from, err)
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 2 {
		t.Errorf("%v, %v in the folder, want asn.csv and its label", entries, err)
	}
	if text, _ := os.ReadFile(filepath.Join(dir, "asn.csv")); string(text) != ranges {
		t.Errorf("asn.csv is %q", text)
	}
}

func TestInstallFetches(t *testing.T) {
	day := time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC)
	mux := http.NewServeMux()
	mux.HandleFunc("/asn.csv", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Last-Modified", day.Format(http.TimeFormat))
		fmt.Fprint(w, ranges)
	})
	mux.HandleFunc("/moved", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/asn.csv", http.StatusFound) })
	mux.HandleFunc("/out", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "http://192.0.2.1/asn.csv", http.StatusFound)
	})
	mux.HandleFunc("/circles", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/circles", http.StatusFound) })
	mux.HandleFunc("/short", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "1000")
		fmt.Fprint(w, ranges)
	})
	mux.HandleFunc("/slow", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	for path, want := range map[string]string{
		"/asn.csv": "", "/moved": "", "/none": "the server answers 404", "/out": "only https is fetched",
		"/circles": "more than 5 redirects", "/short": "unexpected EOF", "/slow": "too slow",
	} {
		ctx, cancel := context.WithTimeoutCause(t.Context(), 10*time.Second, errors.New("not at all"))
		if path == "/slow" {
			cancel()
			ctx, cancel = context.WithTimeoutCause(t.Context(), 50*time.Millisecond, errors.New("too slow"))
		}
		db, err := owner.Install(ctx, t.TempDir(), "asn", server.URL+path, nil)
		cancel()
		switch {
		case want != "":
			if err == nil || !strings.Contains(err.Error(), want) || errors.Is(err, owner.ErrFetch) == (path == "/out") {
				t.Errorf("%s: %v, want %q", path, err, want)
			}
		case err != nil:
			t.Errorf("%s: %v", path, err)
		case !db.Built.Equal(day):
			t.Errorf("%s: built %v", path, db.Built)
		}
	}
}

// TestStrayLabel: a label is not believed of a database that was exchanged.
func TestStrayLabel(t *testing.T) {
	dir := t.TempDir()
	upload := filepath.Join(t.TempDir(), "asn.tgz")
	if err := os.WriteFile(upload, pack(t, "package/package.json", `{"name":"@cellar/asn","version":"1.0.20260617","license":"CC0-1.0"}`, "package/a.csv", ranges), 0o600); err != nil {
		t.Fatal(err)
	}
	db, err := owner.Install(t.Context(), dir, "asn", upload, nil)
	if err != nil || db.Name != "cellar/asn" {
		t.Fatalf("%+v, %v", db, err)
	}
	if err := os.WriteFile(db.Path, []byte("1.2.3.0,1.2.3.255,1,x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if db, err = owner.OpenFile(db.Path); err != nil || db.Name != "asn.csv" || db.Attribution != "" {
		t.Errorf("%+v, %v", db, err)
	}
}
