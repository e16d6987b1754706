//! Translation: any bytes in any pieces come out as a model says that has all of them at once, or end the session for
//! the same reason.
//!
//! The input is a byte of choices, the sizes of the pieces, and the stream.
#![no_main]

use libfuzzer_sys::fuzz_target;
use realmgate_filter::config::Framing;
use realmgate_filter::host::{HostError, Stream, Way};
use realmgate_filter::translate::{Fault, Translation};
use realmgate_wire::TraceContext;

const SESSION: i64 = 0x0102_0304_0506_0708;

/// Envoy's buffer, which can be written at its beginning and behind its end.
struct Buffer {
    data: Vec<u8>,
    calls: usize,
}

impl Stream for Buffer {
    fn read(&mut self, _: Way, len: usize) -> Result<Vec<u8>, HostError> {
        self.calls += 1;
        Ok(self.data[..len].to_vec())
    }
    fn replace(&mut self, _: Way, len: usize, by: &[u8]) -> Result<(), HostError> {
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

/// What comes of the whole stream, told from the layout alone.
fn model(way: Way, traced: bool, limit: usize, mut stream: &[u8]) -> Result<Vec<u8>, Fault> {
    let mut out = Vec::new();
    let id = SESSION.to_le_bytes();
    loop {
        let body = match way {
            Way::ToServer => {
                let Some((header, rest)) = stream.split_first_chunk::<8>() else { return Ok(out) };
                stream = rest;
                let body = usize::from(u16::from_le_bytes([header[0], header[1]]));
                if limit > 0 && body > limit {
                    return Err(Fault::MessageTooLarge);
                }
                let length = body + if traced { 33 } else { 9 };
                out.extend_from_slice(&u32::try_from(length).expect("short").to_le_bytes());
                out.extend_from_slice(&[header[2], header[3], 0, 0, 0, 0, 0, header[7] & 0x80]);
                out.extend_from_slice(&[&id[..], &[1], &id].concat());
                if traced {
                    out.extend_from_slice(
                        &[&SESSION.to_be_bytes()[..], &[0; 7], &[5], &[0; 7], &[6]].concat(),
                    );
                }
                body
            }
            Way::ToClient => {
                let Some(length) = stream.first_chunk::<4>() else { return Ok(out) };
                let body = i64::from(i32::from_le_bytes(*length)) - 9;
                match body {
                    ..0 => return Err(Fault::ReplyTooShort),
                    0..=65_535 => {}
                    _ => return Err(Fault::ReplyTooLarge),
                }
                let Some((header, rest)) = stream.split_first_chunk::<29>() else { return Ok(out) };
                stream = rest;
                let body = usize::try_from(body).expect("positive");
                out.extend_from_slice(&u16::try_from(body).expect("checked").to_le_bytes());
                out.extend_from_slice(&[header[4], header[5], 0, 0, 0, header[11] & 0x80]);
                body
            }
        };
        let (body, rest) = stream.split_at(body.min(stream.len()));
        out.extend_from_slice(body);
        stream = rest;
    }
}

fuzz_target!(|input: &[u8]| {
    let [choices, cuts, rest @ ..] = input else { return };
    let way = if choices & 1 == 0 { Way::ToServer } else { Way::ToClient };
    let traced = choices & 2 != 0;
    let limit = if choices & 4 == 0 { 0 } else { 300 };
    // So that long chunks come up, too: each byte of the input stands for many.
    let times = 1 + usize::from(choices >> 3) * usize::from(choices & 8 != 0) * 8;
    let (cuts, stream) = rest.split_at(usize::from(*cuts).min(rest.len()));
    let stream = stream.repeat(times);

    let framing = if traced { Framing::ServerTraced } else { Framing::Server };
    let trace = TraceContext::of_session(SESSION, 5, 6);
    let mut translation = Translation::new(framing, u32::try_from(limit).expect("small"), SESSION, trace)
        .expect("not the client's");
    let (mut out, mut scratch) = (Vec::new(), Vec::new());
    let mut left = &stream[..];
    let mut sizes = cuts.iter().map(|&cut| usize::from(cut) * times);
    let result = loop {
        let size = sizes.next().unwrap_or(left.len()).min(left.len());
        let (chunk, behind) = left.split_at(size);
        let mut host = Buffer { data: chunk.to_vec(), calls: 0 };
        if let Err(fault) = translation.pass(way, size, &mut scratch, &mut host) {
            break Err(fault);
        }
        assert!(host.calls <= if size <= 2048 { 2 } else { 4 + 3 * (1 + size / 32_768) });
        assert!(scratch.len() <= (65_535 + 53) * 7);
        out.append(&mut host.data);
        left = behind;
        if left.is_empty() {
            break Ok(out);
        }
    };
    assert_eq!(result, model(way, traced, limit, &stream));
});
