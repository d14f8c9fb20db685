#!/usr/bin/env bash
# Say plainly when there is no Go, or one too old for go.mod, instead of letting the build end in
# errors about it.
set -euo pipefail

go=${1:-go}
cd "$(dirname "$0")/.."
need=$(awk '$1 == "go" { print $2; exit }' go.mod)
if ! command -v "$go" >/dev/null; then
	echo "Go is missing: Gatehouse needs Go $need or newer, see https://go.dev/doc/install" >&2
	exit 1
fi
# Asked outside the module, where go.mod's own demand cannot make it fail.
have=$(cd / && GOTOOLCHAIN=local "$go" env GOVERSION)
have=${have#go}
if [ "$(printf '%s\n' "$need" "${have%%[- ]*}" | sort -V | head -n 1)" != "$need" ]; then
	# Since 1.21 Go fetches the version that go.mod asks for, unless told not to.
	if [ "$(cd / && "$go" env GOTOOLCHAIN)" = local ] || ! "$go" version >/dev/null 2>&1; then
		echo "Go is too old: Gatehouse needs Go $need or newer, this is $have; see https://go.dev/doc/install" >&2
		exit 1
	fi
fi
