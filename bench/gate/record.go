package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// record is every measurement of a run, for those who draw it.
type record struct {
	Machine  machine           `json:"machine"`
	Versions map[string]string `json:"versions"`
	Rows     []row             `json:"rows"`
}

type machine struct {
	CPU    string `json:"cpu"`
	Cores  int    `json:"cores"`
	MemMB  uint64 `json:"mem_mb"`
	Kernel string `json:"kernel"`
}

// row is one measurement: y at x, of one peer in one round.
type row struct {
	Bench  string  `json:"bench"`
	Series string  `json:"series"`
	Peer   string  `json:"peer"`
	Round  int     `json:"round"`
	X      float64 `json:"x"`
	UnitX  string  `json:"unit_x"`
	Y      float64 `json:"y"`
	UnitY  string  `json:"unit_y"`
}

// newRecord names the machine, and the versions of what is measured.
func (b *bench) newRecord(list []*contender) record {
	r := record{Machine: thisMachine(), Versions: map[string]string{"go": runtime.Version()}, Rows: []row{}}
	r.Versions["gatehouse"] = version(b.gatehouse, "--version")
	for _, c := range list {
		switch c.needs {
		case "nginx", "haproxy":
			r.Versions[c.needs] = version(c.needs, "-v")
		case "caddy":
			r.Versions[c.needs] = version(c.needs, "version")
		}
	}
	return r
}

// version is the first line that a program says of itself.
func version(program, arg string) string {
	path, err := lookPath(program)
	if err != nil {
		return ""
	}
	out, _ := exec.Command(path, arg).CombinedOutput() // what it says is shown either way
	line, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	return line
}

func thisMachine() machine {
	m := machine{Cores: runtime.NumCPU()}
	if f, err := os.Open("/proc/cpuinfo"); err == nil {
		defer f.Close()
		for s := bufio.NewScanner(f); s.Scan() && m.CPU == ""; {
			if name, value, ok := strings.Cut(s.Text(), ":"); ok && strings.TrimSpace(name) == "model name" {
				m.CPU = strings.TrimSpace(value)
			}
		}
	}
	if release, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		m.Kernel = strings.TrimSpace(string(release))
	}
	var info syscall.Sysinfo_t
	if syscall.Sysinfo(&info) == nil {
		m.MemMB = uint64(info.Totalram) * uint64(info.Unit) >> 20
	}
	return m
}

func (r *record) add(series, peer string, round int, x float64, unitX string, y float64, unitY string) {
	r.Rows = append(r.Rows, row{"gate", series, peer, round, x, unitX, y, unitY})
}

// load adds what one measurement of requests saw.
func (r *record) load(series, peer string, w work, round int, l load) {
	for _, v := range []struct {
		what string
		y    float64
		unit string
	}{
		{"rate", l.rate, "requests/s"},
		{"p50", l.p50.Seconds() * 1e3, "ms"},
		{"p99", l.p99.Seconds() * 1e3, "ms"},
		{"first byte", l.first.Seconds() * 1e3, "ms"},
		{"CPU", l.cpu.Seconds() * 1e6 / float64(l.requests), "µs/request"},
	} {
		r.add(series+": "+v.what, peer, round, float64(w.clients), "clients", v.y, v.unit)
	}
	if w.lines > 0 {
		r.add(series+": CPU of 1,000 lines", peer, round, float64(w.clients), "clients", l.cpu.Seconds()/float64(l.requests*w.lines)*1e3, "s")
	}
}

// write writes the record to a file; no name, no file.
func (r *record) write(path string) error {
	if path == "" {
		return nil
	}
	text, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(text, '\n'), 0o600)
}

// cpu is the processor time that a contender has used, its children's included;
// 0 for the upstream itself.
func cpu(c *contender) (sum time.Duration) {
	if c.process == nil {
		return 0
	}
	const tick = time.Second / 100 // USER_HZ, which is 100 wherever Linux runs
	for _, fields := range group(c.process.Process.Pid) {
		var user, system int64
		fmt.Sscan(fields[11], &user)
		fmt.Sscan(fields[12], &system)
		sum += time.Duration(user+system) * tick
	}
	return sum
}

// residentKB is what a process group holds now, in KiB: workers included.
func residentKB(leader int) (sum int) {
	for _, fields := range group(leader) {
		pages := 0
		fmt.Sscan(fields[21], &pages)
		sum += pages * os.Getpagesize() / 1024
	}
	return sum
}

// connections is how many files the fullest process of a group has open.
func connections(leader int) (most int) {
	for pid := range group(leader) {
		open, err := os.ReadDir(filepath.Join("/proc", pid, "fd"))
		if err == nil {
			most = max(most, len(open))
		}
	}
	return most
}

// group is /proc/PID/stat of each process of a group, by PID, from the state on.
func group(leader int) map[string][]string {
	all := make(map[string][]string)
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, stat := range stats {
		text, err := os.ReadFile(stat)
		if err != nil {
			continue // it has ended
		}
		at := strings.LastIndex(string(text), ") ")
		fields := strings.Fields(string(text[at+2:]))
		if len(fields) >= 22 && fields[2] == fmt.Sprint(leader) {
			all[filepath.Base(filepath.Dir(stat))] = fields
		}
	}
	return all
}
