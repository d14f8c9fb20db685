package connect

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/zalando/go-keyring"
)

// service is what keys are filed under in the keyring of the system.
const service = "gatehouse"

// ErrNoKey says that none is kept for the gate.
var ErrNoKey = errors.New("no key is kept for this gate")

// Keep puts the key for a gate into the system's keyring, or, where there is
// none, into a file that its owner alone may read. It says where.
func Keep(gate, secret, file string) (where string, err error) {
	if err := plausible(secret); err != nil {
		return "", err
	}
	if ring := keyring.Set(service, gate, secret); ring == nil {
		return "the system's keyring", nil
	}
	return file, WriteKey(file, secret)
}

// Kept is the key for a gate, from the keyring or else from file.
func Kept(gate, file string) (secret, where string, err error) {
	if secret, err := keyring.Get(service, gate); err == nil {
		return secret, "the system's keyring", nil
	}
	secret, err = ReadKey(file)
	if errors.Is(err, fs.ErrNotExist) {
		return "", "", ErrNoKey
	}
	return secret, file, err
}

// Forget takes the key for a gate out of the keyring, and removes the file that it
// may be in instead. It says where it was.
func Forget(gate, file string) (where []string, err error) {
	if ring := keyring.Delete(service, gate); ring == nil {
		where = append(where, "the system's keyring")
	}
	switch err := os.Remove(file); {
	case err == nil:
		where = append(where, file)
	case !errors.Is(err, fs.ErrNotExist):
		return where, err
	}
	if len(where) == 0 {
		return nil, ErrNoKey
	}
	return where, nil
}

// WriteKey writes a key file for its owner alone, whole or not at all.
func WriteKey(file, secret string) error {
	if err := plausible(secret); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(file), ".key-*") // 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // gone already when all went well
	_, err = io.WriteString(f, secret+"\n")
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), file)
}

// ReadKey reads a key file, unless others than its owner may read it too.
func ReadKey(file string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	if mode := info.Mode(); mode.IsRegular() && mode.Perm()&0o077 != 0 && runtime.GOOS != "windows" { // which has no such bits
		return "", fmt.Errorf("%s can be read by others (mode %04o): chmod 600 %s", file, mode.Perm(), file)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxKey+2))
	if err != nil {
		return "", err
	}
	secret := strings.TrimSpace(string(text))
	if err := plausible(secret); err != nil {
		return "", fmt.Errorf("%s: %w", file, err)
	}
	return secret, nil
}

const maxKey = 8 << 10 // also for tokens of an identity provider

// plausible refuses what no header can carry. It does not repeat it.
func plausible(secret string) error {
	switch {
	case secret == "":
		return errors.New("the key is empty")
	case len(secret) > maxKey:
		return errors.New("that is too long for a key")
	case strings.ContainsFunc(secret, func(r rune) bool { return r <= ' ' || r > '~' }):
		return errors.New("that is no key: it has spaces or characters that no key has")
	}
	return nil
}
