//! Who plays along in most tests and benchmarks: numbered game servers, the policies that name them, and players.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use realmgate_filter::config::Framing;
use realmgate_wire::ServerId;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::stage::port;
use crate::{GameClient, GameServer, TestNet};

/// Longer than anything takes that is not broken, on a machine that has much else to do, too.
pub const LIMIT: Duration = Duration::from_secs(30);

/// Server type of game servers.
pub const GAME: u8 = 200;

/// Game servers `game-1`, `game-2`, ..., each of which keeps the first `keep` frames of each connection.
pub async fn servers(net: &TestNet, count: u16, keep: usize) -> Vec<GameServer> {
    servers_speaking(Framing::Client, net, count, keep).await
}

/// The same in another framing than the client's.
pub async fn servers_speaking(framing: Framing, net: &TestNet, count: u16, keep: usize) -> Vec<GameServer> {
    let mut servers = Vec::new();
    for number in 0..count {
        let name = format!("game-{}", number + 1);
        let server = GameServer::speaking(framing, &name, net.at(port::GAME + number), keep).await;
        servers.push(server.expect("a port on an address of our own is free"));
    }
    servers
}

/// A game server of its own kind: answers whatever comes first on each connection with these bytes.
pub async fn answering(address: SocketAddr, answer: &[u8]) {
    let listener = TcpListener::bind(address).await.expect("a port on an address of our own is free");
    let answer = Bytes::copy_from_slice(answer);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.read_u8().await;
            // A session that is refused ends before all is said.
            let _ = stream.write_all(&answer).await;
            let _ = stream.read_to_end(&mut Vec::new()).await;
        }
    });
}

/// The `services` part of a policy: one per server, under the server's name.
pub fn services(servers: &[GameServer]) -> Value {
    let service =
        |server: &GameServer| json!({"name": server.name(), "endpoints": [server.address().to_string()]});
    servers.iter().map(service).collect()
}

/// A route of game servers for these worlds to the service of this name.
pub fn route(name: &str, worlds: &Value, service: &str) -> Value {
    json!({"name": name, "server_type": GAME, "worlds": worlds, "to": [{"service": service}]})
}

/// The server id of a game message to this world and instance.
pub const fn game(world: u16, instance: u8) -> ServerId {
    ServerId::new(GAME, world, instance, false)
}

/// Where a fresh connection with this first message lands.
pub async fn lands(edge: SocketAddr, to: ServerId) -> std::io::Result<String> {
    GameClient::connect(edge).await?.who_are_you(to).await
}

/// Connects anew until a connection lands on the server of this name; `None` = until it is closed instead.
/// Gives the time from `start` until then.
pub async fn until_lands(edge: SocketAddr, to: ServerId, name: Option<&str>, start: Instant) -> Duration {
    loop {
        // A refused connect is not a closed connection: it may be that nobody listens yet.
        let landed = match GameClient::connect(edge).await {
            Ok(mut client) => client.who_are_you(to).await.ok(),
            Err(_) if start.elapsed() < LIMIT => Some(String::new()),
            Err(error) => panic!("nobody listens on {edge}: {error}"),
        };
        if landed.as_deref() == name {
            return start.elapsed();
        }
        assert!(start.elapsed() < LIMIT, "{to:?} lands on {landed:?} instead of {name:?}");
        // The pace of the attempts; as fast as they can they would take the processor from what they wait for.
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Connects anew until a connection is served by whatever server.
pub async fn until_lands_somewhere(edge: SocketAddr, to: ServerId, start: Instant) {
    while lands(edge, to).await.is_err() {
        assert!(start.elapsed() < LIMIT, "{to:?} lands nowhere");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
