package policy_test

import (
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"gatehouse/internal/key"
	"gatehouse/internal/ollama"
	"gatehouse/internal/policy"
)

var (
	home = netip.MustParseAddr("10.1.2.3")
	noon = time.Date(2026, time.November, 24, 12, 0, 0, 0, time.UTC) // a Tuesday
)

// body is a request's body for each route that takes JSON, about a model; %s is
// the model, %d a number of tokens.
var bodies = map[string]string{
	"/api/generate":             `{"model":"%[1]s","prompt":"hi","options":{"num_predict":%[2]d,"num_ctx":%[2]d},"keep_alive":"2m"}`,
	"/api/chat":                 `{"model":"%[1]s","messages":[{"content":"hi"}],"options":{"num_predict":%[2]d,"num_ctx":%[2]d}}`,
	"/api/embed":                `{"model":"%[1]s","input":"hi","options":{"num_ctx":%[2]d}}`,
	"/api/embeddings":           `{"model":"%[1]s","prompt":"hi","options":{"num_ctx":%[2]d}}`,
	"/v1/chat/completions":      `{"model":"%[1]s","messages":[{"content":"hi"}],"max_tokens":%[2]d}`,
	"/v1/completions":           `{"model":"%[1]s","prompt":"hi","max_tokens":%[2]d}`,
	"/v1/embeddings":            `{"model":"%[1]s","input":"hi"}`,
	"/v1/responses":             `{"model":"%[1]s","input":"hi","max_output_tokens":%[2]d}`,
	"/v1/images/generations":    `{"model":"%[1]s","prompt":"hi"}`,
	"/v1/images/edits":          `{"model":"%[1]s","prompt":"hi","image":"AAAA"}`,
	"/v1/messages":              `{"model":"%[1]s","messages":[{"content":"hi"}],"max_tokens":%[2]d}`,
	"/api/show":                 `{"model":"%[1]s"}`,
	"/api/pull":                 `{"model":"%[1]s"}`,
	"/api/push":                 `{"model":"%[1]s"}`,
	"/api/create":               `{"model":"mine","from":"%[1]s"}`,
	"/api/copy":                 `{"source":"%[1]s","destination":"mine"}`,
	"/api/delete":               `{"model":"%[1]s"}`,
	"/api/experimental/aliases": `{"alias":"mine","target":"%[1]s"}`,
}

// request is one that a client would send to the route, about the model.
func request(t *testing.T, r ollama.Route, model string, tokens int) policy.Request {
	t.Helper()
	req := policy.Request{Route: r, Known: true, From: home, Now: noon}
	if r.TakesJSON() {
		template, ok := bodies[r.Pattern]
		if !ok {
			t.Fatalf("no body for %s", r.Pattern)
		}
		if r.Pattern == "/api/experimental/aliases" && r.Method == http.MethodDelete {
			template = `{"alias":"%[1]s"}`
		}
		body := fmt.Sprintf(template, model, tokens)
		body, _, _ = strings.Cut(body, "%!") // the number that has no place
		ask, err := ollama.ParseAsk(r, "application/json", []byte(body))
		if err != nil {
			t.Fatalf("%s %s: %v", r.Pattern, body, err)
		}
		req.Ask, req.Bytes = ask, int64(len(body))
	} else {
		req.Ask = ollama.AskPath(r, strings.ReplaceAll(r.Pattern, ":model", model))
	}
	return req
}

// everything are terms that hold nothing back.
func everything() key.Terms {
	return key.Terms{Powers: ollama.Powers, Models: []string{"*"}}
}

func identity(terms key.Terms) key.Identity {
	return key.Identity{Kind: key.ByKey, ID: "k", Terms: terms}
}

// Each route, in each dialect, with each thing that may be wrong.
func TestDecideRoutes(t *testing.T) {
	own := func(change func(*key.Terms)) key.Terms {
		terms := everything()
		terms.Models = []string{"ours:*", "mine"}
		change(&terms)
		return terms
	}
	inference := func(r ollama.Route) bool { return r.Power == ollama.Infer }
	named := func(r ollama.Route) bool { return r.NamesModels() }
	any := func(ollama.Route) bool { return true }
	none := func(ollama.Route) bool { return false }
	bounded := func(r ollama.Route) bool {
		return r.Power == ollama.Infer && r.Bounded() && !strings.Contains(r.Pattern, "embed")
	}
	for _, test := range []struct {
		name   string
		terms  key.Terms
		model  string
		tokens int
		change func(*policy.Request)
		at     func(ollama.Route) bool // denied on these, allowed on the others
		reason string
		status int
	}{
		{name: "allowed", terms: own(func(*key.Terms) {}), at: none},
		{name: "another spelling", terms: own(func(*key.Terms) {}), model: "registry.ollama.ai/library/Ours:1B", at: none},
		{name: "zero terms", terms: key.Terms{}, at: any, reason: policy.Power, status: 403},
		{name: "another's model", terms: own(func(*key.Terms) {}), model: "theirs:1b", at: named, reason: policy.Model, status: 403},
		{name: "no model's name", terms: own(func(*key.Terms) {}), model: "../ours:1b", at: named, reason: policy.Model, status: 403},
		{name: "a mere mark", terms: own(func(*key.Terms) {}), model: "-", at: named, reason: policy.Model, status: 403},
		{name: "no ask", terms: own(func(*key.Terms) {}), change: func(r *policy.Request) { r.Ask = nil }, at: named, reason: policy.NoModel, status: 400},
		{name: "from elsewhere", terms: own(func(k *key.Terms) { k.Sources = []netip.Prefix{netip.MustParsePrefix("192.168.0.0/16")} }), at: any, reason: policy.Source, status: 403},
		{name: "at night", terms: own(func(k *key.Terms) { k.Hours = []key.Window{{From: 22 * time.Hour, To: 6 * time.Hour}} }), at: any, reason: policy.Hours, status: 403},
		{name: "in its hours", terms: own(func(k *key.Terms) { k.Hours = []key.Window{{From: 8 * time.Hour, To: 18 * time.Hour}} }), at: none},
		{name: "clamped", terms: own(func(k *key.Terms) { k.Caps = key.Caps{MaxTokens: 100, NumCtx: 100, KeepAlive: time.Minute} }), tokens: 500, at: func(r ollama.Route) bool { return !r.Bounded() }, reason: policy.Uncounted, status: 403},
		{
			name: "strict", terms: own(func(k *key.Terms) { k.Strict = true; k.Caps = key.Caps{MaxTokens: 100} }), tokens: 500,
			at: func(r ollama.Route) bool { return bounded(r) || !r.Bounded() }, status: 403,
		},
		{name: "strict, within", terms: own(func(k *key.Terms) { k.Strict = true; k.Caps = key.Caps{NumCtx: 100, KeepAlive: 2 * time.Minute} }), tokens: 100, at: none},
		{name: "too long", terms: own(func(k *key.Terms) { k.Caps.RequestBytes = 5 }), change: func(r *policy.Request) { r.Bytes = 6 }, at: any, reason: policy.Size, status: 413},
		{name: "of unknown length", terms: own(func(k *key.Terms) { k.Caps.RequestBytes = 500 }), change: func(r *policy.Request) { r.Bytes = -1 }, at: func(r ollama.Route) bool { return !named(r) }, reason: policy.Size, status: 411},
		{name: "unknown", terms: everything(), change: func(r *policy.Request) { r.Known = false; r.Route = ollama.Route{Method: "GET", Pattern: "/x"} }, at: any, reason: policy.UnknownRoute, status: 404},
		{name: "unknown power", terms: everything(), change: func(r *policy.Request) { r.Route.Power = ollama.Unknown }, at: any, reason: policy.UnknownRoute, status: 404},
		{name: "unknown method", terms: everything(), change: func(r *policy.Request) { r.Known = false; r.Route.Method = "PATCH" }, at: any, reason: policy.UnknownMethod, status: 405},
		{name: "computes elsewhere", terms: own(func(k *key.Terms) { k.Powers = []ollama.Power{ollama.Hello, ollama.Read, ollama.Infer, ollama.Manage} }), change: func(r *policy.Request) {
			r.Elsewhere = func(model string) bool { return model == "ours:1b" }
		}, at: func(r ollama.Route) bool {
			again := r.Method == http.MethodPost && slices.Contains([]string{"/api/copy", "/api/create", "/api/experimental/aliases"}, r.Pattern)
			return r.Power == ollama.Account || inference(r) || again
		}, status: 403},
	} {
		for _, r := range ollama.Routes {
			model := test.model
			if model == "" {
				model = "ours:1b"
			}
			req := request(t, r, model, max(1, test.tokens))
			if test.change != nil {
				test.change(&req)
			}
			d := policy.Decide(identity(test.terms), req)
			want := !test.at(r)
			switch {
			case d.Allow != want:
				t.Errorf("%s: %s %s: allowed %v, %s", test.name, r.Method, r.Pattern, d.Allow, d.Reason)
			case want && (d.Status != 0 || d.Reason != "" || d.Message != ""):
				t.Errorf("%s: %s %s: allowed, and %+v", test.name, r.Method, r.Pattern, d)
			case !want && (d.Status != test.status || test.reason != "" && d.Reason != test.reason || d.Message == ""):
				t.Errorf("%s: %s %s: %+v", test.name, r.Method, r.Pattern, d)
			}
			if test.name == "clamped" && want && r.Power == ollama.Infer {
				body, changed := req.Ask.Apply(d.Clamp)
				if again, err := ollama.ParseAsk(r, "", body); err != nil || again.Exceeds(d.Clamp) != "" || !changed && r.Pattern != "/v1/embeddings" {
					t.Errorf("%s: %s: %s, %v", test.name, r.Pattern, body, err)
				}
			}
		}
	}
}

// A power is that power and no other.
func TestDecidePowers(t *testing.T) {
	for _, power := range ollama.Powers {
		terms := key.Terms{Powers: []ollama.Power{power}, Models: []string{"*"}}
		for _, r := range ollama.Routes {
			d := policy.Decide(identity(terms), request(t, r, "ours:1b", 1))
			if d.Allow != (r.Power == power) {
				t.Errorf("%s on %s %s: %+v", power, r.Method, r.Pattern, d)
			}
		}
	}
}

// decide decides on a body.
func decide(t *testing.T, terms key.Terms, method, path, body string) policy.Decision {
	t.Helper()
	r, ok := ollama.Classify(method, path)
	if !ok {
		t.Fatalf("no route %s %s", method, path)
	}
	ask, err := ollama.ParseAsk(r, "", []byte(body))
	if err != nil {
		t.Fatal(err)
	}
	return policy.Decide(identity(terms), policy.Request{Route: r, Known: true, Ask: ask, From: home, Now: noon, Bytes: int64(len(body))})
}

func TestDecideModels(t *testing.T) {
	own := key.Terms{Powers: []ollama.Power{ollama.Read, ollama.Infer, ollama.Manage}, Models: []string{"ours:*", "llama3.2"}}
	every := key.Terms{Powers: own.Powers, Models: []string{"*"}}
	account := key.Terms{Powers: ollama.Powers, Models: []string{"*"}}
	for _, test := range []struct {
		terms        key.Terms
		method, path string
		body         string
		reason       string // "": allowed
	}{
		{own, "POST", "/api/chat", `{"model":"llama3.2"}`, ""},
		{own, "POST", "/api/chat", `{"model":"llama3.2:latest"}`, ""},
		{own, "POST", "/api/chat", `{"model":"library/LLAMA3.2"}`, ""},
		{own, "POST", "/api/chat", `{"model":"llama3.2:1b"}`, policy.Model},
		{own, "POST", "/api/chat", `{"model":"someone/llama3.2"}`, policy.Model},
		{own, "POST", "/api/chat", `{"model":"hf.co/library/llama3.2"}`, policy.Model},
		{own, "POST", "/api/chat", `{}`, policy.NoModel},
		{own, "POST", "/api/chat", `{"model":""}`, policy.NoModel},
		{own, "POST", "/api/show", `{"name":"ours:1b","model":""}`, ""},
		{own, "POST", "/api/show", `{}`, policy.NoModel},
		{every, "POST", "/api/chat", `{}`, policy.NoModel},
		{own, "POST", "/api/copy", `{"source":"ours:1b","destination":"ours:2b"}`, ""},
		{own, "POST", "/api/copy", `{"source":"theirs","destination":"ours:2b"}`, policy.Model},
		{own, "POST", "/api/copy", `{"source":"ours:1b","destination":"theirs"}`, policy.Model},
		{own, "POST", "/api/create", `{"model":"ours:2b","from":"ours:1b"}`, ""},
		{own, "POST", "/api/create", `{"model":"ours:2b","files":{"a.gguf":"sha256:00"}}`, ""},
		{own, "POST", "/api/create", `{"model":"ours:2b","from":"theirs"}`, policy.Model},
		{own, "POST", "/api/create", `{"model":"theirs","from":"ours:1b"}`, policy.Model},
		{own, "POST", "/api/create", `{"from":"ours:1b"}`, ""}, // Ollama refuses it
		{own, "DELETE", "/api/delete", `{"name":"theirs"}`, policy.Model},
		{own, "POST", "/api/experimental/aliases", `{"alias":"ours:x","target":"ours:1b"}`, ""},
		{own, "POST", "/api/experimental/aliases", `{"alias":"theirs","target":"ours:1b"}`, policy.Model},
		{own, "POST", "/api/experimental/aliases", `{"alias":"ours:x","target":"theirs"}`, policy.Model},
		{own, "POST", "/api/experimental/aliases", `{"alias":"ours:x","target":"ours:1b","prefix_matching":true}`, policy.Model},
		{every, "POST", "/api/experimental/aliases", `{"alias":"o","target":"ours:1b","prefix_matching":true}`, ""},
		{own, "DELETE", "/api/experimental/aliases", `{"alias":"o/"}`, policy.Model},
		{every, "DELETE", "/api/experimental/aliases", `{"alias":"o/"}`, ""},

		{every, "POST", "/api/chat", `{"model":"gpt-oss:120b-cloud"}`, policy.Cloud},
		{every, "POST", "/api/chat", `{"model":"gpt-oss:CLOUD"}`, policy.Cloud},
		{every, "POST", "/v1/messages", `{"model":"kimi-k2-cloud"}`, policy.Cloud},
		{every, "POST", "/api/chat", `{"model":"cloudy:1b"}`, ""},
		{every, "POST", "/api/show", `{"model":"gpt-oss:120b-cloud"}`, ""},
		{every, "POST", "/api/copy", `{"source":"gpt-oss:120b-cloud","destination":"mine"}`, policy.Cloud},
		{every, "POST", "/api/create", `{"model":"mine","from":"gpt-oss:120b-cloud"}`, policy.Cloud},
		{every, "POST", "/api/create", `{"model":"mine","from":"x","remote_host":"http://evil.example"}`, policy.Cloud},
		{every, "DELETE", "/api/delete", `{"model":"gpt-oss:120b-cloud"}`, ""},
		{every, "POST", "/v1/messages", `{"model":"ours:1b","tools":[{"type":"web_search_20250305","name":"web_search"}]}`, policy.Cloud},
		{account, "POST", "/v1/messages", `{"model":"x-cloud","tools":[{"type":"web_search_20250305","name":"web_search"}]}`, ""},
		{account, "POST", "/api/create", `{"model":"mine","from":"x","remote_host":"https://ollama.com"}`, ""},

		{own, "HEAD", "/api/blobs/sha256:00", ``, ""},
		{own, "POST", "/api/blobs/sha256:00", ``, ""},
		{key.Terms{Powers: []ollama.Power{ollama.Read}, Models: []string{"ours:*"}}, "HEAD", "/api/blobs/sha256:00", ``, policy.Model},
		{key.Terms{Powers: []ollama.Power{ollama.Read}, Models: []string{"*"}}, "HEAD", "/api/blobs/sha256:00", ``, ""},
	} {
		if d := decide(t, test.terms, test.method, test.path, test.body); d.Allow != (test.reason == "") || d.Reason != test.reason {
			t.Errorf("%s %s %s: %+v, want %q", test.method, test.path, test.body, d, test.reason)
		}
	}
	long := `{"model":"` + strings.Repeat("x", 1<<16) + `"}`
	if d := decide(t, own, "POST", "/api/chat", long); len(d.Message) > 200 {
		t.Errorf("the message repeats what was sent: %d bytes", len(d.Message))
	}
}

func TestDecideCaps(t *testing.T) {
	capped := func(caps key.Caps, strict bool) key.Terms {
		terms := everything()
		terms.Caps, terms.Strict = caps, strict
		return terms
	}
	keep := key.Caps{KeepAlive: 10 * time.Minute}
	brief := key.Caps{KeepAlive: 5 * time.Second}
	for _, test := range []struct {
		caps   key.Caps
		strict bool
		path   string
		body   string
		reason string // "": allowed
		after  string // what the body becomes; "": it stays
	}{
		{keep, false, "/api/chat", `{"model":"m","messages":[{}]}`, "", ""},
		{keep, false, "/api/chat", `{"model":"m","messages":[{}],"keep_alive":"5m"}`, "", ""},
		{keep, false, "/api/chat", `{"model":"m","messages":[{}],"keep_alive":-1}`, "", `{"model":"m","messages":[{}],"keep_alive":"10m0s"}`},
		{keep, false, "/api/chat", `{"model":"m","messages":[{}],"keep_alive":0}`, "", `{"model":"m","messages":[{}],"keep_alive":"1m0s"}`},
		{keep, false, "/api/chat", `{"model":"m","messages":[{}],"keep_alive":"1ms"}`, "", `{"model":"m","messages":[{}],"keep_alive":"1m0s"}`},
		{brief, false, "/api/chat", `{"model":"m","messages":[{}],"keep_alive":0}`, "", `{"model":"m","messages":[{}],"keep_alive":"5s"}`},
		{brief, false, "/api/chat", `{"model":"m","messages":[{}],"keep_alive":"1h"}`, "", `{"model":"m","messages":[{}],"keep_alive":"5s"}`},
		{keep, false, "/api/generate", `{"model":"m","keep_alive":0}`, policy.Unload, ""},
		{keep, true, "/api/generate", `{"model":"m","keep_alive":0}`, policy.Unload, ""},
		{keep, true, "/api/generate", `{"model":"m","prompt":"x","keep_alive":0}`, policy.Capped, ""},
		{keep, true, "/api/generate", `{"model":"m","prompt":"x","keep_alive":-1}`, policy.Capped, ""},
		{key.Caps{}, true, "/api/generate", `{"model":"m","keep_alive":0}`, "", ""},
		{key.Caps{}, true, "/api/generate", `{"model":"m","keep_alive":-1,"options":{"num_ctx":1000000,"num_predict":-1}}`, "", ""},

		{key.Caps{NumCtx: 10}, true, "/api/chat", `{"model":"m"}`, "", ""},
		{key.Caps{NumCtx: 10}, true, "/api/chat", `{"model":"m","options":{"num_ctx":11}}`, policy.Capped, ""},
		{key.Caps{NumCtx: 10}, true, "/v1/chat/completions", `{"model":"m"}`, "", ""},
		{key.Caps{MaxTokens: 10}, true, "/v1/chat/completions", `{"model":"m","max_tokens":-1}`, policy.Capped, ""},
		{key.Caps{MaxTokens: 10}, false, "/v1/chat/completions", `{"model":"m","max_tokens":-1}`, "", `{"model":"m","max_tokens":10}`},
		{key.Caps{MaxTokens: 10}, false, "/v1/images/generations", `{"model":"m"}`, policy.Uncounted, ""},
		{key.Caps{NumCtx: 10}, false, "/v1/images/generations", `{"model":"m"}`, "", ""},

		{key.Caps{Images: 1}, false, "/api/chat", `{"model":"m","messages":[{"images":["a"]}]}`, "", ""},
		{key.Caps{Images: 1}, false, "/api/chat", `{"model":"m","messages":[{"images":["a"]},{"images":["b"]}]}`, policy.Images, ""},
		{key.Caps{Images: -1}, false, "/v1/chat/completions", `{"model":"m","messages":[{"content":[{"type":"image_url"}]}]}`, policy.Images, ""},
		{key.Caps{Images: -1}, false, "/v1/chat/completions", `{"model":"m","messages":[{"content":[{"type":"text"}]}]}`, "", ""},
		{key.Caps{}, false, "/v1/messages", `{"model":"m","messages":[{"content":[{"type":"image"},{"type":"image"}]}]}`, "", ""},

		// Nothing is capped: only the usage is asked for, and only of a stream.
		{key.Caps{}, false, "/v1/chat/completions", `{"model":"m","stream":true}`, "", `{"stream_options":{"include_usage":true},"model":"m","stream":true}`},
		{key.Caps{}, false, "/v1/chat/completions", `{"model":"m"}`, "", ""},
	} {
		r, _ := ollama.Classify("POST", test.path)
		ask, err := ollama.ParseAsk(r, "", []byte(test.body))
		if err != nil {
			t.Fatal(err)
		}
		d := policy.Decide(identity(capped(test.caps, test.strict)), policy.Request{Route: r, Known: true, Ask: ask, From: home, Now: noon})
		if d.Allow != (test.reason == "") || d.Reason != test.reason {
			t.Errorf("%+v, strict %v, %s %s: %+v", test.caps, test.strict, test.path, test.body, d)
			continue
		}
		if !d.Allow {
			continue
		}
		after := test.after
		if after == "" {
			after = test.body
		}
		if body, changed := ask.Apply(d.Clamp); string(body) != after || changed != (test.after != "") {
			t.Errorf("%+v %s %s became %s, want %s", test.caps, test.path, test.body, body, after)
		}
	}
	for _, limits := range []key.Limits{{TokensMinute: 1}, {TokensDay: 1}} {
		terms := everything()
		terms.Limits = limits
		if d := decide(t, terms, "POST", "/v1/images/generations", `{"model":"m"}`); d.Reason != policy.Uncounted {
			t.Errorf("%+v: %+v", limits, d)
		}
	}
}

func TestDecideSources(t *testing.T) {
	terms := everything()
	terms.Sources = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8"), netip.MustParsePrefix("fe80::/10")}
	r, _ := ollama.Classify("GET", "/api/tags")
	for from, want := range map[string]bool{
		"10.1.2.3": true, "::ffff:10.1.2.3": true, "fd00::1": true, "fe80::1%eth0": true,
		"11.0.0.1": false, "::1": false, "::ffff:11.0.0.1": false, "2001:db8::1": false,
	} {
		if d := policy.Decide(identity(terms), policy.Request{Route: r, Known: true, From: netip.MustParseAddr(from), Now: noon}); d.Allow != want {
			t.Errorf("%s: %+v", from, d)
		}
	}
	if d := policy.Decide(identity(terms), policy.Request{Route: r, Known: true, Now: noon}); d.Allow {
		t.Error("no address is in the sources")
	}
}

func TestDecideHours(t *testing.T) {
	const zone = "Europe/Berlin"
	berlin, err := time.LoadLocation(zone)
	if err != nil {
		t.Fatal(err)
	}
	at := func(value string) time.Time {
		t.Helper()
		when, err := time.ParseInLocation("2006-01-02 15:04:05", value, berlin)
		if err != nil {
			t.Fatal(err)
		}
		return when.UTC()
	}
	week := []time.Weekday{time.Monday, time.Tuesday, time.Wednesday, time.Thursday, time.Friday}
	office := key.Window{Days: week, From: 8 * time.Hour, To: 18*time.Hour + 30*time.Minute, Zone: zone}
	night := key.Window{Days: []time.Weekday{time.Friday}, From: 22 * time.Hour, To: 6 * time.Hour, Zone: zone}
	for _, test := range []struct {
		window key.Window
		now    time.Time
		want   bool
	}{
		{office, at("2026-11-24 08:00:00"), true}, // a Tuesday
		{office, at("2026-11-24 07:59:59"), false},
		{office, at("2026-11-24 18:29:59"), true},
		{office, at("2026-11-24 18:30:00"), false},
		{office, at("2026-11-28 12:00:00"), false},                                             // a Saturday
		{office, time.Date(2026, 11, 24, 7, 30, 0, 0, time.UTC), true},                         // 08:30 in winter
		{office, time.Date(2026, 7, 21, 6, 30, 0, 0, time.UTC), true},                          // 08:30 in summer
		{office, time.Date(2026, 7, 21, 5, 30, 0, 0, time.UTC), false},                         // 07:30
		{key.Window{From: 8 * time.Hour, To: 9 * time.Hour}, at("2026-11-24 08:30:00"), false}, // UTC
		{key.Window{From: 7 * time.Hour, To: 8 * time.Hour}, at("2026-11-24 08:30:00"), true},

		{night, at("2026-11-27 22:00:00"), true}, // Friday
		{night, at("2026-11-27 21:59:59"), false},
		{night, at("2026-11-28 05:59:59"), true}, // Saturday
		{night, at("2026-11-28 06:00:00"), false},
		{night, at("2026-11-28 23:00:00"), false},
		{night, at("2026-11-27 05:00:00"), false}, // the morning before

		// 29 March 2026: 02:00 becomes 03:00.
		{key.Window{From: 2 * time.Hour, To: 3 * time.Hour, Zone: zone}, time.Date(2026, 3, 29, 0, 59, 59, 0, time.UTC), false}, // 01:59:59
		{key.Window{From: 2 * time.Hour, To: 3 * time.Hour, Zone: zone}, time.Date(2026, 3, 29, 1, 0, 0, 0, time.UTC), false},   // 03:00
		{key.Window{From: 2*time.Hour + 30*time.Minute, To: 4 * time.Hour, Zone: zone}, time.Date(2026, 3, 29, 1, 0, 0, 0, time.UTC), true},
		{key.Window{From: 22 * time.Hour, To: 3 * time.Hour, Zone: zone}, time.Date(2026, 3, 29, 0, 59, 0, 0, time.UTC), true},
		{key.Window{From: 22 * time.Hour, To: 3 * time.Hour, Zone: zone}, time.Date(2026, 3, 29, 1, 0, 0, 0, time.UTC), false},
		// 25 October 2026: 03:00 becomes 02:00, so 02:30 comes twice.
		{key.Window{From: 2 * time.Hour, To: 3 * time.Hour, Zone: zone}, time.Date(2026, 10, 25, 0, 30, 0, 0, time.UTC), true},
		{key.Window{From: 2 * time.Hour, To: 3 * time.Hour, Zone: zone}, time.Date(2026, 10, 25, 1, 30, 0, 0, time.UTC), true},
		{key.Window{From: 2 * time.Hour, To: 3 * time.Hour, Zone: zone}, time.Date(2026, 10, 25, 2, 0, 0, 0, time.UTC), false},

		{key.Window{}, noon, true},
		{key.Window{Days: []time.Weekday{time.Tuesday}}, noon, true},
		{key.Window{Days: []time.Weekday{time.Monday}}, noon, false},
		{key.Window{From: 9 * time.Hour, To: 24 * time.Hour}, noon.Add(12*time.Hour - 1), true},
		{key.Window{From: 9 * time.Hour, To: 25 * time.Hour}, noon, false},
		{key.Window{From: -time.Hour, To: 24 * time.Hour}, noon, false},
		{key.Window{Zone: "Nowhere/Such"}, noon, false},
		{key.Window{Zone: "../etc/passwd"}, noon, false},
	} {
		for range 2 { // the second time from what was kept
			terms := everything()
			terms.Hours = []key.Window{test.window}
			r, _ := ollama.Classify("GET", "/api/tags")
			if d := policy.Decide(identity(terms), policy.Request{Route: r, Known: true, From: home, Now: test.now}); d.Allow != test.want {
				t.Errorf("%+v at %v: %+v", test.window, test.now.In(berlin), d)
			}
		}
	}
	terms := everything()
	terms.Hours = []key.Window{office, night}
	r, _ := ollama.Classify("GET", "/api/tags")
	if d := policy.Decide(identity(terms), policy.Request{Route: r, Known: true, From: home, Now: at("2026-11-28 01:00:00")}); !d.Allow {
		t.Errorf("one of two windows is not enough: %+v", d)
	}
}

func BenchmarkDecide(b *testing.B) {
	terms := key.Terms{
		Powers: []ollama.Power{ollama.Hello, ollama.Read, ollama.Infer}, Models: []string{"llama3.2:*", "smollm2:*"},
		Sources: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, Hours: []key.Window{{From: 0, To: 24 * time.Hour, Zone: "Europe/Berlin"}},
		Caps: key.Caps{NumCtx: 4096, MaxTokens: 1000, KeepAlive: time.Hour},
	}
	r, _ := ollama.Classify("POST", "/api/chat")
	ask, err := ollama.ParseAsk(r, "", []byte(`{"model":"smollm2:135m","messages":[{"content":"hi"}]}`))
	if err != nil {
		b.Fatal(err)
	}
	id, req := identity(terms), policy.Request{Route: r, Known: true, Ask: ask, From: home, Now: noon}
	b.ReportAllocs()
	for b.Loop() {
		if d := policy.Decide(id, req); !d.Allow {
			b.Fatal(d)
		}
	}
}
