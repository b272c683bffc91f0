//! A gateway against a home that says whatever a test wants.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use proptest::prelude::*;
use ringfence_db::clock::ManualClock;
use ringfence_db::disk::Disk;
use ringfence_db::disk::sim::{Fault, SimDisk};
use ringfence_format::names::SiteId;
use ringfence_format::session::{Purpose, Refusal, SessionToken, Target};
use tokio::sync::{Notify, watch};

use self::support::{Files, ISSUER, TestHome, public};
use super::follow::{Follower, NotFollowed};
use super::fresh::{Limits, Standing};
use super::home::{Home, Relation, relate};
use super::judge::{Denied, Judge};
use super::known::Store;
use super::trust::Trust;

#[path = "../../tests/support/home.rs"]
mod support;

const NOW_S: u64 = 1_900_000_000;

struct Served(Files);

#[async_trait]
impl Home for Served {
    async fn get(&self, path: &str, bytes_max: usize) -> Result<Vec<u8>, String> {
        let found = self.0.lock().unwrap().get(path).cloned();
        found.filter(|bytes| bytes.len() <= bytes_max).ok_or_else(|| format!("no `{path}`"))
    }
}

struct Gateway {
    follower: Arc<Follower>,
    judge: Judge,
    clock: Arc<ManualClock>,
    _followed: watch::Sender<u64>,
}

fn limits() -> Limits {
    Limits { fresh: Duration::from_secs(30), most: Duration::from_secs(60) }
}

fn open_at(home: &TestHome, disk: &SimDisk, now_s: u64) -> Result<Gateway, String> {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    let store = Store::open(disk, Path::new("/state"))?;
    let clock = Arc::new(ManualClock::new(now_s * 1_000_000));
    let trust = Trust::parse(&home.trust())?;
    let follower = Follower::new(trust, Box::new(Served(home.files.clone())), store, clock.clone(), limits())?;
    let follower = Arc::new(follower);
    let (_followed, heard) = watch::channel(0);
    let site = SiteId::parse("cloud").unwrap();
    let judge = Judge::new(follower.clone(), site, Arc::new(Notify::new()), heard);
    Ok(Gateway { follower, judge, clock, _followed })
}

fn open(home: &TestHome, disk: &SimDisk) -> Gateway {
    open_at(home, disk, NOW_S).unwrap()
}

impl Gateway {
    fn pinned(&self) -> u64 {
        self.follower.view().known.pinned.as_ref().map_or(0, |(pinned, _)| pinned.size)
    }

    async fn refusal(&self, token: &str) -> Refusal {
        match self.judge.judge(token).await {
            Err(Denied::Refused(refusal)) => refusal,
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_session_is_served_until_it_is_revoked_and_others_live_on() {
    let (mut home, disk) = (TestHome::new(NOW_S), SimDisk::new());
    let (alice, bob) = (home.session(1, NOW_S, 3600), home.session(2, NOW_S, 3600));
    home.publish();
    let gateway = open(&home, &disk);
    assert_eq!(gateway.judge.judge(&alice).await.unwrap_err(), Denied::Stale);
    gateway.follower.step().await.unwrap();
    let verified = gateway.judge.judge(&alice).await.unwrap();
    assert_eq!(verified.claims().session, [1; 16]);

    let index = SessionToken::parse(&alice).unwrap().receipt().unwrap().index;
    let by = home.revoke(Target::Session([1; 16], index), 0, NOW_S);
    home.publish();
    gateway.follower.step().await.unwrap();
    assert_eq!(gateway.refusal(&alice).await, Refusal::Revoked { by });
    let _ = gateway.judge.judge(&bob).await.unwrap();

    let after = home.size();
    let late = home.session(3, NOW_S, 3600);
    let by = home.revoke(Target::Key(public(ISSUER).kid()), after, NOW_S);
    home.publish();
    gateway.follower.step().await.unwrap();
    assert_eq!(gateway.refusal(&late).await, Refusal::Revoked { by });
    let _ = gateway.judge.judge(&bob).await.unwrap();

    // A start in the same directory knows all of that, once home answers.
    drop(gateway);
    let gateway = open(&home, &disk);
    assert_eq!(gateway.pinned(), home.size());
    assert_eq!(gateway.judge.judge(&bob).await.unwrap_err(), Denied::Stale);
    gateway.follower.step().await.unwrap();
    assert_eq!(gateway.refusal(&late).await, Refusal::Revoked { by });
    let _ = gateway.judge.judge(&bob).await.unwrap();
}

#[tokio::test]
async fn what_was_not_issued_is_refused_however_it_is_stapled() {
    let (mut home, disk) = (TestHome::new(NOW_S), SimDisk::new());
    let honest = home.session(1, NOW_S, 3600);
    home.access(300);
    home.publish();
    let gateway = open(&home, &disk);
    gateway.follower.step().await.unwrap();
    let receipt = SessionToken::parse(&honest).unwrap().receipt().unwrap().clone();
    let forged = TestHome::forge(&TestHome::claims(9, NOW_S, 3600));
    let staple = |receipt| SessionToken::staple(&forged, &receipt, None).unwrap();
    let at = |index| ringfence_format::session::Receipt { index, ..receipt.clone() };
    for token in [
        format!("{forged}~~"),
        staple(receipt.clone()),
        staple(at(receipt.index + 1)),
        staple(at(u64::from(u32::MAX))),
        // The thief who also has the log's key: leaf, path and checkpoint are right,
        // in a history of his own.
        {
            let mut fork = home.clone();
            fork.files = Files::default();
            fork.entries.truncate(receipt.index as usize);
            let (index, paseto) = fork.issue(&TestHome::claims(9, NOW_S, 3600));
            fork.access(300);
            fork.staple(index, &paseto)
        },
    ] {
        assert!(matches!(gateway.refusal(&token).await, Refusal::NotIssued(_)), "{token}");
    }
    // Under a larger fork nothing can be told before home shows that far.
    let mut fork = home.clone();
    fork.files = Files::default();
    fork.entries.truncate(100);
    fork.access(300);
    let ahead = fork.session(9, NOW_S, 3600);
    assert_eq!(gateway.judge.judge(&ahead).await.unwrap_err(), Denied::NotKnownYet);
    let _ = gateway.judge.judge(&honest).await.unwrap();
}

#[tokio::test]
async fn a_fork_is_refused_kept_and_changes_nothing() {
    for (cut, more) in [(3, 0), (3, 400), (290, 17), (299, 1)] {
        let (mut home, disk) = (TestHome::new(NOW_S), SimDisk::new());
        home.access(300 - home.entries.len());
        let honest = home.session(1, NOW_S, 3600);
        home.publish();
        let gateway = open(&home, &disk);
        gateway.follower.step().await.unwrap();
        let pinned = gateway.pinned();

        let mut fork = home.clone();
        fork.entries.truncate(cut);
        // The same bytes at the same place would be the same history.
        fork.public(ringfence_format::leaf::WITNESS_SET, b"another");
        fork.access(301 + more - fork.entries.len());
        fork.publish();
        let refused = gateway.follower.step().await;
        assert_eq!(refused, Err(NotFollowed::Fork { shown: fork.size(), pinned }), "{cut} {more}");
        assert_eq!(gateway.pinned(), pinned);
        let kept = disk.list(Path::new("/state")).unwrap();
        let kept: Vec<_> = kept.iter().filter(|it| it.name.starts_with("fork-")).map(|it| &it.name).collect();
        assert_eq!(kept.len(), 2, "both notes: {kept:?}");
        let evidence = disk.read(&Path::new("/state").join(kept[0])).unwrap();
        assert_eq!(evidence, fork.note(fork.size()).into_bytes());
        assert_eq!(gateway.follower.step().await, Err(NotFollowed::Fork { shown: fork.size(), pinned }));

        home.access(1);
        home.publish();
        gateway.follower.step().await.unwrap();
        let _ = gateway.judge.judge(&honest).await.unwrap();
    }
}

#[tokio::test]
async fn what_home_withholds_or_turns_back_renews_nothing() {
    let (mut home, disk) = (TestHome::new(NOW_S), SimDisk::new());
    let token = home.session(1, NOW_S, 600);
    let long = home.session(2, NOW_S, 3600);
    home.access(300);
    home.publish();
    let gateway = open(&home, &disk);
    gateway.follower.step().await.unwrap();
    let pinned = gateway.pinned();

    home.publish_at(200);
    let older = Err(NotFollowed::Older { shown: 200, pinned });
    assert_eq!(gateway.follower.step().await, older);
    // Tiles that are cut off, missing or changed.
    home.access(200);
    let whole = home.tiles(home.size());
    for spoil in ["cut", "gone", "changed"] {
        home.publish();
        for path in whole.keys().filter(|path| path.contains("entries/001")) {
            let mut files = home.files.lock().unwrap();
            match spoil {
                "cut" => files.get_mut(path).unwrap().truncate(35 * 50),
                "gone" => drop(files.remove(path)),
                _ => files.get_mut(path).unwrap()[34 * 60] ^= 1,
            }
        }
        assert!(matches!(gateway.follower.step().await, Err(NotFollowed::Home(_))), "{spoil}");
    }
    // Signed by nobody, or by another.
    let note = home.note(home.size());
    for bad in [note.replace("home.example", "evil.example"), note.replace(&format!("\n{}\n", home.size()), "\n600\n")]
    {
        home.files.lock().unwrap().insert("checkpoint".into(), bad.into_bytes());
        assert!(matches!(gateway.follower.step().await, Err(NotFollowed::Unsigned(_))));
    }
    home.files.lock().unwrap().clear();
    assert!(matches!(gateway.follower.step().await, Err(NotFollowed::Home(_))));
    assert_eq!(gateway.pinned(), pinned);

    let _ = gateway.judge.judge(&token).await.unwrap();
    gateway.clock.advance_us(31_000_000);
    assert_eq!(gateway.follower.standing(), Standing::Ageing);
    assert_eq!(gateway.judge.judge(&token).await.unwrap_err(), Denied::Ageing);
    let _ = gateway.judge.judge(&long).await.unwrap();
    gateway.clock.advance_us(30_000_000);
    assert_eq!(gateway.judge.judge(&long).await.unwrap_err(), Denied::Stale);
    home.publish();
    gateway.follower.step().await.unwrap();
    let _ = gateway.judge.judge(&token).await.unwrap();
}

#[tokio::test]
async fn a_manifest_counts_while_it_is_the_newest_on_record() {
    let (mut home, disk) = (TestHome::new(NOW_S), SimDisk::new());
    let token = home.session(1, NOW_S, 3600);
    home.publish();
    let gateway = open(&home, &disk);
    gateway.follower.step().await.unwrap();
    let _ = gateway.judge.judge(&token).await.unwrap();
    let old = home.trust();
    home.add_manifest(NOW_S, &[(ISSUER, Purpose::Api), (4, Purpose::Admission)]);
    home.publish();
    gateway.follower.step().await.unwrap();
    assert_eq!(gateway.judge.judge(&token).await.unwrap_err(), Denied::NoManifest { realm: TestHome::realm(), seq: 2 });
    gateway.follower.retrust(Trust::parse(&home.trust()).unwrap()).unwrap();
    let _ = gateway.judge.judge(&token).await.unwrap();
    // The older trust file changes nothing: the newer manifest was in force.
    gateway.follower.retrust(Trust::parse(&old).unwrap()).unwrap();
    let _ = gateway.judge.judge(&token).await.unwrap();

    // An older one that is recorded again comes not back into force.
    let first = home.manifests[0].leaf().to_bytes();
    home.public(ringfence_format::leaf::MANIFEST, &first);
    home.add_manifest(NOW_S, &[(4, Purpose::Admission)]);
    home.publish();
    gateway.follower.retrust(Trust::parse(&home.trust()).unwrap()).unwrap();
    gateway.follower.step().await.unwrap();
    assert!(matches!(gateway.refusal(&token).await, Refusal::UnknownKey { .. } | Refusal::RetiredKey { .. }));

    let other = home.trust().replace(support::ORIGIN, "other.example/log");
    assert!(Trust::parse(&other).is_err(), "its key id names the origin");
}

#[tokio::test]
async fn a_start_reads_again_only_what_may_still_live() {
    let (mut home, disk) = (TestHome::new(NOW_S), SimDisk::new());
    let mut now_s = NOW_S;
    for round in 0..12u8 {
        let token = home.session(round, now_s, 3600);
        home.access(90);
        home.publish();
        let gateway = open_at(&home, &disk, now_s).unwrap();
        gateway.follower.step().await.unwrap();
        let _ = gateway.judge.judge(&token).await.unwrap();
        let view = gateway.follower.view();
        assert!(view.known.issued.len() <= 6, "{round}: {}", view.known.issued.len());
        now_s += 700;
    }
    // All bundles but the last few are gone, as from a mirror that keeps a day.
    home.publish();
    home.files.lock().unwrap().retain(|path, _| !path.starts_with("tile/entries/000"));
    let gateway = open_at(&home, &disk, now_s).unwrap();
    gateway.follower.step().await.unwrap();
}

#[tokio::test]
async fn a_disk_that_stops_leaves_the_pin_that_was_used_or_a_later_one() {
    for at in 0..40 {
        let (mut home, disk) = (TestHome::new(NOW_S), SimDisk::new());
        home.publish();
        let gateway = open(&home, &disk);
        gateway.follower.step().await.unwrap();
        let before = gateway.pinned();
        let mut left = at;
        disk.script(move |_| {
            left -= 1;
            (left < 0).then_some(Fault::Stops)
        });
        for _ in 0..5 {
            home.access(7);
            home.publish();
            let _ = gateway.follower.step().await;
        }
        // What was judged by is on the disk, whatever it forgets.
        let used = gateway.pinned();
        for seed in 0..4 {
            let again = open(&home, &disk.crash(seed));
            assert!(used >= before && again.pinned() >= used, "{at} {seed}: {} after {used}", again.pinned());
        }
    }
}

#[test]
fn a_state_that_is_damaged_or_of_another_log_is_not_used() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let (home, disk) = (TestHome::new(NOW_S), SimDisk::new());
    home.publish();
    let gateway = open(&home, &disk);
    runtime.block_on(gateway.follower.step()).unwrap();
    assert!(open_at(&home, &disk, NOW_S).err().unwrap().contains("another gateway"));
    drop(gateway);
    let file = Path::new("/state/pinned.json");
    let good = disk.read(file).unwrap();
    for at in (0..good.len()).step_by(29) {
        let mut bad = good.clone();
        bad[at] ^= 0x15;
        disk.replace(file, &bad, ringfence_db::disk::Durable::Yes).unwrap();
        // Either it is seen at once, or it cannot lead to what home shows.
        if let Ok(gateway) = open_at(&home, &disk, NOW_S)
            && let Err(refused) = runtime.block_on(gateway.follower.step())
        {
            assert!(matches!(refused, NotFollowed::Home(_)), "{at}: {refused}");
        }
    }
}

#[test]
fn a_trust_file_that_is_not_understood_is_refused() {
    let home = TestHome::new(NOW_S);
    let good = home.trust();
    Trust::parse(&good).unwrap();
    let without =
        |line: &str| good.lines().filter(|l| !l.starts_with(line)).map(|l| format!("{l}\n")).collect::<String>();
    for bad in [
        String::new(),
        without("log"),
        without("quorum"),
        without("root"),
        without("ringfence-trust"),
        format!("{good}root main {}\n", public(ISSUER)),
        format!(
            "{good}{}",
            good.lines().filter(|l| l.starts_with("manifest")).map(|l| format!("{l}\n")).collect::<String>()
        ),
        format!("{good}revocation 7 AAAA\n"),
        format!("{good}log {}\n", TestHome::vkey()),
        good.replace("root main", "root other"),
        good.replace("manifest ", "manifest A"),
        format!("{good}allow everybody\n"),
    ] {
        assert!(Trust::parse(&bad).is_err(), "{bad}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    /// Whatever two histories share, and however long each is: a fork is told
    /// from a continuation, in both directions, and nothing else is called one.
    #[test]
    fn a_fork_is_told_from_a_continuation(shared in 1usize..700, one in 0usize..300, other in 0usize..300) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mut trunk = TestHome::default();
        trunk.access(shared);
        let mut a = trunk.clone();
        a.access(one);
        let mut b = trunk.clone();
        b.files = Files::default();
        for n in 0..other {
            b.public(5, &n.to_be_bytes());
        }
        let larger = if a.size() >= b.size() { &a } else { &b };
        larger.publish();
        let (of_a, of_b) = (a.checkpoint(a.size()), b.checkpoint(b.size()));
        let served = Served(larger.files.clone());
        let related = runtime.block_on(relate(&served, &of_a, &of_b, larger.size()));
        let expected = if one == 0 || other == 0 { Relation::Extends } else { Relation::Fork };
        prop_assert_eq!(related, Ok(expected));
    }
}
