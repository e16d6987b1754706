//! What grows with players and worlds: memory for each connection, the cost of many worlds, and many players at once.

use realmgate_wire::ServerId;

use super::Effort;
use super::cast::{Cast, Games};
use super::compare::{Proxy, clean, plan};
use crate::bench::report::Samples;
use crate::load::{Mode, Plan, run as load};
use crate::{Failure, Stage};

/// What an idle routed connection takes.
pub(super) fn memory(proxies: &[Proxy]) -> Result<Vec<Vec<String>>, Failure> {
    const PLAYERS: usize = 4000;
    let mut plain = None;
    let mut rows = Vec::new();
    for proxy in proxies {
        // What comes with the first connection, whoever it is, is no connection's.
        let first = Plan { players: 1, ..plan(Mode::Idle, proxy.at, 64, 0.1) };
        clean(load(&first, 1, &[], false)?, proxy.name)?;
        let idle = Plan { players: PLAYERS, ..plan(Mode::Idle, proxy.at, 64, 2.5) };
        let outcome = clean(load(&idle, 1, &[proxy.pid], false)?, proxy.name)?;
        let grown: u64 = outcome.watched.iter().map(|watched| watched.most_kib - watched.before_kib).sum();
        let each = grown as f64 / PLAYERS as f64;
        let plain = *plain.get_or_insert(each);
        println!("{}: {each:.2} KiB for each idle connection", proxy.name);
        rows.push(vec![proxy.name.to_owned(), format!("{each:.2}"), format!("{:.2}", each - plain)]);
    }
    Ok(rows)
}

/// The same edge with one, a hundred, and all worlds, in turn.
pub(super) async fn worlds(
    cast: &mut Cast,
    games: &Games,
    effort: Effort,
) -> Result<Vec<Vec<String>>, Failure> {
    let counts = [(1_u16, 1_u16), (100, 1), (ServerId::MAX_WORLD, 1024)];
    let mut samples: [[Samples; 3]; 3] = Default::default();
    let (edge, pid) = (cast.edge.players(), cast.edge.edge.process().pid());
    for round in 0..effort.rounds {
        let mut results = [[f64::NAN; 2]; 3];
        let mut turns: Vec<_> = counts.into_iter().zip(&mut results).collect();
        if round % 2 > 0 {
            turns.reverse();
        }
        for ((last, stretch), result) in turns {
            cast.serve_worlds(games, last, stretch).await;
            let worlds = (1..=last).collect();
            let plan = Plan { worlds, ..plan(Mode::Connect, edge, 64, effort.seconds) };
            let outcome = clean(load(&plan, 1, &[pid], false)?, "worlds")?;
            let seconds: f64 = outcome.watched.iter().map(|watched| watched.processor_seconds).sum();
            *result = [outcome.connections_per_second, seconds * 1e6 / outcome.connections.max(1) as f64];
        }
        let [[_, one], ..] = results;
        for ([rates, processors, ratios], [rate, processor]) in samples.iter_mut().zip(results) {
            rates.push(rate);
            processors.push(processor);
            ratios.push(processor / one);
        }
        println!("worlds, round {} of {}", round + 1, effort.rounds);
    }
    // What comes next may go to any world, whichever was the last here.
    cast.serve_worlds(games, ServerId::MAX_WORLD, 1024).await;
    let row = |((last, _), [rates, processors, ratios]): ((u16, u16), &[Samples; 3])| {
        vec![last.to_string(), rates.middle(0), processors.middle(2), ratios.middle(3)]
    };
    Ok(counts.into_iter().zip(&samples).map(row).collect())
}

/// Many players of all worlds for a while.
pub(super) fn mixed(edge: &mut Stage, effort: Effort) -> Result<Vec<Vec<String>>, Failure> {
    let plan = Plan {
        players: effort.mixed_players,
        worlds: (1..=ServerId::MAX_WORLD).collect(),
        rate: Some(effort.mixed_players as f64),
        who: true,
        ..plan(Mode::Mixed, edge.players(), 64, effort.mixed_seconds)
    };
    let pid = edge.edge.process().pid();
    let outcome = load(&plan, 1, &[pid], true)?;
    let errors: u64 = outcome.errors.values().sum();
    let mib = |kib: u64| format!("{} MiB", kib / 1024);
    let memory = |pick: fn(&crate::load::Watched) -> u64| {
        outcome.watched.first().map_or_else(String::new, |one| mib(pick(one)))
    };
    let rows = [
        ("players", effort.mixed_players.to_string()),
        ("seconds", format!("{:.0}", outcome.seconds)),
        ("messages", outcome.messages.to_string()),
        ("connections, those of the beginning not counted", outcome.connections.to_string()),
        (
            "errors",
            format!("{errors} {}", if errors > 0 { format!("{:?}", outcome.errors) } else { String::new() }),
        ),
        ("p50 / p99 / p99.9 from when a message was due, ms", {
            let ms = |us: f64| us / 1000.0;
            let q = outcome.latency_us;
            format!("{:.1} / {:.1} / {:.1}", ms(q.p50), ms(q.p99), ms(q.p999))
        }),
        ("memory of the edge before", memory(|one| one.before_kib)),
        ("after a third of the time", memory(|one| one.third_kib)),
        ("at most", memory(|one| one.most_kib)),
    ];
    Ok(rows.into_iter().map(|(name, value)| vec![name.to_owned(), value.trim().to_owned()]).collect())
}
