//! Reading the plugin configuration: size and form, each fault with its place. What it means, [`Router::new`](crate::Router::new)
//! checks.

use std::fmt;

use crate::config::FilterConfig;
use crate::ranges::NumberSet;

/// Larger configurations are refused unread. 65,535 long routes fit twice.
pub const MAX_BYTES: usize = 16 << 20;

/// Most routes of a configuration: twice as many as there are worlds.
pub const MAX_ROUTES: usize = 65_535;

/// Most destinations of a route.
pub const MAX_DESTINATIONS: usize = 1024;

/// Largest weight of a destination.
pub const MAX_WEIGHT: u32 = 1_000_000;

/// Why a configuration is not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// Where, such as `routes[3].to[0].cluster`; `.` for the whole.
    pub place: String,
    /// What is wrong there.
    pub message: String,
}

impl ConfigError {
    pub(crate) fn at(place: impl Into<String>, message: impl Into<String>) -> Self {
        Self { place: place.into(), message: message.into() }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.message)
    }
}

impl std::error::Error for ConfigError {}

impl FilterConfig {
    /// Reads JSON. No bytes, or only blanks, are the default configuration, as Envoy hands over
    /// where none is set: it routes nothing.
    ///
    /// # Errors
    /// [`ConfigError`]: too large, not JSON, an unknown key or a wrong type.
    pub fn from_json(json: &[u8]) -> Result<Self, ConfigError> {
        if json.len() > MAX_BYTES {
            return Err(ConfigError::at(
                ".",
                format!("{} bytes of configuration, at most {MAX_BYTES} are read", json.len()),
            ));
        }
        match json.trim_ascii_start().first() {
            None => return Ok(Self::default()),
            Some(b'{') => {}
            // serde would take the fields in order from an array.
            Some(_) => return Err(ConfigError::at(".", "the configuration must be a JSON object")),
        }
        let mut deserializer = serde_json::Deserializer::from_slice(json);
        let config: Self = serde_path_to_error::deserialize(&mut deserializer)
            .map_err(|error| ConfigError::at(place(&error.path().to_string()), error.inner().to_string()))?;
        deserializer.end().map_err(|error| ConfigError::at(".", error.to_string()))?;
        Ok(config)
    }
}

/// A path without the question marks that stand for parts unknown, such as a key that broke off.
fn place(path: &str) -> &str {
    let known = path.trim_end_matches('?').trim_end_matches('.');
    if known.is_empty() { "." } else { known }
}

/// Field and message. The whole place is put together only for the fault that is found.
pub(crate) type Fault = (String, String);

pub(crate) fn fault(field: impl Into<String>, message: impl Into<String>) -> Fault {
    (field.into(), message.into())
}

/// Sets read from JSON are in order; one that a program made may be anything.
pub(crate) fn check_numbers(field: &str, set: &NumberSet, max: u16) -> Result<(), Fault> {
    let NumberSet::Ranges(ranges) = set else { return Ok(()) };
    let fault = |message: String| Err(fault(field, message));
    let mut above = 0;
    if ranges.is_empty() {
        return fault("an empty set takes nothing".to_owned());
    }
    for &(low, high) in ranges {
        if high > max {
            return fault(format!("{high} is above {max}"));
        }
        if low <= above || high < low {
            return fault(format!("{low}-{high} is not a range above {above}"));
        }
        above = high;
    }
    Ok(())
}
