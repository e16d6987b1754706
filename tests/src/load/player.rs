//! One player's connection: what it has sent, what it still waits for, and what came back.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::time::Instant;

use mio::net::TcpStream;
use realmgate_wire::{ClientHeader, ServerId};

use super::answers::{Answer, Answers};
use crate::frame::WHO_ARE_YOU;

/// A message that is not answered yet.
#[derive(Clone, Copy, Debug)]
struct Awaited {
    due: Instant,
    number: u32,
    body_len: u16,
    who: bool,
}

/// What an answer was to.
pub(super) struct Answered {
    pub(super) due: Instant,
    /// Where it asked who answers: whether the name fits, and the name.
    pub(super) who: bool,
    pub(super) right: bool,
}

/// What is wrong with an answer.
pub(super) const UNASKED: &str = "answer_to_nothing";
pub(super) const MIXED_UP: &str = "wrong_answer";

/// A connection.
#[derive(Debug)]
pub(super) struct Player {
    pub(super) stream: TcpStream,
    pub(super) server_id: ServerId,
    /// When it was due to connect.
    pub(super) due: Instant,
    /// Whether the connection stands.
    pub(super) connected: bool,
    /// Answers so far.
    pub(super) answered: u64,
    /// What it is for, in modes with several kinds of players.
    pub(super) by_the_rules: bool,
    /// Tells it from others that had the same place.
    pub(super) serial: u64,
    number: u32,
    awaited: VecDeque<Awaited>,
    answers: Answers,
    output: Vec<u8>,
    written: usize,
}

impl Player {
    pub(super) fn new(stream: TcpStream, server_id: ServerId, due: Instant, serial: u64) -> Self {
        Self {
            stream,
            server_id,
            due,
            connected: false,
            answered: 0,
            by_the_rules: true,
            serial,
            number: 0,
            awaited: VecDeque::new(),
            answers: Answers::default(),
            output: Vec::new(),
            written: 0,
        }
    }

    /// Messages that are not answered.
    pub(super) fn awaited(&self) -> usize {
        self.awaited.len()
    }

    /// Since when the oldest of them is waited for.
    pub(super) fn waits_since(&self) -> Option<Instant> {
        self.awaited.front().map(|awaited| awaited.due)
    }

    /// Puts a message of `size` bytes, header included, into the output.
    pub(super) fn say(&mut self, size: usize, due: Instant) {
        let body_len = (size - ClientHeader::LEN.min(size)).min(u16::MAX.into()) as u16;
        self.number = self.number.wrapping_add(1);
        let header =
            ClientHeader { body_len, message_id: message_id(self.number), server_id: self.server_id };
        self.output.extend_from_slice(&header.to_bytes());
        // The body begins with the number, so that an answer to another message shows.
        let end = self.output.len() + usize::from(body_len);
        self.output.extend(self.number.to_le_bytes().into_iter().take(body_len.into()));
        self.output.resize(end, 0);
        self.awaited.push_back(Awaited { due, number: self.number, body_len, who: false });
    }

    /// Asks who is there.
    pub(super) fn ask(&mut self, due: Instant) {
        let header = ClientHeader { body_len: 0, message_id: WHO_ARE_YOU, server_id: self.server_id };
        self.output.extend_from_slice(&header.to_bytes());
        self.awaited.push_back(Awaited { due, number: 0, body_len: 0, who: true });
    }

    /// Puts any bytes into the output.
    pub(super) fn babble(&mut self, bytes: &[u8]) {
        self.output.extend_from_slice(bytes);
    }

    /// Whether anything is still to be sent.
    pub(super) fn has_output(&self) -> bool {
        self.written < self.output.len()
    }

    /// Sends what there is, at most `most` bytes, as far as the system takes it.
    pub(super) fn flush(&mut self, most: usize) -> io::Result<()> {
        let mut left = most;
        while left > 0
            && let Some(rest) = self.output.get(self.written..).filter(|rest| !rest.is_empty())
        {
            match self.stream.write(rest.get(..left).unwrap_or(rest)) {
                Ok(sent) => {
                    self.written += sent;
                    left -= sent;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if !self.has_output() {
            self.written = 0;
            self.output.clear();
            // What a long message needed is not kept by thousands.
            self.output.shrink_to(4096);
        }
        Ok(())
    }

    /// Reads once into `buffer`: the bytes, and whether there may be more.
    pub(super) fn read<'a>(&mut self, ended: bool, buffer: &'a mut [u8]) -> io::Result<(&'a [u8], bool)> {
        loop {
            match self.stream.read(buffer) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                // A short read has emptied the socket: whatever comes later is another event. An end that came with the data is none.
                Ok(got) => return Ok((buffer.get(..got).unwrap_or_default(), ended || got == buffer.len())),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok((&[], false)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// The next whole answer in `input`, held against what was asked.
    pub(super) fn answer(&mut self, input: &mut &[u8]) -> Option<(Answer, Result<Answered, &'static str>)> {
        let answer = self.answers.next(input)?;
        let Some(asked) = self.awaited.pop_front() else { return Some((answer, Err(UNASKED))) };
        self.answered += 1;
        let header = answer.header;
        if asked.who {
            let right = header.message_id == WHO_ARE_YOU && names(answer.start(), self.server_id.world());
            return Some((answer, Ok(Answered { due: asked.due, who: true, right })));
        }
        let number = asked.number.to_le_bytes();
        let start = number.get(..usize::from(asked.body_len).min(4)).unwrap_or_default();
        let right = header.message_id == message_id(asked.number)
            && header.body_len == asked.body_len
            && answer.start().starts_with(start);
        let answered = Answered { due: asked.due, who: false, right };
        Some((answer, if right { Ok(answered) } else { Err(MIXED_UP) }))
    }

    /// Whether it is in the middle of an answer.
    pub(super) const fn is_between(&self) -> bool {
        self.answers.is_between()
    }
}

/// Any but the one that asks who is there.
const fn message_id(number: u32) -> u16 {
    number as u16 & 0x3fff
}

/// Whether a server of this name (`WORLD/INSTANCE`) serves the world; 0 serves any, and other names say nothing.
fn names(name: &[u8], world: u16) -> bool {
    let name = std::str::from_utf8(name).ok().and_then(|name| name.split_once('/'));
    name.and_then(|(own, _)| own.parse::<u16>().ok()).is_none_or(|own| own == 0 || own == world)
}
