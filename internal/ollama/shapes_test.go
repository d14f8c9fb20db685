package ollama_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"time"

	"gatehouse/internal/ollama"
)

// This file reads requests as Ollama 0.17.4 does: encoding/json into structs
// with the members and types of its own, the first value of the body alone. It
// has what the gate acts on, and no more.

// period is Ollama's keep_alive.
type period struct{ d time.Duration }

func (p *period) UnmarshalJSON(b []byte) error {
	var v any
	if err := json.Unmarshal(b, &v); err != nil {
		return err
	}
	var err error
	negative := false
	switch v := v.(type) {
	case float64:
		negative = v < 0
		p.d = time.Duration(v * float64(time.Second))
	case string:
		p.d, err = time.ParseDuration(v)
		negative = p.d < 0
	default:
		return errors.New("neither number nor string")
	}
	if negative {
		p.d = ollama.Forever
	}
	return err
}

type nativeMessage struct {
	Role    string   `json:"role"`
	Content string   `json:"content"`
	Images  [][]byte `json:"images"`
}

type nativeRequest struct {
	Model      string          `json:"model"`
	Name       string          `json:"name"`
	From       string          `json:"from"`
	RemoteHost string          `json:"remote_host"`
	Prompt     string          `json:"prompt"`
	Messages   []nativeMessage `json:"messages"`
	Images     [][]byte        `json:"images"`
	Stream     *bool           `json:"stream"`
	KeepAlive  *period         `json:"keep_alive"`
	Options    map[string]any  `json:"options"`
}

type nameRequest struct {
	Model      string `json:"model"`
	Name       string `json:"name"`
	From       string `json:"from"`
	RemoteHost string `json:"remote_host"`
	Stream     *bool  `json:"stream"`
}

type copyRequest struct {
	Source      string `json:"source"`
	Destination string `json:"destination"`
}

type aliasRequest struct {
	Alias  string `json:"alias"`
	Target string `json:"target"`
	Prefix bool   `json:"prefix_matching"`
}

type contentMessage struct {
	Role    string `json:"role"`
	Content any    `json:"content"`
}

type openAIRequest struct {
	Model         string           `json:"model"`
	Messages      []contentMessage `json:"messages"`
	Stream        bool             `json:"stream"`
	StreamOptions *struct {
		IncludeUsage bool `json:"include_usage"`
	} `json:"stream_options"`
	MaxTokens *int   `json:"max_tokens"`
	Image     string `json:"image"`
}

type responsesRequest struct {
	Model     string          `json:"model"`
	Input     json.RawMessage `json:"input"`
	Stream    *bool           `json:"stream"`
	MaxTokens *int            `json:"max_output_tokens"`
}

type anthropicRequest struct {
	Model     string           `json:"model"`
	Messages  []contentMessage `json:"messages"`
	Stream    bool             `json:"stream"`
	MaxTokens int              `json:"max_tokens"`
	Tools     []struct {
		Type string `json:"type"`
	} `json:"tools"`
}

// readAsOllama is what Ollama makes of a body.
func readAsOllama(r ollama.Route, body []byte) (*ollama.Ask, error) {
	var a ollama.Ask
	decode := func(v any) error { return json.NewDecoder(bytes.NewReader(body)).Decode(v) }
	models := func(names ...string) {
		for _, name := range names {
			if name != "" {
				a.Models = append(a.Models, name)
			}
		}
	}
	yes := func(b *bool, otherwise bool) bool {
		if b == nil {
			return otherwise
		}
		return *b
	}
	bound := func(n *int) {
		if n != nil {
			a.MaxTokens = max(0, int64(*n))
		}
	}
	switch r.Pattern {
	case "/api/generate", "/api/chat", "/api/embed", "/api/embeddings":
		var req nativeRequest
		if err := decode(&req); err != nil {
			return nil, err
		}
		models(req.Model)
		chat, generate := r.Pattern == "/api/chat", r.Pattern == "/api/generate"
		a.Stream = (chat || generate) && yes(req.Stream, true)
		for name, to := range map[string]*int64{"num_ctx": &a.NumCtx, "num_predict": &a.MaxTokens} {
			switch v := req.Options[name].(type) {
			case nil:
			case float64:
				*to = max(0, int64(v))
			default:
				return nil, errors.New(name + " is no number")
			}
		}
		if req.KeepAlive != nil {
			a.KeepAlive = &req.KeepAlive.d
			nothing := generate && req.Prompt == "" || chat && len(req.Messages) == 0
			a.Unload = nothing && req.KeepAlive.d == 0
		}
		if generate {
			a.Images = len(req.Images)
		}
		if chat {
			for _, m := range req.Messages {
				a.Images += len(m.Images)
			}
		}
	case "/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/images/generations", "/v1/images/edits":
		var req openAIRequest
		if err := decode(&req); err != nil {
			return nil, err
		}
		models(req.Model)
		if strings.HasSuffix(r.Pattern, "completions") {
			a.Stream = req.Stream
			bound(req.MaxTokens)
		}
		if r.Pattern == "/v1/chat/completions" {
			a.Images = pictures(req.Messages, "image_url")
		}
		if r.Pattern == "/v1/images/edits" && req.Image != "" {
			a.Images = 1
		}
	case "/v1/responses":
		var req responsesRequest
		if err := decode(&req); err != nil {
			return nil, err
		}
		models(req.Model)
		a.Stream = yes(req.Stream, false)
		bound(req.MaxTokens)
		var items []struct {
			Content json.RawMessage `json:"content"`
		}
		if json.Unmarshal(req.Input, &items) == nil {
			for _, item := range items {
				var blocks []struct {
					Type string `json:"type"`
				}
				if json.Unmarshal(item.Content, &blocks) != nil {
					continue
				}
				for _, block := range blocks {
					if block.Type == "input_image" {
						a.Images++
					}
				}
			}
		}
	case "/v1/messages":
		var req anthropicRequest
		if err := decode(&req); err != nil {
			return nil, err
		}
		models(req.Model)
		a.Stream = req.Stream
		bound(&req.MaxTokens)
		a.Images = pictures(req.Messages, "image")
		for _, tool := range req.Tools {
			a.WebSearch = a.WebSearch || strings.HasPrefix(tool.Type, "web_search")
		}
	case "/api/copy":
		var req copyRequest
		if err := decode(&req); err != nil {
			return nil, err
		}
		models(req.Source, req.Destination)
	case "/api/experimental/aliases":
		var req aliasRequest
		if err := decode(&req); err != nil {
			return nil, err
		}
		if r.Method == "POST" {
			models(req.Target)
		}
		switch {
		case req.Alias == "":
		case r.Method == "POST" && req.Prefix || !ollama.ValidName(strings.TrimSpace(req.Alias)):
			a.EveryModel = true
		default:
			models(req.Alias)
		}
	default:
		var req nameRequest
		if err := decode(&req); err != nil {
			return nil, err
		}
		if req.Model != "" {
			models(req.Model)
		} else {
			models(req.Name)
		}
		switch r.Pattern {
		case "/api/create":
			models(req.From)
			a.Remote = req.RemoteHost != ""
			a.Stream = yes(req.Stream, true)
		case "/api/pull", "/api/push":
			a.Stream = yes(req.Stream, true)
		}
	}
	return &a, nil
}

// pictures counts the blocks of a type.
func pictures(messages []contentMessage, kind string) (n int) {
	for _, m := range messages {
		blocks, _ := m.Content.([]any)
		for _, block := range blocks {
			if block, _ := block.(map[string]any); block["type"] == kind {
				n++
			}
		}
	}
	return n
}
