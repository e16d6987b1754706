# See service-splitter-lobby.hcl for why this is http.
#
#   consul config write consul/config-entries/service-defaults-lobby.hcl

Kind     = "service-defaults"
Name     = "lobby"
Protocol = "http"
