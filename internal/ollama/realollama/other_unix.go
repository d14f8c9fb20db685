//go:build unix && !linux

package realollama

import (
	"errors"
	"syscall"
)

var errNoNamespace = errors.New("a server bound to every address needs Linux's network namespaces")

func ownGroup() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

func (s *Server) moveOut() (func(), error) { return nil, errNoNamespace }
