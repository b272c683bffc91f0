//! What must be so: a model of what callers were told.
//!
//! MODELLED on purpose: it knows nothing of how anything is done. For each key
//! it keeps every state that may be the true one: one after an answer, several
//! after a failure that may have happened, until the next start shows which.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::rc::Rc;

use ringfence_format::names::{UploadId, VersionUid};
use ringfence_format::redo::{Pairs, Version};

use crate::chance::Chance;

/// Stands in every content, name, tag and value of metadata, three times end
/// to end, so that any 16 bytes within are one of its rotations.
pub const MARK: &[u8; 16] = b"sim-plaintext-!.";

/// Some plaintext: as long as it says, drawn from its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Content {
    /// Bytes.
    pub len: usize,
    /// Which.
    pub number: u64,
}

impl Content {
    /// Stands in the row of a part where a digest of it would.
    pub fn mark(self) -> [u8; 16] {
        let mut mark = [0; 16];
        mark[..8].copy_from_slice(&self.number.to_be_bytes());
        mark[8..].copy_from_slice(&(self.len as u64).to_be_bytes());
        mark
    }

    /// Its bytes.
    pub fn bytes(self) -> Vec<u8> {
        let mut bytes = vec![0; self.len];
        Chance::new(self.number).fill(&mut bytes);
        if self.len >= 64 {
            bytes[16..64].copy_from_slice(&MARK.repeat(3));
        }
        bytes
    }
}

/// An object as its writer described it.
#[derive(Debug, PartialEq, Eq)]
pub struct Object {
    /// Its version.
    pub uid: VersionUid,
    /// Its parts, end to end.
    pub parts: Vec<Content>,
    /// Its ETag.
    pub etag: String,
    /// Its label.
    pub label: String,
    /// Its tags.
    pub tags: Pairs,
    /// Its metadata.
    pub metadata: Pairs,
}

impl Object {
    /// Plaintext bytes in all.
    pub fn size(&self) -> usize {
        self.parts.iter().map(|part| part.len).sum()
    }

    /// All of its bytes.
    pub fn bytes(&self) -> Vec<u8> {
        self.parts.iter().flat_map(|part| part.bytes()).collect()
    }

    /// What the catalogue says differently, if it does.
    pub fn differs(&self, version: &Version) -> Option<String> {
        let differences = [
            (self.uid != version.uid, "version"),
            (self.size() as u64 != version.size, "size"),
            (self.etag != version.etag, "ETag"),
            (self.label != version.label.as_str(), "label"),
            (self.tags != version.tags, "tags"),
            (self.metadata != version.metadata, "metadata"),
        ];
        differences.iter().find(|(differs, _)| *differs).map(|(_, what)| format!("another {what}"))
    }
}

/// What may lie under a key: nothing, or an object.
pub type State = Option<Rc<Object>>;

/// A bucket's name and a key.
pub type Place = (&'static str, String);

/// What is known of one key.
#[derive(Debug)]
struct Known {
    /// Any of these is the truth; never empty.
    can: Vec<State>,
    /// Which one it is after the next start, where that is known: the change is
    /// on record.
    recorded: Option<State>,
}

/// What is known of an upload.
#[derive(Debug)]
pub struct UploadKnown {
    /// Where it will be an object.
    pub place: Place,
    /// The version it will be, without parts.
    pub version: Version,
    /// Whether it may be under way, and whether it may be over.
    pub can_be: (bool, bool),
    /// By number: which contents the part may have; `None` is no part.
    pub parts: BTreeMap<u32, Vec<Option<Content>>>,
}

/// Several keys that one record changes.
#[derive(Debug)]
struct Together {
    changes: Vec<(Place, State)>,
}

/// Everything that callers were told.
#[derive(Debug, Default)]
pub struct Oracle {
    keys: BTreeMap<Place, Known>,
    together: Vec<Together>,
    /// Uploads.
    pub uploads: BTreeMap<UploadId, UploadKnown>,
    /// Records that must be in the log: index and operation.
    pub records: Vec<(u64, &'static str)>,
    /// How many of them were found already by every check so far.
    pub records_checked: usize,
    /// Chunk series and heads that must never lie at the public site.
    pub private: HashSet<UploadId>,
    /// Chunk series of which a bit rotted at the site `second`.
    pub rotten: HashSet<UploadId>,
    /// Versions that are gone for sure.
    pub gone: BTreeSet<VersionUid>,
    /// The last checkpoint that was shown.
    pub checkpoint: Option<String>,
}

impl Oracle {
    /// Every state a key may have.
    pub fn can(&self, place: &Place) -> Vec<State> {
        self.keys.get(place).map_or_else(|| vec![None], |known| known.can.clone())
    }

    /// Every key that was ever named.
    pub fn places(&self) -> Vec<Place> {
        self.keys.keys().cloned().collect()
    }

    fn known(&mut self, place: &Place) -> &mut Known {
        self.keys.entry(place.clone()).or_insert_with(|| Known { can: vec![None], recorded: None })
    }

    /// It was acknowledged.
    pub fn is(&mut self, place: &Place, state: State) {
        let known = self.known(place);
        let before = std::mem::replace(&mut known.can, vec![state.clone()]);
        known.recorded = None;
        let kept = state.map(|object| object.uid);
        self.gone.extend(before.into_iter().flatten().map(|object| object.uid).filter(|uid| Some(*uid) != kept));
    }

    /// It may have happened: all of it or nothing.
    pub fn may_be(&mut self, changes: Vec<(Place, State)>) {
        // What may be so already says nothing of whether this happened.
        let changes: Vec<_> = changes.into_iter().filter(|(place, state)| !self.can(place).contains(state)).collect();
        for (place, state) in &changes {
            let known = self.known(place);
            // What is on record is so, or what came after it.
            if let Some(recorded) = known.recorded.take() {
                known.can = vec![recorded];
            }
            known.can.push(state.clone());
        }
        self.together.push(Together { changes });
    }

    /// It is on record and not yet seen: the next start shows it.
    pub fn will_be(&mut self, place: &Place, state: State) {
        let known = self.known(place);
        if !known.can.contains(&state) {
            known.can.push(state.clone());
        }
        known.recorded = Some(state);
    }

    /// What the catalogue shows now, of `place`.
    ///
    /// # Errors
    /// It cannot be.
    pub fn allows(&self, place: &Place, found: Option<&Version>) -> Result<State, String> {
        let can = self.can(place);
        let fits = |state: &&State| match (state, found) {
            (None, None) => true,
            (Some(object), Some(version)) => object.differs(version).is_none(),
            _ => false,
        };
        if let Some(state) = can.iter().find(fits) {
            return Ok(state.clone());
        }
        let wanted: Vec<String> =
            can.iter().map(|state| state.as_ref().map_or("nothing".into(), |o| o.uid.to_string())).collect();
        let why = can.iter().flatten().zip(found).find_map(|(object, version)| object.differs(version));
        let found = found.map_or("nothing".to_owned(), |version| version.uid.to_string());
        let back = if self.gone.iter().any(|uid| uid.to_string() == found) { ", which was gone" } else { "" };
        Err(format!(
            "{}/{} holds {found}{back}, but was told to hold {}{}",
            place.0,
            place.1,
            wanted.join(" or "),
            why.map(|why| format!(" ({why})")).unwrap_or_default()
        ))
    }

    /// After a start: takes what is there as the truth, if it can be.
    ///
    /// # Errors
    /// It cannot be.
    pub fn settle(&mut self, place: &Place, found: Option<&Version>) -> Result<State, String> {
        let state = self.allows(place, found)?;
        let recorded = self.known(place).recorded.take();
        if recorded.is_some_and(|recorded| recorded != state) {
            return Err(format!("{}/{} is not what a durable record says", place.0, place.1));
        }
        self.is(place, state.clone());
        Ok(state)
    }

    /// After every key is settled: what was changed by one record has happened
    /// wholly or not at all.
    ///
    /// # Errors
    /// In part.
    pub fn settle_together(&mut self) -> Result<(), String> {
        for Together { changes } in std::mem::take(&mut self.together) {
            let done = changes.iter().filter(|(place, state)| self.can(place) == [state.clone()]).count();
            if done != 0 && done != changes.len() {
                let names: Vec<&str> = changes.iter().map(|(place, _)| place.1.as_str()).collect();
                return Err(format!("one record changed {done} of {} keys: {}", changes.len(), names.join(", ")));
            }
        }
        Ok(())
    }
}
