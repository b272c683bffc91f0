//! Objects through the store: put, get, list, delete, multipart; what a failed
//! condition leaves; what the sites hold.

mod support;

use ringfence_store::{Anything, CommitError, Conditions, Conflict, Deleted, Outcome, Query};
use support::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_put_is_read_back_whole_and_in_ranges() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::new(dir.path()).await;
    let bucket = world.bucket("first").await;
    for len in [0, 1, 1000, 65_000, 65_536, 70_000, 1_000_000, 40_000_000] {
        let data = data(len, 3);
        let name = format!("object-{len}");
        let _put = world.put(&bucket, &name, &data).await.unwrap();
        assert!(world.get(&bucket, &name).await.unwrap() == data, "{len} bytes");
        let version = world.store.catalog().locate(&bucket.id, &key(&name), None).unwrap().unwrap();
        for (start, end) in [(0, 1), (len / 2, len / 2 + 1), (len.saturating_sub(1), len), (len / 3, len)] {
            if start < end && end <= len {
                let got = world.read(&version, start as u64..end as u64).await.unwrap();
                assert!(got == data[start..end], "{start}..{end} of {len}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_public_object_is_announced_before_it_leaves() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::new(dir.path()).await;
    let bucket = world.bucket("first").await;
    let put = world.put_as(&bucket, "a", "public", b"hello", Conditions::default()).await.unwrap();
    let announced = world.log.lookup(put.index() - 1).unwrap();
    assert!(matches!(announced.redo, Some(ringfence_format::redo::Redo::BeginWrite(_, _))), "{announced:?}");
    assert_eq!(announced.resource.sites, vec![site_id("cloud")]);
    assert_eq!(world.get(&bucket, "a").await.unwrap(), b"hello");
    assert_eq!(world.names("cloud").await.len(), 2);
    assert_eq!(world.names("home").await.len(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_copies_are_two_complete_copies() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::new(dir.path()).await;
    let bucket = world.bucket("first").await;
    let data = data(300_000, 1);
    let _put = world.put_as(&bucket, "a", "confidential", &data, Conditions::default()).await.unwrap();
    let version = world.store.catalog().locate(&bucket.id, &key("a"), None).unwrap().unwrap();
    assert_eq!(version.copies.len(), 2);
    for lost in ["home", "second"] {
        let mut fetch = world.store.fetch(&version, 0..10, &[site_id(lost)]).unwrap();
        assert!(fetch.next().await.unwrap().is_ok(), "the copy beside `{lost}`");
        assert_ne!(fetch.site(), Some(&site_id(lost)));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_copy_is_read_from_the_other() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::new(dir.path()).await;
    let bucket = world.bucket("first").await;
    let data = data(300_000, 1);
    let _put = world.put_as(&bucket, "a", "confidential", &data, Conditions::default()).await.unwrap();
    for (path, _) in world
        .files()
        .into_iter()
        .filter(|(path, len)| *len > 200_000 && path.starts_with(dir.path().join("sites/home")))
    {
        let _missing = std::fs::remove_file(path);
    }
    assert!(world.get(&bucket, "a").await.unwrap() == data);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conditions_are_decided_once() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::new(dir.path()).await;
    let bucket = world.bucket("first").await;
    let absent = || Conditions { if_none_match: Some(Anything), if_match: None };
    // Sixteen at once: exactly one makes the object.
    let puts = (0..16).map(|i| {
        let data = data(100, i);
        let (world, bucket) = (&world, &bucket);
        async move { world.put_as(bucket, "lock", "internal", &data, absent()).await }
    });
    let results = futures::future::join_all(puts).await;
    assert_eq!(results.iter().filter(|r| r.is_ok()).count(), 1);
    assert!(results.iter().all(|r| matches!(r, Ok(_) | Err(CommitError::Conflict(Conflict::Precondition)))));
    let size = world.log.durable_size();
    let matching = |etag: &str| Conditions { if_none_match: None, if_match: Some(etag.to_owned()) };
    let refused = world.put_as(&bucket, "lock", "internal", b"x", matching("other")).await.unwrap_err();
    assert!(matches!(refused, CommitError::Conflict(Conflict::Precondition)));
    let refused = world.put_as(&bucket, "none", "internal", b"x", matching("other")).await.unwrap_err();
    assert!(matches!(refused, CommitError::Conflict(Conflict::NoSuchKey)));
    assert_eq!(world.log.durable_size(), size, "a refused commit writes no record");
    let current = world.store.catalog().locate(&bucket.id, &key("lock"), None).unwrap().unwrap();
    let put = world.put_as(&bucket, "lock", "internal", b"new", matching(&current.etag)).await.unwrap();
    assert_eq!(*put.outcome(), Outcome::Put { replaced: vec![current.uid] });
    assert_eq!(world.get(&bucket, "lock").await.unwrap(), b"new");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delete_hides_at_once_and_erases_after_the_grace() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::new(dir.path()).await;
    let bucket = world.bucket("first").await;
    let big = data(200_000, 1);
    let _put = world.put(&bucket, "small", b"small").await.unwrap();
    let _put = world.put(&bucket, "big", &big).await.unwrap();
    let _put = world.put(&bucket, "kept", &big).await.unwrap();
    let version = world.store.catalog().locate(&bucket.id, &key("big"), None).unwrap().unwrap();
    let mut reading = world.store.fetch(&version, 0..200_000, &[]).unwrap();
    let gone = world.delete(&bucket, &["small", "big", "absent"]).await.unwrap();
    let Outcome::Deleted(deleted) = gone.outcome() else { panic!("{gone:?}") };
    assert!(matches!(deleted.as_slice(), [Deleted::Gone { .. }, Deleted::Gone { .. }, Deleted::Absent { .. }]));
    assert!(world.get(&bucket, "small").await.is_none());
    assert_eq!(world.names("home").await.len(), 6);
    world.clock.advance_us(10_000_000);
    let erased = world.store.erase_due(5_000).await.unwrap();
    assert_eq!((erased.erased, erased.in_use), (3, 1), "{erased:?}");
    assert!(reading.next().await.unwrap().is_ok(), "who reads goes on reading");
    drop(reading);
    let erased = world.store.erase_due(5_000).await.unwrap();
    assert_eq!((erased.erased, erased.in_use), (1, 0));
    assert_eq!(world.names("home").await.len(), 2);
    assert!(world.get(&bucket, "kept").await.unwrap() == big);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn multipart_keeps_the_parts_it_names_and_completes_twice_alike() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::new(dir.path()).await;
    let bucket = world.bucket("first").await;
    let upload = world.create_upload(&bucket, "big", "internal").await;
    let parts = [data(300_000, 1), data(5_000, 2), data(20_000_000, 3), data(10, 4)];
    for (number, data) in (1..).zip(&parts) {
        let _part = world.put_part(&bucket, &upload, number, data).await.unwrap();
    }
    let _again = world.put_part(&bucket, &upload, 2, &parts[1]).await.unwrap();
    let rows = world.store.catalog().list_parts(&upload.id, 0, 1000).unwrap();
    assert_eq!(rows.len(), 4);
    let kept: Vec<_> = rows[..3].to_vec();
    let done = world.complete(&bucket, &upload, kept.clone()).await.unwrap();
    assert!(matches!(done.outcome(), Outcome::Put { .. }));
    assert!(world.get(&bucket, "big").await.unwrap() == parts[..3].concat());
    assert!(world.store.catalog().upload(&upload.id).unwrap().is_none());
    let again = world.complete(&bucket, &upload, kept).await.unwrap_err();
    let CommitError::Conflict(Conflict::AlreadyComplete(completed)) = again else { panic!("{again}") };
    assert_eq!(completed.uid, upload.version.uid);
    world.clock.advance_us(HOUR_US);
    let _erased = world.store.erase_due(0).await.unwrap();
    let _given_up_heads = world.store.erase_due(0).await.unwrap();
    // Part 1, part 2 (packed), part 3 in two chunks, one head.
    assert_eq!(world.names("home").await.len(), 5);
    assert!(world.get(&bucket, "big").await.unwrap() == parts[..3].concat());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_part_that_was_replaced_cannot_be_completed() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::new(dir.path()).await;
    let bucket = world.bucket("first").await;
    let upload = world.create_upload(&bucket, "big", "internal").await;
    let _part = world.put_part(&bucket, &upload, 1, b"old").await.unwrap();
    let rows = world.store.catalog().list_parts(&upload.id, 0, 1000).unwrap();
    let _part = world.put_part(&bucket, &upload, 1, b"new").await.unwrap();
    let refused = world.complete(&bucket, &upload, rows).await.unwrap_err();
    assert!(matches!(refused, CommitError::Conflict(Conflict::InvalidPart(1))), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bucket_with_objects_stays_and_one_with_uploads_goes() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::new(dir.path()).await;
    let bucket = world.bucket("first").await;
    let upload = world.create_upload(&bucket, "big", "internal").await;
    let _part = world.put_part(&bucket, &upload, 1, b"part").await.unwrap();
    let _put = world.put(&bucket, "a", b"a").await.unwrap();
    let delete = async || {
        let ask = ringfence_access::Ask::on_bucket("s3:DeleteBucket", &bucket, &label("internal"));
        world.store.delete_bucket(world.permit(ask), bucket.id).await
    };
    let refused = delete().await.unwrap_err();
    assert!(matches!(refused, CommitError::Conflict(Conflict::BucketNotEmpty)));
    let _gone = world.delete(&bucket, &["a"]).await.unwrap();
    let _gone = delete().await.unwrap();
    assert!(world.store.catalog().bucket_by_name(&bucket.name).is_none());
    assert!(world.store.catalog().upload(&upload.id).unwrap().is_none());
    world.clock.advance_us(HOUR_US);
    let _erased = world.store.erase_due(0).await.unwrap();
    assert_eq!(world.names("home").await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_change_between_put_and_commit_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::new(dir.path()).await;
    let bucket = world.bucket("first").await;
    let (permit, version, copies) = world.store_object(&bucket, "a", "internal", b"a").await.unwrap();
    let change = world.engine.propose(world.operator(), policies("@id(\"no-op\") forbid (principal, action == Action::\"Read\", resource) when { resource in Tenant::\"nobody\" };"));
    let recorded = world.store.record_policy(change).await.unwrap();
    world.engine.adopt(&recorded).unwrap();
    let put = ringfence_store::PutVersion {
        version,
        copies,
        conditions: Conditions::default(),
        source: None,
        place_again: None,
    };
    let refused = world.store.put_version(permit, put).await.unwrap_err();
    assert!(matches!(refused, CommitError::Conflict(Conflict::PolicyChanged)), "{refused}");

    // What can be placed again at the same sites is, and need not be written twice.
    let object = world.object(&bucket);
    let placement = world.place(&bucket, "a", "internal", &object);
    drop(placement);
    let _put = world.put(&bucket, "a", b"a").await.unwrap();
    let page = world.store.catalog().list_page(&bucket.id, &Query { max: 10, ..Query::default() }).unwrap();
    assert_eq!(page.contents.len(), 1);
}
