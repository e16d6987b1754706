//! The scripts, by what they are about. Each is named after its statement.

pub mod bad_input;
pub mod content;
pub mod delta;
pub mod order;
pub mod refusal;
pub mod secrets;
pub mod sotw;
pub mod streams;
pub mod wildcard;

use super::{Client, Kind, Response};

/// Takes and accepts responses of a type until one has this resource; gives that one. All before it must be
/// without any resource: state of the world may say in between what is not there any more.
async fn until_has(client: &mut Client<'_>, kind: Kind, name: &str) -> Response {
    loop {
        let response = client.take(kind).await;
        if response.has(name) {
            return response;
        }
        assert!(response.names().is_empty(), "not expected: `{}`", response.in_short());
    }
}
