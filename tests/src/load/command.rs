//! Running a plan: threads, progress, and the processes that are watched meanwhile.

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::engine::Engine;
use super::outcome::{Outcome, Watched};
use super::plan::Plan;
use super::serve::Servers;
use super::settings::{Command, Settings};
use super::tally::Tally;
use super::watch::{processor_ns, resident_kib};
use crate::{Failure, fleet};

/// What has happened so far, for those who look on.
#[derive(Debug, Default)]
pub struct Progress {
    messages: AtomicU64,
    connections: AtomicU64,
    errors: AtomicU64,
    done: AtomicBool,
}

impl Progress {
    pub(super) fn count(&self, message: bool, connection: bool) {
        // Single writers mostly, and nobody decides anything by the numbers.
        if message {
            self.messages.fetch_add(1, Ordering::Relaxed);
        }
        if connection {
            self.connections.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn error(&self) {
        self.errors.fetch_add(1, Ordering::Relaxed);
    }
}

/// Does what the command line says. `false` = there were errors.
pub fn execute(settings: &Settings) -> Result<bool, Failure> {
    fleet::raise_file_limit();
    let Some((mode, players)) = settings.command.players() else {
        let Command::Serve(serve) = &settings.command else { return Ok(true) };
        let servers =
            Servers::start(&serve.servers, serve.framing).map_err(Failure::because("cannot serve"))?;
        for (address, (_, identity)) in servers.addresses().iter().zip(&serve.servers) {
            println!("serving {}/{} on {address}", identity.world, identity.instance);
        }
        return servers.wait().map(|()| true).map_err(Failure::because("cannot serve on"));
    };
    let outcome = run(&players.plan(mode), players.threads, &players.watch, !players.quiet)?;
    let text = if players.json {
        serde_json::to_string_pretty(&outcome).map_err(Failure::because("the results"))? + "\n"
    } else {
        outcome.table()
    };
    // Who closed the pipe has seen enough.
    let _ = io::stdout().write_all(text.as_bytes());
    Ok(outcome.errors.is_empty())
}

/// Runs a plan to its end, in so many threads beside the caller's.
pub fn run(plan: &Plan, threads: usize, watch: &[u32], live: bool) -> Result<Outcome, Failure> {
    let progress = Progress::default();
    let because = || Failure::because::<io::Error>("the load");
    let plans = plan.split(threads);
    let engines = plans
        .iter()
        .map(|plan| Engine::new(plan, &progress))
        .collect::<io::Result<Vec<_>>>()
        .map_err(because())?;
    let before: Vec<_> = watch
        .iter()
        .map(|pid| Ok((processor_ns(*pid)?, resident_kib(*pid)?)))
        .collect::<Result<_, Failure>>()?;
    thread::scope(|scope| {
        let onlooker = scope.spawn(|| look_on(&progress, watch, live, plan.time / 3));
        let engines: Vec<_> = engines.into_iter().map(|engine| scope.spawn(|| engine.run())).collect();
        let mut tally = Tally::default();
        let mut result = Ok(());
        for engine in engines {
            match engine.join().unwrap_or_else(|_| Err(io::Error::other("a thread of the load ended"))) {
                Ok(part) => tally.add(&part),
                Err(error) => result = Err(error),
            }
        }
        progress.done.store(true, Ordering::Relaxed);
        onlooker.thread().unpark();
        let seen = onlooker.join().unwrap_or_default();
        result.map_err(because())?;
        let watched =
            watch.iter().zip(before).zip(seen).map(|((&pid, (processor, memory)), (third_kib, most))| {
                let ran = processor_ns(pid)?.saturating_sub(processor);
                let after_kib = resident_kib(pid)?;
                let processor_seconds = Duration::from_nanos(ran).as_secs_f64();
                Ok(Watched {
                    pid,
                    processor_seconds,
                    before_kib: memory,
                    third_kib,
                    most_kib: most.max(after_kib),
                    after_kib,
                })
            });
        Ok(Outcome::new(plan, tally, watched.collect::<Result<_, Failure>>()?))
    })
}

/// A line a second; of each process the memory after `third`, and the most that was seen.
fn look_on(progress: &Progress, watch: &[u32], live: bool, third: Duration) -> Vec<(u64, u64)> {
    let start = Instant::now();
    let mut seen = vec![(0, 0); watch.len()];
    let mut before = (0, 0);
    loop {
        let next = start + Duration::from_secs(start.elapsed().as_secs() + 1);
        while !progress.done.load(Ordering::Relaxed) && Instant::now() < next {
            thread::park_timeout(next.saturating_duration_since(Instant::now()));
        }
        if progress.done.load(Ordering::Relaxed) {
            return seen;
        }
        for ((at_third, most), pid) in seen.iter_mut().zip(watch) {
            let now = resident_kib(*pid).unwrap_or(0);
            *most = (*most).max(now);
            if *at_third == 0 && start.elapsed() >= third {
                *at_third = now;
            }
        }
        if live {
            let now =
                (progress.messages.load(Ordering::Relaxed), progress.connections.load(Ordering::Relaxed));
            let errors = progress.errors.load(Ordering::Relaxed);
            eprintln!(
                "{:>4.0} s  {:>8} messages/s  {:>7} connections/s  {errors} errors",
                start.elapsed().as_secs_f64(),
                now.0 - before.0,
                now.1 - before.1,
            );
            before = now;
        }
    }
}
