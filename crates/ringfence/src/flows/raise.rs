//! Raising a label beyond what the sites of an object may hold (rulings 6 and
//! 28): a trust boundary is crossed, so the object is sealed again under a new
//! data key, at the sites its new label allows, takes the old one's place in
//! one commit, and the old bytes are erased where they may no longer be.
//! Only then is the client answered.
//!
//! - Failed before the commit: nothing changed; what was written is given up.
//! - Committed, and the erasure fails: 503, and 503 again until it is done;
//!   the eraser goes on trying by itself, after a crash too.
//! - Overwritten or deleted meanwhile: the commit sees it and this is tried
//!   again with what is there then.
//!
//! Readers of the old bytes are not waited for: P1 comes before their comfort,
//! and what they read is cut, never wrong.

use std::sync::Arc;

use ringfence_access::labels::Labelled;
use ringfence_access::permit::Write;
use ringfence_access::{Ask, Permit, Placement};
use ringfence_format::names::{SiteId, UploadId};
use ringfence_format::record::Seq;
use ringfence_format::redo::{Bucket, Pairs, Part, Version};
use ringfence_store::{Conditions, PutVersion, StoredPart};
use ringfence_vault::Resealer;

use super::copy::seen;
use super::{Act, Refused};

/// A version whose label is to be raised.
pub(super) struct Raise<'a> {
    pub(super) op: &'static str,
    pub(super) bucket: &'a Bucket,
    pub(super) version: &'a Arc<Version>,
    pub(super) labelled: Labelled,
    pub(super) tags: Pairs,
    /// Where it lies and may not lie under the new label.
    pub(super) leaves: Vec<SiteId>,
}

/// What the way from the old sites to the new ones needs.
struct Move<'a> {
    version: &'a Arc<Version>,
    permit: &'a Permit<Write>,
    placement: &'a Placement,
    resealer: &'a Resealer,
}

impl Act {
    /// Seals the object again for the sites its new label allows. `permit` is
    /// the one to change the version as it is.
    pub(super) async fn raise(&self, raise: Raise<'_>, permit: Permit<Write>) -> Result<(Arc<Version>, Seq), Refused> {
        let Raise { op, bucket, version, labelled, tags, leaves } = raise;
        let old_head = version.head.as_ref().ok_or_else(|| Refused::new("MethodNotAllowed", "it has no tags"))?;
        self.can_leave(version, &leaves)?;
        let object = self.identity(bucket, self.at.store.new_version());
        let ask = Ask::on_object(op, bucket, &version.key, &labelled.label).version(object.clone());
        let new_permit: Permit<Write> = self.may(ask.clone())?;
        let placed = self.place(new_permit, ask.clone(), object.clone());
        let (placement, new_permit) = placed.map_err(|refused| match &refused.denial {
            Some(denial) => stays("policy allows no place for it under that label", denial.reason()),
            None => refused,
        })?;

        // On record before a byte of it is opened.
        let detail = format!("seals it again as version {} for the sites of its new label", object.version);
        let because = self.record(permit.record(|resource| resource.detail = Some(detail))).await?;
        let sealer = self.at.vault.sealer(&new_permit, object)?;
        let resealer = self.at.vault.resealer(&because, old_head, sealer)?;
        let way = Move { version, permit: &new_permit, placement: &placement, resealer: &resealer };
        let (parts, stored) = self.seal_again(&way).await?;

        let new = Version {
            uid: resealer.sealer().object().version,
            tags,
            label: labelled.label.clone(),
            label_source: labelled.source,
            parts,
            head: Some(resealer.sealer().head_info()),
            copies: Vec::new(),
            placed_by: placement.policy_ids().to_vec(),
            policy_epoch: placement.policy_epoch(),
            ..Version::clone(version)
        };
        let head = resealer.sealer().seal_head(&new, bucket)?;
        let copies = self.at.store.put_object(&placement, &new, stored, head).await?;
        let authority = self.write_authority(new_permit, ask, (labelled.label, labelled.inherited, None));
        let put = PutVersion {
            version: new.clone(),
            copies,
            conditions: Conditions::default(),
            source: Some(seen(version)),
            place_again: Some(self.place_again(placement)),
        };
        let seq = self.at.store.put_version(authority, put).await?.index();
        self.at.store.owe_erasure(new.uid, ids_of(version), leaves);
        self.settle_erasure(&new).await?;
        Ok((Arc::new(new), seq))
    }

    /// Ends the erasure that an earlier raise of this version's label owes.
    pub(super) async fn settle_erasure(&self, version: &Version) -> Result<(), Refused> {
        self.at.store.settle_erasure(&version.uid).await.map_err(|error| {
            let message = "its label is raised, and what lay at its former place is not erased yet: retry";
            Refused::inside("ServiceUnavailable", message, error)
        })
    }

    /// What could only be begun is not begun.
    fn can_leave(&self, version: &Version, leaves: &[SiteId]) -> Result<(), Refused> {
        if !version.null_version {
            return Err(stays("a version that is not the current one cannot be sealed again", version.uid));
        }
        let unusable = |id: &&SiteId| !self.at.store.site(id).is_some_and(|site| site.is_asked());
        match leaves.iter().find(unusable) {
            None => Ok(()),
            Some(site) => {
                let reason = format!("site `{site}` cannot be used now, so nothing could be erased there");
                Err(stays("it lies where nothing can be erased now", reason))
            }
        }
    }

    /// Streams all parts from a copy that can be read to the new sites; a
    /// damaged copy is passed over and the next one tried from the beginning.
    async fn seal_again(&self, way: &Move<'_>) -> Result<(Vec<Part>, Vec<StoredPart>), Refused> {
        let mut bad: Vec<SiteId> = Vec::new();
        loop {
            match self.seal_from_a_copy(way, &bad).await {
                Ok(done) => return Ok(done),
                Err(Broken { at: Some(site), why }) if !bad.contains(&site) => {
                    tracing::error!(%site, "a copy of {} is damaged: {why}", way.version.uid);
                    bad.push(site);
                }
                Err(Broken { why, .. }) => return Err(why.into_refused()),
            }
        }
    }

    async fn seal_from_a_copy(
        &self,
        way: &Move<'_>,
        except: &[SiteId],
    ) -> Result<(Vec<Part>, Vec<StoredPart>), Broken> {
        let Move { version, permit, placement, resealer } = way;
        let mut fetch = self.at.store.fetch(version, 0..version.size, except).map_err(Broken::source)?;
        let mut ahead = fetch.next().await;
        let (mut parts, mut stored) = (Vec::new(), Vec::new());
        for (index, old) in version.parts.iter().enumerate() {
            let writer = self.at.store.part_writer(permit, placement, Some(old.plain_len)).await;
            let mut writer = writer.map_err(|error| Broken::target(error.into()))?;
            let id = if old.plain_len == 0 && version.size > 0 {
                // An empty part has no bytes to fetch.
                let part = resealer.sealer().part().map_err(|error| Broken::target(error.into()))?;
                let id = part.id();
                let sealed = part.finish().map_err(|error| Broken::target(error.into()))?;
                writer.write(sealed).await.map_err(|error| Broken::target(error.into()))?;
                id
            } else {
                let mut part = resealer.part(old).map_err(|error| Broken::target(error.into()))?;
                while let Some(piece) = ahead.take_if(|piece| !matches!(piece, Ok(piece) if piece.part != index)) {
                    let piece = piece.map_err(Broken::source)?;
                    let sealed = part.push(&piece.bytes).map_err(|why| Broken::copy(fetch.site(), &why))?;
                    if let Some(sealed) = sealed {
                        writer.write(sealed).await.map_err(|error| Broken::target(error.into()))?;
                    }
                    ahead = fetch.next().await;
                }
                let id = part.id();
                let sealed = part.finish().map_err(|why| Broken::copy(fetch.site(), &why))?;
                writer.write(sealed).await.map_err(|error| Broken::target(error.into()))?;
                id
            };
            let (upload, chunk_len, sealed_len) = (writer.upload(), writer.chunk_len(), writer.sealed_len());
            parts.push(Part { id, upload, chunk_len, sealed_len, ..old.clone() });
            stored.push(writer.finish_part().await.map_err(|error| Broken::target(error.into()))?);
        }
        Ok((parts, stored))
    }
}

/// Why one way from the old sites to the new ones ended.
struct Broken {
    /// The copy that turned out to be damaged.
    at: Option<SiteId>,
    why: Why,
}

enum Why {
    /// The source cannot be read, or not authenticated.
    Source(String),
    /// The target did not take it.
    Target(Refused),
}

impl Broken {
    fn source(error: ringfence_store::FetchError) -> Self {
        Self { at: None, why: Why::Source(error.to_string()) }
    }
    fn copy(site: Option<&SiteId>, why: &ringfence_vault::VaultError) -> Self {
        Self { at: site.cloned(), why: Why::Source(why.to_string()) }
    }
    fn target(refused: Refused) -> Self {
        Self { at: None, why: Why::Target(refused) }
    }
}

impl Why {
    fn into_refused(self) -> Refused {
        match self {
            Self::Source(reason) => stays("it cannot be read where it lies", reason),
            Self::Target(refused) => refused,
        }
    }
}

impl std::fmt::Display for Why {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Source(reason) => f.write_str(reason),
            Self::Target(refused) => f.write_str(&refused.reason),
        }
    }
}

/// Nothing changed: the label would be more than its sites may hold.
fn stays(why: &str, reason: impl std::fmt::Display) -> Refused {
    let message = format!("the object lies where its new label does not allow, and {why}");
    Refused::inside("OperationAborted", &message, reason)
}

/// Every name the version's bytes lie under.
fn ids_of(version: &Version) -> Vec<UploadId> {
    let chunks = version.parts.iter().map(|part| part.upload);
    chunks.chain(version.copies.iter().map(|copy| copy.head)).collect()
}
