#!/usr/bin/env bash
# Fetch the country and network databases that the tests are held against, as the npm packages they
# are published in. Nothing lands in the source tree, and a second call does nothing.
#
#   GATEHOUSE_CACHE   where to keep them (default: $XDG_CACHE_HOME/gatehouse or ~/.cache/gatehouse)
set -euo pipefail

version=2.3.2026061719
packages=(
	geo-whois-asn-country-mmdb # CC0
	iptoasn-country-mmdb       # PDDL
	asn                        # CC BY 4.0: Route Views, NRO, DB-IP
)

cache=${GATEHOUSE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/gatehouse}
dest=$cache/geo/$version

say() { printf 'geo: %s\n' "$*"; }
die() {
	printf 'geo: %s\n' "$*" >&2
	exit 1
}

missing() {
	local p
	for p in "${packages[@]}"; do
		[ -s "$dest/$p.tgz" ] || echo "$p"
	done
}

install_npm() {
	! command -v npm >/dev/null || return 0
	if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
		die "npm is missing. Install it (Debian: sudo apt-get install npm) and call this again"
	fi
	say "apt-get install npm"
	export DEBIAN_FRONTEND=noninteractive
	{ apt-get update -qq && apt-get install -y -qq --no-install-recommends npm; } >"$dest/apt.log" 2>&1 ||
		{ tail -n 20 "$dest/apt.log" >&2; die "apt-get failed; the whole log is $dest/apt.log"; }
}

mkdir -p "$dest"
dest=$(cd "$dest" && pwd)
# Two calls at once take turns; the second finds the work done.
if command -v flock >/dev/null; then
	exec 9>"$dest/lock"
	flock 9
	rm -rf "$dest"/tmp.* # of a call that was killed
fi
mapfile -t want < <(missing)
if [ ${#want[@]} -gt 0 ]; then
	install_npm
	tmp=$(mktemp -d "$dest/tmp.XXXXXX")
	trap 'rm -rf "$tmp"' EXIT
	trap 'exit 130' INT TERM
	for p in "${want[@]}"; do
		say "fetching $p $version"
		# pack runs nothing of the package; it only fetches it.
		file=$(cd "$tmp" && npm pack --silent "@ip-location-db/$p@$version") ||
			die "npm did not fetch @ip-location-db/$p@$version"
		gzip -t "$tmp/$file" || die "@ip-location-db/$p@$version arrived damaged"
		mv "$tmp/$file" "$dest/$p.tgz"
	done
fi
say "ready in $dest"
