//! The tokens that are good, known only by their hashes.

use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

/// Shorter ones can be guessed.
const MIN_TOKEN_BYTES: usize = 16;
/// Every request is compared with all of them; a few overlap while they are rotated.
const MAX_TOKENS: usize = 64;

/// A token file's content: SHA-256 of each.
#[derive(Debug)]
pub(super) struct Tokens(Vec<[u8; 32]>);

/// Why a token file is refused. Says where, never what stands there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadTokens {
    #[error("there is no token in it; write one a line")]
    None,
    #[error("it has more than {MAX_TOKENS} tokens")]
    TooMany,
    #[error("line {0}: a token has at least {MIN_TOKEN_BYTES} characters")]
    Short(usize),
    #[error("line {0}: a token has letters, digits and -._~+/= only")]
    Characters(usize),
}

/// Reads a token file.
pub(super) fn from_file(contents: &[Vec<u8>]) -> Result<Tokens, String> {
    let text = contents.first().map(Vec::as_slice).unwrap_or_default();
    let text = std::str::from_utf8(text).map_err(|_| "it is not UTF-8".to_owned())?;
    Tokens::parse(text).map_err(|error| error.to_string())
}

impl Tokens {
    /// Reads one token a line. Empty lines and lines that start with `#` say nothing.
    pub(super) fn parse(text: &str) -> Result<Self, BadTokens> {
        let mut hashes = Vec::new();
        for (line, token) in (1..).zip(text.lines().map(str::trim)) {
            if token.is_empty() || token.starts_with('#') {
                continue;
            }
            // What RFC 6750 lets stand behind `Bearer`.
            if !token.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~+/=".contains(&b)) {
                return Err(BadTokens::Characters(line));
            }
            if token.len() < MIN_TOKEN_BYTES {
                return Err(BadTokens::Short(line));
            }
            if hashes.len() == MAX_TOKENS {
                return Err(BadTokens::TooMany);
            }
            hashes.push(hash(token.as_bytes()));
        }
        if hashes.is_empty() { Err(BadTokens::None) } else { Ok(Self(hashes)) }
    }

    /// Whether this is one of them. Takes the same time wherever they differ, and whichever it is.
    pub(super) fn has(&self, token: &[u8]) -> bool {
        let hash = hash(token);
        self.0.iter().fold(Choice::from(0), |found, good| found | good.ct_eq(&hash)).into()
    }
}

fn hash(token: &[u8]) -> [u8; 32] {
    Sha256::digest(token).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_token_a_line() {
        let tokens = Tokens::parse("# old\n\n  first-token-of-many  \r\nsecond/token+of~many==\n").unwrap();
        assert!(tokens.has(b"first-token-of-many") && tokens.has(b"second/token+of~many=="));
        for wrong in ["", "# old", "first-token-of-man", "first-token-of-many ", "third"] {
            assert!(!tokens.has(wrong.as_bytes()), "{wrong:?}");
        }
        assert!(!format!("{tokens:?}").contains("token-of"));
    }

    #[test]
    fn what_is_wrong_is_said_without_the_token() {
        let many = "0123456789abcdef\n".repeat(65);
        for (text, error) in [
            ("", BadTokens::None),
            ("\n# x\n", BadTokens::None),
            ("0123456789abcdef\nshort", BadTokens::Short(2)),
            ("with a space in the middle", BadTokens::Characters(1)),
            (many.as_str(), BadTokens::TooMany),
        ] {
            assert_eq!(Tokens::parse(text).unwrap_err(), error);
        }
        assert!(!BadTokens::Short(2).to_string().contains("short"));
    }
}
