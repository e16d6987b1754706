# See service-splitter-lobby.hcl for why this is http.
#
#   consul config write consul/config-entries/service-defaults-lobby-next.hcl

Kind     = "service-defaults"
Name     = "lobby-next"
Protocol = "http"
