package harden

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

const asRoot = "run it as root (sudo)"

// real is where a path of the machine's lies among our files. A link that leads
// out of an image's folder leads to the same place within it.
func (m *Machine) real(name string) string {
	if m.OS == "windows" && len(name) > 1 && name[1] == ':' {
		name = name[2:]
	}
	name = path.Clean("/" + strings.ReplaceAll(name, `\`, "/"))
	if m.Root == "/" || m.Root == "" {
		return filepath.FromSlash(name)
	}
	at := m.Root
	for i, parts := 0, strings.Split(strings.Trim(name, "/"), "/"); len(parts) > 0; {
		next := filepath.Join(at, parts[0])
		parts = parts[1:]
		if to, err := os.Readlink(next); err == nil && !strings.HasPrefix(to, "socket:") && i < 40 {
			i++
			inside := strings.TrimPrefix(filepath.ToSlash(strings.TrimPrefix(at, m.Root)), "/")
			if path.IsAbs(to) {
				inside = ""
			}
			parts = slices.Concat(strings.Split(strings.Trim(path.Join("/", inside, to), "/"), "/"), parts)
			at = m.Root
			continue
		}
		at = next
	}
	return at
}

// read returns a file's text; ok is false where there is none to judge by. What is
// there and could not be read is told.
func (l *look) read(name string) (text []byte, ok bool) {
	if l.Root == "" || l.ctx.Err() != nil {
		return nil, false
	}
	text, err := l.Machine.read(name)
	switch {
	case err == nil:
		return text, true
	case errors.Is(err, fs.ErrNotExist) || errors.Is(err, errNotDir):
	case errors.Is(err, fs.ErrPermission):
		l.unseen(name, "no permission to read it", asRoot)
	default:
		l.unseen(name, err.Error(), "look at it yourself")
	}
	return nil, false
}

func (m *Machine) read(name string) ([]byte, error) {
	f, err := os.Open(m.real(name))
	if err != nil {
		return nil, plain(err)
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || info.IsDir() {
		return nil, errNotDir
	} else if info.Mode()&(fs.ModeNamedPipe|fs.ModeSocket|fs.ModeDevice) != 0 {
		if info.Mode()&fs.ModeCharDevice != 0 {
			return nil, nil // a link to /dev/null
		}
		return nil, fmt.Errorf("it is no regular file")
	}
	limit := maxFile
	if strings.HasPrefix(name, "/proc/net/") {
		limit = maxSockets
	}
	text, err := io.ReadAll(io.LimitReader(f, int64(limit)+1))
	if err != nil {
		return nil, plain(err)
	}
	if len(text) > limit {
		return nil, fmt.Errorf("it is larger than %d bytes", limit)
	}
	return text, nil
}

// plain is the cause of an error without the path, which the caller names.
func plain(err error) error {
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		return e.Err
	}
	return err
}

// list names what is in a folder, in order.
func (l *look) list(dir string) []string {
	if l.Root == "" || l.ctx.Err() != nil {
		return nil
	}
	f, err := os.Open(l.real(dir))
	if err != nil {
		if errors.Is(err, fs.ErrPermission) {
			l.unseen(dir, "no permission to read it", asRoot)
		}
		return nil
	}
	defer f.Close()
	names, err := f.Readdirnames(maxFiles)
	if err != nil && err != io.EOF {
		return nil
	}
	if len(names) == maxFiles {
		l.unseen(dir, fmt.Sprintf("it holds more than %d files", maxFiles), "look at the rest yourself")
	}
	slices.Sort(names)
	return names
}

func (l *look) exists(name string) bool {
	if l.Root == "" {
		return false
	}
	_, err := os.Lstat(l.real(name))
	return err == nil
}

// isDir follows links.
func (l *look) isDir(name string) bool {
	if l.Root == "" {
		return false
	}
	info, err := os.Stat(l.real(name))
	return err == nil && info.IsDir()
}

// homes are the folders of the machine's people, root's among them.
func (l *look) homes() []string {
	var homes []string
	switch l.OS {
	case "darwin":
		homes = append(homes, "/var/root")
		for _, name := range l.list("/Users") {
			if name != "Shared" && name[0] != '.' {
				homes = append(homes, "/Users/"+name)
			}
		}
	case "windows":
		for _, name := range l.list("/Users") {
			homes = append(homes, "/Users/"+name)
		}
	default:
		text, _ := l.read("/etc/passwd")
		for line := range bytes.Lines(text) {
			fields := strings.Split(strings.TrimSpace(string(line)), ":")
			if len(fields) < 7 || !path.IsAbs(fields[5]) || fields[5] == "/" || fields[5] == "/nonexistent" {
				continue
			}
			if strings.HasPrefix(fields[5], "/home/") || fields[5] == "/root" || fields[0] == "ollama" {
				homes = append(homes, path.Clean(fields[5]))
			}
		}
	}
	slices.Sort(homes)
	homes = slices.Compact(homes)
	if len(homes) > maxHomes {
		l.unseen("the homes of some people", fmt.Sprintf("there are more than %d", maxHomes), "look at them one by one")
		homes = homes[:maxHomes]
	}
	return homes
}

// line is a line of a file, with what ends in a backslash joined to it.
type line struct {
	n    int // from 1
	text string
}

func linesOf(text []byte) []line {
	var all []line
	n := 0
	for s := range strings.Lines(string(text)) {
		n++
		all = append(all, line{n, strings.TrimRight(s, "\r\n")})
	}
	return all
}

// lineOf is the number of the line that holds the byte at offset.
func lineOf(text []byte, offset int) int { return 1 + bytes.Count(text[:offset], []byte("\n")) }

// replaceLine gives an edit that puts other lines where line n is; none removes it.
func replaceLine(n int, is string, by ...string) func([]byte) ([]byte, error) {
	return func(text []byte) ([]byte, error) {
		lines := strings.SplitAfter(string(text), "\n")
		if n < 1 || n > len(lines) || strings.TrimRight(lines[n-1], "\r\n") != is {
			return nil, errChanged(n)
		}
		end := lines[n-1][len(strings.TrimRight(lines[n-1], "\r\n")):]
		var with []string
		for _, b := range by {
			with = append(with, b+end)
		}
		return []byte(strings.Join(slices.Concat(lines[:n-1], with, lines[n:]), "")), nil
	}
}

// printed is what a command printed, once it is there.
type printed struct {
	done chan struct{}
	text []byte
	err  error
}

// printout is the commands that were started, by their words.
type printout map[string]*printed

// start runs all that is to be run, at the same time.
func (l *look) start() printout {
	out := printout{}
	if l.Run == nil {
		return out
	}
	var commands []string
	switch l.OS {
	case "linux":
		commands = []string{"nft -j list ruleset", "iptables-save", "ip6tables-save", "tailscale serve status --json"}
	case "darwin":
		commands = []string{"launchctl getenv OLLAMA_HOST", "launchctl getenv OLLAMA_ORIGINS", "lsof -nP -iTCP -sTCP:LISTEN -FpcnT", "tailscale serve status --json"}
	case "windows":
		commands = []string{
			`reg query HKCU\Environment`, `reg query "HKLM\SYSTEM\CurrentControlSet\Control\Session Manager\Environment"`,
			"netstat -ano -p TCP", "netstat -ano -p TCPv6", "tasklist /fo csv /nh", "tailscale serve status --json",
		}
	}
	if l.Kubeconfig != "" {
		commands = append(commands, l.kubectl())
	}
	for _, c := range commands {
		p := &printed{done: make(chan struct{})}
		out[c] = p
		go func() {
			defer close(p.done)
			limit := commandTime
			if strings.HasPrefix(c, "kubectl ") {
				limit *= 10 // it asks another machine
			}
			ctx, cancel := context.WithTimeout(l.ctx, limit)
			defer cancel()
			words := split(c)
			p.text, p.err = l.Run(ctx, words[0], words[1:]...)
			if len(p.text) > maxPrinted {
				p.text, p.err = nil, fmt.Errorf("it prints more than %d bytes", maxPrinted)
			}
		}()
	}
	return out
}

// get waits for a command. Its error is fs.ErrNotExist where the program is not
// there, or nothing is run.
func (o printout) get(command string) ([]byte, error) {
	p := o[command]
	if p == nil {
		return nil, fs.ErrNotExist
	}
	<-p.done
	return p.text, p.err
}

// split cuts a command line of ours into words; quotes hold one together.
func split(s string) (words []string) {
	var word strings.Builder
	quoted, any := false, false
	for _, r := range s {
		switch {
		case r == '"':
			quoted, any = !quoted, true
		case r == ' ' && !quoted:
			if any {
				words = append(words, word.String())
			}
			word.Reset()
			any = false
		default:
			word.WriteRune(r)
			any = true
		}
	}
	if any {
		words = append(words, word.String())
	}
	return words
}

var errNotDir = errors.New("it is a folder")

func errChanged(n int) error { return fmt.Errorf("line %d is not what it was", n) }
