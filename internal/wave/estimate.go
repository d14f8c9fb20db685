package wave

import (
	"errors"
	"fmt"
	"math"

	"gonum.org/v1/gonum/mathext"
)

// Confidence is that of every interval here.
const Confidence = 0.95

// z is the quantile of the normal distribution that belongs to Confidence.
var z = mathext.NormalQuantile(1 - (1-Confidence)/2)

// Interval is where the truth is with 95 % confidence.
type Interval struct {
	Low, High float64
}

// Estimate is a total that was not counted but concluded.
type Estimate struct {
	Total float64
	Interval
	StandardError float64 // 0 where the method has none
	Method        string  // in a few words, for a reader
}

// Rule makes an interval for a proportion from a count of successes in n
// trials; both may be fractions, for an effective sample is no whole number.
type Rule func(successes, n float64) Interval

// Wilson is the score interval of E. B. Wilson, "Probable inference, the law of
// succession, and statistical inference", J. Am. Stat. Assoc. 22 (1927). Its
// mean coverage is close to the nominal, that for one proportion may be a little
// below; Brown, Cai and DasGupta, "Interval estimation for a binomial
// proportion", Stat. Sci. 16 (2001), recommend it.
func Wilson(successes, n float64) Interval {
	if n <= 0 {
		return Interval{0, 1}
	}
	p, z2 := successes/n, z*z
	middle := (p + z2/(2*n)) / (1 + z2/n)
	half := z / (1 + z2/n) * math.Sqrt(p*(1-p)/n+z2/(4*n*n))
	i := Interval{max(0, middle-half), min(1, middle+half)}
	// What rounding leaves at the ends.
	if successes == 0 {
		i.Low = 0
	}
	if successes == n {
		i.High = 1
	}
	return i
}

// ClopperPearson is the exact interval of C. J. Clopper and E. S. Pearson, "The
// use of confidence or fiducial limits illustrated in the case of the binomial",
// Biometrika 26 (1934), by the quantiles of the beta distribution. It covers the
// truth in at least 95 % of all cases for any proportion, mostly in more.
func ClopperPearson(successes, n float64) Interval {
	i := Interval{0, 1}
	if n <= 0 {
		return i
	}
	tail := (1 - Confidence) / 2
	if successes > 0 {
		i.Low = mathext.InvRegIncBeta(successes, n-successes+1, tail)
	}
	if successes < n {
		i.High = mathext.InvRegIncBeta(successes+1, n-successes, 1-tail)
	}
	return i
}

// FromSample estimates how many of all places are what found of the looked ones
// are. The looked ones have to be a simple random sample of the places, drawn
// without replacement, as `scan --sample` draws it. A nil rule is Wilson.
//
// The finite population is corrected for: what was looked at is known, and only
// the rest is uncertain. The rule gets the size n(N-1)/(N-n) of the sample with
// replacement that would tell as much (W. G. Cochran, "Sampling Techniques",
// 3rd ed. 1977, 2.6; E. L. Korn and B. I. Graubard, Surv. Methodol. 24 (1998),
// have this effective size for Clopper-Pearson). In a sample of 1 % it changes
// nothing that can be seen, in one of a half it narrows the interval by 30 %,
// and when all was looked at the interval is the count. The interval is exact
// no longer for Clopper-Pearson, and never excludes what was seen.
func FromSample(found, looked, places uint64, rule Rule) (Estimate, error) {
	switch {
	case looked == 0:
		return Estimate{}, errors.New("estimate: an empty sample says nothing")
	case found > looked:
		return Estimate{}, fmt.Errorf("estimate: %d found in a sample of %d", found, looked)
	case looked > places:
		return Estimate{}, fmt.Errorf("estimate: a sample of %d out of %d places", looked, places)
	}
	k, n, all := float64(found), float64(looked), float64(places)
	p := k / n
	e := Estimate{
		Total:  all * p,
		Method: fmt.Sprintf("%d of %d places sampled at random, %d found; 95 %% interval, finite population corrected", looked, places, found),
	}
	if looked == places {
		e.Interval = Interval{k, k}
		return e, nil
	}
	if rule == nil {
		rule = Wilson
	}
	effective := n * (all - 1) / (all - n)
	i := rule(p*effective, effective)
	// So many were seen, and so many were seen not to be.
	e.Low, e.High = max(k, all*i.Low), min(all-(n-k), all*i.High)
	e.StandardError = all * math.Sqrt(p*(1-p)/effective)
	return e, nil
}

// Recapture estimates how many servers there are from two looks at the same
// places: first and second were up in each, both in both.
//
// The total and its variance are those of D. G. Chapman, "Some properties of the
// hypergeometric distribution with applications to zoological sample censuses",
// Univ. Calif. Publ. Stat. 1 (1951), and G. A. F. Seber, Biometrika 57 (1970).
// The interval is the transformed logit of M. Sadinle, "Transformed logit
// confidence intervals for small populations in single capture-recapture
// estimation", Commun. Stat. Simul. Comput. 38 (2009): that of the normal
// distribution falls below what was seen when few were seen twice.
//
// It holds when no server came or went for good between the looks, when being
// up in one look has nothing to do with being up in the other, and when all
// servers are up as often. Servers are not: some are always up, and looks that
// follow each other closely find the same ones. Either makes the estimate too
// low, so read it as a lower bound.
func Recapture(first, second, both uint64) (Estimate, error) {
	switch {
	case both > min(first, second):
		return Estimate{}, fmt.Errorf("estimate: %d up in both looks, %d in the first and %d in the second", both, first, second)
	case first == 0 || second == 0:
		return Estimate{}, errors.New("estimate: a look that found nothing says nothing")
	}
	a, b, m := float64(first), float64(second), float64(both)
	onlyA, onlyB := a-m, b-m
	e := Estimate{
		Total:         (a+1)*(b+1)/(m+1) - 1,
		StandardError: math.Sqrt((a + 1) * (b + 1) * onlyA * onlyB / ((m + 1) * (m + 1) * (m + 2))),
		Method:        fmt.Sprintf("Chapman, from %d and %d in two looks with %d in both; 95 %% interval; a lower bound when servers differ in how often they are up", first, second, both),
	}
	s := math.Sqrt(1/(m+.5) + 1/(onlyA+.5) + 1/(onlyB+.5) + (m+.5)/((onlyA+.5)*(onlyB+.5)))
	seen, never := a+b-m, (onlyA+.5)*(onlyB+.5)/(m+.5)
	e.Low = max(seen, seen-.5+never*math.Exp(-z*s))
	e.High = max(e.Low, seen-.5+never*math.Exp(z*s))
	return e, nil
}
