package report

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// ErrNoBrowser says that there is no Chromium to print with.
var ErrNoBrowser = errors.New("no Chromium in PATH")

// browsers are the names that Chromium goes by.
var browsers = []string{"chromium", "chromium-browser", "google-chrome", "google-chrome-stable"}

// Browser is the path of the Chromium that PDF prints with.
func Browser() (string, error) {
	for _, name := range browsers {
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("%w (%s)", ErrNoBrowser, strings.Join(browsers, ", "))
}

// printTime is how long Chromium may take.
const printTime = 2 * time.Minute

// PDF writes the page that HTML writes, as Chromium prints it. Chromium has a
// profile of its own, reaches no network, and is gone when PDF returns, with
// all that it wrote.
func PDF(ctx context.Context, w io.Writer, d Data) (err error) {
	browser, err := Browser()
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "gatehouse-pdf-*")
	if err != nil {
		return fmt.Errorf("make a temporary folder: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	page, printed := filepath.Join(dir, "report.html"), filepath.Join(dir, "report.pdf")
	if err := WriteFile(page, func(w io.Writer) error { return HTML(w, d) }); err != nil {
		return err
	}

	ctx, cancel := context.WithTimeout(ctx, printTime)
	defer cancel()
	args := []string{
		"--headless", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-extensions",
		"--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
		"--host-resolver-rules=MAP * ~NOTFOUND", "--user-data-dir=" + filepath.Join(dir, "profile"),
		"--no-pdf-header-footer", "--print-to-pdf=" + printed,
	}
	if os.Geteuid() == 0 {
		args = append(args, "--no-sandbox") // Chromium does not start as root with it
	}
	cmd := exec.CommandContext(ctx, browser, append(args, "file://"+page)...)
	var said bytes.Buffer
	cmd.Stderr = &limited{w: &said, left: 8 << 10}
	kill := together(cmd)
	cmd.Cancel = kill
	cmd.WaitDelay = 5 * time.Second
	run := cmd.Run()
	if cmd.Process != nil {
		_ = kill() // what it left behind, mostly nothing
	}
	if ctx.Err() != nil {
		return fmt.Errorf("print with %s: %w", browser, context.Cause(ctx))
	}
	f, err := os.Open(printed)
	if err != nil {
		return fmt.Errorf("print with %s: no PDF came (%s)", browser, complaint(run, &said))
	}
	defer f.Close()
	head := make([]byte, 5)
	if _, err := io.ReadFull(f, head); err != nil || string(head) != "%PDF-" {
		return fmt.Errorf("print with %s: what came is no PDF (%s)", browser, complaint(run, &said))
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	_, err = io.Copy(w, f)
	return err
}

// complaint is why a run of Chromium came to nothing, in one line.
func complaint(run error, said *bytes.Buffer) string {
	lines := strings.Split(strings.TrimSpace(said.String()), "\n")
	why := short(lines[len(lines)-1], 300)
	if run != nil {
		why = strings.TrimSuffix(run.Error()+": "+why, ": ")
	}
	if why == "" {
		why = "it says nothing"
	}
	return why
}

// limited keeps the first bytes and drops the rest.
type limited struct {
	w    io.Writer
	left int
}

func (l *limited) Write(p []byte) (int, error) {
	if n := min(len(p), l.left); n > 0 {
		l.left -= n
		if _, err := l.w.Write(p[:n]); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}
