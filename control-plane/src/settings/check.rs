//! What settings must fulfil together, beyond each one's own form.

use std::net::SocketAddr;
use std::path;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use super::{Consul, Delivery, MeshCa, PolicyStore, Redis, Settings, Xds};
use crate::model::Duration;
use crate::source::filter_module;
use crate::telemetry::visible::escaped;
use crate::xds::is_trust_domain;

/// Something wrong with a setting.
pub(super) struct Finding {
    pub(super) path: &'static str,
    pub(super) message: String,
}

/// Checks the settings and completes those that depend on where the process runs.
pub(super) fn check(settings: &mut Settings) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut refuse = |path, message| findings.push(Finding { path, message });

    check_xds(&settings.xds, &mut refuse);
    check_mesh(settings, &mut refuse);
    if !settings.api.listen.ip().is_loopback() && !settings.api.insecure {
        let lacking = "nobody who reaches it would have to authenticate";
        refuse("api.listen", open_to_all(settings.api.listen, lacking, "listen", "api"));
    }
    if settings.api.max_connections == 0 {
        refuse("api.max_connections", "it must be more than 0, such as 1024".to_owned());
    }
    if collide(settings.xds.listen, settings.api.listen) {
        refuse(
            "api.listen",
            format!("`{}` is taken by `xds.listen`; give each its own port", settings.api.listen),
        );
    }
    if let Some(health) = settings.edge.health_listen
        && settings.game_gateway.enabled
        && collide(health, settings.game_gateway.listen)
    {
        refuse(
            "edge.health_listen",
            format!("`{health}` is taken by `game_gateway.listen`; give each its own port"),
        );
    }
    if settings.edge.access_log.as_ref().is_some_and(|path| !path.is_absolute()) {
        refuse(
            "edge.access_log",
            "it is no absolute path; an Envoy's working directory is not ours".to_owned(),
        );
    }
    if settings.game_gateway.refresh_interval.is_zero() {
        refuse("game_gateway.refresh_interval", "it must be longer than 0, such as 10s".to_owned());
    }
    if !settings.game_gateway.trusted_proxies.0.is_empty() && !settings.game_gateway.proxy_protocol {
        refuse(
            "game_gateway.trusted_proxies",
            "it needs `game_gateway.proxy_protocol: true` beside it".to_owned(),
        );
    }
    if settings.edge.address_key_lifetime < Duration::from_secs(60) {
        let why = "it is shorter than 1m; each key is a new configuration of every edge's filter";
        refuse("edge.address_key_lifetime", why.to_owned());
    }
    if settings.data_dir.as_os_str().is_empty() {
        refuse("data_dir", "it is empty; name a directory, such as ./realmgate-data".to_owned());
    }
    if let Err(message) = check_level(&settings.log.level) {
        refuse("log.level", message);
    }
    check_redis(&settings.redis, &mut refuse);
    check_consul(&settings.consul, &mut refuse);
    check_policy(settings, &mut refuse);
    check_filter(settings, &mut refuse);
    findings
}

fn check_xds(xds: &Xds, refuse: &mut impl FnMut(&'static str, String)) {
    if xds.debounce > Duration::from_secs(10) {
        refuse("xds.debounce", "it is longer than 10s; changes would seem lost".to_owned());
    }
    let tls = &xds.tls;
    let authenticates = tls.client_ca_file.is_some() || xds.token_file.is_some();
    if !xds.listen.ip().is_loopback() && !xds.insecure {
        const WAYS: &str = "set `xds.tls.cert_file` and `xds.tls.key_file`, with `xds.tls.client_ca_file` or \
                            `xds.token_file`; or listen";
        if !authenticates {
            let lacking = "nobody who reaches it would have to authenticate";
            refuse("xds.listen", open_to_all(xds.listen, lacking, WAYS, "xds"));
        } else if tls.cert_file.is_none() {
            let lacking = "tokens would cross the network in the clear";
            refuse("xds.listen", open_to_all(xds.listen, lacking, WAYS, "xds"));
        }
    }
    for (path, file, needs, needed) in [
        ("xds.tls.cert_file", &tls.cert_file, "xds.tls.key_file", &tls.key_file),
        ("xds.tls.key_file", &tls.key_file, "xds.tls.cert_file", &tls.cert_file),
        ("xds.tls.client_ca_file", &tls.client_ca_file, "xds.tls.cert_file", &tls.cert_file),
        ("xds.tls.rules_file", &tls.rules_file, "xds.tls.client_ca_file", &tls.client_ca_file),
    ] {
        if file.is_some() && needed.is_none() {
            refuse(path, format!("it needs `{needs}` beside it"));
        }
    }
    if let Some(name) = tls.trust_domains().find(|name| !is_trust_domain(name)) {
        let form = "lower-case letters, digits, `.`, `-` and `_`, such as prod.example.com";
        refuse("xds.tls.trust_domains", format!("`{}` is no trust domain: {form}", escaped(name)));
    }
    if xds.max_connections == 0 {
        refuse("xds.max_connections", "it must be more than 0, such as 20000".to_owned());
    }
}

fn check_mesh(settings: &Settings, refuse: &mut impl FnMut(&'static str, String)) {
    let (mesh, xds) = (&settings.mesh, &settings.xds);
    let in_ids = |text: &str, more: &[u8]| {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || more.contains(&b);
        (1..=255).contains(&text.len()) && text.bytes().all(plain)
    };
    for (path, name) in [
        ("edge.service", settings.edge.service.to_ascii_lowercase()),
        ("mesh.trust_domain", mesh.trust_domain.clone()),
        ("mesh.datacenter", mesh.datacenter.clone()),
    ] {
        if !in_ids(&name, b"-_.") {
            refuse(
                path,
                format!("`{name}` cannot stand in a SPIFFE id: letters, digits, `-`, `_` and `.` can"),
            );
        }
    }
    if mesh.leaf_lifetime < Duration::from_secs(2) {
        refuse("mesh.leaf_lifetime", "it is shorter than 2s; certificates count in seconds".to_owned());
    }
    // The old root lives while the last leaf that it signed does.
    if mesh.root_lifetime.get() < mesh.leaf_lifetime.get() * 2 {
        let least = mesh.leaf_lifetime.get().as_secs() * 2;
        refuse("mesh.root_lifetime", format!("it is shorter than twice `mesh.leaf_lifetime`, {least}s"));
    }
    let unsaid = xds.tls.trust_domains().next().is_none() && mesh.ca == MeshCa::None;
    if xds.tls.client_ca_file.is_some() && xds.tls.cert_file.is_some() && unsaid {
        let why = "it is empty, and `mesh.ca: none` says no trust domain: write which trust domain the certificates of \
                   proxies are of, since an authority may sign for others, too";
        refuse("xds.tls.trust_domains", why.to_owned());
    }
    let authenticates = xds.tls.client_ca_file.is_some() || xds.token_file.is_some();
    let safe = xds.listen.ip().is_loopback() || xds.tls.cert_file.is_some() && authenticates;
    if mesh.ca != MeshCa::None && !safe {
        let why = "proxies get private keys from `xds.listen`, which is not on loopback: set `xds.tls.cert_file` and \
                   `xds.tls.key_file`, with `xds.tls.client_ca_file` or `xds.token_file`. `xds.insecure` does not \
                   allow it";
        refuse("mesh.ca", why.to_owned());
    }
    if mesh.ca == MeshCa::Consul && settings.consul.address.is_empty() {
        refuse("mesh.ca", "`consul` needs `consul.address` beside it".to_owned());
    }
}

fn check_policy(settings: &Settings, refuse: &mut impl FnMut(&'static str, String)) {
    if settings.policy.store == PolicyStore::Consul && settings.consul.address.is_empty() {
        refuse("policy.store", "`consul` needs `consul.address` beside it".to_owned());
    }
    let prefix = &settings.policy.consul_prefix;
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_./".contains(&b);
    if !prefix.ends_with('/') || prefix.starts_with('/') || !prefix.bytes().all(plain) {
        let form = "letters, digits, `-`, `_`, `.` and `/`, with a `/` at the end alone or between";
        refuse("policy.consul_prefix", format!("`{prefix}` is not like `realmgate/`: {form}"));
    }
}

fn check_redis(redis: &Redis, refuse: &mut impl FnMut(&'static str, String)) {
    let tls = &redis.tls;
    if redis.url.is_tls() {
        if tls.ca_file.is_none() {
            refuse("redis.tls.ca_file", "`redis.url` is rediss: name the file of its authorities".to_owned());
        }
    } else {
        for (path, file) in [
            ("redis.tls.ca_file", &tls.ca_file),
            ("redis.tls.cert_file", &tls.cert_file),
            ("redis.tls.key_file", &tls.key_file),
        ] {
            if file.is_some() {
                refuse(path, "it needs a `redis.url` that begins with rediss://".to_owned());
            }
        }
    }
    for (path, file, needs, needed) in [
        ("redis.tls.cert_file", &tls.cert_file, "redis.tls.key_file", &tls.key_file),
        ("redis.tls.key_file", &tls.key_file, "redis.tls.cert_file", &tls.cert_file),
    ] {
        if file.is_some() && needed.is_none() {
            refuse(path, format!("it needs `{needs}` beside it"));
        }
    }
}

fn check_consul(consul: &Consul, refuse: &mut impl FnMut(&'static str, String)) {
    if consul.address.is_empty() {
        for (path, given) in [
            ("consul.token_file", consul.token_file.is_some()),
            ("consul.ca_file", consul.ca_file.is_some()),
            ("consul.datacenter", !consul.datacenter.is_empty()),
        ] {
            if given {
                refuse(path, "it needs `consul.address` beside it".to_owned());
            }
        }
        return;
    }
    let uri = consul.address.parse::<http::Uri>().ok();
    let scheme = uri.as_ref().and_then(http::Uri::scheme_str);
    let whole = uri.as_ref().is_some_and(|uri| {
        // A user's name would be a secret in a place that is printed.
        let authority = uri.authority().is_some_and(|authority| !authority.as_str().contains('@'));
        authority && uri.path() == "/" && uri.query().is_none()
    });
    match scheme {
        Some("http" | "https") if whole => {}
        _ => {
            refuse(
                "consul.address",
                "it is not of the form http://host:port or https://host:port".to_owned(),
            );
        }
    }
    if scheme == Some("https") && consul.ca_file.is_none() {
        refuse("consul.ca_file", "`consul.address` is https: name the file of its authorities".to_owned());
    }
}

fn open_to_all(address: SocketAddr, lacking: &str, ways: &str, section: &str) -> String {
    format!(
        "`{address}` is not on loopback, and {lacking}: {ways} on 127.0.0.1:{}, or set \
         `{section}.insecure: true` if a firewall or network policy lets only the right peers through",
        address.port()
    )
}

/// Whether both cannot be bound on one machine; port 0 is any free one.
fn collide(a: SocketAddr, b: SocketAddr) -> bool {
    let same_ip = a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified();
    a.port() == b.port() && a.port() != 0 && same_ip
}

/// A single word that is no level would be taken for a module's name, and a typing error would end the log.
fn check_level(filter: &str) -> Result<(), String> {
    let is_word = |part: &&str| part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b':');
    let mut words = filter.split(',').map(str::trim).filter(is_word);
    if let Some(word) = words.find(|word| word.parse::<LevelFilter>().is_err()) {
        return Err(format!(
            "`{word}` is no level; write error, warn, info, debug or trace, or module=level"
        ));
    }
    EnvFilter::try_new(filter).map(drop).map_err(|e| format!("`{filter}`: {e}"))
}

fn check_filter(settings: &mut Settings, refuse: &mut impl FnMut(&'static str, String)) {
    let Settings { filter, data_dir, api, .. } = settings;
    // Envoy's working directory is not ours.
    if !filter.path.as_os_str().is_empty() {
        match path::absolute(&filter.path) {
            Ok(absolute) => filter.path = absolute,
            Err(e) => refuse("filter.path", format!("`{}`: {e}", filter.path.display())),
        }
    }
    if filter.delivery == Delivery::Http {
        let places = filter_module::places_here(&filter.path);
        // With a copy of an earlier run there is something to serve.
        if !places.iter().any(|place| place.is_file()) && !filter_module::has_copy(data_dir) {
            let message =
                "there is no such file, and `filter.delivery: http` has to read it; `make build` builds it";
            refuse("filter.path", format!("{}: {message}", filter_module::listed(&places)));
        }
        if filter.advertise.is_none() && api.listen.ip().is_unspecified() {
            let message = "set it to the host:port under which proxies reach the API: they cannot connect to";
            refuse("filter.advertise", format!("{message} `{}`", api.listen));
        }
    }
}
