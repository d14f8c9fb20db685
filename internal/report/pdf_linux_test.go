package report_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"gatehouse/internal/report"
)

// TestPDFStopped: Chromium is many processes, and none outlives the report.
func TestPDFStopped(t *testing.T) {
	mark := filepath.Join(t.TempDir(), "pids")
	if err := syscall.Mkfifo(mark, 0o600); err != nil {
		t.Fatal(err)
	}
	dir := browser(t, "sleep 600 & echo $$ $! > "+mark+"; wait")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error)
	go func() { ended <- report.PDF(ctx, &bytes.Buffer{}, whole(3)) }()
	pids, err := os.ReadFile(mark) // waits until both run
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(string(pids))
	if len(fields) != 2 {
		t.Fatalf("pids %q", pids)
	}
	var ends []unix.PollFd
	for _, field := range fields {
		pid, err := strconv.Atoi(field)
		if err != nil {
			t.Fatal(err)
		}
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		ends = append(ends, unix.PollFd{Fd: int32(fd), Events: unix.POLLIN})
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("err %v", err)
	}
	for i := range ends { // returns once the process has ended
		_, err := unix.Poll(ends[i:i+1], -1)
		for errors.Is(err, unix.EINTR) {
			_, err = unix.Poll(ends[i:i+1], -1)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	empty(t, dir)
}
