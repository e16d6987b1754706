//! Fetches the realm mapping, no more of it than can be served.
//!
//! A hash has a count of fields and no length. Redis knows what one takes of its memory: where that is little, all of it is
//! fetched. Where it is much, or must not be asked, each value's length is asked for first, and what is longer than any
//! address stays where it is. In between a value may grow; the connection bounds what then comes.

use std::collections::BTreeMap;
use std::iter;

use super::connection::{Commands, FETCH, SMALL};
use super::entry::MAX_ENDPOINT;
use super::lost::Lost;
use super::parse::{MAX_DOCUMENT, Mapped};

/// What Redis writes around a field or value, at most.
const AROUND: usize = 32;

/// Fields asked for at once.
const AT_ONCE: usize = 10_000;

pub(super) async fn fetch(
    commands: &mut Commands,
    key: &[u8],
    fields: usize,
) -> Result<BTreeMap<Vec<u8>, Mapped>, Lost> {
    let limit = MAX_DOCUMENT + 2 * AROUND * fields + SMALL;
    // All of it: an estimate by five fields would miss the one that counts.
    let memory = commands.small::<Option<usize>>("MEMORY USAGE", &[key, b"SAMPLES", b"0"]).await;
    match memory {
        Ok(Some(bytes)) if bytes > MAX_DOCUMENT => {}
        Ok(_) => {
            let mut all = redis::pipe();
            all.cmd("HGETALL").arg(key);
            let (hash,): (BTreeMap<Vec<u8>, Vec<u8>>,) = commands.ask("HGETALL", FETCH, limit, &all).await?;
            return Ok(hash.into_iter().map(|(field, value)| (field, Mapped::Address(value))).collect());
        }
        Err(lost) if lost.is_refusal() => {}
        Err(lost) => return Err(lost),
    }
    let mut names = redis::pipe();
    names.cmd("HKEYS").arg(key);
    let (names,): (Vec<Vec<u8>>,) = commands.ask("HKEYS", FETCH, limit, &names).await?;
    let mut hash = BTreeMap::new();
    for names in names.chunks(AT_ONCE) {
        let mut lengths = redis::pipe();
        for name in names {
            lengths.cmd("HSTRLEN").arg(key).arg(name);
        }
        let lengths: Vec<usize> =
            commands.ask("HSTRLEN", FETCH, AROUND * names.len() + SMALL, &lengths).await?;
        let (mut short, mut bytes) = (Vec::new(), 0);
        for (name, length) in iter::zip(names, lengths) {
            if length > MAX_ENDPOINT {
                hash.insert(name.clone(), Mapped::TooLong(length));
            } else {
                bytes += length + AROUND;
                short.push(name);
            }
        }
        if short.is_empty() {
            continue;
        }
        let mut values = redis::pipe();
        values.cmd("HMGET").arg(key).arg(&short);
        let (values,): (Vec<Option<Vec<u8>>>,) = commands.ask("HMGET", FETCH, bytes + SMALL, &values).await?;
        // One that is gone by now is none.
        let present = iter::zip(short, values).filter_map(|(name, value)| Some((name.clone(), value?)));
        hash.extend(present.map(|(name, value)| (name, Mapped::Address(value))));
    }
    Ok(hash)
}
