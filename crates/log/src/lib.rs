//! The only writer of evidence.
//!
//! An entry becomes [`Recorded`] once it is durable at an index of the log.
//! The log is an append-only Merkle tree in C2SP form: tiles, checkpoints and
//! proofs that anybody can check offline ([`ringfence_format`] suffices).

mod recorded;
mod seal;

pub use recorded::{Class, Entry, Recorded};
pub use seal::{OpenError, SealError, SealRecord, SignCheckpoint};
