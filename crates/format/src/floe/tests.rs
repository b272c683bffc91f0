//! The official known-answer tests in both directions, and an independent
//! implementation (`fast-floe`) as the judge of what we seal and open.

use std::fs;

use proptest::prelude::*;

use super::*;

const AAD: &[u8] = b"This is AAD";
const KEY: [u8; 32] = [0; 32];

fn hex_file(name: &str) -> Vec<u8> {
    let path = format!("{}/testdata/floe/{name}.txt", env!("CARGO_MANIFEST_DIR"));
    hex::decode(fs::read_to_string(path).unwrap().trim()).unwrap()
}

/// Every vector: name and parameters.
fn vectors() -> Vec<(String, Params)> {
    let rotation = Params { segment_bytes: 40, rotation_bits: 2 };
    let mut all = Vec::new();
    for maker in ["cpp", "go", "java", "pub_java", "rust"] {
        all.push((format!("{maker}_GCM256_IV256_4K"), Params::with_segment_bytes(4096)));
        all.push((format!("{maker}_GCM256_IV256_64"), Params::with_segment_bytes(64)));
        all.push((format!("{maker}_rotation"), rotation));
    }
    for name in ["java_lastSegAligned", "java_lastSegEmpty"] {
        all.push((name.to_owned(), Params::with_segment_bytes(40)));
    }
    all
}

#[test]
fn the_official_messages_open() {
    for (name, params) in vectors() {
        let plain = open(params, &KEY, AAD, &hex_file(&format!("{name}_ct"))).expect(&name);
        assert_eq!(*plain, hex_file(&format!("{name}_pt")), "{name}");
    }
}

#[test]
fn with_their_ivs_we_seal_the_official_messages_byte_for_byte() {
    for (name, params) in vectors() {
        let theirs = hex_file(&format!("{name}_ct"));
        let mut plain = &hex_file(&format!("{name}_pt"))[..];
        let iv = theirs[10..42].try_into().unwrap();
        let mut message = Message::new(params, &KEY, AAD, iv);
        let mut ours = message.header().to_vec();
        let segments: Vec<&[u8]> = theirs[HEADER_BYTES..].chunks(params.segment_bytes()).collect();
        for (position, theirs) in segments.iter().enumerate() {
            let (now, later) = plain.split_at(theirs.len() - SEGMENT_OVERHEAD_BYTES);
            let end = if position + 1 == segments.len() { End::Final } else { End::Internal };
            let mut segment = [&[0; 16][..], now, &[0; 16]].concat();
            message.seal_segment(position as u64, end, theirs[4..16].try_into().unwrap(), &mut segment).expect(&name);
            ours.extend(segment);
            plain = later;
        }
        assert_eq!(ours, theirs, "{name}");
    }
}

#[test]
fn every_bit_of_an_official_message_matters() {
    let params = Params::with_segment_bytes(64);
    let good = hex_file("rust_GCM256_IV256_64_ct");
    for bit in 0..good.len() * 8 {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(open(params, &KEY, AAD, &bad).is_err(), "bit {bit}");
    }
    for len in 0..good.len() {
        assert!(open(params, &KEY, AAD, &good[..len]).is_err(), "cut at {len}");
    }
    assert!(open(params, &KEY, AAD, &[&good[..], &[0]].concat()).is_err());
    assert_eq!(open(params, &KEY, b"This is aad", &good).err(), Some(FloeError::Header));
    assert_eq!(open(params, &[1; 32], AAD, &good).err(), Some(FloeError::Header));
    assert_eq!(open(Params::with_segment_bytes(65), &KEY, AAD, &good).err(), Some(FloeError::Header));
}

#[test]
fn a_segment_opens_at_its_own_place_only() {
    let params = Params::with_segment_bytes(64);
    let sealed = seal(params, &KEY, AAD, &[7; 32 * 3]);
    let mut message = Message::from_header(params, &KEY, AAD, &sealed[..HEADER_BYTES]).unwrap();
    let segments: Vec<&[u8]> = sealed[HEADER_BYTES..].chunks(64).collect();
    let mut plain = [0; 32];
    for (at, segment) in segments.iter().enumerate() {
        for position in 0..4 {
            for end in [End::Internal, End::Final] {
                let fits = at as u64 == position && (end == End::Final) == (at == 2);
                assert_eq!(message.open_segment(position, end, segment, &mut plain).is_ok(), fits);
            }
        }
    }
}

#[test]
fn positions_end_where_the_specification_says() {
    let params = Params::with_segment_bytes(64);
    let mut message = Message::new(params, &KEY, AAD, [1; 32]);
    let last = (1 << 40) - 1;
    assert_eq!(message.seal_segment(last, End::Internal, [0; 12], &mut [0; 64]), Err(FloeError::TooLong));
    assert_eq!(message.seal_segment(last + 1, End::Final, [0; 12], &mut [0; 64]), Err(FloeError::TooLong));
    message.seal_segment(last, End::Final, [0; 12], &mut [0; 64]).unwrap();
}

/// Seals as `fast-floe` does: full segments are internal as long as anything
/// follows.
fn seal(params: Params, key: &[u8; 32], aad: &[u8], plain: &[u8]) -> Vec<u8> {
    let mut message = Message::new(params, key, aad, [5; 32]);
    let mut out = message.header().to_vec();
    let pieces: Vec<&[u8]> = if plain.is_empty() { vec![plain] } else { plain.chunks(params.plain_bytes()).collect() };
    for (position, piece) in pieces.iter().enumerate() {
        let end = if position + 1 == pieces.len() { End::Final } else { End::Internal };
        let mut segment = [&[0; 16][..], piece, &[0; 16]].concat();
        message.seal_segment(position as u64, end, [position as u8; 12], &mut segment).unwrap();
        out.extend(segment);
    }
    out
}

proptest! {
    #[test]
    fn an_independent_implementation_opens_what_we_seal(
        key: [u8; 32],
        aad in proptest::collection::vec(any::<u8>(), 0..200),
        plain in proptest::collection::vec(any::<u8>(), 0..1000),
        segment in 64_u32..300,
    ) {
        let sealed = seal(Params::with_segment_bytes(segment), &key, &aad, &plain);
        let theirs = fast_floe::decrypt(&fast_floe::Key::from_bytes(key), &aad, &sealed).unwrap();
        prop_assert_eq!(theirs, plain);
    }

    #[test]
    fn we_open_what_an_independent_implementation_seals(
        key: [u8; 32],
        aad in proptest::collection::vec(any::<u8>(), 0..200),
        plain in proptest::collection::vec(any::<u8>(), 0..1000),
        segment in 64_u32..300,
    ) {
        let params = fast_floe::Parameters::with_segment_length(segment).unwrap();
        let sealed = fast_floe::encrypt(&fast_floe::Key::from_bytes(key), &aad, params, &plain).unwrap();
        prop_assert_eq!(&*open(Params::with_segment_bytes(segment), &key, &aad, &sealed).unwrap(), &plain);
    }
}
