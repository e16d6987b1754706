//! Translation against a model that has the whole stream at once: any messages in any pieces, both ways.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code, of which clippy knows only the functions marked as tests"
)]

use proptest::prelude::*;
use realmgate_filter::config::Framing;
use realmgate_filter::host::{HostError, Stream, Way};
use realmgate_filter::translate::{Fault, Messages, Translation};
use realmgate_wire::{ClientHeader, HeaderBytes, ServerHeader, ServerId, TraceContext};

const SESSION: i64 = 0x0102_0304_0506_0708;

/// The proxy's buffer, with the rules of Envoy's: written at its beginning or behind its end.
#[derive(Default)]
struct Buffer {
    data: Vec<u8>,
    calls: usize,
    most_read: usize,
    /// Gives a byte less than it is asked for.
    short: bool,
}

impl Stream for Buffer {
    fn read(&mut self, _: Way, len: usize) -> Result<Vec<u8>, HostError> {
        assert!(len <= self.data.len());
        self.calls += 1;
        self.most_read = self.most_read.max(len);
        Ok(self.data[..len - usize::from(self.short)].to_vec())
    }
    fn replace(&mut self, _: Way, len: usize, by: &[u8]) -> Result<(), HostError> {
        assert!(len <= self.data.len());
        self.calls += 1;
        self.data.splice(..len, by.iter().copied());
        Ok(())
    }
    fn append(&mut self, _: Way, bytes: &[u8]) -> Result<(), HostError> {
        self.calls += 1;
        self.data.extend_from_slice(bytes);
        Ok(())
    }
}

fn trace() -> TraceContext {
    TraceContext::of_session(SESSION, 77, 88)
}

fn translation(framing: Framing, max_message_bytes: u32) -> Translation {
    Translation::new(framing, max_message_bytes, SESSION, trace()).unwrap()
}

/// Sends `chunks` one way; what comes out, and the host with its counts.
fn run(translation: &mut Translation, way: Way, chunks: &[&[u8]]) -> Result<(Vec<u8>, Buffer), Fault> {
    let (mut host, mut out, mut scratch) = (Buffer::default(), Vec::new(), Vec::new());
    for chunk in chunks {
        host.data = chunk.to_vec();
        translation.pass(way, chunk.len(), &mut scratch, &mut host)?;
        out.append(&mut host.data);
    }
    Ok((out, host))
}

#[derive(Clone, Debug)]
struct Message {
    id: u16,
    body: Vec<u8>,
    compressed: bool,
}

impl Message {
    fn client(&self, server_id: ServerId) -> Vec<u8> {
        let body_len = u16::try_from(self.body.len()).unwrap();
        let header = ClientHeader { body_len, message_id: self.id, server_id };
        [&header.to_bytes()[..], &self.body].concat()
    }

    fn sent_by_client(&self) -> Vec<u8> {
        self.client(ServerId::new(200, 7, 1, self.compressed))
    }

    fn got_by_client(&self) -> Vec<u8> {
        self.client(ServerId::new(0, 0, 0, self.compressed))
    }

    fn got_by_server(&self, framing: Framing) -> Vec<u8> {
        let body_len = u16::try_from(self.body.len()).unwrap();
        let server_id = ServerId::new(200, 7, 1, self.compressed);
        let trace = (framing == Framing::ServerTraced).then(trace);
        let mut headers = HeaderBytes::of_session(SESSION, trace);
        let header = headers.of_message(ClientHeader { body_len, message_id: self.id, server_id });
        [header, &self.body].concat()
    }

    fn sent_by_server(&self) -> Vec<u8> {
        let body_len = u16::try_from(self.body.len()).unwrap();
        let server_id = ServerId::new(1, 2, 3, self.compressed);
        let header =
            ServerHeader { server_id, ..ServerHeader::reply(i32::from(self.id) | 0x0ab0_0000, body_len, 9) };
        [header.to_bytes().as_slice(), &self.body].concat()
    }
}

fn any_message() -> impl Strategy<Value = Message> {
    let length = prop_oneof![
        4 => 0..4_usize,
        4 => 0..100_usize,
        1 => 1900..2200_usize,
        1 => 32_700..33_000_usize,
        1 => 65_400..=65_535_usize,
    ];
    (any::<u16>(), length, any::<u8>(), any::<bool>()).prop_map(|(id, length, byte, compressed)| Message {
        id,
        // Bodies that look like headers to whoever loses count.
        body: vec![byte % 8; length],
        compressed,
    })
}

fn any_messages() -> impl Strategy<Value = Vec<Message>> {
    let many_small = any_message().prop_flat_map(|mut message| {
        message.body.truncate(100);
        (1..3000_usize).prop_map(move |count| vec![message.clone(); count])
    });
    prop_oneof![4 => proptest::collection::vec(any_message(), 0..12), 1 => many_small]
}

/// Cuts `stream` at these shares of what is left.
fn pieces<'a>(mut stream: &'a [u8], cuts: &[(bool, u16)]) -> Vec<&'a [u8]> {
    let mut pieces = Vec::new();
    for &(few, cut) in cuts {
        let at = if few { usize::from(cut % 64) } else { usize::from(cut) };
        let (piece, rest) = stream.split_at(at.min(stream.len()));
        pieces.push(piece);
        stream = rest;
    }
    pieces.push(stream);
    pieces
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    #[test]
    fn messages_come_out_whole_in_any_pieces(
        messages in any_messages(), cuts in proptest::collection::vec(any::<(bool, u16)>(), 0..60), traced: bool,
    ) {
        let framing = if traced { Framing::ServerTraced } else { Framing::Server };
        let all = |part: &dyn Fn(&Message) -> Vec<u8>| messages.iter().flat_map(part).collect::<Vec<u8>>();
        let mut both = translation(framing, 65_535);
        let count = u64::try_from(messages.len()).unwrap();

        let input = all(&Message::sent_by_client);
        let (out, host) = run(&mut both, Way::ToServer, &pieces(&input, &cuts)).unwrap();
        prop_assert!(out == all(&|message| message.got_by_server(framing)), "other bytes to the server");
        prop_assert!(host.most_read <= 65_535 + 8);
        prop_assert_eq!(both.messages(), Messages { to_server: count, to_client: 0 });

        let input = all(&Message::sent_by_server);
        let (out, host) = run(&mut both, Way::ToClient, &pieces(&input, &cuts)).unwrap();
        prop_assert!(out == all(&Message::got_by_client), "other bytes to the client");
        prop_assert!(host.most_read <= 65_535 + 29);
        prop_assert_eq!(both.messages(), Messages { to_server: count, to_client: count });
    }

    #[test]
    fn any_bytes_are_translated_or_refused_alike_in_any_pieces(
        bytes in proptest::collection::vec(prop_oneof![3 => 0..2_u8, 1 => any::<u8>()], 0..4000),
        cuts in proptest::collection::vec(any::<(bool, u16)>(), 0..60),
        limit in prop_oneof![Just(0_u32), 0..300_u32],
    ) {
        for way in [Way::ToServer, Way::ToClient] {
            let whole = run(&mut translation(Framing::Server, limit), way, &[&bytes]);
            let cut = run(&mut translation(Framing::Server, limit), way, &pieces(&bytes, &cuts));
            prop_assert_eq!(whole.map(|(out, _)| out), cut.map(|(out, _)| out));
        }
    }
}

fn calls(way: Way, chunks: &[&[u8]]) -> usize {
    let (_, host) = run(&mut translation(Framing::Server, 0), way, chunks).unwrap();
    host.calls
}

#[test]
fn a_message_costs_two_calls_and_a_body_none() {
    for length in [0, 64, 2040, 16_384, 65_535] {
        let message = Message { id: 1, body: vec![0; length], compressed: false };
        for (way, bytes) in
            [(Way::ToServer, message.sent_by_client()), (Way::ToClient, message.sent_by_server())]
        {
            assert_eq!(calls(way, &[&bytes]), 2, "{length} bytes in one piece");
            let (first, rest) = bytes.split_at(40.min(bytes.len()));
            let rest: Vec<_> = rest.chunks(100).collect();
            assert_eq!(calls(way, &[&[first], &rest[..]].concat()), 2, "{length} bytes in many pieces");
            if length > 0 {
                // The end of one and the beginning of the next in one chunk.
                let two = [&bytes[..], &bytes].concat();
                let (left, right) = two.split_at(bytes.len() - 3);
                assert_eq!(calls(way, &[left, right]), 4, "{length} bytes, one behind the other");
            }
        }
    }
    let sixteen = Message { id: 1, body: vec![0; 64], compressed: false }.sent_by_client().repeat(16);
    assert_eq!(calls(Way::ToServer, &[&sixteen]), 2, "pipelined by 16");
}

#[test]
fn a_megabyte_of_headers_is_never_in_memory_at_once() {
    let (mut host, mut scratch) = (Buffer::default(), Vec::new());
    host.data = vec![0; 1 << 20];
    translation(Framing::ServerTraced, 0).pass(Way::ToServer, 1 << 20, &mut scratch, &mut host).unwrap();
    assert_eq!(host.data.len(), (1 << 20) / 8 * 53);
    assert!(host.most_read <= 32 * 1024 && scratch.capacity() <= 512 * 1024, "{}", scratch.capacity());
}

#[test]
fn lengths_that_no_message_may_have_end_the_session() {
    let reply = |length: i32| {
        let mut bytes = ServerHeader::reply(1, 0, 1).to_bytes().as_slice().to_vec();
        bytes[..4].copy_from_slice(&length.to_le_bytes());
        bytes
    };
    let good = Message { id: 1, body: vec![7; 10], compressed: false }.sent_by_server();
    for (length, fault) in [
        (i32::MIN, Fault::ReplyTooShort),
        (-1, Fault::ReplyTooShort),
        (0, Fault::ReplyTooShort),
        (8, Fault::ReplyTooShort),
        (9 + 65_536, Fault::ReplyTooLarge),
        (i32::MAX, Fault::ReplyTooLarge),
    ] {
        let bad = reply(length);
        let behind = [&good[..], &bad].concat();
        // Four bytes are enough to know.
        for chunks in [&[&bad[..]][..], &[&bad[..4]], &[&bad[..3], &bad[3..4]], &[&good, &bad], &[&behind]] {
            let passed = run(&mut translation(Framing::Server, 0), Way::ToClient, chunks);
            assert_eq!(passed.err(), Some(fault), "{length}");
        }
    }
    let longest = [reply(9 + 65_535), vec![1; 65_535]].concat();
    let (out, _) = run(&mut translation(Framing::Server, 0), Way::ToClient, &[&longest]).unwrap();
    assert_eq!(out.len(), 8 + 65_535);
    assert_eq!(out[..2], [0xff, 0xff]);
}

#[test]
fn every_message_of_a_client_is_held_to_the_limit() {
    let message = |length| Message { id: 1, body: vec![7; length], compressed: false }.sent_by_client();
    let (fits, does_not) = (message(100), message(101));
    let mut session = translation(Framing::Server, 100);
    run(&mut session, Way::ToServer, &[&fits, &fits]).unwrap();
    assert_eq!(run(&mut session, Way::ToServer, &[&does_not[..8]]).err(), Some(Fault::MessageTooLarge));
    run(&mut translation(Framing::Server, 0), Way::ToServer, &[&message(65_535)]).unwrap();
}

#[test]
fn a_host_that_gives_less_than_it_announced_ends_the_session() {
    let mut host = Buffer { data: vec![0; 100], short: true, ..Buffer::default() };
    let passed = translation(Framing::Server, 0).pass(Way::ToServer, 100, &mut Vec::new(), &mut host);
    assert_eq!(passed, Err(Fault::HostError));
}
