//! What the log needs of the keys, without naming one: `vault` implements
//! both traits and `main` hands them in.

use ringfence_format::leaf::{BadLeaf, Hash, SealedRecord};
use ringfence_format::record::{Core, Record, Seq};
use ringfence_format::redo::Redo;

/// Seals records, each under a key of its tenant.
pub trait SealRecord: Send + Sync {
    /// Seals a record for its place in the log. The salts of its commitments
    /// bind the log's origin and `seq` ([`ringfence_format::leaf::salt`]); so
    /// must the associated data of what is encrypted.
    ///
    /// Called under the sequencer's lock, many thousand times a second: no
    /// I/O, no waiting; keys are cached.
    fn seal(&self, seq: Seq, record: &Record) -> Result<SealedRecord, SealError>;

    /// Opens what [`seal`](Self::seal) made for the same `seq`.
    fn open(&self, seq: Seq, sealed: &SealedRecord) -> Result<Record, OpenError>;

    /// The salts of the three commitments, in the order of
    /// [`ringfence_format::leaf::Group::ALL`], for a proof that is checked
    /// without a key.
    fn salts(&self, seq: Seq, sealed: &SealedRecord) -> Result<[Hash; 3], OpenError>;

    /// Opens the core alone, where the other fields may be erased.
    fn open_core(&self, seq: Seq, sealed: &SealedRecord) -> Result<Core, OpenError>;

    /// Opens the redo alone: it stays when fields are trimmed or erased, and
    /// may be under a key that lives longer than theirs.
    fn open_redo(&self, seq: Seq, sealed: &SealedRecord) -> Result<Option<Redo>, OpenError>;

    /// Seals what a record keeps under the key that follows its own, so that
    /// its own can be destroyed; what it does not keep is emptied, and its
    /// salt forgotten. Commitments stay as they are.
    fn reseal(&self, seq: Seq, sealed: &SealedRecord, keep: Keep) -> Result<SealedRecord, OpenError>;

    /// The MAC that a record from which fields were taken must carry, over its
    /// place and everything else in it. Its key outlives those of records.
    fn mark(&self, seq: Seq, cut: &SealedRecord) -> Result<[u8; 32], OpenError>;
}

/// Which fields are [sealed anew](SealRecord::reseal).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Those that are there.
    Fields,
    /// The core: what happened, not who did it to what.
    Core,
}

/// Signs checkpoints with the log's own Ed25519 key.
pub trait SignCheckpoint: Send + Sync {
    /// The key's name, which is also the log's origin: a schema-less URL such
    /// as `ringfence.example/log`, no spaces and no plus sign.
    fn name(&self) -> &str;

    /// The public key.
    fn public_key(&self) -> [u8; 32];

    /// Ed25519 (RFC 8032) over exactly these bytes.
    fn sign(&self, note_text: &[u8]) -> [u8; 64];
}

/// Why a record was not sealed; nothing was written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the record could not be sealed: {0}")]
pub struct SealError(pub String);

/// Why a record cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// Subject and resource were erased; their commitments remain.
    #[error("erased by record #{by}")]
    Erased {
        /// The record that says so, and why.
        by: Seq,
    },
    /// Retention took its fields; their commitments remain.
    #[error("trimmed by record #{by}")]
    Trimmed {
        /// The record that says so.
        by: Seq,
    },
    /// The key that sealed it is not here, or was destroyed.
    #[error("the key of this record is not in the keyring")]
    NoKey,
    /// What lies on the disk is not what was written.
    #[error("the record on disk is damaged: {0}")]
    Corrupt(String),
}

impl OpenError {
    /// What a record says whose fields are gone; nothing where they are there.
    pub fn of_cut(sealed: &SealedRecord) -> Option<Self> {
        let trimmed = sealed.trimmed_by.map(|by| Self::Trimmed { by });
        trimmed.or(sealed.erased_by.map(|by| Self::Erased { by }))
    }
}

impl From<BadLeaf> for OpenError {
    fn from(bad: BadLeaf) -> Self {
        OpenError::Corrupt(bad.to_string())
    }
}
