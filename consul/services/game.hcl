# A game server and its health.
#
#   consul services register consul/services/game.hcl

service {
  name = "game"
  id   = "game-1"
  port = 21001
  tags = ["v1"]

  # Subsets and filters of policies look at these.
  meta {
    version = "1"
    ready   = "yes"
  }

  # A server in warning still serves, a tenth as many players.
  weights {
    passing = 10
    warning = 1
  }

  # Consul's own view, for everybody who is no edge: every 3 s, and one answer in time is enough. A second of patience is
  # longer than any answer of a server that can still be played on.
  check {
    name     = "accepts players"
    tcp      = "127.0.0.2:21001"
    interval = "3s"
    timeout  = "1s"

    # A server that is gone for good is forgotten, but not one that is being repaired.
    deregister_critical_service_after = "72h"
  }
}
