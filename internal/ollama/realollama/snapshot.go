//go:build unix

package realollama

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Snapshot is everything a request could have left on a server: what is in its
// folders, which models it has and holds in memory, and its log without the
// lines that say which requests came. Each element is one line to read.
type Snapshot []string

// Snapshot looks at the server now. It asks GET /api/tags and GET /api/ps, and
// then looks at the folders: the first list of models that anybody asks of a
// server without one has it make the folder for them.
func (s *Server) Snapshot(t testing.TB) Snapshot {
	t.Helper()
	var snap Snapshot
	for _, path := range []string{"/api/tags", "/api/ps"} {
		reply := s.Ask(t, Request{Method: http.MethodGet, Path: path})
		snap = append(snap, fmt.Sprintf("GET %s: %d %s", path, reply.Status, reply.Body))
	}
	for _, root := range []string{s.Models, s.Home} {
		err := filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			line, err := trace(root, path)
			snap = append(snap, line)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	log, err := os.ReadFile(s.Log)
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(log) {
		if !bytes.HasPrefix(line, []byte("[GIN] ")) {
			snap = append(snap, "log: "+strings.TrimSpace(string(line)))
		}
	}
	return snap
}

// trace is one file or folder as a line: name, mode, time of change, and of a
// file its size and SHA-256.
func trace(root, path string) (string, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return "", err
	}
	rel, err := filepath.Rel(filepath.Dir(root), path)
	if err != nil {
		return "", err
	}
	line := fmt.Sprintf("%s %v %s", rel, info.Mode(), info.ModTime().UTC().Format("2006-01-02T15:04:05.000000000Z"))
	if !info.Mode().IsRegular() {
		return line, nil
	}
	content, err := os.ReadFile(path)
	return fmt.Sprintf("%s %d bytes sha256:%x", line, info.Size(), sha256.Sum256(content)), err
}

// Diff returns the lines that only one of two snapshots has, "-" before those of
// s and "+" before those of later; "" when they are equal.
func (s Snapshot) Diff(later Snapshot) string {
	var b strings.Builder
	only := func(sign string, in, other Snapshot) {
		left := slices.Clone(other)
		for _, line := range in {
			if i := slices.Index(left, line); i >= 0 {
				left = slices.Delete(left, i, i+1)
				continue
			}
			fmt.Fprintf(&b, "%s %s\n", sign, line)
		}
	}
	only("-", s, later)
	only("+", later, s)
	if b.Len() == 0 && !slices.Equal(s, later) {
		return "the same lines in another order\n"
	}
	return b.String()
}
