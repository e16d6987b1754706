//! Answers as they come in chunks: the header and the beginning of the body of each, the rest is only counted.

use realmgate_wire::{ClientHeader, Parsed};

/// How much of a body is kept: enough to tell answers and servers apart.
const START: usize = 32;

/// A whole answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answer {
    pub(super) header: ClientHeader,
    kept: [u8; ClientHeader::LEN + START],
}

impl Answer {
    /// The beginning of the body.
    pub(super) fn start(&self) -> &[u8] {
        let end = ClientHeader::LEN + START.min(self.header.body_len.into());
        self.kept.get(ClientHeader::LEN..end).unwrap_or_default()
    }
}

/// Where in its answers a stream is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answers {
    kept: [u8; ClientHeader::LEN + START],
    have: usize,
    /// What is still to come of the body, behind what is kept.
    rest: usize,
}

impl Default for Answers {
    fn default() -> Self {
        Self { kept: [0; ClientHeader::LEN + START], have: 0, rest: 0 }
    }
}

impl Answers {
    /// Whether nothing is half done.
    pub(super) const fn is_between(&self) -> bool {
        self.have == 0
    }

    /// Takes bytes off `input` until an answer is whole or nothing is left.
    pub(super) fn next(&mut self, input: &mut &[u8]) -> Option<Answer> {
        loop {
            let want = match self.header() {
                None => ClientHeader::LEN,
                Some(header) => ClientHeader::LEN + START.min(header.body_len.into()),
            };
            if let Some(taken) = input.split_off(..(want - self.have).min(input.len())) {
                if let Some(place) = self.kept.get_mut(self.have..self.have + taken.len()) {
                    place.copy_from_slice(taken);
                }
                self.have += taken.len();
            }
            if self.have < want {
                return None;
            }
            let header = self.header()?;
            if want == ClientHeader::LEN && header.body_len > 0 {
                self.rest = usize::from(header.body_len).saturating_sub(START);
                continue;
            }
            let skipped = self.rest.min(input.len());
            *input = input.get(skipped..).unwrap_or_default();
            self.rest -= skipped;
            if self.rest > 0 {
                return None;
            }
            self.have = 0;
            return Some(Answer { header, kept: self.kept });
        }
    }

    fn header(&self) -> Option<ClientHeader> {
        let kept = self.kept.get(..self.have)?;
        match ClientHeader::parse(kept) {
            Parsed::Complete(header) => Some(header),
            Parsed::Incomplete(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::*;
    use crate::Frame;

    #[test]
    fn answers_are_found_at_every_split() {
        let sizes = [0_usize, 1, 8, 31, 32, 33, 300, 0, 5];
        let mut wire = BytesMut::new();
        for (id, &size) in (0..).zip(&sizes) {
            Frame::to_world(1, id, vec![7; size]).encode(&mut wire).unwrap();
        }
        for split in 0..=wire.len() {
            let (mut answers, mut found) = (Answers::default(), Vec::new());
            for mut chunk in [&wire[..split], &wire[split..]] {
                while let Some(answer) = answers.next(&mut chunk) {
                    assert!(answer.start().iter().all(|byte| *byte == 7));
                    assert_eq!(answer.start().len(), START.min(answer.header.body_len.into()));
                    found.push((answer.header.message_id, usize::from(answer.header.body_len)));
                }
            }
            assert!(answers.is_between());
            assert_eq!(found, (0..).zip(sizes).collect::<Vec<_>>());
        }
    }
}
