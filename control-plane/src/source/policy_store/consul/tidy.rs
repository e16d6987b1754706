//! What nobody needs any more: versions beyond those that are kept, and texts that no version names. Pure.

use std::collections::BTreeSet;

use super::super::KEPT_VERSIONS;
use super::keys::Keys;
use super::kv::{Entry, Operation};
use super::record::{self, Found, Record};

/// What to delete, at most `most` operations; the rest is found the next time.
pub(super) fn garbage(
    keys: &Keys,
    latest: &Record,
    history: &[Entry],
    text_keys: &[String],
    most: usize,
) -> Vec<Operation> {
    let oldest = latest.info.version.saturating_sub(KEPT_VERSIONS - 1);
    let mut named = BTreeSet::from([latest.info.etag.clone()]);
    let mut old = Vec::new();
    for entry in history {
        let Some(version) = keys.version_of(&entry.key) else { continue };
        if version < oldest {
            old.push(Operation::delete(entry.key.clone()));
        } else if let Ok(Found::Record(Record { info, .. })) = record::read(&entry.value) {
            named.insert(info.etag);
        }
    }
    let etags: BTreeSet<_> = text_keys.iter().filter_map(|key| keys.etag_of(key)).collect();
    let unnamed = etags.into_iter().filter(|etag| !named.contains(*etag));
    // Texts last: what a version names goes after the version.
    old.into_iter().chain(unnamed.map(|etag| Operation::delete_tree(keys.text(etag)))).take(most).collect()
}

#[cfg(test)]
mod tests {
    use super::super::super::{PolicyInfo, etag};
    use super::*;

    #[test]
    fn a_text_goes_with_the_last_version_that_names_it() {
        let keys = Keys::new("p/");
        let record = |version: u64, text: &str| {
            let (author, message) = (String::new(), String::new());
            Record::new(PolicyInfo { version, etag: etag(text), author, time: 0, message }, text)
        };
        let entry = |record: &Record| Entry {
            key: keys.history(record.info.version),
            value: record.to_json().unwrap(),
            index: 1,
        };
        let (first, second, latest) = (record(1, "a"), record(2, "b"), record(101, "c"));
        let history = [entry(&first), entry(&second), entry(&latest)];
        let texts = ["a", "b", "c", "left"].map(|text| keys.part(&etag(text), 0));
        let plan = garbage(&keys, &latest, &history, &texts, 9);
        let delete_first = Operation::delete(keys.history(1));
        let tree = |text: &str| Operation::delete_tree(keys.text(&etag(text)));
        assert_eq!((plan.len(), &plan[0]), (3, &delete_first));
        assert!(plan.contains(&tree("a")) && plan.contains(&tree("left")), "{plan:?}");
        assert_eq!(garbage(&keys, &latest, &history, &texts, 1), [delete_first], "a bound");

        // Version 2 says what version 1 said.
        let history = [entry(&first), entry(&record(2, "a")), entry(&latest)];
        let texts = ["a", "c"].map(|text| keys.part(&etag(text), 0));
        assert_eq!(garbage(&keys, &latest, &history, &texts, 9).len(), 1);
    }
}
