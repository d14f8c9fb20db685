package harden

import (
	"bytes"
	"encoding/csv"
	"encoding/xml"
	"errors"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"path"
	"strconv"
	"strings"
)

// What macOS and Windows keep elsewhere. It is read from files and from what the
// systems' own programs print, so it is tested on any of them.

func (l *look) darwinListeners(out printout) []Listener {
	text, err := out.get("lsof -nP -iTCP -sTCP:LISTEN -FpcnT")
	if err != nil && len(text) == 0 { // lsof ends with 1 where it finds nothing
		l.unseen("who listens", "lsof does not say", "look at lsof -nP -iTCP -sTCP:LISTEN")
		return nil
	}
	var all []Listener
	var s Listener
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if line == "" {
			continue
		}
		switch value := line[1:]; line[0] {
		case 'p':
			s = Listener{}
			s.PID, _ = strconv.Atoi(value)
		case 'c':
			s.Program = strings.ToLower(value)
		case 'n':
			if addr, port, ok := hostPort(value); ok {
				all = append(all, Listener{Addr: addr, Port: port, PID: s.PID, Program: s.Program})
			}
		}
	}
	for _, s := range all {
		if s.Program == "ollama" {
			l.Ollama = append(l.Ollama, "process "+strconv.Itoa(s.PID))
		}
	}
	return all
}

// hostPort reads *:11434, 127.0.0.1:11434 and [::1]:11434.
func hostPort(s string) (netip.Addr, uint16, bool) {
	host, port, err := net.SplitHostPort(s)
	n, err2 := strconv.ParseUint(port, 10, 16)
	if err != nil || err2 != nil {
		return netip.Addr{}, 0, false
	}
	if host == "*" || host == "" {
		return netip.IPv6Unspecified(), uint16(n), true
	}
	addr, err := netip.ParseAddr(host)
	return addr.WithZone(""), uint16(n), err == nil
}

// readDarwin reads launchd's environment and its property lists.
func (l *look) readDarwin(out printout) {
	for _, name := range []string{"OLLAMA_HOST", "OLLAMA_ORIGINS"} {
		text, err := out.get("launchctl getenv " + name)
		if value := strings.TrimSpace(string(text)); err == nil && value != "" {
			l.setting(name, value, Place{File: "launchctl getenv " + name}, nil,
				"launchctl setenv "+name+" "+closedValue(name, value)+", then quit and open Ollama")
		}
	}
	dirs := []string{"/Library/LaunchDaemons", "/Library/LaunchAgents"}
	for _, home := range l.homes() {
		dirs = append(dirs, home+"/Library/LaunchAgents")
	}
	for _, dir := range dirs {
		for _, name := range l.list(dir) {
			if !strings.HasSuffix(name, ".plist") {
				continue
			}
			file := path.Join(dir, name)
			text, ok := l.read(file)
			if !ok || !bytes.Contains(text, []byte("OLLAMA_")) {
				continue
			}
			if bytes.HasPrefix(text, []byte("bplist")) {
				l.unseen(file, "it is a binary property list", "plutil -convert xml1 -o - '"+file+"'")
				continue
			}
			for _, v := range plistStrings(text) {
				l.setting(v.key, v.value, Place{file, v.line}, v.edit(closedValue(v.key, v.value)), "launchctl unload '"+file+"' && launchctl load '"+file+"'")
			}
		}
	}
	l.readProfiles("/etc/zshenv", "/etc/zprofile", "/etc/profile")
}

func closedValue(name, value string) string {
	if name == "OLLAMA_HOST" {
		return onLoopback(value)
	}
	return narrowed(value)
}

// plistString is a setting of Ollama's in a property list.
type plistString struct {
	key, value string
	line       int
	from, to   int // of the value in the text
}

func (v plistString) edit(by string) func([]byte) ([]byte, error) {
	return func(text []byte) ([]byte, error) {
		if v.to > len(text) || string(text[v.from:v.to]) != v.value {
			return nil, errChanged(v.line)
		}
		return bytes.Join([][]byte{text[:v.from], text[v.to:]}, []byte(by)), nil
	}
}

// plistStrings finds <key>OLLAMA_…</key><string>…</string>, and NAME=value among
// the arguments of a shell or of launchctl setenv.
func plistStrings(text []byte) (found []plistString) {
	d := xml.NewDecoder(bytes.NewReader(text))
	d.Strict = false
	element, before := "", "" // before is the string or key before this one
	for {
		start := int(d.InputOffset())
		t, err := d.Token()
		if err != nil {
			return found
		}
		switch t := t.(type) {
		case xml.StartElement:
			element = t.Name.Local
		case xml.EndElement:
			element = ""
		case xml.CharData:
			if element != "key" && element != "string" {
				continue
			}
			s, end := string(t), int(d.InputOffset())
			switch {
			case before == "OLLAMA_HOST" || before == "OLLAMA_ORIGINS":
				found = append(found, plistString{before, s, lineOf(text, start), start, end})
			case element == "string":
				for _, name := range []string{"OLLAMA_HOST", "OLLAMA_ORIGINS"} {
					if i := strings.Index(s, name+"="); i >= 0 {
						v, _, _ := strings.Cut(s[i+len(name)+1:], " ")
						from := start + i + len(name) + 1
						found = append(found, plistString{name, v, lineOf(text, from), from, from + len(v)})
					}
				}
			}
			before = s
		}
	}
}

// readWindows reads the environment of the user and of the system.
func (l *look) readWindows(out printout) {
	for _, key := range []string{`HKCU\Environment`, `HKLM\SYSTEM\CurrentControlSet\Control\Session Manager\Environment`} {
		command := "reg query " + key
		if strings.Contains(key, " ") {
			command = `reg query "` + key + `"`
		}
		text, err := out.get(command)
		if err != nil {
			if !errors.Is(err, fs.ErrNotExist) {
				l.unseen(key, err.Error(), command)
			}
			continue
		}
		for line := range strings.Lines(string(text)) {
			f := strings.Fields(line)
			if len(f) < 3 || f[0] != "OLLAMA_HOST" && f[0] != "OLLAMA_ORIGINS" {
				continue
			}
			value := strings.Join(f[2:], " ")
			set := "setx " + f[0] + ` "` + closedValue(f[0], value) + `"`
			if strings.HasPrefix(key, "HKLM") {
				set += " /M"
			}
			l.setting(f[0], value, Place{File: key}, nil, set+", then quit Ollama in the tray and start it again")
		}
	}
}

func (l *look) windowsListeners(out printout) []Listener {
	programs := map[int]string{}
	if text, err := out.get("tasklist /fo csv /nh"); err == nil {
		r := csv.NewReader(bytes.NewReader(text))
		r.FieldsPerRecord = -1
		for {
			row, err := r.Read()
			if err == io.EOF || err != nil && len(row) == 0 {
				break
			}
			if len(row) > 1 {
				pid, _ := strconv.Atoi(row[1])
				programs[pid] = strings.TrimSuffix(strings.ToLower(row[0]), ".exe")
			}
		}
	}
	var all []Listener
	for _, command := range []string{"netstat -ano -p TCP", "netstat -ano -p TCPv6"} {
		text, err := out.get(command)
		if err != nil {
			l.unseen("who listens", "netstat does not say", command)
			continue
		}
		for line := range strings.Lines(string(text)) {
			f := strings.Fields(line)
			// The word for LISTENING is translated; the far side of a listener is 0.
			if len(f) < 4 || !strings.HasPrefix(f[0], "TCP") || !strings.HasSuffix(f[2], ":0") {
				continue
			}
			addr, port, ok := hostPort(f[1])
			if !ok {
				continue
			}
			pid, _ := strconv.Atoi(f[len(f)-1])
			all = append(all, Listener{Addr: addr, Port: port, PID: pid, Program: programs[pid]})
			if programs[pid] == "ollama" {
				l.Ollama = append(l.Ollama, "process "+strconv.Itoa(pid))
			}
		}
	}
	return all
}

// setting adds the causes that a setting of Ollama's is.
func (l *look) setting(name, value string, at Place, edit func([]byte) ([]byte, error), manual string) {
	if name == "OLLAMA_HOST" {
		if d, outside := doorOf(value); outside {
			l.cause(Cause{Kind: EnvironmentHost, Place: at, Says: name + "=" + value, Means: hostMeans(value), Doors: []Door{d}, edit: edit, manual: manual})
		}
	} else if name == "OLLAMA_ORIGINS" && anyOrigin(value) {
		l.cause(Cause{Kind: AnyOrigin, Place: at, Says: name + "=" + value, Means: "any web page may call the API from a visitor's browser", Pages: true, Live: len(l.Ollama) > 0, edit: edit, manual: manual})
	}
}
