//! Administration: one handler for every call, whether it came over
//! `DIR/admin.sock` or, when no server runs, from the command in this process.
//!
//! Order of every call, in [`handle`] and nowhere else: operator `Caller` →
//! decide `Administer` → record → act (ruling 27).

mod alarms;
pub mod call;
mod cuts;
mod data;
mod drill;
pub mod handle;
mod keys;
mod logs;
mod policy;
pub mod public;
mod revoke;
mod session_keys;
mod sites;
pub mod socket;
pub mod tenants;
mod trust;
mod witnesses;
