//! Reading the plugin configuration: size, form, then meaning, each fault with its place.

use std::fmt;

use realmgate_wire::ServerId;

use crate::config::{Destination, FilterConfig, RouteConfig};
use crate::ranges::NumberSet;
use crate::template::{Allowed, Template};

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
    /// Reads and validates JSON. No bytes, or only blanks, are the default configuration, as Envoy hands over
    /// where none is set: it routes nothing.
    ///
    /// # Errors
    /// [`ConfigError`]: too large, not JSON, an unknown key, a wrong type, or what [`Self::validate`]
    /// refuses.
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
        config.validate()?;
        Ok(config)
    }

    /// Checks what the types cannot say: bounds and cluster-name templates.
    ///
    /// # Errors
    /// [`ConfigError`] with the first fault and its place.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if self.routes.len() > MAX_ROUTES {
            return Err(ConfigError::at(
                "routes",
                format!("{} routes, at most {MAX_ROUTES} are allowed", self.routes.len()),
            ));
        }
        for (i, route) in self.routes.iter().enumerate() {
            // The place is put together only for the fault that is found.
            check_route(route)
                .map_err(|(field, message)| ConfigError::at(format!("routes[{i}].{field}"), message))?;
        }
        Ok(())
    }
}

/// A path without the question marks that stand for parts unknown, such as a key that broke off.
fn place(path: &str) -> &str {
    let known = path.trim_end_matches('?').trim_end_matches('.');
    if known.is_empty() { "." } else { known }
}

/// Field and message.
type Fault = (String, String);

fn check_route(route: &RouteConfig) -> Result<(), Fault> {
    check_numbers("worlds", &route.worlds, ServerId::MAX_WORLD)?;
    check_numbers("instances", &route.instances, u16::from(u8::MAX))?;
    if route.to.is_empty() {
        return Err(("to".to_owned(), "a route needs at least one destination".to_owned()));
    }
    if route.to.len() > MAX_DESTINATIONS {
        return Err((
            "to".to_owned(),
            format!("{} destinations, at most {MAX_DESTINATIONS} are allowed", route.to.len()),
        ));
    }
    for (j, to) in route.to.iter().enumerate() {
        check_destination(to).map_err(|(field, message)| (format!("to[{j}].{field}"), message))?;
    }
    Ok(())
}

/// Sets read from JSON are in order; one that a program made may be anything.
fn check_numbers(field: &str, set: &NumberSet, max: u16) -> Result<(), Fault> {
    let NumberSet::Ranges(ranges) = set else { return Ok(()) };
    let fault = |message: String| Err((field.to_owned(), message));
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

fn check_destination(to: &Destination) -> Result<(), Fault> {
    let fault = |field: &str, message: String| (field.to_owned(), message);
    if to.weight == 0 || to.weight > MAX_WEIGHT {
        return Err(fault("weight", format!("{} is not from 1 to {MAX_WEIGHT}", to.weight)));
    }
    Template::parse(&to.cluster, Allowed::Header).map_err(|message| fault("cluster", message))?;
    let Some(pick) = &to.pick else { return Ok(()) };
    if pick.of == 0 {
        return Err(fault("pick.of", "0 endpoints leave nothing to pick".to_owned()));
    }
    Template::parse(&pick.cluster, Allowed::HeaderAndPick)
        .map_err(|message| fault("pick.cluster", message))?;
    Ok(())
}
