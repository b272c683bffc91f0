//! A policy set takes effect after its diff and its actor are on record
//! (ruling 27): [`Engine::adopt`](super::Engine::adopt) asks for that evidence.

use std::sync::Arc;

use ringfence_format::record::{Record, TimeUs};
use ringfence_format::redo::Redo;
use ringfence_log::{Class, Entry};

use super::set::PolicySet;
use crate::permit::{Administer, Permit};

/// A policy set that is to be in force, with who put it there.
#[must_use]
#[derive(Debug)]
pub struct PolicyChange {
    pub(super) permit: Permit<Administer>,
    pub(super) set: Arc<PolicySet>,
    pub(super) epoch: u64,
    pub(super) diff: String,
}

impl PolicyChange {
    /// The epoch it begins.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }
    /// What becomes different, one policy a line.
    pub fn diff(&self) -> &str {
        &self.diff
    }
    /// SHA-256 of the set.
    pub fn sha256(&self) -> [u8; 32] {
        self.set.sha256()
    }
}

impl Entry for PolicyChange {
    fn to_record(&self, now_us: TimeUs) -> Record {
        let mut record = self.permit.to_record(now_us);
        record.resource.detail = Some(self.diff.clone());
        record.redo = Some(Redo::Policy(self.epoch, self.set.sha256()));
        record
    }
    fn class(&self) -> Class {
        self.permit.class()
    }
    fn deadline_us(&self) -> Option<TimeUs> {
        self.permit.deadline_us()
    }
}

/// An entry of the log that puts a policy set on record. The set in force must
/// be the one the catalogue compares commits with, so the entry is usually the
/// catalogue's own.
pub trait Announces {
    /// The epoch and the SHA-256 of the set, if this entry puts one on record.
    fn policy(&self) -> Option<(u64, [u8; 32])>;
}

impl Announces for PolicyChange {
    fn policy(&self) -> Option<(u64, [u8; 32])> {
        Some((self.epoch, self.sha256()))
    }
}

/// Another change came into force between proposal and record: look at what is
/// in force now and propose again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("epoch {proposed} was proposed, but {in_force} is in force already: run `ringfence policy apply` again")]
pub struct Superseded {
    /// The epoch that was proposed.
    pub proposed: u64,
    /// The epoch in force.
    pub in_force: u64,
}
