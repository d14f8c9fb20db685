# A NixOS module: Ollama on loopback, the gate in front, and port [[ .Port ]] open. Put it among the imports of
# configuration.nix, then nixos-rebuild switch.
#
[[ include "next.txt" | comment ]]
{ pkgs, ... }:
let
  gatehouse = pkgs.runCommand "gatehouse" {
    src = pkgs.fetchurl {
      url = "[[ .BinaryURL ]]";
      sha256 = "[[ .SHA256 ]]";
    };
  } "install -D -m 755 $src $out/bin/gatehouse";
in
{
  services.ollama = {
    enable = true;
    host = "127.0.0.1";
    port = 11434;
    openFirewall = false;
[[- if eq .GPU "nvidia" ]]
    acceleration = "cuda";
[[- else if eq .GPU "amd" ]]
    acceleration = "rocm";
[[- end ]]
    loadModels = [ [[ range .Models ]]"[[ . ]]" [[ end ]]];
  };

  environment.etc."gatehouse/gatehouse.yaml".text = ''
[[ include "gatehouse.yaml" | indent 4 ]]
  '';
  environment.systemPackages = [
    (pkgs.writeShellScriptBin "gatehouse-key" ''
      exec systemd-run --quiet --pipe --wait --collect -p DynamicUser=yes -p User=gatehouse \
        -p StateDirectory=gatehouse -p StateDirectoryMode=0700 -p UMask=0077 \
        ${gatehouse}/bin/gatehouse key "$@"
    '')
  ];

  systemd.services.gatehouse = {
    description = "Gatehouse, a door with a lock for Ollama";
    wantedBy = [ "multi-user.target" ];
    wants = [ "network-online.target" ];
    after = [ "network-online.target" "ollama.service" ];
    serviceConfig = {
      Type = "notify";
      ExecStart = "${gatehouse}/bin/gatehouse gate --config /etc/gatehouse/gatehouse.yaml --first-key /var/lib/gatehouse/first-key";
      Restart = "on-failure";
      DynamicUser = true;
      StateDirectory = "gatehouse";
      StateDirectoryMode = "0700";
      AmbientCapabilities = "CAP_NET_BIND_SERVICE";
      CapabilityBoundingSet = "CAP_NET_BIND_SERVICE";
      NoNewPrivileges = true;
      ProtectSystem = "strict";
      ProtectHome = true;
      PrivateTmp = true;
      PrivateDevices = true;
      MemoryDenyWriteExecute = true;
      RestrictAddressFamilies = "AF_INET AF_INET6 AF_UNIX AF_NETLINK";
      SystemCallArchitectures = "native";
      SystemCallFilter = "@system-service";
      UMask = "0077";
    };
  };

  networking.firewall.enable = true;
  networking.firewall.allowedTCPPorts = [ [[ .Port ]] [[ if .Domain ]]80 [[ end ]]];
}
