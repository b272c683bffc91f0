//! The drill's log, and what its key can be made to sign.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use ringfence_db::clock::SystemClock;
use ringfence_db::disk::RealDisk;
use ringfence_format::checkpoint::{Checkpoint, VerifierKey};
use ringfence_format::leaf::{ACCESS, Group, Hash, PublicEntry, SealedRecord, commit, group_bytes, salt};
use ringfence_format::proof::{self, Nodes};
use ringfence_format::record::{Core, Op, Record, Seq, TimeUs};
use ringfence_format::redo::Redo;
use ringfence_format::tile::{self, Edge, TILE_WIDTH, TileKind, TilePath, leaf_hash, root_over};
use ringfence_log::{Entry, Keep, Log, OpenError, Options, SealError, SealRecord, SignCheckpoint};

use super::super::idp::random_bytes;
use super::realm::DrillRealm;
use crate::cli::Failure;

const ORIGIN: &str = "drill.example/log";

/// A log of its own, and its key, which is about to be stolen.
pub struct DrillLog {
    log: Arc<Log>,
    signer: Arc<Signer>,
}

impl DrillLog {
    /// A new one in this folder.
    pub fn open(dir: &Path) -> Result<Self, Failure> {
        let pair = Ed25519KeyPair::generate().map_err(|_| Failure::internal("no randomness for a key"))?;
        let signer = Arc::new(Signer(pair));
        let sealer =
            Arc::new(Forgetful { key: [random_bytes(), random_bytes()].concat().try_into().expect("32 bytes") });
        let options = Options { segment_bytes: 8 * 1024 * 1024, ..Options::default() };
        let log = Log::open(dir, RealDisk::shared(), Arc::new(SystemClock), sealer, signer.clone(), options)?;
        Ok(Self { log: Arc::new(log), signer })
    }

    /// The log itself.
    pub fn open_log(&self) -> Arc<Log> {
        self.log.clone()
    }

    /// Its verifier key.
    pub fn key(&self) -> &VerifierKey {
        self.log.verifier_key()
    }

    /// How many records it has published.
    pub fn size(&self) -> Result<u64, Failure> {
        Ok(self.log.published_size())
    }

    /// Puts something public on record.
    pub async fn record(&self, public: PublicEntry) -> Result<u64, Failure> {
        Ok(self.log.record(Said(Some(public))).await?.index())
    }

    /// Some records, the realm's manifest among them.
    pub async fn say(&self, count: usize, realm: &DrillRealm) -> Result<(), Failure> {
        let _manifest = self.log.record(Said(Some(realm.manifest_leaf()))).await?;
        for _ in 0..count {
            let _recorded = self.log.record(Said(None)).await?;
        }
        Ok(())
    }

    /// Its history so far.
    pub fn history(&self) -> Result<History, Failure> {
        let entries = (0..self.size()?).map(|seq| Ok(self.log.entry(seq)?.to_vec()));
        Ok(History { entries: entries.collect::<Result<_, Failure>>()?, signer: self.signer.clone() })
    }

    /// The thief: another history as long as this one.
    pub fn fork_of_the_same_size(&self) -> Result<History, Failure> {
        let mut fork = self.history()?;
        let last = fork.entries.len() - 1;
        fork.entries[last] = invented();
        Ok(fork)
    }

    /// The thief: a longer one that shares only its first records.
    pub fn fork_from(&self, shared: u64) -> Result<History, Failure> {
        let mut fork = self.history()?;
        for entry in fork.entries.iter_mut().skip(shared as usize) {
            *entry = invented();
        }
        fork.entries.extend((0..8).map(|_| invented()));
        Ok(fork)
    }
}

fn invented() -> Vec<u8> {
    [&[ACCESS][..], &random_bytes(), &random_bytes()].concat()
}

/// A history, true or not, with the key that signs it.
pub struct History {
    entries: Vec<Vec<u8>>,
    signer: Arc<Signer>,
}

impl History {
    /// How many records it has.
    pub fn size(&self) -> u64 {
        self.entries.len() as u64
    }

    /// One entry of it.
    pub fn entry(&self, index: u64) -> Vec<u8> {
        self.entries[index as usize].clone()
    }

    /// Adds what the thief wants it to have said; where that stands.
    pub fn add(&mut self, public: &PublicEntry) -> u64 {
        self.entries.push([&[public.kind][..], &random_bytes(), &random_bytes(), &public.bytes].concat());
        self.size() - 1
    }

    /// Its checkpoint, signed with the log's own key.
    pub fn note(&self) -> String {
        let checkpoint = Checkpoint { origin: ORIGIN.to_owned(), size: self.size(), root: root_over(&self.hashes()) };
        let key = VerifierKey::new(ORIGIN, self.signer.public_key()).expect("a name without spaces");
        checkpoint.to_note(&key, &self.signer.sign(checkpoint.to_text().as_bytes()))
    }

    fn hashes(&self) -> Vec<Hash> {
        self.entries.iter().map(|entry| leaf_hash(entry)).collect()
    }

    /// The proof that it extends its own first records: right, and of no use.
    pub fn extension_of(&self, earlier: u64) -> Vec<Hash> {
        if earlier == self.size() {
            vec![]
        } else {
            infallible(proof::consistency(&mut Leaves(self.hashes()), earlier, self.size()))
        }
    }

    /// The way from an entry to its root.
    pub fn path(&self, index: u64) -> Vec<Hash> {
        infallible(proof::inclusion(&mut Leaves(self.hashes()), index, self.size()))
    }

    /// Everything that a home of this history serves.
    pub fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let (mut edge, mut full) = (Edge::new(), vec![]);
        self.hashes().into_iter().for_each(|hash| edge.push(hash, &mut full));
        let mut files: BTreeMap<String, Vec<u8>> = full
            .iter()
            .map(|tile| (TilePath::full(TileKind::Hashes(tile.level), tile.index).to_string(), tile.hashes.concat()))
            .collect();
        for (index, bundle) in (0..).zip(self.entries.chunks(TILE_WIDTH as usize)) {
            let path = TilePath { kind: TileKind::Entries, index, width: bundle.len() as u64 };
            files.insert(path.to_string(), tile::bundle(bundle));
        }
        for path in TilePath::edge(self.size()) {
            if let TileKind::Hashes(level) = path.kind {
                files.insert(path.to_string(), edge.partial(level).concat());
            }
        }
        files.insert("checkpoint".to_owned(), self.note().into_bytes());
        files
    }
}

/// The hashes of a tree whose leaves are all here.
struct Leaves(Vec<Hash>);

impl Nodes for Leaves {
    type Error = std::convert::Infallible;

    fn hashes(&mut self, level: u32, first: u64, count: u64) -> Result<Vec<Hash>, Self::Error> {
        let span = TILE_WIDTH.pow(level);
        let at = |n: u64| root_over(&self.0[(n * span) as usize..((n + 1) * span) as usize]);
        Ok((first..first + count).map(at).collect())
    }
}

fn infallible<T>(result: Result<T, std::convert::Infallible>) -> T {
    match result {
        Ok(value) => value,
        Err(never) => match never {},
    }
}

struct Signer(Ed25519KeyPair);

impl SignCheckpoint for Signer {
    fn name(&self) -> &str {
        ORIGIN
    }

    fn public_key(&self) -> [u8; 32] {
        self.0.public_key().as_ref().try_into().expect("Ed25519 keys have 32 bytes")
    }

    fn sign(&self, note_text: &[u8]) -> [u8; 64] {
        self.0.sign(note_text).as_ref().try_into().expect("Ed25519 signatures have 64 bytes")
    }
}

/// A record of the drill: that it was, and what it says to everybody.
struct Said(Option<PublicEntry>);

impl Entry for Said {
    fn to_record(&self, now_us: TimeUs) -> Record {
        let public_sha256 = self.0.as_ref().map(PublicEntry::digest);
        let core = Core { time_us: now_us, op: Op("drill".to_owned()), public_sha256, ..Core::default() };
        Record { core, public: self.0.clone(), ..Record::default() }
    }
}

/// Commits to what is recorded and keeps none of it: nobody will read this log.
struct Forgetful {
    key: [u8; 32],
}

impl SealRecord for Forgetful {
    fn seal(&self, seq: Seq, record: &Record) -> Result<SealedRecord, SealError> {
        let groups = group_bytes(record);
        let one = |group: Group| commit(&salt(&self.key, ORIGIN, seq, group), &groups[group as usize]);
        Ok(SealedRecord { commitments: Group::ALL.map(one), public: record.public.clone(), ..SealedRecord::default() })
    }

    fn open(&self, _: Seq, _: &SealedRecord) -> Result<Record, OpenError> {
        Err(OpenError::NoKey)
    }

    fn salts(&self, seq: Seq, _: &SealedRecord) -> Result<[Hash; 3], OpenError> {
        Ok(Group::ALL.map(|group| salt(&self.key, ORIGIN, seq, group)))
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
