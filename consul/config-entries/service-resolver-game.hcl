# Subsets of `game`, and where its players go when nobody is left. A policy that names targets of its own outranks this.
#
#   consul config write consul/config-entries/service-resolver-game.hcl

Kind           = "service-resolver"
Name           = "game"
DefaultSubset  = "v1"
ConnectTimeout = "5s"

Subsets = {
  v1 = {
    Filter = "Service.Meta.version == 1"
  }
  v2 = {
    Filter      = "Service.Meta.version == 2"
    OnlyPassing = true
  }
}

Failover = {
  "*" = {
    Datacenters = ["azure", "aws"]
  }
}
