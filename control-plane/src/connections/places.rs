//! Who gets a place, and who has to make room for it. Pure.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use super::Source;

/// Nobody has to make room before he had this long to show what he is, while there is room at all.
const GRACE: Duration = Duration::from_secs(1);

/// Sources that are remembered, some 100 bytes each: those whose connections settled last.
const MOST_KNOWN: usize = 65_536;

/// How many there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// Connections.
    pub(crate) most: usize,
    /// Of them, those of sources that are not known and have not settled: the rest is for others.
    pub(crate) most_waiting: usize,
}

/// Of a connection; counts up.
pub(super) type Number = u64;

/// All places; `T` is how a connection is told that it has to go.
#[derive(Debug)]
pub(super) struct Table<T> {
    bounds: Bounds,
    next: Number,
    connections: HashMap<Number, Connection<T>>,
    sources: HashMap<Source, Waiting>,
    /// Sources with waiting connections; the one to make room is the last.
    order: BTreeSet<(Rank, Source)>,
    /// Waiting connections of sources that are not known.
    strangers: usize,
    known: Known,
}

#[derive(Debug)]
struct Connection<T> {
    source: Source,
    tell: T,
    /// Its place among those of its source, while it waits.
    waits: Option<Number>,
}

/// The waiting connections of one source: the oldest first, by a number that counts up, since when.
#[derive(Debug, Default)]
struct Waiting(BTreeMap<Number, (Number, Instant)>);

/// Strangers first, then those with many, then those who have waited longest.
type Rank = (bool, usize, Reverse<Number>);

/// Sources whose connections settled, by when.
#[derive(Debug, Default)]
struct Known {
    last: HashMap<Source, Number>,
    order: BTreeMap<Number, Source>,
}

impl<T> Table<T> {
    pub(super) fn new(bounds: Bounds) -> Self {
        let (connections, sources) = (HashMap::new(), HashMap::new());
        let (order, known) = (BTreeSet::new(), Known::default());
        Self { bounds, next: 0, connections, sources, order, strangers: 0, known }
    }

    /// A place for a connection, and who has to go for it, if anybody has. `None` = there is none to be had.
    pub(super) fn enter(&mut self, source: Source, tell: T, now: Instant) -> Option<(Number, Option<T>)> {
        let full = self.connections.len() >= self.bounds.most;
        let crowded = self.strangers >= self.bounds.most_waiting && !self.known.has(source);
        let leaver = if full || crowded { self.to_leave(source, full, now) } else { None };
        if full && leaver.is_none() {
            return None;
        }
        let leaver = leaver.and_then(|number| self.leave(number));
        let number = self.number();
        self.connections.insert(number, Connection { source, tell, waits: None });
        self.wait(number, now);
        Some((number, leaver))
    }

    /// The connection that makes room for one of `source`. One that only just came goes for nobody whose source holds as many.
    fn to_leave(&self, source: Source, full: bool, now: Instant) -> Option<Number> {
        let (_, heaviest) = self.order.last()?;
        let waiting = self.sources.get(heaviest)?;
        let (_, (number, since)) = waiting.0.first_key_value()?;
        let own = self.sources.get(&source).map_or(0, |own| own.0.len());
        let had_time = now.saturating_duration_since(*since) >= GRACE;
        (had_time || full && waiting.0.len() > own + 1).then_some(*number)
    }

    /// This connection may stay for as long as it likes.
    pub(super) fn settle(&mut self, number: Number) {
        let Some(connection) = self.connections.get_mut(&number) else { return };
        let (source, waited) = (connection.source, connection.waits.take());
        self.change(source, |waiting| {
            waited.map(|since| waiting.0.remove(&since));
        });
        let now = self.number();
        if let Some(forgotten) = self.known.settled(source, now) {
            self.rank_anew(forgotten, false);
        }
        self.rank_anew(source, true);
    }

    /// This connection may have to make room from now on.
    pub(super) fn wait(&mut self, number: Number, now: Instant) {
        let order = self.number();
        let Some(connection) = self.connections.get_mut(&number) else { return };
        if connection.waits.is_some() {
            return;
        }
        connection.waits = Some(order);
        let source = connection.source;
        self.change(source, |waiting| {
            waiting.0.insert(order, (number, now));
        });
    }

    /// This connection is gone; how it is told, where it did not know.
    pub(super) fn leave(&mut self, number: Number) -> Option<T> {
        let Connection { source, tell, waits } = self.connections.remove(&number)?;
        self.change(source, |waiting| {
            waits.map(|since| waiting.0.remove(&since));
        });
        Some(tell)
    }

    fn number(&mut self) -> Number {
        self.next += 1;
        self.next
    }

    /// Changes what waits of a source, and its rank with it.
    fn change(&mut self, source: Source, change: impl FnOnce(&mut Waiting)) {
        let stranger = !self.known.has(source);
        let waiting = self.sources.entry(source).or_default();
        if let Some(rank) = waiting.rank(stranger) {
            self.order.remove(&(rank, source));
            self.strangers -= if stranger { waiting.0.len() } else { 0 };
        }
        change(waiting);
        match waiting.rank(stranger) {
            Some(rank) => {
                self.order.insert((rank, source));
                self.strangers += if stranger { waiting.0.len() } else { 0 };
            }
            None => {
                self.sources.remove(&source);
            }
        }
    }

    /// Moves a source to where it belongs now that it is known, or is not any more.
    fn rank_anew(&mut self, source: Source, known: bool) {
        let Some(waiting) = self.sources.get(&source) else { return };
        let (Some(was), Some(is)) = (waiting.rank(known), waiting.rank(!known)) else { return };
        if self.order.remove(&(was, source)) {
            self.order.insert((is, source));
            let count = waiting.0.len();
            self.strangers = if known { self.strangers - count } else { self.strangers + count };
        }
    }
}

impl Waiting {
    fn rank(&self, stranger: bool) -> Option<Rank> {
        let (oldest, _) = self.0.first_key_value()?;
        Some((stranger, self.0.len(), Reverse(*oldest)))
    }
}

impl Known {
    fn has(&self, source: Source) -> bool {
        self.last.contains_key(&source)
    }

    /// Remembers a source; the one that is forgotten for it.
    fn settled(&mut self, source: Source, now: Number) -> Option<Source> {
        if let Some(before) = self.last.insert(source, now) {
            self.order.remove(&before);
        }
        self.order.insert(now, source);
        if self.last.len() <= MOST_KNOWN {
            return None;
        }
        let (_, forgotten) = self.order.pop_first()?;
        self.last.remove(&forgotten);
        Some(forgotten)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::net::IpAddr;

    use proptest::prelude::*;

    use super::*;

    const BOUNDS: Bounds = Bounds { most: 8, most_waiting: 4 };

    fn source(last: u8) -> Source {
        IpAddr::from([10, 0, 0, last]).into()
    }

    /// A table whose clock is moved by hand; connections are told by their names.
    struct Scene {
        table: Table<usize>,
        now: Instant,
        names: Vec<Number>,
    }

    impl Scene {
        fn new() -> Self {
            Self { table: Table::new(BOUNDS), now: Instant::now(), names: Vec::new() }
        }

        /// Who has to go for the next connection of this source; an error = it is refused.
        fn enter(&mut self, from: u8) -> Result<Option<usize>, ()> {
            let entered = self.table.enter(source(from), self.names.len(), self.now);
            let (number, leaver) = entered.ok_or(())?;
            self.names.push(number);
            Ok(leaver)
        }

        fn settle(&mut self, name: usize) {
            self.table.settle(self.names[name]);
        }

        fn pass(&mut self, time: Duration) {
            self.now += time;
        }
    }

    #[test]
    fn who_only_holds_places_keeps_nobody_out() {
        let mut scene = Scene::new();
        for _ in 0..4 {
            assert_eq!(scene.enter(1), Ok(None));
        }
        scene.pass(GRACE);
        for silent in 0..4 {
            let newcomer = scene.names.len();
            assert_eq!(
                scene.enter(2 + u8::try_from(silent).unwrap()),
                Ok(Some(silent)),
                "the oldest makes room"
            );
            scene.settle(newcomer);
            assert_eq!(scene.enter(1), Ok(None));
        }
    }

    #[test]
    fn a_crowd_that_comes_at_once_is_let_in_as_far_as_there_is_room() {
        let mut scene = Scene::new();
        for _ in 0..8 {
            assert_eq!(
                scene.enter(1),
                Ok(None),
                "nobody makes room for others of his kind before he had time"
            );
        }
        assert_eq!(scene.enter(1), Err(()));
        assert_eq!(scene.enter(2), Ok(Some(0)), "whoever holds less comes first");
    }

    #[test]
    fn who_has_settled_stays_and_his_like_come_first() {
        let mut scene = Scene::new();
        for name in 0..3 {
            assert_eq!(scene.enter(1), Ok(None));
            scene.settle(name);
        }
        for _ in 0..4 {
            assert_eq!(scene.enter(2), Ok(None));
        }
        scene.pass(GRACE);
        assert_eq!(scene.enter(1), Ok(None), "strangers leave the rest to those who are known");
        assert_eq!(scene.enter(1), Ok(Some(3)));
        assert_eq!(scene.enter(3), Ok(Some(4)));
        for name in [7, 8, 9] {
            scene.settle(name);
        }
        assert_eq!(scene.enter(2), Ok(Some(5)), "one's own, where one has the most");
        let mut all_settled = Scene::new();
        for name in 0..8 {
            assert_eq!(all_settled.enter(name), Ok(None));
            all_settled.settle(usize::from(name));
        }
        all_settled.pass(GRACE);
        assert_eq!(all_settled.enter(9), Err(()));
    }

    #[test]
    fn of_many_sources_with_one_each_the_one_that_waited_longest_goes() {
        let mut scene = Scene::new();
        for from in 0..4 {
            assert_eq!(scene.enter(from), Ok(None));
            scene.pass(GRACE);
        }
        for (from, oldest) in [(4, 0), (5, 1), (6, 2)] {
            assert_eq!(scene.enter(from), Ok(Some(oldest)));
        }
    }

    proptest! {
        /// Whatever happens, counts are what there is.
        #[test]
        fn it_counts_right(steps in proptest::collection::vec((0..5_u8, 0..4_u8, 0..40_usize, 0..3_u64), 0..200)) {
            let mut table = Table::new(BOUNDS);
            let (mut now, mut open, mut settled) = (Instant::now(), Vec::new(), HashSet::new());
            for (what, from, which, seconds) in steps {
                now += Duration::from_secs(seconds);
                let one = open.get(which % open.len().max(1)).copied();
                match (what, one) {
                    (0..2, _) => {
                        let name = table.next + 1;
                        if let Some((number, leaver)) = table.enter(source(from), name, now) {
                            prop_assert_eq!(number, name);
                            open.push(number);
                            if let Some(gone) = leaver {
                                prop_assert!(!settled.contains(&gone), "a settled one had to go");
                                open.retain(|one| *one != gone);
                            }
                        } else {
                            prop_assert!(open.len() == BOUNDS.most);
                        }
                    }
                    (2, Some(one)) => {
                        table.settle(one);
                        settled.insert(one);
                    }
                    (3, Some(one)) => {
                        table.wait(one, now);
                        settled.remove(&one);
                    }
                    (4, Some(one)) => {
                        prop_assert!(table.leave(one).is_some());
                        open.retain(|other| *other != one);
                        settled.remove(&one);
                    }
                    _ => {}
                }
                prop_assert!(open.len() <= BOUNDS.most);
                prop_assert_eq!(table.connections.len(), open.len());
                let waiting: usize = table.sources.values().map(|waiting| waiting.0.len()).sum();
                prop_assert_eq!(waiting, open.len() - settled.len());
                prop_assert_eq!(table.order.len(), table.sources.len());
                let strangers = table.sources.iter().filter(|(source, _)| !table.known.has(**source));
                prop_assert_eq!(table.strangers, strangers.map(|(_, waiting)| waiting.0.len()).sum::<usize>());
            }
        }
    }
}
