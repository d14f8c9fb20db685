package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"io"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// serveUpstream stands in for Ollama: it answers at once, so that what is
// measured is the way to it.
func serveUpstream(addr string) error {
	tags := []byte(`{"models":[{"name":"tiny:latest","model":"tiny:latest","modified_at":"2026-11-23T10:00:00.000000000Z","size":540672,` +
		`"digest":"4d1f0a8c9b7e6f5a3c2b1d0e9f8a7b6c5d4e3f2a1b0c9d8e7f6a5b4c3d2e1f0a","details":{"parent_model":"","format":"gguf",` +
		`"family":"llama","families":["llama"],"parameter_size":"134.52M","quantization_level":"F16"}}]}`)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /api/version", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
		fmt.Fprint(w, `{"version":"0.17.4"}`)
	})
	mux.HandleFunc("GET /api/ps", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
		fmt.Fprint(w, `{"models":[]}`)
	})
	mux.HandleFunc("GET /api/tags", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
		_, _ = w.Write(tags)
	})
	mux.HandleFunc("POST /api/chat", func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // as Ollama does, before it answers
		w.Header().Set("Content-Type", "application/x-ndjson")
		flush := http.NewResponseController(w)
		for range chatLines - 1 {
			fmt.Fprint(w, `{"model":"tiny","created_at":"2026-11-23T10:00:00.000000000Z","message":{"role":"assistant","content":" blue"},"done":false}`+"\n")
			_ = flush.Flush()
		}
		fmt.Fprint(w, `{"model":"tiny","created_at":"2026-11-23T10:00:00.000000000Z","message":{"role":"assistant","content":""},"done":true,"done_reason":"stop",`+
			`"total_duration":1000000,"load_duration":1000,"prompt_eval_count":12,"prompt_eval_duration":1000,"eval_count":19,"eval_duration":1000}`+"\n")
	})
	mux.HandleFunc("POST /api/generate", func(w http.ResponseWriter, r *http.Request) { // a model that thinks until nobody listens
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "application/x-ndjson")
		fmt.Fprint(w, `{"model":"tiny","created_at":"2026-11-23T10:00:00.000000000Z","response":" blue","done":false}`+"\n")
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	})
	return (&http.Server{Addr: addr, Handler: mux, ReadHeaderTimeout: 10 * time.Second}).ListenAndServe()
}

// chatLines is how many lines the answer to a chat has.
const chatLines = 20

// serveBare is the proxy that Go's library makes, with its own Transport: what a
// gate that did nothing would cost.
func serveBare(addr, upstream string) error {
	to := &url.URL{Scheme: "http", Host: upstream}
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(to)
			if r.In.ContentLength > 0 { // as short as all of the load's
				body, _ := io.ReadAll(io.LimitReader(r.In.Body, 1<<20))
				r.Out.Body = io.NopCloser(bytes.NewReader(body))
			}
		},
		Transport:     &http.Transport{MaxIdleConns: 64, MaxIdleConnsPerHost: 64, DisableCompression: true},
		FlushInterval: -1,
	}
	return (&http.Server{Addr: addr, Handler: proxy, ReadHeaderTimeout: 10 * time.Second}).ListenAndServe()
}

func startBare(ctx context.Context, b *bench, listen string) (*exec.Cmd, error) {
	return b.self(ctx, "bare", listen, b.upstream)
}

// serveKeys is what stands behind auth_request: it knows the keys' hashes.
func serveKeys(addr string, keys []string) error {
	hashes := make(map[[32]byte]bool)
	for _, k := range keys {
		hashes[sha256.Sum256([]byte(k))] = true
	}
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		sum := sha256.Sum256([]byte(token))
		for h := range hashes {
			if ok && subtle.ConstantTimeCompare(h[:], sum[:]) == 1 {
				w.WriteHeader(http.StatusNoContent)
				return
			}
		}
		w.WriteHeader(http.StatusUnauthorized)
	})
	return (&http.Server{Addr: addr, Handler: handler, ReadHeaderTimeout: 10 * time.Second}).ListenAndServe()
}

// makeKey makes the key that all of them check.
func (b *bench) makeKey(ctx context.Context) error {
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, b.gatehouse, "key", "--state-dir", filepath.Join(b.dir, "state"),
		"add", "bench", "--rpm", "1G", "--tokens-minute", "1000G", "--tokens-day", "1000G", "--streams", "100000")
	cmd.Stdout, cmd.Stderr = &out, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("make a key: %w", err)
	}
	b.key = strings.TrimSpace(out.String())
	return nil
}

func startGatehouse(ctx context.Context, b *bench, listen string) (*exec.Cmd, error) {
	return b.gate(ctx, listen, filepath.Join(b.dir, "state"))
}

// gate is our own, with the keys of a state folder.
func (b *bench) gate(ctx context.Context, listen, state string) (*exec.Cmd, error) {
	admin, err := freeAddr()
	if err != nil {
		return nil, err
	}
	config := state + ".yaml"
	// A server has 4,096 places at most, so that it takes more than one for more
	// streams, though they are the same.
	const most = 4096
	var upstreams []string
	for places := 64 + b.mostStreams(); places > 0; places -= most {
		upstreams = append(upstreams, fmt.Sprintf("{url: %q, slots: %d}", "http://"+b.upstream, min(places, most)))
	}
	text := fmt.Sprintf("listen: [%q]\nadmin: %q\ntls: {mode: \"off\"}\nupstreams: [%s]\nqueue: {length: 1024}\n",
		listen, admin, strings.Join(upstreams, ", "))
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return nil, err
	}
	return exec.CommandContext(ctx, b.gatehouse, "gate", "--config", config, "--state-dir", state), nil
}

// nginxMap is the recipe with the key in a map; nginxAuthRequest the one that
// asks a service of keys each time.
const nginxMap = `map $http_authorization $ok { default 0; "Bearer %[3]s" 1; }
server { listen %[1]s; if ($ok = 0) { return 401; }
  location / { proxy_pass http://up; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off; } }`

const nginxAuthRequest = `upstream keys { server %[4]s; keepalive 64; }
server { listen %[1]s;
  location = /key { internal; proxy_pass http://keys; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_pass_request_body off; proxy_set_header Content-Length ""; }
  location / { auth_request /key; proxy_pass http://up; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off; } }`

func startNginx(server string) func(context.Context, *bench, string) (*exec.Cmd, error) {
	return func(ctx context.Context, b *bench, listen string) (*exec.Cmd, error) {
		nginx, err := lookPath("nginx")
		if err != nil {
			return nil, err
		}
		dir, err := os.MkdirTemp(b.dir, "nginx")
		if err != nil {
			return nil, err
		}
		keys := ""
		if strings.Contains(server, "auth_request") {
			if keys, err = freeAddr(); err != nil {
				return nil, err
			}
		}
		text := fmt.Sprintf(`daemon off; worker_processes auto; pid %[5]s/pid; error_log %[5]s/error.log;
worker_rlimit_nofile %[6]d; events { worker_connections %[6]d; }
http { access_log %[5]s/access.log; client_body_temp_path %[5]s/b; proxy_temp_path %[5]s/p; fastcgi_temp_path %[5]s/f; uwsgi_temp_path %[5]s/u; scgi_temp_path %[5]s/s;
map_hash_bucket_size 256; keepalive_requests 100000000; upstream up { server %[2]s; keepalive 64; }
`+server+"\n}\n", listen, b.upstream, b.key, keys, dir, b.files)
		config := filepath.Join(dir, "nginx.conf")
		if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
			return nil, err
		}
		if keys == "" {
			return exec.CommandContext(ctx, nginx, "-c", config), nil
		}
		self, err := os.Executable()
		if err != nil {
			return nil, err
		}
		// One group, so that both end together and count together.
		return exec.CommandContext(ctx, "/bin/sh", "-c", `"$0" keys "$1" "$2" & exec "$3" -c "$4"`, self, keys, b.key, nginx, config), nil
	}
}

func startHAProxy(ctx context.Context, b *bench, listen string) (*exec.Cmd, error) {
	haproxy, err := lookPath("haproxy")
	if err != nil {
		return nil, err
	}
	config := filepath.Join(b.dir, "haproxy.cfg")
	text := fmt.Sprintf(`global
  maxconn %d
defaults
  mode http
  timeout connect 5s
  timeout client 5m
  timeout server 5m
frontend front
  bind %s
  acl ok req.hdr(Authorization) -m str "Bearer %s"
  http-request deny deny_status 401 unless ok
  default_backend up
backend up
  http-reuse always
  server one %s
`, (b.files-spareFiles/2)/2, listen, b.key, b.upstream)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return nil, err
	}
	return exec.CommandContext(ctx, haproxy, "-db", "-f", config), nil
}

func startCaddy(ctx context.Context, b *bench, listen string) (*exec.Cmd, error) {
	caddy, err := lookPath("caddy")
	if err != nil {
		return nil, err
	}
	config := filepath.Join(b.dir, "Caddyfile")
	text := fmt.Sprintf(`{
  admin off
  auto_https off
}
http://:%s {
  bind 127.0.0.1
  @ok header Authorization "Bearer %s"
  handle @ok {
    reverse_proxy %s {
      flush_interval -1
    }
  }
  respond 401
}
`, strings.TrimPrefix(listen, "127.0.0.1:"), b.key, b.upstream)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, caddy, "run", "--config", config, "--adapter", "caddyfile")
	cmd.Env = append(os.Environ(), "HOME="+b.dir, "XDG_DATA_HOME="+b.dir, "XDG_CONFIG_HOME="+b.dir)
	return cmd, nil
}
