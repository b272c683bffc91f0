//! What records say to everybody: it is read without a key, stays when fields
//! go, and cannot be changed on the disk unseen.

mod support;

use std::path::{Path, PathBuf};

use ringfence_db::disk::sim::SimDisk;
use ringfence_format::leaf::{BadPublic, ISSUANCE, MANIFEST, Opening, PublicEntry, REVOCATION, RedoFate};
use ringfence_format::limits::PUBLIC_ENTRY_BYTES_MAX;
use ringfence_format::proof::Proof;
use ringfence_format::tile::{self, leaf_hash};
use ringfence_log::{Fate, Log, LogError, OpenError, Place, Run, fsck};
use support::{Say, dir, number, open, options, say};

const RECORDS: u64 = 700;

fn stepped(disk: &SimDisk) -> Log {
    open(disk.shared(), &dir(), options(Run::Stepped)).unwrap()
}

/// What record `n` says to everybody: every third of them something.
fn entry(n: u64) -> Say {
    let what = format!("what record {n} says").into_bytes();
    match n % 9 {
        0 => say(n).public(ISSUANCE, &what),
        3 => say(n).public(MANIFEST, &[what, vec![b'.'; 700]].concat()),
        6 => say(n).public(REVOCATION, &what),
        _ => say(n),
    }
}

fn expected(records: std::ops::Range<u64>) -> Vec<(u64, PublicEntry)> {
    records.filter_map(|n| Some((n, entry(n).public?))).collect()
}

/// Records it; where segments are used up faster than prepared, prepares them.
fn record(log: &Log, entry: &Say) -> u64 {
    loop {
        match log.record_batch(vec![entry.clone()]) {
            Ok(recorded) => return recorded[0].index(),
            Err(LogError::Busy(_)) => log.publish().unwrap(),
            Err(error) => panic!("{error}"),
        }
    }
}

fn sample() -> SimDisk {
    let disk = SimDisk::new();
    let log = stepped(&disk);
    (0..RECORDS).for_each(|n| assert_eq!(record(&log, &entry(n).padded(200)), n));
    log.publish().unwrap();
    disk
}

fn read(log: &Log, from: u64) -> Result<Vec<(u64, PublicEntry)>, LogError> {
    log.read_public(from).collect()
}

fn verified(disk: &SimDisk, log: &Log) -> Result<fsck::Verified, fsck::NotVerified> {
    fsck::verify(disk, &dir(), log.verifier_key(), None, |_, _| ())
}

#[test]
fn what_records_say_is_read_in_order_from_anywhere_and_without_a_key() {
    let disk = sample();
    let log = stepped(&disk);
    for from in [0, 1, 255, 256, 257, 511, 600, 699, 700, 5000] {
        assert_eq!(read(&log, from).unwrap(), expected(from..RECORDS), "from {from}");
    }
    // Those that no checkpoint covers yet are there too, and those made meanwhile.
    let mut reading = log.read_public(690);
    assert_eq!(reading.by_ref().count(), expected(690..RECORDS).len());
    (RECORDS..RECORDS + 30).for_each(|n| assert_eq!(record(&log, &entry(n)), n));
    let rest: Result<Vec<_>, _> = reading.collect();
    assert_eq!(rest.unwrap(), expected(RECORDS..RECORDS + 30));
    log.publish().unwrap();
    assert_eq!(read(&log, 0).unwrap(), expected(0..RECORDS + 30));
    assert_eq!(verified(&disk, &log).unwrap().public, expected(0..RECORDS + 30).len() as u64);

    let opened = log.lookup(693).unwrap();
    assert_eq!((number(&opened), opened.public), (693, entry(693).public));
    assert_eq!(log.entry(693).unwrap().public(), entry(693).public);
    assert_eq!(log.entry(694).unwrap().public(), None);
}

#[test]
fn a_bundle_holds_what_outsiders_read() {
    let disk = sample();
    let log = stepped(&disk);
    for (path, first) in [("tile/entries/001", 256), ("tile/entries/002.p/188", 512)] {
        let bundle = log.tile(path).unwrap();
        let hashes = tile::hashes(&log.tile(&path.replace("entries", "0")).unwrap()).unwrap();
        for ((seq, entry), hash) in (first..).zip(tile::entries(&bundle).unwrap()).zip(hashes) {
            assert_eq!((leaf_hash(entry), entry), (hash, &*log.entry(seq).unwrap()));
            let Some(public) = self::entry(seq).public else { continue };
            assert_eq!((entry[0], &entry[33..]), (public.kind, &public.bytes[..]));
        }
    }
}

#[test]
fn what_has_no_place_in_the_log_is_refused_and_leaves_no_gap() {
    let log = stepped(&SimDisk::new());
    let long = vec![1; PUBLIC_ENTRY_BYTES_MAX + 1];
    for (kind, bytes, why) in [
        (0, &b"x"[..], BadPublic::Kind(0)),
        (1, b"", BadPublic::Kind(1)),
        (6, b"x", BadPublic::Kind(6)),
        (2, b"", BadPublic::Empty),
        (2, &long, BadPublic::TooLong(long.len())),
    ] {
        match log.record_batch(vec![say(0), say(1).public(kind, bytes)]) {
            Err(LogError::Public(refused)) => assert_eq!(refused, why),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(record(&log, &say(0).public(2, &long[1..])), 0);
    log.publish().unwrap();
    assert_eq!(read(&log, 0).unwrap().len(), 1);
}

#[test]
fn retention_and_erasure_leave_it_and_a_proof_carries_it() {
    let disk = sample();
    let log = stepped(&disk);
    log.seal_segment().unwrap();
    let before: Vec<Proof> = [0, 3, 6].map(|seq| log.prove(seq).unwrap()).into();
    let [because] = log.record_batch(vec![say(9999)]).unwrap().try_into().unwrap();
    let judge = |place: &Place<'_>| {
        Ok::<_, LogError>(match place.seq % 9 {
            0 => Fate::Trim(RedoFate::Goes),
            3 => Fate::Erase(RedoFate::Goes),
            6 => Fate::Reseal,
            _ => Fate::Stay,
        })
    };
    let cut = log.cut(&because, RECORDS, judge).unwrap();
    assert!(cut.trimmed > 70 && cut.erased > 70 && cut.resealed > 70, "{cut:?}");
    log.publish().unwrap();
    assert!(matches!(log.lookup(0), Err(LogError::Unreadable { why: OpenError::Trimmed { .. }, .. })));
    assert_eq!(read(&log, 0).unwrap(), expected(0..RECORDS));
    assert_eq!(verified(&disk, &log).unwrap().records, RECORDS + 1);
    for (seq, old) in [0, 3, 6].into_iter().zip(before) {
        old.verify(log.verifier_key()).unwrap();
        let proof = Proof::from_text(&log.prove(seq).unwrap().to_text()).unwrap();
        proof.verify(log.verifier_key()).unwrap();
        assert_eq!(proof.openings.public, entry(seq).public);
        assert_eq!(matches!(proof.openings.core, Opening::Closed(_)), seq == 0);
        assert_eq!(matches!(proof.openings.subject, Opening::Closed(_)), seq != 6);
        let mut forged = proof;
        forged.openings.public.as_mut().unwrap().bytes[0] ^= 1;
        assert!(forged.verify(log.verifier_key()).is_err());
        forged.openings.public = None;
        assert!(forged.verify(log.verifier_key()).is_err());
    }
    // Its mark covers it: in the name of a record that took its fields nobody
    // without the key changes what it says.
    drop(log);
    let first = segments(&disk)[0].clone();
    disk.tamper(&first, |bytes| support::rewrite(bytes, |seq, sealed| forge(seq, 0, &mut sealed.public)));
    let log = stepped(&disk);
    assert!(matches!(log.change(0), Err(LogError::Unreadable { why: OpenError::Corrupt(_), .. })));
}

fn segments(disk: &SimDisk) -> Vec<PathBuf> {
    let is_segment = |p: &PathBuf| p.starts_with("/log/records") && p.to_string_lossy().contains("-0");
    disk.files().into_iter().map(|(path, _)| path).filter(is_segment).collect()
}

fn forge(seq: u64, target: u64, public: &mut Option<PublicEntry>) {
    if seq == target {
        public.as_mut().expect("the target says something").bytes[0] ^= 1;
    }
}

#[test]
fn a_changed_byte_of_it_is_found_wherever_it_lies() {
    let disk = sample();
    let key = stepped(&disk).verifier_key().clone();
    let check = |disk: &SimDisk| fsck::verify(disk, &dir(), &key, None, |_, _| ());
    assert!(check(&disk).is_ok());
    // In a sealed segment: fsck compares it with the tree, readers do not read it there.
    let sealed = disk.duplicate();
    sealed.tamper(&segments(&disk)[0], |bytes| support::rewrite(bytes, |seq, s| forge(seq, 9, &mut s.public)));
    assert!(matches!(check(&sealed), Err(fsck::NotVerified::Diverges { index: 9, .. })));
    assert_eq!(read(&stepped(&sealed), 0).unwrap(), expected(0..RECORDS));
    // Taken away as a whole, or put where there was none.
    for seq in [9, 10] {
        let other = disk.duplicate();
        other.tamper(&segments(&disk)[0], |bytes| {
            support::rewrite(bytes, |found, sealed| {
                if found == seq {
                    sealed.public = sealed.public.take().xor(Some(PublicEntry { kind: 4, bytes: b"new".into() }));
                    sealed.public = sealed.public.take().filter(|_| seq == 10);
                }
            })
        });
        assert!(matches!(check(&other), Err(fsck::NotVerified::Diverges { index, .. }) if index == seq));
    }
    // Behind the edge from which a start reads: it compares with what was signed.
    let active = disk.duplicate();
    let log = stepped(&active);
    (RECORDS..RECORDS + 9).for_each(|n| assert_eq!(record(&log, &entry(n)), n));
    log.publish().unwrap();
    drop(log);
    let last = segments(&disk).pop().unwrap();
    active.tamper(&last, |bytes| change_said(bytes));
    match open(active.shared(), &dir(), options(Run::Stepped)) {
        Err(LogError::Broken { index, .. }) => assert_eq!(index, 708),
        other => panic!("{other:?}"),
    }
    assert!(check(&active).is_err());
    // In the bundles and the tiles above them: readers believe none of it.
    for (path, from) in [("/log/tile/entries/001", 256), ("/log/tile/entries/000", 0)] {
        let bundle = disk.duplicate();
        bundle.tamper(Path::new(path), |bytes| change_said(bytes));
        assert!(check(&bundle).is_err());
        let mut found = stepped(&bundle).read_public(from);
        assert!(matches!(found.next(), Some(Err(LogError::Broken { index, .. })) if index == from));
        assert!(found.next().is_none(), "it ends there");
    }
    // In the shortcut of the next start, which then takes the long way.
    let edge = disk.duplicate();
    edge.tamper(Path::new("/log/edge"), |bytes| change_said(bytes));
    assert_eq!(read(&stepped(&edge), 0).unwrap(), expected(0..RECORDS));
    assert!(check(&edge).is_ok());
}

/// Changes the last `says` into `sayz`; a frame's checksum is made to fit.
fn change_said(bytes: &mut [u8]) {
    let at = bytes.windows(5).rposition(|w| w == b" says").expect("something is said here") + 4;
    bytes[at] = b'z';
    if bytes.starts_with(b"ringfence log") {
        let frame = (64..at).rev().filter(|i| i % 8 == 0).find(|i| frame_holds(bytes, *i, at)).unwrap();
        let len = u32::from_be_bytes(bytes[frame..frame + 4].try_into().unwrap()) as usize;
        let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi);
        for part in [&bytes[frame..frame + 4], &bytes[frame + 8..frame + 32], &bytes[frame + 32..frame + 32 + len]] {
            digest.update(part);
        }
        let crc = (digest.finalize() as u32).to_be_bytes();
        bytes[frame + 4..frame + 8].copy_from_slice(&crc);
    }
}

/// Whether a frame may begin here whose payload covers `at`.
fn frame_holds(bytes: &[u8], frame: usize, at: usize) -> bool {
    let len = u32::from_be_bytes(bytes[frame..frame + 4].try_into().unwrap()) as usize;
    len < 4096 && frame + 32 < at && at < frame + 32 + len && bytes[frame + 28..frame + 32] == [0; 4]
}

#[test]
fn what_a_crash_leaves_says_what_was_acknowledged() {
    let work = |disk: &SimDisk| {
        let mut said = Vec::new();
        let Ok(log) = open(disk.shared(), &dir(), options(Run::Stepped)) else { return said };
        for n in 0..40u64 {
            match log.record_batch(vec![entry(n).padded(5000)]) {
                Ok(done) => said.push((done[0].index(), done[0].public.clone())),
                Err(LogError::Busy(_)) => {}
                Err(_) => return said,
            }
            if n % 4 == 3 && log.publish().is_err() {
                return said;
            }
        }
        said
    };
    let all = SimDisk::new();
    work(&all);
    let mut compared = 0;
    for n in (1..=all.effects()).step_by(3) {
        let disk = SimDisk::new();
        disk.stop_before(n);
        let said = work(&disk);
        for after in [disk.crash(n), disk.kill()] {
            let log = stepped(&after);
            let found = read(&log, 0).unwrap();
            for (index, public) in &said {
                let there = found.iter().find(|(seq, _)| seq == index).map(|(_, public)| public);
                assert_eq!(there, public.as_ref(), "stopped before effect {n}: record {index}");
                compared += 1;
            }
            log.publish().unwrap();
            assert_eq!(verified(&after, &log).unwrap().entries, log.durable_size());
            assert_eq!(read(&log, 0).unwrap(), found, "the tree says what the records said");
        }
    }
    assert!(compared > 500, "{compared}");
}
