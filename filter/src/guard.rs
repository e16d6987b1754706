//! Closes the connections that a sidecar's intentions no longer allow.
//!
//! Envoy's RBAC decides when a connection begins, and the connection keeps the rules that it began with. The guard looks
//! at every connection once its peer has proven who it is, and again when the rules change. It sees no data: what it costs
//! is one look for each connection and change.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::host::HostError;

/// What Envoy has to call the plugin for [`Guard`] to be behind it.
pub const ROOT_ID: &str = "realmgate/guard";

/// How often peers that had not proven who they are at the last look are looked at again.
pub const TICK_MS: u32 = 100;

/// The whole plugin configuration: `{"trust_domain": "x.consul", "services": {"only": ["web"]}}`. Unknown keys are refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GuardConfig {
    /// What the SPIFFE id of everybody who may stay names.
    pub trust_domain: String,
    /// Who of it may stay.
    pub services: Services,
}

/// A set of services, by their names as they stand in SPIFFE ids.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Services {
    /// These and no others.
    Only(BTreeSet<String>),
    /// Every service but these.
    AllBut(BTreeSet<String>),
}

impl GuardConfig {
    /// Whether a peer with this SPIFFE id may stay.
    #[must_use]
    pub fn admits(&self, id: &str) -> bool {
        let name = id.strip_prefix("spiffe://").and_then(|id| id.strip_prefix(&*self.trust_domain));
        let name = name
            .and_then(|name| name.strip_prefix("/ns/default/dc/"))
            .and_then(|name| name.split_once("/svc/"));
        let Some((datacenter, service)) = name else { return false };
        let is_part = |part: &str| !part.is_empty() && !part.contains(['/', ',']);
        is_part(datacenter)
            && is_name(service)
            && match &self.services {
                Services::Only(services) => services.contains(service),
                Services::AllBut(services) => !services.contains(service),
            }
    }
}

/// Whether this is a name as it stands in the SPIFFE ids that Consul signs. Who is denied could come under the same name in
/// other words, `%67ame` for `game`; ids are compared byte by byte, so other words are no name.
#[must_use]
pub fn is_name(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~$&+:;=@".contains(&byte);
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    };
    let mut rest = text.as_bytes();
    loop {
        rest = match rest {
            [] => return !text.is_empty(),
            [b'%', high, low, rest @ ..] => match (digit(*high), digit(*low)) {
                // Slashes and commas are in no name.
                (Some(high), Some(low)) if !plain(high * 16 + low) && !b"/,".contains(&(high * 16 + low)) => {
                    rest
                }
                _ => return false,
            },
            [byte, rest @ ..] if plain(*byte) => rest,
            _ => return false,
        };
    }
}

/// The proxy with all its connections.
pub trait Peers {
    /// The SPIFFE id of a connection's peer; `None` = it has not proven any yet.
    fn id(&mut self, connection: u32) -> Option<String>;

    /// Closes a connection.
    fn close(&mut self, connection: u32) -> Result<(), HostError>;
}

/// The connections of a worker.
#[derive(Debug, Default)]
pub struct Guard {
    /// `None` = nothing was said yet; RBAC alone decides.
    rules: Option<GuardConfig>,
    open: BTreeSet<u32>,
    /// Of those, the ones that no rule has been held against: their RBAC may be older than our rules.
    unproven: BTreeSet<u32>,
}

impl Guard {
    /// A connection begins.
    pub fn begin(&mut self, connection: u32) {
        self.open.insert(connection);
        self.unproven.insert(connection);
    }

    /// A connection has ended.
    pub fn end(&mut self, connection: u32) {
        self.open.remove(&connection);
        self.unproven.remove(&connection);
    }

    /// Whether somebody has to be [looked](Self::look) at again.
    #[must_use]
    pub fn waits(&self) -> bool {
        !self.unproven.is_empty()
    }

    /// Takes new rules and holds them against all connections; gives how many were closed.
    ///
    /// # Errors
    /// When it is no [`GuardConfig`]: the old rules stay.
    pub fn configure(&mut self, json: &[u8], peers: &mut impl Peers) -> Result<usize, serde_json::Error> {
        self.rules = Some(serde_json::from_slice(json)?);
        self.unproven.clone_from(&self.open);
        Ok(self.look(peers))
    }

    /// Looks at those that had not proven who they are; gives how many were closed.
    pub fn look(&mut self, peers: &mut impl Peers) -> usize {
        let Some(rules) = &self.rules else { return 0 };
        let mut closed = 0;
        self.unproven.retain(|&connection| match peers.id(connection) {
            None => true,
            Some(id) if rules.admits(&id) => false,
            Some(_) => {
                let done = peers.close(connection).is_ok();
                closed += usize::from(done);
                // What could not be closed is tried again.
                !done
            }
        });
        closed
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// What is open, by who its peer is.
    #[derive(Default)]
    struct Open(BTreeMap<u32, Option<&'static str>>);

    impl Peers for Open {
        fn id(&mut self, connection: u32) -> Option<String> {
            self.0[&connection].map(|service| format!("spiffe://d.consul/ns/default/dc/aws/svc/{service}"))
        }

        fn close(&mut self, connection: u32) -> Result<(), HostError> {
            self.0.remove(&connection);
            Ok(())
        }
    }

    fn rules(services: &str) -> Vec<u8> {
        format!(r#"{{"trust_domain": "d.consul", "services": {services}}}"#).into_bytes()
    }

    #[test]
    fn only_those_who_are_denied_now_are_closed() {
        let (mut guard, mut open) = (Guard::default(), Open::default());
        for (connection, peer) in [(1, Some("web")), (2, Some("cron")), (3, None), (4, Some("web"))] {
            open.0.insert(connection, peer);
            guard.begin(connection);
        }
        assert_eq!(guard.look(&mut open), 0, "no rules yet");
        assert_eq!(guard.configure(&rules(r#"{"all_but": []}"#), &mut open).unwrap(), 0);
        guard.end(4);
        assert_eq!(guard.configure(&rules(r#"{"all_but": ["web"]}"#), &mut open).unwrap(), 1);
        assert_eq!(open.0.keys().collect::<Vec<_>>(), [&2, &3, &4]);
        // Who proves to be denied later is closed then, and nobody is looked at twice.
        open.0.insert(3, Some("web"));
        open.0.remove(&2);
        assert_eq!(guard.look(&mut open), 1);
        assert_eq!(guard.look(&mut open), 0);
        assert!(guard.configure(b"{}", &mut open).is_err());
    }

    #[test]
    fn who_may_stay_is_a_service_of_the_trust_domain() {
        let config = |services: &str| serde_json::from_slice::<GuardConfig>(&rules(services)).unwrap();
        let (only, all_but) = (config(r#"{"only": ["web"]}"#), config(r#"{"all_but": ["cron"]}"#));
        for (id, [one, two]) in [
            ("spiffe://d.consul/ns/default/dc/aws/svc/web", [true, true]),
            ("spiffe://d.consul/ns/default/dc/aws/svc/cron", [false, false]),
            ("spiffe://d.consul/ns/default/dc/aws/svc/other", [false, true]),
            ("spiffe://d.consul.evil/ns/default/dc/aws/svc/web", [false, false]),
            ("spiffe://other.consul/ns/default/dc/aws/svc/web", [false, false]),
            ("spiffe://d.consul/gateway/mesh/dc/aws", [false, false]),
            ("spiffe://d.consul/ns/default/dc/a/b/svc/web", [false, false]),
            ("spiffe://d.consul/ns/default/dc/aws/svc/web/more", [false, false]),
            ("spiffe://d.consul/ns/default/dc//svc/web", [false, false]),
            ("spiffe://d.consul/ns/default/dc/a,b/svc/web", [false, false]),
            ("spiffe://d.consul/ns/default/dc/aws/svc/my%20shop", [false, true]),
            ("spiffe://d.consul/ns/default/dc/aws/svc/my shop", [false, false]),
            ("spiffe://d.consul/ns/default/dc/aws/svc/cro%6E", [false, false]),
            ("spiffe://d.consul/ns/default/dc/aws/svc/cro%6e", [false, false]),
            ("", [false, false]),
        ] {
            assert_eq!([only.admits(id), all_but.admits(id)], [one, two], "{id}");
        }
    }
}
