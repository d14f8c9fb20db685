//go:build unix

package upstream

import "syscall"

// canPeek says that an idle line can be asked whether it is alive.
const canPeek = true

// peek looks whether a line has something to read, without waiting.
type peek struct {
	look  func(fd uintptr) bool
	quiet bool
}

// alive reports whether the server has neither closed an idle line nor said
// anything on it: what it says unasked is no answer to anything.
func (l *line) alive() bool {
	p := &l.peek
	if p.look == nil {
		p.look = func(fd uintptr) bool {
			var b [1]byte
			_, err := syscall.Read(int(fd), b[:])
			p.quiet = err == syscall.EAGAIN
			return true
		}
	}
	p.quiet = false
	return l.raw != nil && l.raw.Read(p.look) == nil && p.quiet
}
