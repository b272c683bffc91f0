//! What must hold after every start and at the end of a history.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use ringfence_format::chunk::{SiteName, parse_name};
use ringfence_format::redo::Version;
use ringfence_log::fsck;
use ringfence_store::{Query, ScrubOptions, ScrubReport, Store};

use crate::life::{BUCKETS, Life};
use crate::machine::{Machine, Which};
use crate::oracle::{Content, MARK, Oracle, Place};

/// Holds everything against what callers were told; `deep` also reads every
/// copy, not only the one that a read takes.
///
/// # Errors
/// The first thing that is not so, in words.
pub async fn everything(machine: &Machine, life: &Life, oracle: &mut Oracle, deep: bool) -> Result<(), String> {
    log_verifies(machine, life, oracle)?;
    records_are_there(life, oracle)?;
    catalogue(life, oracle)?;
    uploads(life, oracle)?;
    let report = life.store.check().await.map_err(|e| format!("the check did not run: {e}"))?;
    if !report.is_sound() {
        return Err(format!("the catalogue check finds: {}", report.findings.join("; ")));
    }
    read_back(life, oracle).await?;
    if deep {
        every_copy(life, oracle).await?;
    }
    placement(machine, life, oracle)?;
    nothing_open(machine)
}

/// `ringfence log verify`, against the last checkpoint that was shown.
fn log_verifies(machine: &Machine, life: &Life, oracle: &mut Oracle) -> Result<(), String> {
    life.log.publish().map_err(|e| format!("the log does not publish: {e}"))?;
    let disk = machine.disk(Which::Main);
    let earlier = oracle.checkpoint.as_deref();
    let verified = fsck::verify(disk, &machine.dir().join("log"), life.log.verifier_key(), earlier, |_, _| {});
    let verified = verified.map_err(|e| format!("log verify: {e}"))?;
    if verified.entries < life.log.published_size() {
        return Err(format!("log verify covers {} of {} records", verified.entries, life.log.published_size()));
    }
    oracle.checkpoint = Some(life.log.checkpoint());
    Ok(())
}

/// Every acknowledged effect and every released read is on record as what it was.
fn records_are_there(life: &Life, oracle: &mut Oracle) -> Result<(), String> {
    for (seq, op) in &oracle.records[oracle.records_checked..] {
        let record = life.log.lookup(*seq).map_err(|e| format!("record #{seq} of `{op}`: {e}"))?;
        if record.core.op.0 != *op {
            return Err(format!("record #{seq} says `{}` instead of `{op}`", record.core.op.0));
        }
    }
    oracle.records_checked = oracle.records.len();
    Ok(())
}

/// Nothing acknowledged is lost, nothing deleted comes back, and what was not
/// acknowledged is there wholly or not at all.
fn catalogue(life: &Life, oracle: &mut Oracle) -> Result<(), String> {
    let mut found: BTreeMap<Place, Version> = versions(life)?;
    for place in oracle.places() {
        oracle.settle(&place, found.remove(&place).as_ref())?;
    }
    if let Some((place, version)) = found.pop_first() {
        return Err(format!("{}/{} holds {}, which nobody put there", place.0, place.1, version.uid));
    }
    oracle.settle_together()?;
    listings(life, oracle)
}

/// Every version, by bucket and key.
fn versions(life: &Life) -> Result<BTreeMap<Place, Version>, String> {
    let mut found = BTreeMap::new();
    for (_, version) in life.store.catalog().walk(0, 1 << 20).map_err(|e| e.to_string())? {
        let bucket = life.store.catalog().bucket(&version.bucket).ok_or("a version lies in no bucket")?;
        let name = BUCKETS.into_iter().find(|name| *name == bucket.name.as_str()).ok_or("an unknown bucket")?;
        let place = (name, version.key.as_str().to_owned());
        if let Some(twice) = found.insert(place, version) {
            return Err(format!("two versions under one key: {}", twice.uid));
        }
    }
    Ok(found)
}

/// A listing names exactly what is there.
fn listings(life: &Life, oracle: &Oracle) -> Result<(), String> {
    for name in BUCKETS {
        let bucket = life.bucket(name)?;
        let query = Query { max: 1 << 20, ..Query::default() };
        let page = life.store.catalog().list_page(&bucket.id, &query).map_err(|e| e.to_string())?;
        let wanted = oracle.places().into_iter().filter(|place| place.0 == name && oracle.can(place) != [None]);
        let wanted: BTreeSet<String> = wanted.map(|place| place.1).collect();
        if page.contents.len() != wanted.len() || !page.contents.iter().all(|line| wanted.contains(line.key.as_str())) {
            return Err(format!("bucket `{name}` lists {} keys instead of {}", page.contents.len(), wanted.len()));
        }
    }
    Ok(())
}

fn uploads(life: &Life, oracle: &mut Oracle) -> Result<(), String> {
    let catalog = life.store.catalog();
    let all = catalog.walk_uploads(None, 1 << 20).map_err(|e| e.to_string())?;
    for upload in &all {
        let known = oracle.uploads.get(&upload.id).ok_or_else(|| format!("upload {} was never begun", upload.id))?;
        if !known.can_be.0 {
            return Err(format!("upload {} is over and came back", upload.id));
        }
        for number in 1..=4 {
            let rows = catalog.list_parts(&upload.id, number - 1, 1).map_err(|e| e.to_string())?;
            let row = rows.first().filter(|row| row.part.number == number);
            let can = known.parts.get(&number).cloned().unwrap_or_else(|| vec![None]);
            let fits = can.iter().any(|can| match (can, row) {
                (None, None) => true,
                (Some(content), Some(row)) => content.mark() == row.part.md5,
                _ => false,
            });
            if !fits {
                return Err(format!("part {number} of upload {} is not what was acknowledged", upload.id));
            }
        }
    }
    for (id, known) in &mut oracle.uploads {
        let open = all.iter().any(|upload| upload.id == *id);
        if !open && !known.can_be.1 {
            return Err(format!("upload {id} is lost"));
        }
        known.can_be = (open, !open);
        for (number, can) in &mut known.parts {
            let rows = catalog.list_parts(id, number - 1, 1).map_err(|e| e.to_string())?;
            let mark = rows.first().filter(|row| row.part.number == *number).map(|row| row.part.md5);
            can.retain(|can| can.map(Content::mark) == mark);
        }
    }
    oracle.uploads.retain(|_, known| known.can_be.0);
    Ok(())
}

/// Every object, every byte.
async fn read_back(life: &Life, oracle: &mut Oracle) -> Result<(), String> {
    for (place, version) in versions(life)? {
        let Some(object) = oracle.allows(&place, Some(&version))? else { continue };
        let size = version.size;
        let (seq, bytes) = life.read(&Arc::new(version), 0..size).await.map_err(|e| format!("{}: {e}", place.1))?;
        let bytes = bytes.map_err(|e| format!("{}/{} ({}) cannot be read: {e}", place.0, place.1, object.uid))?;
        if bytes != object.bytes() {
            return Err(format!("{}/{} ({}) has other bytes", place.0, place.1, object.uid));
        }
        oracle.records.push((seq, "s3:GetObject"));
    }
    Ok(())
}

/// Every copy at every site is whole and authentic, but for what rotted.
async fn every_copy(life: &Life, oracle: &mut Oracle) -> Result<(), String> {
    let keys = life.scrubber().await?;
    let report = life.store.scrub(ScrubOptions::default(), &keys, |_| {}).await.map_err(|e| e.to_string())?;
    if let Some(bad) = report.unchecked.first() {
        return Err(format!("the copy of {} at `{}` is bad: it cannot be checked: {}", bad.version, bad.site, bad.why));
    }
    as_rotten(life, oracle, &report)
}

/// What a scrub finds is what rotted, no more and no less, and it repairs it.
///
/// # Errors
/// Which copy.
pub fn as_rotten(life: &Life, oracle: &mut Oracle, report: &ScrubReport) -> Result<(), String> {
    let mut found: BTreeMap<_, _> =
        report.repaired.iter().map(|bad| ((bad.version, bad.site.to_string()), bad)).collect();
    // Parts of an upload under way are not scrubbed before it is complete.
    let mut repaired = Vec::new();
    for version in versions(life)?.into_values() {
        let rotten = version.parts.iter().any(|part| oracle.rotten.contains(&part.upload));
        if rotten && found.remove(&(version.uid, "second".to_owned())).is_none() {
            return Err(format!("scrub did not find that a copy of {} at `second` rotted", version.uid));
        }
        repaired.extend(version.parts.iter().map(|part| part.upload));
    }
    match found.values().copied().chain(&report.bad).next() {
        None => {
            oracle.rotten.retain(|upload| !repaired.contains(upload));
            Ok(())
        }
        Some(bad) => Err(format!("the copy of {} at `{}` is bad: {}", bad.version, bad.site, bad.why)),
    }
}

/// Nothing that may not lie at the public site does.
fn placement(machine: &Machine, life: &Life, oracle: &Oracle) -> Result<(), String> {
    for (place, version) in versions(life)? {
        let outside = version.copies.iter().any(|copy| copy.site.as_str() == "cloud");
        if outside != (version.label.as_str() == "public") {
            return Err(format!("{}/{} ({}) lies at the wrong sites", place.0, place.1, version.label.as_str()));
        }
    }
    for (name, _) in machine.cloud.objects() {
        let id = match parse_name(&name) {
            Some((_, SiteName::Chunk { upload, .. })) => upload,
            Some((_, SiteName::Head(head))) => head,
            None => continue,
        };
        if oracle.private.contains(&id) {
            return Err(format!("`{name}` lies at the public site and belongs to data that may not"));
        }
    }
    Ok(())
}

/// No plaintext and no name lies at a site or in the log.
fn nothing_open(machine: &Machine) -> Result<(), String> {
    let rotations: Vec<u128> = (0..16)
        .map(|by| {
            let mut turned = *MARK;
            turned.rotate_left(by);
            u128::from_ne_bytes(turned)
        })
        .collect();
    let holds = |bytes: &[u8]| {
        // The mark stands three times end to end: some aligned 16 bytes lie within.
        bytes.as_chunks::<16>().0.iter().any(|chunk| rotations.contains(&u128::from_ne_bytes(*chunk)))
    };
    let named = |path: &Path| path.to_string_lossy().contains("sim-plaintext");
    let dir = machine.dir();
    for which in [Which::Main, Which::Second] {
        for (path, bytes) in machine.disk(which).files() {
            let sealed = ["home", "second", "log"].iter().any(|sub| path.starts_with(dir.join(sub)));
            if sealed && (named(&path) || holds(&bytes)) {
                return Err(format!("`{}` holds plaintext", path.display()));
            }
        }
    }
    for (name, bytes) in machine.cloud.objects() {
        if name.contains("sim-plaintext") || holds(&bytes) {
            return Err(format!("`{name}` at the public site holds plaintext"));
        }
    }
    Ok(())
}

/// Everything the catalogue says, in one comparable form.
///
/// # Errors
/// Whatever SQLite says.
pub fn dump(store: &Store) -> Result<Vec<String>, String> {
    let catalog = store.catalog();
    let failed = |e: ringfence_db::DbError| e.to_string();
    let mut all: Vec<String> = catalog.buckets().iter().map(|b| format!("{b:?}")).collect();
    all.extend(catalog.tenants().iter().map(|t| format!("{t:?}")));
    all.extend(catalog.static_keys().iter().map(|k| format!("{k:?}")));
    let mut versions = catalog.walk(0, 1 << 20).map_err(failed)?;
    versions.sort_by_key(|(_, version)| version.uid);
    all.extend(versions.iter().map(|(_, v)| format!("{v:?}")));
    for upload in catalog.walk_uploads(None, 1 << 20).map_err(failed)? {
        all.push(format!("{upload:?}"));
        all.extend(catalog.list_parts(&upload.id, 0, 1 << 20).map_err(failed)?.iter().map(|p| format!("{p:?}")));
    }
    Ok(all)
}
