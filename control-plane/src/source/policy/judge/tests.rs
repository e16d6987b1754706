//! Documents that are good, bad, lost, and held back.

use super::*;
use crate::source::policy_store::{PolicyInfo, Slot};

fn policy(service: &str) -> String {
    format!("services: [{{name: {service}, endpoints: ['10.0.0.1:1']}}]")
}

fn version(version: u64, text: &str) -> Written {
    let (author, message) = ("ada".to_owned(), String::new());
    let info = PolicyInfo { version, etag: etag(text), author, time: 0, message };
    Written::Version(Arc::new(StoredPolicy { info, text: text.into() }))
}

fn heard<T: Default>(value: T) -> Slot<T> {
    Slot { heard: true, value, ..Slot::default() }
}

fn held(written: Written, overlay: Option<&str>) -> Held {
    let overlay = overlay.map(|text| OverlayText { key: "p/overlay/aws".to_owned(), text: text.into() });
    Held { policy: heard(written), overlay: heard(overlay.map(Arc::new)), last: None }
}

fn services(verdict: &Verdict) -> String {
    let names: Vec<_> = verdict.loaded.policy.services.iter().map(|s| s.name.as_str()).collect();
    names.join(" ")
}

/// Version in force, services, and what was refused for the first time.
fn outcome(verdict: &Verdict) -> (u64, String, Vec<(&'static str, &'static str)>) {
    let version = verdict.loaded.stored.as_ref().map_or(0, |stored| stored.info.version);
    let refusals = verdict.refusals.iter().map(|refusal| (refusal.document, refusal.reason));
    (version, services(verdict), refusals.collect())
}

#[test]
fn nothing_is_known_before_both_documents_were_heard() {
    let mut judge = Judge::default();
    let mut half = held(version(1, &policy("a")), None);
    half.overlay.heard = false;
    let verdict = judge.take(&half);
    assert!(!verdict.loaded.known && !verdict.is_new);
    let verdict = judge.take(&held(version(1, &policy("a")), None));
    assert!(verdict.loaded.known && verdict.is_new);
    let nothing = Judge::default().take(&held(Written::Nothing, None));
    assert!(nothing.loaded.known && nothing.loaded.problem.is_none(), "an empty store is no fault");
    let broken = Judge::default().take(&held(version(1, "routes: 5"), None));
    assert!(!broken.loaded.known && broken.loaded.problem.is_some(), "there is no last good one");
}

#[test]
fn a_broken_policy_is_refused_once_and_the_last_good_one_stays() {
    let mut judge = Judge::default();
    judge.take(&held(version(1, &policy("a")), None));
    let broken = held(version(2, "routes: 5"), None);
    let verdict = judge.take(&broken);
    assert_eq!(outcome(&verdict), (1, "a".to_owned(), vec![("policy", "invalid")]));
    let problem = verdict.loaded.problem.clone().unwrap();
    assert!(problem.starts_with("version 2 is not valid: line 1, routes"), "{problem}");
    let again = judge.take(&broken);
    assert_eq!(outcome(&again), (1, "a".to_owned(), vec![]));
    assert!(Arc::ptr_eq(&again.loaded, &verdict.loaded) && !again.is_new);
    let verdict = judge.take(&held(version(3, &policy("b")), None));
    assert_eq!(outcome(&verdict), (3, "b".to_owned(), vec![]));
    assert_eq!(verdict.loaded.problem, None);
    // Another text that says the same is another version of the same policy.
    let same = judge.take(&held(version(4, &format!("# b\n{}", policy("b"))), None));
    assert_eq!(outcome(&same), (4, "b".to_owned(), vec![]));
    assert!(same.is_new && Arc::ptr_eq(&same.loaded.policy, &verdict.loaded.policy));
}

#[test]
fn what_the_store_says_of_itself_is_told_and_changes_nothing() {
    let mut judge = Judge::default();
    let good = held(version(1, &policy("a")), None);
    judge.take(&good);
    let mut lost = good.clone();
    let trouble = Some(Trouble::Lost("Consul cannot be reached".to_owned()));
    (lost.policy.trouble, lost.overlay.trouble) = (trouble.clone(), trouble);
    let verdict = judge.take(&lost);
    assert_eq!(verdict.loaded.problem.as_deref(), Some("Consul cannot be reached"), "said once");
    assert_eq!((outcome(&verdict), verdict.is_new), ((1, "a".to_owned(), vec![]), false));
    let text = "realmgate/policy: it is empty".to_owned();
    lost.policy.trouble = Some(Trouble::Refused { reason: "empty", text });
    assert_eq!(outcome(&judge.take(&lost)), (1, "a".to_owned(), vec![("policy", "empty")]));
    assert_eq!(judge.take(&good).loaded.problem, None);
}

#[test]
fn an_overlay_changes_what_serves_and_not_what_is_written() {
    let mut judge = Judge::default();
    let more = "services: {more: {endpoints: ['10.0.0.9:1']}}";
    let verdict = judge.take(&held(version(1, &policy("a")), Some(more)));
    assert_eq!(outcome(&verdict), (1, "a more".to_owned(), vec![]));
    assert_eq!(verdict.loaded.written.services.len(), 1);
    // A broken one: the last good one stays, and the policy goes on.
    let verdict = judge.take(&held(version(2, &policy("b")), Some("services: 5")));
    assert_eq!(outcome(&verdict), (2, "b more".to_owned(), vec![("overlay", "invalid")]));
    // One that goes.
    let verdict = judge.take(&held(version(2, &policy("b")), None));
    assert_eq!(outcome(&verdict), (2, "b".to_owned(), vec![]));
    assert!(verdict.is_new);
    // One that does not fit: what served serves, whatever else changes.
    let unfit = Some("routes: {r: {server_type: 1, to: [{service: b}]}}");
    let verdict = judge.take(&held(version(3, &policy("c")), unfit));
    assert_eq!(outcome(&verdict), (2, "b".to_owned(), vec![("overlay", "invalid")]));
    let problem = verdict.loaded.problem.clone().unwrap();
    assert!(
        problem.contains("p/overlay/aws makes version 3 of the policy invalid: routes.r.to[0]"),
        "{problem}"
    );
    let verdict = judge.take(&held(version(4, &policy("b")), unfit));
    assert_eq!(outcome(&verdict), (4, "b".to_owned(), vec![]));
    let problems = judge.check(&policy("c")).unwrap_err();
    assert!(problems[0].message.ends_with("(with the overlay p/overlay/aws)"), "{problems:?}");
}

#[test]
fn a_document_written_by_hand_waits_to_become_a_version() {
    let mut judge = Judge::default();
    judge.take(&held(version(1, &policy("a")), None));
    let by_hand = held(Written::ByHand(policy("b").into()), None);
    let verdict = judge.take(&by_hand);
    assert_eq!(outcome(&verdict), (1, "a".to_owned(), vec![]));
    let document = verdict.by_hand.unwrap();
    assert_eq!(document.etag(), etag(policy("b")));
    judge.hold_back(document, HeldBack::Failed("no rights".to_owned()));
    let verdict = judge.take(&by_hand);
    assert_eq!(verdict.loaded.problem.as_deref(), Some("no rights"));
    assert!(verdict.by_hand.is_some(), "tried again");
    let verdict = judge.take(&held(Written::ByHand("routes: 5".into()), None));
    assert_eq!((outcome(&verdict).2, verdict.by_hand), (vec![("policy", "invalid")], None));
    assert!(!verdict.loaded.problem.clone().unwrap().contains("no rights"), "of another document");
    assert_eq!(judge.take(&held(version(2, &policy("b")), None)).loaded.problem, None);
}

#[test]
fn a_store_without_a_policy_is_no_empty_policy() {
    let never = Judge::default().take(&held(Written::Nothing, None)).loaded;
    assert!(never.known && never.never_put() && never.problem.is_none());
    let mut judge = Judge::default();
    let empty = judge.take(&held(version(1, "{}"), None)).loaded;
    assert!(!empty.never_put(), "somebody said so");
    judge.take(&held(version(2, &policy("a")), None));
    // A file that was removed under the running process, and opened anew.
    let verdict = judge.take(&held(Written::Nothing, None));
    assert_eq!((outcome(&verdict), verdict.is_new), ((2, "a".to_owned(), vec![]), false));
    let problem = verdict.loaded.problem.clone().unwrap();
    assert!(problem.contains("has lost the policy; version 2 serves on"), "{problem}");
    assert_eq!(judge.take(&held(version(1, &policy("b")), None)).loaded.problem, None);
}

#[test]
fn what_says_nothing_is_refused_as_empty_and_what_was_in_force_before_stays_so() {
    let mut judge = Judge::default();
    judge.take(&held(version(1, &policy("a")), None));
    for text in ["# soon", "null", "[]", "\"\""] {
        judge.take(&held(version(1, &policy("a")), None));
        let verdict = judge.take(&held(Written::ByHand(text.into()), Some(text)));
        assert_eq!(outcome(&verdict).2, [("overlay", "empty"), ("policy", "empty")], "{text}");
        assert_eq!((services(&verdict), verdict.by_hand), ("a".to_owned(), None));
        assert_eq!(judge.check(text).unwrap_err()[0].message, model::EMPTY);
    }
    let before = Judge::default().take(&held(version(3, ""), None)).loaded;
    assert!(before.known && !before.never_put(), "a release before has put it in force");
}

#[test]
fn where_the_policy_is_gone_the_last_version_of_the_history_serves() {
    let Written::Version(last) = version(41, &policy("a")) else { panic!() };
    let gone = Slot { trouble: Some(Trouble::Lost("p/policy is gone".to_owned())), ..Slot::default() };
    let without = Held { policy: gone, last: Some(Arc::clone(&last)), ..held(Written::Nothing, None) };
    let mut judge = Judge::default();
    let verdict = judge.take(&without);
    assert_eq!(outcome(&verdict), (41, "a".to_owned(), vec![]));
    assert_eq!(verdict.loaded.problem.as_deref(), Some("p/policy is gone"));
    assert!(!verdict.loaded.never_put());
    let later = Held { last: Some(last), ..held(version(42, &policy("b")), None) };
    assert_eq!(outcome(&judge.take(&later)), (42, "b".to_owned(), vec![]));
}

/// So many services.
fn many(count: usize, more: &str) -> String {
    let services = (0..count).map(|i| format!("{{name: s{i}, endpoints: ['10.0.0.1:1']}}"));
    format!("services: [{}]\n{more}", services.collect::<Vec<_>>().join(", "))
}

fn count(verdict: &Verdict) -> usize {
    verdict.loaded.policy.services.len()
}

#[test]
fn a_document_by_hand_that_takes_much_away_waits_until_it_says_what_it_replaces() {
    let mut judge = Judge::default();
    judge.take(&held(version(1, &many(20, "")), None));
    let by_hand = |more: &str| held(Written::ByHand(many(3, more).into()), None);
    let verdict = judge.take(&by_hand(""));
    assert_eq!((count(&verdict), &verdict.by_hand), (20, &None));
    assert_eq!(outcome(&verdict).2, [("policy", "mass_removal")]);
    let problem = verdict.loaded.problem.clone().unwrap();
    assert!(problem.contains("it takes away 17 of 20 services (s3, s4, s5, s6, s7, ...)"), "{problem}");
    let (_, confirmation) = problem.split_once("in the document with `").unwrap();
    let confirmed = by_hand(confirmation.trim_end_matches('`'));
    let verdict = judge.take(&confirmed);
    assert!(verdict.by_hand.is_some() && verdict.loaded.problem.is_none(), "{:?}", verdict.loaded.problem);
    let text = confirmed.policy.value.clone();
    let Written::ByHand(text) = text else { panic!() };
    assert_eq!(count(&judge.take(&held(version(2, &text), None))), 3);
    // The same document confirms nothing more.
    judge.take(&held(version(3, &many(19, "")), None));
    assert_eq!(outcome(&judge.take(&confirmed)).2, [("policy", "mass_removal")]);
}

#[test]
fn an_overlay_that_takes_much_away_is_held_back_and_policies_go_on_below_it() {
    let mut judge = Judge::default();
    judge.take(&held(version(1, &many(20, "")), None));
    let nulls = |more: &str| {
        let nulls = (0..15).map(|i| format!("s{i}: null")).collect::<Vec<_>>().join(", ");
        format!("services: {{{nulls}}}\n{more}")
    };
    let verdict = judge.take(&held(version(1, &many(20, "")), Some(&nulls(""))));
    assert_eq!((count(&verdict), outcome(&verdict).2), (20, vec![("overlay", "mass_removal")]));
    let told = verdict.loaded.problem.clone().unwrap();
    assert!(told.contains("confirm it in the document") && !told.contains("--force"), "{told}");
    let empty = judge.take(&held(version(1, &many(20, "")), Some("")));
    assert!(empty.loaded.problem.clone().unwrap().ends_with("delete the key to have no overlay"));
    let verdict = judge.take(&held(version(2, &many(21, "")), Some(&nulls(""))));
    assert_eq!((count(&verdict), outcome(&verdict).0), (21, 2), "without it");
    let confirmed = nulls(&format!("confirm_removal: \"{}\"", etag(many(21, ""))));
    let verdict = judge.take(&held(version(2, &many(21, "")), Some(&confirmed)));
    assert_eq!((count(&verdict), &verdict.loaded.problem), (6, &None));
    // One that is there when all is heard for the first time is in force.
    let first = Judge::default().take(&held(version(2, &many(21, "")), Some(&nulls(""))));
    assert_eq!(count(&first), 6);
    // An overlay that goes may take as much with it.
    let more =
        (0..15).map(|i| format!("more{i}: {{endpoints: ['10.0.0.9:1']}}")).collect::<Vec<_>>().join(", ");
    let more = format!("services: {{{more}}}");
    let mut judge = Judge::default();
    judge.take(&held(version(1, &many(2, "")), Some(&more)));
    let verdict = judge.take(&held(version(1, &many(2, "")), None));
    assert_eq!((count(&verdict), outcome(&verdict).2), (17, vec![("overlay", "mass_removal")]));
    let empty = format!("confirm_removal: \"{}\"", etag(&more));
    assert_eq!(count(&judge.take(&held(version(1, &many(2, "")), Some(&empty)))), 2);
    assert_eq!(count(&judge.take(&held(version(1, &many(2, "")), None))), 2);
}

#[test]
fn a_file_that_is_held_back_is_told_of_until_another_policy_is_put() {
    let mut judge = Judge::default();
    let good = held(version(1, &many(20, "")), None);
    judge.take(&good);
    let Checked { written, .. } = judge.check(&many(3, "")).unwrap();
    let unconfirmed = judge.in_force().weigh(&written).unwrap_err();
    judge.hold_file_back(Refusal::unconfirmed("policy.file", "policy.file /a", &unconfirmed));
    let verdict = judge.take(&good);
    assert_eq!((count(&verdict), outcome(&verdict).2), (20, vec![("policy.file", "mass_removal")]));
    assert!(verdict.loaded.problem.clone().unwrap().contains("`realmgate policy apply FILE --force`"));
    assert_eq!(judge.take(&held(version(2, &many(19, "")), None)).loaded.problem, None);
}
