// Package rows is how benchmarks write down what they measured, for whoever
// draws it: one JSON object with the machine, the versions and a row for each
// figure of each round. It measures nothing itself.
package rows

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
)

// Report is one run of a benchmark.
type Report struct {
	Machine  Machine           `json:"machine"`
	Versions map[string]string `json:"versions"` // of the programs, by name
	Rows     []Row             `json:"rows"`
}

// Machine is what was measured on.
type Machine struct {
	CPU    string `json:"cpu"`
	Cores  int    `json:"cores"`
	Memory int64  `json:"memory_bytes"`
	Kernel string `json:"kernel"`
	Go     string `json:"go"`
}

// Row is one figure.
type Row struct {
	Bench  string  `json:"bench"`
	Series string  `json:"series"`
	X      float64 `json:"x"`
	UnitX  string  `json:"unit_x"`
	Y      float64 `json:"y"`
	UnitY  string  `json:"unit_y"`
	Round  int     `json:"round"` // from 1
	Peer   string  `json:"peer"`  // the program measured; "" is Gatehouse
}

// New returns a report on this machine with no rows.
func New() *Report {
	m := Machine{Cores: runtime.NumCPU(), Go: runtime.Version(), CPU: field("/proc/cpuinfo", "model name")}
	kb, _, _ := strings.Cut(field("/proc/meminfo", "MemTotal"), " ")
	if n, err := strconv.ParseInt(kb, 10, 64); err == nil {
		m.Memory = n << 10
	}
	if text, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		m.Kernel = string(bytes.TrimSpace(text))
	}
	return &Report{Machine: m, Versions: make(map[string]string)}
}

// field is the first value of name in a file of "name : value" lines, "" when
// there is none.
func field(path, name string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(text)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// Version notes under name the first line that program says of itself when it
// is run with args.
func (r *Report) Version(name, program string, args ...string) {
	text, err := exec.Command(program, args...).CombinedOutput()
	if len(text) == 0 && err != nil {
		return // not installed
	}
	line, _, _ := strings.Cut(strings.TrimSpace(string(text)), "\n")
	r.Versions[name] = line
}

// Add adds a row.
func (r *Report) Add(row Row) { r.Rows = append(r.Rows, row) }

// Write writes the report to a file; none for "".
func (r *Report) Write(path string) error {
	if path == "" {
		return nil
	}
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(text, '\n'), 0o644)
}

// Counts reads a list of numbers, such as 1000,10000.
func Counts(list string) (counts []int, err error) {
	for word := range strings.SplitSeq(list, ",") {
		n, err := strconv.Atoi(strings.TrimSpace(word))
		if err != nil || n < 1 {
			return nil, fmt.Errorf("%q is no number above 0", word)
		}
		counts = append(counts, n)
	}
	return counts, nil
}
