#!/usr/bin/env bash
# Run every test with the race detector, and fail when one was skipped too: where all that the tests
# need is installed, a skipped test is one that nobody ran. Fuzz targets run on their seeds.
set -euo pipefail

cd "$(dirname "$0")/.."
go=${GO:-go}
export GATEHOUSE_REQUIRE_PEERS=1
services=$(scripts/services.sh)
while IFS= read -r line; do export "${line?}"; done <<<"$services" # NAME=URL, a line each
{
	"$go" test -race -timeout 20m -json ./...
	# With the tag tailnet, what differs: all of one room, and of the program the tests that need it.
	"$go" test -race -timeout 10m -json -tags tailnet,ts_omit_peerapiserver -run '^TestTailnet' ./internal/tailnet ./cmd/gatehouse
} | "$go" run ./scripts/testlog
