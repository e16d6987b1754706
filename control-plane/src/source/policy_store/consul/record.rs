//! What is written below a key: the record of a version, or a document that somebody wrote by hand. Pure.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::super::{MAX_TEXT, PolicyInfo, etag};

/// Raised when older releases could not read a record.
const FORMAT: u64 = 1;

/// What a record begins with and no policy does.
const MARK: &str = "\"realmgate_policy\"";

/// Bytes of a text in one key. A transaction may have 512 KiB, in which a value takes a third more.
pub(super) const PART: usize = 256 << 10;

/// Parts of the longest text that any release may write; a transaction that checks them has up to 64 operations.
const MAX_PARTS: usize = 48;

/// A version and where its text is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// The format; first, since it is the mark.
    realmgate_policy: u64,
    #[serde(flatten)]
    pub(super) info: PolicyInfo,
    /// Of the text.
    pub(super) bytes: usize,
    pub(super) parts: usize,
}

/// What was found below a key.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found<'a> {
    Record(Record),
    /// Any other text.
    ByHand(&'a str),
}

/// What is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Fault {
    #[error("it is not text")]
    NotText,
    #[error("{}", crate::model::EMPTY)]
    Empty,
    #[error("it has {bytes} bytes, more than {MAX_TEXT}")]
    Oversized { bytes: usize },
    #[error("it is a record that cannot be read: {0}")]
    Malformed(String),
    #[error("its format is {0}, of a newer release")]
    Newer(u64),
    #[error("{key} is missing")]
    Incomplete { key: String },
    #[error("the text that it names is another one")]
    Corrupt,
}

impl Fault {
    /// Its name in metrics.
    pub(super) const fn label(&self) -> &'static str {
        match self {
            Self::NotText => "not_text",
            Self::Empty => "empty",
            Self::Oversized { .. } => "oversized",
            Self::Malformed(_) => "malformed",
            Self::Newer(_) => "newer",
            Self::Incomplete { .. } => "incomplete",
            Self::Corrupt => "corrupt",
        }
    }
}

impl Record {
    pub(super) fn new(info: PolicyInfo, text: &str) -> Self {
        Self { realmgate_policy: FORMAT, info, bytes: text.len(), parts: parts(text).count() }
    }

    pub(super) fn to_json(&self) -> Result<Vec<u8>, Fault> {
        serde_json::to_vec(self).map_err(|error| Fault::Malformed(error.to_string()))
    }

    /// The text, if these are its bytes.
    pub(super) fn text(&self, bytes: Vec<u8>) -> Result<Arc<str>, Fault> {
        if bytes.len() != self.bytes || etag(&bytes) != self.info.etag {
            return Err(Fault::Corrupt);
        }
        Ok(String::from_utf8(bytes).map_err(|_| Fault::NotText)?.into())
    }

    fn check(self) -> Result<Self, Fault> {
        let malformed = |problem: String| Err(Fault::Malformed(problem));
        let etag = &self.info.etag;
        if self.info.version == 0 {
            return malformed("its version is 0".to_owned());
        }
        // It becomes part of a key.
        if etag.len() != 64 || !etag.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
            return malformed(format!("its etag `{etag}` is no SHA-256"));
        }
        if self.bytes > MAX_TEXT {
            return Err(Fault::Oversized { bytes: self.bytes });
        }
        if self.parts > MAX_PARTS {
            return malformed(format!("it names {} parts, more than {MAX_PARTS}", self.parts));
        }
        Ok(self)
    }
}

/// The parts of a text. They need not be text themselves.
pub(super) fn parts(text: &str) -> impl Iterator<Item = &[u8]> {
    text.as_bytes().chunks(PART)
}

/// A value as text of a length that is read.
pub(super) fn text(value: &[u8]) -> Result<&str, Fault> {
    if value.len() > MAX_TEXT {
        return Err(Fault::Oversized { bytes: value.len() });
    }
    let text = std::str::from_utf8(value).map_err(|_| Fault::NotText)?;
    // `consul kv put realmgate/policy` with its file forgotten must not take a fleet's routes away.
    if text.trim().is_empty() { Err(Fault::Empty) } else { Ok(text) }
}

/// What a value is.
pub(super) fn read(value: &[u8]) -> Result<Found<'_>, Fault> {
    #[derive(Deserialize)]
    struct Mark {
        realmgate_policy: u64,
    }
    let text = text(value)?;
    let inner = text.trim_start().strip_prefix('{').map(str::trim_start);
    if !inner.is_some_and(|inner| inner.starts_with(MARK)) {
        return Ok(Found::ByHand(text));
    }
    let malformed = |error: serde_json::Error| Fault::Malformed(error.to_string());
    let Mark { realmgate_policy: format } = serde_json::from_str(text).map_err(malformed)?;
    if format != FORMAT {
        return Err(Fault::Newer(format));
    }
    serde_json::from_str::<Record>(text).map_err(malformed)?.check().map(Found::Record)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(text: &str) -> Record {
        let info = PolicyInfo {
            version: 7,
            etag: etag(text),
            author: "ada".to_owned(),
            time: 1_700_000_000,
            message: "\"why\"".to_owned(),
        };
        Record::new(info, text)
    }

    #[test]
    fn a_record_is_told_from_a_document() {
        let record = record("routes: []");
        let json = record.to_json().unwrap();
        assert_eq!(read(&json), Ok(Found::Record(record.clone())));
        let pretty = serde_json::to_string_pretty(&record).unwrap();
        assert_eq!(read(format!("\n{pretty}").as_bytes()), Ok(Found::Record(record)));
        for text in ["{}", "routes: []", "{\"routes\": []}", "not a policy", "{\"realmgate\": 1}"] {
            assert_eq!(read(text.as_bytes()), Ok(Found::ByHand(text)), "left to those who know policies");
        }
    }

    #[test]
    fn what_is_wrong_has_a_name() {
        let good = String::from_utf8(record("x").to_json().unwrap()).unwrap();
        let etag = etag("x");
        for (value, label) in [
            (b"\xff\xfe".to_vec(), "not_text"),
            (b" \n".to_vec(), "empty"),
            (vec![b'x'; MAX_TEXT + 1], "oversized"),
            (b"{\"realmgate_policy\": 1, \"vers".to_vec(), "malformed"),
            (b"{\"realmgate_policy\": 1}".to_vec(), "malformed"),
            (b"{\"realmgate_policy\": 2, \"future\": true}".to_vec(), "newer"),
            (good.replace(&etag, "../policy").into_bytes(), "malformed"),
            (good.replace("\"version\":7", "\"version\":0").into_bytes(), "malformed"),
            (good.replace("\"parts\":1", "\"parts\":1000000000").into_bytes(), "malformed"),
            (good.replace("\"bytes\":1", "\"bytes\":99999999").into_bytes(), "oversized"),
        ] {
            let fault = read(&value).unwrap_err();
            assert_eq!(fault.label(), label, "{fault}");
        }
    }

    #[test]
    fn a_text_is_cut_and_put_together_and_another_is_no_match() {
        // Characters of three bytes: parts end within them.
        let text = "\u{4e16}".repeat(PART);
        let record = record(&text);
        assert_eq!((record.parts, record.bytes), (3, 3 * PART));
        let together: Vec<u8> = parts(&text).flatten().copied().collect();
        assert_eq!(&*record.text(together.clone()).unwrap(), text);
        assert_eq!(record.text(together[1..].to_vec()), Err(Fault::Corrupt));
        assert_eq!(super::tests::record("").parts, 0);
        assert!(MAX_TEXT.div_ceil(PART) <= MAX_PARTS);
    }

    proptest::proptest! {
        #[test]
        fn any_value_is_read_or_refused(value in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            let _ = read(&value);
        }
    }
}
