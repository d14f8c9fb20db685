// Package ollama says what Ollama's API is: every route and the power it gives,
// what its replies look like, which releases exist and which advisories concern
// them, and how much memory a model needs.
// Pure: no network, no clock, no files but the ones embedded in the binary.
package ollama

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// Power is what a route lets its caller do. The zero value is Unknown, which
// a gate denies and a scanner never claims.
type Power string

// The powers, from the least to the greatest.
const (
	Unknown Power = ""        // not in the route table
	Hello   Power = "hello"   // the banner and the version
	Read    Power = "read"    // which models there are, and what is in them
	Infer   Power = "infer"   // computing with a model; loading and unloading it
	Manage  Power = "manage"  // adding, changing and deleting models
	Account Power = "account" // acting as the server's ollama.com account
)

// Powers lists every power a route can give, from the least to the greatest.
var Powers = []Power{Hello, Read, Infer, Manage, Account}

func (p Power) String() string {
	if p == Unknown {
		return "unknown"
	}
	return string(p)
}

// Route is one line of the API's route table.
type Route struct {
	Method  string
	Pattern string // path as the server registers it; ":name" stands for one segment
	Power   Power
}

// Routes is the route table: server/routes.go of Ollama 0.17.4, and after it
// the routes that other releases have. A server that lacks one answers 404, so
// listing too many opens nothing; a route that is not listed is Unknown.
var Routes = []Route{
	{http.MethodHead, "/", Hello},
	{http.MethodGet, "/", Hello},
	{http.MethodHead, "/api/version", Hello},
	{http.MethodGet, "/api/version", Hello},

	{http.MethodHead, "/api/tags", Read},
	{http.MethodGet, "/api/tags", Read},
	{http.MethodGet, "/api/ps", Read},
	{http.MethodGet, "/api/status", Read},
	{http.MethodPost, "/api/show", Read},
	{http.MethodHead, "/api/blobs/:digest", Read},
	{http.MethodGet, "/api/experimental/aliases", Read},
	{http.MethodGet, "/v1/models", Read},
	{http.MethodGet, "/v1/models/:model", Read},

	{http.MethodPost, "/api/generate", Infer},
	{http.MethodPost, "/api/chat", Infer},
	{http.MethodPost, "/api/embed", Infer},
	{http.MethodPost, "/api/embeddings", Infer},
	{http.MethodPost, "/v1/chat/completions", Infer},
	{http.MethodPost, "/v1/completions", Infer},
	{http.MethodPost, "/v1/embeddings", Infer},
	{http.MethodPost, "/v1/responses", Infer},
	{http.MethodPost, "/v1/images/generations", Infer},
	{http.MethodPost, "/v1/images/edits", Infer},
	{http.MethodPost, "/v1/messages", Infer},

	{http.MethodPost, "/api/pull", Manage},
	{http.MethodPost, "/api/push", Manage},
	{http.MethodPost, "/api/create", Manage},
	{http.MethodPost, "/api/copy", Manage},
	{http.MethodDelete, "/api/delete", Manage},
	{http.MethodPost, "/api/blobs/:digest", Manage},
	{http.MethodPost, "/api/experimental/aliases", Manage},
	{http.MethodDelete, "/api/experimental/aliases", Manage},

	{http.MethodPost, "/api/me", Account},
	{http.MethodPost, "/api/signout", Account},
	{http.MethodDelete, "/api/user/keys/:encodedKey", Account},
	{http.MethodPost, "/api/experimental/web_search", Account},
	{http.MethodPost, "/api/experimental/web_fetch", Account},
}

// Classify names the route that Ollama's router runs for a method and a decoded
// URL path, and the power it gives. It matches as that router does: exactly, by
// segments, with no cleaning; everything else is Unknown and ok is false.
func Classify(method, path string) (r Route, ok bool) {
	i := slices.IndexFunc(Routes, func(r Route) bool {
		return r.Method == method && match(r.Pattern, path)
	})
	if i < 0 {
		return Route{Method: method, Pattern: path}, false
	}
	return Routes[i], true
}

// match reports whether path fits pattern. A ":name" takes one segment that is
// not empty; gin, Ollama's router, does the same.
func match(pattern, path string) bool {
	before, _, param := strings.Cut(pattern, ":")
	if !param {
		return pattern == path
	}
	segment, ok := strings.CutPrefix(path, before)
	return ok && segment != "" && !strings.Contains(segment, "/")
}

// ClassifyURL is Classify for a request's target. It knows paths that are written
// in the one plain way, and no others, so that nobody on the way to Ollama's
// handler can read another path.
//
// Ollama 0.17.4 stands behind http.ServeMux, which redirects what has "//", "/./"
// or "/../" in it, and routes with gin 1.10: by the decoded path (UseRawPath is
// false, so %2f is a slash), with upper and lower case apart, redirecting what
// has one slash more or less at its end (RedirectTrailingSlash), repairing nothing
// else (RedirectFixedPath is false). Here all of that is Unknown: escapes but
// "%3A" in a model's name, which OpenAI's client makes of its colon; a host in
// the target (absolute-form), "*", and a parameter with other bytes than names
// and digests have. The query does not matter: Ollama reads none.
func ClassifyURL(method string, u *url.URL) (r Route, ok bool) {
	unknown := Route{Method: method, Pattern: u.Path}
	if u.Scheme != "" || u.Opaque != "" || u.User != nil || u.Host != "" || u.Fragment != "" {
		return unknown, false
	}
	r, ok = Classify(method, u.Path)
	if !ok {
		return unknown, false
	}
	before, _, param := strings.Cut(r.Pattern, ":")
	if !param {
		if u.RawPath != "" {
			return unknown, false
		}
		return r, true
	}
	const plain = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.:"
	segment := strings.TrimPrefix(u.Path, before)
	if segment == "." || segment == ".." || strings.Trim(segment, plain) != "" {
		return unknown, false
	}
	if u.RawPath != "" && strings.NewReplacer("%3A", ":", "%3a", ":").Replace(u.RawPath) != u.Path {
		return unknown, false
	}
	return r, true
}

// Methods are those that the routes of a path have, such as for an Allow header;
// none when there is no such path.
func Methods(path string) []string {
	var methods []string
	for _, r := range Routes {
		if match(r.Pattern, path) {
			methods = append(methods, r.Method)
		}
	}
	return methods
}
