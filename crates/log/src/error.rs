//! What can go wrong, by what the caller can do about it.

use std::io;
use std::path::{Path, PathBuf};

use ringfence_format::checkpoint::BadCheckpoint;
use ringfence_format::leaf::BadPublic;
use ringfence_format::record::Seq;

use crate::recorded::Class;
use crate::seal::{OpenError, SealError};

/// Why the log refuses. Unless a variant says otherwise nothing was recorded,
/// and the caller must not act.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LogError {
    /// Our fault, retry later: more is waiting to be written than may wait.
    #[error("the log is busy: more than {0} bytes wait to be written; retry")]
    Busy(usize),
    /// Our fault, ask the operator: no space for records of this class. Those
    /// of a higher class may still be taken.
    #[error("the log has no space left for {0:?} records: free disk space or raise the log's budget")]
    Full(Class),
    /// The permit was too old to be recorded: decide again.
    #[error("the permit expired before it could be recorded: retry")]
    Stale,
    /// The record is larger than a record may be.
    #[error("a record of {0} bytes is larger than the log takes")]
    TooLarge(usize),
    /// What the record would say to everybody is nothing that the log takes.
    #[error("the record has no place in the log: {0}")]
    Public(#[from] BadPublic),
    /// Our fault, stop: a write or sync of the log failed. What was written
    /// since the last sync may or may not be there; every later call refuses
    /// until the process is started anew and has checked what is on the disk.
    #[error("the log has stopped and needs a restart: {0}")]
    Failed(String),
    /// The log was closed.
    #[error("the log is closed")]
    Closed,
    /// The record could not be sealed.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// A record that is there cannot be read.
    #[error("record {seq}: {why}")]
    Unreadable {
        /// Which.
        seq: Seq,
        /// Why.
        why: OpenError,
    },
    /// There is no such record, or none yet under a published checkpoint.
    #[error("record {seq} is not there: the log has {size}")]
    NoRecord {
        /// Asked for.
        seq: Seq,
        /// How many there are.
        size: Seq,
    },
    /// Our fault, retry later: no checkpoint covers the record yet.
    #[error("no checkpoint covers record {seq} yet{why}")]
    NotPublished {
        /// Which record.
        seq: Seq,
        /// Behind a colon: why the last one could not be published, if that failed.
        why: String,
    },
    /// Too few witnesses cosigned in time a checkpoint that covers the record.
    #[error("{k} of {n} witnesses must cosign a checkpoint with record {seq}, and too few did: {}", told(.why))]
    QuorumLost {
        /// Which record.
        seq: Seq,
        /// How many must.
        k: usize,
        /// How many there are.
        n: usize,
        /// Which did not, and why.
        why: Vec<(String, String)>,
    },
    /// There is no such tile.
    #[error("`{0}` is not in the tree")]
    NoTile(String),
    /// At start: a record that had been acknowledged is missing or damaged.
    #[error(
        "record {index} of the log is {what}: the log does not start on a history it cannot prove; \
         run `ringfence log verify` and restore the log from a backup"
    )]
    Broken {
        /// The first one that is.
        index: Seq,
        /// Missing, damaged, or different from what was signed.
        what: String,
    },
    /// At start: another process has the log open.
    #[error("the log in `{0}` is open in another process: stop that one first")]
    InUse(PathBuf),
    /// At start: a checkpoint on the disk is not ours.
    #[error("{path}: {why}")]
    Checkpoint {
        /// The file.
        path: PathBuf,
        /// Why it is not believed.
        why: BadCheckpoint,
    },
    /// A file operation failed outside the writing of records.
    #[error("cannot {what} `{path}`: {why}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        why: String,
        /// Its kind.
        kind: io::ErrorKind,
    },
}

fn told(why: &[(String, String)]) -> String {
    why.iter().map(|(name, why)| format!("`{name}`: {why}")).collect::<Vec<_>>().join("; ")
}

/// Says what was tried, on which file.
pub(crate) trait During<T> {
    fn during(self, what: &'static str, path: &Path) -> Result<T, LogError>;
}

impl<T> During<T> for io::Result<T> {
    fn during(self, what: &'static str, path: &Path) -> Result<T, LogError> {
        self.map_err(|e| LogError::Io { what, path: path.to_owned(), why: e.to_string(), kind: e.kind() })
    }
}
