//! Where an Envoy's admin interface is: a Unix socket, which no player can be led to, or a port for those who want one.

use std::fmt;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use rustix::process::geteuid;

use super::bootstrap::quoted;
use super::{Failure, output};
use crate::model::Endpoint;

/// Where the port was when there was always one.
pub(super) const DEFAULT_PORT: u16 = 9901;

/// Longest path of a Unix socket on Linux, without the zero byte at its end.
const MAX_PATH: usize = 107;

#[derive(Debug, clap::Args)]
pub(super) struct AdminInterface {
    /// Unix socket of its admin interface, which its user alone may open; in a folder that is there whenever the proxy starts
    /// [default: /tmp/realmgate-ID.sock]
    #[arg(id = "admin_socket", long = "admin-socket", value_name = "PATH", value_parser = socket)]
    #[arg(conflicts_with_all = ["admin_port", "admin_address"])]
    socket: Option<PathBuf>,
    /// Port of its admin interface, instead of the socket; whoever reaches it can stop the proxy.
    #[arg(id = "admin_port", long = "admin-port", value_name = "PORT")]
    #[arg(value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
    /// Address of that port [default: 127.0.0.1]
    #[arg(id = "admin_address", long = "admin-address", value_name = "ADDRESS")]
    address: Option<IpAddr>,
}

impl AdminInterface {
    /// Where the admin interface of the Envoy with this id is.
    pub(super) fn chosen(&self, id: &str) -> Result<Admin, Failure> {
        if let Some(path) = &self.socket {
            return Ok(Admin::Socket(path.clone()));
        }
        if self.port.is_none() && self.address.is_none() {
            return default_socket(id).map(Admin::Socket);
        }
        let address = self.address.unwrap_or(Ipv4Addr::LOCALHOST.into());
        let port = self.port.unwrap_or(DEFAULT_PORT);
        if port != DEFAULT_PORT || !address.is_loopback() {
            let deny = if address.is_loopback() { "" } else { "; its address is for `endpoints.*.deny`" };
            output::remark(&format!(
                "whoever reaches port {port} can end the Envoy: name it in the control plane's `edge.admin_ports`, so that no endpoint \
                 leads there{deny}"
            ));
        }
        Ok(Admin::Port((address, port).into()))
    }
}

/// Where an Envoy's admin interface listens.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Admin {
    Socket(PathBuf),
    Port(SocketAddr),
}

impl Admin {
    /// The address that it listens on as lines of YAML, so many spaces from the left.
    pub(super) fn listens(&self, indent: usize) -> String {
        match self {
            // Only for its user, whatever the folder.
            Self::Socket(path) => {
                lines(indent, &["pipe:", &path_line(path), "  mode: 384 # 0600, for its user alone"])
            }
            Self::Port(at) => at_port(indent, *at),
        }
    }

    /// The address at which the Envoy itself reaches it.
    pub(super) fn reached(&self, indent: usize) -> String {
        match self {
            Self::Socket(path) => lines(indent, &["pipe:", &path_line(path)]),
            Self::Port(at) => at_port(indent, (reached_at(at.ip()), at.port()).into()),
        }
    }
}

fn path_line(path: &Path) -> String {
    format!("  path: {}", quoted(&path.display().to_string()))
}

fn at_port(indent: usize, at: SocketAddr) -> String {
    let address = format!("  address: {}", quoted(&at.ip().to_string()));
    lines(indent, &["socket_address:", &address, &format!("  port_value: {}", at.port())])
}

fn lines(indent: usize, lines: &[&str]) -> String {
    let line = |line: &&str| format!("{:indent$}  {line}\n", "");
    format!("{:indent$}address:\n{}", "", lines.iter().map(line).collect::<String>())
}

/// An address that listens on all interfaces is reached on loopback.
fn reached_at(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(v4) if v4.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(v6) if v6.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        other => other,
    }
}

/// The socket of the Envoy with this id, where nobody names another.
///
/// Its folder is there after every boot, for every user and in every container: Envoy makes none. Envoy makes the socket its
/// user's alone before it listens, and nobody else can take it away or replace it there.
pub(super) fn default_socket(id: &str) -> Result<PathBuf, Failure> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.~".contains(c);
    // Two ids never share a socket, and none leads elsewhere.
    let one = |c: char| if plain(c) { c.to_string() } else { format!("%{:02X}", u32::from(c)) };
    let name: String = id.chars().map(one).collect();
    let path = format!("/tmp/realmgate-{name}.sock");
    socket(&path).map_err(|why| Failure::usage(format!("the id {id} makes a path that is too long: {why}")))
}

/// Reads the path of a socket.
fn socket(text: &str) -> Result<PathBuf, String> {
    let plain = |c: char| c.is_ascii_graphic() && c != '"' && c != '\\';
    if !text.starts_with('/') || !text.chars().all(plain) {
        return Err(
            "it is no absolute path of letters, digits and signs without quotes and backslashes".to_owned()
        );
    }
    if text.len() > MAX_PATH {
        return Err(format!(
            "it has {} bytes; a socket's path has at most {MAX_PATH}; give --admin-socket",
            text.len()
        ));
    }
    Ok(text.into())
}

/// Checks that what is at the path of a default socket is ours: others can guess it, and put theirs there while no Envoy runs.
pub(super) fn check_own(path: &Path) -> Result<(), Failure> {
    let refused = |why: &str| {
        let shown = path.display();
        Err(Failure::failed(format!(
            "{shown} {why}; run this as the user of the Envoy, or name its socket with --admin"
        )))
    };
    match fs::symlink_metadata(path) {
        Ok(found) if found.uid() != geteuid().as_raw() => refused("belongs to another user"),
        Ok(found) if !found.file_type().is_socket() => refused("is no socket"),
        // Where there is none, asking it says so.
        _ => Ok(()),
    }
}

/// An admin interface as `realmgate drain` is told of it: `HOST:PORT`, or the path of a Unix socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum AdminAddress {
    Socket(PathBuf),
    Port(Endpoint),
}

impl FromStr for AdminAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_prefix("unix:").unwrap_or(text) {
            path if path.starts_with('/') => socket(path).map(Self::Socket),
            _ => text.parse().map(Self::Port),
        }
    }
}

impl fmt::Display for AdminAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(path) => write!(f, "unix:{}", path.display()),
            Self::Port(endpoint) => endpoint.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{chown, symlink};
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn it_is_reached_where_it_listens() {
        for (listens, reached) in [("0.0.0.0", "127.0.0.1"), ("::", "::1"), ("10.0.0.9", "10.0.0.9")] {
            assert_eq!(reached_at(listens.parse().unwrap()).to_string(), reached);
        }
    }

    #[test]
    fn no_id_leads_elsewhere_and_no_two_share_a_socket() {
        let path = |id: &str| default_socket(id).unwrap().display().to_string();
        assert_eq!(path("edge-1"), "/tmp/realmgate-edge-1.sock");
        assert_eq!(path("../etc"), "/tmp/realmgate-..%2Fetc.sock");
        assert_ne!(path("a/b"), path("a%2Fb"));
        assert!(default_socket(&"x".repeat(100)).unwrap_err().to_string().contains("--admin-socket"));
    }

    #[test]
    fn only_a_socket_of_ours_is_asked_by_id() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admin.sock");
        check_own(&path).unwrap();
        drop(UnixListener::bind(&path).unwrap());
        check_own(&path).unwrap();
        let link = dir.path().join("link");
        symlink(&path, &link).unwrap();
        assert!(check_own(&link).unwrap_err().to_string().contains("is no socket"));
        // `/` is root's, and only root can give a socket away.
        if geteuid().is_root() {
            chown(&path, Some(12_345), None).unwrap();
        }
        let others = if geteuid().is_root() { path.as_path() } else { Path::new("/") };
        assert!(check_own(others).unwrap_err().to_string().contains("belongs to another user"));
    }

    #[test]
    fn reads_ports_and_sockets() {
        for (text, shown) in [("127.0.0.1:9901", "127.0.0.1:9901"), ("/a/b.sock", "unix:/a/b.sock")] {
            let address: AdminAddress = text.parse().unwrap();
            assert_eq!(address.to_string(), shown);
            assert_eq!(shown.parse(), Ok(address));
        }
        for wrong in ["a.sock", "unix:a", "/a b", "/a\"b", ""] {
            assert!(wrong.parse::<AdminAddress>().is_err(), "{wrong:?}");
        }
    }
}
