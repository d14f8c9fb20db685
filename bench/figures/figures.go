// Package figures is the form in which a benchmark hands on what it measured,
// for a page to be drawn from. It measures nothing itself.
package figures

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
)

// File is what one run of one benchmark wrote.
type File struct {
	Machine  map[string]any    `json:"machine"`            // what it ran on
	Versions map[string]string `json:"versions,omitempty"` // program -> its version
	Commands map[string]string `json:"commands,omitempty"` // what was measured -> the command line
	Rows     []Row             `json:"rows"`
}

// Row is one figure of one round.
type Row struct {
	Bench  string  `json:"bench"`  // scan, sweep, gate, store, start
	Series string  `json:"series"` // what was measured
	X      float64 `json:"x"`
	UnitX  string  `json:"unit_x"`
	Y      float64 `json:"y"`
	UnitY  string  `json:"unit_y"`
	Round  int     `json:"round"` // rows of one round were measured one after the other
	Peer   string  `json:"peer"`  // whose figure it is
}

// Ours is the peer that the others are held against.
const Ours = "gatehouse"

// Largest is the most bytes that a file may have. A run has some hundred rows.
const Largest = 8 << 20

// Read reads what a benchmark wrote. It refuses a row that says nothing, such
// as one without a name or with a figure that is no number, and two figures for
// one thing in one round, of which one would be lost.
func Read(r io.Reader) (*File, error) {
	text, err := io.ReadAll(io.LimitReader(r, Largest+1))
	if err != nil {
		return nil, err
	}
	if len(text) > Largest {
		return nil, fmt.Errorf("more than %d bytes", Largest)
	}
	var f File
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber() // so that memory in bytes is printed as it was written
	if err := dec.Decode(&f); err != nil {
		return nil, err
	}
	if dec.More() {
		return nil, errors.New("more than one value")
	}
	if len(f.Rows) == 0 {
		return nil, errors.New("no rows")
	}
	seen := make(map[Row]int, len(f.Rows))
	for i, row := range f.Rows {
		if err := row.check(); err != nil {
			return nil, fmt.Errorf("row %d: %w", i+1, err)
		}
		row.Y = 0
		if before, ok := seen[row]; ok {
			return nil, fmt.Errorf("row %d: another figure for what row %d tells of (%s, %s, %s, round %d)", i+1, before, row.Bench, row.Series, row.Peer, row.Round)
		}
		seen[row] = i + 1
	}
	return &f, nil
}

func (r Row) check() error {
	for _, field := range []struct{ name, value string }{{"bench", r.Bench}, {"series", r.Series}, {"peer", r.Peer}, {"unit_y", r.UnitY}} {
		if strings.TrimSpace(field.value) == "" {
			return fmt.Errorf("no %s", field.name)
		}
	}
	return nil
}

// Write writes the file, a row a line, so that the next run's differences can
// be read.
func (f *File) Write(path string) error {
	var out bytes.Buffer
	out.WriteString("{")
	for _, part := range []struct {
		name  string
		value any
	}{{"machine", f.Machine}, {"versions", f.Versions}, {"commands", f.Commands}} {
		text, err := json.Marshal(part.value)
		if err != nil {
			return fmt.Errorf("write %s: %w", part.name, err)
		}
		fmt.Fprintf(&out, "%q: %s,\n ", part.name, text)
	}
	out.WriteString(`"rows": [`)
	for i, row := range f.Rows {
		text, err := json.Marshal(row)
		if err != nil {
			return fmt.Errorf("write row %d: %w", i+1, err)
		}
		if i > 0 {
			out.WriteByte(',')
		}
		fmt.Fprintf(&out, "\n  %s", text)
	}
	out.WriteString("\n]}\n")
	return os.WriteFile(path, out.Bytes(), 0o600)
}

// Counts reads a list of numbers above 0, such as 1000,10000.
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

// Version is the first line that a program says of itself when it is run with
// args; "" when it is not installed.
func Version(program string, args ...string) string {
	text, _ := exec.Command(program, args...).CombinedOutput() // what it says counts, however it ends
	line, _, _ := strings.Cut(strings.TrimSpace(string(text)), "\n")
	return line
}

// Here is the machine that this process runs on. What the system does not tell
// is left out.
func Here() map[string]any {
	m := map[string]any{
		"system": runtime.GOOS + "/" + runtime.GOARCH,
		"cores":  runtime.NumCPU(),
		"go":     runtime.Version(),
	}
	if kernel, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		m["kernel"] = strings.TrimSpace(string(kernel))
	}
	if text, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		m["cpu"] = entry(string(text), "model name")
	}
	if text, err := os.ReadFile("/proc/meminfo"); err == nil {
		if kb, err := strconv.ParseUint(strings.TrimSuffix(entry(string(text), "MemTotal"), " kB"), 10, 54); err == nil {
			m["memory"] = fmt.Sprintf("%.1f GB", float64(kb<<10)/1e9)
		}
	}
	if text, err := os.ReadFile("/etc/os-release"); err == nil {
		for line := range strings.Lines(string(text)) {
			if name, ok := strings.CutPrefix(strings.TrimSpace(line), "PRETTY_NAME="); ok {
				m["distribution"] = strings.Trim(name, `"`)
			}
		}
	}
	return m
}

// entry is the value of the first line "name : value".
func entry(text, name string) string {
	for line := range strings.Lines(text) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return ""
}
