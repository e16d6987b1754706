//! Which addresses may be endpoints: what nobody is led to, what settings allow and deny to each source of endpoints, and
//! never ourselves. A player chooses the first bytes that an endpoint reads, so an endpoint is a place that players reach.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;

use super::Endpoint;
use super::host_names::{is_localhost, is_of_cloud};

/// Who says that there is an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum EndpointSource {
    /// The policy document.
    Policy,
    /// The rules of a game-gateway in Redis.
    GameGateway,
    /// Consul's catalog.
    Consul,
}

impl EndpointSource {
    /// All there are.
    pub const ALL: [Self; 3] = [Self::Policy, Self::GameGateway, Self::Consul];

    /// As in settings and metrics.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Policy => "policy",
            Self::GameGateway => "game_gateway",
            Self::Consul => "consul",
        }
    }
}

/// What one source may name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AddressRanges {
    /// Only these; empty = all.
    pub allow: Vec<IpNet>,
    /// Not these, whatever is allowed.
    pub deny: Vec<IpNet>,
}

/// A listener that no endpoint may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnListener {
    /// Where it listens.
    pub at: SocketAddr,
    /// What it is, for people.
    pub what: String,
}

/// Finds a listener of players that is reached at an address, and that they would be led back to.
pub(super) type LedBack<'a> = dyn Fn(IpAddr, u16) -> Option<&'a OwnListener> + 'a;

/// Why an address is no endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RefusedReason {
    /// `0.0.0.0` and `::` lead whoever connects to itself.
    Unspecified,
    /// Neighbours on the wire, and the metadata services of clouds.
    LinkLocal,
    /// Nobody accepts a connection there.
    Multicast,
    /// The same.
    Broadcast,
    /// One of our listeners, or the admin interface of an edge.
    OwnListener,
    /// In a range that settings deny, or outside of those that they allow.
    Denied,
}

impl RefusedReason {
    /// All there are.
    pub const ALL: [Self; 6] = [
        Self::Unspecified,
        Self::LinkLocal,
        Self::Multicast,
        Self::Broadcast,
        Self::OwnListener,
        Self::Denied,
    ];

    /// The label in metrics.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Unspecified => "unspecified",
            Self::LinkLocal => "link_local",
            Self::Multicast => "multicast",
            Self::Broadcast => "broadcast",
            Self::OwnListener => "own_listener",
            Self::Denied => "denied",
        }
    }
}

/// An address that is no endpoint, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedAddress {
    /// For metrics.
    pub reason: RefusedReason,
    detail: String,
}

impl fmt::Display for RefusedAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)
    }
}

/// Decides which addresses may be endpoints.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EndpointPolicy {
    /// Whether [`hardened`] ranges are denied to every source, and names to those whose names others write.
    pub hardened: bool,
    /// What the policy document may name.
    pub policy: AddressRanges,
    /// What rules in Redis may name.
    pub game_gateway: AddressRanges,
    /// What Consul may name.
    pub consul: AddressRanges,
    /// Our listeners, but for those of players.
    pub own: Vec<OwnListener>,
    /// The listener of the old gateway's rules, where they are followed.
    pub gateway: Option<SocketAddr>,
}

/// What the hardened preset denies: loopback, and the addresses at which clouds answer their machines, but for those that are
/// link-local and so refused anyway.
#[must_use]
pub fn hardened() -> Vec<IpNet> {
    let v4 = |octets: [u8; 4], bits| net(Ipv4Addr::from(octets).into(), bits);
    let v6 = |text: Ipv6Addr, bits| net(text.into(), bits);
    vec![
        v4([127, 0, 0, 0], 8),
        v6(Ipv6Addr::LOCALHOST, 128),
        // Azure's platform, Alibaba's and Oracle's metadata; over IPv6 AWS's, Google's, Oracle's, Scaleway's, Linode's and
        // Alibaba's.
        v4([168, 63, 129, 16], 32),
        v4([100, 100, 100, 200], 32),
        v4([192, 0, 0, 192], 32),
        v6(Ipv6Addr::new(0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0), 32),
        v6(Ipv6Addr::new(0xfd20, 0x00ce, 0, 0, 0, 0, 0, 0), 32),
        v6(Ipv6Addr::new(0xfd00, 0x00c1, 0, 0, 0, 0, 0, 0), 32),
        v6(Ipv6Addr::new(0xfd00, 0x0042, 0, 0, 0, 0, 0, 0x0042), 128),
        v6(Ipv6Addr::new(0xfd00, 0xa9fe, 0xa9fe, 0, 0, 0, 0, 0), 48),
        v6(Ipv6Addr::new(0xfd00, 0x0100, 0, 0, 0, 0, 0x0100, 0x0200), 128),
    ]
}

/// Prefixes that do not fit are cut; none of ours is.
fn net(address: IpAddr, bits: u8) -> IpNet {
    IpNet::new(address, bits).unwrap_or_else(|_| address.into())
}

impl EndpointPolicy {
    /// Whether this source may name this endpoint. `led` finds a listener at an address whose players would be led back there.
    pub fn check(
        &self,
        source: EndpointSource,
        endpoint: &Endpoint,
        led: &LedBack<'_>,
    ) -> Result<(), RefusedAddress> {
        match endpoint.ip() {
            Some(ip) => self.check_address(source, ip, endpoint.port(), led),
            None => self.check_name(source, endpoint.host(), endpoint.port(), led),
        }
    }

    /// The same of an address.
    pub fn check_address(
        &self,
        source: EndpointSource,
        ip: IpAddr,
        port: u16,
        led: &LedBack<'_>,
    ) -> Result<(), RefusedAddress> {
        let refuse = |reason, why: String| {
            Err(RefusedAddress { reason, detail: format!("`{}` {why}", SocketAddr::new(ip, port)) })
        };
        let meanings = meanings(ip);
        if let Some((reason, why)) = meanings.iter().find_map(|ip| nobody_there(*ip)) {
            return refuse(reason, why.to_owned());
        }
        let is_own = |own: &&OwnListener| meanings.iter().any(|ip| reaches(*ip, port, own.at));
        let players = || meanings.iter().find_map(|ip| led(*ip, port));
        if let Some(own) = self.own.iter().find(is_own).or_else(players) {
            return refuse(RefusedReason::OwnListener, format!("is {}", own.what));
        }
        let within =
            |nets: &[IpNet]| nets.iter().find(|net| meanings.iter().any(|ip| net.contains(ip))).copied();
        let AddressRanges { allow, deny } = self.of(source);
        let label = source.label();
        if let Some(net) = within(deny) {
            return refuse(RefusedReason::Denied, format!("is in {net}, which `endpoints.{label}.deny` has"));
        }
        if self.hardened
            && let Some(net) = within(&hardened())
        {
            return refuse(
                RefusedReason::Denied,
                format!("is in {net}, which `endpoints.preset: hardened` denies"),
            );
        }
        // What is allowed is the address to which Envoy connects, and not what a translator may make of it.
        let connected = ip.to_canonical();
        if !allow.is_empty() && !allow.iter().any(|net| net.contains(&connected)) {
            return refuse(RefusedReason::Denied, format!("is in no range of `endpoints.{label}.allow`"));
        }
        Ok(())
    }

    /// Whether this source may name this host, which Envoy resolves: where to, nobody checks.
    pub fn check_name(
        &self,
        source: EndpointSource,
        host: &str,
        port: u16,
        led: &LedBack<'_>,
    ) -> Result<(), RefusedAddress> {
        if is_localhost(host) {
            // What it means on every machine.
            for ip in [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)] {
                self.check_address(source, ip, port, led).map_err(|refused| RefusedAddress {
                    detail: format!("`{host}:{port}` leads to loopback: {refused}"),
                    ..refused
                })?;
            }
            return Ok(());
        }
        if is_of_cloud(host) {
            let detail = format!("`{host}:{port}` is where a cloud answers for the secrets of its machines");
            return Err(RefusedAddress { reason: RefusedReason::LinkLocal, detail });
        }
        let label = source.label();
        let why = if !self.of(source).allow.is_empty() {
            format!("`endpoints.{label}.allow` has ranges")
        } else if self.hardened && source == EndpointSource::GameGateway {
            "of `endpoints.preset: hardened`".to_owned()
        } else {
            return Ok(());
        };
        let detail = format!(
            "`{host}:{port}` is a name that Envoy resolves, and where to nobody can check; {why}: write addresses"
        );
        Err(RefusedAddress { reason: RefusedReason::Denied, detail })
    }

    const fn of(&self, source: EndpointSource) -> &AddressRanges {
        match source {
            EndpointSource::Policy => &self.policy,
            EndpointSource::GameGateway => &self.game_gateway,
            EndpointSource::Consul => &self.consul,
        }
    }
}

/// The address, and the IPv4 address that it stands for: mapped (`::ffff:0:0/96`), compatible (`::/96`), behind a translator
/// (NAT64, `64:ff9b::/96` and `64:ff9b:1::/48`) or of 6to4 (`2002::/16`).
fn meanings(ip: IpAddr) -> Vec<IpAddr> {
    let IpAddr::V6(v6) = ip else { return vec![ip] };
    let embedded = match v6.segments() {
        _ if v6.is_unspecified() || v6.is_loopback() => None,
        // Some stacks write mapped addresses with a zero behind the ones.
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low]
        | [0, 0, 0, 0, 0xffff, 0, high, low]
        | [0x64, 0xff9b, 0 | 1, _, _, _, high, low]
        | [0x2002, high, low, ..] => Some((high, low)),
        _ => None,
    };
    let v4 = embedded.map(|(high, low)| Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)));
    [ip].into_iter().chain(v4.map(IpAddr::V4)).collect()
}

/// Why nobody is led to this address, whatever settings say.
const fn nobody_there(ip: IpAddr) -> Option<(RefusedReason, &'static str)> {
    let (unspecified, link_local, multicast) = match ip {
        // The whole of 0.0.0.0/8 means this host.
        IpAddr::V4(v4) => (v4.octets()[0] == 0, v4.is_link_local(), v4.is_multicast()),
        IpAddr::V6(v6) => (v6.is_unspecified(), v6.is_unicast_link_local(), v6.is_multicast()),
    };
    if unspecified {
        return Some((
            RefusedReason::Unspecified,
            "is an unspecified address, which leads an edge to itself",
        ));
    }
    if link_local {
        return Some((
            RefusedReason::LinkLocal,
            "is a link-local address, at which clouds answer for the machine's secrets; no game server has one",
        ));
    }
    if multicast {
        return Some((RefusedReason::Multicast, "is a multicast address, to which nobody can connect"));
    }
    match ip {
        IpAddr::V4(v4) if v4.is_broadcast() => {
            Some((RefusedReason::Broadcast, "is the broadcast address, to which nobody can connect"))
        }
        _ => None,
    }
}

/// Whether who connects to this address reaches what listens there, as far as addresses tell.
fn reaches(ip: IpAddr, port: u16, listens: SocketAddr) -> bool {
    let at = listens.ip().to_canonical();
    port == listens.port() && (ip == at || at.is_unspecified() && ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn reason(policy: &EndpointPolicy, source: EndpointSource, text: &str) -> Option<RefusedReason> {
        let endpoint: Endpoint = text.parse().unwrap();
        policy.check(source, &endpoint, &|_, _| None).err().map(|refused| refused.reason)
    }

    #[test]
    fn nobody_is_led_where_no_game_server_is() {
        use RefusedReason::{Broadcast, LinkLocal, Multicast, Unspecified};
        let open = EndpointPolicy::default();
        for (text, wanted) in [
            ("0.0.0.0:1", Some(Unspecified)),
            ("0.1.2.3:1", Some(Unspecified)),
            ("[::]:1", Some(Unspecified)),
            ("[::ffff:0.0.0.0]:1", Some(Unspecified)),
            ("169.254.169.254:80", Some(LinkLocal)),
            ("[::ffff:169.254.169.254]:80", Some(LinkLocal)),
            ("[::169.254.169.254]:80", Some(LinkLocal)),
            ("[::ffff:0:169.254.169.254]:80", Some(LinkLocal)),
            ("[64:ff9b::a9fe:a9fe]:80", Some(LinkLocal)),
            ("[64:ff9b:1::a9fe:a9fe]:80", Some(LinkLocal)),
            ("[2002:a9fe:a9fe::1]:80", Some(LinkLocal)),
            ("[fe80::1]:80", Some(LinkLocal)),
            ("[febf::1]:80", Some(LinkLocal)),
            ("224.0.0.1:1", Some(Multicast)),
            ("[ff02::1]:1", Some(Multicast)),
            ("255.255.255.255:1", Some(Broadcast)),
            ("127.0.0.1:1", None),
            ("[::1]:1", None),
            ("localhost:1", None),
            ("10.0.0.1:1", None),
            ("[fd00:ec2::254]:80", None),
            ("game.example.com:1", None),
        ] {
            for source in EndpointSource::ALL {
                assert_eq!(reason(&open, source, text), wanted, "{text}");
            }
        }
    }

    #[test]
    fn what_listens_for_us_is_no_endpoint() {
        let own = |at: &str| OwnListener { at: at.parse().unwrap(), what: "ours".to_owned() };
        let policy = EndpointPolicy {
            own: vec![own("127.0.0.1:18000"), own("0.0.0.0:9090"), own("[::1]:5"), own("[::]:6")],
            ..EndpointPolicy::default()
        };
        for text in [
            "127.0.0.1:18000",
            "[::ffff:127.0.0.1]:18000",
            "localhost:18000",
            "LOCALHOST.:18000",
            "a.localhost:18000",
            "127.9.9.9:9090",
            "[::1]:9090",
            "localhost:5",
            "127.0.0.1:6",
        ] {
            let refused = reason(&policy, EndpointSource::Consul, text);
            assert_eq!(refused, Some(RefusedReason::OwnListener), "{text}");
        }
        for text in ["127.0.0.1:18001", "127.0.0.2:18000", "10.0.0.1:9090", "example.com:18000"] {
            assert_eq!(reason(&policy, EndpointSource::Consul, text), None, "{text}");
        }
        let listener = own("10.0.0.9:7000");
        let led = |ip, port| (SocketAddr::new(ip, port) == listener.at).then_some(&listener);
        let at = "10.0.0.9:7000".parse().unwrap();
        let refused = policy.check(EndpointSource::Policy, &at, &led).unwrap_err();
        assert_eq!(refused.to_string(), "`10.0.0.9:7000` is ours");
    }

    #[test]
    fn settings_allow_and_deny_by_source() {
        use EndpointSource::{Consul, GameGateway, Policy};
        let nets = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<IpNet>>();
        let policy = EndpointPolicy {
            game_gateway: AddressRanges { allow: nets(&["10.0.0.0/8"]), deny: nets(&["10.1.0.0/16"]) },
            consul: AddressRanges { deny: nets(&["fc00::/7"]), ..AddressRanges::default() },
            ..EndpointPolicy::default()
        };
        for (source, text, refused) in [
            (GameGateway, "10.0.0.1:1", false),
            (GameGateway, "[::ffff:10.0.0.1]:1", false),
            (GameGateway, "10.1.0.1:1", true),
            (GameGateway, "192.0.2.1:1", true),
            (GameGateway, "example.com:1", true),
            (GameGateway, "localhost:1", true),
            (Policy, "10.1.0.1:1", false),
            (Policy, "example.com:1", false),
            (Consul, "[fd00::1]:1", true),
            (Consul, "10.1.0.1:1", false),
        ] {
            assert_eq!(reason(&policy, source, text).is_some(), refused, "{source:?} {text}");
        }
    }

    #[test]
    fn only_an_address_that_is_in_a_range_is_allowed() {
        let net = "10.0.0.0/8".parse().unwrap();
        let consul = AddressRanges { allow: vec![net], ..AddressRanges::default() };
        let policy = EndpointPolicy { consul, ..EndpointPolicy::default() };
        for (text, allowed) in [
            ("10.0.0.1:1", true),
            ("[::ffff:10.0.0.1]:1", true),
            ("[2002:a00:1::1]:1", false),
            ("[64:ff9b::a00:1]:1", false),
            ("[64:ff9b:1:1:2:3:a00:1]:1", false),
            ("[::10.0.0.1]:1", false),
            ("[::ffff:0:10.0.0.1]:1", false),
        ] {
            assert_eq!(reason(&policy, EndpointSource::Consul, text).is_none(), allowed, "{text}");
        }
    }

    #[test]
    fn the_hardened_set_denies_loopback_and_every_clouds_metadata() {
        let policy = EndpointPolicy { hardened: true, ..EndpointPolicy::default() };
        for text in [
            "127.0.0.1:1",
            "[::1]:1",
            "localhost:1",
            "[::ffff:127.0.0.1]:1",
            "168.63.129.16:80",
            "[64:ff9b::a83f:8110]:80",
            "100.100.100.200:80",
            "192.0.0.192:80",
            "[fd00:ec2::254]:80",
            "[fd20:ce::254]:80",
            "[fd00:c1::a9fe:a9fe]:80",
            "[fd00:ec2::23]:80",
            "169.254.170.2:80",
        ] {
            for source in EndpointSource::ALL {
                assert!(reason(&policy, source, text).is_some(), "{text}");
            }
        }
        assert_eq!(reason(&policy, EndpointSource::Policy, "game.example.com:1"), None);
        assert!(reason(&policy, EndpointSource::GameGateway, "game.example.com:1").is_some());
        assert_eq!(reason(&policy, EndpointSource::Consul, "10.0.0.1:1"), None);
    }

    proptest! {
        /// However an IPv4 address is written, it is the same place.
        #[test]
        fn every_form_of_an_address_is_decided_alike(bits: u32, port in 1..10_u16, hardened: bool) {
            let v4 = Ipv4Addr::from_bits(bits);
            let own = OwnListener { at: (Ipv4Addr::UNSPECIFIED, 7).into(), what: String::new() };
            let policy = EndpointPolicy { hardened, own: vec![own], ..EndpointPolicy::default() };
            let decided = |ip| {
                let checked = policy.check_address(EndpointSource::Consul, ip, port, &|_, _| None);
                checked.err().map(|refused| refused.reason)
            };
            let [a, b, c, d] = v4.octets();
            let [high, low] = [u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])];
            for form in [
                v4.to_ipv6_mapped(),
                Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, high, low),
                Ipv6Addr::new(0x2002, high, low, 0, 0, 0, 0, 1),
            ] {
                prop_assert_eq!(decided(v4.into()), decided(form.into()), "{} {}", v4, form);
            }
        }
    }
}
