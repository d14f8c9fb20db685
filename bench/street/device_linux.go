package main

import "syscall"

// bindToDevice has a socket that listens on every address hear what comes in
// by one interface only. Linux lets anybody do that since 5.7.
func bindToDevice(c syscall.RawConn, device string) error {
	var err error
	if e := c.Control(func(fd uintptr) { err = syscall.BindToDevice(int(fd), device) }); e != nil {
		return e
	}
	return err
}
