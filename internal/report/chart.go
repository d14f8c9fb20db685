package report

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"
	"time"

	"golang.org/x/text/language"
	"golang.org/x/text/language/display"

	"gatehouse/internal/wave"
)

// The charts are drawn here and not by a library: go-analyze/charts fixes sizes
// and colours in each element, so that a picture follows neither a dark page nor
// a narrow one, and gives no text in place of it. Ours are shapes in classes that
// the page's style colours, and the numbers stand beside each.

// bars is a ranked list with a bar for each entry; it is a table, so that its
// numbers are its text.
type bars struct {
	Title, Note string
	Head        string // of the names
	Unit        string // what is counted
	Rows        []barRow
}

type barRow struct {
	Rank  int // 0 for what is no entry
	Name  string
	Count string
	Share string
	Width string // of 100
}

// ranked is the n largest of m, the others as one, and what is not known, with
// their shares of whole; rest is what m does not name.
func ranked(m map[string]uint64, rest uint64, n int, whole uint64, name func(string) string) []barRow {
	var rows []barRow
	var others, top uint64
	list := wave.Ranked(m, whole)
	list = slices.DeleteFunc(list, func(s wave.Share) bool { return s.Key == wave.UnknownClass || s.Count == 0 })
	for i, s := range list {
		top = max(top, s.Count)
		if i >= n && len(list) > n+1 { // one more is shown by name
			others += s.Count
			continue
		}
		rows = append(rows, barRow{i + 1, name(s.Key), count(s.Count), percent(s.Count, whole), width(s.Count, top)})
	}
	if others+rest > 0 {
		what := "others"
		if kinds := len(list) - len(rows); kinds > 0 && rest == 0 {
			what = count(uint64(kinds)) + " others"
		}
		rows = append(rows, restRow(what, others+rest, top, whole))
	}
	if n := m[wave.UnknownClass]; n > 0 && len(rows) > 0 {
		rows = append(rows, restRow("not known", n, top, whole))
	}
	return rows
}

// restRow is a row of what has no rank; its bar ends where the longest does.
func restRow(name string, n, top, whole uint64) barRow {
	return barRow{0, name, count(n), percent(n, whole), width(min(n, max(top, 1)), max(top, 1))}
}

func width(n, top uint64) string {
	if top == 0 {
		return "0"
	}
	return strconv.FormatFloat(max(100*float64(n)/float64(top), 0.6), 'f', 1, 64)
}

// percent is n's share of whole to read, "" of nothing.
func percent(n, whole uint64) string {
	if whole == 0 {
		return ""
	}
	return ratio(float64(n) / float64(whole))
}

// ratio is a share of 1 to read: with one decimal below ten hundredths, and
// never 0 for what is not nothing.
func ratio(share float64) string {
	switch p := 100 * share; {
	case p == 0:
		return "0 %"
	case p < 0.1:
		return "<0.1 %"
	case p < 9.95:
		return strconv.FormatFloat(p, 'f', 1, 64) + " %"
	default:
		return strconv.FormatFloat(p, 'f', 0, 64) + " %"
	}
}

// countryName is the English name of a country by its code.
func countryName(code string) string {
	if len(code) != 2 {
		return short(code, 60)
	}
	region, err := language.ParseRegion(code)
	if err != nil || region.String() != code {
		return Clean(code)
	}
	return cmp.Or(display.English.Regions().Name(region), code)
}

// tiles is where each country of Europe stands on the tile map: roughly where it
// is, all of one size, so that a small one can be seen as well as a large one.
var tiles = []struct {
	code        string
	column, row int
}{
	{"IS", 0, 0},
	{"NO", 4, 0},
	{"SE", 5, 0},
	{"FI", 6, 0},
	{"IE", 0, 1},
	{"GB", 1, 1},
	{"DK", 4, 1},
	{"EE", 6, 1},
	{"NL", 3, 2},
	{"DE", 4, 2},
	{"PL", 5, 2},
	{"LV", 6, 2},
	{"RU", 7, 2},
	{"BE", 2, 3},
	{"LU", 3, 3},
	{"CZ", 4, 3},
	{"SK", 5, 3},
	{"LT", 6, 3},
	{"BY", 7, 3},
	{"FR", 2, 4},
	{"CH", 3, 4},
	{"AT", 4, 4},
	{"HU", 5, 4},
	{"RO", 6, 4},
	{"MD", 7, 4},
	{"UA", 8, 4},
	{"PT", 0, 5},
	{"ES", 1, 5},
	{"IT", 3, 5},
	{"SI", 4, 5},
	{"HR", 5, 5},
	{"RS", 6, 5},
	{"BG", 7, 5},
	{"BA", 4, 6},
	{"ME", 5, 6},
	{"XK", 6, 6},
	{"MK", 7, 6},
	{"TR", 8, 6},
	{"MT", 3, 7},
	{"AL", 6, 7},
	{"GR", 7, 7},
	{"CY", 8, 7},
}

type tile struct {
	X, Y, Class  int
	Code, Number string
	Title        string
}

type tileMap struct {
	Width, Height int
	Tiles         []tile
	Scale         []tile // one of each class in use, Number says what it holds
	Total         string
	Text          string // in place of the picture
}

const (
	tileSize = 64
	tileStep = 68
)

// europe draws the tile map, nil when no tile would hold a number.
func europe(countries map[string]uint64) *tileMap {
	var top, sum uint64
	var first string
	for _, t := range tiles {
		n := countries[t.code]
		if sum += n; n > top {
			top, first = n, t.code
		}
	}
	if top == 0 {
		return nil
	}
	m := &tileMap{Width: 9*tileStep - tileStep + tileSize, Height: 8*tileStep - tileStep + tileSize, Total: count(sum)}
	m.Text = fmt.Sprintf("Map of Europe, a tile for each country: %s open servers in all, most in %s with %s. The numbers are in the table of countries.", count(sum), countryName(first), count(top))
	least, most := map[int]uint64{}, map[int]uint64{}
	for _, t := range tiles {
		n := countries[t.code]
		c := step(n, top)
		if least[c] == 0 || n < least[c] {
			least[c] = n
		}
		most[c] = max(most[c], n)
		number := brief(n)
		if n == 0 {
			number = "–"
		}
		m.Tiles = append(m.Tiles, tile{t.column * tileStep, t.row * tileStep, c, t.code, number, countryName(t.code) + ": " + count(n)})
	}
	for c := range 6 {
		switch {
		case most[c] == 0 && c > 0:
		case c == 0:
			m.Scale = append(m.Scale, tile{Class: c, Number: "none"})
		case least[c] == most[c]:
			m.Scale = append(m.Scale, tile{Class: c, Number: count(most[c])})
		default:
			m.Scale = append(m.Scale, tile{Class: c, Number: count(least[c]) + "–" + count(most[c])})
		}
	}
	return m
}

// step is the colour of n from 0, for nothing, to 5. Counts of countries differ
// by a factor of a thousand, so the steps are of equal ratio.
func step(n, top uint64) int {
	if n == 0 {
		return 0
	}
	if top <= 1 {
		return 3
	}
	return 1 + min(int(4.999*math.Log(float64(n))/math.Log(float64(top))), 4)
}

// brief is n in at most five characters.
func brief(n uint64) string {
	switch {
	case n < 10_000:
		return count(n)
	case n < 999_500:
		return strconv.FormatUint((n+500)/1000, 10) + "k"
	}
	return strconv.FormatUint((n+500_000)/1_000_000, 10) + "M"
}

// trend is a line through the counts of waves.
type trend struct {
	Line, Area    string
	Points        []trendPoint
	Grid          []trendPoint // Y and Label
	Text          string
	Rows          [][3]string // date, open, factor since the first
	Growth        string
	Left, Right   int
	Width, Height int
	Base          int
}

type trendPoint struct {
	X, Y   string
	Label  string
	Date   string
	Anchor string
	Above  string
}

const (
	trendLeft, trendRight = 58, 546
	trendTop, trendBase   = 34, 216
)

// trendOf draws the line, nil when there is nothing to join.
func trendOf(points []Point) *trend {
	points = slices.Clone(points)
	slices.SortStableFunc(points, func(a, b Point) int { return a.Date.Compare(b.Date) })
	if len(points) < 2 {
		return nil
	}
	first, last := points[0], points[len(points)-1]
	span := last.Date.Sub(first.Date)
	if span <= 0 {
		return nil
	}
	var most uint64
	for _, p := range points {
		most = max(most, p.Tally.Open)
	}
	top := nice(most)
	x := func(at time.Time) float64 {
		return trendLeft + (trendRight-trendLeft)*float64(at.Sub(first.Date))/float64(span)
	}
	y := func(n uint64) float64 { return trendBase - (trendBase-trendTop)*float64(n)/float64(top) }
	t := &trend{Left: trendLeft, Right: trendRight, Width: 560, Height: 250, Base: trendBase}
	for i := range uint64(3) {
		n := top * i / 2
		t.Grid = append(t.Grid, trendPoint{Y: coordinate(y(n)), Label: brief(n)})
	}
	for i, p := range points {
		px, py := coordinate(x(p.Date)), coordinate(y(p.Tally.Open))
		join := "L"
		if i == 0 {
			join = "M"
		}
		t.Line += join + px + " " + py
		dot := trendPoint{X: px, Y: py, Anchor: "middle"}
		switch i {
		case 0:
			dot.Anchor, dot.Label, dot.Date = "start", count(p.Tally.Open), month(p.Date)
		case len(points) - 1:
			dot.Anchor, dot.Label, dot.Date = "end", count(p.Tally.Open), month(p.Date)
		}
		dot.Above = coordinate(y(p.Tally.Open) - 14)
		if len(points) <= 60 || dot.Label != "" {
			t.Points = append(t.Points, dot)
		}
		t.Rows = append(t.Rows, [3]string{p.Date.UTC().Format(time.DateOnly), count(p.Tally.Open), times(p.Tally.Open, first.Tally.Open)})
	}
	base := coordinate(trendBase)
	t.Area = t.Line + "L" + coordinate(trendRight) + " " + base + "L" + coordinate(trendLeft) + " " + base + "Z"
	t.Growth = times(last.Tally.Open, first.Tally.Open)
	t.Text = fmt.Sprintf("Line of open servers over %d waves: %s on %s, %s on %s. The numbers are in the table.", len(points),
		count(first.Tally.Open), first.Date.UTC().Format(time.DateOnly), count(last.Tally.Open), last.Date.UTC().Format(time.DateOnly))
	return t
}

func coordinate(f float64) string { return strconv.FormatFloat(f, 'f', 1, 64) }

func month(t time.Time) string { return t.UTC().Format("Jan 2006") }

// times is by what factor n is more than was, "" than nothing.
func times(n, was uint64) string {
	if was == 0 {
		return ""
	}
	return growth(float64(n) / float64(was))
}

func growth(factor float64) string {
	if factor >= 9.95 {
		return "×" + count(uint64(math.Round(factor)))
	}
	return "×" + strconv.FormatFloat(factor, 'f', 1, 64)
}

// nice is the least round number that n fits below and that has a round half.
func nice(n uint64) uint64 {
	for p := uint64(1); ; p *= 10 {
		for _, m := range []uint64{2, 3, 4, 6, 8, 10} {
			if m*p >= n || p >= 1e18 {
				return m * p
			}
		}
	}
}

// strip is one bar cut into the parts of a whole.
type strip struct {
	Text  string
	Parts []stripPart
}

type stripPart struct {
	Class    int
	X, Width string
	Name     string
	Count    string
	Share    string
}

// european cuts the open servers into the EU's, the rest of the world's, and
// those that nobody placed.
func european(t wave.Tally) *strip {
	if t.Placed == 0 || t.Open == 0 {
		return nil
	}
	s := &strip{}
	at := 0.0
	for i, p := range []struct {
		name string
		n    uint64
	}{{"European Union", t.EU}, {"rest of the world", less(t.Placed, t.EU)}, {"country not known", less(t.Open, t.Placed)}} {
		if p.n == 0 {
			continue
		}
		w := 100 * float64(p.n) / float64(t.Open)
		s.Parts = append(s.Parts, stripPart{i + 1, coordinate(at), coordinate(w), p.name, count(p.n), percent(p.n, t.Open)})
		at += w
		s.Text += fmt.Sprintf("%s %s (%s). ", p.name, count(p.n), percent(p.n, t.Open))
	}
	return s
}
