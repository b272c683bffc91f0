//! The only writer of evidence.

mod recorded;

pub use recorded::{Class, Entry, Recorded};
