package wave

import "gatehouse/internal/finding"

// Tally is the statistics of a wave, made record by record as they come; two
// tallies of different places add up. All but Hosts and Outcomes count servers
// whose outcome is open, so look-alikes and honeypots are left out.
type Tally struct {
	Hosts    uint64                     `json:"hosts"` // that answered
	Outcomes map[finding.Outcome]uint64 `json:"outcomes"`

	Open   uint64 `json:"open"`
	EU     uint64 `json:"eu"`
	Placed uint64 `json:"placed"` // whose country is known
	Loaded uint64 `json:"loaded"` // with a model in memory

	Countries     map[string]uint64 `json:"countries"` // ISO 3166-1 alpha-2
	Providers     map[string]uint64 `json:"providers"`
	Networks      map[string]uint64 `json:"networks"`      // "AS24940 Hetzner Online"
	Models        map[string]uint64 `json:"models"`        // servers that list the model, by name
	Families      map[string]uint64 `json:"families"`      // servers that list one of the family
	Parameters    map[string]uint64 `json:"parameters"`    // models by class of parameter count
	Quantizations map[string]uint64 `json:"quantizations"` // models by quantisation
	Capabilities  map[string]uint64 `json:"capabilities"`  // servers with a model that has it
	Hardware      map[string]uint64 `json:"hardware"`      // by class
	Versions      map[string]uint64 `json:"versions"`
	Findings      map[string]uint64 `json:"findings"` // servers with the finding, by id
}
