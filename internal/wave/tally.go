package wave

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"gatehouse/internal/finding"
	"gatehouse/internal/ollama"
)

// Tally is the statistics of a wave, made record by record as they come; two
// tallies of different places add up. All but Hosts and Outcomes count servers
// whose outcome is open, so look-alikes and honeypots are left out.
//
// What hosts say is bounded: see Rest.
type Tally struct {
	Hosts    uint64                     `json:"hosts"` // that answered
	Outcomes map[finding.Outcome]uint64 `json:"outcomes"`

	Open     uint64 `json:"open"`
	EU       uint64 `json:"eu"`
	Placed   uint64 `json:"placed"`   // whose country is known
	Loaded   uint64 `json:"loaded"`   // with a model in memory
	Detailed uint64 `json:"detailed"` // with a model whose capabilities are known
	Sized    uint64 `json:"sized"`    // whose hardware can be told
	Listed   uint64 `json:"listed"`   // models that lie on the servers
	Remote   uint64 `json:"remote"`   // models that are listed and run elsewhere

	Countries     map[string]uint64 `json:"countries"` // ISO 3166-1 alpha-2
	Providers     map[string]uint64 `json:"providers"`
	Networks      map[string]uint64 `json:"networks"`      // "AS24940 Hetzner Online"
	Models        map[string]uint64 `json:"models"`        // servers that list the model, by name
	Families      map[string]uint64 `json:"families"`      // servers that list one of the family
	Parameters    map[string]uint64 `json:"parameters"`    // of Listed, by class of parameter count
	Quantizations map[string]uint64 `json:"quantizations"` // of Listed
	Bits          map[string]uint64 `json:"bits"`          // of Listed, "4-bit"
	Capabilities  map[string]uint64 `json:"capabilities"`  // of Detailed: servers with a model that has it
	Hardware      map[string]uint64 `json:"hardware"`      // of Sized, by class
	Versions      map[string]uint64 `json:"versions"`
	Findings      map[string]uint64 `json:"findings"` // servers with the finding, by id

	// Marks is on how many servers is what moves are told by: certificates,
	// models, sets of models and ports. Keys are this room's own.
	Marks map[string]uint64 `json:"marks"`

	// Rest is what the maps do not name, by the JSON name of the map: keys that
	// were too long, and rare ones of a map that was full. A host can make names
	// up; those are rare, and give way to the names that many servers have. A
	// count in a map falls short of the truth by no more than its rest.
	Rest map[string]uint64 `json:"rest"`
}

// UnknownClass is the key of what a server did not say, or not so that it can
// be understood.
const UnknownClass = "unknown"

// Bounds of one map.
const (
	maxKeys     = 50_000
	maxMarks    = 30_000
	maxKeyBytes = 256
)

// column is one of the maps, by its JSON name.
type column struct {
	name string
	m    *map[string]uint64
}

func (t *Tally) columns() []column {
	return []column{
		{"countries", &t.Countries},
		{"providers", &t.Providers},
		{"networks", &t.Networks},
		{"models", &t.Models},
		{"families", &t.Families},
		{"parameters", &t.Parameters},
		{"quantizations", &t.Quantizations},
		{"bits", &t.Bits},
		{"capabilities", &t.Capabilities},
		{"hardware", &t.Hardware},
		{"versions", &t.Versions},
		{"findings", &t.Findings},
		{"marks", &t.Marks},
	}
}

// Add counts one record.
func (t *Tally) Add(r *Record) {
	if t.Outcomes == nil {
		t.Outcomes = make(map[finding.Outcome]uint64, len(finding.Outcomes))
	}
	t.Outcomes[r.Outcome]++
	if r.Outcome != finding.Silent && r.Outcome != finding.Refused {
		t.Hosts++
	}
	if r.Outcome != finding.Open {
		return
	}
	t.Open++
	t.addOwner(r)
	t.addModels(r.Models)
	if len(r.Running) > 0 {
		t.Loaded++
	}
	if r.Hardware != nil && r.Hardware.Class != "" && r.Hardware.Class != string(ollama.UnknownHardware) {
		t.Sized++
		t.count("hardware", &t.Hardware, r.Hardware.Class, 1)
	}
	t.count("versions", &t.Versions, cmp.Or(r.Identity.Version, UnknownClass), 1)
	ids := make(set, len(r.Findings))
	for _, f := range r.Findings {
		ids[f.ID] = struct{}{}
	}
	t.countEach("findings", &t.Findings, ids)
	state := StateOf(r)
	for mark := range state.marks() {
		t.count("marks", &t.Marks, mark, 1)
	}
}

func (t *Tally) addOwner(r *Record) {
	o := &r.Owner
	if o.Country != "" {
		t.Placed++
		if o.EU {
			t.EU++
		}
	}
	t.count("countries", &t.Countries, cmp.Or(o.Country, UnknownClass), 1)
	t.count("providers", &t.Providers, cmp.Or(o.Provider, UnknownClass), 1)
	network := UnknownClass
	if o.ASN != 0 {
		network = strings.TrimSpace("AS" + strconv.FormatUint(uint64(o.ASN), 10) + " " + o.Network)
	}
	t.count("networks", &t.Networks, network, 1)
}

type set map[string]struct{}

func (t *Tally) addModels(models []finding.Model) {
	names, families, capabilities := make(set, len(models)), make(set), make(set)
	for i := range models {
		m := &models[i]
		names[m.Name] = struct{}{}
		if m.Family != "" {
			families[m.Family] = struct{}{}
		}
		for _, c := range m.Capabilities {
			capabilities[c] = struct{}{}
		}
		if m.RemoteHost != "" {
			t.Remote++
			continue
		}
		t.Listed++
		t.count("parameters", &t.Parameters, ParameterClass(m.ParameterSize), 1)
		t.count("quantizations", &t.Quantizations, cmp.Or(strings.ToUpper(m.Quantization), UnknownClass), 1)
		t.count("bits", &t.Bits, BitClass(m.Quantization), 1)
	}
	if len(capabilities) > 0 {
		t.Detailed++
	}
	t.countEach("models", &t.Models, names)
	t.countEach("families", &t.Families, families)
	t.countEach("capabilities", &t.Capabilities, capabilities)
}

// countEach counts each member once, in order, so that the same records make
// the same tally.
func (t *Tally) countEach(name string, to *map[string]uint64, members set) {
	for _, key := range slices.Sorted(maps.Keys(members)) {
		t.count(name, to, key, 1)
	}
}

func (t *Tally) count(name string, to *map[string]uint64, key string, n uint64) {
	// JSON has no other text, and two keys must not become one in it.
	key = strings.ToValidUTF8(key, "\uFFFD")
	if len(key) > maxKeyBytes {
		t.rest(name, n)
		return
	}
	if *to == nil {
		*to = make(map[string]uint64)
	}
	// A map's key would hold on to the whole of a host's answer.
	if _, ok := (*to)[key]; !ok {
		key = strings.Clone(key)
	}
	(*to)[key] += n
	t.prune(name, *to)
}

// prune makes room in a map that is full: the rarer half goes to the rest.
func (t *Tally) prune(name string, m map[string]uint64) {
	most := maxKeys
	if name == "marks" {
		most = maxMarks
	}
	if len(m) <= most {
		return
	}
	keys := slices.SortedFunc(maps.Keys(m), func(a, b string) int {
		return cmp.Or(cmp.Compare(m[b], m[a]), strings.Compare(a, b))
	})
	for _, key := range keys[most/2:] {
		t.rest(name, m[key])
		delete(m, key)
	}
}

func (t *Tally) rest(name string, n uint64) {
	if n == 0 {
		return
	}
	if t.Rest == nil {
		t.Rest = make(map[string]uint64)
	}
	t.Rest[name] += n
}

// Merge adds the counts of other places.
func (t *Tally) Merge(other *Tally) {
	for o, n := range other.Outcomes {
		if t.Outcomes == nil {
			t.Outcomes = make(map[finding.Outcome]uint64, len(other.Outcomes))
		}
		t.Outcomes[o] += n
	}
	t.Hosts += other.Hosts
	t.Open += other.Open
	t.EU += other.EU
	t.Placed += other.Placed
	t.Loaded += other.Loaded
	t.Detailed += other.Detailed
	t.Sized += other.Sized
	t.Listed += other.Listed
	t.Remote += other.Remote
	from := other.columns()
	for i, c := range t.columns() {
		for key, n := range *from[i].m {
			if *c.m == nil {
				*c.m = make(map[string]uint64, len(*from[i].m))
			}
			(*c.m)[key] += n
		}
		// Only now: what is rare in both may be common in their sum.
		t.prune(c.name, *c.m)
		t.rest(c.name, other.Rest[c.name])
	}
}

// EUShare is the part of the servers whose country is known that is in the
// European Union; ok is false when no country is known.
func (t *Tally) EUShare() (share float64, ok bool) {
	if t.Placed == 0 {
		return 0, false
	}
	return float64(t.EU) / float64(t.Placed), true
}

// Growth is by which factor open servers became more since an earlier tally; ok
// is false when that had none. The two have to be of the same method.
func (t *Tally) Growth(earlier *Tally) (factor float64, ok bool) {
	if earlier.Open == 0 {
		return 0, false
	}
	return float64(t.Open) / float64(earlier.Open), true
}

// Ages is how far the servers of a tally are behind.
type Ages struct {
	Newest         ollama.Release
	Known          uint64 // servers whose version has an age
	Unknown        uint64
	Current        uint64 // of Known, with the newest release or a newer one
	Within         [3]AgeClass
	MedianDays     int
	MedianReleases int
}

// AgeClass is how many servers are so many days behind, or fewer.
type AgeClass struct {
	Days    int
	Servers uint64
}

// Ages says how far the servers were behind at the time of the wave.
func (t *Tally) Ages(at time.Time) Ages {
	a := Ages{Within: [3]AgeClass{{Days: 31}, {Days: 92}, {Days: 366}}}
	days, releases := make(map[int]uint64), make(map[int]uint64)
	for version, n := range t.Versions {
		lag, ok := ollama.LagAt(version, at)
		if !ok {
			a.Unknown += n
			continue
		}
		a.Newest = lag.Newest
		a.Known += n
		if lag.Releases == 0 {
			a.Current += n
		}
		for i := range a.Within {
			if lag.Days <= a.Within[i].Days {
				a.Within[i].Servers += n
			}
		}
		days[lag.Days] += n
		releases[lag.Releases] += n
	}
	a.Unknown += t.Rest["versions"]
	a.MedianDays, a.MedianReleases = median(days, a.Known), median(releases, a.Known)
	return a
}

// median is the lower median of values with their counts, n in all.
func median(counts map[int]uint64, n uint64) int {
	var below uint64
	for _, v := range slices.Sorted(maps.Keys(counts)) {
		if below += counts[v]; below >= n-n/2 {
			return v
		}
	}
	return 0
}

// Share is one row of a ranked table.
type Share struct {
	Key   string
	Count uint64
	Rank  int     // the same for the same count; after two firsts comes a third
	Share float64 // of the total, 0 when that is 0
}

// Ranked orders a map by count, the largest first, and by key where counts are
// equal. Shares are of the total that the caller gives: where one server counts
// under several keys, they add up to more than 1.
func Ranked(m map[string]uint64, of uint64) []Share {
	rows := make([]Share, 0, len(m))
	for key, n := range m {
		row := Share{Key: key, Count: n}
		if of > 0 {
			row.Share = float64(n) / float64(of)
		}
		rows = append(rows, row)
	}
	slices.SortFunc(rows, func(a, b Share) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), strings.Compare(a.Key, b.Key))
	})
	for i := range rows {
		rows[i].Rank = i + 1
		if i > 0 && rows[i].Count == rows[i-1].Count {
			rows[i].Rank = rows[i-1].Rank
		}
	}
	return rows
}

// parameterClasses are by what hardware a model asks for at 4 bits a weight; each
// ends below its limit.
var parameterClasses = []struct {
	limit float64
	name  string
}{
	{1e9, "<1B"},
	{3e9, "1-3B"},
	{8e9, "3-8B"},
	{15e9, "8-15B"},
	{35e9, "15-35B"},
	{80e9, "35-80B"},
	{math.Inf(1), "80B+"},
}

// ParameterClasses lists the classes of ParameterClass, the smallest first.
var ParameterClasses = func() (names []string) {
	for _, c := range parameterClasses {
		names = append(names, c.name)
	}
	return append(names, UnknownClass)
}()

// ParameterClass is the class of a parameter count as Ollama prints it.
func ParameterClass(size string) string {
	n, err := ollama.ParseParameters(size)
	if err != nil {
		return UnknownClass
	}
	for _, c := range parameterClasses {
		if n < c.limit {
			return c.name
		}
	}
	return UnknownClass
}

// BitClass is how many bits a weight has in a quantisation, such as "4-bit".
func BitClass(quant string) string {
	bits, ok := ollama.NominalBits(quant)
	if !ok {
		return UnknownClass
	}
	return strconv.Itoa(bits) + "-bit"
}
