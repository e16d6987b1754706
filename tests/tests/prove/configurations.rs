//! Thousands of configurations of the filter, one after the other: an edge that changes once a second for a day.

use std::time::Duration;

use realmgate_tests::filter_file::{FilterFile, Part};
use realmgate_tests::{parts, wait_until};

const CHANGES: u64 = 5000;

/// What is measured at first and at last.
const WHILE: Duration = Duration::from_secs(2);

fn stays_as_it_was(version: Option<&str>, part: Part) {
    let mut edge = FilterFile::start(version, &parts::FILTER.find().unwrap(), part).unwrap();
    let before = edge.activity(WHILE);
    let mut memory = 0;
    for number in 0..CHANGES {
        edge.change();
        if number % 10 == 0 {
            edge.knock().unwrap();
        }
        if number == CHANGES / 10 {
            memory = edge.resident_kib();
        }
    }
    let mut after = before;
    wait_until("it is as quiet as at first", Duration::from_secs(30), || {
        after = edge.activity(WHILE);
        after.wakeups < before.wakeups + 100 && after.ticks < before.ticks + 4
    });
    // Envoy itself keeps a kilobyte or two for each configuration of a plugin, whatever module it is of.
    let grown = edge.resident_kib().saturating_sub(memory) * 1024 / (CHANGES - CHANGES / 10);
    println!("{version:?} {part:?}: {before:?}, {after:?}, {grown} bytes for each configuration");
    assert!(grown < 4096, "{grown} bytes for each configuration");
}

#[test]
#[ignore = "takes minutes: make prove runs it"]
fn thousands_of_configurations_leave_no_work_behind() {
    for version in [None, Some("1.37"), Some("1.38"), Some("1.39")] {
        for part in [Part::Gateway, Part::Guard] {
            stays_as_it_was(version, part);
        }
    }
}
