//! Which addresses may be endpoints, as settings say, and where we listen ourselves.

use std::net::{Ipv4Addr, SocketAddr};

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
}
