//! The protocol's published vectors and its round-trip properties; the same file runs natively and on
//! wasm32 in Node.
#![allow(missing_docs)]

#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

use realmgate_wire::{ClientHeader, Parsed, ServerId, consistent_hash, crc32, realm_based};

/// Length 5, message 0x1001, compressed, world 1, type 200, instance 2.
const VECTOR: [u8; 8] = [0x05, 0x00, 0x01, 0x10, 0x02, 0xc8, 0x01, 0x80];

#[test]
fn reads_the_published_vector() {
    let Parsed::Complete(header) = ClientHeader::parse(&VECTOR) else { panic!("eight bytes are a header") };
    assert_eq!(header.body_len, 5);
    assert_eq!(header.message_id, 0x1001);
    assert!(header.server_id.compressed());
    assert_eq!(header.server_id.world(), 1);
    assert_eq!(header.server_id.server_type(), 200);
    assert_eq!(header.server_id.instance(), 2);
    assert_eq!(header.to_bytes(), VECTOR);
    assert_eq!(header.server_id, ServerId::new(200, 1, 2, true));
}

#[test]
fn says_how_many_bytes_are_missing() {
    for have in 0..VECTOR.len() {
        assert_eq!(ClientHeader::parse(&VECTOR[..have]), Parsed::Incomplete(8 - have));
    }
}

#[test]
fn leaves_the_body_alone() {
    let mut message = VECTOR.to_vec();
    message.extend_from_slice(b"hello and more");
    assert_eq!(ClientHeader::parse(&message), ClientHeader::parse(&VECTOR));
}

#[test]
fn crc32_is_the_ieee_one() {
    assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    assert_eq!(crc32(b""), 0);
}

#[test]
fn consistent_hash_picks_as_the_old_gateway() {
    let picks: Vec<_> = (1..=10).map(|instance| consistent_hash(instance, 3).unwrap()).collect();
    assert_eq!(picks, [2, 1, 1, 1, 1, 1, 0, 2, 0, 0]);
}

#[test]
fn realm_based_picks_as_the_old_gateway() {
    let picks: Vec<_> = (1..=10).map(|instance| realm_based(1, instance, 3).unwrap()).collect();
    assert_eq!(picks, [1, 1, 1, 2, 0, 1, 1, 1, 0, 1]);
}

#[test]
fn hashes_agree_with_the_text_they_stand_for() {
    for instance in 1..=255u8 {
        assert_eq!(consistent_hash(instance, 7), Some(crc32(instance.to_string().as_bytes()) % 7));
        for world in [1u16, 9, 10, 999, 32767] {
            let text = format!("world:{world}:inst:{instance}");
            assert_eq!(realm_based(world, instance, 7), Some(crc32(text.as_bytes()) % 7));
        }
    }
}

#[test]
fn nothing_to_hash_is_none() {
    assert_eq!(consistent_hash(0, 3), None);
    assert_eq!(consistent_hash(1, 0), None);
    assert_eq!(realm_based(0, 1, 3), None);
    assert_eq!(realm_based(1, 0, 3), None);
    assert_eq!(realm_based(1, 1, 0), None);
}

#[test]
fn every_server_id_survives_its_fields() {
    // A stride that is coprime to 2^32 visits the whole space evenly without taking all of it.
    let mut id = 0u32;
    for _ in 0..100_000 {
        let server_id = ServerId(id);
        let again = ServerId::new(
            server_id.server_type(),
            server_id.world(),
            server_id.instance(),
            server_id.compressed(),
        );
        assert_eq!(again, server_id);
        id = id.wrapping_add(2_654_435_769);
    }
}

#[cfg(not(target_arch = "wasm32"))]
proptest::proptest! {
    #[test]
    fn any_bytes_round_trip(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..32)) {
        match ClientHeader::parse(&bytes) {
            Parsed::Complete(header) => proptest::prop_assert_eq!(&header.to_bytes()[..], &bytes[..8]),
            Parsed::Incomplete(missing) => proptest::prop_assert_eq!(bytes.len() + missing, 8),
        }
    }
}
