//! What is served and refused, reading after reading.

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

use super::*;

fn document(json: &str) -> Reading {
    Reading { rules: Stored::Present(json.as_bytes().to_vec()), mapping: Stored::Missing }
}

fn mapping(pairs: &[(&str, &str)]) -> Stored<BTreeMap<Vec<u8>, Mapped>> {
    let bytes = |text: &str| text.as_bytes().to_vec();
    Stored::Present(
        pairs.iter().map(|(field, address)| (bytes(field), Mapped::Address(bytes(address)))).collect(),
    )
}

fn rule(server_type: u8, world: u16, host: &str) -> String {
    format!(
        r#"{{"server_type":{server_type},"service_name":"s","strategy":"round_robin",
            "endpoints":["{host}:1"],"world_id":{world}}}"#
    )
}

fn object(entries: &[(&str, &str)]) -> String {
    let entries: Vec<_> = entries.iter().map(|(key, rule)| format!("\"{key}\":{rule}")).collect();
    format!("{{{}}}", entries.join(","))
}

/// Key and first host of each served rule.
fn served(rules: &GatewayRules) -> Vec<(&str, &str)> {
    rules.rules.iter().map(|rule| (rule.key.as_str(), rule.endpoints[0].host())).collect()
}

/// Key, label and whether the last good is served, of each refusal.
fn refused(rules: &GatewayRules) -> Vec<(&str, &str, bool)> {
    rules.refused.iter().map(|r| (r.key.as_str(), r.reason.as_str(), r.last_good_served)).collect()
}

#[test]
fn reads_both_keys_in_a_settled_order() {
    let text = object(&[("100", &rule(1, 0, "c")), ("9", &rule(2, 0, "b")), ("x", &rule(3, 0, "d"))]);
    let reading = Reading {
        rules: Stored::Present(text.into_bytes()),
        mapping: mapping(&[("7", "e:1"), ("10", "f:1")]),
    };
    let outcome = apply(&reading, &GatewayRules::default());
    assert_eq!(served(&outcome.rules), [("9", "b"), ("100", "c"), ("x", "d"), ("7", "e"), ("10", "f")]);
    assert_eq!(refused(&outcome.rules), []);
    assert_eq!((outcome.routing_rules, outcome.realm_mapping), (Ok(()), Ok(())));
}

#[test]
fn a_bad_rule_keeps_its_last_good_version_and_its_neighbours() {
    let first = apply(
        &document(&object(&[("1", &rule(1, 0, "a")), ("2", &rule(2, 0, "b"))])),
        &GatewayRules::default(),
    );
    let text = object(&[("1", "{}"), ("2", &rule(2, 0, "b2")), ("3", "5")]);
    let second = apply(&document(&text), &first.rules);
    assert_eq!(served(&second.rules), [("1", "a"), ("2", "b2")]);
    assert_eq!(refused(&second.rules), [("1", "missing_field", true), ("3", "wrong_type", false)]);
    assert_eq!(second.routing_rules, Ok(()));
    let third = apply(&document(&object(&[("2", &rule(2, 0, "b2"))])), &second.rules);
    assert_eq!(served(&third.rules), [("2", "b2")], "a removed rule goes, good or stale");
}

#[test]
fn a_stale_rule_gives_way_to_a_good_one() {
    let first = apply(&document(&object(&[("1", &rule(1, 5, "a"))])), &GatewayRules::default());
    let second = apply(&document(&object(&[("1", "{}"), ("2", &rule(1, 5, "b"))])), &first.rules);
    assert_eq!(served(&second.rules), [("2", "b")]);
    assert_eq!(refused(&second.rules), [("1", "missing_field", false)]);
}

#[test]
fn the_lower_key_wins_a_match() {
    let same = |host: &str| rule(1, 5, host);
    let text = object(&[("10", &same("c")), ("x", &same("d")), ("9", &same("a")), ("09", &same("b"))]);
    let outcome = apply(&document(&text), &GatewayRules::default());
    assert_eq!(served(&outcome.rules), [("09", "b")]);
    let expected = [("9", "duplicate", false), ("10", "duplicate", false), ("x", "duplicate", false)];
    assert_eq!(refused(&outcome.rules), expected);
    assert_eq!(outcome.rules.refused[0].detail, "server type 1, world 5: already routed by key `09`");

    // Exact rule and realm mapping are ranked by whoever joins them, not refused.
    let reading = Reading {
        rules: Stored::Present(object(&[("1", &rule(200, 5, "a"))]).into_bytes()),
        mapping: mapping(&[("5", "b:1"), ("05", "c:1")]),
    };
    let outcome = apply(&reading, &GatewayRules::default());
    assert_eq!(served(&outcome.rules), [("1", "a"), ("05", "c")]);
}

#[test]
fn a_duplicate_keeps_the_match_it_had_before() {
    let first = apply(
        &document(&object(&[("1", &rule(1, 0, "a")), ("2", &rule(2, 0, "b"))])),
        &GatewayRules::default(),
    );
    let second = apply(&document(&object(&[("1", &rule(1, 0, "a")), ("2", &rule(1, 0, "b"))])), &first.rules);
    assert_eq!(served(&second.rules), [("1", "a"), ("2", "b")]);
    assert_eq!(second.rules.rules[1].server_type, 2);
    assert_eq!(refused(&second.rules), [("2", "duplicate", true)]);
}

#[test]
fn an_unreadable_document_keeps_everything() {
    let first = apply(&document(&object(&[("1", &rule(1, 0, "a"))])), &GatewayRules::default());
    for (text, label) in [
        ("", "bad_json"),
        ("{\"1\":", "bad_json"),
        ("{}x", "bad_json"),
        ("null", "wrong_type"),
        ("[]", "wrong_type"),
        (&" ".repeat(MAX_DOCUMENT + 1), "out_of_range"),
    ] {
        let outcome = apply(&document(text), &first.rules);
        assert_eq!(served(&outcome.rules), [("1", "a")], "{label}");
        assert_eq!(refused(&outcome.rules), [("", label, true)]);
        assert!(outcome.routing_rules.is_err());
    }
    let unusable = Flaw::new(Reason::WrongType, "a list");
    let reading = Reading { rules: Stored::Unusable(unusable), mapping: Stored::Missing };
    assert_eq!(served(&apply(&reading, &first.rules).rules), [("1", "a")]);
}

#[test]
fn too_many_rules_are_refused_together() {
    let entries: Vec<_> = (0..=MAX_RULES).map(|key| format!("\"{key}\":0")).collect();
    let outcome = apply(&document(&format!("{{{}}}", entries.join(","))), &GatewayRules::default());
    assert_eq!(refused(&outcome.rules), [("", "out_of_range", false)]);
}

#[test]
fn a_missing_key_keeps_and_an_empty_object_removes() {
    let missing = Reading { rules: Stored::Missing, mapping: Stored::Missing };
    let nothing = apply(&missing, &GatewayRules::default());
    assert_eq!(nothing.rules, GatewayRules::default());
    assert_eq!(nothing.routing_rules, Ok(()), "nothing known, nothing lost");

    let full = Reading {
        rules: Stored::Present(object(&[("1", &rule(1, 0, "a"))]).into_bytes()),
        mapping: mapping(&[("7", "b:1")]),
    };
    let full = apply(&full, &GatewayRules::default());
    let kept = apply(&missing, &full.rules);
    assert_eq!(kept.rules, full.rules);
    assert!(kept.routing_rules.is_err() && kept.realm_mapping.is_err());

    // The hash alone is still read while the rules are kept.
    let half = Reading { rules: Stored::Missing, mapping: mapping(&[("8", "c:1")]) };
    let half = apply(&half, &full.rules);
    assert_eq!(served(&half.rules), [("1", "a"), ("8", "c")]);
    assert!(half.routing_rules.is_err() && half.realm_mapping.is_ok());

    let removed = apply(&document("{}"), &full.rules);
    assert_eq!(removed.rules, GatewayRules::default(), "the missing hash is an empty one");
    assert_eq!((removed.routing_rules, removed.realm_mapping), (Ok(()), Ok(())));
}

/// Entries of a document: keys and worlds few enough to collide, one in two rules bad.
fn entries() -> impl Strategy<Value = BTreeMap<String, String>> {
    let bad =
        prop_oneof![Just("{}".to_owned()), Just("7".to_owned()), Just(r#"{"server_type":999}"#.to_owned()),];
    let good = (0..3u8, 0..3u16, "[a-c]").prop_map(|(kind, world, host)| rule(kind, world, &host));
    btree_map("[0-9]{1,2}|[a-b]", prop_oneof![bad, good], 0..8)
}

fn text(entries: &BTreeMap<String, String>) -> String {
    object(&entries.iter().map(|(key, rule)| (key.as_str(), rule.as_str())).collect::<Vec<_>>())
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(
        bytes in vec(any::<u8>(), 0..200),
        json in "[\\[\\]{}\":,0-9a-z\\\\ .-]{0,200}",
        field in vec(any::<u8>(), 0..80),
        address in vec(any::<u8>(), 0..80),
    ) {
        let before = apply(&document(&object(&[("1", &rule(1, 0, "a"))])), &GatewayRules::default());
        let mapping = Stored::Present(BTreeMap::from([(field, Mapped::Address(address))]));
        for document in [bytes, json.into_bytes()] {
            let reading = Reading { rules: Stored::Present(document), mapping: mapping.clone() };
            apply(&reading, &before.rules);
        }
    }

    #[test]
    fn any_value_is_read_or_refused_alone(
        json in "[0-9]{1,20}|true|\"[a-z\\n]*\"|\\[[0-9]?\\]|\\{\"server_type\":[0-9.e-]{1,6}\\}",
    ) {
        let text = object(&[("1", &rule(1, 0, "a")), ("2", &json)]);
        let outcome = apply(&document(&text), &GatewayRules::default());
        if outcome.routing_rules.is_ok() {
            prop_assert_eq!(served(&outcome.rules), [("1", "a")]);
            prop_assert_eq!(outcome.rules.refused.len(), 1);
        }
    }

    #[test]
    fn readings_settle(before in entries(), now in entries()) {
        let before = apply(&document(&text(&before)), &GatewayRules::default()).rules;
        let reading = document(&text(&now));
        let after = apply(&reading, &before).rules;
        prop_assert_eq!(&apply(&reading, &after).rules, &after, "the same reading again changes nothing");

        let mut matches: Vec<_> = after.rules.iter().map(|rule| (rule.server_type, rule.world)).collect();
        matches.sort_unstable();
        matches.dedup();
        prop_assert_eq!(matches.len(), after.rules.len(), "one rule for one match");

        // Every good rule is served, unless a good rule with a lower key has its match; bad ones change
        // nothing about that.
        let good: BTreeMap<_, _> =
            now.iter().filter(|(_, rule)| rule.contains("strategy")).map(|(k, r)| (k.clone(), r.clone())).collect();
        let alone = apply(&document(&text(&good)), &GatewayRules::default()).rules;
        for rule in &alone.rules {
            prop_assert!(after.rules.contains(rule), "lost {:?}", rule);
        }
        // Each entry is either served or refused, and nothing else is there.
        let accounted = after.rules.iter().map(|rule| &rule.key).chain(after.refused.iter().map(|r| &r.key));
        let mut accounted: Vec<_> = accounted.collect();
        accounted.sort_unstable();
        accounted.dedup();
        let mut keys: Vec<_> = now.keys().collect();
        keys.sort_unstable();
        prop_assert_eq!(accounted, keys);
    }
}
