package main

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
)

func TestPackageOf(t *testing.T) {
	for symbol, want := range map[string]string{
		"net/http.(*Client).Do":        "net/http",
		"main.main":                    "main",
		"runtime.mallocgc":             "runtime",
		"gopkg.in/yaml%2ev3.Unmarshal": "gopkg.in/yaml.v3",
		"slices.SortFunc[go.shape.[]x/y.T,go.shape.struct { z/q.F }]": "slices",
		"gatehouse/internal/wave.Compare.func1.2":                     "gatehouse/internal/wave",
		"modernc.org/sqlite/lib.Xsqlite3_step":                        "modernc.org/sqlite/lib",
		"type:.eq.net/http.Header":                                    "",
		"go:string.*":                                                 "",
		"_cgo_init":                                                   "",
	} {
		if got := packageOf(symbol); got != want {
			t.Errorf("%s is of %q, want %q", symbol, got, want)
		}
	}
}

// The first answer is the first one that is 200, not a refusal while the server
// is not yet ready.
func TestAsk(t *testing.T) {
	var asked atomic.Int32
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer k" {
			t.Errorf("asked with %q", r.Header.Get("Authorization"))
		}
		if asked.Add(1) < 3 {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	defer srv.Close()
	b := bench{key: "k"}
	if err := b.ask(t.Context(), srv.Listener.Addr().String(), nil); err != nil || asked.Load() != 3 {
		t.Errorf("%v after %d requests", err, asked.Load())
	}
	ended := make(chan struct{})
	close(ended)
	srv.Close()
	if err := b.ask(t.Context(), srv.Listener.Addr().String(), ended); err == nil || !strings.Contains(err.Error(), "ended") {
		t.Errorf("%v", err)
	}
	ctx, stop := context.WithCancel(t.Context())
	stop()
	if err := b.ask(ctx, srv.Listener.Addr().String(), nil); err == nil {
		t.Error("no error after the time was over")
	}
}
