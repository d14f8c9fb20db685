# The user data of a machine that serves Ollama [[ .OllamaVersion ]] to those who hold a key, and to nobody else:
# local.gatehouse_user_data, for whichever provider has your machines. No provider is named here, so that
# terraform validate needs none. With Hetzner's, for one:
#
#   resource "hcloud_server" "ai" {
#     name        = "ai"
#     server_type = "cpx51"
#     image       = "debian-12"
#     ssh_keys    = [hcloud_ssh_key.me.id]
#     user_data   = local.gatehouse_user_data
#   }
#
[[ include "next.txt" | comment ]]

locals {
  gatehouse_user_data = <<-GATEHOUSE_USER_DATA
[[ include "cloud-init.yaml" | hcl | indent 4 ]]
  GATEHOUSE_USER_DATA
}

output "gatehouse_user_data" {
  description = "cloud-init user data: Ollama on loopback, the gate in front, a firewall"
  value       = local.gatehouse_user_data
}
