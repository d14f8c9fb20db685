package ollama_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"gatehouse/internal/ollama"
)

// streams are requests whose answers are kept in testdata, for tests without a
// server. Each has 12 tokens of answer.
var streams = []struct{ name, pattern, body string }{
	{"generate", "/api/generate", `{"model":"tiny","prompt":"who is there","options":{"num_predict":12}}`},
	{"generate-whole", "/api/generate", `{"model":"tiny","prompt":"who is there","options":{"num_predict":12},"stream":false}`},
	{"chat", "/api/chat", `{"model":"tiny","messages":[{"role":"user","content":"who is there"}],"options":{"num_predict":12}}`},
	{"chat-whole", "/api/chat", `{"model":"tiny","messages":[{"role":"user","content":"who is there"}],"options":{"num_predict":12},"stream":false}`},
	{"openai-chat", "/v1/chat/completions", `{"model":"tiny","messages":[{"role":"user","content":"who is there"}],"max_tokens":12,"seed":1,"temperature":0,"stream":true}`},
	{"openai-chat-usage", "/v1/chat/completions", `{"model":"tiny","messages":[{"role":"user","content":"who is there"}],"max_tokens":12,"seed":1,"temperature":0,"stream":true,"stream_options":{"include_usage":true}}`},
	{"openai-chat-whole", "/v1/chat/completions", `{"model":"tiny","messages":[{"role":"user","content":"who is there"}],"max_tokens":12}`},
	{"openai-completions", "/v1/completions", `{"model":"tiny","prompt":"who is there","max_tokens":12,"seed":1,"temperature":0,"stream":true}`},
	{"openai-completions-usage", "/v1/completions", `{"model":"tiny","prompt":"who is there","max_tokens":12,"seed":1,"temperature":0,"stream":true,"stream_options":{"include_usage":true}}`},
	{"openai-responses", "/v1/responses", `{"model":"tiny","input":"who is there","max_output_tokens":12,"stream":true}`},
	{"openai-responses-whole", "/v1/responses", `{"model":"tiny","input":"who is there","max_output_tokens":12}`},
	{"anthropic", "/v1/messages", `{"model":"tiny","messages":[{"role":"user","content":"who is there"}],"max_tokens":12,"stream":true}`},
	{"anthropic-whole", "/v1/messages", `{"model":"tiny","messages":[{"role":"user","content":"who is there"}],"max_tokens":12}`},
}

func TestMeter(t *testing.T) {
	for _, stream := range streams {
		checkStream(t, stream.name, stream.pattern, stream.body, answered(t, stream.name))
	}
}

// checkStream holds a Meter to what a whole answer of the real server says of
// itself, cut in every way.
func checkStream(t *testing.T, name, pattern, body string, answer []byte) {
	t.Helper()
	a := ask(t, pattern, body)
	want := ollama.Usage{Prompt: lastCount(t, answer, "prompt_eval_count", "prompt_tokens", "input_tokens"), Answer: 12, Done: true, Model: "tiny"}
	if strings.HasPrefix(name, "openai-") && a.Stream && !strings.HasSuffix(name, "-usage") && name != "openai-responses" {
		want.Prompt, want.Estimated = a.PromptTokens(), true // it does not tell
	}
	for _, size := range []int{1, 2, 3, 7, 64, 1000, len(answer)} {
		meter := a.Meter()
		for p := answer; len(p) > 0; {
			n := min(size, len(p))
			meter.Write(p[:n])
			p = p[n:]
		}
		got := meter.Usage()
		want.Chunks = got.Chunks
		if want.Estimated {
			want.Answer = got.Chunks
		}
		if got != want {
			t.Errorf("%s in pieces of %d: %+v, want %+v", name, size, got, want)
		}
		if a.Stream && (got.Chunks < 10 || got.Chunks > 13) {
			t.Errorf("%s: %d pieces for 12 tokens", name, got.Chunks)
		}
	}
}

// lastCount finds the last number that follows one of the names.
func lastCount(t *testing.T, answer []byte, names ...string) int64 {
	t.Helper()
	for _, name := range names {
		at := bytes.LastIndex(answer, []byte(`"`+name+`":`))
		if at < 0 {
			continue
		}
		var n int64
		if err := json.NewDecoder(bytes.NewReader(answer[at+len(name)+3:])).Decode(&n); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		return n
	}
	return 0
}

// answered reads an answer of the real server.
func answered(t testing.TB, name string) []byte {
	t.Helper()
	answer, err := os.ReadFile(filepath.Join("testdata", "0.17.4", "answer-"+name+".txt"))
	if err != nil {
		t.Fatal(err)
	}
	return answer
}

// pass has a Meter pass an answer in pieces of a size, and returns what came out.
func pass(meter *ollama.Meter, answer []byte, size int) []byte {
	var out []byte
	for p := answer; len(p) > 0; {
		n := min(size, len(p))
		out = append(out, meter.Pass(p[:n])...)
		p = p[n:]
	}
	return append(out, meter.Rest()...)
}

// The usage that the gate asked for is taken out, and not a byte more.
func TestMeterHides(t *testing.T) {
	usage := regexp.MustCompile(`,"usage":\{[^}]*\}`)
	alone := regexp.MustCompile(`data: [^\n]*"choices":\[\][^\n]*\n\n`)
	for _, name := range []string{"openai-chat", "openai-completions"} {
		stream := find(t, name)
		answer := answered(t, name+"-usage")
		want := usage.ReplaceAll(alone.ReplaceAll(answer, nil), nil)
		for _, size := range []int{1, 5, 100, 333, len(answer)} {
			a := ask(t, stream.pattern, stream.body)
			a.Apply(ollama.Clamp{CountUsage: true})
			meter := a.Meter()
			if got := pass(meter, answer, size); !bytes.Equal(got, want) {
				t.Errorf("%s in pieces of %d: the caller sees\n%s\nwant\n%s", name, size, got, want)
			}
			if u := meter.Usage(); u.Estimated || u.Answer != 12 {
				t.Errorf("%s: %+v", name, u)
			}
		}
		// Whoever asked gets it.
		a := ask(t, stream.pattern, find(t, name+"-usage").body)
		a.Apply(ollama.Clamp{CountUsage: true})
		if got := pass(a.Meter(), answer, 77); !bytes.Equal(got, answer) {
			t.Errorf("%s: the caller who asked for the usage sees\n%s", name, got)
		}
	}

	long := `data: {"choices":[{"delta":{"content":"` + strings.Repeat("usage ", 1<<18) + `"},"finish_reason":null}],"usage":null}` + "\n\n"
	for _, test := range []struct{ in, want string }{
		{`data: {"usage":{"prompt_tokens":1},"choices":[{}]}` + "\n\n", `data: {"choices":[{}]}` + "\n\n"},
		{`data: {"usage" : null , "choices":[{}]}` + "\n\n", `data: { "choices":[{}]}` + "\n\n"},
		{`data: {"usage":{}}` + "\n\n", `data: {}` + "\n\n"},
		{`data: {"choices": [ ] ,"usage":{}}` + "\r\n\r\ndata: [DONE]\r\n\r\n", "data: [DONE]\r\n\r\n"},
		{`data: {"choices":[{"delta":{"content":"\"usage\":"}}]}` + "\n\n", `data: {"choices":[{"delta":{"content":"\"usage\":"}}]}` + "\n\n"},
		{`data: {"choices":[{"usage":1}]}` + "\n\n", `data: {"choices":[{"usage":1}]}` + "\n\n"},
		{`data: {"usage":`, `data: {"usage":`},
		{`data: "usage"` + "\n", `data: "usage"` + "\n"},
		{`data: {"usage":{}} x` + "\n: {}\n", `data: {} x` + "\n: {}\n"},
		{`{"error":{"message":"no","usage":1}}`, `{"error":{"message":"no","usage":1}}`},
		{long + `data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":9}}` + "\n\n", long},
	} {
		for _, size := range []int{1, 3, 4096, len(test.in)} {
			if size == 1 && len(test.in) > 1<<20 {
				continue
			}
			a := ask(t, "/v1/chat/completions", `{"stream":true}`)
			a.Apply(ollama.Clamp{CountUsage: true})
			meter := a.Meter()
			if got := string(pass(meter, []byte(test.in), size)); got != test.want {
				t.Errorf("%.100s in pieces of %d: the caller sees %.100s, want %.100s", test.in, size, got, test.want)
			}
		}
	}
}

func find(t testing.TB, name string) (found struct{ name, pattern, body string }) {
	t.Helper()
	for _, stream := range streams {
		if stream.name == name {
			return stream
		}
	}
	t.Fatal("no stream " + name)
	return found
}

// A stream that passes its limit ends after an event, and its last line makes it
// whole in its dialect.
func TestMeterLimit(t *testing.T) {
	for _, stream := range streams {
		answer := answered(t, stream.name)
		for _, size := range []int{1, 10, 150, 401, len(answer)} {
			a := ask(t, stream.pattern, stream.body)
			meter := a.Meter()
			meter.Limit(meter.Usage().Prompt + 5)
			out := pass(meter, answer, size)
			if !a.Stream {
				if meter.Over() || !bytes.Equal(out, answer) || meter.CutLine("x") != nil {
					t.Errorf("%s: an answer in one piece was cut", stream.name)
				}
				continue
			}
			u := meter.Usage()
			if !meter.Over() || u.Done || !u.Estimated || u.Answer < 3 || u.Answer > 6 || !bytes.HasPrefix(answer, out) {
				t.Errorf("%s in pieces of %d: over %v, %+v\n%s", stream.name, size, meter.Over(), u, out)
				continue
			}
			if more := meter.Pass([]byte("more")); more != nil {
				t.Errorf("%s: %q passed after the end", stream.name, more)
			}
			whole := append(out, meter.CutLine("the day's tokens\nare used up")...)
			checkCut(t, stream.name, stream.pattern, whole)
		}
		a := ask(t, stream.pattern, stream.body)
		meter := a.Meter()
		meter.Limit(1000)
		if out := pass(meter, answer, 9); meter.Over() || !bytes.Equal(out, answer) {
			t.Errorf("%s: a stream below its limit was cut", stream.name)
		}
	}
}

// checkCut reads a stream that was cut as a strict client would.
func checkCut(t *testing.T, name, pattern string, whole []byte) {
	t.Helper()
	if strings.HasPrefix(pattern, "/api/") {
		lines := strings.Split(strings.TrimSuffix(string(whole), "\n"), "\n")
		for i, line := range lines {
			var reply struct {
				Model      string    `json:"model"`
				CreatedAt  time.Time `json:"created_at"`
				Done       bool      `json:"done"`
				DoneReason string    `json:"done_reason"`
				Error      string    `json:"error"`
				EvalCount  int       `json:"eval_count"`
			}
			err := json.Unmarshal([]byte(line), &reply)
			last := i == len(lines)-1
			if err != nil || reply.Model != "tiny" || reply.CreatedAt.IsZero() || reply.Error != "" || reply.Done != last ||
				last && (reply.DoneReason != "length" || reply.EvalCount < 1) {
				t.Errorf("%s: line %s: %v", name, line, err)
			}
		}
		return
	}
	var last string
	open, events := -1, 0
	id := ""
	for event := range strings.SplitSeq(strings.TrimSuffix(string(whole), "\n\n"), "\n\n") {
		name, data := "", ""
		for line := range strings.SplitSeq(event, "\n") {
			field, value, ok := strings.Cut(line, ": ")
			switch {
			case field == "":
			case field == "event":
				name = value
			case field == "data" && ok && data == "":
				data = value
			default:
				t.Errorf("%s: odd line %q", name, line)
			}
		}
		if data == "" {
			continue
		}
		events++
		last = data
		if data == "[DONE]" {
			continue
		}
		var v struct {
			ID       string
			Type     string
			Index    int
			Sequence int `json:"sequence_number"`
			Response struct{ ID string }
			Message  struct{ ID string }
		}
		if err := json.Unmarshal([]byte(data), &v); err != nil || name != v.Type {
			t.Errorf("%s: event %q: %v", name, event, err)
		}
		if got := v.ID + v.Response.ID + v.Message.ID; got != "" {
			if id != "" && got != id {
				t.Errorf("%s: id %s became %s", name, id, got)
			}
			id = got
		}
		switch v.Type {
		case "content_block_start":
			open = v.Index
		case "content_block_stop":
			if open != v.Index {
				t.Errorf("block %d is closed, open is %d", v.Index, open)
			}
			open = -1
		}
		if pattern == "/v1/responses" && v.Sequence != events-1 {
			t.Errorf("event %d has the number %d", events-1, v.Sequence)
		}
	}
	if open != -1 {
		t.Errorf("%s: block %d stays open", name, open)
	}
	want := map[string]string{"/v1/chat/completions": "[DONE]", "/v1/completions": "[DONE]", "/v1/messages": `"message_stop"`, "/v1/responses": `"response.incomplete"`}[pattern]
	if !strings.Contains(last, want) {
		t.Errorf("%s ends with %s", name, last)
	}
}

// What ends a stream also stands alone, when nothing of the stream has come.
func TestCutLineAlone(t *testing.T) {
	for _, r := range ollama.Routes {
		for _, line := range [][]byte{ollama.CutLine(r, "why \"so\" \n\x01\xff"), ollama.NewMeter(r, true).ErrorLine("why")} {
			if len(line) == 0 || line[len(line)-1] != '\n' {
				t.Errorf("%s ends with %q", r.Pattern, line)
			}
			for part := range strings.SplitSeq(string(line), "\n") {
				body, data := strings.CutPrefix(part, "data: ")
				if (data && body != "[DONE]" || strings.HasPrefix(part, "{")) && !json.Valid([]byte(body)) {
					t.Errorf("%s: %q is not JSON", r.Pattern, body)
				}
			}
		}
		if ollama.NewMeter(r, false).ErrorLine("why") != nil {
			t.Errorf("%s: an answer in one piece has a last line", r.Pattern)
		}
	}
	if got := string(ollama.CutLine(route(t, "/api/pull"), "over")); got != `{"error":"over"}`+"\n" {
		t.Errorf("a pull ends with %s", got)
	}
	if got := string(ollama.CutLine(route(t, "/v1/messages"), "over")); !strings.Contains(got, "message_start") {
		t.Errorf("a message that did not begin ends with %s", got)
	}
}

func TestMeterOdd(t *testing.T) {
	chat, openai, anthropic := route(t, "/api/chat"), route(t, "/v1/chat/completions"), route(t, "/v1/messages")
	piece := `{"model":"m","message":{"content":"a"},"done":false}` + "\n"
	for _, test := range []struct {
		name   string
		route  ollama.Route
		stream bool
		answer string
		want   ollama.Usage
	}{
		{"nothing came", chat, true, "", ollama.Usage{Estimated: true}},
		{"broke off", chat, true, piece + piece + `{"model":"m","mess`, ollama.Usage{Model: "m", Chunks: 2, Answer: 2, Estimated: true}},
		{"refused", chat, true, `{"error":"model not found"}`, ollama.Usage{Done: true, Failed: true}},
		{"refused in one piece", openai, false, `{"error":{"message":"no","type":"api_error","code":null}}`, ollama.Usage{Done: true, Failed: true}},
		{"refused, of a stream", anthropic, true, `{"type":"error","error":{"type":"x","message":"no"}}`, ollama.Usage{Done: true, Failed: true}},
		{"failed on the way", chat, true, piece + `{"error":"runner died"}` + "\n", ollama.Usage{Model: "m", Chunks: 1, Answer: 1, Estimated: true, Done: true, Failed: true}},
		{"nothing to count", chat, true, `{"model":"m","done":true,"done_reason":"load"}`, ollama.Usage{Model: "m", Done: true}},
		{"said in the answer", chat, true, `{"message":{"content":"\"done\":true,\"eval_count\":9"},"done":false}` + "\n", ollama.Usage{Chunks: 1, Answer: 1, Estimated: true}},
		{"deeper", chat, true, `{"message":{"tool_calls":[{"function":{"arguments":{"done":true,"eval_count":9,"error":"x"}}}],"eval_count":9,"done":true},"done":false}` + "\n", ollama.Usage{Chunks: 1, Answer: 1, Estimated: true}},
		{"in a list", chat, true, `[{"done":true,"eval_count":9}]` + "\n", ollama.Usage{Estimated: true}},
		{"spaces", chat, false, "{ \"model\" : \"m\" ,\n \"done\" : true ,\r\n\t\"prompt_eval_count\" : 3 , \"eval_count\" : 4 }", ollama.Usage{Model: "m", Prompt: 3, Answer: 4, Done: true}},
		{"no number", chat, true, `{"done":true,"eval_count":-4,"prompt_eval_count":1.5}`, ollama.Usage{Done: true}},
		{"no such number", chat, true, `{"done":true,"eval_count":99999999999999999999}`, ollama.Usage{Done: true}},
		{"nonsense between", chat, true, piece + "}]{\"\n" + `{"a":"` + "\n" + piece, ollama.Usage{Model: "m", Chunks: 2, Answer: 2, Estimated: true}},
		{"a long name", chat, true, `{"` + strings.Repeat("n", 500) + `":1,"model":"` + strings.Repeat("m", 500) + `","done":true,"eval_count":2}`, ollama.Usage{Answer: 2, Done: true}},
		{"an image in the making", route(t, "/api/generate"), true, `{"completed":1,"total":9,"done":false}` + "\n", ollama.Usage{Estimated: true}},
		{"told all the time", openai, true, `data: {"choices":[{"finish_reason":null}],"usage":{"prompt_tokens":5,"completion_tokens":1}}` + "\n\n", ollama.Usage{Prompt: 5, Answer: 1, Chunks: 1}},
		{"a guess of the server", anthropic, true, "event: message_start\n" + `data: {"type":"message_start","message":{"model":"m","usage":{"input_tokens":5,"output_tokens":0}}}` + "\n\n", ollama.Usage{Model: "m", Prompt: 5, Estimated: true}},
		{"failed event", anthropic, true, "event: error\n" + `data: {"type":"error","error":{"message":"x"}}` + "\n\n", ollama.Usage{Done: true, Failed: true}},
	} {
		for _, size := range []int{1, 4, 1 << 20} {
			meter := ollama.NewMeter(test.route, test.stream)
			for p := []byte(test.answer); len(p) > 0; {
				n := min(size, len(p))
				if written, err := meter.Write(p[:n]); written != n || err != nil {
					t.Fatal(written, err)
				}
				p = p[n:]
			}
			if got := meter.Usage(); got != test.want {
				t.Errorf("%s, in pieces of %d: %+v, want %+v", test.name, size, got, test.want)
			}
		}
	}
}

// However an answer is cut, the Meter says the same, and passes the same bytes on.
func FuzzMeter(f *testing.F) {
	for i, stream := range streams {
		f.Add(uint(i), answered(f, stream.name), uint(7), int64(20))
	}
	f.Add(uint(0), []byte("{\"done\":true}]}\n[[[\"\\\\\"\n"), uint(1), int64(-1))
	f.Fuzz(func(t *testing.T, n uint, answer []byte, size uint, limit int64) {
		stream := streams[n%uint(len(streams))]
		a := ask(t, stream.pattern, stream.body)
		a.Apply(ollama.Clamp{CountUsage: n%2 == 1})
		whole, split, written := a.Meter(), a.Meter(), a.Meter()
		whole.Limit(limit)
		split.Limit(limit)
		passed := bytes.Clone(append(whole.Pass(answer), whole.Rest()...))
		if got := pass(split, answer, 1+int(size%97)); !bytes.Equal(got, passed) || split.Over() != whole.Over() {
			t.Fatalf("in pieces %q, %v; whole %q, %v", got, split.Over(), passed, whole.Over())
		}
		if split.Usage() != whole.Usage() {
			t.Fatalf("in pieces %+v, whole %+v", split.Usage(), whole.Usage())
		}
		if cut := whole.CutLine("x"); (len(cut) > 0) != a.Stream {
			t.Fatalf("ends with %q", cut)
		}
		written.Write(answer)
		u := written.Usage()
		if u.Prompt < 0 || u.Answer < 0 || u.Chunks < 0 || u.Chunks > int64(len(answer)) {
			t.Fatalf("%+v", u)
		}
		if !whole.Over() && u != whole.Usage() {
			t.Fatalf("written %+v, passed %+v", u, whole.Usage())
		}
	})
}

func BenchmarkMeter(b *testing.B) {
	for _, name := range []string{"chat", "openai-chat", "openai-chat-usage", "anthropic"} {
		b.Run(name, func(b *testing.B) {
			stream, answer := find(b, name), answered(b, name)
			lines := bytes.SplitAfter(answer, []byte("\n"))
			if name == "openai-chat-usage" { // the gate's own doing
				stream = find(b, "openai-chat")
			}
			a := ask(b, stream.pattern, stream.body)
			a.Apply(ollama.Clamp{CountUsage: true})
			b.SetBytes(int64(len(answer)))
			b.ReportAllocs()
			for b.Loop() {
				meter := a.Meter()
				for _, line := range lines {
					meter.Pass(line)
				}
				if meter.Usage().Answer < 10 {
					b.Fatal("not counted")
				}
			}
		})
	}
	b.Run("embeddings", func(b *testing.B) {
		answer := []byte(`{"model":"m","embeddings":[[` + strings.Repeat("-0.0123456789,", 70000) + `0]],"prompt_eval_count":9}`)
		b.SetBytes(int64(len(answer)))
		for b.Loop() {
			meter := ollama.NewMeter(route(b, "/api/embed"), false)
			meter.Write(answer)
			if meter.Usage().Prompt != 9 {
				b.Fatal("not counted")
			}
		}
	})
}
