//! The demo that `make run` starts: a control plane, an edge, game servers for two worlds and a player.
//!
//! Everything runs on this machine and ends with the demo. It is the product's own binaries and files, so
//! whatever the operator changes while it runs can be seen in the next line that it prints.

mod policy;
mod settings;
mod until_stopped;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::time::{MissedTickBehavior, interval};

pub use settings::Settings;
pub use until_stopped::until_stopped;

use crate::control_plane::API_VARIABLE;
use crate::{ControlPlane, Envoy, Failure, Frame, GameClient, GameServer, parts};

/// The player's worlds in turn: both halves of each service's range.
const WORLDS: [u16; 4] = [1, 51, 42, 100];

/// The message that the player sends; any id but that of [`crate::frame::WHO_ARE_YOU`] is echoed.
const MESSAGE: u16 = 0x1001;

/// How long a new edge may take until the first frame gets through.
const FIRST_FRAME: Duration = Duration::from_secs(15);

/// What runs, in the order in which it stops.
#[derive(Debug)]
struct Demo {
    _edge: Envoy,
    control_plane: ControlPlane,
    _servers: [GameServer; 2],
    settings: Settings,
    policy: PathBuf,
}

/// Starts everything and sends frames until `settings.frames` are sent, or for ever.
pub async fn run(settings: Settings) -> Result<(), Failure> {
    settings.check_ports()?;
    let demo = Demo::start(settings).await?;
    demo.introduce();
    demo.play().await
}

impl Demo {
    async fn start(settings: Settings) -> Result<Self, Failure> {
        let dir = settings.dir.clone().unwrap_or_else(|| parts::target().join("demo"));
        let filter = parts::FILTER.find()?;
        let policy = dir.join("policy.yaml");
        // Each demo starts from the policy below, not from what the last one stored.
        let _ = fs::remove_dir_all(dir.join("data"));
        fs::create_dir_all(&dir)
            .and_then(|()| fs::write(&policy, policy::text(&settings)))
            .map_err(Failure::because(format!("cannot write {}", policy.display())))?;
        let server = async |name, address| {
            GameServer::start(name, address)
                .await
                .map_err(Failure::because(format!("game server on {address}")))
        };
        let servers =
            [server("world-1", settings.world_1).await?, server("world-2", settings.world_2).await?];
        let more = json!({
            "policy": {"file": policy},
            "filter": {"path": filter},
            "edge": {"health_listen": settings.health.to_string()},
        });
        let control_plane = ControlPlane::start(&dir, settings.xds, settings.api, &more)?;
        let bootstrap = control_plane.edge_bootstrap("demo-edge", settings.admin)?;
        let edge = Envoy::with(&dir, bootstrap, settings.admin).name("edge").start()?;
        Ok(Self { _edge: edge, control_plane, _servers: servers, settings, policy })
    }

    fn introduce(&self) {
        let Settings { listen, api, admin, health, world_1, world_2, .. } = &self.settings;
        let policy = shown(&self.policy);
        println!("players connect to   {listen}  (Envoy with the filter)");
        println!("game servers         world-1 on {world_1}, world-2 on {world_2}");
        println!("API                  http://{api}/v1/policy");
        println!("connected proxies    http://{api}/v1/proxies");
        println!("metrics of the edge  http://{health}/metrics");
        println!("Envoy's admin        http://{admin}/");
        println!("policy               {policy}");
        println!(
            "\nMove a world: edit its route in the policy, then\n\n    {}\n",
            self.apply_command(&policy)
        );
        println!("and see where its next frame goes. Ctrl-C stops everything.\n");
    }

    /// The command as it can be pasted into another shell.
    fn apply_command(&self, policy: &str) -> String {
        let binary = parts::REALMGATE.find().map_or_else(|_| "realmgate".to_owned(), |path| shown(&path));
        let api = self.control_plane.api();
        // The commands know where a control plane is that listens where it does by default.
        let variable = if api == Settings::default_api() {
            String::new()
        } else {
            format!("{API_VARIABLE}=http://{api} ")
        };
        format!("{variable}{binary} policy apply {policy}")
    }

    async fn play(&self) -> Result<(), Failure> {
        let start = Instant::now();
        let mut tick = interval(self.settings.every());
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut seen_any = false;
        let mut sent = 0;
        for world in WORLDS.into_iter().cycle() {
            if self.settings.frames.is_some_and(|frames| sent >= frames) {
                break;
            }
            tick.tick().await;
            let landed = self.send_frame(world).await;
            // The edge has its listener a moment before it has its routes.
            if landed.is_err() && !seen_any && start.elapsed() < FIRST_FRAME {
                continue;
            }
            sent += 1;
            match landed {
                Ok((server, took)) => {
                    seen_any = true;
                    println!(
                        "{sent:>6}  world {world:>3}  ->  {server}  {:>6.2} ms",
                        took.as_secs_f64() * 1e3
                    );
                }
                Err(error) if self.settings.frames.is_some() => {
                    return Err(Failure::new(format!("frame to world {world}: {error}")));
                }
                Err(error) => println!("{sent:>6}  world {world:>3}  ->  nowhere: {error}"),
            }
        }
        Ok(())
    }

    /// A frame there and back on a connection of its own, and the name of the server that it reached.
    async fn send_frame(&self, world: u16) -> std::io::Result<(String, Duration)> {
        let start = Instant::now();
        let frame = Frame::to_world(world, MESSAGE, format!("a frame for world {world}"));
        let mut player = GameClient::connect(self.settings.listen).await?.patience(Duration::from_secs(3));
        let answer = player.exchange(&frame).await?;
        let took = start.elapsed();
        if answer != frame {
            return Err(std::io::Error::other("the frame came back changed"));
        }
        Ok((player.who_are_you(frame.server_id).await?, took))
    }
}

/// A path as a person in the current folder would write it.
fn shown(path: &Path) -> String {
    let here = std::env::current_dir().unwrap_or_default();
    path.strip_prefix(&here).unwrap_or(path).display().to_string()
}
