package gateway

import (
	"context"
	"net/http"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"gatehouse/internal/key"
	"gatehouse/internal/ledger"
)

// Traces makes an OpenTelemetry span of each call, beside what another Watch
// does. A caller's W3C trace goes on through the gate to Ollama; no span holds
// what was said.
type Traces struct {
	Watch  // what else watches
	Tracer trace.Tracer
}

var w3c propagation.TraceContext

// Begin starts the span. The request's traceparent is from then on the span's,
// and goes to the upstream with the other headers.
func (t *Traces) Begin(r *http.Request) context.Context {
	carrier := propagation.HeaderCarrier(r.Header)
	ctx, _ := t.Tracer.Start(w3c.Extract(r.Context(), carrier), "gate", trace.WithSpanKind(trace.SpanKindServer))
	w3c.Inject(ctx, carrier)
	return t.Watch.Begin(r.WithContext(ctx))
}

// End ends the span. Names follow OpenTelemetry's semantic conventions for HTTP
// and for generative AI.
func (t *Traces) End(ctx context.Context, r *ledger.Record, identity *key.Identity) {
	defer t.Watch.End(ctx, r, identity)
	span := trace.SpanFromContext(ctx)
	defer span.End(trace.WithTimestamp(r.Time.Add(r.Duration)))
	if !span.IsRecording() {
		return
	}
	list := []attribute.KeyValue{
		attribute.String("http.request.method", r.Method),
		attribute.Int("http.response.status_code", r.Status),
		attribute.String("client.address", r.Address),
		attribute.String("gatehouse.request_id", r.ID),
		attribute.Bool("gatehouse.allowed", r.Allowed),
	}
	name := r.Method
	if r.Power != "" {
		// A path that is in no table may hold anything, and is in the ledger.
		name += " " + r.Route
		list = append(list, attribute.String("http.route", r.Route), attribute.String("gatehouse.power", r.Power))
	}
	if r.Identity.ID != "" {
		list = append(list, attribute.String("enduser.id", r.Identity.ID))
	}
	if operation := operationOf(r.Route); operation != "" && r.Allowed {
		name = operation + " " + r.Model
		list = append(list,
			attribute.String("gen_ai.provider.name", "ollama"),
			attribute.String("gen_ai.operation.name", operation),
			attribute.String("gen_ai.request.model", r.Model),
			attribute.Int64("gen_ai.usage.input_tokens", r.TokensIn),
			attribute.Int64("gen_ai.usage.output_tokens", r.TokensOut))
	}
	if r.TTFT > 0 {
		span.AddEvent("first byte", trace.WithTimestamp(r.Time.Add(r.TTFT)))
	}
	if r.Reason != "" {
		list = append(list, attribute.String("error.type", r.Reason))
		if r.Status >= 500 || r.Allowed {
			span.SetStatus(codes.Error, r.Reason)
		}
	}
	span.SetName(name)
	span.SetAttributes(list...)
}
