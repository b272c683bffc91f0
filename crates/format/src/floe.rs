//! FLOE, the random-access authenticated encryption every part is sealed with
//! (C2SP `FLOE`, IACR ePrint 2025/2275), on AES-256-GCM and HKDF-SHA384.
//!
//! A message is a 74-byte header and segments of one fixed size; each segment
//! authenticates its position and whether it is the last, so that a segment
//! opened alone is as trustworthy as one opened in order. This file is the
//! construction only: initialisation vectors come in as arguments, and names
//! and types of Ringfence stay in [`crate::envelope`].
//!
//! Checked against the official known-answer tests and, in both directions,
//! against an independent implementation (see the tests and `testdata/floe`).

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::{constant_time, hkdf};
use zeroize::Zeroizing;

use crate::limits;

/// Parameters 10 ‖ message IV 32 ‖ header tag 32.
pub const HEADER_BYTES: usize = 74;
/// Length prefix 4 ‖ segment IV 12 ‖ tag 16: what a segment has beside plaintext.
pub const SEGMENT_OVERHEAD_BYTES: usize = 32;
/// Bytes of a message IV.
pub const MESSAGE_IV_BYTES: usize = 32;
/// Bytes of a segment IV.
pub const SEGMENT_IV_BYTES: usize = 12;

const PREFIX_BYTES: usize = 4 + SEGMENT_IV_BYTES;
const TAG_BYTES: usize = 16;
/// The specification's `AEAD_MAX_SEGMENTS` for AES-GCM-256.
const SEGMENTS_MAX: u64 = 1 << 40;
const INTERNAL: u32 = u32::MAX;

/// Why a message does not open. Which byte was wrong is deliberately not told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FloeError {
    /// The header is not one of these parameters, or was made under another
    /// key or for other associated data.
    #[error("the header does not belong to this key and object")]
    Header,
    /// A segment has an impossible length, or claims to be last where it is not.
    #[error("a segment has the wrong length or claims another place in the message")]
    Shape,
    /// A segment was changed, moved or made under another key.
    #[error("a segment fails authentication")]
    Segment,
    /// More segments than one message may have.
    #[error("the message has more segments than FLOE allows")]
    TooLong,
}

/// Whether a segment is the last of its message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// More segments follow.
    Internal,
    /// It is the last.
    Final,
}

/// The parameters a message is made with. AEAD, KDF and IV length are the only
/// ones the specification defines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Params {
    segment_bytes: u32,
    rotation_bits: u32,
}

impl Params {
    /// What Ringfence uses: segments of [`limits::SEGMENT_BYTES`].
    pub const RINGFENCE: Self = Self::with_segment_bytes(limits::SEGMENT_BYTES as u32);

    /// Segments of `bytes` ciphertext each.
    ///
    /// # Panics
    /// If a segment of that size could hold no plaintext.
    pub const fn with_segment_bytes(bytes: u32) -> Self {
        assert!(bytes as usize > SEGMENT_OVERHEAD_BYTES && bytes != INTERNAL);
        // AEAD_ROTATION_MASK of the specification for AES-GCM-256.
        Self { segment_bytes: bytes, rotation_bits: 20 }
    }

    /// Ciphertext bytes of every segment but the last.
    pub const fn segment_bytes(&self) -> usize {
        self.segment_bytes as usize
    }

    /// Plaintext bytes of every segment but the last.
    pub const fn plain_bytes(&self) -> usize {
        self.segment_bytes as usize - SEGMENT_OVERHEAD_BYTES
    }

    fn encode(&self) -> [u8; 10] {
        let mut out = [0; 10]; // AEAD_ID 0 ‖ KDF_ID 0 ‖ ENC_SEG_LEN ‖ FLOE_IV_LEN
        out[2..6].copy_from_slice(&self.segment_bytes.to_be_bytes());
        out[6..].copy_from_slice(&(MESSAGE_IV_BYTES as u32).to_be_bytes());
        out
    }
}

/// One message under one key: seals or opens its segments in any order.
///
/// Sealing two different segments at one position of one message is the
/// caller's mistake to avoid; [`crate::envelope`] does so by counting.
pub struct Message {
    params: Params,
    iv: [u8; MESSAGE_IV_BYTES],
    aad: Box<[u8]>,
    header_tag: [u8; 32],
    message_key: Zeroizing<[u8; 48]>,
    /// The AEAD key of the 2^20 segments last worked on.
    current: Option<(u64, LessSafeKey)>,
}

impl Message {
    /// Begins a message. `iv` must be unpredictable and never be used twice
    /// with one key.
    pub fn new(params: Params, key: &[u8; 32], aad: &[u8], iv: [u8; MESSAGE_IV_BYTES]) -> Self {
        let mut header_tag = [0; 32];
        let mut message_key = Zeroizing::new([0; 48]);
        floe_kdf(params, key, &iv, aad, &[b"HEADER_TAG:"], &mut header_tag);
        floe_kdf(params, key, &iv, aad, &[b"MESSAGE_KEY:"], &mut *message_key);
        Self { params, iv, aad: aad.into(), header_tag, message_key, current: None }
    }

    /// Takes up a message that somebody sealed, from its header.
    pub fn from_header(params: Params, key: &[u8; 32], aad: &[u8], header: &[u8]) -> Result<Self, FloeError> {
        let header: &[u8; HEADER_BYTES] = header.try_into().map_err(|_| FloeError::Header)?;
        let mut iv = [0; MESSAGE_IV_BYTES];
        iv.copy_from_slice(&header[10..42]);
        let message = Self::new(params, key, aad, iv);
        message.check_header(header)?;
        Ok(message)
    }

    /// The header that stands before the segments.
    pub fn header(&self) -> [u8; HEADER_BYTES] {
        let mut out = [0; HEADER_BYTES];
        out[..10].copy_from_slice(&self.params.encode());
        out[10..42].copy_from_slice(&self.iv);
        out[42..].copy_from_slice(&self.header_tag);
        out
    }

    /// Whether `header` is this message's, compared in constant time.
    pub fn check_header(&self, header: &[u8]) -> Result<(), FloeError> {
        constant_time::verify_slices_are_equal(&self.header(), header).map_err(|_| FloeError::Header)
    }

    /// Seals one segment in place. `segment` has 16 free bytes, the plaintext,
    /// and 16 free bytes.
    pub fn seal_segment(
        &mut self,
        position: u64,
        end: End,
        iv: [u8; SEGMENT_IV_BYTES],
        segment: &mut [u8],
    ) -> Result<(), FloeError> {
        self.check_length(end, segment.len())?;
        let length = match end {
            End::Internal => INTERNAL,
            End::Final => segment.len() as u32,
        };
        let key = self.segment_key(position, end)?;
        let (prefix, rest) = segment.split_at_mut(PREFIX_BYTES);
        let (plain, tag_out) = rest.split_at_mut(rest.len() - TAG_BYTES);
        let tag = key
            .seal_in_place_separate_tag(Nonce::assume_unique_for_key(iv), Aad::from(segment_aad(position, end)), plain)
            .expect("a segment is far below the AEAD's length limit");
        prefix[..4].copy_from_slice(&length.to_be_bytes());
        prefix[4..].copy_from_slice(&iv);
        tag_out.copy_from_slice(tag.as_ref());
        Ok(())
    }

    /// Opens one segment into `plain`, whose length must be the segment's less
    /// [`SEGMENT_OVERHEAD_BYTES`]. On error its content is of no meaning and
    /// must not be used.
    pub fn open_segment(&mut self, position: u64, end: End, segment: &[u8], plain: &mut [u8]) -> Result<(), FloeError> {
        self.check_length(end, segment.len())?;
        if plain.len() != segment.len() - SEGMENT_OVERHEAD_BYTES {
            return Err(FloeError::Shape);
        }
        let (prefix, rest) = segment.split_at(PREFIX_BYTES);
        let (cipher, tag) = rest.split_at(rest.len() - TAG_BYTES);
        let length = match end {
            End::Internal => INTERNAL,
            End::Final => segment.len() as u32,
        };
        if prefix[..4] != length.to_be_bytes() {
            return Err(FloeError::Shape);
        }
        let nonce = Nonce::try_assume_unique_for_key(&prefix[4..]).map_err(|_| FloeError::Shape)?;
        let key = self.segment_key(position, end)?;
        key.open_separate_gather(nonce, Aad::from(segment_aad(position, end)), cipher, tag, plain)
            .map_err(|_| FloeError::Segment)
    }

    fn check_length(&self, end: End, len: usize) -> Result<(), FloeError> {
        let ok = match end {
            End::Internal => len == self.params.segment_bytes(),
            End::Final => (SEGMENT_OVERHEAD_BYTES..=self.params.segment_bytes()).contains(&len),
        };
        if ok { Ok(()) } else { Err(FloeError::Shape) }
    }

    fn segment_key(&mut self, position: u64, end: End) -> Result<&LessSafeKey, FloeError> {
        let last = SEGMENTS_MAX - 1;
        if position > last || (position == last && end == End::Internal) {
            return Err(FloeError::TooLong);
        }
        let masked = position >> self.params.rotation_bits << self.params.rotation_bits;
        if self.current.as_ref().is_none_or(|(at, _)| *at != masked) {
            let mut bytes = Zeroizing::new([0; 32]);
            let purpose: [&[u8]; 2] = [b"DEK:", &masked.to_be_bytes()];
            floe_kdf(self.params, &*self.message_key, &self.iv, &self.aad, &purpose, &mut *bytes);
            let key = UnboundKey::new(&AES_256_GCM, &*bytes).expect("the key has 32 bytes");
            self.current = Some((masked, LessSafeKey::new(key)));
        }
        Ok(&self.current.as_ref().expect("set above").1)
    }
}

/// Opens a whole message at once: the shortest way for a tool that has the
/// key, the associated data and the bytes.
pub fn open(params: Params, key: &[u8; 32], aad: &[u8], message: &[u8]) -> Result<Zeroizing<Vec<u8>>, FloeError> {
    let (header, body) = message.split_at_checked(HEADER_BYTES).ok_or(FloeError::Header)?;
    let mut message = Message::from_header(params, key, aad, header)?;
    let mut plain = Zeroizing::new(vec![0; body.len()]);
    let (mut from, mut to, mut position) = (0, 0, 0);
    loop {
        let rest = &body[from..];
        let prefix = rest.first_chunk::<4>().ok_or(FloeError::Shape)?;
        let (end, len) = match u32::from_be_bytes(*prefix) {
            INTERNAL => (End::Internal, params.segment_bytes()),
            _ => (End::Final, rest.len()),
        };
        let segment = rest.get(..len).ok_or(FloeError::Shape)?;
        let len = len.checked_sub(SEGMENT_OVERHEAD_BYTES).ok_or(FloeError::Shape)?;
        message.open_segment(position, end, segment, &mut plain[to..to + len])?;
        (from, to, position) = (from + segment.len(), to + len, position + 1);
        if end == End::Final {
            plain.truncate(to);
            return Ok(plain);
        }
    }
}

fn segment_aad(position: u64, end: End) -> [u8; 9] {
    let mut aad = [0; 9];
    aad[..8].copy_from_slice(&position.to_be_bytes());
    aad[8] = u8::from(end == End::Final);
    aad
}

/// `FLOE_KDF` of the specification: HKDF-Expand over
/// parameters ‖ IV ‖ purpose ‖ associated data.
fn floe_kdf(params: Params, key: &[u8], iv: &[u8], aad: &[u8], purpose: &[&[u8]], out: &mut [u8]) {
    let params = params.encode();
    let mut info: Vec<&[u8]> = Vec::with_capacity(5);
    info.extend([&params[..], iv]);
    info.extend(purpose);
    info.push(aad);
    hkdf::Prk::new_less_safe(hkdf::HKDF_SHA384, key)
        .expand(&info, Length(out.len()))
        .and_then(|okm| okm.fill(out))
        .expect("FLOE asks HKDF for at most 48 bytes");
}

struct Length(usize);

impl hkdf::KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

#[cfg(test)]
mod tests;
