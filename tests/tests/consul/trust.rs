//! Intentions and certificates.

use std::time::SystemTime;

use realmgate_control_plane::model::{Action, Intention};
use realmgate_tests::wait_until;

use super::stage::{Following, SOON, leaves, lookups, shared, until};

#[tokio::test(flavor = "multi_thread")]
async fn intentions_and_what_holds_without_one_are_followed() {
    let shared = shared();
    let aws = &shared.both.aws;
    let dir = tempfile::tempdir().unwrap();
    let following = Following::start(aws, dir.path(), lookups([]));
    following.ok().await;
    assert_eq!(following.source.intentions().borrow().default, Action::Allow, "ACLs are off");
    let said = |source: &str, action| Intention {
        source: source.to_owned(),
        destination: "guarded".to_owned(),
        action,
    };
    for (action, word) in [(Action::Deny, "deny"), (Action::Allow, "allow")] {
        aws.intention("edge", "guarded", word);
        until(following.source.intentions(), word, |all| all.list.contains(&said("edge", action))).await;
    }
    aws.delete_intention("edge", "guarded");
    let gone = |all: &std::sync::Arc<realmgate_control_plane::source::consul::Intentions>| {
        all.list.iter().all(|one| one.destination != "guarded")
    };
    until(following.source.intentions(), "it is gone", gone).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn leaves_are_had_for_what_is_wanted_and_let_go_of() {
    let shared = shared();
    let both = &shared.both;
    let dir = tempfile::tempdir().unwrap();
    let following = Following::start(&both.azure, dir.path(), leaves(&["edge", "battle"]));
    following.ok().await;
    let identities = following.source.identities().borrow().clone();
    assert_eq!(identities.trust_domain, both.aws.trust_domain());
    assert_eq!(identities.leaves.keys().collect::<Vec<_>>(), ["battle", "edge"]);
    let edge = &identities.leaves["edge"];
    assert_eq!(edge.uri, format!("spiffe://{}/ns/default/dc/azure/svc/edge", identities.trust_domain));
    assert!(edge.not_before <= SystemTime::now() && SystemTime::now() < edge.not_after);
    assert!(edge.chain.matches("BEGIN CERTIFICATE").count() > 1, "a secondary signs with an intermediate");
    assert!(edge.key.contains("PRIVATE KEY") && !format!("{identities:?}").contains("PRIVATE KEY"));
    following.wanted.send_replace(leaves(&["edge"]));
    let only = until(following.source.identities(), "one is let go of", |all| all.leaves.len() == 1).await;
    assert_eq!(&only.leaves["edge"], edge, "the other is the same");
    let gauges = || {
        let gauge = |name: &str| following.metric(&format!("realmgate_consul_leaf_{name}"));
        [gauge("certificates"), gauge("expiry_timestamp_seconds")]
    };
    wait_until("it shows", SOON, || gauges().iter().all(|gauge| *gauge > 0.5));
    following.wanted.send_replace(leaves(&[]));
    wait_until("nothing is left to renew", SOON, || gauges().iter().all(|gauge| *gauge < 0.5));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_root_is_believed_at_once_beside_the_old() {
    // Roots are of the whole mesh: a Consul of its own.
    let net = realmgate_tests::TestNet::new();
    let consul =
        realmgate_tests::Consul::start(net.dir(), realmgate_tests::consul::Config::new("aws")).unwrap();
    let following = Following::start(&consul, &net.dir().join("data"), leaves(&["edge"]));
    following.ok().await;
    let before = following.source.identities().borrow().clone();
    assert_eq!(before.roots.len(), 1);
    consul.rotate_root().unwrap();
    let after =
        until(following.source.identities(), "two roots are believed", |all| all.roots.len() == 2).await;
    assert_ne!(after.roots[0], before.roots[0], "the active one comes first");
    assert_eq!(after.roots[1], before.roots[0]);
    assert_eq!(after.trust_domain, before.trust_domain);
    // The agent takes up to 30 s to sign anew.
    let mut identities = following.source.identities();
    let replaced = identities.wait_for(|all| all.leaves["edge"] != before.leaves["edge"]);
    tokio::time::timeout(2 * SOON, replaced).await.expect("a new leaf").unwrap();
}
