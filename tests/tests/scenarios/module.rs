//! What the built module says beside what it does.

use realmgate_tests::{modules, places};

/// `make prove` also compares two builds byte for byte.
#[test]
fn the_module_names_no_place_of_the_machine_that_built_it() {
    assert_eq!(places::named_in(&modules::good()), None, "build it by `make filter`");
}
