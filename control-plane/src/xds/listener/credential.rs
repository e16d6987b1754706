//! The credential of one stream: what let it in, asked again at everything that is sent and whenever it may have gone.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use tokio::sync::{Notify, watch};

use super::access::{Access, Proof, Refusal};
use crate::xds::Scope;

/// The longest sleep until a certificate ends: a clock that was set meanwhile is noticed after that.
const LONGEST_SLEEP: Duration = Duration::from_mins(1);
/// Nobody is to be asked without a pause, whatever a certificate says.
const SHORTEST_SLEEP: Duration = Duration::from_millis(50);

/// What let a stream in, and what the stream claims. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Credential {
    warrant: Arc<Warrant>,
    changes: watch::Receiver<()>,
}

/// What is asked.
#[derive(Debug)]
pub(super) struct Warrant {
    access: Arc<Access>,
    proof: Proof,
    /// Whether its owner is on this machine.
    nearby: bool,
    claim: OnceLock<Claim>,
    /// Told when the stream is gone.
    gone: Arc<Notify>,
}

impl Drop for Warrant {
    fn drop(&mut self) {
        self.gone.notify_one();
    }
}

/// What the owner of a credential wants with it.
#[derive(Debug)]
enum Claim {
    /// To be this.
    Proxy(Arc<Scope>),
    /// To know how all proxies are.
    Status,
}

impl Credential {
    /// `gone` is told when its stream is.
    pub(super) fn new(access: Arc<Access>, proof: Proof, nearby: bool, gone: Arc<Notify>) -> Self {
        let changes = access.changes.subscribe();
        Self { warrant: Arc::new(Warrant { access, proof, nearby, claim: OnceLock::new(), gone }), changes }
    }

    pub(super) const fn warrant(&self) -> &Arc<Warrant> {
        &self.warrant
    }

    /// Claims to be this, if its owner may.
    pub(crate) fn claim(&self, scope: Arc<Scope>) -> Result<(), Refusal> {
        // A stream claims once, with its first request.
        let _ = self.warrant.claim.set(Claim::Proxy(scope));
        self.check()
    }

    /// Claims to ask how all proxies are, if its owner may.
    pub(crate) fn ask(&self) -> Result<(), Refusal> {
        let _ = self.warrant.claim.set(Claim::Status);
        self.check()
    }

    /// Whether it came with the connection: a new one takes a new connection.
    pub(crate) fn is_of_connection(&self) -> bool {
        self.warrant.proof.is_of_connection()
    }

    /// Whether it holds.
    pub(crate) fn check(&self) -> Result<(), Refusal> {
        self.warrant.check()
    }

    /// Completes when it holds no more. May be dropped and called again.
    pub(crate) async fn lost(&mut self) -> Refusal {
        if let Proof::Nothing = self.warrant.proof {
            // Nobody has anything to lose.
            return std::future::pending().await;
        }
        loop {
            self.changes.borrow_and_update();
            if let Err(refusal) = self.warrant.check() {
                return refusal;
            }
            let Some(end) = self.warrant.proof.end() else {
                // The sender is in what we hold.
                let _ = self.changes.changed().await;
                continue;
            };
            tokio::select! {
                _ = self.changes.changed() => {}
                () = sleep_until(end) => {}
            }
        }
    }
}

impl Warrant {
    pub(super) fn check(&self) -> Result<(), Refusal> {
        let (access, proof, now) = (&self.access, &self.proof, SystemTime::now());
        match self.claim.get() {
            None => access.holds(proof, now).map(drop),
            Some(Claim::Proxy(scope)) => access.may_be(proof, scope, now),
            Some(Claim::Status) if access.may_ask(proof, self.nearby, now)? => Ok(()),
            Some(Claim::Status) => Err(Refusal::NoOperator),
        }
    }
}

impl Proof {
    /// Whether it is of the connection, and not of the stream alone.
    const fn is_of_connection(&self) -> bool {
        matches!(self, Self::Certificate(_))
    }

    /// When it has to be asked again without anything else having changed.
    fn end(&self) -> Option<SystemTime> {
        match self {
            Self::Certificate(certificate) => Some(certificate.until()),
            Self::Nothing | Self::Token(_) => None,
        }
    }
}

/// Sleeps until a certificate is to be asked again.
pub(super) async fn sleep_until(end: SystemTime) {
    let left = end.duration_since(SystemTime::now()).unwrap_or_default();
    tokio::time::sleep(left.clamp(SHORTEST_SLEEP, LONGEST_SLEEP)).await;
}
