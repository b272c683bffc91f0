//! How long does a caller wait for its record, at how many records a second?
//!
//! Prints one line per number of writers; each records for three seconds.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ringfence_log::{Log, LogError};

mod common;

async fn writer(log: Arc<Log>, until: Instant) -> Vec<Duration> {
    let mut waits = Vec::new();
    while Instant::now() < until {
        let begun = Instant::now();
        match log.record(common::Get::new()).await {
            Ok(_) => waits.push(begun.elapsed()),
            Err(LogError::Busy(_)) => tokio::time::sleep(Duration::from_millis(1)).await,
            Err(error) => panic!("{error}"),
        }
    }
    waits
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("threads can be started");
    println!("{:>8} {:>12} {:>10} {:>10} {:>10}", "writers", "records/s", "p50 ms", "p99 ms", "max ms");
    for writers in [1, 16, 64, 256, 1024] {
        let (dir, log) = common::log();
        let (begun, until) = (Instant::now(), Instant::now() + Duration::from_secs(3));
        let mut waits: Vec<Duration> = runtime.block_on(async {
            let tasks: Vec<_> = (0..writers).map(|_| tokio::spawn(writer(log.clone(), until))).collect();
            let mut all = Vec::new();
            for task in tasks {
                all.extend(task.await.expect("a writer does not panic"));
            }
            all
        });
        let rate = waits.len() as f64 / begun.elapsed().as_secs_f64();
        waits.sort();
        let at = |share: f64| waits[((waits.len() - 1) as f64 * share) as usize].as_secs_f64() * 1000.0;
        println!("{writers:>8} {rate:>12.0} {:>10.3} {:>10.3} {:>10.3}", at(0.5), at(0.99), at(1.0));
        let records = log.durable_size();
        drop(log);
        let begun = Instant::now();
        drop(common::open(dir.path()));
        println!("{:>8} opened again with {records} records in {:.0?}", "", begun.elapsed());
    }
}
