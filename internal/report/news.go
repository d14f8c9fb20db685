package report

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"gatehouse/internal/wave"
)

// newsRows is how many places of each kind a message names.
const newsRows = 20

// newsEvents are what people are told of; the rest is counted beside it.
var newsEvents = []wave.Event{wave.Appeared, wave.Reopened, wave.Fixed}

// News collects what there is to tell of two waves.
type News struct {
	// Excused says of a place that it is no news; nil says it of none.
	Excused func(netip.Addr, uint16) bool

	Counts map[wave.Event]int
	Left   int // excused
	lists  map[wave.Event][]wave.Difference
}

// Add is told of every difference: it is CompareOptions.Each.
func (n *News) Add(d wave.Difference) error {
	if n.Counts == nil {
		n.Counts, n.lists = make(map[wave.Event]int), make(map[wave.Event][]wave.Difference)
	}
	tell := slices.Contains(newsEvents, d.Event)
	if tell && n.Excused != nil && n.Excused(d.Place.Address, d.Place.Port) {
		n.Left++
		return nil
	}
	n.Counts[d.Event]++
	if !tell {
		return nil
	}
	list := append(n.lists[d.Event], d)
	if len(list) >= 2*newsRows {
		list = n.first(list)
	}
	n.lists[d.Event] = list
	return nil
}

func (n *News) first(list []wave.Difference) []wave.Difference {
	slices.SortFunc(list, func(a, b wave.Difference) int { return a.Place.Compare(b.Place) })
	return slices.Clip(list[:min(len(list), newsRows)])
}

// Any reports whether there is something to tell.
func (n *News) Any() bool {
	return slices.ContainsFunc(newsEvents, func(e wave.Event) bool { return n.Counts[e] > 0 })
}

// Line is the counts in a few words: "2 new, 1 fixed".
func (n *News) Line() string {
	var parts []string
	for _, e := range newsEvents {
		if c := n.Counts[e]; c > 0 {
			parts = append(parts, count(uint64(c))+" "+string(e))
		}
	}
	if len(parts) == 0 {
		return "nothing new"
	}
	return strings.Join(parts, ", ")
}

// Text is the message about wave b, compared with wave a.
func (n *News) Text(a, b *wave.Info) string {
	var t strings.Builder
	fmt.Fprintf(&t, "Wave %d of %s, %s,\ncompared with wave %d of %s.\n", b.Number, Clean(b.Scope), b.Started.Format("2006-01-02 15:04 UTC"), a.Number, a.Started.Format("2006-01-02 15:04 UTC"))
	fmt.Fprintf(&t, "%s open to strangers; %s before.\n", count(b.Tally.Open), count(a.Tally.Open))
	for _, e := range newsEvents {
		list := n.first(n.lists[e])
		if len(list) == 0 {
			continue
		}
		fmt.Fprintf(&t, "\n%s (%s): %s\n", strings.ToUpper(string(e)[:1])+string(e)[1:], count(uint64(n.Counts[e])), eventWords[e])
		for i := range list {
			t.WriteString(newsLine(&list[i]))
		}
		if more := n.Counts[e] - len(list); more > 0 {
			fmt.Fprintf(&t, "  and %s more\n", count(uint64(more)))
		}
	}
	var also []string
	for _, e := range wave.Events {
		if c := n.Counts[e]; c > 0 && !slices.Contains(newsEvents, e) {
			also = append(also, count(uint64(c))+" "+string(e))
		}
	}
	t.WriteString("\n")
	if len(also) > 0 {
		fmt.Fprintf(&t, "Also: %s.\n", strings.Join(also, ", "))
	}
	if n.Left > 0 {
		fmt.Fprintf(&t, "Left out, for a note says so: %s.\n", count(uint64(n.Left)))
	}
	fmt.Fprintf(&t, "All of it: gatehouse wave diff %d %d\n", a.Number, b.Number)
	return t.String()
}

// plainVersion is what a version may look like to be told. It is the only text
// out of a host's mouth here, and some channels obey what looks like a mention or
// a link.
var plainVersion = regexp.MustCompile(`^[0-9][0-9A-Za-z.+-]{0,31}$`)

func newsLine(d *wave.Difference) string {
	s := d.After
	if s == nil {
		s = d.Before
	}
	var notes []string
	if s != nil {
		if plainVersion.MatchString(s.Version) {
			notes = append(notes, "Ollama "+s.Version)
		}
		if len(s.Models) > 0 {
			notes = append(notes, plural(uint64(len(s.Models)), "model"))
		}
		if where := strings.TrimSpace(s.Country + " " + s.Provider); where != "" {
			notes = append(notes, Clean(where))
		}
	}
	line := "  " + pad(Clean(placeText(&d.Place)), 24, false)
	if len(notes) > 0 {
		line += "  " + strings.Join(notes, ", ")
	}
	return fit(line, 80) + "\n"
}

// NewsHost is a place in the message for programs.
type NewsHost struct {
	wave.Place
	Version  string   `json:"version"`
	Models   int      `json:"models"`
	Country  string   `json:"country"`
	ASN      uint32   `json:"asn"`
	Provider string   `json:"provider"`
	Findings []string `json:"findings"`
}

// Hosts are the first places of each kind, for programs.
func (n *News) Hosts() map[wave.Event][]NewsHost {
	all := make(map[wave.Event][]NewsHost)
	for _, e := range newsEvents {
		list := n.first(n.lists[e])
		for i := range list {
			h := NewsHost{Place: list[i].Place}
			s := list[i].After
			if s == nil {
				s = list[i].Before
			}
			if s != nil {
				h.Models, h.Country, h.ASN, h.Provider, h.Findings = len(s.Models), s.Country, s.ASN, Clean(s.Provider), s.Findings
				if plainVersion.MatchString(s.Version) {
					h.Version = s.Version
				}
			}
			all[e] = append(all[e], h)
		}
	}
	return all
}

// FirstNews is the message about a wave that has none before it.
func FirstNews(b *wave.Info) string {
	return fmt.Sprintf("Wave %d of %s, %s, is the first over these places.\n%s open to strangers, %s answered.\n\nAll of it: gatehouse wave show %d\n",
		b.Number, Clean(b.Scope), b.Started.Format("2006-01-02 15:04 UTC"), count(b.Tally.Open), count(b.Tally.Hosts), b.Number)
}
