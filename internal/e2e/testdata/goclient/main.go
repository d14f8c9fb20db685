// Goclient runs Ollama's own Go client against OLLAMA_HOST and prints what it
// gave, a line of JSON for each call, as clients.mjs does. It is built with the
// go.mod that scripts/peers.sh makes, so that ours stays free of Ollama.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"time"

	"github.com/ollama/ollama/api"
)

func say(call string, got any, err error) {
	if err != nil {
		got = map[string]any{"failed": err.Error()}
	}
	line, err := json.Marshal(map[string]any{"call": call, "got": got})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(string(line))
}

// tell is say for the two values of a call.
func tell[T any](call string) func(T, error) {
	return func(got T, err error) { say(call, got, err) }
}

func main() {
	client, err := api.ClientFromEnvironment()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	ctx, stop := context.WithTimeout(context.Background(), time.Minute)
	defer stop()
	steady := map[string]any{"seed": 1, "temperature": 0, "num_predict": 8}
	question := []api.Message{{Role: "user", Content: "hi"}}
	whole := new(bool)

	say("heartbeat", "ok", client.Heartbeat(ctx))
	tell[string]("version")(client.Version(ctx))
	tell[*api.ListResponse]("list")(client.List(ctx))
	tell[*api.ShowResponse]("show")(client.Show(ctx, &api.ShowRequest{Model: "tiny"}))
	tell[*api.ProcessResponse]("ps")(client.ListRunning(ctx))

	var generated []api.GenerateResponse
	err = client.Generate(ctx, &api.GenerateRequest{Model: "tiny", Prompt: "hi", Options: steady}, func(r api.GenerateResponse) error {
		generated = append(generated, r)
		return nil
	})
	say("generate stream", generated, err)

	chat := func(call string, req *api.ChatRequest) {
		var pieces []api.ChatResponse
		req.Messages, req.Options = question, steady
		err := client.Chat(ctx, req, func(r api.ChatResponse) error {
			pieces = append(pieces, r)
			return nil
		})
		say(call, pieces, err)
	}
	clock := api.Tool{Type: "function", Function: api.ToolFunction{Name: "clock", Parameters: api.ToolFunctionParameters{Type: "object"}}}
	chat("chat", &api.ChatRequest{Model: "tiny", Stream: whole})
	chat("chat stream", &api.ChatRequest{Model: "tiny"})
	chat("tools", &api.ChatRequest{Model: "handy", Tools: api.Tools{clock}, Stream: whole})
	chat("tools of a model without", &api.ChatRequest{Model: "tiny", Tools: api.Tools{clock}})
	chat("no such model", &api.ChatRequest{Model: "none"})
	tell[*api.EmbedResponse]("embed")(client.Embed(ctx, &api.EmbedRequest{Model: "tiny", Input: []string{"hi", "there"}}))

	// A stream without end, left after three pieces.
	leaving, leave := context.WithCancel(ctx)
	n := 0
	err = client.Generate(leaving, &api.GenerateRequest{Model: "tiny", Prompt: "hi", Options: map[string]any{"num_predict": 1_000_000_000}}, func(api.GenerateResponse) error {
		if n++; n == 3 {
			leave()
		}
		return nil
	})
	leave()
	if n >= 3 { // the client may return nil or the context's error
		say("cancel", "enough", nil)
	} else {
		say("cancel", n, err)
	}
	chat("chat after", &api.ChatRequest{Model: "tiny", Stream: whole})
}
