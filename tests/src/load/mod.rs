//! `realmgate-load`: game clients as many as one machine can be, and game servers that say which world they are.
//!
//! ```text
//!  settings ──► plan ──► engine ──► player ──► socket ══ any proxy ══► serve: game servers
//!                          │           └─ answers: frames in chunks, without copying bodies
//!                          ▼
//!                        tally ──► outcome: rates, histograms, errors; table and JSON
//! ```
//! An engine is one thread with one poll over all its sockets: a task for each would cost more than an Envoy spends
//! on passing the message on, and the load would measure itself. `plan` says what a mode does, the engine how.
#![expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    reason = "counts and times of a run stay far below 2^52"
)]

mod answers;
mod command;
mod engine;
mod outcome;
mod plan;
mod player;
mod serve;
mod settings;
mod sources;
mod tally;
pub mod watch;

pub use command::{Progress, execute, run};
pub use outcome::{Outcome, Quantiles, Watched};
pub use plan::{Mode, Plan};
pub use serve::{Identity, Servers};
pub use settings::{Command, Players, ServeSettings, Settings};
