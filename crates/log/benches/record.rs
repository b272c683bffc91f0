//! What does one durable record cost, alone and beside others?

#![allow(missing_docs, reason = "criterion's macro makes a public function")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ringfence_log::{Log, LogError};

mod common;

async fn writer(log: Arc<Log>, records: u64) {
    for _ in 0..records {
        while let Err(error) = log.record(common::Get::new()).await.map(drop) {
            assert!(matches!(error, LogError::Busy(_)), "{error}");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

fn record(c: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("threads can be started");
    let mut group = c.benchmark_group("record");
    group.throughput(Throughput::Elements(1));
    for writers in [1u64, 16, 256] {
        let (_dir, log) = common::log();
        group.bench_function(BenchmarkId::new("writers", writers), |b| {
            b.iter_custom(|records| {
                let begun = Instant::now();
                runtime.block_on(async {
                    let each = records.div_ceil(writers);
                    let tasks: Vec<_> = (0..writers).map(|_| tokio::spawn(writer(log.clone(), each))).collect();
                    for task in tasks {
                        task.await.expect("a writer does not panic");
                    }
                });
                let done = records.div_ceil(writers) * writers;
                begun.elapsed().mul_f64(records as f64 / done as f64)
            });
        });
    }
}

criterion_group!(benches, record);
criterion_main!(benches);
