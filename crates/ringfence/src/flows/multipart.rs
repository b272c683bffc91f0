//! Multipart uploads: create fixes version, data key, label and sites; each
//! part is decided and placed under the policies of its time; complete copies
//! nothing (ruling 4).

use std::sync::Arc;

use md5::{Digest as _, Md5};
use ringfence_access::permit::{Delete, Write};
use ringfence_access::{Ask, Permit, Placement};
use ringfence_format::limits;
use ringfence_format::names::{ObjectVersion, UploadId};
use ringfence_format::record::Seq;
use ringfence_format::redo::{Bucket, Checksum, Part, Upload, UploadPart, Version};
use ringfence_store::{CommitError, CompleteUpload, Conditions, Conflict, PutPart, VersionRef};

use super::begin::About;
use super::copy::{plain_of, seen};
use super::put::early;
use super::{Act, Algorithm, PartFrom, Plain, Refused, Sums, combine};

/// An upload to be begun.
#[derive(Clone, Debug)]
pub struct NewUpload {
    /// What the object will be like.
    pub about: About,
    /// Checksum algorithm, and whether it is composite.
    pub checksum: Option<(Algorithm, bool)>,
}

/// An upload as a client names it.
#[derive(Clone, Debug)]
pub struct UploadRef {
    /// Its bucket.
    pub bucket: String,
    /// Its key.
    pub key: String,
    /// Its id, as text.
    pub id: String,
}

/// A part as the completion names it.
#[derive(Clone, Debug)]
pub struct CompletedPart {
    /// Its number.
    pub number: u32,
    /// Its ETag without quotes.
    pub etag: String,
    /// Its checksum, if named.
    pub checksum: Option<(Algorithm, String)>,
}

/// What a completed upload became.
#[derive(Debug)]
pub struct Completed {
    /// The version.
    pub version: Arc<Version>,
    /// The record of it.
    pub seq: Seq,
}

const NO_UPLOAD: &str = "the upload does not exist: it may have been aborted or completed";

impl Act {
    /// Begins an upload.
    pub async fn create_upload(&self, new: NewUpload) -> Result<(UploadId, Seq), Refused> {
        let begun = self.begin("s3:CreateMultipartUpload", new.about, &Conditions::default(), None)?;
        let id = self.at.store.new_id();
        let upload = Upload {
            id,
            version: begun.version.clone(),
            sites: begun.placement.sites().to_vec(),
            checksum_algorithm: new.checksum.map(|(algorithm, _)| algorithm.name().to_owned()),
            checksum_composite: new.checksum.is_some_and(|(_, composite)| composite),
            initiator: self.caller.key_id().cloned(),
        };
        let (authority, _placement) = self.authority(begun, None);
        let committed = self.at.store.create_upload(authority, upload).await?;
        Ok((id, committed.index()))
    }

    /// The upload a client names, of the bucket and key it names.
    pub(super) fn upload(&self, named: &UploadRef) -> Result<(Arc<Bucket>, Upload), Refused> {
        let bucket = self.bucket(&named.bucket)?;
        let key = Self::key(&named.key)?;
        let found = match UploadId::from_hex(&named.id) {
            Some(id) => self.at.catalog().upload(&id)?,
            None => None,
        };
        let found = found.filter(|upload| upload.version.bucket == bucket.id && upload.version.key == key);
        match found {
            Some(upload) => Ok((bucket, upload)),
            None => {
                let label = self.labelled(&bucket, &key, &Vec::new())?.label;
                let _may: Permit<Write> = self.may(Ask::on_object("s3:UploadPart", &bucket, &key, &label))?;
                Err(Refused::new("NoSuchUpload", NO_UPLOAD))
            }
        }
    }

    /// Stores one part.
    pub async fn upload_part(
        &self,
        named: &UploadRef,
        number: u32,
        plain: Plain<'_>,
    ) -> Result<(Part, Sums, Seq), Refused> {
        self.part_from("s3:UploadPart", named, number, plain, None).await
    }

    /// Stores one part that is a range of another object.
    pub async fn upload_part_copy(
        &self,
        named: &UploadRef,
        number: u32,
        from: PartFrom,
    ) -> Result<(Part, Seq, Arc<Version>), Refused> {
        const OP: &str = "s3:UploadPartCopy";
        let (bucket, upload) = self.upload(named)?;
        let reading = self.read_source(OP, &from.source, from.range).await?;
        let source = reading.version.clone();
        let ask = self.ask_upload(OP, &bucket, &upload);
        let (label, sources) = (&upload.version.label, [&source.label]);
        self.may_lower(&ask, label, label, None, &sources).map_err(Refused::denied)?;
        let algorithm = upload.checksum_algorithm.as_deref().and_then(Algorithm::of).unwrap_or(Algorithm::Crc64Nvme);
        let (part, _, seq) = self.part_from(OP, named, number, plain_of(reading, algorithm), Some(&source)).await?;
        Ok((part, seq, source))
    }

    async fn part_from(
        &self,
        op: &'static str,
        named: &UploadRef,
        number: u32,
        mut plain: Plain<'_>,
        source: Option<&Version>,
    ) -> Result<(Part, Sums, Seq), Refused> {
        if !(1..=limits::PART_NUMBER_MAX).contains(&number) {
            return Err(Refused::new(
                "InvalidArgument",
                "part number must be an integer between 1 and 10000, inclusive",
            ));
        }
        let (bucket, upload) = self.upload(named)?;
        if let Some(algorithm) = upload.checksum_algorithm.as_deref().and_then(Algorithm::of) {
            match plain.algorithms.first() {
                Some(given) if *given == algorithm => {}
                // What the client did not send is computed all the same.
                _ => plain.algorithms.insert(0, algorithm),
            }
        }
        let ask = self.ask_upload(op, &bucket, &upload);
        let permit: Permit<Write> = self.may(ask.clone())?;
        let placement = self.place_upload(ask.clone(), &upload)?;
        let sealer = self.at.vault.resume_sealer(&permit, placement.object().clone(), head(&upload)?)?;
        let writer = self.at.store.part_writer(&permit, &placement, plain.len).await?;
        let (part, sums, writer) = self.seal_part(&sealer, writer, number, plain).await?;
        let stored = writer.finish_part().await?;
        let label = upload.version.label.clone();
        let authority = self.write_authority(permit, ask, (label.clone(), label, source.map(|s| s.label.clone())));
        let place_again = Some(self.place_again(placement));
        let put = PutPart { upload: upload.id, part: part.clone(), stored, source: source.map(seen), place_again };
        let committed = self.at.store.put_part(authority, put).await?;
        Ok((part, sums, committed.index()))
    }

    fn ask_upload(&self, op: &'static str, bucket: &Bucket, upload: &Upload) -> Ask {
        let object = self.identity(bucket, upload.version.uid);
        Ask::on_object(op, bucket, &upload.version.key, &upload.version.label).version(object)
    }

    /// The sites that were chosen at its creation, if policy still allows them.
    fn place_upload(&self, ask: Ask, upload: &Upload) -> Result<Placement, Refused> {
        let object: ObjectVersion = ObjectVersion {
            realm: self.caller.realm().clone(),
            tenant: self.caller.tenant().clone(),
            bucket: upload.version.bucket,
            version: upload.version.uid,
        };
        let placed = self.at.engine.place_at(&self.caller, ask, object, &upload.sites);
        placed.map_err(|denial| Refused::denied(denial.into()))
    }

    /// Makes an upload an object. Completing again with the same parts answers
    /// the same. Parts that lie where policy allows no more are erased at once.
    pub async fn complete_upload(
        &self,
        named: &UploadRef,
        parts: Vec<CompletedPart>,
        conditions: Conditions,
        expect: impl Fn(&Version) -> Result<(), Refused>,
    ) -> Result<Completed, Refused> {
        const OP: &str = "s3:CompleteMultipartUpload";
        check_order(&parts)?;
        let (bucket, upload) = match self.upload(named) {
            Err(refused) if refused.code == "NoSuchUpload" => {
                return self.completed_before(named, &parts, refused).await;
            }
            found => found?,
        };
        let ask = self.ask_upload(OP, &bucket, &upload);
        let permit: Permit<Write> = self.may(ask.clone())?;
        let current = self.at.catalog().locate(&bucket.id, &upload.version.key, None)?;
        early(&conditions, current.as_deref())?;
        let rows = self.at.catalog().list_parts(&upload.id, 0, limits::PART_NUMBER_MAX as usize)?;
        let chosen = choose(rows, &parts)?;
        let placement = match self.place_upload(ask.clone(), &upload) {
            Ok(placement) => placement,
            Err(refused) => return Err(self.give_up(&bucket, &upload, refused).await),
        };
        let version = assemble(&upload, &chosen, placement.policy_epoch(), self.now_ms())?;
        expect(&version)?;
        let sealer = self.at.vault.resume_sealer(&permit, placement.object().clone(), head(&upload)?)?;
        let sealed = sealer.seal_head(&version, &bucket)?;
        let copies = self.at.store.put_heads(&placement, &version, &chosen, sealed).await?;
        let label = upload.version.label.clone();
        let inherited = self.labelled(&bucket, &upload.version.key, &Vec::new())?.inherited;
        let authority = self.write_authority(permit, ask, (label, inherited, None));
        let complete = CompleteUpload {
            upload: upload.id,
            version: version.clone(),
            copies,
            conditions,
            place_again: Some(self.place_again(placement)),
        };
        match self.at.store.complete_upload(authority, complete).await {
            Ok(committed) => Ok(Completed { version: Arc::new(version), seq: committed.index() }),
            Err(CommitError::Conflict(Conflict::AlreadyComplete(_) | Conflict::NoSuchUpload)) => {
                self.completed_before(named, &parts, Refused::new("NoSuchUpload", NO_UPLOAD)).await
            }
            Err(error) => Err(error.into()),
        }
    }

    /// A client that missed the answer asks again: if it means the same parts,
    /// it gets the same answer.
    async fn completed_before(
        &self,
        named: &UploadRef,
        parts: &[CompletedPart],
        refused: Refused,
    ) -> Result<Completed, Refused> {
        let bucket = self.bucket(&named.bucket)?;
        let Some(id) = UploadId::from_hex(&named.id) else { return Err(refused) };
        let Some(done) = self.at.catalog().completed(&id)? else { return Err(refused) };
        let etags: Option<Vec<[u8; 16]>> = parts.iter().map(|part| md5_of(&part.etag)).collect();
        let same = done.bucket == bucket.id
            && done.key.as_str() == named.key
            && etags.is_some_and(|etags| etag_of(etags.iter()) == done.etag);
        if !same {
            return Err(refused);
        }
        let version =
            self.at.catalog().locate(&bucket.id, &done.key, Some(VersionRef::Uid(done.uid)))?.ok_or(refused)?;
        let ask = Ask::on_object("s3:CompleteMultipartUpload", &bucket, &done.key, &version.label);
        let permit: Permit<Write> = self.may(ask.version(self.identity(&bucket, version.uid)))?;
        let seq = self.record(permit).await?.index();
        Ok(Completed { version, seq })
    }

    /// Ends an upload; its parts go.
    pub async fn abort_upload(&self, named: &UploadRef) -> Result<Seq, Refused> {
        let (bucket, upload) = self.upload(named)?;
        let ask = self.ask_upload("s3:AbortMultipartUpload", &bucket, &upload);
        let permit: Permit<Delete> = self.may(ask)?;
        Ok(self.at.store.abort_upload(self.renewed(permit), upload.id).await?.index())
    }

    /// Parts lie where policy allows no more: they go, then the client learns
    /// of the refusal.
    async fn give_up(&self, bucket: &Bucket, upload: &Upload, refused: Refused) -> Refused {
        let ask = self.ask_upload("s3:AbortMultipartUpload", bucket, upload);
        let parts = self.at.catalog().list_parts(&upload.id, 0, limits::PART_NUMBER_MAX as usize).unwrap_or_default();
        let ids: Vec<UploadId> = parts.iter().map(|row| row.part.upload).collect();
        let given_up = match self.may::<Delete>(ask) {
            Ok(permit) => self.at.store.abort_upload(permit, upload.id).await.map_err(|e| e.to_string()),
            Err(refused) => Err(refused.reason),
        };
        match given_up {
            Ok(_) => {
                // Nobody reads parts, and the grace of everything else stands.
                if let Err(error) = self.at.store.erase_now(&ids, &upload.sites).await {
                    tracing::error!(
                        "parts of upload {} that may no longer be where they are were not erased yet: {error}",
                        upload.id
                    );
                }
            }
            Err(why) => tracing::error!("upload {} could not be given up: {why}", upload.id),
        }
        refused
    }
}

fn head(upload: &Upload) -> Result<&ringfence_format::redo::HeadInfo, Refused> {
    upload
        .version
        .head
        .as_ref()
        .ok_or_else(|| Refused::inside("InternalError", "internal error", "the upload has no head"))
}

fn check_order(parts: &[CompletedPart]) -> Result<(), Refused> {
    if parts.is_empty() {
        return Err(Refused::new("MalformedXML", "at least one part must be named"));
    }
    if parts.len() > limits::PART_NUMBER_MAX as usize {
        return Err(Refused::new("InvalidArgument", "an upload has at most 10000 parts"));
    }
    let ascending = parts.windows(2).all(|pair| pair[0].number < pair[1].number);
    ascending.then_some(()).ok_or_else(|| Refused::new("InvalidPartOrder", "the parts are not in ascending order"))
}

/// The rows of the parts that were named, each as it was named.
fn choose(rows: Vec<UploadPart>, named: &[CompletedPart]) -> Result<Vec<UploadPart>, Refused> {
    let invalid = |number: u32| {
        Refused::new("InvalidPart", format!("part {number} could not be found, or its ETag or checksum is another"))
    };
    let mut rows = rows.into_iter();
    let mut chosen: Vec<UploadPart> = Vec::with_capacity(named.len());
    for part in named {
        let row = rows.by_ref().find(|row| row.part.number >= part.number).filter(|row| row.part.number == part.number);
        let row = row.ok_or_else(|| invalid(part.number))?;
        if md5_of(&part.etag) != Some(row.part.md5) || !checksum_agrees(part, &row.part) {
            return Err(invalid(part.number));
        }
        chosen.push(row);
    }
    let small = |row: &&UploadPart| row.part.plain_len < limits::PART_BYTES_MIN;
    if let Some(row) = chosen[..chosen.len() - 1].iter().find(small) {
        let why = format!("part {} is smaller than 5 MiB and not the last", row.part.number);
        return Err(Refused::new("EntityTooSmall", why));
    }
    Ok(chosen)
}

fn checksum_agrees(named: &CompletedPart, part: &Part) -> bool {
    match (&named.checksum, &part.checksum) {
        (None, _) => true,
        (Some((algorithm, value)), Some(checksum)) => {
            checksum.algorithm == algorithm.name() && checksum.value == *value
        }
        (Some(_), None) => false,
    }
}

fn assemble(upload: &Upload, parts: &[UploadPart], policy_epoch: u64, now_ms: u64) -> Result<Version, Refused> {
    let size = parts.iter().map(|row| row.part.plain_len).sum();
    if size > limits::OBJECT_BYTES_MAX {
        return Err(Refused::new("EntityTooLarge", "an object has at most 5 TiB"));
    }
    let asked = upload.checksum_algorithm.as_deref().and_then(Algorithm::of);
    let (algorithm, composite) = match asked {
        Some(algorithm) => (algorithm, upload.checksum_composite),
        None => (Algorithm::Crc64Nvme, false),
    };
    let sums: Vec<(u64, Option<&Checksum>)> =
        parts.iter().map(|row| (row.part.plain_len, row.part.checksum.as_ref())).collect();
    Ok(Version {
        created_ms: now_ms,
        size,
        etag: etag_of(parts.iter().map(|row| &row.part.md5)),
        checksums: combine(algorithm, composite, &sums).into_iter().collect(),
        parts: parts.iter().map(|row| row.part.clone()).collect(),
        policy_epoch,
        ..upload.version.clone()
    })
}

/// MD5 of the parts' MD5s, and how many there are.
fn etag_of<'a>(parts: impl Iterator<Item = &'a [u8; 16]>) -> String {
    let (mut md5, mut count) = (Md5::new(), 0_usize);
    for part in parts {
        md5.update(part);
        count += 1;
    }
    let digest: [u8; 16] = md5.finalize().into();
    format!("{}-{count}", hex::encode(digest))
}

fn md5_of(etag: &str) -> Option<[u8; 16]> {
    let mut md5 = [0; 16];
    (etag.len() == 32).then_some(())?;
    for (byte, pair) in md5.iter_mut().zip(etag.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(md5)
}
