//! What is asked before a version replaces another: whether it takes away more than anybody confirmed.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;

use super::{PutError, StoredPolicy, blocking};
use crate::model::MassRemoval;

/// Asked with the version that a put would replace, at a moment when nobody else can replace it; `None` = there is none.
/// An error is why the put is not made.
#[derive(Clone)]
pub struct Guard(Arc<Asked>);

type Asked = dyn Fn(Option<&StoredPolicy>) -> Result<(), Unconfirmed> + Send + Sync;

impl Guard {
    /// A guard that asks this.
    pub fn new(
        asked: impl Fn(Option<&StoredPolicy>) -> Result<(), Unconfirmed> + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(asked))
    }

    /// One that lets everything through.
    #[must_use]
    pub fn none() -> Self {
        Self::new(|_| Ok(()))
    }

    pub(super) fn ask(&self, replaced: Option<&StoredPolicy>) -> Result<(), Unconfirmed> {
        (self.0)(replaced)
    }

    /// The same where nobody may be kept waiting: documents of thousands of routes take a while.
    pub(super) async fn ask_aside(&self, replaced: Option<StoredPolicy>) -> Result<(), PutError> {
        let guard = self.clone();
        blocking(move || guard.ask(replaced.as_ref()).map_err(PutError::from)).await
    }
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard").finish_non_exhaustive()
    }
}

/// A change that takes so much away that somebody has to confirm it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
#[error(
    "{removal}; if that is meant, confirm it with --force (in the API `?force=true`), or in the document with \
     {}",
    self.in_document()
)]
pub struct Unconfirmed {
    /// What it would take away.
    #[serde(flatten)]
    pub removal: MassRemoval,
    /// The etag of what would be replaced: whoever confirms says that he means to replace just that.
    pub etag: String,
    /// What the document confirms, where that is something else.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub said: Option<String>,
}

/// Digits of an etag that tell it from any other.
const SHORT: usize = 12;

fn short(etag: &str) -> &str {
    etag.get(..SHORT).unwrap_or(etag)
}

impl Unconfirmed {
    /// The line that confirms it in the document. Quoted, since an etag may look like a number.
    #[must_use]
    pub fn in_document(&self) -> String {
        let wanted = short(&self.etag);
        let line = format!("`confirm_removal: \"{wanted}\"`");
        match &self.said {
            Some(said) => format!("{line} (confirm_removal names \"{said}\", but \"{wanted}\" is in force)"),
            None => line,
        }
    }

    /// This, unless the document confirms it.
    pub fn unless_confirmed_by(self, confirm_removal: Option<&str>) -> Result<(), Self> {
        if self.is_confirmed_by(confirm_removal) {
            return Ok(());
        }
        Err(Self { said: confirm_removal.map(str::to_owned), ..self })
    }

    /// Whether a document that says this confirms the removal. What it replaces has another etag the next time, so that a
    /// confirmation which is left standing confirms nothing more.
    #[must_use]
    pub fn is_confirmed_by(&self, confirm_removal: Option<&str>) -> bool {
        confirm_removal.is_some_and(|said| said.len() >= SHORT && self.etag.starts_with(said))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_removal_is_confirmed_by_the_etag_of_what_it_replaces() {
        let etag = super::super::etag("a");
        let unconfirmed =
            Unconfirmed { removal: MassRemoval { taken: vec![] }, etag: etag.clone(), said: None };
        let told = unconfirmed.to_string();
        let (_, told) = told.split_once("`confirm_removal: \"").unwrap();
        assert!(unconfirmed.is_confirmed_by(Some(told.trim_end_matches("\"`"))), "as it is told");
        assert!(unconfirmed.is_confirmed_by(Some(&etag)));
        let other = super::super::etag("b");
        for said in [None, Some(""), Some(&etag[..11]), Some(other.as_str())] {
            assert!(!unconfirmed.is_confirmed_by(said), "{said:?}");
        }
    }

    #[test]
    fn an_etag_that_looks_like_a_number_is_read_as_it_is_told() {
        for etag in ["474521091281", "12345678e901", "000000000017", "1e2345678901"] {
            let unconfirmed =
                Unconfirmed { removal: MassRemoval { taken: vec![] }, etag: etag.repeat(5), said: None };
            let told = unconfirmed.to_string();
            let (_, line) = told.split_once("in the document with `").unwrap();
            let policy = crate::model::parse(line.trim_end_matches('`')).unwrap();
            assert!(unconfirmed.is_confirmed_by(policy.confirm_removal.as_deref()), "{line}");
            unconfirmed.clone().unless_confirmed_by(policy.confirm_removal.as_deref()).unwrap();
            let wrong = unconfirmed.unless_confirmed_by(Some("3b0c44298fc1")).unwrap_err().to_string();
            let expected = format!("confirm_removal names \"3b0c44298fc1\", but \"{etag}\" is in force");
            assert!(wrong.contains(&expected), "{wrong}");
        }
    }
}
