# A tenth of the lobby's players try the next version. Consul splits services of protocol http alone, which `lobby` is for
# Consul by this entry's companion; Realmgate splits its connections, whatever they carry.
#
#   consul config write consul/config-entries/service-defaults-lobby.hcl
#   consul config write consul/config-entries/service-splitter-lobby.hcl

Kind = "service-splitter"
Name = "lobby"

Splits = [
  {
    Weight = 90
  },
  {
    Weight  = 10
    Service = "lobby-next"
  },
]
