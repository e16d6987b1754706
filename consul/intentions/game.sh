#!/usr/bin/env bash
# Who may connect to whom: edges to game servers, and nobody else to anybody. For the primary datacenter, from where they
# reach all others; again replaces them. Consul 1.9 and newer also take them as configuration entries of kind service-intentions.
#
#   CONSUL_HTTP_ADDR=http://127.0.0.2:8500 consul/intentions/game.sh
set -euo pipefail

consul intention create -replace -allow realmgate-edge game
consul intention create -replace -deny '*' '*'
