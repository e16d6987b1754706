//! An encoded message as text, field by field, in the order of its bytes: two messages of one text are one message.

use std::fmt::Write;

/// Writes `NUMBER: VALUE` lines, indented; what is neither text nor a message is written as bytes.
pub(super) fn write(message: &[u8], depth: usize, text: &mut String) {
    let mut rest = message;
    while let Some(field) = Field::take(&mut rest) {
        let (indent, number) = ("  ".repeat(depth), field.number);
        match field.value {
            Value::Number(value) => writeln!(text, "{indent}{number}: {value}").unwrap(),
            Value::Fixed(bytes) => writeln!(text, "{indent}{number}: fixed {bytes:02x?}").unwrap(),
            Value::Bytes(bytes) if is_text(bytes) => {
                writeln!(text, "{indent}{number}: {:?}", String::from_utf8_lossy(bytes)).unwrap();
            }
            Value::Bytes(bytes) if is_message(bytes) => {
                writeln!(text, "{indent}{number}:").unwrap();
                write(bytes, depth + 1, text);
            }
            Value::Bytes(bytes) => writeln!(text, "{indent}{number}: {bytes:02x?}").unwrap(),
        }
    }
    assert!(rest.is_empty(), "not a message: {rest:?}");
}

struct Field<'a> {
    number: u64,
    value: Value<'a>,
}

enum Value<'a> {
    Number(u64),
    Fixed(&'a [u8]),
    Bytes(&'a [u8]),
}

impl<'a> Field<'a> {
    /// The next field; what cannot be read is left.
    fn take(rest: &mut &'a [u8]) -> Option<Self> {
        let mut ahead = *rest;
        let key = varint(&mut ahead)?;
        let value = match key & 7 {
            0 => Value::Number(varint(&mut ahead)?),
            1 => Value::Fixed(ahead.split_off(..8)?),
            2 => {
                let length = usize::try_from(varint(&mut ahead)?).ok()?;
                Value::Bytes(ahead.split_off(..length)?)
            }
            5 => Value::Fixed(ahead.split_off(..4)?),
            _ => return None,
        };
        *rest = ahead;
        Some(Self { number: key >> 3, value }).filter(|field| field.number != 0)
    }
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = *rest.split_off_first()?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

fn is_text(bytes: &[u8]) -> bool {
    let is_last = |at: usize| at + 1 == bytes.len();
    bytes
        .iter()
        .enumerate()
        .all(|(at, byte)| byte.is_ascii_graphic() || *byte == b' ' || *byte == b'\n' && is_last(at))
        && !bytes.is_empty()
}

fn is_message(bytes: &[u8]) -> bool {
    let mut rest = bytes;
    while Field::take(&mut rest).is_some() {}
    rest.is_empty()
}
