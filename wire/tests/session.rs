//! Session ids: above 0, rising, and never twice; the same file runs natively and on wasm32 in Node.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code, of which clippy knows only the functions marked as tests"
)]

#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

use realmgate_wire::SessionIds;

#[test]
fn a_block_gives_each_of_its_ids_once_in_order() {
    for (base, n) in [(0, 0), (5, 7), (u64::MAX, 0), (u64::MAX, u64::MAX), ((1 << 43) - 1, 0)] {
        let mut ids = SessionIds::of_block(base, n);
        let mut last = 0;
        for _ in 0..SessionIds::PER_BLOCK {
            let id = ids.draw().unwrap();
            assert!(id > last);
            last = id;
        }
        assert_eq!(ids.draw(), None);
        assert_eq!(ids.draw(), None);
    }
}

#[test]
fn nothing_is_drawn_before_a_block_is_taken() {
    assert_eq!(SessionIds::default().draw(), None);
}

#[test]
fn blocks_follow_each_other_without_touching() {
    let mut last = 0;
    for n in 0..1000 {
        let mut ids = SessionIds::of_block(123, n);
        assert!(ids.draw().unwrap() > last);
        last = ids.draw().unwrap() + i64::from(SessionIds::PER_BLOCK) - 2;
    }
    // The last block of all is as good as any, and the first follows it.
    let highest = SessionIds::of_block((1 << 43) - 1, 0).draw().unwrap();
    assert_eq!(highest, i64::MAX - (1 << 20) + 2);
    assert_eq!(SessionIds::of_block((1 << 43) - 1, 1).draw(), Some(1));
}

/// As the filter does it: each worker takes its blocks from a counter that the workers of a process share.
#[cfg(not(target_arch = "wasm32"))]
#[test]
fn four_workers_draw_four_million_ids_as_fast_as_they_can_and_none_twice() {
    use std::sync::atomic::{AtomicU64, Ordering};

    const EACH: usize = 1_100_000;
    let counter = AtomicU64::new(0);
    let worker = || {
        let mut ids = SessionIds::default();
        let mut drawn = Vec::with_capacity(EACH);
        while drawn.len() < EACH {
            match ids.draw() {
                Some(id) => drawn.push(id),
                None => ids = SessionIds::of_block(0x0123_4567_89ab, counter.fetch_add(1, Ordering::Relaxed)),
            }
        }
        drawn
    };
    let mut all: Vec<i64> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..4).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    });
    assert!(all.iter().all(|&id| id > 0));
    assert_eq!(all.len(), 4 * EACH);
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), 4 * EACH, "an id was drawn twice");
}
