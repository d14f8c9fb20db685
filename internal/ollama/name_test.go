package ollama_test

import (
	"strings"
	"testing"

	"gatehouse/internal/ollama"
)

func TestCanonicalName(t *testing.T) {
	long := strings.Repeat("a", 80)
	host := strings.Repeat("h", 350)
	for name, want := range map[string]string{
		"llama3.2":                            "llama3.2:latest",
		"Llama3.2:3B":                         "llama3.2:3b",
		"library/llama3.2":                    "llama3.2:latest",
		"registry.ollama.ai/library/llama3.2": "llama3.2:latest",
		"https://registry.ollama.ai/library/llama3.2:1b": "llama3.2:1b",
		"Someone/own-model:v1":                           "someone/own-model:v1",
		"hf.co/bartowski/Llama-3.2-3B-GGUF:Q4_K_M":       "hf.co/bartowski/llama-3.2-3b-gguf:q4_k_m",
		"localhost:5000/me/m":                            "localhost:5000/me/m:latest",
		"_x:_":                                           "_x:_",
		"library/library/m":                              "library/library/m:latest",
		"Registry.Ollama.AI/Library/m":                   "m:latest",
		long + "/" + long + ":" + long:                   long + "/" + long + ":" + long,
		host + "/n/m":                                    host + "/n/m:latest",

		"": "", ":": "", ":tag": "", "m:": "", "/m": "", "n/": "", "h//m": "", "//": "",
		"-m": "", ".m": "", "m:-t": "", "m:a/b": "", "m:a:b": "", "a b": "", "m\n": "", "é": "", "m@sha256:00": "",
		"dotted.space/m":  "",
		"../../etc/x":     "",
		"a/b/c/d":         "",
		long + "a":        "",
		"m:" + long + "a": "",
		host + "h/n/m":    "",
		"library/m/m/m":   "",
		"\x1b://h/n/m":    "",
		"\x1b[2Jm":        "",
		"\u212a":          "", // the Kelvin sign, whose lower case is "k"
	} {
		if got := ollama.CanonicalName(name); got != want {
			t.Errorf("CanonicalName(%q) = %q, want %q", name, got, want)
		}
		if got := ollama.ValidName(name); got != (want != "") {
			t.Errorf("ValidName(%q) = %v", name, got)
		}
	}
}

func FuzzCanonicalName(f *testing.F) {
	for _, seed := range []string{"llama3.2", "hf.co/a/B:Q4", "localhost:5000/me/m", "http://a/b/c:d", "\u212a", "a/b/c/d"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, name string) {
		canonical := ollama.CanonicalName(name)
		if canonical == "" {
			return
		}
		if again := ollama.CanonicalName(canonical); again != canonical {
			t.Errorf("%q -> %q -> %q", name, canonical, again)
		}
		// A scheme is no part of the name, and is known in lower case alone.
		if upper := ollama.CanonicalName(strings.ToUpper(name)); upper != canonical && !strings.Contains(name, "://") {
			t.Errorf("%q -> %q, but in upper case %q", name, canonical, upper)
		}
		for _, c := range []byte(name) {
			if c <= ' ' || c >= 0x7f || c == '<' || c == '"' {
				t.Errorf("%q is valid", name)
			}
		}
	})
}

func TestValidDigest(t *testing.T) {
	hex := strings.Repeat("0123456789abcdef", 4)
	for s, want := range map[string]bool{
		hex: true, "sha256:" + hex: true, strings.ToUpper(hex): true,
		"": false, "sha256:": false, hex[1:]: false, hex + "0": false, "sha256-" + hex: false, "sha512:" + hex: false,
		"sha256:sha256:" + hex: false, hex[1:] + "g": false, hex[1:] + " ": false, hex[2:] + "é": false,
	} {
		if got := ollama.ValidDigest(s); got != want {
			t.Errorf("ValidDigest(%q) = %v", s, got)
		}
	}
}
