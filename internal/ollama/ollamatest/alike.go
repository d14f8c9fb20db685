package ollamatest

import (
	"net/http"
)

// alike returns a server of another product.
func alike(name, product, version string, st stack, say func(*Request) reply) *Server {
	return &Server{
		Name: "alike/" + name, stack: st, say: say,
		Truth: Truth{Outcome: "lookalike", Product: product, Version: version},
	}
}

// table answers GET and HEAD from pages, and all else with miss.
func table(pages map[string]reply, miss func(*Request) reply) func(*Request) reply {
	return func(r *Request) reply {
		if p, ok := pages[string(r.Path)]; ok && r.readOnly() {
			return p
		}
		return miss(r)
	}
}

var (
	fastAPIMiss  = deny(jsonReply(404, `{"detail":"Not Found"}`))
	echoMiss     = deny(jsonReply(404, `{"error":{"code":404,"message":"Not Found","type":""}}`))
	llamaMiss    = deny(jsonReply(404, `{"error":{"code":404,"message":"File Not Found","type":"not_found_error"}}`).gin())
	goMiss       = deny(text(404, "404 page not found\n").with("X-Content-Type-Options: nosniff"))
	ginMiss      = deny(notFound)
	lmStudioMiss = func(r *Request) reply {
		return jsonReply(200, `{"error":"Unexpected endpoint or method. (`+string(r.Method)+" "+string(r.Path)+`)"}`).gin()
	}
)

// openWebUI is the root of Open WebUI 0.6: a page for every path that is not
// the API's, and an /api/version of its own.
var openWebUI = table(map[string]reply{
	"/api/version": jsonReply(200, `{"version":"0.6.26","deployment_id":""}`),
	"/health":      jsonReply(200, `{"status":true}`),
	"/api/config":  jsonReply(200, `{"status":true,"name":"Open WebUI","version":"0.6.26","default_locale":"","oauth":{"providers":{}},"features":{"auth":true}}`),
}, func(r *Request) reply {
	if !r.readOnly() {
		return jsonReply(405, `{"detail":"Method Not Allowed"}`)
	}
	return reply{status: 200, ctype: "text/html; charset=utf-8", body: openWebUIPage}
})

const openWebUIPage = "<!doctype html>\n<html lang=\"en\">\n\t<head>\n\t\t<meta charset=\"utf-8\" />\n" +
	"\t\t<link rel=\"icon\" type=\"image/png\" href=\"/static/favicon.png\" crossorigin=\"use-credentials\" />\n" +
	"\t\t<meta name=\"apple-mobile-web-app-title\" content=\"Open WebUI\" />\n\t\t<title>Open WebUI</title>\n\t</head>\n" +
	"\t<body data-sveltekit-preload-data=\"hover\"></body>\n</html>\n"

// llamaTags is llama.cpp's imitation of GET /api/tags: strings, all empty.
func llamaTags(model string) string {
	return `{"models":[{"name":"` + model + `","model":"` + model + `","modified_at":"","size":"","digest":"","type":"model",` +
		`"description":"","tags":[""],"capabilities":["completion"],"parameters":"","details":{"parent_model":"","format":"gguf",` +
		`"family":"","families":[""],"parameter_size":"","quantization_level":""}}],"object":"list","data":[{"id":"` + model +
		`","object":"model","created":1788264000,"owned_by":"llamacpp","meta":{"vocab_type":2,"n_vocab":128256,"n_ctx_train":131072,` +
		`"n_embd":3072,"n_params":3212749888,"size":2011538944}}]}`
}

const (
	localAITags = `{"models":[{"name":"llama-3.2-3b-instruct:latest","model":"llama-3.2-3b-instruct:latest","modified_at":"2026-09-01T11:58:03.512Z",` +
		`"size":0,"digest":"sha256:9b2c1f1d0a3e4b5c6d7e8f90a1b2c3d4e5f60718293a4b5c6d7e8f9001122334","details":{"parent_model":"","format":"gguf",` +
		`"family":"llama-cpp","families":["llama-cpp"],"parameter_size":"3b","quantization_level":"Q4_K_M"},"capabilities":["completion"]}]}`
	koboldTags = `{"models": [{"name": "koboldcpp", "model": "koboldcpp/L3-8B-Stheno:latest", "modified_at": "2024-07-19T15:26:55.6122841+08:00", ` +
		`"expires_at": "2055-06-04T19:06:25.5433636+08:00", "size": 394998579, "size_vram": 394998579, ` +
		`"digest": "b5dc5e784f2a3ee1582373093acf69a2f4e2ac1710b253a001712b86a61f88bb", "details": {"parent_model": "", "format": "gguf", ` +
		`"family": "koboldcpp", "families": ["koboldcpp"], "parameter_size": "128M", "quantization_level": "Q4_0"}}]}`
	shimTags = `{"models":[{"name":"gpt-4o","model":"gpt-4o","modified_at":"2024-05-13T00:00:00Z","size":0,"digest":"gpt-4o",` +
		`"details":{"parent_model":"","format":"api","family":"openai","families":["openai"],"parameter_size":"unknown","quantization_level":"none"}}]}`
)

// alikes returns the look-alikes, in the releases that were looked at.
func alikes() []*Server {
	open := Ollama{Version: "0.9.6", Models: Library("llama3.1:8b", "nomic-embed-text:latest")}
	proxied := func(name, product string, version string, st stack, prefix string, root func(*Request) reply) *Server {
		s := open.Server("alike/"+name).via(st).under(prefix, root)
		s.Truth = Truth{Outcome: "lookalike", Product: product, Version: version}
		return s
	}
	html := func(title string) reply {
		return reply{status: 200, ctype: "text/html; charset=utf-8", body: "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"/>" +
			"<title>" + title + "</title></head><body><div id=\"root\"></div></body></html>\n"}
	}
	llama := func(name string, st stack, root reply) *Server {
		return alike(name, "llama.cpp", "", st, table(map[string]reply{
			"/":          root,
			"/health":    jsonReply(200, `{"status":"ok"}`).gin(),
			"/api/tags":  jsonReply(200, llamaTags("Llama-3.2-3B-Instruct-Q4_K_M.gguf")).gin(),
			"/v1/models": jsonReply(200, llamaTags("Llama-3.2-3B-Instruct-Q4_K_M.gguf")).gin(),
		}, llamaMiss))
	}
	olla := func(out []byte, r *Request, p reply) []byte {
		p.lines = "Via: 1.1 olla/v0.0.27\r\nX-Olla-Backend-Type: ollama\r\nX-Olla-Endpoint: local-ollama\r\n" +
			"X-Olla-Request-Id: req_abc123\r\n" + p.lines
		return goServer(out, r, p)
	}
	lm := alike("lm-studio-0.3", "lm-studio", "", express, lmStudioMiss)
	swap := alike("llama-swap-170", "llama-swap", "", goServer, table(map[string]reply{
		"/":            {status: http.StatusFound, ctype: "text/html; charset=utf-8", lines: "Location: /ui\r\n", body: "<a href=\"/ui\">Found</a>.\n\n"},
		"/api/version": jsonReply(200, `{"version":"170","commit":"abcd123","build_date":"2025-11-20T04:05:06Z"}`).gin(),
		"/v1/models":   jsonReply(200, `{"data":[{"created":1788264000,"id":"qwen3-8b","object":"model","owned_by":"llama-swap"}],"object":"list"}`),
		"/running":     jsonReply(200, `{"running":[]}`).gin(),
	}, ginMiss))
	return []*Server{
		alike("open-webui-0.6", "open-webui", "0.6.26", uvicorn, openWebUI),
		proxied("open-webui-proxy", "open-webui", "", uvicorn, "/ollama", openWebUI),
		llama("llama.cpp-b6000", httplib, html("llama.cpp - chat")),
		llama("llama.cpp-b4000", httplibSorted, html("llama.cpp")),
		llama("llama.cpp-no-ui", httplib, llamaMiss(nil)),
		lm,
		alike("localai-3", "localai", "", goServer, table(map[string]reply{
			"/":            html("LocalAI - Chat"),
			"/api/version": jsonReply(200, `{"version":"0.9.0"}`+"\n"),
			"/api/tags":    jsonReply(200, localAITags+"\n"),
			"/api/ps":      jsonReply(200, `{"models":null}`+"\n"),
		}, echoMiss)),
		alike("localai-3-banner", "localai", "", goServer, table(map[string]reply{ // web pages switched off
			"/":            {status: 200, ctype: "text/plain; charset=UTF-8", body: "Ollama is running"},
			"/api/version": jsonReply(200, `{"version":"0.9.0"}`+"\n"),
			"/api/tags":    jsonReply(200, localAITags+"\n"),
			"/api/ps":      jsonReply(200, `{"models":null}`+"\n"),
		}, echoMiss)),
		alike("localai-2", "localai", "", goServer, table(map[string]reply{"/": html("LocalAI API - v2.20.1")}, echoMiss)),
		alike("koboldcpp-1.80", "koboldcpp", "", kobold, table(map[string]reply{
			"/":            page(200, "<!DOCTYPE html>\n<html lang=\"en\"><head><title>KoboldAI Lite</title></head><body></body></html>\n"),
			"/api/version": jsonReply(200, `{"version": "0.7.0"}`),
			"/api/tags":    jsonReply(200, koboldTags),
			"/api/ps":      jsonReply(200, koboldTags),
		}, deny(page(404, "Error 404: Not Found")))),
		alike("litellm-1", "litellm", "", uvicorn, table(map[string]reply{"/": jsonReply(200, `"LiteLLM: RUNNING"`)}, fastAPIMiss)),
		alike("litellm-1-docs", "litellm", "", uvicorn, table(map[string]reply{"/": html("LiteLLM API - Swagger UI")}, fastAPIMiss)),
		alike("gpustack-0.7", "gpustack", "", uvicorn, table(map[string]reply{"/": html("GPUStack")},
			deny(jsonReply(404, `{"code":404,"reason":"Not Found","message":"Not Found"}`)))),
		proxied("olla-0.0.27", "olla", "", olla, "/olla/ollama", goMiss),
		swap,
		alike("docker-model-runner", "docker-model-runner", "", goServer, table(map[string]reply{
			"/":            text(200, "Docker Model Runner is running"),
			"/api/version": jsonReply(200, `{"version":"0.1.0"}`),
			"/api/tags":    jsonReply(200, `{"models":[{"name":"ai/smollm2:latest","model":"ai/smollm2:latest","modified_at":"2026-08-01T10:00:00Z","size":0,"digest":"sha256:354bf30d0aa3","details":{"format":"gguf","family":"llama","families":["llama"],"parameter_size":"361.82 M","quantization_level":"IQ2_XXS/Q4_K_M"}}]}`),
			"/api/ps":      jsonReply(200, `{"models":[]}`),
		}, goMiss)),
		alike("shim-express", "", "", express, table(map[string]reply{ // a bridge to somebody else's API
			"/":            {status: 200, ctype: "text/html; charset=utf-8", body: "Ollama is running"},
			"/api/version": jsonReply(200, `{"version":"0.5.4"}`).gin(),
			"/api/tags":    jsonReply(200, shimTags).gin(),
		}, deny(reply{status: 404, ctype: "text/html; charset=utf-8", body: "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<title>Error</title>\n</head>\n<body>\n<pre>Cannot GET</pre>\n</body>\n</html>\n"}))),
		alike("shim-fastapi", "", "", uvicorn, table(map[string]reply{
			"/":            jsonReply(200, `"Ollama is running"`),
			"/api/version": jsonReply(200, `{"version":"0.6.4"}`),
			"/api/tags":    jsonReply(200, shimTags),
			"/api/ps":      jsonReply(200, `{"models":[]}`),
		}, fastAPIMiss)),
		// Nothing that a probe of Ollama's paths hears tells these from any
		// other server written with the same framework.
		other("vllm-0.8", uvicorn, fastAPIMiss),
		other("jan-0.6", goServer, deny(text(404, "Not Found"))),
		other("text-generation-webui", uvicorn, fastAPIMiss),
	}
}

// other returns a server that is no business of a scan for Ollama.
func other(name string, st stack, say func(*Request) reply) *Server {
	return &Server{Name: "other/" + name, stack: st, say: say, Truth: Truth{Outcome: "other"}}
}

// others returns what else is found on these ports.
func others() []*Server {
	apachePage := "<!DOCTYPE html PUBLIC \"-//W3C//DTD XHTML 1.0 Transitional//EN\">\n<html><head><title>Apache2 Ubuntu Default Page: It works</title></head><body></body></html>\n"
	closing := func(p reply) func(*Request) reply {
		p.closes = true
		return deny(p)
	}
	es := jsonReply(200, "{\n  \"name\" : \"node-1\",\n  \"cluster_name\" : \"docker-cluster\",\n  \"version\" : {\n    \"number\" : \"8.15.0\"\n  },\n  \"tagline\" : \"You Know, for Search\"\n}\n").
		with("X-elastic-product: Elasticsearch")
	elastic := layout{head: "%x\ncontent-type: %t\ncontent-length: %n"}.write
	tlsOnly := other("tls-only", nginx, deny(nginxPage(404, "404 Not Found", nginxName)))
	tlsOnly.TLS, tlsOnly.tls = true, certificate{names: []string{"www.example"}, plain: nginxPlain}
	silentTLS := other("tls-only-silent", nginx, deny(nginxPage(404, "404 Not Found", nginxName)))
	silentTLS.TLS, silentTLS.tls = true, certificate{expired: true}
	return []*Server{
		other("nginx-welcome", nginx, table(map[string]reply{"/": page(200, "<!DOCTYPE html>\n<html>\n<head>\n<title>Welcome to nginx!</title>\n</head>\n<body>\n<h1>Welcome to nginx!</h1>\n</body>\n</html>\n").
			with("Last-Modified: Tue, 23 Apr 2024 11:24:00 GMT", "ETag: \"66279a90-267\"", "Accept-Ranges: bytes")},
			deny(nginxPage(404, "404 Not Found", nginxName)))),
		other("apache", apache, table(map[string]reply{"/": page(200, apachePage)}, deny(page(404, "<html><head>\n<title>404 Not Found</title>\n</head></html>\n")))),
		other("json-api", express, deny(jsonReply(404, `{"statusCode":404,"message":"Cannot GET /","error":"Not Found"}`).gin())),
		other("go", goServer, goMiss),
		other("gin", goServer, ginMiss),
		other("prometheus", goServer, table(map[string]reply{"/": {status: 302, ctype: "text/html; charset=utf-8", lines: "Location: /query\r\n", body: "<a href=\"/query\">Found</a>.\n\n"}}, goMiss)),
		other("elasticsearch", elastic, table(map[string]reply{"/": es}, deny(jsonReply(404, `{"error":"no handler found for uri"}`)))),
		other("single-page", nginx, deny(page(200, "<!doctype html><html><head><title>Dashboard</title></head><body><div id=app></div></body></html>"))),
		other("version-api", express, table(map[string]reply{"/api/version": jsonReply(200, `{"version":"2.4.1","name":"billing"}`).gin()}, deny(jsonReply(404, `{"error":"not found"}`)))),
		other("http-1.0", redirector, closing(page(200, "<html><body>It is a small device.</body></html>"))),
		other("unavailable", nginx, deny(nginxPage(502, "502 Bad Gateway", nginxName))),
		other("empty-204", goServer, deny(reply{status: 204})),
		tlsOnly,
		silentTLS,
	}
}
