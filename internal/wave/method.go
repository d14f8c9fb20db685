package wave

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"gatehouse/internal/finding"
)

// Method is how a count came about. A count without it means little: counts of
// one year range from 1,139 to 300,000 servers, and most of the spread is method.
type Method struct {
	Scope   string    `json:"scope"`
	Source  string    `json:"source"` // of an import, with its date; "" for a scan
	Started time.Time `json:"started"`
	Ended   time.Time `json:"ended"`
	Ports   []uint16  `json:"ports"`

	Population uint64 `json:"population"` // places of the scope that a sample was drawn from; 0 when there was none

	Places  uint64  `json:"places"`  // of the scope; 0 when not known, as for an import
	Visited uint64  `json:"visited"` // looked at to an end
	Denied  uint64  `json:"denied"`  // excluded by the scope, or of special purpose
	Sample  float64 `json:"sample"`  // part of the places drawn at random; 0 is all
	Seed    uint64  `json:"seed"`    // of the drawing

	Looks int     `json:"looks"`         // at each place; 0 is one
	Every float64 `json:"every_seconds"` // from one look to the next

	// Excluded is what answered and is not counted, by outcome.
	Excluded map[finding.Outcome]uint64 `json:"excluded"`
	Owners   []string                   `json:"owners"`  // databases of countries and networks, with date and licence
	Stopped  string                     `json:"stopped"` // why the wave ended before its end, "" when it did not
}

// MethodOf is the method of a wave as far as its summary and tally have it.
func MethodOf(s *Summary, t *Tally) Method {
	m := Method{
		Scope: s.Scope, Source: s.Source, Started: s.Started, Ended: s.Ended, Seed: s.Seed,
		Places: s.Places, Visited: s.Visited, Denied: s.Denied, Stopped: s.Stopped,
		Excluded: make(map[finding.Outcome]uint64),
	}
	if s.Source != "" {
		m.Places = 0 // what its maker looked at is not known
	}
	for _, o := range finding.Outcomes {
		if n := t.Outcomes[o]; n > 0 && o != finding.Open && answered(o) {
			m.Excluded[o] = n
		}
	}
	return m
}

// String is the lines as one text.
func (m Method) String() string { return strings.Join(m.Lines(), "\n") }

// Lines states the method for a reader of the counts, a sentence or two a line.
func (m Method) Lines() []string {
	var lines []string
	add := func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }

	if m.Source != "" {
		add("Imported from %s; not looked at again.", m.Source)
	}
	add("Window: %s. A count is of servers that were up then, not of all that ever were.", window(m.Started, m.Ended))
	add("Scope: %s.", m.scope())
	if len(m.Ports) > 0 {
		ports := make([]string, len(m.Ports))
		for i, p := range m.Ports {
			ports[i] = strconv.Itoa(int(p))
		}
		add("Ports: %s. A server on another port is not counted.", strings.Join(ports, ", "))
	}
	switch {
	case m.Source != "":
	case m.sampled():
		add("Sampling: %s %% of the places, a simple random sample (seed %d); totals are estimates with a 95 %% interval.",
			strconv.FormatFloat(100*m.Sample, 'g', 4, 64), m.Seed)
	default:
		add("Sampling: none, every place was to be visited.")
	}
	switch {
	case m.Looks > 1:
		add("Looks: %d at each place, %v apart; a server counts when one of them saw it.", m.Looks, time.Duration(m.Every*float64(time.Second)))
	case m.Source == "":
		add("Looks: one at each place; a server that was down at that moment is not counted.")
	}
	var excluded []string
	for _, o := range finding.Outcomes {
		if n := m.Excluded[o]; n > 0 {
			excluded = append(excluded, fmt.Sprintf("%s %s", group3(n), outcomeWords[o]))
		}
	}
	switch {
	case len(excluded) > 0:
		add("Not counted as open: %s.", strings.Join(excluded, ", "))
	default:
		add("Not counted as open: look-alikes, honeypots and guarded servers; none was found.")
	}
	for _, o := range m.Owners {
		add("Countries and networks: %s. Such databases err.", o)
	}
	if m.Stopped != "" {
		add("Incomplete: %s. Counts are of what was visited until then.", m.Stopped)
	}
	return lines
}

func (m Method) sampled() bool { return m.Sample > 0 && m.Sample < 1 }

func (m Method) scope() string {
	s := m.Scope
	if s == "" {
		s = "not named"
	}
	if m.Places > 0 {
		s += fmt.Sprintf("; %s places, %s visited", group3(m.Places), group3(m.Visited))
	}
	if m.Denied > 0 {
		s += fmt.Sprintf(", %s excluded and not touched", group3(m.Denied))
	}
	return s
}

// window writes two times in UTC, the day once where it is the same.
func window(from, to time.Time) string {
	from, to = from.UTC(), to.UTC()
	switch {
	case from.IsZero():
		return "not known"
	case to.IsZero() || to.Equal(from):
		return from.Format("2006-01-02 15:04") + " UTC"
	case from.Format(time.DateOnly) == to.Format(time.DateOnly):
		return from.Format("2006-01-02 15:04") + " to " + to.Format("15:04") + " UTC"
	}
	return from.Format("2006-01-02 15:04") + " to " + to.Format("2006-01-02 15:04") + " UTC"
}

var outcomeWords = map[finding.Outcome]string{
	finding.Guarded:   "guarded",
	finding.Lookalike: "look-alikes",
	finding.Honeypot:  "honeypots",
	finding.Broken:    "broken",
	finding.Other:     "other services",
}

// group3 writes a number with a comma after each three digits.
func group3(n uint64) string {
	s := strconv.FormatUint(n, 10)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
