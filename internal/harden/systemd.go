package harden

import (
	"cmp"
	"maps"
	"path"
	"slices"
	"strings"
)

// unitDirs are where systemd looks for system units, in the order in which a file
// hides those of its name that come after it (systemd.unit(5)).
var unitDirs = []string{
	"/etc/systemd/system", "/run/systemd/system", "/usr/local/lib/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system",
}

// unit is a service as systemd merges it from its file and its drop-ins.
type unit struct {
	name   string
	user   string // whose user unit it is; "" for the system's
	files  []string
	env    map[string]assignment
	exec   []assignment
	files2 []envFile
	unset  []string
	runs   bool // its commands run ollama serve
}

type assignment struct {
	value string
	at    Place
}

type envFile struct {
	path     string
	optional bool
	at       Place
}

// readUnits finds the services that run Ollama, in the system's folders and in
// those of its people.
func (l *look) readUnits() {
	l.systemd = l.Run != nil && l.exists("/run/systemd/system")
	l.readUnitsOf("", unitDirs)
	for _, home := range l.homes() {
		l.readUnitsOf(home, []string{home + "/.config/systemd/user"})
	}
	l.readUnitsOf("everybody", []string{"/etc/systemd/user", "/usr/lib/systemd/user"})
}

func (l *look) readUnitsOf(user string, dirs []string) {
	names := map[string]bool{}
	real := map[string]bool{} // /lib is /usr/lib on most machines
	var lookIn []string
	for _, dir := range dirs {
		if r := l.real(dir); !real[r] {
			real[r] = true
			lookIn = append(lookIn, dir)
		}
		for _, name := range l.list(dir) {
			if service, ok := strings.CutSuffix(name, ".service"); ok && service != "" {
				names[name] = true
			}
			if service, ok := strings.CutSuffix(name, ".service.d"); ok && service == "ollama" {
				names["ollama.service"] = true
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		u := l.unit(name, lookIn)
		if u == nil || !u.runs {
			continue
		}
		u.user = user
		l.Facts.units = append(l.Facts.units, u)
		l.Ollama = append(l.Ollama, u.name)
		l.judgeUnit(u)
	}
}

// unit merges a unit; nil where it is masked or not there.
func (l *look) unit(name string, dirs []string) *unit {
	u := &unit{name: name, env: map[string]assignment{}}
	for _, dir := range dirs {
		file := path.Join(dir, name)
		if !l.exists(file) {
			continue
		}
		text, ok := l.read(file)
		if !ok || len(text) == 0 {
			return nil // masked: a link to /dev/null, or empty
		}
		u.merge(file, text)
		break
	}
	if len(u.files) == 0 {
		return nil
	}
	// A cheap look first: most services of a machine have nothing to do with Ollama.
	if !strings.Contains(name, "ollama") && !u.mentions() {
		return nil
	}
	for _, file := range l.dropins(name, dirs) {
		if text, ok := l.read(file); ok {
			u.merge(file, text)
		}
	}
	for _, f := range u.files2 {
		for _, file := range l.glob(f.path) {
			text, ok := l.read(file)
			if !ok {
				continue
			}
			for _, a := range environmentFile(text) {
				u.env[a.key] = assignment{a.value, Place{file, a.line}}
			}
		}
	}
	for _, a := range u.exec {
		words := words(a.value)
		for i, w := range words {
			if path.Base(strings.TrimLeft(w, "-@:+!")) == "ollama" && (i+1 < len(words) && words[i+1] == "serve") || strings.Contains(w, "ollama serve") {
				u.runs = true
			}
			for _, name := range []string{"OLLAMA_HOST", "OLLAMA_ORIGINS"} { // env NAME=value ollama serve, or in a shell's line
				if _, rest, ok := strings.Cut(" "+w, " "+name+"="); ok {
					value, _, _ := strings.Cut(rest, " ")
					u.env[name] = assignment{strings.Trim(value, `"'`), a.at}
				}
			}
		}
	}
	for _, name := range u.unset {
		delete(u.env, name)
	}
	return u
}

func (u *unit) mentions() bool {
	return slices.ContainsFunc(u.exec, func(a assignment) bool { return strings.Contains(a.value, "ollama") })
}

// dropins lists the drop-ins of a unit in the order in which systemd reads them:
// by file name, whatever their folder, and of two with one name the one that comes
// first in dirs, and of a more special folder before a more general one.
func (l *look) dropins(name string, dirs []string) []string {
	folders := []string{name + ".d"}
	for i := len(name) - len(".service") - 1; i > 0; i-- {
		if name[i] == '-' {
			folders = append(folders, name[:i+1]+".service.d")
		}
	}
	folders = append(folders, "service.d")
	byName := map[string]string{}
	for _, folder := range folders {
		for _, dir := range dirs {
			for _, file := range l.list(path.Join(dir, folder)) {
				if strings.HasSuffix(file, ".conf") && byName[file] == "" {
					byName[file] = path.Join(dir, folder, file)
				}
			}
		}
	}
	var files []string
	for _, base := range slices.Sorted(maps.Keys(byName)) {
		files = append(files, byName[base])
	}
	return files
}

// glob is what an EnvironmentFile= names.
func (l *look) glob(pattern string) []string {
	if !strings.ContainsAny(pattern, "*?[") {
		return []string{pattern}
	}
	var files []string
	for _, name := range l.list(path.Dir(pattern)) {
		if ok, err := path.Match(path.Base(pattern), name); ok && err == nil {
			files = append(files, path.Join(path.Dir(pattern), name))
		}
	}
	return files
}

// merge reads one file of a unit over what was read before.
func (u *unit) merge(file string, text []byte) {
	u.files = append(u.files, file)
	section := ""
	for _, ln := range unitLines(text) {
		if strings.HasPrefix(ln.text, "[") && strings.HasSuffix(ln.text, "]") {
			section = ln.text
			continue
		}
		key, value, ok := strings.Cut(ln.text, "=")
		if !ok || section != "[Service]" {
			continue
		}
		value = strings.TrimSpace(value)
		at := Place{file, ln.n}
		switch strings.TrimSpace(key) {
		case "Environment":
			if value == "" {
				clear(u.env)
			}
			for _, w := range words(value) {
				if k, v, ok := strings.Cut(w, "="); ok {
					u.env[k] = assignment{v, at}
				}
			}
		case "EnvironmentFile":
			name, optional := strings.CutPrefix(value, "-")
			if value == "" {
				u.files2 = nil
			} else {
				u.files2 = append(u.files2, envFile{name, optional, at})
			}
		case "UnsetEnvironment":
			if value == "" {
				u.unset = nil
			}
			u.unset = append(u.unset, words(value)...)
		case "ExecStart":
			if value == "" {
				u.exec = nil
			} else {
				u.exec = append(u.exec, assignment{value, at})
			}
		}
	}
}

// unitLines are the lines that say something, each with those it goes on in. The
// number is that of the first.
func unitLines(text []byte) []line {
	var all []line
	open := false
	for _, ln := range linesOf(text) {
		s := strings.TrimSpace(ln.text)
		if s == "" && !open || strings.HasPrefix(s, "#") || strings.HasPrefix(s, ";") {
			continue
		}
		more := strings.HasSuffix(s, `\`)
		s = strings.TrimSuffix(s, `\`)
		if open {
			all[len(all)-1].text += " " + s
		} else {
			all = append(all, line{ln.n, s})
		}
		open = more
	}
	for i := range all {
		all[i].text = strings.TrimSpace(all[i].text)
	}
	return all
}

// words splits as systemd does: quotes group and go, a backslash takes the next
// character as it is.
func words(s string) (list []string) {
	var word strings.Builder
	var quote rune
	any, escaped := false, false
	for _, r := range s {
		switch {
		case escaped:
			word.WriteRune(r)
			escaped = false
		case r == '\\' && quote != '\'':
			escaped, any = true, true
		case quote != 0:
			if r == quote {
				quote = 0
			} else {
				word.WriteRune(r)
			}
		case r == '"' || r == '\'':
			quote, any = r, true
		case r == ' ' || r == '\t':
			if any {
				list = append(list, word.String())
			}
			word.Reset()
			any = false
		default:
			word.WriteRune(r)
			any = true
		}
	}
	if any {
		list = append(list, word.String())
	}
	return list
}

// pair is a setting in a file, with its line and the line's text.
type pair struct {
	key, value string
	line       int
	text       string
}

// environmentFile reads what EnvironmentFile= names, and .env files.
func environmentFile(text []byte) (pairs []pair) {
	for _, ln := range linesOf(text) {
		s := strings.TrimSpace(ln.text)
		if s == "" || s[0] == '#' || s[0] == ';' {
			continue
		}
		k, v, ok := strings.Cut(strings.TrimPrefix(s, "export "), "=")
		if ok {
			v = strings.TrimSpace(v)
			if len(v) > 1 && (v[0] == '"' || v[0] == '\'') && v[len(v)-1] == v[0] {
				v = v[1 : len(v)-1]
			}
			pairs = append(pairs, pair{strings.TrimSpace(k), v, ln.n, ln.text})
		}
	}
	return pairs
}

// judgeUnit says what of a unit lets others in.
func (l *look) judgeUnit(u *unit) {
	host, origins := u.env["OLLAMA_HOST"], u.env["OLLAMA_ORIGINS"]
	if _, ok := u.env["OLLAMA_HOST"]; !ok && u.user == "" {
		host = l.managerDefault("OLLAMA_HOST")
	}
	if d, outside := doorOf(host.value); outside && host.value != "" {
		l.cause(Cause{
			Kind: UnitHost, Place: host.at, Says: "OLLAMA_HOST=" + host.value, Means: hostMeans(host.value) + " (" + u.name + ")",
			Doors: []Door{d}, unit: u,
		})
	}
	if anyOrigin(origins.value) {
		l.cause(Cause{
			Kind: AnyOrigin, Place: origins.at, Says: "OLLAMA_ORIGINS=" + origins.value,
			Means: "any web page may call the API from a visitor's browser (" + u.name + ")", Pages: true, Live: l.running(u), unit: u,
		})
	}
}

func (l *look) running(u *unit) bool {
	return slices.ContainsFunc(l.processes, func(p process) bool {
		return p.ollama() && p.container == "" && (p.unit == "" || p.unit == u.name)
	})
}

// managerDefault is what system.conf gives to every service.
func (l *look) managerDefault(name string) (a assignment) {
	files := []string{"/etc/systemd/system.conf"}
	for _, f := range l.list("/etc/systemd/system.conf.d") {
		files = append(files, "/etc/systemd/system.conf.d/"+f)
	}
	for _, file := range files {
		text, _ := l.read(file)
		for _, ln := range unitLines(text) {
			value, ok := strings.CutPrefix(ln.text, "DefaultEnvironment=")
			if !ok {
				continue
			}
			for _, w := range words(value) {
				if k, v, ok := strings.Cut(w, "="); ok && k == name {
					a = assignment{v, Place{file, ln.n}}
				}
			}
		}
	}
	return a
}

// dropinDir is where a drop-in of ours goes.
func (u *unit) dropinDir() string {
	switch u.user {
	case "":
		return "/etc/systemd/system/" + u.name + ".d"
	case "everybody":
		return "/etc/systemd/user/" + u.name + ".d"
	}
	return u.user + "/.config/systemd/user/" + u.name + ".d"
}

// last is a name for a drop-in that systemd reads after all the others.
func (u *unit) last() string {
	name := "zz-gatehouse.conf"
	for _, f := range u.files {
		for path.Dir(f) != "." && strings.HasSuffix(f, ".conf") && path.Base(f) != "zz-gatehouse.conf" && cmp.Compare(path.Base(f), name) >= 0 {
			name = "z" + name
		}
	}
	return name
}
