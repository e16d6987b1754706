//! The tokens that are good, known only by their hashes, and the certificates that are good for something else than their
//! names say: files of one credential a line, and behind it what its owner may be.

use std::collections::BTreeMap;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::binding::{BadBinding, Binding};
use super::identity::SpiffeId;

/// Shorter ones can be guessed.
const MIN_TOKEN_BYTES: usize = 16;
/// One for each service, and a few that overlap while they are rotated.
const MAX_LINES: usize = 4096;
/// What stands before a hash in place of a token.
const HASHED: &str = "sha256:";

/// What each credential is good for.
type Bindings = Arc<[Binding]>;

/// A token file's content.
#[derive(Debug)]
pub(super) struct Tokens {
    /// By the SHA-256 of the token. The time that a look takes may tell how far a hash agrees with one of these, which says nothing
    /// of a token: nobody can make tokens by the beginning of their hashes faster than guess them.
    by_hash: BTreeMap<[u8; 32], Bindings>,
    /// The lines of tokens that are good for every service.
    fleet: Vec<usize>,
}

/// A rules file's content: what certificates are good for, by their SPIFFE id as it stands there.
#[derive(Debug)]
pub(super) struct Rules {
    by_id: BTreeMap<String, Bindings>,
    /// The lines of certificates that are good for every service.
    fleet: Vec<usize>,
}

/// Why a file is refused. Says where, never what stands there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadLine {
    #[error("there is no token in it; write one a line, and behind it what it is for, such as `role=edge`")]
    NoToken,
    #[error("it has more than {MAX_LINES} lines")]
    TooMany,
    #[error("line {0}: a token has at least {MIN_TOKEN_BYTES} characters")]
    Short(usize),
    #[error("line {0}: a token has letters, digits and -._~+/= only")]
    Characters(usize),
    #[error("line {0}: behind `{HASHED}` stand 64 hexadecimal digits")]
    Hash(usize),
    #[error(
        "line {0}: nothing says whose token it is: write `role=sidecar service=game` or `role=edge` behind it, or \
         `role=* service=* datacenter=* cell=*` for a token with which anyone may be any proxy"
    )]
    Unbound(usize),
    #[error("line {0}: a rule begins with the SPIFFE id of a certificate, spiffe://...")]
    Id(usize),
    #[error("line {0}: {1}")]
    Binding(usize, BadBinding),
}

/// Reads a token file.
pub(super) fn tokens(contents: &[Vec<u8>]) -> Result<Tokens, String> {
    Tokens::parse(text(contents)?).map_err(|error| error.to_string())
}

/// Reads a rules file, where edges are this service.
pub(super) fn rules(contents: &[Vec<u8>], edge_service: &str) -> Result<Rules, String> {
    Rules::parse(text(contents)?, edge_service).map_err(|error| error.to_string())
}

fn text(contents: &[Vec<u8>]) -> Result<&str, String> {
    let text = contents.first().map(Vec::as_slice).unwrap_or_default();
    std::str::from_utf8(text).map_err(|_| "it is not UTF-8".to_owned())
}

/// The lines that say something, with their numbers, the first word apart. Empty lines and those that start with `#` say
/// nothing.
fn lines(text: &str) -> impl Iterator<Item = (usize, &str, &str)> {
    let lines = (1..).zip(text.lines().map(str::trim));
    let lines = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    lines.map(|(number, line)| {
        let (first, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        (number, first, rest.trim())
    })
}

/// What was read so far, by credential: who stands in several lines may be what any of them says.
struct Gathered<K>(BTreeMap<K, Vec<Binding>>, usize);

impl<K: Ord> Gathered<K> {
    const fn new() -> Self {
        Self(BTreeMap::new(), 0)
    }

    fn add(&mut self, key: K, binding: Binding) -> Result<(), BadLine> {
        self.1 += 1;
        if self.1 > MAX_LINES {
            return Err(BadLine::TooMany);
        }
        self.0.entry(key).or_default().push(binding);
        Ok(())
    }

    fn done(self) -> BTreeMap<K, Bindings> {
        self.0.into_iter().map(|(key, bindings)| (key, bindings.into())).collect()
    }
}

impl Tokens {
    /// Reads a token a line, or `sha256:` and its hash, and behind it what its owner may be.
    fn parse(text: &str) -> Result<Self, BadLine> {
        let (mut gathered, mut fleet) = (Gathered::new(), Vec::new());
        for (line, token, words) in lines(text) {
            let hash = match token.strip_prefix(HASHED) {
                Some(hash) => {
                    let mut bytes = [0; 32];
                    hex::decode_to_slice(hash, &mut bytes).map_err(|_| BadLine::Hash(line))?;
                    bytes
                }
                None => hash(checked(token).map_err(|error| error(line))?),
            };
            if words.is_empty() {
                return Err(BadLine::Unbound(line));
            }
            let binding = Binding::parse(words, None).map_err(|error| BadLine::Binding(line, error))?;
            if binding.is_fleet() {
                fleet.push(line);
            }
            gathered.add(hash, binding)?;
        }
        let by_hash = gathered.done();
        if by_hash.is_empty() { Err(BadLine::NoToken) } else { Ok(Self { by_hash, fleet }) }
    }

    /// What the token of this hash is good for, if it is one of them.
    pub(super) fn bindings(&self, hash: &[u8; 32]) -> Option<&Bindings> {
        self.by_hash.get(hash)
    }

    /// The lines of tokens with which anyone may be any service.
    pub(super) fn fleet(&self) -> &[usize] {
        &self.fleet
    }
}

impl Rules {
    /// Reads a SPIFFE id a line, and behind it what its owner may be instead of what the id says.
    fn parse(text: &str, edge_service: &str) -> Result<Self, BadLine> {
        let (mut gathered, mut fleet) = (Gathered::new(), Vec::new());
        for (line, id, words) in lines(text) {
            if !id.starts_with("spiffe://") {
                return Err(BadLine::Id(line));
            }
            // What an id of another form proves has to be said in full.
            let given = SpiffeId::parse(id).ok().map(|id| id.proves(edge_service));
            let binding = Binding::parse(words, given.as_ref());
            let binding = binding.map_err(|error| BadLine::Binding(line, error))?;
            if binding.is_fleet() {
                fleet.push(line);
            }
            gathered.add(id.to_owned(), binding)?;
        }
        Ok(Self { by_id: gathered.done(), fleet })
    }

    /// What a certificate with this id is good for, if a rule says so.
    pub(super) fn bindings(&self, uri: &str) -> Option<&Bindings> {
        self.by_id.get(uri)
    }

    /// The lines of certificates with which anyone may be any service.
    pub(super) fn fleet(&self) -> &[usize] {
        &self.fleet
    }
}

/// What RFC 6750 lets stand behind `Bearer`.
fn checked(token: &str) -> Result<&[u8], fn(usize) -> BadLine> {
    if !token.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~+/=".contains(&b)) {
        return Err(BadLine::Characters);
    }
    if token.len() < MIN_TOKEN_BYTES {
        return Err(BadLine::Short);
    }
    Ok(token.as_bytes())
}

/// What is kept of a token.
pub(super) fn hash(token: &[u8]) -> [u8; 32] {
    Sha256::digest(token).into()
}

/// A line of a token file, without the token.
///
/// # Errors
/// What is wrong with the token or the words behind it.
pub(crate) fn line(token: &str, words: &str) -> Result<String, String> {
    let line = format!("{HASHED}{} {words}", hex::encode(hash(token.as_bytes())));
    checked(token).map_err(|error| error(1)).and_then(|_| Tokens::parse(&line)).map_err(|e| e.to_string())?;
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GAME: &str = "role=sidecar service=game";

    fn good_for(tokens: &Tokens, token: &str) -> Option<Vec<String>> {
        let bindings = tokens.bindings(&hash(token.as_bytes()));
        bindings.map(|bindings| bindings.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn one_token_a_line_and_what_it_is_for() {
        let hashed = line("third-token-of-them-all", "role=edge").unwrap();
        assert!(!hashed.contains("third"), "{hashed}");
        let text = format!(
            "# old\n\n  first-token-of-many \t {GAME}  \r\nsecond/token+of~many== role=edge cell=blue\n{hashed}\n\
             first-token-of-many role=operator\n"
        );
        let tokens = Tokens::parse(&text).unwrap();
        assert_eq!(good_for(&tokens, "first-token-of-many").unwrap(), [GAME, "role=operator"]);
        assert_eq!(good_for(&tokens, "second/token+of~many==").unwrap(), ["role=edge cell=blue"]);
        assert_eq!(good_for(&tokens, "third-token-of-them-all").unwrap(), ["role=edge"]);
        for wrong in ["", "# old", "first-token-of-man", "first-token-of-many ", "role=edge", &hashed] {
            assert_eq!(good_for(&tokens, wrong), None, "{wrong:?}");
        }
        assert!(!format!("{tokens:?}").contains("token-of") && tokens.fleet().is_empty());
    }

    #[test]
    fn a_token_of_the_whole_fleet_is_written_so_and_noticed() {
        let tokens = format!("0123456789abcdef {GAME}\n\n0123456789abcdee role=* service=*\n");
        assert_eq!(Tokens::parse(&tokens).unwrap().fleet(), [3]);
    }

    #[test]
    fn what_is_wrong_is_said_without_the_token() {
        let many = format!("0123456789abcdef {GAME}\n").repeat(4097);
        for (text, error) in [
            ("", BadLine::NoToken),
            ("\n# x\n", BadLine::NoToken),
            ("0123456789abcdef role=edge\nshort", BadLine::Short(2)),
            ("0123456789abcdef", BadLine::Unbound(1)),
            ("with,a,comma,in,the,middle role=edge", BadLine::Characters(1)),
            ("sha256:0123456789abcdef role=edge", BadLine::Hash(1)),
            ("0123456789abcdef 0123456789abcdef", BadLine::Binding(1, BadBinding::Words)),
            ("\n0123456789abcdef role=sidecar", BadLine::Binding(2, BadBinding::NoService)),
            (&many, BadLine::TooMany),
        ] {
            let refused = Tokens::parse(text).unwrap_err();
            assert_eq!(refused, error);
            assert!(!refused.to_string().contains("0123456789abcdef"), "{refused}");
        }
        assert!(line("short", GAME).is_err() && line("0123456789abcdef", "role=x").is_err());
    }

    #[test]
    fn rules_say_more_of_a_certificate_than_its_id() {
        const ID: &str = "spiffe://d/ns/default/dc/aws/svc/game";
        const FOREIGN: &str = "spiffe://d/ns/prod/sa/game";
        let text = format!("{ID} cell=blue\n{ID} role=operator\n# x\n{FOREIGN} {GAME}\n");
        let rules = Rules::parse(&text, "realmgate-edge").unwrap();
        let of = |uri: &str| {
            rules.bindings(uri).map(|bindings| bindings.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        assert_eq!(of(ID).unwrap(), ["role=sidecar service=game datacenter=aws cell=blue", "role=operator"]);
        assert_eq!(of(FOREIGN).unwrap(), [GAME]);
        assert_eq!(of("spiffe://d/ns/default/dc/aws/svc/gam"), None);
        assert!(rules.fleet().is_empty());
        let fleet = Rules::parse(&format!("# x\n{ID} role=* service=*"), "realmgate-edge").unwrap();
        assert_eq!(fleet.fleet(), [2], "noticed as that of a token is");
        for (text, error) in [
            ("https://d/x role=edge", BadLine::Id(1)),
            ("spiffe://d/ns/prod/sa/game cell=blue", BadLine::Binding(1, BadBinding::NoRole)),
            ("spiffe://d/ns/prod/sa/game role=sidecar", BadLine::Binding(1, BadBinding::NoService)),
        ] {
            assert_eq!(Rules::parse(text, "realmgate-edge").unwrap_err(), error);
        }
        assert!(Rules::parse("", "realmgate-edge").is_ok(), "no rules are rules");
    }
}
