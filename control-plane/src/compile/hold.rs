//! Which of the names that a proxy may come with are of a source that was never heard, and what to do about it.

use super::filter::extension_name;
use super::tls;
use crate::mesh::{Identities, Mesh, Unheard};
use crate::model::GAME_GATEWAY;
use crate::xds::{Hold, ResourceType};

const KEPT: &str = "until then what is missing takes nothing away";

/// What a snapshot of this mesh must not take away.
pub(super) fn hold(mesh: &Mesh) -> Option<Hold> {
    match &mesh.unheard {
        Unheard { policy: None, rules: None } => None,
        Unheard { policy: Some(policy), rules: None } => {
            Some(Hold::new(format!("{policy}; {KEPT}"), is_of_policy))
        }
        Unheard { policy: None, rules: Some(rules) } => {
            Some(Hold::new(format!("{rules}; {KEPT}"), is_of_rules).with_nameless())
        }
        Unheard { policy: Some(policy), rules: Some(rules) } => {
            let either = |kind, name: &str| is_of_policy(kind, name) || is_of_rules(kind, name);
            Some(Hold::new(format!("{policy}. Also, {rules}; {KEPT}"), either).with_nameless())
        }
    }
}

const NEW_AUTHORITY: &str = "the embedded authority was made anew in this data_dir, and this proxy has certificates of another one, \
    which it keeps; restore mesh-ca.json and restart, or give every proxy certificates of the new authority by removing mesh-ca.new \
    from data_dir";

/// Whose certificates a snapshot of these identities must not replace: who comes with other roots believes others.
pub(super) fn secret_hold(identities: &Identities) -> Option<Hold> {
    identities
        .unproven
        .then(|| Hold::new(NEW_AUTHORITY, |kind, name| kind == ResourceType::Secret && name == tls::ROOTS))
}

/// What starts like this is named by settings, not by a policy or a rule.
const OF_SETTINGS: &str = "realmgate-";

/// All but what rules or settings name. An edge names a listener's filter after it.
fn is_of_policy(kind: ResourceType, name: &str) -> bool {
    let is_listener = |name: &str| name != GAME_GATEWAY && !name.starts_with(OF_SETTINGS);
    if matches!(kind, ResourceType::Cluster | ResourceType::Endpoints) {
        !is_of_rules(kind, name) && !name.starts_with(OF_SETTINGS)
    } else if kind == ResourceType::Extension {
        let of_listener = name.strip_prefix(&extension_name("")).and_then(|rest| rest.split('/').next());
        of_listener.is_some_and(is_listener)
    } else {
        kind == ResourceType::Listener && is_listener(name)
    }
}

fn is_of_rules(kind: ResourceType, name: &str) -> bool {
    let of_rules = || name.strip_prefix(GAME_GATEWAY).is_some_and(|rest| rest.starts_with('/'));
    matches!(kind, ResourceType::Cluster | ResourceType::Endpoints) && of_rules()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ResourceType::{Cluster, Endpoints, Extension, Listener, Secret};

    #[test]
    fn names_tell_where_they_come_from() {
        for (kind, name, of_policy, of_rules) in [
            (Cluster, "blue", true, false),
            (Cluster, "blue/maglev/world/7", true, false),
            (Cluster, "app", true, false),
            (Cluster, "game-gateway/battle/10/7", false, true),
            (Endpoints, "game-gateway/realm/7/pick/0", false, true),
            (Cluster, "game-gateway-2", true, false),
            (Cluster, "realmgate-filter-module", false, false),
            (Listener, "edge", true, false),
            (Listener, "inbound", true, false),
            (Listener, "game-gateway", false, false),
            (Listener, "realmgate-health", false, false),
            (Extension, "realmgate/edge", true, false),
            (Extension, "realmgate/edge/connections", true, false),
            (Extension, "realmgate/game-gateway", false, false),
            (Secret, "roots", false, false),
        ] {
            assert_eq!((is_of_policy(kind, name), is_of_rules(kind, name)), (of_policy, of_rules), "{name}");
        }
    }
}
