package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	"gatehouse/internal/gateway"
)

// tracesConfig says where spans go, by OTLP over HTTP. What that needs beside,
// such as headers, is taken from OpenTelemetry's own OTEL_EXPORTER_OTLP_*
// variables.
type tracesConfig struct {
	Endpoint string  `yaml:"endpoint"` // such as http://127.0.0.1:4318; none, no traces
	Share    float64 `yaml:"share"`    // of the calls that no caller traces, between 0 and 1; default 1
}

func (c *tracesConfig) check() error {
	if u, err := url.Parse(c.Endpoint); err != nil || c.Endpoint != "" && (u.Scheme != "http" && u.Scheme != "https" || u.Host == "") {
		return fmt.Errorf("traces: endpoint %q is no URL, such as http://127.0.0.1:4318", c.Endpoint)
	}
	if c.Share < 0 || c.Share > 1 {
		return fmt.Errorf("traces: share %v is not between 0 and 1", c.Share)
	}
	return nil
}

// openTraces puts spans beside the metrics, and returns what sends the last of
// them. A collector that is away costs spans and no call.
func (g *gate) openTraces(ctx context.Context, c tracesConfig) (end func(context.Context) error, err error) {
	g.watch = g.metrics.Metrics
	if c.Endpoint == "" {
		return func(context.Context) error { return nil }, nil
	}
	u, err := url.Parse(c.Endpoint)
	if err != nil {
		return nil, err // cannot be: check parsed it
	}
	if u.Path == "" || u.Path == "/" {
		u.Path = "/v1/traces"
	}
	exporter, err := otlptracehttp.New(ctx, otlptracehttp.WithEndpointURL(u.String()))
	if err != nil {
		return nil, fmt.Errorf("traces: %w", err)
	}
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { g.log.Warn("some traces are lost", "error", err.Error()) }))
	provider := sdktrace.NewTracerProvider(
		sdktrace.WithBatcher(exporter),
		sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.TraceIDRatioBased(c.Share))),
		sdktrace.WithResource(resource.NewSchemaless(
			attribute.String("service.name", "gatehouse"), attribute.String("service.version", versionString()))),
	)
	g.watch = &gateway.Traces{Watch: g.metrics.Metrics, Tracer: provider.Tracer("gatehouse")}
	return func(ctx context.Context) error {
		if err := provider.Shutdown(ctx); err != nil && !errors.Is(err, context.DeadlineExceeded) {
			return fmt.Errorf("traces: %w", err)
		}
		return nil
	}, nil
}
