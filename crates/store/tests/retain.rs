//! What retention leaves on the log is enough: replayed from the first record,
//! it gives the catalogue there was, whatever was trimmed before.

mod support;

use ringfence_format::leaf::RedoFate;
use ringfence_format::redo::Bucket;
use ringfence_log::{Changed, Fate, LogError, Place};
use ringfence_store::{OpenHead, OpenedHead, RecoverFrom, RecoverReport, Retain, StartError, recover};
use support::*;

struct NoHeads;

impl OpenHead for NoHeads {
    fn open_head(&self, _: &ringfence_format::envelope::Fetched) -> Result<OpenedHead, String> {
        Err("a log that was trimmed is whole: no head is asked".to_owned())
    }
}

/// Numbers that look random and are the same in every run (xorshift64*).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % sides
    }
}

/// One change, of every kind, to few names, so that they meet.
async fn change(world: &World, dice: &mut Dice, buckets: &mut Vec<Bucket>) {
    let at = dice.roll(buckets.len() as u64) as usize;
    let bucket = buckets[at].clone();
    let name = format!("k{}", dice.roll(5));
    let size = [0, 10, 70_000][dice.roll(3) as usize];
    let label = ["internal", "confidential", "public"][dice.roll(3) as usize];
    match dice.roll(12) {
        0..=4 => drop(world.put_as(&bucket, &name, label, &data(size, 1), Default::default()).await.unwrap()),
        5..=6 => drop(world.delete(&bucket, &[&name, "k0"]).await),
        7 => {
            let upload = world.create_upload(&bucket, &name, "internal").await;
            let _part = world.put_part(&bucket, &upload, 1, &data(100, 2)).await.unwrap();
            if dice.roll(2) == 0 {
                let rows = world.store.catalog().list_parts(&upload.id, 0, 100).unwrap();
                let _done = world.complete(&bucket, &upload, rows).await.unwrap();
            }
        }
        8 => drop(world.store.abort_stale_uploads(0, dice.roll(2) as usize).await.unwrap()),
        9 => {
            let new = world.bucket(&format!("bucket-{}", world.log.durable_size())).await;
            buckets.push(new);
        }
        10 if buckets.len() > 1 => {
            let ask = ringfence_access::Ask::on_bucket("s3:DeleteBucket", &bucket, &support::label("internal"));
            if world.store.delete_bucket(world.permit(ask), bucket.id).await.is_ok() {
                buckets.remove(at);
            }
        }
        _ => {
            world.clock.advance_us(1_000_000);
            let _erased = world.store.erase_due(dice.roll(2) * 1500).await.unwrap();
        }
    }
}

/// Trims records; of four that changed something, `staying` stay by chance,
/// with what they changed.
async fn trim(world: &World, dice: &mut Dice, staying: u64) -> u64 {
    let before = world.store.sync_catalogue().await.unwrap();
    world.log.seal_segment().unwrap();
    let because = world.log.record(world.operator()).await.unwrap();
    let mut retain = Retain::new(world.store.catalog()).unwrap();
    let cut = world.log.cut(&because, before, |place: &Place<'_>| {
        let Changed::By(redo) = place.change()?.redo else { return Ok::<_, LogError>(Fate::Trim(RedoFate::Stays)) };
        if dice.roll(4) < staying {
            retain.stays(&redo).unwrap();
            return Ok(Fate::Stay);
        }
        let stays = retain.must_stay(&redo).unwrap();
        Ok(Fate::Trim(if stays { RedoFate::Stays } else { RedoFate::Goes }))
    });
    cut.unwrap().redos
}

async fn recovered(world: &World, path: &std::path::Path) -> RecoverReport {
    let sites = world.store.sites();
    let log = Some(&*world.log);
    let from = RecoverFrom { installation: installation(), log, sites: &sites, heads: &NoHeads, clock: &*world.clock };
    recover(path, from, |_| {}).await.unwrap()
}

fn lose_catalogue(dir: &std::path::Path) {
    for file in ["catalogue.db", "catalogue.db-wal", "catalogue.db-shm"] {
        let _absent = std::fs::remove_file(dir.join(file));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_was_trimmed_the_log_gives_the_same_catalogue() {
    let seeds = if std::env::var_os("RINGFENCE_SOAK").is_some() { 200 } else { 6 };
    for seed in 1..=seeds {
        let mut dice = Dice(0x9E37_79B9_7F4A_7C15_u64.wrapping_mul(seed));
        let dir = tempfile::tempdir().unwrap();
        let mut world = World::new(dir.path()).await;
        let mut buckets = vec![world.bucket("first").await];
        let mut redos = 0;
        for round in 0..4 {
            for _ in 0..60 {
                change(&world, &mut dice, &mut buckets).await;
            }
            let staying = dice.roll(3);
            redos += trim(&world, &mut dice, staying).await;
            if round == 1 {
                world.close().await;
                world = World::open(dir.path(), START_US + HOUR_US, 1 + seed).await.unwrap();
            }
        }
        change(&world, &mut dice, &mut buckets).await;
        let before = dump(&world.store);
        let garbage: Vec<u64> = waiting(&world);
        let path = dir.path().join("recovered.db");
        let report = recovered(&world, &path).await;
        assert!(report.from_log && report.problems.is_empty(), "seed {seed}: {report:?}");
        assert_eq!(report.trimmed_changes, redos, "seed {seed}");
        assert!(redos > 20, "seed {seed}: too little was trimmed: {redos}");
        world.close().await;
        lose_catalogue(dir.path());
        std::fs::rename(path, dir.path().join("catalogue.db")).unwrap();
        let world = World::open(dir.path(), START_US + 2 * HOUR_US, 500 + seed).await.unwrap();
        assert_eq!(dump(&world.store), before, "seed {seed}");
        // What waited to be erased still does; what is gone already may again.
        for (was, is) in garbage.iter().zip(waiting(&world)) {
            assert!(is >= *was, "seed {seed}: {is} of {was}");
        }
        let report = world.store.check().await.unwrap();
        assert!(report.is_sound(), "seed {seed}: {report:?}");
        world.close().await;
    }
}

fn waiting(world: &World) -> Vec<u64> {
    ["home", "second", "cloud"].map(|site| world.store.catalog().garbage_at(&site_id(site)).unwrap()).to_vec()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_catalogue_from_before_what_was_trimmed_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::new(dir.path()).await;
    let bucket = world.bucket("first").await;
    let _put = world.put(&bucket, "a", b"a").await.unwrap();
    let backup = dir.path().join("backup.db");
    world.store.catalog().back_up(&backup).unwrap();
    let deleted = world.delete(&bucket, &["a"]).await.unwrap().index();
    world.clock.advance_us(HOUR_US);
    let _erased = world.store.erase_due(0).await.unwrap();
    let by = world.log.durable_size();
    assert!(trim(&world, &mut Dice(1), 0).await > 0);
    world.close().await;
    lose_catalogue(dir.path());
    std::fs::copy(&backup, dir.path().join("catalogue.db")).unwrap();
    match World::open(dir.path(), START_US + HOUR_US, 2).await.map(drop) {
        Err(StartError::Trimmed { seq, by: named }) => assert_eq!((seq, named), (deleted, by)),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_still_waits_to_be_erased_keeps_its_changes() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::new(dir.path()).await;
    let bucket = world.bucket("first").await;
    let put = world.put(&bucket, "a", b"a").await.unwrap().index();
    let over = world.put(&bucket, "a", b"b").await.unwrap().index();
    let deleted = world.delete(&bucket, &["a"]).await.unwrap().index();
    let is_there = |seq| matches!(world.log.change(seq).unwrap().redo, Changed::By(_));
    let _none = trim(&world, &mut Dice(1), 0).await;
    assert!(is_there(put) && is_there(over) && is_there(deleted), "their chunks are not erased yet");
    world.clock.advance_us(HOUR_US);
    let _erased = world.store.erase_due(0).await.unwrap();
    assert_eq!(waiting(&world), [0, 0, 0]);
    let _gone = trim(&world, &mut Dice(1), 0).await;
    assert!(!is_there(put) && !is_there(over) && !is_there(deleted));
    assert!(is_there(0), "the start of a process is never forgotten");
}
