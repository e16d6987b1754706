//! Session ids: an i64 above 0 that no other session has, in any worker of any pod.
//!
//! ```text
//!   bit 63   62 ............................ 20   19 ................ 0
//!       0    block (43 bits)                      1, 2, ... 1,048,575
//! ```
//! - A **block** belongs to one VM of one proxy. The first VM of a process draws a random base; the n-th block that any
//!   VM of that process takes is base + n. Within a process no block is given out twice, for certain: the number n
//!   is a counter that all its VMs share.
//! - **Between processes** blocks overlap by chance alone. With P processes (pods; each restart and each new filter
//!   module is another) that take b blocks each (one for each worker, and one more for every million sessions), the
//!   odds that any two of them ever share a block are about P² b / 2^43:
//!
//!   | processes | blocks each | odds |
//!   |---|---|---|
//!   | 100 | 8 | 1 in 110 million |
//!   | 1,000 | 16 | 1 in 550,000 |
//!   | 10,000 | 16 | 1 in 5,500 |
//!
//!   and a shared block makes a duplicate only of those numbers that both have used.
//! - Ids of one worker **rise in the order in which they are drawn** (but for the one step in 2^43 where the blocks
//!   start again from 0). Drawing one asks no clock: there is none that could run out or go back.

/// Bits of the number within a block.
const NUMBER_BITS: u32 = 20;

/// Blocks there are.
const BLOCKS: u64 = 1 << (63 - NUMBER_BITS);

/// Draws session ids from one block.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SessionIds {
    /// The id drawn last, or the block with number 0, which is not given out: an id is never 0.
    last: i64,
    /// Ids left in the block.
    left: u32,
}

impl SessionIds {
    /// Ids in a block.
    pub const PER_BLOCK: u32 = (1 << NUMBER_BITS) - 1;

    /// The ids of the `n`-th block of the process that drew `base`; every value of both is right.
    #[must_use]
    pub const fn of_block(base: u64, n: u64) -> Self {
        let block = base.wrapping_add(n) % BLOCKS;
        Self { last: (block << NUMBER_BITS).cast_signed(), left: Self::PER_BLOCK }
    }

    /// The next id; `None` = the block is used up (or none was taken yet): take another.
    pub const fn draw(&mut self) -> Option<i64> {
        let Some(left) = self.left.checked_sub(1) else { return None };
        self.left = left;
        self.last += 1;
        Some(self.last)
    }
}
