//! The log on a disk that stops, lies, fails and fills up.
//!
//! One workload is stopped before its n-th effect on the disk, for every n,
//! and started again on what survived: nothing that was acknowledged is gone,
//! and everything verifies, also against the checkpoints that were shown.

mod support;

use std::io::ErrorKind;
use std::path::Path;

use ringfence_db::disk::Disk;
use ringfence_db::disk::sim::{Effect, Fault, SimDisk};
use ringfence_log::{Class, Log, LogError, Run, fsck};
use support::{dir, number, numbers, open, options, say};

/// What the outside has seen of a log.
#[derive(Default)]
struct Seen {
    /// Index and number of what was acknowledged.
    acknowledged: Vec<(u64, u64)>,
    /// The last checkpoint that was shown.
    checkpoint: Option<String>,
}

/// Records until the disk stops or enough was done; segments hold six of these.
fn work(log: &Log, seen: &mut Seen, rounds: u64) {
    let from = log.durable_size();
    for round in 0..rounds {
        let count = 1 + round % 3;
        let entries = (0..count).map(|i| say(from + round * 10 + i).padded(9000)).collect();
        match log.record_batch(entries) {
            Ok(done) => seen.acknowledged.extend(done.iter().map(|d| (d.index(), d.number))),
            Err(LogError::Busy(_)) => {}
            Err(_) => return,
        }
        if round % 4 == 3 && log.publish().is_ok() {
            seen.checkpoint = Some(log.checkpoint());
        }
    }
}

fn stepped(disk: &SimDisk) -> Result<Log, LogError> {
    open(disk.shared(), &dir(), options(Run::Stepped))
}

fn run(disk: &SimDisk, seen: &mut Seen, rounds: u64) {
    if let Ok(log) = stepped(disk) {
        work(&log, seen, rounds);
    }
}

/// Everything that was seen is there, and the log verifies as a whole.
fn check(log: &Log, disk: &SimDisk, seen: &Seen, at: &str) {
    for (index, said) in &seen.acknowledged {
        let record = log.lookup(*index).unwrap_or_else(|e| panic!("{at}: {e}"));
        assert_eq!(number(&record), *said, "{at}: record {index}");
    }
    log.publish().unwrap_or_else(|e| panic!("{at}: {e}"));
    let earlier = seen.checkpoint.as_deref();
    let done = fsck::verify(disk, &dir(), log.verifier_key(), earlier, |_, _| ());
    let done = done.unwrap_or_else(|e| panic!("{at}: {e}"));
    assert_eq!(done.entries, log.durable_size(), "{at}");
    assert_eq!(done.records, done.entries, "{at}");
}

const ROUNDS: u64 = 24;

/// `make test` takes every `n`th case of the long sweeps, `make soak` each.
fn every(n: usize) -> usize {
    if std::env::var_os("RINGFENCE_SOAK").is_some() { 1 } else { n }
}

fn effects_of_the_workload() -> u64 {
    let disk = SimDisk::new();
    run(&disk, &mut Seen::default(), ROUNDS);
    disk.effects()
}

#[test]
fn invariant_1_a_crash_at_any_effect_loses_nothing_that_was_acknowledged() {
    let effects = effects_of_the_workload();
    assert!(effects > 150, "the workload does too little: {effects}");
    for n in 1..=effects {
        let disk = SimDisk::new();
        disk.stop_before(n);
        let mut seen = Seen::default();
        run(&disk, &mut seen, ROUNDS);
        for seed in (0..4).step_by(every(4)) {
            let at = format!("stopped before effect {n}, seed {seed}");
            let after = disk.crash(seed * 1_000_003 + n);
            let log = stepped(&after).unwrap_or_else(|e| panic!("{at}: {e}"));
            check(&log, &after, &seen, &at);
        }
    }
}

#[test]
fn a_crash_of_the_recovery_is_recovered_from() {
    let effects = effects_of_the_workload();
    for n in (1..=effects).step_by(every(17)) {
        let disk = SimDisk::new();
        disk.stop_before(n);
        let mut seen = Seen::default();
        run(&disk, &mut seen, ROUNDS);
        for m in (1..30).step_by(every(3)) {
            let at = format!("stopped before effect {n}, then before {m}");
            let second = disk.crash(n);
            second.stop_before(m);
            run(&second, &mut seen, 5);
            let third = second.crash(m);
            let log = stepped(&third).unwrap_or_else(|e| panic!("{at}: {e}"));
            check(&log, &third, &seen, &at);
        }
    }
}

#[test]
fn a_killed_process_finds_everything_it_had_written() {
    let effects = effects_of_the_workload();
    for n in (1..=effects).step_by(every(5)) {
        let disk = SimDisk::new();
        disk.stop_before(n);
        let mut seen = Seen::default();
        run(&disk, &mut seen, ROUNDS);
        let after = disk.kill();
        let log = stepped(&after).unwrap();
        check(&log, &after, &seen, &format!("killed before effect {n}"));
    }
}

/// Found by the simulator: the next process read back what a killed one had
/// written and not synced, signed it, and a power cut then took it away.
#[test]
fn what_a_killed_process_wrote_is_made_durable_before_it_is_believed() {
    let effects = effects_of_the_workload();
    for n in (1..=effects).step_by(every(7)) {
        let disk = SimDisk::new();
        disk.stop_before(n);
        let mut seen = Seen::default();
        run(&disk, &mut seen, ROUNDS);
        let second = disk.kill();
        let log = stepped(&second).unwrap();
        seen.checkpoint = Some(log.checkpoint());
        let believed = log.durable_size();
        for seed in 0..3 {
            let at = format!("killed before effect {n}, then crashed with seed {seed}");
            let third = second.duplicate().crash(seed);
            let log = stepped(&third).unwrap_or_else(|e| panic!("{at}: {e}"));
            assert!(log.durable_size() >= believed, "{at}: {} of {believed} records", log.durable_size());
            check(&log, &third, &seen, &at);
        }
    }
}

#[test]
fn any_one_failed_operation_costs_at_most_what_was_not_acknowledged() {
    let effects = effects_of_the_workload();
    for fault in [Fault::Fails(ErrorKind::Other), Fault::FailsButHappens(ErrorKind::Other)] {
        for n in (1..=effects).step_by(every(3)) {
            let at = format!("{fault:?} at effect {n}");
            let disk = SimDisk::new();
            disk.script(move |step| (step.number == n).then_some(fault));
            let mut seen = Seen::default();
            run(&disk, &mut seen, ROUNDS);
            let after = disk.crash(n);
            let log = stepped(&after).unwrap_or_else(|e| panic!("{at}: {e}"));
            check(&log, &after, &seen, &at);
        }
    }
}

#[test]
fn a_crash_under_many_writers_loses_nothing_that_was_acknowledged() {
    for round in (0..60u64).step_by(every(2)) {
        let disk = SimDisk::new();
        let log = open(disk.shared(), &dir(), options(Run::Threads)).unwrap();
        disk.stop_before(disk.effects() + 5 + round * 3);
        let mut seen = Seen::default();
        std::thread::scope(|scope| {
            let writers: Vec<_> = (0..4)
                .map(|w| {
                    scope.spawn({
                        let log = &log;
                        move || writer(log, w)
                    })
                })
                .collect();
            for writer in writers {
                let (acknowledged, checkpoint) = writer.join().unwrap();
                seen.acknowledged.extend(acknowledged);
                let size = |note: &Option<String>| {
                    note.as_deref().map_or(0, |n| n.lines().nth(1).unwrap().parse::<u64>().unwrap())
                };
                if size(&checkpoint) > size(&seen.checkpoint) {
                    seen.checkpoint = checkpoint;
                }
            }
        });
        drop(log);
        let at = format!("round {round}");
        let after = disk.crash(round);
        let log = stepped(&after).unwrap_or_else(|e| panic!("{at}: {e}"));
        check(&log, &after, &seen, &at);
    }
}

/// Records until the log fails; what it was told, and the last checkpoint it saw.
fn writer(log: &Log, writer: u64) -> (Vec<(u64, u64)>, Option<String>) {
    let (mut acknowledged, mut checkpoint) = (Vec::new(), None);
    for i in 0.. {
        match log.record_batch(vec![say(writer * 1_000_000 + i).padded(3000)]) {
            Ok(done) => acknowledged.push((done[0].index(), done[0].number)),
            Err(LogError::Busy(_)) => log.settle(),
            Err(_) => break,
        }
        checkpoint = Some(log.checkpoint());
        if i > 2000 {
            break;
        }
    }
    (acknowledged, checkpoint)
}

fn is_segment(path: &Path) -> bool {
    path.parent().is_some_and(|p| p.ends_with("records"))
}

#[test]
fn a_failed_sync_stops_the_log_for_good() {
    let disk = SimDisk::new();
    let log = stepped(&disk).unwrap();
    drop(log.record_batch(vec![say(0)]).unwrap());
    let mut failed = false;
    disk.script(move |step| {
        let now = step.effect == Effect::Sync && is_segment(&step.path) && !failed;
        failed |= now;
        now.then_some(Fault::Fails(ErrorKind::Other))
    });
    assert!(matches!(log.record_batch(vec![say(1)]), Err(LogError::Failed(_))));
    assert!(matches!(log.record_batch(vec![say(2)]), Err(LogError::Failed(_))), "the next sync would succeed");
    assert!(log.health().is_err());
    assert_eq!(log.durable_size(), 1);
    assert_eq!(numbers(&log), [0], "what was durable stays readable");
}

#[test]
fn a_sync_that_lies_is_found_out_by_the_checkpoint() {
    let (mut refused, mut whole) = (0, 0);
    for seed in 0..60 {
        let disk = SimDisk::new();
        disk.script(move |step| {
            let lie = step.effect == Effect::Sync && is_segment(&step.path) && step.number > 40;
            lie.then_some(Fault::Lies)
        });
        let mut seen = Seen::default();
        run(&disk, &mut seen, ROUNDS);
        let after = disk.crash(seed);
        match stepped(&after) {
            Ok(log) => {
                // Only what no checkpoint spoke of may be gone unnoticed.
                let shown = Seen { acknowledged: Vec::new(), checkpoint: seen.checkpoint };
                check(&log, &after, &shown, "lied to");
                whole += 1;
            }
            Err(LogError::Broken { index, .. }) => {
                assert!(index < seen.acknowledged.len() as u64);
                refused += 1;
            }
            Err(e) => panic!("{e}"),
        }
    }
    assert!(refused > 40, "{refused} refused, {whole} whole");
}

#[test]
fn damage_to_an_acknowledged_record_is_never_cut_off() {
    let disk = SimDisk::new();
    let mut seen = Seen::default();
    run(&disk, &mut seen, 8);
    let (path, bytes) = disk.files().into_iter().rfind(|(path, _)| is_digits(path)).unwrap();
    let end = bytes.iter().rposition(|b| *b != 0).unwrap();
    let mut refused = 0;
    for at in (64..end).step_by(997) {
        let after = disk.kill();
        after.tamper(&path, |bytes| bytes[at] ^= 1);
        match stepped(&after) {
            Err(LogError::Broken { .. }) => refused += 1,
            Ok(log) => panic!("byte {at} of {end}: opened with {} records", log.durable_size()),
            Err(e) => panic!("{e}"),
        }
    }
    assert!(refused > 5);
}

fn is_digits(path: &Path) -> bool {
    is_segment(path) && path.file_name().unwrap().to_str().unwrap().starts_with(|c: char| c.is_ascii_digit())
}

#[test]
fn a_full_disk_stops_writes_then_reads_and_leaves_deletes_the_reserve() {
    let disk = SimDisk::new();
    let log = stepped(&disk).unwrap();
    log.publish().unwrap();
    disk.set_capacity(disk.used() + 2000);
    let taken = |class: Class| {
        let mut n = 0;
        loop {
            match log.record_batch(vec![say(n).class(class).padded(2000)]) {
                Ok(_) => n += 1,
                Err(LogError::Full(full)) => {
                    assert_eq!(full, class);
                    break n;
                }
                Err(LogError::Busy(_)) => drop(log.publish()),
                Err(e) => panic!("{class:?} after {n}: {e}"),
            }
            let _ = log.publish();
        }
    };
    let (writes, reads, deletes) = (taken(Class::Write), taken(Class::Ordinary), taken(Class::Reserved));
    assert!(writes > 5 && reads > 5 && deletes > 20, "{writes} writes, {reads} reads, {deletes} deletes");
    let total = log.durable_size();
    assert_eq!(total, writes + reads + deletes);

    // Space again, everything again; what was recorded meanwhile is there.
    disk.set_capacity(1 << 40);
    log.publish().unwrap();
    drop(log.record_batch(vec![say(0).class(Class::Write)]).unwrap());
    drop(log);
    let after = disk.crash(1);
    let log = stepped(&after).unwrap();
    assert_eq!(log.durable_size(), total + 1);
    check(&log, &after, &Seen::default(), "after the disk was full");
}

#[test]
fn a_full_disk_is_no_reason_not_to_start() {
    let disk = SimDisk::new();
    let mut seen = Seen::default();
    run(&disk, &mut seen, ROUNDS);
    let after = disk.kill();
    after.set_capacity(after.used());
    let log = stepped(&after).unwrap();
    assert_eq!(log.durable_size(), seen.acknowledged.len() as u64);
    drop(log.record_batch(vec![say(1).class(Class::Reserved)]).unwrap());
}

#[test]
fn a_budget_is_kept() {
    let disk = SimDisk::new();
    let budget = 6 * 64 * 1024;
    let mut options = options(Run::Stepped);
    options.budget_bytes = Some(budget);
    let log = open(disk.shared(), &dir(), options).unwrap();
    let full = (0..1000).find_map(|i| {
        let _ = log.publish();
        log.record_batch(vec![say(i).class(Class::Write).padded(2000)]).err()
    });
    assert!(matches!(full, Some(LogError::Full(Class::Write))), "{full:?}");
    assert!(disk.used() <= budget + 32 * 1024, "{} of {budget}", disk.used());
}

#[test]
fn the_lock_outlives_a_lost_or_torn_checkpoint_file() {
    for change in [|bytes: &mut Vec<u8>| bytes.clear(), |bytes: &mut Vec<u8>| bytes.truncate(30)] {
        let disk = SimDisk::new();
        let mut seen = Seen::default();
        run(&disk, &mut seen, ROUNDS);
        let after = disk.kill();
        after.tamper(&dir().join("checkpoint"), change);
        let log = stepped(&after).unwrap();
        check(&log, &after, &seen, "checkpoint torn");
    }
}

#[test]
fn lost_tiles_are_made_anew_from_the_records() {
    let disk = SimDisk::new();
    let log = stepped(&disk).unwrap();
    for i in 0..30 {
        loop {
            match log.record_batch((0..20).map(|j| say(i * 20 + j)).collect()) {
                Ok(_) => break,
                Err(LogError::Busy(_)) => log.publish().unwrap(),
                Err(e) => panic!("{e}"),
            }
        }
    }
    log.publish().unwrap();
    let seen = Seen { acknowledged: Vec::new(), checkpoint: Some(log.checkpoint()) };
    drop(log);
    let after = disk.kill();
    for (path, _) in after.files() {
        if path.starts_with("/log/tile") || path.ends_with("edge") {
            after.unlink(&path).unwrap();
        }
    }
    let log = stepped(&after).unwrap();
    assert_eq!(log.durable_size(), 600);
    check(&log, &after, &seen, "tiles lost");
}
