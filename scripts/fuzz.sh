#!/usr/bin/env bash
# Run each fuzz target for the time given (default 10s), one after the other.
set -euo pipefail

cd "$(dirname "$0")/.."
go=${GO:-go}
time=${1:-10s}
while read -r package; do
	targets=$("$go" test -list '^Fuzz' "$package" | grep '^Fuzz' || true)
	for target in $targets; do
		echo "$package $target"
		"$go" test -run '^$' -fuzz "^$target\$" -fuzztime "$time" "$package"
	done
done < <("$go" list ./...)
