//! Changes that never rest, over links and health checks that take their time: what was taken up comes into force within a
//! bounded time, whatever follows it, and what is not wanted any more goes.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::envoy::Envoy;
use super::*;
use crate::xds::subscription::PATIENCE;

/// The clock's step.
const TICK: Duration = Duration::from_millis(10);

/// What a run is made of, in ticks.
#[derive(Clone, Debug)]
struct Pace {
    variant: Variant,
    /// One way.
    delay: u64,
    /// Between two changes.
    interval: u64,
    /// Between two moments at which health checks end.
    check: u64,
    /// Whether each change also changes the clusters that stay.
    clusters: bool,
    /// The same for endpoints.
    endpoints: bool,
    /// A type of which the proxy refuses whatever it is sent, and which no cluster or filter waits for.
    refuses: Option<ResourceType>,
}

impl Pace {
    /// What a snapshot takes: clusters out, their endpoints asked for and out, both acknowledged, the filter out and
    /// acknowledged. Endpoints that were on their way before may take a round trip more, and each taking in a tick. In state
    /// of the world a question that endpoints cross is lost (4): then our patience goes by once.
    fn generation(&self) -> u64 {
        let crossed = self.variant == Variant::Sotw && self.endpoints;
        let patience = if crossed { PATIENCE.as_millis() / TICK.as_millis() } else { 0 };
        8 * self.delay + self.check + 8 + u64::try_from(patience).unwrap()
    }
}

/// Clusters at once.
const WINDOW: usize = 3;

/// The snapshot of this number: each adds a cluster and takes one away.
fn wanted(number: usize, pace: &Pace) -> Arc<Snapshot> {
    let letters = b'a'..=b'z';
    let names: Vec<char> = letters.map(char::from).cycle().skip(number % 26).take(WINDOW).collect();
    let make = |changes: bool| {
        let version = if changes { number } else { 0 };
        names.iter().map(|name| format!("{name}@{version}")).collect::<Vec<_>>()
    };
    let refer = |list: &[String]| set(&list.iter().map(String::as_str).collect::<Vec<_>>());
    let filter = format!("x@{number}-{}", names.iter().collect::<String>());
    let snapshot = Snapshot::new(
        refer(&make(pace.clusters)),
        refer(&make(pace.endpoints)),
        set(&["l@1", "m@1"]),
        set(&[&filter]),
    );
    Arc::new(snapshot.with_runtime(set(&["r@1"])))
}

/// Lets changes come for so many ticks. Gives the ticks at which another filter came into force, with the number of its
/// snapshot, and that of the latest then.
fn run(pace: &Pace, ticks: u64) -> Vec<(u64, usize, usize)> {
    let mut proxy = Proxy::new(pace.variant, &wanted(0, pace));
    let mut envoy = Envoy::new(pace.variant, false, true);
    let (mut up, mut down) = (VecDeque::new(), VecDeque::new());
    let mut seen = Vec::new();
    let mut latest = 0;
    for tick in 0..ticks {
        let deadline = proxy.stream.deadline(proxy.now);
        proxy.now += TICK;
        let mut came = Vec::new();
        if deadline.is_some_and(|at| at <= proxy.now) {
            came.extend(proxy.wait(Duration::ZERO));
        }
        if tick == 0 {
            came.extend(proxy.ask(Runtime, &["r"]));
        }
        while let Some((_, mut request)) = up.pop_front_if(|(at, _): &mut (u64, Request)| *at <= tick) {
            if pace.refuses == Some(request.kind) && !request.nonce.is_empty() {
                request.error = Some("m r: cannot bind: address in use".to_owned());
            }
            came.extend(proxy.stream.on_request(request, proxy.now, SystemTime::now()).unwrap().0);
        }
        if tick % pace.interval == 0 {
            latest += 1;
            came.extend(proxy.want(&wanted(latest, pace)));
        }
        down.extend(came.into_iter().map(|response| (tick + pace.delay, response)));
        while let Some((_, response)) = down.pop_front_if(|(at, _)| *at <= tick) {
            envoy.inbox.push_back(response);
            let before = envoy.filter.clone();
            envoy.read();
            if envoy.filter != before {
                let number = envoy.filter.as_ref().and_then(|filter| filter.split_once('-'));
                seen.push((tick, number.unwrap().0.parse().unwrap(), latest));
            }
        }
        if tick % (pace.check + 1) == 0 {
            envoy.check_health();
        }
        up.extend(envoy.outbox.drain(..).map(|request| (tick + pace.delay, request)));
        // Those of the filter in force, of the one under way, and those whose removal is under way. None goes while a listener
        // is refused, of which nobody knows what it names.
        assert!(
            pace.refuses == Some(Listener) || envoy.clusters.len() <= 3 * WINDOW,
            "{} clusters",
            envoy.clusters.len()
        );
    }
    seen
}

fn refuses() -> impl Strategy<Value = Option<ResourceType>> {
    proptest::sample::select(&[None, Some(Runtime), Some(Listener)][..])
}

fn variant() -> impl Strategy<Value = Variant> {
    proptest::sample::select(&BOTH[..])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn s22_what_is_under_way_comes_into_force_in_bounded_time(
        variant in variant(),
        // No answer takes longer than our patience.
        delay in 0..=30_u64,
        interval in 1..=20_u64,
        check in 0..=60_u64,
        clusters: bool,
        endpoints: bool,
        refuses in refuses(),
    ) {
        let pace = Pace { variant, delay, interval, check, clusters, endpoints, refuses };
        let bound = pace.generation();
        let ticks = bound * 12;
        let seen = run(&pace, ticks);
        let times: Vec<u64> = std::iter::once(bound).chain(seen.iter().map(|(tick, ..)| *tick)).collect();
        for (before, after) in times.iter().zip(times.iter().skip(1).chain([&ticks])) {
            prop_assert!(after.saturating_sub(*before) <= bound + interval, "{:?}", seen);
        }
        // What is taken up is the latest then, and comes into force one generation later.
        for (_, number, latest) in &seen {
            let older = u64::try_from(latest - number).unwrap() * interval;
            prop_assert!(older <= bound + interval, "{:?}", seen);
        }
    }

    #[test]
    fn s22_routes_get_on_however_slow_a_proxy_is(
        variant in variant(),
        // Up to 8 s a round trip, and 10 s a check, while what is checked changes ever again.
        delay in 100..=400_u64,
        interval in 20..=300_u64,
        check in 0..=1000_u64,
        refuses in refuses(),
    ) {
        let pace = Pace { variant, delay, interval, check, clusters: true, endpoints: false, refuses };
        let seen = run(&pace, 20_000);
        prop_assert!(seen.len() >= 2, "{:?}", seen);
    }
}
