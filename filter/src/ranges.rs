//! Sets of worlds and instances, written as people write them: `any`, `7`, `1-50,60`.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Either every number ("any", which alone includes 0) or sorted, disjoint, merged ranges of numbers >= 1.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum NumberSet {
    /// Every number, 0 included: a header with world 0 or instance 0 names none in particular.
    #[default]
    Any,
    /// Sorted, disjoint, not touching; both ends belong to the range.
    Ranges(Vec<(u16, u16)>),
}

impl NumberSet {
    /// The set of these inclusive ranges, in any order, touching and overlapping as they may.
    #[must_use]
    pub fn from_ranges(ranges: impl IntoIterator<Item = (u16, u16)>) -> Self {
        let mut ranges: Vec<_> = ranges.into_iter().collect();
        ranges.sort_unstable();
        let mut merged: Vec<(u16, u16)> = Vec::new();
        for (low, high) in ranges {
            match merged.last_mut() {
                Some(last) if low <= last.1.saturating_add(1) => last.1 = last.1.max(high),
                _ => merged.push((low, high)),
            }
        }
        Self::Ranges(merged)
    }

    /// Whether `number` belongs to the set.
    #[must_use]
    pub fn contains(&self, number: u16) -> bool {
        match self {
            Self::Any => true,
            Self::Ranges(ranges) => {
                let after = ranges.partition_point(|&(low, _)| low <= number);
                after.checked_sub(1).and_then(|i| ranges.get(i)).is_some_and(|&(_, high)| number <= high)
            }
        }
    }

    /// Reads `any` or a comma-separated list of numbers and `low-high` ranges, each in 1..=`max`.
    ///
    /// # Errors
    /// Says which part is not a number, a range or inside the bounds.
    pub fn parse(text: &str, max: u16) -> Result<Self, String> {
        if text.trim() == "any" {
            return Ok(Self::Any);
        }
        let mut ranges = Vec::new();
        for part in text.split(',') {
            ranges.push(parse_range(part.trim(), max)?);
        }
        Ok(Self::from_ranges(ranges))
    }
}

/// Reads `7` or `7-9`, in 1..=`max`.
///
/// # Errors
/// Says what is wrong with the text.
pub fn parse_range(text: &str, max: u16) -> Result<(u16, u16), String> {
    let number = |text: &str| {
        let number: u16 =
            text.trim().parse().map_err(|_| format!("`{text}` is not a number from 1 to {max}"))?;
        if number == 0 {
            return Err("0 cannot be listed: it means \"any\"".to_owned());
        }
        if number > max { Err(format!("{number} is above {max}")) } else { Ok(number) }
    };
    match text.split_once('-') {
        None => number(text).map(|n| (n, n)),
        Some((low, high)) => {
            let (low, high) = (number(low)?, number(high)?);
            if low > high { Err(format!("range `{text}` ends before it starts")) } else { Ok((low, high)) }
        }
    }
}

impl fmt::Display for NumberSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::Ranges(ranges) = self else { return f.write_str("any") };
        for (i, (low, high)) in ranges.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            if low == high {
                write!(f, "{comma}{low}")?;
            } else {
                write!(f, "{comma}{low}-{high}")?;
            }
        }
        Ok(())
    }
}

impl Serialize for NumberSet {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Bounds are checked where the meaning is known (worlds to 32,767, instances to 255), see
/// [`crate::config`]; here only the form.
impl<'de> Deserialize<'de> for NumberSet {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        Self::parse(&text, u16::MAX).map_err(de::Error::custom)
    }
}
