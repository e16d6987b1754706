//! Requests of both protocol variants as they come over the wire, read in place.

use std::ops::Range;

use bytes::{Buf, Bytes};
use envoy_types::pb::envoy::config::core::v3::Node;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
use prost::{DecodeError, Message};

use super::in_flight::CUT;
use super::message::{Asks, Texts, Variant};

/// A request as both variants have it; its type is not known yet.
#[derive(Debug)]
pub(super) struct RawRequest {
    /// Sure to be there only on a stream's first request (1).
    pub(super) node: Option<Node>,
    pub(super) type_url: String,
    pub(super) nonce: String,
    pub(super) error: Option<String>,
    pub(super) asks: Asks,
}

/// Why a request cannot be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum Malformed {
    #[error(transparent)]
    Encoding(#[from] DecodeError),
    #[error("it ends within field {0}")]
    Cut(u32),
    #[error("field {0} is not UTF-8")]
    NotText(u32),
}

/// Which field is which: the numbers of `DiscoveryRequest` and of `DeltaDiscoveryRequest`.
struct Numbers {
    node: u32,
    type_url: u32,
    nonce: u32,
    error: u32,
}

const SOTW: Numbers = Numbers { node: 2, type_url: 4, nonce: 5, error: 6 };
const SOTW_VERSION: u32 = 1;
const SOTW_NAMES: u32 = 3;

const DELTA: Numbers = Numbers { node: 1, type_url: 2, nonce: 6, error: 7 };
const DELTA_SUBSCRIBE: u32 = 3;
const DELTA_UNSUBSCRIBE: u32 = 4;
const DELTA_INITIAL: u32 = 5;
const ENTRY_NAME: u32 = 1;
const ENTRY_VERSION: u32 = 2;
/// Of `google.rpc.Status`.
const STATUS_MESSAGE: u32 = 2;

impl RawRequest {
    /// Not by prost: it makes a string of every name and version, which is most of the work that thousands of
    /// proxies make when they return at once and say what they have.
    pub(super) fn decode(variant: Variant, message: &Bytes) -> Result<Self, Malformed> {
        let (numbers, asks) = match variant {
            Variant::Sotw => (SOTW, Asks::All { names: Texts::of(message), version: String::new() }),
            Variant::Delta => {
                let [subscribe, unsubscribe, initial] = [(); 3].map(|()| Texts::of(message));
                (DELTA, Asks::Change { subscribe, unsubscribe, initial })
            }
        };
        let mut request =
            Self { node: None, type_url: String::new(), nonce: String::new(), error: None, asks };
        fields(message, 0..message.len(), |field, at| request.take(&numbers, message, field, at))?;
        Ok(request)
    }

    fn take(
        &mut self,
        numbers: &Numbers,
        message: &Bytes,
        field: u32,
        at: Range<usize>,
    ) -> Result<(), Malformed> {
        if field == numbers.node {
            self.node = Some(Node::decode(message.slice(at))?);
        } else if field == numbers.type_url {
            text(message, field, &at)?.clone_into(&mut self.type_url);
        } else if field == numbers.nonce {
            text(message, field, &at)?.clone_into(&mut self.nonce);
        } else if field == numbers.error {
            self.error = Some(words(message, at)?);
        } else {
            self.asks.take(message, field, at)?;
        }
        Ok(())
    }
}

impl Asks {
    fn take(&mut self, message: &Bytes, field: u32, at: Range<usize>) -> Result<(), Malformed> {
        match (self, field) {
            (Self::All { version, .. }, SOTW_VERSION) => text(message, field, &at)?.clone_into(version),
            (Self::All { names, .. }, SOTW_NAMES)
            | (Self::Change { subscribe: names, .. }, DELTA_SUBSCRIBE)
            | (Self::Change { unsubscribe: names, .. }, DELTA_UNSUBSCRIBE) => {
                text(message, field, &at)?;
                names.push(at);
            }
            (Self::Change { initial, .. }, DELTA_INITIAL) => {
                // What an entry does not say is empty.
                let [mut name, mut version] = [at.start..at.start, at.start..at.start];
                fields(message, at, |part, at| {
                    text(message, field, &at)?;
                    match part {
                        ENTRY_NAME => name = at,
                        ENTRY_VERSION => version = at,
                        _ => {}
                    }
                    Ok(())
                })?;
                initial.push(name);
                initial.push(version);
            }
            _ => {}
        }
        Ok(())
    }
}

/// Shows each field with a length in this part of the message, and where it is.
fn fields(
    message: &Bytes,
    part: Range<usize>,
    mut take: impl FnMut(u32, Range<usize>) -> Result<(), Malformed>,
) -> Result<(), Malformed> {
    let end = part.end;
    let mut rest = message.get(part).unwrap_or_default();
    while !rest.is_empty() {
        let (wire_type, field) = decode_key(&mut rest).map(|(field, wire_type)| (wire_type, field))?;
        if wire_type != WireType::LengthDelimited {
            skip_field(wire_type, field, &mut rest, DecodeContext::default())?;
            continue;
        }
        let length = usize::try_from(decode_varint(&mut rest)?).unwrap_or(usize::MAX);
        if length > rest.len() {
            return Err(Malformed::Cut(field));
        }
        let start = end - rest.len();
        rest.advance(length);
        take(field, start..start + length)?;
    }
    Ok(())
}

fn text<'a>(message: &'a Bytes, field: u32, at: &Range<usize>) -> Result<&'a str, Malformed> {
    let bytes = message.get(at.clone()).unwrap_or_default();
    std::str::from_utf8(bytes).map_err(|_| Malformed::NotText(field))
}

/// The words of a refusal, cut where Envoy cuts its own: it may quote a whole resource. A cut through a letter is
/// no reason to end the stream.
fn words(message: &Bytes, status: Range<usize>) -> Result<String, Malformed> {
    const MOST: usize = 4096;
    let mut words = 0..0;
    fields(message, status, |field, at| {
        if field == STATUS_MESSAGE {
            words = at;
        }
        Ok(())
    })?;
    let words = message.get(words).unwrap_or_default();
    let kept = words.strip_suffix(CUT.as_bytes()).unwrap_or(words);
    let kept = kept.get(..MOST).unwrap_or(kept);
    let mut text = String::from_utf8_lossy(kept).into_owned();
    if kept.len() < words.len() {
        text.truncate(text.trim_end_matches(char::REPLACEMENT_CHARACTER).len());
        text.push_str(CUT);
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use envoy_types::pb::envoy::service::discovery::v3 as pb;
    use envoy_types::pb::google::rpc::Status as RpcStatus;
    use proptest::collection::{btree_map, vec};
    use proptest::prelude::*;

    use super::*;

    fn words_of(texts: &Texts) -> Vec<&str> {
        texts.iter().collect()
    }

    fn status(message: &str) -> Option<RpcStatus> {
        (!message.is_empty()).then(|| RpcStatus {
            code: 3,
            message: message.to_owned(),
            ..RpcStatus::default()
        })
    }

    proptest! {
        #[test]
        fn delta_is_read_as_the_library_reads_it(
            id in ".{0,4}", url in ".{0,4}", nonce in ".{0,4}", error in ".{0,4}",
            subscribe in vec(".{0,4}", 0..4), unsubscribe in vec(".{0,4}", 0..4),
            initial in btree_map(".{0,4}", ".{0,4}", 0..4),
        ) {
            let message = pb::DeltaDiscoveryRequest {
                node: (!id.is_empty()).then(|| Node { id: id.clone(), ..Node::default() }),
                type_url: url.clone(),
                response_nonce: nonce.clone(),
                error_detail: status(&error),
                resource_names_subscribe: subscribe.clone(),
                resource_names_unsubscribe: unsubscribe.clone(),
                initial_resource_versions: initial.clone().into_iter().collect(),
                ..pb::DeltaDiscoveryRequest::default()
            };
            let read = RawRequest::decode(Variant::Delta, &message.encode_to_vec().into()).unwrap();
            prop_assert_eq!(read.node.map(|node| node.id).unwrap_or_default(), id);
            prop_assert_eq!((read.type_url, read.nonce, read.error.unwrap_or_default()), (url, nonce, error));
            let Asks::Change { subscribe: add, unsubscribe: remove, initial: has } = read.asks else { panic!() };
            prop_assert_eq!((words_of(&add), words_of(&remove)), (
                subscribe.iter().map(String::as_str).collect(), unsubscribe.iter().map(String::as_str).collect()));
            let has: BTreeMap<_, _> = has.pairs().map(|(n, v)| (n.to_owned(), v.to_owned())).collect();
            prop_assert_eq!(has, initial);
        }

        #[test]
        fn state_of_the_world_is_read_as_the_library_reads_it(
            version in ".{0,4}", url in ".{0,4}", nonce in ".{0,4}", error in ".{0,4}", names in vec(".{0,4}", 0..4),
        ) {
            let message = pb::DiscoveryRequest {
                version_info: version.clone(),
                type_url: url.clone(),
                response_nonce: nonce.clone(),
                error_detail: status(&error),
                resource_names: names.clone(),
                ..pb::DiscoveryRequest::default()
            };
            let read = RawRequest::decode(Variant::Sotw, &message.encode_to_vec().into()).unwrap();
            prop_assert_eq!((read.type_url, read.nonce, read.error.unwrap_or_default()), (url, nonce, error));
            let Asks::All { names: all, version: has } = read.asks else { panic!() };
            prop_assert_eq!((words_of(&all), has), (names.iter().map(String::as_str).collect(), version));
        }

        #[test]
        fn what_the_library_refuses_is_refused_and_nothing_panics(bytes in vec(any::<u8>(), 0..60)) {
            let bytes = Bytes::from(bytes);
            let _ = RawRequest::decode(Variant::Sotw, &bytes);
            let read = RawRequest::decode(Variant::Delta, &bytes);
            // A known field of another wire type is skipped here, as other implementations do.
            if pb::DeltaDiscoveryRequest::decode(bytes).is_ok() {
                prop_assert!(read.is_ok());
            }
        }
    }

    #[test]
    fn a_refusal_says_where_it_was_cut() {
        let words = |message: &[u8]| {
            let mut status = vec![0x12];
            prost::encoding::encode_varint(message.len() as u64, &mut status);
            status.extend_from_slice(message);
            let status = Bytes::from(status);
            super::words(&status, 0..status.len()).unwrap()
        };
        let long = "x".repeat(4096);
        assert_eq!(words(b"a: bad"), "a: bad");
        assert_eq!(words(long.as_bytes()), long);
        // As Envoy cuts, and as we do.
        assert_eq!(words(format!("{long}{CUT}").as_bytes()), format!("{long}{CUT}"));
        assert_eq!(words(format!("{long}yz").as_bytes()), format!("{long}{CUT}"));
        // In the middle of a letter.
        assert_eq!(words(&[b"w\xc3", CUT.as_bytes()].concat()), format!("w{CUT}"));
    }
}
