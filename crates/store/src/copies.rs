//! INVARIANT 3 — no object is ever without a complete copy.
//!
//! Three kinds of evidence, each made here and nowhere else:
//! [`StoredPart`] and [`Copies`] from the acknowledgements of the sites, and
//! [`Detached`] from a committed change of the catalogue. A commit demands
//! `Copies`; an erasure demands `Detached`.

use ringfence_access::Placement;
use ringfence_db::rusqlite::{self, Row};
use ringfence_format::names::{Label, ObjectVersion, PartId, SiteId, UploadId, VersionUid};
use ringfence_format::redo::{Copy, PackAddr, PackedPart, Part, Version};

use crate::unclaimed::Unclaimed;

/// One part is complete and durable at every site it was placed at.
#[must_use = "bytes that no commit refers to are orphans"]
#[derive(Debug)]
pub struct StoredPart {
    object: ObjectVersion,
    pub(crate) upload: UploadId,
    pub(crate) chunk_len: u32,
    pub(crate) sealed_len: u64,
    pub(crate) at: Vec<(SiteId, Option<PackAddr>)>,
    policy_epoch: u64,
    pub(crate) guard: Unclaimed,
}

impl StoredPart {
    /// upholds INVARIANT 3: called by `put` when every site has acknowledged
    /// every chunk.
    pub(crate) fn durable(
        placed: &Placed,
        upload: UploadId,
        chunk_len: u32,
        sealed_len: u64,
        at: Vec<(SiteId, Option<PackAddr>)>,
        guard: Unclaimed,
    ) -> Option<Self> {
        let everywhere = placed.sites.iter().all(|site| at.iter().any(|(id, _)| id == site));
        (everywhere && at.len() == placed.sites.len()).then(|| Self {
            object: placed.object.clone(),
            upload,
            chunk_len,
            sealed_len,
            at,
            policy_epoch: placed.policy_epoch,
            guard,
        })
    }

    /// The same part under a newer placement, if it lies at exactly its sites.
    ///
    /// # Errors
    /// [`Misplaced`]; the part is given up then.
    pub fn under(mut self, placement: &Placement) -> Result<Self, Misplaced> {
        self.renew(placement).map(|()| self)
    }

    pub(crate) fn renew(&mut self, placement: &Placement) -> Result<(), Misplaced> {
        let here = self.at.iter().map(|(site, _)| site.clone()).collect();
        if placement.object() != &self.object || sorted(here) != sorted(placement.sites().to_vec()) {
            return Err(Misplaced);
        }
        self.policy_epoch = placement.policy_epoch();
        Ok(())
    }

    /// Whose part it is.
    pub fn object(&self) -> &ObjectVersion {
        &self.object
    }
    /// The write attempt its chunks are named after.
    pub fn upload(&self) -> UploadId {
        self.upload
    }
    /// Ciphertext bytes of every chunk but the last (see `format::chunk`).
    pub fn chunk_len(&self) -> u32 {
        self.chunk_len
    }
    /// Ciphertext bytes in all.
    pub fn sealed_len(&self) -> u64 {
        self.sealed_len
    }
    /// The epoch it was placed under.
    pub fn policy_epoch(&self) -> u64 {
        self.policy_epoch
    }
    /// Whether `part` describes it.
    pub(crate) fn is(&self, part: &Part) -> bool {
        part.upload == self.upload && part.chunk_len == self.chunk_len && part.sealed_len == self.sealed_len
    }
}

/// What a [`Placement`] said, kept by the write it governs.
#[derive(Clone, Debug)]
pub(crate) struct Placed {
    pub(crate) object: ObjectVersion,
    pub(crate) label: Label,
    pub(crate) sites: Vec<SiteId>,
    pub(crate) policy_ids: Vec<String>,
    pub(crate) policy_epoch: u64,
}

impl Placed {
    pub(crate) fn by(placement: &Placement) -> Self {
        Self {
            object: placement.object().clone(),
            label: placement.label().clone(),
            sites: placement.sites().to_vec(),
            policy_ids: placement.policy_ids().to_vec(),
            policy_epoch: placement.policy_epoch(),
        }
    }
}

/// Where a part of a version lies, by site.
pub(crate) struct PartAt<'a> {
    pub(crate) part: &'a Part,
    pub(crate) at: &'a [(SiteId, Option<PackAddr>)],
}

/// Where the head of a copy lies.
pub(crate) struct HeadAt {
    pub(crate) site: SiteId,
    pub(crate) head: UploadId,
    pub(crate) at: Option<PackAddr>,
}

/// Complete, durable copies of one version, one at every site of its
/// placement: all parts and a head.
///
/// ```compile_fail,E0451
/// use ringfence_store::Copies;
/// fn forge(placed: ringfence_store::Copies) -> Copies { Copies { copies: vec![], ..placed } }
/// ```
#[must_use = "copies that are not committed are orphans"]
#[derive(Debug)]
pub struct Copies {
    pub(crate) placed: Placed,
    pub(crate) copies: Vec<Copy>,
    pub(crate) parts: Vec<(PartId, UploadId, u64)>,
    pub(crate) guard: Unclaimed,
}

/// What was stored lies elsewhere than the new placement asks: it is given up.
#[derive(Debug, thiserror::Error)]
#[error("the copies do not lie where policy now wants them: place and store the object again")]
pub struct Misplaced;

impl Copies {
    /// upholds INVARIANT 3: every site of the placement has every part and a
    /// head, or there are no `Copies`.
    pub(crate) fn complete(placed: Placed, parts: &[PartAt<'_>], heads: &[HeadAt], guard: Unclaimed) -> Option<Self> {
        let copies = placed.sites.iter().map(|site| copy_at(site, parts, heads)).collect::<Option<Vec<_>>>()?;
        let parts = parts.iter().map(|part| (part.part.id, part.part.upload, part.part.sealed_len)).collect();
        (!copies.is_empty()).then_some(Self { placed, copies, parts, guard })
    }

    /// The version they are copies of.
    pub fn object(&self) -> &ObjectVersion {
        &self.placed.object
    }

    /// The policy epoch they were placed under.
    pub fn policy_epoch(&self) -> u64 {
        self.placed.policy_epoch
    }

    /// The label they were placed by.
    pub fn label(&self) -> &Label {
        &self.placed.label
    }

    /// The same copies under a newer placement, if it wants them at exactly
    /// these sites; a changed epoch then costs no second write.
    ///
    /// # Errors
    /// [`Misplaced`] where it does not; the copies are given up then.
    pub fn under(mut self, placement: &Placement) -> Result<Self, Misplaced> {
        self.renew(placement).map(|()| self)
    }

    pub(crate) fn renew(&mut self, placement: &Placement) -> Result<(), Misplaced> {
        if placement.object() != &self.placed.object
            || sorted(placement.sites().to_vec()) != sorted(self.placed.sites.clone())
        {
            return Err(Misplaced);
        }
        self.placed = Placed::by(placement);
        Ok(())
    }

    /// Whether `version` is what they are copies of, part by part.
    pub(crate) fn are_of(&self, version: &Version) -> bool {
        let parts = version.parts.iter().map(|part| (part.id, part.upload, part.sealed_len));
        version.uid == self.placed.object.version
            && version.bucket == self.placed.object.bucket
            && version.label == self.placed.label
            && parts.eq(self.parts.iter().copied())
    }
}

fn sorted(mut sites: Vec<SiteId>) -> Vec<SiteId> {
    sites.sort();
    sites
}

fn copy_at(site: &SiteId, parts: &[PartAt<'_>], heads: &[HeadAt]) -> Option<Copy> {
    let mut packed = Vec::new();
    for part in parts {
        let (_, at) = part.at.iter().find(|(id, _)| id == site)?;
        packed.extend(at.map(|at| PackedPart { part: part.part.id, at }));
    }
    let head = heads.iter().find(|head| head.site == *site)?;
    Some(Copy { site: site.clone(), head: head.head, head_at: head.at, packed })
}

/// A new head is durable beside every copy of a version.
#[must_use = "heads that no commit refers to are orphans"]
#[derive(Debug)]
pub struct NewHeads {
    pub(crate) uid: VersionUid,
    pub(crate) copies: Vec<Copy>,
    pub(crate) guard: Unclaimed,
}

impl NewHeads {
    /// upholds INVARIANT 3: one acknowledged head for each copy, or none.
    pub(crate) fn complete(version: &Version, heads: &[HeadAt], guard: Unclaimed) -> Option<Self> {
        let renewed = |copy: &Copy| {
            let head = heads.iter().find(|head| head.site == copy.site)?;
            Some(Copy { head: head.head, head_at: head.at, ..copy.clone() })
        };
        let copies = version.copies.iter().map(renewed).collect::<Option<Vec<_>>>()?;
        Some(Self { uid: version.uid, copies, guard })
    }

    /// The version they are heads of.
    pub fn version(&self) -> VersionUid {
        self.uid
    }
}

/// Something at a site that the catalogue no longer counts, so that it may be
/// erased. The evidence is made by the transition: it is read from rows that a
/// committed change put aside, never concluded from an absence.
///
/// ```compile_fail,E0451
/// use ringfence_store::Detached;
/// fn forge(old: Detached) -> Detached { Detached { chunks: 7, ..old } }
/// ```
#[must_use = "what is detached and not erased takes space for nothing"]
#[derive(Debug)]
pub struct Detached {
    pub(crate) kind: i64,
    pub(crate) id: UploadId,
    pub(crate) chunks: u32,
    pub(crate) at: Option<PackAddr>,
}

impl Detached {
    /// upholds INVARIANT 3: reads a row of `garbage`, which only `apply` fills,
    /// in the transaction that took the copy out of the catalogue.
    pub(crate) fn from_row(row: &Row<'_>) -> rusqlite::Result<Self> {
        let pack: Option<u32> = row.get(3)?;
        let at = match pack {
            Some(pack) => Some(PackAddr { pack, offset: row.get(4)?, len: row.get(5)? }),
            None => None,
        };
        Ok(Self { kind: row.get(0)?, id: UploadId(row.get(1)?), chunks: row.get(2)?, at })
    }

    /// upholds INVARIANT 3: chunks of attempts that an `AbortWrites` record
    /// has given up: never visible, so nobody reads them. Called after that
    /// record is durable.
    pub(crate) fn aborted(id: UploadId, kind: i64, chunks: u32, at: Option<PackAddr>) -> Self {
        Self { kind, id, chunks, at }
    }
}
