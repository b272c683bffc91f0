//! The bounded sample of `make test`: 10,000 steps over fixed seeds and a fresh
//! one, and proof that the checks can fail.

use std::hash::{BuildHasher, Hasher};

use ringfence_sim::{Options, PARTS, Report, Sabotage, run};

/// Each of the five histories; together the 10,000 that `make test` promises.
const STEPS: u64 = 2_000;

fn passes(seed: u64) -> Report {
    println!("{PARTS}\nseed {seed}, {STEPS} steps");
    match run(Options { seed, steps: STEPS, sabotage: None, verbose: false }) {
        Ok(report) => {
            println!("{report}");
            report
        }
        Err(violation) => {
            panic!("{violation}\nagain: cargo run -p ringfence-sim -- --seed {seed} --steps {STEPS}")
        }
    }
}

/// A history that meets nothing shows nothing.
fn is_eventful(report: &Report) {
    assert_eq!(report.steps, STEPS);
    assert!(report.acknowledged > 500 && report.reads > 100, "{report}");
    assert!(report.failed > 20 && report.unknown > 0 && report.disk_faults > 3 && report.weather > 20, "{report}");
    assert!(report.crashes > 10 && report.ends > 2 && report.checks > 15, "{report}");
}

#[test]
fn what_was_promised_holds_in_history_1() {
    is_eventful(&passes(1));
}

#[test]
fn what_was_promised_holds_in_history_2() {
    is_eventful(&passes(2));
}

#[test]
fn what_was_promised_holds_with_the_logs_threads_and_requests_at_once() {
    is_eventful(&passes(3));
}

#[test]
fn what_was_promised_holds_in_history_4() {
    is_eventful(&passes(4));
}

#[test]
fn what_was_promised_holds_in_a_fresh_history() {
    let seed = std::collections::hash_map::RandomState::new().build_hasher().finish() % 1_000_000_000;
    passes(seed);
}

#[test]
fn a_seed_repeats_its_history() {
    let once = || run(Options { seed: 5, steps: 250, sabotage: None, verbose: false }).expect("as promised");
    assert_eq!(once(), once());
}

/// Breaks a promise of the simulated world and expects a check to say so.
fn is_noticed(sabotage: Sabotage, by: &[&str]) {
    // Whether it shows depends on what a crash leaves: some history of a few.
    let mut noticed = Vec::new();
    for seed in [1, 2, 4, 5, 6, 8] {
        if let Err(violation) = run(Options { seed, steps: 250, sabotage: Some(sabotage), verbose: false }) {
            assert!(violation.step >= 250 / 4, "before the sabotage began: {violation}");
            if by.iter().any(|by| violation.why.contains(by)) {
                return;
            }
            noticed.push(violation.why);
        }
    }
    panic!("{sabotage:?} was not noticed as {by:?}, but as {noticed:?}");
}

#[test]
fn a_log_disk_whose_syncs_lie_is_noticed() {
    is_noticed(
        Sabotage::LogSyncLies,
        &["it does not start: the log", "the log is older than the catalogue", "record #"],
    );
}

#[test]
fn a_site_whose_syncs_lie_is_noticed() {
    is_noticed(Sabotage::SiteSyncLies, &["the catalogue check finds", "it does not start: a site", "is bad"]);
}

#[test]
fn a_public_site_that_forgets_is_noticed() {
    is_noticed(Sabotage::CloudForgets, &["the catalogue check finds", "failed and nothing had gone wrong", "is bad"]);
}

#[test]
fn plaintext_at_the_public_site_is_noticed() {
    is_noticed(Sabotage::CloudHoldsPlaintext, &["holds plaintext"]);
}

#[test]
fn a_disk_that_was_rolled_back_is_noticed() {
    is_noticed(Sabotage::DiskRolledBack, &["its end was cut off", "record #", "was told to hold"]);
}
