//! Work that can be stopped: whoever reads or compares documents counts steps, and asks now and then whether anybody still
//! waits for the outcome.

use std::cell::Cell;

use super::Problem;

/// Steps between two questions: some tens of microseconds.
const STRIDE: u64 = 1 << 12;

/// Counts what is done, and knows who may end it.
pub struct Effort<'a> {
    steps: Cell<u64>,
    stop: Option<&'a dyn Fn() -> bool>,
}

/// The work was ended before it was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stopped;

/// Why a document was not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unread {
    /// What is wrong with it.
    Invalid(Vec<Problem>),
    /// Nobody waits for it any more, or it took too long.
    Stopped,
}

impl Effort<'static> {
    /// Work that nobody ends.
    #[must_use]
    pub const fn endless() -> Self {
        Self { steps: Cell::new(0), stop: None }
    }
}

impl<'a> Effort<'a> {
    /// Work that ends when `stop` says so.
    #[must_use]
    pub const fn until(stop: &'a dyn Fn() -> bool) -> Self {
        Self { steps: Cell::new(0), stop: Some(stop) }
    }

    /// One step of what may be many.
    ///
    /// # Errors
    /// When the work is to end.
    pub fn step(&self) -> Result<(), Stopped> {
        let steps = self.steps.get() + 1;
        self.steps.set(steps);
        if steps.is_multiple_of(STRIDE) { self.check() } else { Ok(()) }
    }

    /// Between two parts of the work.
    ///
    /// # Errors
    /// When the work is to end.
    pub fn check(&self) -> Result<(), Stopped> {
        if self.stop.is_some_and(|stop| stop()) { Err(Stopped) } else { Ok(()) }
    }

    /// Steps so far.
    #[must_use]
    pub const fn steps(&self) -> u64 {
        self.steps.get()
    }
}

impl Unread {
    /// What is wrong with the document; work that nobody ends is never stopped.
    pub(super) fn problems(self) -> Vec<Problem> {
        match self {
            Self::Invalid(problems) => problems,
            Self::Stopped => Vec::new(),
        }
    }
}

impl From<Stopped> for Unread {
    fn from(_: Stopped) -> Self {
        Self::Stopped
    }
}

impl From<Problem> for Unread {
    fn from(problem: Problem) -> Self {
        Self::Invalid(vec![problem])
    }
}
