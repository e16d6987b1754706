//! Reads a proxy's node: its id, its scope and its version.

use std::net::SocketAddr;

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::config::core::v3::node::UserAgentVersionType;
use envoy_types::pb::google::protobuf::Struct;
use envoy_types::pb::google::protobuf::value::Kind;

use super::{Ports, Role, Scope};
use crate::telemetry::visible::{escaped, is_visible};

/// Longest node id and longest name in its metadata.
pub const MAX_NODE_NAME_BYTES: usize = 256;
/// Most listeners a node may name.
pub const MAX_NODE_LISTENERS: usize = 64;

/// What is wrong with a node; the proxy's bootstrap is at fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NodeError {
    /// There is none on the stream's first request.
    #[error("the first request of a stream carries no node: set `node` in the proxy's bootstrap")]
    Missing,
    /// It has no id.
    #[error("node.id is empty: set it in the proxy's bootstrap")]
    NoId,
    /// A field is too long.
    #[error("{0} is longer than {MAX_NODE_NAME_BYTES} bytes")]
    TooLong(&'static str),
    /// A name holds what does not show, or shows as something else.
    #[error("{0} holds a control character, a line break or another that does not show")]
    Invisible(&'static str),
    /// Too many listeners are named.
    #[error("node.metadata.realmgate.listeners names more than {MAX_NODE_LISTENERS} listeners")]
    TooManyListeners,
    /// A field has another type.
    #[error("{0} must be {1}")]
    WrongType(&'static str, &'static str),
    /// The role is not one we serve.
    #[error("node.metadata.realmgate.role is `{0}`, which is none of: edge, sidecar")]
    UnknownRole(String),
    /// A sidecar stands for a service.
    #[error("node.metadata.realmgate.service is empty: a sidecar says whose it is")]
    NoService,
    /// An address cannot be read.
    #[error("{0} is not IP-address:port, such as 10.0.0.5:20000, which a sidecar says")]
    NoAddress(&'static str),
}

impl NodeError {
    /// A short name for metrics and logs.
    #[must_use]
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Missing => "node_missing",
            Self::NoId => "node_id",
            Self::TooLong(_) | Self::Invisible(_) | Self::TooManyListeners | Self::WrongType(..) => {
                "node_metadata"
            }
            Self::UnknownRole(_) => "node_role",
            Self::NoService | Self::NoAddress(_) => "node_sidecar",
        }
    }
}

impl Scope {
    /// The scope that a node claims in its metadata under `realmgate`; without any, an edge with defaults.
    pub fn from_node(node: &Node) -> Result<Self, NodeError> {
        if node.id.is_empty() {
            return Err(NodeError::NoId);
        }
        checked("node.id", &node.id)?;
        let hashes_addresses = hashes_addresses(node);
        let Some(value) = node.metadata.as_ref().and_then(|m| m.fields.get("realmgate")) else {
            return Ok(Self { hashes_addresses, ..Self::default() });
        };
        let Some(Kind::StructValue(fields)) = &value.kind else {
            return Err(NodeError::WrongType("node.metadata.realmgate", "an object"));
        };
        let role = match text(fields, "role", "node.metadata.realmgate.role")?.as_str() {
            "" | "edge" => Role::Edge,
            "sidecar" => Role::Sidecar,
            other => return Err(NodeError::UnknownRole(other.to_owned())),
        };
        let service = text(fields, "service", "node.metadata.realmgate.service")?;
        let sidecar = match role {
            Role::Edge => None,
            Role::Sidecar if service.is_empty() => return Err(NodeError::NoService),
            Role::Sidecar => Some(Ports {
                inbound: address(fields, "inbound", "node.metadata.realmgate.inbound")?,
                app: address(fields, "app", "node.metadata.realmgate.app")?,
            }),
        };
        Ok(Self {
            role,
            service,
            sidecar,
            datacenter: text(fields, "datacenter", "node.metadata.realmgate.datacenter")?,
            cell: text(fields, "cell", "node.metadata.realmgate.cell")?,
            listeners: listeners(fields)?,
            hashes_addresses,
            ..Self::default()
        })
    }
}

/// Envoy has hashable strings from 1.38 on. A proxy that does not say its version is taken for a newer one.
fn hashes_addresses(node: &Node) -> bool {
    match &node.user_agent_version_type {
        Some(UserAgentVersionType::UserAgentBuildVersion(build)) => {
            build.version.as_ref().is_some_and(|v| v.major_number == 1 && v.minor_number < 38)
        }
        _ => false,
    }
}

/// The proxy's version as `envoy 1.40.0`, on one line; empty when it does not say.
pub(crate) fn user_agent(node: &Node) -> String {
    let name: String = node.user_agent_name.chars().take(MAX_NODE_NAME_BYTES).collect();
    let version = match &node.user_agent_version_type {
        Some(UserAgentVersionType::UserAgentVersion(version)) => {
            version.chars().take(MAX_NODE_NAME_BYTES).collect()
        }
        Some(UserAgentVersionType::UserAgentBuildVersion(build)) => build
            .version
            .as_ref()
            .map(|v| format!("{}.{}.{}", v.major_number, v.minor_number, v.patch))
            .unwrap_or_default(),
        None => String::new(),
    };
    escaped(format!("{name} {version}").trim()).into_owned()
}

/// Names of a node stand in tables, logs and file names of others: what could forge a line there is no name.
fn checked(place: &'static str, text: &str) -> Result<(), NodeError> {
    if text.len() > MAX_NODE_NAME_BYTES {
        return Err(NodeError::TooLong(place));
    }
    if text.chars().all(is_visible) { Ok(()) } else { Err(NodeError::Invisible(place)) }
}

fn address(fields: &Struct, key: &str, place: &'static str) -> Result<SocketAddr, NodeError> {
    let address: Option<SocketAddr> = text(fields, key, place)?.parse().ok();
    address.filter(|address| address.port() != 0).ok_or(NodeError::NoAddress(place))
}

fn text(fields: &Struct, key: &str, place: &'static str) -> Result<String, NodeError> {
    match fields.fields.get(key).and_then(|value| value.kind.as_ref()) {
        None | Some(Kind::NullValue(_)) => Ok(String::new()),
        Some(Kind::StringValue(text)) => {
            checked(place, text)?;
            Ok(text.clone())
        }
        Some(_) => Err(NodeError::WrongType(place, "a string")),
    }
}

/// Sorted and without repetitions, so that the order in a bootstrap does not make another scope.
fn listeners(fields: &Struct) -> Result<Vec<String>, NodeError> {
    const PLACE: &str = "node.metadata.realmgate.listeners";
    const WANTED: &str = "a list of strings";
    let list = match fields.fields.get("listeners").and_then(|value| value.kind.as_ref()) {
        None | Some(Kind::NullValue(_)) => return Ok(Vec::new()),
        Some(Kind::ListValue(list)) => &list.values,
        Some(_) => return Err(NodeError::WrongType(PLACE, WANTED)),
    };
    if list.len() > MAX_NODE_LISTENERS {
        return Err(NodeError::TooManyListeners);
    }
    let mut names = Vec::with_capacity(list.len());
    for value in list {
        let Some(Kind::StringValue(name)) = &value.kind else {
            return Err(NodeError::WrongType(PLACE, WANTED));
        };
        checked(PLACE, name)?;
        names.push(name.clone());
    }
    names.sort();
    names.dedup();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::google::protobuf::{ListValue, Value};

    use super::*;

    fn text(value: &str) -> Value {
        Value { kind: Some(Kind::StringValue(value.to_owned())) }
    }

    fn list(values: Vec<Value>) -> Value {
        Value { kind: Some(Kind::ListValue(ListValue { values })) }
    }

    fn object(fields: Vec<(&str, Value)>) -> Struct {
        Struct { fields: fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect() }
    }

    fn scope(fields: Vec<(&str, Value)>) -> Result<Scope, NodeError> {
        let ours = Value { kind: Some(Kind::StructValue(object(fields))) };
        let metadata = Some(object(vec![("realmgate", ours)]));
        Scope::from_node(&Node { id: "edge-1".to_owned(), metadata, ..Node::default() })
    }

    #[test]
    fn a_node_without_metadata_is_an_edge_with_defaults() {
        let node = Node { id: "edge-1".to_owned(), ..Node::default() };
        assert_eq!(Scope::from_node(&node), Ok(Scope::default()));
    }

    #[test]
    fn listeners_are_sorted_so_that_equal_proxies_share_a_snapshot() {
        let listeners = list(vec![text("b"), text("a"), text("b")]);
        let scope = scope(vec![("listeners", listeners), ("cell", text("c1"))]).unwrap();
        assert_eq!((scope.listeners, scope.cell), (vec!["a".to_owned(), "b".to_owned()], "c1".to_owned()));
    }

    #[test]
    fn a_sidecar_says_whose_it_is_and_its_ports() {
        let ports = [("inbound", text("0.0.0.0:20000")), ("app", text("127.0.0.1:7777"))];
        let scope =
            scope([&[("role", text("sidecar")), ("service", text("game"))], &ports[..]].concat()).unwrap();
        let ports =
            Ports { inbound: "0.0.0.0:20000".parse().unwrap(), app: "127.0.0.1:7777".parse().unwrap() };
        assert_eq!(
            (scope.role, scope.service, scope.sidecar),
            (Role::Sidecar, "game".to_owned(), Some(ports))
        );
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        let long = "x".repeat(257);
        let number = Value { kind: Some(Kind::NumberValue(1.0)) };
        for (fields, error) in [
            (
                vec![("role", text("x"))],
                "node.metadata.realmgate.role is `x`, which is none of: edge, sidecar",
            ),
            (vec![("service", text(&long))], "node.metadata.realmgate.service is longer than 256 bytes"),
            (
                vec![("role", text("sidecar"))],
                "node.metadata.realmgate.service is empty: a sidecar says whose it is",
            ),
            (
                vec![("role", text("sidecar")), ("service", text("game")), ("inbound", text("10.0.0.5"))],
                "node.metadata.realmgate.inbound is not IP-address:port, such as 10.0.0.5:20000, which a sidecar says",
            ),
            (vec![("cell", number.clone())], "node.metadata.realmgate.cell must be a string"),
            (vec![("listeners", text("a"))], "node.metadata.realmgate.listeners must be a list of strings"),
            (
                vec![("listeners", list(vec![number]))],
                "node.metadata.realmgate.listeners must be a list of strings",
            ),
            (
                vec![("listeners", list(vec![text("a"); 65]))],
                "node.metadata.realmgate.listeners names more than 64 listeners",
            ),
        ] {
            assert_eq!(scope(fields).unwrap_err().to_string(), error);
        }
        for (id, metadata) in
            [("a\nedge-2  edge", ""), ("a", "x\u{1b}[2J"), ("a", "x\u{2028}"), ("a", "\u{202e}x")]
        {
            let ours = |key| Value { kind: Some(Kind::StructValue(object(vec![(key, text(metadata))]))) };
            for key in ["role", "service", "datacenter", "cell"] {
                let metadata = Some(object(vec![("realmgate", ours(key))]));
                let refused = Scope::from_node(&Node { id: id.to_owned(), metadata, ..Node::default() });
                let place =
                    if id == "a" { format!("node.metadata.realmgate.{key}") } else { "node.id".to_owned() };
                assert_eq!(
                    refused.unwrap_err().to_string(),
                    format!("{place} holds a control character, a line break or another that does not show")
                );
            }
        }
        let node = Node { user_agent_name: "envoy\n1".to_owned(), ..Node::default() };
        assert_eq!(user_agent(&node), "envoy\\n1");
        let node = Node { id: long, ..Node::default() };
        assert_eq!(Scope::from_node(&node).unwrap_err().to_string(), "node.id is longer than 256 bytes");
    }
}
