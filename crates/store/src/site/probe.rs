//! What a site really does, found out by doing it.
//!
//! `ringfence site check` runs this. It stores things of its own under names
//! that no chunk has, reads them back whole and in part, overwrites nothing of
//! ours, and erases them again. Documentation says what a provider should do;
//! this says what the bucket in front of us does.

use std::{
    collections::hash_map::RandomState,
    fmt,
    hash::{BuildHasher, Hasher},
    time::Instant,
};

use bytes::Bytes;
use ringfence_format::{limits, names::InstallationId, redo::PackAddr};
use serde::Serialize;

use super::{
    Site, SiteError, Stored,
    pack::Item,
    quirks::{CreateOnly, Tested},
};

/// Why a create-only write was refused; the driver and the probe agree on it.
pub(in crate::site) const NAME_TAKEN: &str = "the name is taken by other bytes";

/// Everything the probe found out.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Which site.
    pub site: String,
    /// Its provider, as configured.
    pub provider: String,
    /// What was tried, in order.
    pub steps: Vec<Step>,
    /// What a create-only write to a taken name did.
    pub create_only: CreateOnly,
    /// Against what our tests have run the contract for this provider.
    pub tested: Tested,
    /// What to know about the provider.
    pub note: String,
}

/// One thing that was tried.
#[derive(Clone, Debug, Serialize)]
pub struct Step {
    /// What.
    pub what: &'static str,
    /// Whether the site did it as the contract demands.
    pub outcome: Outcome,
    /// How long it took.
    pub ms: f64,
    /// In one line, where there is something to say.
    pub detail: String,
}

/// How a step ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// As the contract demands.
    Ok,
    /// Not so; objects are not safe here.
    Failed,
    /// Not tried, because something before it failed.
    Skipped,
}

impl Report {
    /// Whether the site can be used.
    pub fn is_usable(&self) -> bool {
        self.steps.iter().all(|step| step.outcome == Outcome::Ok)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for step in &self.steps {
            let mark = match step.outcome {
                Outcome::Ok => "ok",
                Outcome::Failed => "FAILED",
                Outcome::Skipped => "skipped",
            };
            writeln!(f, "{:<28} {mark:<8} {:>9.1} ms  {}", step.what, step.ms, step.detail)?;
        }
        let create = match self.create_only {
            CreateOnly::Honoured => "honoured",
            CreateOnly::Ignored => "ignored",
            CreateOnly::Refused => "refused",
            CreateOnly::Unknown => "unknown",
        };
        writeln!(f, "create-only writes: {create} (nothing relies on them)")?;
        let tested = match self.tested {
            Tested::Real => "against the real software",
            Tested::Emulated => "against an emulation only",
            Tested::No => "not tested against the real service",
        };
        writeln!(f, "provider `{}`: {tested}", self.provider)?;
        if self.note.is_empty() { Ok(()) } else { writeln!(f, "note: {}", self.note) }
    }
}

/// A name that no other probe uses, without asking the operating system for
/// randomness on our own account.
fn fresh_name(prefix: &str) -> String {
    let random = || RandomState::new().build_hasher().finish();
    format!("{prefix}{:016x}{:016x}", random(), random())
}

/// Bytes that differ at each place, so that a shifted range is seen.
fn pattern(len: usize) -> Bytes {
    (0..len as u32).map(|i| (i.wrapping_mul(0x9e37_79b9) >> 24) as u8).collect()
}

/// One probe under way.
struct Probe<'a> {
    site: &'a Site,
    prefix: String,
    steps: Vec<Step>,
    /// What must be erased in the end.
    stored: Vec<(String, Option<PackAddr>)>,
}

/// Tries everything out. Its names lie beside those of the installation's
/// chunks, in a segment of their own that sweep and recovery pass by.
pub async fn check(site: &Site, installation: InstallationId) -> Report {
    let prefix = format!("{installation}/p/");
    let mut probe = Probe { site, prefix, steps: Vec::new(), stored: Vec::new() };
    let small = pattern(4096);
    let name = fresh_name(&probe.prefix);
    let stored = probe.write("write 4 KiB", &name, &small).await;
    let mut create_only = CreateOnly::Unknown;
    if let Some(Stored { at }) = stored {
        probe.read("read it back", &name, at, &small).await;
        probe.range("read a range", &name, at, &small).await;
        probe.list("find it in a listing", &name).await;
    } else {
        for what in ["read it back", "read a range", "find it in a listing"] {
            probe.skip(what);
        }
    }
    let large_name = fresh_name(&probe.prefix);
    let large = pattern(limits::CHUNK_BYTES_MAX);
    match probe.write("write 16 MiB", &large_name, &large).await {
        Some(Stored { at }) => {
            probe.read("read 16 MiB back", &large_name, at, &large).await;
            create_only = probe.create_only(&large_name, &large).await;
        }
        None => probe.skip("read 16 MiB back"),
    }
    probe.erase("erase").await;
    let (tested, note) = match site {
        Site::Dir(_) => (Tested::Real, String::new()),
        Site::Remote(remote) => (remote.quirks().tested, remote.quirks().note.to_owned()),
    };
    let info = site.info();
    Report { site: info.id.to_string(), provider: info.provider.clone(), steps: probe.steps, create_only, tested, note }
}

impl Probe<'_> {
    /// Runs one step and keeps how it went.
    async fn step<T>(
        &mut self,
        what: &'static str,
        work: impl Future<Output = Result<(T, String), String>>,
    ) -> Option<T> {
        let begun = Instant::now();
        let result = work.await;
        let ms = begun.elapsed().as_secs_f64() * 1000.0;
        let (outcome, detail, value) = match result {
            Ok((value, detail)) => (Outcome::Ok, detail, Some(value)),
            Err(why) => (Outcome::Failed, why, None),
        };
        self.steps.push(Step { what, outcome, ms, detail });
        value
    }

    fn skip(&mut self, what: &'static str) {
        self.steps.push(Step { what, outcome: Outcome::Skipped, ms: 0.0, detail: String::new() });
    }

    async fn write(&mut self, what: &'static str, name: &str, bytes: &Bytes) -> Option<Stored> {
        let site = self.site;
        let item = Item { name: name.to_owned(), parts: vec![bytes.clone()] };
        let write = async {
            let stored = site.put_bytes(vec![item]).await.map_err(text)?;
            Ok((stored[0], if stored[0].at.is_some() { "packed".to_owned() } else { String::new() }))
        };
        let stored = self.step(what, write).await;
        // A write that failed may have happened all the same.
        self.stored.push((name.to_owned(), stored.and_then(|s| s.at)));
        stored
    }

    async fn read(&mut self, what: &'static str, name: &str, at: Option<PackAddr>, wanted: &Bytes) {
        let site = self.site;
        let read = async {
            let got = site.get_bytes(name, at, Some(0..wanted.len() as u64)).await.map_err(text)?;
            same(&got, wanted)
        };
        self.step(what, read).await;
    }

    async fn range(&mut self, what: &'static str, name: &str, at: Option<PackAddr>, wanted: &Bytes) {
        let site = self.site;
        let read = async {
            let got = site.get_bytes(name, at, Some(1000..3001)).await.map_err(text)?;
            same(&got, &wanted.slice(1000..3001))
        };
        self.step(what, read).await;
    }

    async fn list(&mut self, what: &'static str, name: &str) {
        let (site, prefix) = (self.site, self.prefix.clone());
        let list = async {
            let all = site.list(&prefix).all().await.map_err(text)?;
            match all.iter().any(|entry| entry.name == name && entry.len == 4096) {
                true => Ok(((), String::new())),
                false => Err("it is not there at once: sweep and recover may need to run twice".to_owned()),
            }
        };
        self.step(what, list).await;
    }

    /// Whether a taken name is left alone. Not a step: nothing relies on it.
    async fn create_only(&self, name: &str, there: &Bytes) -> CreateOnly {
        let other: Bytes = vec![0; limits::PACKED_CHUNK_BYTES_MAX + 1].into();
        let answer = self.site.create_only(name, other).await;
        let head = self.site.get_bytes(name, None, Some(0..64)).await;
        match (answer, head) {
            (Err(SiteError::Refused { why, .. }), Ok(head)) if why == NAME_TAKEN && head == there[..64] => {
                CreateOnly::Honoured
            }
            (Ok(()), _) => CreateOnly::Ignored,
            (Err(_), Ok(head)) if head == there[..64] => CreateOnly::Refused,
            _ => CreateOnly::Unknown,
        }
    }

    async fn erase(&mut self, what: &'static str) {
        let site = self.site;
        let stored = std::mem::take(&mut self.stored);
        let erase = async {
            site.delete_many(stored.clone()).await.map_err(text)?;
            // Erasing what is gone must be success as well.
            site.delete_many(stored.clone()).await.map_err(|e| format!("a second time: {e}"))?;
            for (name, at) in &stored {
                match site.stat(name, *at).await {
                    Err(SiteError::NotFound { .. }) => {}
                    Ok(_) => return Err("it is still there: turn versioning and soft delete off".to_owned()),
                    Err(e) => return Err(text(e)),
                }
            }
            Ok(((), String::new()))
        };
        self.step(what, erase).await;
    }
}

fn text(error: SiteError) -> String {
    error.to_string()
}

fn same(got: &Bytes, wanted: &Bytes) -> Result<((), String), String> {
    match got == wanted {
        true => Ok(((), String::new())),
        false => Err("other bytes came back".to_owned()),
    }
}
