//! A stored version sealed again as another one, under a fresh data key: what
//! is due when it leaves a site that may no longer hold it (whoever copied its
//! ciphertext and one day gets at its key has nothing of what follows).
//!
//! Plaintext passes through here, segment by segment, and does not leave.

use std::sync::Arc;

use ringfence_access::Permit;
use ringfence_access::permit::Write;
use ringfence_format::envelope::{DataKey, Fetched, RangeOpener, Sealed};
use ringfence_format::names::PartId;
use ringfence_format::redo::{HeadInfo, Part};
use ringfence_log::Recorded;
use zeroize::Zeroizing;

use crate::error::VaultError;
use crate::seal::{PartSealer, Sealer};
use crate::vault::Vault;

impl Vault {
    /// Prepares to seal the version that the receipt names again, as the one
    /// `sealer` is for: another version in the same bucket.
    ///
    /// # Errors
    /// [`VaultError::NotPermitted`] where the two are not of one bucket.
    pub fn resealer(
        &self,
        because: &Recorded<Permit<Write>>,
        head: &HeadInfo,
        sealer: Sealer,
    ) -> Result<Resealer, VaultError> {
        let old = because.object().ok_or(VaultError::NotPermitted)?;
        let new = sealer.object();
        let moves = old.bucket == new.bucket && old.tenant == new.tenant && old.realm == new.realm;
        if !moves || old.version == new.version {
            return Err(VaultError::NotPermitted);
        }
        Ok(Resealer { old: self.data_key(&Arc::new(old.clone()), head)?, new: sealer })
    }
}

/// Seals one version again as another.
pub struct Resealer {
    old: DataKey,
    new: Sealer,
}

impl Resealer {
    /// The sealer of the new version: for its head.
    pub fn sealer(&self) -> &Sealer {
        &self.new
    }

    /// Begins a part, under a new id.
    ///
    /// # Errors
    /// The part's row contradicts itself, or there is no randomness.
    pub fn part(&self, part: &Part) -> Result<PartResealer, VaultError> {
        let opener = RangeOpener::new(&self.old, part, 0..part.plain_len)?;
        Ok(PartResealer { opener, sealer: self.new.part()? })
    }
}

/// Seals one part again as its old ciphertext comes in.
pub struct PartResealer {
    opener: RangeOpener,
    sealer: PartSealer,
}

impl PartResealer {
    /// The new part's id, for its row.
    pub fn id(&self) -> PartId {
        self.sealer.id()
    }

    /// Takes the next ciphertext of the old part, in order from its first byte.
    ///
    /// # Errors
    /// It does not authenticate.
    pub fn push(&mut self, fetched: &Fetched) -> Result<Option<Sealed>, VaultError> {
        let plain = Zeroizing::new(Vec::from(self.opener.push(fetched)?));
        self.sealer.push(&plain)
    }

    /// Seals what is left.
    ///
    /// # Errors
    /// The old part did not come whole.
    pub fn finish(self) -> Result<Sealed, VaultError> {
        self.opener.finish()?;
        self.sealer.finish()
    }
}
