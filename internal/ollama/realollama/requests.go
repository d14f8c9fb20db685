//go:build unix

package realollama

import "strings"

// Names that no server has, for requests that cannot do anything.
const (
	foreignHost = "gatehouse-probe.invalid"
	zeroDigest  = "sha256:0000000000000000000000000000000000000000000000000000000000000000"
)

// Harmless are requests that cannot change a server: reads, requests with no
// body, and requests for what does not exist. The tests of this package hold a
// real server to that. Names are those of package evidence where a probe asks
// the same.
var Harmless = []Request{
	{Name: "root", Method: "GET", Path: "/"},
	{Name: "root-head", Method: "HEAD", Path: "/"},
	{Name: "version", Method: "GET", Path: "/api/version"},
	{Name: "tags", Method: "GET", Path: "/api/tags"},
	{Name: "ps", Method: "GET", Path: "/api/ps"},
	{Name: "v1-models", Method: "GET", Path: "/v1/models"},
	{Name: "v1-model", Method: "GET", Path: "/v1/models/" + Model},
	{Name: "status", Method: "GET", Path: "/api/status"},
	{Name: "aliases", Method: "GET", Path: "/api/experimental/aliases"},
	{Name: "show", Method: "POST", Path: "/api/show", Body: `{"model":"` + Model + `"}`},

	{Name: "no-path", Method: "GET", Path: "/gatehouse-probe-no-such-path"},
	{Name: "no-model", Method: "GET", Path: "/v1/models/gatehouse-probe-no-such-model"},
	{Name: "rebind", Method: "GET", Path: "/api/version", Host: foreignHost},
	{Name: "origin", Method: "GET", Path: "/api/version", Header: []string{"Origin: https://" + foreignHost}},
	{Name: "origin-localhost", Method: "GET", Path: "/api/version", Header: []string{"Origin: http://localhost:3000"}},
	{Name: "blob-zeros", Method: "HEAD", Path: "/api/blobs/" + zeroDigest},

	{Name: "read", Method: "POST", Path: "/api/show"},
	{Name: "infer", Method: "POST", Path: "/api/generate"},
	{Name: "infer-apichat", Method: "POST", Path: "/api/chat"},
	{Name: "infer-embed", Method: "POST", Path: "/api/embed"},
	{Name: "infer-embeddings", Method: "POST", Path: "/api/embeddings"},
	{Name: "infer-chat", Method: "POST", Path: "/v1/chat/completions"},
	{Name: "infer-completions", Method: "POST", Path: "/v1/completions"},
	{Name: "infer-v1-embeddings", Method: "POST", Path: "/v1/embeddings"},
	{Name: "infer-responses", Method: "POST", Path: "/v1/responses"},
	{Name: "infer-messages", Method: "POST", Path: "/v1/messages"},
	{Name: "manage", Method: "DELETE", Path: "/api/delete"},
	{Name: "manage-pull", Method: "POST", Path: "/api/pull"},
	{Name: "manage-push", Method: "POST", Path: "/api/push"},
	{Name: "manage-new", Method: "POST", Path: "/api/create"},
	{Name: "manage-copy", Method: "POST", Path: "/api/copy"},
	{Name: "manage-blob", Method: "POST", Path: "/api/blobs/x"},

	{Name: "delete-empty", Method: "DELETE", Path: "/api/delete", Body: `{}`},
	{Name: "delete-unknown", Method: "DELETE", Path: "/api/delete", Body: unknownModel},
	{Name: "show-unknown", Method: "POST", Path: "/api/show", Body: unknownModel},
	{Name: "generate-unknown", Method: "POST", Path: "/api/generate", Body: unknownModel},
	{Name: "chat-unknown", Method: "POST", Path: "/api/chat", Body: unknownModel},
}

const unknownModel = `{"model":"gatehouse-probe-no-such-model"}`

// harmless returns the request of that name.
func harmless(name string) Request {
	for _, r := range Harmless {
		if strings.EqualFold(r.Name, name) {
			return r
		}
	}
	panic("realollama: no request named " + name)
}
