//! The folders of this machine that nothing we give away may name: they say who built it and where, and make each build differ.

use std::env;
use std::path::{Path, PathBuf};

use crate::parts;

/// The sources, and the homes of whoever builds, of cargo and of rustup.
#[must_use]
pub fn of_this_machine() -> Vec<PathBuf> {
    let homes = ["HOME", "CARGO_HOME", "RUSTUP_HOME"].into_iter().filter_map(env::var_os).map(PathBuf::from);
    // A user without a home has `/`.
    homes.chain([parts::workspace()]).filter(|place| place.components().count() > 1).collect()
}

/// Where a file names one of them: the text there.
#[must_use]
pub fn named_in(bytes: &[u8]) -> Option<String> {
    of_this_machine().iter().find_map(|place| named(bytes, place))
}

fn named(bytes: &[u8], place: &Path) -> Option<String> {
    // With a slash, since `/root` also begins `/roots`.
    let wanted = format!("{}/", place.display());
    let at = bytes.windows(wanted.len()).position(|text| text == wanted.as_bytes())?;
    let text = bytes.get(at..)?.iter().take_while(|byte| byte.is_ascii_graphic()).take(200);
    Some(text.map(|byte| char::from(*byte)).collect())
}

#[cfg(test)]
mod tests {
    use super::{named_in, of_this_machine};

    #[test]
    fn a_place_is_found_and_a_word_that_begins_like_it_is_not() {
        let place = of_this_machine().pop().unwrap();
        let told = format!("\0a{}/src/lib.rs\0", place.display());
        assert_eq!(named_in(told.as_bytes()), Some(format!("{}/src/lib.rs", place.display())));
        assert_eq!(named_in(format!("{}s/src", place.display()).as_bytes()), None);
    }
}
