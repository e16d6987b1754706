//! Consul goes and comes back.

use std::time::Duration;

use super::super::report::Samples;
use super::crowd::Crowd;
use super::{Played, Rows};
use crate::Failure;
use crate::consul::Health;
use crate::fleet::moment;
use crate::wait::poll;

const ROUNDS: u32 = 3;
const PATIENCE: Duration = Duration::from_secs(30);

pub(super) async fn run(crowd: &mut Crowd, played: &mut Played, rows: &mut Rows) -> Result<(), Failure> {
    let [mut whole, mut change] = [(); 2].map(|()| Samples::default());
    for round in 0..ROUNDS {
        crowd.consul.kill9();
        poll("Consul is missed", PATIENCE, || Ok((!is_whole(played)).then_some(())))?;
        crowd.consul.restart()?;
        played.acknowledged.forget();
        let back = moment();
        crowd.set_health(if round % 2 == 0 { Health::Critical } else { Health::Passing });
        let acknowledged = played.acknowledged.next().await?;
        change.push(acknowledged.saturating_sub(back).as_secs_f64());
        poll("Consul is heard again", PATIENCE, || Ok(is_whole(played).then_some(())))?;
        whole.push(moment().saturating_sub(back).as_secs_f64());
    }
    rows.add("Consul restarted: everything is up to date after s", whole.spread(2), "");
    rows.add("- a change is acknowledged after s", change.spread(2), "");
    Ok(())
}

/// Whether no part of what is taken from Consul is missed.
fn is_whole(played: &Played) -> bool {
    let (_, text) = played.control_plane.get("/metrics");
    let mut parts = text.lines().filter(|line| line.starts_with("realmgate_consul_up{"));
    parts.all(|line| line.ends_with(" 1"))
}
