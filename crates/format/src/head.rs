//! The head object beside each copy of a version: enough, with the keyring,
//! to open the version and to rebuild its row of the catalogue.
//!
//! magic 8 ‖ format 1 ‖ KEK id 16 ‖ version 16 ‖ head sequence 8 ‖ wrapped
//! DEK 104 ‖ sealed manifest. Everything in clear is random or a count: a site
//! learns no name, tenant, bucket, label or size from it. The manifest is
//! sealed under the object's own data key and bound to everything before it.

use std::sync::Arc;

use bytes::Bytes;

use crate::envelope::{DataKey, FORMAT, Fetched, Sealed};
use crate::names::{ObjectVersion, Realm, Tenant, VersionUid};
use crate::redo::{Bucket, HeadInfo, Version};
use crate::wrap::{self, Place, SALT_BYTES, WRAPPED_KEY_BYTES, WrapError};

/// What every head begins with.
pub const MAGIC: &[u8; 8] = b"RFhead\r\n";
/// The part of a head that is in clear.
pub const CLEAR_BYTES: usize = 8 + 1 + 16 + 16 + 8 + WRAPPED_KEY_BYTES;
/// A manifest is padded to a multiple of this, so that its length does not
/// tell the length of the object's name.
pub const PADDING_BYTES: usize = 256;
/// No head is larger: a version has at most 10,000 parts.
pub const HEAD_BYTES_MAX: usize = 4 * 1024 * 1024;

/// The opaque id of one version of one tenant's key-encryption key. Random,
/// so that it says nothing to a site; only the keyring knows whose it is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, minicbor::Encode, minicbor::Decode)]
#[cbor(transparent)]
pub struct KekId(#[cbor(n(0), with = "minicbor::bytes")] pub [u8; 16]);

/// Why bytes from a site are not a head.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// Not a head, cut short, or absurdly long.
    #[error("the bytes are not a head object")]
    NotAHead,
    /// Made by a newer release.
    #[error("the head has format {0}, which this release does not know: use a newer one")]
    Format(u8),
    /// The manifest does not belong to this key, or was changed.
    #[error("the sealed manifest {0}")]
    Manifest(#[from] WrapError),
    /// It is authentic and yet says what no writer says.
    #[error("the sealed manifest contradicts itself: {0}")]
    Contradiction(&'static str),
}

/// What a manifest says: the version without its copies, and its bucket as it
/// was when the head was written.
#[derive(Clone, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(map)]
pub struct Manifest {
    /// The version; `copies` is empty. `head` is absent inside the seal and
    /// filled in when it is opened.
    #[n(0)]
    pub version: Version,
    /// Its bucket: name, owner, pin and tags (a tag may be the label).
    #[n(1)]
    pub bucket: Bucket,
}

/// The clear part of a head, as fetched; nothing of it is believed yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clear {
    /// Which key-encryption key wraps the DEK.
    pub kek: KekId,
    /// Which version it claims to be the head of.
    pub version: VersionUid,
    /// Its sequence number.
    pub seq: u64,
    /// The DEK, wrapped.
    pub wrapped_dek: [u8; WRAPPED_KEY_BYTES],
}

/// Reads the clear part.
pub fn parse(head: &Fetched) -> Result<Clear, HeadError> {
    let bytes = head.untrusted();
    if bytes.len() < CLEAR_BYTES || bytes.len() > HEAD_BYTES_MAX || bytes[..8] != MAGIC[..] {
        return Err(HeadError::NotAHead);
    }
    if bytes[8] != FORMAT {
        return Err(HeadError::Format(bytes[8]));
    }
    let field = |from: usize| &bytes[from..];
    Ok(Clear {
        kek: KekId(take(field(9))),
        version: VersionUid(take(field(25))),
        seq: u64::from_be_bytes(take(field(41))),
        wrapped_dek: take(field(49)),
    })
}

/// Makes a head. `salt` must be random.
pub fn seal(
    key: &DataKey,
    kek: KekId,
    info: &HeadInfo,
    version: &Version,
    bucket: &Bucket,
    salt: [u8; SALT_BYTES],
) -> Sealed {
    let object = key.object();
    let clear = Clear { kek, version: object.version, seq: info.seq, wrapped_dek: info.wrapped_dek };
    let mut out = clear.encode();
    let version = Version { head: None, copies: Vec::new(), ..version.clone() };
    let manifest = Manifest { version, bucket: bucket.clone() };
    let mut plain = minicbor::to_vec(&manifest).expect("encoding to memory does not fail");
    plain.resize(plain.len().next_multiple_of(PADDING_BYTES), 0);
    let context: [&[u8]; 3] = [object.realm.as_str().as_bytes(), object.tenant.as_str().as_bytes(), &out];
    let sealed = wrap::seal(&key.manifest_key(), Place { label: "manifest", context: &context }, salt, &plain);
    out.extend_from_slice(&sealed);
    Sealed::made(object, Bytes::from(out))
}

/// Opens a head with the data key of the version it claims. `kek_version` is
/// what the keyring calls the key that unwrapped it.
///
/// The key's object may have any bucket: a head is opened before its bucket is
/// known; compare the manifest's where it matters.
pub fn open(key: &DataKey, kek_version: u32, head: &Fetched) -> Result<Manifest, HeadError> {
    let clear = parse(head)?;
    let (before, sealed) = head.untrusted().split_at(CLEAR_BYTES);
    let object = key.object();
    let context: [&[u8]; 3] = [object.realm.as_str().as_bytes(), object.tenant.as_str().as_bytes(), before];
    let plain = wrap::open(&key.manifest_key(), Place { label: "manifest", context: &context }, sealed)?;
    let mut decoder = minicbor::Decoder::new(&plain);
    let mut manifest: Manifest = decoder.decode().map_err(|_| HeadError::Contradiction("it cannot be decoded"))?;
    if plain[decoder.position()..].iter().any(|byte| *byte != 0) {
        return Err(HeadError::Contradiction("something follows it"));
    }
    check(&manifest, &clear, &object.tenant)?;
    manifest.version.head = Some(HeadInfo { seq: clear.seq, kek: kek_version, wrapped_dek: clear.wrapped_dek });
    Ok(manifest)
}

/// Opens a head as [`open`] does, and vouches for its bytes: fit to be laid
/// beside another copy of the same version.
pub fn verify(key: &DataKey, kek_version: u32, head: Fetched) -> Result<(Manifest, Sealed), HeadError> {
    let manifest = open(key, kek_version, &head)?;
    // upholds INVARIANT 4: authenticated right above.
    Ok((manifest, Sealed::made(key.object(), head.untrusted().clone())))
}

fn check(manifest: &Manifest, clear: &Clear, tenant: &Tenant) -> Result<(), HeadError> {
    let Manifest { version, bucket } = manifest;
    let sum = version.parts.iter().try_fold(0_u64, |sum, part| sum.checked_add(part.plain_len));
    let rules = [
        (version.uid == clear.version, "it is of another version"),
        (version.bucket == bucket.id, "its bucket is another one"),
        (bucket.tenant == *tenant, "its bucket belongs to another tenant"),
        (version.copies.is_empty(), "it names copies"),
        (sum == Some(version.size), "its parts do not add up to its size"),
    ];
    match rules.iter().find(|(holds, _)| !holds) {
        Some((_, why)) => Err(HeadError::Contradiction(why)),
        None => Ok(()),
    }
}

/// The place of a DEK's wrap: realm, tenant, version of the KEK, version of
/// the object. (The bucket is bound by the parts and by the manifest; a head
/// is unwrapped before its bucket is known.)
pub fn with_dek_place<T>(
    realm: &Realm,
    tenant: &Tenant,
    kek: u32,
    version: &VersionUid,
    f: impl FnOnce(Place<'_>) -> T,
) -> T {
    let kek = kek.to_be_bytes();
    let context: [&[u8]; 4] = [realm.as_str().as_bytes(), tenant.as_str().as_bytes(), &kek, version.as_bytes()];
    f(Place { label: "dek", context: &context })
}

/// Unwraps the data key of `object` with a tenant's key-encryption key: what a
/// tool needs that has the KEK and the head.
pub fn unwrap_dek(
    kek: &[u8; 32],
    kek_version: u32,
    object: &Arc<ObjectVersion>,
    wrapped: &[u8; WRAPPED_KEY_BYTES],
) -> Result<DataKey, WrapError> {
    let key = with_dek_place(&object.realm, &object.tenant, kek_version, &object.version, |place| {
        wrap::unwrap_key(kek, place, wrapped)
    })?;
    Ok(DataKey::new(object.clone(), key))
}

impl Clear {
    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(CLEAR_BYTES + 1024);
        out.extend_from_slice(MAGIC);
        out.push(FORMAT);
        out.extend_from_slice(&self.kek.0);
        out.extend_from_slice(self.version.as_bytes());
        out.extend_from_slice(&self.seq.to_be_bytes());
        out.extend_from_slice(&self.wrapped_dek);
        out
    }
}

fn take<const N: usize>(from: &[u8]) -> [u8; N] {
    *from.first_chunk().expect("the length was checked first")
}

#[cfg(test)]
mod tests;
