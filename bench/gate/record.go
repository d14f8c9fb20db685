package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"gatehouse/bench/figures"
)

// record is every measurement of a run, for those who draw it.
type record struct{ figures.File }

// newRecord names the machine, and the versions of what is measured.
func (b *bench) newRecord(list []*contender) record {
	r := record{figures.File{Machine: figures.Here(), Versions: make(map[string]string)}}
	r.Versions[figures.Ours] = version(b.gatehouse, "--version")
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
	return figures.Version(path, arg)
}

func (r *record) add(series, peer string, round int, x float64, unitX string, y float64, unitY string) {
	r.Rows = append(r.Rows, figures.Row{Bench: "gate", Series: series, X: x, UnitX: unitX, Y: y, UnitY: unitY, Round: round, Peer: peer})
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
