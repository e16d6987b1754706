//! `/v1/config/:kind`: what operators say of services.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::super::client::Answer;
use super::super::error::ConsulError;
use super::or_default;
use crate::mesh::catalog::{FailoverTarget, Redirect, Resolver, ServiceSubset, Subset};

/// An entry that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in super::super) struct Refused {
    pub(in super::super) name: String,
    pub(in super::super) problem: String,
}

/// The entries of one kind by name. One that cannot be read keeps what `before` had of it.
pub(in super::super) fn read<T: Clone>(
    answer: &Answer,
    before: &BTreeMap<String, T>,
    read: fn(Value) -> Result<T, String>,
) -> Result<(BTreeMap<String, T>, Vec<Refused>), ConsulError> {
    let entries: Option<Vec<Value>> = answer.json()?;
    let mut refused = Vec::new();
    let mut named = BTreeMap::new();
    for entry in entries.unwrap_or_default() {
        let name = entry.get("Name").and_then(Value::as_str).unwrap_or_default().to_owned();
        match read(entry) {
            Ok(good) => {
                named.insert(name, good);
            }
            Err(problem) => {
                named.extend(before.get(&name).map(|last| (name.clone(), last.clone())));
                refused.push(Refused { name, problem });
            }
        }
    }
    Ok((named, refused))
}

/// The names of all entries.
pub(in super::super) fn names(answer: &Answer) -> Result<BTreeSet<String>, ConsulError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Named {
        #[serde(default)]
        name: String,
    }
    let entries: Option<Vec<Named>> = answer.json()?;
    Ok(entries.unwrap_or_default().into_iter().map(|entry| entry.name).collect())
}

fn typed<T: DeserializeOwned>(entry: Value) -> Result<T, String> {
    serde_path_to_error::deserialize(entry).map_err(|e| format!("{}: {}", e.path(), e.inner()))
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct StatedResolver {
    #[serde(default)]
    default_subset: String,
    #[serde(default, deserialize_with = "or_default")]
    subsets: BTreeMap<String, StatedSubset>,
    #[serde(default)]
    redirect: Option<StatedTarget>,
    #[serde(default, deserialize_with = "or_default")]
    failover: BTreeMap<String, StatedFailover>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct StatedSubset {
    #[serde(default)]
    filter: String,
    #[serde(default)]
    only_passing: bool,
}

/// A redirect, a split or a failover target.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct StatedTarget {
    #[serde(default)]
    service: String,
    #[serde(default)]
    service_subset: String,
    #[serde(default)]
    datacenter: String,
    #[serde(default)]
    peer: String,
    #[serde(flatten)]
    elsewhere: Elsewhere,
}

/// What another service than the one of that name here may be meant by.
#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Elsewhere {
    namespace: String,
    partition: String,
    sameness_group: String,
}

impl Elsewhere {
    fn check(&self) -> Result<(), String> {
        if !matches!(self.namespace.as_str(), "" | "default") {
            Err(format!("it names the namespace `{}`; only `default` is followed", self.namespace))
        } else if !matches!(self.partition.as_str(), "" | "default") {
            Err(format!("it names the partition `{}`; only `default` is followed", self.partition))
        } else if !self.sameness_group.is_empty() {
            Err(format!("it names the sameness group `{}`; those are not followed", self.sameness_group))
        } else {
            Ok(())
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct StatedFailover {
    #[serde(default)]
    service: String,
    #[serde(default)]
    service_subset: String,
    #[serde(default, deserialize_with = "or_default")]
    datacenters: Vec<String>,
    #[serde(default, deserialize_with = "or_default")]
    targets: Vec<StatedTarget>,
    #[serde(flatten)]
    elsewhere: Elsewhere,
}

impl StatedTarget {
    fn to(self) -> Result<(ServiceSubset, String), String> {
        if !self.peer.is_empty() {
            return Err(format!(
                "it names the peer `{}`; peers of other clusters are not followed",
                self.peer
            ));
        }
        self.elsewhere.check()?;
        Ok((ServiceSubset { service: self.service, subset: self.service_subset }, self.datacenter))
    }
}

/// `service-resolver`.
pub(in super::super) fn resolver(entry: Value) -> Result<Resolver, String> {
    let stated: StatedResolver = typed(entry)?;
    let subset = |s: StatedSubset| Subset { filter: s.filter, only_passing: s.only_passing };
    let subsets: BTreeMap<_, _> = stated.subsets.into_iter().map(|(name, s)| (name, subset(s))).collect();
    if !stated.default_subset.is_empty() && !subsets.contains_key(&stated.default_subset) {
        return Err(format!("DefaultSubset: there is no subset `{}`", stated.default_subset));
    }
    let redirect = match stated.redirect.map(StatedTarget::to).transpose() {
        Ok(redirect) => redirect.map(|(to, datacenter)| Redirect { to, datacenter }),
        Err(problem) => return Err(format!("Redirect: {problem}")),
    };
    let mut failover = BTreeMap::new();
    for (name, stated) in stated.failover {
        let targets = targets(stated).map_err(|problem| format!("Failover.{name}: {problem}"))?;
        failover.insert(name, targets);
    }
    Ok(Resolver { default_subset: stated.default_subset, subsets, redirect, failover })
}

fn targets(stated: StatedFailover) -> Result<Vec<FailoverTarget>, String> {
    stated.elsewhere.check()?;
    let own = ServiceSubset { service: stated.service, subset: stated.service_subset };
    let mut targets = Vec::new();
    for target in stated.targets {
        let (to, datacenter) = target.to()?;
        targets.push(FailoverTarget { to, datacenter });
    }
    let elsewhere = stated.datacenters.into_iter();
    targets.extend(elsewhere.map(|datacenter| FailoverTarget { to: own.clone(), datacenter }));
    if targets.is_empty() {
        if own == ServiceSubset::default() {
            return Err("it names no service, subset, datacenter or target".to_owned());
        }
        targets.push(FailoverTarget { to: own, datacenter: String::new() });
    }
    Ok(targets)
}

/// `service-splitter`: weights in hundredths of a percent.
pub(in super::super) fn splitter(entry: Value) -> Result<Vec<(u32, ServiceSubset)>, String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Split {
        weight: f64,
        #[serde(flatten)]
        target: StatedTarget,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Splitter {
        #[serde(default, deserialize_with = "or_default")]
        splits: Vec<Split>,
    }
    let mut splits = Vec::new();
    for split in typed::<Splitter>(entry)?.splits {
        let (to, _) = split.target.to()?;
        splits.push((hundredths(split.weight)?, to));
    }
    match splits.iter().map(|(weight, _)| weight).sum() {
        10_000 => Ok(splits),
        sum => Err(format!("Splits: they add up to {sum} hundredths of a percent, not to 10000")),
    }
}

fn hundredths(percent: f64) -> Result<u32, String> {
    let hundredths = (percent * 100.0).round();
    if !(0.0..=10_000.0).contains(&hundredths) {
        return Err(format!("Weight: {percent} is no percentage"));
    }
    // Without a cast from float: there are few enough.
    Ok((0..=10_000).find(|n| f64::from(*n) >= hundredths).unwrap_or(10_000))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::source::consul::answer::tests::answer;

    #[test]
    fn a_resolver_says_where_its_service_is() {
        let read = resolver(json!({
            "Kind": "service-resolver", "Name": "battle", "DefaultSubset": "v1", "ConnectTimeout": "1m1.5s",
            "Subsets": {"v1": {"Filter": "Service.Meta.version == v1", "OnlyPassing": true}},
            "Redirect": {"Service": "other", "Datacenter": "azure"},
            "Failover": {"*": {"Datacenters": ["azure", "gcp"]}, "v1": {"Service": "spare"},
                "v2": {"Targets": [{"Service": "x", "ServiceSubset": "s", "Datacenter": "azure"}]}},
            "CreateIndex": 1, "ModifyIndex": 2,
        }))
        .unwrap();
        assert!(read.subsets["v1"].only_passing);
        assert_eq!(read.redirect.unwrap().datacenter, "azure");
        let targets = |name: &str| {
            let of = |t: &FailoverTarget| (t.to.service.clone(), t.to.subset.clone(), t.datacenter.clone());
            read.failover[name].iter().map(of).collect::<Vec<_>>()
        };
        let target = |a: &str, b: &str, c: &str| (a.to_owned(), b.to_owned(), c.to_owned());
        assert_eq!(targets("*"), [target("", "", "azure"), target("", "", "gcp")]);
        assert_eq!(targets("v1"), [target("spare", "", "")]);
        assert_eq!(targets("v2"), [target("x", "s", "azure")]);
    }

    #[test]
    fn what_cannot_be_followed_is_refused_in_words() {
        for (entry, word) in [
            (json!({"DefaultSubset": "no"}), "no subset `no`"),
            (json!({"Subsets": {"a": {"Filter": 7}}}), "Subsets.a.Filter"),
            (json!({"Failover": {"*": {}}}), "Failover.*"),
            (json!({"Failover": {"*": {"Targets": [{"Peer": "p"}]}}}), "peer `p`"),
            (json!({"Redirect": {"Namespace": "n"}}), "namespace `n`"),
            (json!({"Redirect": {"Service": "x", "Partition": "p"}}), "partition `p`"),
            (json!({"Failover": {"*": {"Service": "x", "SamenessGroup": "g"}}}), "sameness group `g`"),
            (json!({"Failover": {"*": {"Service": "x", "Namespace": "n"}}}), "namespace `n`"),
            (json!({"Failover": {"*": {"Targets": [{"Service": "x", "SamenessGroup": "g"}]}}}), "group `g`"),
        ] {
            let problem = resolver(entry.clone()).unwrap_err();
            assert!(problem.contains(word), "{entry}: {problem}");
        }
    }

    #[test]
    fn splits_add_up() {
        let splits = |weights: &[f64]| {
            let split = |weight| json!({"Weight": weight, "ServiceSubset": "v1"});
            splitter(json!({"Splits": weights.iter().map(split).collect::<Vec<_>>()}))
        };
        let weights = splits(&[33.33, 66.67]).unwrap();
        assert_eq!(weights.iter().map(|(w, _)| *w).collect::<Vec<_>>(), [3333, 6667]);
        assert!(splits(&[50.0]).unwrap_err().contains("5000"));
        splits(&[-1.0, 101.0]).unwrap_err();
        splits(&[]).unwrap_err();
    }

    #[test]
    fn one_bad_entry_keeps_its_last_good_value_and_harms_no_other() {
        let first = answer(r#"[{"Name":"a","Redirect":{"Service":"x"}},{"Name":"b"}]"#);
        let (good, refused) = read(&first, &BTreeMap::new(), resolver).unwrap();
        assert!(refused.is_empty());
        let second = answer(r#"[{"Name":"a","Redirect":7},{"Name":"c","Redirect":7},{"Name":"d"}]"#);
        let (kept, refused) = read(&second, &good, resolver).unwrap();
        assert_eq!(refused.iter().map(|r| r.name.as_str()).collect::<Vec<_>>(), ["a", "c"]);
        assert_eq!(kept.keys().collect::<Vec<_>>(), ["a", "d"]);
        assert_eq!(kept["a"], good["a"]);
    }
}
