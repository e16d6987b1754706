//! The table of addresses: whatever opens, closes, dies and races, no more connections of an address are open than may
//! be, and whatever stands in the shared data, the table neither panics nor grows.
//!
//! The input is a script: a byte says what happens and a byte to whom.
#![no_main]

use std::cell::RefCell;
use std::collections::BTreeMap;

use libfuzzer_sys::fuzz_target;
use realmgate_filter::host::{HostError, Process};
use realmgate_filter::limits::bucket::{Answer, MOST};
use realmgate_filter::limits::table::BUCKETS;
use realmgate_filter::limits::{Address, AddressLimits, Table};

const WORKERS: usize = 3;
const LIMITS: AddressLimits = AddressLimits { connections: 2, new_per_second: 0 };

#[derive(Default)]
struct Memory {
    values: RefCell<BTreeMap<String, (Vec<u8>, u32)>>,
    writes: u32,
    now: u64,
    races: u8,
}

impl Process for Memory {
    fn now(&mut self) -> Result<u64, HostError> {
        Ok(self.now)
    }
    fn load(&mut self, key: &str, out: &mut Vec<u8>) -> Result<Option<u32>, HostError> {
        let (value, version) = self.values.borrow().get(key).cloned().unzip();
        *out = value.unwrap_or_default();
        Ok(version)
    }
    fn store(&mut self, key: &str, value: &[u8], version: Option<u32>) -> Result<bool, HostError> {
        assert!(!key.starts_with("limits.1.workers") || value.len() <= 12 + 8 * 4097);
        assert!(key.starts_with("limits.1.workers") || value.len() <= MOST * 24);
        self.writes += 1;
        let mut values = self.values.borrow_mut();
        let current = values.get(key).map(|(_, version)| *version);
        if current != version || self.races > 0 {
            self.races = self.races.saturating_sub(1);
            return Ok(false);
        }
        values.insert(key.to_owned(), (value.to_owned(), self.writes));
        assert!(values.len() as u64 <= BUCKETS + 1);
        Ok(true)
    }
    fn random(&mut self) -> u64 {
        7
    }
}

fuzz_target!(|script: &[u8]| {
    let mut process = Memory::default();
    let mut workers: Vec<_> = (0..WORKERS).map(|_| Table::default()).collect();
    let mut open: Vec<(usize, Address)> = Vec::new();
    // Of the dead, who may count yet.
    let mut dead: Vec<Address> = Vec::new();
    let mut is_true = true;
    let mut rest = script;
    while let Some((&[action, whom], after)) = rest.split_first_chunk() {
        rest = after;
        let (worker, address) = (usize::from(whom) % WORKERS, Address::from_bits(u64::from(whom >> 5)));
        match action & 7 {
            0..=2 => {
                // Another rate each time: what one leaves behind must not harm the next.
                let limits = AddressLimits { new_per_second: u32::from(action >> 3) * 1000, ..LIMITS };
                let answer = workers[worker].admit(address, limits, &mut process).expect("the host answers");
                let count = |of: &mut dyn Iterator<Item = Address>| of.filter(|of| *of == address).count();
                let live = count(&mut open.iter().map(|(_, of)| *of));
                match answer {
                    Answer::Counted => {
                        assert!(!is_true || live < LIMITS.connections as usize, "one too many");
                        open.push((worker, address));
                    }
                    Answer::TooMany => {
                        let all = live + count(&mut dead.iter().copied());
                        assert!(!is_true || all >= LIMITS.connections as usize, "turned away for nothing");
                    }
                    Answer::TooFast => assert!(limits.new_per_second > 0),
                    Answer::Uncounted => assert!(!is_true, "so few addresses fit"),
                    Answer::Passed => unreachable!("open connections are limited"),
                }
            }
            3 | 4 if !open.is_empty() => {
                let (worker, address) = open.swap_remove(usize::from(whom) % open.len());
                workers[worker].release(address, &mut process).expect("the host answers");
            }
            5 => {
                process.now += u64::from(whom) * 10_000_000;
                for worker in &mut workers {
                    worker.beat(&mut process).expect("the host answers");
                }
            }
            6 if action & 8 == 0 => {
                workers[worker] = Table::default();
                dead.extend(open.extract_if(.., |(of, _)| *of == worker).map(|(_, address)| address));
            }
            6 => process.races = whom,
            7 if action & 8 == 0 => {
                // Anything at all in the shared data.
                let (bytes, after) = rest.split_at(rest.len().min(usize::from(action)));
                rest = after;
                let mut values = process.values.borrow_mut();
                let count = values.len().max(1);
                if let Some((value, _)) = values.values_mut().nth(usize::from(whom) % count) {
                    *value = bytes.to_owned();
                    is_true = false;
                }
            }
            _ => {}
        }
    }
});
