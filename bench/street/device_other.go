//go:build !linux

package main

import (
	"errors"
	"syscall"
)

func bindToDevice(syscall.RawConn, string) error {
	return errors.New("-one needs Linux")
}
