//! What a caller of the log relies on, on a real file system.

mod support;

use std::sync::Arc;

use ringfence_db::clock::ManualClock;
use ringfence_db::disk::RealDisk;
use ringfence_format::checkpoint::verify;
use ringfence_format::proof::Proof;
use ringfence_format::redo::Redo;
use ringfence_log::{Log, LogError, Options, Run};
use support::{Sealer, Signer, numbers, open, options, say, say_all};

fn temp_log(options: Options) -> (tempfile::TempDir, Log) {
    let dir = tempfile::tempdir().unwrap();
    let log = open(RealDisk::shared(), dir.path(), options).unwrap();
    (dir, log)
}

#[test]
fn records_come_back_in_order_after_a_restart() {
    let (dir, log) = temp_log(options(Run::Threads));
    let done = log.record_batch((0..20).map(say).collect()).unwrap();
    assert_eq!((done[0].index(), done[19].index()), (0, 19));
    say_all(&log, 20..2000);
    assert_eq!(log.durable_size(), 2000);
    assert_eq!(numbers(&log), (0..2000).collect::<Vec<_>>());
    drop(log);
    let log = open(RealDisk::shared(), dir.path(), options(Run::Threads)).unwrap();
    assert_eq!(log.durable_size(), 2000);
    assert_eq!(numbers(&log), (0..2000).collect::<Vec<_>>());
    assert_eq!(log.record_batch(vec![say(2000)]).unwrap()[0].index(), 2000);
    assert_eq!(support::number(&log.lookup(1234).unwrap()), 1234);
    assert!(matches!(log.lookup(2001), Err(LogError::NoRecord { .. })));
}

#[test]
fn every_record_is_proved_under_the_published_checkpoint() {
    let (_dir, log) = temp_log(options(Run::Threads));
    say_all(&log, 0..700);
    log.publish().unwrap();
    let checkpoint = verify(&log.checkpoint(), log.verifier_key()).unwrap();
    assert_eq!(checkpoint.size, 700);
    for seq in [0, 1, 255, 256, 511, 512, 699] {
        let text = log.prove(seq).unwrap().to_text();
        let proof = Proof::from_text(&text).unwrap();
        assert_eq!(proof.verify(log.verifier_key()).unwrap(), checkpoint);
        assert_eq!(proof.openings.fields().unwrap().core.unwrap().op.0, format!("test:{seq}"));
    }
    for earlier in [1, 255, 256, 600, 700] {
        log.consistency(earlier).unwrap();
    }
    for path in ["tile/0/000", "tile/0/000.p/7", "tile/0/002.p/188", "tile/1/000.p/2", "tile/entries/002.p/1"] {
        assert!(!log.tile(path).unwrap().is_empty(), "{path}");
    }
    for path in ["tile/0/002.p/189", "tile/0/002", "tile/2/000.p/1", "tile/entries/003", "../log.vkey"] {
        assert!(matches!(log.tile(path), Err(LogError::NoTile(_))), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_tasks_get_each_index_once() {
    let (_dir, log) = temp_log(options(Run::Threads));
    let log = Arc::new(log);
    let tasks: Vec<_> = (0..64u64)
        .map(|task| {
            let log = log.clone();
            tokio::spawn(async move {
                let mut indices = Vec::new();
                for i in 0..50 {
                    loop {
                        match log.record(say(task * 50 + i)).await {
                            Ok(done) => break indices.push((done.index(), done.number)),
                            Err(LogError::Busy(_)) => tokio::task::yield_now().await,
                            Err(e) => panic!("{e}"),
                        }
                    }
                }
                indices
            })
        })
        .collect();
    let mut all = Vec::new();
    for task in tasks {
        let mine = task.await.unwrap();
        assert!(mine.is_sorted(), "a caller's records stand in the order it made them");
        all.extend(mine);
    }
    all.sort();
    assert_eq!(all.iter().map(|(index, _)| *index).collect::<Vec<_>>(), (0..3200).collect::<Vec<_>>());
    let said: Vec<u64> = all.into_iter().map(|(_, number)| number).collect();
    assert_eq!(numbers(&log), said);
}

#[test]
fn a_second_process_is_refused_and_told_why() {
    let (dir, _log) = temp_log(options(Run::Threads));
    let second = open(RealDisk::shared(), dir.path(), options(Run::Threads));
    assert!(matches!(second, Err(LogError::InUse(_))));
}

#[test]
fn a_permit_that_expired_is_not_recorded() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::new(1000));
    let signer = Arc::new(Signer::new());
    let log = Log::open(dir.path(), RealDisk::shared(), clock.clone(), Arc::new(Sealer), signer, options(Run::Threads))
        .unwrap();
    let mut entry = say(1);
    entry.deadline_us = Some(1000);
    assert!(log.record_batch(vec![entry.clone()]).is_ok(), "the last moment counts");
    clock.advance_us(1);
    assert!(matches!(log.record_batch(vec![say(2), entry]), Err(LogError::Stale)));
    assert_eq!(log.durable_size(), 1, "all of a batch or nothing of it");
}

#[test]
fn a_record_that_cannot_be_sealed_leaves_no_gap() {
    let (_dir, log) = temp_log(options(Run::Threads));
    let big = say(1).padded(1 << 20);
    assert!(matches!(log.record_batch(vec![say(0), big]), Err(LogError::TooLarge(_))));
    assert_eq!(log.record_batch(vec![say(0)]).unwrap()[0].index(), 0);
}

#[test]
fn the_leaf_commits_to_the_redo() {
    let (_dir, log) = temp_log(options(Run::Threads));
    let mut entry = say(1);
    entry.redo = Some(Redo::Start(7));
    drop(log.record_batch(vec![entry]).unwrap());
    let record = log.lookup(0).unwrap();
    assert_eq!(record.redo, Some(Redo::Start(7)));
    assert!(record.core.redo_sha256.is_some());
}

#[test]
fn a_closed_log_refuses_and_keeps_what_it_had() {
    let (dir, log) = temp_log(options(Run::Threads));
    drop(log.record_batch((0..10).map(say).collect()).unwrap());
    log.close().unwrap();
    assert!(matches!(log.record_batch(vec![say(11)]), Err(LogError::Closed)));
    assert_eq!(log.published_size(), 10);
    let note = std::fs::read_to_string(dir.path().join("checkpoint")).unwrap();
    assert_eq!(verify(&note, log.verifier_key()).unwrap().size, 10);
}
