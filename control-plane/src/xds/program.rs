//! What a proxy says of its own program: whether it is an Envoy that we serve, and whether that runs wasm.

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::config::core::v3::node::UserAgentVersionType;

/// The oldest and the newest release that every version of ours is tried on.
pub const OLDEST: (u32, u32) = (1, 37);
/// See [`OLDEST`].
pub const NEWEST: (u32, u32) = (1, 40);

/// The kind of extension that runs modules, and the one that our filters name.
const RUNTIMES: &str = "envoy.wasm.runtime";
const RUNTIME: &str = "envoy.wasm.runtime.v8";

/// A proxy's program. What it does not say is not held against it: forks of Envoy may say less.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Program {
    /// Major, minor and patch number of its Envoy.
    version: Option<(u32, u32, u32)>,
    /// Whether it lists its wasm runtimes, and ours is not among them.
    lacks_wasm: bool,
}

impl Program {
    pub(crate) fn of(node: &Node) -> Self {
        let is_envoy = matches!(node.user_agent_name.as_str(), "" | "envoy");
        let version = match &node.user_agent_version_type {
            Some(UserAgentVersionType::UserAgentBuildVersion(build)) if is_envoy => {
                build.version.as_ref().map(|v| (v.major_number, v.minor_number, v.patch))
            }
            _ => None,
        };
        let mut runtimes =
            node.extensions.iter().filter(|extension| extension.category == RUNTIMES).peekable();
        // Every Envoy has the one without a machine; who lists no runtime at all does not list extensions.
        let lists = runtimes.peek().is_some();
        Self { version, lacks_wasm: lists && !runtimes.any(|runtime| runtime.name == RUNTIME) }
    }

    /// As `1.40.0`; empty when it does not say.
    pub(crate) fn version(self) -> String {
        self.version.map(|(major, minor, patch)| format!("{major}.{minor}.{patch}")).unwrap_or_default()
    }

    /// Whether it is too old to be sent anything.
    pub(crate) fn is_unsupported(self) -> bool {
        self.release().is_some_and(|release| release < OLDEST)
    }

    /// Whether it is newer than what we know.
    pub(crate) fn is_untested(self) -> bool {
        self.release().is_some_and(|release| release > NEWEST)
    }

    /// Whether it says that it cannot run our filters.
    pub(crate) const fn lacks_wasm(self) -> bool {
        self.lacks_wasm
    }

    fn release(self) -> Option<(u32, u32)> {
        // A development build says 0.0.0 or the like.
        self.version.map(|(major, minor, _)| (major, minor)).filter(|(major, _)| *major > 0)
    }
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::envoy::config::core::v3::{BuildVersion, Extension};
    use envoy_types::pb::envoy::r#type::v3::SemanticVersion;

    use super::*;

    fn program(name: &str, version: (u32, u32), runtimes: &[&str]) -> Program {
        let version = SemanticVersion { major_number: version.0, minor_number: version.1, patch: 2 };
        let build = BuildVersion { version: Some(version), ..BuildVersion::default() };
        let runtime = |name: &&str| Extension {
            name: (*name).to_owned(),
            category: RUNTIMES.to_owned(),
            ..Extension::default()
        };
        Program::of(&Node {
            user_agent_name: name.to_owned(),
            user_agent_version_type: Some(UserAgentVersionType::UserAgentBuildVersion(build)),
            extensions: runtimes.iter().map(runtime).collect(),
            ..Node::default()
        })
    }

    #[test]
    fn versions_are_told_apart() {
        for (version, unsupported, untested) in [
            ((1, 9), true, false),
            ((1, 36), true, false),
            ((1, 37), false, false),
            ((1, 40), false, false),
            ((1, 41), false, true),
            ((2, 0), false, true),
            ((0, 0), false, false),
        ] {
            let program = program("envoy", version, &[]);
            assert_eq!(
                (program.is_unsupported(), program.is_untested()),
                (unsupported, untested),
                "{version:?}"
            );
        }
        assert!(!program("their-proxy", (0, 9), &[]).is_unsupported());
        assert_eq!(program("their-proxy", (1, 9), &[]).version(), "");
        assert_eq!(
            (Program::of(&Node::default()).version(), program("", (1, 36), &[]).version()),
            (String::new(), "1.36.2".to_owned())
        );
    }

    #[test]
    fn only_a_list_without_it_says_that_there_is_no_wasm() {
        let lacks = |runtimes: &[&str]| program("envoy", (1, 38), runtimes).lacks_wasm();
        assert!(!lacks(&[]));
        assert!(!lacks(&["envoy.wasm.runtime.null", RUNTIME]));
        assert!(lacks(&["envoy.wasm.runtime.null"]));
    }
}
