//! The counts per address: workers of a process that share their data, against a model that counts in the open.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use proptest::prelude::*;
use realmgate_filter::host::{HostError, Process};
use realmgate_filter::limits::bucket::{Answer, MOST};
use realmgate_filter::limits::table::BUCKETS;
use realmgate_filter::limits::{Address, AddressLimits, Listener, Table};

/// What chance gives.
const SEED: u64 = 0x0123_4567_89ab_cdef;

/// What the workers of a process share.
#[derive(Default)]
struct Memory {
    values: BTreeMap<String, (Vec<u8>, u32)>,
    writes: u32,
    now: u64,
    loads: usize,
    /// So many of the next writes come too late: another worker has written meanwhile.
    races: u32,
}

#[derive(Clone, Default)]
struct Shared(Rc<RefCell<Memory>>);

impl Shared {
    fn pass(&self, seconds: f64) {
        let nanos = std::time::Duration::from_secs_f64(seconds).as_nanos();
        self.0.borrow_mut().now += u64::try_from(nanos).unwrap();
    }

    fn bytes(&self) -> usize {
        self.0.borrow().values.values().map(|(value, _)| value.len()).sum()
    }
}

impl Process for Shared {
    fn now(&mut self) -> Result<u64, HostError> {
        Ok(self.0.borrow().now)
    }
    fn load(&mut self, key: &str, out: &mut Vec<u8>) -> Result<Option<u32>, HostError> {
        let mut process = self.0.borrow_mut();
        process.loads += 1;
        let (value, version) = process.values.get(key).cloned().unzip();
        *out = value.unwrap_or_default();
        Ok(version)
    }
    fn store(&mut self, key: &str, value: &[u8], version: Option<u32>) -> Result<bool, HostError> {
        let mut process = self.0.borrow_mut();
        process.writes += 1;
        let writes = process.writes;
        if process.races > 0 {
            process.races -= 1;
            if let Some((_, version)) = process.values.get_mut(key) {
                *version = writes;
            }
        }
        let current = process.values.get(key).map(|(_, version)| *version);
        if current != version {
            return Ok(false);
        }
        process.values.insert(key.to_owned(), (value.to_owned(), writes));
        Ok(true)
    }
    fn random(&mut self) -> u64 {
        SEED
    }
}

fn address(number: u32) -> Address {
    let ip = std::net::Ipv4Addr::from_bits(number);
    Address::parse(&format!("{ip}:1"), Listener::named("edge")).unwrap()
}

const fn open(connections: u32) -> AddressLimits {
    AddressLimits { connections, new_per_second: 0 }
}

const fn rate(new_per_second: u32) -> AddressLimits {
    AddressLimits { connections: 0, new_per_second }
}

#[test]
fn so_many_at_once_and_as_many_again_each_second() {
    let (mut host, mut table) = (Shared::default(), Table::default());
    host.pass(1000.0);
    let mut let_in = |host: &mut Shared| table.admit(address(1), rate(5), host).unwrap() == Answer::Passed;
    let mut at_once = |host: &mut Shared| (0..100).filter(|_| let_in(host)).count();
    assert_eq!(at_once(&mut host), 5);
    for (seconds, count) in [(0.19, 0), (0.02, 1), (0.2, 1), (0.4, 2), (0.98, 4), (1.0, 5), (3600.0, 5)] {
        host.pass(seconds);
        assert_eq!(at_once(&mut host), count, "after {seconds} s");
    }
}

#[test]
fn workers_share_the_rate_and_others_have_their_own() {
    let mut host = Shared::default();
    let mut tables = [(); 4].map(|()| Table::default());
    let answers: Vec<_> =
        (0..12).map(|i| tables[i % 4].admit(address(1), rate(10), &mut host).unwrap()).collect();
    assert_eq!(answers[..10], [Answer::Passed; 10]);
    assert_eq!(answers[10..], [Answer::TooFast; 2]);
    assert_eq!(tables[0].admit(address(2), rate(10), &mut host).unwrap(), Answer::Passed);
}

#[test]
fn a_connection_costs_a_read_and_a_write_each_way_and_a_refused_one_a_read() {
    let (mut host, mut table) = (Shared::default(), Table::default());
    table.admit(address(1), open(1), &mut host).unwrap();
    let calls = |host: &Shared| (host.0.borrow().loads, host.0.borrow().writes);
    let (loads, writes) = calls(&host);
    for _ in 0..100 {
        assert_eq!(table.admit(address(1), open(1), &mut host).unwrap(), Answer::TooMany);
    }
    assert_eq!(calls(&host), (loads + 100, writes));
    table.release(address(1), &mut host).unwrap();
    assert_eq!(calls(&host), (loads + 101, writes + 1));
    table.admit(address(1), open(1), &mut host).unwrap();
    assert_eq!(calls(&host), (loads + 102, writes + 2));
}

/// IPv4 and IPv6 in turn, each /64 of the latter by another host of it.
fn of_either_family(number: u32) -> Address {
    if number.is_multiple_of(2) {
        return address(number);
    }
    let ip =
        std::net::Ipv6Addr::from_bits((0x2001_0db8 << 96) | (u128::from(number) << 64) | u128::from(!number));
    Address::parse(&format!("[{ip}]:1"), Listener::named("edge")).unwrap()
}

#[test]
fn a_flood_from_a_million_addresses_leaves_nothing() {
    let (mut host, mut table) = (Shared::default(), Table::default());
    let limits = AddressLimits { connections: 100, new_per_second: 50 };
    let (mut open, mut most) = (VecDeque::new(), 0);
    for number in 0..1_000_000 {
        let address = of_either_family(number);
        assert_eq!(table.admit(address, limits, &mut host).unwrap(), Answer::Counted);
        host.pass(0.000_01);
        open.push_back(address);
        if open.len() > 1000 {
            table.release(open.pop_front().unwrap(), &mut host).unwrap();
        }
        if number % 10_000 == 0 {
            most = most.max(host.bytes());
        }
    }
    let keys = host.0.borrow().values.len() as u64;
    assert!(keys <= BUCKETS + 1, "{keys} keys");
    assert!(most < 250_000, "{most} bytes");
}

#[test]
fn a_full_bucket_lets_players_in_uncounted_and_stays_full() {
    let (mut host, mut table) = (Shared::default(), Table::default());
    let shared = (0..).map(address).filter(|address| address.bucket(SEED, BUCKETS) == 7);
    let addresses: Vec<_> = shared.take(MOST + 10).collect();
    let (fit, others) = addresses.split_at(MOST);
    for &address in fit {
        assert_eq!(table.admit(address, open(1), &mut host).unwrap(), Answer::Counted);
    }
    let before = host.bytes();
    for &address in others {
        assert_eq!(table.admit(address, open(1), &mut host).unwrap(), Answer::Uncounted);
        // That one leaves, which takes nothing from those that count.
        table.release(address, &mut host).unwrap();
    }
    assert_eq!(host.bytes(), before);
    assert!(fit.iter().all(|&it| table.admit(it, open(1), &mut host).unwrap() == Answer::TooMany));
    table.release(fit[3], &mut host).unwrap();
    assert_eq!(table.admit(others[3], open(1), &mut host).unwrap(), Answer::Counted);
    assert_eq!(host.0.borrow().values.len(), 2, "one bucket, and the workers");
}

#[test]
fn a_lost_race_is_run_again() {
    let mut host = Shared::default();
    let mut tables = [Table::default(), Table::default()];
    for round in 0..10 {
        host.0.borrow_mut().races = round;
        assert_eq!(tables[0].admit(address(1), open(10), &mut host).unwrap(), Answer::Counted);
    }
    assert_eq!(tables[1].admit(address(1), open(10), &mut host).unwrap(), Answer::TooMany);
    host.0.borrow_mut().races = 20;
    tables[0].release(address(1), &mut host).unwrap();
    assert_eq!(tables[1].admit(address(1), open(10), &mut host).unwrap(), Answer::Counted);
    host.0.borrow_mut().races = u32::MAX;
    assert!(tables[1].release(address(1), &mut host).is_err(), "for ever is too long");
}

/// A second in which all these workers show that they live.
fn second(host: &mut Shared, workers: &mut [Table]) {
    host.pass(1.0);
    for worker in workers {
        worker.beat(host).unwrap();
    }
}

#[test]
fn the_dead_count_no_more_and_the_stuck_come_back() {
    let mut host = Shared::default();
    let mut workers = vec![Table::default(), Table::default(), Table::default()];
    for worker in &mut workers {
        assert_eq!(worker.admit(address(1), open(3), &mut host).unwrap(), Answer::Counted);
    }
    let mut stuck = workers.pop().unwrap();
    drop(workers.pop());
    for _ in 0..9 {
        second(&mut host, &mut workers);
        assert_eq!(workers[0].admit(address(1), open(3), &mut host).unwrap(), Answer::TooMany);
    }
    for _ in 0..4 {
        second(&mut host, &mut workers);
    }
    // One lives: two places are free.
    assert_eq!(workers[0].admit(address(1), open(3), &mut host).unwrap(), Answer::Counted);
    stuck.beat(&mut host).unwrap();
    workers.push(stuck);
    assert_eq!(workers[1].admit(address(1), open(3), &mut host).unwrap(), Answer::Counted);
    assert_eq!(workers[1].admit(address(1), open(3), &mut host).unwrap(), Answer::TooMany);
    // It had two, of which one was dropped meanwhile. Both leave; nothing is below 0 and nothing stays.
    for _ in 0..2 {
        workers[1].release(address(1), &mut host).unwrap();
        workers[0].release(address(1), &mut host).unwrap();
    }
    for _ in 0..3 {
        assert_eq!(workers[0].admit(address(1), open(3), &mut host).unwrap(), Answer::Counted);
    }
    assert_eq!(workers[1].admit(address(1), open(3), &mut host).unwrap(), Answer::TooMany);
}

#[test]
fn the_dead_are_missed_also_by_a_worker_that_has_nothing_to_count() {
    let mut host = Shared::default();
    let mut workers = vec![Table::default()];
    assert_eq!(workers[0].admit(address(1), open(1), &mut host).unwrap(), Answer::Counted);
    workers[0] = Table::default();
    assert_eq!(workers[0].admit(address(1), open(1), &mut host).unwrap(), Answer::TooMany);
    for _ in 0..11 {
        assert!(workers[0].counts());
        second(&mut host, &mut workers);
    }
    second(&mut host, &mut workers);
    assert!(!workers[0].counts(), "nobody else is on the list");
    assert_eq!(workers[0].admit(address(1), open(1), &mut host).unwrap(), Answer::Counted);
}

#[test]
fn a_process_that_stood_still_buries_nobody() {
    let mut host = Shared::default();
    let mut workers = vec![Table::default(), Table::default()];
    for worker in &mut workers {
        worker.admit(address(1), open(2), &mut host).unwrap();
    }
    for _ in 0..50 {
        host.pass(3600.0);
        second(&mut host, &mut workers);
        workers.reverse();
    }
    assert_eq!(workers[0].admit(address(1), open(2), &mut host).unwrap(), Answer::TooMany);
}

/// It need not wake for it, then; nobody takes it for dead, and it counts again as soon as somebody comes.
#[test]
fn a_worker_that_has_nothing_to_count_stops_and_comes_back() {
    let mut host = Shared::default();
    let mut workers = vec![Table::default(), Table::default()];
    assert!(!workers[0].counts());
    workers[1].admit(address(9), open(1), &mut host).unwrap();
    let limits = AddressLimits { connections: 1, new_per_second: 1 };
    for _ in 0..5 {
        assert_eq!(workers[0].admit(address(1), limits, &mut host).unwrap(), Answer::Counted);
        assert_eq!(workers[1].admit(address(1), limits, &mut host).unwrap(), Answer::TooMany);
        for _ in 0..20 {
            second(&mut host, &mut workers);
            assert!(workers[0].counts(), "a connection is open");
        }
        workers[0].release(address(1), &mut host).unwrap();
        assert_eq!(workers[0].admit(address(1), limits, &mut host).unwrap(), Answer::Counted);
        workers[0].release(address(1), &mut host).unwrap();
        host.pass(0.5);
        assert_eq!(workers[1].admit(address(1), limits, &mut host).unwrap(), Answer::TooFast, "it just came");
        for _ in 0..2 {
            second(&mut host, &mut workers);
        }
        assert!(!workers[0].counts() && workers[1].counts());
    }
    workers[1].release(address(9), &mut host).unwrap();
    for _ in 0..2 {
        second(&mut host, &mut workers);
    }
    assert_eq!(host.0.borrow().values["limits.1.workers"].0.len(), 12, "nobody is on the list");
}

#[derive(Clone, Debug)]
enum Act {
    Open { worker: usize, address: u32 },
    Close(usize),
    Die(usize),
    Second,
    Race(u32),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        8 => (0..4_usize, 0..5_u32).prop_map(|(worker, address)| Act::Open { worker, address }),
        6 => any::<usize>().prop_map(Act::Close),
        1 => (1..4_usize).prop_map(Act::Die),
        2 => Just(Act::Second),
        2 => (0..4_u32).prop_map(Act::Race),
    ]
}

proptest! {
    /// Whatever opens, closes and dies: the limit holds exactly over all workers, a dead one's connections count until
    /// it is missed and no longer, and when all is over nothing is left.
    #[test]
    fn counts_are_those_of_the_model(acts in proptest::collection::vec(act(), 0..300)) {
        const LIMIT: usize = 3;
        let mut host = Shared::default();
        let mut workers: Vec<_> = (0..4).map(|_| Table::default()).collect();
        // Somebody has to miss the dead.
        workers[0].admit(address(99), open(1), &mut host).unwrap();
        let mut living: Vec<(usize, u32)> = Vec::new();
        // Connections of the dead, by the seconds since.
        let mut dead: Vec<(u32, u32)> = Vec::new();
        for act in acts {
            match act {
                Act::Open { worker, address: number } => {
                    let answer = workers[worker].admit(address(number), open(3), &mut host).unwrap();
                    let alive = living.iter().filter(|(_, of)| *of == number).count();
                    let surely = dead.iter().filter(|(of, age)| *of == number && *age < 10).count();
                    let maybe = dead.iter().filter(|(of, age)| *of == number && *age < 13).count();
                    match answer {
                        Answer::Counted => {
                            prop_assert!(alive + surely < LIMIT);
                            living.push((worker, number));
                        }
                        Answer::TooMany => prop_assert!(alive + maybe >= LIMIT),
                        other => prop_assert!(false, "{other:?}"),
                    }
                }
                Act::Close(which) if !living.is_empty() => {
                    let (worker, number) = living.swap_remove(which % living.len());
                    workers[worker].release(address(number), &mut host).unwrap();
                }
                Act::Close(_) => {}
                Act::Die(worker) => {
                    workers[worker] = Table::default();
                    dead.extend(living.extract_if(.., |(of, _)| *of == worker).map(|(_, number)| (number, 0)));
                }
                Act::Second => {
                    second(&mut host, &mut workers);
                    for (_, age) in &mut dead {
                        *age += 1;
                    }
                }
                Act::Race(races) => host.0.borrow_mut().races = races,
            }
        }
        host.0.borrow_mut().races = 0;
        for (worker, number) in living {
            workers[worker].release(address(number), &mut host).unwrap();
        }
        for _ in 0..13 {
            second(&mut host, &mut workers);
        }
        for number in 0..5 {
            let let_in = (0..10).filter(|_| {
                workers[0].admit(address(number), open(3), &mut host).unwrap() == Answer::Counted
            });
            prop_assert_eq!(let_in.count(), LIMIT);
        }
    }
}
