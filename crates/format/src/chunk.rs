//! How a part lies at a site: the names of its chunks, and which bytes of
//! which chunk hold a given range of its plaintext.
//!
//! A part is one FLOE message. Its ciphertext is cut at segment borders: each
//! chunk but the last carries `chunk_len` bytes of segments, and chunk 0 has
//! the 74-byte header before them. Laid end to end, the chunks are the message.

use std::ops::Range;

use crate::floe::{HEADER_BYTES, Params, SEGMENT_OVERHEAD_BYTES};
use crate::limits;
use crate::names::{InstallationId, UploadId};

const SEGMENT: u64 = Params::RINGFENCE.segment_bytes() as u64;
const PLAIN: u64 = Params::RINGFENCE.plain_bytes() as u64;
const HEADER: u64 = HEADER_BYTES as u64;

/// The largest `chunk_len`: with the header, chunk 0 still keeps within
/// [`limits::CHUNK_BYTES_MAX`].
pub const CHUNK_LEN_MAX: u32 = (limits::CHUNK_BYTES_MAX - limits::SEGMENT_BYTES) as u32;

/// The largest plaintext whose single chunk may be packed at a directory site.
pub const PACKED_PLAIN_BYTES_MAX: u64 = (limits::PACKED_CHUNK_BYTES_MAX - HEADER_BYTES - SEGMENT_OVERHEAD_BYTES) as u64;

const _: () = assert!((CHUNK_LEN_MAX as usize).is_multiple_of(limits::SEGMENT_BYTES));
const _: () = assert!(CHUNK_LEN_MAX as usize + HEADER_BYTES <= limits::CHUNK_BYTES_MAX);

/// Something Ringfence stores at a site, as its name tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SiteName {
    /// Chunk `index` of a write attempt.
    Chunk {
        /// The attempt.
        upload: UploadId,
        /// From 0.
        index: u32,
    },
    /// A head object.
    Head(UploadId),
}

/// `<installation>/c/<upload>-<index>`.
pub fn chunk_name(installation: &InstallationId, upload: &UploadId, index: u32) -> String {
    format!("{installation}/c/{upload}-{index}")
}

/// `<installation>/h/<head>`.
pub fn head_name(installation: &InstallationId, head: &UploadId) -> String {
    format!("{installation}/h/{head}")
}

/// What begins every name of this installation, with the slash behind it.
pub fn installation_prefix(installation: &InstallationId) -> String {
    format!("{installation}/")
}

/// Reads a name back; `None` for a name we never make. Accepts exactly the
/// spelling that [`chunk_name`] and [`head_name`] write.
pub fn parse_name(name: &str) -> Option<(InstallationId, SiteName)> {
    let mut parts = name.split('/');
    let installation = InstallationId::from_hex(parts.next()?)?;
    let found = match (parts.next()?, parts.next()?, parts.next()) {
        ("c", rest, None) => {
            let (upload, index) = rest.split_once('-')?;
            let (upload, index) = (UploadId::from_hex(upload)?, index.parse().ok()?);
            SiteName::Chunk { upload, index }
        }
        ("h", head, None) => SiteName::Head(UploadId::from_hex(head)?),
        _ => return None,
    };
    let again = match &found {
        SiteName::Chunk { upload, index } => chunk_name(&installation, upload, *index),
        SiteName::Head(head) => head_name(&installation, head),
    };
    (again == name).then_some((installation, found))
}

/// Why lengths that were read back cannot be those of a part.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadLayout {
    /// The chunk length is zero, not a multiple of a segment, or too long.
    #[error("a part claims chunks of {0} bytes, which no writer makes")]
    ChunkLen(u32),
    /// The plaintext is longer than a part may be.
    #[error("a part claims {0} bytes of plaintext, more than S3 allows")]
    TooLong(u64),
    /// The ciphertext length does not follow from the plaintext length.
    #[error("a part of {plain} bytes claims {sealed} bytes of ciphertext")]
    SealedLen {
        /// Plaintext bytes claimed.
        plain: u64,
        /// Ciphertext bytes claimed.
        sealed: u64,
    },
    /// The range ends behind the part or is empty.
    #[error("the range {0:?} is not within the part")]
    Range(Range<u64>),
}

/// Bytes of one chunk to fetch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChunkRange {
    /// Which chunk, from 0.
    pub index: u32,
    /// Bytes of it.
    pub bytes: Range<u64>,
}

/// Where a range of plaintext lies in the ciphertext of its part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located {
    /// The segments that hold it.
    pub segments: Range<u64>,
    /// Their bytes in the message; a range that begins in segment 0 takes the
    /// header with it.
    pub sealed: Range<u64>,
    /// The same bytes, chunk by chunk, in order.
    pub chunks: Vec<ChunkRange>,
    /// Plaintext bytes of the first segment that come before the range.
    pub skip: usize,
    /// Plaintext bytes in the range.
    pub len: u64,
}

/// The arithmetic of one part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    plain_len: u64,
    chunk_len: u64,
}

/// Ciphertext bytes of a part with so much plaintext, header included.
pub const fn sealed_len(plain_len: u64) -> u64 {
    HEADER + plain_len + segment_count(plain_len) * SEGMENT_OVERHEAD_BYTES as u64
}

/// Segments of a part with so much plaintext: at least one, and no empty one
/// but the only one of an empty part.
pub const fn segment_count(plain_len: u64) -> u64 {
    if plain_len == 0 { 1 } else { plain_len.div_ceil(PLAIN) }
}

impl Layout {
    /// The layout of a part with so much plaintext in chunks of `chunk_len`.
    pub fn new(plain_len: u64, chunk_len: u32) -> Result<Self, BadLayout> {
        if chunk_len == 0 || !u64::from(chunk_len).is_multiple_of(SEGMENT) || chunk_len > CHUNK_LEN_MAX {
            return Err(BadLayout::ChunkLen(chunk_len));
        }
        if plain_len > limits::PART_BYTES_MAX {
            return Err(BadLayout::TooLong(plain_len));
        }
        Ok(Self { plain_len, chunk_len: u64::from(chunk_len) })
    }

    /// The layout of a part as a catalogue row or a manifest tells it.
    pub fn of(part: &crate::redo::Part) -> Result<Self, BadLayout> {
        let layout = Self::new(part.plain_len, part.chunk_len)?;
        if layout.sealed_len() != part.sealed_len {
            return Err(BadLayout::SealedLen { plain: part.plain_len, sealed: part.sealed_len });
        }
        Ok(layout)
    }

    /// Plaintext bytes.
    pub fn plain_len(&self) -> u64 {
        self.plain_len
    }

    /// Ciphertext bytes, header included.
    pub fn sealed_len(&self) -> u64 {
        sealed_len(self.plain_len)
    }

    /// How many segments.
    pub fn segments(&self) -> u64 {
        segment_count(self.plain_len)
    }

    /// How many chunks.
    pub fn chunks(&self) -> u32 {
        (self.sealed_len() - HEADER).div_ceil(self.chunk_len) as u32
    }

    /// The bytes of the message that chunk `index` holds.
    pub fn chunk(&self, index: u32) -> Option<Range<u64>> {
        if index >= self.chunks() {
            return None;
        }
        let index = u64::from(index);
        let start = if index == 0 { 0 } else { HEADER + index * self.chunk_len };
        let end = (HEADER + (index + 1) * self.chunk_len).min(self.sealed_len());
        Some(start..end)
    }

    /// Where the plaintext `range` lies. An empty range is only asked of an
    /// empty part, whose one segment still proves that it is empty.
    pub fn locate(&self, range: Range<u64>) -> Result<Located, BadLayout> {
        let whole_and_empty = self.plain_len == 0 && range == (0..0);
        if !whole_and_empty && (range.start >= range.end || range.end > self.plain_len) {
            return Err(BadLayout::Range(range));
        }
        let first = range.start / PLAIN;
        let last = range.end.saturating_sub(1) / PLAIN;
        let start = if first == 0 { 0 } else { HEADER + first * SEGMENT };
        let end = (HEADER + (last + 1) * SEGMENT).min(self.sealed_len());
        Ok(Located {
            segments: first..last + 1,
            sealed: start..end,
            chunks: self.split(start..end),
            skip: (range.start - first * PLAIN) as usize,
            len: range.end - range.start,
        })
    }

    /// Cuts a range of message bytes into ranges of chunks.
    fn split(&self, sealed: Range<u64>) -> Vec<ChunkRange> {
        let of = |at: u64| (at.saturating_sub(HEADER) / self.chunk_len) as u32;
        (of(sealed.start)..=of(sealed.end - 1))
            .filter_map(|index| {
                let chunk = self.chunk(index)?;
                let bytes = sealed.start.max(chunk.start) - chunk.start..sealed.end.min(chunk.end) - chunk.start;
                Some(ChunkRange { index, bytes })
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_read_back_and_nothing_else_does() {
        let (installation, upload) = (InstallationId([1; 16]), UploadId([2; 16]));
        let chunk = chunk_name(&installation, &upload, 12);
        assert_eq!(parse_name(&chunk), Some((installation, SiteName::Chunk { upload, index: 12 })));
        let head = head_name(&installation, &upload);
        assert_eq!(parse_name(&head), Some((installation, SiteName::Head(upload))));
        assert!(chunk.starts_with(&installation_prefix(&installation)));
        let upper = chunk.replace("01", "0A");
        let bad = [
            "",
            "/",
            &chunk[1..],
            &format!("{chunk}/"),
            &format!("/{chunk}"),
            &chunk.replace("-12", "-012"),
            &chunk.replace("-12", "-+12"),
            &chunk.replace("-12", ""),
            &chunk.replace("/c/", "/h/"),
            &chunk.replace("/c/", "/../"),
            &format!("{chunk}9999999999"),
            &upper,
        ];
        for name in bad {
            assert_eq!(parse_name(name), None, "{name}");
        }
    }

    #[test]
    fn a_range_outside_its_part_is_refused() {
        let layout = Layout::new(100, SEGMENT as u32).unwrap();
        #[allow(clippy::reversed_empty_ranges)] // that is what is refused
        for range in [0..101, 100..101, 5..5, 7..6, 0..u64::MAX] {
            assert_eq!(layout.locate(range.clone()), Err(BadLayout::Range(range)));
        }
        for chunk_len in [0, 1, SEGMENT as u32 + 1, u32::MAX, limits::CHUNK_BYTES_MAX as u32] {
            assert_eq!(Layout::new(1, chunk_len), Err(BadLayout::ChunkLen(chunk_len)));
        }
        assert!(Layout::new(limits::PART_BYTES_MAX + 1, SEGMENT as u32).is_err());
    }

    #[test]
    fn a_packed_part_is_one_small_chunk() {
        let layout = Layout::new(PACKED_PLAIN_BYTES_MAX, SEGMENT as u32).unwrap();
        assert_eq!((layout.chunks(), layout.sealed_len()), (1, limits::PACKED_CHUNK_BYTES_MAX as u64));
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_without_harm(text in ".{0,100}") {
            if let Some((installation, SiteName::Head(head))) = parse_name(&text) {
                prop_assert_eq!(head_name(&installation, &head), text);
            }
        }

        #[test]
        fn every_plaintext_byte_lies_in_the_segment_that_is_fetched(len in 1_u64..1 << 33, at: prop::sample::Index) {
            let len = len.min(limits::PART_BYTES_MAX);
            let layout = Layout::new(len, CHUNK_LEN_MAX).unwrap();
            let at = at.index(len as usize) as u64;
            let located = layout.locate(at..at + 1).unwrap();
            prop_assert_eq!(located.segments.clone(), at / PLAIN..at / PLAIN + 1);
            prop_assert_eq!(located.skip as u64, at % PLAIN);
            prop_assert_eq!(located.len, 1);
        }
    }
}
