//! Changes of health, each alone.

use std::time::Duration;

use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{sleep, timeout};

use super::super::ms;
use super::super::report::Samples;
use super::crowd::Crowd;
use super::notice::{self, Notice};
use super::{Played, Rows, metric};
use crate::Failure;
use crate::consul::Health;
use crate::fleet::moment;

pub(super) const CHANGES: u32 = 100;
const PATIENCE: Duration = Duration::from_secs(20);
/// Longer than the control plane rests after an answer; here each change is alone.
const PAUSE: Duration = Duration::from_millis(150);

/// Moments at which the Envoy asked for endpoints, each of them an acknowledgement once the first is through.
pub(super) struct Acknowledged(pub(super) UnboundedReceiver<Duration>);

impl Acknowledged {
    /// Forgets those that were.
    pub(super) fn forget(&mut self) {
        while self.0.try_recv().is_ok() {}
    }

    /// The next.
    pub(super) async fn next(&mut self) -> Result<Duration, Failure> {
        let next = timeout(PATIENCE, self.0.recv()).await.ok().flatten();
        next.ok_or_else(|| Failure::new("the Envoy does not acknowledge a change"))
    }
}

pub(super) async fn run(crowd: &Crowd, played: &mut Played, rows: &mut Rows) -> Result<(), Failure> {
    let mut notices = notice::follow(&crowd.consul, &crowd.changing());
    let [mut whole, mut consuls, mut beyond, mut questions] = [(); 4].map(|()| Samples::default());
    let asked = |played: &Played| metric(&played.control_plane, "realmgate_consul_requests_total");
    let mut before = 0.0;
    // The first is not counted.
    for run in 0..=CHANGES {
        sleep(PAUSE).await;
        let now = asked(played);
        if run > 1 {
            questions.push(now - before);
        }
        before = now;
        played.acknowledged.forget();
        let critical = run % 2 == 0;
        let sent = moment();
        crowd.set_health(if critical { Health::Critical } else { Health::Passing });
        let by_consul = told(&mut notices, critical).await?;
        let acknowledged = played.acknowledged.next().await?;
        if run > 0 {
            whole.push(ms(acknowledged.saturating_sub(sent)));
            consuls.push(ms(by_consul.saturating_sub(sent)));
            beyond.push(ms(acknowledged.saturating_sub(by_consul)));
        }
    }
    crowd.set_health(Health::Passing);
    let instances = crowd.all_instances();
    let of = |samples: &Samples| format!("{:.1} / {:.1}", samples.quantile(0.5), samples.quantile(0.99));
    rows.add(
        format!("change of health, {instances} instances, until Envoy has acknowledged: p50 / p99 ms"),
        of(&whole),
        "",
    );
    rows.add(format!("- Consul's own notification ({instances} instances)"), of(&consuls), "");
    rows.add(format!("- beyond it ({instances} instances)"), of(&beyond), "p99 at most 150");
    rows.add(
        format!("- questions to Consul for each change ({instances} instances)"),
        questions.spread(0),
        "",
    );
    Ok(())
}

/// When Consul said so.
async fn told(notices: &mut UnboundedReceiver<Notice>, critical: bool) -> Result<Duration, Failure> {
    loop {
        let notice = timeout(PATIENCE, notices.recv()).await.ok().flatten();
        let notice = notice.ok_or_else(|| Failure::new("Consul does not tell of a change"))?;
        if notice.critical == critical {
            return Ok(notice.at);
        }
    }
}
