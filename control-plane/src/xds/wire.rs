//! Responses of both protocol variants as they go over the wire, in pieces.

use std::collections::VecDeque;

use bytes::Bytes;

use super::Resource;
use super::grpc::{PREFIX, prefix};
use super::message::{Response, Variant};
use super::resource::{field_len, put_field};

/// Bytes that are put together at a time. A response is assembled as fast as its proxy takes it: a slow one
/// holds this much and pointers to shared resources, not a copy of its configuration.
pub(super) const PIECE: usize = 32 << 10;

// Fields of both responses; `removed_resources` is of delta alone.
const VERSION: u32 = 1;
const TYPE_URL: u32 = 4;
const NONCE: u32 = 5;
const REMOVED: u32 = 6;

/// Responses on their way out, in pieces.
#[derive(Debug)]
pub(super) struct Outgoing {
    variant: Variant,
    waiting: VecDeque<Response>,
    current: Option<Assembly>,
}

/// A response of which a part is out.
#[derive(Debug)]
struct Assembly {
    entries: std::vec::IntoIter<std::sync::Arc<Resource>>,
    /// What comes first: gRPC's prefix; emptied when it is out.
    head: Option<[u8; PREFIX]>,
    /// What comes last: all fields but the entries.
    tail: Vec<u8>,
}

impl Outgoing {
    pub(super) const fn new(variant: Variant) -> Self {
        Self { variant, waiting: VecDeque::new(), current: None }
    }

    pub(super) fn push(&mut self, responses: Vec<Response>) {
        self.waiting.extend(responses);
    }

    /// The next bytes to send, if there are any.
    pub(super) fn piece(&mut self) -> Option<Bytes> {
        if self.current.is_none() {
            let response = self.waiting.pop_front()?;
            if self.waiting.is_empty() {
                self.waiting = VecDeque::new();
            }
            self.current = Some(Assembly::new(response, self.variant));
        }
        let current = self.current.as_mut()?;
        let mut piece = Vec::new();
        piece.extend(current.head.take().into_iter().flatten());
        while piece.len() < PIECE
            && let Some(resource) = current.entries.next()
        {
            piece.extend_from_slice(entry(&resource, self.variant));
        }
        if current.entries.len() == 0 {
            piece.append(&mut current.tail);
            self.current = None;
        }
        Some(piece.into())
    }
}

fn entry(resource: &Resource, variant: Variant) -> &[u8] {
    match variant {
        Variant::Sotw => resource.sotw_entry(),
        Variant::Delta => resource.delta_entry(),
    }
}

impl Assembly {
    fn new(response: Response, variant: Variant) -> Self {
        let Response { kind, version, nonce, resources, removed } = response;
        let fields = [(VERSION, &*version), (TYPE_URL, kind.url()), (NONCE, &nonce)];
        let fields = fields.into_iter().chain(removed.iter().map(|name| (REMOVED, &**name)));
        let tail_len = fields.clone().map(|(field, text)| field_len(field, text.len())).sum();
        let mut tail = Vec::with_capacity(tail_len);
        for (field, text) in fields {
            put_field(field, text.as_bytes(), &mut tail);
        }
        let length = tail.len() + resources.iter().map(|r| entry(r, variant).len()).sum::<usize>();
        Self { entries: resources.into_iter(), head: Some(prefix(length)), tail }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use envoy_types::pb::envoy::service::discovery::v3 as pb;
    use prost::Message;

    use super::*;
    use crate::xds::ResourceType;

    /// Takes all pieces; each message's prefix must fit what follows.
    fn messages(mut outgoing: Outgoing) -> Vec<Vec<u8>> {
        let mut bytes = Vec::new();
        while let Some(piece) = outgoing.piece() {
            assert!(piece.len() < PIECE + 20_000, "a piece is not a whole response");
            bytes.extend_from_slice(&piece);
        }
        let mut messages = Vec::new();
        while let Some((head, rest)) = bytes.split_first_chunk::<PREFIX>() {
            let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
            messages.push(rest[..length].to_vec());
            bytes = rest[length..].to_vec();
        }
        assert!(bytes.is_empty());
        messages
    }

    fn response(count: usize) -> Response {
        let resource = |i: usize| {
            let (name, version) = (format!("name-{i}").into(), format!("{i}").into());
            Arc::new(Resource::encoded(ResourceType::Cluster.url(), name, version, &vec![7; i]))
        };
        Response {
            kind: ResourceType::Cluster,
            version: "v1".into(),
            nonce: "3".to_owned(),
            resources: (0..count).map(resource).collect(),
            removed: vec!["gone".into()],
        }
    }

    #[test]
    fn responses_decode_to_what_was_meant() {
        let mut outgoing = Outgoing::new(Variant::Delta);
        outgoing.push(vec![response(0), response(2_000)]);
        let decoded: Vec<_> = messages(outgoing)
            .iter()
            .map(|message| pb::DeltaDiscoveryResponse::decode(message.as_slice()).unwrap())
            .collect();
        let [empty, full] = decoded.as_slice() else { panic!("two responses") };
        assert_eq!((empty.resources.len(), full.resources.len()), (0, 2_000));
        assert_eq!((full.system_version_info.as_str(), full.nonce.as_str()), ("v1", "3"));
        assert_eq!(full.type_url, ResourceType::Cluster.url());
        assert_eq!(full.removed_resources, ["gone"]);
        let last = &full.resources[1_999];
        assert_eq!((last.name.as_str(), last.version.as_str()), ("name-1999", "1999"));
        assert_eq!(last.resource.as_ref().unwrap().value.len(), 1_999);

        let mut outgoing = Outgoing::new(Variant::Sotw);
        outgoing.push(vec![Response { removed: Vec::new(), ..response(3) }]);
        let decoded = pb::DiscoveryResponse::decode(messages(outgoing)[0].as_slice()).unwrap();
        assert_eq!((decoded.version_info.as_str(), decoded.nonce.as_str()), ("v1", "3"));
        assert_eq!(decoded.resources.len(), 3);
        assert_eq!(decoded.resources[2].value, [7, 7]);
    }
}
