//! The whole keyring in one file under a passphrase, and back.
//!
//! magic 8 ‖ format 1 ‖ length 4 ‖ slot (CBOR) ‖ sealed keyrings. Whoever holds
//! the file and the passphrase holds every key, root keys included: keep it
//! offline, apart from the sites. A key that is retired or shredded later is
//! still in backups made before.

use std::fs;
use std::path::Path;

use ringfence_format::wrap::{self, Place, WrapError};
use zeroize::Zeroizing;

use crate::durable::{self, Existing};
use crate::error::VaultError;
use crate::keyring::{Exported, INSTALLATION_FILE, Keyring, Owner};
use crate::provider::{Slot, Unlock};
use crate::secret::{Passphrase, random};
use crate::vault::{KEYS_DIR, Vault, make_development_key};

const MAGIC: &[u8; 8] = b"RFbackup";
const FORMAT: u8 = 0;
const SLOT_BYTES_MAX: usize = 1024;

impl Vault {
    /// Writes every key into one file that `passphrase` opens. Refuses to
    /// overwrite.
    pub fn backup(&self, to: &Path, passphrase: Passphrase) -> Result<(), VaultError> {
        passphrase.check_strength()?;
        let rings = self.rings();
        let mut all = vec![rings.installation.export()?];
        for ring in rings.realms.values() {
            all.push(ring.export()?);
        }
        drop(rings);
        let plain = Zeroizing::new(minicbor::to_vec(&all).expect("encoding to memory does not fail"));
        let slot = Slot::new_passphrase(random()?);
        let key = slot.derive(&Unlock::Passphrase(passphrase), to)?;
        let slot = minicbor::to_vec(&slot).expect("encoding to memory does not fail");
        let mut file = header(&slot);
        let sealed = wrap::seal(&key, place(&[&file]), random()?, &plain);
        file.extend_from_slice(&sealed);
        durable::write(to, &file, Existing::Refuse)
    }

    /// Writes the keyrings of a backup into a data folder that has none, under
    /// `unlock`, and opens them.
    pub fn restore(from: &Path, passphrase: Passphrase, dir: &Path, unlock: &Unlock) -> Result<Self, VaultError> {
        let keys = dir.join(KEYS_DIR);
        let installation = keys.join(INSTALLATION_FILE);
        if installation.exists() {
            return Err(VaultError::KeyringExists { path: installation });
        }
        let all = read(from, passphrase)?;
        durable::make_dir(&keys)?;
        make_development_key(dir, unlock)?;
        let (first, rest): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|ring| matches!(ring.owner, Owner::Installation { .. }));
        if first.len() != 1 {
            return Err(VaultError::Damaged { path: from.into(), why: "it has no installation keyring" });
        }
        // The installation's keyring last: without it nothing counts as restored.
        for exported in rest.into_iter().chain(first) {
            if !is_restored(&keys, &exported, unlock) {
                Keyring::import(&keys, exported, unlock)?.save_new()?;
            }
        }
        Self::open(dir, unlock)
    }
}

/// Whether a restore that was cut off had written this keyring already. Any
/// other file in its place stays, and refuses the restore: it may hold keys
/// that are newer than the backup.
fn is_restored(keys: &Path, exported: &Exported, unlock: &Unlock) -> bool {
    let path = keys.join(exported.owner.file_name());
    path.exists()
        && Keyring::open(&path, unlock, &|_| Ok(())).is_ok_and(|there| {
            *there.owner() == exported.owner && there.all() == exported.rows && there.trust() == exported.trust.as_ref()
        })
}

fn read(path: &Path, passphrase: Passphrase) -> Result<Vec<Exported>, VaultError> {
    let damaged = |why| VaultError::Damaged { path: path.into(), why };
    let bytes = fs::read(path).map_err(VaultError::io("read", path))?;
    let cut = || damaged("it is cut short");
    let (magic, rest) = bytes.split_first_chunk::<8>().ok_or_else(cut)?;
    if magic != MAGIC {
        return Err(damaged("it does not begin like a key backup"));
    }
    let (format, rest) = rest.split_first().ok_or_else(cut)?;
    if *format != FORMAT {
        return Err(VaultError::Newer { path: path.into(), format: *format });
    }
    let (len, rest) = rest.split_first_chunk::<4>().ok_or_else(cut)?;
    let len = u32::from_be_bytes(*len) as usize;
    if len > SLOT_BYTES_MAX || len > rest.len() {
        return Err(cut());
    }
    let (slot, sealed) = rest.split_at(len);
    let header = header(slot);
    let slot: Slot = minicbor::decode(slot).map_err(|_| damaged("its header cannot be decoded"))?;
    let key = slot.derive(&Unlock::Passphrase(passphrase), path)?;
    let plain = wrap::open(&key, place(&[&header]), sealed).map_err(|why| match why {
        WrapError::NotThisKey => VaultError::WrongPassphrase { path: path.into() },
        WrapError::Corrupt => damaged("its content does not authenticate"),
        WrapError::Short => cut(),
    })?;
    minicbor::decode(&plain).map_err(|_| damaged("its content cannot be decoded"))
}

fn header(slot: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend_from_slice(MAGIC);
    out.push(FORMAT);
    out.extend_from_slice(&(slot.len() as u32).to_be_bytes());
    out.extend_from_slice(slot);
    out
}

fn place<'a>(header: &'a [&'a [u8]]) -> Place<'a> {
    Place { label: "key backup", context: header }
}
