#!/bin/sh
# The published counts of open Ollama servers as exports that gatehouse import
# reads: what Cisco Talos counted in September 2025, and what a researcher did in
# April 2026. The totals, the share of the EU and Germany's third place are
# published; which other country has how many, and all the rest, is made up. The
# addresses are of 240.0.0.0/4, which nobody has.
#
#   scripts/figures.sh 2025-09 > september.json
#   scripts/figures.sh 2026-04 > april.json
set -eu

case "${1:-}" in
2025-09) total=1139 ;;
2026-04) total=25000 ;;
*)
	echo "usage: scripts/figures.sh 2025-09 | 2026-04" >&2
	exit 2
	;;
esac

awk -v month="$1" -v total="$total" 'BEGIN {
	# Of 25,000; those before GB are in the EU, 7,600 together.
	n = split("DE 3550 FR 1180 NL 640 PL 470 FI 390 IT 330 ES 260 SE 190 RO 140 AT 110 BE 90 CZ 80 IE 60 PT 40 HU 30 BG 20 LT 10 EE 6 GR 4 " \
		"GB 870 CN 6148 US 4390 KR 1120 JP 790 IN 760 RU 640 HK 560 SG 480 CA 430 BR 380 CH 290 TW 260 TR 120 UA 90 NO 60 RS 9 IS 3", country)
	networks = split("24940 51167 16276 16509 64500", asn)
	versions = split("0.5.7 0.6.2 0.9.6 0.3.14 0.11.10", version)
	sum = done = 0
	for (i = 1; i < n; i += 2) {
		# So many that the sum up to here is the share that it should be.
		sum += country[i + 1]
		for (want = int(sum * total / 25000 + 0.5); done < want; done++) {
			printf "{\"ip_str\":\"240.0.%d.%d\",\"port\":11434,\"transport\":\"tcp\",\"timestamp\":\"%s-10T%02d:%02d:00\",", done / 250, 1 + done % 250, month, done % 24, done % 60
			printf "\"data\":\"HTTP/1.1 200 OK\\r\\nContent-Type: text/plain; charset=utf-8\\r\\nContent-Length: 17\\r\\n\\r\\n\","
			printf "\"http\":{\"status\":200,\"html\":\"Ollama is running\",\"location\":\"/\"},\"product\":\"Ollama\",\"ollama\":{\"version\":\"%s\",\"models\":[", version[1 + done % versions]
			printf "{\"name\":\"llama3.2:3b\",\"model\":\"llama3.2:3b\",\"modified_at\":\"2025-08-01T08:00:00Z\",\"size\":2019393189,"
			printf "\"digest\":\"a80c4f17acd55265feec403c7aef86be0c25983ab279d83f3bcd3abbcb5b8b72\",\"details\":{\"format\":\"gguf\",\"family\":\"llama\",\"parameter_size\":\"3.2B\",\"quantization_level\":\"Q4_K_M\"}}]},"
			printf "\"_shodan\":{\"module\":\"http\"},\"asn\":\"AS%s\",\"location\":{\"country_code\":\"%s\"}}\n", asn[1 + done % networks], country[i]
		}
	}
}'
