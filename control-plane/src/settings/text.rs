//! Settings in text form: addresses that say how they should look, and empty for none.

/// `address:port`, with an error that shows an example.
pub(super) mod address {
    use std::net::SocketAddr;

    use serde::{Deserialize, Deserializer, Serializer, de};

    pub(in crate::settings) fn serialize<S: Serializer>(
        address: &SocketAddr,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_str(address)
    }

    pub(in crate::settings) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<SocketAddr, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(|_| {
            de::Error::custom(format_args!("`{text}` is not IP-address:port, such as 127.0.0.1:18000"))
        })
    }
}

/// A value or, as the empty text, none.
pub(super) mod optional {
    use serde::de::value::StrDeserializer;
    use serde::de::{self, IntoDeserializer};
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    // serde's `with` passes a reference to the field.
    #[allow(clippy::ref_option)]
    pub(in crate::settings) fn serialize<T: Serialize, S: Serializer>(
        value: &Option<T>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => value.serialize(serializer),
            None => serializer.serialize_str(""),
        }
    }

    pub(in crate::settings) fn deserialize<'de, T, D>(deserializer: D) -> Result<Option<T>, D::Error>
    where
        T: Deserialize<'de>,
        D: Deserializer<'de>,
    {
        let text = String::deserialize(deserializer)?;
        if text.is_empty() {
            return Ok(None);
        }
        let value: StrDeserializer<'_, D::Error> = text.as_str().into_deserializer();
        match T::deserialize(value) {
            Ok(value) => Ok(Some(value)),
            // Some types name neither the value nor what was wanted; the value at least is known here.
            Err(e) if e.to_string().contains(&text) => Err(e),
            Err(e) => Err(de::Error::custom(format_args!("`{text}`: {e}"))),
        }
    }
}
