// Testlog reads the events of go test -json and shows what a reader wants of
// them: how each package ended, and the output of each test that failed or was
// skipped. It exits with 1 when there is one of either, or no test at all.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

func main() {
	ok, err := run(os.Stdin, os.Stdout)
	if err != nil {
		fmt.Fprintln(os.Stderr, "testlog:", err)
	}
	if err != nil || !ok {
		os.Exit(1)
	}
}

// event is one line of go test -json: go doc test2json.
type event struct {
	Action  string
	Package string
	Test    string
	Elapsed float64 // seconds
	Output  string
}

type test struct{ pkg, name string }

// run reports whether tests passed, all of them, and none was skipped.
func run(in io.Reader, out io.Writer) (ok bool, err error) {
	output := make(map[test]*strings.Builder) // of what has not ended yet
	var passed, failed, skipped, broken int
	dec := json.NewDecoder(in)
	for {
		var e event
		if err := dec.Decode(&e); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return false, fmt.Errorf("read events: %w", err)
		}
		t := test{e.Package, e.Test}
		switch e.Action {
		case "build-output":
			fmt.Fprint(out, e.Output)
		case "build-fail":
			broken++
		case "output":
			if output[t] == nil {
				output[t] = new(strings.Builder)
			}
			output[t].WriteString(e.Output)
		case "pass", "fail", "skip":
			text := output[t]
			delete(output, t)
			bad := e.Action == "fail"
			switch {
			case e.Test == "":
				// A package that has no test is skipped; there is nothing to say about it.
				if bad && text != nil {
					fmt.Fprint(out, text)
				}
				if e.Action != "skip" {
					fmt.Fprintf(out, "%s %s %.1fs\n", e.Action, e.Package, e.Elapsed)
				}
				if bad {
					broken++
				}
				continue
			case bad:
				failed++
			case e.Action == "skip":
				skipped, bad = skipped+1, true
			default:
				passed++
			}
			if bad && text != nil {
				fmt.Fprint(out, text)
			}
		}
	}
	fmt.Fprintf(out, "%d passed, %d failed, %d skipped\n", passed, failed, skipped)
	return passed > 0 && failed+skipped+broken == 0, nil
}
