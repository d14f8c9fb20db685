package gatehouse_test

import (
	"cmp"
	"fmt"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// The house: every package under internal/ and the packages of ours that it may
// import. A new room, or a new arrow, is added here, and the commit says why.
// Tests may import what they like; cmd/gatehouse wires all rooms and imports any.
var house = map[string]struct {
	wing  wing
	rooms string
}{
	"ollama": {shared, ""},
	"flock":  {shared, ""},       // locks on files, which differ from system to system
	"deploy": {shared, "ollama"}, // its newest release, and what is a name of a model

	"scope":    {looking, ""},
	"target":   {looking, "scope"},
	"sweep":    {looking, "target scope"},
	"evidence": {looking, ""},
	"probe":    {looking, "target scope evidence ollama"},
	"finding":  {looking, "evidence ollama"},
	"owner":    {looking, "evidence"},
	"dataset":  {looking, "evidence ollama finding"},                                      // others' exports, as evidence; our own hold verdicts
	"wave":     {looking, "scope target sweep probe evidence finding owner ollama flock"}, // classes of what models state

	"vantage": {looking, "scope target probe finding"}, // one place, and what it turned out to be

	"key":      {locking, "ollama"}, // terms name powers
	"policy":   {locking, "key ollama"},
	"limit":    {locking, "key"},
	"upstream": {locking, "ollama"}, // reads /api/tags and /api/ps; the gateway has it as an http.Handler
	"connect":  {locking, "ollama"}, // refuses in the dialect of the program that asks
	"ledger":   {locking, "flock"},
	"gateway":  {locking, "key policy limit ledger ollama"},
	"tailnet":  {locking, "key"}, // whose a machine is, as the door asks it

	"harden": {shared, "ollama flock"}, // two changes of one machine at a time would mix

	// These join the wings, which know nothing of them.
	"notice": {joint, ""}, // delivers what others composed

	"store":   {joint, "wave key ledger ollama evidence finding owner target flock notice"}, // terms name powers; what a record is made of
	"fleet":   {joint, "wave limit store"},
	"report":  {joint, "wave ledger finding evidence owner sweep"}, // the account of a raw sweep
	"console": {joint, "wave ledger report"},

	// The test rig. The simulator is in the product too, for `gatehouse demo`.
	"ollama/ollamatest":   {rig, "ollama"},
	"ollama/realollama":   {rig, ""},
	"store/postgrestest":  {rig, ""}, // databases and servers for tests
	"e2e":                 {rig, ""}, // tests alone: the program by its front door
	"tailnet/tailnettest": {rig, ""}, // a tailnet on loopback
}

type wing int

const (
	shared  wing = iota // either wing may import it
	looking             // for open doors
	locking             // them
	joint
	rig
)

const internal = "gatehouse/internal/"

// stray says what is wrong with a package's importing another, "" when nothing
// is. Both are import paths.
func stray(from, to string) string {
	room, ours := strings.CutPrefix(to, internal)
	if !ours {
		return ""
	}
	if _, ok := house[room]; !ok {
		return fmt.Sprintf("%s imports %s, a room that the house does not have: list it in house_test.go and say why", from, room)
	}
	importer, inside := strings.CutPrefix(from, internal)
	switch {
	case room == "ollama/realollama" || room == "store/postgrestest":
		return fmt.Sprintf("%s imports %s, which only tests may", from, room)
	case !inside:
		return "" // cmd and bench
	}
	rules, ok := house[importer]
	if !ok {
		return fmt.Sprintf("%s is a room that the house does not have: list it in house_test.go and say why", importer)
	}
	if !slices.Contains(strings.Fields(rules.rooms), room) {
		return fmt.Sprintf("%s imports %s; it may import: %s. If it has to, add the arrow in house_test.go and say why",
			importer, room, cmp.Or(rules.rooms, "none of our rooms"))
	}
	return ""
}

// TestArrows holds every import in the tree against the house, whatever system
// its file is built for.
func TestArrows(t *testing.T) {
	seen := make(map[string]bool)
	tree := os.DirFS(".")
	err := fs.WalkDir(tree, ".", func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == "testdata" || len(file) > 1 && file[0] == '.') {
			return fs.SkipDir
		}
		if !strings.HasSuffix(file, ".go") {
			return nil
		}
		pkg := path.Join("gatehouse", path.Dir(file))
		room, inside := strings.CutPrefix(pkg, internal)
		if _, ok := house[room]; inside && !ok && !seen[room] {
			t.Errorf("%s is a room that the house does not have: list it in house_test.go and say why", room)
		}
		seen[room] = true
		if strings.HasSuffix(file, "_test.go") {
			return nil
		}
		source, err := fs.ReadFile(tree, file)
		if err != nil {
			return err
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), file, source, parser.ImportsOnly)
		if err != nil {
			return err
		}
		for _, spec := range parsed.Imports {
			to, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return err
			}
			if wrong := stray(pkg, to); wrong != "" {
				t.Errorf("%s: %s", file, wrong)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, room := range []string{"ollama", "scope", "wave"} {
		if !seen[room] {
			t.Errorf("no file of %s was looked at", room)
		}
	}
}

// TestWings holds the house itself to its first rule: by no way, however long,
// does one wing lead into the other.
func TestWings(t *testing.T) {
	other := map[wing]wing{looking: locking, locking: looking}
	for _, room := range slices.Sorted(maps.Keys(house)) {
		reached := []string{room}
		for i := 0; i < len(reached); i++ {
			for _, next := range strings.Fields(house[reached[i]].rooms) {
				if _, ok := house[next]; !ok {
					t.Errorf("%s may import %s, which is no room", reached[i], next)
				}
				if !slices.Contains(reached, next) {
					reached = append(reached, next)
				}
			}
		}
		for _, end := range reached[1:] {
			from, to := house[room].wing, house[end].wing
			if away, winged := other[from]; winged && (to == away || to == joint || to == rig) {
				t.Errorf("%s leads to %s, out of its wing: %v", room, end, reached)
			}
			if from == shared && to != shared {
				t.Errorf("%s is shared and leads to %s, which is not", room, end)
			}
		}
	}
}

// TestPlainBuild: what only the tag tailnet needs is in no other program, and no
// program has it together with Tailscale's PeerAPI, which would listen on every
// address of the machine.
func TestPlainBuild(t *testing.T) {
	list := func(tags string) string {
		t.Helper()
		out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", "-tags", tags, "./cmd/gatehouse").Output()
		if err != nil {
			t.Fatal(err)
		}
		return string(out)
	}
	plain, open, tailnet := list(""), list("tailnet"), list("tailnet,ts_omit_peerapiserver")
	for _, foreign := range []string{"\ntailscale.com/", "\ngvisor.dev/", "\ngithub.com/tailscale/"} {
		if strings.Contains(plain, foreign) || strings.Contains(open, foreign) {
			t.Errorf("the plain program imports %s", strings.TrimSpace(foreign))
		}
		if !strings.Contains(tailnet, foreign) {
			t.Errorf("the program for the tailnet imports no %s: has it been renamed?", strings.TrimSpace(foreign))
		}
	}
}

func TestStray(t *testing.T) {
	for _, c := range []struct{ from, to, want string }{
		{"gatehouse/internal/target", "gatehouse/internal/scope", ""},
		{"gatehouse/internal/target", "net/netip", ""},
		{"gatehouse/cmd/gatehouse", "gatehouse/internal/wave", ""},
		{"gatehouse/cmd/gatehouse", "gatehouse/internal/ollama/ollamatest", ""},
		{"gatehouse/internal/scope", "gatehouse/internal/target", "may import: none of our rooms"},
		{"gatehouse/internal/probe", "gatehouse/internal/key", "may import: target scope evidence ollama"},
		{"gatehouse/internal/wave", "gatehouse/internal/ollama/ollamatest", "may import"},
		{"gatehouse/cmd/gatehouse", "gatehouse/internal/ollama/realollama", "only tests"},
		{"gatehouse/internal/key", "gatehouse/internal/tailnet", "may import: ollama"},
		{"gatehouse/internal/scope", "gatehouse/internal/util", "does not have"},
		{"gatehouse/internal/util", "gatehouse/internal/scope", "util is a room that the house does not have"},
	} {
		got := stray(c.from, c.to)
		if (got == "") != (c.want == "") || !strings.Contains(got, c.want) {
			t.Errorf("%s -> %s: %q, want %q", c.from, c.to, got, c.want)
		}
	}
}
