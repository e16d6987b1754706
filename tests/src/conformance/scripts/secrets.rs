//! (26) Secrets are an ordinary type, which is asked for by name.

use crate::conformance::{Kind, Run, Suite, Variant, World};

fn runs<'s>(suite: &Suite<'s>) -> impl Iterator<Item = (Run<'s>, [&'s str; 2])> {
    let runs = suite.runs(&Variant::BOTH, &[Kind::Secret]);
    runs.filter_map(|run| {
        let names = run.subject.secrets()?;
        run.begin(&World::empty());
        Some((run, names))
    })
}

/// Who names a secret gets it, and no other.
pub async fn s26_a_secret_is_sent_to_who_names_it(suite: &Suite<'_>) {
    for (run, [first, second]) in runs(suite) {
        let mut client = run.connect().await;
        client.subscribe(run.kind, &[first]).await;
        assert_eq!(client.take(run.kind).await.names(), [first]);
        client.subscribe(run.kind, &[second]).await;
        assert!(client.take(run.kind).await.has(second));
    }
}

/// Private keys are for those who know what they want: no wildcard brings them.
pub async fn s26_no_wildcard_brings_secrets(suite: &Suite<'_>) {
    for (run, [first, second]) in runs(suite) {
        let mut client = run.connect().await;
        client.subscribe(run.kind, &["*"]).await;
        client.subscribe(run.kind, &[first]).await;
        let answer = super::until_has(&mut client, run.kind, first).await;
        assert!(!answer.has(second));
    }
}

/// (13) After a reconnect a secret that did not change is not sent again.
pub async fn s13_a_reconnect_gets_no_secret_that_it_has(suite: &Suite<'_>) {
    for (run, [first, second]) in runs(suite) {
        if run.channel.variant == Variant::Sotw {
            continue;
        }
        let client = run.subscribed(&[first]).await;
        let memory = client.memory();
        drop(client);
        let mut client = run.connect().await;
        client.resume(run.kind, &[first], &memory).await;
        client.subscribe(run.kind, &[second]).await;
        assert_eq!(client.take(run.kind).await.names(), [second]);
    }
}
