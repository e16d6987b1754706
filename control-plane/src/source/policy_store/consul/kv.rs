//! Consul's KV store: reading keys, and changing several at once or none.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, Deserializer, Serialize};

use crate::source::consul::{Answer, Client, ConsulError};

/// Operations of one transaction that Consul takes.
pub(super) const MAX_OPERATIONS: usize = 64;

/// What a path keeps of a key as it is.
const KEY: &AsciiSet = &NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'_').remove(b'.');

/// A key and its value.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Entry {
    pub(super) key: String,
    #[serde(deserialize_with = "decoded")]
    pub(super) value: Vec<u8>,
    /// Another one with every change.
    #[serde(rename = "ModifyIndex")]
    pub(super) index: u64,
}

fn decoded<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    // An empty value is `null`.
    let text = Option::<String>::deserialize(deserializer)?.unwrap_or_default();
    STANDARD.decode(text).map_err(serde::de::Error::custom)
}

/// One operation of a transaction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Operation {
    #[serde(rename = "KV")]
    kv: Step,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Step {
    verb: &'static str,
    key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    index: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<String>,
}

impl Operation {
    const fn new(verb: &'static str, key: String, index: Option<u64>, value: Option<String>) -> Self {
        Self { kv: Step { verb, key, index, value } }
    }

    /// Writes a key, whatever it holds.
    pub(super) fn set(key: String, value: &[u8]) -> Self {
        Self::new("set", key, None, Some(STANDARD.encode(value)))
    }

    /// Writes a key if its index is this; 0 = it must not be there.
    pub(super) fn cas(key: String, index: u64, value: &[u8]) -> Self {
        Self::new("cas", key, Some(index), Some(STANDARD.encode(value)))
    }

    /// Fails unless the key's index is this.
    pub(super) const fn check(key: String, index: u64) -> Self {
        Self::new("check-index", key, Some(index), None)
    }

    pub(super) const fn delete(key: String) -> Self {
        Self::new("delete", key, None, None)
    }

    /// Deletes every key that begins so.
    pub(super) const fn delete_tree(prefix: String) -> Self {
        Self::new("delete-tree", prefix, None, None)
    }
}

/// The KV store of our datacenter.
#[derive(Debug)]
pub(super) struct Kv {
    pub(super) client: Client,
}

impl Kv {
    pub(super) const fn new(client: Client) -> Self {
        Self { client }
    }

    /// A key as a majority of the servers has it now.
    pub(super) async fn read(&self, key: &str) -> Result<Option<Entry>, ConsulError> {
        let path = format!("{}?consistent", path(key));
        Ok(entries(&self.client.get(&path).await?)?.pop())
    }

    /// Every key that begins so, in their order.
    pub(super) async fn list(&self, prefix: &str) -> Result<Vec<Entry>, ConsulError> {
        let path = format!("{}?recurse&consistent", path(prefix));
        entries(&self.client.get(&path).await?)
    }

    /// The names alone.
    pub(super) async fn names(&self, prefix: &str) -> Result<Vec<String>, ConsulError> {
        let answer = self.client.get(&format!("{}?keys&consistent", path(prefix))).await?;
        if answer.found { answer.json() } else { Ok(Vec::new()) }
    }

    /// Does all of it or nothing; the keys' indexes then. Status 409 = something is not as an operation wants it.
    pub(super) async fn transact(&self, operations: &[Operation]) -> Result<Vec<(String, u64)>, ConsulError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Done {
            results: Option<Vec<Outcome>>,
        }
        #[derive(Deserialize)]
        struct Outcome {
            #[serde(rename = "KV")]
            kv: Changed,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Changed {
            key: String,
            modify_index: u64,
        }
        const PATH: &str = "/v1/txn";
        let body = serde_json::to_vec(operations)
            .map_err(|error| ConsulError::Malformed { path: PATH.to_owned(), problem: error.to_string() })?;
        let answer = self.client.put(PATH, body.into()).await?;
        let results = answer.json::<Done>()?.results.unwrap_or_default();
        Ok(results.into_iter().map(|outcome| (outcome.kv.key, outcome.kv.modify_index)).collect())
    }
}

/// Whether a transaction found something else than it wanted.
pub(super) const fn is_conflict(error: &ConsulError) -> bool {
    matches!(error, ConsulError::Refused { status: 409, .. })
}

/// Where a key is read.
pub(super) fn path(key: &str) -> String {
    format!("/v1/kv/{}", utf8_percent_encode(key, KEY))
}

/// What an answer holds; nothing where there is no such key.
pub(super) fn entries(answer: &Answer) -> Result<Vec<Entry>, ConsulError> {
    if answer.found { answer.json() } else { Ok(Vec::new()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_read_as_consul_tells_it() {
        let json = r#"[{"LockIndex":0,"Key":"a/b","Flags":0,"Value":"eA==","CreateIndex":1,"ModifyIndex":9},
            {"Key":"empty","Value":null,"ModifyIndex":1}]"#;
        let read: Vec<Entry> = serde_json::from_str(json).unwrap();
        assert_eq!(read[0], Entry { key: "a/b".to_owned(), value: b"x".to_vec(), index: 9 });
        assert_eq!(read[1].value, b"");
        let bad = r#"[{"Key":"a","Value":"no base64","ModifyIndex":9}]"#;
        assert!(serde_json::from_str::<Vec<Entry>>(bad).is_err());
    }

    #[test]
    fn operations_are_what_consul_takes() {
        let json = serde_json::to_string(&[
            Operation::cas("k".to_owned(), 0, b"x"),
            Operation::check("c".to_owned(), 7),
            Operation::delete_tree("t/".to_owned()),
        ]);
        let expected = r#"[{"KV":{"Verb":"cas","Key":"k","Index":0,"Value":"eA=="}},{"KV":{"Verb":"check-index","Key":"c","Index":7}},{"KV":{"Verb":"delete-tree","Key":"t/"}}]"#;
        assert_eq!(json.unwrap(), expected);
    }

    #[test]
    fn a_key_stays_in_its_place_in_a_path() {
        assert_eq!(path("realmgate/overlay/a?b c"), "/v1/kv/realmgate/overlay/a%3Fb%20c");
    }
}
