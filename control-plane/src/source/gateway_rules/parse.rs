//! What Redis says now and what was good before, made into the rules that are served. Pure.

use std::cmp::Ordering;
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::entry::{self, Flaw, Reason};
use super::{GatewayRule, GatewayRules, Refusal, RuleOrigin};

/// Largest rules document: 100,000 rules of 160 bytes.
pub(super) const MAX_DOCUMENT: usize = 16 << 20;

/// Most rules of one origin: three for every world there can be.
pub(super) const MAX_RULES: usize = 100_000;

/// Both Redis keys as they were read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reading {
    /// `routing:rules`, a JSON object; its first [`MAX_DOCUMENT`] + 1 bytes suffice.
    pub(super) rules: Stored<Vec<u8>>,
    /// `realm:mapping`, realm id to `host:port`.
    pub(super) mapping: Stored<BTreeMap<Vec<u8>, Mapped>>,
}

/// What stands in a field of the realm mapping.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Mapped {
    /// The value.
    Address(Vec<u8>),
    /// So many bytes, which are no address and were not fetched.
    TooLong(usize),
}

/// What stands at a Redis key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Stored<T> {
    /// Nothing.
    Missing,
    /// Something that is not worth fetching: another Redis type, or too large.
    Unusable(Flaw),
    /// The value.
    Present(T),
}

/// What is served from now on, and how well each origin could be read: an error says why its last good
/// rules are served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) rules: GatewayRules,
    pub(super) routing_rules: Result<(), String>,
    pub(super) realm_mapping: Result<(), String>,
}

/// Joins a reading with the rules that were good before it. Applying the same reading again changes nothing.
///
/// - A bad entry is refused alone; the last good rule of the same origin and key stays, unless a good rule
///   takes its match.
/// - Of two good rules of one origin for one server type and world, the lower key is served.
/// - An unreadable document keeps all last good rules of its origin.
/// - A *missing* rules key keeps the last good rules: an empty replica, a wrong database number or an expired
///   key must not wipe a fleet. An explicit `{}` removes them.
/// - A *missing* realm mapping is an empty one, for Redis has no empty hash: the last `HDEL` removes the key.
///   Only when the rules key is missing too does it look like an empty replica, and the last good stay.
pub(super) fn apply(reading: &Reading, previous: &GatewayRules) -> Outcome {
    let rules_missing = reading.rules == Stored::Missing;
    let rules = match &reading.rules {
        Stored::Missing => Said::Missing,
        Stored::Unusable(flaw) => Said::Unusable(flaw.clone()),
        Stored::Present(document) => read_rules(document).map_or_else(Said::Unusable, Said::Entries),
    };
    let mapping = match &reading.mapping {
        Stored::Missing if rules_missing => Said::Missing,
        Stored::Missing => Said::Entries(Vec::new()),
        Stored::Unusable(flaw) => Said::Unusable(flaw.clone()),
        Stored::Present(hash) => read_mapping(hash).map_or_else(Said::Unusable, Said::Entries),
    };
    let unheard = previous.unheard && !matches!(rules, Said::Entries(_));
    let mut settled = GatewayRules { unheard, ..GatewayRules::default() };
    let routing_rules = settle(RuleOrigin::Rules, rules, previous, &mut settled);
    let realm_mapping = settle(RuleOrigin::RealmMapping, mapping, previous, &mut settled);
    Outcome { rules: settled, routing_rules, realm_mapping }
}

/// One entry: its key and what it was read as.
type Candidate = (String, Result<GatewayRule, Flaw>);

/// What one origin says.
enum Said {
    Missing,
    Unusable(Flaw),
    Entries(Vec<Candidate>),
}

fn read_rules(document: &[u8]) -> Result<Vec<Candidate>, Flaw> {
    if document.len() > MAX_DOCUMENT {
        return Err(document_too_large(None));
    }
    let Object { entries, too_many } = serde_json::from_slice(document).map_err(|error| {
        let reason = if error.is_data() { Reason::WrongType } else { Reason::BadJson };
        Flaw::new(reason, format!("the document: {error}"))
    })?;
    if too_many {
        return Err(too_many_rules());
    }
    Ok(entries.into_iter().map(|(key, json)| (entry::clip_key(&key), entry::rule(&key, json))).collect())
}

fn read_mapping(hash: &BTreeMap<Vec<u8>, Mapped>) -> Result<Vec<Candidate>, Flaw> {
    if hash.len() > MAX_RULES {
        return Err(too_many_rules());
    }
    let read = |(field, value): (&Vec<u8>, &Mapped)| {
        let rule = match value {
            Mapped::Address(address) => entry::realm(field, address),
            Mapped::TooLong(length) => Err(entry::address_too_long(*length)),
        };
        (entry::clip_key(&String::from_utf8_lossy(field)), rule)
    };
    Ok(hash.iter().map(read).collect())
}

/// The flaw of a document that holds more than [`MAX_RULES`] entries.
pub(super) fn too_many_rules() -> Flaw {
    Flaw::new(Reason::OutOfRange, format!("the document: more than {MAX_RULES} rules"))
}

/// The flaw of a rules document that is longer than [`MAX_DOCUMENT`], of a length that Redis told or not.
pub(super) fn document_too_large(length: Option<usize>) -> Flaw {
    let length = length.map_or_else(String::new, |length| format!("{length} bytes, "));
    Flaw::new(Reason::OutOfRange, format!("the document: {length}more than {MAX_DOCUMENT} bytes"))
}

/// Adds what `origin` serves and refuses to `settled`; the error says why its last good rules are served.
fn settle(
    origin: RuleOrigin,
    said: Said,
    previous: &GatewayRules,
    settled: &mut GatewayRules,
) -> Result<(), String> {
    let last_good = || previous.rules.iter().filter(move |rule| rule.origin == origin);
    let known = last_good().count();
    let name = origin.redis_key();
    match said {
        Said::Entries(entries) => {
            let last_good = last_good().map(|rule| (rule.key.as_str(), rule)).collect();
            settle_entries(origin, entries, &last_good, settled);
            Ok(())
        }
        Said::Missing if known == 0 => Ok(()),
        Said::Missing => {
            settled.rules.extend(last_good().cloned());
            Err(format!(
                "`{name}` is missing in Redis; its last {known} good rules are served until it is written again"
            ))
        }
        Said::Unusable(flaw) => {
            settled.rules.extend(last_good().cloned());
            let kept = match known {
                0 => "no good rules of it are known".to_owned(),
                known => format!("its last {known} good rules are served"),
            };
            let why = format!("`{name}` cannot be used ({}); {kept}", flaw.detail);
            settled.refused.push(refusal(origin, String::new(), flaw, known > 0));
            Err(why)
        }
    }
}

fn settle_entries(
    origin: RuleOrigin,
    mut entries: Vec<Candidate>,
    last_good: &HashMap<&str, &GatewayRule>,
    settled: &mut GatewayRules,
) {
    entries.sort_by(|(a, _), (b, _)| compare_keys(a, b));
    let mut taken = HashMap::<(u8, Option<u16>), String>::new();
    let mut served = Vec::with_capacity(entries.len());
    let mut flawed = Vec::new();
    for (key, candidate) in entries {
        match candidate.and_then(|rule| claim(&mut taken, rule)) {
            Ok(rule) => served.push(rule),
            Err(flaw) => flawed.push((key, flaw)),
        }
    }
    // Only now, when every good rule has taken its place, may stale ones have what is left.
    for (key, flaw) in flawed {
        let stale = last_good.get(key.as_str()).and_then(|&rule| claim(&mut taken, rule.clone()).ok());
        settled.refused.push(refusal(origin, key, flaw, stale.is_some()));
        served.extend(stale);
    }
    served.sort_by(|a, b| compare_keys(&a.key, &b.key));
    settled.rules.append(&mut served);
}

/// Takes the rule's match, unless another rule has it.
fn claim(taken: &mut HashMap<(u8, Option<u16>), String>, rule: GatewayRule) -> Result<GatewayRule, Flaw> {
    match taken.entry((rule.server_type, rule.world)) {
        Entry::Vacant(free) => {
            free.insert(rule.key.clone());
            Ok(rule)
        }
        Entry::Occupied(other) => {
            let world = rule.world.map_or_else(|| "any world".to_owned(), |world| format!("world {world}"));
            let (server_type, other) = (rule.server_type, entry::quote(other.get()));
            let detail = format!("server type {server_type}, {world}: already routed by key {other}");
            Err(Flaw::new(Reason::Duplicate, detail))
        }
    }
}

fn refusal(origin: RuleOrigin, key: String, flaw: Flaw, last_good_served: bool) -> Refusal {
    let Flaw { reason, detail } = flaw;
    Refusal { origin, key, reason: reason.label().to_owned(), detail, last_good_served }
}

/// Numbers first and by value, then by text.
fn compare_keys(a: &str, b: &str) -> Ordering {
    let number = |key: &str| key.parse::<i64>().unwrap_or(i64::MAX);
    number(a).cmp(&number(b)).then_with(|| a.cmp(b))
}

/// The rules object, its values unread, so that a bad one spoils no other. Of a repeated key the last counts,
/// as in the old gateway.
struct Object<'a> {
    entries: BTreeMap<String, &'a RawValue>,
    /// Whether there were more than [`MAX_RULES`]; the rest is not kept.
    too_many: bool,
}

impl<'de> Deserialize<'de> for Object<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ObjectVisitor;
        impl<'de> Visitor<'de> for ObjectVisitor {
            type Value = Object<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of rules")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object<'de>, A::Error> {
                let mut object = Object { entries: BTreeMap::new(), too_many: false };
                while !object.too_many
                    && let Some((key, json)) = map.next_entry()?
                {
                    object.entries.insert(key, json);
                    object.too_many = object.entries.len() > MAX_RULES;
                }
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(object)
            }
        }
        deserializer.deserialize_map(ObjectVisitor)
    }
}

#[cfg(test)]
mod tests;
