package policy_test

import (
	"regexp"
	"strings"
	"testing"
	"time"

	"gatehouse/internal/key"
	"gatehouse/internal/ollama"
	"gatehouse/internal/policy"
)

func allows(pattern, model string) bool {
	return policy.AllowsModel(key.Terms{Models: []string{pattern}}, model)
}

func TestAllowsModel(t *testing.T) {
	for _, test := range []struct {
		pattern  string
		yes, not string // models, in words
	}{
		{"*", "m llama3.2:1b someone/m hf.co/a/b:c", "a@b ../x m:"},
		{"**", "m someone/m hf.co/a/b:c", "a@b"},
		{"llama3.2", "llama3.2 llama3.2:latest LLAMA3.2:Latest library/llama3.2 registry.ollama.ai/library/llama3.2", "llama3.2:1b llama3 llama3x2 x/llama3.2 hf.co/library/llama3.2"},
		{"Library/Llama3.2:*", "llama3.2 llama3.2:1b", "llama3.2x llama3.2-vision"},
		{"https://registry.ollama.ai/library/m", "m", "m:1"},
		{"llama3.2:*", "llama3.2 llama3.2:1b-q4", "llama3.2-vision:1b x/llama3.2:1b"},
		{"llama*", "llama3.2 llama3.2:1b llama", "llama/x llama.evil.example/x/y codellama x/llama"},
		{"*llama", "codellama llama", "codellama:7b llama3 x/codellama"},
		{"*:1b", "m:1b", "m:11b m x/m:1b"},
		{"*/*", "someone/m someone/m:1b", "m hf.co/a/b"},
		{"someone/*", "someone/m someone/m:1b", "m else/m hf.co/someone/m someones/m"},
		{"hf.co/**", "hf.co/a/b hf.co/a/b:c", "hf.com/a/b m hf.co.evil.example/a/b"},
		{"**:q4", "m:q4 a/b:q4 hf.co/a/b:q4", "m:q4_0 m"},
		{"**/b:*", "a/b hf.co/a/b:c", "b a/bb x/b/c"},
		{"m?", "m1 mx", "m m12 m:1"},
		{"m:?b", "m:1b", "m:12b m:b"},
		{"qwen?.5:*-q4*", "qwen2.5:7b-q4_0", "qwen2.5:7b qwen25:7b-q4"},
		{"localhost:5000/me/m", "localhost:5000/me/m localhost:5000/me/m:latest", "localhost:5000/me/m:1 localhost:5001/me/m"},
		{"", "", "m latest"},
		{"[ab]", "", "a b"},
		{"m:", "", "m m:latest"},
	} {
		for model := range strings.FieldsSeq(test.yes) {
			if !allows(test.pattern, model) {
				t.Errorf("%q does not give %s", test.pattern, model)
			}
		}
		for model := range strings.FieldsSeq(test.not) {
			if allows(test.pattern, model) {
				t.Errorf("%q gives %s", test.pattern, model)
			}
		}
	}
	if policy.AllowsModel(key.Terms{}, "m") || !policy.AllowsModel(key.Terms{Models: []string{"x", "m"}}, "m") || allows("*", "") {
		t.Error("no patterns give a model, or one of two does not, or all give none")
	}
}

// Nobody can make the gate think long about a name.
func TestAllowsModelTime(t *testing.T) {
	pattern := strings.Repeat("**a*a", 60) + "b"
	name := strings.Repeat("a", 300) + "/" + strings.Repeat("a", 80) + "/" + strings.Repeat("a", 80) + ":" + strings.Repeat("a", 80)
	if !ollama.ValidName(name) {
		t.Fatal("no name")
	}
	began := time.Now()
	if allows(pattern, name) {
		t.Error("it gives the name")
	}
	if took := time.Since(began); took > time.Second {
		t.Errorf("it took %v", took)
	}
}

func FuzzAllowsModel(f *testing.F) {
	f.Add("llama*", "llama3.2:1b")
	f.Add("**/b:*", "hf.co/a/b:c")
	f.Add("*a*/**b?:*", "xay/bb:1")
	f.Add("**a*b**c", "aXb/c/c:c")
	f.Fuzz(func(t *testing.T, pattern, model string) {
		got := allows(pattern, model)
		name := ollama.CanonicalName(model)
		if name == "" {
			if got {
				t.Fatalf("%q gives %q, which is no name", pattern, model)
			}
			return
		}
		if !allows(name, model) || !allows("*", model) || allows(pattern, name) != got {
			t.Fatalf("%q, %q, %q", pattern, model, name)
		}
		// The same by the standard library, for patterns in their plain spelling.
		if strings.Trim(pattern, "abcdefghijklmnopqrstuvwxyz0123456789._:/*?") != "" || pattern == "*" ||
			strings.HasPrefix(pattern, "library/") || strings.HasPrefix(pattern, "http") || strings.HasPrefix(pattern, "registry.ollama.ai/") {
			return
		}
		last := pattern[strings.LastIndex(pattern, "/")+1:]
		if !strings.Contains(last, ":") && !strings.HasSuffix(last, "*") {
			pattern += ":latest"
		}
		expr := regexp.QuoteMeta(pattern)
		expr = regexp.MustCompile(`(\\\*){2,}`).ReplaceAllString(expr, "\x00")
		expr = strings.ReplaceAll(expr, `\*`, `[^/]*`)
		expr = strings.ReplaceAll(expr, `\?`, `[^/:]`)
		expr = strings.ReplaceAll(expr, "\x00", `.*`)
		if want := regexp.MustCompile(`\A` + expr + `\z`).MatchString(name); got != want {
			t.Fatalf("%q on %q: %v", pattern, name, got)
		}
	})
}
