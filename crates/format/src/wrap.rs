//! The one way a key or a small secret is wrapped under another key, bound to
//! its place: salt 24 ‖ commitment 32 ‖ ciphertext ‖ tag 16.
//!
//! Key, nonce and commitment come from HKDF-SHA512 over the wrapping key, a
//! random salt and the place. A blob moved to another row, tenant or purpose
//! derives another commitment and does not open; a blob that opens under one
//! key opens under no other (the commitment is compared first).

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::{constant_time, hkdf};
use zeroize::Zeroizing;

/// Random bytes that begin every wrap.
pub const SALT_BYTES: usize = 24;
/// What a wrap adds to the plaintext.
pub const OVERHEAD_BYTES: usize = SALT_BYTES + COMMITMENT_BYTES + TAG_BYTES;
/// A wrapped 32-byte key.
pub const WRAPPED_KEY_BYTES: usize = OVERHEAD_BYTES + 32;

const COMMITMENT_BYTES: usize = 32;
const TAG_BYTES: usize = 16;
const DOMAIN: &[u8] = b"ringfence wrap 0";

/// Why a wrap does not open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WrapError {
    /// Made under another key, or for another place.
    #[error("was wrapped under another key or for another place")]
    NotThisKey,
    /// Made under this key for this place, and changed since.
    #[error("was changed after it was wrapped")]
    Corrupt,
    /// Not a wrap at all: too short.
    #[error("is too short to be a wrapped key")]
    Short,
}

/// What a wrap is for: a purpose and the names that say where it belongs.
/// Every field is hashed with its length, so no two places read alike.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    /// The purpose, such as `dek` or `tenant kek`.
    pub label: &'a str,
    /// Names, in an order fixed for the purpose.
    pub context: &'a [&'a [u8]],
}

impl Place<'_> {
    /// domain ‖ (length 4 ‖ bytes) of the label and of each field.
    fn encode(&self) -> Vec<u8> {
        let fields = std::iter::once(self.label.as_bytes()).chain(self.context.iter().copied());
        let mut out = Vec::with_capacity(160);
        out.extend_from_slice(DOMAIN);
        for field in fields {
            out.extend_from_slice(&(field.len() as u32).to_be_bytes());
            out.extend_from_slice(field);
        }
        out
    }
}

/// Wraps a 32-byte key. `salt` must be random.
pub fn wrap_key(under: &[u8; 32], place: Place<'_>, salt: [u8; SALT_BYTES], key: &[u8; 32]) -> [u8; WRAPPED_KEY_BYTES] {
    let sealed = seal(under, place, salt, key);
    sealed.try_into().expect("a wrapped key has a fixed length")
}

/// Unwraps a 32-byte key.
pub fn unwrap_key(
    under: &[u8; 32],
    place: Place<'_>,
    wrapped: &[u8; WRAPPED_KEY_BYTES],
) -> Result<Zeroizing<[u8; 32]>, WrapError> {
    let plain = open(under, place, wrapped)?;
    let mut key = Zeroizing::new([0; 32]);
    key.copy_from_slice(&plain);
    Ok(key)
}

/// Seals a small secret of any length. `salt` must be random.
pub fn seal(under: &[u8; 32], place: Place<'_>, salt: [u8; SALT_BYTES], plain: &[u8]) -> Vec<u8> {
    let Derived { key, nonce, commitment } = derive(under, place, &salt);
    let mut out = Vec::with_capacity(OVERHEAD_BYTES + plain.len());
    out.extend_from_slice(&salt);
    out.extend_from_slice(&commitment);
    out.extend_from_slice(plain);
    let body = &mut out[SALT_BYTES + COMMITMENT_BYTES..];
    let tag = key
        .seal_in_place_separate_tag(nonce, Aad::empty(), body)
        .expect("a secret is far below the AEAD's length limit");
    out.extend_from_slice(tag.as_ref());
    out
}

/// Opens what [`seal`] made.
pub fn open(under: &[u8; 32], place: Place<'_>, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, WrapError> {
    let (salt, rest) = sealed.split_first_chunk::<SALT_BYTES>().ok_or(WrapError::Short)?;
    let (claimed, rest) = rest.split_first_chunk::<COMMITMENT_BYTES>().ok_or(WrapError::Short)?;
    let (cipher, tag) = rest.split_last_chunk::<TAG_BYTES>().ok_or(WrapError::Short)?;
    let Derived { key, nonce, commitment } = derive(under, place, salt);
    constant_time::verify_slices_are_equal(&commitment, claimed).map_err(|_| WrapError::NotThisKey)?;
    let mut plain = Zeroizing::new(vec![0; cipher.len()]);
    key.open_separate_gather(nonce, Aad::empty(), cipher, tag, &mut plain).map_err(|_| WrapError::Corrupt)?;
    Ok(plain)
}

struct Derived {
    key: LessSafeKey,
    nonce: Nonce,
    commitment: [u8; COMMITMENT_BYTES],
}

/// HKDF-SHA512: salt as salt, the wrapping key as input, the place as info;
/// 32 bytes of key ‖ 12 of nonce ‖ 32 of commitment.
fn derive(under: &[u8; 32], place: Place<'_>, salt: &[u8; SALT_BYTES]) -> Derived {
    let mut okm = Zeroizing::new([0; 32 + 12 + COMMITMENT_BYTES]);
    hkdf::Salt::new(hkdf::HKDF_SHA512, salt)
        .extract(under)
        .expand(&[&place.encode()], Length)
        .and_then(|out| out.fill(&mut *okm))
        .expect("76 bytes are within HKDF's limit");
    let key = UnboundKey::new(&AES_256_GCM, &okm[..32]).expect("the key has 32 bytes");
    let nonce = Nonce::try_assume_unique_for_key(&okm[32..44]).expect("the nonce has 12 bytes");
    let mut commitment = [0; COMMITMENT_BYTES];
    commitment.copy_from_slice(&okm[44..]);
    Derived { key: LessSafeKey::new(key), nonce, commitment }
}

struct Length;

impl hkdf::KeyType for Length {
    fn len(&self) -> usize {
        32 + 12 + COMMITMENT_BYTES
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEK: [u8; 32] = [1; 32];
    const PLACE: Place<'_> = Place { label: "dek", context: &[b"realm", b"tenant"] };

    #[test]
    fn the_published_vectors_hold() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/wrap.txt");
        let text = std::fs::read_to_string(path).unwrap();
        let mut seen = 0;
        for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
            let fields: Vec<&str> = line.split(' ').collect();
            let [under, salt, label, context, plain, sealed] = fields[..] else { panic!("six fields: {line}") };
            let bytes = |text: &str| hex::decode(text.trim_matches('-')).unwrap();
            let context: Vec<Vec<u8>> = context.split(',').map(bytes).collect();
            let context: Vec<&[u8]> = context.iter().map(Vec::as_slice).collect();
            let label = String::from_utf8(bytes(label)).unwrap();
            let place = Place { label: &label, context: &context };
            let under = bytes(under).try_into().unwrap();
            let made = seal(&under, place, bytes(salt).try_into().unwrap(), &bytes(plain));
            assert_eq!(hex::encode(&made), sealed);
            assert_eq!(*open(&under, place, &made).unwrap(), bytes(plain));
            seen += 1;
        }
        assert!(seen >= 4);
    }

    #[test]
    fn a_wrap_opens_in_its_own_place_only() {
        let wrapped = wrap_key(&KEK, PLACE, [2; 24], &[3; 32]);
        assert_eq!(*unwrap_key(&KEK, PLACE, &wrapped).unwrap(), [3; 32]);
        let others: [Place<'_>; 5] = [
            Place { label: "kek", ..PLACE },
            Place { context: &[b"realm", b"tenant2"], ..PLACE },
            Place { context: &[b"realmtenant"], ..PLACE },
            Place { context: &[b"realm", b"tenant", b""], ..PLACE },
            Place { context: &[b"tenant", b"realm"], ..PLACE },
        ];
        for place in others {
            assert_eq!(unwrap_key(&KEK, place, &wrapped).err(), Some(WrapError::NotThisKey));
        }
        assert_eq!(unwrap_key(&[9; 32], PLACE, &wrapped).err(), Some(WrapError::NotThisKey));
    }

    #[test]
    fn every_bit_of_a_wrap_matters() {
        let good = wrap_key(&KEK, PLACE, [2; 24], &[3; 32]);
        for bit in 0..good.len() * 8 {
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            let expected = if bit / 8 < SALT_BYTES + 32 { WrapError::NotThisKey } else { WrapError::Corrupt };
            assert_eq!(unwrap_key(&KEK, PLACE, &bad).err(), Some(expected), "bit {bit}");
        }
        for len in 0..good.len() {
            assert!(open(&KEK, PLACE, &good[..len]).is_err(), "cut at {len}");
        }
    }

    proptest! {
        #[test]
        fn any_secret_comes_back(under: [u8; 32], salt: [u8; 24], plain in proptest::collection::vec(any::<u8>(), 0..500)) {
            let sealed = seal(&under, PLACE, salt, &plain);
            prop_assert_eq!(sealed.len(), plain.len() + OVERHEAD_BYTES);
            prop_assert_eq!(&*open(&under, PLACE, &sealed).unwrap(), &plain);
        }

        #[test]
        fn any_bytes_are_refused_without_harm(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(open(&KEK, PLACE, &bytes).is_err());
        }
    }
}
