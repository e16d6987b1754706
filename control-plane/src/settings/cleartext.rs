//! Where what the settings say has secrets cross a network in the clear: allowed, since a network may be private, and said.

use std::net::IpAddr;

use super::Settings;

/// Whether what goes to `host` leaves this machine, as far as its name tells.
pub(crate) fn crosses_a_network(host: &str) -> bool {
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    match host.parse::<IpAddr>() {
        Ok(address) => !address.to_canonical().is_loopback(),
        Err(_) => !host.eq_ignore_ascii_case("localhost"),
    }
}

impl Settings {
    /// Secrets that cross a network in the clear: the setting, and what is wrong with it and to be done.
    #[must_use]
    pub fn cleartext(&self) -> Vec<(&'static str, String)> {
        let mut found = Vec::new();
        if self.game_gateway.enabled
            && let Some(host) = self.redis.url.exposed_to()
        {
            let remedy = "use rediss:// with `redis.tls.ca_file`, or a Redis on this machine";
            found.push(("redis.url", format!("its password goes to {host} in the clear; {remedy}")));
        }
        let consul = self.consul.address.parse::<http::Uri>().ok();
        let consul =
            consul.filter(|uri| uri.scheme_str() == Some("http") && self.consul.token_file.is_some());
        if let Some(host) = consul.as_ref().and_then(http::Uri::host).filter(|host| crosses_a_network(host)) {
            let remedy = "use https:// with `consul.ca_file`, or the agent of this machine";
            found.push(("consul.address", format!("the token goes to {host} in the clear; {remedy}")));
        }
        let xds = &self.xds;
        if xds.token_file.is_some() && xds.tls.cert_file.is_none() && !xds.listen.ip().is_loopback() {
            let remedy = "set `xds.tls.cert_file` and `xds.tls.key_file`";
            let message = format!("proxies show their tokens on {} in the clear; {remedy}", xds.listen);
            found.push(("xds.token_file", message));
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(change: impl FnOnce(&mut Settings)) -> Vec<&'static str> {
        let mut settings = Settings::default();
        change(&mut settings);
        settings.cleartext().into_iter().map(|(path, _)| path).collect()
    }

    #[test]
    fn names_each_secret_that_leaves_the_machine_unencrypted() {
        assert!(found(|_| {}).is_empty());
        let redis = |url: &'static str| {
            found(move |s| (s.game_gateway.enabled, s.redis.url) = (true, url.parse().unwrap()))
        };
        assert_eq!(redis("redis://:secret@cache.internal"), ["redis.url"]);
        assert!(redis("rediss://:secret@cache.internal").is_empty());
        let consul = |address: &'static str, token: bool| {
            found(move |s| {
                s.consul.address = address.to_owned();
                s.consul.token_file = token.then(|| "/token".into());
            })
        };
        assert_eq!(consul("http://10.0.0.1:8500", true), ["consul.address"]);
        for quiet in
            ["http://127.0.0.1:8500", "http://[::1]:8500", "http://localhost:8500", "https://10.0.0.1:8501"]
        {
            assert!(consul(quiet, true).is_empty(), "{quiet}");
        }
        assert!(consul("http://10.0.0.1:8500", false).is_empty(), "there is no token");
        let xds = |listen: &'static str| {
            found(move |s| (s.xds.token_file, s.xds.listen) = (Some("/t".into()), listen.parse().unwrap()))
        };
        assert_eq!(xds("0.0.0.0:18000"), ["xds.token_file"]);
        assert!(xds("127.0.0.1:18000").is_empty());
    }
}
