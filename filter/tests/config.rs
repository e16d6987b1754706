//! The plugin configuration: what is read, what is refused and where the refusal points.

#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use realmgate_filter::config::Split;
use realmgate_filter::ranges::NumberSet;
use realmgate_filter::validate::{MAX_BYTES, MAX_ROUTES};
use realmgate_filter::{FilterConfig, Router};

fn refusal(json: &str) -> String {
    FilterConfig::from_json(json.as_bytes()).and_then(|config| Router::new(&config)).unwrap_err().to_string()
}

/// The refusal of a configuration with one good route and then this one.
fn route_refusal(route: &str) -> String {
    refusal(&format!(r#"{{"routes": [{{"server_type": 10, "to": [{{"cluster": "a"}}]}}, {route}]}}"#))
}

#[test]
fn what_is_left_out_has_defaults() {
    let json = br#"{"routes": [{"server_type": 200, "to": [{"cluster": "game"}]}]}"#;
    let config = FilterConfig::from_json(json).unwrap();
    assert_eq!((config.header_timeout_ms, config.max_message_bytes), (5000, 65_535));
    let route = &config.routes[0];
    assert_eq!((&route.worlds, &route.instances), (&NumberSet::Any, &NumberSet::Any));
    assert_eq!((route.hash_key, route.split, route.to[0].weight), (None, Split::Sticky, 1));
    for nothing in ["", " \n", "{}"] {
        assert_eq!(FilterConfig::from_json(nothing.as_bytes()).unwrap(), FilterConfig::default());
    }
}

#[test]
fn refusals_name_the_place() {
    let cases = [
        (r#"{"server_type": 256, "to": []}"#, "routes[1].server_type: invalid value"),
        (r#"{"server_type": 1, "to": []}"#, "routes[1].to: a route needs at least one destination"),
        (r#"{"server_type": 1}"#, "routes[1]: missing field `to`"),
        (r#"{"server_type": 1, "world": "1", "to": []}"#, "routes[1].world: unknown field `world`"),
        (
            r#"{"server_type": 1, "worlds": "1-32768", "to": [{"cluster": "a"}]}"#,
            "routes[1].worlds: 32768 is above 32767",
        ),
        (
            r#"{"server_type": 1, "instances": "256", "to": [{"cluster": "a"}]}"#,
            "routes[1].instances: 256 is above 255",
        ),
        (r#"{"server_type": 1, "worlds": "0", "to": [{"cluster": "a"}]}"#, "routes[1].worlds: 0 cannot"),
        (r#"{"server_type": 1, "worlds": "9-3", "to": [{"cluster": "a"}]}"#, "routes[1].worlds: range `9-3`"),
        (
            r#"{"server_type": 1, "to": [{"cluster": "a"}, {"cluster": "g-{wrld}"}]}"#,
            "routes[1].to[1].cluster: unknown placeholder {wrld}",
        ),
        (
            r#"{"server_type": 1, "to": [{"cluster": "a", "weight": 0}]}"#,
            "routes[1].to[0].weight: 0 is not from 1 to 1000000",
        ),
        (
            r#"{"server_type": 1, "to": [{"cluster": "a", "weight": 1000001}]}"#,
            "routes[1].to[0].weight: 1000001 is not",
        ),
        (
            r#"{"server_type": 1, "to": [{"cluster": "a{pick}"}]}"#,
            "routes[1].to[0].cluster: placeholder {pick} is known only in pick.cluster",
        ),
        (
            r#"{"server_type": 1, "to": [{"cluster": "a",
                "pick": {"strategy": "realm_based", "of": 0, "cluster": "a{pick}"}}]}"#,
            "routes[1].to[0].pick.of: 0 endpoints",
        ),
        (
            r#"{"server_type": 1, "to": [{"cluster": "a",
                "pick": {"strategy": "realm_based", "of": 3, "cluster": "a{pick"}}]}"#,
            "routes[1].to[0].pick.cluster: `a{pick` has a `{` without",
        ),
        (
            r#"{"server_type": 1, "to": [{"cluster": "a",
                "pick": {"strategy": "crc", "of": 3, "cluster": "a"}}]}"#,
            "routes[1].to[0].pick.strategy: unknown variant `crc`",
        ),
        (r#"{"server_type": 1, "hash_key": "ip", "to": []}"#, "routes[1].hash_key: unknown variant `ip`"),
    ];
    for (route, expected) in cases {
        let told = route_refusal(route);
        assert!(told.starts_with(expected), "{route}\n  told {told}\n  not  {expected}");
    }
}

#[test]
fn what_is_not_one_json_object_is_refused() {
    assert!(refusal("{").starts_with(".: EOF"), "{}", refusal("{"));
    assert_eq!(refusal("[5000, 0, []]"), ".: the configuration must be a JSON object");
    assert!(refusal("{} {}").starts_with(".: trailing characters"));
    assert!(refusal(r#"{"rotues": []}"#).starts_with("rotues: unknown field `rotues`"));
    let deep = refusal(&format!("{{\"routes\": {}", "[".repeat(100_000)));
    assert!(deep.starts_with("routes[0]"), "{deep}");
    assert!(refusal(&" ".repeat(MAX_BYTES + 1)).contains("at most"));
}

#[test]
fn sets_that_a_program_made_are_checked_too() {
    let mut config =
        FilterConfig::from_json(br#"{"routes": [{"server_type": 1, "to": [{"cluster": "a"}]}]}"#).unwrap();
    for ranges in [vec![], vec![(0, 3)], vec![(5, 4)], vec![(4, 9), (2, 3)], vec![(1, u16::MAX)]] {
        config.routes[0].worlds = NumberSet::Ranges(ranges);
        let error = Router::new(&config).unwrap_err();
        assert_eq!(error.place, "routes[0].worlds", "{error}");
    }
    config.routes[0].worlds = NumberSet::Any;
    config.routes = vec![config.routes[0].clone(); MAX_ROUTES + 1];
    assert_eq!(Router::new(&config).unwrap_err().place, "routes");
}

/// Text that looks like a configuration now and then.
fn json_like() -> impl Strategy<Value = Vec<u8>> {
    let token = prop::sample::select(vec![
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        "\"routes\"",
        "\"server_type\"",
        "\"worlds\"",
        "\"to\"",
        "\"cluster\"",
        "\"weight\"",
        "\"pick\"",
        "\"of\"",
        "\"{world}\"",
        "\"1-5,7\"",
        "\"any\"",
        "200",
        "-1",
        "1e99",
        "null",
        "{\"routes\":[{\"server_type\":1,\"to\":[{\"cluster\":\"",
        "\"}]}]}",
    ]);
    prop::collection::vec(token, 0..40).prop_map(|tokens| tokens.concat().into_bytes())
}

proptest! {
    #[test]
    fn no_bytes_panic(json in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = FilterConfig::from_json(&json).map(|config| Router::new(&config));
    }

    #[test]
    fn no_json_panics(json in json_like()) {
        let _ = FilterConfig::from_json(&json).map(|config| Router::new(&config));
    }

    #[test]
    fn no_sets_or_names_panic(worlds in ".{0,20}", instances in "[0-9, -]{0,12}", cluster in ".{0,12}") {
        let json = serde_json::json!({"routes": [
            {"server_type": 1, "worlds": worlds, "instances": instances, "to": [{"cluster": cluster}]}
        ]});
        if let Ok(config) = FilterConfig::from_json(json.to_string().as_bytes()) {
            let text = serde_json::to_vec(&config).unwrap();
            prop_assert_eq!(FilterConfig::from_json(&text).unwrap(), config);
        }
    }
}
