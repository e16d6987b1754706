//! The Envoys beside the edge: its own `tcp_proxy` without a filter in front, and with the least that a filter can be.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use realmgate_filter::capabilities::{CALLS, EVENTS};
use serde_json::{Map, Value, json};

use super::compare::Proxy;
use super::host::STEPS;
use crate::bench::processors;
use crate::cast::GAME;
use crate::control_plane::merge_settings;
use crate::load::Mode;
use crate::{Envoy, Failure, Stage, TestNet, parts};

/// What stands in front of `tcp_proxy`, and when that connects.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind<'a> {
    /// Nothing; it connects as soon as a client does.
    Plain,
    /// Nothing; it connects with the client's first bytes, as it has to where a filter chooses the cluster.
    Delayed,
    /// A module: its name, and its text.
    Module(&'a str, &'a str),
    /// The same made with the Rust SDK (`tests/peers/sdk`).
    Sdk,
    /// Our filter, and nothing else that an edge has.
    Filter,
}

/// A module that does no more than has to be done to route.
const MINIMAL: Kind<'static> = Kind::Module("minimal", include_str!("minimal.wat"));
/// The same for exchanging headers.
const FRAMED: Kind<'static> = Kind::Module("framed", include_str!("framed.wat"));

/// The Envoys without our filter.
pub(super) struct Beside(Vec<(&'static str, SocketAddr, Envoy)>);

impl Beside {
    /// Those that all work is measured at.
    pub(super) fn start(
        net: &TestNet,
        edge: &Stage,
        servers: &[SocketAddr],
        framed: &[SocketAddr],
    ) -> Result<Self, Failure> {
        let kinds = [
            ("plain Envoy", Kind::Plain, servers),
            ("plain, connects with the first data", Kind::Delayed, servers),
            ("minimal module", MINIMAL, servers),
            ("minimal module with the Rust SDK", Kind::Sdk, servers),
            ("our filter in its place", Kind::Filter, servers),
            ("minimal module, server framing", FRAMED, framed),
        ];
        Self::of(net, edge, &kinds, 0)
    }

    /// The modules of the steps that are measured at this work, behind plain Envoy.
    pub(super) fn steps(
        net: &TestNet,
        edge: &Stage,
        servers: &[SocketAddr],
        mode: Mode,
    ) -> Result<Self, Failure> {
        let steps: Vec<_> = STEPS.iter().filter(|step| step.mode == mode).collect();
        let modules: Vec<_> =
            (1..).zip(&steps).map(|(n, step)| (format!("step-{n}"), step.module())).collect();
        let kinds = steps
            .iter()
            .zip(&modules)
            .map(|(step, (file, text))| (step.name, Kind::Module(file, text), servers));
        let plain = ("plain Envoy", Kind::Plain, servers);
        Self::of(net, edge, &[plain].into_iter().chain(kinds).collect::<Vec<_>>(), 20)
    }

    fn of(
        net: &TestNet,
        edge: &Stage,
        kinds: &[(&'static str, Kind<'_>, &[SocketAddr])],
        first: u16,
    ) -> Result<Self, Failure> {
        let dump = edge.edge.config_dump();
        let one = |(number, (name, kind, servers)): (u16, &(&'static str, Kind<'_>, &[SocketAddr]))| {
            let (at, admin) = (net.at(7001 + number), net.at(9902 + number));
            start(*kind, net, &dump, at, admin, servers).map(|envoy| (*name, at, envoy))
        };
        (first..).zip(kinds).map(one).collect::<Result<_, _>>().map(Self)
    }

    pub(super) fn proxies(&mut self) -> Vec<Proxy> {
        let proxy = |(name, at, envoy): &mut (&'static str, SocketAddr, Envoy)| Proxy {
            name,
            at: *at,
            pid: envoy.process().pid(),
        };
        self.0.iter_mut().map(proxy).collect()
    }

    /// What Envoy it is.
    pub(super) fn version(&self) -> String {
        let info = self.0.first().map(|(_, _, envoy)| envoy.get("/server_info")).unwrap_or_default();
        let info: Value = serde_json::from_str(&info).unwrap_or_default();
        let version = info.get("version").and_then(Value::as_str).and_then(|text| text.split('/').nth(1));
        version.unwrap_or("of unknown version").to_owned()
    }
}

/// Starts one beside the edge whose configuration is `dump`.
fn start(
    kind: Kind<'_>,
    net: &TestNet,
    dump: &Value,
    bind: SocketAddr,
    admin: SocketAddr,
    servers: &[SocketAddr],
) -> Result<Envoy, Failure> {
    let mut proxy = tcp_proxy(dump).ok_or_else(|| Failure::new("the edge has no tcp_proxy"))?;
    let delay = |key: &str| ["upstream_connect_mode", "max_early_data_bytes", "hash_policy"].contains(&key);
    proxy.retain(|key, _| kind != Kind::Plain || !delay(key));
    proxy.insert("cluster".to_owned(), "game".into());
    let mut filters = vec![json!({"name": "envoy.filters.network.tcp_proxy", "typed_config": proxy})];
    match kind {
        Kind::Plain | Kind::Delayed => {}
        Kind::Module(name, text) => filters.insert(0, module(net, name, text)?),
        Kind::Sdk => filters.insert(0, restricted(&parts::LEAST.find()?, &json!({}))),
        Kind::Filter => filters.insert(0, ours()?),
    }
    let address = |a: SocketAddr| json!({"socket_address": {"address": a.ip(), "port_value": a.port()}});
    let endpoints: Vec<_> = servers.iter().map(|s| json!({"endpoint": {"address": address(*s)}})).collect();
    let most = json!({"thresholds": [{"max_connections": 100_000, "max_pending_requests": 100_000}]});
    let bootstrap = json!({"static_resources": {
        "listeners": [{"name": "game", "address": address(bind), "filter_chains": [{"filters": filters}]}],
        "clusters": [{"name": "game", "type": "STATIC", "connect_timeout": "5s", "circuit_breakers": most,
            "load_assignment": {"cluster_name": "game", "endpoints": [{"lb_endpoints": endpoints}]}}],
    }});
    let name = match kind {
        Kind::Plain => "plain",
        Kind::Delayed => "delayed",
        Kind::Module(name, _) => name,
        Kind::Sdk => "sdk",
        Kind::Filter => "filter",
    };
    let mut envoy = Envoy::with(net.dir(), bootstrap.to_string(), admin).name(name).start()?;
    processors::keep(envoy.process().pid(), processors::PROXY)?;
    Ok(envoy)
}

fn module(net: &TestNet, name: &str, text: &str) -> Result<Value, Failure> {
    let module = wat::parse_str(text).map_err(Failure::because(name))?;
    let path = net.dir().join(format!("{name}.wasm"));
    fs::write(&path, module).map_err(Failure::because(name))?;
    Ok(wasm(&path, &json!({})))
}

/// Our filter with a route for all.
fn ours() -> Result<Value, Failure> {
    let config = json!({"access_log": false, "routes": [{"server_type": GAME, "to": [{"cluster": "game"}]}]});
    let text =
        json!({"@type": "type.googleapis.com/google.protobuf.StringValue", "value": config.to_string()});
    Ok(restricted(&parts::FILTER.find()?, &json!({"configuration": text})))
}

/// With no more than what our filter has to be told and may ask.
fn restricted(path: &Path, plugin: &Value) -> Value {
    let allowed: Map<_, _> =
        EVENTS.iter().chain(&CALLS).map(|name| ((*name).to_owned(), json!({}))).collect();
    let restriction = json!({"capability_restriction_config": {"allowed_capabilities": allowed}});
    let mut config = json!({"vm_config": restriction});
    merge_settings(&mut config, plugin);
    wasm(path, &config)
}

fn wasm(path: &Path, plugin: &Value) -> Value {
    let mut config = json!({"vm_config": {
        "runtime": "envoy.wasm.runtime.v8", "code": {"local": {"filename": path}}}});
    merge_settings(&mut config, plugin);
    json!({"name": "wasm", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.wasm.v3.Wasm", "config": config}})
}

fn tcp_proxy(dump: &Value) -> Option<Map<String, Value>> {
    let is = |map: &Map<String, Value>| {
        map.get("@type").and_then(Value::as_str).is_some_and(|name| name.ends_with(".tcp_proxy.v3.TcpProxy"))
    };
    match dump {
        Value::Object(map) if is(map) => Some(map.clone()),
        Value::Object(map) => map.values().find_map(tcp_proxy),
        Value::Array(items) => items.iter().find_map(tcp_proxy),
        _ => None,
    }
}
