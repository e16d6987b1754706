//! The same load on each proxy in turn, and what it takes beside the first of them.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use realmgate_wire::ServerId;

use super::Effort;
use crate::Failure;
use crate::bench::report::Samples;
use crate::load::{Mode, Outcome, Plan, run as load};

const CONNECTIONS: usize = 50;
/// Addresses that players come from.
const SOURCES: u8 = 16;

/// A proxy under load.
pub(super) struct Proxy {
    pub(super) name: &'static str,
    pub(super) at: SocketAddr,
    pub(super) pid: u32,
}

/// What one proxy did and took, a sample for each round; ratios are formed within a round.
#[derive(Default)]
struct Taken {
    rate: Samples,
    rate_to_plain: Samples,
    p99: Samples,
    p99_to_plain: Samples,
    processor: Samples,
    plain_to_processor: Samples,
}

/// One kind of work, by all proxies.
pub(super) struct Work {
    mode: Mode,
    size: usize,
    taken: Vec<(&'static str, Taken)>,
}

impl Work {
    pub(super) const fn new(mode: Mode, size: usize) -> Self {
        Self { mode, size, taken: Vec::new() }
    }

    /// So many rounds, in each of which all proxies have their turn, every other time the other way round. One before them
    /// counts for nothing: who has just started is slow.
    pub(super) fn compare(&mut self, proxies: &[Proxy], rounds: u32, effort: Effort) -> Result<(), Failure> {
        let Self { mode, size, .. } = *self;
        self.taken.resize_with(proxies.len(), || ("", Taken::default()));
        for round in 0..=rounds {
            let mut results: Vec<_> = proxies.iter().map(|_| [f64::NAN; 3]).collect();
            let turns: Vec<_> = results.iter_mut().zip(proxies).collect();
            let turns: Box<dyn Iterator<Item = _>> =
                if round % 2 == 0 { Box::new(turns.into_iter()) } else { Box::new(turns.into_iter().rev()) };
            for (result, proxy) in turns {
                let outcome = load(&plan(mode, proxy.at, size, effort.seconds), 1, &[proxy.pid], false)?;
                let outcome = clean(outcome, proxy.name)?;
                let processor: f64 = outcome.watched.iter().map(|watched| watched.processor_seconds).sum();
                let (rate, count) = if mode == Mode::Connect {
                    (outcome.connections_per_second, outcome.connections)
                } else {
                    (outcome.messages_per_second, outcome.messages)
                };
                *result = [rate, outcome.latency_us.p99, processor * 1e6 / count.max(1) as f64];
            }
            if round == 0 {
                continue;
            }
            let Some(&[plain_rate, plain_p99, plain_processor]) = results.first() else { break };
            for (((name, taken), proxy), &[rate, p99, processor]) in
                self.taken.iter_mut().zip(proxies).zip(&results)
            {
                *name = proxy.name;
                taken.rate.push(rate);
                taken.rate_to_plain.push(rate / plain_rate);
                taken.p99.push(p99);
                taken.p99_to_plain.push(p99 / plain_p99);
                taken.processor.push(processor);
                taken.plain_to_processor.push(plain_processor / processor);
            }
            println!("{mode:?} of {size} bytes, round {round} of {rounds}: {results:.2?}");
        }
        Ok(())
    }

    /// Name; rate, and to plain; p99, and to plain; processor time, and plain's to it.
    pub(super) fn rows(&self) -> Vec<Vec<String>> {
        let row = |(name, taken): &(&str, Taken)| {
            vec![
                (*name).to_owned(),
                taken.rate.middle(0),
                taken.rate_to_plain.middle(3),
                taken.p99.middle(0),
                taken.p99_to_plain.middle(2),
                taken.processor.middle(2),
                taken.plain_to_processor.middle(3),
            ]
        };
        self.taken.iter().map(row).collect()
    }
}

/// Players of all worlds.
pub(super) fn plan(mode: Mode, to: SocketAddr, size: usize, seconds: f64) -> Plan {
    Plan {
        players: CONNECTIONS,
        size,
        worlds: (1..=ServerId::MAX_WORLD).step_by(650).collect(),
        // From the system's choice of ports, 14,000 connections a second to one address are too many: it looks through all of
        // those that closed within the last second for each new one, and players come no faster than it does.
        sources: (1..=SOURCES).map(|n| IpAddr::from(Ipv4Addr::new(127, 1, 0, n))).collect(),
        ..Plan::new(mode, to, Duration::from_secs_f64(seconds))
    }
}

pub(super) fn clean(outcome: Outcome, of: &str) -> Result<Outcome, Failure> {
    if outcome.errors.is_empty() {
        Ok(outcome)
    } else {
        Err(Failure::new(format!("{of}: {:?}", outcome.errors)))
    }
}
