//! The real log, store, SQLite catalogue and vault on a simulated machine, with
//! faulty disks and sites, power cuts, and an oracle that holds what callers
//! were told against what is there. One seed decides a history.
//!
//! [`history::run`] runs one; [`PARTS`] says what is real in it and what not.

pub mod act;
pub mod chance;
pub mod check;
pub mod cloud;
pub mod history;
pub mod life;
pub mod machine;
mod operation;
pub mod oracle;
pub mod vfs;

pub use history::{Options, Report, Violation, run};
pub use machine::Sabotage;

/// What is real and what is modelled, for every output.
pub const PARTS: &str = "\
real:     log, store (catalogue, commit thread, directory sites, S3 client), SQLite, vault, policies
modelled: disks (in memory: POSIX durability, torn and lost writes, failing and full), SQLite's files (a VFS on
          such a disk), the public site's service (S3 in memory, over loopback), the clock, the callers (the flows
          of the binary without HTTP), the checkpointer's timer (its statement is a step)
left out: faults of the keyring's disk (it lies on the real one), reads of a disk that lie, power cuts while several
          requests run
by seed:  operations, faults, crashes, names, time. Not by seed: keys and nonces; which of two sites is written
          first; timeouts. Every fourth seed (3, 7, 11 …) runs the log's own threads and several requests at once:
          their order is not by seed either";
