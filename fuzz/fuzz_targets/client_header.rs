//! The client header: what is read is what is written, and nothing behind the header matters.
#![no_main]

use libfuzzer_sys::fuzz_target;
use realmgate_wire::{ClientHeader, Parsed, ServerId, consistent_hash, realm_based};

fuzz_target!(|input: &[u8]| match ClientHeader::parse(input) {
    Parsed::Incomplete(missing) => assert_eq!(input.len() + missing, ClientHeader::LEN),
    Parsed::Complete(header) => {
        assert_eq!(Some(&header.to_bytes()), input.first_chunk());
        let id = header.server_id;
        let (kind, world, instance) = (id.server_type(), id.world(), id.instance());
        assert_eq!(ServerId::new(kind, world, instance, id.compressed()), id);
        let endpoints = u32::from(header.body_len);
        for pick in [consistent_hash(instance, endpoints), realm_based(world, instance, endpoints)] {
            assert!(pick.is_none_or(|pick| pick < endpoints));
        }
    }
});
