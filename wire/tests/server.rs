//! The framing towards game servers: published vectors, bounds and round-trip properties; the same file runs
//! natively and on wasm32 in Node.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code, of which clippy knows only the functions marked as tests"
)]

#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

use realmgate_wire::{
    ClientHeader, HeaderBytes, LengthError, ServerFraming, ServerHeader, ServerId, ServerParsed, TraceContext,
};

const SESSION: i64 = 0x0102_0304_0506_0708;

/// Type 0x1234, session 0x0102030405060708, body aa bb.
const PLAIN: [u8; 31] = [
    0x0b, 0, 0, 0, 0x34, 0x12, 0, 0, 0, 0, 0, 0, 8, 7, 6, 5, 4, 3, 2, 1, 1, 8, 7, 6, 5, 4, 3, 2, 1, 0xaa,
    0xbb,
];

const TRACE: TraceContext = TraceContext {
    trace_id: [
        0xa0, 0xa1, 0xa2, 0xa3, 0xa4, 0xa5, 0xa6, 0xa7, 0xa8, 0xa9, 0xaa, 0xab, 0xac, 0xad, 0xae, 0xaf,
    ],
    span_id: [0xb0, 0xb1, 0xb2, 0xb3, 0xb4, 0xb5, 0xb6, 0xb7],
};

/// The same message in the traced framing: 55 bytes, length 0x23.
fn traced() -> Vec<u8> {
    let mut bytes = PLAIN[..29].to_vec();
    bytes[0] = 0x23;
    bytes.extend_from_slice(&TRACE.trace_id);
    bytes.extend_from_slice(&TRACE.span_id);
    bytes.extend_from_slice(&[0xaa, 0xbb]);
    bytes
}

fn complete(bytes: &[u8], framing: ServerFraming) -> ServerHeader {
    match ServerHeader::parse(bytes, framing) {
        Ok(ServerParsed::Complete(header)) => header,
        other => panic!("{other:?}"),
    }
}

fn message(message_id: u16, body_len: u16, compressed: bool) -> ClientHeader {
    ClientHeader { body_len, message_id, server_id: ServerId::new(200, 7, 3, compressed) }
}

#[test]
fn writes_the_published_plain_vector() {
    let mut session = HeaderBytes::of_session(SESSION, None);
    assert_eq!(session.of_message(message(0x1234, 2, false)), &PLAIN[..29]);
    // Whatever the message before said is written over.
    let _ = session.of_message(message(0xffff, 0xffff, true));
    assert_eq!(session.of_message(message(0x1234, 2, false)), &PLAIN[..29]);
}

#[test]
fn writes_the_published_traced_vector() {
    let mut session = HeaderBytes::of_session(SESSION, Some(TRACE));
    let vector = traced();
    assert_eq!(vector.len(), 55);
    assert_eq!(session.of_message(message(0x1234, 2, false)), &vector[..53]);
}

#[test]
fn reads_the_published_vectors() {
    let header = complete(&PLAIN, ServerFraming::Plain);
    let expected = ServerHeader::reply(0x1234, 2, SESSION);
    assert_eq!(header, expected);
    assert_eq!(header.to_client().to_bytes(), [2, 0, 0x34, 0x12, 0, 0, 0, 0]);
    let header = complete(&traced(), ServerFraming::Traced);
    assert_eq!(header, ServerHeader { trace: Some(TRACE), ..expected });
    assert_eq!(header.to_bytes().as_slice(), &traced()[..53]);
}

#[test]
fn says_how_many_bytes_are_missing() {
    for have in 0..29 {
        let parsed = ServerHeader::parse(&PLAIN[..have], ServerFraming::Plain);
        assert_eq!(parsed, Ok(ServerParsed::Incomplete(29 - have)));
    }
    for have in 0..53 {
        let parsed = ServerHeader::parse(&traced()[..have], ServerFraming::Traced);
        assert_eq!(parsed, Ok(ServerParsed::Incomplete(53 - have)));
    }
}

#[test]
fn refuses_a_bad_length_as_soon_as_it_is_there() {
    let parse = |length: i32, framing| ServerHeader::parse(&length.to_le_bytes(), framing);
    for (framing, least) in [(ServerFraming::Plain, 9), (ServerFraming::Traced, 33)] {
        for length in [i32::MIN, i32::MIN + 8, -1, 0, least - 1] {
            assert_eq!(parse(length, framing), Err(LengthError::TooShort(length)));
        }
        for length in [least + 65_536, i32::MAX] {
            assert_eq!(parse(length, framing), Err(LengthError::TooLarge(length)));
        }
        let missing = framing.header_len() - 4;
        for length in [least, least + 65_535] {
            assert_eq!(parse(length, framing), Ok(ServerParsed::Incomplete(missing)));
        }
    }
}

#[test]
fn the_compressed_bit_and_nothing_else_of_the_server_id_goes_both_ways() {
    let mut session = HeaderBytes::of_session(SESSION, None);
    let sent = complete(session.of_message(message(1, 0, true)), ServerFraming::Plain);
    assert_eq!(sent.server_id, ServerId(0x8000_0000));
    let reply = ServerHeader { server_id: ServerId(u32::MAX), ..ServerHeader::reply(1, 0, SESSION) };
    assert_eq!(reply.to_client().server_id, ServerId(0x8000_0000));
    let reply = ServerHeader { server_id: ServerId(0x7fff_ffff), ..reply };
    assert_eq!(reply.to_client().server_id, ServerId(0));
}

#[test]
fn a_client_gets_the_low_bits_of_the_type() {
    for (message_type, id) in [(-1, 0xffff), (0x0001_1234, 0x1234), (i32::MIN, 0)] {
        assert_eq!(ServerHeader::reply(message_type, 0, 1).to_client().message_id, id);
    }
}

#[test]
fn a_trace_begins_with_its_session() {
    let trace = TraceContext::of_session(SESSION, 0x1112_1314_1516_1718, 0);
    assert_eq!(trace.trace_id[..8], SESSION.to_be_bytes());
    assert_eq!(trace.trace_id[8..], [0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18]);
    assert_eq!(trace.span_id, [0, 0, 0, 0, 0, 0, 0, 1], "W3C forbids all zero");
}

#[cfg(not(target_arch = "wasm32"))]
mod properties {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_bytes_are_incomplete_refused_or_survive(
            bytes in proptest::collection::vec(any::<u8>(), 0..80), traced: bool, plausible: Option<u16>,
        ) {
            let framing = if traced { ServerFraming::Traced } else { ServerFraming::Plain };
            let mut bytes = bytes;
            if let (Some(length), Some(front)) = (plausible, bytes.first_chunk_mut()) {
                *front = i32::from(length).to_le_bytes();
            }
            match ServerHeader::parse(&bytes, framing) {
                Ok(ServerParsed::Complete(header)) => {
                    let again = header.to_bytes();
                    prop_assert_eq!(again.as_slice(), &bytes[..framing.header_len()]);
                }
                Ok(ServerParsed::Incomplete(missing)) => {
                    prop_assert_eq!(bytes.len() + missing, framing.header_len());
                }
                Err(LengthError::TooShort(length) | LengthError::TooLarge(length)) => {
                    prop_assert_eq!(&length.to_le_bytes()[..], &bytes[..4]);
                }
            }
        }

        #[test]
        fn a_message_survives_the_way_to_the_server_and_back(
            message_id: u16, body_len: u16, id: u32, session_id: i64, trace: Option<(u64, u64)>,
        ) {
            let client = ClientHeader { body_len, message_id, server_id: ServerId(id) };
            let trace = trace.map(|(random, span)| TraceContext::of_session(session_id, random, span));
            let framing = if trace.is_some() { ServerFraming::Traced } else { ServerFraming::Plain };
            let mut session = HeaderBytes::of_session(session_id, trace);
            let sent = complete(session.of_message(client), framing);
            prop_assert_eq!((sent.session_id, sent.object_id, sent.opcode), (session_id, session_id, 1));
            prop_assert_eq!(sent.trace, trace);
            let back = sent.to_client();
            prop_assert_eq!((back.body_len, back.message_id), (body_len, message_id));
            prop_assert_eq!(back.server_id, ServerId(id & 0x8000_0000));
        }
    }
}
