//! Our own vectors, made by a second implementation; any size, any range, any
//! cut of the stream; and every kind of damage a site can do.

use proptest::prelude::*;

use super::*;
use crate::chunk::{CHUNK_LEN_MAX, sealed_len, segment_count};
use crate::names::{BucketId, Realm, Tenant, UploadId, VersionUid};

/// `start + 7 i mod 251`, as in `second_implementation.py`.
pub(crate) fn pattern(len: usize, start: usize) -> Vec<u8> {
    (0..len).map(|i| ((start + i * 7) % 251) as u8).collect()
}

pub(crate) fn bytes<const N: usize>(start: usize) -> [u8; N] {
    pattern(N, start).try_into().unwrap()
}

pub(crate) fn object() -> Arc<ObjectVersion> {
    Arc::new(ObjectVersion {
        realm: Realm::parse("main").unwrap(),
        tenant: Tenant::parse("acme").unwrap(),
        bucket: BucketId(bytes(10)),
        version: VersionUid(bytes(20)),
    })
}

pub(crate) fn key() -> DataKey {
    DataKey::new(object(), Zeroizing::new(bytes(30)))
}

pub(crate) const PART: PartId = PartId([40; 16]);

pub(crate) fn row(part: PartId, plain_len: u64, chunk_len: u32) -> Part {
    Part {
        id: part,
        number: 1,
        plain_len,
        upload: UploadId([9; 16]),
        chunk_len,
        sealed_len: sealed_len(plain_len),
        md5: [0; 16],
        checksum: None,
        created_ms: 1,
    }
}

/// Fills the IV of segment `p` with bytes `p`.
fn counting_ivs() -> impl FnMut(&mut [u8]) {
    let mut next = 0;
    move |iv| {
        iv.fill(next);
        next += 1;
    }
}

fn seal_in_steps(key: &DataKey, part: PartId, plain: &[u8], step: usize) -> Vec<u8> {
    let mut sealer = PartSealer::new(key, part);
    let mut random = counting_ivs();
    let mut out = Vec::new();
    for piece in plain.chunks(step) {
        if let Some(sealed) = sealer.push(piece, &mut random).unwrap() {
            assert_eq!(sealed.object(), &**key.object());
            out.extend_from_slice(sealed.bytes());
        }
    }
    assert_eq!(sealer.plain_len(), plain.len() as u64);
    out.extend_from_slice(sealer.finish(&mut random).unwrap().bytes());
    out
}

fn open_range(
    key: &DataKey,
    part: &Part,
    range: Range<u64>,
    sealed: &[u8],
    step: usize,
) -> Result<Vec<u8>, EnvelopeError> {
    let mut opener = RangeOpener::new(key, part, range)?;
    let Range { start, end } = opener.located().sealed;
    let end = (end as usize).min(sealed.len());
    let mut plain = Vec::new();
    for piece in sealed[(start as usize).min(end)..end].chunks(step) {
        plain.extend_from_slice(&opener.push(&Fetched::new(Bytes::copy_from_slice(piece)))?);
    }
    opener.finish()?;
    Ok(plain)
}

fn vectors(file: &str) -> Vec<(String, String)> {
    let path = format!("{}/testdata/{file}", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(path).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| line.split_once(' ').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap()).collect()
}

#[test]
fn a_second_implementation_seals_the_same_bytes() {
    let part = PartId(bytes(40));
    for (what, expected) in vectors("part.txt") {
        if what == "hello" {
            let sealed = seal_in_steps(&key(), part, b"hello", 2);
            assert_eq!(hex::encode(&sealed), expected);
            continue;
        }
        let sealed = seal_in_steps(&key(), part, &pattern(what.parse().unwrap(), 0), 10_000);
        assert_eq!(hex::encode(crate::leaf::sha256(&sealed)), expected, "{what} bytes");
    }
}

#[test]
fn sizes_around_a_segment_open_whole_and_are_never_longer_than_said() {
    for len in [0, 1, PLAIN_BYTES - 1, PLAIN_BYTES, PLAIN_BYTES + 1, 2 * PLAIN_BYTES, 2 * PLAIN_BYTES + 1] {
        let plain = pattern(len, 3);
        for step in [1000, SEGMENT_BYTES, 1 << 20] {
            let sealed = seal_in_steps(&key(), PART, &plain, step);
            assert_eq!(sealed.len() as u64, sealed_len(len as u64));
            let part = row(PART, len as u64, SEGMENT_BYTES as u32);
            assert_eq!(open_range(&key(), &part, 0..len as u64, &sealed, step).unwrap(), plain);
            assert_eq!(*open_part(&key(), &part, &sealed).unwrap(), plain);
        }
    }
}

#[test]
fn a_part_opens_as_itself_only() {
    let plain = pattern(100, 0);
    let sealed = seal_in_steps(&key(), PART, &plain, 100);
    let other_part = row(PartId([41; 16]), 100, SEGMENT_BYTES as u32);
    assert!(open_range(&key(), &other_part, 0..100, &sealed, 1 << 20).is_err());
    let part = row(PART, 100, SEGMENT_BYTES as u32);
    let mut changes: Vec<ObjectVersion> = vec![(*object()).clone(); 4];
    changes[0].realm = Realm::parse("other").unwrap();
    changes[1].tenant = Tenant::parse("other").unwrap();
    changes[2].bucket = BucketId([0; 16]);
    changes[3].version = VersionUid([0; 16]);
    for object in changes {
        let same_bytes = DataKey::new(Arc::new(object), Zeroizing::new(bytes(30)));
        assert!(open_range(&same_bytes, &part, 0..100, &sealed, 1 << 20).is_err());
    }
    let other_bytes = DataKey::new(object(), Zeroizing::new(bytes(31)));
    assert!(open_range(&other_bytes, &part, 0..100, &sealed, 1 << 20).is_err());
}

/// Everything a site can do to the ciphertext of a part of three segments.
#[test]
fn what_a_site_changes_cuts_swaps_repeats_or_adds_is_refused() {
    let len = 2 * PLAIN_BYTES + 500;
    let plain = pattern(len, 0);
    let part = row(PART, len as u64, SEGMENT_BYTES as u32);
    let good = seal_in_steps(&key(), PART, &plain, 1 << 20);
    let segment = |i: usize| HEADER_BYTES + i * SEGMENT_BYTES..(HEADER_BYTES + (i + 1) * SEGMENT_BYTES).min(good.len());
    let mut cases: Vec<(&str, Vec<u8>)> = Vec::new();
    for at in [0, 9, 10, 41, 42, 73, 74, 77, 78, 90, 70_000, good.len() - 17, good.len() - 1] {
        let mut bad = good.clone();
        bad[at] ^= 1;
        cases.push(("flipped", bad));
    }
    let build = |order: &[usize]| {
        let segments = order.iter().flat_map(|i| good[segment(*i)].to_vec());
        good[..HEADER_BYTES].iter().copied().chain(segments).collect::<Vec<u8>>()
    };
    cases.push(("swapped", build(&[1, 0, 2])));
    cases.push(("repeated", build(&[0, 0, 2])));
    cases.push(("dropped", build(&[0, 2])));
    cases.push(("without its end", build(&[0, 1])));
    cases.push(("with its end twice", build(&[0, 1, 2, 2])));
    cases.push(("empty", Vec::new()));
    for cut in [1, HEADER_BYTES, HEADER_BYTES + 1, SEGMENT_BYTES, good.len() - 1] {
        cases.push(("cut", good[..cut].to_vec()));
    }
    cases.push(("of another message", {
        let other = seal_in_steps(&key(), PartId([42; 16]), &plain, 1 << 20);
        [&good[..segment(1).start], &other[segment(1)], &good[segment(2)]].concat()
    }));
    for (what, bad) in cases {
        for step in [999, SEGMENT_BYTES, 1 << 20] {
            let opened = open_all(&part, &bad, step);
            assert!(opened.is_err(), "{what} was not noticed");
            let mut verifier = PartVerifier::new(&key(), &part).unwrap();
            let pushed =
                bad.chunks(step).try_for_each(|piece| verifier.push(&Fetched::new(Bytes::copy_from_slice(piece))));
            assert!(pushed.and_then(|()| verifier.finish()).is_err(), "{what} passed the verifier");
        }
        assert!(open_part(&key(), &part, &bad).is_err(), "{what} opens at once");
    }
}

/// Pushes all of `sealed`, however long.
fn open_all(part: &Part, sealed: &[u8], step: usize) -> Result<Vec<u8>, EnvelopeError> {
    let mut opener = RangeOpener::new(&key(), part, 0..part.plain_len)?;
    let mut plain = Vec::new();
    for piece in sealed.chunks(step) {
        plain.extend_from_slice(&opener.push(&Fetched::new(Bytes::copy_from_slice(piece)))?);
    }
    opener.finish().map(|()| plain)
}

#[test]
fn a_verified_chunk_is_the_chunk_that_was_fetched() {
    let len = 3 * PLAIN_BYTES + 7;
    let part = row(PART, len as u64, 2 * SEGMENT_BYTES as u32);
    let sealed = seal_in_steps(&key(), PART, &pattern(len, 0), 1 << 20);
    let mut verifier = PartVerifier::new(&key(), &part).unwrap();
    let layout = Layout::of(&part).unwrap();
    for index in 0..layout.chunks() {
        let Range { start, end } = layout.chunk(index).unwrap();
        let chunk = Bytes::copy_from_slice(&sealed[start as usize..end as usize]);
        assert_eq!(verifier.verify(Fetched::new(chunk.clone())).unwrap().bytes(), &chunk);
    }
    verifier.finish().unwrap();
    let mut verifier = PartVerifier::new(&key(), &part).unwrap();
    let half = Fetched::new(Bytes::copy_from_slice(&sealed[..1000]));
    assert!(verifier.verify(half).is_err(), "half a segment is vouched for by nothing");
}

#[test]
fn pieces_of_two_objects_do_not_join() {
    let other = ObjectVersion { version: VersionUid([0; 16]), ..(*object()).clone() };
    let sealed = |object: &Arc<ObjectVersion>| Sealed::made(object, Bytes::from_static(b"x"));
    assert_eq!(Sealed::join(vec![sealed(&object()), sealed(&object())]).unwrap().len(), 2);
    assert!(Sealed::join(vec![sealed(&object()), sealed(&Arc::new(other))]).is_none());
    assert!(Sealed::join(Vec::new()).is_none());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_range_of_any_part_opens_from_exactly_the_chunks_it_names(
        len in 0_u64..5 * PLAIN_BYTES as u64,
        a: prop::sample::Index,
        b: prop::sample::Index,
        segments_per_chunk in 1_u32..4,
        seal_step in 1000_usize..200_000,
        open_step in 1000_usize..200_000,
    ) {
        let plain = pattern(len as usize, 1);
        let part = row(PART, len, segments_per_chunk * SEGMENT_BYTES as u32);
        let layout = Layout::of(&part).unwrap();
        let sealed = seal_in_steps(&key(), PART, &plain, seal_step);
        let range = if len == 0 { 0..0 } else {
            let (a, b) = (a.index(len as usize) as u64, b.index(len as usize) as u64);
            a.min(b)..a.max(b) + 1
        };
        let opened = open_range(&key(), &part, range.clone(), &sealed, open_step).unwrap();
        prop_assert_eq!(&opened, &plain[range.start as usize..range.end as usize]);

        // What a site is asked for, chunk by chunk, is that same stretch.
        let located = layout.locate(range).unwrap();
        let mut fetched = Vec::new();
        for piece in &located.chunks {
            let chunk = layout.chunk(piece.index).unwrap();
            let chunk = &sealed[chunk.start as usize..chunk.end as usize];
            fetched.extend_from_slice(&chunk[piece.bytes.start as usize..piece.bytes.end as usize]);
        }
        prop_assert_eq!(&fetched, &sealed[located.sealed.start as usize..located.sealed.end as usize]);
    }

    #[test]
    fn chunks_laid_end_to_end_are_the_message(len in 0_u64..=crate::limits::PART_BYTES_MAX, segments in 1_u32..=255) {
        let layout = Layout::new(len, segments * SEGMENT_BYTES as u32).unwrap();
        let mut at = 0;
        for index in 0..layout.chunks().min(4) {
            let chunk = layout.chunk(index).unwrap();
            prop_assert_eq!(chunk.start, at);
            prop_assert!(chunk.end > chunk.start && chunk.end - chunk.start <= crate::limits::CHUNK_BYTES_MAX as u64);
            prop_assert!(chunk.end == layout.sealed_len() || (chunk.end - HEADER_BYTES as u64).is_multiple_of(SEGMENT_BYTES as u64));
            at = chunk.end;
        }
        let last = layout.chunk(layout.chunks() - 1).unwrap();
        prop_assert_eq!(last.end, layout.sealed_len());
        prop_assert!(layout.chunk(layout.chunks()).is_none());
        prop_assert_eq!(layout.segments(), segment_count(len));
    }

    #[test]
    fn any_bytes_in_place_of_ciphertext_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..400), len in 0_u64..300) {
        let part = row(PART, len, CHUNK_LEN_MAX);
        prop_assert!(open_all(&part, &bytes, 100).is_err());
        prop_assert!(open_part(&key(), &part, &bytes).is_err());
    }

    #[test]
    fn a_row_whose_lengths_contradict_each_other_is_refused(plain: u64, sealed: u64, chunk_len: u32) {
        let part = Part { sealed_len: sealed, ..row(PART, 0, chunk_len) };
        let part = Part { plain_len: plain, ..part };
        prop_assert!(Layout::of(&part).is_err() || sealed == sealed_len(plain));
    }
}
