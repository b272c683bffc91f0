//! Seals the log's records and signs its checkpoints: the two narrow traits
//! through which the log uses keys without naming one.
//!
//! A record is sealed under the evidence key of its tenant, or of the control
//! plane where it has none. Each group of fields is sealed on its own, so that
//! one can be erased. The salts of the commitments come from the same key:
//! destroy it, and nobody can guess what was committed to.
//!
//! A group's nonce is the beginning of its commitment, which depends on the
//! log, the position and every byte of the group: it repeats only for the same
//! bytes at the same place, which encrypt to the same ciphertext. So a
//! position that is used again after a crash is harmless, and no randomness is
//! needed on the log's hot path.

use std::collections::HashMap;
use std::sync::{Arc, RwLock};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use aws_lc_rs::{hkdf, hmac};
use ringfence_format::leaf::{self, Commitments, Group, Hash, SealedRecord};
use ringfence_format::names::{Realm, Tenant};
use ringfence_format::record::{Core, Record, Resource, Seq, Subject};
use ringfence_format::redo::Redo;
use ringfence_log::{OpenError, SealError, SealRecord, SignCheckpoint};
use zeroize::Zeroizing;

use crate::error::VaultError;
use crate::keyring::{Keyring, Owner, Purpose, Row};
use crate::secret::Key32;
use crate::vault::Rings;

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
    by_tenant: HashMap<Tenant, (Realm, Arc<EvidenceKey>)>,
    control: Option<Arc<EvidenceKey>>,
}

/// One evidence key, taken apart.
struct EvidenceKey {
    id: [u8; 8],
    /// Salts of commitments; see [`leaf::salt`].
    salts: Key32,
    /// Nonces of redos, which have no commitment of their own.
    redo_nonce: hmac::Key,
    /// One key per group: core, subject, resource, redo.
    groups: [LessSafeKey; 4],
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
            table.control = Some(key);
        }
        for (realm, ring) in &rings.realms {
            let mut rows: Vec<&Row> = ring.all().iter().filter(|row| row.purpose == Purpose::Evidence).collect();
            rows.sort_by_key(|row| row.version); // the current one last
            for row in rows {
                let key = table.insert(ring, row)?;
                if let Some(tenant) = &row.tenant {
                    table.by_tenant.insert(tenant.clone(), (realm.clone(), key));
                }
            }
        }
        *self.table.write().expect(POISON) = table;
        Ok(())
    }

    /// The key for a record about this subject. A tenant that has no keys
    /// here, such as one a stranger claims, falls to the control plane.
    fn key_for(&self, subject: &Subject) -> Option<Arc<EvidenceKey>> {
        let table = self.table.read().expect(POISON);
        let own = subject.tenant.as_ref().and_then(|tenant| table.by_tenant.get(tenant));
        match own {
            Some((realm, key)) if subject.realm.as_ref().is_none_or(|r| r == realm) => Some(key.clone()),
            _ => table.control.clone(),
        }
    }

    fn key_of(&self, sealed: &SealedRecord) -> Result<Arc<EvidenceKey>, OpenError> {
        self.table.read().expect(POISON).by_id.get(&sealed.key_id).cloned().ok_or(OpenError::NoKey)
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
        let key = self.key_for(&record.subject).ok_or_else(|| SealError("the keyring has no evidence key".into()))?;
        let redo = record.redo.as_ref().map(|redo| minicbor::to_vec(redo).expect(IN_MEMORY)).unwrap_or_default();
        let mut core = record.core.clone();
        core.redo_sha256 = record.redo.as_ref().map(|_| leaf::redo_digest(&redo));
        let plain = [
            minicbor::to_vec(&core).expect(IN_MEMORY),
            minicbor::to_vec(&record.subject).expect(IN_MEMORY),
            minicbor::to_vec(&record.resource).expect(IN_MEMORY),
        ];
        let salts = key.salts(&self.log_name, seq);
        let commitments: Commitments = std::array::from_fn(|i| leaf::commit(&salts[i], &plain[i]));
        let [core, subject, resource] = plain;
        let redo = if redo.is_empty() { redo } else { key.seal_redo(&self.log_name, seq, redo) };
        Ok(SealedRecord {
            core: key.seal(&self.log_name, seq, 0, first12(&commitments[0]), core),
            subject: key.seal(&self.log_name, seq, 1, first12(&commitments[1]), subject),
            resource: key.seal(&self.log_name, seq, 2, first12(&commitments[2]), resource),
            commitments,
            key_id: key.id,
            redo,
            erased_by: None,
        })
    }

    fn open(&self, seq: Seq, sealed: &SealedRecord) -> Result<Record, OpenError> {
        if sealed.erased_by.is_some() {
            return Err(OpenError::Erased);
        }
        let key = self.key_of(sealed)?;
        let salts = key.salts(&self.log_name, seq);
        let groups = [&sealed.core, &sealed.subject, &sealed.resource];
        let mut plain: [Zeroizing<Vec<u8>>; 3] = Default::default();
        for (i, group) in groups.into_iter().enumerate() {
            plain[i] = key.open(&self.log_name, seq, i, first12(&sealed.commitments[i]), group)?;
            if leaf::commit(&salts[i], &plain[i]) != sealed.commitments[i] {
                return Err(OpenError::Corrupt("a commitment does not match its fields".into()));
            }
        }
        let core: Core = decode(&plain[0])?;
        let subject: Subject = decode(&plain[1])?;
        let resource: Resource = decode(&plain[2])?;
        let redo = key.open_redo(&self.log_name, seq, &sealed.redo, core.redo_sha256)?;
        Ok(Record { core, subject, resource, redo })
    }

    fn salts(&self, seq: Seq, sealed: &SealedRecord) -> Result<[Hash; 3], OpenError> {
        if sealed.erased_by.is_some() {
            return Err(OpenError::Erased);
        }
        Ok(self.key_of(sealed)?.salts(&self.log_name, seq))
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

const REDO: usize = 3;
const IN_MEMORY: &str = "encoding to memory does not fail";

impl EvidenceKey {
    fn new(row: &Row, key: &Key32) -> Self {
        let derive = |info: &[u8]| {
            let mut out = Zeroizing::new([0; 32]);
            hkdf::Prk::new_less_safe(hkdf::HKDF_SHA384, &**key)
                .expand(&[info], Length32)
                .and_then(|okm| okm.fill(&mut *out))
                .expect("32 bytes are within HKDF's limit");
            out
        };
        let group = |name: &[u8]| {
            LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &*derive(name)).expect("the key has 32 bytes"))
        };
        Self {
            id: *row.id.first_chunk().expect("a row's id has 16 bytes"),
            salts: derive(b"salts"),
            redo_nonce: hmac::Key::new(hmac::HMAC_SHA256, &*derive(b"redo nonce")),
            groups: [group(b"core"), group(b"subject"), group(b"resource"), group(b"redo")],
        }
    }

    fn salts(&self, origin: &str, seq: Seq) -> [Hash; 3] {
        Group::ALL.map(|group| leaf::salt(&self.salts, origin, seq, group))
    }

    /// ciphertext ‖ tag 16.
    fn seal(&self, origin: &str, seq: Seq, group: usize, nonce: [u8; 12], mut plain: Vec<u8>) -> Vec<u8> {
        let aad = Aad::from(aad(origin, seq));
        self.groups[group]
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), aad, &mut plain)
            .expect("a record is far below the AEAD's length limit");
        plain
    }

    fn open(
        &self,
        origin: &str,
        seq: Seq,
        group: usize,
        nonce: [u8; 12],
        sealed: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, OpenError> {
        let corrupt = || OpenError::Corrupt("a group of fields does not authenticate".into());
        let (cipher, tag) = sealed.split_last_chunk::<16>().ok_or_else(corrupt)?;
        let mut plain = Zeroizing::new(vec![0; cipher.len()]);
        self.groups[group]
            .open_separate_gather(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(aad(origin, seq)),
                cipher,
                tag,
                &mut plain,
            )
            .map_err(|_| corrupt())?;
        Ok(plain)
    }

    /// nonce 12 ‖ ciphertext ‖ tag 16.
    fn seal_redo(&self, origin: &str, seq: Seq, redo: Vec<u8>) -> Vec<u8> {
        let mut mac = hmac::Context::with_key(&self.redo_nonce);
        mac.update(&aad(origin, seq));
        mac.update(&redo);
        let nonce: [u8; 12] = *mac.sign().as_ref().first_chunk().expect("HMAC-SHA256 has 32 bytes");
        let mut out = nonce.to_vec();
        out.extend(self.seal(origin, seq, REDO, nonce, redo));
        out
    }

    fn open_redo(
        &self,
        origin: &str,
        seq: Seq,
        sealed: &[u8],
        digest: Option<[u8; 32]>,
    ) -> Result<Option<Redo>, OpenError> {
        let corrupt = |why: &str| OpenError::Corrupt(why.into());
        let Some(digest) = digest else {
            return if sealed.is_empty() { Ok(None) } else { Err(corrupt("a redo that the core does not name")) };
        };
        let (nonce, rest) = sealed.split_first_chunk::<12>().ok_or_else(|| corrupt("the redo is missing"))?;
        let plain = self.open(origin, seq, REDO, *nonce, rest)?;
        if leaf::redo_digest(&plain) != digest {
            return Err(corrupt("the redo is not the one that the core names"));
        }
        decode(&plain).map(Some)
    }
}

/// origin ‖ position 8: what a sealed group is bound to, beside its key.
fn aad(origin: &str, seq: Seq) -> Vec<u8> {
    let mut aad = Vec::with_capacity(origin.len() + 8);
    aad.extend_from_slice(origin.as_bytes());
    aad.extend_from_slice(&seq.to_be_bytes());
    aad
}

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

struct Length32;

impl hkdf::KeyType for Length32 {
    fn len(&self) -> usize {
        32
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
    use ringfence_format::record::Op;

    use super::*;
    use crate::{Unlock, Vault};

    fn evidence() -> (tempfile::TempDir, Vault, Arc<Evidence>) {
        let dir = tempfile::tempdir().unwrap();
        let unlock = Unlock::KeyFile(Vault::development_key_file(dir.path()));
        let vault = Vault::create(dir.path(), &unlock, &realm(), "ringfence.example/log").unwrap();
        let evidence = vault.evidence();
        for tenant in ["acme", "umbrella"] {
            vault.add_tenant(&realm(), &Tenant::parse(tenant).unwrap()).unwrap();
        }
        (dir, vault, evidence)
    }

    fn realm() -> Realm {
        Realm::parse("main").unwrap()
    }

    fn record(tenant: Option<&str>) -> Record {
        Record {
            core: Core { time_us: 7, op: Op("s3:PutObject".into()), ..Core::default() },
            subject: Subject {
                realm: tenant.map(|_| realm()),
                tenant: tenant.map(|tenant| Tenant::parse(tenant).unwrap()),
                ..Subject::default()
            },
            resource: Resource { detail: Some("a detail".into()), ..Resource::default() },
            redo: Some(Redo::Start(5)),
        }
    }

    #[test]
    fn a_record_reads_back_with_the_digest_of_its_redo() {
        let (_dir, _vault, evidence) = evidence();
        for tenant in [None, Some("acme"), Some("umbrella"), Some("stranger")] {
            let sealed = evidence.seal(4, &record(tenant)).unwrap();
            let opened = evidence.open(4, &sealed).unwrap();
            let digest = leaf::redo_digest(&minicbor::to_vec(Redo::Start(5)).unwrap());
            assert_eq!(opened.core.redo_sha256, Some(digest));
            assert_eq!((opened.subject, opened.resource, opened.redo), {
                let record = record(tenant);
                (record.subject, record.resource, record.redo)
            });
        }
        let read = Record { redo: None, ..record(Some("acme")) };
        let sealed = evidence.seal(5, &read).unwrap();
        assert!(sealed.redo.is_empty());
        assert_eq!(evidence.open(5, &sealed).unwrap(), read);
    }

    #[test]
    fn nothing_of_a_record_lies_open_and_each_tenant_has_its_own_key() {
        let (_dir, _vault, evidence) = evidence();
        let sealed = evidence.seal(4, &record(Some("acme"))).unwrap();
        let bytes = sealed.to_bytes();
        for secret in ["acme", "main", "PutObject", "a detail"] {
            assert!(!bytes.windows(secret.len()).any(|w| w == secret.as_bytes()), "{secret}");
        }
        let ids = [None, Some("acme"), Some("umbrella")].map(|t| evidence.seal(4, &record(t)).unwrap().key_id);
        assert!(ids[0] != ids[1] && ids[1] != ids[2] && ids[0] != ids[2]);
        assert_eq!(evidence.seal(4, &record(Some("stranger"))).unwrap().key_id, ids[0]);
    }

    #[test]
    fn a_record_that_was_changed_or_moved_is_corrupt() {
        let (_dir, _vault, evidence) = evidence();
        let good = evidence.seal(4, &record(Some("acme"))).unwrap();
        let other = evidence.seal(4, &record(Some("umbrella"))).unwrap();
        type Change<'a> = &'a dyn Fn(&mut SealedRecord);
        let changes: [Change<'_>; 11] = [
            &|r| r.core[0] ^= 1,
            &|r| r.subject[0] ^= 1,
            &|r| r.resource[0] ^= 1,
            &|r| r.redo[0] ^= 1,
            &|r| *r.redo.last_mut().unwrap() ^= 1,
            &|r| r.redo.clear(),
            &|r| r.commitments[1][0] ^= 1,
            &|r| r.commitments[1][31] ^= 1,
            &|r| r.commitments.swap(0, 1),
            &|r| std::mem::swap(&mut r.core, &mut r.subject),
            &|r| r.key_id = other.key_id,
        ];
        for (n, change) in changes.iter().enumerate() {
            let mut bad = good.clone();
            change(&mut bad);
            assert!(matches!(evidence.open(4, &bad), Err(OpenError::Corrupt(_))), "change {n}");
        }
        assert!(matches!(evidence.open(5, &good), Err(OpenError::Corrupt(_))), "another position");
        assert_eq!(evidence.open(4, &SealedRecord { key_id: [0; 8], ..good.clone() }), Err(OpenError::NoKey));
        assert_eq!(evidence.open(4, &good.erased(9)), Err(OpenError::Erased));
    }

    #[test]
    fn commitments_open_with_the_salts_alone() {
        let (_dir, _vault, evidence) = evidence();
        let sealed = evidence.seal(4, &record(Some("acme"))).unwrap();
        let salts = evidence.salts(4, &sealed).unwrap();
        let groups = leaf::group_bytes(&evidence.open(4, &sealed).unwrap());
        for i in 0..3 {
            assert_eq!(leaf::commit(&salts[i], &groups[i]), sealed.commitments[i]);
        }
    }

    #[test]
    fn the_same_bytes_at_another_position_seal_to_other_bytes() {
        let (_dir, _vault, evidence) = evidence();
        let one = evidence.seal(1, &record(None)).unwrap();
        assert_eq!(one, evidence.seal(1, &record(None)).unwrap(), "replay after a crash");
        let two = evidence.seal(2, &record(None)).unwrap();
        for (a, b) in
            [(one.core, two.core), (one.subject, two.subject), (one.resource, two.resource), (one.redo, two.redo)]
        {
            assert_ne!(a, b);
        }
        assert!(one.commitments.iter().zip(two.commitments).all(|(a, b)| *a != b));
    }

    #[test]
    fn checkpoints_are_signed_by_one_key_for_the_life_of_the_installation() {
        let (dir, vault, evidence) = evidence();
        let signature = evidence.sign(b"note");
        let public = evidence.public_key();
        assert!(UnparsedPublicKey::new(&ED25519, public).verify(b"note", &signature).is_ok());
        assert!(UnparsedPublicKey::new(&ED25519, public).verify(b"noted", &signature).is_err());
        drop((vault, evidence));
        let unlock = Unlock::KeyFile(Vault::development_key_file(dir.path()));
        let again = Vault::open(dir.path(), &unlock).unwrap().evidence();
        assert_eq!((again.public_key(), again.name()), (public, "ringfence.example/log"));
    }
}
