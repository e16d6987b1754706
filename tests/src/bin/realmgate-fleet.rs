//! A fleet of simulated Envoys for any control plane that serves delta ADS; `--help` says more.

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use realmgate_tests::Failure;
use realmgate_tests::fleet::{self, Crew, Settings};
use tokio::task::LocalSet;

/// Nobody waits this long; a week.
const FOR_EVER: Duration = Duration::from_hours(7 * 24);

/// One thread: the other processors are for what is measured.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let settings = Settings::parse();
    fleet::raise_file_limit();
    match LocalSet::new().run_until(run(settings)).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("realmgate-fleet: {failure}");
            ExitCode::FAILURE
        }
    }
}

async fn run(settings: Settings) -> Result<(), Failure> {
    let mut crew = Crew::new(settings.clone())?;
    if settings.commands {
        return fleet::serve(crew).await;
    }
    let start = fleet::moment();
    crew.connect(settings.count, settings.at_once);
    let last = Duration::from_nanos(crew.synced(FOR_EVER).await?).saturating_sub(start);
    let (all, traffic) = (settings.count.max(1) as u64, crew.traffic());
    println!(
        "{all} proxies in sync after {:.3} s: {} resources and {} bytes each",
        last.as_secs_f64(),
        traffic.resources / all,
        traffic.bytes / all,
    );
    loop {
        crew.watch_any();
        let seen = crew.acknowledged(FOR_EVER).await?;
        let since = |moment: u64| Duration::from_nanos(moment - seen.first_ns).as_secs_f64() * 1000.0;
        println!(
            "a change reached {all} proxies: half of them {:.1} ms and the last {:.1} ms after the first, {} bytes each",
            since(seen.median_ns),
            since(seen.last_ns),
            seen.traffic.bytes / all,
        );
    }
}
