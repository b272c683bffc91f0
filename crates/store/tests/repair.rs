//! Repair: whatever a site does to a copy, a scrub makes it whole again from
//! another one, or says that it cannot; and a crash at any point of it leaves
//! nothing worse than it was.

mod support;

use std::path::{Path, PathBuf};

use ringfence_store::{Conflict, DeleteTarget, Deleted, Outcome, ScrubOptions, ScrubReport};
use support::*;

/// Larger than two chunks, with a last chunk that is small.
const LARGE: usize = 2 * 16 * 1024 * 1024 + 20_000;

struct Fixture {
    world: World,
    bucket: ringfence_format::redo::Bucket,
    dir: tempfile::TempDir,
}

impl Fixture {
    /// An object packed and one in chunks, each at home and at the second site.
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let world = World::new(dir.path()).await;
        let bucket = world.bucket("first").await;
        for (name, len) in [("small", 900), ("large", LARGE)] {
            let _put = world.put_as(&bucket, name, "confidential", &data(len, 3), Default::default()).await.unwrap();
        }
        Self { world, bucket, dir }
    }

    fn home(&self) -> PathBuf {
        self.dir.path().join("sites/home")
    }

    async fn scrub(&self) -> ScrubReport {
        let vault = Vault(Some(self.world.engine.clone()));
        self.world.store.scrub(ScrubOptions::default(), &vault, |_| {}).await.unwrap()
    }

    /// One scrub repairs, the next finds nothing, and the second site alone is
    /// not what is read from.
    async fn is_mended(&self, copies: usize) {
        let report = self.scrub().await;
        assert_eq!((report.repaired.len(), report.bad.len()), (copies, 0), "{report:?}");
        let report = self.scrub().await;
        assert_eq!((report.repaired.len(), report.bad.len(), report.unchecked.len()), (0, 0, 0), "{report:?}");
        assert!(self.world.store.check().await.unwrap().is_sound());
        for (name, len) in [("small", 900), ("large", LARGE)] {
            assert!(self.world.get(&self.bucket, name).await.unwrap() == data(len, 3), "{name}");
        }
    }
}

fn chunks(home: &Path) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = walk(&home.join(installation().to_string()).join("c"));
    all.sort();
    all
}

fn walk(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(walk(&path)) } else { found.push(path) }
    }
    found
}

fn flip(path: &Path, at: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[at] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flipped_bit_a_cut_and_a_missing_chunk_are_mended() {
    let fixture = Fixture::new().await;
    let files = chunks(&fixture.home());
    assert_eq!(files.len(), 3);
    flip(&files[0], 1_000_000);
    fixture.is_mended(1).await;
    std::fs::OpenOptions::new().write(true).open(&files[1]).unwrap().set_len(77).unwrap();
    fixture.is_mended(1).await;
    std::fs::remove_file(&files[2]).unwrap();
    fixture.is_mended(1).await;
    files.iter().for_each(|file| std::fs::remove_file(file).unwrap());
    fixture.is_mended(1).await;
    assert_eq!(chunks(&fixture.home()), files, "under their own names");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn swapped_chunks_are_mended() {
    let fixture = Fixture::new().await;
    let files = chunks(&fixture.home());
    let (one, two) = (std::fs::read(&files[0]).unwrap(), std::fs::read(&files[1]).unwrap());
    std::fs::write(&files[0], two).unwrap();
    std::fs::write(&files[1], one).unwrap();
    fixture.is_mended(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn packs_that_are_damaged_or_gone_are_mended() {
    let fixture = Fixture::new().await;
    let pack = walk(&fixture.home().join("packs")).into_iter().find(|p| std::fs::metadata(p).unwrap().len() > 900);
    let pack = pack.expect("something is packed");
    // Every payload byte of it, heads too.
    let mut bytes = std::fs::read(&pack).unwrap();
    bytes.iter_mut().skip(512).for_each(|byte| *byte ^= 0x55);
    std::fs::write(&pack, bytes).unwrap();
    fixture.is_mended(2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_no_good_copy_it_is_said_and_nothing_is_written() {
    let fixture = Fixture::new().await;
    for site in ["home", "second"] {
        flip(&chunks(&fixture.dir.path().join("sites").join(site))[0], 5000);
    }
    let before = fixture.world.log.durable_size();
    let report = fixture.scrub().await;
    assert_eq!((report.repaired.len(), report.bad.len()), (0, 2), "{report:?}");
    assert!(report.bad.iter().all(|bad| bad.why.contains("no other copy is good")));
    assert_eq!(fixture.world.log.durable_size(), before, "nothing was done that needs a record");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_repair_is_on_record_before_it_is_done() {
    let fixture = Fixture::new().await;
    flip(&chunks(&fixture.home())[0], 5000);
    let before = fixture.world.log.durable_size();
    fixture.is_mended(1).await;
    let record = fixture.world.log.lookup(before).unwrap();
    assert_eq!(record.core.op.0, "system:Repair");
    assert_eq!(record.resource.sites, [site_id("home")]);
    assert!(record.resource.key.is_none(), "the provider's record does not name the tenant's object");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_may_no_longer_lie_there_is_not_repaired_there() {
    let fixture = Fixture::new().await;
    flip(&chunks(&fixture.home())[0], 5000);
    let damaged = std::fs::read(&chunks(&fixture.home())[0]).unwrap();
    let extra = "\n@id(\"not-home\") forbid (principal, action == Action::\"Place\", resource == Site::\"home\");";
    let engine = std::sync::Arc::new(ringfence_access::Engine::new(policies(extra), 1));
    let report = fixture.world.store.scrub(ScrubOptions::default(), &Vault(Some(engine)), |_| {}).await.unwrap();
    assert_eq!((report.repaired.len(), report.bad.len()), (0, 1), "{report:?}");
    assert!(report.bad[0].why.contains("not repaired"), "{report:?}");
    assert!(std::fs::read(&chunks(&fixture.home())[0]).unwrap() == damaged);
}

/// The states in which a crash can leave a repair, made by hand: the chunk
/// erased and not yet written; the packed copy written twice and not yet
/// named. The next process's scrub ends what was begun.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repair_that_was_cut_off_is_done_by_the_next_scrub() {
    let fixture = Fixture::new().await;
    let files = chunks(&fixture.home());
    std::fs::remove_file(&files[1]).unwrap();
    let small = fixture.world.store.catalog().locate(&fixture.bucket.id, &key("small"), None).unwrap().unwrap();
    let home = fixture.world.store.site(&site_id("home")).unwrap();
    let name = ringfence_format::chunk::chunk_name(&installation(), &small.parts[0].upload, 0);
    let copy = small.copies.iter().find(|copy| copy.site == site_id("home")).unwrap();
    let good = home.get(&name, Some(copy.packed[0].at), None).await.unwrap();
    let mut check = ringfence_format::envelope::PartVerifier::new(&key_of(&small), &small.parts[0]).unwrap();
    let _twice = home.put(&name, vec![check.verify(good).unwrap()]).await.unwrap();
    drop(home);
    let Fixture { world, bucket, dir } = fixture;
    world.close().await;
    let world = World::open(dir.path(), START_US + HOUR_US, 2).await.unwrap();
    Fixture { world, bucket, dir }.is_mended(1).await;
}

/// The version that a caller may delete is replaced, between decision and
/// commit, by one that he may not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delete_takes_only_what_it_was_decided_about() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::new(dir.path()).await;
    let bucket = world.bucket("first").await;
    for name in ["a", "b"] {
        let _put = world.put(&bucket, name, b"x").await.unwrap();
    }
    let decided =
        |name: &str| DeleteTarget { key: key(name), version: None, if_match: None, label: Some(label("internal")) };
    let permit = || world.permit(world.ask("s3:DeleteObject", &bucket, "a", "internal"));
    let _replaced = world.put_as(&bucket, "a", "restricted", b"y", Default::default()).await.unwrap();
    let alone = world.store.delete_versions(permit(), bucket.id, vec![decided("a")]).await.unwrap_err();
    assert!(matches!(alone, ringfence_store::CommitError::Conflict(Conflict::Changed)), "{alone}");
    let both = vec![decided("a"), decided("b")];
    let done = world.store.delete_versions(permit(), bucket.id, both).await.unwrap();
    let Outcome::Deleted(each) = done.outcome() else { panic!("{:?}", done.outcome()) };
    assert!(matches!(&each[0], Deleted::Kept { why: Conflict::Changed, .. }), "{each:?}");
    assert!(matches!(&each[1], Deleted::Gone { .. }), "{each:?}");
    assert_eq!(world.get(&bucket, "a").await.unwrap(), b"y");
}
