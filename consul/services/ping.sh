#!/usr/bin/env bash
# Whether a game server answers: sends it the message PING and waits for the first byte of its reply. For a check of Consul's:
# 0 = passing, 2 = critical.
#
#   consul/services/ping.sh HOST PORT
set -euo pipefail

# An empty body, message 77, server 0, in the framing of clients, as a policy's `ping: {message_id: 77}` is sent. Choose
# a message that your servers answer.
PING='\x00\x00\x4d\x00\x00\x00\x00\x00'

answer() {
  exec 3<>"/dev/tcp/$1/$2"
  printf "%b" "$PING" >&3
  head -c 1 <&3 | wc -c
}
export -f answer
export PING

# A process that hangs behind its port takes the connection, and says nothing.
if [ "$(timeout 1 bash -c 'answer "$@"' answer "$1" "$2" 2>/dev/null)" = 1 ]; then
  echo "$1:$2 answers"
else
  echo "no answer from $1:$2 within 1 s"
  exit 2
fi
