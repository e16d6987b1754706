//! Input that no proxy would send. Each has a bound or a clear status, and another client of the same server goes
//! on undisturbed.

use std::time::Duration;

use envoy_types::pb::google::protobuf::{Struct, Value, value::Kind as ValueKind};
use tonic::Code;

use crate::Stopwatch;
use crate::conformance::{Client, Kind, Request, Run, SOON, Service, Suite, Variant, World};

/// A push takes milliseconds.
const UNDISTURBED: Duration = Duration::from_secs(2);

/// A client that does nothing wrong.
struct Bystander<'s> {
    client: Client<'s>,
    world: World,
}

impl<'s> Bystander<'s> {
    async fn new(run: &Run<'s>) -> Self {
        let world = run.begin_with(&["a", "b"]);
        Self { client: run.subscribed(&["b"]).await, world }
    }

    /// It is told of a change as if it were alone.
    async fn goes_on(&mut self, run: &Run<'s>) {
        run.change(&mut self.world, "b");
        let watch = Stopwatch::start();
        assert!(self.client.take(run.kind).await.has("b"));
        assert!(watch.undisturbed() < UNDISTURBED, "another client waits {:?}", watch.elapsed());
    }
}

/// The runs: every service once; a bad client is bad for every type.
fn runs<'s>(suite: &Suite<'s>, variants: &[Variant]) -> impl Iterator<Item = Run<'s>> {
    let mut seen = Vec::new();
    suite.runs(variants, &Kind::ALL).filter(move |run| {
        let new = !seen.contains(&run.channel);
        seen.push(run.channel);
        new
    })
}

/// Names beyond the bound end the stream: one that is too long, or too many, at once or one request after the other.
pub async fn more_names_than_allowed_end_the_stream(suite: &Suite<'_>) {
    for run in runs(suite, &Variant::BOTH) {
        let mut bystander = Bystander::new(&run).await;
        let limits = run.subject.limits();
        let long = ["x".repeat(limits.name_bytes + 1)];
        let many: Vec<String> = (0..=limits.names).map(|n| format!("n{n}")).collect();
        let mut tries = vec![vec![&long[..]]];
        if run.channel.service == Service::Aggregated {
            tries.push(vec![&many]);
            if run.channel.variant == Variant::Delta {
                tries.push(many.chunks(limits.names / 4).collect());
            }
        }
        for requests in tries {
            let mut client = run.connect().await;
            for names in requests {
                let request = client.request(run.kind);
                client.send(Request { names: names.to_vec(), subscribe: names.to_vec(), ..request }).await;
            }
            let status = client.end(SOON).await;
            assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
            assert!(status.message().contains("name"), "{status:?}");
        }
        bystander.goes_on(&run).await;
    }
}

/// A node with a megabyte of metadata that means nothing to the server is served; a request beyond the bound ends
/// the stream.
pub async fn large_nodes_are_served_and_larger_requests_refused(suite: &Suite<'_>) {
    for run in runs(suite, &Variant::BOTH) {
        let mut bystander = Bystander::new(&run).await;
        let limits = run.subject.limits();
        for (bytes, served) in [(1 << 20, true), (limits.request_bytes + 1, false)] {
            let mut node = run.subject.node();
            let text = Value { kind: Some(ValueKind::StringValue("x".repeat(bytes))) };
            let metadata = node.metadata.get_or_insert_with(Struct::default);
            metadata.fields.insert("anything".to_owned(), text);
            let mut client = run.connect().await;
            client.set_node(Some(node));
            client.subscribe(run.kind, &["a"]).await;
            if served {
                client.take(run.kind).await;
            } else {
                let status = client.end(SOON).await;
                let codes = [Code::OutOfRange, Code::ResourceExhausted];
                assert!(codes.contains(&status.code()), "{status:?}");
            }
        }
        bystander.goes_on(&run).await;
    }
}

/// A stream that begins without a node is refused, in words that say so.
pub async fn a_stream_without_a_node_is_refused(suite: &Suite<'_>) {
    for run in runs(suite, &Variant::BOTH) {
        let mut bystander = Bystander::new(&run).await;
        let mut client = run.connect().await;
        client.set_node(None);
        client.subscribe(run.kind, &["a"]).await;
        let status = client.end(SOON).await;
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
        assert!(status.message().contains("node"), "{status:?}");
        bystander.goes_on(&run).await;
    }
}

/// A stream on which nothing is said does not stay.
pub async fn a_stream_that_says_nothing_ends(suite: &Suite<'_>) {
    let mut silent = Vec::new();
    let runs: Vec<_> = runs(suite, &Variant::BOTH).collect();
    for run in &runs {
        silent.push(run.connect().await);
    }
    for (run, client) in runs.iter().zip(&mut silent) {
        let status = client.end(run.subject.limits().first_request + SOON).await;
        assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
    }
}

/// Nonces that were never sent answer nothing: no response comes of them, and none of the real ones is taken for
/// answered or refused.
pub async fn foreign_nonces_answer_nothing(suite: &Suite<'_>) {
    for run in suite.runs(&Variant::BOTH, &Kind::ALL) {
        let mut bystander = Bystander::new(&run).await;
        let mut client = run.subscribed(&["a"]).await;
        for nonce in ["never-sent", "18446744073709551615", "-1", "999", &"9".repeat(10_000)] {
            for error in [None, Some("a: no".to_owned())] {
                let request = client.request(run.kind);
                client.send(Request { nonce: nonce.to_owned(), error, ..request }).await;
            }
        }
        client.fence().await;
        run.change(&mut bystander.world, "a");
        assert!(client.take(run.kind).await.has("a"));
        bystander.goes_on(&run).await;
    }
}

/// A client that refuses everything for ever costs a response for each change, and no more.
pub async fn a_client_that_refuses_everything_is_no_loop(suite: &Suite<'_>) {
    const CHANGES: usize = 3;
    for run in suite.runs(&Variant::BOTH, &Kind::ALL) {
        let mut bystander = Bystander::new(&run).await;
        let mut client = run.connect().await;
        client.subscribe(run.kind, &["a", "b"]).await;
        for round in 0..CHANGES {
            if round > 0 {
                run.change(&mut bystander.world, "a");
                run.change(&mut bystander.world, "b");
                bystander.goes_on(&run).await;
            }
            // A refusal that names nothing: the server may try the two apart, each once.
            let mut response = Some(client.expect(run.kind).await);
            let mut responses = 0;
            while let Some(refused) = response {
                client.nack(&refused, "no").await;
                response = client.within(Duration::from_millis(20)).await;
                responses += 1;
                assert!(responses <= 8, "{responses} responses to a client that refuses them all");
            }
        }
    }
}

/// A client that asks again and again, and reads and acknowledges nothing, delays nobody. It is cut off, or owed a
/// bounded number of answers, and the latest of everything rather than each step, once it reads.
pub async fn a_client_that_never_reads_delays_nobody(suite: &Suite<'_>) {
    const REQUESTS: usize = 2000;
    for run in suite.runs(&[Variant::Delta], &[Kind::Endpoints]) {
        let mut bystander = Bystander::new(&run).await;
        // Large enough that the answers fill what the network takes.
        bystander.world.cluster("a").endpoints = (1..1500).collect();
        run.show(&bystander.world);
        let mut deaf = run.connect().await;
        let asking = async {
            for _ in 0..REQUESTS {
                deaf.subscribe(run.kind, &["a", "b"]).await;
            }
        };
        // A server that cannot write stops reading: then what is sent here waits, too.
        let _ = tokio::time::timeout(Duration::from_millis(300), asking).await;
        for _ in 0..10 {
            bystander.goes_on(&run).await;
        }
        let latest = bystander.client.held(run.kind);
        let Ok(answers) = deaf.drain(Duration::from_millis(100)).await else { continue };
        let most = run.subject.limits().unanswered;
        assert!(answers.len() <= most, "{} answers to a client that acknowledges none", answers.len());
        if let Some(last) = answers.last() {
            deaf.ack(last).await;
        }
        while deaf.held(run.kind).get("b") != latest.get("b") {
            deaf.take(run.kind).await;
        }
        bystander.goes_on(&run).await;
    }
}
