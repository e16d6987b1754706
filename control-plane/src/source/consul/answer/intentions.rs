//! `/v1/connect/intentions`.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::super::client::Answer;
use super::super::error::ConsulError;
use super::or_default;
use crate::mesh::ANY_NAMESPACE;
use crate::mesh::identity::in_spiffe_id;
use crate::model::{ANY_SERVICE, Action, Intention};

/// What says nothing about who may connect: identity, dates and words.
const WITHOUT_MEANING: [&str; 11] = [
    "ID",
    "Description",
    "Meta",
    "Precedence",
    "CreatedAt",
    "UpdatedAt",
    "Hash",
    "CreateIndex",
    "ModifyIndex",
    // Never used, and gone since 1.9.
    "DefaultAddr",
    "DefaultPort",
];

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Stated {
    #[serde(default)]
    source_partition: String,
    #[serde(default, rename = "SourceNS")]
    source_ns: String,
    #[serde(default)]
    source_name: String,
    #[serde(default)]
    destination_partition: String,
    #[serde(default, rename = "DestinationNS")]
    destination_ns: String,
    destination_name: String,
    #[serde(default)]
    source_peer: String,
    #[serde(default)]
    source_sameness_group: String,
    #[serde(default)]
    source_type: String,
    #[serde(default)]
    action: String,
    /// For HTTP requests; with them there is no action.
    #[serde(default, deserialize_with = "or_default")]
    permissions: Vec<serde::de::IgnoredAny>,
    /// What a newer Consul may have to say beside all that, and [`WITHOUT_MEANING`].
    #[serde(flatten)]
    more: BTreeMap<String, Value>,
}

/// The intentions, and what is wrong with those that cannot be used as they are. Those are as good as denials: what allows
/// is left out, since it is not for the services that it seems to name, and what denies is taken as it can be.
pub(in super::super) fn read(answer: &Answer) -> Result<(Vec<Intention>, Vec<String>), ConsulError> {
    let stated: Option<Vec<Stated>> = answer.json()?;
    let mut refused = Vec::new();
    let mut list = Vec::new();
    for one in stated.unwrap_or_default() {
        if !has_ours(&one.destination_partition) || !has_ours(&one.destination_ns) {
            // No proxy of ours can be there.
            continue;
        }
        let pair = format!("{:?} -> {:?}", one.source_name, one.destination_name);
        let mut problem = |what: String, taken: &str| refused.push(format!("{pair}: {what}; {taken}"));
        let action = match one.action.as_str() {
            // What is said of requests cannot be said of a connection that carries none.
            _ if !one.permissions.is_empty() => Action::Deny,
            "allow" => Action::Allow,
            "deny" => Action::Deny,
            // Left out it would fall to the default, which may let in.
            other => {
                problem(format!("its action is {other:?}"), "taken as deny");
                Action::Deny
            }
        };
        match (one.unlike_ours(), action) {
            (Some(what), Action::Allow) => {
                problem(what, "it lets nobody in");
                continue;
            }
            // Nobody of a peer, a partition or a namespace other than ours comes in, whatever is said.
            (Some(_), Action::Deny) if one.is_foreign() => continue,
            (Some(what), Action::Deny) => problem(what, "every service of that name here is denied"),
            (None, _) => {}
        }
        list.push(Intention {
            source: pattern(&one.source_ns, one.source_name),
            destination: pattern(&one.destination_ns, one.destination_name),
            action,
        });
    }
    Ok((list, refused))
}

impl Stated {
    /// Whether its source is not in the mesh that our proxies are in.
    fn is_foreign(&self) -> bool {
        !self.source_peer.is_empty() || !has_ours(&self.source_partition) || !has_ours(&self.source_ns)
    }

    /// What keeps it from being about services of that name here, and no others.
    fn unlike_ours(&self) -> Option<String> {
        let cannot_be = |name: &String| in_spiffe_id(name).is_none();
        let meaning = |(field, value): &(&String, &Value)| {
            !WITHOUT_MEANING.contains(&field.as_str()) && !is_empty(value)
        };
        if !self.source_peer.is_empty() {
            Some(format!("its source is of the peer {:?}", self.source_peer))
        } else if !self.source_sameness_group.is_empty() {
            Some(format!("its source is the sameness group {:?}", self.source_sameness_group))
        } else if !has_ours(&self.source_partition) {
            Some(format!("its source is of the partition {:?}", self.source_partition))
        } else if self.is_foreign() {
            Some(format!("its source is of the namespace {:?}", self.source_ns))
        } else if !matches!(self.source_type.as_str(), "" | "consul") {
            Some(format!("its source is of the type {:?}", self.source_type))
        } else if let Some(name) =
            [&self.source_name, &self.destination_name].into_iter().find(|name| cannot_be(name))
        {
            Some(format!("{name:?} cannot be the name in a certificate"))
        } else {
            self.more.iter().find(meaning).map(|(field, _)| format!("its field {field:?} is not known"))
        }
    }
}

/// Whether a partition or namespace, or all of them, has our proxies in it. A Consul that knows none leaves it out.
fn has_ours(place: &str) -> bool {
    matches!(place, "" | "default" | "*")
}

fn pattern(namespace: &str, name: String) -> String {
    match (namespace, name.as_str()) {
        ("*", "*") => ANY_NAMESPACE.to_owned(),
        // It denies: nobody is allowed by no name.
        (_, "") => ANY_SERVICE.to_owned(),
        _ => name,
    }
}

/// Go writes what is not set so.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Bool(true) => false,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(fields) => fields.is_empty(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::source::consul::answer::tests::answer;

    fn said(intentions: &Value) -> (Vec<(String, String, Action)>, Vec<String>) {
        let (list, refused) = read(&answer(&intentions.to_string())).unwrap();
        (list.into_iter().map(|one| (one.source, one.destination, one.action)).collect(), refused)
    }

    fn kept(source: &str, destination: &str, action: Action) -> Vec<(String, String, Action)> {
        vec![(source.to_owned(), destination.to_owned(), action)]
    }

    #[test]
    fn what_cannot_be_said_of_a_connection_is_a_denial() {
        let (list, refused) = said(&json!([
            {"SourceNS": "default", "SourceName": "web", "DestinationNS": "default", "DestinationName": "api", "Action": "allow"},
            {"SourceName": "*", "DestinationName": "api", "Action": "", "Permissions": [{"Action": "allow"}]},
            {"SourceName": "app", "DestinationName": "api", "Action": "allow", "Permissions": [{"Action": "allow"}]},
            {"SourceName": "x", "DestinationNS": "other", "DestinationName": "api", "Action": "allow"},
            {"SourceName": "x", "DestinationPartition": "other", "DestinationName": "api", "Action": "allow"},
            {"SourceName": "odd", "DestinationName": "api", "Action": "perhaps", "Permissions": null},
        ]));
        let said: Vec<_> = list.iter().map(|(source, _, action)| (source.as_str(), *action)).collect();
        let expected =
            [("web", Action::Allow), ("*", Action::Deny), ("app", Action::Deny), ("odd", Action::Deny)];
        assert_eq!(said, expected);
        assert!(matches!(refused.as_slice(), [one] if one.contains(r#""odd" -> "api""#)), "{refused:?}");
        assert!(read(&answer("null")).unwrap().0.is_empty());
        assert_eq!(read(&answer(r#"[{"SourceName":7}]"#)).unwrap_err().label(), "malformed");
    }

    /// As Consul 1.21 writes them; Enterprise has partitions and namespaces.
    #[test]
    fn a_source_that_is_not_here_lets_nobody_here_in() {
        for (field, value, foreign) in [
            ("SourcePeer", json!("east"), true),
            ("SourcePartition", json!("other"), true),
            ("SourceNS", json!("other"), true),
            ("SourceSamenessGroup", json!("all"), false),
            ("SourceType", json!("spiffe"), false),
            ("JWT", json!({"Providers": [{"Name": "okta"}]}), false),
            ("SourceSelector", json!("env == prod"), false),
        ] {
            for action in ["allow", "deny"] {
                let mut one = json!({
                    "ID": "", "Description": "d", "SourceNS": "default", "SourceName": "web", "SourceType": "consul",
                    "DestinationNS": "default", "DestinationName": "api", "Action": action, "Meta": {"a": "b"},
                    "Precedence": 9, "Hash": "aGFzaA==", "CreateIndex": 1, "ModifyIndex": 2,
                });
                one[field] = value.clone();
                let (list, refused) = said(&json!([one]));
                // Nobody of another mesh gets in anyway. Who is denied otherwise may be here.
                let stays = action == "deny" && !foreign;
                assert_eq!(list, if stays { kept("web", "api", Action::Deny) } else { Vec::new() }, "{one}");
                let told = refused.iter().any(|one| one.contains(r#""web" -> "api""#));
                assert_eq!(told, action == "allow" || stays, "{one}: {refused:?}");
            }
        }
    }

    #[test]
    fn what_newer_ones_write_of_every_intention_means_nothing() {
        let (list, refused) = said(&json!([{
            "ID": "x", "Description": "", "SourcePartition": "default", "SourceNS": "default", "SourceName": "web",
            "SourcePeer": "", "SourceSamenessGroup": "", "SourceType": "consul", "DestinationPartition": "default",
            "DestinationNS": "default", "DestinationName": "api", "Action": "allow", "Permissions": null, "JWT": null,
            "Meta": {}, "Precedence": 9, "CreatedAt": "2024-01-01T00:00:00Z", "DefaultAddr": "", "DefaultPort": 0,
            "UpdatedAt": "2024-01-01T00:00:00Z", "Hash": "aGFzaA==", "CreateIndex": 1, "ModifyIndex": 2, "New": {},
        }]));
        assert_eq!((list, refused), (kept("web", "api", Action::Allow), Vec::new()));
    }

    #[test]
    fn names_that_cannot_be_certificates_let_nobody_in() {
        for (source, destination) in [("a/b", "api"), ("", "api"), ("web", "a/b")] {
            let one = |action: &str| json!([{"SourceName": source, "DestinationName": destination, "Action": action}]);
            let (list, refused) = said(&one("allow"));
            assert!(list.is_empty() && refused.len() == 1, "{list:?}, {refused:?}");
            let everyone = if source.is_empty() { "*" } else { source };
            assert_eq!(said(&one("deny")).0, kept(everyone, destination, Action::Deny));
        }
    }

    #[test]
    fn namespaces_that_have_ours_among_them_are_told_apart() {
        for (namespace, pattern) in [("*", "*/*"), ("default", "*"), ("", "*")] {
            let (list, _) = said(&json!([
                {"SourceNS": namespace, "SourceName": "*", "DestinationNS": namespace, "DestinationName": "*", "Action": "allow"}
            ]));
            assert_eq!(list, kept(pattern, pattern, Action::Allow));
        }
    }
}
