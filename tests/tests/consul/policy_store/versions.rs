//! Versions: written as a whole or not at all, however large they are and however many write.

use realmgate_control_plane::source::policy_store::{
    KEPT_VERSIONS, MAX_TEXT, Precondition, PutError, StoreError,
};
use realmgate_tests::TestNet;
use tokio::task::JoinSet;

use super::super::stage::shared;
use super::{Replica, new, policy};

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_of_two_mebibytes_arrives_whole_and_goes_back() {
    const PREFIX: &str = "large/";
    let (net, shared) = (TestNet::new(), shared());
    let consul = &shared.both.aws;
    let [one, other] = ["one", "other"].map(|name| net.dir().join(name));
    let one = Replica::start(consul, PREFIX, "aws", &one).await;
    let other = Replica::start(consul, PREFIX, "aws", &other).await;
    let small = one.source.apply(new(policy("small")), Precondition::None).await.unwrap().stored;
    other.version(1).await;
    // Characters of several bytes, so that parts end within them.
    let large = policy("large") + &"# \u{4e16}\u{754c}\n".repeat((2 << 20) / 9);
    let put =
        one.source.apply(new(large.clone()), Precondition::Etag(small.info.etag.clone())).await.unwrap();
    let loaded = other.version(2).await;
    assert_eq!(loaded.stored, Some(put.stored));
    assert_eq!((&*loaded.stored.as_ref().unwrap().text, loaded.policy.services.len()), (&*large, 1));

    // Back to the first, as a rollback does.
    let first = other.store.get(1).await.unwrap().unwrap();
    assert_eq!(first, *small);
    other.source.apply(new(&*first.text), Precondition::Any).await.unwrap();
    assert_eq!(one.version(3).await.stored.as_ref().unwrap().info.etag, small.info.etag);
    assert_eq!(&*one.store.get(2).await.unwrap().unwrap().text, large);
    assert_eq!(one.store.get(4).await.unwrap(), None);
    let history = one.store.history().await.unwrap();
    assert_eq!(history.iter().map(|info| info.version).collect::<Vec<_>>(), [3, 2, 1]);

    let error = one.store.put(new("x".repeat(MAX_TEXT + 1)), Precondition::Any).await.unwrap_err();
    assert!(matches!(error, PutError::TooLarge { .. }), "{error}");
    // The same again makes no version, whoever asks; what is expected has to hold all the same.
    let again = one.source.apply(new(&*first.text), Precondition::Exists).await.unwrap();
    assert_eq!((again.changed, again.stored.info.version), (false, 3));
    let refused = one.source.apply(new(&*first.text), Precondition::None).await.unwrap_err().to_string();
    assert!(refused.contains("version 3 by ada has etag"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_writers_at_once_one_wins_and_without_a_condition_all_do() {
    const PREFIX: &str = "race/";
    const WRITERS: u64 = 5;
    let (net, shared) = (TestNet::new(), shared());
    let mut replicas = Vec::new();
    for number in 0..WRITERS {
        let data = net.dir().join(number.to_string());
        replicas.push(Replica::start(&shared.both.aws, PREFIX, "aws", &data).await);
    }
    let first = replicas[0].store.put(new(policy("first")), Precondition::None).await.unwrap();
    let race = |expected: Precondition| {
        let mut puts = JoinSet::new();
        for (number, replica) in replicas.iter().enumerate() {
            let (store, expected) = (replica.store.clone(), expected.clone());
            let text =
                policy(&format!("{}-{number}", if expected == Precondition::Any { "any" } else { "one" }));
            puts.spawn(async move { store.put(new(text), expected).await });
        }
        puts.join_all()
    };
    let outcomes = race(Precondition::Etag(first.info.etag.clone())).await;
    let (won, lost): (Vec<_>, Vec<_>) = outcomes.into_iter().partition(Result::is_ok);
    assert_eq!(won.len(), 1);
    let winner = won.into_iter().next().unwrap().unwrap();
    for error in lost {
        let Err(PutError::Conflict { current: Some(current) }) = error else { panic!("{error:?}") };
        assert_eq!(current, winner.info, "it says what is there now");
    }
    let outcomes = race(Precondition::Any).await;
    let mut versions: Vec<_> = outcomes.into_iter().map(|put| put.unwrap().info.version).collect();
    versions.sort_unstable();
    assert_eq!(versions, (3..3 + WRITERS).collect::<Vec<_>>());
    for replica in &replicas {
        replica.version(2 + WRITERS).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_versions_are_kept_and_what_nothing_names_goes() {
    const PREFIX: &str = "kept/";
    let (net, shared) = (TestNet::new(), shared());
    let consul = &shared.both.aws;
    let replica = Replica::start(consul, PREFIX, "aws", net.dir()).await;
    // What a writer that died has left.
    let left = format!("{PREFIX}text/{}/00", "ab".repeat(32));
    consul.kv_put(&left, "half a document");
    for number in 1..=KEPT_VERSIONS + 2 {
        let stored = replica.store.put(new(format!("# {number}")), Precondition::Any).await.unwrap();
        assert_eq!(stored.info.version, number);
        if number == 1 {
            assert_eq!(consul.kv_get(&left), None);
        }
    }
    let history = replica.store.history().await.unwrap();
    let (newest, oldest) = (history.first().unwrap().version, history.last().unwrap().version);
    assert_eq!((newest, oldest, history.len()), (KEPT_VERSIONS + 2, 3, 100));
    assert_eq!(replica.store.get(2).await.unwrap(), None);
    assert_eq!(&*replica.store.get(3).await.unwrap().unwrap().text, "# 3");
    let keys = consul.get(&format!("/v1/kv/{PREFIX}?keys"));
    assert_eq!(keys.as_array().unwrap().len(), 201, "a record and a text each, and the policy");

    // A version whose text somebody has deleted.
    let etag = &history.last().unwrap().etag;
    consul.kv_delete(&format!("{PREFIX}text/{etag}/00"));
    let error = replica.store.get(3).await.unwrap_err();
    assert!(matches!(error, StoreError::Unusable { .. }), "{error}");
    assert!(error.to_string().contains("text/"), "{error}");
    // A record of its own place that is gone: no number is used twice.
    consul.kv_delete(&format!("{PREFIX}policy"));
    let stored = replica.store.put(new("# again"), Precondition::None).await.unwrap();
    assert_eq!(stored.info.version, KEPT_VERSIONS + 3);
}
