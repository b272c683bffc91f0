//! The invariants this crate states, attacked where the types end.

mod support;

use ringfence_access::permit::Write;
use ringfence_format::redo::Redo;
use ringfence_store::{CommitError, Conditions, Conflict, PutError, PutVersion};
use support::*;

fn put(version: ringfence_format::redo::Version, copies: ringfence_store::Copies) -> PutVersion {
    PutVersion { version, copies, conditions: Conditions::default(), source: None, place_again: None }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invariant_3_an_object_is_visible_only_with_every_copy_complete() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::new(dir.path()).await;
    let bucket = world.bucket("first").await;
    let old = data(200_000, 1);
    let _put = world.put_as(&bucket, "a", "confidential", &old, Conditions::default()).await.unwrap();
    // One of two sites stops: small and large objects are both refused.
    world.store.site(&site_id("second")).unwrap().close().await;
    for new in [b"small".to_vec(), data(200_000, 2), data(20_000_000, 3)] {
        let refused = world.store_object(&bucket, "a", "confidential", &new).await.err();
        assert!(matches!(refused, Some(PutError::Site(_))), "{} bytes: {refused:?}", new.len());
    }
    assert!(world.get(&bucket, "a").await.unwrap() == old, "what was there stays whole");
    world.clock.advance_us(HOUR_US);
    let erased = world.store.erase_due(0).await.unwrap();
    assert!(erased.given_up >= 3, "{erased:?}");
    assert_eq!(world.names("home").await.len(), 2, "what was written of the others is erased");
    assert!(world.get(&bucket, "a").await.unwrap() == old);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invariant_3_permit_copies_and_version_must_name_one_object() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::new(dir.path()).await;
    let bucket = world.bucket("first").await;
    let not_the_same = |refused: CommitError| matches!(refused, CommitError::Conflict(Conflict::NotTheSameObject));
    // Another object's permit.
    let (_permit, version, copies) = world.store_object(&bucket, "a", "internal", b"a").await.unwrap();
    let other = world.write_permit(&bucket, "a", "internal", &world.object(&bucket));
    assert!(not_the_same(world.store.put_version(other, put(version, copies)).await.unwrap_err()));
    // A version that claims another part, a milder label, or no head.
    for spoil in [
        |version: &mut ringfence_format::redo::Version| version.parts[0].sealed_len += 1,
        |version: &mut ringfence_format::redo::Version| version.size += 1,
        |version: &mut ringfence_format::redo::Version| version.label = label("public"),
        |version: &mut ringfence_format::redo::Version| version.head = None,
        |version: &mut ringfence_format::redo::Version| version.parts.clear(),
    ] {
        let (permit, mut version, copies) = world.store_object(&bucket, "a", "internal", b"a").await.unwrap();
        spoil(&mut version);
        assert!(not_the_same(world.store.put_version(permit, put(version, copies)).await.unwrap_err()));
    }
    // A permit about no object at all.
    let (_permit, version, copies) = world.store_object(&bucket, "a", "internal", b"a").await.unwrap();
    let vague = world.permit::<Write>(world.ask("s3:PutObject", &bucket, "a", "internal"));
    assert!(not_the_same(world.store.put_version(vague, put(version, copies)).await.unwrap_err()));
    assert!(world.get(&bucket, "a").await.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invariant_5_a_commit_under_a_newer_policy_is_placed_again() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::new(dir.path()).await;
    let bucket = world.bucket("first").await;
    let adopt = async |extra: &str| {
        let change = world.engine.propose(world.operator(), policies(extra));
        let recorded = world.store.record_policy(change).await.unwrap();
        world.engine.adopt(&recorded).unwrap();
    };
    let again = |placement: ringfence_access::Placement| -> Option<ringfence_store::PlaceAgain> {
        let engine = world.engine.clone();
        Some(Box::new(move || engine.renew_placement(placement).map_err(Box::new)))
    };
    let renewed = |permit: ringfence_access::Permit<Write>| {
        let (engine, keys) = (world.engine.clone(), world.keys.clone());
        let now_us = ringfence_db::clock::Clock::now_us(&*world.clock);
        ringfence_store::Authority::anew(move |_| engine.renew(permit, &keys, now_us).map_err(Box::new))
    };
    // Still allowed where it lies: committed under the new epoch, written once.
    let (permit, version, copies) = world.store_object(&bucket, "a", "internal", b"a").await.unwrap();
    let ask = world.ask("s3:PutObject", &bucket, "a", "internal");
    let placement = world.engine.place(&world.caller(), ask, copies.object().clone()).unwrap();
    adopt("@id(\"idle\") forbid (principal, action == Action::\"LowerLabel\", resource) when { context.from == Label::\"public\" };").await;
    let request = PutVersion { place_again: again(placement), ..put(version, copies) };
    let done = world.store.put_version(renewed(permit), request).await.unwrap();
    let Some(Redo::PutVersion(version, _)) = done.redo() else { panic!("{done:?}") };
    assert_eq!(version.policy_epoch, world.engine.epoch());

    // No longer allowed: refused with the denial, for the record.
    let (permit, version, copies) = world.store_object(&bucket, "b", "internal", b"b").await.unwrap();
    let ask = world.ask("s3:PutObject", &bucket, "b", "internal");
    let placement = world.engine.place(&world.caller(), ask, copies.object().clone()).unwrap();
    adopt("@id(\"not-home\") forbid (principal, action == Action::\"Place\", resource) when { resource == Site::\"home\" };").await;
    let size = world.log.durable_size();
    let request = PutVersion { place_again: again(placement), ..put(version, copies) };
    let refused = world.store.put_version(renewed(permit), request).await.unwrap_err();
    assert!(matches!(refused, CommitError::Denied(_)), "{refused}");
    assert_eq!(world.log.durable_size(), size);
    assert!(world.get(&bucket, "b").await.is_none());
}
