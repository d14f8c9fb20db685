package report_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"gatehouse/internal/ollama/realollama"
	"gatehouse/internal/report"
)

// realBrowser skips a test without a Chromium, and fails it where the peers are
// required.
func realBrowser(t *testing.T) {
	t.Helper()
	if path, err := report.Browser(); err != nil {
		realollama.Missing(t, err.Error()+": run make peers")
	} else {
		t.Log(path)
	}
}

// TestPDF prints with the real Chromium.
func TestPDF(t *testing.T) {
	realBrowser(t)
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	var b bytes.Buffer
	if err := report.PDF(t.Context(), &b, whole(300)); err != nil {
		t.Fatal(err)
	}
	if !bytes.HasPrefix(b.Bytes(), []byte("%PDF-1.")) || !bytes.Contains(b.Bytes()[b.Len()-64:], []byte("%%EOF")) {
		t.Errorf("%d bytes that are no PDF", b.Len())
	}
	// A hundred hosts and the figures before them.
	pages := len(regexp.MustCompile(`/Type\s*/Page\b[^s]`).FindAll(b.Bytes(), -1))
	if pages < 4 || pages > 30 {
		t.Errorf("%d pages", pages)
	}
	t.Logf("%d pages, %d bytes", pages, b.Len())
	empty(t, dir)
}

func empty(t *testing.T, dir string) {
	t.Helper()
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left in the temporary folder: %v %v", left, err)
	}
}

// browser puts a program in place of Chromium.
func browser(t *testing.T, script string) (dir string) {
	t.Helper()
	bin := t.TempDir()
	if err := os.WriteFile(filepath.Join(bin, "chromium"), []byte("#!/bin/sh\n"+script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+":/usr/bin:/bin")
	dir = t.TempDir()
	t.Setenv("TMPDIR", dir)
	return dir
}

func TestPDFWithoutABrowser(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	if err := report.PDF(t.Context(), &bytes.Buffer{}, whole(3)); !errors.Is(err, report.ErrNoBrowser) {
		t.Errorf("err %v", err)
	}
}

// TestPDFOfABrowserThatFails: what went wrong is said, and nothing is left.
func TestPDFOfABrowserThatFails(t *testing.T) {
	const to = `for a; do case $a in --print-to-pdf=*) f=${a#*=};; esac; done; `
	for script, want := range map[string]string{
		"echo no display >&2; exit 3":         "no PDF came (exit status 3: no display)",
		"exit 0":                              "no PDF came (it says nothing)",
		to + `echo "not found" > "$f"`:        "what came is no PDF",
		to + `: > "$f"`:                       "what came is no PDF",
		`printf 'red \033[31m\n' >&2; exit 1`: `red \x1b[31m`,
	} {
		dir := browser(t, script)
		var b bytes.Buffer
		if err := report.PDF(t.Context(), &b, whole(3)); err == nil || !strings.Contains(err.Error(), want) || b.Len() > 0 {
			t.Errorf("%s: %d bytes, err %v", script, b.Len(), err)
		}
		empty(t, dir)
	}
}
