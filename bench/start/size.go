package main

import (
	"cmp"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"gatehouse/bench/figures"
)

// sizes measures the files of Gatehouse and of the peers, and takes a build of
// Gatehouse with all symbols apart.
func (b *bench) sizes(ctx context.Context) error {
	seen := make(map[string]bool)
	for _, c := range commands {
		path, err := b.find(strings.Fields(c.line)[0])
		if err != nil || seen[c.peer] {
			continue // not installed, or measured already
		}
		seen[c.peer] = true
		info, err := os.Stat(path)
		if err != nil {
			return err
		}
		b.add("start", "size of the file", c.peer, "MB", 1, mega(info.Size()))
	}
	whole := filepath.Join(b.dir, "whole")
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", whole, "./cmd/gatehouse")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux") // the format that is read below
	if text, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build with symbols: %w: %s", err, text)
	}
	if err := b.sections(whole); err != nil {
		return err
	}
	return b.modules(ctx, whole)
}

// sections adds what the linker put into the file.
func (b *bench) sections(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	f, err := elf.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	sum := make(map[string]int64)
	rest := info.Size()
	for _, s := range f.Sections {
		name := "other"
		switch {
		case s.Type == elf.SHT_NOBITS || s.Type == elf.SHT_NULL:
			continue // takes no room in the file
		case strings.HasPrefix(s.Name, ".debug_"):
			name = "DWARF, for debuggers (make build leaves it out)"
		case s.Name == ".symtab" || s.Name == ".strtab":
			name = "symbol table (make build leaves it out)"
		case s.Name == ".text":
			name = "code"
		case s.Name == ".rodata":
			name = "constants, strings, types"
		case s.Name == ".gopclntab":
			name = "table of functions and lines, for stack traces"
		case strings.HasSuffix(s.Name, "data"):
			name = "data"
		}
		sum[name] += int64(s.FileSize)
		rest -= int64(s.FileSize)
	}
	sum["other"] += max(rest, 0)
	for _, name := range slices.Sorted(maps.Keys(sum)) {
		b.add("size", "The file with all symbols, by section", name, "MB", 1, mega(sum[name]))
	}
	b.add("size", "The file with all symbols, by section", "all", "MB", 1, mega(info.Size()))
	return nil
}

const modulesShown = 10

// modules adds the modules whose code and data are the greatest.
func (b *bench) modules(ctx context.Context, path string) error {
	list := exec.CommandContext(ctx, "go", "list", "-deps", "-f", "{{.ImportPath}}\t{{with .Module}}{{.Path}}{{end}}", "./cmd/gatehouse")
	list.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux")
	text, err := list.Output()
	if err != nil {
		return fmt.Errorf("list the packages: %w", err)
	}
	module := map[string]string{"main": figures.Ours}
	for line := range strings.Lines(string(text)) {
		pkg, mod, _ := strings.Cut(strings.TrimSpace(line), "\t")
		module[pkg] = cmp.Or(mod, "Go's standard library")
	}
	f, err := elf.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	symbols, err := f.Symbols()
	if err != nil {
		return fmt.Errorf("read the symbols: %w", err)
	}
	sum, all := make(map[string]int64), int64(0)
	for _, s := range symbols {
		if int(s.Section) >= len(f.Sections) || f.Sections[s.Section].Type == elf.SHT_NOBITS {
			continue
		}
		sum[cmp.Or(module[packageOf(s.Name)], "of no module (types, strings, C names)")] += int64(s.Size)
		all += int64(s.Size)
	}
	if all == 0 {
		return errors.New("the program has no symbols")
	}
	names := slices.SortedFunc(maps.Keys(sum), func(a, b string) int { return cmp.Or(cmp.Compare(sum[b], sum[a]), cmp.Compare(a, b)) })
	rest := int64(0)
	for i, name := range names {
		if i >= modulesShown {
			rest += sum[name]
			continue
		}
		b.add("size", "Code and data, by module", name, "MB", 1, mega(sum[name]))
	}
	if rest > 0 {
		b.add("size", "Code and data, by module", fmt.Sprintf("%d others", len(names)-modulesShown), "MB", 1, mega(rest))
	}
	b.add("size", "Code and data, by module", "all", "MB", 1, mega(all))
	return nil
}

// packageOf is the import path in a symbol's name, such as net/http of
// net/http.(*Client).Do, and "" when it has none.
func packageOf(symbol string) string {
	symbol, _, _ = strings.Cut(symbol, "[") // type arguments have paths too
	if strings.HasPrefix(symbol, "go:") || strings.HasPrefix(symbol, "type:") {
		return ""
	}
	dir := symbol[:strings.LastIndex(symbol, "/")+1]
	name, _, ok := strings.Cut(symbol[len(dir):], ".")
	if !ok {
		return ""
	}
	path, err := url.PathUnescape(dir + name) // a dot in the last part is %2e
	if err != nil {
		return ""
	}
	return path
}

func mega(size int64) float64 { return float64(size) / 1e6 }
