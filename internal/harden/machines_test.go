package harden

import (
	"context"
	"database/sql"
	"flag"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rogpeppe/go-internal/txtar"
)

var update = flag.Bool("update", false, "rewrite the expected verdicts and plans")

// A fixture is a machine in an archive. Its comment has a word and a value a line:
//
//	os         linux, darwin or windows
//	addresses  of the machine
//	answers    place=what it said, and @who where somebody looked from outside
//	manifests, kubeconfig, compose, here   as in Machine
//	turn       a mutation: FILE | old | new & … => the verdict then
//
// Its files are those of the machine; but run/… is what a command prints, engine/…
// what Docker answers, engine-podman/… what Podman does, …/fd/N -> the target of a link, ….sql the statements that
// make a database, and after/… what is there once the plan's commands were run.
type fixture struct {
	t       *testing.T
	name    string
	machine Machine
	answers []Answer
	turns   []string
	archive *txtar.Archive
	run     map[string]string
	engine  map[string]string
}

func openFixture(t *testing.T, archive *txtar.Archive, name string) *fixture {
	t.Helper()
	f := &fixture{t: t, name: name, archive: archive, run: map[string]string{}, engine: map[string]string{}}
	f.machine = Machine{OS: "linux", Root: t.TempDir()}
	for line := range strings.Lines(string(archive.Comment)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch key {
		case "os":
			f.machine.OS = value
		case "manifests":
			f.machine.Manifests = value
		case "kubeconfig":
			f.machine.Kubeconfig = value
		case "compose":
			f.machine.Compose = strings.Fields(value)
		case "here":
			f.machine.Here = value
		case "addresses":
			for a := range strings.FieldsSeq(value) {
				f.machine.Addresses = append(f.machine.Addresses, netip.MustParseAddr(a))
			}
		case "answers":
			for a := range strings.FieldsSeq(value) {
				place, said, _ := strings.Cut(a, "=")
				said, from, _ := strings.Cut(said, "@")
				f.answers = append(f.answers, Answer{netip.MustParseAddrPort(place), said, from})
			}
		case "turn":
			f.turns = append(f.turns, value)
		case "", "#":
		default:
			t.Fatalf("%s: %q is no line of a fixture", name, line)
		}
	}
	for _, file := range archive.Files {
		if !strings.HasPrefix(file.Name, "after/") {
			f.put(file.Name, string(file.Data))
		}
	}
	f.machine.Run = func(_ context.Context, name string, args ...string) ([]byte, error) {
		text, ok := f.run[strings.Join(append([]string{name}, args...), " ")]
		if !ok {
			return nil, fs.ErrNotExist
		}
		if text == "denied\n" {
			return nil, fs.ErrPermission
		}
		return []byte(text), nil
	}
	for _, e := range []struct{ tool, prefix string }{{"docker", ""}, {"podman", "-podman"}} {
		f.machine.Engines = append(f.machine.Engines, Engine{e.tool, func(_ context.Context, path string) ([]byte, error) {
			text, ok := f.engine[e.prefix+path]
			if !ok {
				return nil, fs.ErrNotExist
			}
			return []byte(text), nil
		}})
	}
	return f
}

// put lays a file of the archive where it belongs.
func (f *fixture) put(name, text string) {
	f.t.Helper()
	if command, ok := strings.CutPrefix(name, "run/"); ok {
		f.run[command] = text
		return
	}
	if path, ok := strings.CutPrefix(name, "engine"); ok {
		f.engine[path] = text
		return
	}
	if name == "machine/systemd" { // it is the init system
		name = "run/systemd/system/multi-user.target"
	}
	at := filepath.Join(f.machine.Root, name)
	if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
		f.t.Fatal(err)
	}
	var err error
	switch {
	case strings.Contains(name, "/fd/"):
		_ = os.Remove(at) // it may be there, from before
		err = os.Symlink(strings.TrimSpace(text), at)
	case strings.HasSuffix(name, ".sql"):
		at = strings.TrimSuffix(at, ".sql")
		_ = os.Remove(at)
		var db *sql.DB
		if db, err = sql.Open("sqlite", at); err == nil {
			_, err = db.Exec(text)
			_ = db.Close()
		}
	case strings.HasSuffix(name, "cmdline") || strings.HasSuffix(name, "environ"):
		err = os.WriteFile(at, []byte(strings.ReplaceAll(strings.TrimSpace(text), "\n", "\x00")+"\x00"), 0o644)
	default:
		err = os.WriteFile(at, []byte(text), 0o644)
	}
	if err != nil {
		f.t.Fatal(err)
	}
}

func fixtures(t *testing.T) map[string]*txtar.Archive {
	t.Helper()
	files, err := filepath.Glob("testdata/machines/*.txtar")
	if err != nil || len(files) < 40 {
		t.Fatalf("%d machines, want 40 or more: %v", len(files), err)
	}
	all := map[string]*txtar.Archive{}
	for _, file := range files {
		archive, err := txtar.ParseFile(file)
		if err != nil {
			t.Fatal(err)
		}
		all[strings.TrimSuffix(filepath.Base(file), ".txtar")] = archive
	}
	return all
}

// tell writes a verdict and a plan as the golden files have them.
func tell(v Verdict, p *Plan) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s\n", v.Level, v.Says)
	if v.Later != "" {
		fmt.Fprintf(&b, "later: %s\n", v.Later)
	}
	for _, c := range v.Causes {
		now := "now"
		if !c.Live {
			now = "later"
		}
		fmt.Fprintf(&b, "cause: %s %s %q, %s; v4 %s, v6 %s, %s", c.Kind, c.Place, c.Says, c.Means, c.V4, c.V6, now)
		if c.Behind != "" {
			fmt.Fprintf(&b, ", behind %s", c.Behind)
		}
		if c.Around != "" {
			fmt.Fprintf(&b, ", round %s", c.Around)
		}
		b.WriteString("\n")
	}
	for _, u := range v.Unseen {
		fmt.Fprintf(&b, "unseen: %s: %s; %s\n", u.What, u.Why, u.Do)
	}
	for _, s := range p.Steps {
		if s.File != nil {
			fmt.Fprintf(&b, "\n# %s\n%s", s.Why, s.File.Diff())
		} else {
			fmt.Fprintf(&b, "\n# %s\n$ %s\n", s.Why, strings.Join(s.Run.Do, " "))
		}
	}
	for _, s := range p.ByHand {
		fmt.Fprintf(&b, "\nby hand: %s\n", s)
	}
	for _, s := range p.Notes {
		fmt.Fprintf(&b, "note: %s\n", s)
	}
	return b.String()
}

func (f *fixture) judge() (Verdict, *Plan) {
	f.t.Helper()
	facts := Inspect(f.t.Context(), f.machine)
	v := facts.Judge(f.answers)
	p, err := facts.Plan(v, Options{})
	if err != nil {
		f.t.Fatal(err)
	}
	return v, p
}

// TestMachines holds verdict and plan of each machine to its golden file; the same
// machine has the same plan each time.
func TestMachines(t *testing.T) {
	for name, archive := range fixtures(t) {
		t.Run(name, func(t *testing.T) {
			f := openFixture(t, archive, name)
			v, p := f.judge()
			got := tell(v, p)
			if strings.Contains(got, f.machine.Root) {
				t.Errorf("it names the folder that the machine lies in:\n%s", got)
			}
			v2, p2 := f.judge()
			if again := tell(v2, p2); again != got {
				t.Errorf("looked at twice, it has two plans:\n%s\n%s", got, again)
			}
			golden := filepath.Join("testdata", "machines", name+".want")
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}

// TestTurns changes each cause of a machine by its mutation, and the verdict flips.
func TestTurns(t *testing.T) {
	kinds := map[Kind]bool{}
	for name, archive := range fixtures(t) {
		t.Run(name, func(t *testing.T) {
			f := openFixture(t, archive, name)
			before, _ := f.judge()
			for _, c := range before.Causes {
				kinds[c.Kind] = true
			}
			if len(f.turns) == 0 {
				t.Fatal("nothing flips its verdict")
			}
			for _, turn := range f.turns {
				edits, want, ok := strings.Cut(turn, " => ")
				if !ok {
					t.Fatalf("%q has no verdict", turn)
				}
				changed := *archive
				changed.Files = slices.Clone(archive.Files)
				for edit := range strings.SplitSeq(edits, " & ") {
					parts := strings.Split(edit, " | ")
					if len(parts) != 3 {
						t.Fatalf("%q is no edit", edit)
					}
					hit := false
					for i, file := range changed.Files {
						if file.Name == parts[0] && strings.Contains(string(file.Data), parts[1]) {
							changed.Files[i].Data = []byte(strings.ReplaceAll(string(file.Data), parts[1], parts[2]))
							hit = true
						}
					}
					if !hit {
						t.Fatalf("%q changes nothing", edit)
					}
				}
				after, _ := openFixture(t, &changed, name).judge()
				got := string(after.Level)
				if after.Later != "" {
					got += ", later " + string(after.Later)
				}
				was := string(before.Level)
				if before.Later != "" {
					was += ", later " + string(before.Later)
				}
				if got != want || got == was {
					t.Errorf("%s: the verdict was %s and is %s, want %s", edits, was, got, want)
				}
			}
		})
	}
	for _, k := range []Kind{
		UnitHost, EnvironmentHost, ProcessHost, DesktopExpose, DesktopBrowser, ContainerPublish, ContainerHost, ComposePublish, ComposeHost,
		KubeService, KubeIngress, KubeHost, ProxyOpen, TunnelOpen, AnyOrigin, Unexplained,
	} {
		if !kinds[k] {
			t.Errorf("no machine has a cause of kind %s", k)
		}
	}
}

// keeper is one whose commands do what the archive says they do.
func (f *fixture) keeper() *Keeper {
	k := &Keeper{Machine: f.machine, Dir: filepath.Join(f.t.TempDir(), "runs")}
	k.Do = func(context.Context, []string, bool) error {
		for _, file := range f.archive.Files {
			if name, ok := strings.CutPrefix(file.Name, "after/"); ok {
				f.put(name, string(file.Data))
			}
		}
		return nil
	}
	return k
}

// tree is every file of a machine with its mode and text.
func tree(t *testing.T, root string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || strings.Contains(path, "/proc/") {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		text := ""
		if info.Mode().IsRegular() {
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			text = string(b)
		}
		all[strings.TrimPrefix(path, root)] = info.Mode().String() + " " + text
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func differ(a, b map[string]string) (names []string) {
	for n := range a {
		if a[n] != b[n] {
			names = append(names, n)
		}
	}
	for n := range b {
		if _, ok := a[n]; !ok {
			names = append(names, n)
		}
	}
	slices.Sort(names)
	return names
}

// TestApplied: a second plan has no steps, and undo gives back every byte.
func TestApplied(t *testing.T) {
	for name, archive := range fixtures(t) {
		t.Run(name, func(t *testing.T) {
			f := openFixture(t, archive, name)
			before := tree(t, f.machine.Root)
			v, p := f.judge()
			k := f.keeper()
			if len(p.Steps) == 0 {
				return
			}
			if err := k.Apply(t.Context(), p); err != nil {
				t.Fatal(err)
			}
			if err := k.Finish(); err != nil {
				t.Fatal(err)
			}
			for _, s := range p.Steps {
				if s.File == nil {
					continue
				}
				if now, err := k.now(s.File.Path); err != nil || !now.equal(s.File.After, true) {
					t.Errorf("%s is not what the plan says: %v", s.File.Path, err)
				}
			}
			f.answers = nil
			v2, p2 := f.judge()
			if len(p2.Steps) > 0 {
				t.Errorf("applied, it has more to do:\n%s", tell(v2, p2))
			}
			if rank(v2.Level) > rank(v.Level) {
				t.Errorf("applied, it is %s and was %s", v2.Level, v.Level)
			}
			if err := k.Undo(t.Context()); err != nil {
				t.Fatal(err)
			}
			if d := differ(before, tree(t, f.machine.Root)); len(d) > 0 {
				t.Errorf("undone, these are not as they were: %q", d)
			}
		})
	}
}

// TestGate: with the gate in front, a proxy leads to it, and its first key is made
// before it starts; where it cannot be a service, that is told.
func TestGate(t *testing.T) {
	all := fixtures(t)
	for _, name := range []string{"nginx-open", "caddy-open", "haproxy-open", "systemd-dropin-lan"} {
		f := openFixture(t, all[name], name)
		facts := Inspect(t.Context(), f.machine)
		opt := Options{Gate: true, Program: "/usr/bin/gatehouse", Unit: []byte("ExecStart=/usr/local/bin/gatehouse gate\n"), State: "/var/lib/gatehouse"}
		p, err := facts.Plan(facts.Judge(nil), opt)
		if err != nil {
			t.Fatal(err)
		}
		golden := filepath.Join("testdata", "gate", name+".want")
		got := tell(Verdict{}, p)
		if *update {
			if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if want, err := os.ReadFile(golden); err != nil || got != string(want) {
			t.Errorf("%s: %v, got\n%s\nwant\n%s", name, err, got, want)
		}
		opt.Program = "/home/anna/gatehouse"
		if _, err := facts.Plan(facts.Judge(nil), opt); err != ErrNotPlaced {
			t.Errorf("a program in a home is made a service: %v", err)
		}
	}
	f := openFixture(t, all["profile"], "profile")
	facts := Inspect(t.Context(), f.machine)
	if _, err := facts.Plan(facts.Judge(nil), Options{Gate: true, Program: "/usr/bin/gatehouse"}); err != ErrNoService {
		t.Errorf("a service without systemd: %v", err)
	}
}

// TestFromOutside: what somebody sees from outside counts more than any rule that
// was read, stands first among the reasons, and what was not asked is not closed.
func TestFromOutside(t *testing.T) {
	all := fixtures(t)
	at := netip.MustParseAddrPort
	public, public6, router := at("78.46.10.20:11434"), at("[2a01:4f8:1:2::1]:11434"), at("203.0.113.9:11434")
	for _, c := range []struct {
		name    string
		answers []Answer
		want    Level
		says    string
		first   string // of the causes: its kind, and what was seen
	}{
		{"nft-both-families", nil, Guarded, "a firewall alone stands before Ollama", "unit-host"},
		// The rules that were read keep it out, and somebody got in all the same.
		{"nft-both-families", []Answer{{public, "open", "there:1"}}, OpenToInternet, "Ollama answers there:1 at 78.46.10.20:11434, without a lock.", "unit-host there:1 gets in at 78.46.10.20:11434"},
		{"nft-both-families", []Answer{{public, "silent", "there:1"}}, Guarded, "; there:1 gets no answer at 78.46.10.20:11434.", "unit-host there:1 gets no answer at 78.46.10.20:11434"},
		{"process-by-hand", []Answer{{public, "open", ""}, {public6, "open", ""}}, OpenToInternet, "from anywhere", "process-host"},
		// IPv6 was not asked.
		{"process-by-hand", []Answer{{public, "open", ""}, {public6, "open", ""}, {public, "silent", "there:1"}}, OpenToInternet, "from anywhere, without a lock; there:1 gets no answer at 78.46.10.20:11434.", "process-host there:1 gets no answer at 78.46.10.20:11434: something that does not show here keeps it out"},
		{"process-by-hand", []Answer{{public, "open", ""}, {public6, "open", ""}, {public, "silent", "there:1"}, {public6, "refused", "there:1"}}, OpenToNetwork, "on this machine's network, without a lock; there:1 gets no answer at 78.46.10.20:11434; there:1 is refused at [2a01:4f8:1:2::1]:11434.", "process-host"},
		{"process-by-hand", []Answer{{public, "guarded", ""}, {public6, "guarded", ""}}, Guarded, "asks for credentials", ""},
		{"no-ollama", []Answer{{at("192.168.1.20:8080"), "open", ""}}, OpenToNetwork, "network", "unexplained"},
		{"no-ollama", []Answer{{at("192.168.1.20:8080"), "open", "there:1"}}, OpenToNetwork, "Ollama answers there:1 at 192.168.1.20:8080", "outside-open"},
		// Nothing of the set-up leads there, and from inside all looks local.
		{"no-ollama", []Answer{{at("127.0.0.1:11434"), "open", ""}, {router, "open", "there:1"}}, OpenToInternet, "Ollama answers there:1 at 203.0.113.9:11434, without a lock.", "outside-open"},
		{"no-ollama", []Answer{{at("127.0.0.1:11434"), "open", ""}, {router, "refused", "there:1"}}, LocalOnly, "on loopback and nowhere else.", ""},
		// A vantage on this very machine is nobody outside.
		{"no-ollama", []Answer{{at("127.0.0.1:11434"), "open", ""}, {at("127.0.0.1:11434"), "open", "127.0.0.1:7443"}}, LocalOnly, "loopback", ""},
	} {
		f := openFixture(t, all[c.name], c.name)
		f.answers = c.answers
		v, p := f.judge()
		if v.Open() && p.Empty() {
			t.Errorf("%s with %v: %s, and nothing to do about it", c.name, c.answers, v.Level)
		}
		first := ""
		if len(v.Causes) > 0 {
			first = strings.TrimSpace(string(v.Causes[0].Kind) + " " + v.Causes[0].Seen)
		}
		if v.Level != c.want || !strings.Contains(v.Says, c.says) || !strings.HasPrefix(first, c.first) || c.first == "" && len(c.answers) > 0 && first != "" {
			t.Errorf("%s with %v: %s: %s\nfirst cause: %s\nwant %s: %s\nfirst cause: %s", c.name, c.answers, v.Level, v.Says, first, c.want, c.says, c.first)
		}
	}
}

// TestManyContainers: what a machine with fifty containers and thirty addresses is
// asked does not grow but by one question a container, and those are asked eight at
// a time: an engine that takes 100 ms for each is read within what check gives it.
func TestManyContainers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const containers, each = 50, 100 * time.Millisecond
		m := Machine{OS: "linux", Root: t.TempDir()}
		for i := range 30 {
			m.Addresses = append(m.Addresses, netip.AddrFrom4([4]byte{10, 0, 0, byte(i + 1)}))
		}
		var asked, now, most atomic.Int32
		ask := func(ctx context.Context, path string) ([]byte, error) {
			asked.Add(1)
			for n, high := now.Add(1), most.Load(); n > high && !most.CompareAndSwap(high, n); high = most.Load() {
			}
			defer now.Add(-1)
			select {
			case <-ctx.Done():
				return nil, ctx.Err()
			case <-time.After(each):
			}
			if path == "/containers/json" {
				return []byte("[" + strings.TrimSuffix(strings.Repeat(`{"Id":"0123456789ab"},`, containers), ",") + "]"), nil
			}
			return []byte(`{"Id":"0123456789ab","Name":"/ai","State":{"Running":true},"Config":{"Image":"ollama/ollama"},
				"HostConfig":{"PortBindings":{"11434/tcp":[{"HostIp":"","HostPort":"11434"}]}},
				"NetworkSettings":{"Ports":{"11434/tcp":[{"HostIp":"0.0.0.0","HostPort":"11434"}]}}}`), nil
		}
		m.Engines = []Engine{{Tool: "docker", Ask: ask}}
		ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
		defer cancel()
		began := time.Now()
		facts := Inspect(ctx, m)
		if took, want := time.Since(began), each*(1+(containers+7)/8); took != want {
			t.Errorf("it takes %v of waiting, want %v", took, want)
		}
		if asked.Load() != 1+containers || most.Load() != 8 {
			t.Errorf("%d questions, %d at a time", asked.Load(), most.Load())
		}
		if len(facts.Causes) == 0 || len(facts.Unseen) > 0 || !slices.Equal(facts.Ports(), []uint16{11434}) {
			t.Errorf("causes %v, unseen %v, ports %v", facts.Causes, facts.Unseen, facts.Ports())
		}
	})
}
