//! What the tests of the log share: entries, a sealer that leaves fields
//! readable (sealing is `vault`'s to prove), a signer with a fixed key.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::path::PathBuf;
use std::sync::Arc;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use ringfence_db::clock::ManualClock;
use ringfence_db::disk::Disk;
use ringfence_format::leaf::{Group, Hash, PublicEntry, SealedRecord, commit, group_bytes, salt};
use ringfence_format::record::{Core, Op, Record, Seq, TimeUs};
use ringfence_format::redo::Redo;
use ringfence_log::{
    Class, Entry, Keep, Log, LogError, OpenError, Options, Run, SealError, SealRecord, SignCheckpoint,
};

pub const ORIGIN: &str = "example.org/log";

pub struct Sealer;

const KEY: [u8; 32] = [7; 32];

impl SealRecord for Sealer {
    fn seal(&self, seq: Seq, record: &Record) -> Result<SealedRecord, SealError> {
        if record.core.op.0 == "cannot be sealed" {
            return Err(SealError("asked to refuse".into()));
        }
        let groups = group_bytes(record);
        let one = |group: Group| commit(&salt(&KEY, ORIGIN, seq, group), &groups[group as usize]);
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
        Ok(Group::ALL.map(|group| salt(&KEY, ORIGIN, seq, group)))
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

/// An entry that says a number.
#[derive(Debug, Clone)]
pub struct Say {
    pub number: u64,
    pub class: Class,
    pub deadline_us: Option<TimeUs>,
    pub redo: Option<Redo>,
    pub public: Option<PublicEntry>,
    pub padding: usize,
}

pub fn say(number: u64) -> Say {
    Say { number, class: Class::Ordinary, deadline_us: None, redo: None, public: None, padding: 0 }
}

impl Say {
    pub fn class(self, class: Class) -> Self {
        Self { class, ..self }
    }
    pub fn public(self, kind: u8, bytes: &[u8]) -> Self {
        Self { public: Some(PublicEntry { kind, bytes: bytes.to_vec() }), ..self }
    }
    pub fn padded(self, padding: usize) -> Self {
        Self { padding, ..self }
    }
}

impl Entry for Say {
    fn to_record(&self, now_us: TimeUs) -> Record {
        let reason = (self.padding > 0).then(|| "x".repeat(self.padding));
        let op = Op(format!("test:{}", self.number));
        Record {
            core: Core { time_us: now_us, op, reason, ..Core::default() },
            redo: self.redo.clone(),
            public: self.public.clone(),
            ..Record::default()
        }
    }
    fn class(&self) -> Class {
        self.class
    }
    fn deadline_us(&self) -> Option<TimeUs> {
        self.deadline_us
    }
}

pub fn number(record: &Record) -> u64 {
    record.core.op.0.strip_prefix("test:").unwrap().parse().unwrap()
}

pub fn dir() -> PathBuf {
    PathBuf::from("/log")
}

/// Small segments, so that tests see many of them.
pub fn options(run: Run) -> Options {
    Options { segment_bytes: 64 * 1024, run, ..Options::default() }
}

pub fn open(disk: Arc<dyn Disk>, dir: &std::path::Path, options: Options) -> Result<Log, LogError> {
    let clock = Arc::new(ManualClock::new(1_000_000));
    Log::open(dir, disk, clock, Arc::new(Sealer), Arc::new(Signer::new()), options)
}

/// Every record of the log, in order, by its number.
pub fn numbers(log: &Log) -> Vec<u64> {
    log.read(0).map(|r| number(&r.unwrap().1)).collect()
}

/// Records numbers in small batches; waits where segments are used up faster
/// than they are prepared.
pub fn say_all(log: &Log, numbers: std::ops::Range<u64>) {
    let all: Vec<u64> = numbers.collect();
    for some in all.chunks(20) {
        loop {
            match log.record_batch(some.iter().copied().map(say).collect()) {
                Ok(_) => break,
                Err(LogError::Busy(_)) => log.settle(),
                Err(e) => panic!("{e}"),
            }
        }
    }
}

/// Rewrites the frames of a sealed segment, as somebody with the disk, but
/// without a key, can.
pub fn rewrite(bytes: &mut Vec<u8>, mut change: impl FnMut(Seq, &mut SealedRecord)) {
    let mut at = 64;
    let mut out = bytes[..64].to_vec();
    while bytes[at..at + 4] != [0xff; 4] {
        let len = u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
        let mut sealed = SealedRecord::from_bytes(&bytes[at + 32..at + 32 + len]).unwrap();
        change(u64::from_be_bytes(bytes[at + 8..at + 16].try_into().unwrap()), &mut sealed);
        let payload = sealed.to_bytes();
        let new_len = (payload.len() as u32).to_be_bytes();
        let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi);
        [&new_len[..], &bytes[at + 8..at + 32], &payload].iter().for_each(|part| digest.update(part));
        out.extend_from_slice(&new_len);
        out.extend_from_slice(&(digest.finalize() as u32).to_be_bytes());
        out.extend_from_slice(&bytes[at + 8..at + 32]);
        out.extend_from_slice(&payload);
        out.resize(out.len().next_multiple_of(8), 0);
        at += (32 + len).next_multiple_of(8);
    }
    let mut foot = bytes[at..at + 32].to_vec();
    foot[16..24].copy_from_slice(&(out.len() as u64).to_be_bytes());
    let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi);
    digest.update(&foot[..28]);
    foot[28..].copy_from_slice(&(digest.finalize() as u32).to_be_bytes());
    out.extend_from_slice(&foot);
    *bytes = out;
}
