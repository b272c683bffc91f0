//! What do the keys cost a small object, and each byte of a large one?
//! (All that a read does after its record is durable, and a write before it.)

use std::sync::Arc;

use bytes::Bytes;
use criterion::{Criterion, Throughput};
use ringfence_format::chunk::sealed_len;
use ringfence_format::envelope::{DataKey, Fetched, PartSealer, RangeOpener};
use ringfence_format::head;
use ringfence_format::limits::SEGMENT_BYTES;
use ringfence_format::names::{BucketId, ObjectVersion, PartId, Realm, Tenant, UploadId, VersionUid};
use ringfence_format::redo::Part;
use ringfence_format::wrap;
use zeroize::Zeroizing;

fn object() -> Arc<ObjectVersion> {
    Arc::new(ObjectVersion {
        realm: Realm::parse("main").expect("a name"),
        tenant: Tenant::parse("acme").expect("a name"),
        bucket: BucketId([1; 16]),
        version: VersionUid([2; 16]),
    })
}

fn key() -> DataKey {
    DataKey::new(object(), Zeroizing::new([3; 32]))
}

fn seal(key: &DataKey, plain: &[u8]) -> Vec<u8> {
    let mut random = |iv: &mut [u8]| aws_lc_rs::rand::fill(iv).expect("randomness");
    let mut sealer = PartSealer::new(key, PartId([4; 16]));
    let mut out = Vec::with_capacity(plain.len() + 4096);
    for piece in plain.chunks(256 * 1024) {
        if let Some(sealed) = sealer.push(piece, &mut random).expect("sealed") {
            out.extend_from_slice(sealed.bytes());
        }
    }
    out.extend_from_slice(sealer.finish(&mut random).expect("sealed").bytes());
    out
}

fn part(len: usize) -> Part {
    Part {
        id: PartId([4; 16]),
        number: 1,
        plain_len: len as u64,
        upload: UploadId([5; 16]),
        chunk_len: SEGMENT_BYTES as u32,
        sealed_len: sealed_len(len as u64),
        md5: [0; 16],
        checksum: None,
        created_ms: 0,
    }
}

fn bench(c: &mut Criterion) {
    for len in [4096, 4 << 20] {
        let mut group = c.benchmark_group(format!("{len} bytes"));
        group.throughput(Throughput::Bytes(len as u64));
        let (plain, row, key) = (vec![7; len], part(len), key());
        let kek = [6; 32];
        let wrapped = head::with_dek_place(&object().realm, &object().tenant, 1, &object().version, |place| {
            wrap::wrap_key(&kek, place, [8; 24], key.expose())
        });
        let (sealed, object) = (Bytes::from(seal(&key, &plain)), object());
        group.bench_function("seal", |b| b.iter(|| seal(&key, &plain)));
        group.bench_function("unwrap the data key and open", |b| {
            b.iter(|| {
                let key = head::unwrap_dek(&kek, 1, &object, &wrapped).expect("unwrapped");
                let mut opener = RangeOpener::new(&key, &row, 0..len as u64).expect("a part");
                let mut at = 0;
                while at < sealed.len() {
                    let end = (at + 256 * 1024).min(sealed.len());
                    opener.push(&Fetched::new(sealed.slice(at..end))).expect("authentic");
                    at = end;
                }
                opener.finish().expect("complete");
            });
        });
        group.finish();
    }
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    bench(&mut criterion);
    criterion.final_summary();
}
