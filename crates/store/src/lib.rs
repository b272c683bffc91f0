//! Where every object lives: the catalogue, the copies and the sites.
//!
//! This crate talks to disks and clouds and cannot name a key: no dependency of
//! it knows one. What it stores is [`Sealed`](ringfence_format::envelope::Sealed)
//! already, what it reads back is [`Fetched`](ringfence_format::envelope::Fetched)
//! and believed by nobody before the vault has authenticated it.
//!
//! The way of a write: `Store::part_writer` → `PartWriter::write` …
//! → `PartWriter::finish_object`, which makes [`Copies`] → `Store::put_version`,
//! the point of visibility. The way of a read: [`Catalog::locate`] →
//! `Store::fetch`, beside which the read is recorded.

mod apply;
mod catalog;
mod copies;
mod list;
mod rows;
mod schema;
pub mod site;
mod unclaimed;

pub use catalog::{Catalog, Totals};
pub use copies::{Copies, Detached, Misplaced, NewHeads, StoredPart};
pub use list::{After, AfterId, Listed, Page, Query};
pub use rows::{Completed, VersionRef};
