//! Telling alarms: follows the log, one message at a time, in order, until the
//! webhook has acknowledged it, then the next.
//!
//! The position is written after each acknowledgement, so that a crash in
//! between tells one alarm twice and none never. While there is nothing to tell
//! it follows the log's end, so that a start has little to read.

use std::sync::Arc;
use std::time::Duration;

use ringfence_db::clock::Clock;
use ringfence_format::record::Seq;

use super::raise::Inner;
use super::webhook::{Message, Webhook};
use super::{Alarms, kind_of};
use crate::serve::Stopping;

/// Between two looks while nothing is raised.
const IDLE: Duration = Duration::from_secs(10);
/// Records that a start may have to read to find alarms; the position is
/// written when the log has grown by so many.
const RECORDS_UNSAVED_MAX: u64 = 10_000;
/// The pause after a first failure; doubles.
const RETRY_MIN: Duration = Duration::from_secs(1);

/// Follows the log until the server stops. Without a webhook it keeps the
/// position, for `alarm list`.
pub async fn deliver(alarms: Alarms, webhook: Option<Webhook>, clock: Arc<dyn Clock>, mut stopping: Stopping) {
    let inner = alarms.0;
    let mut failures = 0;
    loop {
        let step = tokio::select! {
            step = step(&inner, webhook.as_ref(), &*clock) => step,
            () = stopping.stopped() => break,
        };
        let pause = match step {
            Step::More => {
                failures = 0;
                continue;
            }
            Step::Nothing => IDLE,
            Step::Failed(why) => {
                let longest = webhook.as_ref().map_or(IDLE, |webhook| webhook.retry_max);
                let pause = back_off(failures, longest);
                failures = failures.saturating_add(1);
                follow(&inner).await;
                tracing::warn!("an alarm could not be told, again in {} ms: {why}", pause.as_millis());
                pause
            }
        };
        let failing = failures > 0;
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            // While it fails a new alarm is no reason to try sooner.
            () = inner.wake.notified(), if !failing => {}
            () = stopping.stopped() => break,
        }
    }
    let size = inner.log.durable_size();
    inner.book().advance(size);
    save(&inner, 0).await;
}

enum Step {
    /// Something was done, and there may be more.
    More,
    /// Every alarm was told.
    Nothing,
    /// One line.
    Failed(String),
}

async fn step(inner: &Arc<Inner>, webhook: Option<&Webhook>, clock: &dyn Clock) -> Step {
    let next = inner.book().next();
    metrics::gauge!("ringfence_alarms_waiting").set(inner.book().waiting() as f64);
    if let (Some(seq), Some(webhook)) = (next, webhook) {
        return match tell(inner, webhook, seq, clock).await {
            Ok(()) => {
                inner.book().delivered(seq);
                save(inner, RECORDS_UNSAVED_MAX).await;
                Step::More
            }
            Err(why) => Step::Failed(why),
        };
    }
    let reading = inner.clone();
    if inner.book().behind().is_some() {
        return match tokio::task::spawn_blocking(move || reading.catch_up()).await {
            Ok(Ok(())) => Step::More,
            Ok(Err(error)) => Step::Failed(error.to_string()),
            Err(error) => Step::Failed(error.to_string()),
        };
    }
    follow(inner).await;
    Step::Nothing
}

/// Keeps the position near the log's end, whatever waits.
async fn follow(inner: &Arc<Inner>) {
    // The size first: an alarm that is under way by then is seen as such.
    let size = inner.log.durable_size();
    inner.book().advance(size);
    save(inner, RECORDS_UNSAVED_MAX).await;
}

/// Tells one alarm; `Ok` if it was acknowledged, or nothing of it is left.
async fn tell(inner: &Arc<Inner>, webhook: &Webhook, seq: Seq, clock: &dyn Clock) -> Result<(), String> {
    let reading = inner.clone();
    let record = tokio::task::spawn_blocking(move || reading.lookup(seq)).await;
    let record = match record.map_err(|e| e.to_string())?.map_err(|e| e.to_string())? {
        Ok(record) => record,
        Err(gone) => {
            tracing::error!(record = seq, "an alarm can never be told: {gone}");
            return Ok(());
        }
    };
    let Some(message) = Message::of(inner.log.verifier_key().name(), seq, &record) else {
        tracing::error!(record = seq, "`alarms.position` names a record that is no alarm");
        return Ok(());
    };
    let told = webhook.send(&message, clock.now_us() / 1_000_000).await;
    let outcome = if told.is_ok() { "acknowledged" } else { "failed" };
    metrics::counter!("ringfence_alarm_deliveries_total", "outcome" => outcome).increment(1);
    if told.is_ok() {
        tracing::info!(kind = kind_of(&record).unwrap_or_default(), record = seq, "the alarm was told");
    }
    told
}

/// Writes the position if there is something to write. If that fails alarms
/// are told again after the next start.
async fn save(inner: &Arc<Inner>, records: u64) {
    let Some(unsaved) = inner.book().unsaved(records) else { return };
    let written = tokio::task::spawn_blocking(move || unsaved.write().map(|()| unsaved)).await;
    match written {
        Ok(Ok(written)) => inner.book().saved(written),
        Ok(Err(error)) => tracing::warn!("the position of the alarms cannot be written: {error}"),
        Err(error) => tracing::warn!("the position of the alarms cannot be written: {error}"),
    }
}

/// From half of a doubling time to all of it: those who fail together do not
/// come back together.
fn back_off(failures: u32, longest: Duration) -> Duration {
    let time = RETRY_MIN.saturating_mul(1 << failures.min(20)).min(longest);
    let mut random = [0; 2];
    aws_lc_rs::rand::fill(&mut random).expect("the operating system gives random numbers");
    time / 2 + (time / 2) * u32::from(u16::from_le_bytes(random)) / u32::from(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_with_jitter_up_to_the_longest() {
        let longest = Duration::from_secs(300);
        for (failures, most) in [(0, 1), (1, 2), (3, 8), (9, 300), (4_000_000, 300)] {
            for _ in 0..50 {
                let (pause, most) = (back_off(failures, longest), Duration::from_secs(most));
                assert!(pause >= most / 2 && pause <= most, "{failures}: {pause:?}");
            }
        }
    }
}
