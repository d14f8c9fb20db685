package ollama

import (
	_ "embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-json-experiment/json"
)

//go:embed advisories.json
var advisoriesJSON []byte

// Advisories is a table of what is wrong with which releases, dated, because
// it is out of date the day after. The zero Advisories know of nothing.
type Advisories struct {
	Date  time.Time // of the newest record; zero when the records have none
	Items []Advisory
}

// Advisory is one known vulnerability of Ollama.
type Advisory struct {
	ID      string   // "GO-2026-5748", or the CVE where the Go database has none
	Aliases []string // other ids, CVE ids among them
	Summary string
	Fixed   string  // the version with the fix; "" when none is on record
	Score   float64 // CVSS base score; 0 when not on record

	// Windows says that only Ollama on Windows is concerned. What a server runs
	// on does not show from outside, so For never returns such a one.
	Windows bool
	// OpenAPI says that this is the API without a lock itself: true of every
	// release that answers strangers, and cured by no update.
	OpenAPI bool

	ranges []versionRange
}

// versionRange is the versions from one, included, to the first with the fix.
type versionRange struct {
	introduced Release
	fixed      Release
	open       bool // no fixed version on record
}

// openAPI is the advisory that says what this program is about.
const openAPI = "CVE-2025-63389"

// CVE returns the advisory's CVE id, "" when it has none.
func (a *Advisory) CVE() string {
	for _, id := range append([]string{a.ID}, a.Aliases...) {
		if strings.HasPrefix(id, "CVE-") {
			return id
		}
	}
	return ""
}

// Default returns the table that is built in; it is shared, so not to be changed.
var Default = sync.OnceValue(func() *Advisories {
	table, err := parseDefault(advisoriesJSON)
	if err != nil {
		panic(err) // the file is part of the binary, and a test reads it
	}
	return table
})

func parseDefault(text []byte) (*Advisories, error) {
	var file struct {
		Date       string `json:"date"`
		Source     string `json:"source"`
		Advisories []struct {
			ID      string   `json:"id"`
			Aliases []string `json:"aliases"`
			Summary string   `json:"summary"`
			Fixed   string   `json:"fixed"`
			Score   float64  `json:"score"`
			Windows bool     `json:"windows"`
		} `json:"advisories"`
	}
	if err := json.Unmarshal(text, &file, json.RejectUnknownMembers(true)); err != nil {
		return nil, fmt.Errorf("advisories: %w", err)
	}
	date, err := time.Parse(time.DateOnly, file.Date)
	if err != nil {
		return nil, fmt.Errorf("advisories: date: %w", err)
	}
	table := &Advisories{Date: date}
	for _, in := range file.Advisories {
		a := Advisory{
			ID: in.ID, Aliases: in.Aliases, Summary: in.Summary,
			Fixed: in.Fixed, Score: in.Score, Windows: in.Windows,
		}
		r := versionRange{open: in.Fixed == ""}
		if !r.open {
			if r.fixed, err = ParseRelease(in.Fixed); err != nil {
				return nil, fmt.Errorf("advisories: %s: %w", in.ID, err)
			}
		}
		a.ranges = []versionRange{r}
		a.OpenAPI = a.has(openAPI)
		table.Items = append(table.Items, a)
	}
	return table, nil
}

func (a *Advisory) has(id string) bool { return a.ID == id || slices.Contains(a.Aliases, id) }

// For sorts the advisories that concern a version into those that are fixed
// since, the version being certainly older than the fix, and those with no
// fixed version on record. The latter is as often a gap in the record as in the
// software: say "no fixed version on record", never "vulnerable".
//
// A release candidate of the version with the fix, or a build some commits
// after the release before it, may have the fix and is in neither. Of 0.0.0 and
// of a string that is no version, nothing is certain; noFix holds for them too.
func (t *Advisories) For(version string) (fixedSince, noFix []Advisory) {
	r, err := ParseRelease(version)
	dated := err == nil && r.base() != (Release{})

	// newest is the newest release whose code r can have.
	newest := r.base()
	if r.commitsAfter() {
		next, ok := KnownReleases().next(newest)
		dated = dated && ok
		newest = next
	}
	for _, a := range t.Items {
		if a.Windows {
			continue
		}
		for _, v := range a.ranges {
			if dated && r.Compare(v.introduced) < 0 {
				continue
			}
			if v.open {
				noFix = append(noFix, a)
				break
			}
			if dated && newest.Compare(v.fixed) < 0 {
				a.Fixed = v.fixed.String() // of several, the one that ends this range
				fixedSince = append(fixedSince, a)
				break
			}
		}
	}
	return fixedSince, noFix
}

// Bounds on a folder of records. The whole Go vulnerability database has about
// 10,000, of some kilobytes each.
const (
	maxOSVFiles = 100_000
	maxOSVBytes = 1 << 20
)

// modules are the names of Ollama's Go module, now and before 2024.
var modules = []string{"github.com/ollama/ollama", "github.com/jmorganca/ollama"}

// ErrNoAdvisories says that a folder has no record of Ollama.
var ErrNoAdvisories = errors.New("no advisory for " + modules[0])

// Load reads a folder of OSV records, one JSON file each, as the Go
// vulnerability database is published and as osv.dev exports it, with its
// subfolders. Records of other packages and withdrawn ones are passed over, and
// so are the database's own index folder and files not named .json. A record
// that cannot be read is an error that names its file, and so is a folder with
// no record of Ollama: it would silence every finding. What it returns stands
// instead of Default, not beside it.
func Load(fsys fs.FS) (*Advisories, error) {
	table := new(Advisories)
	files := 0
	err := fs.WalkDir(fsys, ".", func(name string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && entry.Name() == "index":
			return fs.SkipDir
		case entry.IsDir() || path.Ext(name) != ".json":
			return nil
		}
		if files++; files > maxOSVFiles {
			return fmt.Errorf("more than %d files", maxOSVFiles)
		}
		text, err := readFile(fsys, name)
		if err != nil {
			return err
		}
		record, ok, err := parseOSV(text)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if ok {
			table.Items = append(table.Items, record.Advisory)
			if record.modified.After(table.Date) {
				table.Date = record.modified
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("load advisories: %w", err)
	}
	if len(table.Items) == 0 {
		return nil, fmt.Errorf("load advisories: %w among %d files", ErrNoAdvisories, files)
	}
	return table, nil
}

func readFile(fsys fs.FS, name string) ([]byte, error) {
	f, err := fsys.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxOSVBytes+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxOSVBytes {
		return nil, fmt.Errorf("%s: more than %d bytes", name, maxOSVBytes)
	}
	return text, nil
}

type osvRecord struct {
	Advisory
	modified time.Time
}

// osvFile is the part of an OSV record, schema 1.x, that is of use here.
type osvFile struct {
	ID        string    `json:"id"`
	Modified  time.Time `json:"modified"`
	Withdrawn time.Time `json:"withdrawn"`
	Aliases   []string  `json:"aliases"`
	Summary   string    `json:"summary"`
	Affected  []struct {
		Package struct {
			Name string `json:"name"`
		} `json:"package"`
		Ranges []struct {
			Type   string     `json:"type"`
			Events []osvEvent `json:"events"`
		} `json:"ranges"`
		EcosystemSpecific struct {
			Imports []struct {
				GOOS []string `json:"goos"`
			} `json:"imports"`
		} `json:"ecosystem_specific"`
	} `json:"affected"`
}

type osvEvent struct {
	Introduced string `json:"introduced"`
	Fixed      string `json:"fixed"`
}

// parseOSV reads one record; ok is false for one that is not of Ollama, or
// withdrawn.
func parseOSV(text []byte) (record osvRecord, ok bool, err error) {
	var file osvFile
	if err := json.Unmarshal(text, &file); err != nil {
		return osvRecord{}, false, err
	}
	if file.ID == "" {
		return osvRecord{}, false, errors.New("no OSV record: it has no id")
	}
	if !file.Withdrawn.IsZero() {
		return osvRecord{}, false, nil
	}
	record = osvRecord{
		Advisory: Advisory{ID: file.ID, Aliases: file.Aliases, Summary: file.Summary, Windows: true},
		modified: file.Modified,
	}
	for _, affected := range file.Affected {
		if !slices.Contains(modules, affected.Package.Name) {
			continue
		}
		ok = true
		// It concerns Windows alone when every import does.
		imports := affected.EcosystemSpecific.Imports
		if len(imports) == 0 {
			record.Windows = false
		}
		for _, i := range imports {
			record.Windows = record.Windows && slices.Equal(i.GOOS, []string{"windows"})
		}
		for _, r := range affected.Ranges {
			if r.Type != "SEMVER" {
				continue
			}
			ranges, err := parseEvents(r.Events)
			if err != nil {
				return osvRecord{}, false, err
			}
			record.ranges = append(record.ranges, ranges...)
		}
	}
	record.Fixed = fixedIn(record.ranges)
	record.OpenAPI = record.has(openAPI)
	return record, ok, nil
}

// fixedIn returns the newest of the versions that end the ranges, "" when one
// of them never ends.
func fixedIn(ranges []versionRange) string {
	var newest Release
	for _, r := range ranges {
		if r.open {
			return ""
		}
		if r.fixed.Compare(newest) > 0 {
			newest = r.fixed
		}
	}
	if newest == (Release{}) {
		return ""
	}
	return newest.String()
}

// parseEvents turns OSV events, oldest first, into ranges: each begins where a
// bug was introduced and ends where it was fixed, or never.
func parseEvents(events []osvEvent) (ranges []versionRange, err error) {
	for _, e := range events {
		open := len(ranges) > 0 && ranges[len(ranges)-1].open
		switch {
		case e.Introduced != "" && !open:
			r := versionRange{open: true}
			if e.Introduced != "0" { // from the beginning
				if r.introduced, err = ParseRelease(e.Introduced); err != nil {
					return nil, fmt.Errorf("introduced: %w", err)
				}
			}
			ranges = append(ranges, r)
		case e.Fixed != "" && open:
			r := &ranges[len(ranges)-1]
			if r.fixed, err = ParseRelease(e.Fixed); err != nil {
				return nil, fmt.Errorf("fixed: %w", err)
			}
			r.open = false
		case e.Introduced != "" || e.Fixed != "":
			return nil, errors.New("events of a range are not introduced and fixed by turns")
		}
	}
	return ranges, nil
}
