//! One thread with one poll: opens connections, says what is due, and takes in what comes.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;
use std::time::{Duration, Instant};

use mio::event::Event;
use mio::{Events, Interest, Poll, Token};
use slab::Slab;

use super::command::Progress;
use super::plan::{Mode, Plan};
use super::player::{Answered, Player, UNASKED};
use super::sources::Sources;
use super::tally::Tally;

/// How often what is late is looked for, and the longest sleep.
const ROUND: Duration = Duration::from_millis(100);

/// The poll sleeps whole milliseconds: what is due sooner is waited for awake.
const AWAKE: Duration = Duration::from_millis(1);

/// No new connection so long after one that failed.
const AFTER_FAILURE: Duration = Duration::from_millis(100);

/// Messages of an open loop that one connection may have unanswered; more are not sent, and counted.
const MOST_AWAITED: usize = 10_000;

/// Of so many messages in mixed mode a player leaves once.
const STAYS_FOR: u8 = 50;

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// Players connect, since then or since the last success.
    Gathering(Instant),
    Running,
    /// Nothing new is begun; what is under way may end until then.
    Ending(Instant),
}

/// The players of one thread.
pub(super) struct Engine<'a> {
    plan: &'a Plan,
    progress: &'a Progress,
    poll: Poll,
    state: State,
    start: Instant,
    now: Instant,
    players: Slab<Player>,
    /// Those whose first message is not answered.
    fresh: usize,
    opened: u64,
    open_after: Instant,
    /// Messages or connections of an open loop that fell due.
    issued: u64,
    timers: BinaryHeap<Reverse<(Instant, usize, u64)>>,
    next_round: Instant,
    sources: Sources,
    chance: fastrand::Rng,
    tally: Tally,
}

impl<'a> Engine<'a> {
    pub(super) fn new(plan: &'a Plan, progress: &'a Progress) -> io::Result<Self> {
        let now = Instant::now();
        Ok(Self {
            plan,
            progress,
            poll: Poll::new()?,
            state: State::Gathering(now),
            start: now,
            now,
            players: Slab::with_capacity(plan.players),
            fresh: 0,
            opened: 0,
            open_after: now,
            issued: 0,
            timers: BinaryHeap::new(),
            next_round: now + ROUND,
            sources: Sources::new(&plan.sources, plan.part),
            chance: fastrand::Rng::with_seed(plan.seed),
            tally: Tally::default(),
        })
    }

    /// Runs to the end.
    pub(super) fn run(mut self) -> io::Result<Tally> {
        let mut events = Events::with_capacity(1024);
        let mut buffer = vec![0; 64 * 1024];
        while self.advance() {
            self.open();
            self.say_due();
            self.ring();
            self.look_for_late();
            match self.poll.poll(&mut events, Some(self.sleep())) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
                _ => {}
            }
            self.now = Instant::now();
            for event in &events {
                self.on_event(event, &mut buffer);
            }
        }
        Ok(self.tally)
    }

    /// Moves from one state to the next; `false` = the end.
    fn advance(&mut self) -> bool {
        self.now = Instant::now();
        match self.state {
            State::Gathering(since) => {
                let all = self.players.len() == self.plan.players && self.fresh == 0;
                if all || !self.plan.mode.stays() {
                    self.begin();
                } else if self.now.duration_since(since) > self.plan.patience + AFTER_FAILURE {
                    self.tally.error("players_missing");
                    return false;
                }
                true
            }
            State::Running => {
                let elapsed = self.now.duration_since(self.start);
                if elapsed >= self.plan.time {
                    self.tally.elapsed = elapsed;
                    self.state = State::Ending(self.now + self.plan.patience + ROUND);
                    if self.plan.mode == Mode::Idle {
                        self.all_say();
                    }
                }
                true
            }
            State::Ending(until) => {
                self.now < until && self.players.iter().any(|(_, player)| player.awaited() > 0)
            }
        }
    }

    fn begin(&mut self) {
        self.state = State::Running;
        self.start = self.now;
        if self.plan.rate.is_none() && matches!(self.plan.mode, Mode::Echo | Mode::Pipelined) {
            self.all_say();
        }
    }

    /// Every player says what the mode has it say.
    fn all_say(&mut self) {
        for key in 0..self.plan.players {
            self.say(key, self.plan.size, self.now);
        }
    }

    fn running(&self) -> bool {
        self.state == State::Running
    }

    /// When the message or connection that is next in an open loop is due.
    fn next_due(&self) -> Option<Instant> {
        let rate = self.plan.rate.filter(|_| self.running())?;
        Some(self.start + Duration::from_secs_f64(self.issued as f64 / rate))
    }

    fn sleep(&self) -> Duration {
        let timer = self.timers.peek().map(|Reverse((at, ..))| *at);
        let end = self.running().then(|| self.start + self.plan.time);
        let next = [self.next_due(), timer, end].into_iter().flatten().min();
        let sleep = next.map_or(ROUND, |next| next.saturating_duration_since(self.now)).min(ROUND);
        if sleep < AWAKE { Duration::ZERO } else { sleep }
    }

    /// Begins the connections that are missing or due.
    fn open(&mut self) {
        let comes = match self.state {
            State::Gathering(_) => true,
            State::Running => self.plan.mode != Mode::Idle,
            State::Ending(_) => false,
        };
        if !comes || self.now < self.open_after {
            return;
        }
        while self.players.len() < self.plan.players && self.fresh < self.plan.at_once {
            let due = match self.next_due() {
                Some(due) if !self.plan.mode.stays() => {
                    if due > self.now {
                        return;
                    }
                    self.issued += 1;
                    due
                }
                _ => self.now,
            };
            if self.connect(due).is_err() {
                self.fail("cannot_connect");
                return;
            }
            self.fresh += 1;
        }
    }

    fn connect(&mut self, due: Instant) -> io::Result<()> {
        // Parts of a run begin at different worlds.
        let number = self.opened + self.plan.part as u64 * 7919;
        self.opened += 1;
        let stream = self.sources.connect(self.plan.to)?;
        let mut player = Player::new(stream, self.plan.server_id(number), due, self.opened);
        let place = self.players.vacant_entry();
        let interest = Interest::READABLE | Interest::WRITABLE;
        self.poll.registry().register(&mut player.stream, Token(place.key()), interest)?;
        place.insert(player);
        Ok(())
    }

    /// Says what fell due in an open loop of messages.
    fn say_due(&mut self) {
        if !self.plan.mode.stays() {
            return;
        }
        while let Some(due) = self.next_due().filter(|due| *due <= self.now) {
            let key = (self.issued % self.plan.players as u64) as usize;
            self.issued += 1;
            match self.players.get(key).filter(|player| player.answered > 0) {
                // Those who come and go are not there for a moment.
                None => self.tally.end("not_there"),
                // Left out in silence, the worst of a stall would not show in any number.
                Some(player) if player.awaited() >= MOST_AWAITED => {
                    self.tally.error("not_sent");
                    self.progress.error();
                }
                Some(_) => {
                    let size = self.size();
                    self.say(key, size, due);
                }
            }
        }
    }

    /// Most messages of a game are small, few are large.
    fn size(&mut self) -> usize {
        if self.plan.mode != Mode::Mixed {
            return self.plan.size;
        }
        match self.chance.u8(0..100) {
            0..70 => self.chance.usize(16..256),
            70..97 => self.chance.usize(256..4096),
            _ => self.chance.usize(4096..60_000),
        }
    }

    fn say(&mut self, key: usize, size: usize, due: Instant) {
        let Some(player) = self.players.get_mut(key) else { return };
        for _ in 0..self.plan.depth {
            player.say(size, due);
        }
        self.flush(key);
    }

    fn flush(&mut self, key: usize) {
        let Some(player) = self.players.get_mut(key) else { return };
        let slow = self.plan.mode == Mode::Slow;
        if let Err(error) = player.flush(if slow { 1 } else { usize::MAX }) {
            self.lost(key, label(&error));
        } else if slow && player.has_output() {
            self.timers.push(Reverse((self.now + self.plan.gap, key, player.serial)));
        }
    }

    /// Timers: the next byte of a slow player, the end of patience with nonsense.
    fn ring(&mut self) {
        while let Some(&Reverse((at, key, serial))) = self.timers.peek()
            && at <= self.now
        {
            self.timers.pop();
            if self.players.get(key).is_none_or(|player| player.serial != serial) {
                continue;
            }
            if self.plan.mode == Mode::Slow {
                self.flush(key);
            } else {
                self.tally.end("ignored");
                self.leave(key);
            }
        }
    }

    fn look_for_late(&mut self) {
        if self.now < self.next_round {
            return;
        }
        self.next_round = self.now + ROUND;
        let speaking =
            if self.plan.mode == Mode::Slow { self.plan.gap * self.plan.size as u32 } else { Duration::ZERO };
        let limit = self.plan.patience + speaking;
        let late = |player: &Player| {
            let since = if player.connected { player.waits_since() } else { Some(player.due) };
            since.is_some_and(|since| self.now.saturating_duration_since(since) > limit)
        };
        let late: Vec<_> =
            self.players.iter().filter(|(_, player)| late(player)).map(|(key, _)| key).collect();
        for key in late {
            self.fail("late");
            self.leave(key);
        }
    }

    fn on_event(&mut self, event: &Event, buffer: &mut [u8]) {
        let key = event.token().0;
        let Some(player) = self.players.get_mut(key) else { return };
        if event.is_writable() {
            if player.connected {
                if player.has_output() && self.plan.mode != Mode::Slow {
                    self.flush(key);
                }
            } else {
                player.connected = true;
                self.first_words(key);
            }
        }
        if !event.is_readable() {
            return;
        }
        loop {
            let Some(player) = self.players.get_mut(key) else { return };
            match player.read(event.is_read_closed(), buffer) {
                Ok((mut input, more)) => {
                    if !self.take_in(key, &mut input) || !more {
                        return;
                    }
                }
                Err(error) => return self.lost(key, label(&error)),
            }
        }
    }

    fn first_words(&mut self, key: usize) {
        let Some(player) = self.players.get_mut(key).filter(|_| self.plan.mode != Mode::Knock) else {
            return;
        };
        // A single message leaves at once anyway.
        if self.plan.mode != Mode::Connect {
            // What fails here fails again at once.
            let _ = player.stream.set_nodelay(true);
        }
        player.by_the_rules = self.plan.mode != Mode::Garbage || player.serial.is_multiple_of(10);
        let due = player.due;
        if !player.by_the_rules {
            let mut bytes = vec![0; self.chance.usize(1..300)];
            self.chance.fill(&mut bytes);
            player.babble(&bytes);
            self.timers.push(Reverse((self.now + self.plan.gap, key, player.serial)));
        } else if self.plan.who {
            player.ask(due);
        } else {
            player.say(self.plan.size, due);
        }
        self.flush(key);
    }

    /// Takes in all answers of a chunk; `false` = the player is gone.
    fn take_in(&mut self, key: usize, input: &mut &[u8]) -> bool {
        self.now = Instant::now();
        loop {
            let Some(player) = self.players.get_mut(key) else { return false };
            let by_the_rules = player.by_the_rules;
            let Some((answer, verdict)) = player.answer(input) else { return true };
            match verdict {
                Ok(answered) => {
                    let name = std::str::from_utf8(answer.start()).unwrap_or("?");
                    self.on_answer(key, &answered, name, answer.header.body_len);
                }
                Err(UNASKED) if !by_the_rules => {
                    self.tally.end("answered");
                    self.leave(key);
                }
                Err(label) => {
                    self.fail(label);
                    self.leave(key);
                }
            }
        }
    }

    fn on_answer(&mut self, key: usize, answered: &Answered, name: &str, body_len: u16) {
        let Some(player) = self.players.get_mut(key) else { return };
        let (first, idle, between) = (player.answered == 1, player.awaited() == 0, player.is_between());
        let took = self.now.saturating_duration_since(answered.due).as_nanos() as u64;
        if answered.who {
            self.tally.answered_by(name);
            if !answered.right {
                self.tally.error("wrong_world");
            }
        }
        if first {
            self.fresh -= 1;
            let _ = self.tally.connect.record(took);
            if let State::Gathering(since) = &mut self.state {
                *since = self.now;
            }
        }
        let counts = self.running();
        if counts {
            self.tally.messages += 1;
            self.tally.connections += u64::from(first);
            self.tally.bytes += u64::from(body_len) + 8;
        }
        self.progress.count(counts, first);
        if !matches!(self.state, State::Gathering(_)) {
            let _ = self.tally.latency.record(took);
        }
        match self.plan.mode {
            Mode::Echo | Mode::Pipelined if counts && idle && self.plan.rate.is_none() => {
                self.say(key, self.plan.size, self.now);
            }
            Mode::Connect | Mode::Garbage => self.leave(key),
            Mode::Slow => {
                self.tally.end("answered");
                self.leave(key);
            }
            Mode::Mixed if counts && idle && between && self.chance.u8(0..STAYS_FOR) == 0 => self.leave(key),
            Mode::Echo | Mode::Pipelined | Mode::Mixed | Mode::Idle | Mode::Knock => {}
        }
    }

    /// The other side ended the connection.
    fn lost(&mut self, key: usize, label: &'static str) {
        let Some(player) = self.players.get(key) else { return };
        // What the gateway does with those who do not play by the rules is its own affair.
        let rude = matches!(self.plan.mode, Mode::Slow | Mode::Knock) || !player.by_the_rules;
        if player.connected && rude {
            self.tally.end(label);
        } else {
            self.fail(label);
        }
        self.leave(key);
    }

    fn fail(&mut self, label: &'static str) {
        self.tally.error(label);
        self.progress.error();
        self.open_after = self.now + AFTER_FAILURE;
    }

    /// Ends a connection, and begins the next in its place where there is to be one.
    fn leave(&mut self, key: usize) {
        if let Some(player) = self.players.try_remove(key) {
            self.fresh -= usize::from(player.answered == 0);
            // Closed before the next is opened, so that no more than the players' number is open.
            drop(player);
            self.open();
        }
    }
}

fn label(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => "closed",
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => "reset",
        io::ErrorKind::ConnectionRefused => "refused",
        _ => "failed",
    }
}
