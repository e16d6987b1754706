//! Requests and responses of both protocol variants in one shape, so that one core serves them.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::subscription::OBJECT;
use super::{Resource, ResourceType};

/// The two variants of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Variant {
    /// State of the world: a proxy repeats all its names, CDS and LDS answers are complete.
    Sotw,
    /// Delta: both sides send differences, and removals are said explicitly.
    Delta,
}

/// What a proxy sends: perhaps an acknowledgement, perhaps a change of what it asks for.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) kind: ResourceType,
    /// The response that this acknowledges; empty on the first request of a type.
    pub(crate) nonce: String,
    /// The proxy's words when it refuses that response. The refusal is this, never the version (17).
    pub(crate) error: Option<String>,
    pub(crate) asks: Asks,
}

/// The part of a request that says which resources are wanted.
#[derive(Clone, Debug)]
pub(crate) enum Asks {
    /// State of the world: all names, and the version the proxy has.
    All { names: Texts, version: String },
    /// Delta: what to add and drop, and after a reconnect what the proxy has already: pairs of name and version.
    Change { subscribe: Texts, unsubscribe: Texts, initial: Texts },
}

/// Texts of a request, as parts of its bytes and not copies of them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Texts {
    message: Bytes,
    parts: Vec<Range<usize>>,
}

impl Asks {
    /// What keeping all texts would take: of short ones that is mostly not their bytes.
    pub(crate) fn cost(&self) -> usize {
        match self {
            Self::All { names, version } => names.cost() + version.len(),
            Self::Change { subscribe, unsubscribe, initial } => {
                subscribe.cost() + unsubscribe.cost() + initial.cost()
            }
        }
    }
}

impl Texts {
    fn cost(&self) -> usize {
        self.parts.iter().map(|part| part.len() + OBJECT).sum()
    }

    /// No text of this message yet.
    pub(crate) fn of(message: &Bytes) -> Self {
        Self { message: message.clone(), parts: Vec::new() }
    }

    /// Adds one, which must be UTF-8 to count.
    pub(crate) fn push(&mut self, part: Range<usize>) {
        self.parts.push(part);
    }

    pub(crate) const fn len(&self) -> usize {
        self.parts.len()
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// Bytes of the longest.
    pub(crate) fn longest(&self) -> usize {
        self.parts.iter().map(Range::len).max().unwrap_or_default()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().map(|part| self.text(part))
    }

    /// Two by two: names and their versions.
    pub(crate) fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        let (pairs, _) = self.parts.as_chunks();
        pairs.iter().map(|[name, version]| (self.text(name), self.text(version)))
    }

    fn text(&self, part: &Range<usize>) -> &str {
        let bytes = self.message.get(part.clone()).unwrap_or_default();
        std::str::from_utf8(bytes).unwrap_or_default()
    }
}

impl<T: AsRef<str>> FromIterator<T> for Texts {
    fn from_iter<I: IntoIterator<Item = T>>(texts: I) -> Self {
        let (mut message, mut parts) = (String::new(), Vec::new());
        for text in texts {
            let start = message.len();
            message.push_str(text.as_ref());
            parts.push(start..message.len());
        }
        Self { message: message.into(), parts }
    }
}

/// What a proxy is sent. The resources are shared with the snapshot and all other streams.
#[derive(Clone, Debug)]
pub(crate) struct Response {
    pub(crate) kind: ResourceType,
    pub(crate) version: Arc<str>,
    pub(crate) nonce: String,
    pub(crate) resources: Vec<Arc<Resource>>,
    /// Names that do not exist; empty in state of the world, where absence says it.
    pub(crate) removed: Vec<Arc<str>>,
}

impl Response {
    /// Bytes of all entries, the measure of a configuration's size.
    pub(crate) fn size(&self) -> usize {
        self.resources.iter().map(|resource| resource.delta_entry().len()).sum()
    }
}
