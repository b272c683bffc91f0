//! Work that runs by itself: bounded, recorded, visible in `/metrics`.
//!
//! Each task runs alone, one round after the other, and a round that fails is
//! tried again at its next time: nothing here may stop the server.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use ringfence_access::Ask;
use ringfence_format::names::SiteId;
use ringfence_store::{ScrubOptions, ScrubReport, SweepMode};

use crate::cli::Failure;
use crate::installation::{Installation, SWEEP_GRACE_MS};
use crate::serve::Stopping;
use crate::upkeep::{Scrubber, Upkeep};

/// Between two erasures of what deletes and overwrites put aside.
const ERASE_EVERY: Duration = Duration::from_secs(2);
/// A reader that located a version may take this long to begin to read it.
const READER_GRACE_MS: u64 = 10_000;
/// Between two looks for sites that are to be tried out or opened.
const SITES_EVERY: Duration = Duration::from_secs(1);
/// Between the first two attempts to open a site that was left out; doubles.
const OPEN_AGAIN_MIN: Duration = Duration::from_secs(1);
/// Between the later ones.
const OPEN_AGAIN_MAX: Duration = Duration::from_secs(60);
/// From the start to the first look at identity providers' keys: a key that two
/// of them serve is to be known before a token comes.
const ISSUERS_FIRST: Duration = Duration::from_millis(100);
/// Between two looks for keys that are to be fetched again.
const ISSUERS_EVERY: Duration = Duration::from_secs(60);
/// From the start to the first look at session keys; it was done at the start.
const KEYS_FIRST: Duration = Duration::from_secs(600);
/// Between two looks whether session keys are running out.
const KEYS_EVERY: Duration = Duration::from_secs(3600);
/// Between two writings of when keys were last used.
const KEY_USE_EVERY: Duration = Duration::from_secs(60);
/// Between two looks at minutes of refused requests.
const NOISE_EVERY: Duration = Duration::from_secs(20);
/// Between two looks for packs that are mostly erased.
const COMPACT_EVERY: Duration = Duration::from_secs(300);
/// Between two looks for stale uploads.
const UPLOADS_EVERY: Duration = Duration::from_secs(600);
/// From the start to the first round of the log's retention.
const TRIM_FIRST: Duration = Duration::from_secs(120);
/// Stale uploads aborted in one round.
const UPLOADS_AT_ONCE: usize = 1000;

/// Runs every task until the server stops.
pub async fn run(installation: Arc<Installation>, stopping: Stopping) {
    let seconds = Duration::from_secs;
    let b = installation.config().background.clone();
    tokio::join!(
        crate::watch::run(&installation, stopping.clone()),
        crate::witness::in_force::run(installation.clone(), stopping.clone()),
        every(ERASE_EVERY, "erase", &stopping, || erase(&installation)),
        sites(&installation, &stopping),
        first_after(ISSUERS_FIRST, ISSUERS_EVERY, "issuers", &stopping, || issuers(&installation)),
        first_after(KEYS_FIRST, KEYS_EVERY, "session-keys", &stopping, || installation.rotate_session_keys()),
        every(KEY_USE_EVERY, "key-use", &stopping, || key_use(&installation)),
        every(NOISE_EVERY, "noise", &stopping, || noise(&installation)),
        every(seconds(b.sweep_every_s), "sweep", &stopping, || sweep(&installation)),
        every(seconds(b.scrub_every_s), "scrub", &stopping, || scrub(&installation, b.scrub_mib_per_s)),
        every(COMPACT_EVERY, "compact", &stopping, || compact(&installation)),
        // A server that is restarted every day must come to it too.
        first_after(TRIM_FIRST.min(seconds(b.trim_every_s)), seconds(b.trim_every_s), "log-trim", &stopping, || {
            crate::retention::round(&installation)
        }),
        every(UPLOADS_EVERY, "abort-uploads", &stopping, || abort_uploads(&installation, b.abort_uploads_days)),
    );
}

/// One round after the other, the first after one interval.
async fn every<F: Future<Output = Result<(), Failure>>>(
    interval: Duration,
    task: &'static str,
    stopping: &Stopping,
    round: impl Fn() -> F,
) {
    first_after(interval, interval, task, stopping, round).await;
}

/// One round after the other, the first after a time of its own.
async fn first_after<F: Future<Output = Result<(), Failure>>>(
    first: Duration,
    interval: Duration,
    task: &'static str,
    stopping: &Stopping,
    round: impl Fn() -> F,
) {
    let mut stopping = stopping.clone();
    let mut pause = first;
    loop {
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stopping.stopped() => return,
        }
        pause = interval;
        let began = std::time::Instant::now();
        let ended = tokio::select! {
            ended = round() => ended,
            () = stopping.stopped() => return,
        };
        metrics::histogram!("ringfence_background_seconds", "task" => task).record(began.elapsed().as_secs_f64());
        let outcome = if ended.is_ok() { "ok" } else { "failed" };
        metrics::counter!("ringfence_background_rounds", "task" => task, "outcome" => outcome).increment(1);
        if let Err(failure) = ended {
            tracing::warn!("{task} will be tried again: {failure}");
        }
    }
}

/// Tries out sites that rest and takes in sites that were left out. Each in a
/// task of its own: a file system that hangs keeps nobody else waiting, and is
/// not asked twice.
async fn sites(installation: &Arc<Installation>, stopping: &Stopping) {
    let mut stopping = stopping.clone();
    let mut opening: HashMap<SiteId, Opening> = HashMap::new();
    loop {
        tokio::select! {
            () = tokio::time::sleep(SITES_EVERY) => {}
            () = stopping.stopped() => return,
        }
        for site in installation.sites().into_iter().filter(|site| !site.is_asked()) {
            let id = installation.id();
            tokio::spawn(async move { site.try_again(id).await });
        }
        let now_us = installation.clock().now_us();
        for (id, _) in installation.left_out() {
            let opening = opening.entry(id.clone()).or_default();
            opening.try_now(installation, id, now_us);
        }
    }
}

/// The attempts to open one site that was left out.
#[derive(Default)]
struct Opening {
    attempts: u32,
    next_us: u64,
    under_way: Option<tokio::task::JoinHandle<()>>,
}

impl Opening {
    fn try_now(&mut self, installation: &Arc<Installation>, id: SiteId, now_us: u64) {
        let busy = self.under_way.as_ref().is_some_and(|task| !task.is_finished());
        // A clock that was set back makes it no later than the longest pause.
        let longest_us = u64::try_from(OPEN_AGAIN_MAX.as_micros()).unwrap_or(u64::MAX);
        if busy || (now_us < self.next_us && self.next_us - now_us <= longest_us) {
            return;
        }
        let pause = OPEN_AGAIN_MIN.saturating_mul(1 << self.attempts.min(16)).min(OPEN_AGAIN_MAX);
        self.attempts += 1;
        self.next_us = now_us.saturating_add(u64::try_from(pause.as_micros()).unwrap_or(u64::MAX));
        let installation = installation.clone();
        self.under_way = Some(tokio::task::spawn_blocking(move || match installation.take_in(&id) {
            Ok(()) => tracing::info!(site = %id, "the site is open again"),
            Err(failure) => tracing::debug!(site = %id, "the site stays out: {failure}"),
        }));
    }
}

async fn erase(installation: &Installation) -> Result<(), Failure> {
    let erased = installation.store().erase_due(READER_GRACE_MS).await;
    let erased = erased.map_err(|e| crate::installation::cannot("erase what was deleted", e))?;
    for (site, why) in &erased.failed {
        tracing::warn!(%site, "what was deleted is not erased yet: {why}");
    }
    Ok(())
}

async fn key_use(installation: &Arc<Installation>) -> Result<(), Failure> {
    let at = installation.clone();
    let saved = tokio::task::spawn_blocking(move || at.key_use.save()).await.map_err(Failure::internal)?;
    saved.map_err(|e| crate::installation::cannot("write when keys were last used", e))
}

async fn noise(installation: &Installation) -> Result<(), Failure> {
    installation.record_noise(false).await;
    Ok(())
}

/// A sweep that finds nothing leaves one record of itself.
async fn sweep(installation: &Installation) -> Result<(), Failure> {
    installation.sees_every_site()?;
    let permit = installation.system_permit("sweep", Ask::on_installation("system:Sweep")).await?;
    let because = installation.log().record(permit).await.map_err(|e| crate::installation::cannot("record", e))?;
    let heads = Upkeep { vault: installation.vault().clone(), because };
    match installation.store().sweep(SweepMode::Erase, SWEEP_GRACE_MS, &heads).await {
        Ok(report) => {
            let erased: u64 = report.sites.values().map(|site| site.erased).sum();
            metrics::counter!("ringfence_orphans_erased").increment(erased);
            Ok(())
        }
        Err(error) => Err(crate::installation::cannot("sweep", error)),
    }
}

/// Reads every copy at a bounded rate. A bad copy is repaired from a good one;
/// where there is none it is marked, counted and told.
async fn scrub(installation: &Installation, mib_per_s: u64) -> Result<(), Failure> {
    let permit = installation.system_permit("scrub", Ask::on_installation("system:Scrub")).await?;
    let because = installation.log().record(permit).await.map_err(|e| crate::installation::cannot("record", e))?;
    let upkeep = Upkeep { vault: installation.vault().clone(), because };
    let scrubber = Scrubber { upkeep, store: installation.store().clone(), engine: installation.engine().clone() };
    let options = ScrubOptions { bytes_per_s: mib_per_s.saturating_mul(1024 * 1024), ..ScrubOptions::default() };
    let watched = |so_far: &ScrubReport| metrics::gauge!("ringfence_scrub_versions").set(so_far.versions as f64);
    let report = installation.store().scrub(options, &scrubber, watched).await;
    let report = report.map_err(|e| crate::installation::cannot("scrub", e))?;
    if !report.repaired.is_empty() {
        tracing::warn!("{} copies were not what was written and are repaired", report.repaired.len());
    }
    metrics::gauge!("ringfence_scrub_bad_copies").set(report.bad.len() as f64);
    if !report.bad.is_empty() {
        tracing::error!("{} copies are not what was written: run `ringfence scrub`", report.bad.len());
    }
    Ok(())
}

async fn compact(installation: &Installation) -> Result<(), Failure> {
    let report = installation.store().compact().await;
    let report = report.map_err(|e| crate::installation::cannot("compact packs", e))?;
    metrics::counter!("ringfence_compacted_bytes").increment(report.bytes);
    for (site, why) in &report.failed {
        tracing::warn!(%site, "packs are not compacted yet: {why}");
    }
    Ok(())
}

/// Aborts multipart uploads that nobody completed, in the name of Ringfence:
/// maintenance, not a tenant's delete. The round is a record, and each upload.
async fn abort_uploads(installation: &Installation, days: u32) -> Result<(), Failure> {
    let age_ms = u64::from(days) * 24 * 3600 * 1000;
    let before_ms = (installation.clock().now_us() / 1000).saturating_sub(age_ms);
    let stale = installation.catalog().stale_uploads(before_ms, 1);
    if stale.map_err(|e| crate::installation::cannot("look for stale uploads", e))?.is_empty() {
        return Ok(());
    }
    let ask = Ask::on_installation("system:AbortStaleUploads");
    let permit = installation.system_permit("abort-uploads", ask).await?;
    let _because = installation.log().record(permit).await.map_err(|e| crate::installation::cannot("record", e))?;
    let aborted = installation.store().abort_stale_uploads(age_ms, UPLOADS_AT_ONCE).await;
    let aborted = aborted.map_err(|e| crate::installation::cannot("abort stale uploads", e))?;
    metrics::counter!("ringfence_stale_uploads_aborted").increment(aborted);
    Ok(())
}

/// Fetches the keys of identity providers that are missing or old.
async fn issuers(installation: &Installation) -> Result<(), Failure> {
    installation.issuers().refresh(installation.clock().now_us() / 1_000_000).await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use ringfence_access::caller::{Origin, VerifiedSignature, authenticate};
    use ringfence_format::redo::Pairs;

    use super::*;
    use crate::flows::{About, Act, NewBucket, NewUpload};
    use crate::installation::Options;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn under_the_default_policies_an_upload_that_nobody_completes_ends() {
        let dir = tempfile::tempdir().expect("a directory");
        let at = Arc::new(Installation::open(dir.path(), Options { create: true }).await.expect("it opens"));
        let key = at.keys.find(&at.first_credentials().expect("a first start").id).expect("it was issued");
        let signed = VerifiedSignature::sigv4_was_checked_by_the_wire_layer(
            key.id.clone(),
            key.tenant.clone(),
            key.realm.clone(),
        );
        let caller = Arc::new(authenticate(signed, &at.keys, Origin::default()).expect("it is active"));
        let act = Act { at: at.clone(), caller };
        let bucket = NewBucket { name: "uploads".to_owned(), location: None, tags: Pairs::new() };
        act.create_bucket(bucket).await.expect("made");
        let about = About {
            bucket: "uploads".to_owned(),
            key: "left alone".to_owned(),
            tags: Pairs::new(),
            headers: Pairs::new(),
            metadata: Pairs::new(),
        };
        let new = NewUpload { about, checksum: None };
        let (id, _) = act.create_upload(new).await.expect("begun");
        abort_uploads(&at, 7).await.expect("a young one stays");
        assert!(at.catalog().upload(&id).expect("read").is_some());
        tokio::time::sleep(Duration::from_millis(5)).await;
        abort_uploads(&at, 0).await.expect("policy lets it run");
        assert!(at.catalog().upload(&id).expect("read").is_none());
        let last = at.log.durable_size() - 1;
        assert_eq!(at.log.lookup(last).expect("on record").core.op.0, "system:AbortStaleUpload");
        at.close().await;
    }
}
