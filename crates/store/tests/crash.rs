//! What the next process finds: after a crash, with an older database, with an
//! older log, with no database at all.

mod support;

use std::path::Path;

use ringfence_access::permit::Administer;
use ringfence_access::policy::Engine;
use ringfence_access::{Ask, caller};
use ringfence_db::clock::Clock;
use ringfence_format::redo::Version;
use ringfence_store::{OpenHead, RecoverFrom, RecoverReport, StartError, SweepError, SweepMode, recover};
use support::*;

/// Some of everything: objects small and large, overwritten, deleted, an
/// upload completed and one under way.
async fn history(world: &World) {
    let bucket = world.bucket("first").await;
    let other = world.bucket("other").await;
    for i in 0..20_u8 {
        let _put = world.put(&bucket, &format!("k/{}", i % 7), &data(100 + usize::from(i), i)).await.unwrap();
    }
    let _put = world.put(&other, "big", &data(700_000, 1)).await.unwrap();
    let _put = world.put_as(&other, "out", "public", b"public", Default::default()).await.unwrap();
    let _gone = world.delete(&bucket, &["k/1", "k/2"]).await.unwrap();
    let upload = world.create_upload(&bucket, "done", "internal").await;
    let _part = world.put_part(&bucket, &upload, 1, &data(100_000, 2)).await.unwrap();
    let _part = world.put_part(&bucket, &upload, 2, &data(10, 3)).await.unwrap();
    let rows = world.store.catalog().list_parts(&upload.id, 0, 100).unwrap();
    let _done = world.complete(&bucket, &upload, rows).await.unwrap();
    let open = world.create_upload(&bucket, "open", "internal").await;
    let _part = world.put_part(&bucket, &open, 7, &data(100_000, 5)).await.unwrap();
}

async fn assert_sound(world: &World) {
    let report = world.store.check().await.unwrap();
    assert!(report.is_sound(), "{report:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_database_is_brought_up_to_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::new(dir.path()).await;
    let _bucket = world.bucket("before").await;
    let backup = dir.path().join("backup.db");
    world.store.catalog().back_up(&backup).unwrap();
    history(&world).await;
    let before = dump(&world.store);
    world.close().await;
    // The database as it was before; also what a crash between record and
    // commit leaves: records without their rows.
    for file in ["catalogue.db-wal", "catalogue.db-shm"] {
        let _absent = std::fs::remove_file(dir.path().join(file));
    }
    std::fs::copy(&backup, dir.path().join("catalogue.db")).unwrap();
    let world = World::open(dir.path(), START_US + HOUR_US, 2).await.unwrap();
    assert_eq!(dump(&world.store), before);
    assert_sound(&world).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_gone_is_replayed_from_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::new(dir.path()).await;
    history(&world).await;
    let before = dump(&world.store);
    let sites = world.store.sites();
    let log = world.log.clone();
    let path = dir.path().join("recovered.db");
    let from = RecoverFrom {
        installation: installation(),
        log: Some(&log),
        sites: &sites,
        heads: &Opener,
        clock: &*world.clock,
    };
    let report = recover(&path, from, |_| {}).await.unwrap();
    assert!(report.from_log && report.unconfirmed == 0 && report.problems.is_empty(), "{report:?}");
    drop((sites, log));
    world.close().await;
    for file in ["catalogue.db", "catalogue.db-wal", "catalogue.db-shm"] {
        let _absent = std::fs::remove_file(dir.path().join(file));
    }
    std::fs::rename(path, dir.path().join("catalogue.db")).unwrap();
    let world = World::open(dir.path(), START_US + HOUR_US, 2).await.unwrap();
    assert_eq!(dump(&world.store), before);
    let refused = world.store.sweep(SweepMode::Erase, 0, &Opener).await.unwrap_err();
    assert!(matches!(refused, SweepError::NotConfirmed), "{refused}");
    let refused = world.store.sweep(SweepMode::EraseRecovered, 0, &Opener).await.unwrap_err();
    assert!(matches!(refused, SweepError::NotConfirmed), "a dry run comes first: {refused}");
    let _looked = world.store.sweep(SweepMode::DryRun, 0, &Opener).await.unwrap();
    let _confirmed = world.store.sweep(SweepMode::EraseRecovered, 0, &Opener).await.unwrap();
    let _as_always = world.store.sweep(SweepMode::Erase, 0, &Opener).await.unwrap();
    assert_eq!(dump(&world.store), before);
    assert_sound(&world).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_log_and_database_the_heads_bring_everything_back() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::new(dir.path()).await;
    history(&world).await;
    let gone = world.store.catalog().bucket_by_name(&"first".parse().unwrap()).unwrap();
    world.clock.advance_us(HOUR_US);
    let _erased = world.store.erase_due(0).await.unwrap();
    let mut before = world.store.catalog().walk(0, 1000).unwrap();
    before.sort_by_key(|(_, version)| version.uid);
    world.close().await;
    for file in ["catalogue.db", "catalogue.db-wal", "catalogue.db-shm"] {
        let _absent = std::fs::remove_file(dir.path().join(file));
    }
    std::fs::remove_dir_all(dir.path().join("log")).unwrap();
    let sites: Vec<_> = open_sites(dir.path()).into_iter().map(std::sync::Arc::new).collect();
    let clock = ringfence_db::clock::ManualClock::new(START_US);
    let from = RecoverFrom { installation: installation(), log: None, sites: &sites, heads: &Opener, clock: &clock };
    let report = recover(&dir.path().join("catalogue.db"), from, |_| {}).await.unwrap();
    assert_eq!((report.versions, report.unconfirmed), (before.len() as u64, before.len() as u64), "{report:?}");
    for site in &sites {
        site.close().await;
    }
    drop(sites);
    let world = World::open(dir.path(), START_US + HOUR_US, 2).await.unwrap();
    let mut after = world.store.catalog().walk(0, 1000).unwrap();
    after.sort_by_key(|(_, version)| version.uid);
    for ((_, before), (_, after)) in before.iter().zip(&after) {
        assert_eq!(
            (&before.key, &before.parts, &before.etag, &before.head),
            (&after.key, &after.parts, &after.etag, &after.head)
        );
        assert_eq!(before.copies, after.copies);
        assert!(world.store.catalog().is_unconfirmed(&after.uid).unwrap());
    }
    assert!(world.get(&gone, "k/1").await.is_none());
    assert!(world.get(&gone, "k/3").await.unwrap() == data(117, 17));
    assert_sound(&world).await;
    // The log knows no process that wrote these: nothing may be erased.
    let files = world.files();
    let _looked = world.store.sweep(SweepMode::DryRun, 0, &Opener).await.unwrap();
    let _swept = world.store.sweep(SweepMode::EraseRecovered, 0, &Opener).await.unwrap();
    assert_eq!(world.names("home").await.len(), world.names("home").await.len());
    assert!(files.iter().all(|(path, _)| path.exists()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_older_than_the_database_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::new(dir.path()).await;
    world.close().await;
    copy_dir(&dir.path().join("log"), &dir.path().join("older"));
    let world = World::open(dir.path(), START_US + HOUR_US, 2).await.unwrap();
    history(&world).await;
    world.close().await;
    std::fs::remove_dir_all(dir.path().join("log")).unwrap();
    std::fs::rename(dir.path().join("older"), dir.path().join("log")).unwrap();
    let Err(error) = World::open(dir.path(), START_US + HOUR_US, 3).await else { panic!("it must be refused") };
    assert!(matches!(error, StartError::LogOlder { .. }), "{error}");
    assert!(error.to_string().contains("the log is older than the catalogue"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_crash_left_is_swept_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::new(dir.path()).await;
    let bucket = world.bucket("first").await;
    let big = data(200_000, 1);
    let _put = world.put(&bucket, "kept", &big).await.unwrap();
    let object = world.object(&bucket);
    let permit = world.write_permit(&bucket, "half", "public", &object);
    let placement = world.place(&bucket, "half", "public", &object);
    let mut writer = world.store.part_writer(&permit, &placement, None).await.unwrap();
    let id = world.store.new_part();
    for sealed in world.seal(&data_key(&object), id, &big) {
        writer.write(sealed).await.unwrap();
    }
    // The process ends here: stored, and nobody was told.
    std::mem::forget(writer.finish_part().await.unwrap());
    let upload = world.create_upload(&bucket, "open", "internal").await;
    let _part = world.put_part(&bucket, &upload, 1, &big).await.unwrap();
    world.close().await;

    let world = World::open(dir.path(), START_US + HOUR_US, 2).await.unwrap();
    assert_eq!(world.names("cloud").await.len(), 1);
    let dry = world.store.sweep(SweepMode::DryRun, 60_000, &Opener).await.unwrap();
    assert_eq!((dry.sites["cloud"].orphans, dry.sites["cloud"].erased, dry.given_up), (1, 0, 0), "{dry:?}");
    let swept = world.store.sweep(SweepMode::Erase, 60_000, &Opener).await.unwrap();
    assert_eq!((swept.sites["cloud"].erased, swept.given_up), (1, 1), "{swept:?}");
    assert_eq!(swept.sites["home"].orphans, 0, "{swept:?}");
    assert_eq!(world.names("cloud").await.len(), 0);
    assert!(world.get(&bucket, "kept").await.unwrap() == big);
    assert_sound(&world).await;
    let again = world.store.sweep(SweepMode::Erase, 60_000, &Opener).await.unwrap();
    assert_eq!(again.given_up, 0, "{again:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_both_were_restored_from_a_backup_nothing_newer_is_swept() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::new(dir.path()).await;
    let bucket = world.bucket("first").await;
    let _put = world.put(&bucket, "old", &data(200_000, 1)).await.unwrap();
    world.close().await;
    for what in ["log", "catalogue.db"] {
        let (from, to) = (dir.path().join(what), dir.path().join("backup").join(what));
        if from.is_dir() {
            copy_dir(&from, &to);
        } else {
            std::fs::copy(from, to).unwrap();
        }
    }
    // The same process goes on in spirit: more of the known process, and a new one.
    let world = World::open(dir.path(), START_US + HOUR_US, 2).await.unwrap();
    let _put = world.put(&bucket, "newer", &data(200_000, 2)).await.unwrap();
    let _put = world.put(&bucket, "newer-small", b"small").await.unwrap();
    world.close().await;
    let _absent = std::fs::remove_file(dir.path().join("catalogue.db-wal"));
    let _absent = std::fs::remove_file(dir.path().join("catalogue.db-shm"));
    std::fs::copy(dir.path().join("backup/catalogue.db"), dir.path().join("catalogue.db")).unwrap();
    std::fs::remove_dir_all(dir.path().join("log")).unwrap();
    copy_dir(&dir.path().join("backup/log"), &dir.path().join("log"));
    let world = World::open(dir.path(), START_US + 3 * HOUR_US, 3).await.unwrap();
    let names = world.names("home").await;
    let swept = world.store.sweep(SweepMode::Erase, 0, &Opener).await.unwrap();
    assert_eq!(swept.sites["home"].unknown, 4, "{swept:?}");
    assert_eq!(swept.sites["home"].erased, 0, "{swept:?}");
    assert_eq!(world.names("home").await, names);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_that_a_lost_log_may_have_known_protects_its_chunks() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::new(dir.path()).await;
    let bucket = world.bucket("first").await;
    // Written by a process the log knows, after its last record.
    world.clock.advance_us(HOUR_US);
    let (_permit, _version, copies) = world.store_object(&bucket, "a", "internal", &data(200_000, 1)).await.unwrap();
    std::mem::forget(copies);
    world.close().await;
    let world = World::open(dir.path(), START_US + 9 * HOUR_US, 2).await.unwrap();
    let swept = world.store.sweep(SweepMode::Erase, 0, &Opener).await.unwrap();
    assert_eq!((swept.sites["home"].recoverable, swept.sites["home"].erased), (2, 0), "{swept:?}");
    assert_eq!(world.names("home").await.len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_that_cannot_be_opened_holds_the_sweep_back() {
    struct NoKey;
    impl OpenHead for NoKey {
        fn open_head(&self, _: &ringfence_format::envelope::Fetched) -> Result<ringfence_store::OpenedHead, String> {
            Err("the key is not in the keyring".to_owned())
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let world = World::new(dir.path()).await;
    let bucket = world.bucket("first").await;
    let (_permit, _version, copies) = world.store_object(&bucket, "a", "internal", &data(200_000, 1)).await.unwrap();
    std::mem::forget(copies);
    world.close().await;
    let world = World::open(dir.path(), START_US + 9 * HOUR_US, 2).await.unwrap();
    let swept = world.store.sweep(SweepMode::Erase, 0, &NoKey).await.unwrap();
    assert!(swept.held_back.is_some() && swept.given_up == 0, "{swept:?}");
    assert_eq!(world.names("home").await.len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn packs_that_are_mostly_erased_give_their_space_back() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::new(dir.path()).await;
    let bucket = world.bucket("first").await;
    for i in 0..60_u8 {
        let _put = world.put(&bucket, &format!("{i}"), &data(60_000, i)).await.unwrap();
    }
    let names: Vec<String> = (0..50).map(|i| i.to_string()).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let _gone = world.delete(&bucket, &names).await.unwrap();
    world.clock.advance_us(HOUR_US);
    let _erased = world.store.erase_due(0).await.unwrap();
    world.close().await;
    let world = World::open(dir.path(), START_US + 2 * HOUR_US, 2).await.unwrap();
    let version = world.store.catalog().locate(&bucket.id, &key("55"), None).unwrap().unwrap();
    let report = world.store.compact().await.unwrap();
    assert!(report.packs >= 1 && report.moved >= 20 && report.failed.is_empty(), "{report:?}");
    for i in 50..60_u8 {
        assert!(world.get(&bucket, &i.to_string()).await.unwrap() == data(60_000, i));
    }
    // Who had located it before reads it all the same.
    assert!(world.read(&version, 0..version.size).await.unwrap() == data(60_000, 55));
    assert_sound(&world).await;
    world.close().await;
    let world = World::open(dir.path(), START_US + 3 * HOUR_US, 3).await.unwrap();
    assert!(world.get(&bucket, "55").await.unwrap() == data(60_000, 55));
    assert_sound(&world).await;
}

/// A history drawn from a seed: every kind of change, conditions that fail,
/// uploads that end in each way.
async fn random_history(world: &World, seed: u64, steps: usize) {
    let mut state = seed;
    let mut draw = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    let buckets = [world.bucket("one").await, world.bucket("two").await];
    let mut uploads = Vec::new();
    for step in 0..steps {
        let bucket = &buckets[draw(2)];
        let name = format!("dir/{}", draw(6));
        let len = [0, 10, 5_000, 70_000, 300_000][draw(5)];
        let label_name = ["internal", "confidential", "public"][draw(3)];
        let conditions = ringfence_store::Conditions {
            if_none_match: (draw(4) == 0).then_some(ringfence_store::Anything),
            if_match: (draw(6) == 0).then(|| "*".to_owned()),
        };
        match draw(8) {
            0..=3 => drop(world.put_as(bucket, &name, label_name, &data(len, step as u8), conditions).await),
            4 => drop(world.delete(bucket, &[&name, "dir/0"]).await),
            5 => uploads.push((bucket, world.create_upload(bucket, &name, label_name).await)),
            6 if !uploads.is_empty() => {
                let (bucket, upload) = &uploads[draw(uploads.len())];
                drop(world.put_part(bucket, upload, 1 + draw(3) as u32, &data(len, step as u8)).await);
            }
            7 if !uploads.is_empty() => {
                let (bucket, upload) = uploads.swap_remove(draw(uploads.len()));
                let rows = world.store.catalog().list_parts(&upload.id, 0, 100).unwrap();
                if rows.is_empty() || draw(3) == 0 {
                    let ask = world.ask("s3:AbortMultipartUpload", bucket, &name, label_name);
                    let _ended = world.store.abort_upload(world.permit(ask), upload.id).await.unwrap();
                } else {
                    let _done = world.complete(bucket, &upload, rows).await.unwrap();
                }
            }
            _ => {
                world.clock.advance_us(1_000_000);
                let _erased = world.store.erase_due(500).await.unwrap();
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replayed_catalogue_equals_the_lost_one_for_random_histories() {
    for seed in 1..=6 {
        let dir = tempfile::tempdir().unwrap();
        let world = World::new(dir.path()).await;
        random_history(&world, seed, 60).await;
        let before = dump(&world.store);
        assert_sound(&world).await;
        world.close().await;
        for file in ["catalogue.db", "catalogue.db-wal", "catalogue.db-shm"] {
            let _absent = std::fs::remove_file(dir.path().join(file));
        }
        let world = World::open(dir.path(), START_US + 9 * HOUR_US, 2).await.unwrap();
        assert_eq!(dump(&world.store), before, "seed {seed}");
        assert_sound(&world).await;
        // What had been erased is put aside again; erasing it again harms nobody.
        let _erased = world.store.erase_due(0).await.unwrap();
        let _swept = world.store.sweep(SweepMode::Erase, 0, &Opener).await.unwrap();
        assert_sound(&world).await;
        for (_, version) in world.store.catalog().walk(0, 1000).unwrap() {
            let version = std::sync::Arc::new(version);
            let read = world.read(&version, 0..version.size).await.unwrap();
            assert_eq!(read.len() as u64, version.size, "seed {seed}");
        }
    }
}

/// Log and catalogue are lost, a log is begun anew, then the catalogue is lost
/// again: heads tell what was there, and that log has the last word.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_log_begun_anew_heads_and_that_log_bring_everything_back() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::new(dir.path()).await;
    let bucket = world.bucket("first").await;
    for name in ["kept", "overwritten", "deleted"] {
        let _put = world.put(&bucket, name, &data(1000, 1)).await.unwrap();
    }
    let late = world.bucket("late").await;
    let _put = world.put(&late, "ghost", b"ghost").await.unwrap();
    world.close().await;
    std::fs::remove_dir_all(dir.path().join("log")).unwrap();
    let (world, report) = recovered(dir.path(), 1).await;
    assert!(!report.from_log && report.problems.is_empty(), "{report:?}");
    // Keys were only in what was lost.
    world.issue_key().await;

    let _put = world.put(&bucket, "overwritten", b"new").await.unwrap();
    let _gone = world.delete(&bucket, &["deleted"]).await.unwrap();
    // A bucket is deleted and made again; what was in the first is not erased
    // yet, and its head would bring it back.
    let _gone = world.delete(&late, &["ghost"]).await.unwrap();
    let permit = world.permit(Ask::on_bucket("s3:DeleteBucket", &late, &label("internal")));
    let _gone = world.store.delete_bucket(permit, late.id).await.unwrap();
    let _empty = world.bucket("late").await;
    let _new = world.put(&bucket, "new", b"new").await.unwrap();
    let all = |world: &World| {
        let mut all = world.store.catalog().walk(0, 1000).unwrap();
        all.sort_by_key(|(_, version)| version.uid);
        // Heads here are sealed before anybody placed them.
        let plain = |version: Version| Version { placed_by: Vec::new(), ..version };
        all.into_iter().map(|(_, version)| plain(version)).collect::<Vec<_>>()
    };
    let before = all(&world);
    world.close().await;

    let (world, report) = recovered(dir.path(), 2).await;
    assert!(!report.from_log && report.problems.is_empty(), "{report:?}");
    let after = all(&world);
    assert_eq!(after, before);
    let unconfirmed = |version: &&Version| world.store.catalog().is_unconfirmed(&version.uid).unwrap();
    let unconfirmed: Vec<_> = after.iter().filter(unconfirmed).map(|version| version.key.as_str()).collect();
    assert_eq!(unconfirmed, ["kept"], "only what the log does not name");
    assert_sound(&world).await;
    let names: Vec<_> = world.store.catalog().buckets().iter().map(|bucket| bucket.name.to_string()).collect();
    assert_eq!(names, ["first", "late"]);
    assert_eq!(world.get(&bucket, "kept").await.unwrap(), data(1000, 1));
}

/// The catalogue is thrown away and rebuilt from the sites and what log there is.
async fn recovered(dir: &Path, hours: u64) -> (World, RecoverReport) {
    for file in ["catalogue.db", "catalogue.db-wal", "catalogue.db-shm"] {
        let _absent = std::fs::remove_file(dir.join(file));
    }
    let clock = std::sync::Arc::new(ringfence_db::clock::ManualClock::new(START_US + hours * HOUR_US));
    let log = open_log(dir, &clock);
    // As the command does: a log that is begun anew says so with its first record.
    let engine = Engine::new(policies(""), 1);
    let ask = Ask::on_installation("admin:Recover");
    let permit = engine.decide::<Administer>(&caller::system("recover"), ask, clock.now_us()).unwrap();
    let _recorded = log.record(permit).await.unwrap();
    let sites: Vec<_> = open_sites(dir).into_iter().map(std::sync::Arc::new).collect();
    let from =
        RecoverFrom { installation: installation(), log: Some(&log), sites: &sites, heads: &Opener, clock: &*clock };
    let report = recover(&dir.join("catalogue.db"), from, |_| {}).await.unwrap();
    drop(sites);
    (World::open_with(dir, clock, log, 10 + hours).await.unwrap(), report)
}
