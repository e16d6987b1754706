//! Consul's answers as our types. Pure: no answer, however odd, is more than an error.

pub(super) mod certificates;
pub(super) mod checks;
pub(super) mod entries;
pub(super) mod instances;
pub(super) mod intentions;
pub(super) mod topology;

use serde::{Deserialize, Deserializer};

/// Go writes `null` for what is empty.
fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(value: D) -> Result<T, D::Error> {
    Option::deserialize(value).map(Option::unwrap_or_default)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::client::Answer;

    pub(in super::super) fn answer(body: &str) -> Answer {
        Answer {
            path: "/v1/test".to_owned(),
            headers: http::HeaderMap::new(),
            body: body.to_owned().into(),
            found: true,
            took: Duration::ZERO,
        }
    }
}
