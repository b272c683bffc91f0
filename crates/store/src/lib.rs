//! Where every object lives: the catalogue, the copies and the sites.
//!
//! This crate talks to disks and clouds and cannot name a key: no dependency of
//! it knows one. What it stores is [`Sealed`](ringfence_format::envelope::Sealed)
//! already, what it reads back is [`Fetched`](ringfence_format::envelope::Fetched)
//! and believed by nobody before the vault has authenticated it.
//!
//! The way of a write: [`Store::part_writer`] → [`PartWriter::write`] …
//! → [`PartWriter::finish_object`], which makes [`Copies`] → [`Store::put_version`],
//! the point of visibility. The way of a read: [`Catalog::locate`] →
//! [`Store::fetch`], beside which the read is recorded.

// Unit tests use the support of the integration tests, which names this crate.
#[cfg(test)]
extern crate self as ringfence_store;
#[cfg(test)]
#[path = "../tests/support/mod.rs"]
mod support;

mod act;
mod apply;
mod authority;
mod catalog;
mod check;
mod checkpoint;
mod commit;
mod compact;
mod copies;
mod erase;
mod fetch;
mod inventory;
mod list;
mod outcome;
mod put;
mod recover;
mod repair;
mod retain;
mod rows;
mod schema;
mod scrub;
pub mod site;
mod store;
mod sweep;
mod unclaimed;

pub use act::{Anything, CompleteUpload, Conditions, DeleteTarget, NewHead, PutPart, PutVersion, Source};
pub use authority::{Authority, Decide, PlaceAgain, Standing};
pub use catalog::{Catalog, IssuedKey, Totals};
pub use check::CheckReport;
pub use commit::{Commit, CommitError, StartError};
pub use compact::CompactReport;
pub use copies::{Copies, Detached, Misplaced, NewHeads, StoredPart};
pub use erase::{EraseNowError, Erased};
pub use fetch::{Fetch, FetchError, Piece};
pub use list::{After, AfterId, Listed, Page, Query};
pub use outcome::{Conflict, Deleted, Outcome};
pub use put::{PartWriter, PutError};
pub use recover::{RecoverError, RecoverFrom, RecoverReport, recover};
pub use retain::Retain;
pub use rows::{Completed, VersionRef};
pub use scrub::{Authenticate, BadCopy, PartCheck, ScrubOptions, ScrubReport};
pub use store::{NowhereNow, Parts, Random, Store};
pub use sweep::{OpenHead, OpenedHead, SweepError, SweepMode, SweepReport, SweepSite};
