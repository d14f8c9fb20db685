#!/bin/sh
# Puts the gate in front of the Ollama that runs on this machine as ollama.service: Ollama listens on loopback from
# now on, the gate on port [[ .Port ]]. Read it, then: sudo sh this-file. It needs /usr/local/bin/gatehouse (make install).
#
[[ include "next.txt" | comment ]]
#
# To take it back: systemctl disable --now gatehouse, and remove the files below.
set -eu
[ -x /usr/local/bin/gatehouse ] || { echo "/usr/local/bin/gatehouse is missing: sudo make install" >&2; exit 1; }
mkdir -p /etc/systemd/system/ollama.service.d /etc/gatehouse
# Last in order, so that no other drop-in says another address.
cat >/etc/systemd/system/ollama.service.d/zz-gatehouse.conf <<'END'
[[ include "ollama-loopback.conf" ]]
END
cat >/etc/systemd/system/gatehouse.service <<'END'
[[ include "gatehouse.service" ]]
END
cat >/etc/gatehouse/gatehouse.yaml <<'END'
[[ include "gatehouse.yaml" ]]
END
cat >/usr/local/sbin/gatehouse-key <<'END'
[[ include "gatehouse-key" ]]
END
chmod 755 /usr/local/sbin/gatehouse-key
/usr/local/bin/gatehouse gate --config /etc/gatehouse/gatehouse.yaml --check-config
systemctl daemon-reload
systemctl restart ollama.service
systemctl enable --now gatehouse.service
