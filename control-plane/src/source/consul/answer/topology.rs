//! `/v1/catalog/datacenters` and `/v1/coordinate/datacenters`.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;

use super::super::client::Answer;
use super::super::error::ConsulError;
use super::or_default;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Area {
    datacenter: String,
    #[serde(default, rename = "AreaID")]
    id: String,
    #[serde(default, deserialize_with = "or_default")]
    coordinates: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    coord: Coordinate,
}

/// A place in the space of Vivaldi: distances are round trips in seconds.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Coordinate {
    #[serde(default, deserialize_with = "or_default")]
    vec: Vec<f64>,
    #[serde(default)]
    adjustment: f64,
    #[serde(default)]
    height: f64,
}

/// The names of all datacenters.
pub(in super::super) fn datacenters(answer: &Answer) -> Result<Vec<String>, ConsulError> {
    Ok(answer.json::<Option<Vec<String>>>()?.unwrap_or_default())
}

/// The median round trip from the servers of `local` to those of each other datacenter.
pub(in super::super) fn round_trips(
    answer: &Answer,
    local: &str,
) -> Result<BTreeMap<String, Duration>, ConsulError> {
    let mut areas: Vec<Area> = answer.json::<Option<_>>()?.unwrap_or_default();
    // Segments and network areas have spaces of their own.
    areas.retain(|area| matches!(area.id.as_str(), "" | "wan"));
    let ours: Vec<_> =
        areas.iter().filter(|area| area.datacenter == local).flat_map(|a| &a.coordinates).collect();
    let mut trips = BTreeMap::new();
    for area in areas.iter().filter(|area| area.datacenter != local) {
        let pairs =
            ours.iter().flat_map(|here| area.coordinates.iter().map(|there| (&here.coord, &there.coord)));
        let mut seconds: Vec<f64> = pairs.filter_map(|(here, there)| seconds_between(here, there)).collect();
        seconds.sort_by(f64::total_cmp);
        let median = seconds.get(seconds.len() / 2).and_then(|s| Duration::try_from_secs_f64(*s).ok());
        trips.extend(median.map(|median| (area.datacenter.clone(), median)));
    }
    Ok(trips)
}

/// As Consul documents it; `None` where the two are of different spaces.
fn seconds_between(a: &Coordinate, b: &Coordinate) -> Option<f64> {
    if a.vec.len() != b.vec.len() {
        return None;
    }
    let squares: f64 = a.vec.iter().zip(&b.vec).map(|(a, b)| (a - b) * (a - b)).sum();
    let raw = squares.sqrt() + a.height + b.height;
    let adjusted = raw + a.adjustment + b.adjustment;
    let seconds = if adjusted > 0.0 { adjusted } else { raw };
    seconds.is_finite().then_some(seconds)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::consul::answer::tests::answer;

    fn area(datacenter: &str, places: &[(f64, f64)]) -> serde_json::Value {
        let place = |(x, adjustment): &(f64, f64)| serde_json::json!({"Node": "n", "Coord": {"Vec": [x, 0.0], "Adjustment": adjustment, "Height": 0.001}});
        serde_json::json!({"Datacenter": datacenter, "AreaID": "wan",
            "Coordinates": places.iter().map(place).collect::<Vec<_>>()})
    }

    #[test]
    fn the_median_of_all_pairs_counts() {
        let areas = serde_json::json!([
            area("aws", &[(0.0, 0.0)]),
            area("azure", &[(0.010, 0.0), (0.020, 0.0), (9.0, 0.0)]),
            area("near", &[(0.001, -1.0)]),
            area("empty", &[]),
        ]);
        let trips = round_trips(&answer(&areas.to_string()), "aws").unwrap();
        assert_eq!(trips.keys().collect::<Vec<_>>(), ["azure", "near"]);
        assert!(trips["azure"].abs_diff(Duration::from_millis(22)) < Duration::from_micros(1), "{trips:?}");
        assert!(
            trips["near"].abs_diff(Duration::from_millis(3)) < Duration::from_micros(1),
            "not adjusted below 0"
        );
        let odd = r#"[{"Datacenter":"aws","Coordinates":[{"Coord":{"Vec":[1]}}]},
            {"Datacenter":"b","Coordinates":[{"Coord":{"Vec":[1,2]}},{"Coord":{"Vec":[1e308]}}]}]"#;
        assert!(round_trips(&answer(odd), "aws").unwrap().is_empty());
        assert!(datacenters(&answer("null")).unwrap().is_empty());
    }
}
