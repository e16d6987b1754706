//! What a request says of the version that it is about: `If-Match` and `If-None-Match` (RFC 9110, 13.1).

use axum::http::header::{HeaderName, IF_MATCH, IF_NONE_MATCH};
use axum::http::{HeaderMap, HeaderValue};

use super::error::ApiError;
use crate::source::policy_store::Precondition;

/// What has to be stored for a write to be made. `current`: the etag of what is in force here, empty = nothing.
pub(super) fn of_write(headers: &HeaderMap, current: &str) -> Result<Precondition, ApiError> {
    let (wanted, unwanted) = (demanded(headers, &IF_MATCH)?, demanded(headers, &IF_NONE_MATCH)?);
    match (wanted.as_slice(), unwanted.as_slice()) {
        ([], []) => Ok(Precondition::Any),
        ([], ["*"]) => Ok(Precondition::None),
        (["*"], []) => Ok(Precondition::Exists),
        // Of several the store compares the one that may hold.
        ([first, ..], []) => {
            let tag = wanted.iter().find(|tag| **tag == current).unwrap_or(first);
            Ok(Precondition::Etag((*tag).to_owned()))
        }
        ([], _) => Err(ApiError::bad_request(
            "If-None-Match of a PUT takes `*`: only where no policy was ever put. To replace a version, send its etag in If-Match",
        )),
        _ => Err(ApiError::bad_request("If-Match and If-None-Match exclude each other; send one of them")),
    }
}

/// Whether a reader has this version already.
pub(super) fn is_known(headers: &HeaderMap, etag: &str) -> Result<bool, ApiError> {
    let known = tags(headers, &IF_NONE_MATCH)?;
    // Compared weakly: a cache may have marked ours.
    let is_it = |tag: &&str| *tag == "*" || tag.strip_prefix("W/").map_or(*tag, unquoted) == etag;
    Ok(!etag.is_empty() && known.iter().any(is_it))
}

/// The tags that a write depends on. A header that names none is the unset variable of a script, which asked for a condition: without
/// one it would overwrite whatever is there.
fn demanded<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Vec<&'a str>, ApiError> {
    let tags = tags(headers, name)?;
    if tags.is_empty() && headers.contains_key(name) {
        let why = format!(
            "{name} names no etag; send the one that GET /v1/policy answers with, or leave the header out"
        );
        return Err(ApiError::bad_request(why));
    }
    Ok(tags)
}

/// Entity tags, quoted as HTTP wants them or bare as people type them. A weak one keeps its prefix, and is none of ours.
fn tags<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Vec<&'a str>, ApiError> {
    let text = |value: &'a HeaderValue| {
        value.to_str().map_err(|_| ApiError::bad_request(format!("{name} is not an entity tag")))
    };
    let lists = headers.get_all(name).iter().map(text).collect::<Result<Vec<_>, _>>()?;
    let tags = lists.into_iter().flat_map(|list| list.split(',')).map(|tag| unquoted(tag.trim()));
    Ok(tags.filter(|tag| !tag.is_empty()).collect())
}

fn unquoted(tag: &str) -> &str {
    tag.strip_prefix('"').and_then(|tag| tag.strip_suffix('"')).unwrap_or(tag)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(all: &[(&'static str, &'static str)]) -> HeaderMap {
        all.iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    fn a_write_is_made_over_what_it_names() {
        let etag = |text: &str| Precondition::Etag(text.to_owned());
        for (sent, expected) in [
            (&[][..], Precondition::Any),
            (&[("if-match", "*")], Precondition::Exists),
            (&[("if-none-match", "*")], Precondition::None),
            (&[("if-match", "\"a1\"")], etag("a1")),
            (&[("if-match", "a1")], etag("a1")),
            (&[("if-match", "\"a1\", \"now\"")], etag("now")),
            (&[("if-match", "\"a1\", \"a2\"")], etag("a1")),
            // A weak tag holds for no write.
            (&[("if-match", "W/\"now\"")], etag("W/\"now\"")),
        ] {
            assert_eq!(of_write(&headers(sent), "now").unwrap(), expected, "{sent:?}");
        }
        for sent in [
            &[("if-none-match", "\"a1\"")][..],
            &[("if-match", "*"), ("if-none-match", "*")],
            // Variables that are not set.
            &[("if-match", "")],
            &[("if-match", "\"\"")],
            &[("if-match", " , ")],
            &[("if-none-match", "")],
            &[("if-none-match", "\"\"")],
            &[("if-match", ""), ("if-none-match", "*")],
        ] {
            of_write(&headers(sent), "now").unwrap_err();
        }
    }

    #[test]
    fn a_reader_knows_what_it_names() {
        for (sent, is_it) in [
            (&[][..], false),
            (&[("if-none-match", "\"now\"")], true),
            (&[("if-none-match", "\"a1\", W/\"now\"")], true),
            (&[("if-none-match", "*")], true),
            (&[("if-none-match", "\"a1\"")], false),
        ] {
            assert_eq!(is_known(&headers(sent), "now").unwrap(), is_it, "{sent:?}");
            assert!(!is_known(&headers(sent), "").unwrap(), "nothing is there: {sent:?}");
        }
    }
}
