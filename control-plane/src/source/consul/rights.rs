//! Whether a list that says less than the last one is the truth, or what is left of it for a token that lost rights: Consul
//! leaves out what a token may not read, and before 1.11 says nothing of it.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::client::Client;
use super::error::ConsulError;
use crate::mesh::ANY_NAMESPACE;
use crate::mesh::catalog::Instance;
use crate::model::{ANY_SERVICE, Intention};

/// Consul's own user interface asks here, since 1.7.
pub(super) const PATH: &str = "/v1/internal/acl/authorize";
/// Most that Consul takes in one question.
const AT_ONCE: usize = 64;

/// To read one thing, or with an empty name all of its kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Right {
    resource: &'static str,
    access: &'static str,
    segment: String,
}

fn right(resource: &'static str, name: &str) -> Right {
    Right { resource, access: "read", segment: name.to_owned() }
}

/// To read the entries or instances of a service.
fn service(name: &str) -> Right {
    right("service", name)
}

/// What has to be readable for `now` to be all instances of what is registered as `services`, where `before` were the last.
pub(super) fn of_instances<'a>(
    services: impl Iterator<Item = &'a str>,
    before: &[Instance],
    now: &[Instance],
) -> Vec<Right> {
    let before: BTreeSet<_> = before.iter().map(|instance| &*instance.node).collect();
    let now: BTreeSet<_> = now.iter().map(|instance| &*instance.node).collect();
    let gone = before.difference(&now).map(|node| right("node", node));
    if !now.is_empty() {
        // Whoever sees one instance may see those of all nodes that it may read.
        return gone.collect();
    }
    let any = before.is_empty().then(|| right("node", ""));
    services.map(service).chain(gone).chain(any).collect()
}

/// What has to be readable for `now` to be all that have an entry, where `before` had one.
pub(super) fn of_entries<'a>(before: impl Iterator<Item = &'a String>, now: &BTreeSet<String>) -> Vec<Right> {
    let mut before = before.peekable();
    if before.peek().is_none() && now.is_empty() {
        return vec![service("")];
    }
    before.filter(|name| !now.contains(*name)).map(|name| service(name)).collect()
}

/// What has to be readable, one of each pair, for `now` to be all intentions, where `before` were the last.
pub(super) fn of_intentions(before: &[Intention], now: &[Intention]) -> Vec<[Right; 2]> {
    // `*` = any at all.
    let name =
        |pattern: &'_ String| if pattern == ANY_NAMESPACE { ANY_SERVICE.to_owned() } else { pattern.clone() };
    let pair =
        |of: &Intention| [&of.source, &of.destination].map(|pattern| right("intention", &name(pattern)));
    if before.is_empty() && now.is_empty() {
        return vec![[ANY_SERVICE; 2].map(|name| right("intention", name))];
    }
    let known: BTreeSet<_> = now.iter().map(|one| (&one.source, &one.destination)).collect();
    before.iter().filter(|one| !known.contains(&(&one.source, &one.destination))).map(pair).collect()
}

impl Client {
    /// Refuses the answer to `path` if the token lacks one of these rights; without ACLs it has all.
    pub(super) async fn may_read(
        &self,
        path: &str,
        datacenter: &str,
        rights: &[Right],
    ) -> Result<(), ConsulError> {
        let allowed = self.allowed(datacenter, rights).await?;
        let denied = rights.iter().zip(allowed).find(|(_, allowed)| !allowed);
        denied.map_or(Ok(()), |(right, _)| Err(self.left_out(path, right)))
    }

    /// The same where one right of each pair is enough.
    pub(super) async fn may_read_either(&self, path: &str, rights: &[[Right; 2]]) -> Result<(), ConsulError> {
        let allowed = self.allowed("", rights.as_flattened()).await?;
        let denied = rights.iter().zip(allowed.chunks(2)).find(|(_, allowed)| !allowed.contains(&true));
        denied.map_or(Ok(()), |([_, right], _)| Err(self.left_out(path, right)))
    }

    fn left_out(&self, path: &str, right: &Right) -> ConsulError {
        let text =
            format!("the token may not read {} `{}`, so it may be left out", right.resource, right.segment);
        let error = ConsulError::Denied { path: path.to_owned(), text };
        self.requests.failed(&error);
        error
    }

    async fn allowed(&self, datacenter: &str, rights: &[Right]) -> Result<Vec<bool>, ConsulError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Said {
            allow: bool,
        }
        let mut allowed = Vec::with_capacity(rights.len());
        for asked in rights.chunks(AT_ONCE) {
            let path =
                if datacenter.is_empty() { PATH.to_owned() } else { format!("{PATH}?dc={datacenter}") };
            let body = serde_json::to_vec(asked).unwrap_or_default();
            let answer = self.post(&path, body.into()).await?;
            if !answer.found {
                return Ok(vec![true; rights.len()]);
            }
            let said: Vec<Said> = answer.json()?;
            // What is not said is not allowed.
            allowed
                .extend(said.iter().map(|said| said.allow).chain(std::iter::repeat(false)).take(asked.len()));
        }
        Ok(allowed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh::catalog::InstanceHealth;
    use crate::model::Action;

    #[test]
    fn what_is_gone_is_asked_for_and_nothing_else() {
        let on = |nodes: &[&str]| -> Vec<_> {
            let instance = |node: &&str| Instance {
                id: "1".to_owned(),
                node: (*node).to_owned(),
                address: [10, 0, 0, 1].into(),
                port: 1,
                weight: 1,
                health: InstanceHealth::Passing,
            };
            nodes.iter().map(instance).collect()
        };
        let asked = |before, now| of_instances(["game"].into_iter(), &on(before), &on(now));
        let (game, n1) = (service("game"), right("node", "n1"));
        assert_eq!(asked(&["n1", "n1", "n2"], &["n1", "n2", "n3"]), []);
        assert_eq!(asked(&["n1", "n2"], &["n2"]), std::slice::from_ref(&n1), "its own service is seen");
        assert_eq!(asked(&["n1"], &[]), [game.clone(), n1]);
        assert_eq!(asked(&[], &[]), [game, right("node", "")], "nobody knows which nodes");

        let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
        let asked = |before: &[&str], now: &[&str]| of_entries(set(before).iter(), &set(now));
        assert_eq!(asked(&["a", "b"], &["b", "c"]), [service("a")]);
        assert_eq!(asked(&[], &["a"]), []);
        assert_eq!(asked(&[], &[]), [service("")]);

        let intention = |source: &str, destination: &str| Intention {
            source: source.to_owned(),
            destination: destination.to_owned(),
            action: Action::Allow,
        };
        let (one, other) = (intention("a", "b"), intention("*", "c"));
        let denied = Intention { action: Action::Deny, ..one.clone() };
        let pair = |a, b| [right("intention", a), right("intention", b)];
        assert_eq!(of_intentions(&[one.clone(), other.clone()], &[denied]), [pair("*", "c")]);
        assert_eq!(of_intentions(std::slice::from_ref(&one), &[]), [pair("a", "b")]);
        assert_eq!(of_intentions(&[], &[one]), [] as [[Right; 2]; 0]);
        assert_eq!(of_intentions(&[], &[]), [pair("*", "*")]);
    }
}
