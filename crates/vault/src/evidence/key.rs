//! One evidence key, taken apart into what it is used for.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::{hkdf, hmac};
use ringfence_format::leaf::{self, Group, Hash};
use ringfence_format::names::Tenant;
use ringfence_format::record::Seq;
use ringfence_format::redo::Redo;
use ringfence_log::OpenError;
use zeroize::Zeroizing;

use super::decode;
use crate::keyring::Row;
use crate::secret::Key32;

/// One evidence key, taken apart.
pub(super) struct EvidenceKey {
    pub(super) id: [u8; 8],
    /// Whose; nothing for the control plane.
    pub(super) tenant: Option<Tenant>,
    /// Its row's version: the month it is for, and how often it was replaced.
    pub(super) version: u32,
    /// Salts of commitments; see [`leaf::salt`].
    salts: Key32,
    /// Nonces of what has no commitment of its own: redos, and kept salts.
    nonces: hmac::Key,
    /// Marks of records from which fields were taken; the control plane's only.
    cuts: hmac::Key,
    /// One key per group: core, subject, resource, redo, kept salts.
    groups: [LessSafeKey; 5],
}

const REDO: usize = 3;
const SALTS: usize = 4;

impl EvidenceKey {
    pub(super) fn new(row: &Row, key: &Key32) -> Self {
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
            tenant: row.tenant.clone(),
            version: row.version,
            salts: derive(b"salts"),
            cuts: hmac::Key::new(hmac::HMAC_SHA256, &*derive(b"cuts")),
            nonces: hmac::Key::new(hmac::HMAC_SHA256, &*derive(b"redo nonce")),
            groups: [group(b"core"), group(b"subject"), group(b"resource"), group(b"redo"), group(b"kept salts")],
        }
    }

    pub(super) fn salts(&self, origin: &str, seq: Seq) -> [Hash; 3] {
        Group::ALL.map(|group| leaf::salt(&self.salts, origin, seq, group))
    }

    /// ciphertext ‖ tag 16.
    pub(super) fn seal(&self, origin: &str, seq: Seq, group: usize, nonce: [u8; 12], mut plain: Vec<u8>) -> Vec<u8> {
        let aad = Aad::from(aad(origin, seq));
        self.groups[group]
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), aad, &mut plain)
            .expect("a record is far below the AEAD's length limit");
        plain
    }

    pub(super) fn open(
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
    pub(super) fn seal_redo(&self, origin: &str, seq: Seq, redo: Vec<u8>) -> Vec<u8> {
        self.seal_nonced(origin, seq, REDO, redo)
    }

    /// The three salts, zeros in place of one that is to be forgotten.
    pub(super) fn seal_salts(&self, origin: &str, seq: Seq, salts: &[Hash; 3]) -> Vec<u8> {
        self.seal_nonced(origin, seq, SALTS, salts.concat())
    }

    pub(super) fn open_salts(&self, origin: &str, seq: Seq, sealed: &[u8]) -> Result<[Hash; 3], OpenError> {
        let corrupt = || OpenError::Corrupt("its salts do not authenticate".into());
        let (nonce, rest) = sealed.split_first_chunk::<12>().ok_or_else(corrupt)?;
        let plain = self.open(origin, seq, SALTS, *nonce, rest)?;
        let (salts, rest) = plain.as_chunks::<32>();
        match (<[Hash; 3]>::try_from(salts), rest) {
            (Ok(salts), []) => Ok(salts),
            _ => Err(corrupt()),
        }
    }

    /// See [`ringfence_log::SealRecord::mark`].
    pub(super) fn mark(&self, origin: &str, seq: Seq, cut: &[u8]) -> Hash {
        let mut mac = hmac::Context::with_key(&self.cuts);
        mac.update(&aad(origin, seq));
        mac.update(cut);
        mac.sign().as_ref().try_into().expect("HMAC-SHA256 has 32 bytes")
    }

    /// The nonce follows from what is sealed and where: the same twice is the
    /// same ciphertext.
    fn seal_nonced(&self, origin: &str, seq: Seq, group: usize, plain: Vec<u8>) -> Vec<u8> {
        let mut mac = hmac::Context::with_key(&self.nonces);
        mac.update(&aad(origin, seq));
        mac.update(&plain);
        let nonce: [u8; 12] = *mac.sign().as_ref().first_chunk().expect("HMAC-SHA256 has 32 bytes");
        let mut out = nonce.to_vec();
        out.extend(self.seal(origin, seq, group, nonce, plain));
        out
    }

    /// Authenticated under the key; what the core says of it is the caller's
    /// to compare, for the core may be gone.
    pub(super) fn open_redo(&self, origin: &str, seq: Seq, sealed: &[u8]) -> Result<(Redo, Hash), OpenError> {
        let (nonce, rest) =
            sealed.split_first_chunk::<12>().ok_or_else(|| OpenError::Corrupt("the redo is missing".into()))?;
        let plain = self.open(origin, seq, REDO, *nonce, rest)?;
        Ok((decode(&plain)?, leaf::redo_digest(&plain)))
    }
}

/// origin ‖ position 8: what a sealed group is bound to, beside its key.
fn aad(origin: &str, seq: Seq) -> Vec<u8> {
    let mut aad = Vec::with_capacity(origin.len() + 8);
    aad.extend_from_slice(origin.as_bytes());
    aad.extend_from_slice(&seq.to_be_bytes());
    aad
}

struct Length32;

impl hkdf::KeyType for Length32 {
    fn len(&self) -> usize {
        32
    }
}
