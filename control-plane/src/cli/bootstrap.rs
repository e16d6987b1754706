//! `realmgate envoy-bootstrap`: the little that an Envoy has to be told before it can ask for the rest.

use std::net::SocketAddr;

use clap::ValueEnum;

use super::admin_interface::AdminInterface;
use super::credentials::{Credentials, Parts};
use super::{Failure, output};
use crate::model::Endpoint;

/// Longest name that the control plane takes from a node.
const MAX_NAME: usize = 256;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// What the proxy does.
    #[arg(long, value_enum)]
    role: Role,
    /// Its own name, distinct among all proxies.
    #[arg(long, value_parser = name)]
    id: String,
    /// The service it stands for; a sidecar stands for one.
    #[arg(long, value_parser = name, required_if_eq("role", "sidecar"))]
    service: Option<String>,
    /// Its datacenter.
    #[arg(long, value_name = "NAME", value_parser = name)]
    datacenter: Option<String>,
    /// Its cell.
    #[arg(long, value_name = "NAME", value_parser = name)]
    cell: Option<String>,
    /// A listener it opens, any number of times [default: all of the policy]
    #[arg(long = "listener", value_name = "NAME", value_parser = name)]
    listeners: Vec<String>,
    /// Where a sidecar listens for peers.
    #[arg(long, value_name = "ADDRESS:PORT", required_if_eq("role", "sidecar"))]
    inbound: Option<SocketAddr>,
    /// Where a sidecar reaches its game server.
    #[arg(long, value_name = "ADDRESS:PORT", required_if_eq("role", "sidecar"))]
    app: Option<SocketAddr>,
    /// Where it reaches the control plane's xDS listener.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:18000")]
    control_plane: Endpoint,
    #[command(flatten)]
    admin: AdminInterface,
    /// Variant of the xDS protocol.
    #[arg(long, value_enum, default_value_t)]
    xds: Variant,
    #[command(flatten)]
    credentials: Credentials,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Role {
    /// Takes players in.
    Edge,
    /// Stands beside a game server.
    Sidecar,
    /// Joins datacenters.
    MeshGateway,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Variant {
    /// Only what changed.
    #[default]
    Delta,
    /// Everything at every change.
    Sotw,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    match arguments.role {
        Role::Edge => output::print(&edge(arguments)?),
        Role::Sidecar => output::print(&sidecar(arguments)?),
        Role::MeshGateway => {
            let why = "--role mesh-gateway is not available in this version; the roles are edge and sidecar";
            Err(Failure::usage(why.to_owned()))
        }
    }
}

fn edge(arguments: &Arguments) -> Result<String, Failure> {
    if arguments.inbound.is_some() || arguments.app.is_some() {
        return Err(Failure::usage("--inbound and --app are for --role sidecar".to_owned()));
    }
    let listeners: Vec<_> = arguments.listeners.iter().map(|l| quoted(l)).collect();
    let share = format!("      listeners: [{}]\n", listeners.join(", "));
    bootstrap("edge", arguments, &share, true)
}

fn sidecar(arguments: &Arguments) -> Result<String, Failure> {
    if !arguments.listeners.is_empty() {
        return Err(Failure::usage(
            "--listener is for --role edge; a sidecar has one, at --inbound".to_owned(),
        ));
    }
    let ports = [("inbound", arguments.inbound), ("app", arguments.app)];
    if let Some((flag, _)) = ports.iter().find(|(_, at)| at.is_some_and(|at| at.port() == 0)) {
        return Err(Failure::usage(format!("--{flag}: port 0 is no port that others can know")));
    }
    let line = |(key, at): (&str, Option<SocketAddr>)| at.map(|at| format!("      {key}: \"{at}\"\n"));
    bootstrap("sidecar", arguments, &ports.into_iter().filter_map(line).collect::<String>(), false)
}

/// The bootstrap with what the role has of its own: lines of the node's metadata, and whether it asks its own admin interface.
fn bootstrap(role: &str, arguments: &Arguments, share: &str, asks_itself: bool) -> Result<String, Failure> {
    let optional = |name: &Option<String>| quoted(name.as_deref().unwrap_or_default());
    let Parts { secrets, http_filters, transport_socket } =
        arguments.credentials.parts(&arguments.control_plane)?;
    let admin = arguments.admin.chosen(&arguments.id)?;
    let own_admin = if asks_itself {
        format!(include_str!("own_admin.yaml.in"), address = admin.reached(12))
    } else {
        String::new()
    };

    Ok(format!(
        include_str!("bootstrap.yaml.in"),
        role = role,
        id = quoted(&arguments.id),
        service = optional(&arguments.service),
        datacenter = optional(&arguments.datacenter),
        cell = optional(&arguments.cell),
        share = share,
        own_admin = own_admin,
        admin = admin.listens(2),
        api_type = match arguments.xds {
            Variant::Delta => "DELTA_GRPC",
            Variant::Sotw => "GRPC",
        },
        discovery = discovery(&arguments.control_plane),
        control_plane_host = quoted(arguments.control_plane.host()),
        control_plane_port = arguments.control_plane.port(),
        secrets = secrets,
        http_filters = http_filters,
        transport_socket = transport_socket,
    ))
}

/// How the control plane's cluster finds its address.
fn discovery(control_plane: &Endpoint) -> &'static str {
    match control_plane.ip() {
        Some(_) => "    type: STATIC",
        // Envoy would otherwise try IPv6 alone as soon as the name has an IPv6 address, as localhost has.
        None => "    type: STRICT_DNS\n    dns_lookup_family: ALL",
    }
}

/// Text between double quotes; [`name`] has refused what would need escapes.
pub(super) fn quoted(text: &str) -> String {
    format!("\"{text}\"")
}

/// Names end up in YAML, statistics, logs and terminals: nothing in them may need an escape there.
pub(super) fn name(text: &str) -> Result<String, String> {
    let plain = |b: u8| b.is_ascii_graphic() && b != b'"' && b != b'\\';
    match text.len() {
        0 => Err("it is empty".to_owned()),
        len if len > MAX_NAME => Err(format!("it is longer than {MAX_NAME} bytes")),
        _ if !text.bytes().all(plain) => {
            Err("it may hold letters, digits and signs, but no space, quote or backslash".to_owned())
        }
        _ => Ok(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_break_out_of_the_document() {
        assert!(name("sidecar~10.0.0.1~pod-1.ns").is_ok());
        for wrong in ["", "a b", "a\"b", "a\\b", "a\nb", "é", "x".repeat(257).as_str()] {
            assert!(name(wrong).is_err(), "{wrong:?}");
        }
    }
}
