//! Where a fleet connects, and as what.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use envoy_types::pb::envoy::config::core::v3::node::UserAgentVersionType;
use envoy_types::pb::envoy::config::core::v3::{BuildVersion, Node};
use envoy_types::pb::envoy::r#type::v3::SemanticVersion;
use envoy_types::pb::google::protobuf::value::Kind;
use envoy_types::pb::google::protobuf::{Struct, Value};

const USES: &str = r#"Without --commands it connects, tells when all are in sync, and then of each change that reaches all of them
how long after the first the last has acknowledged it, until Ctrl-C. With --commands a program drives it: one
JSON object a line on standard input, one answer a line on standard output:

  {"do":"connect","count":1000,"at_once":100}  adds proxies, so many not in sync at a time
  {"do":"synced","timeout_ms":60000}           waits until all are in sync
  {"do":"watch","type":"eds","name":"blue"}    a change from now on, of this resource or (no name) of any
  {"do":"acknowledged","timeout_ms":60000}     waits until all have acknowledged it
  {"do":"traffic"}                             what was received since the last watch or connect
  {"do":"reconnect"}                           all at once, saying what they have
  {"do":"disconnect"}                          all, and they forget what they had

Moments are nanoseconds of the machine's monotonic clock."#;

/// Connects a fleet of simulated Envoys to a control plane, and says when each change has reached them.
///
/// Each proxy has a connection of its own and speaks delta ADS as an Envoy does: it asks for all clusters, for their
/// endpoints, for all listeners and for the filter configurations that these name, and acknowledges everything. It
/// checks nothing of what it gets. Ten thousand proxies need ten thousand open files and about half a gigabyte.
#[derive(Clone, Debug, Parser)]
#[command(name = "realmgate-fleet", version, after_long_help = USES)]
pub struct Settings {
    /// The control plane's xDS address (plain text, no TLS).
    #[arg(long, default_value = "127.0.0.1:18000")]
    pub address: SocketAddr,
    /// How many proxies.
    #[arg(long, default_value_t = 100)]
    pub count: usize,
    /// How many may be on their way to be in sync at the same time.
    #[arg(long, default_value_t = 250)]
    pub at_once: usize,
    /// A file with a token that is sent as `authorization: Bearer`.
    #[arg(long)]
    pub token_file: Option<PathBuf>,
    /// Node ids are this, a dash and a number.
    #[arg(long, default_value = "fleet")]
    pub node_id: String,
    /// The role in the nodes' metadata.
    #[arg(long, default_value = "edge")]
    pub role: String,
    /// Connect anew so long after a connection is lost (and up to half as much more); 0 = only when told.
    #[arg(long, default_value = "1000", value_name = "MS", value_parser = milliseconds)]
    pub reconnect_after: Duration,
    /// Take commands from standard input.
    #[arg(long)]
    pub commands: bool,
}

fn milliseconds(text: &str) -> Result<Duration, std::num::ParseIntError> {
    text.parse().map(Duration::from_millis)
}

impl Settings {
    /// The time until a lost connection is tried anew: spread over half of it, by number, so that not all come at
    /// once; for ever where only a command does it.
    pub(super) async fn pause(&self, number: usize) {
        if self.reconnect_after.is_zero() {
            std::future::pending::<()>().await;
        }
        let spread = u32::try_from(number % 64).unwrap_or(0);
        tokio::time::sleep(self.reconnect_after + self.reconnect_after / 128 * spread).await;
    }

    /// The node of a proxy.
    pub(super) fn node(&self, number: usize) -> Node {
        let one = |key: &str, kind: Kind| Struct {
            fields: [(key.to_owned(), Value { kind: Some(kind) })].into_iter().collect(),
        };
        let role = one("role", Kind::StringValue(self.role.clone()));
        let version = SemanticVersion { major_number: 1, minor_number: 40, patch: 0 };
        Node {
            id: format!("{}-{number}", self.node_id),
            cluster: self.role.clone(),
            metadata: Some(one("realmgate", Kind::StructValue(role))),
            user_agent_name: "envoy".to_owned(),
            user_agent_version_type: Some(UserAgentVersionType::UserAgentBuildVersion(BuildVersion {
                version: Some(version),
                metadata: None,
            })),
            ..Node::default()
        }
    }
}
