#!/usr/bin/env bash
# Install the real programs that the tests and the benches are held against: Ollama, the clients that
# people have for it, an ACME authority, Chromium, which prints reports, and the proxies and scanners
# that we are measured beside. Nothing lands in the source tree, no service is left running, and a
# second call does nothing.
#
#   GATEHOUSE_CACHE   where to keep them (default: $XDG_CACHE_HOME/gatehouse or ~/.cache/gatehouse)
set -euo pipefail

ollama=0.17.4  # the release that testdata/0.17.4 was captured from
malgo=v0.11.24 # carries miniaudio.h, which Ollama's module leaves out
pebble=v2.8.0  # an ACME authority for tests
helm=v3.21.4   # reads the chart that deploy writes
debian=(libstdc++6 systemd-sysv dbus nftables iproute2 ufw iptables docker.io podman) # besides the essential packages
sdks=(ollama@0.6.4 openai@6.49.0 @anthropic-ai/sdk@1.13.0)

cache=${GATEHOUSE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/gatehouse}
peers=$cache/peers
dest=$peers/ollama-$ollama
go=${GO:-go}

say() { printf 'peers: %s\n' "$*"; }
die() {
	printf 'peers: %s\n' "$*" >&2
	exit 1
}

# missing_packages prints the Debian packages whose file or command is not here yet.
missing_packages() {
	local path=$PATH:/usr/sbin:/sbin
	have() { PATH=$path command -v "$1" >/dev/null; }
	have gcc || echo gcc
	have g++ || echo g++
	have curl || echo curl
	have ip || echo iproute2
	have nginx || echo nginx-light
	have haproxy || echo haproxy
	have caddy || echo caddy
	have nmap || echo nmap
	have masscan || echo masscan
	have zmap || echo zmap
	have nft || echo nftables
	have ip || echo iproute2
	have gnome-keyring-daemon || echo gnome-keyring
	have dbus-run-session || echo dbus-daemon
	have node || echo nodejs
	have npm || echo npm
	have nft || echo nftables
	have ansible-playbook || echo ansible-core
	have nix-instantiate || echo nix-bin
	have mmdebstrap || echo mmdebstrap
	# What cloud-init's own check of user data imports; cloud-init itself is not installed.
	local module
	for module in yaml jsonschema jinja2 configobj jsonpatch oauthlib requests netifaces serial; do
		/usr/bin/python3 -c "import $module" 2>/dev/null || echo "python3-$module"
	done
	have chromium || have chromium-browser || have google-chrome || echo chromium
	# Only the build of Ollama needs the headers.
	if [ ! -x "$dest/ollama" ]; then
		[ -e /usr/include/nlohmann/json.hpp ] || echo nlohmann-json3-dev
		[ -e /usr/include/stb/stb_image.h ] || echo libstb-dev
	fi
}

install_packages() {
	local want
	mapfile -t want < <(missing_packages)
	[ ${#want[@]} -gt 0 ] || return 0
	if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
		die "these are missing: ${want[*]}. Install them (Debian: sudo apt-get install ${want[*]}) and call this again"
	fi
	say "apt-get install ${want[*]}"
	export DEBIAN_FRONTEND=noninteractive
	# Debian starts what it installs; this is its documented way to say no (invoke-rc.d, exit 101).
	local policy=/usr/sbin/policy-rc.d ours=
	if [ ! -e "$policy" ]; then
		printf '#!/bin/sh\nexit 101\n' >"$policy"
		chmod 755 "$policy"
		ours=1
	fi
	local failed=
	{ apt-get update -qq && apt-get install -y -qq --no-install-recommends "${want[@]}"; } \
		>"$peers/apt.log" 2>&1 || failed=1
	[ -z "$ours" ] || rm -f "$policy"
	[ -z "$failed" ] || { tail -n 20 "$peers/apt.log" >&2; die "apt-get failed; the whole log is $peers/apt.log"; }
	# Nor may they start at the next boot: we asked for the programs, not for their services.
	local package
	for package in "${want[@]}"; do
		case $package in nginx-light | haproxy | caddy)
			if [ -d /run/systemd/system ]; then systemctl disable --now --quiet "${package%-light}" || true; fi
			;;
		esac
	done
}

# headers makes the include folder. Its path is part of Go's build cache key, so it is a fixed one:
# a build that was interrupted goes on where it was.
headers() {
	[ ! -e "$peers/include/miniaudio/miniaudio.h" ] || return 0
	(cd "$tmp" && "$go" mod download "github.com/gen2brain/malgo@$malgo")
	mkdir -p "$tmp/include/miniaudio"
	install -m 644 "$("$go" env GOMODCACHE)/github.com/gen2brain/malgo@$malgo/miniaudio.h" "$tmp/include/miniaudio/"
	ln -s /usr/include/nlohmann "$tmp/include/nlohmann"
	ln -s /usr/include/stb "$tmp/include/stb"
	rm -rf "$peers/include"
	mv "$tmp/include" "$peers/include"
}

install_ollama() {
	[ ! -x "$dest/ollama" ] || return 0
	say "building Ollama $ollama into $dest (about 5 minutes on 2 cores, once)"
	headers
	mkdir "$tmp/ollama"
	(
		cd "$tmp"
		export CGO_ENABLED=1 CGO_CPPFLAGS="'-I$peers/include'" GOBIN=$tmp/ollama GOWORK=off
		# The warnings of its C++ are not ours to show, unless the build fails.
		"$go" install -ldflags "-X github.com/ollama/ollama/version.Version=$ollama" \
			"github.com/ollama/ollama@v$ollama" >"$peers/build.log" 2>&1
	) || { tail -n 20 "$peers/build.log" >&2; die "Ollama did not build; the whole log is $peers/build.log"; }
	# Asked with an address that no server has, so that it speaks of itself only.
	OLLAMA_HOST=127.0.0.1:1 "$tmp/ollama/ollama" --version 2>/dev/null | grep -qF "$ollama" ||
		die "the Ollama just built does not call itself $ollama"
	rm -rf "$dest"
	mv "$tmp/ollama" "$dest"
}

# install_model lets the test package make the models folder that its servers start from.
install_model() {
	[ ! -e "$peers/tiny-$ollama/stamp" ] || return 0
	say "making the tiny model"
	(cd "$(dirname "$0")/.." && GATEHOUSE_CACHE=$cache GATEHOUSE_REQUIRE_PEERS=1 \
		"$go" test -count=1 -run '^TestModelsFolder$' ./internal/ollama/realollama >/dev/null) ||
		die "the tiny model was not made: go test -v -run TestModelsFolder ./internal/ollama/realollama says why"
}

# install_sdks gets the SDKs of clients in JavaScript.
install_sdks() {
	local stamp="${sdks[*]}"
	[ "$(cat "$peers/npm/stamp" 2>/dev/null)" != "$stamp" ] || return 0
	say "npm install $stamp"
	mkdir "$tmp/npm"
	(
		cd "$tmp/npm"
		printf '{"private": true}\n' >package.json
		npm install --no-audit --no-fund --ignore-scripts --save-exact "${sdks[@]}" >"$peers/npm.log" 2>&1
	) || { tail -n 20 "$peers/npm.log" >&2; die "npm failed; the whole log is $peers/npm.log"; }
	printf '%s\n' "$stamp" >"$tmp/npm/stamp"
	rm -rf "$peers/npm"
	mv "$tmp/npm" "$peers/npm"
}

# install_goclient makes the go.mod that the tests build Ollama's Go client with: ours has no Ollama.
install_goclient() {
	[ ! -e "$peers/goclient-$ollama/go.sum" ] || return 0
	say "getting Ollama's Go client"
	mkdir "$tmp/goclient"
	cp "$(dirname "$0")/../internal/e2e/testdata/goclient/main.go" "$tmp/goclient/"
	(
		cd "$tmp/goclient"
		export GOWORK=off
		{
			"$go" mod init gatehouse && "$go" get "github.com/ollama/ollama@v$ollama" && "$go" mod tidy
		} >"$peers/goclient.log" 2>&1
	) || { tail -n 20 "$peers/goclient.log" >&2; die "it did not come; the whole log is $peers/goclient.log"; }
	rm -rf "$peers/goclient-$ollama"
	mv "$tmp/goclient" "$peers/goclient-$ollama"
}

install_pebble() {
	[ ! -x "$peers/pebble-$pebble/pebble" ] || return 0
	say "building pebble $pebble"
	(cd "$tmp" && GOWORK=off GOBIN=$tmp/pebble "$go" install "github.com/letsencrypt/pebble/v2/cmd/pebble@$pebble" >"$peers/pebble.log" 2>&1) ||
		{ tail -n 20 "$peers/pebble.log" >&2; die "pebble did not build; the whole log is $peers/pebble.log"; }
	mv "$tmp/pebble" "$peers/pebble-$pebble"
}

install_helm() {
	[ ! -x "$peers/helm-$helm/helm" ] || return 0
	say "building helm $helm"
	(cd "$tmp" && GOWORK=off CGO_ENABLED=0 GOBIN=$tmp/helm "$go" install "helm.sh/helm/v3/cmd/helm@$helm" >"$peers/helm.log" 2>&1) ||
		{ tail -n 20 "$peers/helm.log" >&2; die "helm did not build; the whole log is $peers/helm.log"; }
	mv "$tmp/helm" "$peers/helm-$helm"
}

# install_cloudinit unpacks cloud-init, for its check of user data. Installed, it would take this
# machine for a new one at the next boot.
install_cloudinit() {
	[ ! -e "$peers/cloud-init/usr" ] || return 0
	command -v apt-get >/dev/null || die "cloud-init comes from Debian's archive, which this system has not"
	say "unpacking cloud-init"
	mkdir "$tmp/deb"
	(cd "$tmp/deb" && apt-get download -qq cloud-init 2>"$peers/cloud-init.log") ||
		{ tail -n 5 "$peers/cloud-init.log" >&2; die "cloud-init did not come: apt-get update may help"; }
	dpkg-deb -x "$tmp"/deb/cloud-init_*.deb "$tmp/cloud-init"
	rm -rf "$peers/cloud-init"
	mv "$tmp/cloud-init" "$peers/cloud-init"
}

# install_debian makes a Debian that the tests boot, in namespaces, to have a systemd, a Docker and a
# Podman of their own. None of its engines starts by itself.
install_debian() {
	local stamp="1 ${debian[*]}"
	[ "$(cat "$peers/debian.stamp" 2>/dev/null)" != "$stamp" ] || return 0
	if [ "$(id -u)" != 0 ]; then
		say "no Debian to boot: only root can make one, and only root can boot it"
		return 0
	fi
	say "installing a Debian into $peers/debian (a minute, once)"
	local useless
	useless=$(printf -- '--dpkgopt=path-exclude=/usr/share/%s/* ' doc man locale info lintian)
	# In namespaces of its own: should it be killed, neither its programs nor its mounts are left.
	# shellcheck disable=SC2016,SC2086
	unshare --mount --propagation private --pid --fork --kill-child --mount-proc \
		mmdebstrap --quiet --variant=essential --include="$(IFS=,; echo "${debian[*]}")" $useless --aptopt='Acquire::Retries "3"' \
		--customize-hook='echo box >"$1/etc/hostname"' \
		--customize-hook='chroot "$1" systemctl disable docker.service docker.socket containerd.service podman.service podman.socket podman-restart.service podman-auto-update.service' \
		--customize-hook='for t in "$1"/etc/systemd/system/timers.target.wants/*; do chroot "$1" systemctl disable "${t##*/}"; done' \
		bookworm "$tmp/debian" >"$peers/debian.log" 2>&1 ||
		{ tail -n 20 "$peers/debian.log" >&2; die "Debian did not come; the whole log is $peers/debian.log"; }
	rm -rf "$peers/debian"
	mv "$tmp/debian" "$peers/debian"
	printf '%s\n' "$stamp" >"$peers/debian.stamp"
}

command -v "$go" >/dev/null || die "Go is missing: see https://go.dev/doc/install"
mkdir -p "$peers"
peers=$(cd "$peers" && pwd) dest=$peers/ollama-$ollama
# Two calls at once take turns; the second finds the work done.
if command -v flock >/dev/null; then
	exec 9>"$peers/lock"
	flock 9
	rm -rf --one-file-system "$peers"/tmp.* # of a call that was killed
fi
tmp=$(mktemp -d "$peers/tmp.XXXXXX")
trap 'rm -rf "$tmp"' EXIT
trap 'exit 130' INT TERM
install_packages
install_ollama
install_model
install_sdks
install_goclient
install_pebble
install_helm
install_cloudinit
install_debian
say "ready in $peers"
