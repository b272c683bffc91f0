//! A log as the server has it, with records of the size that requests make.
#![allow(dead_code, reason = "each benchmark uses a part of it")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ringfence_db::clock::SystemClock;
use ringfence_db::disk::RealDisk;
use ringfence_format::leaf::{Hash, SealedRecord};
use ringfence_format::names::{BucketName, KeyId, ObjectKey, Principal, Realm, Tenant, VersionUid};
use ringfence_format::record::{ActorKind, Core, Op, Record, Resource, Seq, Subject, TimeUs};
use ringfence_format::redo::Redo;
use ringfence_log::{Entry, Keep, Log, OpenError, Options, SealError, SealRecord};

#[path = "../../tests/support/mod.rs"]
mod support;

/// What a GET records.
#[derive(Clone)]
pub struct Get(Record);

impl Get {
    pub fn new() -> Self {
        let core = Core { op: Op("s3:GetObject".into()), policy_ids: vec!["tenant-reads".into()], ..Core::default() };
        let subject = Subject {
            realm: Realm::parse("main").ok(),
            tenant: Tenant::parse("hospital").ok(),
            principal: Principal::parse("imaging").ok(),
            actor: ActorKind::StaticKey,
            key_id: KeyId::parse("RFAKEXAMPLEEXAMPLE42").ok(),
            source: Some("192.0.2.17".into()),
            user_agent: Some("aws-sdk-rust/1.3 os/linux lang/rust/1.95".into()),
            ..Subject::default()
        };
        let resource = Resource {
            bucket: BucketName::parse("studies-2026").ok(),
            key: ObjectKey::parse("ct/2026/11/23/0000017/series-3/slice-0421.dcm").ok(),
            version: Some(VersionUid([7; 16])),
            range: Some((0, 4095)),
            bytes: Some(4096),
            ..Resource::default()
        };
        Self(Record { core, subject, resource, redo: None, public: None })
    }
}

impl Entry for Get {
    fn to_record(&self, now_us: TimeUs) -> Record {
        let mut record = self.0.clone();
        record.core.time_us = now_us;
        record
    }
}

/// The tests' commitments, and every group encrypted.
struct Sealer(LessSafeKey);

impl SealRecord for Sealer {
    fn seal(&self, seq: Seq, record: &Record) -> Result<SealedRecord, SealError> {
        let mut sealed = support::Sealer.seal(seq, record)?;
        for (group, bytes) in [&mut sealed.core, &mut sealed.subject, &mut sealed.resource].into_iter().enumerate() {
            let mut nonce = [group as u8; 12];
            nonce[4..].copy_from_slice(&seq.to_be_bytes());
            let nonce = Nonce::assume_unique_for_key(nonce);
            self.0.seal_in_place_append_tag(nonce, Aad::empty(), bytes).map_err(|e| SealError(e.to_string()))?;
        }
        Ok(sealed)
    }
    fn open(&self, _: Seq, _: &SealedRecord) -> Result<Record, OpenError> {
        Err(OpenError::NoKey)
    }
    fn salts(&self, _: Seq, _: &SealedRecord) -> Result<[Hash; 3], OpenError> {
        Err(OpenError::NoKey)
    }
    fn open_core(&self, _: Seq, _: &SealedRecord) -> Result<Core, OpenError> {
        Err(OpenError::NoKey)
    }
    fn open_redo(&self, _: Seq, _: &SealedRecord) -> Result<Option<Redo>, OpenError> {
        Err(OpenError::NoKey)
    }
    fn reseal(&self, _: Seq, _: &SealedRecord, _: Keep) -> Result<SealedRecord, OpenError> {
        Err(OpenError::NoKey)
    }
    fn mark(&self, _: Seq, _: &SealedRecord) -> Result<[u8; 32], OpenError> {
        Err(OpenError::NoKey)
    }
}

/// A log in a fresh directory below `RINGFENCE_BENCH_DIR`, or below the
/// current one: a temporary directory is often in memory.
pub fn log() -> (tempfile::TempDir, Arc<Log>) {
    let below = std::env::var_os("RINGFENCE_BENCH_DIR").map_or_else(|| PathBuf::from("."), PathBuf::from);
    let dir = tempfile::tempdir_in(below).expect("the directory can be written");
    let log = open(dir.path());
    (dir, log)
}

/// The log in this directory.
pub fn open(dir: &Path) -> Arc<Log> {
    let key = UnboundKey::new(&AES_256_GCM, &[3; 32]).expect("a key has 32 bytes");
    let sealer = Arc::new(Sealer(LessSafeKey::new(key)));
    let signer = Arc::new(support::Signer::new());
    let clock = Arc::new(SystemClock);
    let log = Log::open(dir, RealDisk::shared(), clock, sealer, signer, Options::default());
    Arc::new(log.expect("the log opens"))
}
