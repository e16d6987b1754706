//! Where the programs are that the tests and the demo start.

use std::env;
use std::path::{Path, PathBuf};

use crate::Failure;

/// A program or file, how an environment variable overrides where it is, and what brings it.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    name: &'static str,
    variable: &'static str,
    brought_by: &'static str,
    place: Place,
}

#[derive(Clone, Copy, Debug)]
enum Place {
    /// Brought by setup into `.tools/bin`, or on the machine already.
    Tools,
    /// Built by cargo, below `target/<profile>`.
    Built,
    /// Built by cargo for wasm.
    Wasm,
}

/// The newest supported Envoy.
pub const ENVOY: Part =
    Part { name: "envoy", variable: "ENVOY_BIN", brought_by: "make setup", place: Place::Tools };
/// Redis.
pub const REDIS: Part =
    Part { name: "redis-server", variable: "REDIS_BIN", brought_by: "make setup", place: Place::Tools };
/// Prometheus.
pub const PROMETHEUS: Part =
    Part { name: "prometheus", variable: "PROMETHEUS_BIN", brought_by: "make setup", place: Place::Tools };
/// What checks its rules and runs their tests.
pub const PROMTOOL: Part =
    Part { name: "promtool", variable: "PROMTOOL_BIN", brought_by: "make setup", place: Place::Tools };
/// Consul.
pub const CONSUL: Part =
    Part { name: "consul", variable: "CONSUL_BIN", brought_by: "make setup", place: Place::Tools };
/// HAProxy, for comparison.
pub const HAPROXY: Part =
    Part { name: "haproxy", variable: "HAPROXY_BIN", brought_by: "tools/setup haproxy", place: Place::Tools };
/// The control plane and its command line.
pub const REALMGATE: Part =
    Part { name: "realmgate", variable: "REALMGATE_BIN", brought_by: "make build", place: Place::Built };
/// The simulated fleet.
pub const FLEET: Part = Part {
    name: "realmgate-fleet",
    variable: "REALMGATE_FLEET_BIN",
    brought_by: "make build",
    place: Place::Built,
};
/// The load generator.
pub const LOAD: Part = Part {
    name: "realmgate-load",
    variable: "REALMGATE_LOAD_BIN",
    brought_by: "make build",
    place: Place::Built,
};
/// A game server as a process.
pub const GAME_SERVER: Part = Part {
    name: "realmgate-game-server",
    variable: "REALMGATE_GAME_SERVER_BIN",
    brought_by: "make build",
    place: Place::Built,
};
/// The filter that Envoy loads.
pub const FILTER: Part = Part {
    name: "realmgate_filter.wasm",
    variable: "REALMGATE_FILTER_WASM",
    brought_by: "make build",
    place: Place::Wasm,
};
/// The least filter that can be made with the SDK, for benchmarks.
pub const LEAST: Part = Part {
    name: "realmgate_least_filter.wasm",
    variable: "REALMGATE_LEAST_FILTER_WASM",
    brought_by: "make bench",
    place: Place::Wasm,
};

impl Part {
    /// Its path, or a failure that says which command brings it.
    pub fn find(self) -> Result<PathBuf, Failure> {
        if let Some(path) = env::var_os(self.variable) {
            let path = PathBuf::from(path);
            let missing =
                || Failure::new(format!("{} names {}, which is not there", self.variable, path.display()));
            return if path.is_file() { Ok(path) } else { Err(missing()) };
        }
        let folders = match self.place {
            Place::Tools => tool_folders(),
            Place::Built => build_folders(),
            Place::Wasm => vec![target().join("wasm32-unknown-unknown/release")],
        };
        folders.iter().map(|folder| folder.join(self.name)).find(|path| path.is_file()).ok_or_else(|| {
            Failure::new(format!(
                "{} is missing: run `{}`, or set {}",
                self.name, self.brought_by, self.variable
            ))
        })
    }
}

/// An Envoy of a given version, such as `1.37`: setup brings every supported one but the newest by that name.
pub fn envoy_version(version: &str) -> Result<PathBuf, Failure> {
    let path = workspace().join(format!(".tools/envoy-{version}/envoy"));
    let missing = || Failure::new(format!("{} is missing: run `make setup`", path.display()));
    if path.is_file() { Ok(path) } else { Err(missing()) }
}

/// The root of the workspace. Found when it is asked for, so that no program names the folder that it was built in: above the
/// program, where cargo says that the tests are (its target folder may be elsewhere), or above where we stand.
#[must_use]
pub fn workspace() -> PathBuf {
    let places = [
        env::current_exe().ok(),
        env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from),
        env::current_dir().ok(),
    ];
    let roots = places.iter().flatten().flat_map(|place| place.ancestors());
    roots
        .into_iter()
        .find(|folder| folder.join("tests/scenarios").is_dir())
        .unwrap_or(Path::new("."))
        .to_owned()
}

/// Cargo's target folder.
#[must_use]
pub fn target() -> PathBuf {
    // A relative CARGO_TARGET_DIR is relative to where cargo was called, mostly the workspace root.
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), |dir| workspace().join(dir))
}

/// What setup brought goes before the machine's own, as in the Makefile.
fn tool_folders() -> Vec<PathBuf> {
    let mut folders = vec![workspace().join(".tools/bin")];
    folders.extend(env::var_os("PATH").iter().flat_map(env::split_paths));
    folders
}

/// The profile that runs now, then the others: a debug test starts the debug binary.
fn build_folders() -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = env::current_exe()
        .iter()
        .flat_map(|exe| exe.ancestors().skip(1).take(2))
        .map(Path::to_owned)
        .collect();
    folders.push(target().join("release"));
    folders.push(target().join("debug"));
    folders
}
