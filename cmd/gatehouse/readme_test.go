package main

import (
	"fmt"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/alecthomas/kong"
	gocvss31 "github.com/pandatix/go-cvss/31"

	"gatehouse/internal/finding"
	"gatehouse/internal/ollama"
	"gatehouse/internal/ollama/ollamatest"
	"gatehouse/internal/scope"
	"gatehouse/internal/wave"
)

func readme(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// section is the text below the heading, up to the next one.
func section(t *testing.T, heading string) string {
	t.Helper()
	_, text, ok := strings.Cut(readme(t), "\n## "+heading+"\n")
	if !ok {
		t.Fatalf("README.md has no section %q", heading)
	}
	text, _, _ = strings.Cut(text, "\n## ")
	return text
}

// fences are the lines of every block with the info string.
func fences(text, info string) (blocks [][]string) {
	for _, m := range regexp.MustCompile("(?ms)^```"+info+"\n(.*?)^```$").FindAllStringSubmatch(text, -1) {
		blocks = append(blocks, strings.Split(strings.TrimSuffix(m[1], "\n"), "\n"))
	}
	return blocks
}

// rows are the cells of the tables in text, without their heads.
func rows(text string) (all [][]string) {
	for _, line := range regexp.MustCompile(`(?m)^\|.*\|$`).FindAllString(text, -1) {
		var cells []string
		for cell := range strings.SplitSeq(strings.Trim(line, "|"), "|") {
			cells = append(cells, strings.TrimSpace(cell))
		}
		if strings.Trim(cells[0], "-") == "" {
			all = all[:len(all)-1] // what stood above the rule was the head
			continue
		}
		all = append(all, cells)
	}
	return all
}

var code = regexp.MustCompile("`([^`]+)`")

// coded are the words in backquotes.
func coded(text string) (words []string) {
	for _, m := range code.FindAllStringSubmatch(text, -1) {
		words = append(words, m[1])
	}
	return words
}

// TestReadmeCommands runs every line of every sh block, in a folder of its own:
// each ends well, or with findings.
func TestReadmeCommands(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	blocks := fences(readme(t), "sh")
	if len(blocks) < 4 {
		t.Fatalf("%d blocks to run: has the fence been renamed?", len(blocks))
	}
	for _, block := range blocks {
		for _, line := range block {
			cmd := exec.CommandContext(t.Context(), "sh", "-c", line)
			cmd.Dir = dir
			cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0")
			out, err := cmd.CombinedOutput()
			if code := cmd.ProcessState.ExitCode(); code != exitOK && code != exitFindings {
				t.Errorf("%s: %v\n%s", line, err, out)
			}
			if trace.Match(out) {
				t.Errorf("%s: a stack trace\n%s", line, out)
			}
		}
	}
	for _, name := range []string{"findings.sarif", "scope.yaml", "wave.state"} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Size() == 0 {
			t.Errorf("the commands did not write %s: %v", name, err)
		}
	}
}

// TestReadmeConsole holds the commands that are shown and not run to the command
// line and the Makefile there are.
func TestReadmeConsole(t *testing.T) {
	makefile, err := os.ReadFile("../../Makefile")
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, block := range fences(readme(t), "console") {
		for _, line := range block {
			line, ok := strings.CutPrefix(line, "$ ")
			if !ok {
				t.Errorf("%q: a command in a console block begins with $", line)
			}
			line, _, _ = strings.Cut(line, "   #")
			for part := range strings.SplitSeq(line, "|") {
				words := strings.Fields(strings.NewReplacer("'", "", "sudo ", "").Replace(part))
				switch words[0] {
				case "gatehouse":
					seen++
					parse(t, words[1:])
				case "make":
					seen++
					for _, target := range words[1:] {
						if !strings.Contains("\n"+string(makefile), "\n"+target+":") {
							t.Errorf("the Makefile has no target %s", target)
						}
					}
				}
			}
		}
	}
	if seen < 8 {
		t.Errorf("%d commands were looked at: has the fence been renamed?", seen)
	}
}

// parse reports arguments that the command line does not take.
func parse(t *testing.T, args []string) {
	t.Helper()
	parser, err := kong.New(&cli{}, kong.Name("gatehouse"), vars, kong.Exit(func(int) {}))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := parser.Parse(args); err != nil {
		t.Errorf("gatehouse %s: %v", strings.Join(args, " "), err)
	}
}

// TestReadmeFlags: every flag that is named exists, and the defaults are those.
func TestReadmeFlags(t *testing.T) {
	flags := map[string]string{}
	walkCommands(model(t).Node, "", func(_ string, n *kong.Node) {
		for _, f := range n.Flags {
			flags[f.Name] = f.Default
		}
	})
	text := readme(t)
	for _, m := range regexp.MustCompile(`[\x60 (]--([a-z][a-z0-9-]*)`).FindAllStringSubmatch(text, -1) {
		if _, ok := flags[m[1]]; !ok {
			t.Errorf("README.md names --%s, which does not exist", m[1])
		}
	}
	for name, says := range map[string]struct{ is, words string }{
		"rate":         {"500", "500 connections a second, and 50"},
		"network-rate": {"50", "500 connections a second, and 50"},
		"max-time":     {"15s", "15 seconds or 8 MiB a host"},
		"max-bytes":    {"8388608", "15 seconds or 8 MiB a host"},
		"max-details":  {"8", "at most eight of the listed models"},
		"fail-on":      {"high", "(default `high`)"},
	} {
		if got := flags[name]; got != says.is || !strings.Contains(text, says.words) {
			t.Errorf("--%s is %s by default; README.md should say %q, and the test know it", name, got, says.words)
		}
	}
	for _, m := range regexp.MustCompile(`\]\(([a-zA-Z][\w./-]*)\)`).FindAllStringSubmatch(text, -1) {
		if _, err := os.Stat(filepath.Join("../..", m[1])); err != nil {
			t.Errorf("README.md links to %s: %v", m[1], err)
		}
	}
}

// TestReadmeFindings compares the table of findings with the rules, which are
// read from their source: a rule that no test street breaks counts too.
func TestReadmeFindings(t *testing.T) {
	source, err := os.ReadFile("../../internal/finding/rules.go")
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{}
	for _, m := range regexp.MustCompile(`"(ollama-[a-z-]+)", ".*",\n\s*"(CVSS:3\.1/[^"]+)"`).FindAllStringSubmatch(string(source), -1) {
		vector, err := gocvss31.ParseVector(m[2])
		if err != nil {
			t.Fatal(err)
		}
		rating, err := gocvss31.Rating(vector.BaseScore())
		if err != nil {
			t.Fatal(err)
		}
		want[m[1]] = fmt.Sprintf("%s %.1f", strings.ToLower(rating), vector.BaseScore())
	}
	if ids := regexp.MustCompile(`"ollama-[a-z-]+"`).FindAllString(string(source), -1); len(ids) != len(want) {
		t.Fatalf("%d rules are understood of %d", len(want), len(ids))
	}
	got := map[string]string{}
	for _, row := range rows(section(t, "Findings")) {
		got[strings.Trim(row[0], "`")] = row[1]
	}
	if !maps.Equal(got, want) {
		t.Errorf("findings in README.md\n%v\nin the rules\n%v", got, want)
	}
	for _, id := range regexp.MustCompile(`ollama-[a-z]+(-[a-z]+)*`).FindAllString(readme(t), -1) {
		if _, ok := want[id]; !ok {
			t.Errorf("README.md names a finding %s, which does not exist", id)
		}
	}
}

// TestReadmeLists compares what README.md lists with what there is.
func TestReadmeLists(t *testing.T) {
	var outcomes, exits, fields []string
	for _, row := range rows(section(t, "Outcomes")) {
		outcomes = append(outcomes, strings.Trim(row[0], "`"))
	}
	var want []string
	for _, o := range finding.Outcomes {
		want = append(want, string(o))
	}
	if !slices.Equal(outcomes, want) {
		t.Errorf("outcomes %v, want %v", outcomes, want)
	}
	for _, p := range ollama.Powers {
		if !strings.Contains(section(t, "Outcomes"), "`"+string(p)+"`") {
			t.Errorf("the power %s is not explained", p)
		}
	}

	for _, row := range rows(section(t, "Exit codes")) {
		exits = append(exits, row[0])
	}
	want = nil
	for _, code := range []int{exitOK, exitFailed, exitUsage, exitFindings, exitStopped} {
		want = append(want, strconv.Itoa(code))
	}
	if !slices.Equal(exits, want) {
		t.Errorf("exit codes %v, want %v", exits, want)
	}

	for _, row := range rows(section(t, "Targets and scope")) {
		fields = append(fields, strings.Trim(row[0], "`"))
	}
	want = nil
	for _, m := range regexp.MustCompile(`(?m)^([a-z_]+):`).FindAllStringSubmatch(string(scope.Template(time.Now())), -1) {
		want = append(want, m[1])
	}
	if !slices.Equal(fields, want) {
		t.Errorf("fields of a scope file %v, want %v", fields, want)
	}

	_, list, _ := strings.Cut(section(t, "How to read the hardware class"), "\nClasses: ")
	want = nil
	for gb := int64(1); gb < 1000; gb++ {
		if class := string(ollama.ClassFor(gb * 1e9)); !slices.Contains(want, class) {
			want = append(want, class)
		}
	}
	if classes := coded(list); !slices.Equal(classes, want) {
		t.Errorf("hardware classes %q, want %q", classes, want)
	}
}

// TestReadmeRecord compares the fields of a record with those of wave.Record:
// all of them, and no other.
func TestReadmeRecord(t *testing.T) {
	want := map[string]bool{}
	var add func(of reflect.Type)
	add = func(of reflect.Type) {
		for of.Kind() == reflect.Pointer || of.Kind() == reflect.Slice {
			of = of.Elem()
		}
		if of.Kind() != reflect.Struct || of == reflect.TypeFor[time.Time]() || of == reflect.TypeFor[netip.Addr]() {
			return
		}
		for i := range of.NumField() {
			f := of.Field(i)
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			if name == "" && !f.Anonymous {
				t.Errorf("%s.%s has no name in JSON", of, f.Name)
			}
			if name != "" && name != "-" {
				want[name] = true
			}
			add(f.Type)
		}
	}
	add(reflect.TypeFor[wave.Record]())

	got := map[string]bool{}
	for _, row := range rows(section(t, "Formats and records")) {
		for _, word := range coded(row[0] + " " + row[1]) {
			if !strings.HasPrefix(word, "--") {
				got[strings.TrimSuffix(word, "[]")] = true
			}
		}
	}
	for name := range want {
		if !got[name] {
			t.Errorf("README.md leaves out the field %s", name)
		}
	}
	for name := range got {
		if !want[name] {
			t.Errorf("README.md has a field %s, which no record has", name)
		}
	}
}

// TestReadmeSent compares the requests that README.md admits to with the ones
// that a simulated server gets.
func TestReadmeSent(t *testing.T) {
	text := section(t, "Looking without harm")
	admits := func(when string) (requests []string) {
		_, table, ok := strings.Cut(text, "<!-- sent: "+when+" -->\n")
		if !ok {
			t.Fatalf("no table of what is sent %s", when)
		}
		table, _, _ = strings.Cut(table, "\n\n")
		for _, row := range rows(table) {
			requests = append(requests, strings.Trim(row[0], "`"))
		}
		return requests
	}
	for _, c := range []struct {
		flags  string
		tables []string
	}{
		{"", []string{"always"}},
		{"--details", []string{"always", "details"}},
		{"--prove", []string{"always", "prove"}},
	} {
		server := ollamatest.Variant("ollama/0.17.4")
		st, err := ollamatest.One(server)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(st.Close)
		args := append([]string{"scan", "-q", st.Houses[0].Addr.String()}, strings.Fields(c.flags)...)
		if code, _, errOut := gatehouse(t, "", args...); code != exitFindings {
			t.Errorf("gatehouse %v: exit code %d: %s", args, code, errOut)
		}
		want := map[string]bool{}
		for _, table := range c.tables {
			for _, request := range admits(table) {
				want[request] = true
			}
		}
		got := slices.Sorted(maps.Keys(server.Requests()))
		if admitted := slices.Sorted(maps.Keys(want)); !slices.Equal(got, admitted) {
			t.Errorf("scan %s sends\n%q\nand README.md admits to\n%q", c.flags, got, admitted)
		}
		if harm := server.Harm(); len(harm) > 0 {
			t.Errorf("scan %s harms: %q", c.flags, harm)
		}
	}
}

// TestReadmeCheck compares what README.md shows of check with what check says of
// such a machine: the answers of a simulated server, at two addresses.
func TestReadmeCheck(t *testing.T) {
	st, err := ollamatest.One(ollamatest.Variant("ollama/system-prompt"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(st.Close)
	port := st.Houses[0].Addr.Port()

	var records []wave.Record
	var sum wave.Summary
	err = scanDemo(t.Context(), streams{}, []string{st.Houses[0].Addr.String()}, collect(&sum, &records))
	if err != nil || len(records) != 1 {
		t.Fatalf("%d records: %v", len(records), err)
	}
	records[0].Port = 11434
	onLAN := records[0]
	onLAN.Address = "192.168.1.20"
	var out strings.Builder
	both := []wave.Record{records[0], onLAN}
	if err := (&checkCmd{}).print(streams{out: &out}, sum, both, (&checkCmd{}).judge(nil, both), nil); err != nil {
		t.Fatal(err)
	}
	blocks := fences(readme(t), "text")
	if len(blocks) != 1 {
		t.Fatalf("README.md has %d text blocks, and the test knows of one", len(blocks))
	}
	if want := "\n" + strings.Join(blocks[0], "\n") + "\n"; !strings.HasPrefix(out.String(), want) {
		t.Errorf("check says\n%s\nand README.md shows\n%s", out.String(), want)
	}

	// The same by the command itself: one server on loopback alone.
	out.Reset()
	check := checkCmd{Ports: []uint16{port}, Format: "table"}
	if err := check.check(t.Context(), streams{out: &out, err: &out}, []netip.Addr{netip.MustParseAddr("127.0.0.1")}); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.String(), "LOCAL ONLY") || !strings.Contains(out.String(), "this machine only") {
		t.Errorf("check says of a server on loopback\n%s", out.String())
	}
}
