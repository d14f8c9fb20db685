package wave_test

import (
	"cmp"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/quick"

	"gatehouse/internal/evidence"
	"gatehouse/internal/finding"
	"gatehouse/internal/wave"
)

func pairsOf(list []wave.Pair) iter.Seq2[wave.Pair, error] {
	return func(yield func(wave.Pair, error) bool) {
		for _, p := range list {
			if !yield(p, nil) {
				return
			}
		}
	}
}

func compare(t *testing.T, list []wave.Pair, opt wave.CompareOptions) wave.Comparison {
	t.Helper()
	c, err := wave.Compare(pairsOf(list), opt)
	if err != nil {
		t.Fatal(err)
	}
	if was, is := c.Before+c.Carried, c.Still+c.Returned+c.Fixed+c.Gone+c.Moved+c.NotSeen+c.Reclassed; was != is {
		t.Errorf("%d were open, and what became of %d is known: %+v", was, is, c)
	}
	if sum := c.Still + c.Returned + c.New + c.Reopened + c.Moved; sum != c.After {
		t.Errorf("%d are open, and of %d it is known whence: %+v", c.After, sum, c)
	}
	return c
}

// at is a server with an outcome; the number makes its address.
func at(n int, o finding.Outcome) *wave.State {
	return &wave.State{
		Place:   wave.Place{Address: netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)}), Port: 11434},
		Outcome: o,
	}
}

func TestCompareOne(t *testing.T) {
	open := func() *wave.State { return at(1, finding.Open) }
	is := func(o finding.Outcome) *wave.State { return at(1, o) }
	type outcomes = []finding.Outcome
	for _, c := range []struct {
		name string
		pair wave.Pair
		want wave.Event
	}{
		{"never seen before", wave.Pair{After: open()}, wave.Appeared},
		{"was silent", wave.Pair{Before: is(finding.Silent), After: open()}, wave.Appeared},
		{"was always guarded", wave.Pair{Before: is(finding.Guarded), After: open(), Earlier: outcomes{finding.Guarded, ""}}, wave.Appeared},
		{"a lock", wave.Pair{Before: open(), After: is(finding.Guarded)}, wave.Fixed},
		{"no answer", wave.Pair{Before: open(), Unseen: 1}, wave.NotSeen},
		{"no answer, not counted", wave.Pair{Before: open()}, wave.NotSeen},
		{"no answer twice", wave.Pair{Before: open(), Unseen: 2}, wave.Gone},
		{"refused", wave.Pair{Before: open(), After: is(finding.Refused), Unseen: 1}, wave.NotSeen},
		{"refused twice", wave.Pair{Before: open(), After: is(finding.Refused), Unseen: 2}, wave.Gone},
		{"a web server now", wave.Pair{Before: open(), After: is(finding.Other)}, wave.Gone},
		{"a honeypot after all", wave.Pair{Before: open(), After: is(finding.Honeypot)}, wave.Reclassed},
		{"a look-alike after all", wave.Pair{Before: open(), After: is(finding.Lookalike)}, wave.Reclassed},
		{"broken", wave.Pair{Before: open(), After: is(finding.Broken)}, wave.Reclassed},
		{"the lock is off again", wave.Pair{Before: is(finding.Guarded), After: open(), Earlier: outcomes{finding.Open}}, wave.Reopened},
		{"fixed long ago", wave.Pair{Before: is(finding.Guarded), After: open(), Earlier: outcomes{"", finding.Guarded, finding.Open}}, wave.Reopened},
		{"was gone for two looks", wave.Pair{After: open(), Earlier: outcomes{"", finding.Open}}, wave.Reopened},
		{"was gone for two looks of one wave", wave.Pair{After: open(), Earlier: outcomes{finding.Open}, Gap: 2}, wave.Reopened},
		{"was gone two waves earlier", wave.Pair{Before: is(finding.Broken), After: open(), Earlier: outcomes{"", finding.Silent, finding.Open}}, wave.Reopened},
		{"another server was there", wave.Pair{Before: is(finding.Other), After: open(), Earlier: outcomes{finding.Open}}, wave.Reopened},
		{"missed one look", wave.Pair{After: open(), Earlier: outcomes{finding.Open}}, wave.Returned},
		{"missed one look, before the records", wave.Pair{After: open(), Last: open(), Gap: 1}, wave.Returned},
		{"was broken for a while", wave.Pair{Before: is(finding.Broken), After: open(), Earlier: outcomes{finding.Open}}, wave.Returned},
		{"missed one look, then locked", wave.Pair{After: is(finding.Guarded), Earlier: outcomes{finding.Open}}, wave.Fixed},
		{"missed one look, then another", wave.Pair{Last: open(), Earlier: outcomes{finding.Open}, Unseen: 2}, wave.Gone},
		{"was gone, and is locked", wave.Pair{After: is(finding.Guarded), Earlier: outcomes{"", finding.Open}}, ""},
		{"was gone, and is not there", wave.Pair{Last: open(), Earlier: outcomes{"", finding.Open}, Unseen: 3}, ""},
		{"guarded, not seen", wave.Pair{Before: is(finding.Guarded), Unseen: 2}, ""},
		{"guarded still", wave.Pair{Before: is(finding.Guarded), After: is(finding.Guarded)}, ""},
		{"open still", wave.Pair{Before: open(), After: open()}, ""},
		{"nothing at all", wave.Pair{}, ""},
	} {
		var got []wave.Event
		opt := wave.CompareOptions{Each: func(d wave.Difference) error {
			got = append(got, d.Event)
			if d.Place != open().Place {
				t.Errorf("%s: at %v", c.name, d.Place)
			}
			return nil
		}}
		compare(t, []wave.Pair{c.pair}, opt)
		if want := c.want; want == "" && len(got) > 0 || want != "" && !slices.Equal(got, []wave.Event{want}) {
			t.Errorf("%s: %q, want %q", c.name, got, want)
		}
	}

	// With K = 3 a server is not gone after two looks.
	if c := compare(t, []wave.Pair{{Before: open(), Unseen: 2}}, wave.CompareOptions{Looks: 3}); c.NotSeen != 1 || c.Gone != 0 {
		t.Errorf("%+v", c)
	}
}

func TestCompareChanged(t *testing.T) {
	a, b := at(1, finding.Open), at(1, finding.Open)
	a.Version, b.Version = "0.34.4", "0.35.1"
	a.Models, b.Models = []string{"aa", "bb"}, []string{"aa"}
	a.Powers = finding.Powers{Read: finding.Proven, Infer: finding.Reachable, Manage: finding.Proven, Account: finding.Unknown}
	b.Powers = finding.Powers{Read: finding.Proven, Infer: finding.Proven, Manage: finding.Denied, Account: finding.Denied}
	// Nothing is known of the version of the second, and its powers were not tried.
	c, d := at(2, finding.Open), at(2, finding.Open)
	c.Version, c.Powers.Manage, d.Powers.Manage = "0.34.4", finding.Proven, finding.Reachable

	got := compare(t, []wave.Pair{{Before: a, After: b}, {Before: c, After: d}}, wave.CompareOptions{})
	if got.Changed != 1 || got.Still != 2 {
		t.Errorf("%+v", got)
	}
	want := []string{"version", "models", "power manage"}
	if list := got.Lists[wave.Changed]; len(list) != 1 || !slices.Equal(list[0].What, want) {
		t.Errorf("%+v", list)
	}
	for _, what := range want {
		if got.What[what] != 1 {
			t.Errorf("%s: %d", what, got.What[what])
		}
	}
}

func TestCompareFails(t *testing.T) {
	gone := errors.New("database is gone")
	_, err := wave.Compare(func(yield func(wave.Pair, error) bool) {
		if yield(wave.Pair{After: at(1, finding.Open)}, nil) {
			yield(wave.Pair{}, gone)
		}
	}, wave.CompareOptions{})
	if !errors.Is(err, gone) {
		t.Errorf("%v", err)
	}
	full := errors.New("disk full")
	for _, p := range []wave.Pair{{After: at(1, finding.Open)}, {Before: at(1, finding.Open), After: at(1, finding.Guarded)}} {
		_, err = wave.Compare(pairsOf([]wave.Pair{p}), wave.CompareOptions{Each: func(wave.Difference) error { return full }})
		if !errors.Is(err, full) {
			t.Errorf("%v", err)
		}
	}
}

// anyPair is a place that may have been anything.
func anyPair(r *rand.Rand, n int) (p wave.Pair) {
	all := append([]finding.Outcome{"", finding.Open, finding.Open, finding.Open}, finding.Outcomes...)
	state := func() *wave.State {
		o := all[r.IntN(len(all))]
		if o == "" {
			return nil
		}
		s := at(n, o)
		for m := range r.IntN(4) {
			s.Models = append(s.Models, fmt.Sprint(m, r.IntN(4)))
		}
		if r.IntN(3) == 0 {
			s.Certificate = fmt.Sprint(r.IntN(20))
		}
		s.Version = fmt.Sprint(r.IntN(2))
		return s
	}
	p.Before, p.After, p.Last = state(), state(), state()
	for range r.IntN(4) {
		p.Earlier = append(p.Earlier, all[r.IntN(len(all))])
	}
	p.Gap, p.Unseen = r.IntN(3), r.IntN(4)
	return p
}

// Whatever the pairs, the sums hold, their order changes nothing, nobody moves
// twice, and the lists are the first of what Each is told.
func TestCompareHolds(t *testing.T) {
	holds := func(seed uint64) bool {
		r := rand.New(rand.NewPCG(seed, 2))
		var list []wave.Pair
		for n := range 200 {
			list = append(list, anyPair(r, n))
		}
		var each []wave.Difference
		opt := wave.CompareOptions{Limit: 5, Looks: r.IntN(4), Sure: 0.1, Each: func(d wave.Difference) error {
			each = append(each, d)
			return nil
		}}
		c := compare(t, list, opt)
		from, to := make(map[wave.Place]bool), make(map[wave.Place]bool)
		byEvent := make(map[wave.Event][]wave.Difference)
		for _, d := range each {
			byEvent[d.Event] = append(byEvent[d.Event], d)
			if from[d.Place] {
				t.Logf("two things became of %v", d.Place)
				return false
			}
			from[d.Place] = true
			if d.Event == wave.Moved {
				if to[*d.To] || d.Sure < 0.1 || d.Sure > 1 || len(d.Basis) == 0 {
					t.Logf("%+v", d)
					return false
				}
				to[*d.To] = true
			}
		}
		for event, all := range byEvent {
			slices.SortFunc(all, func(a, b wave.Difference) int { return a.Place.Compare(b.Place) })
			if !reflect.DeepEqual(c.Lists[event], all[:min(len(all), 5)]) {
				t.Logf("%s: %v", event, c.Lists[event])
				return false
			}
		}
		r.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
		again := compare(t, list, opt)
		return reflect.DeepEqual(c, again) && !t.Failed()
	}
	if err := quick.Check(holds, &quick.Config{MaxCount: 200}); err != nil {
		t.Error(err)
	}
}

// town makes servers such as there are: most have a few of the models that
// everybody has, some a rare or a private one, some a certificate of their own,
// and some one that came with an image.
type town struct {
	*rand.Rand
	made int
}

func (w *town) server(n int) *wave.State {
	s := at(n, finding.Open)
	w.made++
	for range 1 + w.IntN(6) {
		// The k-th most common model is on a k-th part: the way downloads go.
		k := int(float64(1) / (w.Float64() + 1./400))
		s.Models = append(s.Models, fmt.Sprintf("library-%d", k))
	}
	if w.IntN(7) == 0 {
		s.Models = append(s.Models, fmt.Sprintf("private-%d", w.made))
	}
	slices.Sort(s.Models)
	s.Models = slices.Compact(s.Models)
	switch k := w.IntN(10); {
	case k < 2:
		s.Certificate, s.Place.Port = fmt.Sprintf("own-%d", w.made), 443
	case k == 2:
		s.Certificate, s.Place.Port = fmt.Sprintf("image-%d", w.IntN(4)), 443
	}
	network := n / 75 // 40 networks of 75 in 12 countries
	s.Version = fmt.Sprintf("0.%d.0", 30+w.IntN(6))
	s.ASN, s.Country = uint32(64512+network), "AABBCCDDEEFFGGHHIIJJKKLL"[network%12*2:][:2]
	return s
}

// telling reports whether somebody who knows all could tell the server apart.
func telling(s *wave.State) bool {
	return strings.HasPrefix(s.Certificate, "own") ||
		slices.ContainsFunc(s.Models, func(m string) bool { return strings.HasPrefix(m, "private") }) && len(s.Models) > 2
}

func elsewhere(s *wave.State, n int) *wave.State {
	moved := *s
	moved.Place.Address = at(n, finding.Open).Place.Address
	return &moved
}

// TestCompareTruth has two waves over 3,000 open servers in 40 networks of 12
// countries, and knows what became of each.
func TestCompareTruth(t *testing.T) {
	for seed := range uint64(5) {
		w := &town{Rand: rand.New(rand.NewPCG(seed, 3))}
		var list []wave.Pair
		truth := make(map[wave.Place]wave.Event)
		to := make(map[wave.Place]wave.Place)
		is := func(p wave.Pair, place wave.Place, e wave.Event) {
			list = append(list, p)
			if e != "" {
				truth[place] = e
			}
		}
		free := 100_000 // addresses that nobody had
		left := map[wave.Event]int{wave.Moved: 60, wave.Gone: 300, wave.Fixed: 250, wave.NotSeen: 45, wave.Changed: 200, wave.Reclassed: 5}
		order := []wave.Event{wave.Moved, wave.Gone, wave.Fixed, wave.NotSeen, wave.Changed, wave.Reclassed}
		for _, n := range w.Perm(3000) {
			s := w.server(n)
			e := wave.Event("")
			for _, o := range order {
				if left[o] > 0 && (o != wave.Moved || telling(s)) {
					e = o
					left[o]--
					break
				}
			}
			p := wave.Pair{Before: s}
			switch e {
			case wave.Moved:
				// One in two is already gone for good in the eyes of K looks.
				p.Unseen = 1 + w.IntN(2)
				moved := elsewhere(s, free)
				free++
				to[s.Place] = moved.Place
				list = append(list, wave.Pair{After: moved})
			case wave.Gone:
				p.Unseen = 2 + w.IntN(2)
			case wave.NotSeen:
				p.Unseen = 1
			case wave.Fixed:
				p.After = at(n, finding.Guarded)
				p.After.Place = s.Place
			case wave.Reclassed:
				p.After = elsewhere(s, n)
				p.After.Outcome = finding.Honeypot
			default:
				p.After = elsewhere(s, n)
				if e == wave.Changed {
					p.After.Version = "0.36.0"
				}
			}
			is(p, s.Place, e)
		}
		for range 400 {
			s := w.server(free)
			free++
			is(wave.Pair{After: s}, s.Place, wave.Appeared)
		}
		for range 30 {
			s := w.server(free)
			free++
			locked := *s
			locked.Outcome = finding.Guarded
			is(wave.Pair{Before: &locked, After: s, Earlier: []finding.Outcome{finding.Open}}, s.Place, wave.Reopened)
		}
		for range 500 { // what is no open server, in either wave
			s := w.server(free)
			free++
			s.Outcome = finding.Outcomes[1+w.IntN(len(finding.Outcomes)-1)]
			is(wave.Pair{Before: s, After: s}, s.Place, "")
		}
		w.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })

		seen := make(map[wave.Place]wave.Event)
		c := compare(t, list, wave.CompareOptions{Each: func(d wave.Difference) error {
			seen[d.Place] = d.Event
			if want := truth[d.Place]; d.Event != want {
				t.Errorf("seed %d: %v is %s, want %s: %+v", seed, d.Place, d.Event, cmp.Or(want, "nothing"), d)
			}
			if d.Event == wave.Moved && to[d.Place] != *d.To {
				t.Errorf("seed %d: %v moved to %v, want %v: %.2f %q", seed, d.Place, *d.To, to[d.Place], d.Sure, d.Basis)
			}
			return nil
		}})
		if len(seen) != len(truth) {
			t.Errorf("seed %d: %d differences, want %d", seed, len(seen), len(truth))
		}
		got := []uint64{c.Before, c.After, c.New, c.Gone, c.Fixed, c.Moved, c.Reopened, c.NotSeen, c.Changed, c.Reclassed, c.Still, c.Returned}
		want := []uint64{3000, 2340 + 400 + 60 + 30, 400, 300, 250, 60, 30, 45, 200, 5, 2340, 0}
		if !slices.Equal(got, want) {
			t.Errorf("seed %d: %d, want %d", seed, got, want)
		}
	}
}

// TestMovedSure lets servers of any kind move, also those that nobody can tell
// apart, and holds what Compare says of its own certainty against the truth.
func TestMovedSure(t *testing.T) {
	var said, right, sum float64
	var moves, plain, strong, strongWrong int
	for seed := range uint64(20) {
		w := &town{Rand: rand.New(rand.NewPCG(seed, 4))}
		var list []wave.Pair
		to := make(map[wave.Place]wave.Place)
		for n := range 3000 {
			s := w.server(n)
			switch {
			case n < 300:
				list = append(list, wave.Pair{Before: s, Unseen: 2})
			case n < 360:
				moved := elsewhere(s, 100_000+n)
				to[s.Place] = moved.Place
				list = append(list, wave.Pair{Before: s, Unseen: 2}, wave.Pair{After: moved})
				moves++
				if telling(s) {
					plain++
				}
			case n < 760:
				list = append(list, wave.Pair{After: s})
			default:
				list = append(list, wave.Pair{Before: s, After: s})
			}
		}
		compare(t, list, wave.CompareOptions{Each: func(d wave.Difference) error {
			if d.Event != wave.Moved {
				return nil
			}
			said++
			sum += d.Sure
			ok := to[d.Place] == *d.To
			if ok {
				right++
			}
			if d.Sure >= 0.95 {
				strong++
				if !ok {
					strongWrong++
				}
			}
			return nil
		}})
	}
	t.Logf("of %d moves, %d of them plain, %.0f were named, %.1f %% of them rightly; mean certainty %.1f %%; %d with 95 %% or more, of which %d wrong",
		moves, plain, said, 100*right/said, 100*sum/said, strong, strongWrong)
	if right/said < sum/said-0.05 {
		t.Errorf("surer than right: %.3f, right in %.3f", sum/said, right/said)
	}
	if strong < moves/5 || strongWrong*20 > strong {
		t.Errorf("of %d that are sure %d are wrong", strong, strongWrong)
	}
	if right < 0.95*float64(plain) {
		t.Errorf("%.0f of %d moves are found, where %d are plain", right, moves, plain)
	}
}

// recordOf is a record that has the state s.
func recordOf(s *wave.State) *wave.Record {
	r := &wave.Record{
		Address: s.Place.Address.String(), Port: s.Place.Port, Name: s.Place.Name, Path: s.Place.Path,
		Verdict: finding.Verdict{Outcome: s.Outcome, Identity: finding.Identity{Version: s.Version}},
	}
	if s.Certificate != "" {
		r.TLS = &evidence.TLS{SHA256: s.Certificate}
	}
	for _, digest := range s.Models {
		r.Models = append(r.Models, finding.Model{Digest: digest})
	}
	return r
}

// TestCompareSame leaves out what is the same in both waves, as a store does, and
// has their tallies instead: nothing comes out differently, above all not how
// rare a certificate is that a thousand unchanged servers have.
func TestCompareSame(t *testing.T) {
	w := &town{Rand: rand.New(rand.NewPCG(1, 6))}
	var all, some []wave.Pair
	var before, after wave.Tally
	for n := range 3000 {
		s := w.server(n)
		p := wave.Pair{Before: s, After: s}
		switch n % 20 {
		case 0:
			p = wave.Pair{Before: s, Unseen: 2}
		case 1:
			p = wave.Pair{After: s}
		case 2:
			locked := *s
			locked.Outcome = finding.Guarded
			p.After = &locked
		case 3:
			moved := elsewhere(s, 100_000+n)
			all, some = append(all, wave.Pair{After: moved}), append(some, wave.Pair{After: moved})
			after.Add(recordOf(moved))
			p = wave.Pair{Before: s, Unseen: 1}
		}
		if p.Before != nil {
			before.Add(recordOf(p.Before))
		}
		if p.After != nil {
			after.Add(recordOf(p.After))
		}
		all = append(all, p)
		if p.Before != p.After {
			some = append(some, p)
		}
	}
	want := compare(t, all, wave.CompareOptions{Before: &before, After: &after})
	got := compare(t, some, wave.CompareOptions{Before: &before, After: &after})
	if got.Before != before.Open || got.After != after.Open || got.Moved < 30 {
		t.Errorf("%+v", got)
	}
	// Which of the servers that are in one wave alone are counted with the others
	// makes a move a little more or less sure.
	if !reflect.DeepEqual(got.Outcomes, want.Outcomes) || got.Moved+3 < want.Moved || want.Moved+3 < got.Moved ||
		got.New+got.Moved != want.New+want.Moved || got.Gone+got.NotSeen+got.Moved != want.Gone+want.NotSeen+want.Moved || got.Still != want.Still {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
	for _, d := range got.Lists[wave.Moved] {
		if d.To.Address != at(100_000+posOf(d.Place.Address), "").Place.Address {
			t.Errorf("%v is said to have moved to %v", d.Place, d.To)
		}
	}

	// One of a thousand with a certificate that came with an image.
	image := at(1, finding.Open)
	image.Certificate, image.Models = "image", []string{"llama3.2"}
	pairs := []wave.Pair{{Before: image, Unseen: 1}, {After: elsewhere(image, 2)}}
	tally := &wave.Tally{}
	for n := range 1000 {
		tally.Add(recordOf(elsewhere(image, n)))
	}
	if c := compare(t, pairs, wave.CompareOptions{Before: tally, After: tally}); c.Moved != 0 || c.Before != 1000 {
		t.Errorf("%+v", c)
	}
}

// A set of models that everybody has says nothing, however equal.
func TestMovedCommon(t *testing.T) {
	with := func(n int, certificate string, models ...string) *wave.State {
		s := at(n, finding.Open)
		s.Models, s.Certificate = models, certificate
		return s
	}
	var list []wave.Pair
	for n := range 1000 {
		s := with(n, "image", "llama3.2")
		list = append(list, wave.Pair{Before: s, After: s})
	}
	list = append(list, wave.Pair{Before: with(2000, "image", "llama3.2"), Unseen: 2}, wave.Pair{After: with(2001, "image", "llama3.2")})
	if c := compare(t, list, wave.CompareOptions{}); c.Moved != 0 || c.New != 1 || c.Gone != 1 {
		t.Errorf("%+v", c)
	}
	// A certificate of its own tells it, though its models are another set now.
	list = append(list, wave.Pair{Before: with(3000, "own", "llama3.2"), Unseen: 1}, wave.Pair{After: with(3001, "own", "llama3.2", "qwen3")})
	c := compare(t, list, wave.CompareOptions{})
	if c.Moved != 1 {
		t.Fatalf("%+v", c)
	}
	d := c.Lists[wave.Moved][0]
	if d.Sure < 0.99 || d.Place != at(3000, "").Place || *d.To != at(3001, "").Place ||
		!slices.Contains(d.Basis, "same certificate, on 0 other servers of 1004") {
		t.Errorf("%+v", d)
	}
	// Two that are alike and two new ones: nobody can tell which is which.
	list = list[:1000]
	for n := range 2 {
		list = append(list, wave.Pair{Before: with(4000+n, "pair", "own"), Unseen: 2}, wave.Pair{After: with(5000+n, "pair", "own")})
	}
	if c := compare(t, list, wave.CompareOptions{Sure: 0.01}); c.Moved != 2 || c.Lists[wave.Moved][0].Sure > 0.34 {
		t.Errorf("%+v", c.Lists[wave.Moved])
	}
	if c := compare(t, list, wave.CompareOptions{}); c.Moved != 0 {
		t.Errorf("%+v", c.Lists[wave.Moved])
	}
}

// BenchmarkCompare is of two waves with a million servers, a tenth of which
// vanished and a tenth of which are new.
func BenchmarkCompare(b *testing.B) {
	const servers = 1_000_000
	pairs := func(yield func(wave.Pair, error) bool) {
		w := &town{Rand: rand.New(rand.NewPCG(1, 5))}
		for n := range servers {
			s := w.server(n)
			p := wave.Pair{Before: s, After: s}
			switch n % 10 {
			case 0:
				p.After, p.Unseen = nil, 2
			case 1:
				p.Before = nil
			}
			if !yield(p, nil) {
				return
			}
		}
	}
	var before, after runtime.MemStats
	for b.Loop() {
		runtime.GC()
		runtime.ReadMemStats(&before)
		stop := errors.New("measured")
		_, err := wave.Compare(pairs, wave.CompareOptions{Limit: -1, Each: func(wave.Difference) error {
			runtime.GC()
			runtime.ReadMemStats(&after) // all is kept now that the first is told
			return stop
		}})
		if !errors.Is(err, stop) {
			b.Fatal(err)
		}
		b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/1e6, "MB-kept")
		if _, err := wave.Compare(pairs, wave.CompareOptions{}); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(2*servers*float64(b.N)/b.Elapsed().Seconds(), "servers/s")
}
