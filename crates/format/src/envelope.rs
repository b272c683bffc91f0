//! INVARIANT 4 — `Sealed`: ciphertext bound to one object version, the only
//! bytes a site accepts.
//!
//! A [`DataKey`] belongs to one object version. From it come one key per part
//! (and so one [FLOE](crate::floe) message per part) and the key of the
//! manifest (see [`crate::head`]). [`Sealed`] is made in this file only, and
//! only with a `DataKey`: code that never holds one, such as the store, can
//! move ciphertext but cannot pass anything else off as it. What comes back
//! from a site is [`Fetched`] until a key has authenticated it.
//!
//! Public, so that whoever holds the keys of an object can open it without us:
//! see [`open_part`].

use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use zeroize::Zeroizing;

use crate::chunk::{BadLayout, Layout, Located};
use crate::floe::{self, End, FloeError, HEADER_BYTES, Message, Params, SEGMENT_IV_BYTES, SEGMENT_OVERHEAD_BYTES};
use crate::limits::SEGMENT_BYTES;
use crate::names::{ObjectVersion, PartId};
use crate::redo::Part;

/// The `format` byte: 0 is experimental, and readers refuse every other.
pub const FORMAT: u8 = 0;

const PLAIN_BYTES: usize = Params::RINGFENCE.plain_bytes();

/// Ciphertext of one object version, made by us and fit to be written to a
/// site that its placement names.
///
/// ```compile_fail,E0423
/// use ringfence_format::envelope::Sealed;
/// fn leak(plain: bytes::Bytes) -> Sealed { Sealed(plain) }
/// ```
/// ```compile_fail,E0451
/// use std::sync::Arc;
/// use ringfence_format::{envelope::Sealed, names::ObjectVersion};
/// fn leak(object: Arc<ObjectVersion>, bytes: bytes::Bytes) -> Sealed { Sealed { object, bytes } }
/// ```
#[derive(Clone)]
pub struct Sealed {
    object: Arc<ObjectVersion>,
    bytes: Bytes,
}

impl Sealed {
    /// upholds INVARIANT 4: called where a key has just sealed or
    /// authenticated `bytes`.
    pub(crate) fn made(object: &Arc<ObjectVersion>, bytes: Bytes) -> Self {
        Self { object: object.clone(), bytes }
    }

    /// Whose ciphertext it is; a placement for another object does not fit.
    pub fn object(&self) -> &ObjectVersion {
        &self.object
    }

    /// The ciphertext.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// How many bytes.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Takes the first `at` bytes off. Cuts nothing that is shorter: what is
    /// left then is empty.
    pub fn split_to(&mut self, at: usize) -> Self {
        let bytes = self.bytes.split_to(at.min(self.bytes.len()));
        Self { object: self.object.clone(), bytes }
    }

    /// Joins pieces of one object in order. `None` if there are none, or if
    /// they are of different objects.
    pub fn join(pieces: Vec<Self>) -> Option<Self> {
        let first = pieces.first()?;
        if pieces.iter().any(|piece| piece.object != first.object) {
            return None;
        }
        let object = first.object.clone();
        if pieces.len() == 1 {
            return pieces.into_iter().next();
        }
        let mut bytes = BytesMut::with_capacity(pieces.iter().map(Self::len).sum());
        pieces.iter().for_each(|piece| bytes.extend_from_slice(&piece.bytes));
        Some(Self { object, bytes: bytes.freeze() })
    }
}

/// Bytes that a site returned. Nothing about them is believed.
#[derive(Clone)]
pub struct Fetched(Bytes);

impl Fetched {
    /// Whatever a site returned.
    pub fn new(bytes: Bytes) -> Self {
        Self(bytes)
    }

    /// How many bytes.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The bytes, for a digest or a parser that believes nothing.
    pub fn untrusted(&self) -> &Bytes {
        &self.0
    }
}

/// Why bytes from a site are not what they should be, or cannot be asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// The ciphertext was changed, swapped or cut.
    #[error("the ciphertext does not authenticate: {0}")]
    Floe(#[from] FloeError),
    /// The part's lengths contradict each other, or the range is not in it.
    #[error(transparent)]
    Layout(#[from] BadLayout),
    /// The site returned fewer bytes than the part has.
    #[error("the ciphertext ends {missing} bytes too early")]
    Truncated {
        /// Bytes that should have come.
        missing: u64,
    },
    /// The site returned more bytes than were asked for.
    #[error("the ciphertext goes on behind its end")]
    TooLong,
}

/// The data key of one object version. It seals and opens that version only:
/// the object's name is associated data of everything done with it.
///
/// Neither `Debug` nor `Clone`, and zeroed when dropped:
/// ```compile_fail,E0277
/// fn show(key: &ringfence_format::envelope::DataKey) { println!("{key:?}"); }
/// ```
/// ```compile_fail,E0599
/// use ringfence_format::envelope::DataKey;
/// fn copy(key: DataKey) -> DataKey { key.clone() }
/// ```
pub struct DataKey {
    object: Arc<ObjectVersion>,
    key: Zeroizing<[u8; 32]>,
}

impl DataKey {
    /// The key of `object`; 32 bytes, uniformly random.
    pub fn new(object: Arc<ObjectVersion>, key: Zeroizing<[u8; 32]>) -> Self {
        Self { object, key }
    }

    /// Whose key it is.
    pub fn object(&self) -> &Arc<ObjectVersion> {
        &self.object
    }

    /// The bytes, to be wrapped under a key-encryption key.
    pub fn expose(&self) -> &[u8; 32] {
        &self.key
    }

    /// The key of the sealed manifest: HKDF-Expand-SHA512(DEK, "manifest").
    pub(crate) fn manifest_key(&self) -> Zeroizing<[u8; 32]> {
        self.derive(&[b"manifest"])
    }

    /// Key and IV of a part's FLOE message, in this order:
    /// HKDF-Expand-SHA512(DEK, "part" ‖ part id). A part id is drawn anew for
    /// each message, so neither is ever used twice; and since the IV need not
    /// be read back, a range in the middle of a part opens without first
    /// fetching the header from its beginning.
    fn part_key(&self, part: &PartId) -> Zeroizing<[u8; 64]> {
        self.derive(&[b"part", part.as_bytes()])
    }

    fn message(&self, part: &PartId) -> Message {
        let derived = self.part_key(part);
        let (key, iv) = derived.split_first_chunk::<32>().expect("64 bytes hold a key");
        let iv = *iv.first_chunk().expect("64 bytes hold a key and an IV");
        Message::new(Params::RINGFENCE, key, &part_aad(&self.object, part), iv)
    }

    fn derive<const N: usize>(&self, info: &[&[u8]]) -> Zeroizing<[u8; N]> {
        use aws_lc_rs::hkdf;
        let mut out = Zeroizing::new([0; N]);
        hkdf::Prk::new_less_safe(hkdf::HKDF_SHA512, &*self.key)
            .expand(info, Length(N))
            .and_then(|okm| okm.fill(&mut *out))
            .expect("at most 64 bytes are asked for");
        out
    }
}

struct Length(usize);

impl aws_lc_rs::hkdf::KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

/// Associated data of a part: format byte ‖ (length ‖ realm) ‖
/// (length ‖ tenant) ‖ bucket id ‖ version ‖ part id. Immutable names only:
/// label and tags live in the head, which can be rewritten.
pub fn part_aad(object: &ObjectVersion, part: &PartId) -> Vec<u8> {
    let mut aad = Vec::with_capacity(96);
    aad.push(FORMAT);
    for name in [object.realm.as_str(), object.tenant.as_str()] {
        aad.push(name.len() as u8); // at most 63, see `names`
        aad.extend_from_slice(name.as_bytes());
    }
    aad.extend_from_slice(object.bucket.as_bytes());
    aad.extend_from_slice(object.version.as_bytes());
    aad.extend_from_slice(part.as_bytes());
    aad
}

/// Seals one part as its plaintext comes in. Holds at most one segment that is
/// not yet sealed.
///
/// ```compile_fail,E0277
/// fn show(sealer: &ringfence_format::envelope::PartSealer) { println!("{sealer:?}"); }
/// ```
pub struct PartSealer {
    object: Arc<ObjectVersion>,
    part: PartId,
    message: Message,
    /// Header and sealed segments that nobody has taken, then the open segment.
    out: BytesMut,
    /// Where the open segment begins in `out`.
    open_at: usize,
    position: u64,
    plain_len: u64,
}

impl PartSealer {
    /// Begins a part. `part` must be random and new: two messages under one
    /// part id would share a key.
    pub fn new(key: &DataKey, part: PartId) -> Self {
        let message = key.message(&part);
        let mut out = BytesMut::with_capacity(HEADER_BYTES + SEGMENT_OVERHEAD_BYTES + 4096);
        out.extend_from_slice(&message.header());
        out.extend_from_slice(&[0; 16]);
        Self { object: key.object.clone(), part, message, out, open_at: HEADER_BYTES, position: 0, plain_len: 0 }
    }

    /// The part's id.
    pub fn id(&self) -> PartId {
        self.part
    }

    /// Plaintext bytes taken so far.
    pub fn plain_len(&self) -> u64 {
        self.plain_len
    }

    /// Takes plaintext and returns the ciphertext that is complete, if any.
    /// `random` fills its argument with unpredictable bytes (segment IVs).
    pub fn push(&mut self, mut plain: &[u8], random: &mut dyn FnMut(&mut [u8])) -> Result<Option<Sealed>, FloeError> {
        self.plain_len += plain.len() as u64;
        self.make_room(plain.len());
        while !plain.is_empty() {
            let have = self.out.len() - self.open_at - 16;
            // A full segment is sealed only once more plaintext is there: the
            // last one, full or not, must be sealed as the last.
            if have == PLAIN_BYTES {
                self.seal(End::Internal, random)?;
                self.out.extend_from_slice(&[0; 16]);
                continue;
            }
            let (now, later) = plain.split_at(plain.len().min(PLAIN_BYTES - have));
            self.out.extend_from_slice(now);
            plain = later;
        }
        let done = self.out.split_to(self.open_at).freeze();
        self.open_at = 0;
        Ok((!done.is_empty()).then(|| Sealed::made(&self.object, done)))
    }

    /// Seals what is left as the last segment.
    pub fn finish(mut self, random: &mut dyn FnMut(&mut [u8])) -> Result<Sealed, FloeError> {
        self.seal(End::Final, random)?;
        Ok(Sealed::made(&self.object, self.out.freeze()))
    }

    /// Room for so much more plaintext. A part of more than one segment gets
    /// room for several, so that not every piece begins by moving the open
    /// segment to a new buffer.
    fn make_room(&mut self, more: usize) {
        let need = more + (more / PLAIN_BYTES + 1) * SEGMENT_OVERHEAD_BYTES;
        if self.out.capacity() - self.out.len() < need {
            let long = self.plain_len > PLAIN_BYTES as u64;
            self.out.reserve(if long { need.max(4 * SEGMENT_BYTES) } else { need });
        }
    }

    fn seal(&mut self, end: End, random: &mut dyn FnMut(&mut [u8])) -> Result<(), FloeError> {
        let mut iv = [0; SEGMENT_IV_BYTES];
        random(&mut iv);
        self.out.extend_from_slice(&[0; 16]);
        self.message.seal_segment(self.position, end, iv, &mut self.out[self.open_at..])?;
        self.position += 1;
        self.open_at = self.out.len();
        Ok(())
    }
}

/// Opens a range of one part as its ciphertext comes in, whatever the size of
/// the pieces. Each byte it returns is authenticated, at its place.
pub struct RangeOpener {
    object: Arc<ObjectVersion>,
    message: Message,
    layout: Layout,
    located: Located,
    /// Next segment to open.
    position: u64,
    /// Message bytes still to come.
    missing: u64,
    /// The header, where the range begins with it, is still to be checked.
    header: bool,
    /// The beginning of a segment whose end has not come yet.
    carry: BytesMut,
    skip: usize,
    left: u64,
}

/// What to do with plaintext that is authentic: keep it, or drop it at once.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Release {
    Plaintext,
    Nothing,
}

impl RangeOpener {
    /// Prepares to open the plaintext `range` of `part`.
    pub fn new(key: &DataKey, part: &Part, range: Range<u64>) -> Result<Self, EnvelopeError> {
        let layout = Layout::of(part)?;
        let located = layout.locate(range)?;
        Ok(Self {
            object: key.object.clone(),
            message: key.message(&part.id),
            position: located.segments.start,
            missing: located.sealed.end - located.sealed.start,
            header: located.segments.start == 0,
            carry: BytesMut::new(),
            skip: located.skip,
            left: located.len,
            layout,
            located,
        })
    }

    /// Which bytes of which chunks to fetch, in this order.
    pub fn located(&self) -> &Located {
        &self.located
    }

    /// Takes the next bytes and returns the plaintext of the range that is now
    /// authentic; empty while a segment is incomplete.
    pub fn push(&mut self, fetched: &Fetched) -> Result<Bytes, EnvelopeError> {
        self.advance(fetched, Release::Plaintext)
    }

    /// Says whether everything has come. Call it at the end of the stream: a
    /// range that ends early is an error, never a short success.
    pub fn finish(self) -> Result<(), EnvelopeError> {
        match self.missing {
            0 => Ok(()),
            missing => Err(EnvelopeError::Truncated { missing }),
        }
    }

    fn advance(&mut self, fetched: &Fetched, release: Release) -> Result<Bytes, EnvelopeError> {
        let mut input = &fetched.0[..];
        self.missing = self.missing.checked_sub(input.len() as u64).ok_or(EnvelopeError::TooLong)?;
        let mut plain = vec![0; self.plain_bound(input.len())];
        let mut filled = 0;
        while let Some(piece) = self.next_piece(&mut input) {
            let piece = piece.as_slice();
            if self.header {
                self.message.check_header(piece)?;
                self.header = false;
                continue;
            }
            let len = piece.len() - SEGMENT_OVERHEAD_BYTES;
            let end = if self.position + 1 == self.layout.segments() { End::Final } else { End::Internal };
            self.message.open_segment(self.position, end, piece, &mut plain[filled..filled + len])?;
            self.position += 1;
            filled = if release == Release::Plaintext { filled + len } else { 0 };
        }
        plain.truncate(filled);
        Ok(self.trim(plain))
    }

    /// The next header or segment, if all of it is there; else what there is
    /// is carried over.
    fn next_piece<'a>(&mut self, input: &mut &'a [u8]) -> Option<Piece<'a>> {
        let want = self.want()?;
        if self.carry.is_empty() && input.len() >= want {
            let (piece, rest) = input.split_at(want);
            *input = rest;
            return Some(Piece::Whole(piece));
        }
        let take = input.len().min(want - self.carry.len());
        self.carry.extend_from_slice(&input[..take]);
        *input = &input[take..];
        (self.carry.len() == want).then(|| Piece::Carried(self.carry.split()))
    }

    /// Bytes of the next header or segment; `None` behind the last.
    fn want(&self) -> Option<usize> {
        if self.header {
            return Some(HEADER_BYTES);
        }
        let done = HEADER_BYTES as u64 + self.position * SEGMENT_BYTES as u64;
        let rest = self.located.sealed.end.checked_sub(done)?;
        (rest > 0).then_some(rest.min(SEGMENT_BYTES as u64) as usize)
    }

    /// The most plaintext that `more` bytes can complete.
    fn plain_bound(&self, more: usize) -> usize {
        let segments = (self.carry.len() + more) / SEGMENT_BYTES + 1;
        (self.carry.len() + more).min(segments * PLAIN_BYTES)
    }

    /// Cuts off what lies before and behind the range.
    fn trim(&mut self, plain: Vec<u8>) -> Bytes {
        let mut plain = Bytes::from(plain);
        let skip = self.skip.min(plain.len());
        self.skip -= skip;
        let _before = plain.split_to(skip);
        plain.truncate(usize::try_from(self.left).unwrap_or(usize::MAX));
        self.left -= plain.len() as u64;
        plain
    }
}

enum Piece<'a> {
    Whole(&'a [u8]),
    Carried(BytesMut),
}

impl Piece<'_> {
    fn as_slice(&self) -> &[u8] {
        match self {
            Self::Whole(bytes) => bytes,
            Self::Carried(bytes) => bytes,
        }
    }
}

/// Authenticates a whole part without releasing a byte of plaintext, and
/// hands the ciphertext back as [`Sealed`], fit to be written to another site.
pub struct PartVerifier(RangeOpener);

impl PartVerifier {
    /// Prepares to check all of `part`.
    pub fn new(key: &DataKey, part: &Part) -> Result<Self, EnvelopeError> {
        Ok(Self(RangeOpener::new(key, part, 0..part.plain_len)?))
    }

    /// Which bytes of which chunks to fetch, in this order.
    pub fn located(&self) -> &Located {
        self.0.located()
    }

    /// Takes the next bytes. Nothing is vouched for before [`finish`](Self::finish).
    pub fn push(&mut self, fetched: &Fetched) -> Result<(), EnvelopeError> {
        self.0.advance(fetched, Release::Nothing).map(drop)
    }

    /// Takes bytes that begin and end at segment borders, such as one chunk,
    /// and vouches for them at once.
    pub fn verify(&mut self, fetched: Fetched) -> Result<Sealed, EnvelopeError> {
        self.push(&fetched)?;
        if !self.0.carry.is_empty() {
            return Err(FloeError::Shape.into());
        }
        Ok(Sealed::made(&self.0.object, fetched.0))
    }

    /// Says whether the part is complete and authentic.
    pub fn finish(self) -> Result<(), EnvelopeError> {
        self.0.finish()
    }
}

/// Opens a whole part from its chunks laid end to end: what a tool needs that
/// has the data key and the part's description from the manifest.
pub fn open_part(key: &DataKey, part: &Part, message: &[u8]) -> Result<Zeroizing<Vec<u8>>, EnvelopeError> {
    let layout = Layout::of(part)?;
    let missing = layout.sealed_len().saturating_sub(message.len() as u64);
    if missing > 0 {
        return Err(EnvelopeError::Truncated { missing });
    }
    let aad = part_aad(&key.object, &part.id);
    let derived = key.part_key(&part.id);
    let part_key = derived.first_chunk().expect("64 bytes hold a key");
    let plain = floe::open(Params::RINGFENCE, part_key, &aad, message)?;
    if plain.len() as u64 != part.plain_len {
        return Err(EnvelopeError::TooLong);
    }
    Ok(plain)
}

#[cfg(test)]
pub(crate) mod tests;
