//! What is kept of players beyond their sessions: their addresses, in access logs.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Problem;

/// What is kept of players.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Privacy {
    /// How edges write client addresses into their access logs. From or to `full` it replaces the listeners, which drains
    /// their live connections; between the others it spares them.
    pub client_addresses: ClientAddresses,
    /// Where it is another one: by the datacenter of the edge.
    pub datacenters: BTreeMap<String, ClientAddresses>,
}

/// How an address is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ClientAddresses {
    /// With its port.
    #[default]
    Full,
    /// Its network alone, a /24 of IPv4 and a /48 of IPv6.
    Truncated,
    /// 16 hexadecimal digits, the same for one address until the key changes (`edge.address_key_lifetime`).
    Hashed,
}

impl Privacy {
    /// Whether it says nothing.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// How edges of this datacenter write client addresses.
    #[must_use]
    pub fn client_addresses(&self, datacenter: &str) -> ClientAddresses {
        self.datacenters.get(datacenter).copied().unwrap_or(self.client_addresses)
    }

    /// What changes, in words, and what that does to live connections.
    pub(super) fn differences(&self, new: &Self) -> Vec<String> {
        let names = self.datacenters.keys().chain(new.datacenters.keys());
        let mut places: Vec<_> = names.map(|name| (format!(" of {name}"), name.as_str())).collect();
        places.sort_unstable();
        places.dedup();
        // No edge has this name that any of the above has.
        let others =
            [(String::new(), "")].into_iter().filter(|_| self.client_addresses != new.client_addresses);
        let changed = others.chain(places).filter_map(|(place, name)| {
            let (before, after) = match name {
                "" => (self.client_addresses, new.client_addresses),
                name => (self.client_addresses(name), new.client_addresses(name)),
            };
            let drains = (before == ClientAddresses::Full) != (after == ClientAddresses::Full);
            let effect =
                if drains { " (replaces the listeners there: their live connections drain)" } else { "" };
            (before != after).then(|| format!("~ privacy: client_addresses{place}{effect}"))
        });
        changed.collect()
    }

    pub(super) fn check(&self, found: &mut Vec<Problem>) {
        if self.datacenters.contains_key("") {
            found.push(Problem::at(
                "privacy.datacenters",
                "a datacenter without a name; `client_addresses` says what holds for all others",
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{diff, parse};

    #[test]
    fn a_datacenter_says_it_for_itself() {
        let policy =
            parse("privacy: {client_addresses: truncated, datacenters: {eu: hashed, us: full}}").unwrap();
        let shown = |datacenter: &str| format!("{:?}", policy.privacy.client_addresses(datacenter));
        assert_eq!(
            (shown("eu"), shown("us"), shown("asia")),
            ("Hashed".into(), "Full".into(), "Truncated".into())
        );
        let text = serde_json::to_string(&parse("{}").unwrap()).unwrap();
        assert!(!text.contains("privacy"), "what nobody asks for is not written: {text}");
        for (bad, why) in [
            ("privacy: {client_addresses: some}", "some"),
            ("privacy: {datacenters: {'': hashed}}", "without a name"),
            ("privacy: {addresses: hashed}", "addresses"),
        ] {
            let problems = parse(bad).unwrap_err();
            assert!(problems.iter().any(|problem| problem.to_string().contains(why)), "{problems:?}");
        }
    }

    #[test]
    fn a_difference_says_where_and_what_it_costs() {
        let policy = |privacy: &str| parse(&format!("privacy: {privacy}")).unwrap();
        let changes = |old: &str, new: &str| diff(&policy(old), &policy(new));
        assert!(changes("{}", "{client_addresses: full}").is_empty());
        let drains = "(replaces the listeners there: their live connections drain)";
        assert_eq!(
            changes("{}", "{client_addresses: hashed}"),
            [format!("~ privacy: client_addresses {drains}")]
        );
        assert_eq!(
            changes("{client_addresses: truncated}", "{client_addresses: hashed}"),
            ["~ privacy: client_addresses"]
        );
        assert_eq!(
            changes("{datacenters: {eu: hashed}}", "{datacenters: {us: truncated}}"),
            [
                format!("~ privacy: client_addresses of eu {drains}"),
                format!("~ privacy: client_addresses of us {drains}")
            ]
        );
    }
}
