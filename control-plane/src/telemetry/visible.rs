//! Text of others, made safe to print: what ends a line, steers a terminal or hides is written out.

use std::borrow::Cow;
use std::fmt::Write;

/// Whether a character shows as itself, wherever it is printed: no control character, no other end of a line, nothing that has no width
/// or turns the direction of what stands around it.
#[must_use]
pub const fn is_visible(c: char) -> bool {
    !matches!(
        c,
        '\0'..='\u{1f}'
            | '\u{7f}'..='\u{9f}'
            | '\u{ad}'
            | '\u{61c}'
            | '\u{180e}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e007f}'
    )
}

/// The text with everything else as `\n` or `\u{1b}`.
#[must_use]
pub fn escaped(text: &str) -> Cow<'_, str> {
    if text.chars().all(is_visible) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_visible(c) {
            out.push(c);
        } else {
            // Into a string nothing fails.
            let _ = write!(out, "{}", c.escape_default());
        }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_stay_and_what_is_no_part_of_one_is_written_out() {
        for plain in ["edge-1", "my shop", "größe/東京", "a\\nb", ""] {
            assert!(matches!(escaped(plain), Cow::Borrowed(text) if text == plain));
        }
        for (text, shown) in [
            ("a\nedge-2  edge", "a\\nedge-2  edge"),
            ("\u{1b}[2J\r\t", "\\u{1b}[2J\\r\\t"),
            ("a\u{2028}b\u{85}c\u{202e}d\u{200b}", "a\\u{2028}b\\u{85}c\\u{202e}d\\u{200b}"),
        ] {
            assert_eq!(escaped(text), shown);
        }
    }

    proptest! {
        #[test]
        fn what_is_escaped_is_one_line_without_control(text: String) {
            let shown = escaped(&text);
            prop_assert!(!shown.chars().any(char::is_control));
            prop_assert!(shown.lines().count() <= 1);
            prop_assert_eq!(escaped(&shown), &*shown);
        }
    }
}
