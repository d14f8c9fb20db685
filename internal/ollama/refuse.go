package ollama

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// Refuse is an error as the stock clients of the dialect show it best: its
// content type and body, for an answer with that status. code is a word for
// programs, message a sentence for people.
func Refuse(d Dialect, status int, code, message string) (contentType string, body []byte) {
	switch d {
	case OpenAI:
		body = openAIError(status, code, message)
	case Anthropic:
		body = anthropicError(status, message)
	default:
		b := append([]byte(`{"error":`), quote(message)...)
		if status == http.StatusUnauthorized {
			// Of a 401, Ollama's own client shows this member alone.
			b = append(append(b, `,"status":`...), quote(message)...)
		}
		body = append(b, '}')
	}
	return "application/json; charset=utf-8", body
}

func openAIError(status int, code, message string) []byte {
	return fmt.Appendf(nil, `{"error":{"message":%s,"type":%s,"param":null,"code":%s}}`,
		quote(message), quote(errorType(status)), quote(code))
}

func anthropicError(status int, message string) []byte {
	return fmt.Appendf(nil, `{"type":"error","error":{"type":%s,"message":%s}}`, quote(errorType(status)), quote(message))
}

// errorType is Anthropic's word for a status
// (https://docs.anthropic.com/en/api/errors); OpenAI's has no list, and Ollama
// uses the same there as far as it goes.
func errorType(status int) string {
	switch status {
	case http.StatusUnauthorized:
		return "authentication_error"
	case http.StatusForbidden:
		return "permission_error"
	case http.StatusNotFound:
		return "not_found_error"
	case http.StatusRequestEntityTooLarge:
		return "request_too_large"
	case http.StatusTooManyRequests:
		return "rate_limit_error"
	case http.StatusServiceUnavailable:
		return "overloaded_error"
	}
	if status/100 == 4 {
		return "invalid_request_error"
	}
	return "api_error"
}

// CutLine ends a stream on the route of which nothing is known: see
// [Meter.CutLine].
func CutLine(r Route, message string) []byte { return NewMeter(r, true).CutLine(message) }

// CutLine is what ends the stream in place of what the server would still send:
// its dialect's last line or events, saying that the answer got as long as it
// may. Clients take that for an answer cut by its own bound on tokens, and keep
// what they have. message tells people why, where only they look. A stream that
// is no answer of a model, such as a pull's progress, ends with message as an
// error. An answer in one piece cannot be ended: nil.
func (m *Meter) CutLine(message string) []byte {
	if !m.stream {
		return nil
	}
	u := m.Usage()
	model := quote(u.Model)
	switch m.route.Pattern {
	case "/api/generate", "/api/chat":
		b := append([]byte(`{"model":`), model...)
		if at := m.so.createdAt.text(); len(at) > 0 {
			b = append(append(b, `,"created_at":`...), quote(string(at))...)
		}
		if m.route.Pattern == "/api/chat" {
			b = append(b, `,"message":{"role":"assistant","content":""}`...)
		} else {
			b = append(b, `,"response":""`...)
		}
		return fmt.Appendf(b, `,"done":true,"done_reason":"length","prompt_eval_count":%d,"eval_count":%d,"gatehouse":%s}`+"\n",
			u.Prompt, u.Answer, quote(message))
	case "/v1/chat/completions":
		return m.cutOpenAI(message, `"object":"chat.completion.chunk"`, `{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":"length"}`)
	case "/v1/completions":
		return m.cutOpenAI(message, `"object":"text_completion"`, `{"text":"","index":0,"finish_reason":"length"}`)
	case "/v1/responses":
		return fmt.Appendf(remark(message), "event: response.incomplete\n"+
			`data: {"type":"response.incomplete","sequence_number":%d,"response":{"id":%s,"object":"response","created_at":%s,`+
			`"status":"incomplete","incomplete_details":{"reason":"max_output_tokens"},"error":null,"model":%s,"output":[],`+
			`"usage":{"input_tokens":%d,"output_tokens":%d,"total_tokens":%d}}}`+"\n\n",
			m.so.sequence+1, quote(m.so.id), m.created(), model, u.Prompt, u.Answer, u.Total())
	case "/v1/messages":
		b := remark(message)
		if !m.so.begun {
			b = fmt.Appendf(b, "event: message_start\n"+
				`data: {"type":"message_start","message":{"id":%s,"type":"message","role":"assistant","model":%s,"content":[],`+
				`"stop_reason":null,"stop_sequence":null,"usage":{"input_tokens":%d,"output_tokens":0}}}`+"\n\n", quote(m.so.id), model, u.Prompt)
		}
		if m.so.block >= 0 {
			b = fmt.Appendf(b, "event: content_block_stop\n"+`data: {"type":"content_block_stop","index":%d}`+"\n\n", m.so.block)
		}
		return fmt.Appendf(b, "event: message_delta\n"+
			`data: {"type":"message_delta","delta":{"stop_reason":"max_tokens","stop_sequence":null},"usage":{"input_tokens":%d,"output_tokens":%d}}`+"\n\n"+
			"event: message_stop\n"+`data: {"type":"message_stop"}`+"\n\n", u.Prompt, u.Answer)
	}
	return m.ErrorLine(message)
}

func (m *Meter) cutOpenAI(message, object, choice string) []byte {
	return fmt.Appendf(remark(message),
		`data: {"id":%s,%s,"created":%s,"model":%s,"system_fingerprint":"fp_ollama","choices":[%s]}`+"\n\ndata: [DONE]\n\n",
		quote(m.so.id), object, m.created(), quote(m.usage.Model), choice)
}

// created is the time that the stream's events carry, in Unix seconds.
func (m *Meter) created() string {
	if _, err := strconv.ParseUint(m.so.created, 10, 53); err != nil {
		return "0"
	}
	return m.so.created
}

// ErrorLine ends the stream with an error, such as a server that broke off. An
// answer in one piece has no place for it: nil.
func (m *Meter) ErrorLine(message string) []byte {
	if !m.stream {
		return nil
	}
	switch m.route.Dialect() {
	case OpenAI:
		body := openAIError(http.StatusBadGateway, "", message)
		if m.route.Pattern == "/v1/responses" {
			return fmt.Appendf(nil, "event: error\n"+`data: {"type":"error","code":"server_error","message":%s,"param":null,"sequence_number":%d}`+"\n\n",
				quote(message), m.so.sequence+1)
		}
		return fmt.Appendf(nil, "data: %s\n\n", body)
	case Anthropic:
		return fmt.Appendf(nil, "event: error\ndata: %s\n\n", anthropicError(http.StatusBadGateway, message))
	}
	return fmt.Appendf(nil, `{"error":%s}`+"\n", quote(message))
}

// remark is a comment in a stream of events, which clients pass over.
func remark(message string) []byte {
	message = strings.NewReplacer("\r", " ", "\n", " ").Replace(message)
	return []byte(": " + message + "\n\n")
}

// quote is s as a JSON string; bytes that are not UTF-8 are replaced.
func quote(s string) []byte {
	b, err := jsontext.AppendQuote(nil, strings.ToValidUTF8(s, "\uFFFD"))
	if err != nil { // no valid UTF-8 has one
		panic(err)
	}
	return b
}
