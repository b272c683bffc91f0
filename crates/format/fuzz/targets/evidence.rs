//! What an auditor is given: notes, checkpoints, proofs, tiles, keys, request ids.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringfence_format::checkpoint::{Checkpoint, VerifierKey, verify};
use ringfence_format::leaf::{parse_request_id, request_id};
use ringfence_format::proof::Proof;
use ringfence_format::tile::{self, Edge, TilePath};

fuzz_target!(|bytes: &[u8]| {
    let _ = tile::entries(bytes);
    let _ = tile::hashes(bytes);
    if let Some(edge) = Edge::from_bytes(bytes) {
        let _ = edge.root();
        assert_eq!(edge.to_bytes(), bytes);
    }
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let key = VerifierKey::new("fuzz.example/log", [7; 32]).expect("a name and 32 bytes");
    assert!(verify(text, &key).is_err(), "nobody signed this");
    if let Ok(checkpoint) = Checkpoint::from_text(text) {
        assert_eq!(Checkpoint::from_text(&checkpoint.to_text()).expect("what we wrote"), checkpoint);
    }
    if let Ok(proof) = Proof::from_text(text) {
        assert_eq!(Proof::from_text(&proof.to_text()).expect("what we wrote"), proof);
        assert!(proof.verify(&key).is_err(), "nobody signed this");
    }
    if let Ok(path) = text.parse::<TilePath>() {
        assert_eq!(path.to_string(), text);
    }
    if let Ok(key) = text.parse::<VerifierKey>() {
        assert_eq!(key.to_string(), text);
    }
    if let Some(seq) = parse_request_id(text) {
        assert_eq!(request_id(seq), text.to_uppercase());
    }
});
