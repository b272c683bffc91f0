//! A whole store for tests: a real log and real directory sites on a real
//! disk, real policies, real sealing. Only the keys are simple: every object's
//! data key is derived from its version, so that any part can be opened.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use bytes::Bytes;
use ringfence_access::caller::{Origin, VerifiedSignature, authenticate};
use ringfence_access::keys::KeyEntry;
use ringfence_access::permit::{Action, Administer, Delete, Write};
use ringfence_access::policy::PolicyText;
use ringfence_access::{
    Ask, Caller, Engine, Keys, Labels, Permit, Placement, PlacementRule, PolicySet, Setting, SiteFacts,
};
use ringfence_db::clock::{Clock, ManualClock};
use ringfence_db::disk::RealDisk;
use ringfence_format::envelope::{DataKey, Fetched, PartSealer, PartVerifier, RangeOpener, Sealed};
use ringfence_format::head::{self, KekId};
use ringfence_format::leaf::{Group, Hash, SealedRecord, commit, group_bytes, salt};
use ringfence_format::names::{
    BucketId, BucketName, InstallationId, KeyId, Label, ObjectKey, ObjectVersion, PartId, Principal, Realm, SiteId,
    Tenant, UploadId, VersionUid,
};
use ringfence_format::record::{Core, Record, Seq};
use ringfence_format::redo::{
    Bucket, HeadInfo, LabelSource, Part, Redo, StaticKeyRow, TenantRow, Upload, UploadPart, Version,
};
use ringfence_log::{Keep, Log, OpenError, Options, Recorded, SealError, SealRecord, SignCheckpoint};
use ringfence_store::site::{FirstUse, Site, SiteInfo, SiteKind};
use ringfence_store::{
    Authenticate, Authority, Commit, CommitError, CompleteUpload, Conditions, Copies, DeleteTarget, OpenHead,
    OpenedHead, PartCheck, Parts, PutError, PutPart, PutVersion, StartError, Store,
};

/// The year 2033.
pub const START_US: u64 = 2_000_000_000_000_000;
pub const HOUR_US: u64 = 3_600_000_000;

pub const ORIGIN: &str = "example.org/log";

/// Seals nothing: sealing records is the vault's to prove.
pub struct Sealer;

impl SealRecord for Sealer {
    fn seal(&self, seq: Seq, record: &Record) -> Result<SealedRecord, SealError> {
        let groups = group_bytes(record);
        let one = |group: Group| commit(&salt(&[7; 32], ORIGIN, seq, group), &groups[group as usize]);
        let commitments = Group::ALL.map(one);
        let [core, subject, resource] = groups;
        let redo = record.redo.as_ref().map_or(Vec::new(), |redo| minicbor::to_vec(redo).unwrap());
        let key_id = *b"test-key";
        let public = record.public.clone();
        Ok(SealedRecord { commitments, key_id, core, subject, resource, redo, public, ..SealedRecord::default() })
    }
    fn open(&self, _: Seq, sealed: &SealedRecord) -> Result<Record, OpenError> {
        let corrupt = |e: minicbor::decode::Error| OpenError::Corrupt(e.to_string());
        let redo = match sealed.redo.as_slice() {
            [] => None,
            bytes => Some(minicbor::decode::<Redo>(bytes).map_err(corrupt)?),
        };
        Ok(Record {
            core: minicbor::decode(&sealed.core).map_err(corrupt)?,
            subject: minicbor::decode(&sealed.subject).map_err(corrupt)?,
            resource: minicbor::decode(&sealed.resource).map_err(corrupt)?,
            redo,
            public: sealed.public.clone(),
        })
    }
    fn salts(&self, seq: Seq, _: &SealedRecord) -> Result<[Hash; 3], OpenError> {
        Ok(Group::ALL.map(|group| salt(&[7; 32], ORIGIN, seq, group)))
    }

    fn open_core(&self, _: Seq, sealed: &SealedRecord) -> Result<Core, OpenError> {
        minicbor::decode(&sealed.core).map_err(|e| OpenError::Corrupt(e.to_string()))
    }

    fn open_redo(&self, _: Seq, sealed: &SealedRecord) -> Result<Option<Redo>, OpenError> {
        match sealed.redo.as_slice() {
            [] => Ok(None),
            bytes => minicbor::decode(bytes).map(Some).map_err(|e| OpenError::Corrupt(e.to_string())),
        }
    }

    fn reseal(&self, _: Seq, sealed: &SealedRecord, keep: Keep) -> Result<SealedRecord, OpenError> {
        let mut new = SealedRecord { key_id: *b"next-key", ..sealed.clone() };
        if keep == Keep::Core {
            (new.subject, new.resource) = (Vec::new(), Vec::new());
        }
        Ok(new)
    }

    fn mark(&self, seq: Seq, cut: &SealedRecord) -> Result<[u8; 32], OpenError> {
        Ok(commit(&salt(&[9; 32], ORIGIN, seq, Group::Core), &cut.to_bytes()))
    }
}

pub struct Signer(Ed25519KeyPair);

impl Signer {
    pub fn new() -> Self {
        Self(Ed25519KeyPair::from_seed_unchecked(&[1; 32]).unwrap())
    }
}

impl SignCheckpoint for Signer {
    fn name(&self) -> &str {
        ORIGIN
    }
    fn public_key(&self) -> [u8; 32] {
        self.0.public_key().as_ref().try_into().unwrap()
    }
    fn sign(&self, note_text: &[u8]) -> [u8; 64] {
        self.0.sign(note_text).as_ref().try_into().unwrap()
    }
}

/// Distinct bytes, the same in every run.
pub struct Chance(AtomicU64);

impl Chance {
    pub fn fill(&self, out: &mut [u8]) {
        for chunk in out.chunks_mut(8) {
            let n = self.0.fetch_add(1, Ordering::SeqCst).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            let n = (n ^ (n >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            chunk.copy_from_slice(&n.to_be_bytes()[..chunk.len()]);
        }
    }
}

/// A store with everything around it. Opened again on the same directory it is
/// the next process.
pub struct World {
    pub store: Arc<Store>,
    pub log: Arc<Log>,
    pub engine: Arc<Engine>,
    pub keys: Arc<Keys>,
    pub clock: Arc<ManualClock>,
    pub chance: Arc<Chance>,
    pub dir: PathBuf,
}

pub fn tenant() -> Tenant {
    Tenant::parse("acme").unwrap()
}
pub fn realm() -> Realm {
    Realm::parse("main").unwrap()
}
pub fn key_id() -> KeyId {
    KeyId::parse("AKIATESTTESTTEST").unwrap()
}
pub fn installation() -> InstallationId {
    InstallationId([0xee; 16])
}
pub fn site_id(name: &str) -> SiteId {
    SiteId::parse(name).unwrap()
}
pub fn label(name: &str) -> Label {
    Label::parse(name).unwrap()
}
pub fn key(name: &str) -> ObjectKey {
    ObjectKey::parse(name).unwrap()
}

/// `internal` lies at home and at the second private site, `public` at cloud.
fn setting() -> Setting {
    let facts = |id: &str, kind| SiteFacts {
        id: site_id(id),
        kind,
        jurisdiction: "DE".to_owned(),
        provider: "local".to_owned(),
        dedicated: true,
        tags: Vec::new(),
    };
    use ringfence_access::SiteKind as Kind;
    let sites = vec![facts("home", Kind::Private), facts("second", Kind::Private), facts("cloud", Kind::Public)];
    let labels = ["public", "internal", "confidential", "restricted"].map(label).to_vec();
    let rule = |prefer: &[&str], copies| PlacementRule { prefer: prefer.iter().map(|s| site_id(s)).collect(), copies };
    let placement = [
        (label("public"), rule(&["cloud"], 1)),
        (label("internal"), rule(&["home"], 1)),
        (label("confidential"), rule(&["home", "second"], 2)),
        (label("restricted"), rule(&["home"], 1)),
    ];
    Setting::new(Labels::new(labels).unwrap(), sites, placement.into()).unwrap()
}

pub fn policies(extra: &str) -> PolicySet {
    // Every label is written here with one static key: the rule that keeps
    // those from restricted data is tried elsewhere.
    let text = include_str!("../../../access/policies/default.cedar");
    let (before, rest) = text.split_once("@id(\"no-static-keys-for-restricted\")").expect("the rule stands there");
    let text = before.to_owned() + rest.split_once(';').expect("it ends").1 + extra;
    let text = PolicyText { name: "default.cedar".to_owned(), text };
    PolicySet::load(Arc::new(setting()), &text, &[]).unwrap()
}

pub fn open_log(dir: &Path, clock: &Arc<ManualClock>) -> Arc<Log> {
    let options = Options { segment_bytes: 4 * 1024 * 1024, ..Options::default() };
    std::fs::create_dir_all(dir.join("log")).unwrap();
    let (sealer, signer) = (Arc::new(Sealer), Arc::new(Signer::new()));
    let log = Log::open(&dir.join("log"), Arc::new(RealDisk), clock.clone(), sealer, signer, options).unwrap();
    Arc::new(log)
}

pub fn open_sites(dir: &Path) -> Vec<Site> {
    [("home", SiteKind::Private), ("second", SiteKind::Private), ("cloud", SiteKind::Public)]
        .into_iter()
        .map(|(name, kind)| {
            let info = SiteInfo::new(site_id(name), kind, "DE", "local");
            let root = dir.join("sites").join(name);
            std::fs::create_dir_all(&root).unwrap();
            let first = if root.read_dir().unwrap().next().is_some() { FirstUse::Refuse } else { FirstUse::Create };
            Site::open_dir(info, &root, installation(), first, Arc::new(RealDisk)).unwrap()
        })
        .collect()
}

fn key_row() -> StaticKeyRow {
    StaticKeyRow {
        id: key_id(),
        tenant: tenant(),
        principal: Principal::parse("alice").unwrap(),
        sealed_secret: vec![1, 2, 3],
        created_ms: 1,
        disabled_ms: None,
    }
}

impl World {
    pub async fn new(dir: &Path) -> Self {
        // Later than any file these tests write: a site's file times are real.
        let world = Self::open(dir, START_US, 1).await.unwrap();
        let tenant = TenantRow { name: tenant(), realm: realm(), created_ms: 1, default_label: None };
        let _issued = world.store.bootstrap(tenant, key_row()).await.unwrap();
        world.reload_keys();
        world
    }

    /// Issues anew the key that every caller here signs with.
    pub async fn issue_key(&self) {
        let _issued = self.store.put_static_key(self.operator(), key_row()).await.unwrap();
        self.reload_keys();
    }

    /// The next process on the same directory, at a later time.
    pub async fn open(dir: &Path, now_us: u64, chance: u64) -> Result<Self, StartError> {
        let clock = Arc::new(ManualClock::new(now_us));
        let log = open_log(dir, &clock);
        Self::open_with(dir, clock, log, chance).await
    }

    pub async fn open_with(
        dir: &Path,
        clock: Arc<ManualClock>,
        log: Arc<Log>,
        chance: u64,
    ) -> Result<Self, StartError> {
        let chance = Arc::new(Chance(AtomicU64::new(chance << 32)));
        let random = chance.clone();
        let parts = Parts {
            installation: installation(),
            log: log.clone(),
            sites: open_sites(dir),
            clock: clock.clone(),
            random: Arc::new(move |out: &mut [u8]| random.fill(out)),
        };
        let store = Store::open(&dir.join("catalogue.db"), parts).await?;
        let engine = Arc::new(Engine::new(policies(""), store.catalog().policy_epoch().unwrap().unwrap_or(1)));
        let keys = Arc::new(Keys::default());
        let world = Self { store, log, engine, keys, clock, chance, dir: dir.to_owned() };
        world.reload_keys();
        Ok(world)
    }

    fn reload_keys(&self) {
        for issued in self.store.catalog().static_keys() {
            self.keys.add(KeyEntry::new(&issued.row, realm(), issued.issued));
        }
    }

    /// Stops as a crash would leave the files: nothing is flushed by us that
    /// was not flushed before.
    pub async fn close(self) {
        for site in self.store.sites() {
            site.close().await;
        }
    }

    pub fn caller(&self) -> Caller {
        let proof = VerifiedSignature::sigv4_was_checked_by_the_wire_layer(key_id(), tenant(), realm());
        authenticate(proof, &self.keys, Origin::default()).unwrap()
    }

    pub fn permit<A: Action>(&self, ask: Ask) -> Permit<A> {
        self.engine.decide(&self.caller(), ask, self.clock.now_us()).unwrap()
    }

    pub fn operator(&self) -> Permit<Administer> {
        let caller = ringfence_access::caller::system("test");
        self.engine.decide(&caller, Ask::on_installation("admin:Test"), self.clock.now_us()).unwrap()
    }

    pub async fn bucket(&self, name: &str) -> Bucket {
        let bucket = Bucket {
            id: self.store.new_bucket(),
            name: BucketName::parse(name).unwrap(),
            tenant: tenant(),
            created_ms: self.clock.now_us() / 1000,
            pin: None,
            tags: Vec::new(),
        };
        let permit = self.permit::<Write>(Ask::on_bucket("s3:CreateBucket", &bucket, &label("internal")));
        let _made = self.store.create_bucket(permit, bucket.clone()).await.unwrap();
        bucket
    }

    pub fn object(&self, bucket: &Bucket) -> ObjectVersion {
        ObjectVersion { realm: realm(), tenant: tenant(), bucket: bucket.id, version: self.store.new_version() }
    }

    pub fn ask(&self, op: &'static str, bucket: &Bucket, name: &str, label_name: &str) -> Ask {
        Ask::on_object(op, bucket, &key(name), &label(label_name))
    }

    pub fn place(&self, bucket: &Bucket, name: &str, label_name: &str, object: &ObjectVersion) -> Placement {
        let ask = self.ask("s3:PutObject", bucket, name, label_name);
        self.engine.place(&self.caller(), ask, object.clone()).unwrap()
    }

    pub fn write_permit(&self, bucket: &Bucket, name: &str, label_name: &str, object: &ObjectVersion) -> Permit<Write> {
        self.permit(self.ask("s3:PutObject", bucket, name, label_name).version(object.clone()))
    }

    /// A version without parts, copies and head.
    pub fn version(&self, bucket: &Bucket, name: &str, label_name: &str, uid: VersionUid) -> Version {
        Version {
            bucket: bucket.id,
            key: key(name),
            uid,
            null_version: true,
            delete_marker: false,
            created_ms: self.clock.now_us() / 1000,
            size: 0,
            etag: String::new(),
            label: label(label_name),
            label_source: LabelSource::Bucket,
            tags: Vec::new(),
            headers: vec![("content-type".to_owned(), "text/plain".to_owned())],
            metadata: Vec::new(),
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

    /// Everything of a put but the commit.
    pub async fn store_object(
        &self,
        bucket: &Bucket,
        name: &str,
        label_name: &str,
        data: &[u8],
    ) -> Result<(Permit<Write>, Version, Copies), PutError> {
        let object = self.object(bucket);
        let permit = self.write_permit(bucket, name, label_name, &object);
        let placement = self.place(bucket, name, label_name, &object);
        let mut writer = self.store.part_writer(&permit, &placement, Some(data.len() as u64)).await?;
        let data_key = data_key(&object);
        let id = self.store.new_part();
        for sealed in self.seal(&data_key, id, data) {
            writer.write(sealed).await?;
        }
        let mut version = self.version(bucket, name, label_name, object.version);
        version.size = data.len() as u64;
        version.etag = etag(data);
        version.parts = vec![part(id, 1, data, writer.upload(), writer.chunk_len(), writer.sealed_len())];
        version.head = Some(head_info(0));
        let head = seal_head(&data_key, &version, bucket);
        let copies = writer.finish_object(&version, head).await?;
        Ok((permit, version, copies))
    }

    pub async fn put(&self, bucket: &Bucket, name: &str, data: &[u8]) -> Result<Recorded<Commit>, CommitError> {
        self.put_as(bucket, name, "internal", data, Conditions::default()).await
    }

    pub async fn put_as(
        &self,
        bucket: &Bucket,
        name: &str,
        label_name: &str,
        data: &[u8],
        conditions: Conditions,
    ) -> Result<Recorded<Commit>, CommitError> {
        let (permit, version, copies) = self.store_object(bucket, name, label_name, data).await.unwrap();
        let put = PutVersion { version, copies, conditions, source: None, place_again: None };
        self.store.put_version(Authority::anew(move |_| Ok(permit)), put).await
    }

    pub async fn delete(&self, bucket: &Bucket, names: &[&str]) -> Result<Recorded<Commit>, CommitError> {
        let permit: Permit<Delete> = self.permit(self.ask("s3:DeleteObject", bucket, names[0], "internal"));
        let target = |name: &&str| DeleteTarget { key: key(name), version: None, if_match: None, label: None };
        self.store.delete_versions(permit, bucket.id, names.iter().map(target).collect()).await
    }

    /// What a read gives, opened.
    pub async fn get(&self, bucket: &Bucket, name: &str) -> Option<Vec<u8>> {
        let version = self.store.catalog().locate(&bucket.id, &key(name), None).unwrap()?;
        Some(self.read(&version, 0..version.size).await.unwrap())
    }

    pub async fn read(&self, version: &Arc<Version>, range: std::ops::Range<u64>) -> Result<Vec<u8>, String> {
        let object = ObjectVersion { realm: realm(), tenant: tenant(), bucket: version.bucket, version: version.uid };
        let data_key = data_key(&object);
        let mut fetch = self.store.fetch(version, range, &[]).map_err(|e| e.to_string())?;
        let mut opener: Option<(usize, RangeOpener)> = None;
        let mut plain = Vec::new();
        while let Some(piece) = fetch.next().await {
            let piece = piece.map_err(|e| e.to_string())?;
            if opener.as_ref().is_none_or(|(part, _)| *part != piece.part) {
                if let Some((_, opener)) = opener.take() {
                    opener.finish().map_err(|e| e.to_string())?;
                }
                let new = RangeOpener::new(&data_key, &version.parts[piece.part], piece.range.clone());
                opener = Some((piece.part, new.map_err(|e| e.to_string())?));
            }
            let (_, opener) = opener.as_mut().unwrap();
            plain.extend_from_slice(&opener.push(&piece.bytes).map_err(|e| e.to_string())?);
        }
        opener.expect("at least one piece").1.finish().map_err(|e| e.to_string())?;
        Ok(plain)
    }

    pub async fn create_upload(&self, bucket: &Bucket, name: &str, label_name: &str) -> Upload {
        let object = self.object(bucket);
        let mut version = self.version(bucket, name, label_name, object.version);
        version.head = Some(head_info(0));
        let placement = self.place(bucket, name, label_name, &object);
        let upload = Upload {
            id: self.store.new_id(),
            version,
            sites: placement.sites().to_vec(),
            checksum_algorithm: None,
            checksum_composite: false,
            initiator: Some(key_id()),
        };
        let permit = self.write_permit(bucket, name, label_name, &object);
        let _made = self.store.create_upload(permit, upload.clone()).await.unwrap();
        upload
    }

    pub async fn put_part(
        &self,
        bucket: &Bucket,
        upload: &Upload,
        number: u32,
        data: &[u8],
    ) -> Result<Part, CommitError> {
        let (name, label_name) = (upload.version.key.as_str(), upload.version.label.as_str());
        let object = ObjectVersion { realm: realm(), tenant: tenant(), bucket: bucket.id, version: upload.version.uid };
        let permit = self.write_permit(bucket, name, label_name, &object);
        let placement = self.place(bucket, name, label_name, &object);
        let mut writer = self.store.part_writer(&permit, &placement, None).await.unwrap();
        let id = self.store.new_part();
        for sealed in self.seal(&data_key(&object), id, data) {
            writer.write(sealed).await.unwrap();
        }
        let part = part(id, number, data, writer.upload(), writer.chunk_len(), writer.sealed_len());
        let stored = writer.finish_part().await.unwrap();
        let put = PutPart { upload: upload.id, part: part.clone(), stored, source: None, place_again: None };
        self.store.put_part(permit, put).await.map(|_| part)
    }

    pub async fn complete(
        &self,
        bucket: &Bucket,
        upload: &Upload,
        rows: Vec<UploadPart>,
    ) -> Result<Recorded<Commit>, CommitError> {
        let (name, label_name) = (upload.version.key.as_str(), upload.version.label.as_str());
        let object = ObjectVersion { realm: realm(), tenant: tenant(), bucket: bucket.id, version: upload.version.uid };
        let mut version = upload.version.clone();
        version.parts = rows.iter().map(|row| row.part.clone()).collect();
        version.size = version.parts.iter().map(|part| part.plain_len).sum();
        version.etag = format!("{}-{}", "0".repeat(32), version.parts.len());
        let placement = self.place(bucket, name, label_name, &object);
        let head = seal_head(&data_key(&object), &version, bucket);
        let copies = self.store.put_heads(&placement, &version, &rows, head).await.unwrap();
        let permit = self.write_permit(bucket, name, label_name, &object);
        let complete =
            CompleteUpload { upload: upload.id, version, copies, conditions: Conditions::default(), place_again: None };
        self.store.complete_upload(permit, complete).await
    }

    pub fn seal(&self, key: &DataKey, id: PartId, data: &[u8]) -> Vec<Sealed> {
        let mut sealer = PartSealer::new(key, id);
        let mut random = |out: &mut [u8]| self.chance.fill(out);
        let mut sealed = Vec::new();
        for piece in data.chunks(200_000) {
            sealed.extend(sealer.push(piece, &mut random).unwrap());
        }
        sealed.push(sealer.finish(&mut random).unwrap());
        sealed
    }

    /// Every file below the sites: path and length.
    pub fn files(&self) -> Vec<(PathBuf, u64)> {
        fn walk(dir: &Path, files: &mut Vec<(PathBuf, u64)>) {
            for entry in dir.read_dir().unwrap().map(Result::unwrap) {
                if entry.file_type().unwrap().is_dir() {
                    walk(&entry.path(), files);
                } else {
                    files.push((entry.path(), entry.metadata().unwrap().len()));
                }
            }
        }
        let mut files = Vec::new();
        walk(&self.dir.join("sites"), &mut files);
        files.sort();
        files
    }

    /// Names at a site, packed ones too.
    pub async fn names(&self, site: &str) -> Vec<String> {
        let site = self.store.site(&site_id(site)).unwrap();
        let prefix = ringfence_format::chunk::installation_prefix(&installation());
        let mut names: Vec<_> = site.list(&prefix).all().await.unwrap().into_iter().map(|l| l.name).collect();
        names.sort();
        names
    }
}

pub fn head_info(seq: u64) -> HeadInfo {
    HeadInfo { seq, kek: 1, wrapped_dek: [9; 104] }
}

pub fn data_key(object: &ObjectVersion) -> DataKey {
    let mut bytes = [0x5a; 32];
    bytes[..16].copy_from_slice(object.version.as_bytes());
    DataKey::new(Arc::new(object.clone()), bytes.into())
}

pub fn seal_head(key: &DataKey, version: &Version, bucket: &Bucket) -> Sealed {
    head::seal(key, KekId([4; 16]), version.head.as_ref().unwrap(), version, bucket, [8; 24])
}

pub fn etag(data: &[u8]) -> String {
    format!("{:032x}", data.iter().fold(data.len() as u128, |sum, b| sum.wrapping_mul(131).wrapping_add((*b).into())))
}

pub fn part(id: PartId, number: u32, data: &[u8], upload: UploadId, chunk_len: u32, sealed_len: u64) -> Part {
    let (plain_len, created_ms) = (data.len() as u64, 1);
    Part { id, number, plain_len, upload, chunk_len, sealed_len, md5: [number as u8; 16], checksum: None, created_ms }
}

/// Opens the heads that [`seal_head`] made.
pub struct Opener;

impl OpenHead for Opener {
    fn open_head(&self, fetched: &Fetched) -> Result<OpenedHead, String> {
        let clear = head::parse(fetched).map_err(|e| e.to_string())?;
        // The bucket is not known yet and not part of a head's associated data.
        let object =
            ObjectVersion { realm: realm(), tenant: tenant(), bucket: BucketId([0; 16]), version: clear.version };
        let manifest = head::open(&data_key(&object), 1, fetched).map_err(|e| e.to_string())?;
        Ok(OpenedHead { realm: realm(), manifest })
    }
}

/// Everything the catalogue says, in one comparable form.
pub fn dump(store: &Store) -> Vec<String> {
    let catalog = store.catalog();
    let mut all = Vec::new();
    all.extend(catalog.buckets().iter().map(|b| format!("{b:?}")));
    all.extend(catalog.tenants().iter().map(|t| format!("{t:?}")));
    all.extend(catalog.static_keys().iter().map(|k| format!("{k:?}")));
    let mut versions = catalog.walk(0, usize::MAX >> 1).unwrap();
    versions.sort_by_key(|(_, version)| version.uid);
    all.extend(versions.iter().map(|(_, v)| format!("{v:?}")));
    for upload in catalog.walk_uploads(None, usize::MAX >> 1).unwrap() {
        all.push(format!("{upload:?}"));
        all.extend(catalog.list_parts(&upload.id, 0, usize::MAX >> 1).unwrap().iter().map(|p| format!("{p:?}")));
    }
    for bucket in catalog.buckets() {
        let query = ringfence_store::Query { max: usize::MAX >> 1, ..Default::default() };
        all.push(format!("{:?}", catalog.list_versions(&bucket.id, &query).unwrap()));
    }
    all.push(format!("{:?} {:?}", catalog.policy_epoch().unwrap(), catalog.policy_sha256().unwrap()));
    all
}

/// Copies a directory as a backup would.
pub fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in from.read_dir().unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Bytes that differ from place to place.
pub fn data(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|i| (i as u8).wrapping_mul(31).wrapping_add((i >> 8) as u8).wrapping_add(seed)).collect()
}

pub fn bytes(data: &[u8]) -> Bytes {
    Bytes::copy_from_slice(data)
}

/// What the vault does for a scrub. With an engine, it lets copies be repaired
/// where policy allows.
pub struct Vault(pub Option<Arc<Engine>>);

struct Check(PartVerifier);

impl PartCheck for Check {
    fn push(&mut self, bytes: &Fetched) -> Result<(), String> {
        self.0.push(bytes).map_err(|e| e.to_string())
    }
    fn verify(&mut self, chunk: Fetched) -> Result<Sealed, String> {
        self.0.verify(chunk).map_err(|e| e.to_string())
    }
    fn finish(self: Box<Self>) -> Result<(), String> {
        self.0.finish().map_err(|e| e.to_string())
    }
}

pub fn key_of(version: &Version) -> DataKey {
    data_key(&object_of(version))
}

pub fn object_of(version: &Version) -> ObjectVersion {
    ObjectVersion { realm: realm(), tenant: tenant(), bucket: version.bucket, version: version.uid }
}

impl Authenticate for Vault {
    fn part(&self, version: &Version, part: &Part) -> Result<Box<dyn PartCheck>, String> {
        let verifier = PartVerifier::new(&key_of(version), part).map_err(|e| e.to_string())?;
        Ok(Box::new(Check(verifier)))
    }
    fn head(&self, version: &Version, fetched: &Fetched) -> Result<(), String> {
        let manifest = head::open(&key_of(version), 1, fetched).map_err(|e| e.to_string())?;
        (manifest.version.uid == version.uid).then_some(()).ok_or_else(|| "another version's head".to_owned())
    }
    fn sealed_head(&self, version: &Version, fetched: Fetched) -> Result<Sealed, String> {
        self.head(version, &fetched)?;
        Ok(head::verify(&key_of(version), 1, fetched).map_err(|e| e.to_string())?.1)
    }
    fn place(&self, version: &Version, site: &SiteId) -> Result<Placement, String> {
        let engine = self.0.as_ref().ok_or("policy was not asked in this test")?;
        let bucket = Bucket {
            id: version.bucket,
            name: BucketName::parse("first").unwrap(),
            tenant: tenant(),
            created_ms: 1,
            pin: None,
            tags: Vec::new(),
        };
        let ask = Ask::on_object("system:Repair", &bucket, &version.key, &version.label);
        let system = ringfence_access::caller::system("repair");
        let placed = engine.place_at(&system, ask, object_of(version), std::slice::from_ref(site));
        placed.map_err(|denial| denial.reason().to_owned())
    }
}
