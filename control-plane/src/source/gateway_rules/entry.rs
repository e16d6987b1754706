//! One entry of a Redis key read as a rule: a value of the rules object, or a field of the realm mapping.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::str;

use realmgate_wire::ServerId;
use serde_json::value::RawValue;

use super::{GatewayRule, RuleOrigin};
use crate::model::{Endpoint, Strategy};

/// The server type that the realm mapping is about: game servers.
const GAME: u8 = 200;

/// Longest key of a rule. Keys are small integers; they are kept in snapshots, metrics and logs.
const MAX_KEY: usize = 64;

/// Longest service name: it becomes part of a cluster's name, and so of every metric of that cluster.
const MAX_SERVICE_NAME: usize = 200;

/// Most endpoints of one rule; a rule is one cluster, and no game service comes near it.
const MAX_ENDPOINTS: usize = 10_000;

/// Longest `host:port`: a name of 253 bytes with its port, and then some.
pub(super) const MAX_ENDPOINT: usize = 300;

/// Bytes of a foreign value that a message repeats.
const MAX_QUOTE: usize = 80;

/// Bytes of a whole message.
const MAX_DETAIL: usize = 300;

/// Why an entry, or a whole document, cannot be served. Each has a stable label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    BadJson,
    WrongType,
    MissingField,
    OutOfRange,
    UnknownStrategy,
    BadEndpoint,
    Duplicate,
}

impl Reason {
    /// The label in metrics, logs and the API.
    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::BadJson => "bad_json",
            Self::WrongType => "wrong_type",
            Self::MissingField => "missing_field",
            Self::OutOfRange => "out_of_range",
            Self::UnknownStrategy => "unknown_strategy",
            Self::BadEndpoint => "bad_endpoint",
            Self::Duplicate => "duplicate",
        }
    }
}

/// What is wrong with an entry or a document, naming field and value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Flaw {
    pub(super) reason: Reason,
    pub(super) detail: String,
}

impl Flaw {
    pub(super) fn new(reason: Reason, detail: impl AsRef<str>) -> Self {
        Self { reason, detail: clip(detail.as_ref(), MAX_DETAIL) }
    }
}

/// The key as it is kept. One that is too long is cut to something longer than any key that is accepted, so
/// that it cannot be taken for another rule's.
pub(super) fn clip_key(key: &str) -> String {
    clip(key, MAX_KEY)
}

/// What another program says, as a message repeats it.
pub(super) fn clip_message(text: &str) -> String {
    clip(text, MAX_DETAIL)
}

/// The flaw of a realm whose value is so long that it was not fetched.
pub(super) fn address_too_long(length: usize) -> Flaw {
    Flaw::new(Reason::BadEndpoint, format!("address: {length} bytes, more than {MAX_ENDPOINT}"))
}

/// Reads a value of the rules object.
pub(super) fn rule(key: &str, json: &RawValue) -> Result<GatewayRule, Flaw> {
    check_key(key)?;
    let fields = Fields::read(json)?;
    let server_type = integer("server_type", fields.required("server_type")?, 0..=u8::MAX.into())?;
    let world = match fields.get("world_id") {
        None => 0,
        Some(json) => integer("world_id", json, 0..=ServerId::MAX_WORLD.into())?,
    };
    Ok(GatewayRule {
        origin: RuleOrigin::Rules,
        key: key.to_owned(),
        // Both are in range by now; the defaults only satisfy the compiler.
        server_type: u8::try_from(server_type).unwrap_or_default(),
        world: u16::try_from(world).ok().filter(|&world| world > 0),
        service: fields.service_name()?,
        strategy: fields.strategy()?,
        endpoints: fields.endpoints()?,
    })
}

/// Reads a field of the realm mapping: the world's only endpoint, for server type 200.
pub(super) fn realm(field: &[u8], address: &[u8]) -> Result<GatewayRule, Flaw> {
    let key = String::from_utf8_lossy(field);
    check_key(&key)?;
    // Digits only: `parse` alone would also take `+5`.
    let digits = !key.is_empty() && key.bytes().all(|b| b.is_ascii_digit());
    if !digits {
        let detail = format!("realm id: {} is not an integer", quote(&key));
        return Err(Flaw::new(Reason::WrongType, detail));
    }
    let Ok(world @ 1..=ServerId::MAX_WORLD) = key.parse() else {
        let detail = format!("realm id: {key} is not from 1 to {}", ServerId::MAX_WORLD);
        return Err(Flaw::new(Reason::OutOfRange, detail));
    };
    let endpoint = str::from_utf8(address)
        .map_err(|_| format!("{} is not UTF-8", quote(&String::from_utf8_lossy(address))))
        .and_then(endpoint)
        .map_err(|why| Flaw::new(Reason::BadEndpoint, format!("address: {why}")))?;
    Ok(GatewayRule {
        origin: RuleOrigin::RealmMapping,
        key: key.into_owned(),
        server_type: GAME,
        world: Some(world),
        service: "realm".to_owned(),
        strategy: Strategy::RoundRobin,
        endpoints: vec![endpoint],
    })
}

fn check_key(key: &str) -> Result<(), Flaw> {
    if key.len() > MAX_KEY {
        let detail = format!("key: {} bytes, more than {MAX_KEY}", key.len());
        return Err(Flaw::new(Reason::OutOfRange, detail));
    }
    Ok(())
}

/// The fields of one rule, unread. Unknown ones stay unread, and of a repeated one the last counts, both as
/// in the old gateway.
struct Fields<'a>(BTreeMap<String, &'a RawValue>);

impl<'a> Fields<'a> {
    fn read(json: &'a RawValue) -> Result<Self, Flaw> {
        let text = json.get();
        if !text.starts_with('{') {
            let detail = format!("the rule: {} is not an object", quote(text));
            return Err(Flaw::new(Reason::WrongType, detail));
        }
        serde_json::from_str(text)
            .map(Self)
            .map_err(|error| Flaw::new(Reason::BadJson, format!("the rule: {error}")))
    }

    /// The field's value; `null` counts as absent, as in the old gateway.
    fn get(&self, name: &str) -> Option<&'a RawValue> {
        self.0.get(name).copied().filter(|json| json.get() != "null")
    }

    fn required(&self, name: &str) -> Result<&'a RawValue, Flaw> {
        self.get(name).ok_or_else(|| Flaw::new(Reason::MissingField, format!("{name}: missing")))
    }

    fn service_name(&self) -> Result<String, Flaw> {
        let json = self.required("service_name")?;
        let name = string("service_name", json)?;
        let why = match name.len() {
            0 => return Err(Flaw::new(Reason::MissingField, "service_name: empty")),
            length if length > MAX_SERVICE_NAME => format!("{length} bytes, more than {MAX_SERVICE_NAME}"),
            // They would end up in cluster and metric names.
            _ if name.chars().any(char::is_control) => {
                format!("{} holds a control character", quote(json.get()))
            }
            _ => return Ok(name),
        };
        Err(Flaw::new(Reason::OutOfRange, format!("service_name: {why}")))
    }

    fn strategy(&self) -> Result<Strategy, Flaw> {
        let json = self.required("strategy")?;
        match string("strategy", json)?.as_str() {
            "round_robin" => Ok(Strategy::RoundRobin),
            "consistent_hash" => Ok(Strategy::ConsistentHash),
            "realm_based" => Ok(Strategy::RealmBased),
            _ => Err(Flaw::new(
                Reason::UnknownStrategy,
                format!(
                    "strategy: {} is none of round_robin, consistent_hash, realm_based",
                    quote(json.get())
                ),
            )),
        }
    }

    /// The endpoints, every one of them readable: the compatible hashes count them, so leaving one out would
    /// send players elsewhere, and there is a last good rule. Addresses that may be no endpoints are left out
    /// later (`mesh::endpoints`), and then it does: the policy and settings decide on them, whatever was last.
    fn endpoints(&self) -> Result<Vec<Endpoint>, Flaw> {
        let json = self.required("endpoints")?;
        let list: Vec<&RawValue> = serde_json::from_str(json.get()).map_err(|_| {
            Flaw::new(Reason::WrongType, format!("endpoints: {} is not a list", quote(json.get())))
        })?;
        if list.is_empty() {
            return Err(Flaw::new(Reason::MissingField, "endpoints: at least one is needed"));
        }
        if list.len() > MAX_ENDPOINTS {
            let detail = format!("endpoints: {} of them, more than {MAX_ENDPOINTS}", list.len());
            return Err(Flaw::new(Reason::OutOfRange, detail));
        }
        list.into_iter()
            .enumerate()
            .map(|(index, json)| {
                let name = format!("endpoints[{index}]");
                let text = string(&name, json)?;
                endpoint(&text).map_err(|why| Flaw::new(Reason::BadEndpoint, format!("{name}: {why}")))
            })
            .collect()
    }
}

fn integer(name: &str, json: &RawValue, range: RangeInclusive<i64>) -> Result<i64, Flaw> {
    let text = json.get();
    let digits = text.strip_prefix('-').unwrap_or(text);
    if !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(Flaw::new(Reason::WrongType, format!("{name}: {} is not an integer", quote(text))));
    }
    // What does not fit 64 bits is out of range too.
    text.parse().ok().filter(|number| range.contains(number)).ok_or_else(|| {
        let (low, high) = (range.start(), range.end());
        Flaw::new(Reason::OutOfRange, format!("{name}: {} is not from {low} to {high}", quote(text)))
    })
}

fn string(name: &str, json: &RawValue) -> Result<String, Flaw> {
    let text = json.get();
    if !text.starts_with('"') {
        return Err(Flaw::new(Reason::WrongType, format!("{name}: {} is not a string", quote(text))));
    }
    serde_json::from_str(text)
        .map_err(|_| Flaw::new(Reason::BadJson, format!("{name}: {} is not readable", quote(text))))
}

fn endpoint(text: &str) -> Result<Endpoint, String> {
    // The parser's own words repeat all that it is given.
    if text.len() > MAX_ENDPOINT {
        return Err(format!("{} is too long for host:port", quote(text)));
    }
    text.parse()
}

/// A foreign value as a message repeats it.
pub(super) fn quote(text: &str) -> String {
    format!("`{}`", clip(text, MAX_QUOTE))
}

/// At most `max` bytes of the text and a mark where it was cut, on one line whatever it holds.
fn clip(text: &str, max: usize) -> String {
    let end = (0..=max.min(text.len())).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0);
    let (kept, cut) = text.split_at_checked(end).unwrap_or_default();
    let mut clipped: String =
        kept.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect();
    if !cut.is_empty() {
        clipped.push('…');
    }
    clipped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<GatewayRule, Flaw> {
        rule("1", &serde_json::from_str::<Box<RawValue>>(json).unwrap())
    }

    const GOOD: &str = r#"{"server_type":10,"service_name":"account","strategy":"round_robin",
        "endpoints":["10.0.0.5:19711","[::1]:2"],"hash_key":7,"world_id":0,"added_later":{"x":[1]}}"#;

    #[test]
    fn reads_the_old_gateways_rule() {
        let rule = read(GOOD).unwrap();
        assert_eq!((rule.server_type, rule.world, rule.service.as_str()), (10, None, "account"));
        assert_eq!(rule.strategy, Strategy::RoundRobin);
        assert_eq!(
            rule.endpoints.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["10.0.0.5:19711", "[::1]:2"]
        );
        for (text, strategy) in
            [("consistent_hash", Strategy::ConsistentHash), ("realm_based", Strategy::RealmBased)]
        {
            assert_eq!(read(&GOOD.replace("round_robin", text)).unwrap().strategy, strategy);
        }
        let world = |value: &str| read(&GOOD.replace("\"world_id\":0", &format!("\"world_id\":{value}")));
        assert_eq!(world("32767").unwrap().world, Some(32_767));
        assert_eq!(world("null").unwrap().world, None);
    }

    #[test]
    fn names_the_field_and_the_value() {
        let cases = [
            ("7", "wrong_type", "the rule: `7` is not an object"),
            ("null", "wrong_type", "the rule: `null` is not an object"),
            ("{}", "missing_field", "server_type: missing"),
        ];
        for (json, label, detail) in cases {
            let flaw = read(json).unwrap_err();
            assert_eq!((flaw.reason.label(), flaw.detail.as_str()), (label, detail), "{json}");
        }
        let endpoints = r#"["10.0.0.5:19711","[::1]:2"]"#;
        let long = format!("\"{}\"", "x".repeat(201));
        let cases = [
            ("\"server_type\":10", "\"server_type\":256", "out_of_range", "server_type: `256`"),
            ("\"server_type\":10", "\"server_type\":-1", "out_of_range", "server_type: `-1`"),
            ("\"server_type\":10", "\"server_type\":\"10\"", "wrong_type", "server_type: `\"10\"`"),
            ("\"server_type\":10", "\"server_type\":10.0", "wrong_type", "server_type: `10.0`"),
            (
                "\"server_type\":10",
                "\"server_type\":99999999999999999999",
                "out_of_range",
                "server_type: `9999",
            ),
            ("\"server_type\":10", "\"server_type\":null", "missing_field", "server_type: missing"),
            ("\"account\"", "\"\"", "missing_field", "service_name: empty"),
            ("\"account\"", "[]", "wrong_type", "service_name: `[]`"),
            ("\"account\"", &long, "out_of_range", "service_name: 201 bytes"),
            ("\"account\"", "\"a\\nb\"", "out_of_range", "service_name: `\"a\\nb\"` holds"),
            ("\"account\"", "\"\\ud800\"", "bad_json", "service_name: `\"\\ud800\"`"),
            ("\"round_robin\"", "\"\"", "unknown_strategy", "strategy: `\"\"`"),
            ("\"round_robin\"", "\"random\"", "unknown_strategy", "strategy: `\"random\"`"),
            ("\"round_robin\"", "null", "missing_field", "strategy: missing"),
            (endpoints, "[]", "missing_field", "endpoints: at least one"),
            (endpoints, "\"a:1\"", "wrong_type", "endpoints: `\"a:1\"` is not a list"),
            (endpoints, "[\"a:1\",5]", "wrong_type", "endpoints[1]: `5`"),
            (endpoints, "[\"a:1\",\"b\"]", "bad_endpoint", "endpoints[1]: `b` is not host:port"),
            ("\"world_id\":0", "\"world_id\":32768", "out_of_range", "world_id: `32768`"),
            ("\"world_id\":0", "\"world_id\":-1", "out_of_range", "world_id: `-1`"),
        ];
        for (from, to, label, detail) in cases {
            let flaw = read(&GOOD.replace(from, to)).unwrap_err();
            assert_eq!(flaw.reason.label(), label, "{to}: {}", flaw.detail);
            assert!(flaw.detail.starts_with(detail), "{to}: {}", flaw.detail);
        }
    }

    #[test]
    fn reads_a_realm() {
        let rule = realm(b"7", b"game-7:9000").unwrap();
        assert_eq!((rule.server_type, rule.world, rule.service.as_str()), (200, Some(7), "realm"));
        assert_eq!((rule.origin, rule.endpoints.len()), (RuleOrigin::RealmMapping, 1));
        for (field, address, label) in [
            (&b"0"[..], &b"a:1"[..], "out_of_range"),
            (b"32768", b"a:1", "out_of_range"),
            (b"+5", b"a:1", "wrong_type"),
            (b"", b"a:1", "wrong_type"),
            (b"\xff", b"a:1", "wrong_type"),
            (b"7", b"", "bad_endpoint"),
            (b"7", b"\xff:1", "bad_endpoint"),
            (&[b'1'; 65], b"a:1", "out_of_range"),
        ] {
            assert_eq!(realm(field, address).unwrap_err().reason.label(), label, "{field:?}");
        }
    }

    #[test]
    fn messages_are_short_and_on_one_line() {
        let huge = format!("\"{}\\u000a\"", "é".repeat(1_000_000));
        let flaw = read(&GOOD.replace("\"10.0.0.5:19711\"", &huge)).unwrap_err();
        assert!(flaw.detail.len() <= MAX_DETAIL + '…'.len_utf8(), "{}", flaw.detail.len());
        assert_eq!(clip("a\nb", 10), "a\u{fffd}b");
        assert_eq!(clip("éé", 3), "é…");
        assert!(clip_key(&"1".repeat(100)).len() > MAX_KEY, "cannot equal a key that is accepted");
    }
}
