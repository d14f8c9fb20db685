package ollama

import "strings"

// What Ollama fills in where a name leaves a part out.
const (
	defaultHost      = "registry.ollama.ai"
	defaultNamespace = "library"
	defaultTag       = "latest"
)

// ValidName reports whether Ollama would take name for a model's:
// [[host/]namespace/]model[:tag], each part beginning with a letter, a digit or
// "_" and going on with these and "-", model and tag also with ".", the host
// also with "." and ":". The host has up to 350 bytes, the other parts up to 80
// (types/model/name.go of Ollama 0.17.4). Every name that an Ollama lists is
// valid.
func ValidName(name string) bool {
	_, _, _, _, ok := nameParts(name)
	return ok
}

// CanonicalName returns the one spelling of all names that Ollama takes for the
// same model: lower case, with the tag, without the registry and the namespace
// that go without saying. "Llama3.2" and "registry.ollama.ai/library/llama3.2"
// both become "llama3.2:latest". A name that is not valid becomes "".
func CanonicalName(name string) string {
	host, namespace, model, tag, ok := nameParts(name)
	if !ok {
		return ""
	}
	// Only now: ToLower makes letters of what is none, the Kelvin sign for one.
	if strings.IndexByte(name, '/') < 0 { // as nearly all are: there is nothing to leave out
		if len(model) < len(name) {
			return strings.ToLower(name)
		}
		return strings.ToLower(name + ":" + tag)
	}
	canonical := strings.ToLower(host + "/" + namespace + "/" + model + ":" + tag)
	if short, ok := strings.CutPrefix(canonical, defaultHost+"/"); ok {
		return strings.TrimPrefix(short, defaultNamespace+"/")
	}
	return canonical
}

// nameParts takes a name apart, and fills in what goes without saying.
func nameParts(name string) (host, namespace, model, tag string, ok bool) {
	tag, host, namespace = defaultTag, defaultHost, defaultNamespace

	model = name
	// No tag has a slash: a colon before one belongs to the host.
	if colon := strings.LastIndexByte(model, ':'); colon > strings.LastIndexByte(model, '/') {
		model, tag = model[:colon], model[colon+1:]
	}
	if slash := strings.LastIndexByte(model, '/'); slash >= 0 {
		namespace, model = model[:slash], model[slash+1:]
		if slash := strings.LastIndexByte(namespace, '/'); slash >= 0 {
			host, namespace = namespace[:slash], namespace[slash+1:]
			// Ollama takes any scheme, and so any bytes; here, its two.
			host = strings.TrimPrefix(strings.TrimPrefix(host, "https://"), "http://")
		}
	}
	return host, namespace, model, tag, validPart(host, 350, "-.:") && validPart(namespace, 80, "-") &&
		validPart(model, 80, "-.") && validPart(tag, 80, "-.")
}

// validPart reports whether s is a part of a name of up to limit bytes; marks
// may stand in it, but not first.
func validPart(s string, limit int, marks string) bool {
	if s == "" || len(s) > limit {
		return false
	}
	for i := range len(s) {
		c := s[i]
		word := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '_'
		if !word && (i == 0 || strings.IndexByte(marks, c) < 0) {
			return false
		}
	}
	return true
}

// ValidDigest reports whether s is a SHA-256 in hexadecimal, with or without
// the "sha256:" before it. Of a model in GET /api/tags it is the manifest's.
func ValidDigest(s string) bool {
	s = strings.TrimPrefix(s, "sha256:")
	return len(s) == 64 && isHex(s)
}
