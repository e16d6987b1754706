//! The demo that `make run-mesh` starts: two datacenters, each with an edge, a control plane and a game server, and a player
//! who is at home in the first. A datacenter dies when Enter is pressed, and comes back when it is pressed again.
//!
//! Without a terminal it presses Enter itself.

mod player;
mod settings;

use std::fs;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::sleep;

use crate::stage::port;
use crate::{Datacenter, Failure, Site, parts};
use player::Player;
pub use settings::Settings;

/// How long a target has to be well before players go back: short, since somebody is watching.
const AFTER: &str = "2s";

/// What runs.
#[derive(Debug)]
struct Demo {
    aws: Datacenter,
    azure: Datacenter,
}

/// Who says that it is time.
enum Presses {
    Terminal(mpsc::Receiver<()>),
    Every(Duration),
}

impl Presses {
    /// A thread of its own reads, since a read of a terminal cannot be given up; it ends with the program.
    fn of_terminal() -> Self {
        let (press, presses) = mpsc::channel(1);
        thread::spawn(move || {
            for _line in std::io::stdin().lines().map_while(Result::ok) {
                // Pressed again before its time: not a second press.
                let _ = press.try_send(());
            }
        });
        Self::Terminal(presses)
    }

    /// Whether there was another; false = the terminal is gone.
    async fn next(&mut self) -> bool {
        match self {
            Self::Terminal(presses) => presses.recv().await.is_some(),
            Self::Every(pause) => {
                sleep(*pause).await;
                true
            }
        }
    }
}

/// Runs `settings.rounds` rounds of dying and coming back, or for ever.
pub async fn run(settings: Settings) -> Result<(), Failure> {
    let mut demo = Demo::start(&settings)?;
    demo.introduce();
    let mut presses = if std::io::stdin().is_terminal() {
        Presses::of_terminal()
    } else {
        Presses::Every(Duration::from_millis(settings.every_ms))
    };
    let mut player = Player::new([&demo.aws, &demo.azure].map(|of| of.site.at(port::PLAYERS)));
    player.served_by("", Duration::from_secs(15)).await?;
    let mut round = 0;
    while settings.rounds.is_none_or(|rounds| round < rounds) {
        round += 1;
        println!("\n[Enter] kills aws: its edge, its control plane and its game server");
        if !player.play_until(presses.next()).await? {
            break;
        }
        let killed = Instant::now();
        demo.aws.kill9();
        println!("aws is dead");
        player.served_by("azure", Duration::from_secs(15)).await?;
        println!("the player is served again after {:.2} s", killed.elapsed().as_secs_f64());
        println!("\n[Enter] brings aws back");
        if !player.play_until(presses.next()).await? {
            break;
        }
        demo.aws = demo.aws.revive()?;
        println!("aws is back; the session that plays in azure stays there, the next one is at home again");
        player.leave();
        player.served_by("aws", Duration::from_secs(15)).await?;
    }
    Ok(())
}

impl Demo {
    fn start(settings: &Settings) -> Result<Self, Failure> {
        let dir: PathBuf = settings.dir.clone().unwrap_or_else(|| parts::target().join("mesh-demo"));
        let start = |name: &str, outside| {
            let site = Site { name: name.to_owned(), outside, game: (outside, port::GAME).into() };
            let dir = dir.join(name);
            // Each demo starts from the policy below, not from what the last one stored.
            let _ = fs::remove_dir_all(dir.join("data"));
            Datacenter::start(None, site, &dir)
        };
        let (aws, azure) = (start("aws", settings.aws)?, start("azure", settings.azure)?);
        for datacenter in [&aws, &azure] {
            let failover = json!({"order": "lowest_latency", "fail_back": {"after": AFTER}});
            let policy = datacenter.policy(&[&aws.site, &azure.site], &failover);
            datacenter.control_plane.put_policy(&policy.to_string());
        }
        Ok(Self { aws, azure })
    }

    fn introduce(&self) {
        let [aws, azure] = [&self.aws, &self.azure].map(|of| &of.site);
        let at = |site: &Site, port| site.at(port).to_string();
        println!("                            player");
        println!("                      /                \\");
        println!("datacenter    {:<24} {}", aws.name, azure.name);
        for (what, port) in [
            ("edge", port::PLAYERS),
            ("API", port::API),
            ("Envoy's admin", port::ADMIN),
            ("game server", port::GAME),
        ] {
            println!("{what:<13} {:<24} {}", at(aws, port), at(azure, port));
        }
        println!(
            "\nEach edge sends its players to its own game server, and to the other's when that is dead."
        );
        println!("Ctrl-C stops everything.");
    }
}
