package probe

import (
	"github.com/go-json-experiment/json"

	"gatehouse/internal/evidence"
	"gatehouse/internal/ollama"
)

// Names that no server has: ".invalid" never resolves (RFC 6761, section 6.4).
const (
	foreignHost = "gatehouse-probe.invalid"
	noModel     = "gatehouse-probe-no-such-model"
	noPath      = "/gatehouse-probe-no-such-path"
)

// proofs are the requests that show what lies behind any lock. What is sent
// was measured on a real Ollama to leave its files, its models in memory and
// its log as they were, but for the request lines.
//
// A request with no body reaches the handler and fails there, before it has a
// model's name to act on. Two that would do are left out on purpose:
// POST /api/blobs/x, because releases before 0.1.34 do not look at the digest
// and keep the empty blob (CVE-2024-37032), and POST /api/me, because it has
// the server call ollama.com.
var proofs = []request{
	{ask: evidence.Rebind, method: "GET", path: "/api/version", host: foreignHost},
	{ask: evidence.Origin, method: "GET", path: "/api/version", header: "Origin: https://" + foreignHost + "\r\n"},
	{ask: evidence.NoPath, method: "GET", path: noPath},
	{ask: evidence.NoModel, method: "GET", path: "/v1/models/" + noModel},
	{ask: evidence.ProveRead, method: "POST", path: "/api/show"},
	{ask: evidence.ProveInfer, method: "POST", path: "/api/generate"},
	{ask: evidence.ProveChat, method: "POST", path: "/v1/chat/completions"},
	{ask: evidence.Pull, method: "POST", path: "/api/pull"},
	{ask: evidence.Create, method: "POST", path: "/api/create"},
	{ask: evidence.Delete, method: "DELETE", path: "/api/delete"},
}

// proofs returns what to send to prove powers: nothing unless the place has
// shown itself to be an Ollama, for on any other server DELETE /api/delete may
// mean something.
func (c *conversation) proofs() []request {
	if !c.showsOllama() {
		return nil
	}
	return proofs
}

func (c *conversation) showsOllama() bool {
	if x := c.host.Find(evidence.Root); x != nil && x.Status == 200 && string(x.Body) == ollama.Banner {
		return true
	}
	// A proxy may serve the API and not the banner. A version alone is no sign:
	// a hundred other programs answer {"version":"…"} there.
	version, tags := c.host.Find(evidence.Version), c.host.Find(evidence.Tags)
	if version == nil || version.Status != 200 || tags == nil || tags.Status != 200 {
		return false
	}
	if _, err := ollama.ParseVersion(version.Body); err != nil {
		return false
	}
	_, err := ollama.ParseTags(tags.Body)
	return err == nil
}

// shows returns a POST /api/show for at most n of the models that the place
// listed. Models that live elsewhere are passed over: asking about one has the
// server call that other place.
func (c *conversation) shows(n int) []request {
	x := c.host.Find(evidence.Tags)
	if x == nil || x.Status != 200 || x.Error != "" {
		return nil
	}
	tags, err := ollama.ParseTags(x.Body)
	if err != nil {
		return nil
	}
	var rs []request
	for _, m := range tags.Models {
		if len(rs) == n {
			break
		}
		if m.RemoteHost != "" || m.RemoteModel != "" || !ollama.ValidName(m.Name) {
			continue
		}
		body, err := json.Marshal(struct {
			Model string `json:"model"`
		}{m.Name})
		if err != nil {
			continue
		}
		rs = append(rs, request{
			ask: evidence.Show, method: "POST", path: "/api/show", model: m.Name, body: string(body),
		})
	}
	return rs
}
