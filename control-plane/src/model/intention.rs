//! Which services may talk to which.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Problem;
use super::validate::unique;

/// Every service, as source or destination of an intention.
pub const ANY_SERVICE: &str = "*";

/// Most bytes of a name.
const LONGEST_NAME: usize = 128;

/// One rule about who may connect to whom. The most specific of those that match decides: exact to exact, then any
/// to exact, then exact to any, then any to any.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Intention {
    /// The service that connects, as its certificate has it, letter by letter; `*` = every one.
    pub source: String,
    /// The service that is connected to, in upper or lower case; `*` = every one.
    pub destination: String,
    /// What happens.
    pub action: Action,
}

/// What an intention does with a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Lets it in.
    Allow,
    /// Closes it.
    Deny,
}

/// What is wrong with the intentions of a policy.
pub(super) fn check_intentions(intentions: &[Intention], found: &mut Vec<Problem>) {
    for (i, intention) in intentions.iter().enumerate() {
        for (field, service) in [("source", &intention.source), ("destination", &intention.destination)] {
            if let Err(why) = check_service(service) {
                found.push(Problem::at(format!("intentions[{i}].{field}"), why));
            }
        }
    }
    unique(intentions.iter().map(|one| (&one.source, &one.destination)), found, |i| {
        (format!("intentions[{i}]"), "these two services have an intention already".to_owned())
    });
}

/// A service's name as it can be in a certificate. It need not be one of the policy: the mesh has others.
fn check_service(name: &str) -> Result<(), String> {
    match name {
        ANY_SERVICE => Ok(()),
        name if name.contains('*') => {
            Err(format!("`{name}`: `*` stands for every service, not for parts of names"))
        }
        name if name.is_empty()
            || name.len() > LONGEST_NAME
            || name.contains(['/', ','])
            || name.contains(char::is_control) =>
        {
            Err(format!(
                "`{}` is not 1 to {LONGEST_NAME} bytes without `/`, `,` and control characters, as the names in certificates are",
                name.escape_debug()
            ))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use crate::model::parse;

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        for (intentions, expected) in [
            (
                "[{source: 'we*', destination: api, action: allow}]",
                "intentions[0].source: `we*`: `*` stands for every",
            ),
            (
                "[{source: web, destination: 'a/b', action: allow}]",
                "intentions[0].destination: `a/b` is not 1 to 128",
            ),
            (
                "[{source: web, destination: '', action: allow}]",
                "intentions[0].destination: `` is not 1 to 128",
            ),
            ("[{source: web, destination: api, action: permit}]", "`permit` is none of `allow`, `deny`"),
            ("[{source: web, destination: api}]", "missing field `action`"),
            (
                "[{source: a, destination: b, action: allow}, {source: a, destination: b, action: deny}]",
                "intentions[1]: these two services have an intention already",
            ),
        ] {
            let problems = parse(&format!("intentions: {intentions}")).unwrap_err();
            let shown: Vec<_> = problems.iter().map(ToString::to_string).collect();
            assert!(
                shown.iter().any(|problem| problem.contains(expected)),
                "{shown:?} instead of {expected}"
            );
        }
        let policy =
            parse("intentions: [{source: '*', destination: '*', action: deny}]\ndefault_intention: allow");
        assert_eq!(policy.unwrap().intentions.len(), 1);
    }
}
