//! A directory site on a disk that fails, fills up and forgets.
//!
//! Whatever was acknowledged before a crash is there after it; whatever was
//! erased stays erased; whatever failed may have happened. The disk is
//! `SimDisk`; the appender and the blocking pool are real threads, so a seed
//! repeats the faults and what the crash leaves, not the interleaving.

use std::{collections::BTreeMap, io::ErrorKind, path::Path};

use bytes::Bytes;
use ringfence_db::disk::sim::{Effect, Fault, SimDisk};
use ringfence_format::{
    chunk,
    limits::PACKED_CHUNK_BYTES_MAX,
    names::{InstallationId, SiteId, UploadId},
    redo::PackAddr,
};

use super::{FirstUse, Site, SiteError, SiteInfo, SiteKind, pack::Item};

const INSTALLATION: InstallationId = InstallationId([7; 16]);
const ROOT: &str = "/site";

/// What we were told, and what must therefore be so.
#[derive(Default)]
struct Told {
    stored: BTreeMap<String, (Option<PackAddr>, Bytes)>,
    erased: BTreeMap<String, Option<PackAddr>>,
}

/// Repeatable chance (splitmix64).
struct Chance(u64);

impl Chance {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }
}

/// A few in `make test`, more where `RINGFENCE_SEEDS` asks for them.
fn seeds(few: u64) -> std::ops::Range<u64> {
    let asked = std::env::var("RINGFENCE_SEEDS").ok().and_then(|n| n.parse().ok());
    0..asked.unwrap_or(few)
}

fn open(disk: &SimDisk, first_use: FirstUse) -> Result<Site, SiteError> {
    let info = SiteInfo::new(SiteId::parse("home").expect("a name"), SiteKind::Private, "DE", "local");
    Site::open_dir(info, Path::new(ROOT), INSTALLATION, first_use, disk.shared())
}

fn name(i: u64) -> String {
    let mut id = [0; 16];
    id[8..].copy_from_slice(&i.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    chunk::chunk_name(&INSTALLATION, &UploadId(id), 0)
}

fn bytes(chance: &mut Chance) -> Bytes {
    let len = match chance.below(4) {
        0 => PACKED_CHUNK_BYTES_MAX + 1 + chance.below(5000) as usize,
        _ => 1 + chance.below(9000) as usize,
    };
    vec![1 + chance.below(255) as u8; len].into()
}

/// One random operation; what it acknowledged goes into `told`.
async fn act(site: &Site, i: u64, chance: &mut Chance, told: &mut Told) {
    match chance.below(10) {
        0..=6 => {
            let puts: Vec<_> = (0..1 + chance.below(3)).map(|k| (name(i * 4 + k), bytes(chance))).collect();
            let items = puts.iter().map(|(name, bytes)| Item { name: name.clone(), parts: vec![bytes.clone()] });
            if let Ok(stored) = site.put_bytes(items.collect()).await {
                told.stored.extend(puts.into_iter().zip(stored).map(|((n, b), s)| (n, (s.at, b))));
            }
        }
        7 | 8 => {
            let pick = chance.below(told.stored.len().max(1) as u64) as usize;
            let Some((name, (at, _))) = told.stored.iter().nth(pick).map(|(n, s)| (n.clone(), s.clone())) else {
                return;
            };
            // Whether or not it succeeds, it may be gone.
            told.stored.remove(&name);
            if site.delete(&name, at).await.is_ok() {
                told.erased.insert(name, at);
            }
        }
        _ => {
            let Ok(packs) = site.packs().await else { return };
            let pick = chance.below(packs.len().max(1) as u64) as usize;
            let Some(pack) = packs.get(pick) else { return };
            let live: Vec<_> = told.stored.values().filter_map(|(at, _)| *at).collect();
            let done = site.compact(pack.pack, |entry| live.contains(&entry.at)).await;
            let Ok(Some(done)) = done else { return };
            for moved in done.moved() {
                let (at, _) = told.stored.get_mut(&moved.name).expect("only live ones move");
                *at = Some(moved.to);
            }
            let _ = site.remove_pack(done).await;
        }
    }
}

async fn expect(site: &Site, told: &Told, when: &str) {
    for (name, (at, bytes)) in &told.stored {
        match site.get_bytes(name, *at, Some(0..bytes.len() as u64)).await {
            Ok(got) => assert!(got == *bytes, "{when}: `{name}` came back changed"),
            Err(e) => panic!("{when}: {e}"),
        }
    }
    for (name, at) in &told.erased {
        let got = site.stat(name, *at).await;
        assert!(matches!(got, Err(SiteError::NotFound { .. })), "{when}: erased `{name}`: {got:?}");
    }
    let listed = site.list("").all().await.expect("listed");
    for (name, (at, bytes)) in &told.stored {
        let here = listed.iter().any(|e| e.name == *name && e.at == *at && e.len == bytes.len() as u64);
        assert!(here, "{when}: `{name}` is not listed");
    }
    // A compaction that was cut short leaves second copies at other places;
    // they are listed there, and sweep erases them like any orphan.
    let back: Vec<_> = listed.iter().filter(|e| told.erased.get(&e.name) == Some(&e.at)).collect();
    assert!(back.is_empty(), "{when}: erased and listed: {back:?}");
}

/// Runs until the disk stops, crashes, opens again and checks.
async fn crash_and_check(seed: u64, steps_max: u64) {
    let when = format!("seed {seed}");
    let mut chance = Chance(seed);
    let mut disk = SimDisk::new();
    drop(open(&disk, FirstUse::Create).expect("a new site"));
    let mut told = Told::default();
    for life in 0..3 {
        disk.stop_before(disk.effects() + 1 + chance.below(steps_max));
        if let Ok(site) = open(&disk, FirstUse::Refuse) {
            for i in 0..12 {
                act(&site, life * 100 + i, &mut chance, &mut told).await;
            }
        }
        // Power is cut, or only the process.
        disk = if chance.below(3) == 0 { disk.kill() } else { disk.crash(seed * 10 + life) };
        let site = open(&disk, FirstUse::Refuse).unwrap_or_else(|e| panic!("{when}: {e}"));
        expect(&site, &told, &when).await;
    }
}

#[tokio::test]
async fn what_was_acknowledged_survives_a_stop_before_any_effect() {
    for seed in seeds(40) {
        crash_and_check(seed, 120).await;
    }
}

#[tokio::test]
async fn what_failed_but_happened_and_what_failed_are_never_acknowledged() {
    for seed in seeds(20) {
        let when = format!("seed {seed}");
        let mut chance = Chance(seed);
        let disk = SimDisk::new();
        let site = open(&disk, FirstUse::Create).expect("a new site");
        let mut told = Told::default();
        let mut faults = Chance(seed + 1);
        disk.script(move |step| {
            let harmful = !matches!(step.effect, Effect::CreateDir | Effect::RemoveDir);
            let kind = [ErrorKind::Other, ErrorKind::StorageFull][faults.below(2) as usize];
            match faults.below(12) {
                0 if harmful => Some(Fault::Fails(kind)),
                1 if harmful => Some(Fault::FailsButHappens(kind)),
                _ => None,
            }
        });
        for i in 0..25 {
            act(&site, i, &mut chance, &mut told).await;
        }
        disk.script(|_| None);
        expect(&site, &told, &when).await;
        drop(site);
        let disk = disk.crash(seed);
        let site = open(&disk, FirstUse::Refuse).unwrap_or_else(|e| panic!("{when}: {e}"));
        expect(&site, &told, &format!("{when}, after the crash")).await;
    }
}

#[tokio::test]
async fn a_full_disk_is_full_for_puts_and_fine_for_the_rest() {
    let disk = SimDisk::new();
    let site = open(&disk, FirstUse::Create).expect("a new site");
    let small = |i| Item { name: name(i), parts: vec![vec![1; 4096].into()] };
    let kept = site.put_bytes(vec![small(1)]).await.expect("stored");
    disk.set_capacity(disk.used() + 10_000);
    let large = Item { name: name(2), parts: vec![vec![1; 200_000].into()] };
    assert!(matches!(site.put_bytes(vec![large]).await, Err(SiteError::Full { .. })));
    // The pack has room that it reserved; then it is full as well.
    let mut last = Ok(kept.clone());
    let mut count = 0;
    while last.is_ok() && count < 5000 {
        count += 1;
        last = site.put_bytes(vec![small(100 + count)]).await;
    }
    assert!(matches!(last, Err(SiteError::Full { .. })), "{last:?} after {count}");
    assert!(count > 900, "4 MiB hold about a thousand: {count}");
    site.get(&name(1), kept[0].at, None).await.expect("reads go on");
    site.delete(&name(1), kept[0].at).await.expect("erasing goes on");
    // Space comes back, and so do puts.
    disk.set_capacity(1 << 40);
    site.put_bytes(vec![small(3)]).await.expect("stored again");
}
