//! Where what stands below the prefix.

/// Digits of a version in a key: the order of the keys is that of the versions.
const DIGITS: usize = 10;

/// The names of all keys.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    prefix: String,
}

impl Keys {
    /// `prefix` ends with a slash.
    pub(super) fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned() }
    }

    pub(super) fn policy(&self) -> String {
        format!("{}policy", self.prefix)
    }

    pub(super) fn overlay(&self, datacenter: &str) -> String {
        format!("{}overlay/{datacenter}", self.prefix)
    }

    pub(super) fn all_history(&self) -> String {
        format!("{}history/", self.prefix)
    }

    pub(super) fn history(&self, version: u64) -> String {
        format!("{}history/{version:0DIGITS$}", self.prefix)
    }

    pub(super) fn all_texts(&self) -> String {
        format!("{}text/", self.prefix)
    }

    pub(super) fn text(&self, etag: &str) -> String {
        format!("{}text/{etag}/", self.prefix)
    }

    pub(super) fn part(&self, etag: &str, number: usize) -> String {
        format!("{}text/{etag}/{number:02}", self.prefix)
    }

    /// The version that a key of the history is of.
    pub(super) fn version_of(&self, key: &str) -> Option<u64> {
        key.strip_prefix(&self.all_history())?.parse().ok()
    }

    /// The etag that a part is of.
    pub(super) fn etag_of<'a>(&self, key: &'a str) -> Option<&'a str> {
        Some(key.strip_prefix(&self.all_texts())?.split_once('/')?.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_say_what_they_are_of() {
        let keys = Keys::new("realmgate/");
        assert_eq!(keys.history(42), "realmgate/history/0000000042");
        assert_eq!(keys.version_of(&keys.history(42)), Some(42));
        assert_eq!(keys.version_of("realmgate/history/x"), None);
        assert_eq!(keys.etag_of(&keys.part("ab", 3)), Some("ab"));
        assert_eq!(keys.etag_of("realmgate/text/stray"), None);
        assert!(keys.history(9) < keys.history(10) && keys.part("a", 9) < keys.part("a", 10));
    }
}
