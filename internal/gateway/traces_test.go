package gateway_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"gatehouse/internal/gateway"
)

// TestTraces: a caller's trace goes on through the gate, and a span says what
// became of a call and nothing of what was said.
func TestTraces(t *testing.T) {
	token, k := newKey("ada", nil)
	r := newRig(t, stream(pieces(3)), k)
	spans := tracetest.NewSpanRecorder()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans))
	r.front.Watch = &gateway.Traces{Watch: gateway.NewMetrics(prometheus.NewRegistry()), Tracer: provider.Tracer("test")}

	const caller = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	req, err := http.NewRequestWithContext(t.Context(), "POST", r.URL+"/api/chat",
		strings.NewReader(`{"model":"tiny","messages":[{"role":"user","content":"a secret of mine"}]}`))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Traceparent", caller)
	resp, err := r.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.Copy(io.Discard, resp.Body)
	if err := errors.Join(err, resp.Body.Close()); err != nil {
		t.Fatal(err)
	}
	r.book.last(t, 1)
	r.do(t, "GET", "/nobody/knows/this", token, "")
	r.book.last(t, 2)
	r.Close() // both calls have ended

	ended := spans.Ended()
	if len(ended) != 2 {
		t.Fatalf("%d spans", len(ended))
	}
	chat := ended[0]
	if chat.SpanContext().TraceID().String() != caller[3:35] || chat.Parent().SpanID().String() != caller[36:52] {
		t.Errorf("the span is in trace %s under %s", chat.SpanContext().TraceID(), chat.Parent().SpanID())
	}
	if want := "00-" + caller[3:35] + "-" + chat.SpanContext().SpanID().String() + "-01"; r.asked[0].Header.Get("Traceparent") != want {
		t.Errorf("the upstream is in %q, want %q", r.asked[0].Header.Get("Traceparent"), want)
	}
	if chat.Name() != "chat tiny" || chat.SpanKind() != trace.SpanKindServer {
		t.Errorf("%s %s", chat.SpanKind(), chat.Name())
	}
	said := fmt.Sprint(chat.Name(), chat.Attributes(), chat.Events(), ended[1].Name(), ended[1].Attributes())
	for _, never := range []string{token, "secret", "/nobody/knows"} {
		if strings.Contains(said, never) {
			t.Errorf("%q is in a span: %s", never, said)
		}
	}
	got := make(map[string]string)
	for _, a := range chat.Attributes() {
		got[string(a.Key)] = a.Value.String()
	}
	for name, want := range map[string]string{
		"http.response.status_code": "200", "http.route": "/api/chat", "gen_ai.operation.name": "chat",
		"gen_ai.request.model": "tiny", "enduser.id": k.ID, "gatehouse.allowed": "true",
	} {
		if got[name] != want {
			t.Errorf("%s is %q, want %q", name, got[name], want)
		}
	}
}
