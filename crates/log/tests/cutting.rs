//! Retention and erasure on the log's side: what is cut names its record, the
//! log verifies as before, and a crash anywhere leaves nothing half cut.

mod support;

use std::path::Path;

use ringfence_db::disk::Disk;
use ringfence_db::disk::sim::SimDisk;
use ringfence_format::leaf::{Opening, RedoFate};
use ringfence_format::redo::Redo;
use ringfence_log::{Changed, Fate, Log, LogError, OpenError, Place, Recorded, Run, fsck};
use support::{Say, dir, number, open, options, say, say_all};

const RECORDS: u64 = 700;

/// Several segments; every tenth record changes something.
fn sample() -> SimDisk {
    let disk = SimDisk::new();
    let log = stepped(&disk);
    for n in 0..RECORDS {
        let redo = n.is_multiple_of(10).then_some(Redo::Start(n as u32));
        drop(one(&log, Say { redo, ..say(n).padded(300) }));
    }
    log.publish().unwrap();
    disk
}

fn stepped(disk: &SimDisk) -> Log {
    open(disk.shared(), &dir(), options(Run::Stepped)).unwrap()
}

fn evidence(log: &Log) -> Recorded<Say> {
    one(log, say(9999))
}

/// Records; where segments are used up faster than prepared, prepares them.
fn one(log: &Log, entry: Say) -> Recorded<Say> {
    match log.record_batch(vec![entry.clone()]) {
        Ok(mut recorded) => recorded.remove(0),
        Err(LogError::Busy(_)) => {
            log.publish().unwrap();
            one(log, entry)
        }
        Err(error) => panic!("{error}"),
    }
}

/// Reads go after `before`, redos of numbers below 300 too; 605 is erased.
fn judge(place: &Place<'_>) -> Result<Fate, LogError> {
    Ok(match place.seq {
        605 => Fate::Erase(RedoFate::Stays),
        seq if seq >= 620 => Fate::StayFromHere,
        seq if seq.is_multiple_of(7) => Fate::Stay,
        seq if seq < 300 => Fate::Trim(RedoFate::Goes),
        _ => Fate::Trim(RedoFate::Stays),
    })
}

fn verified(disk: &SimDisk, log: &Log, earlier: &str) -> fsck::Verified {
    log.publish().unwrap();
    fsck::verify(disk, &dir(), log.verifier_key(), Some(earlier), |_, _| ()).unwrap()
}

/// Everything a reader may see of each record, after the cut of `judge`.
fn check_cut(log: &Log, by: u64) {
    for seq in 0..RECORDS {
        let fate = if seq >= 620 { Fate::Stay } else { judge_of(seq) };
        match (fate, log.lookup(seq)) {
            (Fate::Stay, Ok(record)) => assert_eq!(number(&record), seq),
            (Fate::Trim(_), Err(LogError::Unreadable { why: OpenError::Trimmed { by: named }, .. })) => {
                assert_eq!(named, by);
            }
            (Fate::Erase(_), Err(LogError::Unreadable { why: OpenError::Erased { by: named }, .. })) => {
                assert_eq!(named, by);
                assert_eq!(log.core(seq).unwrap().op.0, format!("test:{seq}"));
            }
            (fate, found) => panic!("record {seq}: {fate:?}, {found:?}"),
        }
        let expected = match (seq % 10, fate) {
            (0, Fate::Trim(RedoFate::Goes)) => Changed::Gone { by },
            (0, _) => Changed::By(Box::new(Redo::Start(seq as u32))),
            _ => Changed::Nothing,
        };
        assert_eq!(log.change(seq).unwrap().redo, expected, "record {seq}");
    }
}

fn judge_of(seq: u64) -> Fate {
    match seq {
        605 => Fate::Erase(RedoFate::Stays),
        _ if seq.is_multiple_of(7) => Fate::Stay,
        _ if seq < 300 => Fate::Trim(RedoFate::Goes),
        _ => Fate::Trim(RedoFate::Stays),
    }
}

#[test]
fn what_is_cut_is_gone_names_its_record_and_everything_verifies() {
    let disk = sample();
    let log = stepped(&disk);
    let earlier = log.checkpoint();
    let before = log.prove(600).unwrap();
    log.seal_segment().unwrap();
    let would = log.look(RECORDS, judge).unwrap();
    let because = evidence(&log);
    let by = because.index();
    let done = log.cut(&because, RECORDS, judge).unwrap();
    let counts = |cut: &ringfence_log::Cut| (cut.looked_at, cut.trimmed, cut.erased, cut.redos, cut.until);
    assert_eq!(counts(&would), counts(&done), "a look counts what a cut does");
    assert_eq!((done.erased, done.until), (1, 620));
    assert!(done.segments > 1 && done.bytes > 100 * done.trimmed, "{done:?}");
    check_cut(&log, by);
    assert!(log.cut(&because, RECORDS, judge).unwrap().is_empty(), "there is nothing left to do");
    // Another cut takes redos that may go later, and keeps the first record's name.
    let later = log.cut(&evidence(&log), RECORDS, |_| Ok::<_, LogError>(Fate::Trim(RedoFate::Goes))).unwrap();
    assert!(later.redos > 0 && later.trimmed > 0);
    assert!(matches!(log.lookup(1), Err(LogError::Unreadable { why: OpenError::Trimmed { by: b }, .. }) if b == by));

    let done = verified(&disk, &log, &earlier);
    assert_eq!((done.entries, done.records), (log.durable_size(), log.durable_size()));
    assert!(done.trimmed_by.contains(&by) && done.trimmed > 600);
    before.verify(log.verifier_key()).unwrap();
    let proof = log.prove(600).unwrap();
    proof.verify(log.verifier_key()).unwrap();
    assert!(matches!(proof.openings.core, Opening::Closed(_)));

    // It starts again, also without the kept edge.
    drop(log);
    for lost in [&[][..], &["/log/edge"][..]] {
        let again = disk.duplicate();
        lost.iter().for_each(|path| again.unlink(Path::new(path)).unwrap());
        let log = stepped(&again);
        drop(evidence(&log));
        assert_eq!(verified(&again, &log, &earlier).entries, log.durable_size());
    }
}

#[test]
fn an_erased_record_proves_what_happened_and_not_who_did_it_to_what() {
    let disk = sample();
    let log = stepped(&disk);
    log.seal_segment().unwrap();
    let because = evidence(&log);
    let _cut = log.cut(&because, RECORDS, judge).unwrap();
    log.publish().unwrap();
    let proof = log.prove(605).unwrap();
    proof.verify(log.verifier_key()).unwrap();
    let fields = proof.openings.fields().unwrap();
    assert_eq!(fields.core.unwrap().op.0, "test:605");
    assert_eq!((fields.subject, fields.resource), (None, None));
}

#[test]
fn nothing_is_cut_in_the_name_of_a_record_before_it_or_one_that_is_not_there() {
    let disk = sample();
    let log = stepped(&disk);
    log.seal_segment().unwrap();
    let trim_all = |_: &Place<'_>| Ok::<_, LogError>(Fate::Trim(RedoFate::Goes));
    assert!(matches!(log.cut_again(RECORDS + 5, RECORDS, trim_all), Err(LogError::NoRecord { .. })));
    let done = log.cut_again(300, RECORDS, trim_all).unwrap();
    assert_eq!(done.trimmed, 300);
    assert_eq!(number(&log.lookup(300).unwrap()), 300);
}

#[test]
fn a_record_trimmed_in_the_name_of_an_older_or_missing_one_does_not_verify() {
    let disk = sample();
    let log = stepped(&disk);
    log.seal_segment().unwrap();
    let because = evidence(&log);
    let _cut = log.cut(&because, 10, |_| Ok::<_, LogError>(Fate::Trim(RedoFate::Stays))).unwrap();
    log.publish().unwrap();
    // The same bytes with another record's number in them: the disk's owner
    // can write that, frame checksum and all.
    for (claimed, refused) in [(3_u64, 3_u64), (5000, 5000)] {
        let bad = disk.duplicate();
        let segment = bad
            .files()
            .into_iter()
            .map(|(path, _)| path)
            .find(|p| p.to_string_lossy().ends_with("-00000000000000000000"));
        bad.tamper(&segment.unwrap(), |bytes| {
            support::rewrite(bytes, |_, sealed| {
                if sealed.trimmed_by == Some(because.index()) {
                    sealed.trimmed_by = Some(claimed);
                }
            })
        });
        match fsck::verify(&bad, &dir(), log.verifier_key(), None, |_, _| ()) {
            Err(fsck::NotVerified::Diverges { index, .. }) => assert_eq!(index, refused),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn fields_taken_by_somebody_without_a_key_are_found_where_they_matter() {
    let disk = sample();
    let log = stepped(&disk);
    log.seal_segment().unwrap();
    let because = evidence(&log);
    let _cut = log.cut(&because, 10, |_| Ok::<_, LogError>(Fate::Trim(RedoFate::Stays))).unwrap();
    drop(log);
    let bad = disk.duplicate();
    let segment =
        bad.files().into_iter().map(|(path, _)| path).find(|p| p.to_string_lossy().ends_with("-00000000000000000000"));
    // Records 20 to 29 emptied as the first ten are, in the same record's name.
    bad.tamper(&segment.unwrap(), |bytes| {
        support::rewrite(bytes, |seq, sealed| {
            if (20..30).contains(&seq) {
                *sealed = sealed.trimmed(because.index(), RedoFate::Goes);
                sealed.mark = Some([1; 32]);
            }
        })
    });
    let log = stepped(&bad);
    for seq in 0..40 {
        let forged = (20..30).contains(&seq);
        let change = log.change(seq);
        assert_eq!(matches!(change, Err(LogError::Unreadable { why: OpenError::Corrupt(_), .. })), forged, "{seq}");
        assert_eq!(matches!(log.lookup(seq), Err(LogError::Unreadable { why: OpenError::Corrupt(_), .. })), forged);
    }
    assert!(log.prove(25).is_err());
    assert!(log.replay(0).any(|read| read.is_err()), "nothing is rebuilt from it");
}

#[test]
fn a_crash_at_any_effect_of_a_cut_leaves_whole_segments_and_cutting_again_ends_it() {
    let base = sample();
    let effects = {
        let disk = base.duplicate();
        let before = disk.effects();
        let log = stepped(&disk);
        log.seal_segment().unwrap();
        let _cut = log.cut(&evidence(&log), RECORDS, judge).unwrap();
        disk.effects() - before
    };
    assert!(effects > 30, "{effects}");
    // `make test` takes every eighth case, `make soak` each.
    let step = if std::env::var_os("RINGFENCE_SOAK").is_some() { 1 } else { 8 };
    for n in (1..=effects).step_by(step) {
        let disk = base.duplicate();
        let earlier = stepped(&disk).checkpoint();
        let disk = disk.duplicate();
        disk.stop_before(disk.effects() + n);
        let by = (|| {
            let log = open(disk.shared(), &dir(), options(Run::Stepped)).ok()?;
            log.seal_segment().ok()?;
            let because = log.record_batch(vec![say(9999)]).ok()?.remove(0);
            let by = because.index();
            let _cut_off = log.cut(&because, RECORDS, judge);
            Some(by)
        })();
        for seed in [n, n * 7919] {
            let after = disk.crash(seed);
            let log = stepped(&after);
            // Whatever is there is whole: kept or cut, never unreadable.
            for seq in 0..RECORDS {
                match log.lookup(seq) {
                    Ok(record) => assert_eq!(number(&record), seq),
                    Err(LogError::Unreadable {
                        why: OpenError::Trimmed { by: b } | OpenError::Erased { by: b },
                        ..
                    }) => {
                        assert_eq!(Some(b), by, "effect {n}");
                    }
                    Err(error) => panic!("effect {n}, record {seq}: {error}"),
                }
            }
            verified(&after, &log, &earlier);
            let Some(by) = by.filter(|by| log.durable_size() > *by) else { continue };
            log.seal_segment().unwrap();
            let _cut = log.cut_again(by, RECORDS, judge).unwrap();
            check_cut(&log, by);
            verified(&after, &log, &earlier);
        }
    }
}

#[test]
fn records_go_on_while_a_segment_is_ended_early_and_cut() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(ringfence_db::disk::RealDisk::shared(), dir.path(), options(Run::Threads)).unwrap();
    say_all(&log, 0..50);
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..3).map(|_| scope.spawn(|| say_all(&log, 0..400))).collect();
        for _ in 0..6 {
            match log.seal_segment() {
                Ok(()) | Err(LogError::Busy(_)) => {}
                Err(error) => panic!("{error}"),
            }
            let because = loop {
                match log.record_batch(vec![say(9999)]) {
                    Ok(mut recorded) => break recorded.remove(0),
                    Err(LogError::Busy(_)) => log.settle(),
                    Err(error) => panic!("{error}"),
                }
            };
            let _cut = log
                .cut(&because, u64::MAX, |place| {
                    Ok::<_, LogError>(if place.seq.is_multiple_of(2) {
                        Fate::Trim(RedoFate::Stays)
                    } else {
                        Fate::Stay
                    })
                })
                .unwrap();
        }
        writers.into_iter().for_each(|writer| writer.join().unwrap());
    });
    log.publish().unwrap();
    let size = log.durable_size();
    let key = log.verifier_key().clone();
    let read: Vec<_> = log.read(0).collect();
    assert_eq!(read.len() as u64, size);
    assert!(read.iter().all(|r| matches!(r, Ok(_) | Err(LogError::Unreadable { why: OpenError::Trimmed { .. }, .. }))));
    drop(log);
    let done = fsck::verify(&ringfence_db::disk::RealDisk, dir.path(), &key, None, |_, _| ()).unwrap();
    assert_eq!((done.entries, done.records), (size, size));
    assert!(done.trimmed > 20, "{done:?}");
}
