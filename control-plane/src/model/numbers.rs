//! Worlds and instances as the policy lists them: `any`, `7`, or `[1, 5, "10-20"]`.

use std::borrow::Cow;
use std::fmt;

use realmgate_filter::ranges::{NumberSet, parse_range};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::ser::SerializeSeq;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Numbers of 1..=`MAX`, or any number (0 included). The list keeps its order, so that a message can name
/// the entry it means.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum Numbers<const MAX: u16> {
    /// Every number, and 0, which names none in particular.
    #[default]
    Any,
    /// Inclusive ranges as written; a single number is a range of one.
    Listed(Vec<(u16, u16)>),
}

/// Worlds, 1 to 32,767.
pub type Worlds = Numbers<{ realmgate_wire::ServerId::MAX_WORLD }>;
/// Instances, 1 to 255.
pub type Instances = Numbers<255>;

impl<const MAX: u16> Numbers<MAX> {
    /// The numbers as a set.
    #[must_use]
    pub fn to_set(&self) -> NumberSet {
        match self {
            Self::Any => NumberSet::Any,
            Self::Listed(ranges) => NumberSet::from_ranges(ranges.iter().copied()),
        }
    }
}

impl<const MAX: u16> Serialize for Numbers<MAX> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self::Listed(ranges) = self else { return serializer.serialize_str("any") };
        let mut list = serializer.serialize_seq(Some(ranges.len()))?;
        for &(low, high) in ranges {
            if low == high {
                list.serialize_element(&low)?;
            } else {
                list.serialize_element(&format!("{low}-{high}"))?;
            }
        }
        list.end()
    }
}

impl<'de, const MAX: u16> Deserialize<'de> for Numbers<MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Visitor::<MAX>)
    }
}

struct Visitor<const MAX: u16>;

impl<'de, const MAX: u16> de::Visitor<'de> for Visitor<MAX> {
    type Value = Numbers<MAX>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`any`, a number from 1 to {MAX}, or a list of numbers and \"low-high\" ranges")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
        if text == "any" {
            return Ok(Numbers::Any);
        }
        text.split(',')
            .map(|part| parse_range(part.trim(), MAX))
            .collect::<Result<_, _>>()
            .map(Numbers::Listed)
            .map_err(E::custom)
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Self::Value, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Self::Value, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut ranges = Vec::new();
        while let Some(Range::<MAX>(low, high)) = seq.next_element()? {
            ranges.push((low, high));
        }
        if ranges.is_empty() {
            return Err(de::Error::custom("an empty list matches nothing; leave it out or write `any`"));
        }
        Ok(Numbers::Listed(ranges))
    }
}

/// One element of the list.
struct Range<const MAX: u16>(u16, u16);

impl<'de, const MAX: u16> Deserialize<'de> for Range<MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Entry<'a> {
            Number(i64),
            Text(Cow<'a, str>),
        }
        let text = match Entry::deserialize(deserializer)? {
            Entry::Number(number) => number.to_string(),
            Entry::Text(text) => text.into_owned(),
        };
        parse_range(&text, MAX).map(|(low, high)| Self(low, high)).map_err(de::Error::custom)
    }
}

impl<const MAX: u16> JsonSchema for Numbers<MAX> {
    fn schema_name() -> Cow<'static, str> {
        format!("NumbersTo{MAX}").into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let number = json_schema!({"type": "integer", "minimum": 1, "maximum": MAX});
        let range = json_schema!({"type": "string", "pattern": "^[0-9]+(-[0-9]+)?$"});
        json_schema!({
            "oneOf": [
                {"const": "any"},
                number,
                {"type": "string", "pattern": "^[0-9]+(-[0-9]+)?(,[0-9]+(-[0-9]+)?)*$"},
                {"type": "array", "minItems": 1, "items": {"oneOf": [number, range]}},
            ],
            "default": "any",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_every_form() {
        let read = |json: &str| serde_json::from_str::<Worlds>(json);
        assert_eq!(read("\"any\"").unwrap(), Worlds::Any);
        assert_eq!(read("7").unwrap(), Worlds::Listed(vec![(7, 7)]));
        assert_eq!(read("\"1-3,9\"").unwrap(), Worlds::Listed(vec![(1, 3), (9, 9)]));
        assert_eq!(read("[5, \"1-3\"]").unwrap(), Worlds::Listed(vec![(5, 5), (1, 3)]));
        for bad in ["0", "[0]", "32768", "[\"5-3\"]", "[]", "\"some\"", "-1", "null", "[[1,2]]"] {
            assert!(read(bad).is_err(), "{bad}");
        }
        assert!(serde_json::from_str::<Instances>("256").is_err());
    }

    #[test]
    fn prints_what_it_reads() {
        let list = Worlds::Listed(vec![(5, 5), (1, 3)]);
        let json = serde_json::to_string(&list).unwrap();
        assert_eq!(serde_json::from_str::<Worlds>(&json).unwrap(), list);
    }
}
