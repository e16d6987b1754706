# A game server, its sidecar and its health. Of the agent of its machine, since only files of its own may name a script:
#
#   consul agent -config-file consul/agents/aws.hcl -config-file consul/services/game.hcl

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
  # longer than any answer of a server that can still be played on. It is a ping, as the edges' own check should be: a process
  # that hangs passes a `tcp` check, since the kernel takes the connection for it.
  check {
    name     = "answers players"
    args     = ["consul/services/ping.sh", "127.0.0.2", "21001"]
    interval = "3s"
    timeout  = "2s"

    # A server that is gone for good is forgotten, but not one that is being repaired.
    deregister_critical_service_after = "72h"
  }

  # Realmgate's sidecar, an Envoy beside the game server, where it takes mutual TLS: its `--inbound`. Services with `tls: mesh`
  # are looked for here.
  #
  #   realmgate envoy-bootstrap --role sidecar --id game-1 --service game --inbound 127.0.0.2:20501 --app 127.0.0.2:21001 ...
  connect {
    sidecar_service {
      port = 20501

      # It is as well as its game server is, and has to take connections itself.
      checks = [
        {
          name          = "the game server"
          alias_service = "game-1"
        },
        {
          name     = "takes connections"
          tcp      = "127.0.0.2:20501"
          interval = "3s"
          timeout  = "1s"
        },
      ]
    }
  }
}
