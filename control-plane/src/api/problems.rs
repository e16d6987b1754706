//! What is wrong with a connected proxy: a stable word, what it means for players, and what to do.

mod metrics;

use serde::Serialize;

pub use metrics::Metrics;

use crate::source::filter_module::Content;
use crate::xds::{NEWEST, OLDEST, ProxyStatus, Role, SyncState};

/// Something wrong with a proxy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// One of [`REASONS`].
    pub reason: &'static str,
    /// What is wrong, and what to do.
    pub message: String,
}

/// Every reason there is, for metrics.
pub const REASONS: [&str; 13] = [
    UNSUPPORTED_ENVOY,
    UNTESTED_ENVOY,
    NO_WASM,
    NO_FILTER_MODULE,
    NO_LISTENER,
    NO_ROUTES,
    FILTER_FETCHING,
    FILTER_MISSING,
    FILTER_REJECTED,
    STALE_MODULE,
    LISTENER_REJECTED,
    CONFIG_REJECTED,
    CLUSTER_WARMING,
];

/// Too old to be sent anything.
pub const UNSUPPORTED_ENVOY: &str = "unsupported_envoy";
/// Newer than what this version was tried on: a warning.
pub const UNTESTED_ENVOY: &str = "untested_envoy";
/// Cannot run modules.
pub const NO_WASM: &str = "no_wasm";
/// The control plane has no module to tell it of.
pub const NO_FILTER_MODULE: &str = "no_filter_module";
/// An edge for which there is no listener.
pub const NO_LISTENER: &str = "no_listener";
/// An edge none of whose listeners has a route.
pub const NO_ROUTES: &str = "no_routes";
/// It does not have the module yet.
pub const FILTER_FETCHING: &str = "filter_fetching";
/// There is no file where the module should be.
pub const FILTER_MISSING: &str = "filter_missing";
/// It cannot load the module, or refuses the filter's configuration.
pub const FILTER_REJECTED: &str = "filter_rejected";
/// It runs another module than it should.
pub const STALE_MODULE: &str = "stale_module";
/// It refuses a listener.
pub const LISTENER_REJECTED: &str = "listener_rejected";
/// It refuses something else.
pub const CONFIG_REJECTED: &str = "config_rejected";
/// A change waits for a cluster whose health check does not answer.
pub const CLUSTER_WARMING: &str = "cluster_warming";

/// Everything that is wrong with this proxy; `module` is what the control plane has, `has_routes` whether any listener of this
/// proxy has a route.
#[must_use]
pub fn problems(proxy: &ProxyStatus, module: &Content, has_routes: bool) -> Vec<Problem> {
    let mut found = Vec::new();
    let mut say = |reason, message| found.push(Problem { reason, message });
    let version = &proxy.envoy_version;
    if proxy.sync == SyncState::Unsupported {
        let (major, minor) = OLDEST;
        let remedy = "it is sent nothing and keeps what it has, until it is upgraded";
        say(UNSUPPORTED_ENVOY, format!("Envoy {version} is older than {major}.{minor}: {remedy}"));
        return found;
    }
    if proxy.is_untested {
        let (major, minor) = NEWEST;
        say(
            UNTESTED_ENVOY,
            format!("Envoy {version} is newer than {major}.{minor}, the newest that was tried"),
        );
    }
    if proxy.wanted.is_empty() {
        return found;
    }
    if proxy.scope.role == Role::Edge || proxy.lacks_filters {
        match &module.problem {
            Some(problem) if proxy.filters.is_empty() && !module.is_known() => {
                say(NO_FILTER_MODULE, problem.message.clone());
            }
            // A held one serves on with listeners and routes that are not known here, and `held` says what to do.
            _ if proxy.lacks_filters || proxy.held.is_some() => {}
            _ if proxy.filters.is_empty() => say(NO_LISTENER, no_listener(&proxy.scope.listeners)),
            _ if !has_routes => say(NO_ROUTES, NOT_ROUTED.to_owned()),
            _ => {}
        }
    }
    filter_problem(proxy, &mut say);
    for state in &proxy.types {
        let of_filters = |resource: &str| proxy.filters.iter().any(|filter| filter.name == resource);
        let other = state.rejections.iter().find(|rejection| !of_filters(&rejection.resource));
        if let Some(rejection) = other {
            let reason = if state.kind == "lds" { LISTENER_REJECTED } else { CONFIG_REJECTED };
            let (kind, resource) = (state.kind, &rejection.resource);
            say(
                reason,
                format!("it refuses {kind} `{resource}` and keeps what it had: {}", rejection.message),
            );
        }
    }
    if let Some(clusters) = &proxy.warms_long {
        say(CLUSTER_WARMING, warming(clusters));
    }
    if let Some(stale) = proxy.filters.iter().find(|filter| filter.is_stale() && !proxy.is_fetching) {
        let (running, wanted) = (stale.running.as_deref().unwrap_or_default(), &stale.wanted);
        say(STALE_MODULE, format!("`{}` runs module {running}, not {wanted}", stale.name));
    }
    found
}

fn warming(clusters: &[String]) -> String {
    let which = match clusters {
        [] => "a cluster that it had before its stream opened warms".to_owned(),
        [cluster] => format!("cluster `{cluster}` warms"),
        [cluster, rest @ ..] => format!("cluster `{cluster}` or one of {} others warms", rest.len()),
    };
    format!(
        "{which}, and no change of routes is taken before it is done: its health check has not answered, or its name does not \
         resolve; remove the service, or shorten health_check.timeout"
    )
}

const NOT_ROUTED: &str = "none of its listeners has a route, so that every player there is turned away: put routes into the \
    policy, or name these listeners in those that there are";

fn no_listener(named: &[String]) -> String {
    if named.is_empty() {
        "there is no listener: put one into the policy".to_owned()
    } else {
        let named = named.join(", ");
        format!(
            "it asks for listeners that are not in the policy ({named}): add them, or name others in its bootstrap"
        )
    }
}

/// Why a filter is not the wanted one: the first reason is the one to act on.
fn filter_problem(proxy: &ProxyStatus, say: &mut impl FnMut(&'static str, String)) {
    let refused = proxy.filters.iter().filter_map(|filter| Some((filter, filter.refusal.as_ref()?)));
    // The worst of all: one that never was in force.
    let Some((filter, words)) = refused.min_by_key(|(filter, _)| filter.running.is_some()) else { return };
    let effect = if filter.running.is_some() {
        "it serves on with its last good filter"
    } else {
        "players who connect there are turned away"
    };
    let name = &filter.name;
    if proxy.lacks_wasm {
        let remedy = "its Envoy was built without the wasm runtime V8: take a build that has it";
        say(NO_WASM, format!("`{name}`: {remedy}; {effect}"));
    } else if words.contains("Invalid path") {
        let remedy =
            "there is no such file on its machine: put the module there, or set `filter.delivery: http`";
        say(FILTER_MISSING, format!("`{name}`: {remedy} ({words}); {effect}"));
    } else if proxy.is_fetching {
        say(FILTER_FETCHING, format!("`{name}` waits for its module; {effect}"));
    } else {
        let remedy =
            "it cannot fetch or load the module, or the filter refuses its configuration: its log says which";
        say(FILTER_REJECTED, format!("`{name}`: {remedy} ({words}); {effect}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::filter_module::Problem as ModuleProblem;
    use crate::xds::{FilterStatus, Held, Rejection, Scope, TypeStatus};

    fn filter(running: Option<&str>) -> FilterStatus {
        let running = running.map(str::to_owned);
        FilterStatus { name: "realmgate/edge".to_owned(), wanted: "new".to_owned(), running, refusal: None }
    }

    fn proxy(filters: Vec<FilterStatus>) -> ProxyStatus {
        let wanted = "1".to_owned();
        ProxyStatus { wanted, filters, sync: SyncState::Rejecting, ..ProxyStatus::example("edge-1") }
    }

    fn refusing(mut proxy: ProxyStatus, kind: &'static str, resource: &str, message: &str) -> ProxyStatus {
        let (resource, message) = (resource.to_owned(), message.to_owned());
        let rejections = vec![Rejection { resource, version: String::new(), message, at_ms: 0 }];
        proxy.types.push(TypeStatus { kind, rejected: 1, rejections, ..TypeStatus::default() });
        proxy
    }

    fn told(proxy: &ProxyStatus, module: &Content) -> (Vec<&'static str>, String) {
        let problems = problems(proxy, module, true);
        let all = problems.iter().map(|problem| problem.message.as_str()).collect::<Vec<_>>().join("\n");
        let reasons: Vec<_> = problems.iter().map(|problem| problem.reason).collect();
        assert!(reasons.iter().all(|reason| REASONS.contains(reason)));
        (reasons, all)
    }

    #[test]
    fn each_row_of_the_table_has_its_reason_and_what_to_do() {
        let good = Content { sha256: "new".to_owned(), ..Content::default() };
        let none = Content {
            problem: Some(ModuleProblem { reason: "missing", message: "there is no file /f".to_owned() }),
            ..Content::default()
        };
        let well = proxy(vec![filter(Some("new"))]);
        assert_eq!(told(&well, &good).0, [""; 0]);
        assert_eq!(told(&proxy(vec![]), &none), (vec![NO_FILTER_MODULE], "there is no file /f".to_owned()));
        let (reasons, words) = told(&proxy(vec![]), &good);
        assert_eq!((reasons, words.contains("policy")), (vec![NO_LISTENER], true));
        let asks = Scope { listeners: vec!["gone".to_owned()], ..Scope::default() };
        assert!(told(&ProxyStatus { scope: asks, ..proxy(vec![]) }, &good).1.contains("gone"));

        let says = |running, words: &str| {
            let filter = FilterStatus { refusal: Some(words.to_owned()), ..filter(running) };
            refusing(proxy(vec![filter]), "ecds", "realmgate/edge", words)
        };
        let (reasons, words) = told(&says(None, "Unable to create Wasm plugin edge"), &good);
        assert_eq!((reasons, words.contains("turned away")), (vec![FILTER_REJECTED], true));
        let (reasons, words) = told(&says(Some("old"), "Unable to create Wasm plugin edge"), &good);
        assert_eq!((reasons, words.contains("last good")), (vec![FILTER_REJECTED, STALE_MODULE], true));
        assert_eq!(told(&says(None, "Invalid path: /f"), &good).0, [FILTER_MISSING]);
        let fetching =
            ProxyStatus { is_fetching: true, ..says(Some("old"), "Unable to create Wasm plugin edge") };
        assert_eq!(told(&fetching, &good).0, [FILTER_FETCHING]);
        let mute = ProxyStatus { lacks_wasm: true, ..says(None, "Unable to create Wasm plugin edge") };
        assert_eq!(told(&mute, &good).0, [NO_WASM]);

        assert_eq!(
            told(&refusing(well.clone(), "lds", "edge", "address in use"), &good).0,
            [LISTENER_REJECTED]
        );
        assert_eq!(
            told(&refusing(well.clone(), "ecds", "realmgate/edge/connections", "no"), &good).0,
            [CONFIG_REJECTED]
        );
        let warms = |names: &[&str]| ProxyStatus {
            warms_long: Some(names.iter().map(ToString::to_string).collect()),
            ..proxy(vec![filter(Some("new"))])
        };
        for (names, says) in
            [(&[][..], "before its stream"), (&["slow"], "`slow`"), (&["a", "b"], "1 others")]
        {
            let (reasons, words) = told(&warms(names), &good);
            assert_eq!((reasons, words.contains(says)), (vec![CLUSTER_WARMING], true), "{words}");
        }
        let sidecar = Scope { role: Role::Sidecar, ..Scope::default() };
        let unguarded = ProxyStatus { scope: sidecar, lacks_filters: true, ..proxy(vec![]) };
        assert_eq!(told(&unguarded, &none).0, [NO_FILTER_MODULE]);
        assert_eq!(told(&proxy(vec![filter(Some("old"))]), &good).0, [STALE_MODULE]);
        // Of what it had from an earlier stream the module is not known.
        assert_eq!(told(&proxy(vec![filter(Some(""))]), &good).0, [""; 0]);
        let old = ProxyStatus { sync: SyncState::Unsupported, envoy_version: "1.36.4".to_owned(), ..well };
        let (reasons, words) = told(&old, &good);
        assert_eq!((reasons, words.contains("1.36.4")), (vec![UNSUPPORTED_ENVOY], true));
    }

    #[test]
    fn without_a_route_nobody_is_served_but_who_keeps_what_it_came_with() {
        let good = Content { sha256: "new".to_owned(), ..Content::default() };
        let reasons = |proxy: &ProxyStatus, has_routes| {
            problems(proxy, &good, has_routes).into_iter().map(|problem| problem.reason).collect::<Vec<_>>()
        };
        let (well, bare) = (proxy(vec![filter(Some("new"))]), proxy(vec![]));
        assert_eq!(reasons(&well, true), [""; 0]);
        assert_eq!(reasons(&well, false), [NO_ROUTES]);
        assert_eq!(reasons(&bare, false), [NO_LISTENER]);
        for proxy in [well, bare] {
            let held = Some(Held { reason: "never put".to_owned(), resources: Some(1) });
            assert_eq!(reasons(&ProxyStatus { held, ..proxy }, false), [""; 0]);
        }
    }
}
