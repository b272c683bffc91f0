//! Receipts under the quorum in force, and what the log takes from witnesses.

mod support;

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use ringfence_db::disk::RealDisk;
use ringfence_format::checkpoint::verify;
use ringfence_format::leaf::{ISSUANCE, LeafEntry};
use ringfence_format::proof::{verify_consistency, verify_inclusion};
use ringfence_format::session::Receipt;
use ringfence_format::tile::leaf_hash;
use ringfence_format::witness::{Quorum, WitnessKey, message};
use ringfence_log::{Log, LogError, Options, Run};
use support::{open, options, say, say_all};

const SOON: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(50);

fn pair(seed: u8) -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap()
}

fn witness(seed: u8) -> WitnessKey {
    WitnessKey::new(&format!("w{seed}.example"), pair(seed).public_key().as_ref().try_into().unwrap()).unwrap()
}

fn quorum(k: usize, seeds: &[u8]) -> Quorum {
    Quorum::new(seeds.iter().copied().map(witness).collect(), k).unwrap()
}

/// The published note with cosignatures of these witnesses at these times.
fn cosigned(note: &str, by: &[(u8, u64)]) -> String {
    let text = &note[..note.find("\n\n").unwrap() + 1];
    by.iter().fold(note.to_owned(), |note, (seed, time_s)| {
        let signature = pair(*seed).sign(message(*time_s, text).as_bytes());
        note + &witness(*seed).line(*time_s, signature.as_ref().try_into().unwrap())
    })
}

/// Publishes only when asked: what a receipt waits for, it must ask for.
fn lazy() -> Options {
    Options { publish_every: Duration::from_secs(3600), ..options(Run::Threads) }
}

fn temp_log(options: Options) -> (tempfile::TempDir, Arc<Log>) {
    let dir = tempfile::tempdir().unwrap();
    let log = open(RealDisk::shared(), dir.path(), options).unwrap();
    (dir, Arc::new(log))
}

fn check(log: &Log, receipt: &Receipt) -> u64 {
    let checkpoint = verify(&receipt.checkpoint, log.verifier_key()).unwrap();
    let leaf = leaf_hash(&receipt.entry);
    let path = receipt.hashes();
    assert!(verify_inclusion(&leaf, receipt.index, checkpoint.size, &checkpoint.root, &path));
    checkpoint.size
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_witnesses_a_receipt_is_given_at_once_for_all_who_wait() {
    let (_dir, log) = temp_log(lazy());
    tokio::task::block_in_place(|| say_all(&log, 0..300));
    log.publish().unwrap();
    let waiting: Vec<_> = (0..50u64)
        .map(|n| {
            let log = log.clone();
            tokio::spawn(async move {
                let recorded = log.record(say(n).public(ISSUANCE, b"a session")).await.unwrap();
                log.receipt(recorded.index(), SOON).await.unwrap()
            })
        })
        .collect();
    for task in waiting {
        let receipt = task.await.unwrap();
        check(&log, &receipt);
        assert_eq!(LeafEntry::from_bytes(&receipt.entry).unwrap().public().unwrap().bytes, b"a session");
    }
    assert_eq!(log.wanted(), None, "nobody waits any more");
    for index in [0, 255, 256, 299] {
        check(&log, &log.receipt(index, SHORT).await.unwrap());
    }
    assert!(matches!(log.receipt(5000, SHORT).await, Err(LogError::NoRecord { .. })));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_quorum_a_receipt_waits_for_it_and_names_who_is_missing() {
    let (_dir, log) = temp_log(lazy());
    tokio::task::block_in_place(|| say_all(&log, 0..10));
    log.publish().unwrap();
    log.set_quorum(Some(quorum(2, &[1, 2, 3])));
    log.witness_failed("w2.example", "connection refused");
    let (checkpoint, note) = log.published().unwrap();
    assert!(!log.add_cosignatures(&cosigned(&note, &[(1, 1000)])).unwrap());
    match log.receipt(5, SHORT).await {
        Err(error @ LogError::QuorumLost { .. }) => {
            let told = error.to_string();
            assert!(told.contains("2 of 3") && told.contains("`w2.example`: connection refused"), "{told}");
            assert!(told.contains("`w3.example`: has not answered") && !told.contains("w1"), "{told}");
        }
        other => panic!("{other:?}"),
    }
    let task = {
        let log = log.clone();
        tokio::spawn(async move { log.receipt(5, SOON).await })
    };
    while log.wanted() != Some(6) {
        tokio::task::yield_now().await;
    }
    // Strangers, others' notes and the log's own key do not count.
    assert!(!log.add_cosignatures(&cosigned(&note, &[(9, 1000), (8, 1000)])).unwrap());
    let strange = cosigned(&note, &[(2, 1000)]).replace("w2.example", "w3.example");
    assert!(!log.add_cosignatures(&strange).unwrap());
    assert!(log.witnessed().is_none());
    assert!(log.add_cosignatures(&cosigned(&note, &[(3, 2000)])).unwrap(), "one and one are two");
    let receipt = task.await.unwrap().unwrap();
    assert_eq!(check(&log, &receipt), checkpoint.size);
    let met = quorum(2, &[1, 2, 3]).met_by(&receipt.checkpoint, log.verifier_key()).unwrap();
    assert_eq!(met.by.len(), 2);
    assert_eq!(log.witnessed().unwrap().vouched_until_s, 1000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_checkpoint_with_a_quorum_serves_until_a_newer_one_has_it() {
    let (dir, log) = temp_log(lazy());
    log.set_quorum(Some(quorum(1, &[1, 2])));
    tokio::task::block_in_place(|| say_all(&log, 0..270));
    log.publish().unwrap();
    let (old, note) = log.published().unwrap();
    assert!(log.add_cosignatures(&cosigned(&note, &[(1, 1000)])).unwrap());
    tokio::task::block_in_place(|| say_all(&log, 270..900));
    log.publish().unwrap();
    let (new, newer) = log.published().unwrap();
    for index in [0, 255, 256, 269] {
        assert_eq!(check(&log, &log.receipt(index, SHORT).await.unwrap()), old.size);
    }
    assert!(matches!(log.receipt(270, SHORT).await, Err(LogError::QuorumLost { .. })));
    let path = log.consistency_between(old.size, new.size).unwrap();
    assert!(verify_consistency(old.size, &old.root, new.size, &new.root, &path));
    let path = log.consistency_between(100, 600).unwrap();
    assert!(!path.is_empty());
    assert!(matches!(log.consistency_between(0, 901), Err(LogError::NoRecord { .. })));

    // Fresher is better, older is not, and a newer tree is best.
    assert!(log.add_cosignatures(&cosigned(&note, &[(2, 5000)])).unwrap());
    assert!(!log.add_cosignatures(&cosigned(&note, &[(1, 900)])).unwrap());
    assert_eq!(log.witnessed().unwrap().vouched_until_s, 5000);
    assert!(log.add_cosignatures(&cosigned(&newer, &[(1, 4000)])).unwrap());
    assert!(!log.add_cosignatures(&cosigned(&note, &[(1, 9000)])).unwrap());
    assert_eq!(check(&log, &log.receipt(0, SHORT).await.unwrap()), 900);

    // It is there after a restart, for whoever it satisfies.
    log.close().unwrap();
    drop(log);
    let log = open(RealDisk::shared(), dir.path(), lazy()).unwrap();
    assert!(log.witnessed().is_none(), "nobody said whom to believe");
    log.set_quorum(Some(quorum(2, &[1, 2])));
    assert!(log.witnessed().is_none());
    log.set_quorum(Some(quorum(1, &[1, 2])));
    assert_eq!(log.witnessed().unwrap().size(), 900);
    log.set_quorum(None);
    assert!(log.witnessed().is_none());
    check(&log, &log.receipt(0, SHORT).await.unwrap());
}

/// The thief of the log's key signs another history, or somebody sets the log back.
#[test]
fn what_was_cosigned_and_is_not_this_tree_is_a_fork() {
    let (dir, log) = temp_log(options(Run::Threads));
    log.set_quorum(Some(quorum(1, &[1])));
    say_all(&log, 0..300);
    log.publish().unwrap();
    let (_, note) = log.published().unwrap();
    let (_other_dir, other) = temp_log(options(Run::Threads));
    say_all(&other, 1..301);
    other.publish().unwrap();
    let forged = cosigned(&other.published().unwrap().1, &[(1, 1000)]);
    assert!(matches!(log.add_cosignatures(&forged), Err(LogError::Broken { .. })));
    assert!(log.witnessed().is_none());
    assert!(log.add_cosignatures(&cosigned(&note, &[(1, 1000)])).unwrap());
    log.close().unwrap();
    drop(log);

    let kept = dir.path().join("checkpoint.cosigned");
    let right = std::fs::read(&kept).unwrap();
    std::fs::write(&kept, &forged).unwrap();
    assert!(matches!(open(RealDisk::shared(), dir.path(), options(Run::Threads)), Err(LogError::Broken { .. })));
    say_all(&other, 301..400);
    other.publish().unwrap();
    std::fs::write(&kept, cosigned(&other.published().unwrap().1, &[(1, 1000)])).unwrap();
    match open(RealDisk::shared(), dir.path(), options(Run::Threads)) {
        Err(LogError::Broken { index: 300, what }) => assert!(what.contains("399"), "{what}"),
        other => panic!("{other:?}"),
    }
    // What nobody signed says nothing.
    std::fs::write(&kept, "torn").unwrap();
    let log = open(RealDisk::shared(), dir.path(), options(Run::Threads)).unwrap();
    log.set_quorum(Some(quorum(1, &[1])));
    assert!(log.witnessed().is_none());
    drop(log);
    std::fs::write(&kept, &right).unwrap();
    let log = open(RealDisk::shared(), dir.path(), options(Run::Threads)).unwrap();
    log.set_quorum(Some(quorum(1, &[1])));
    assert_eq!(log.witnessed().unwrap().size(), 300);
}
