//! Session ids in scenarios: written as [`ID`], which stands for whichever id the session has.

use crate::Failure;

/// What scenarios write, and what the native runner gives.
pub const ID: i64 = 0x0102_0304_0506_0708;

/// The trace of [`ID`] where chance gives nothing but 0: the id, then the random part, then the span.
const CHANCE: [u8; 16] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];

/// Compares what came with what was expected, byte by byte. Where an id is expected, any positive id may stand, but
/// everywhere the same; where the random part of a trace is expected, likewise.
///
/// # Errors
/// Says where they differ.
pub fn compare(expected: &[u8], actual: &[u8]) -> Result<(), Failure> {
    let differ =
        |at: usize, why: &str| Failure::new(format!("{why} at byte {at}{}", around(expected, actual, at)));
    let (mut id, mut chance) = (None, None);
    let mut at = 0;
    while let Some(&byte) = expected.get(at) {
        let next = |bytes: &[u8], len| bytes.get(at..at + len).map(<[u8]>::to_vec);
        let fields = [(ID.to_le_bytes().to_vec(), false), (ID.to_be_bytes().to_vec(), true)];
        let field = fields.into_iter().find(|(bytes, _)| next(expected, 8).as_ref() == Some(bytes));
        if let Some((_, is_trace)) = field {
            let found = next(actual, 8).and_then(|bytes| <[u8; 8]>::try_from(bytes).ok());
            let found = found.ok_or_else(|| differ(at, "ends in a session id"))?;
            let found = if is_trace { i64::from_be_bytes(found) } else { i64::from_le_bytes(found) };
            if found <= 0 || *id.get_or_insert(found) != found {
                return Err(differ(at, &format!("session id {found} instead of {id:?}")));
            }
            at += 8;
            let next = |bytes: &[u8]| bytes.get(at..at + CHANCE.len()).map(<[u8]>::to_vec);
            if is_trace && next(expected).as_deref() == Some(&CHANCE) {
                let found = next(actual);
                if *chance.get_or_insert(found.clone()) != found {
                    return Err(differ(at, "another trace"));
                }
                at += CHANCE.len();
            }
        } else if actual.get(at) == Some(&byte) {
            at += 1;
        } else {
            return Err(differ(at, "other bytes"));
        }
    }
    if actual.len() == expected.len() { Ok(()) } else { Err(differ(at, "other length")) }
}

fn around(expected: &[u8], actual: &[u8], at: usize) -> String {
    let part = |bytes: &[u8]| {
        let part: Vec<_> = bytes.iter().skip(at).take(16).map(|byte| format!("{byte:02x}")).collect();
        part.concat()
    };
    let (expected_len, actual_len) = (expected.len(), actual.len());
    format!(": expected {} of {expected_len}, got {} of {actual_len}", part(expected), part(actual))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_may_be_any_but_must_agree() {
        let with = |ids: [i64; 2]| [&b"a"[..], &ids[0].to_le_bytes(), b"b", &ids[1].to_le_bytes()].concat();
        let expected = with([ID, ID]);
        for ids in [[ID, ID], [7, 7], [i64::MAX, i64::MAX]] {
            compare(&expected, &with(ids)).unwrap();
        }
        for ids in [[7, 8], [0, 0], [-1, -1]] {
            compare(&expected, &with(ids)).unwrap_err();
        }
        let longer = [&expected[..], b"c"].concat();
        for actual in [&b""[..], &expected[..12], &longer] {
            compare(&expected, actual).unwrap_err();
        }
        assert!(compare(b"abc", b"abd").is_err() && compare(b"abc", b"abc").is_ok());
    }
}
