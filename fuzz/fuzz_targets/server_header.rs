//! The headers between gateway and game server: what is read is what is written, nothing behind them matters, and a
//! length that is refused is one that no message may have.
#![no_main]

use libfuzzer_sys::fuzz_target;
use realmgate_wire::{HeaderBytes, LengthError, ServerFraming, ServerHeader, ServerParsed};

fuzz_target!(|input: &[u8]| {
    for (framing, counted) in [(ServerFraming::Plain, 9), (ServerFraming::Traced, 33)] {
        match ServerHeader::parse(input, framing) {
            Ok(ServerParsed::Incomplete(missing)) => assert_eq!(input.len() + missing, framing.header_len()),
            Ok(ServerParsed::Complete(header)) => {
                assert_eq!(Some(header.to_bytes().as_slice()), input.get(..framing.header_len()));
                let client = header.to_client();
                assert_eq!(client.body_len, header.body_len);
                let mut again = HeaderBytes::of_session(header.session_id, header.trace);
                assert_eq!(
                    ServerHeader::parse(again.of_message(client), framing).map(|parsed| match parsed {
                        ServerParsed::Complete(header) => Some(header.to_client()),
                        ServerParsed::Incomplete(_) => None,
                    }),
                    Ok(Some(client))
                );
            }
            Err(LengthError::TooShort(length)) => assert!(length < counted),
            Err(LengthError::TooLarge(length)) => assert!(i64::from(length) > i64::from(counted) + 65_535),
        }
    }
});
