//! What does a session cost a gateway: with a checkpoint that it has verified
//! before, and with one that is new (the log's signature and three witnesses')?

#![allow(missing_docs)] // `criterion_group!` makes a function without

#[path = "../tests/support/mod.rs"]
mod support;

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use ringfence_format::checkpoint::Checkpoint;
use ringfence_format::session::{ISSUANCE, Issued, KeySet, Purpose, Receipt, Revocations, SessionToken};
use ringfence_format::tile::{leaf_hash, node_hash};
use ringfence_format::witness::{Quorum, WitnessKey, message};
use support::{Forge, NOW, ORIGIN, admit, claims, draft, entry, log_key, name, signer};

/// A tree of 2^20 leaves: a path of 20 hashes.
const HEIGHT: u32 = 20;

fn session(c: &mut Criterion) {
    let forge = Forge::default();
    let keys = KeySet::new(&forge.manifests);
    let paseto = forge.issuer.paseto(&claims());
    let entry = entry(ISSUANCE, &admit(draft(&claims(), &forge.issuer.public(), &paseto), &forge.admission).to_bytes());
    // Leaf 0: every sibling is to the right.
    let path: Vec<_> = (0..HEIGHT).map(|n| leaf_hash(&n.to_be_bytes())).collect();
    let root = path.iter().fold(leaf_hash(&entry), |hash, sibling| node_hash(&hash, sibling));
    let checkpoint = Checkpoint { origin: ORIGIN.to_owned(), size: 1 << HEIGHT, root };
    let text = checkpoint.to_text();
    let log = log_key(&signer(50));
    let mut note = checkpoint.to_note(&log, &signer(50).sign64(text.as_bytes()));
    let mut witnesses = vec![];
    for n in 70..73 {
        let public = signer(n).public().as_bytes().try_into().expect("Ed25519");
        let witness = WitnessKey::new(&format!("w{n}.example"), public).expect("a name");
        note.push_str(&witness.line(NOW, &signer(n).sign64(message(NOW, &text).as_bytes())));
        witnesses.push(witness);
    }
    let quorum = Quorum::new(witnesses, 3).expect("3 of 3");
    let path = path.into_iter().map(ringfence_format::session::PathHash).collect();
    let receipt = Receipt { index: 0, entry, path, checkpoint: note };
    let token = SessionToken::staple(&paseto, &receipt, None).expect("short enough");
    println!("a token of {} bytes", token.len());
    let home = name("home");
    let revocations = Revocations::default();
    let signed = |text: &str| {
        let token = SessionToken::parse(text).expect("a token");
        token.check_signature(&keys, Purpose::StsSession, &home, NOW + 1).expect("signed")
    };
    c.bench_function("session, checkpoint known", |b| {
        b.iter(|| {
            let issued = Issued::Root(checkpoint.size, &checkpoint.root);
            signed(black_box(&token)).check_issued(issued, &keys, &revocations).expect("issued")
        });
    });
    c.bench_function("session, checkpoint with 3 cosignatures not known", |b| {
        b.iter(|| {
            let signed = signed(black_box(&token));
            let note = &signed.receipt().expect("a receipt").checkpoint;
            let cosigned = quorum.met_by(note, &log).expect("3 of 3");
            let issued = Issued::Root(cosigned.checkpoint.size, &cosigned.checkpoint.root);
            signed.check_issued(issued, &keys, &revocations).expect("issued")
        });
    });
    c.bench_function("session, parse alone", |b| b.iter(|| SessionToken::parse(black_box(&token)).expect("a token")));
    c.bench_function("session, parse and signature", |b| b.iter(|| signed(black_box(&token))));
}

criterion_group!(benches, session);
criterion_main!(benches);
