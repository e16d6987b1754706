//! What docs/ says of the filter's JSON and of the header is what the code does.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)] // a test fails by panicking

use std::collections::BTreeSet;

use realmgate_filter::config::FilterConfig;
use realmgate_filter::route::Router;
use realmgate_wire::{ClientHeader, Parsed};
use serde_json::Value;

const FILTER: &str = include_str!("../../docs/filter.md");
const HEADER: &str = include_str!("../../docs/header.md");

fn block<'a>(text: &'a str, before: &str) -> &'a str {
    text.split_once(before).unwrap().1.split_once("```").unwrap().0
}

/// The keys of all objects below, but for those of a pick, which has no table.
fn keys(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                found.insert(key.clone());
                if key != "pick" {
                    keys(value, found);
                }
            }
        }
        Value::Array(values) => values.iter().for_each(|value| keys(value, found)),
        _ => {}
    }
}

#[test]
fn the_documented_configuration_is_taken_and_every_key_has_a_row() {
    let example: FilterConfig = serde_json::from_str(block(FILTER, "```json\n")).unwrap();
    Router::new(&example).unwrap();
    // What is at its default is not written: of all that there is, nothing may be.
    let mut all = FilterConfig { access_log: false, ..example };
    all.routes[1].split = realmgate_filter::config::Split::Random;
    let mut written = BTreeSet::new();
    keys(&serde_json::to_value(&all).unwrap(), &mut written);
    let rows = FILTER.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` |"));
    let documented: BTreeSet<_> = rows.map(|(key, _)| key.to_owned()).collect();
    assert_eq!(documented, written);
    let pick = serde_json::to_value(all.routes[2].to[0].pick.clone().unwrap()).unwrap();
    for key in pick.as_object().unwrap().keys() {
        assert!(FILTER.contains(&format!("`{key}`, ")), "{key} of a pick");
    }
}

#[test]
fn the_documented_bytes_are_the_documented_header() {
    let line = block(HEADER, "instance 2:\n\n```\n").lines().next().unwrap();
    let bytes = line.split_whitespace().filter_map(|byte| u8::from_str_radix(byte, 16).ok());
    let Parsed::Complete(header) = ClientHeader::parse(&bytes.collect::<Vec<_>>()) else { panic!("{line}") };
    let id = header.server_id;
    assert_eq!((header.body_len, header.message_id, id.0), (5, 4097, 0x8001_c802));
    assert_eq!((id.compressed(), id.world(), id.server_type(), id.instance()), (true, 1, 200, 2));
    assert!(HEADER.contains("0x8001c802"));
}
