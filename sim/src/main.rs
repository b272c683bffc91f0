//! Runs histories: `cargo run -p ringfence-sim -- --seed 7 --steps 2000`.

use std::hash::{BuildHasher, Hasher};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use ringfence_sim::{Options, PARTS, Report, run};

/// Simulates log, store and catalogue on a machine that fails, and checks what was promised.
#[derive(Parser)]
struct Arguments {
    /// The history to run; a fresh one without it
    #[arg(long)]
    seed: Option<u64>,
    /// Run all histories from FIRST to LAST
    #[arg(long, value_name = "FIRST..LAST", value_parser = range, conflicts_with = "seed")]
    seeds: Option<(u64, u64)>,
    /// Operations in each history
    #[arg(long, default_value_t = 1500)]
    steps: u64,
    /// Go on with further seeds until so many seconds are over
    #[arg(long, value_name = "SECONDS")]
    time: Option<u64>,
    /// Print every operation
    #[arg(long)]
    verbose: bool,
}

fn range(text: &str) -> Result<(u64, u64), String> {
    let numbers = text.split_once("..").and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
    numbers.filter(|(first, last)| first <= last).ok_or_else(|| "two numbers, as in 1..9".to_owned())
}

fn fresh() -> u64 {
    std::collections::hash_map::RandomState::new().build_hasher().finish() % 1_000_000_000
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    println!("{PARTS}");
    let begun = Instant::now();
    let first = arguments.seed.or(arguments.seeds.map(|(first, _)| first)).unwrap_or_else(fresh);
    let last = arguments.seeds.map_or(first, |(_, last)| last);
    let in_time = || arguments.time.is_some_and(|seconds| begun.elapsed() < Duration::from_secs(seconds));
    let mut total = Report::default();
    for seed in first.. {
        if seed > last && !in_time() {
            break;
        }
        println!("seed {seed}");
        match run(Options { seed, steps: arguments.steps, sabotage: None, verbose: arguments.verbose }) {
            Ok(report) => {
                println!("  {report}");
                total.add(&report);
            }
            Err(violation) => {
                println!("{violation}");
                println!("again: cargo run -p ringfence-sim -- --seed {seed} --steps {}", arguments.steps);
                return ExitCode::FAILURE;
            }
        }
    }
    println!("passed: {total}");
    ExitCode::SUCCESS
}
