#!/bin/sh
# Installs the firewall, Ollama and the gate. It stops at the first thing that goes wrong.
set -eu
systemctl daemon-reload
systemctl enable --now gatehouse-firewall.service
case $(uname -m) in
x86_64) arch=amd64 ;;
aarch64) arch=arm64 ;;
*) echo "no Ollama for $(uname -m)" >&2; exit 1 ;;
esac
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
fetch() { curl -fsSL --proto '=https' --retry 5 -o "$2" "$1"; }

fetch '[[ .BinaryURL ]]' "$tmp/gatehouse"
echo '[[ .SHA256 ]]'"  $tmp/gatehouse" | sha256sum -c --quiet -
install -m 755 "$tmp/gatehouse" /usr/local/bin/gatehouse

id ollama >/dev/null 2>&1 || useradd -r -s /bin/false -U -m -d /usr/share/ollama ollama
fetch "https://ollama.com/download/ollama-linux-$arch.tar.zst?version=[[ .OllamaVersion ]]" "$tmp/ollama.tar.zst"
tar --zstd -xf "$tmp/ollama.tar.zst" -C /usr/local
[[- if eq .GPU "amd" ]]
fetch "https://ollama.com/download/ollama-linux-$arch-rocm.tar.zst?version=[[ .OllamaVersion ]]" "$tmp/rocm.tar.zst"
tar --zstd -xf "$tmp/rocm.tar.zst" -C /usr/local
[[- end ]]
systemctl enable --now ollama.service gatehouse.service
[[- if .Models ]]

i=0
until curl -fsS -o /dev/null http://127.0.0.1:11434/api/version; do
	i=$((i + 1))
	[ "$i" -lt 60 ] || { echo "Ollama does not come up" >&2; exit 1; }
	sleep 1
done
export HOME=/root OLLAMA_HOST=127.0.0.1:11434
[[- range .Models ]]
ollama pull '[[ . ]]'
[[- end ]]
[[- end ]]
