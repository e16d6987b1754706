//! What can be chosen about the demo.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::Parser;

/// Starts two datacenters and a player; kills one and shows how long it takes until the player is served again.
#[derive(Clone, Debug, Parser)]
#[command(name = "realmgate-mesh-demo", version)]
pub struct Settings {
    /// Address of the first datacenter
    #[arg(long, env = "DEMO_AWS", value_name = "ADDRESS", default_value = "127.0.0.2")]
    pub aws: IpAddr,
    /// Address of the second
    #[arg(long, env = "DEMO_AZURE", value_name = "ADDRESS", default_value = "127.0.0.3")]
    pub azure: IpAddr,
    /// Folder for data and logs [default: target/mesh-demo]
    #[arg(long, env = "DEMO_MESH_DIR", value_name = "FOLDER")]
    pub dir: Option<PathBuf>,
    /// Stop after so many times that the datacenter died and came back
    #[arg(long, value_name = "N")]
    pub rounds: Option<u32>,
    /// Without a terminal: milliseconds between two presses of Enter
    #[arg(long, value_name = "MS", default_value_t = 5000)]
    pub every_ms: u64,
}
