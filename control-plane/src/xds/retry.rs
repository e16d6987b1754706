//! Trying again what a proxy refused for a reason that lies outside of the resource: code that it could not load.
//!
//! Envoy refuses a filter whose code it has not fetched yet, or whose file it does not find, and does not try again by itself.
//! It compares what comes with what came last, *whether it took that or not*, and acknowledges what is the same without a look.
//! So each attempt is another payload (19), by some nanoseconds of a time that Envoy reads in milliseconds.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use envoy_types::pb::envoy::config::core::v3::{BackoffStrategy, TypedExtensionConfig};
use envoy_types::pb::envoy::extensions::filters::network::wasm::v3::Wasm;
use envoy_types::pb::envoy::extensions::wasm::v3::{PluginConfig, ReloadConfig};
use envoy_types::pb::google::protobuf;
use prost::{Message, Name};

use super::refusal::Nack;
use super::subscription::Subscription;
use super::{Resource, ResourceSet};

/// A fetch from near takes some milliseconds.
const FIRST: Duration = Duration::from_millis(100);
/// A path that returns is found within so much.
const LONGEST: Duration = Duration::from_secs(5);
/// So many refusals are what a fetch brings with it; together they take a good three seconds.
const STARTING: u32 = 6;

/// What was refused and is tried again.
#[derive(Debug, Default)]
pub(super) struct Retry {
    /// When the next attempt is due; `None` while one is on its way.
    at: Option<Instant>,
    refusals: u32,
    /// What tells one attempt from another, on whichever stream: nanoseconds of the time, less than a millisecond.
    attempt: u64,
    /// The same of the last response: the next differs from it.
    sent: u64,
    /// Whether the proxy has an earlier stream behind it, on which it may have refused what it does not claim now.
    resumed: bool,
    /// By name, why: while an attempt is on its way, too.
    refused: BTreeMap<Arc<str>, Arc<Nack>>,
}

impl Retry {
    fn refused(&mut self, now: Instant) {
        let doubled = FIRST.saturating_mul(2_u32.saturating_pow(self.refusals.min(16)));
        self.at = Some(now + doubled.min(LONGEST));
        self.refusals = self.refusals.saturating_add(1);
    }

    /// Notes that the proxy said something, and whether it told what it has from an earlier stream.
    pub(super) fn heard(&mut self, now: SystemTime, claims: bool) {
        let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        // 64 bits hold five centuries of nanoseconds.
        let attempt = u64::try_from(since.as_nanos()).unwrap_or(u64::MAX) % ATTEMPTS;
        self.attempt = if attempt == self.sent { (attempt + 1) % ATTEMPTS } else { attempt };
        self.resumed |= claims;
    }

    /// Notes that a response was sent.
    pub(super) const fn sent(&mut self) {
        self.sent = self.attempt;
    }

    /// Whether the proxy is most likely still fetching.
    const fn is_starting(&self) -> bool {
        self.refusals > 0 && self.refusals <= STARTING
    }
}

impl Subscription {
    /// Plans the next attempt for what was refused and needs code, and makes it due when its time has come.
    pub(super) fn try_again(&mut self, wanted: &ResourceSet, now: Instant) {
        if self.rejected.is_empty() && self.retry.refusals == 0 {
            return;
        }
        let needs_code = |name: &str| wanted.get(name).is_some_and(|resource| resource.code().is_some());
        let refused: Vec<_> = self.rejected.iter().filter(|(name, _)| needs_code(name)).collect();
        let refused: BTreeMap<_, _> =
            refused.into_iter().map(|(name, why)| (Arc::clone(name), Arc::clone(&why.why))).collect();
        if refused.is_empty() {
            let sent: BTreeSet<_> = self.unacknowledged().into_iter().cloned().collect();
            self.retry.refused.retain(|name, _| sent.contains(name));
            if self.retry.refused.is_empty() {
                (self.retry.at, self.retry.refusals) = (None, 0);
            }
            return;
        }
        match self.retry.at {
            None => self.retry.refused(now),
            Some(at) if at <= now => {
                self.retry.at = None;
                self.due.extend(refused.keys().map(|name| (Arc::clone(name), ())).collect::<Vec<_>>());
            }
            Some(_) => {}
        }
        self.retry.refused.extend(refused);
    }

    /// Why the proxy does not have this in the wanted version, also while it is tried again.
    pub(super) fn refusal(&self, name: &str) -> Option<&Arc<Nack>> {
        let tried = || self.unacknowledged().into_iter().any(|sent| &**sent == name);
        let now = self.rejected.get(name).map(|rejected| &rejected.why);
        now.or_else(|| self.retry.refused.get(name).filter(|_| tried()))
    }

    /// When the next attempt is due.
    pub(super) const fn retry_at(&self) -> Option<Instant> {
        self.retry.at
    }

    /// Whether it refuses only what it is most likely still fetching.
    pub(crate) const fn is_fetching(&self) -> bool {
        self.retry.is_starting()
    }

    /// What is sent for this resource. Of one that was refused, or of which it is not known whether it was on an earlier stream,
    /// that is another payload under the same version.
    pub(super) fn payload(&self, resource: &Arc<Resource>) -> Arc<Resource> {
        let unknown = || {
            self.retry.resumed
                && self
                    .behind
                    .get(resource.name())
                    .is_some_and(|has| has.as_ref().is_none_or(|has| has.body().is_empty()))
        };
        if resource.code().is_some() && (self.rejected.contains_key(resource.name()) || unknown()) {
            attempt(resource, self.retry.attempt).map_or_else(|| Arc::clone(resource), Arc::new)
        } else {
            Arc::clone(resource)
        }
    }
}

/// After how long a VM that died is made anew: Envoy's own second. Nothing else of ours sets it.
const RELOAD_AFTER_SECONDS: i64 = 1;
/// Less than a millisecond.
const ATTEMPTS: u64 = 1_000_000;

/// The same plugin, told apart from other attempts by `number`; `None` for what is no plugin.
fn attempt(resource: &Resource, number: u64) -> Option<Resource> {
    let mut extension = TypedExtensionConfig::decode(resource.body()).ok()?;
    let config = extension.typed_config.as_mut().filter(|config| config.type_url == Wasm::type_url())?;
    // What stands twice in an encoded message is merged by whoever reads it: the rest stays as it is.
    let nanos = i32::try_from(number).ok()?;
    let base_interval = Some(protobuf::Duration { seconds: RELOAD_AFTER_SECONDS, nanos });
    let backoff = Some(BackoffStrategy { base_interval, ..BackoffStrategy::default() });
    let reload_config = Some(ReloadConfig { backoff });
    let part = Wasm { config: Some(PluginConfig { reload_config, ..PluginConfig::default() }) };
    config.value.extend_from_slice(&part.encode_to_vec());
    Some(resource.with_body(&TypedExtensionConfig::type_url(), &extension.encode_to_vec()))
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::envoy::extensions::wasm::v3::{VmConfig, plugin_config::Vm};
    use envoy_types::pb::google::protobuf::Any;

    use super::*;

    #[test]
    fn an_attempt_differs_in_some_nanoseconds_alone() {
        let vm = VmConfig { vm_id: "id".to_owned(), nack_on_code_cache_miss: true, ..VmConfig::default() };
        let plugin =
            PluginConfig { name: "a/b".to_owned(), vm: Some(Vm::VmConfig(vm)), ..PluginConfig::default() };
        let wasm = Wasm { config: Some(plugin.clone()) };
        let config = Any { type_url: Wasm::type_url(), value: wasm.encode_to_vec() };
        let extension = TypedExtensionConfig { name: "a/b".to_owned(), typed_config: Some(config) };
        let resource = Resource::new("a/b", &extension).with_code("1");
        let again = attempt(&resource, 26).unwrap();
        assert_eq!(
            (again.name(), again.version(), again.code()),
            (resource.name(), resource.version(), resource.code())
        );
        let read = TypedExtensionConfig::decode(again.body()).unwrap();
        let read = Wasm::decode(&*read.typed_config.unwrap().value).unwrap().config.unwrap();
        let backoff = read.reload_config.and_then(|reload| reload.backoff);
        let every = backoff.and_then(|backoff| backoff.base_interval).unwrap();
        assert_eq!((every.seconds, every.nanos), (1, 26));
        assert_eq!(PluginConfig { reload_config: None, ..read }, plugin);
    }

    #[test]
    fn attempts_that_are_whole_milliseconds_apart_differ() {
        let mut retry = Retry::default();
        let mut last = None;
        for milliseconds in 0..5 {
            let clock = SystemTime::UNIX_EPOCH + Duration::from_millis(milliseconds);
            retry.heard(clock, false);
            retry.heard(clock, false);
            assert_ne!(last, Some(retry.attempt));
            assert!(retry.attempt < ATTEMPTS);
            retry.sent();
            last = Some(retry.attempt);
        }
    }

    #[test]
    fn attempts_grow_rarer_and_never_end() {
        let (mut retry, start) = (Retry::default(), Instant::now());
        let mut now = start;
        for refusal in 1..=1_000_u32 {
            retry.refused(now);
            let at = retry.at.unwrap();
            assert!(at > now && at <= now + LONGEST);
            assert_eq!(retry.is_starting(), refusal <= STARTING);
            now = at;
            if refusal == STARTING {
                assert!((3..10).contains(&(now - start).as_secs()), "{:?}", now - start);
            }
        }
        assert!(now - start > LONGEST * 990);
    }
}
