# One command for each job. `make` alone lists them.

GO      ?= go
PREFIX  ?= /usr/local
TAGS    ?=
BENCH   ?=
BENCHSWEEP ?=
BENCHGATE ?=
BENCHSTORE ?= -hosts 100000
QUICK   ?=
BASE    ?=
BENCHGO ?= -bench . -benchtime 200ms
FUZZTIME ?= 10s
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
# Without DWARF and symbol table, which only debuggers read: 16 MB less. Stack traces stay whole.
LDFLAGS := -s -w -X main.version=$(VERSION)
# What the tag tailnet changes. The second tag leaves out a server of Tailscale's own that tsnet would
# open on every address of the machine. scripts/test.sh has the same.
TAILTAGS := tailnet,ts_omit_peerapiserver
TAILNET := ./internal/tailnet/... ./cmd/gatehouse
SYSTEMS := linux/arm64 darwin/arm64 windows/amd64 # that it has to build for, besides this one

.DEFAULT_GOAL := help
.PHONY: help build run test lint bench bench-smoke bench-report bench-go peers services geo fuzz install clean go

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

go: # is there a Go that is new enough?
	@scripts/go.sh $(GO)

build: go ## build ./gatehouse, one static binary; TAGS=tailnet for gate --tailnet
	CGO_ENABLED=0 $(GO) build -trimpath -tags "$(subst tailnet,$(TAILTAGS),$(TAGS))" -ldflags "$(LDFLAGS)" -o gatehouse ./cmd/gatehouse

run: build ## build, check this machine, show the demo
	@./gatehouse check; code=$$?; [ $$code -eq 0 ] || [ $$code -eq 3 ] || exit $$code
	@./gatehouse demo; code=$$?; [ $$code -eq 0 ] || [ $$code -eq 3 ] || exit $$code

test: peers geo lint ## lint, then every test with the race detector, the real Ollama included
	GO=$(GO) scripts/test.sh

lint: go ## vet, gofumpt, staticcheck, tidy go.mod, and a build for each system
	$(GO) vet ./...
	@files=$$($(GO) tool gofumpt -l .); [ -z "$$files" ] || { echo "gofumpt would change:" $$files >&2; exit 1; }
	$(GO) tool staticcheck ./...
	$(GO) vet -tags $(TAILTAGS) $(TAILNET)
	$(GO) tool staticcheck -tags $(TAILTAGS) $(TAILNET)
	$(GO) mod tidy -diff
	@for on in $(SYSTEMS); do \
		CGO_ENABLED=0 GOOS=$${on%/*} GOARCH=$${on#*/} $(GO) build -o /dev/null ./cmd/gatehouse || \
			{ echo "does not build for $$on" >&2; exit 1; }; done

bench: build peers ## the scan beside curl, nmap and masscan; the sweep beside zmap and masscan; the gate beside nginx, HAProxy and Caddy; the store
	$(GO) run ./bench $(BENCH)
	$(GO) run ./bench -sweep $(BENCH)
	$(GO) run ./bench/sweep $(BENCHSWEEP)
	$(GO) run ./bench/gate $(BENCHGATE)
	$(GO) run ./bench/store $(BENCHSTORE)

bench-smoke: build ## each benchmark in small: that it works and finds what it should, not how fast
	$(GO) test -run Allocs ./internal/gateway ./internal/upstream
	$(GO) run ./bench/gate -smoke

bench-report: build peers ## every benchmark, 25 minutes (QUICK=1: 3), and docs/performance.md drawn from it
	$(GO) run ./bench/report -measure $(if $(QUICK),-quick)

bench-go: go ## the rooms' own benchmarks by benchstat, against BASE=file of an earlier run if given
	@[ "$(BASE)" != bench-go.txt ] || { echo "bench-go.txt is what this run writes: rename the earlier one" >&2; exit 2; }
	@$(GO) test -run '^$$' -count 6 -benchmem $(BENCHGO) $$($(GO) list ./internal/...) >bench-go.txt || { cat bench-go.txt >&2; exit 1; }
	@$(GO) tool benchstat $(BASE) bench-go.txt

peers: go ## install what the tests are held against, such as the real Ollama
	@GO=$(GO) scripts/peers.sh

services: ## start the PostgreSQL and the Redis that the tests are run with; scripts/services.sh stop ends them
	@scripts/services.sh

geo: ## fetch the country and network databases that the tests are held against
	@scripts/geo.sh

fuzz: go ## run every fuzz target for FUZZTIME (default 10s)
	@GO=$(GO) scripts/fuzz.sh $(FUZZTIME)

install: build ## install to PREFIX (default /usr/local)
	install -D -m 755 gatehouse $(DESTDIR)$(PREFIX)/bin/gatehouse

clean: ## remove what build made; the peers stay
	rm -f gatehouse bench-go.txt
