//! What can be chosen about the demo: addresses and how long it lasts.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;

use crate::Failure;

/// Starts a control plane, an Envoy with the filter, game servers for two worlds and a player that sends
/// frames; shows where each frame went.
#[derive(Clone, Debug, Parser)]
#[command(name = "realmgate-demo", version)]
pub struct Settings {
    /// Where players connect
    #[arg(long, env = "DEMO_LISTEN", value_name = "ADDRESS", default_value = "127.0.0.1:7000")]
    pub listen: SocketAddr,
    /// Game server of worlds 1 to 50
    #[arg(long, env = "DEMO_WORLD_1", value_name = "ADDRESS", default_value = "127.0.0.1:7101")]
    pub world_1: SocketAddr,
    /// Game server of worlds 51 to 100
    #[arg(long, env = "DEMO_WORLD_2", value_name = "ADDRESS", default_value = "127.0.0.1:7102")]
    pub world_2: SocketAddr,
    /// Management API
    #[arg(long, env = "DEMO_API", value_name = "ADDRESS", default_value = "127.0.0.1:18080")]
    pub api: SocketAddr,
    /// Where Envoy asks the control plane
    #[arg(long, env = "DEMO_XDS", value_name = "ADDRESS", default_value = "127.0.0.1:18000")]
    pub xds: SocketAddr,
    /// Envoy's admin interface
    #[arg(long, env = "DEMO_ADMIN", value_name = "ADDRESS", default_value = "127.0.0.1:9901")]
    pub admin: SocketAddr,
    /// Health and metrics of the edge
    #[arg(long, env = "DEMO_HEALTH", value_name = "ADDRESS", default_value = "127.0.0.1:9090")]
    pub health: SocketAddr,
    /// Folder for the policy, data and logs [default: target/demo]
    #[arg(long, env = "DEMO_DIR", value_name = "FOLDER")]
    pub dir: Option<PathBuf>,
    /// Stop after so many frames; a frame that does not arrive is then an error
    #[arg(long, value_name = "N")]
    pub frames: Option<u64>,
    /// Milliseconds between frames
    #[arg(long, value_name = "MS", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..))]
    pub every_ms: u64,
}

impl Settings {
    /// Where the API is unless chosen otherwise, which is also where the commands look for it.
    pub(super) const fn default_api() -> SocketAddr {
        SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 18_080)
    }

    /// Time between frames.
    pub(super) const fn every(&self) -> Duration {
        Duration::from_millis(self.every_ms)
    }

    /// Makes sure that every port is free, before half of the demo runs.
    pub(super) fn check_ports(&self) -> Result<(), Failure> {
        let wanted = [
            ("--listen", self.listen, "where players connect"),
            ("--world-1", self.world_1, "a game server"),
            ("--world-2", self.world_2, "a game server"),
            ("--api", self.api, "the management API"),
            ("--xds", self.xds, "where Envoy asks the control plane"),
            ("--admin", self.admin, "Envoy's admin interface"),
            ("--health", self.health, "health and metrics of the edge"),
        ];
        let mut bound = Vec::new();
        for (flag, address, purpose) in wanted {
            // Held until all are checked, so that two flags cannot name one address.
            bound.push(TcpListener::bind(address).map_err(|e| {
                Failure::new(format!(
                    "cannot use {address} ({purpose}): {e}\nChoose another with `{flag} {}`, or DEMO_{}.",
                    SocketAddr::new(address.ip(), address.port().wrapping_add(10_000)),
                    flag.trim_start_matches('-').replace('-', "_").to_uppercase(),
                ))
            })?);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;
    use crate::TestNet;

    #[test]
    fn flags_are_sound_and_the_default_api_is_the_one_documented() {
        Settings::command().debug_assert();
        assert_eq!(Settings::parse_from(["demo"]).api, Settings::default_api());
    }

    #[test]
    fn a_taken_port_is_named_with_its_flag() {
        let net = TestNet::new();
        let mut settings = Settings::parse_from(["demo"]);
        let all = [
            &mut settings.listen,
            &mut settings.world_1,
            &mut settings.world_2,
            &mut settings.api,
            &mut settings.xds,
            &mut settings.admin,
            &mut settings.health,
        ];
        for (address, port) in all.into_iter().zip(7001..) {
            *address = net.at(port);
        }
        settings.check_ports().unwrap();
        let _taken = TcpListener::bind(settings.xds).unwrap();
        let message = settings.check_ports().unwrap_err().to_string();
        assert!(message.contains(&settings.xds.to_string()), "{message}");
        assert!(message.contains("--xds") && message.contains("DEMO_XDS"), "{message}");
    }
}
