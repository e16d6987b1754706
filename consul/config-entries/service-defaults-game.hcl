# What `game` speaks: bytes. Written first, since the others depend on it.
#
#   consul config write consul/config-entries/service-defaults-game.hcl

Kind     = "service-defaults"
Name     = "game"
Protocol = "tcp"
