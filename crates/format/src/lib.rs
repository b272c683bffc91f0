//! What an outsider needs to check Ringfence and to read what it stored.
//!
//! Names, limits, records, sealed objects, tiles, checkpoints and proofs: pure
//! functions over bytes. This crate does no I/O, reads no clock, draws no
//! randomness on its own account and has no async code, so a verifier, an
//! auditor's tool or a customer who leaves can be built on it alone.

pub mod checkpoint;
pub mod chunk;
pub mod envelope;
pub mod floe;
pub mod head;
pub mod leaf;
pub mod limits;
pub mod names;
pub mod proof;
pub mod record;
pub mod redo;
pub mod session;
pub mod tile;
pub mod witness;
pub mod wrap;
