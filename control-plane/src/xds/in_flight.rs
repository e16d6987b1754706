//! Responses that wait for their acknowledgement, and what a refusal says about single resources.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use super::Resource;

/// A sent response that was not answered yet.
#[derive(Debug)]
pub(crate) struct InFlight {
    pub(crate) sequence: u64,
    pub(crate) at: Instant,
    pub(crate) version: Arc<str>,
    pub(crate) changes: Vec<Sent>,
}

/// A resource whose version the response changed.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    pub(crate) sent: Arc<Resource>,
    /// What the proxy had and accepted before; state of the world falls back to it.
    pub(crate) last_good: Option<Arc<Resource>>,
}

/// Takes the response of this nonce off the queue, with all before it: a proxy answers in order.
pub(crate) fn take(queue: &mut VecDeque<InFlight>, nonce: &str) -> Option<InFlight> {
    let sequence: u64 = nonce.parse().ok()?;
    let position = queue.iter().position(|f| f.sequence == sequence)?;
    queue.drain(..=position).next_back()
}

/// Takes a refused version out of what later responses fall back to; what it would itself have fallen back to comes
/// in its place.
pub(crate) fn forget(queue: &mut VecDeque<InFlight>, refused: &Sent) {
    let (name, version) = (refused.sent.name(), refused.sent.version());
    for later in queue {
        let at = later.changes.binary_search_by(|change| change.sent.name().cmp(name));
        if let Some(change) = at.ok().and_then(|at| later.changes.get_mut(at))
            && change.last_good.as_ref().is_some_and(|good| good.version() == version)
        {
            change.last_good.clone_from(&refused.last_good);
        }
    }
}

/// What stands at the end of a refusal of which the end is missing. Envoy cuts at 4,096 bytes and says so like this.
pub(crate) const CUT: &str = "...(truncated)";

/// Who is at fault in a refused response.
#[derive(Debug)]
pub(crate) struct Suspects {
    /// Those that the refusal names.
    pub(crate) guilty: Vec<Sent>,
    /// Those that may be: the refusal names none, or its end is missing.
    pub(crate) suspect: Vec<Sent>,
    pub(crate) innocent: Vec<Sent>,
}

/// Reads who is at fault out of the refusal: Envoy names a resource that it cannot use, but not always one
/// that it cannot even read.
pub(crate) fn suspects(changes: Vec<Sent>, message: &str) -> Suspects {
    let (guilty, others): (Vec<_>, Vec<_>) =
        changes.into_iter().partition(|change| means(message, &change.sent));
    if guilty.is_empty() || message.ends_with(CUT) {
        Suspects { guilty, suspect: others, innocent: Vec::new() }
    } else {
        Suspects { guilty, suspect: Vec::new(), innocent: others }
    }
}

/// Whether a refusal is of this resource. Of filters that need code Envoy says the plugin, whose name is the end of ours.
fn means(message: &str, resource: &Resource) -> bool {
    let name = resource.name();
    let plugin = || name.split_once('/').map(|(_, plugin)| format!("Wasm plugin {plugin}"));
    mentions(message, name)
        || resource.code().and_then(|_| plugin()).is_some_and(|plugin| mentions(message, &plugin))
}

/// Whether `message` holds `name` as a word of its own: `world-1` is not meant by `world-10`, nor by what a cut
/// left of it.
fn mentions(message: &str, name: &str) -> bool {
    let part_of_name = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_');
    let (text, is_cut) = message.strip_suffix(CUT).map_or((message, false), |text| (text, true));
    !name.is_empty()
        && text.match_indices(name).any(|(start, found)| {
            let before = text.get(..start).and_then(|s| s.chars().next_back());
            let after = text.get(start + found.len()..).and_then(|s| s.chars().next());
            !before.is_some_and(part_of_name) && !after.map_or(is_cut, part_of_name)
        })
}

#[cfg(test)]
mod tests {
    use super::{means, mentions};
    use crate::xds::{Resource, ResourceType};

    #[test]
    fn a_plugin_is_meant_by_the_end_of_its_name() {
        let named =
            |name: &str| Resource::encoded(ResourceType::Extension.url(), name.into(), "1".into(), b"");
        let message = "Unable to create Wasm plugin edge-1";
        assert!(means(message, &named("realmgate/edge-1").with_code("")));
        for other in [
            named("realmgate/edge").with_code(""),
            named("realmgate/edge-1"),
            named("a/plugin").with_code(""),
        ] {
            assert!(!means(message, &other), "{other:?}");
        }
    }

    #[test]
    fn a_name_is_meant_only_as_a_whole_word() {
        let message = "Error adding/updating cluster(s) world-10: no type, other_1: bad";
        assert!(mentions(message, "world-10"));
        assert!(!mentions(message, "world-1"));
        assert!(!mentions(message, "1"));
        assert!(!mentions(message, ""));
    }

    #[test]
    fn what_a_cut_left_of_a_name_means_nobody() {
        assert!(mentions("bad: world-1, world-12", "world-12"));
        assert!(!mentions("bad: world-1, world-12...(truncated)", "world-12"));
        assert!(mentions("bad: world-1, world-12...(truncated)", "world-1"));
    }
}
