//! What has to be asked of Consul for what a policy says.

use std::collections::BTreeSet;

use super::catalog::Lookup;

/// What is wanted of Consul. It follows from the policy and the settings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Whose instances; `None` = not known yet, so that nothing that an earlier run left is let go of.
    pub lookups: Option<BTreeSet<Lookup>>,
    /// Whose leaf certificates, by service.
    pub leaves: BTreeSet<String>,
}
