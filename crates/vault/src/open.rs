//! Opening one object version: the only source of [`Plaintext`].

use std::ops::Range;

use bytes::Bytes;
use ringfence_format::chunk::Located;
use ringfence_format::envelope::{self, DataKey, Fetched, PartVerifier, Sealed};
use ringfence_format::head::{self, Manifest};
use ringfence_format::names::ObjectVersion;
use ringfence_format::redo::Part;

use crate::error::VaultError;

/// Authenticated plaintext of an object whose release is on record: the only
/// body a reply accepts.
///
/// ```compile_fail,E0423
/// use ringfence_vault::Plaintext;
/// fn forge(bytes: bytes::Bytes) -> Plaintext { Plaintext(bytes) }
/// ```
/// Plaintext is not ciphertext, and no site takes it:
/// ```compile_fail,E0308
/// use ringfence_format::envelope::Sealed;
/// fn leak(plain: ringfence_vault::Plaintext) -> Sealed { plain }
/// ```
#[must_use]
pub struct Plaintext(Bytes);

impl Plaintext {
    /// How many bytes.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// To be sealed again (a copy), or digested.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Into the body of a reply.
    pub fn into_body(self) -> Bytes {
        self.0
    }
}

/// Opens one object version, as a receipt allows.
///
/// ```compile_fail,E0277
/// fn show(opener: &ringfence_vault::Opener) { println!("{opener:?}"); }
/// ```
pub struct Opener(DataKey);

impl Opener {
    pub(crate) fn new(key: DataKey) -> Self {
        Self(key)
    }

    /// What it opens.
    pub fn object(&self) -> &ObjectVersion {
        self.0.object()
    }

    /// Opens a whole part.
    pub fn part(&self, part: &Part) -> Result<PartOpener, VaultError> {
        self.range(part, 0..part.plain_len)
    }

    /// Opens a range of a part's plaintext. Fetch what
    /// [`located`](PartOpener::located) says, in its order.
    pub fn range(&self, part: &Part, range: Range<u64>) -> Result<PartOpener, VaultError> {
        Ok(PartOpener(envelope::RangeOpener::new(&self.0, part, range)?))
    }
}

/// Opens one range of one part as its ciphertext comes in.
pub struct PartOpener(envelope::RangeOpener);

impl PartOpener {
    /// Which bytes of which chunks to fetch, in this order. Also known before
    /// the record is durable, from
    /// [`Layout::locate`](ringfence_format::chunk::Layout::locate).
    pub fn located(&self) -> &Located {
        self.0.located()
    }

    /// Takes the next bytes and returns the plaintext that is now authentic;
    /// empty while a segment is incomplete.
    pub fn push(&mut self, fetched: &Fetched) -> Result<Plaintext, VaultError> {
        Ok(Plaintext(self.0.push(fetched)?))
    }

    /// To be called at the end of the ciphertext: a range that ended early is
    /// an error, and the connection is cut.
    pub fn finish(self) -> Result<(), VaultError> {
        Ok(self.0.finish()?)
    }
}

/// Checks the ciphertext of one object version and releases no plaintext.
pub struct Verifier(DataKey);

impl Verifier {
    pub(crate) fn new(key: DataKey) -> Self {
        Self(key)
    }

    /// Checks a whole part, chunk by chunk; a chunk that passes comes back as
    /// [`Sealed`](ringfence_format::envelope::Sealed), fit for another site.
    pub fn part(&self, part: &Part) -> Result<PartVerifier, VaultError> {
        Ok(PartVerifier::new(&self.0, part)?)
    }

    /// Checks a head and vouches for its bytes: they are fit for another site.
    pub fn sealed_head(&self, kek_version: u32, head: Fetched) -> Result<(Manifest, Sealed), VaultError> {
        let (manifest, sealed) = head::verify(&self.0, kek_version, head)?;
        if manifest.version.bucket != self.0.object().bucket {
            return Err(head::HeadError::Contradiction("its bucket is another one").into());
        }
        Ok((manifest, sealed))
    }

    /// Checks a head and returns what it says.
    pub fn head(&self, kek_version: u32, head: &Fetched) -> Result<Manifest, VaultError> {
        let manifest = head::open(&self.0, kek_version, head)?;
        if manifest.version.bucket != self.0.object().bucket {
            return Err(head::HeadError::Contradiction("its bucket is another one").into());
        }
        Ok(manifest)
    }
}
