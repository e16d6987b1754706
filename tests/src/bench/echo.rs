//! What the filter costs: the edge with routes of all worlds against an Envoy that only passes bytes on.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::load;
use super::report::{Report, Samples};
use super::worlds::ranges;
use crate::cast::{game, servers, services, until_lands};
use crate::{Envoy, Failure, GameServer, Stage, TestNet};
use realmgate_wire::ServerId;

const ROUNDS: u32 = 5;
const MESSAGES: Duration = Duration::from_secs(3);
/// Shorter: each connection leaves a port behind that cannot be used again for a while.
const CONNECTIONS: Duration = Duration::from_secs(2);

const PLAIN_PLAYERS: u16 = 7001;
const PLAIN_ADMIN: u16 = 9902;

/// Measures; gives Envoy's version.
pub(super) async fn run(report: &mut Report) -> Result<String, Failure> {
    let stage = Stage::start(TestNet::alone(), &json!({}))?;
    let servers = servers(&stage.net, 4, 0).await;
    let policy = json!({"listeners": stage.listener(&json!({})), "services": services(&servers),
        "routes": ranges(&servers)});
    stage.control_plane.put_policy(&policy.to_string());
    let edge = stage.players();
    until_lands(edge, game(ServerId::MAX_WORLD, 1), Some("game-4"), Instant::now()).await;

    let plain = stage.net.at(PLAIN_PLAYERS);
    let bootstrap = plain_bootstrap(&stage.edge.config_dump(), plain, &servers)?;
    let admin = stage.net.at(PLAIN_ADMIN);
    let _plain = Envoy::with(stage.net.dir(), bootstrap, admin).name("plain").start()?;

    let mut rows = Vec::new();
    for (name, of_messages) in [("messages/s", true), ("new connections/s", false)] {
        let mut samples = [Samples::default(), Samples::default(), Samples::default()];
        for round in 1..=ROUNDS {
            let [by_edge, by_plain, ratio] = &mut samples;
            let (a, b) = if of_messages {
                (load::messages(edge, MESSAGES).await?, load::messages(plain, MESSAGES).await?)
            } else {
                (load::connections(edge, CONNECTIONS).await?, load::connections(plain, CONNECTIONS).await?)
            };
            println!("{name}, round {round} of {ROUNDS}: edge {a:.0}, plain {b:.0}, ratio {:.3}", a / b);
            by_edge.push(a);
            by_plain.push(b);
            ratio.push(a / b);
        }
        let [by_edge, by_plain, ratio] = &samples;
        rows.push(vec![name.to_owned(), by_edge.spread(0), by_plain.spread(0), ratio.spread(2)]);
    }
    report.echo = rows;
    let info = stage.edge.get("/server_info");
    let info: Value = serde_json::from_str(&info).map_err(Failure::because("Envoy's /server_info"))?;
    let version = info.get("version").and_then(Value::as_str).and_then(|text| text.split('/').nth(1));
    Ok(version.unwrap_or("of unknown version").to_owned())
}

/// The edge's own `tcp_proxy`, taken from its configuration so that both stay alike, without what only a
/// filter in front of it needs: it connects as soon as a client does.
fn plain_bootstrap(dump: &Value, bind: SocketAddr, servers: &[GameServer]) -> Result<String, Failure> {
    let mut proxy = tcp_proxy(dump).ok_or_else(|| Failure::new("the edge has no tcp_proxy"))?;
    if let Value::Object(settings) = &mut proxy {
        settings.retain(|key, _| {
            !["upstream_connect_mode", "max_early_data_bytes", "hash_policy"].contains(&&**key)
        });
        settings.insert("cluster".to_owned(), "game".into());
    }
    let address = |a: SocketAddr| json!({"socket_address": {"address": a.ip(), "port_value": a.port()}});
    let endpoints: Vec<_> =
        servers.iter().map(|s| json!({"endpoint": {"address": address(s.address())}})).collect();
    let bootstrap = json!({"static_resources": {
        "listeners": [{"name": "plain", "address": address(bind), "stat_prefix": "plain", "filter_chains": [
            {"filters": [{"name": "envoy.filters.network.tcp_proxy", "typed_config": proxy}]}]}],
        "clusters": [{"name": "game", "type": "STATIC", "connect_timeout": "5s", "load_assignment":
            {"cluster_name": "game", "endpoints": [{"lb_endpoints": endpoints}]}}],
    }});
    Ok(bootstrap.to_string())
}

fn tcp_proxy(dump: &Value) -> Option<Value> {
    let is = |map: &serde_json::Map<String, Value>| {
        map.get("@type").and_then(Value::as_str).is_some_and(|name| name.ends_with(".tcp_proxy.v3.TcpProxy"))
    };
    match dump {
        Value::Object(map) if is(map) => Some(dump.clone()),
        Value::Object(map) => map.values().find_map(tcp_proxy),
        Value::Array(items) => items.iter().find_map(tcp_proxy),
        _ => None,
    }
}
