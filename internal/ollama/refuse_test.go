package ollama_test

import (
	"encoding/json"
	"net/http"
	"testing"

	"gatehouse/internal/ollama"
)

func TestDialect(t *testing.T) {
	for pattern, want := range map[string]ollama.Dialect{
		"/api/chat": ollama.Native, "/": ollama.Native, "/api/tags": ollama.Native,
		"/v1/chat/completions": ollama.OpenAI, "/v1/models": ollama.OpenAI, "/v1/models/:model": ollama.OpenAI,
		"/v1/messages": ollama.Anthropic,
	} {
		if got := route(t, pattern).Dialect(); got != want {
			t.Errorf("%s: %d, want %d", pattern, got, want)
		}
	}
}

func TestRefuse(t *testing.T) {
	for _, test := range []struct {
		dialect ollama.Dialect
		status  int
		want    string
	}{
		{ollama.Native, http.StatusForbidden, `{"error":"no \"x\""}`},
		{ollama.Native, http.StatusUnauthorized, `{"error":"no \"x\"","status":"no \"x\""}`},
		{ollama.OpenAI, http.StatusForbidden, `{"error":{"message":"no \"x\"","type":"permission_error","param":null,"code":"why"}}`},
		{ollama.OpenAI, http.StatusUnauthorized, `{"error":{"message":"no \"x\"","type":"authentication_error","param":null,"code":"why"}}`},
		{ollama.OpenAI, http.StatusTooManyRequests, `{"error":{"message":"no \"x\"","type":"rate_limit_error","param":null,"code":"why"}}`},
		{ollama.OpenAI, http.StatusBadRequest, `{"error":{"message":"no \"x\"","type":"invalid_request_error","param":null,"code":"why"}}`},
		{ollama.OpenAI, http.StatusNotFound, `{"error":{"message":"no \"x\"","type":"not_found_error","param":null,"code":"why"}}`},
		{ollama.OpenAI, http.StatusBadGateway, `{"error":{"message":"no \"x\"","type":"api_error","param":null,"code":"why"}}`},
		{ollama.Anthropic, http.StatusForbidden, `{"type":"error","error":{"type":"permission_error","message":"no \"x\""}}`},
		{ollama.Anthropic, http.StatusRequestEntityTooLarge, `{"type":"error","error":{"type":"request_too_large","message":"no \"x\""}}`},
		{ollama.Anthropic, http.StatusServiceUnavailable, `{"type":"error","error":{"type":"overloaded_error","message":"no \"x\""}}`},
		{ollama.Anthropic, http.StatusMethodNotAllowed, `{"type":"error","error":{"type":"invalid_request_error","message":"no \"x\""}}`},
	} {
		kind, body := ollama.Refuse(test.dialect, test.status, "why", `no "x"`)
		if string(body) != test.want || kind != "application/json; charset=utf-8" {
			t.Errorf("%d %d: %s %s, want %s", test.dialect, test.status, kind, body, test.want)
		}
	}
	// What a caller sent may be in the message.
	for _, d := range []ollama.Dialect{ollama.Native, ollama.OpenAI, ollama.Anthropic} {
		_, body := ollama.Refuse(d, 403, "\xff\"", "\x00\xff</script>\u2028\x1b[2J")
		if !json.Valid(body) {
			t.Errorf("%q is not JSON", body)
		}
	}
}
