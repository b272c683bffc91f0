//! Our tree, proofs and notes against an implementation that is not ours
//! (`tlog_tiles`, `signed_note`, ported from the Go checksum database).

use std::convert::Infallible;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use proptest::prelude::*;
use ringfence_format::checkpoint::{Checkpoint, VerifierKey, verify};
use ringfence_format::leaf::Hash;
use ringfence_format::proof::{self, Nodes};
use ringfence_format::tile::{Edge, TileKind, TilePath, leaf_hash, root_over};
use signed_note::{Note, Signer, StandardSigner, StandardVerifier, VerifierList};
use tlog_tiles::{HashReader, Tile};

/// Their store of hashes.
struct Stored(Vec<tlog_tiles::Hash>);

impl HashReader for Stored {
    fn read_hashes(&self, indexes: &[u64]) -> Result<Vec<tlog_tiles::Hash>, tlog_tiles::Error> {
        Ok(indexes.iter().map(|i| self.0[*i as usize]).collect())
    }
}

/// Our hashes, from the leaves.
struct Leaves(Vec<Hash>);

impl Nodes for Leaves {
    type Error = Infallible;
    fn hashes(&mut self, level: u32, first: u64, count: u64) -> Result<Vec<Hash>, Infallible> {
        let span = 1u64 << (8 * level);
        Ok((first..first + count).map(|i| root_over(&self.0[(i * span) as usize..((i + 1) * span) as usize])).collect())
    }
}

fn both(size: u64) -> (Stored, Leaves) {
    let (mut stored, mut leaves) = (Stored(Vec::new()), Leaves(Vec::new()));
    for i in 0..size {
        let entry = format!("entry {i}");
        let hashes = tlog_tiles::stored_hashes(i, entry.as_bytes(), &stored).unwrap();
        stored.0.extend(hashes);
        leaves.0.push(leaf_hash(entry.as_bytes()));
    }
    (stored, leaves)
}

fn theirs(hashes: &[Hash]) -> Vec<tlog_tiles::Hash> {
    hashes.iter().map(|h| tlog_tiles::Hash(*h)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn roots_and_proofs_are_the_same(size in 1u64..1500, at in any::<prop::sample::Index>()) {
        let (stored, mut leaves) = both(size);
        let at = at.index(size as usize) as u64;
        let root = proof::root(&mut leaves, size).unwrap();
        let mut edge = Edge::new();
        leaves.0.iter().for_each(|hash| edge.push(*hash, &mut Vec::new()));
        prop_assert_eq!(edge.root(), root);
        prop_assert_eq!(tlog_tiles::tree_hash(size, &stored).unwrap().0, root);

        let ours = proof::inclusion(&mut leaves, at, size).unwrap();
        prop_assert_eq!(theirs(&ours), tlog_tiles::prove_record(size, at, &stored).unwrap());
        prop_assert!(proof::verify_inclusion(&leaves.0[at as usize], at, size, &root, &ours));

        let earlier = at + 1;
        let old = proof::root(&mut leaves, earlier).unwrap();
        let ours = proof::consistency(&mut leaves, earlier, size).unwrap();
        prop_assert_eq!(theirs(&ours), tlog_tiles::prove_tree(size, earlier, &stored).unwrap());
        prop_assert!(proof::verify_consistency(earlier, &old, size, &root, &ours));
    }

    #[test]
    fn a_changed_proof_convinces_neither(size in 2u64..400, at in any::<prop::sample::Index>(), bit in 0usize..256) {
        let (_, mut leaves) = both(size);
        let at = at.index(size as usize) as u64;
        let root = proof::root(&mut leaves, size).unwrap();
        let leaf = leaves.0[at as usize];
        let mut path = proof::inclusion(&mut leaves, at, size).unwrap();
        let hash = bit % path.len();
        path[hash][bit / 8] ^= 1 << (bit % 8);
        prop_assert!(!proof::verify_inclusion(&leaf, at, size, &root, &path));
        let (their_root, their_leaf) = (tlog_tiles::Hash(root), tlog_tiles::Hash(leaf));
        prop_assert!(tlog_tiles::check_record(&theirs(&path), size, their_root, at, their_leaf).is_err());
    }

    #[test]
    fn paths_are_the_same_but_for_the_height(level in 0u32..8, index in 0u64..5_000_000_000, width in 1u64..=256) {
        let ours = TilePath { kind: TileKind::Hashes(level), index, width };
        let theirs = Tile::new(8, level as u8, index, width as u32, false).path();
        prop_assert_eq!(ours.to_string(), theirs.replacen("tile/8/", "tile/", 1));
        prop_assert_eq!(ours.to_string().parse(), Ok(ours));
    }

    #[test]
    fn notes_are_the_same(size in any::<u64>(), root in any::<Hash>(), seed in any::<[u8; 32]>()) {
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed).unwrap();
        let key = VerifierKey::new("example.org/log", pair.public_key().as_ref().try_into().unwrap()).unwrap();
        let checkpoint = Checkpoint { origin: "example.org/log".into(), size, root };
        let signature = pair.sign(checkpoint.to_text().as_bytes());
        let ours = checkpoint.to_note(&key, signature.as_ref().try_into().unwrap());

        // They accept ours, and make the same.
        let known = VerifierList::new(vec![Box::new(StandardVerifier::new(&key.to_string()).unwrap())]);
        let note = Note::from_bytes(ours.as_bytes()).unwrap();
        prop_assert_eq!(note.verify(&known).unwrap().0.len(), 1);
        let parsed = tlog_tiles::Checkpoint::from_bytes(note.text()).unwrap();
        prop_assert_eq!((parsed.size(), parsed.hash().0), (size, root));
        let secret = BASE64.encode([&[1], &seed[..]].concat());
        let id = hex::encode(key.id());
        let signer = StandardSigner::new(&format!("PRIVATE+KEY+example.org/log+{id}+{secret}")).unwrap();
        let mut note = Note::new(checkpoint.to_text().as_bytes(), &[]).unwrap();
        note.add_sigs(&[&signer as &dyn Signer]).unwrap();
        prop_assert_eq!(&note.to_bytes(), ours.as_bytes());
        // We accept theirs.
        prop_assert_eq!(verify(&ours, &key).unwrap(), checkpoint);
    }

    #[test]
    fn no_text_makes_the_parsers_panic(text in "\\PC*") {
        let _ = text.parse::<TilePath>();
        let _ = text.parse::<VerifierKey>();
        let _ = Checkpoint::from_text(&text);
        let _ = proof::Proof::from_text(&text);
    }
}
