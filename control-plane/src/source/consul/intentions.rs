//! The intentions, and what holds where none matches.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::sleep;

use super::answer::intentions;
use super::error::ConsulError;
use super::follow::{Context, Query, WAIT};
use super::metrics::Metrics;
use super::parts::Part;
use super::rights;
use crate::model::{Action, Intention};
use crate::source::backoff::Backoff;

/// What Consul says of who may connect to whom.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intentions {
    /// All of them, by precedence as Consul sorts them.
    pub list: Vec<Intention>,
    /// Where none matches.
    pub default: Action,
}

impl Default for Intentions {
    /// Not known yet: nobody may do anything.
    fn default() -> Self {
        Self { list: Vec::new(), default: Action::Deny }
    }
}

/// Names that no service can have together: what Consul says of them is its default. An intention of any to any would
/// answer instead, but where there is one the default decides nothing.
const NOBODY: &str = "/v1/connect/intentions/check?source=realmgate-nobody-a&destination=realmgate-nobody-b";

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Check {
    allowed: bool,
}

/// Follows them for ever.
pub(super) async fn follow(context: Context, publish: watch::Sender<Arc<Intentions>>, metrics: Arc<Metrics>) {
    let new = || Query::new("/v1/connect/intentions".to_owned(), WAIT);
    let mut query = new();
    let mut backoff = Backoff::new();
    let mut refused = BTreeSet::new();
    loop {
        let known = Arc::clone(&publish.borrow());
        match read(&context, &mut query, &known).await {
            Ok(read) => {
                backoff.reset();
                if let Some((read, now_refused)) = read {
                    for problem in now_refused.difference(&refused) {
                        metrics.refusal("intention");
                        tracing::warn!(problem, "a Consul intention cannot be used as it is");
                    }
                    refused = now_refused;
                    metrics.intentions(read.list.len());
                    publish.send_if_modified(|current| {
                        let changed = **current != read;
                        if changed {
                            *current = Arc::new(read);
                        }
                        changed
                    });
                }
                context.parts.ok(&Part::Intentions);
            }
            Err(error) => {
                context.parts.lost(&Part::Intentions, &error);
                sleep(backoff.wait()).await;
                query = new();
            }
        }
    }
}

/// The next list, with what is wrong with those in it that are refused; `None` = as before.
async fn read(
    context: &Context,
    query: &mut Query,
    known: &Intentions,
) -> Result<Option<(Intentions, BTreeSet<String>)>, ConsulError> {
    let (answer, changed) = query.next(&context.client).await?;
    if !changed {
        return Ok(None);
    }
    let (list, refused) = intentions::read(&answer)?;
    context.client.may_read_either(&answer.path, &rights::of_intentions(&known.list, &list)).await?;
    let allowed = match answer.header("x-consul-default-acl-policy") {
        Some(policy) => policy == "allow",
        // Consul before 1.9.
        None => context.client.get(NOBODY).await?.json::<Check>()?.allowed,
    };
    let default = if allowed { Action::Allow } else { Action::Deny };
    Ok(Some((Intentions { list, default }, refused.into_iter().collect())))
}
