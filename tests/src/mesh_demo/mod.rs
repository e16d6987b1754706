//! The demo that `make run-mesh` starts: two datacenters, each with an edge, a control plane, a Consul, and a game server behind
//! a sidecar, and a player who is at home in the first. A datacenter dies when Enter is pressed, and comes back when it is
//! pressed again.
//!
//! Without a terminal it presses Enter itself.

mod member;
mod player;
mod settings;

use std::io::IsTerminal;
use std::net::IpAddr;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::time::sleep;

use crate::stage::port;
use crate::{Failure, parts};
use member::{INBOUND, Member};
use player::Player;
pub use settings::Settings;

/// How long a target has to be well before players go back: short, since somebody is watching.
const AFTER: &str = "2s";

/// What runs.
#[derive(Debug)]
struct Demo {
    aws: Member,
    azure: Member,
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
    let mut player = Player::new([&demo.aws, &demo.azure].map(|of| of.at(port::PLAYERS)));
    player.served_by("", Duration::from_secs(15)).await?;
    let mut round = 0;
    while settings.rounds.is_none_or(|rounds| round < rounds) {
        round += 1;
        println!(
            "\n[Enter] kills aws: its edge, its control plane, its Consul, its sidecar and its game server"
        );
        if !player.play_until(presses.next()).await? {
            break;
        }
        let killed = Instant::now();
        demo.aws.kill9();
        println!("aws is dead");
        player.served_by("azure", Duration::from_secs(15)).await?;
        println!("the player is served again after {:.2} s", killed.elapsed().as_secs_f64());
        demo.azure.show_let_in();
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
        let start = |name: &str, at: IpAddr, primary: Option<IpAddr>| {
            Member::start(name, at, primary, &dir.join(name))
        };
        let (aws, azure) = thread::scope(|scope| {
            let aws = scope.spawn(|| start("aws", settings.aws, None));
            let azure = start("azure", settings.azure, Some(settings.aws));
            (aws.join(), azure)
        });
        let aws = aws.map_err(|_panic| Failure::new("aws cannot be started"))??;
        let (mut aws, mut azure) = (aws, azure?);
        aws.serve("azure", AFTER)?;
        azure.serve("aws", AFTER)?;
        Ok(Self { aws, azure })
    }

    fn introduce(&self) {
        println!("                            player");
        println!("                      /                \\");
        println!("datacenter    {:<24} {}", self.aws.name(), self.azure.name());
        for (what, port) in [
            ("edge", port::PLAYERS),
            ("API", port::API),
            ("Envoy's admin", port::ADMIN),
            ("Consul", 8500),
            ("sidecar", INBOUND),
            ("game server", port::GAME),
        ] {
            let at = |of: &Member| of.at(port).to_string();
            println!("{what:<13} {:<24} {}", at(&self.aws), at(&self.azure));
        }
        println!(
            "\nEach edge sends its players to its own game server, and to the other's when that is dead: by mutual TLS with\n\
             certificates of Consul, to sidecars that let in realmgate-edge alone, such as\n{}.",
            self.aws.edge_id()
        );
        println!("Ctrl-C stops everything.");
    }
}
