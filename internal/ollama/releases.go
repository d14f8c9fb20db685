package ollama

import (
	"bufio"
	_ "embed"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

//go:embed releases.txt
var releasesText string

// Series is the releases of one minor series, from .0 to .Last. Some numbers
// between were never published; which is not on record.
type Series struct {
	Major, Minor int
	Last         int       // the highest patch
	First        time.Time // month of the first release
	Latest       time.Time // month of the highest patch
}

// Releases is which releases of Ollama there are, oldest series first.
type Releases struct {
	Date   time.Time // the day up to which the list is known to be complete
	Series []Series
}

// KnownReleases returns the list that is built in; it is shared, so not to be
// changed.
var KnownReleases = sync.OnceValue(func() *Releases {
	known, err := parseReleases(releasesText)
	if err != nil {
		panic(err) // the file is part of the binary, and a test reads it
	}
	return known
})

func parseReleases(text string) (*Releases, error) {
	var known Releases
	lines := bufio.NewScanner(strings.NewReader(text))
	for n := 1; lines.Scan(); n++ {
		fields := strings.Fields(lines.Text())
		var err error
		switch {
		case len(fields) == 0 || strings.HasPrefix(fields[0], "#"):
		case len(fields) == 2 && fields[0] == "as-of":
			known.Date, err = time.Parse(time.DateOnly, fields[1])
		case len(fields) == 4:
			var s Series
			s, err = parseSeries(fields)
			known.Series = append(known.Series, s)
		default:
			err = fmt.Errorf("%d fields", len(fields))
		}
		if err != nil {
			return nil, fmt.Errorf("releases, line %d: %w", n, err)
		}
	}
	if known.Date.IsZero() || len(known.Series) == 0 {
		return nil, fmt.Errorf("releases: no date or no series")
	}
	return &known, lines.Err()
}

func parseSeries(fields []string) (s Series, err error) {
	r, err := ParseRelease(fields[0] + ".0")
	if err != nil {
		return Series{}, err
	}
	s.Major, s.Minor = r.Major, r.Minor
	if s.Last, err = strconv.Atoi(fields[1]); err != nil {
		return Series{}, err
	}
	if s.First, err = time.Parse("2006-01", fields[2]); err != nil {
		return Series{}, err
	}
	s.Latest, err = time.Parse("2006-01", fields[3])
	return s, err
}

// Newest is the newest release of the list.
func (k *Releases) Newest() Release { return k.Series[len(k.Series)-1].last() }

func (s Series) last() Release { return Release{Major: s.Major, Minor: s.Minor, Patch: s.Last} }

// find returns the place of r's series, or where it would stand.
func (k *Releases) find(r Release) (int, bool) {
	return slices.BinarySearchFunc(k.Series, r, func(s Series, r Release) int {
		return Release{Major: s.Major, Minor: s.Minor}.Compare(Release{Major: r.Major, Minor: r.Minor})
	})
}

// next returns the release that was published after r's base; ok is false when
// the list knows of none.
func (k *Releases) next(r Release) (next Release, ok bool) {
	i, found := k.find(r)
	if found && r.Patch < k.Series[i].Last {
		return Release{Major: r.Major, Minor: r.Minor, Patch: r.Patch + 1}, true
	}
	if found {
		i++
	}
	if i >= len(k.Series) {
		return Release{}, false
	}
	return Release{Major: k.Series[i].Major, Minor: k.Series[i].Minor}, true
}

// Credence is whether a version can be real.
type Credence string

// What can be said of a version.
const (
	Known      Credence = "known"      // published
	Plausible  Credence = "plausible"  // newer than the list, before a release, or somebody's own build
	Impossible Credence = "impossible" // a number that was passed over and never published
)

// Existence says whether there is such a version of Ollama, by KnownReleases.
//
// Impossible is only what cannot come to be any more: a patch above the highest
// of a series that two later series have followed, or a series that was skipped.
// A string that is no version at all is Plausible, for whoever builds Ollama
// can have it call itself anything.
func Existence(version string) Credence {
	r, err := ParseRelease(version)
	if err != nil {
		return Plausible
	}
	return KnownReleases().existence(r)
}

func (k *Releases) existence(r Release) Credence {
	official := r.Pre == "" && r.After == ""
	if r.base() == (Release{}) {
		return Plausible // a build from source, under its default version
	}
	i, found := k.find(r)
	switch last := len(k.Series) - 1; {
	case found && r.Patch <= k.Series[i].Last:
		if official {
			return Known
		}
		return Plausible
	case i >= last || found && i == last-1:
		// Newer than the list, or a late patch of the series before the newest.
		return Plausible
	case r.Pre != "" && (found && r.Patch == k.Series[i].Last+1 || !found && r.Patch == 0):
		// Candidates of a release that came out under another number: what began
		// as 0.1.49-rc0 was published as 0.2.0.
		return Plausible
	}
	return Impossible
}

// Behind says how many minor series newer than version's KnownReleases has, and
// the newest release it has. A version that is no release's, such as 0.0.0, is
// not behind: its age is unknown.
func Behind(version string) (series int, newest Release) {
	known := KnownReleases()
	newest = known.Newest()
	r, err := ParseRelease(version)
	if err != nil || r.base() == (Release{}) {
		return 0, newest
	}
	i, found := known.find(r)
	if found {
		i++
	}
	return len(known.Series) - i, newest
}
