//! A sidecar's guard: closes the connections that intentions no longer allow, where the policy wants that.
//!
//! Envoy has nothing of its own for it: a connection keeps the RBAC rules that it began with, and a changed listener drains
//! all connections, of whomever.

use std::collections::BTreeSet;

use envoy_types::pb::envoy::config::listener::v3::Filter;
use realmgate_filter::guard::{GuardConfig, ROOT_ID, Services};

use super::admission::Admission;
use super::capabilities::Told;
use super::{connections, filter, shape};
use crate::mesh::FilterModule;
use crate::mesh::identity::in_spiffe_id;
use crate::xds::Resource;

/// With `realmgate/` in front, the name of its ECDS resource.
const GUARD: &str = "inbound-guard";

/// Its place in the listener, which is there without a guard, too. By ECDS, as the intentions come.
pub(super) fn filter() -> Filter {
    shape::slot(filter::extension_name(GUARD))
}

/// The ECDS resource where no guard is wanted.
pub(super) fn none() -> Resource {
    let passes = connections::passes(filter::extension_name(GUARD), GUARD);
    Resource::new(passes.name.clone(), &passes)
}

/// The ECDS resource; `None` without a module.
pub(super) fn extension(
    admission: &Admission<'_>,
    trust_domain: &str,
    module: &FilterModule,
) -> Option<Resource> {
    // Strings alone: this cannot fail.
    let json = serde_json::to_string(&config(admission, trust_domain)).unwrap_or_default();
    filter::plugin(GUARD, ROOT_ID, json, Told::Guard, module)
}

/// Whom it lets stay: the same as RBAC lets in.
pub(super) fn config(admission: &Admission<'_>, trust_domain: &str) -> GuardConfig {
    let written = |names: &BTreeSet<&str>| names.iter().filter_map(|name| in_spiffe_id(name)).collect();
    let services = match admission {
        Admission::Only(names) => Services::Only(written(names)),
        Admission::AllBut(names) => Services::AllBut(written(names)),
    };
    GuardConfig { trust_domain: trust_domain.to_owned(), services }
}
