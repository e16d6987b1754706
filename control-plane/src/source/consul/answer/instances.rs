//! `/v1/health/service/:name` and `/v1/health/connect/:name`.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::super::client::Answer;
use super::super::error::ConsulError;
use super::or_default;
use crate::mesh::catalog::InstanceHealth;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    node: Node,
    service: Service,
    #[serde(default, deserialize_with = "or_default")]
    checks: Vec<Check>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Node {
    #[serde(rename = "Node")]
    name: String,
    address: String,
    #[serde(default, deserialize_with = "or_default")]
    tagged_addresses: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Service {
    #[serde(rename = "ID")]
    id: String,
    #[serde(rename = "Service")]
    name: String,
    #[serde(default)]
    address: String,
    #[serde(default)]
    port: i64,
    #[serde(default, deserialize_with = "or_default")]
    tagged_addresses: BTreeMap<String, Tagged>,
    #[serde(default, deserialize_with = "or_default")]
    weights: Weights,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Tagged {
    address: String,
    #[serde(default)]
    port: i64,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Weights {
    passing: i64,
    warning: i64,
}

impl Default for Weights {
    fn default() -> Self {
        Self { passing: 1, warning: 1 }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Check {
    status: String,
}

/// An instance whose address may still be a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct Named {
    pub(in super::super) id: String,
    pub(in super::super) node: String,
    /// The name of its own service, which of a sidecar is not that of what it stands for.
    pub(in super::super) service: String,
    pub(in super::super) host: String,
    pub(in super::super) port: u16,
    pub(in super::super) weight: u32,
    pub(in super::super) health: InstanceHealth,
}

/// The instances, and what is wrong with those that cannot be used. `wan`: as another datacenter reaches them.
pub(in super::super) fn read(answer: &Answer, wan: bool) -> Result<(Vec<Named>, Vec<String>), ConsulError> {
    let entries: Option<Vec<Entry>> = answer.json()?;
    let mut refused = Vec::new();
    let mut instances = Vec::new();
    for entry in entries.unwrap_or_default() {
        let (host, port) = reached(&entry, wan);
        let id = &entry.service.id;
        match u16::try_from(port) {
            Ok(port) if port > 0 && !host.is_empty() => instances.push(Named {
                host: host.to_owned(),
                port,
                weight: weight(&entry),
                health: health(&entry.checks),
                id: entry.service.id,
                node: entry.node.name,
                service: entry.service.name,
            }),
            Ok(_) | Err(_) => {
                refused.push(format!("{id} at {}: `{host}:{port}` is no address", entry.node.name));
            }
        }
    }
    Ok((instances, refused))
}

/// As Consul itself chooses: what the service says, else its node; the WAN address where there is one.
fn reached(entry: &Entry, wan: bool) -> (&str, i64) {
    let (service, node) = (&entry.service, &entry.node);
    if wan
        && let Some(tagged) = service.tagged_addresses.get("wan").filter(|tagged| !tagged.address.is_empty())
    {
        let port = if tagged.port == 0 { service.port } else { tagged.port };
        return (&tagged.address, port);
    }
    if !service.address.is_empty() {
        return (&service.address, service.port);
    }
    let tagged = node.tagged_addresses.get("wan").filter(|address| wan && !address.is_empty());
    (tagged.unwrap_or(&node.address), service.port)
}

fn health(checks: &[Check]) -> InstanceHealth {
    let one = |check: &Check| match check.status.as_str() {
        "passing" => InstanceHealth::Passing,
        "warning" => InstanceHealth::Warning,
        // Maintenance, and what later releases may add.
        _ => InstanceHealth::Critical,
    };
    checks.iter().map(one).max().unwrap_or(InstanceHealth::Passing)
}

fn weight(entry: &Entry) -> u32 {
    let weights = &entry.service.weights;
    let weight =
        if health(&entry.checks) == InstanceHealth::Warning { weights.warning } else { weights.passing };
    u32::try_from(weight.clamp(1, 128)).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::consul::answer::tests::answer;

    fn entry(service: &str, checks: &str) -> String {
        format!(
            r#"[{{"Node":{{"Node":"n1","Address":"10.0.0.1","TaggedAddresses":{{"wan":"192.0.2.1"}}}},
                "Service":{{"ID":"s1","Service":"battle",{service}}},"Checks":{checks}}}]"#
        )
    }

    fn one(service: &str, checks: &str, wan: bool) -> Named {
        read(&answer(&entry(service, checks)), wan).unwrap().0.remove(0)
    }

    #[test]
    fn an_instance_is_where_the_asker_reaches_it() {
        const TAGGED: &str = r#""Address":"10.1.0.1","Port":9000,"TaggedAddresses":{"wan":{"Address":"198.51.100.1","Port":19000}}"#;
        let place = |service, wan| {
            let instance = one(service, "[]", wan);
            (instance.host, instance.port)
        };
        let is = |host: &str, port| (host.to_owned(), port);
        assert_eq!(place(TAGGED, false), is("10.1.0.1", 9000));
        assert_eq!(place(TAGGED, true), is("198.51.100.1", 19_000));
        assert_eq!(
            place(r#""Address":"10.1.0.1","Port":9000,"TaggedAddresses":null"#, true),
            is("10.1.0.1", 9000)
        );
        assert_eq!(place(r#""Port":9000"#, false), is("10.0.0.1", 9000));
        assert_eq!(place(r#""Port":9000"#, true), is("192.0.2.1", 9000));
    }

    #[test]
    fn the_worst_check_counts_and_the_weight_follows_it() {
        const WEIGHTS: &str = r#""Address":"a","Port":1,"Weights":{"Passing":500,"Warning":0}"#;
        let seen = |checks| {
            let instance = one(WEIGHTS, checks, false);
            (instance.health, instance.weight)
        };
        assert_eq!(seen("null"), (InstanceHealth::Passing, 128));
        assert_eq!(seen(r#"[{"Status":"passing"},{"Status":"warning"}]"#), (InstanceHealth::Warning, 1));
        assert_eq!(seen(r#"[{"Status":"maintenance"},{"Status":"passing"}]"#).0, InstanceHealth::Critical);
    }

    #[test]
    fn what_has_no_address_is_refused_by_name_and_the_others_serve() {
        let odd = entry(r#""Address":"a","Port":70000"#, "[]");
        let (instances, refused) = read(&answer(&odd), false).unwrap();
        assert!(instances.is_empty() && matches!(refused.as_slice(), [one] if one.contains("s1 at n1")));
        assert_eq!(read(&answer("{"), false).unwrap_err().label(), "malformed");
        assert!(read(&answer("null"), false).unwrap().0.is_empty());
    }
}
