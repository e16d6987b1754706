# What the token of a Realmgate control plane may do: read the catalog, have certificates of the services whose proxies it
# feeds, and keep the policy. A test runs with exactly these rights.

# Which datacenter the agent is in; not needed where `consul.datacenter` says so.
agent_prefix "" {
  policy = "read"
}

# Instances are seen where their node and their service may be read. Reading an intention is part of reading its
# destination; the exact rule for every service is what lists those to any.
node_prefix "" {
  policy = "read"
}
service_prefix "" {
  policy     = "read"
  intentions = "read"
}

# A certificate of a service wants the right to be it: one rule for each service whose proxies this control plane feeds,
# the edges' own first.
service "realmgate-edge" {
  policy     = "write"
  intentions = "read"
}

# With `policy.store: consul`, the policy below `policy.consul_prefix`. `read` is enough for a replica that only follows.
key_prefix "realmgate/" {
  policy = "write"
}
