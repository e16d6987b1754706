//! Services and their sidecars in a server's catalog.

use std::net::SocketAddr;

use serde_json::{Map, Value, json};

use super::{Consul, consul};
use crate::Failure;
use crate::control_plane::merge_settings;
use crate::process::Process;

/// A service instance to register: passing until told otherwise.
#[derive(Clone, Debug)]
pub struct Service(Value);

/// What a check says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// All is well.
    Passing,
    /// Serves, with less weight.
    Warning,
    /// Gets nothing.
    Critical,
}

impl Health {
    /// The word of the API.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Passing => "passing",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

impl Service {
    /// An instance of `name` at `address`.
    #[must_use]
    pub fn new(name: &str, id: &str, address: SocketAddr) -> Self {
        Self(json!({
            "Name": name,
            "ID": id,
            "Address": address.ip().to_string(),
            "Port": address.port(),
            // Long enough that no test outlives it: checks change when they are told to.
            "Checks": [{"CheckID": format!("service:{id}"), "TTL": "24h", "Status": "passing"}],
        }))
    }

    /// The sidecar of the instance `of` (its service and id), where it takes mTLS. Its id is `<id>-sidecar-proxy`; it is
    /// as well as the instance is.
    #[must_use]
    pub fn sidecar(name: &str, of: &str, address: SocketAddr, app: SocketAddr) -> Self {
        let id = format!("{of}-sidecar-proxy");
        Self::new(&format!("{name}-sidecar-proxy"), &id, address).with(&json!({
            "Kind": "connect-proxy",
            "Proxy": {
                "DestinationServiceName": name,
                "DestinationServiceID": of,
                "LocalServiceAddress": app.ip().to_string(),
                "LocalServicePort": app.port(),
            },
            "Checks": [
                {"CheckID": format!("service:{id}"), "TTL": "24h", "Status": "passing"},
                {"CheckID": format!("service:{id}:alias"), "AliasService": of},
            ],
        }))
    }

    /// Where other datacenters reach it.
    #[must_use]
    pub fn wan(self, address: SocketAddr) -> Self {
        let wan = json!({"Address": address.ip().to_string(), "Port": address.port()});
        self.with(&json!({"TaggedAddresses": {"wan": wan}}))
    }

    /// Metadata, which filters can ask for.
    #[must_use]
    pub fn meta(self, pairs: &[(&str, &str)]) -> Self {
        let meta: Map<_, _> = pairs.iter().map(|(key, value)| ((*key).to_owned(), json!(value))).collect();
        self.with(&json!({ "Meta": meta }))
    }

    /// Its weight while passing and while warning.
    #[must_use]
    pub fn weights(self, passing: u32, warning: u32) -> Self {
        self.with(&json!({"Weights": {"Passing": passing, "Warning": warning}}))
    }

    /// Any further fields of the registration.
    #[must_use]
    pub fn with(mut self, fields: &Value) -> Self {
        merge_settings(&mut self.0, fields);
        self
    }
}

impl Consul {
    /// Registers an instance at this server's node; again = replaces it.
    #[track_caller]
    pub fn register(&self, service: &Service) {
        self.put("/v1/agent/service/register", &service.0);
    }

    /// Registers an instance at a node of its own and without an agent, so that a restart of this server tells nothing of
    /// it.
    #[track_caller]
    pub fn register_afar(&self, name: &str, id: &str, address: SocketAddr) {
        let ip = address.ip().to_string();
        let service = json!({"ID": id, "Service": name, "Address": ip, "Port": address.port()});
        let check =
            json!({"CheckID": format!("service:{id}"), "Name": id, "ServiceID": id, "Status": "passing"});
        let all = json!({"Node": format!("node-of-{id}"), "Address": ip, "Service": service, "Check": check});
        self.put("/v1/catalog/register", &all);
    }

    /// Takes an instance or a sidecar out.
    #[track_caller]
    pub fn deregister(&self, id: &str) {
        self.put(&format!("/v1/agent/service/deregister/{id}"), &Value::Null);
    }

    /// Sets what the check of an instance or a sidecar says.
    #[track_caller]
    pub fn set_health(&self, id: &str, health: Health) {
        let path = format!("/v1/agent/check/update/service:{id}");
        self.put(&path, &json!({"Status": health.word()}));
    }

    /// Consul's own sidecar for the registered sidecar of the instance `id`: a peer that we did not write. It checks
    /// certificates and intentions itself and passes on to the app.
    pub fn connect_proxy(&self, id: &str) -> Result<Process, Failure> {
        let mut command = consul(self.config.namespace.as_deref())?;
        command.args(["connect", "proxy", "-sidecar-for", id, "-http-addr", &self.url()]);
        if let Some(token) = &self.config.token {
            command.env("CONSUL_HTTP_TOKEN", token);
        }
        Process::start(&format!("connect-proxy-{id}"), &mut command, &self.dir)
    }
}
