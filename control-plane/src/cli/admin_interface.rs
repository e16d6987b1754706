//! Where an Envoy's admin interface is: a Unix socket, which no player can be led to, or a port for those who want one.

use std::fmt;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
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
    /// Unix socket of its admin interface; whoever may open it can stop the proxy, so its folder has to be one that only the
    /// proxy's user can enter [default: /tmp/realmgate-ID/admin.sock, whose folder is made here]
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
    /// Where the admin interface of the Envoy with this id is; makes the folder of a default socket.
    pub(super) fn chosen(&self, id: &str) -> Result<Admin, Failure> {
        if let Some(path) = &self.socket {
            return Ok(Admin::Socket(path.clone()));
        }
        if self.port.is_none() && self.address.is_none() {
            let path = default_socket(id)?;
            if let Some(folder) = path.parent() {
                make_private(folder)?;
            }
            return Ok(Admin::Socket(path));
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
pub(super) fn default_socket(id: &str) -> Result<PathBuf, Failure> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.~".contains(c);
    // Two ids never share a folder, and none leads out of it.
    let one = |c: char| if plain(c) { c.to_string() } else { format!("%{:02X}", u32::from(c)) };
    let folder: String = id.chars().map(one).collect();
    let path = format!("/tmp/realmgate-{folder}/admin.sock");
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

/// Makes a folder that only we can enter; one that is there has to be such. The path is one that others can guess, and what is in
/// a folder of theirs is theirs.
fn make_private(folder: &Path) -> Result<(), Failure> {
    match fs::DirBuilder::new().mode(0o700).create(folder) {
        Ok(()) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => {
            let folder = folder.display();
            output::remark(&format!(
                "cannot make {folder} ({error}): make it where the Envoy runs, for its user alone"
            ));
            return Ok(());
        }
    }
    let refused = |why: String| {
        let shown = folder.display();
        Err(Failure::failed(format!(
            "{shown}, the folder of the admin socket, {why}; remove it, or give --admin-socket"
        )))
    };
    match fs::symlink_metadata(folder) {
        Ok(found) if !found.is_dir() => refused("is no folder".to_owned()),
        Ok(found) if found.uid() != geteuid().as_raw() => refused("belongs to another user".to_owned()),
        Ok(found) if found.mode() & 0o077 != 0 => refused("is open to other users".to_owned()),
        Ok(_) => Ok(()),
        Err(error) => refused(format!("cannot be looked at ({error})")),
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
    use std::os::unix::fs::{PermissionsExt, symlink};

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
        assert_eq!(path("edge-1"), "/tmp/realmgate-edge-1/admin.sock");
        assert_eq!(path("../etc"), "/tmp/realmgate-..%2Fetc/admin.sock");
        assert_ne!(path("a/b"), path("a%2Fb"));
        assert!(default_socket(&"x".repeat(100)).unwrap_err().to_string().contains("--admin-socket"));
    }

    #[test]
    fn its_folder_is_for_its_user_alone() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("made");
        for _ in 0..2 {
            make_private(&folder).unwrap();
            assert_eq!(fs::metadata(&folder).unwrap().mode() & 0o777, 0o700);
        }
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
        assert!(make_private(&folder).unwrap_err().to_string().contains("open to other users"));
        let link = dir.path().join("link");
        symlink(&folder, &link).unwrap();
        assert!(make_private(&link).unwrap_err().to_string().contains("no folder"));
        make_private(&dir.path().join("not/there")).unwrap();
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
