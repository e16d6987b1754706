//! What a policy may say and nobody should want.

use super::Policy;

/// A sentence for each.
#[must_use]
pub fn warnings(policy: &Policy) -> Vec<String> {
    let believes_all = policy.listeners.iter().filter(|l| l.proxy_protocol && l.trusted_proxies.is_empty());
    let warning = |name: &str| {
        format!(
            "listener {name}: `proxy_protocol` without `trusted_proxies`: whoever connects there directly can claim any address, and so \
             passes `allowed_clients` and the limits per address; name the load balancers' ranges"
        )
    };
    believes_all.map(|listener| warning(&listener.name)).collect()
}

#[cfg(test)]
mod tests {
    use super::warnings;
    use crate::model::{diff, parse};

    fn listener(more: &str) -> String {
        format!("listeners: [{{name: a, bind: 127.0.0.1:1, {more}}}]")
    }

    #[test]
    fn who_believes_everybody_is_told() {
        let told = |more: &str| warnings(&parse(&listener(more)).unwrap());
        assert!(told("proxy_protocol: true")[0].starts_with("listener a: `proxy_protocol` without"));
        assert!(told("proxy_protocol: false").is_empty());
        assert!(told("proxy_protocol: true, trusted_proxies: [10.0.0.0/8]").is_empty());
        let alone = parse(&listener("trusted_proxies: [10.0.0.0/8]")).unwrap_err();
        assert!(alone[0].to_string().contains("listeners[0].trusted_proxies: needs `proxy_protocol: true`"));
    }

    #[test]
    fn other_trusted_proxies_are_announced_as_a_drain() {
        let of = |more: &str| parse(&listener(&format!("proxy_protocol: true{more}"))).unwrap();
        let (all, some) = (of(""), of(", trusted_proxies: [10.0.0.0/8]"));
        let announced = ["~ listener a: trusted_proxies (replaces the listener: its live connections drain)"];
        assert_eq!(diff(&all, &some), announced);
        assert_eq!(diff(&some, &of(", trusted_proxies: [10.0.0.0/9]")), announced);
    }
}
