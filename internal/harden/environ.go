package harden

import (
	"path"
	"strings"
)

// readLinuxEnvironment reads where Linux keeps settings for everybody, and the
// profiles of its people's shells. They reach an Ollama that somebody starts by
// hand; the service has its own.
func (l *look) readLinuxEnvironment() {
	files := []string{"/etc/environment", "/etc/profile", "/etc/bash.bashrc", "/etc/zsh/zshenv", "/etc/zsh/zprofile", "/etc/zsh/zshrc", "/etc/default/ollama", "/etc/sysconfig/ollama", "/etc/conf.d/ollama"}
	for _, name := range l.list("/etc/profile.d") {
		files = append(files, "/etc/profile.d/"+name)
	}
	for _, dir := range []string{"/etc/environment.d"} {
		for _, name := range l.list(dir) {
			files = append(files, dir+"/"+name)
		}
	}
	l.readProfiles(files...)
}

// readProfiles reads the files named and those in the homes of people, for
// settings of Ollama's.
func (l *look) readProfiles(files ...string) {
	for _, home := range l.homes() {
		for _, name := range []string{".profile", ".bashrc", ".bash_profile", ".bash_login", ".zshrc", ".zshenv", ".zprofile", ".config/fish/config.fish", ".pam_environment"} {
			files = append(files, home+"/"+name)
		}
		for _, name := range l.list(home + "/.config/environment.d") {
			files = append(files, home+"/.config/environment.d/"+name)
		}
	}
	for _, file := range files {
		text, ok := l.read(file)
		if !ok || !strings.Contains(string(text), "OLLAMA_") || l.ofUnit(file) {
			continue
		}
		for _, p := range profile(text) {
			closed := closedValue(p.key, p.value)
			at := strings.LastIndex(p.text, p.value)
			if at < 0 {
				continue
			}
			edited := p.text[:at] + closed + p.text[at+len(p.value):]
			l.setting(p.key, p.value, Place{file, p.line}, replaceLine(p.line, p.text, edited), "log out and in again, and start Ollama again")
		}
	}
}

// ofUnit reports whether a unit reads the file too: it is a cause there already.
func (l *look) ofUnit(file string) bool {
	for _, u := range l.Facts.units {
		for _, f := range u.files2 {
			if path.Clean(f.path) == file {
				return true
			}
		}
	}
	return false
}

// profile finds where a shell's profile sets OLLAMA_HOST or OLLAMA_ORIGINS: NAME=…,
// export NAME=…, and fish's set -gx NAME …. It does not run the shell, so a value
// that is computed is taken as it stands.
func profile(text []byte) (found []pair) {
	for _, ln := range linesOf(text) {
		s := strings.TrimSpace(ln.text)
		if s == "" || s[0] == '#' {
			continue
		}
		for _, name := range []string{"OLLAMA_HOST", "OLLAMA_ORIGINS"} {
			i := strings.Index(s, name)
			if i < 0 {
				continue
			}
			before, rest := strings.Fields(s[:i]), s[i+len(name):]
			fish := len(before) > 0 && before[0] == "set"
			switch {
			case fish && strings.HasPrefix(rest, " "):
				rest = strings.TrimSpace(rest)
			case strings.HasPrefix(rest, "="):
				rest = rest[1:]
			case strings.HasPrefix(rest, " DEFAULT="): // pam_env's
				rest = strings.TrimPrefix(rest, " DEFAULT=")
			default:
				continue
			}
			value := rest
			if value != "" && (value[0] == '"' || value[0] == '\'') {
				if end := strings.IndexByte(value[1:], value[0]); end >= 0 {
					value = value[1 : end+1]
				}
			} else {
				value, _, _ = strings.Cut(value, " ")
				value, _, _ = strings.Cut(value, ";")
			}
			found = append(found, pair{name, value, ln.n, ln.text})
		}
	}
	return found
}
