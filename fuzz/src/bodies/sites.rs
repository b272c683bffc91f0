//! The formats: what sites, auditors and our own disks may hand us.

use minicbor::{Decode, Encode};
use ringfence_format::checkpoint::{Checkpoint, VerifierKey, verify};
use ringfence_format::chunk::parse_name;
use ringfence_format::envelope::Fetched;
use ringfence_format::head;
use ringfence_format::leaf::{LeafEntry, Openings, SealedRecord, parse_request_id, request_id};
use ringfence_format::names::{BucketName, KeyId, Label, ObjectKey, Principal, Realm, SiteId, Tenant, VersionUid};
use ringfence_format::proof::Proof;
use ringfence_format::record::Record;
use ringfence_format::redo::Redo;
use ringfence_format::tile::{self, Edge, TilePath};

use super::Came;

/// What an auditor is given: notes, checkpoints, proofs, tiles, keys, request ids.
pub fn evidence(bytes: &[u8]) -> Came {
    let mut came = u16::from(tile::entries(bytes).is_some() && !bytes.is_empty());
    let _ = tile::hashes(bytes);
    if let Some(entry) = LeafEntry::from_bytes(bytes) {
        came = 1;
        assert_eq!(&*entry, bytes);
    }
    if let Some(edge) = Edge::from_bytes(bytes) {
        came = 1;
        let _ = edge.root();
        assert_eq!(edge.to_bytes(), bytes);
    }
    let Ok(text) = std::str::from_utf8(bytes) else { return came };
    let key = VerifierKey::new("fuzz.example/log", [7; 32]).expect("a name and 32 bytes");
    assert!(verify(text, &key).is_err(), "nobody signed this");
    if let Ok(checkpoint) = Checkpoint::from_text(text) {
        came = 1;
        assert_eq!(Checkpoint::from_text(&checkpoint.to_text()).expect("what we wrote"), checkpoint);
    }
    if let Ok(proof) = Proof::from_text(text) {
        came = 1;
        assert_eq!(Proof::from_text(&proof.to_text()).expect("what we wrote"), proof);
        assert!(proof.verify(&key).is_err(), "nobody signed this");
    }
    if let Ok(path) = text.parse::<TilePath>() {
        came = 1;
        assert_eq!(path.to_string(), text);
    }
    if let Ok(key) = text.parse::<VerifierKey>() {
        came = 1;
        assert_eq!(key.to_string(), text);
    }
    if let Some(seq) = parse_request_id(text) {
        came = 1;
        assert_eq!(request_id(seq), text.to_uppercase());
    }
    came
}

/// Records, redos and openings: what is accepted is written again as it was read.
pub fn records(bytes: &[u8]) -> Came {
    let mut came = 0;
    if let Ok(sealed) = SealedRecord::from_bytes(bytes) {
        came = 1;
        assert_eq!(SealedRecord::from_bytes(&sealed.to_bytes()).expect("what we wrote"), sealed);
    }
    if let Ok(openings) = Openings::from_bytes(bytes) {
        came = 1;
        assert_eq!(Openings::from_bytes(&openings.to_bytes()).expect("what we wrote"), openings);
        let _ = openings.fields();
        let entry = openings.entry();
        assert_eq!((entry.public(), LeafEntry::from_bytes(&entry)), (openings.public, Some(entry.clone())));
    }
    came | again::<Record>(bytes) | again::<Redo>(bytes)
}

fn again<T: for<'b> Decode<'b, ()> + Encode<()> + PartialEq + std::fmt::Debug>(bytes: &[u8]) -> Came {
    let Ok(read) = minicbor::decode::<T>(bytes) else { return 0 };
    let written = minicbor::to_vec(&read).expect("in memory");
    assert_eq!(minicbor::decode::<T>(&written).expect("what we wrote"), read);
    1
}

/// What a site may answer with, and names from anywhere.
pub fn sites(bytes: &[u8]) -> Came {
    let head = head::parse(&Fetched::new(bytes::Bytes::copy_from_slice(bytes))).is_ok();
    let Ok(text) = std::str::from_utf8(bytes) else { return head.into() };
    let chunk = parse_name(text).is_some();
    let names = [
        BucketName::parse(text).map(|n| n.to_string()),
        ObjectKey::parse(text).map(|n| n.to_string()),
        Tenant::parse(text).map(|n| n.to_string()),
        KeyId::parse(text).map(|n| n.to_string()),
        Label::parse(text).map(|n| n.to_string()),
        Principal::parse(text).map(|n| n.to_string()),
        Realm::parse(text).map(|n| n.to_string()),
        SiteId::parse(text).map(|n| n.to_string()),
    ];
    for (which, name) in names.iter().enumerate() {
        assert!(name.is_err() || name.as_deref() == Ok(text), "a name is what was parsed");
        // A key may be nearly anything; every other name may stand in a path.
        let plain = !text.contains(['/', '\0', '\n']) && !text.is_empty() && text != "." && text != "..";
        assert!(which == 1 || name.is_err() || plain, "{text:?} is a name and no file name");
    }
    if let Some(uid) = VersionUid::from_hex(text) {
        assert_eq!(uid.to_string(), text.to_lowercase());
    }
    u16::from(head || chunk || names.iter().any(Result::is_ok))
}
