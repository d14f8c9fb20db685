package ollama

import (
	"strings"
	"time"
)

// Lag is how far a version is behind the newest release of its time.
type Lag struct {
	Releases int // at most: some numbers were passed over, and which is not on record
	Days     int // to within a month, as the list has months
	Newest   Release
}

// LagAt says how far version was behind the newest release of KnownReleases
// that was out at a time; what is newer than that is not behind. ok is false
// for what is no release, or none that can be: its age is unknown.
//
// The time matters for old waves: a server is not to blame for releases that
// came after it was looked at.
func LagAt(version string, at time.Time) (lag Lag, ok bool) {
	r, err := ParseRelease(version)
	if err != nil || r.base() == (Release{}) {
		return Lag{}, false
	}
	known := KnownReleases()
	i, found := known.find(r)
	if known.existence(r) == Impossible || !found && i < len(known.Series) {
		return Lag{}, false
	}
	lag.Newest, ok = known.newestAt(at)
	if !ok {
		return Lag{}, false
	}
	if r.base().Compare(lag.Newest) >= 0 {
		return lag, true
	}
	for _, s := range known.Series[i:] {
		switch {
		case lag.Newest.Compare(Release{Major: s.Major, Minor: s.Minor}) < 0:
			continue // not out yet
		case s.holds(lag.Newest):
			lag.Releases += lag.Newest.Patch + 1
		default:
			lag.Releases += s.Last + 1
		}
		if s.holds(r) {
			lag.Releases -= r.Patch + 1
		}
	}
	behind := known.published(lag.Newest).Sub(known.published(r))
	lag.Days = max(0, int(behind/(24*time.Hour)))
	return lag, true
}

func (s Series) holds(r Release) bool { return s.Major == r.Major && s.Minor == r.Minor }

// published is about when the base of r came out: between the months of the
// first and the highest patch of its series, in step with its own patch. The
// series has to be listed.
func (k *Releases) published(r Release) time.Time {
	i, _ := k.find(r)
	s := k.Series[i]
	if s.Last == 0 {
		return s.First
	}
	share := float64(min(r.Patch, s.Last)) / float64(s.Last)
	return s.First.Add(time.Duration(share * float64(s.Latest.Sub(s.First))))
}

// newestAt is the highest release that was out at a time.
func (k *Releases) newestAt(at time.Time) (newest Release, ok bool) {
	for _, s := range k.Series {
		for patch := range s.Last + 1 {
			r := Release{Major: s.Major, Minor: s.Minor, Patch: patch}
			if k.published(r).After(at) {
				break
			}
			newest, ok = r, true
		}
	}
	return newest, ok
}

// NominalBits is how many bits a weight has in a quantisation by its name, 4
// for "Q4_K_M", "IQ4_XS" and "MXFP4", whatever scales and larger tensors add.
// ok is false for a name that is not known.
func NominalBits(quant string) (bits int, ok bool) {
	name, _, ok := quantBits(strings.TrimSpace(quant))
	if !ok {
		return 0, false
	}
	_, bits = cutNumber(name)
	return bits, true
}
