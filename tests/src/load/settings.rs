//! The command line of `realmgate-load`.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use ipnet::IpNet;
use realmgate_filter::config::Framing;
use realmgate_filter::ranges::NumberSet;
use realmgate_wire::ServerId;

use super::plan::{Mode, Plan};
use super::serve::Identity;

const EXAMPLES: &str = "Examples:
  realmgate-load serve 127.0.0.1:21001=17/1 127.0.0.1:21002=18/1
  realmgate-load echo --to 127.0.0.1:7000 --players 50 --for 10
  realmgate-load echo --to 127.0.0.1:7000 --rate 20000 --json
  realmgate-load connect --to 127.0.0.1:7000 --source 127.0.1.0/28
  realmgate-load mixed --to 127.0.0.1:7000 --players 9000 --worlds 1-32767 --for 600";

/// Game clients that load a gateway and measure it, and game servers to go behind it.
#[derive(Clone, Debug, Parser)]
#[command(name = "realmgate-load", version, after_long_help = EXAMPLES)]
pub struct Settings {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Each player sends a message and waits for its echo; with --rate messages leave when they are due instead.
    Echo(Players),
    /// The same with several messages (--depth) under way at a time, sent in one piece.
    Pipelined(Players),
    /// Each player connects, sends one message, reads the answer, leaves and comes again.
    Connect(Players),
    /// Players exchange one message, say nothing until the end, and then exchange another.
    Idle(Players),
    /// Players of all worlds send messages of all sizes when they are due, and leave and come again now and then.
    Mixed(Players),
    /// Players send their messages byte by byte (--gap apart).
    Slow(Players),
    /// Players send what is no message; every tenth plays by the rules and has to be served meanwhile.
    Garbage(Players),
    /// Players connect, say nothing, and come again when they are turned away: an attack that limits hold off.
    Knock(Players),
    /// Game servers: each sends messages back as they came, and says who it is to those who ask.
    Serve(ServeSettings),
}

/// Players, and what they do.
#[derive(Clone, Debug, Args)]
pub struct Players {
    /// Where they connect.
    #[arg(long, default_value = "127.0.0.1:7000")]
    pub to: SocketAddr,
    /// How many there are at a time.
    #[arg(long, default_value_t = 50)]
    pub players: usize,
    /// How long, once all are connected.
    #[arg(long = "for", default_value = "10", value_name = "SECONDS", value_parser = seconds)]
    pub time: Duration,
    /// Messages (or, when connecting, connections) a second by all players together, whether answered or not, with
    /// latency counted from when each was due. Without it each player waits for its answer (mixed: one message a
    /// second for each player).
    #[arg(long, value_name = "PER_SECOND")]
    pub rate: Option<f64>,
    /// Bytes of a message, its header of 8 included.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(16..=65_543))]
    pub size: u32,
    /// Messages that a player has under way at a time (pipelined).
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub depth: u16,
    /// Time between two bytes (slow), and how long to wait for an answer to nonsense (garbage).
    #[arg(long, default_value = "0.1", value_name = "SECONDS", value_parser = seconds)]
    pub gap: Duration,
    /// Server type in the headers.
    #[arg(long, default_value_t = 200)]
    pub server_type: u8,
    /// Worlds, which new connections take in turn.
    #[arg(long, default_value = "1", value_parser = worlds)]
    pub worlds: NumberSet,
    /// Instance in the headers.
    #[arg(long, default_value_t = 1)]
    pub instance: u8,
    /// Local addresses to connect from, in turn: addresses or networks, such as 127.0.1.0/28. One address is good for
    /// some 50,000 connections.
    #[arg(long, value_delimiter = ',', value_name = "ADDRESS", value_parser = source)]
    pub source: Vec<IpNet>,
    /// How many may be on their way to be connected at a time.
    #[arg(long, default_value_t = 500)]
    pub at_once: usize,
    /// An answer that takes longer is an error.
    #[arg(long, default_value = "10", value_name = "SECONDS", value_parser = seconds)]
    pub patience: Duration,
    /// Ask servers who they are with the first message. The answer of another world is an error.
    #[arg(long)]
    pub who: bool,
    /// Threads, which share the players.
    #[arg(long, default_value_t = 1)]
    pub threads: usize,
    /// Start of the pseudo-random choices (mixed, garbage).
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Processes to watch, such as the gateway: the processor time that they take and their memory.
    #[arg(long, value_delimiter = ',', value_name = "PID")]
    pub watch: Vec<u32>,
    /// Print the results as JSON.
    #[arg(long)]
    pub json: bool,
    /// No line a second about how it goes.
    #[arg(long)]
    pub quiet: bool,
}

/// Game servers.
#[derive(Clone, Debug, Args)]
pub struct ServeSettings {
    /// Where to listen and as what: ADDRESS=WORLD/INSTANCE; world 0 stands for any.
    #[arg(required = true, value_name = "ADDRESS=WORLD/INSTANCE", value_parser = identity)]
    pub servers: Vec<(SocketAddr, Identity)>,
    /// What they speak: `client`, `server` or `server-traced`.
    #[arg(long, default_value = "client", value_parser = framing)]
    pub framing: Framing,
}

impl Command {
    /// The mode and its players; `None` = serve.
    #[must_use]
    pub const fn players(&self) -> Option<(Mode, &Players)> {
        match self {
            Self::Echo(players) => Some((Mode::Echo, players)),
            Self::Pipelined(players) => Some((Mode::Pipelined, players)),
            Self::Connect(players) => Some((Mode::Connect, players)),
            Self::Idle(players) => Some((Mode::Idle, players)),
            Self::Mixed(players) => Some((Mode::Mixed, players)),
            Self::Slow(players) => Some((Mode::Slow, players)),
            Self::Garbage(players) => Some((Mode::Garbage, players)),
            Self::Knock(players) => Some((Mode::Knock, players)),
            Self::Serve(_) => None,
        }
    }
}

impl Players {
    /// What they do in this mode.
    #[must_use]
    pub fn plan(&self, mode: Mode) -> Plan {
        let all = NumberSet::Ranges(vec![(1, ServerId::MAX_WORLD)]);
        let worlds = if self.worlds == NumberSet::Any { &all } else { &self.worlds };
        let worlds = match worlds {
            NumberSet::Any => Vec::new(),
            NumberSet::Ranges(ranges) => ranges.iter().flat_map(|&(low, high)| low..=high).collect(),
        };
        Plan {
            mode,
            to: self.to,
            players: self.players.max(1),
            time: self.time,
            rate: self.rate.or((mode == Mode::Mixed).then_some(self.players as f64)),
            size: self.size as usize,
            depth: if mode == Mode::Pipelined { self.depth.into() } else { 1 },
            gap: self.gap,
            server_type: self.server_type,
            worlds,
            instance: self.instance,
            sources: self.source.iter().flat_map(IpNet::hosts).collect(),
            at_once: self.at_once.max(1),
            patience: self.patience,
            who: self.who || mode == Mode::Mixed,
            seed: self.seed,
            part: 0,
        }
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|error| format!("{error}"))?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

fn worlds(text: &str) -> Result<NumberSet, String> {
    NumberSet::parse(text, ServerId::MAX_WORLD)
}

fn source(text: &str) -> Result<IpNet, String> {
    let address = || text.parse::<IpAddr>().map(IpNet::from);
    text.parse().or_else(|_| address()).map_err(|_| "not an address or network".to_owned())
}

fn framing(text: &str) -> Result<Framing, String> {
    match text {
        "client" => Ok(Framing::Client),
        "server" => Ok(Framing::Server),
        "server-traced" => Ok(Framing::ServerTraced),
        _ => Err("`client`, `server` or `server-traced`".to_owned()),
    }
}

fn identity(text: &str) -> Result<(SocketAddr, Identity), String> {
    let form = || "not of the form ADDRESS=WORLD/INSTANCE".to_owned();
    let (address, name) = text.split_once('=').ok_or_else(form)?;
    let (world, instance) = name.split_once('/').ok_or_else(form)?;
    let world = world.parse().ok().filter(|world| *world <= ServerId::MAX_WORLD).ok_or_else(form)?;
    let instance = instance.parse().map_err(|_| form())?;
    Ok((address.parse().map_err(|_| form())?, Identity { world, instance }))
}
