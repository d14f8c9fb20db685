package ollama

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
)

// Release is a version of Ollama. The zero Release is 0.0.0, what a build from
// source calls itself when nobody gave it a version.
type Release struct {
	Major, Minor, Patch int
	Pre                 string // "rc3" of 0.5.0-rc3, or a Go pseudo-version's tail
	After               string // what was built on top: "12-g1a2b3c4" of git describe, "ipexllm-20250331", "dirty"
}

const (
	maxVersion = 128    // bytes
	maxNumber  = 99_999 // of a version's part
)

// ParseRelease reads a version as GET /api/version or a Git tag gives it, with
// or without the leading "v".
//
// It is not Semantic Versioning: there, all that follows a hyphen comes before
// the release, but the 0.9.3-12-g1a2b3c4 of git describe is twelve commits
// after it. Hence no golang.org/x/mod/semver.
func ParseRelease(s string) (Release, error) {
	if len(s) > maxVersion {
		return Release{}, fmt.Errorf("version of %d bytes, more than %d", len(s), maxVersion)
	}
	var r Release
	core, tail := strings.TrimPrefix(s, "v"), ""
	if i := strings.IndexAny(core, "-+"); i >= 0 {
		core, tail = core[:i], core[i+1:]
		if !isTail(tail) {
			return Release{}, fmt.Errorf("version %q: not a suffix of a version", s)
		}
	}
	numbers := strings.Split(core, ".")
	if len(numbers) != 3 {
		return Release{}, fmt.Errorf("version %q: not of the form 0.17.4", s)
	}
	for i, to := range []*int{&r.Major, &r.Minor, &r.Patch} {
		n, ok := parseNumber(numbers[i])
		if !ok {
			return Release{}, fmt.Errorf("version %q: %q is not a number", s, numbers[i])
		}
		*to = n
	}
	switch first, rest, _ := strings.Cut(tail, "-"); {
	case isPseudo(tail):
		r.Pre = tail
	case isPre(first):
		r.Pre, r.After = first, rest
	default:
		r.After = tail
	}
	return r, nil
}

// parseNumber reads a decimal number of at most maxNumber without sign or
// leading zeros.
func parseNumber(s string) (n int, ok bool) {
	n, err := strconv.Atoi(s)
	ok = err == nil && 0 <= n && n <= maxNumber && strconv.Itoa(n) == s
	return n, ok
}

func isTail(s string) bool {
	return s != "" && strings.Trim(s, "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-+_") == ""
}

// isPre reports whether the first part of a suffix marks what comes before the
// release. Ollama's own tags have "rc" and "ci".
func isPre(s string) bool {
	for _, mark := range []string{"rc", "ci", "alpha", "beta", "pre", "dev"} {
		if rest, ok := strings.CutPrefix(strings.ToLower(s), mark); ok &&
			strings.Trim(rest, "0123456789.") == "" {
			return true
		}
	}
	return false
}

// isPseudo reports whether a suffix is the tail of a Go pseudo-version, such as
// 0.20250620193251-65bff664cb39 or rc1.0.20250612211854-9f8a18ec050e: the time
// of a commit before the release, and its hash.
func isPseudo(s string) bool {
	before, hash, ok := strings.Cut(s, "-")
	if !ok || len(hash) != 12 || !isHex(hash) {
		return false
	}
	stamp := before[strings.LastIndexByte(before, '.')+1:]
	return len(stamp) == 14 && strings.Trim(stamp, "0123456789") == ""
}

// String returns the version without a leading "v".
func (r Release) String() string {
	s := fmt.Sprintf("%d.%d.%d", r.Major, r.Minor, r.Patch)
	if r.Pre != "" {
		s += "-" + r.Pre
	}
	if r.After != "" {
		s += "-" + r.After
	}
	return s
}

// Compare orders versions by when their code was written: 0.5.0-rc3, 0.5.0,
// 0.5.0-12-g1a2b3c4, 0.5.1. The result is -1, 0 or +1.
func (r Release) Compare(o Release) int {
	return cmp.Or(
		cmp.Compare(r.Major, o.Major),
		cmp.Compare(r.Minor, o.Minor),
		cmp.Compare(r.Patch, o.Patch),
		comparePre(r.Pre, o.Pre),
		compareTails(r.After, o.After),
	)
}

// comparePre puts the release itself after everything that came before it.
func comparePre(a, b string) int {
	if (a == "") != (b == "") {
		return -cmp.Compare(a, b)
	}
	return compareTails(a, b)
}

// compareTails compares suffixes by the name they begin with, then by the first
// number in them, so that rc9 comes before rc10, then as they are.
func compareTails(a, b string) int {
	nameA, nA := cutNumber(a)
	nameB, nB := cutNumber(b)
	return cmp.Or(cmp.Compare(nameA, nameB), cmp.Compare(nA, nB), cmp.Compare(a, b))
}

// cutNumber returns what stands before the first digit of s, and the number
// that begins there; 0 when there is none, the largest int when it is larger.
func cutNumber(s string) (name string, n int) {
	i := strings.IndexAny(s, "0123456789")
	if i < 0 {
		return s, 0
	}
	rest := s[i:]
	digits := rest[:len(rest)-len(strings.TrimLeft(rest, "0123456789"))]
	n, _ = strconv.Atoi(digits) // of a number too large: the largest int
	return s[:i], n
}

// base is the release that r was built towards or on.
func (r Release) base() Release { return Release{Major: r.Major, Minor: r.Minor, Patch: r.Patch} }

// commitsAfter reports whether r lies an unknown number of commits after its
// base, as git describe says it.
func (r Release) commitsAfter() bool {
	if r.Pre != "" {
		return false
	}
	count, hash, ok := strings.Cut(r.After, "-g")
	if !ok || count == "" || strings.Trim(count, "0123456789") != "" {
		return false
	}
	hash, _, _ = strings.Cut(hash, "-") // -dirty
	return len(hash) >= 4 && isHex(hash)
}

func isHex(s string) bool { return strings.Trim(s, "0123456789abcdefABCDEF") == "" }
