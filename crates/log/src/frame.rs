//! How records lie in a segment file: header, frames, zeros, and a footer once
//! the segment is sealed. All numbers are big-endian; docs/formats/log.md.

use ringfence_format::leaf::Hash;
use ringfence_format::limits::RECORD_BYTES_MAX;
use ringfence_format::record::Seq;

/// Bytes before a frame's payload: length u32, CRC32C u32, seq u64, durable
/// u64, epoch u32, format u8, three zeros.
pub(crate) const FRAME_HEADER: usize = 32;
/// Bytes before the first frame of a segment.
pub(crate) const SEGMENT_HEADER: usize = 64;
/// Bytes behind the last frame of a sealed segment.
pub(crate) const FOOTER: usize = 32;

const MAGIC: &[u8; 16] = b"ringfence log 0\n";
/// In place of a length, which it exceeds: not a frame but the footer.
const FOOTER_MAGIC: [u8; 8] = *b"\xff\xff\xff\xffseal";
const FORMAT: u8 = 0;

fn crc32c(parts: &[&[u8]]) -> u32 {
    let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi);
    parts.iter().for_each(|part| digest.update(part));
    // A 32-bit algorithm: the upper half is zero.
    digest.finalize() as u32
}

fn be32(bytes: &[u8]) -> u32 {
    u32::from_be_bytes(bytes[..4].try_into().expect("sliced to 4"))
}

fn be64(bytes: &[u8]) -> u64 {
    u64::from_be_bytes(bytes[..8].try_into().expect("sliced to 8"))
}

/// Bytes that a payload takes in a segment; frames begin at multiples of 8.
pub(crate) fn frame_bytes(payload: usize) -> usize {
    (FRAME_HEADER + payload).next_multiple_of(8)
}

/// Appends a frame. `durable` is the log's durable size when the frame is
/// written: a valid frame proves that everything before `durable` had been
/// synced, which is how recovery tells a torn tail from damage.
pub(crate) fn append(buffer: &mut Vec<u8>, seq: Seq, durable: Seq, epoch: u32, payload: &[u8]) {
    let len = u32::try_from(payload.len()).expect("a record is at most 4 MiB").to_be_bytes();
    let mut head = [0; FRAME_HEADER - 8];
    head[..8].copy_from_slice(&seq.to_be_bytes());
    head[8..16].copy_from_slice(&durable.to_be_bytes());
    head[16..20].copy_from_slice(&epoch.to_be_bytes());
    head[20] = FORMAT;
    buffer.extend_from_slice(&len);
    buffer.extend_from_slice(&crc32c(&[&len, &head, payload]).to_be_bytes());
    buffer.extend_from_slice(&head);
    buffer.extend_from_slice(payload);
    buffer.resize(buffer.len() + frame_bytes(payload.len()) - FRAME_HEADER - payload.len(), 0);
}

/// What begins at a position of a segment.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum At<'a> {
    /// A whole, undamaged frame.
    Frame(Frame<'a>),
    /// The footer: the segment is sealed, and this is its next record.
    Footer(Seq),
    /// Zeros: nothing was written here.
    Nothing,
    /// More bytes are needed to say.
    Cut,
    /// Something else.
    Bad,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Frame<'a> {
    pub(crate) seq: Seq,
    pub(crate) durable: Seq,
    pub(crate) payload: &'a [u8],
    /// Bytes to the next frame.
    pub(crate) bytes: usize,
}

/// Reads what begins with `bytes`, in a segment of this epoch.
pub(crate) fn at(bytes: &[u8], epoch: u32) -> At<'_> {
    let Some((head, rest)) = bytes.split_at_checked(FRAME_HEADER) else { return At::Cut };
    if head.iter().all(|b| *b == 0) {
        return At::Nothing;
    }
    if head.starts_with(&FOOTER_MAGIC) {
        return footer_at(head, epoch).map_or(At::Bad, At::Footer);
    }
    let len = be32(head) as usize;
    if len > RECORD_BYTES_MAX || head[28] != FORMAT || be32(&head[24..]) != epoch {
        return At::Bad;
    }
    let Some(payload) = rest.get(..len) else { return At::Cut };
    if crc32c(&[&head[..4], &head[8..], payload]) != be32(&head[4..]) {
        return At::Bad;
    }
    At::Frame(Frame { seq: be64(&head[8..]), durable: be64(&head[16..]), payload, bytes: frame_bytes(len) })
}

/// The header of a segment.
pub(crate) fn segment_header(epoch: u32, first: Seq, origin: &Hash) -> [u8; SEGMENT_HEADER] {
    let mut head = [0; SEGMENT_HEADER];
    head[..16].copy_from_slice(MAGIC);
    head[16..20].copy_from_slice(&epoch.to_be_bytes());
    head[24..32].copy_from_slice(&first.to_be_bytes());
    head[32..60].copy_from_slice(&origin[..28]);
    let crc = crc32c(&[&head[..60]]);
    head[60..].copy_from_slice(&crc.to_be_bytes());
    head
}

/// The footer of a segment whose frames end at `end`, the next record being `next`.
pub(crate) fn footer(epoch: u32, next: Seq, end: u64) -> [u8; FOOTER] {
    let mut foot = [0; FOOTER];
    foot[..8].copy_from_slice(&FOOTER_MAGIC);
    foot[8..16].copy_from_slice(&next.to_be_bytes());
    foot[16..24].copy_from_slice(&end.to_be_bytes());
    foot[24..28].copy_from_slice(&epoch.to_be_bytes());
    let crc = crc32c(&[&foot[..28]]);
    foot[28..].copy_from_slice(&crc.to_be_bytes());
    foot
}

/// The next record after a sealed segment, from its last bytes; nothing if
/// they are not the footer of that epoch.
pub(crate) fn footer_at(foot: &[u8], epoch: u32) -> Option<Seq> {
    let valid = foot.len() == FOOTER
        && foot.starts_with(&FOOTER_MAGIC)
        && be32(&foot[24..]) == epoch
        && crc32c(&[&foot[..28]]) == be32(&foot[28..]);
    valid.then(|| be64(&foot[8..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_reads_back_and_no_byte_of_it_may_change() {
        let mut bytes = Vec::new();
        append(&mut bytes, 7, 5, 3, b"payload");
        assert_eq!(bytes.len(), frame_bytes(7));
        let frame = Frame { seq: 7, durable: 5, payload: b"payload", bytes: 40 };
        assert_eq!(at(&bytes, 3), At::Frame(frame));
        assert_eq!(at(&bytes, 4), At::Bad);
        for i in 0..FRAME_HEADER + 7 {
            let mut bad = bytes.clone();
            bad[i] ^= 1;
            assert!(matches!(at(&bad, 3), At::Bad | At::Cut), "byte {i}");
        }
        assert_eq!(at(&bytes[..20], 3), At::Cut);
        assert_eq!(at(&[0; 64], 3), At::Nothing);
    }

    #[test]
    fn a_footer_names_the_next_record() {
        let foot = footer(3, 99, 4096);
        assert_eq!(footer_at(&foot, 3), Some(99));
        assert_eq!(footer_at(&foot, 4), None);
        assert_eq!(at(&foot, 3), At::Footer(99));
    }

    #[test]
    fn the_frame_is_the_golden_one() {
        let mut bytes = Vec::new();
        append(&mut bytes, 1, 1, 0, b"ringfence");
        let golden = include_str!("../testdata/frame.hex").trim();
        assert_eq!(bytes.iter().map(|b| format!("{b:02x}")).collect::<String>(), golden);
    }
}
