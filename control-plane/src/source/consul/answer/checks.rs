//! `/v1/health/state/any`: every check of a datacenter, to tell which services changed.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use super::super::client::Answer;
use super::super::error::ConsulError;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Check {
    node: String,
    #[serde(rename = "CheckID")]
    id: String,
    status: String,
    #[serde(default, rename = "ServiceID")]
    service_id: String,
    #[serde(default)]
    service_name: String,
}

/// The checks of a datacenter by node, service and check: the service's name and what the check says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in super::super) struct Checks(BTreeMap<(String, String, String), (String, String)>);

/// What a change of checks touches.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in super::super) struct Touched {
    /// Services, by the names of their instances.
    pub(in super::super) services: BTreeSet<String>,
    /// Nodes, with all that is on them.
    pub(in super::super) nodes: BTreeSet<String>,
}

impl Checks {
    pub(in super::super) fn read(answer: &Answer) -> Result<Self, ConsulError> {
        let checks: Option<Vec<Check>> = answer.json()?;
        let entry =
            |check: Check| ((check.node, check.service_id, check.id), (check.service_name, check.status));
        Ok(Self(checks.unwrap_or_default().into_iter().map(entry).collect()))
    }

    /// What differs between two moments. What a check prints does not count.
    pub(in super::super) fn touched(&self, after: &Self) -> Touched {
        let mut touched = Touched::default();
        let mut touch = |((node, _, _), (service, _)): (&(String, String, String), &(String, String))| {
            if service.is_empty() {
                touched.nodes.insert(node.clone());
            } else {
                touched.services.insert(service.clone());
            }
        };
        self.0.iter().filter(|(key, value)| after.0.get(key) != Some(value)).for_each(&mut touch);
        after.0.iter().filter(|(key, value)| self.0.get(key) != Some(value)).for_each(&mut touch);
        touched
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::consul::answer::tests::answer;

    fn checks(list: &[(&str, &str, &str)]) -> Checks {
        let check = |(node, service, status): &(&str, &str, &str)| {
            serde_json::json!({"Node": node, "CheckID": "c", "Status": status, "ServiceID": service,
                "ServiceName": service, "Output": status.repeat(3), "ModifyIndex": 7})
        };
        Checks::read(&answer(&list.iter().map(check).collect::<serde_json::Value>().to_string())).unwrap()
    }

    #[test]
    fn a_change_names_the_services_and_nodes_that_it_touches() {
        let before = checks(&[("n1", "chat", "passing"), ("n1", "", "passing"), ("n2", "battle", "passing")]);
        assert_eq!(before.touched(&before), Touched::default());
        let after = checks(&[("n1", "chat", "critical"), ("n1", "", "passing"), ("n3", "world", "passing")]);
        let touched = before.touched(&after);
        assert_eq!(touched.services, ["battle", "chat", "world"].map(str::to_owned).into());
        assert!(touched.nodes.is_empty());
        let after = checks(&[("n1", "chat", "passing"), ("n1", "", "critical"), ("n2", "battle", "passing")]);
        assert_eq!(before.touched(&after).nodes, ["n1".to_owned()].into());
    }
}
