//! Sealing one object version: its parts, and its head.

use std::sync::Arc;

use ringfence_format::envelope::{self, DataKey, Sealed};
use ringfence_format::head;
use ringfence_format::names::{ObjectVersion, PartId};
use ringfence_format::redo::{Bucket, HeadInfo, Version};

use crate::error::VaultError;
use crate::secret::random;
use crate::vault::Kek;

/// Seals one object version under its data key.
///
/// Keep it until the version is committed: while it lives, the key version it
/// seals under is not retired.
pub struct Sealer {
    key: DataKey,
    kek: Arc<Kek>,
    head: HeadInfo,
    /// Held, not read: see `Vault::sealers`.
    _sealing: Arc<()>,
}

impl Sealer {
    pub(crate) fn new(key: DataKey, kek: Arc<Kek>, head: HeadInfo, sealing: Arc<()>) -> Self {
        Self { key, kek, head, _sealing: sealing }
    }

    /// What it seals.
    pub fn object(&self) -> &ObjectVersion {
        self.key.object()
    }

    /// The head to keep in the catalogue: sequence number, key version and the
    /// wrapped data key.
    pub fn head_info(&self) -> HeadInfo {
        self.head.clone()
    }

    /// The sealer of the next head of this version, one sequence number on.
    #[must_use]
    pub fn next_head(mut self) -> Self {
        self.head.seq += 1;
        self
    }

    /// Begins a part under a new id, drawn here so that none is used twice.
    pub fn part(&self) -> Result<PartSealer, VaultError> {
        let part = PartId(random()?);
        Ok(PartSealer(envelope::PartSealer::new(&self.key, part)))
    }

    /// Seals the head object to be laid beside each copy.
    pub fn seal_head(&self, version: &Version, bucket: &Bucket) -> Result<Sealed, VaultError> {
        let object = self.object();
        if version.uid != object.version || version.bucket != object.bucket || bucket.id != object.bucket {
            return Err(VaultError::NotPermitted);
        }
        Ok(head::seal(&self.key, self.kek.id, &self.head, version, bucket, random()?))
    }
}

/// Seals one part as its plaintext comes in.
///
/// ```compile_fail,E0277
/// fn show(sealer: &ringfence_vault::PartSealer) { println!("{sealer:?}"); }
/// ```
pub struct PartSealer(envelope::PartSealer);

impl PartSealer {
    /// The part's id, for its row.
    pub fn id(&self) -> PartId {
        self.0.id()
    }

    /// Plaintext bytes taken so far.
    pub fn plain_len(&self) -> u64 {
        self.0.plain_len()
    }

    /// Takes plaintext and returns the ciphertext that is complete, if any.
    /// All pieces, end to end, are the message that
    /// [`Layout`](ringfence_format::chunk::Layout) cuts into chunks.
    pub fn push(&mut self, plain: &[u8]) -> Result<Option<Sealed>, VaultError> {
        let mut lack = false;
        let sealed = self.0.push(plain, &mut |iv| lack |= aws_lc_rs::rand::fill(iv).is_err())?;
        if lack { Err(VaultError::NoRandomness) } else { Ok(sealed) }
    }

    /// Seals what is left.
    pub fn finish(self) -> Result<Sealed, VaultError> {
        let mut lack = false;
        let sealed = self.0.finish(&mut |iv| lack |= aws_lc_rs::rand::fill(iv).is_err())?;
        if lack { Err(VaultError::NoRandomness) } else { Ok(sealed) }
    }
}
