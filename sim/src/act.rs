//! The flows of the binary (`crates/ringfence/src/flows`), step for step, with
//! the same calls to vault, log and store, and without HTTP.

use std::cell::RefCell;
use std::ops::Range;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use ringfence_access::Ask;
use ringfence_access::permit::{Delete, Read, Write};
use ringfence_format::names::{ObjectKey, SiteId, VersionUid};
use ringfence_format::redo::{Bucket, LabelSource, Pairs, Part, Upload, UploadPart, Version};
use ringfence_log::{LogError, Recorded};
use ringfence_store::{
    Authority, Commit, CommitError, CompleteUpload, Conditions, DeleteTarget, NewHead, PartWriter, PutError, PutPart,
    PutVersion, Source,
};
use ringfence_vault::{PartOpener, Sealer};

use crate::life::{Life, label};
use crate::oracle::{Content, MARK, Object, Oracle, Place};

/// Plaintext that a client sends at once.
const PIECE: usize = 100_000;

/// What a caller was told.
#[derive(Debug)]
pub enum Told {
    /// It is done, by this record.
    Done(u64),
    /// A condition does not hold; nothing happened.
    Conflict(ringfence_store::Conflict),
    /// It failed; nothing happened.
    Failed(String),
    /// It is on record and will be so.
    Recorded(u64),
    /// Nobody knows before the next start.
    Unknown(String),
}

impl From<Result<Recorded<Commit>, CommitError>> for Told {
    fn from(result: Result<Recorded<Commit>, CommitError>) -> Self {
        match result {
            Ok(recorded) => Self::Done(recorded.index()),
            Err(CommitError::Conflict(conflict)) => Self::Conflict(conflict),
            Err(CommitError::Unsettled(seq)) => Self::Recorded(seq),
            Err(error @ (CommitError::Log(LogError::Failed(_)) | CommitError::Closed)) => {
                Self::Unknown(error.to_string())
            }
            Err(error) => Self::Failed(error.to_string()),
        }
    }
}

impl From<PutError> for Told {
    /// Whatever became of it, no commit refers to it.
    fn from(error: PutError) -> Self {
        Self::Failed(error.to_string())
    }
}

impl From<String> for Told {
    fn from(why: String) -> Self {
        Self::Failed(why)
    }
}

impl From<ringfence_vault::VaultError> for Told {
    fn from(error: ringfence_vault::VaultError) -> Self {
        Self::Failed(error.to_string())
    }
}

impl From<ringfence_db::DbError> for Told {
    fn from(error: ringfence_db::DbError) -> Self {
        Self::Failed(error.to_string())
    }
}

/// What is to be put.
#[derive(Clone, Debug)]
pub struct New {
    /// Where.
    pub place: Place,
    /// Its label.
    pub label: &'static str,
    /// Its bytes.
    pub content: Content,
    /// What must hold of the version it replaces.
    pub conditions: Conditions,
}

/// Attempts whose bytes must not reach the public site.
pub type Private = RefCell<Vec<ringfence_format::names::UploadId>>;

fn key_of(place: &Place) -> ObjectKey {
    ObjectKey::parse(&place.1).expect("a key")
}

fn marked(what: u64) -> Pairs {
    vec![("kind".to_owned(), format!("{}{what}", String::from_utf8_lossy(&MARK.repeat(3))))]
}

fn etag(parts: &[Content]) -> String {
    let sum = parts.iter().fold(7_u128, |sum, part| {
        sum.wrapping_mul(0x0100_0000_01b3).wrapping_add(u128::from(part.number)).wrapping_add(part.len as u128)
    });
    let suffix = if parts.len() > 1 { format!("-{}", parts.len()) } else { String::new() };
    format!("{sum:032x}{suffix}")
}

impl Life {
    fn ask(&self, op: &'static str, bucket: &Bucket, place: &Place, label_name: &str) -> Ask {
        Ask::on_object(op, bucket, &key_of(place), &label(label_name))
    }

    fn new_version(&self, bucket: &Bucket, new: &New, uid: VersionUid) -> Version {
        Version {
            bucket: bucket.id,
            key: key_of(&new.place),
            uid,
            null_version: true,
            delete_marker: false,
            created_ms: self.clock.now_us() / 1000,
            size: new.content.len as u64,
            etag: etag(&[new.content]),
            label: label(new.label),
            label_source: LabelSource::Bucket,
            tags: marked(new.content.number),
            headers: Vec::new(),
            metadata: marked(new.content.number ^ 1),
            checksums: Vec::new(),
            parts: Vec::new(),
            head: None,
            copies: Vec::new(),
            placed_by: Vec::new(),
            policy_epoch: self.engine.epoch(),
            retention: None,
            legal_hold: false,
        }
    }

    /// Seals one part and hands it to its sites.
    async fn store_part(
        &self,
        sealer: &Sealer,
        writer: &mut PartWriter,
        number: u32,
        content: Content,
    ) -> Result<Part, Told> {
        let mut part = sealer.part()?;
        let id = part.id();
        for piece in content.bytes().chunks(PIECE) {
            if let Some(sealed) = part.push(piece)? {
                writer.write(sealed).await?;
            }
        }
        writer.write(part.finish()?).await?;
        Ok(Part {
            id,
            number,
            plain_len: content.len as u64,
            upload: writer.upload(),
            chunk_len: writer.chunk_len(),
            sealed_len: writer.sealed_len(),
            md5: content.mark(),
            checksum: None,
            created_ms: self.clock.now_us() / 1000,
        })
    }

    /// Puts an object whole; answers what it is as soon as it may exist. A
    /// client that goes away is gone after so many looks at the answer.
    pub async fn put(
        &self,
        new: &New,
        source: Option<Source>,
        private: &Private,
        goes_after: Option<u64>,
    ) -> (Option<Rc<Object>>, Told) {
        let mut object = None;
        let told = {
            let put = pin!(self.try_put(new, source, &mut object, private));
            Watched { put, left: goes_after.unwrap_or(u64::MAX) }.await
        };
        let told = match told {
            Some(told) => told.unwrap_or_else(|told| told),
            // Before the commit is asked for, nothing can come of it.
            None if object.is_none() => Told::Failed("the client went away".to_owned()),
            None => Told::Unknown("the client went away".to_owned()),
        };
        (object, told)
    }

    async fn try_put(
        &self,
        new: &New,
        source: Option<Source>,
        told_of: &mut Option<Rc<Object>>,
        private: &Private,
    ) -> Result<Told, Told> {
        let bucket = self.bucket(new.place.0)?;
        let object = self.object(&bucket, self.store.new_version());
        let ask = self.ask("s3:PutObject", &bucket, &new.place, new.label).version(object.clone());
        let permit = self.permit::<Write>(ask.clone())?;
        let placed = self.engine.place(&self.caller()?, ask, object.clone());
        let placement = placed.map_err(|denial| Told::Failed(denial.reason().to_owned()))?;
        let sealer = self.vault.sealer(&permit, object.clone())?;
        let mut writer = self.store.part_writer(&permit, &placement, Some(new.content.len as u64)).await?;
        if new.label != "public" {
            private.borrow_mut().push(writer.upload());
        }
        let part = self.store_part(&sealer, &mut writer, 1, new.content).await?;
        let mut version = self.new_version(&bucket, new, object.version);
        version.parts = vec![part];
        version.head = Some(sealer.head_info());
        let head = sealer.seal_head(&version, &bucket)?;
        let copies = writer.finish_object(&version, head).await?;
        *told_of = Some(Rc::new(Object {
            uid: version.uid,
            parts: vec![new.content],
            etag: version.etag.clone(),
            label: new.label.to_owned(),
            tags: version.tags.clone(),
            metadata: version.metadata.clone(),
        }));
        let put = PutVersion { version, copies, conditions: new.conditions.clone(), source, place_again: None };
        let (engine, keys, now_us) = (self.engine.clone(), self.keys.clone(), self.clock.now_us());
        let anew = Authority::anew(move |_| engine.renew(permit, &keys, now_us).map_err(Box::new));
        Ok(self.store.put_version(anew, put).await.into())
    }

    /// Reads a range of the current version: the record of the read, and its
    /// bytes or why they do not come.
    ///
    /// # Errors
    /// Nothing was released: there is no record, or nothing to read.
    pub async fn read(
        &self,
        version: &Arc<Version>,
        range: Range<u64>,
    ) -> Result<(u64, Result<Vec<u8>, String>), String> {
        let bucket = self.store.catalog().bucket(&version.bucket).ok_or("its bucket is gone")?;
        let object = self.object(&bucket, version.uid);
        let ask = Ask::on_object("s3:GetObject", &bucket, &version.key, &version.label).version(object);
        let permit = self.permit::<Read>(ask)?;
        let first = self.store.fetch(version, range.clone(), &[]).map_err(|e| e.to_string())?;
        let receipt = self.log.record(permit).await.map_err(|e| e.to_string())?;
        let head = version.head.as_ref().ok_or("it has no head")?;
        let opener = self.vault.opener(&receipt, head).map_err(|e| e.to_string())?;
        let mut bad: Vec<SiteId> = Vec::new();
        let mut fetch = first;
        loop {
            let why = match open_all(&opener, version, &mut fetch).await {
                Ok(bytes) => return Ok((receipt.index(), Ok(bytes))),
                Err(why) => why,
            };
            let Some(site) = fetch.site().cloned() else { return Ok((receipt.index(), Err(why))) };
            bad.push(site);
            match self.store.fetch(version, range.clone(), &bad) {
                Ok(other) => fetch = other,
                Err(_) => return Ok((receipt.index(), Err(why))),
            }
        }
    }

    /// Deletes keys of one bucket with one record.
    pub async fn delete(&self, bucket: &'static str, keys: &[String]) -> Told {
        let permit = self.bucket(bucket).and_then(|found| {
            let ask = self.ask("s3:DeleteObject", &found, &(bucket, keys[0].clone()), "internal");
            Ok((found, self.permit::<Delete>(ask)?))
        });
        let (found, permit) = match permit {
            Ok(permit) => permit,
            Err(why) => return Told::Failed(why),
        };
        let target = |key: &String| DeleteTarget {
            key: ObjectKey::parse(key).expect("a key"),
            version: None,
            if_match: None,
            label: None,
        };
        self.store.delete_versions(permit, found.id, keys.iter().map(target).collect()).await.into()
    }

    /// Gives a version other tags.
    pub async fn retag(&self, place: &Place, version: &Version, number: u64) -> Result<(Pairs, Told), Told> {
        let bucket = self.bucket(place.0)?;
        let object = self.object(&bucket, version.uid);
        let ask = self.ask("s3:PutObjectTagging", &bucket, place, version.label.as_str()).version(object.clone());
        let permit = self.permit::<Write>(ask)?;
        let old = version.head.as_ref().ok_or_else(|| Told::Failed("it has no head".to_owned()))?;
        let sealer = self.vault.resume_sealer(&permit, object, old)?.next_head();
        let tags = marked(number);
        let renewed = Version { tags: tags.clone(), head: Some(sealer.head_info()), ..version.clone() };
        let head = sealer.seal_head(&renewed, &bucket)?;
        let heads = self.store.put_new_heads(version, head).await?;
        let new = NewHead {
            heads,
            head: sealer.head_info(),
            label: version.label.clone(),
            label_source: version.label_source,
            tags: tags.clone(),
        };
        Ok((tags, self.store.rehead(permit, new).await.into()))
    }

    /// Begins an upload.
    pub async fn begin_upload(&self, new: &New) -> Result<(Upload, Told), Told> {
        let bucket = self.bucket(new.place.0)?;
        let object = self.object(&bucket, self.store.new_version());
        let ask = self.ask("s3:CreateMultipartUpload", &bucket, &new.place, new.label).version(object.clone());
        let permit = self.permit::<Write>(ask.clone())?;
        let placed = self.engine.place(&self.caller()?, ask, object.clone());
        let placement = placed.map_err(|denial| Told::Failed(denial.reason().to_owned()))?;
        let sealer = self.vault.sealer(&permit, object.clone())?;
        let mut version = self.new_version(&bucket, new, object.version);
        version.head = Some(sealer.head_info());
        let upload = Upload {
            id: self.store.new_id(),
            version,
            sites: placement.sites().to_vec(),
            checksum_algorithm: None,
            checksum_composite: false,
            initiator: None,
        };
        let told = self.store.create_upload(permit, upload.clone()).await.into();
        Ok((upload, told))
    }

    /// Adds a part to an upload.
    pub async fn put_part(
        &self,
        upload: &Upload,
        number: u32,
        content: Content,
        private: &Private,
    ) -> Result<Told, Told> {
        let (permit, placement, object, _) = self.of_upload("s3:UploadPart", upload)?;
        let head = upload.version.head.as_ref().ok_or_else(|| Told::Failed("it has no head".to_owned()))?;
        let sealer = self.vault.resume_sealer(&permit, object, head)?;
        let mut writer = self.store.part_writer(&permit, &placement, Some(content.len as u64)).await?;
        if upload.version.label.as_str() != "public" {
            private.borrow_mut().push(writer.upload());
        }
        let part = self.store_part(&sealer, &mut writer, number, content).await?;
        let stored = writer.finish_part().await?;
        let put = PutPart { upload: upload.id, part, stored, source: None, place_again: None };
        Ok(self.store.put_part(permit, put).await.into())
    }

    /// Makes an upload an object of these parts.
    pub async fn complete(
        &self,
        upload: &Upload,
        rows: &[UploadPart],
        contents: &[Content],
    ) -> Result<(Object, Told), Told> {
        let (permit, placement, object, bucket) = self.of_upload("s3:CompleteMultipartUpload", upload)?;
        let head = upload.version.head.as_ref().ok_or_else(|| Told::Failed("it has no head".to_owned()))?;
        let sealer = self.vault.resume_sealer(&permit, object, head)?;
        let mut version = upload.version.clone();
        version.parts = rows.iter().map(|row| row.part.clone()).collect();
        version.size = version.parts.iter().map(|part| part.plain_len).sum();
        version.etag = format!("{}-{}", &etag(contents)[..32], rows.len());
        let head = sealer.seal_head(&version, &bucket)?;
        let copies = self.store.put_heads(&placement, &version, rows, head).await?;
        let object = Object {
            uid: version.uid,
            parts: contents.to_vec(),
            etag: version.etag.clone(),
            label: version.label.as_str().to_owned(),
            tags: version.tags.clone(),
            metadata: version.metadata.clone(),
        };
        let conditions = Conditions::default();
        let complete = CompleteUpload { upload: upload.id, version, copies, conditions, place_again: None };
        Ok((object, self.store.complete_upload(permit, complete).await.into()))
    }

    /// Ends an upload.
    pub async fn abort(&self, upload: &Upload) -> Told {
        let Some(bucket) = self.store.catalog().bucket(&upload.version.bucket) else {
            return Told::Failed("its bucket is gone".to_owned());
        };
        let version = &upload.version;
        let ask = Ask::on_object("s3:AbortMultipartUpload", &bucket, &version.key, &version.label);
        match self.permit::<Delete>(ask) {
            Ok(permit) => self.store.abort_upload(permit, upload.id).await.into(),
            Err(why) => Told::Failed(why),
        }
    }

    fn of_upload(&self, op: &'static str, upload: &Upload) -> Result<OfUpload, Told> {
        let version = &upload.version;
        let bucket = self.store.catalog().bucket(&version.bucket).ok_or_else(|| "its bucket is gone".to_owned())?;
        let object = self.object(&bucket, version.uid);
        let ask = || Ask::on_object(op, &bucket, &version.key, &version.label).version(object.clone());
        let permit = self.permit::<Write>(ask())?;
        let placed = self.engine.place(&self.caller()?, ask(), object.clone());
        let placement = placed.map_err(|denial| Told::Failed(denial.reason().to_owned()))?;
        Ok((permit, placement, object, bucket))
    }

    /// A new key for the tenant, every head wrapped under it, the old ones
    /// destroyed where nothing is left under them.
    ///
    /// # Errors
    /// What stopped it; what was rewrapped stays so.
    pub async fn rotate(&self) -> Result<(), String> {
        let (realm, tenant) = self.tenant();
        let because = self.because("system:RotateKeys").await?;
        let current = self.vault.rotate_kek(&because, &realm, &tenant).map_err(|e| e.to_string())?;
        let mut heads = Vec::new();
        for (_, version) in self.store.catalog().walk(0, 10_000).map_err(|e| e.to_string())? {
            let Some(old) = version.head.as_ref().filter(|head| head.kek != current) else { continue };
            let bucket = self.store.catalog().bucket(&version.bucket).ok_or("its bucket is gone")?;
            let object = self.object(&bucket, version.uid);
            let head = self.vault.rewrap(&because, &object, old).map_err(|e| e.to_string())?;
            let renewed = Version { head: Some(head.clone()), ..version.clone() };
            let sealed = self.vault.reseal_head(&because, &object, &head, &renewed, &bucket);
            // A site that fails leaves this version under its old key.
            let stored = self.store.put_new_heads(&version, sealed.map_err(|e| e.to_string())?).await;
            let Ok(stored) = stored else { continue };
            let Version { label, label_source, tags, .. } = renewed;
            heads.push(NewHead { heads: stored, head, label, label_source, tags });
        }
        if !heads.is_empty() {
            let permit = self.system_permit("rotate", Ask::on_tenant("system:Rewrap", &tenant))?;
            let _on_record = self.store.rewrap(permit, heads).await.map_err(|e| e.to_string())?;
        }
        for version in self.vault.kek_versions(&realm, &tenant).map_err(|e| e.to_string())?.all {
            if version < current && self.left_under_other_keys(current)? == 0 {
                let retiring = self.vault.retire_kek(&because, &realm, &tenant, version).map_err(|e| e.to_string())?;
                let left = self.left_under_other_keys(current)?;
                retiring.finish(left).map_err(|e| e.to_string())?;
            }
        }
        Ok(())
    }

    fn left_under_other_keys(&self, current: u32) -> Result<u64, String> {
        let other = |version: &Version| version.head.as_ref().is_some_and(|head| head.kek != current);
        let catalog = self.store.catalog();
        let versions = catalog.walk(0, 10_000).map_err(|e| e.to_string())?;
        let uploads = catalog.walk_uploads(None, 10_000).map_err(|e| e.to_string())?;
        let versions = versions.iter().filter(|(_, version)| other(version)).count();
        Ok((versions + uploads.iter().filter(|upload| other(&upload.version)).count()) as u64)
    }
}

type OfUpload =
    (ringfence_access::Permit<Write>, ringfence_access::Placement, ringfence_format::names::ObjectVersion, Arc<Bucket>);

/// A request whose client looks for the answer so often and no more.
struct Watched<F> {
    put: F,
    left: u64,
}

impl<F: Future + Unpin> Future for Watched<F> {
    type Output = Option<F::Output>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(left) = self.left.checked_sub(1) else { return Poll::Ready(None) };
        self.left = left;
        Pin::new(&mut self.put).poll(context).map(Some)
    }
}

async fn open_all(
    opener: &ringfence_vault::Opener,
    version: &Version,
    fetch: &mut ringfence_store::Fetch,
) -> Result<Vec<u8>, String> {
    let mut plain = Vec::new();
    let mut open: Option<(usize, PartOpener)> = None;
    while let Some(piece) = fetch.next().await {
        let piece = piece.map_err(|e| e.to_string())?;
        if open.as_ref().is_none_or(|(part, _)| *part != piece.part) {
            if let Some((_, done)) = open.take() {
                done.finish().map_err(|e| e.to_string())?;
            }
            let next = opener.range(&version.parts[piece.part], piece.range.clone());
            open = Some((piece.part, next.map_err(|e| e.to_string())?));
        }
        let (_, part) = open.as_mut().expect("set right above");
        plain.extend_from_slice(part.push(&piece.bytes).map_err(|e| e.to_string())?.as_bytes());
    }
    match open {
        Some((_, done)) => done.finish().map_err(|e| e.to_string())?,
        None => return Err("nothing came".to_owned()),
    }
    Ok(plain)
}

/// Notes in the oracle what came of a change of one key.
pub fn note(oracle: &mut Oracle, place: &Place, state: Option<Rc<Object>>, op: &'static str, told: &Told) {
    match told {
        Told::Done(seq) => {
            oracle.records.push((*seq, op));
            oracle.is(place, state);
        }
        Told::Recorded(seq) => {
            oracle.records.push((*seq, op));
            oracle.will_be(place, state);
        }
        Told::Unknown(_) => oracle.may_be(vec![(place.clone(), state)]),
        Told::Conflict(_) | Told::Failed(_) => {}
    }
}
