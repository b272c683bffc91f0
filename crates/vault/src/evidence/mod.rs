//! Seals the log's records and signs its checkpoints: the two narrow traits
//! through which the log uses keys without naming one.
//!
//! A record is sealed under the evidence key of its tenant and month, or of the
//! control plane where it has no tenant. Each group of fields is sealed on its
//! own, so that one can be erased. The salts of the commitments come from the
//! same key: destroy it, and nobody can guess what was committed to. What of a
//! month must outlive that is sealed anew under a key that follows.
//!
//! The redo is under the tenant's own key, which is not of a month: what a
//! write made may be needed long after nobody may know any more who wrote it.
//!
//! A group's nonce is the beginning of its commitment, which depends on the
//! log, the position and every byte of the group: it repeats only for the same
//! bytes at the same place, which encrypt to the same ciphertext. So a
//! position that is used again after a crash is harmless, and no randomness is
//! needed on the log's hot path.

mod key;
mod months;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, RwLock};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use ringfence_format::leaf::{self, Commitments, Hash, PublicEntry, SealedRecord};
use ringfence_format::names::{Realm, Tenant};
use ringfence_format::record::{Core, Record, Resource, Seq, Subject};
use ringfence_format::redo::Redo;
use ringfence_log::{Keep, OpenError, SealError, SealRecord, SignCheckpoint};
use zeroize::Zeroizing;

use self::key::EvidenceKey;
use crate::error::VaultError;
use crate::keyring::{Keyring, Owner, Purpose, Row};
use crate::vault::Rings;

pub use self::months::{EvidenceMonth, Month};

/// The log's keys: evidence keys of every tenant and of the control plane, and
/// the key that signs checkpoints.
pub struct Evidence {
    log_name: String,
    signing: Ed25519KeyPair,
    table: RwLock<Table>,
}

#[derive(Default)]
struct Table {
    by_id: HashMap<[u8; 8], Arc<EvidenceKey>>,
    by_tenant: HashMap<Tenant, (Realm, Chain)>,
    control: Chain,
}

/// The evidence keys of one tenant, or of the control plane, by the version of
/// their rows: its own key first, then those of months.
#[derive(Default)]
struct Chain(BTreeMap<u32, Arc<EvidenceKey>>);

impl Chain {
    /// The key for what happens in this month: that month's, or the last one
    /// before it if nobody made one in time.
    fn of_month(&self, month: Month) -> Option<&Arc<EvidenceKey>> {
        self.0.range(..=month.last_version()).next_back().map(|(_, key)| key)
    }

    /// The key that is no month's.
    fn own(&self) -> Option<&Arc<EvidenceKey>> {
        self.of_month(Month::NONE)
    }

    /// The newest key of the same month, if it is another one.
    fn successor(&self, of: &EvidenceKey) -> Option<&Arc<EvidenceKey>> {
        let last = Month::of_version(of.version).last_version();
        self.0.range(of.version + 1..=last).next_back().map(|(_, key)| key)
    }
}

impl Evidence {
    pub(crate) fn load(rings: &Rings) -> Result<Self, VaultError> {
        let ring = &rings.installation;
        let Owner::Installation { log_name } = ring.owner() else {
            return Err(VaultError::UnknownSecret("log signing key".into()));
        };
        let row = ring.current(Purpose::LogSigning, None);
        let row = row.ok_or_else(|| VaultError::UnknownSecret("log signing key".into()))?;
        let seed = ring.unwrap(row)?;
        let signing = Ed25519KeyPair::from_seed_unchecked(&*seed).expect("an Ed25519 seed is any 32 bytes");
        let evidence = Self { log_name: log_name.clone(), signing, table: RwLock::default() };
        evidence.reload(rings)?;
        Ok(evidence)
    }

    /// Takes in the keys of new tenants, and drops those that were destroyed.
    pub(crate) fn reload(&self, rings: &Rings) -> Result<(), VaultError> {
        let mut table = Table::default();
        for row in rings.installation.rows(Purpose::Evidence, None) {
            let key = table.insert(&rings.installation, row)?;
            table.control.0.insert(row.version, key);
        }
        for (realm, ring) in &rings.realms {
            for row in ring.all().iter().filter(|row| row.purpose == Purpose::Evidence) {
                let key = table.insert(ring, row)?;
                let Some(tenant) = &row.tenant else { continue };
                let (_, chain) =
                    table.by_tenant.entry(tenant.clone()).or_insert_with(|| (realm.clone(), Chain::default()));
                chain.0.insert(row.version, key);
            }
        }
        *self.table.write().expect(POISON) = table;
        Ok(())
    }

    /// The keys for a record about this subject in this month: of its fields,
    /// and of its redo. A tenant that has no keys here, such as one a stranger
    /// claims, falls to the control plane.
    fn keys_for(&self, subject: &Subject, month: Month) -> Option<(Arc<EvidenceKey>, Arc<EvidenceKey>)> {
        let table = self.table.read().expect(POISON);
        let own = subject.tenant.as_ref().and_then(|tenant| table.by_tenant.get(tenant));
        let chain = match own {
            Some((realm, chain)) if subject.realm.as_ref().is_none_or(|r| r == realm) => chain,
            _ => &table.control,
        };
        Some((chain.of_month(month)?.clone(), chain.own()?.clone()))
    }

    fn key_of(&self, id: &[u8; 8]) -> Result<Arc<EvidenceKey>, OpenError> {
        self.table.read().expect(POISON).by_id.get(id).cloned().ok_or(OpenError::NoKey)
    }

    /// What follows a key. A tenant's own key is followed by itself: it is not
    /// destroyed, so what is erased under it goes from the log's files only.
    fn successor(&self, of: &Arc<EvidenceKey>) -> Result<Arc<EvidenceKey>, OpenError> {
        if Month::of_version(of.version) == Month::NONE {
            return Ok(of.clone());
        }
        let table = self.table.read().expect(POISON);
        let chain = match &of.tenant {
            None => Some(&table.control),
            Some(tenant) => table.by_tenant.get(tenant).map(|(_, chain)| chain),
        };
        chain.and_then(|chain| chain.successor(of)).cloned().ok_or(OpenError::NoKey)
    }

    /// The salts of a record: kept with it, or from its key.
    fn salts_of(&self, key: &EvidenceKey, seq: Seq, sealed: &SealedRecord) -> Result<[Hash; 3], OpenError> {
        match &sealed.salts {
            Some(kept) => key.open_salts(&self.log_name, seq, kept),
            None => Ok(key.salts(&self.log_name, seq)),
        }
    }

    /// The bytes of one group, checked against its commitment.
    fn group(
        &self,
        key: &EvidenceKey,
        seq: Seq,
        sealed: &SealedRecord,
        group: usize,
        salt: &Hash,
    ) -> Result<Zeroizing<Vec<u8>>, OpenError> {
        let bytes = [&sealed.core, &sealed.subject, &sealed.resource][group];
        let plain = key.open(&self.log_name, seq, group, first12(&sealed.commitments[group]), bytes)?;
        match leaf::commit(salt, &plain) == sealed.commitments[group] {
            true => Ok(plain),
            false => Err(OpenError::Corrupt("a commitment does not match its fields".into())),
        }
    }
}

const POISON: &str = "no code panics while it holds a lock of the vault";

impl Table {
    fn insert(&mut self, ring: &Keyring, row: &Row) -> Result<Arc<EvidenceKey>, VaultError> {
        let key = Arc::new(EvidenceKey::new(row, &ring.unwrap(row)?));
        self.by_id.insert(key.id, key.clone());
        Ok(key)
    }
}

impl SealRecord for Evidence {
    fn seal(&self, seq: Seq, record: &Record) -> Result<SealedRecord, SealError> {
        let month = Month::of(record.core.time_us);
        let keys = self.keys_for(&record.subject, month);
        let (key, own) = keys.ok_or_else(|| SealError("the keyring has no evidence key".into()))?;
        let redo = record.redo.as_ref().map(|redo| minicbor::to_vec(redo).expect(IN_MEMORY));
        let mut core = record.core.clone();
        core.redo_sha256 = redo.as_ref().map(|redo| leaf::redo_digest(redo));
        core.public_sha256 = record.public.as_ref().map(PublicEntry::digest);
        let plain = [
            minicbor::to_vec(&core).expect(IN_MEMORY),
            minicbor::to_vec(&record.subject).expect(IN_MEMORY),
            minicbor::to_vec(&record.resource).expect(IN_MEMORY),
        ];
        let salts = key.salts(&self.log_name, seq);
        let commitments: Commitments = std::array::from_fn(|i| leaf::commit(&salts[i], &plain[i]));
        let [core, subject, resource] = plain;
        Ok(SealedRecord {
            core: key.seal(&self.log_name, seq, 0, first12(&commitments[0]), core),
            subject: key.seal(&self.log_name, seq, 1, first12(&commitments[1]), subject),
            resource: key.seal(&self.log_name, seq, 2, first12(&commitments[2]), resource),
            commitments,
            key_id: key.id,
            redo_key: redo.is_some().then_some(own.id),
            redo: redo.map(|redo| own.seal_redo(&self.log_name, seq, redo)).unwrap_or_default(),
            public: record.public.clone(),
            ..SealedRecord::default()
        })
    }

    fn open(&self, seq: Seq, sealed: &SealedRecord) -> Result<Record, OpenError> {
        if let Some(gone) = OpenError::of_cut(sealed) {
            return Err(gone);
        }
        let key = self.key_of(&sealed.key_id)?;
        let salts = self.salts_of(&key, seq, sealed)?;
        let core = public_as_said(sealed, decode(&self.group(&key, seq, sealed, 0, &salts[0])?)?)?;
        let subject: Subject = decode(&self.group(&key, seq, sealed, 1, &salts[1])?)?;
        let resource: Resource = decode(&self.group(&key, seq, sealed, 2, &salts[2])?)?;
        let redo = self.redo_as_said(seq, sealed, core.redo_sha256)?;
        Ok(Record { core, subject, resource, redo, public: sealed.public.clone() })
    }

    fn salts(&self, seq: Seq, sealed: &SealedRecord) -> Result<[Hash; 3], OpenError> {
        if let Some(by) = sealed.trimmed_by {
            return Err(OpenError::Trimmed { by });
        }
        let key = self.key_of(&sealed.key_id)?;
        self.salts_of(&key, seq, sealed)
    }

    fn open_core(&self, seq: Seq, sealed: &SealedRecord) -> Result<Core, OpenError> {
        if let Some(by) = sealed.trimmed_by {
            return Err(OpenError::Trimmed { by });
        }
        let key = self.key_of(&sealed.key_id)?;
        let [salt, ..] = self.salts_of(&key, seq, sealed)?;
        public_as_said(sealed, decode(&self.group(&key, seq, sealed, 0, &salt)?)?)
    }

    fn open_redo(&self, seq: Seq, sealed: &SealedRecord) -> Result<Option<Redo>, OpenError> {
        if sealed.redo.is_empty() {
            return Ok(None);
        }
        let key = self.key_of(&sealed.key_of_redo())?;
        key.open_redo(&self.log_name, seq, &sealed.redo).map(|(redo, _)| Some(redo))
    }

    fn reseal(&self, seq: Seq, sealed: &SealedRecord, keep: Keep) -> Result<SealedRecord, OpenError> {
        let old = self.key_of(&sealed.key_id)?;
        let new = self.successor(&old)?;
        let mut salts = self.salts_of(&old, seq, sealed)?;
        let mut groups: [Vec<u8>; 3] = Default::default();
        for (i, group) in [&sealed.core, &sealed.subject, &sealed.resource].into_iter().enumerate() {
            if group.is_empty() || (keep == Keep::Core && i > 0) {
                salts[i] = [0; 32];
                continue;
            }
            let plain = self.group(&old, seq, sealed, i, &salts[i])?;
            groups[i] = new.seal(&self.log_name, seq, i, first12(&sealed.commitments[i]), plain.to_vec());
        }
        let [core, subject, resource] = groups;
        let kept = new.seal_salts(&self.log_name, seq, &salts);
        // A redo that was under the same key stays under it.
        let redo_key = (!sealed.redo.is_empty()).then(|| sealed.key_of_redo());
        Ok(SealedRecord { core, subject, resource, key_id: new.id, salts: Some(kept), redo_key, ..sealed.clone() })
    }

    fn mark(&self, seq: Seq, cut: &SealedRecord) -> Result<Hash, OpenError> {
        let own = self.table.read().expect(POISON).control.own().cloned().ok_or(OpenError::NoKey)?;
        Ok(own.mark(&self.log_name, seq, &cut.to_bytes()))
    }
}

impl Evidence {
    /// The redo, which must be the one that the core names.
    fn redo_as_said(&self, seq: Seq, sealed: &SealedRecord, said: Option<Hash>) -> Result<Option<Redo>, OpenError> {
        let corrupt = |why: &str| OpenError::Corrupt(why.into());
        match (said, sealed.redo.is_empty()) {
            (None, true) => Ok(None),
            (None, false) => Err(corrupt("a redo that the core does not name")),
            (Some(said), _) => {
                let key = self.key_of(&sealed.key_of_redo())?;
                let (redo, found) = key.open_redo(&self.log_name, seq, &sealed.redo)?;
                if found == said { Ok(Some(redo)) } else { Err(corrupt("the redo is not the one that the core names")) }
            }
        }
    }
}

impl SignCheckpoint for Evidence {
    fn name(&self) -> &str {
        &self.log_name
    }

    fn public_key(&self) -> [u8; 32] {
        self.signing.public_key().as_ref().try_into().expect("an Ed25519 public key has 32 bytes")
    }

    fn sign(&self, note_text: &[u8]) -> [u8; 64] {
        self.signing.sign(note_text).as_ref().try_into().expect("an Ed25519 signature has 64 bytes")
    }
}

/// The core of a record whose public part is the one that the core names.
fn public_as_said(sealed: &SealedRecord, core: Core) -> Result<Core, OpenError> {
    match core.public_sha256 == sealed.public.as_ref().map(PublicEntry::digest) {
        true => Ok(core),
        false => Err(OpenError::Corrupt("its public part is not the one that the core names".into())),
    }
}

const IN_MEMORY: &str = "encoding to memory does not fail";

fn first12(commitment: &Hash) -> [u8; 12] {
    *commitment.first_chunk().expect("a hash has 32 bytes")
}

fn decode<T: for<'b> minicbor::Decode<'b, ()>>(bytes: &[u8]) -> Result<T, OpenError> {
    let mut decoder = minicbor::Decoder::new(bytes);
    match decoder.decode() {
        Ok(value) if decoder.position() == bytes.len() => Ok(value),
        _ => Err(OpenError::Corrupt("a group of fields cannot be decoded".into())),
    }
}

#[cfg(test)]
mod tests;
