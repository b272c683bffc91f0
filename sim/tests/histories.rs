//! The bounded sample of `make test`: 10,000 steps over fixed seeds and a fresh
//! one, and proof that the checks can fail.

use std::hash::{BuildHasher, Hasher};

use ringfence_sim::{Options, PARTS, Report, Sabotage, run};

/// Each of the ten histories; together the 10,000 that `make test` promises.
const STEPS: u64 = 1_000;

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

/// Histories that meet nothing show nothing.
fn pass(seeds: [u64; 2]) {
    let mut both = Report::default();
    seeds.iter().for_each(|seed| both.add(&passes(*seed)));
    assert_eq!(both.steps, 2 * STEPS);
    assert!(both.acknowledged > 500 && both.reads > 100, "{both}");
    assert!(both.failed > 20 && both.unknown > 0 && both.disk_faults > 3 && both.weather > 20, "{both}");
    assert!(both.crashes > 10 && both.ends > 2 && both.checks > 15, "{both}");
}

#[test]
fn what_was_promised_holds_in_histories_1_and_2() {
    pass([1, 2]);
}

#[test]
fn what_was_promised_holds_in_histories_4_and_5() {
    pass([4, 5]);
}

#[test]
fn what_was_promised_holds_in_histories_6_and_8() {
    pass([6, 8]);
}

#[test]
fn what_was_promised_holds_with_the_logs_threads_and_requests_at_once() {
    pass([3, 7]);
}

#[test]
fn what_was_promised_holds_in_fresh_histories() {
    let seed = std::collections::hash_map::RandomState::new().build_hasher().finish() % 1_000_000_000;
    passes(seed);
    passes(seed + 1);
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
