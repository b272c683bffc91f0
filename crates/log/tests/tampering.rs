//! `fsck::verify` finds what anybody may have done to the files.

mod support;

use std::path::{Path, PathBuf};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use ringfence_db::disk::Disk;
use ringfence_db::disk::sim::SimDisk;
use ringfence_format::checkpoint::VerifierKey;
use ringfence_log::Run;
use ringfence_log::fsck::{NotVerified, Verified, verify};
use support::{ORIGIN, dir, open, options, say_all};

fn key() -> VerifierKey {
    let pair = Ed25519KeyPair::from_seed_unchecked(&[1; 32]).unwrap();
    VerifierKey::new(ORIGIN, pair.public_key().as_ref().try_into().unwrap()).unwrap()
}

fn check(disk: &SimDisk, earlier: Option<&str>) -> Result<Verified, NotVerified> {
    verify(disk, &dir(), &key(), earlier, |_, _| ())
}

/// A log of 700 records, with the checkpoint it had at 300.
fn sample() -> (SimDisk, String) {
    let disk = SimDisk::new();
    let log = open(disk.shared(), &dir(), options(Run::Threads)).unwrap();
    say_all(&log, 0..300);
    log.publish().unwrap();
    let earlier = log.checkpoint();
    say_all(&log, 300..700);
    log.publish().unwrap();
    log.settle();
    drop(log);
    (disk, earlier)
}

fn segments(disk: &SimDisk) -> Vec<PathBuf> {
    let is_segment = |p: &PathBuf| p.starts_with("/log/records") && p.to_string_lossy().contains("-0");
    disk.files().into_iter().map(|(path, _)| path).filter(is_segment).collect()
}

#[test]
fn an_untouched_log_verifies_with_the_public_key_alone() {
    let (disk, earlier) = sample();
    let done = check(&disk, Some(&earlier)).unwrap();
    assert_eq!((done.entries, done.records, done.beyond, done.extends), (700, 700, 0, Some(300)));
    assert!(segments(&disk).len() > 2);
    // An auditor's copy may hold the tree alone.
    for path in segments(&disk) {
        disk.unlink(&path).unwrap();
    }
    let done = check(&disk, Some(&earlier)).unwrap();
    assert_eq!((done.entries, done.records, done.without_records), (700, 0, 700));
}

#[test]
fn a_changed_byte_in_any_file_of_the_tree_is_found() {
    let (disk, _) = sample();
    let mut kinds = 0;
    for (path, bytes) in disk.files() {
        let seen = path.starts_with("/log/tile") || path.ends_with("checkpoint");
        // Partial tiles of earlier checkpoints belong to those.
        let old = path.to_string_lossy().contains(".p/")
            && !["/188", "/2"].iter().any(|w| path.to_string_lossy().ends_with(w));
        if !seen || old {
            continue;
        }
        kinds += 1;
        for at in [0, bytes.len() / 2, bytes.len() - 1] {
            let copy = disk.duplicate();
            copy.tamper(&path, |bytes| bytes[at] ^= 1);
            assert!(check(&copy, None).is_err(), "{} byte {at}", path.display());
        }
    }
    assert!(kinds >= 8, "{kinds}");
}

#[test]
fn a_changed_record_is_named_by_its_index() {
    let (disk, _) = sample();
    for (i, path) in segments(&disk).iter().enumerate() {
        let copy = disk.duplicate();
        copy.tamper(path, |bytes| bytes[64 + 40] ^= 1);
        match check(&copy, None) {
            Err(NotVerified::Diverges { index, .. }) => {
                let first: u64 = path.to_string_lossy()[path.to_string_lossy().len() - 20..].parse().unwrap();
                assert_eq!(index, first, "segment {i}");
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_record_taken_out_or_put_in_another_place_is_found() {
    let (disk, _) = sample();
    let all = segments(&disk);
    let gone = disk.duplicate();
    gone.unlink(&all[1]).unwrap();
    assert!(matches!(check(&gone, None), Err(NotVerified::Diverges { .. })));
    let swapped = disk.duplicate();
    let (_, bytes) = disk.files().into_iter().find(|(path, _)| *path == all[1]).unwrap();
    swapped.tamper(&all[0], |old| *old = bytes);
    assert!(matches!(check(&swapped, None), Err(NotVerified::Diverges { index: 0, .. })));
    let cut = disk.duplicate();
    cut.tamper(all.last().unwrap(), |bytes| bytes.truncate(2000));
    assert!(matches!(check(&cut, None), Err(NotVerified::Diverges { .. })));
}

/// The thief has the log's signing key and all of the disk.
#[test]
fn a_rewritten_and_signed_history_fails_only_against_an_earlier_checkpoint() {
    let (_, earlier) = sample();
    let forged = SimDisk::new();
    let log = open(forged.shared(), &dir(), options(Run::Threads)).unwrap();
    say_all(&log, 1..701);
    log.publish().unwrap();
    drop(log);
    assert!(check(&forged, None).is_ok(), "it is consistent in itself");
    assert_eq!(check(&forged, Some(&earlier)), Err(NotVerified::Rewritten { size: 300 }));

    let short = SimDisk::new();
    let log = open(short.shared(), &dir(), options(Run::Threads)).unwrap();
    say_all(&log, 0..10);
    drop(log);
    assert_eq!(check(&short, Some(&earlier)), Err(NotVerified::Shorter { now: 10, earlier: 300 }));
}

#[test]
fn a_checkpoint_by_another_key_is_not_believed() {
    let (disk, _) = sample();
    let pair = Ed25519KeyPair::from_seed_unchecked(&[2; 32]).unwrap();
    let other = VerifierKey::new(ORIGIN, pair.public_key().as_ref().try_into().unwrap()).unwrap();
    let found = verify(&disk, &dir(), &other, None, |_, _| ());
    assert!(matches!(found, Err(NotVerified::Checkpoint { .. })));
}

/// A start on a disk whose log was set back to an older copy, while the
/// checkpoint that was shown is still there.
#[test]
fn a_log_set_back_under_its_checkpoint_does_not_start() {
    let (disk, _) = sample();
    let last = segments(&disk).pop().unwrap();
    let first: u64 = last.to_string_lossy()[last.to_string_lossy().len() - 20..].parse().unwrap();
    let back = disk.duplicate();
    back.unlink(&last).unwrap();
    match open(back.shared(), &dir(), options(Run::Stepped)) {
        Err(ringfence_log::LogError::Broken { index, what }) => {
            assert_eq!(index, first);
            assert!(what.contains("700"), "{what}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_record_exchanged_on_the_disk_does_not_start_under_the_old_checkpoint() {
    let (disk, _) = sample();
    // Another log with one record different, records only, under our checkpoint.
    let other = SimDisk::new();
    let log = open(other.shared(), &dir(), options(Run::Threads)).unwrap();
    say_all(&log, 0..640);
    say_all(&log, 1000..1060);
    drop(log);
    let mixed = disk.duplicate();
    let theirs: Vec<(PathBuf, Vec<u8>)> = other.files();
    let ours = segments(&mixed);
    for path in &ours {
        let bytes = theirs.iter().find(|(p, _)| p == path).map(|(_, b)| b.clone());
        mixed.tamper(path, |old| *old = bytes.expect("both logs cut their segments alike"));
    }
    let edge = Path::new("/log/edge");
    if mixed.open_read(edge).is_ok() {
        mixed.unlink(edge).unwrap();
    }
    let tiles = |disk: &SimDisk| {
        let files = disk.files().into_iter();
        files.filter(|(path, _)| path.starts_with("/log/tile") || path.ends_with("checkpoint")).collect::<Vec<_>>()
    };
    let before = tiles(&mixed);
    match open(mixed.shared(), &dir(), options(Run::Stepped)) {
        Err(ringfence_log::LogError::Broken { index, .. }) => assert_eq!(index, 640),
        other => panic!("{other:?}"),
    }
    assert!(tiles(&mixed) == before, "the evidence is left as it was");
}

#[test]
fn segments_that_are_gone_were_taken_whatever_the_rest_says() {
    let (disk, _) = sample();
    let taken = disk.duplicate();
    taken.unlink(&segments(&taken)[0]).unwrap();
    assert!(matches!(check(&taken, None), Err(NotVerified::Diverges { index: 0, .. })));
    let start = open(taken.shared(), &dir(), options(Run::Stepped));
    assert!(matches!(start, Err(ringfence_log::LogError::Broken { index: 0, .. })));
}
