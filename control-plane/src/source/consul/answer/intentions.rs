//! `/v1/connect/intentions`.

use serde::Deserialize;

use super::super::client::Answer;
use super::super::error::ConsulError;
use super::or_default;
use crate::model::{Action, Intention};

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Stated {
    #[serde(default, rename = "SourceNS")]
    source_ns: String,
    source_name: String,
    #[serde(default, rename = "DestinationNS")]
    destination_ns: String,
    destination_name: String,
    #[serde(default)]
    source_peer: String,
    #[serde(default)]
    action: String,
    /// For HTTP requests; with them there is no action.
    #[serde(default, deserialize_with = "or_default")]
    permissions: Vec<serde::de::IgnoredAny>,
}

/// The intentions, and what is wrong with those that cannot be used.
pub(in super::super) fn read(answer: &Answer) -> Result<(Vec<Intention>, Vec<String>), ConsulError> {
    let stated: Option<Vec<Stated>> = answer.json()?;
    let mut refused = Vec::new();
    let mut list = Vec::new();
    for one in stated.unwrap_or_default() {
        let pair = format!("{} -> {}", one.source_name, one.destination_name);
        // Another namespace's services, or another cluster's, are none that a proxy of ours could be.
        let foreign = |ns: &str| !matches!(ns, "" | "default" | "*");
        if foreign(&one.source_ns) || foreign(&one.destination_ns) || !one.source_peer.is_empty() {
            continue;
        }
        let action = match one.action.as_str() {
            "allow" => Action::Allow,
            "deny" => Action::Deny,
            // What is said of requests cannot be said of a connection that carries none.
            "" if !one.permissions.is_empty() => Action::Deny,
            other => {
                // Left out it would fall to the default, which may let in.
                refused.push(format!("{pair}: its action is `{other}`; taken as deny"));
                Action::Deny
            }
        };
        list.push(Intention { source: one.source_name, destination: one.destination_name, action });
    }
    Ok((list, refused))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::consul::answer::tests::answer;

    #[test]
    fn what_cannot_be_said_of_a_connection_is_a_denial() {
        let (list, refused) = read(&answer(
            r#"[{"SourceNS":"default","SourceName":"web","DestinationNS":"default","DestinationName":"api","Action":"allow"},
                {"SourceName":"*","DestinationName":"api","Action":"","Permissions":[{"Action":"allow"}]},
                {"SourceNS":"other","SourceName":"x","DestinationName":"api","Action":"allow"},
                {"SourceName":"odd","DestinationName":"api","Action":"perhaps","Permissions":null}]"#,
        ))
        .unwrap();
        let said: Vec<_> = list.iter().map(|i| (i.source.as_str(), i.action)).collect();
        assert_eq!(said, [("web", Action::Allow), ("*", Action::Deny), ("odd", Action::Deny)]);
        assert!(matches!(refused.as_slice(), [one] if one.contains("odd -> api")));
        assert!(read(&answer("null")).unwrap().0.is_empty());
        assert_eq!(read(&answer(r#"[{"SourceName":7}]"#)).unwrap_err().label(), "malformed");
    }
}
