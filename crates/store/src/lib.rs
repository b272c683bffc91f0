//! Where every object lives: the catalogue, the copies and the sites.
//!
//! This crate talks to disks and clouds and cannot name a key: no dependency of
//! it knows one. What it stores is [`Sealed`](ringfence_format::envelope::Sealed)
//! already, what it reads back is [`Fetched`](ringfence_format::envelope::Fetched)
//! and believed by nobody before the vault has authenticated it.

mod apply;
mod copies;
mod catalog;
mod list;
mod rows;
mod schema;
pub mod site;

pub use catalog::{Catalog, Totals};
pub use list::{After, AfterId, Listed, Page, Query};
pub use rows::{Completed, VersionRef};
