package ollamatest

import (
	"bytes"
	"crypto/tls"
	"net/url"
	"strings"

	"gatehouse/internal/ollama"
)

// via puts another web server in front of s, with no lock: it writes what s
// says in its own manner.
func (s *Server) via(st stack) *Server {
	s.stack = st
	return s
}

// under moves the API of s below prefix; what lies elsewhere is answered by
// root.
func (s *Server) under(prefix string, root func(*Request) reply) *Server {
	inside := s.say
	s.Path = prefix
	s.say = func(r *Request) reply {
		rest, ok := bytes.CutPrefix(r.Path, []byte(prefix))
		if !ok || len(rest) > 0 && rest[0] != '/' {
			return root(r)
		}
		if len(rest) == 0 {
			rest = []byte("/")
		}
		within := *r
		within.Path = rest
		return inside(&within)
	}
	return s
}

// guarded puts a lock in front of s: what stops is answered by deny, and gives
// are the powers that the lock leaves to a stranger.
func (s *Server) guarded(stops func(*Request) bool, deny func(*Request) reply, gives ...ollama.Power) *Server {
	inside := s.say
	s.say = func(r *Request) reply {
		if stops(r) {
			return deny(r)
		}
		return inside(r)
	}
	s.Truth.Gives = gives
	s.Truth.Outcome = "open"
	if len(gives) == 0 || len(gives) == 1 && gives[0] == ollama.Hello {
		s.Truth.Outcome = "guarded"
		s.Truth.Version = ""
		if len(gives) == 0 {
			s.Truth.Product = ""
		}
	}
	return s
}

func always(*Request) bool { return true }

func underAPI(r *Request) bool {
	return bytes.HasPrefix(r.Path, []byte("/api/")) || bytes.HasPrefix(r.Path, []byte("/v1/"))
}

func writes(r *Request) bool { return !r.readOnly() }

func deletes(r *Request) bool { return string(r.Method) == "DELETE" }

// deny answers every request with p.
func deny(p reply) func(*Request) reply { return func(*Request) reply { return p } }

// nginxPage is one of nginx's own error pages.
func nginxPage(status int, title, server string) reply {
	return page(status, "<html>\r\n<head><title>"+title+"</title></head>\r\n<body>\r\n<center><h1>"+title+
		"</h1></center>\r\n<hr><center>"+server+"</center>\r\n</body>\r\n</html>\r\n")
}

const nginxName = "nginx/1.24.0 (Ubuntu)"

// lock is one way in which people guard an Ollama.
type lock struct {
	name  string
	guard func(*Server) *Server
}

// locks are what is seen in front of Ollama, from the recipes that people
// follow: of nginx 1.24, Nginx Proxy Manager 2, Caddy 2, Traefik 3, Apache 2.4,
// oauth2-proxy 7, Authelia 4, Authentik 2024, Cloudflare Access, Open WebUI 0.6
// and the bearer-token proxies written for Ollama.
var locks = []lock{
	{"nginx-basic", func(s *Server) *Server {
		return s.via(nginx).guarded(always, deny(nginxPage(401, "401 Authorization Required", nginxName).
			with(`WWW-Authenticate: Basic realm="Restricted"`)))
	}},
	{"nginx-basic-api", func(s *Server) *Server { // "location /api/" alone: the banner shows
		return s.via(nginx).guarded(underAPI, deny(nginxPage(401, "401 Authorization Required", nginxName).
			with(`WWW-Authenticate: Basic realm="Ollama"`)), ollama.Hello)
	}},
	{"proxy-manager", func(s *Server) *Server {
		return s.via(openresty).guarded(always, deny(nginxPage(401, "401 Authorization Required", "openresty").
			with(`WWW-Authenticate: Basic realm="Authorization required"`)))
	}},
	{"nginx-bearer", func(s *Server) *Server { // if ($http_authorization != "Bearer …") { return 401; }
		return s.via(nginx).guarded(always, deny(nginxPage(401, "401 Authorization Required", nginxName)))
	}},
	{"nginx-allow-list", func(s *Server) *Server {
		return s.via(nginx).guarded(always, deny(nginxPage(403, "403 Forbidden", nginxName)))
	}},
	{"caddy-basic", func(s *Server) *Server {
		return s.via(caddy).guarded(always, deny(reply{status: 401}.with(`Www-Authenticate: Basic realm="restricted"`)))
	}},
	{"caddy-bearer", func(s *Server) *Server {
		return s.via(caddy).guarded(always, deny(text(401, "Unauthorized").
			with("Www-Authenticate: Bearer")))
	}},
	{"traefik-basic", func(s *Server) *Server {
		return s.via(goServer).guarded(always, deny(reply{status: 401, ctype: "text/plain", body: "401 Unauthorized\n"}.
			with(`Www-Authenticate: Basic realm="traefik"`)))
	}},
	{"traefik-forward-auth", func(s *Server) *Server {
		return s.via(goServer).guarded(always, func(r *Request) reply {
			return login("https://auth.example/login?rd=" + url.QueryEscape("https://ollama.example"+string(r.Target)))
		})
	}},
	{"apache-basic", func(s *Server) *Server {
		return s.via(apache).guarded(always, deny(reply{
			status: 401, ctype: "text/html; charset=iso-8859-1",
			body: "<!DOCTYPE HTML PUBLIC \"-//IETF//DTD HTML 2.0//EN\">\n<html><head>\n<title>401 Unauthorized</title>\n" +
				"</head><body>\n<h1>Unauthorized</h1>\n<p>This server could not verify that you\nare authorized to access " +
				"the document\nrequested.</p>\n</body></html>\n",
		}.with(`WWW-Authenticate: Basic realm="Restricted Content"`)))
	}},
	{"oauth2-proxy", func(s *Server) *Server {
		return s.via(goServer).guarded(always, deny(reply{
			status: 403, ctype: "text/html; charset=utf-8",
			body: "<!DOCTYPE html>\n<html lang=\"en\" charset=\"utf-8\">\n<head><title>Sign In</title></head>\n<body>" +
				"<form method=\"GET\" action=\"/oauth2/start\"><input type=\"hidden\" name=\"rd\" value=\"/\">" +
				"<button type=\"submit\">Sign in with OpenID Connect</button></form>\n" +
				"<footer><p>Secured with OAuth2 Proxy version v7.6.0</p></footer></body></html>\n",
		}.with("Cache-Control: no-cache, no-store, must-revalidate, max-age=0", "Expires: Thu, 01 Jan 1970 00:00:00 UTC", "X-Accel-Expires: 0")))
	}},
	{"authelia", func(s *Server) *Server {
		return s.via(nginx).guarded(always, func(r *Request) reply {
			to := "https://auth.example/?rd=https%3A%2F%2Follama.example%2F&rm=" + string(r.Method)
			return nginxPage(302, "302 Found", nginxName).with("Location: " + to)
		})
	}},
	{"authelia-401", func(s *Server) *Server { // to a client that asks for no HTML
		return s.via(caddy).guarded(always, deny(text(401, "401 Unauthorized").
			with("Www-Authenticate: Basic realm=\"Authorization Required\"")))
	}},
	{"authentik", func(s *Server) *Server {
		return s.via(goServer).guarded(always, deny(login("/outpost.goauthentik.io/start?rd=https%3A%2F%2Follama.example%2F")))
	}},
	{"cloudflare-access", func(s *Server) *Server {
		return s.via(cloudflare).guarded(always, deny(reply{status: 302, ctype: "text/html", body: "<html>\r\n<head><title>302 Found</title></head>\r\n</html>\r\n"}.
			with("Location: https://team.cloudflareaccess.com/cdn-cgi/access/login/ollama.example?kid=5d41402a",
				"WWW-Authenticate: Cloudflare-Access resource_metadata=\"https://ollama.example/.well-known/cloudflare-access\"")))
	}},
	{"bearer-json", func(s *Server) *Server {
		return s.via(uvicorn).guarded(always, deny(jsonReply(401, `{"detail":"Invalid or missing API key"}`).
			with("www-authenticate: Bearer")))
	}},
	{"proxy-407", func(s *Server) *Server {
		return s.via(goServer).guarded(always, deny(text(407, "Proxy Authentication Required\n").
			with(`Proxy-Authenticate: Basic realm="proxy"`)))
	}},
	{"api-key-403", func(s *Server) *Server {
		return s.via(express).guarded(always, deny(jsonReply(403, `{"error":"Forbidden: missing or invalid API key"}`).gin()))
	}},
	{"api-key-banner", func(s *Server) *Server { // leaves GET / for health checks
		return s.via(express).guarded(underAPI, deny(jsonReply(401, `{"error":{"message":"No API key provided","type":"invalid_request_error","code":"missing_api_key"}}`).gin()), ollama.Hello)
	}},
	{"open-webui", func(s *Server) *Server { // its /ollama, signed out; the version needs no user
		s.Truth.Or = "lookalike" // which it is besides
		return s.via(uvicorn).under("/ollama", openWebUI).guarded(func(r *Request) bool {
			return strings.HasPrefix(string(r.Path), "/ollama/api/") && !r.get("/ollama/api/version")
		}, deny(jsonReply(401, `{"detail":"Not authenticated"}`)), ollama.Hello)
	}},
	{"nginx-reads", func(s *Server) *Server { // limit_except GET { deny all; }
		return s.via(nginx).guarded(writes, deny(nginxPage(403, "403 Forbidden", nginxName)), ollama.Hello, ollama.Read)
	}},
	{"nginx-no-delete", func(s *Server) *Server { // which leaves pull, create and push
		return s.via(nginx).guarded(deletes, deny(nginxPage(403, "403 Forbidden", nginxName)), all...)
	}},
	{"mutual-tls", func(s *Server) *Server {
		s.TLS, s.tls = true, certificate{mutual: true, plain: nginxPlain}
		return s.via(nginx).guarded(always, deny(nginxPage(400, "400 No required SSL certificate was sent", nginxName)))
	}},
	{"mutual-tls-1.2", func(s *Server) *Server {
		s.TLS, s.tls = true, certificate{mutual: true, max: tls.VersionTLS12, plain: goPlain}
		s.Truth.Or = "other" // TLS 1.2 has no alert of its own for a missing certificate
		return s.via(caddy).guarded(always, deny(reply{status: 400}))
	}},
	{"mutual-tls-400", func(s *Server) *Server { // nginx shakes hands first and refuses after
		s.TLS, s.tls = true, certificate{plain: nginxPlain}
		return s.via(nginx).guarded(always, deny(nginxPage(400, "400 No required SSL certificate was sent", nginxName)))
	}},
}

// login is a redirect to where people sign in.
func login(to string) reply {
	return reply{
		status: 302, ctype: "text/html; charset=utf-8",
		body: "<a href=\"" + strings.ReplaceAll(to, "&", "&amp;") + "\">Found</a>.\n\n",
	}.with("Location: " + to)
}
