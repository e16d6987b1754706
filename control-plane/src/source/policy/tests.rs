//! Puts that take much away: each is weighed against the version that it replaces.

use prometheus::Registry;

use super::*;

async fn source(dir: &std::path::Path) -> (PolicyStore, PolicySource) {
    let store = PolicyStore::open(dir).await.unwrap();
    let source = PolicySource::new(store.clone(), &Registry::new()).await.unwrap();
    (store, source)
}

fn new(count: usize, more: &str) -> NewPolicy {
    let services = (0..count).map(|i| format!("{{name: s{i}, endpoints: ['10.0.0.1:1']}}"));
    let text = format!("services: [{}]\n{more}", services.collect::<Vec<_>>().join(", "));
    NewPolicy { text, author: "ada".to_owned(), message: String::new() }
}

fn unconfirmed(result: Result<Applied, ApplyError>) -> Unconfirmed {
    match result {
        Err(ApplyError::Store(PutError::Unconfirmed(unconfirmed))) => unconfirmed,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_put_that_takes_much_away_is_forced_or_confirms_it() {
    let dir = tempfile::tempdir().unwrap();
    let (_store, source) = source(dir.path()).await;
    assert!(source.current().never_put());
    let first = source.apply(new(20, ""), Precondition::None).await.unwrap().stored;
    source.apply(new(20, ""), Precondition::Any).await.unwrap();
    let held = unconfirmed(source.apply(new(5, ""), Precondition::Any).await);
    assert_eq!(held.etag, first.info.etag);
    assert_eq!(
        source.check(new(5, "").text).await.unwrap().unconfirmed,
        Some(held),
        "a dry run says the same"
    );
    assert_eq!(source.current().policy.services.len(), 20, "nothing was changed");
    let confirms = format!("confirm_removal: \"{}\"", &first.info.etag[..12]);
    source.apply(new(5, &confirms), Precondition::Any).await.unwrap();
    source.apply(new(20, &confirms), Precondition::Any).await.unwrap();
    unconfirmed(source.apply(new(5, &confirms), Precondition::Any).await);
    source.force(new(5, ""), Precondition::Any).await.unwrap();
    assert_eq!(source.current().policy.services.len(), 5);
    source.apply(new(0, ""), Precondition::Any).await.unwrap();
}

#[tokio::test]
async fn what_is_replaced_counts_and_not_what_was_known() {
    let dir = tempfile::tempdir().unwrap();
    let (store, source) = source(dir.path()).await;
    source.apply(new(2, ""), Precondition::Any).await.unwrap();
    // Another writer puts more, of which this one has not heard yet.
    let other = store.put(new(20, ""), Precondition::Any).await.unwrap();
    assert_eq!(source.current().policy.services.len(), 2);
    let held = unconfirmed(source.apply(new(1, ""), Precondition::Any).await);
    assert_eq!((held.etag.as_str(), held.removal.taken[0].of), (other.info.etag.as_str(), 20));
}

#[tokio::test]
async fn of_writers_at_once_none_takes_away_what_another_has_just_put() {
    let dir = tempfile::tempdir().unwrap();
    let (_store, source) = source(dir.path()).await;
    let source = Arc::new(source);
    source.apply(new(4, ""), Precondition::Any).await.unwrap();
    let mut puts = tokio::task::JoinSet::new();
    for number in 0..20 {
        let source = Arc::clone(&source);
        let count = if number % 2 == 0 { 20 } else { 4 };
        puts.spawn(async move { source.apply(new(count, &format!("# {number}")), Precondition::Any).await });
    }
    let outcomes = puts.join_all().await;
    assert!(outcomes.iter().any(Result::is_ok));
    let history = source.store.history().await.unwrap();
    let mut counts = Vec::new();
    for info in history.iter().rev() {
        let stored = source.store.get(info.version).await.unwrap().unwrap();
        counts.push(crate::model::parse(&stored.text).unwrap().services.len());
    }
    assert!(counts.is_sorted(), "{counts:?}: once there are twenty nobody goes back to four");
}

#[tokio::test]
async fn a_document_that_says_nothing_is_refused_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (_store, source) = source(dir.path()).await;
    for text in ["", "null", "[]", "# soon\n", "\"\""] {
        let new = NewPolicy { text: text.to_owned(), ..new(0, "") };
        let error = source.force(new, Precondition::Any).await.unwrap_err();
        assert!(
            matches!(&error, ApplyError::Invalid(problems) if crate::model::is_empty(problems)),
            "{error}"
        );
    }
    assert!(source.current().never_put());
    source.apply(NewPolicy { text: "{}".to_owned(), ..new(0, "") }, Precondition::None).await.unwrap();
    assert!(!source.current().never_put());
}

#[tokio::test]
async fn a_file_that_was_lost_or_emptied_is_a_store_in_which_no_policy_was_put() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("policy.redb");
    std::fs::write(&file, "").unwrap();
    {
        let (_store, source) = source(dir.path()).await;
        assert!(source.current().never_put());
        source.apply(new(1, ""), Precondition::Any).await.unwrap();
    }
    {
        let (_store, source) = source(dir.path()).await;
        assert!(!source.current().never_put());
    }
    std::fs::write(&file, "damaged").unwrap();
    assert!(PolicyStore::open(dir.path()).await.is_err(), "not opened, and not written over");
    let occupied = dir.path().join("policy.redb/below");
    let error = PolicyStore::open(&occupied).await.unwrap_err();
    assert!(error.to_string().contains("policy.redb"), "{error}");
}

#[tokio::test]
async fn what_the_store_tells_is_published_also_when_who_asked_has_left() {
    let dir = tempfile::tempdir().unwrap();
    let (store, source) = source(dir.path()).await;
    store.put(new(3, ""), Precondition::Any).await.unwrap();
    let judge = Arc::clone(&source.judge).lock_owned().await;
    // As a handler is dropped when its client leaves.
    let mut taking = Box::pin(source.take());
    assert!(futures::poll!(&mut taking).is_pending());
    drop((taking, judge));
    let mut policies = source.subscribe();
    let told = policies.wait_for(|loaded| loaded.policy.services.len() == 3);
    timeout(Duration::from_secs(20), told).await.expect("it was lost").unwrap();
}
