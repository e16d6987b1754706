//! Game servers and players who end their connections in every way, beside sessions that must not notice: what an end does
//! to Envoy and its filter depends on what else happens in the same read.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use realmgate_filter::config::Framing;
use serde_json::{Value, json};
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::cast::{route, until_lands};
use crate::stage::{crowd, port};
use crate::{Envoy, Frame, GameClient, Stage, TestNet, cast, framing, wait_until};

/// How long a connection is left alone that nobody ends.
const BRIEF: Duration = Duration::from_millis(150);

/// Connections at the same time.
const AT_ONCE: usize = 24;

/// What a game server does after a player's first message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ServerEnd {
    /// Closes with its bytes, in the same segment.
    With(Bytes),
    /// Sends its bytes and stays.
    After(Bytes),
    /// Sends its bytes and resets.
    Reset(Bytes),
    /// Sends its bytes and ends its own direction alone.
    Half(Bytes),
    /// Sends more than anybody reads, then closes.
    Flood,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bytes {
    None,
    Good,
    /// A length less than the header that it counts.
    Short,
    /// A body longer than any message.
    Long,
    Negative,
    GoodThenShort,
    MidHeader,
    MidBody,
}

impl Bytes {
    /// As a server of this framing says it.
    fn of(self, speaks: Framing) -> Vec<u8> {
        const HEADER: usize = 29;
        let mut good = BytesMut::new();
        let session = match speaks {
            Framing::Client => None,
            _ => Some(framing::SessionOf { id: 1, trace: None }),
        };
        framing::reply(&Frame::to_world(1, 1, "reply"), session, &mut good).expect("it is short");
        let good = good.to_vec();
        let of_length = |length: i32, body: usize| [&length.to_le_bytes()[..], &vec![0; body]].concat();
        match self {
            Self::None => Vec::new(),
            Self::Good => good,
            Self::Short => of_length(8, HEADER - 4),
            Self::Long => of_length(65_545, 60_000),
            Self::Negative => of_length(-1, HEADER - 4),
            Self::GoodThenShort => [good, of_length(8, HEADER - 4)].concat(),
            Self::MidHeader => good.into_iter().take(7).collect(),
            Self::MidBody => {
                let whole = good.len();
                good.into_iter().take(whole - 2).collect()
            }
        }
    }
}

const BYTES: [Bytes; 8] = [
    Bytes::None,
    Bytes::Good,
    Bytes::Short,
    Bytes::Long,
    Bytes::Negative,
    Bytes::GoodThenShort,
    Bytes::MidHeader,
    Bytes::MidBody,
];

fn server_ends() -> Vec<ServerEnd> {
    let of = [ServerEnd::With, ServerEnd::After, ServerEnd::Reset, ServerEnd::Half];
    let mut ends: Vec<_> = of.iter().flat_map(|end| BYTES.map(end)).collect();
    ends.push(ServerEnd::Flood);
    ends
}

/// What a player does once its first message is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PlayerEnd {
    /// Reads until it is closed.
    Reads,
    Leaves,
    Resets,
    /// Ends its own direction, and reads.
    Half,
    /// Sends a message that is too long, while the server ends.
    TooLong,
    /// Reads nothing, until buffers are full.
    Deaf,
    /// Never sends a whole header.
    Undecided,
}

const PLAYER_ENDS: [PlayerEnd; 7] = [
    PlayerEnd::Reads,
    PlayerEnd::Leaves,
    PlayerEnd::Resets,
    PlayerEnd::Half,
    PlayerEnd::TooLong,
    PlayerEnd::Deaf,
    PlayerEnd::Undecided,
];

/// Serves on `address`; which end a connection comes to is the instance that its first message is for.
async fn unruly(speaks: Framing, address: SocketAddr) {
    let listener = TcpListener::bind(address).await.expect("a port on an address of our own is free");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            // Whatever befalls it is meant to.
            tokio::spawn(timeout(Duration::from_secs(10), end_server(speaks, stream)));
        }
    });
}

async fn end_server(speaks: Framing, mut stream: TcpStream) -> std::io::Result<()> {
    let mut input = BytesMut::new();
    let message = loop {
        if stream.read_buf(&mut input).await? == 0 {
            return Ok(());
        }
        if let Some((frame, _)) = framing::take(speaks, &mut input)? {
            break frame;
        }
    };
    let number = usize::from(message.message_id);
    match server_ends().get(number).copied().unwrap_or(ServerEnd::Flood) {
        ServerEnd::With(bytes) => {
            // Corked, so that the end comes with the last bytes.
            SockRef::from(&stream).set_tcp_cork(true)?;
            stream.write_all(&bytes.of(speaks)).await?;
        }
        ServerEnd::After(bytes) => {
            stream.write_all(&bytes.of(speaks)).await?;
            sleep(2 * BRIEF).await;
        }
        ServerEnd::Reset(bytes) => {
            stream.write_all(&bytes.of(speaks)).await?;
            SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
        }
        ServerEnd::Half(bytes) => {
            stream.write_all(&bytes.of(speaks)).await?;
            stream.shutdown().await?;
            while stream.read_buf(&mut input).await? > 0 {
                input.clear();
            }
        }
        ServerEnd::Flood => {
            let replies = Bytes::Good.of(speaks).repeat(1000);
            let _ = timeout(BRIEF, async { while stream.write_all(&replies).await.is_ok() {} }).await;
        }
    }
    Ok(())
}

async fn end_player(edge: SocketAddr, world: u16, number: u8, end: PlayerEnd) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(edge).await?;
    stream.set_nodelay(true)?;
    let message = Frame::to_world(world, number.into(), "hello").to_bytes()?;
    if end == PlayerEnd::Undecided {
        stream.write_all(&message.slice(..5)).await?;
        sleep(Duration::from_millis(u64::from(number) * 5)).await;
        return Ok(());
    }
    if end == PlayerEnd::Deaf {
        SockRef::from(&stream).set_recv_buffer_size(2048)?;
    }
    stream.write_all(&message).await?;
    let read = async |mut stream: TcpStream| {
        let _ = timeout(BRIEF, stream.read_to_end(&mut Vec::new())).await;
    };
    match end {
        PlayerEnd::Leaves | PlayerEnd::Undecided => {}
        PlayerEnd::Reads => read(stream).await,
        PlayerEnd::Resets => SockRef::from(&stream).set_linger(Some(Duration::ZERO))?,
        PlayerEnd::Half => {
            stream.shutdown().await?;
            read(stream).await;
        }
        PlayerEnd::TooLong => {
            stream.write_all(&[0xff, 0xff, 1, 0, 0, 0, 0, 0]).await?;
            read(stream).await;
        }
        PlayerEnd::Deaf => sleep(BRIEF).await,
    }
    Ok(())
}

/// Players, one for every end of a server with every end of a player in each of these worlds.
fn every_end(edge: SocketAddr, worlds: &[u16]) -> JoinSet<()> {
    let room = Arc::new(Semaphore::new(AT_ONCE));
    let mut players = JoinSet::new();
    let count = u8::try_from(server_ends().len()).expect("few");
    for number in 0..count {
        for end in PLAYER_ENDS {
            for &world in worlds {
                let room = Arc::clone(&room);
                players.spawn(async move {
                    let _room = room.acquire_owned().await;
                    // A player who is closed while it speaks hears of it by an error.
                    let _ = end_player(edge, world, number, end).await;
                });
            }
        }
    }
    players
}

/// Sessions that go on all the time, and tell when they cannot.
struct Bystanders(Vec<(u16, GameClient)>);

impl Bystanders {
    async fn come(edge: SocketAddr, worlds: &[u16]) -> Self {
        let mut all = Vec::new();
        let start = Instant::now();
        while all.len() < 6 * worlds.len() {
            for &world in worlds {
                let mut client = GameClient::connect(edge).await.expect("the edge serves");
                // Of a busy machine a header may be late.
                match client.exchange(&Frame::to_world(world, 1, "here")).await {
                    Ok(_) => all.push((world, client)),
                    Err(error) => assert!(start.elapsed() < cast::LIMIT, "nobody is served: {error}"),
                }
            }
        }
        Self(all)
    }

    async fn play(&mut self) {
        for (world, client) in &mut self.0 {
            let frame = Frame::to_world(*world, 1, "still here");
            let answer = client.exchange(&frame).await;
            assert_eq!(answer.expect("a session that nobody ended goes on").body, frame.body);
        }
    }
}

/// Each round has a configuration of its own: a new root context beside those that still have players.
fn policy(net: &TestNet, live: &[Value], unruly: &[(Framing, SocketAddr)], round: u32) -> Value {
    let limits = json!({"header_timeout": "100ms", "max_message_bytes": 60_000 + round});
    let listener =
        json!([{"name": "edge", "bind": net.at(port::PLAYERS).to_string(), "limits": crowd(&limits)}]);
    let mut services = live.to_vec();
    let mut routes = vec![
        route("live-client", &json!([1]), "live-client"),
        route("live-server", &json!([2]), "live-server"),
    ];
    for (world, (framing, address)) in (3..).zip(unruly) {
        let name = format!("unruly-{world}");
        routes.push(route(&name, &json!([world]), &name));
        services.push(json!({"name": name, "framing": framing, "endpoints": [address.to_string()]}));
    }
    json!({"listeners": listener, "services": services, "routes": routes})
}

/// Plays every end, once and then until `time` has passed, on an Envoy of this version (`None`: the newest).
pub async fn soak(version: Option<&str>, time: Duration) {
    let start = Instant::now();
    let net = TestNet::new();
    let log = json!({"edge": {"access_log": net.dir().join("access.log")}});
    let control_plane = Stage::control_plane(&net, &log).expect("the control plane starts");
    let live = [(Framing::Client, "live-client"), (Framing::Server, "live-server")];
    let mut servers = Vec::new();
    let mut services = Vec::new();
    for (number, (framing, name)) in (0..).zip(live) {
        let address = net.at(port::GAME + number);
        servers.push(crate::GameServer::speaking(framing, name, address, 0).await.expect("the port is free"));
        services.push(json!({"name": name, "framing": framing, "endpoints": [address.to_string()]}));
    }
    let framings = [Framing::Server, Framing::ServerTraced, Framing::Client];
    let rude: Vec<_> =
        (10..).zip(framings).map(|(number, framing)| (framing, net.at(port::GAME + number))).collect();
    for &(framing, address) in &rude {
        unruly(framing, address).await;
    }
    control_plane.put_policy(&policy(&net, &services, &rude, 0).to_string());
    let admin = net.at(port::ADMIN);
    let bootstrap = control_plane.edge_bootstrap("edge-1", admin).expect("a bootstrap");
    let mut builder = Envoy::with(net.dir(), bootstrap, admin).name("edge").concurrency(2);
    if let Some(version) = version {
        builder = builder.version(version);
    }
    let stage = Stage { edge: builder.start().expect("Envoy starts"), control_plane, net };
    let edge = stage.players();
    for (world, (_, name)) in (1..).zip(live) {
        until_lands(edge, cast::game(world, 1), Some(name), Instant::now()).await;
    }
    let mut bystanders = Bystanders::come(edge, &[1, 2]).await;
    let mut rounds = 0_u32;
    while rounds == 0 || start.elapsed() < time {
        rounds += 1;
        let players = every_end(edge, &[3, 4, 5]);
        stage.control_plane.put_policy(&policy(&stage.net, &services, &rude, rounds % 5000).to_string());
        players.join_all().await;
        bystanders.play().await;
    }
    no_vm_died(&stage);
    let live = u64::try_from(bystanders.0.len()).expect("few");
    let all_left = || {
        let gauges = ["sessions_active", "connections_awaiting_header"].map(|name| stage.filter_stat(name));
        gauges == [live, 0]
    };
    wait_until("every connection has left the counts", cast::LIMIT, all_left);
    bystanders.play().await;
}

/// What Envoy counts when a VM ends before its time, by whatever.
#[track_caller]
pub fn no_vm_died(stage: &Stage) {
    let died: Vec<_> = stage.edge.stats("wasm.").into_iter().collect();
    let died: Vec<_> = died.iter().filter(|(name, n)| name.contains(".vm_reload") && *n > 0).collect();
    assert!(died.is_empty(), "{died:?}");
}
