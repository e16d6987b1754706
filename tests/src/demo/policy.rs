//! The policy that the demo starts with.

use super::Settings;

/// The document, with words for the person who is about to change it.
pub(super) fn text(settings: &Settings) -> String {
    let Settings { listen, world_1, world_2, .. } = settings;
    format!(
        r#"# The demo's policy; each start of the demo writes it anew.
# Try: add `worlds: [42]` as a route of its own to world-2, or swap the two services.
listeners:
  - name: edge
    bind: {listen}

services:
  - name: world-1
    endpoints: ["{world_1}"]
  - name: world-2
    endpoints: ["{world_2}"]

routes:
  - name: first-half
    server_type: 200
    worlds: ["1-50"]
    to: [{{service: world-1}}]
  - name: second-half
    server_type: 200
    worlds: ["51-100"]
    to: [{{service: world-2}}]
"#
    )
}
