//! Scrub, new heads, stale uploads, and a log that runs out of space.

mod support;

use std::os::unix::fs::FileExt;
use std::sync::Arc;

use ringfence_access::Ask;
use ringfence_access::permit::Write;
use ringfence_db::disk::RealDisk;
use ringfence_format::names::ObjectVersion;
use ringfence_format::redo::{LabelSource, Version};
use ringfence_log::{Log, LogError, Options};
use ringfence_store::{CommitError, Conflict, NewHead, Outcome, ScrubOptions, SweepMode};
use support::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scrub_finds_one_changed_byte_and_reads_avoid_the_copy() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::new(dir.path()).await;
    let bucket = world.bucket("first").await;
    let big = data(500_000, 1);
    for name in ["a", "b", "c"] {
        let _put = world.put_as(&bucket, name, "confidential", &big, Default::default()).await.unwrap();
    }
    let _small = world.put(&bucket, "small", b"small").await.unwrap();
    let sound = world.store.scrub(ScrubOptions::default(), &Vault(None), |_| {}).await.unwrap();
    assert_eq!((sound.versions, sound.copies, sound.bad.len(), sound.unchecked.len()), (4, 7, 0, 0), "{sound:?}");
    let home = dir.path().join("sites/home");
    let victim =
        world.files().into_iter().find(|(path, len)| path.starts_with(&home) && (400_000..600_000).contains(len));
    let (path, _) = victim.unwrap();
    let file = std::fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, 123_456).unwrap();
    file.write_all_at(&[byte[0] ^ 1], 123_456).unwrap();
    let mut seen = 0;
    let report = world.store.scrub(ScrubOptions::default(), &Vault(None), |_| seen += 1).await.unwrap();
    assert_eq!((report.bad.len(), seen), (1, 4), "{report:?}");
    let bad = &report.bad[0];
    assert!(bad.why.contains("not repaired: policy"), "{}", bad.why);
    assert_eq!(bad.site, site_id("home"));
    assert!(world.store.catalog().is_bad(&bad.version, &bad.site).unwrap());
    assert!(world.get(&bucket, bad.key.as_str()).await.unwrap() == big, "read from the other copy");
    file.write_all_at(&byte, 123_456).unwrap();
    let report = world.store.scrub(ScrubOptions::default(), &Vault(None), |_| {}).await.unwrap();
    assert!(report.bad.is_empty() && !world.store.catalog().is_bad(&bad.version, &site_id("home")).unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scrub_goes_on_where_it_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::new(dir.path()).await;
    let bucket = world.bucket("first").await;
    for i in 0..5 {
        let _put = world.put(&bucket, &format!("{i}"), b"x").await.unwrap();
    }
    let mut options = ScrubOptions { versions_max: 2, ..ScrubOptions::default() };
    let mut versions = 0;
    while let Some(next) = {
        let report = world.store.scrub(options, &Vault(None), |_| {}).await.unwrap();
        versions += report.versions;
        report.next
    } {
        options.from = next;
    }
    assert_eq!(versions, 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_head_replaces_exactly_the_one_it_follows() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::new(dir.path()).await;
    let bucket = world.bucket("first").await;
    let _put = world.put_as(&bucket, "a", "confidential", b"data", Default::default()).await.unwrap();
    let version = world.store.catalog().locate(&bucket.id, &key("a"), None).unwrap().unwrap();
    let retag = async |value: &str| {
        let mut version = Version::clone(&version);
        version.tags = vec![("who".to_owned(), value.to_owned())];
        version.head = Some(head_info(1));
        let sealed = seal_head(&key_of(&version), &version, &bucket);
        let heads = world.store.put_new_heads(&version, sealed).await.unwrap();
        let object = ObjectVersion { realm: realm(), tenant: tenant(), bucket: bucket.id, version: version.uid };
        let permit =
            world.permit::<Write>(world.ask("s3:PutObjectTagging", &bucket, "a", "confidential").version(object));
        let new = NewHead {
            heads,
            head: head_info(1),
            label: version.label.clone(),
            label_source: LabelSource::Bucket,
            tags: version.tags.clone(),
        };
        world.store.rehead(permit, new).await
    };
    let done = retag("first").await.unwrap();
    assert_eq!(*done.outcome(), Outcome::Reheaded(vec![version.uid]));
    let late = retag("second").await.unwrap_err();
    assert!(matches!(late, CommitError::Conflict(Conflict::Changed)), "{late}");
    let now = world.store.catalog().locate(&bucket.id, &key("a"), None).unwrap().unwrap();
    assert_eq!(now.tags, [("who".to_owned(), "first".to_owned())]);
    assert_eq!(world.get(&bucket, "a").await.unwrap(), b"data");
    world.clock.advance_us(HOUR_US);
    let _erased = world.store.erase_due(0).await.unwrap();
    // One chunk and one head: the old head and the one that came too late are gone.
    assert_eq!(world.names("home").await.len(), 2);
    assert_eq!(world.names("second").await.len(), 2);
    assert!(world.store.check().await.unwrap().is_sound());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stale_uploads_end_and_fresh_ones_stay() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::new(dir.path()).await;
    let bucket = world.bucket("first").await;
    let old = world.create_upload(&bucket, "old", "internal").await;
    let _part = world.put_part(&bucket, &old, 1, &data(100_000, 1)).await.unwrap();
    world.clock.advance_us(2 * HOUR_US);
    let fresh = world.create_upload(&bucket, "fresh", "internal").await;
    assert_eq!(world.store.abort_stale_uploads(3_600_000, 10).await.unwrap(), 1);
    assert!(world.store.catalog().upload(&old.id).unwrap().is_none());
    assert!(world.store.catalog().upload(&fresh.id).unwrap().is_some());
    let late = world.put_part(&bucket, &old, 2, b"late").await.unwrap_err();
    assert!(matches!(late, CommitError::Conflict(Conflict::NoSuchUpload)));
    world.clock.advance_us(HOUR_US);
    let _erased = world.store.erase_due(0).await.unwrap();
    assert!(world.names("home").await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_log_is_full_writes_stop_and_deletes_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::new(dir.path()).await;
    let bucket = world.bucket("first").await;
    let _put = world.put(&bucket, "a", b"a").await.unwrap();
    world.close().await;
    let clock = Arc::new(ringfence_db::clock::ManualClock::new(START_US + HOUR_US));
    let options = Options { segment_bytes: 64 * 1024, budget_bytes: Some(900 * 1024), ..Options::default() };
    let (sealer, signer) = (Arc::new(Sealer), Arc::new(Signer::new()));
    let log = Log::open(&dir.path().join("log"), Arc::new(RealDisk), clock.clone(), sealer, signer, options).unwrap();
    let world = World::open_with(dir.path(), clock, Arc::new(log), 2).await.unwrap();
    let mut full = false;
    for i in 0..20_000 {
        match world.put(&bucket, &format!("fill/{:0>900}", i % 50), b"x").await {
            Ok(_) => {}
            Err(CommitError::Log(LogError::Full(_))) => {
                full = true;
                break;
            }
            Err(CommitError::Log(LogError::Busy(_))) => world.log.settle(),
            Err(error) => panic!("{error}"),
        }
    }
    assert!(full, "the budget was never used up");
    let before = dump(&world.store);
    // As long as those before: a shorter record might still fit.
    let long = |name: &str| format!("{name:0>1000}");
    let refused = world.put(&bucket, &long("one-more"), b"x").await.unwrap_err();
    assert!(matches!(refused, CommitError::Log(LogError::Full(_))), "{refused}");
    assert_eq!(dump(&world.store), before, "nothing of a refused write is visible");
    let again = long("again");
    // In one batch with a write that is refused, a delete is committed.
    let (write, delete) = tokio::join!(world.put(&bucket, &again, b"x"), world.delete(&bucket, &["a"]));
    assert!(write.is_err());
    let _gone = delete.unwrap();
    assert!(world.get(&bucket, "a").await.is_none());
    assert!(world.store.check().await.unwrap().is_sound());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_refused_commit_stored_is_given_up_and_erased() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::new(dir.path()).await;
    let bucket = world.bucket("first").await;
    let _put = world.put(&bucket, "a", &data(200_000, 1)).await.unwrap();
    let absent = ringfence_store::Conditions { if_none_match: Some(ringfence_store::Anything), if_match: None };
    let _refused = world.put_as(&bucket, "a", "internal", &data(200_000, 2), absent.clone()).await.unwrap_err();
    let _refused = world.put_as(&bucket, "a", "internal", b"small", absent).await.unwrap_err();
    assert_eq!(world.names("home").await.len(), 6);
    world.clock.advance_us(HOUR_US);
    let erased = world.store.erase_due(0).await.unwrap();
    assert_eq!(erased.given_up, 4);
    assert_eq!(world.names("home").await.len(), 2);
    // Sweep has nothing left to do and says so.
    let swept = world.store.sweep(SweepMode::Erase, 0, &Opener).await.unwrap();
    assert_eq!((swept.sites["home"].orphans, swept.given_up), (0, 0), "{swept:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_permit_that_grew_old_is_not_recorded() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::new(dir.path()).await;
    let bucket = world.bucket("first").await;
    let ask = Ask::on_bucket("s3:PutBucketTagging", &bucket, &label("internal"));
    let permit = world.permit::<Write>(ask);
    world.clock.advance_us(60_000_000);
    let mut now = bucket.clone();
    now.tags = vec![("a".to_owned(), "b".to_owned())];
    let size = world.log.durable_size();
    let refused = world.store.update_bucket(permit, bucket.clone(), now).await.unwrap_err();
    assert!(matches!(refused, CommitError::Conflict(Conflict::Stale)), "{refused}");
    assert_eq!(world.log.durable_size(), size);
}
