package gateway

import (
	"context"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"gatehouse/internal/key"
	"gatehouse/internal/ledger"
)

// Metrics counts calls for Prometheus. Names of what concerns models follow
// OpenTelemetry's semantic conventions for generative AI, as Prometheus writes
// them; no label takes values without bound, and none names a caller.
type Metrics struct {
	requests  *prometheus.CounterVec
	waiting   prometheus.Gauge
	streaming prometheus.Gauge
	duration  *prometheus.HistogramVec
	first     *prometheus.HistogramVec
	tokens    *prometheus.CounterVec

	underway atomic.Int64

	mu     sync.Mutex
	models map[string]bool
}

// maxModelLabels is how many models are told apart; the rest are "other".
const maxModelLabels = 100

// NewMetrics registers the gate's metrics with r.
func NewMetrics(r prometheus.Registerer) *Metrics {
	seconds := []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 120, 300}
	m := &Metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "gatehouse_requests_total", Help: "Requests, by the power they asked for, the status they got and why.",
		}, []string{"power", "status", "reason"}),
		waiting: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "gatehouse_queue_waiting", Help: "Requests that wait for a place in front of Ollama.",
		}),
		streaming: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "gatehouse_streams", Help: "Requests that Ollama is answering.",
		}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "gen_ai_server_request_duration_seconds", Help: "From a request's arrival to the end of its answer.",
			Buckets: seconds,
		}, []string{"gen_ai_operation_name", "gen_ai_request_model"}),
		first: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "gen_ai_server_time_to_first_token_seconds", Help: "From a request's arrival to the first byte of its answer.",
			Buckets: seconds,
		}, []string{"gen_ai_operation_name", "gen_ai_request_model"}),
		tokens: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "gen_ai_server_tokens_total", Help: "Tokens of prompts (input) and answers (output).",
		}, []string{"gen_ai_token_type", "gen_ai_request_model"}),
		models: make(map[string]bool),
	}
	r.MustRegister(m.requests, m.waiting, m.streaming, m.duration, m.first, m.tokens)
	return m
}

// Begin counts the call as under way.
func (m *Metrics) Begin(r *http.Request) context.Context {
	m.underway.Add(1)
	return r.Context()
}

// Underway is how many calls have begun and not ended.
func (m *Metrics) Underway() int64 { return m.underway.Load() }

// Waiting counts the calls in the queue.
func (m *Metrics) Waiting(delta int) { m.waiting.Add(float64(delta)) }

// Streaming counts the calls that the upstream is answering.
func (m *Metrics) Streaming(delta int) { m.streaming.Add(float64(delta)) }

// End counts the call.
func (m *Metrics) End(_ context.Context, r *ledger.Record, _ *key.Identity) {
	m.underway.Add(-1)
	m.requests.WithLabelValues(orDefault(r.Power, "unknown"), strconv.Itoa(r.Status), orDefault(r.Reason, "ok")).Inc()
	operation := operationOf(r.Route)
	if operation == "" || !r.Allowed {
		return
	}
	model := m.model(r.Model)
	m.duration.WithLabelValues(operation, model).Observe(r.Duration.Seconds())
	if r.TTFT > 0 {
		m.first.WithLabelValues(operation, model).Observe(r.TTFT.Seconds())
	}
	if r.TokensIn > 0 {
		m.tokens.WithLabelValues("input", model).Add(float64(r.TokensIn))
	}
	if r.TokensOut > 0 {
		m.tokens.WithLabelValues("output", model).Add(float64(r.TokensOut))
	}
}

// operationOf is gen_ai.operation.name, "" for what is none.
func operationOf(route string) string {
	switch {
	case strings.HasSuffix(route, "/chat"), strings.HasSuffix(route, "/chat/completions"),
		strings.HasSuffix(route, "/messages"), strings.HasSuffix(route, "/responses"):
		return "chat"
	case strings.HasSuffix(route, "/generate"), strings.HasSuffix(route, "/completions"):
		return "text_completion"
	case strings.HasSuffix(route, "/embed"), strings.HasSuffix(route, "/embeddings"):
		return "embeddings"
	}
	return ""
}

// model is the label for a model that a caller was let in to: a caller could
// otherwise make up any number of them.
func (m *Metrics) model(name string) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.models[name] {
		if len(m.models) >= maxModelLabels {
			return "other"
		}
		m.models[name] = true
	}
	return name
}
