//! Takes delta discovery responses apart while they arrive, so that no more than one resource is ever held.

/// A part of a response.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece<'a> {
    Resource(Resource<'a>),
    /// The type of what the response is about.
    Type(&'a str),
    Nonce(&'a str),
    /// The name of a resource that is no more, or not yet.
    Removed(&'a str),
    /// The response is complete.
    End,
}

/// A resource as it is on the wire.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Resource<'a> {
    pub(super) name: &'a str,
    pub(super) version: &'a str,
    pub(super) type_url: &'a str,
    pub(super) body: &'a [u8],
}

/// What is not a gRPC stream of delta discovery responses.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Malformed(pub(super) &'static str);

/// Flag and length in front of each gRPC message.
const PREFIX: usize = 5;
/// What an idle reader may keep of its memory; there are ten thousand.
const KEPT: usize = 1024;

/// Where one stream stands.
#[derive(Debug, Default)]
pub(super) struct Reader {
    /// The part of a field that has arrived.
    carry: Vec<u8>,
    /// Bytes of the current message that are still to be taken apart.
    left: Option<usize>,
}

impl Reader {
    /// Takes a chunk, cut anywhere, and hands over what is complete.
    pub(super) fn read(&mut self, chunk: &[u8], on: impl FnMut(Piece<'_>)) -> Result<(), Malformed> {
        if self.carry.is_empty() {
            let rest = self.take(chunk, on)?;
            self.carry.extend_from_slice(rest);
            return Ok(());
        }
        let mut carry = std::mem::take(&mut self.carry);
        carry.extend_from_slice(chunk);
        let rest = self.take(&carry, on)?.len();
        carry.drain(..carry.len() - rest);
        carry.shrink_to(KEPT);
        self.carry = carry;
        Ok(())
    }

    /// Hands over all complete pieces; what remains is the beginning of one.
    fn take<'a>(&mut self, mut data: &'a [u8], mut on: impl FnMut(Piece<'_>)) -> Result<&'a [u8], Malformed> {
        loop {
            let Some(left) = self.left else {
                let Some((prefix, rest)) = data.split_at_checked(PREFIX) else { return Ok(data) };
                let [0, length @ ..] = prefix else { return Err(Malformed("a compressed message")) };
                let length = length.iter().fold(0_usize, |sum, byte| sum << 8 | usize::from(*byte));
                (self.left, data) = (Some(length), rest);
                continue;
            };
            if left == 0 {
                on(Piece::End);
                self.left = None;
                continue;
            }
            let message = data.get(..left).unwrap_or(data);
            let Some((number, value, rest)) = field(message) else {
                return if data.len() < left { Ok(data) } else { Err(Malformed("a field is cut off")) };
            };
            match number {
                2 => on(Piece::Resource(resource(value)?)),
                4 => on(Piece::Type(text(value)?)),
                5 => on(Piece::Nonce(text(value)?)),
                6 => on(Piece::Removed(text(value)?)),
                _ => {}
            }
            let used = message.len() - rest.len();
            self.left = Some(left - used);
            data = data.get(used..).unwrap_or_default();
        }
    }
}

fn resource(mut data: &[u8]) -> Result<Resource<'_>, Malformed> {
    let mut resource = Resource::default();
    while !data.is_empty() {
        let (number, value, rest) = field(data).ok_or(Malformed("a resource is cut off"))?;
        data = rest;
        match number {
            1 => resource.version = text(value)?,
            2 => (resource.type_url, resource.body) = any(value)?,
            3 => resource.name = text(value)?,
            _ => {}
        }
    }
    Ok(resource)
}

fn any(mut data: &[u8]) -> Result<(&str, &[u8]), Malformed> {
    let mut any = ("", [].as_slice());
    while !data.is_empty() {
        let (number, value, rest) = field(data).ok_or(Malformed("an Any is cut off"))?;
        data = rest;
        match number {
            1 => any.0 = text(value)?,
            2 => any.1 = value,
            _ => {}
        }
    }
    Ok(any)
}

fn text(data: &[u8]) -> Result<&str, Malformed> {
    std::str::from_utf8(data).map_err(|_| Malformed("a text is not UTF-8"))
}

/// Number and value of the first field, and what follows it; `None` when it is not all there. Numbers are of no
/// interest and given as empty.
fn field(data: &[u8]) -> Option<(u64, &[u8], &[u8])> {
    let (key, rest) = varint(data)?;
    let (length, rest) = match key & 7 {
        0 => (0, varint(rest)?.1),
        1 => (0, rest.get(8..)?),
        5 => (0, rest.get(4..)?),
        2 => varint(rest)?,
        _ => return None,
    };
    let (value, rest) = rest.split_at_checked(usize::try_from(length).ok()?)?;
    Some((key >> 3, value, rest))
}

fn varint(data: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0;
    for (place, byte) in data.iter().enumerate().take(10) {
        value |= u64::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            return Some((value, data.get(place + 1..)?));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::envoy::service::discovery::v3 as pb;
    use envoy_types::pb::google::protobuf::Any;
    use prost::Message;

    use super::{Malformed, Piece, Reader};

    fn framed(response: &pb::DeltaDiscoveryResponse) -> Vec<u8> {
        let body = response.encode_to_vec();
        let mut message = vec![0];
        message.extend(u32::try_from(body.len()).unwrap().to_be_bytes());
        message.extend(body);
        message
    }

    fn seen(chunks: &[&[u8]]) -> Vec<String> {
        let mut seen = Vec::new();
        let mut reader = Reader::default();
        for chunk in chunks {
            reader.read(chunk, |piece| seen.push(format!("{piece:?}"))).unwrap();
        }
        assert!(reader.carry.is_empty() && reader.left.is_none());
        seen
    }

    #[test]
    fn chunks_may_be_cut_anywhere() {
        let resource = pb::Resource {
            name: "a".into(),
            version: "1".into(),
            resource: Some(Any { type_url: "t".into(), value: vec![7; 300] }),
            ..Default::default()
        };
        let response = pb::DeltaDiscoveryResponse {
            resources: vec![resource.clone(), resource],
            type_url: "t".into(),
            nonce: "n".into(),
            removed_resources: vec!["gone".into()],
            ..Default::default()
        };
        let stream = [framed(&response), framed(&pb::DeltaDiscoveryResponse::default())].concat();
        let whole = seen(&[&stream]);
        assert_eq!(whole.len(), 7, "{whole:?}");
        let bytes: Vec<_> = stream.chunks(1).collect();
        assert_eq!(seen(&bytes), whole);
        for cut in 0..stream.len() {
            let (first, second) = stream.split_at(cut);
            assert_eq!(seen(&[first, second]), whole);
        }
    }

    #[test]
    fn what_is_no_response_is_refused() {
        let read = |bytes: &[u8]| Reader::default().read(bytes, |_: Piece<'_>| {});
        assert_eq!(read(&[1, 0, 0, 0, 0]), Err(Malformed("a compressed message")));
        assert_eq!(read(&[0, 0, 0, 0, 2, 0x12, 9]), Err(Malformed("a field is cut off")));
        assert_eq!(read(&[0, 0, 0, 0, 3, 0x2a, 1, 0xff]), Err(Malformed("a text is not UTF-8")));
    }
}
