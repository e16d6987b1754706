# The Consul server of datacenter azure. One server is enough to try it; run three or five of them in earnest, with
# `bootstrap_expect = 3` and `retry_join` instead of `bootstrap`.
#
#   consul agent -config-file consul/agents/azure.hcl
#
# How fast failover is does not depend on any of this: edges check game servers themselves. What is tuned here is how soon
# everybody else hears of it.

datacenter         = "azure"
primary_datacenter = "aws"
node_name          = "azure-server-1"
data_dir           = "target/consul/azure"
server             = true
bootstrap          = true

bind_addr   = "127.0.0.3"
client_addr = "127.0.0.3"

# The primary is found again by itself when it comes back.
retry_join_wan     = ["127.0.0.2"]
retry_interval_wan = "5s"

# Certificates for sidecars, and intentions.
connect {
  enabled = true
}

# service-defaults, -resolver and -splitter hold for every service.
enable_central_service_config = true

performance {
  # A lost leader is noticed in 1 s instead of 5: without one nobody learns of changes. Consul's own advice for production.
  raft_multiplier = 1

  # Requests wait so long for a new leader before they fail.
  rpc_hold_timeout = "3s"
}

# Within the datacenter: a node that dies is suspected after a missed probe, and critical for all within some 2 s instead of
# 10. Costs one small packet a node every 500 ms.
gossip_lan {
  probe_interval = "500ms"
  probe_timeout  = "250ms"
  suspicion_mult = 3
}

# Between datacenters: 5 s and 3 s are for links that lose packets for seconds; leased lines between clouds do not. The
# timeout is twice the longest way around the world.
gossip_wan {
  probe_interval = "1s"
  probe_timeout  = "600ms"
  suspicion_mult = 4
}

# Instances of the other datacenter are told with the address by which they are reached from here.
translate_wan_addrs = true

# A control plane holds few connections; many of them behind one address hold more than the default, 200.
limits {
  http_max_conns_per_client = 500
}

# Checks that are programs, as of services/game.hcl: from files of this machine alone. By the API they would let others run
# programs here.
enable_local_script_checks = true

disable_update_check = true
