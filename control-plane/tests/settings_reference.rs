//! docs/settings.md says what the program does.
#![allow(clippy::panic)] // a test fails by panicking

mod golden;

#[test]
fn the_reference_is_up_to_date() {
    golden::assert_holds("docs/settings.md", &realmgate_control_plane::settings::markdown());
}
