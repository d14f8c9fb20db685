package ollamatest

import (
	"fmt"
	"strings"
	"time"
)

// honeypots returns servers that pretend to be an open Ollama and contradict
// themselves. Each does so in one strong way or in two weak ones.
func honeypots() []*Server {
	pot := func(name string, o Ollama) *Server {
		s := o.Server("honeypot/" + name)
		s.Truth = Truth{Outcome: "honeypot", Version: o.Version}
		return s
	}
	// change returns the models of a plausible server, each altered by f.
	change := func(f func(i int, m *Model)) []Model {
		models := Library("llama3.1:8b", "qwen2.5:7b", "deepseek-r1:671b", "llama3.3:70b", "gemma2:9b")
		for i := range models {
			f(i, &models[i])
		}
		return models
	}
	honest := change(func(int, *Model) {})
	future := time.Date(2099, 1, 1, 0, 0, 0, 0, time.UTC)

	anyModel := Ollama{Version: "0.5.7", Models: honest}
	knowsAll := func(s *Server) *Server {
		inside := s.say
		s.say = func(r *Request) reply {
			if name, ok := strings.CutPrefix(string(r.Path), "/v1/models/"); ok && string(r.Method) == "GET" {
				return encoded(200, Model{Name: name, Modified: Epoch}.openai(name))
			}
			return inside(r)
		}
		s.Truth.Unproved, s.Truth.Gives = "open", all
		s.Truth.Product = "ollama"
		return s
	}
	// imitates answers the four reads of an Ollama and nothing else.
	imitates := func(name, version, tags string, st stack, ctype string, miss func(*Request) reply) *Server {
		root := reply{status: 200, ctype: "text/html", body: "Ollama is running"}
		json := func(body string) reply { return reply{status: 200, ctype: ctype, body: body} }
		return &Server{
			Name: "honeypot/" + name, stack: st, Truth: Truth{Outcome: "honeypot", Version: version},
			say: table(map[string]reply{
				"/": root, "/api/version": json(`{"version":"` + version + `"}`), "/api/tags": json(tags), "/api/ps": json(`{"models":[]}`),
			}, miss),
		}
	}
	canned := func(digest string, size int64) string {
		var b strings.Builder
		for i, name := range []string{"llama3:8b", "llama3:70b", "deepseek-r1:671b", "mistral:7b", "codellama:13b"} {
			if i > 0 {
				b.WriteByte(',')
			}
			fmt.Fprintf(&b, `{"name":%q,"modified_at":"2024-01-01T00:00:00Z","size":%d,"digest":%q,"details":{"format":"gguf","family":"llama","parameter_size":"8B","quantization_level":"Q4_0"}}`,
				name, size, digest)
		}
		return `{"models":[` + b.String() + `]}`
	}
	everything := strings.Repeat("a1", 32)

	ghost := Loaded(honest[3])
	ghost.Name = "mistral:7b"
	ghost.Digest = digest(seed("ghost"))
	ghost.VRAM = ghost.Memory * 3
	past := Loaded(honest[0])
	past.Expires = time.Date(2023, 3, 1, 0, 0, 0, 0, time.UTC)
	past.VRAM = past.Memory + 1<<40

	earlier := Ollama{Version: "0.1.20", Models: Library("llama3.1:8b", "gpt-oss:120b-cloud", "qwen3:8b"), Running: []Running{Loaded(honest[0])}}
	early := pot("features-before-release", earlier)
	earlier.Version = "0.17.4"
	modern := earlier.engine()
	modern.version = ginJSON(200, map[string]string{"version": "0.1.20"})
	early.say = modern.say

	same := func(p reply) *Server {
		return &Server{stack: goServer, say: deny(p), Truth: Truth{Outcome: "honeypot"}}
	}
	sameBanner := same(banner)
	sameBanner.Name = "honeypot/same-banner"
	sameTags := same(ginJSON(200, Ollama{Models: honest}.list()))
	sameTags.Name = "honeypot/same-tags"
	sameAll := same(jsonReply(200, `{"version":"0.5.7","models":[],"status":"success","response":"Hello! How can I help you today?","done":true}`))
	sameAll.Name = "honeypot/same-object"

	return []*Server{
		pot("version-never", Ollama{Version: "0.4.99", Models: change(func(_ int, m *Model) { m.Modified = future })}),
		pot("version-words", Ollama{Version: "latest-stable", Models: honest}).via(uvicorn),
		pot("version-1", Ollama{Version: "1.5.2", Models: change(func(_ int, m *Model) { m.Digest = everything })}),
		pot("digests-repeat", Ollama{Version: "0.5.7", Models: change(func(_ int, m *Model) { m.Digest = digest(seed("one")) })}),
		pot("digests-md5", Ollama{Version: "0.5.7", Models: change(func(_ int, m *Model) { m.Digest = m.Digest[:32] })}),
		pot("digests-words", Ollama{Version: "0.3.14", Models: change(func(i int, m *Model) { m.Digest = fmt.Sprintf("sha256:fake%08d", i) })}),
		pot("digests-zero", Ollama{Version: "0.9.6", Models: change(func(_ int, m *Model) { m.Digest = strings.Repeat("0", 64) })}),
		pot("digests-pattern", Ollama{Version: "0.9.6", Models: change(func(i int, m *Model) { m.Digest = strings.Repeat(fmt.Sprintf("%x", i+10), 64) })}),
		pot("sizes-equal", Ollama{Version: "0.5.7", Models: change(func(_ int, m *Model) { m.Size = 4661224676 })}),
		pot("sizes-small", Ollama{Version: "0.6.5", Models: change(func(_ int, m *Model) { m.Size /= 1000 })}),
		pot("sizes-zero", Ollama{Version: "0.12.6", Models: change(func(_ int, m *Model) { m.Size = 0 })}),
		pot("sizes-negative", Ollama{Version: "0.12.6", Models: change(func(_ int, m *Model) { m.Size = -m.Size })}),
		pot("parameters-absurd", Ollama{Version: "0.9.6", Models: change(func(_ int, m *Model) { m.Params = "9000.0B" })}),
		pot("modified-future", Ollama{Version: "0.11.10", Models: change(func(_ int, m *Model) { m.Modified = future })}).via(express),
		pot("running-ghost", Ollama{Version: "0.11.10", Models: honest, Running: []Running{ghost}}),
		pot("running-past", Ollama{Version: "0.12.6", Models: honest, Running: []Running{past}}),
		early,
		imitates("python-canned", "0.1.32", canned(everything, 4661224676), basePython, "application/json", deny(page(404, "Not Found"))),
		imitates("flask-canned", "0.5.1", canned("sha256:"+everything, 123456789), werkzeug, "application/json",
			deny(page(404, "<!doctype html>\n<html lang=en>\n<title>404 Not Found</title>\n<h1>Not Found</h1>\n"))),
		imitates("fastapi-canned", "0.3.6", canned("deadbeef", 5000000000), uvicorn, "application/json", fastAPIMiss),
		imitates("express-canned", "0.6.99", canned(everything, 1000), express, "application/json; charset=utf-8",
			deny(page(404, "<!DOCTYPE html>\n<pre>Cannot GET</pre>\n"))),
		imitates("nginx-lua-canned", "0.2.99", canned(everything, 4661224676), openresty, "application/json", deny(page(200, "Ollama is running"))),
		knowsAll(pot("any-model-python", anyModel).via(basePython)),
		knowsAll(pot("any-model-apache", anyModel).via(apache)),
		sameBanner, sameTags, sameAll,
	}
}
