//! Which addresses may be endpoints, as settings say, and where we listen ourselves.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use http::Uri;

use crate::model::{AddressRanges, EndpointPolicy, OwnListener};
use crate::settings::{EndpointPreset, EndpointRanges, Settings};

/// What settings make of endpoints.
pub(super) fn policy(settings: &Settings) -> EndpointPolicy {
    let ranges = |EndpointRanges { allow, deny }: &EndpointRanges| AddressRanges {
        allow: allow.0.clone(),
        deny: deny.0.clone(),
    };
    let endpoints = &settings.endpoints;
    let gateway = &settings.game_gateway;
    EndpointPolicy {
        hardened: endpoints.preset == EndpointPreset::Hardened,
        policy: ranges(&endpoints.policy),
        game_gateway: ranges(&endpoints.game_gateway),
        consul: ranges(&endpoints.consul),
        own: own(settings).map(|(at, what)| OwnListener { at, what: what.to_owned() }).collect(),
        gateway: gateway.enabled.then_some(gateway.listen),
    }
}

fn own(settings: &Settings) -> impl Iterator<Item = (SocketAddr, &'static str)> {
    const ADMIN: &str =
        "an edge's admin interface, which ends the edge when it is asked to (`edge.admin_ports`)";
    // A port alone is known of them, so any address of loopback may be it.
    let admin = |port: &u16| (SocketAddr::from((Ipv4Addr::UNSPECIFIED, *port)), ADMIN);
    [
        (settings.xds.listen, "where this control plane serves proxies (`xds.listen`)"),
        (settings.api.listen, "this control plane's API (`api.listen`)"),
    ]
    .into_iter()
    .chain(settings.edge.health_listen.map(|at| (at, "the edges' health listener (`edge.health_listen`)")))
    .chain(settings.edge.admin_ports.0.iter().map(admin))
    .chain(sources(settings))
}

/// What rules and policies are read from: whoever is led there as a player speaks to it as the edge's machine may.
fn sources(settings: &Settings) -> impl Iterator<Item = (SocketAddr, &'static str)> + use<> {
    let consul = addresses(&settings.consul.address, 8500);
    let url = settings.redis.url.expose();
    let redis = if settings.game_gateway.enabled { addresses(url, 6379) } else { Vec::new() };
    let consul = consul.into_iter().map(|at| (at, "the Consul that we ask (`consul.address`)"));
    consul.chain(redis.into_iter().map(|at| (at, "the Redis that rules are read from (`redis.url`)")))
}

/// Where a URL leads to, as far as that can be told without asking for its name.
fn addresses(url: &str, usual_port: u16) -> Vec<SocketAddr> {
    let Ok(url) = url.parse::<Uri>() else { return Vec::new() };
    let port = url.port_u16().or_else(|| match url.scheme_str() {
        Some("http") => Some(80),
        Some("https") => Some(443),
        _ => None,
    });
    let port = port.unwrap_or(usual_port);
    let host = url.host().unwrap_or_default().trim_matches(['[', ']']);
    if host == "localhost" {
        return vec![(Ipv4Addr::LOCALHOST, port).into(), (Ipv6Addr::LOCALHOST, port).into()];
    }
    host.parse::<IpAddr>().map(|ip| (ip, port).into()).into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_rules_come_from_is_told() {
        let told = |url| addresses(url, 6379).iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(told("http://127.0.0.1:8500"), ["127.0.0.1:8500"]);
        assert_eq!(told("https://[fd00::7]"), ["[fd00::7]:443"]);
        assert_eq!(told("rediss://someone:secret@10.0.0.1/0"), ["10.0.0.1:6379"]);
        assert_eq!(told("redis://localhost:7"), ["127.0.0.1:7", "[::1]:7"]);
        assert!(told("").is_empty() && told("redis+unix:///run/redis.sock").is_empty());
        assert!(told("http://consul.example:8500").is_empty(), "its name may be anywhere");
    }
}
