package main

import (
	"errors"
	"regexp"
	"strings"

	"github.com/alecthomas/kong"
)

// kongWords are what kong says of a flag's value, in words of its types, and what
// is said instead.
var kongWords = []struct {
	was   *regexp.Regexp
	plain string
}{
	{regexp.MustCompile(`^(--\S+): (?:expected .* value but got "EOL" .*|missing value, expecting .*)$`), `$1 needs a value`},
	{regexp.MustCompile(`^(--\S+): expected .* value but got "(-[0-9].*)" \(short flag\).*$`), `$1 cannot be $2`},
	{regexp.MustCompile(`^(--\S+): expected .* value but got ("-.*") \(.*$`), `$1 needs a value, and $2 is a flag`},
	{regexp.MustCompile(`^(--\S+): expected a valid [0-9]+ bit u?int but got (".*")$`), `$1: $2 is no whole number that it takes`},
	{regexp.MustCompile(`^(--\S+): expected an int but got (".*") \(.*\)$`), `$1: $2 is no whole number`},
	{regexp.MustCompile(`^(--\S+): expected a float but got (".*") \(.*\)$`), `$1: $2 is no number`},
	{regexp.MustCompile(`^(--\S+): expected duration but got (".*?"):? .*$`), `$1: $2 is no time, such as 90s or 5m`},
}

// misused is a mistake in what was typed, in one line, with a hint that names the
// flag that it is in.
func misused(err error) error {
	see := "see gatehouse --help"
	pe, ok := errors.AsType[*kong.ParseError](err)
	if !ok || pe.Context == nil || pe.Context.Selected() == nil {
		return usage(err, see)
	}
	see = "see " + pe.Context.Selected().FullPath() + " --help"
	for _, w := range kongWords {
		found := w.was.FindStringSubmatch(err.Error())
		if found == nil {
			continue
		}
		see += " for " + found[1]
		for _, f := range pe.Context.Flags() {
			if "--"+f.Name == found[1] && f.Default != "" {
				see = "such as " + found[1] + " " + f.Default + "; " + strings.TrimSuffix(see, " for "+found[1])
			}
		}
		return usage(errors.New(w.was.ReplaceAllString(err.Error(), w.plain)), see)
	}
	return usage(err, see)
}
