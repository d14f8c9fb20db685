package policy

import (
	"slices"
	"strings"

	"gatehouse/internal/key"
	"gatehouse/internal/ollama"
)

// AllowsModel reports whether the terms give the model, in whichever spelling.
// Nobody is given a name that Ollama would not take.
//
// A pattern is compared with the model's canonical name, such as
// "llama3.2:latest" or "hf.co/someone/model:q4": lower case, with its tag. In it
// "*" stands for any text without "/", "**" for any text, "?" for one character
// but "/" and ":". So "llama*" is every tag of every llama in Ollama's own library,
// and nobody's model of that name elsewhere; "hf.co/**" is all of hf.co. A pattern
// that neither has a tag nor ends in "*" means the tag latest, as "llama3.2" does
// to Ollama. "*" alone is every model.
func AllowsModel(t key.Terms, model string) bool {
	name := ollama.CanonicalName(model)
	return name != "" && slices.ContainsFunc(t.Models, func(pattern string) bool {
		return all(pattern) || match(canonicalPattern(pattern), name)
	})
}

// AllowsEveryModel reports whether the terms give every model there is.
func AllowsEveryModel(t key.Terms) bool { return slices.ContainsFunc(t.Models, all) }

// all reports whether a pattern gives every model.
func all(pattern string) bool { return pattern == "*" || pattern == "**" }

// canonicalPattern spells a pattern as the names that it is compared with.
func canonicalPattern(pattern string) string {
	pattern = strings.ToLower(pattern)
	pattern = strings.TrimPrefix(strings.TrimPrefix(pattern, "https://"), "http://")
	pattern = strings.TrimPrefix(pattern, "registry.ollama.ai/")
	if own, ok := strings.CutPrefix(pattern, "library/"); ok {
		pattern = own
	}
	last := pattern[strings.LastIndexByte(pattern, '/')+1:]
	if !strings.Contains(last, ":") && !strings.HasSuffix(last, "*") {
		pattern += ":latest"
	}
	return pattern
}

// match compares a name with a pattern. It takes time in proportion to their
// lengths' product at most: where text does not fit, it goes back to the last
// "*", and to the last "**" where that cannot take more.
func match(pattern, name string) bool {
	star, deep := mark{p: -1}, mark{p: -1}
	for p, n := 0, 0; n < len(name) || p < len(pattern); {
		if p < len(pattern) {
			switch c := pattern[p]; {
			case strings.HasPrefix(pattern[p:], "**"):
				for p < len(pattern) && pattern[p] == '*' {
					p++
				}
				deep, star = mark{p, n}, mark{p: -1}
				continue
			case c == '*':
				p++
				star = mark{p, n}
				continue
			case n < len(name) && (c == name[n] || c == '?' && name[n] != '/' && name[n] != ':'):
				p++
				n++
				continue
			}
		}
		switch {
		case star.p >= 0 && star.n < len(name) && name[star.n] != '/':
			star.n++
			p, n = star.p, star.n
		case deep.p >= 0 && deep.n < len(name):
			deep.n++
			p, n, star = deep.p, deep.n, mark{p: -1}
		default:
			return false
		}
	}
	return true
}

// mark is where a star stands: what follows it in the pattern, and how far in
// the name it reaches.
type mark struct{ p, n int }
