//! Write: label → decide → place → seal and store as it comes → record and
//! commit.

use bytes::Bytes;
use futures::{Stream, StreamExt};
use ringfence_access::permit::Write;
use ringfence_access::{Ask, Permit, Placement};
use ringfence_format::names::{Label, ObjectVersion};
use ringfence_format::record::Seq;
use ringfence_format::redo::{Part, Version};
use ringfence_log::Recorded;
use ringfence_store::{Authority, Commit, Conditions, PartWriter, PutVersion, Source, Standing};
use ringfence_vault::Sealer;

use super::begin::About;
use super::{Act, Algorithm, Digests, Refused, Sums};

/// What is to be made.
#[derive(Clone, Debug)]
pub struct NewObject {
    /// What it is like.
    pub about: About,
    /// What must hold of the version it replaces.
    pub conditions: Conditions,
}

/// Looks at the digests of a body that has come to its end.
pub type Check<'a> = Box<dyn FnOnce(&Sums) -> Result<(), Refused> + Send + Sync + 'a>;

/// Plaintext as it comes from the client, and what is to be checked at its end.
pub struct Plain<'a> {
    /// The bytes.
    pub bytes: Box<dyn Stream<Item = Result<Bytes, Refused>> + Send + Sync + Unpin + 'a>,
    /// How many were announced.
    pub len: Option<u64>,
    /// Which checksums to compute.
    pub algorithms: Vec<Algorithm>,
    /// Compares with what the client said; runs before anything is visible.
    pub check: Check<'a>,
}

/// What came of it.
#[derive(Debug)]
pub struct Put {
    /// The version that is now current.
    pub version: Version,
    /// The record of it.
    pub seq: Seq,
}

/// What an object was copied from.
pub(super) struct From<'a> {
    pub(super) label: &'a Label,
    pub(super) source: Source,
}

impl Act {
    /// Puts an object whole.
    pub async fn put(&self, op: &'static str, new: NewObject, plain: Plain<'_>) -> Result<Put, Refused> {
        self.put_from(op, new, plain, None).await
    }

    pub(super) async fn put_from(
        &self,
        op: &'static str,
        new: NewObject,
        plain: Plain<'_>,
        from: Option<From<'_>>,
    ) -> Result<Put, Refused> {
        let begun = self.begin(op, new.about, &new.conditions, from.as_ref().map(|from| from.label))?;

        // Seal and store as it comes.
        let writer = self.at.store.part_writer(&begun.permit, &begun.placement, plain.len).await?;
        let algorithms = plain.algorithms.clone();
        let (part, sums, writer) = self.seal_part(&begun.sealer, writer, 1, plain).await?;
        let version = Version {
            created_ms: self.now_ms(),
            size: sums.len,
            etag: hex::encode(sums.md5),
            checksums: algorithms.iter().filter_map(|a| sums.checksum(*a)).collect(),
            parts: vec![part],
            ..begun.version.clone()
        };
        let head = begun.sealer.seal_head(&version, &begun.bucket)?;
        let copies = writer.finish_object(&version, head).await?;

        // Record and commit in one step.
        let (authority, placement) = self.authority(begun, from.as_ref().map(|from| from.label.clone()));
        let put = PutVersion {
            version: version.clone(),
            copies,
            conditions: new.conditions,
            source: from.map(|from| from.source),
            place_again: Some(self.place_again(placement)),
        };
        let committed: Recorded<Commit> = self.at.store.put_version(authority, put).await?;
        Ok(Put { version, seq: committed.index() })
    }

    /// Chooses the sites, of those policy allows the ones that can be used now.
    /// The record says which were passed over.
    pub(super) fn place(
        &self,
        permit: Permit<Write>,
        ask: Ask,
        object: ObjectVersion,
    ) -> Result<(Placement, Permit<Write>), Refused> {
        let placed = self.at.engine.place(&self.caller, ask, object);
        let placement = placed.map_err(|denial| Refused::denied(denial.into()))?;
        let (placement, passed_over) = self.at.store.place_now(placement)?;
        if passed_over.is_empty() {
            return Ok((placement, permit));
        }
        let why: Vec<String> = passed_over.iter().map(|(site, why)| format!("site `{site}`: {why}")).collect();
        Ok((placement, permit.record(|resource| resource.detail = Some(format!("passed over {}", why.join("; "))))))
    }

    /// Decided anew by the commit thread: the key, the policies, and, against
    /// the version that is replaced by then, the lowering of its label.
    pub(super) fn write_authority(
        &self,
        permit: Permit<Write>,
        ask: Ask,
        (label, inherited, source): (Label, Label, Option<Label>),
    ) -> Authority<Write> {
        let key = permit.resource().key.clone();
        let act = self.clone();
        Authority::anew(move |standing: &Standing<'_>| {
            let sources: Vec<&Label> = source.iter().collect();
            let replaced = standing.current.map(|version| &version.label);
            act.may_lower(&ask, &label, &inherited, replaced, &sources)?;
            // The bucket's label may have been raised while the body came in.
            let now = standing.bucket.zip(key.as_ref()).map(|(bucket, key)| act.inherited(bucket, key));
            act.may_lower(&ask, &label, &now.unwrap_or(inherited), None, &[])?;
            act.at.engine.renew(permit, &act.at.keys, act.now_us()).map_err(Box::new)
        })
    }

    /// Asked by the commit thread where the policies changed meanwhile.
    pub(super) fn place_again(&self, placement: Placement) -> ringfence_store::PlaceAgain {
        let engine = self.at.engine.clone();
        Box::new(move || engine.renew_placement(placement).map_err(Box::new))
    }

    /// Streams one part from the client to its sites, sealed.
    pub(super) async fn seal_part(
        &self,
        sealer: &Sealer,
        mut writer: PartWriter,
        number: u32,
        mut plain: Plain<'_>,
    ) -> Result<(Part, Sums, PartWriter), Refused> {
        let mut digests = Digests::new(&plain.algorithms);
        let mut part = sealer.part()?;
        let (id, mut left) = (part.id(), plain.len);
        while let Some(bytes) = plain.bytes.next().await {
            let bytes = bytes?;
            left = match left.map(|left| left.checked_sub(bytes.len() as u64)) {
                Some(None) => return Err(Refused::new("IncompleteBody", "the body is longer than announced")),
                Some(left) => left,
                None => None,
            };
            digests.update(&bytes);
            if let Some(sealed) = part.push(&bytes)? {
                writer.write(sealed).await?;
            }
        }
        if left.is_some_and(|left| left > 0) {
            return Err(Refused::new("IncompleteBody", "the body is shorter than announced"));
        }
        let sums = digests.finish();
        (plain.check)(&sums)?;
        writer.write(part.finish()?).await?;
        let checksum = plain.algorithms.first().and_then(|algorithm| sums.checksum(*algorithm));
        let part = Part {
            id,
            number,
            plain_len: sums.len,
            upload: writer.upload(),
            chunk_len: writer.chunk_len(),
            sealed_len: writer.sealed_len(),
            md5: sums.md5,
            checksum,
            created_ms: self.now_ms(),
        };
        Ok((part, sums, writer))
    }
}

/// What is sure to fail at the commit fails before the body is read.
pub(super) fn early(conditions: &Conditions, current: Option<&Version>) -> Result<(), Refused> {
    let exists = current.is_some_and(|version| !version.delete_marker);
    let failed = || Err(Refused::new("PreconditionFailed", "at least one of the preconditions did not hold"));
    match (&conditions.if_none_match, &conditions.if_match, current) {
        (Some(_), _, _) if exists => failed(),
        (_, Some(_), _) if !exists => Err(Refused::new("NoSuchKey", "the object does not exist")),
        (_, Some(etag), Some(version)) if etag != "*" && *etag != version.etag => failed(),
        _ => Ok(()),
    }
}
