//! Host names of instances as addresses.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use tokio::net::lookup_host;
use tokio::time::{Instant, timeout};

/// A name server that takes longer is as good as gone.
const STEP: Duration = Duration::from_secs(2);
/// How long an answer is taken for true; the system tells no more of it.
const HOLDS: Duration = Duration::from_secs(30);
/// Most names that are remembered; those of more are asked for at each reading.
const MOST: usize = 10_000;

/// What names were resolved to.
#[derive(Debug, Default)]
pub(super) struct Names(Mutex<BTreeMap<String, (IpAddr, Instant)>>);

impl Names {
    /// The address of a host: the lowest of its addresses, so that the order of answers changes nothing. A name that cannot
    /// be resolved now keeps the last that was known.
    pub(super) async fn address(&self, host: &str) -> Option<IpAddr> {
        if let Ok(ip) = host.parse() {
            return Some(ip);
        }
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(host).copied();
        if let Some((ip, at)) = known
            && at.elapsed() < HOLDS
        {
            return Some(ip);
        }
        let found = timeout(STEP, lookup_host((host, 0))).await.ok().and_then(Result::ok);
        let found = found.and_then(|addresses| addresses.map(|address| address.ip()).min());
        let ip = found.or(known.map(|(ip, _)| ip))?;
        let mut names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if names.len() < MOST || names.contains_key(host) {
            names.insert(host.to_owned(), (ip, Instant::now()));
        }
        Some(ip)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn addresses_are_themselves_and_names_are_looked_up() {
        let names = Names::default();
        assert_eq!(names.address("192.0.2.7").await.unwrap().to_string(), "192.0.2.7");
        assert!(names.address("localhost").await.unwrap().is_loopback());
        assert_eq!(names.address("no-such-host.invalid").await, None);
        let last = "192.0.2.9".parse().unwrap();
        let old = Instant::now().checked_sub(HOLDS).unwrap();
        names.0.lock().unwrap().insert("no-such-host.invalid".to_owned(), (last, old));
        assert_eq!(names.address("no-such-host.invalid").await, Some(last));
    }
}
