//! The only writer of evidence.
//!
//! An entry becomes [`Recorded`] once it is durable at an index of the log.
//! The log is an append-only Merkle tree in C2SP form: tiles, checkpoints and
//! proofs that anybody can check offline ([`ringfence_format`] suffices).

mod cut;
mod error;
mod frame;
pub mod fsck;
mod inner;
mod keep;
mod lock;
mod log;
mod public;
mod publish;
mod reader;
mod recorded;
mod recover;
mod seal;
mod segment;
mod sequencer;
mod space;
mod witnessed;

pub use cut::{Cut, Fate, Place};
pub use error::LogError;
pub use lock::Locked;
pub use log::{Log, Options, Run};
pub use public::PublicEntries;
pub use reader::{Change, Changed, Records, Replay};
pub use recorded::{Class, Entry, Recorded};
pub use seal::{Keep, OpenError, SealError, SealRecord, SignCheckpoint};
pub use witnessed::Witnessed;
