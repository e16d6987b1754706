//! Where the filter module is looked for when no setting says where it is.

use std::path::{Path, PathBuf};

/// The module's file name.
const FILE: &str = "realmgate_filter.wasm";

/// Every place at which the module may be, absolute, the likeliest first: what the setting says, or, if it is empty, where
/// checkouts and packages put it beside the program `exe`. The working directory is no part of it.
#[must_use]
pub(super) fn places(setting: &Path, exe: Option<&Path>) -> Vec<PathBuf> {
    if !setting.as_os_str().is_empty() {
        return vec![setting.to_owned()];
    }
    let beside = exe.and_then(Path::parent);
    let prefix = beside.and_then(Path::parent);
    let own = [
        beside.map(|folder| folder.join(FILE)),
        // `make build`: target/release/realmgate and target/wasm32-unknown-unknown/release.
        prefix.map(|target| target.join("wasm32-unknown-unknown/release").join(FILE)),
        prefix.map(|prefix| prefix.join("lib/realmgate").join(FILE)),
    ];
    let mut places: Vec<PathBuf> = own.into_iter().flatten().collect();
    for of_system in ["/usr/local/lib/realmgate", "/usr/lib/realmgate"] {
        let place = Path::new(of_system).join(FILE);
        if !places.contains(&place) {
            places.push(place);
        }
    }
    places
}

/// The same for this process.
#[must_use]
pub fn places_here(setting: &Path) -> Vec<PathBuf> {
    places(setting, std::env::current_exe().ok().as_deref())
}

/// The places as a text for people.
#[must_use]
pub fn listed(places: &[PathBuf]) -> String {
    places.iter().map(|place| place.display().to_string()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(setting: &str, exe: &str) -> Vec<String> {
        places(Path::new(setting), Some(Path::new(exe))).iter().map(|p| p.display().to_string()).collect()
    }

    #[test]
    fn what_is_set_is_the_only_place() {
        assert_eq!(found("/opt/filter.wasm", "/usr/bin/realmgate"), ["/opt/filter.wasm"]);
    }

    #[test]
    fn a_checkout_and_an_installed_program_find_their_own_wherever_they_are_started() {
        let checkout = found("", "/src/target/release/realmgate");
        assert!(
            checkout.contains(&"/src/target/wasm32-unknown-unknown/release/realmgate_filter.wasm".to_owned())
        );
        let installed = found("", "/usr/bin/realmgate");
        assert_eq!(installed.iter().filter(|place| place.starts_with("/usr/lib/realmgate/")).count(), 1);
        assert!(
            found("", "/opt/r/bin/realmgate")
                .contains(&"/opt/r/lib/realmgate/realmgate_filter.wasm".to_owned())
        );
        assert!(checkout.iter().chain(&installed).all(|place| place.starts_with('/')));
    }
}
