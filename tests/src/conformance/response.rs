//! A response in the scripts' names, and what must hold of every response whatever the script is about.

use std::collections::{BTreeMap, BTreeSet};

use super::Subject;
use super::wire::{Channel, Message, Variant};
use super::world::{FENCES, Kind};

/// What a response brings of one resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payload {
    /// Its own version; empty in state of the world.
    pub version: String,
    /// Its encoded body; empty in a heartbeat.
    pub body: Vec<u8>,
}

/// A response.
#[derive(Clone, Debug)]
pub struct Response {
    /// The type.
    pub kind: Kind,
    /// The version of the whole.
    pub version: String,
    /// What an answer names.
    pub nonce: String,
    /// The resources by name.
    pub resources: BTreeMap<String, Payload>,
    /// Names that do not exist; delta only.
    pub removed: BTreeSet<String>,
}

impl Response {
    /// The names of the resources, without fences.
    pub fn names(&self) -> Vec<&str> {
        self.resources.keys().map(String::as_str).filter(|name| !FENCES.contains(name)).collect()
    }

    /// The removed names.
    pub fn removed(&self) -> Vec<&str> {
        self.removed.iter().map(String::as_str).collect()
    }

    /// Whether there is a resource of this name.
    pub fn has(&self, name: &str) -> bool {
        self.resources.contains_key(name)
    }

    /// The resource of this name.
    #[track_caller]
    pub fn payload(&self, name: &str) -> &Payload {
        self.resources.get(name).unwrap_or_else(|| panic!("no `{name}` in {}", self.in_short()))
    }

    /// The response on one line: `eds: a b -c`.
    pub fn in_short(&self) -> String {
        let mut short = format!("{}:", self.kind);
        for name in self.resources.keys() {
            short = short + " " + name;
        }
        for name in &self.removed {
            short = short + " -" + name;
        }
        short
    }
}

/// Translates a response and checks what must hold of each:
///
/// - its type is one that was asked for (26), its nonce is new on the stream and type (3);
/// - every name occurs once (20), is one of the world's, and is the name inside the body (21);
/// - every body is of the response's type; without a body there is an unchanged version (24);
/// - no filter configuration is taken away (16);
/// - state of the world removes by absence alone, and complete responses have no stranger among them (5).
///
/// `seen` are the nonces of the type so far, `held` the versions that the client was sent.
#[track_caller]
pub(super) fn checked(
    message: Message,
    channel: Channel,
    subject: &dyn Subject,
    seen: &dyn Fn(Kind, &str) -> bool,
    held: &dyn Fn(Kind, &str) -> Option<String>,
) -> Response {
    let Some(kind) = Kind::of_url(&message.type_url) else { panic!("nobody asked for {message:?}") };
    assert!(!message.nonce.is_empty(), "(3) no nonce in a response of {kind}");
    assert!(!seen(kind, &message.nonce), "(3) nonce `{}` of {kind} was there before", message.nonce);
    let name_of = |name: &str| {
        let found = subject.script_name(kind, name);
        found.unwrap_or_else(|| panic!("{kind} resource `{name}` belongs to no script"))
    };
    let mut response = Response {
        kind,
        version: message.version,
        nonce: message.nonce,
        resources: BTreeMap::new(),
        removed: BTreeSet::new(),
    };
    for resource in message.resources {
        let inside = resource.body.as_ref().map(|body| {
            assert_eq!(body.type_url, kind.url(), "a body of another type than the response's");
            let inside = kind.name_inside(&body.value);
            inside.unwrap_or_else(|e| panic!("a resource of {kind} cannot be decoded: {e}"))
        });
        let name = resource.name.or_else(|| inside.clone()).expect("a resource has a name or a body");
        if let Some(inside) = inside {
            assert_eq!(name, inside, "(21) the name of a resource of {kind} is not the name inside");
        } else {
            let held = held(kind, &name_of(&name));
            assert_eq!(held.as_ref(), Some(&resource.version), "(24) `{name}` of {kind} has no body");
        }
        if channel.variant == Variant::Delta {
            assert!(!resource.version.is_empty(), "`{name}` of {kind} has no version");
        }
        let body = resource.body.map(|body| body.value).unwrap_or_default();
        let payload = Payload { version: resource.version, body };
        let twice = response.resources.insert(name_of(&name), payload);
        assert!(twice.is_none(), "(20) `{name}` of {kind} is twice in a response");
    }
    for name in message.removed {
        let name = name_of(&name);
        assert!(kind != Kind::Extension, "(16) filter configuration `{name}` is taken away");
        assert!(!response.has(&name), "(20) `{name}` of {kind} is both there and removed in a response");
        assert!(response.removed.insert(name), "(20) a name of {kind} is removed twice in a response");
    }
    response
}
